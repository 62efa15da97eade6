/* history_impl.h - blobs, for the files of history.h. */
#ifndef MAL_HISTORY_IMPL_H
#define MAL_HISTORY_IMPL_H

#include "daemon/engine/history.h"

#define MAL_BLOB_DELTA    "delta/"      /* <module>: a part of the version's delta */
#define MAL_BLOB_KEYFRAME "keyframe/"   /* <module>: T of the version, dense */
#define MAL_BLOB_NORM     "normalizer/" /* <shape>: statistics as of the version */

/* Whether the blob's name begins so. */
bool mal_blob_is(const struct mal_blob_row *blob, const char *prefix);
/* The blob's bytes into `data`, checked against their hash. */
bool mal_blob_read(struct mal_store *store, int64_t version,
                   const struct mal_blob_row *blob, void *data,
                   struct mal_error *err) MAL_CHECK;
/* A part of a delta or keyframe; *part zeroed, owned even on failure. */
bool mal_blob_read_part(struct mal_store *store, int64_t version,
                        const struct mal_blob_row *blob, struct mal_delta_part *part,
                        struct mal_error *err) MAL_CHECK;
/* `hash` is the data's. */
bool mal_blob_stage(struct mal_store *writer, int64_t version, const char *name,
                    const char *header_json, const void *data, size_t bytes,
                    const struct mal_hash *hash, struct mal_error *err) MAL_CHECK;

/* Where the way from the base to the row's version comes from, into *version: its parent,
 * or where it rolled back to. */
bool mal_history_step(const struct mal_version_row *row, int64_t *version,
                      struct mal_error *err) MAL_CHECK;

bool mal_history_stage_norms(struct mal_store *writer, int64_t version,
                             const struct mal_editor *editor,
                             const struct mal_normalizer *norms,
                             struct mal_error *err) MAL_CHECK;

#endif
