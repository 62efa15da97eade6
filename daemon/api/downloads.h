/* downloads.h - files made of versions for GET /v1/versions/{n}/delta.
 *
 * A file is made once, on a work thread, one at a time, beside the database and without a
 * name: whatever ends the daemon, nothing is left of it. It is kept for a while for those
 * who come back for the rest, a few at most. Loop thread only. */
#ifndef MAL_DOWNLOADS_H
#define MAL_DOWNLOADS_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

struct mal_daemon;
struct mal_downloads;

enum mal_download_format { MAL_DOWNLOAD_SAFETENSORS, MAL_DOWNLOAD_LORA };

/* One that is ready. */
struct mal_download {
    int fd;
    uint64_t bytes;
    double relative_error; /* of an adapter */
    bool whole; /* made when no delta had been pruned: an adapter made later has
                   other factors */
};

/* Who waits for one; embedded in what is waited with. `download` NULL: `err` says why. */
struct mal_download_waiter {
    struct mal_download_waiter *next;
    void (*ready)(struct mal_download_waiter *waiter, const struct mal_download *download,
                  const struct mal_error *err);
};

bool mal_downloads_create(struct mal_downloads **out, struct mal_daemon *d,
                          struct mal_error *err) MAL_CHECK;
void mal_downloads_destroy(struct mal_downloads *downloads); /* takes NULL; none waits */

/* Calls `ready` at once or later. `weights_hash` is the version's. */
void mal_downloads_get(struct mal_downloads *downloads, int64_t version,
                       const char *weights_hash, enum mal_download_format format,
                       struct mal_download_waiter *waiter);

struct mal_downloads_view {
    size_t files; /* ready */
    uint64_t bytes;
};

void mal_downloads_look(const struct mal_downloads *downloads,
                        struct mal_downloads_view *out);
/* To be called now and then: drops what nobody has asked for in a while. */
void mal_downloads_sweep(struct mal_downloads *downloads);

#endif
