/* disk.h - whether the database's file system has room for further versions. Any thread.
 */
#ifndef MAL_DISK_H
#define MAL_DISK_H

#include <stdint.h>

#include "core/error.h"

struct mal_disk;

struct mal_disk_options {
    const char *path; /* the database, borrowed */
    int64_t min_free; /* bytes; 0: never low */
    /* Free bytes where `path` is; false: not known. NULL: what the system says. */
    bool (*free_bytes)(const char *path, int64_t *out);
    /* After each look, under a lock; NULL: nobody asks. */
    void (*seen)(void *arg, int64_t free_bytes, bool low);
    void *arg;
};

bool mal_disk_create(struct mal_disk **out, const struct mal_disk_options *options,
                     struct mal_error *err) MAL_CHECK;
void mal_disk_destroy(struct mal_disk *disk); /* takes NULL */

/* What the system says is free where `path` is; false: not known. */
bool mal_disk_free(const char *path, int64_t *out);

/* Looks; logs when the answer is another than before. */
bool mal_disk_low(struct mal_disk *disk);

/* Room for `bytes` more where the open file is, beyond `min_free`; MAL_NO_SPACE. */
bool mal_disk_has_room(int fd, int64_t bytes, int64_t min_free,
                       struct mal_error *err) MAL_CHECK;

#endif
