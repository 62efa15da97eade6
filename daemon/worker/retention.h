/* retention.h - which versions' weights stay stored: where keyframes are written, so that
 * replays are short and older versions are not needed, and which versions are pruned.
 *
 * A pruned version keeps its row, so the chain holds, and loses what its weights are made
 * from. What is not pruned always replays. The versions from `below` on may stay without
 * those before it when none of them is replayed from one. */
#ifndef MAL_RETENTION_H
#define MAL_RETENTION_H

#include "sql/store.h"

struct mal_metrics;

/* ---- Policy ---- */

struct mal_retention_options {
    int64_t keyframe_every; /* deltas of a replay, at most; 0: no keyframes */
    int64_t retain_bytes; /* what all versions may store, blobs and values; 0: no limit */
    int64_t retain_ms;    /* versions older than this go; 0: none does */
    int64_t keep_versions;       /* before live that always stay */
    struct mal_metrics *metrics; /* NULL: nobody counts what goes */
};

/* What is known of a version; the base is the first of a list. */
struct mal_retained {
    int64_t created_ms;
    int64_t need; /* oldest version that its replay reads, INT64_MAX: only the base */
    uint64_t bytes;
    bool pruned;
};

/* `need` of the version after the `n` given ones. */
int64_t mal_retention_need(const struct mal_retained *versions, size_t n,
                           const struct mal_version_row *row);

struct mal_retention_choice {
    int64_t below;  /* versions 1 .. below - 1 may and should go; 0: nothing to do */
    int64_t wanted; /* that many would go if no later version needed them */
    bool over;      /* more than retain_bytes will be left */
};

/* For `n` versions, the last one live. By age nothing younger goes; by bytes as little as
 * gets below the limit, and all that may go where nothing does. */
void mal_retention_choose(const struct mal_retention_options *options,
                          const struct mal_retained *versions, size_t n, int64_t now_ms,
                          struct mal_retention_choice *out);

/* ---- Running it ---- */

struct mal_retention;

bool mal_retention_create(struct mal_retention **out,
                          const struct mal_retention_options *options,
                          struct mal_error *err) MAL_CHECK;
void mal_retention_destroy(struct mal_retention *retention); /* takes NULL */

/* Whether the version of `row`, about to be published, is to carry a keyframe
 * (row->keyframe, mal_weights_read_keyframe()): an edit that would make replays longer
 * than keyframe_every, and a rollback to what the limits want gone. For the worker's
 * thread, with any handle of its own, while nothing is pruned. */
bool mal_retention_wants_keyframe(struct mal_retention *retention,
                                  struct mal_store *store,
                                  const struct mal_version_row *row, int64_t now_ms,
                                  bool *out, struct mal_error *err) MAL_CHECK;

/* After a publication, on the writer's thread: prunes what the limits want gone. Logs
 * what went, and once when the limit of bytes can no longer be kept, and when it is
 * again. */
bool mal_retention_run(struct mal_retention *retention, struct mal_store *writer,
                       int64_t now_ms, struct mal_error *err) MAL_CHECK;

#endif
