/* history.h - versions as they are stored: their deltas, statistics and hash chain. */
#ifndef MAL_HISTORY_H
#define MAL_HISTORY_H

#include "core/delta.h"
#include "core/editor/editor.h"
#include "core/weights_state.h"
#include "sql/store.h"

/* The versions whose deltas, applied in this order to the base, give the weights of
 * `version`: rollbacks are followed to where they lead. *out owned. */
bool mal_history_path(struct mal_store *store, int64_t version, int64_t **out,
                      size_t *out_n, struct mal_error *err) MAL_CHECK;

/* The stored delta of a version; every part's bytes and the whole are checked against
 * their hashes, MAL_CORRUPT naming version and module. */
bool mal_history_delta(struct mal_store *store, int64_t version, struct mal_delta *out,
                       struct mal_error *err) MAL_CHECK;

/* Prepares the weights of a version as the successor of the live ones: base plus the
 * deltas of its path. The caller checks their hash. */
bool mal_history_replay(struct mal_store *store, int64_t version,
                        struct mal_weights_state *ws, struct mal_error *err) MAL_CHECK;

/* Statistics stored with a version into `norms` (n_shapes, initialised); shapes that have
 * none there stay as they are. */
bool mal_history_norms(struct mal_store *store, int64_t version,
                       const struct mal_editor *editor, struct mal_normalizer *norms,
                       struct mal_error *err) MAL_CHECK;

/* Stages a version's delta and statistics (norms NULL: none). */
bool mal_history_stage(struct mal_store *writer, int64_t version,
                       const struct mal_delta *delta, const struct mal_editor *editor,
                       const struct mal_normalizer *norms,
                       struct mal_error *err) MAL_CHECK;

/* What the database was made with ("base_model", "modules") must be ours, else
 * MAL_CONFLICT. */
bool mal_history_check_meta(struct mal_store *store, const char *key, const char *ours,
                            struct mal_error *err) MAL_CHECK;
/* Checks the bytes of every blob of a version that is not part of its delta. */
bool mal_history_check_blobs(struct mal_store *store, int64_t version,
                             struct mal_error *err) MAL_CHECK;

/* ---- The chain ---- */

/* Link of the chain: SHA-256 over the parent's chain hash ("" for version 0) and
 * everything the row says but `live_facts` and `pruned`, which are not known yet or
 * change later. */
bool mal_history_chain(const struct mal_version_row *row, const char *parent_chain,
                       char out[MAL_HASH_HEX], struct mal_error *err) MAL_CHECK;
/* Whether the row is the next link: `chain` is that of the version before ("" before
 * version 0) and becomes the row's. MAL_CORRUPT naming the version. */
bool mal_history_follow(const struct mal_version_row *row, char chain[MAL_HASH_HEX],
                        struct mal_error *err) MAL_CHECK;
/* The same for versions 0 to `last`. */
bool mal_history_check_chain(struct mal_store *store, int64_t last,
                             struct mal_error *err) MAL_CHECK;

#endif
