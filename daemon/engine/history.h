/* history.h - versions as they are stored: their deltas, statistics and hash chain. */
#ifndef MAL_HISTORY_H
#define MAL_HISTORY_H

#include "core/delta.h"
#include "core/editor/editor.h"
#include "core/weights_state.h"
#include "sql/store.h"

/* ---- From the base to a version ---- */

/* Whether the version's delta is the whole difference from the base: a consolidation's,
 * and the empty one of a retraction after which nothing is live. */
static inline bool mal_history_begins(const struct mal_version_row *row) {
    return row->kind == MAL_VERSION_CONSOLIDATION ||
           (row->kind == MAL_VERSION_RETRACTION && row->live_facts == 0);
}

/* The versions whose deltas make `version`, ascending: rollbacks are followed to where
 * they lead, and the last one on the way that begins anew is the first. Values of facts
 * are looked up along it. *out owned. */
bool mal_history_path(struct mal_store *store, int64_t version, int64_t **out,
                      size_t *out_n, struct mal_error *err) MAL_CHECK;
/* And of each whether its facts were added up (--update sequential), so that no values of
 * theirs are stored; owned. */
bool mal_history_joint_path(struct mal_store *store, int64_t version, int64_t **out,
                            bool **out_added, size_t *out_n,
                            struct mal_error *err) MAL_CHECK;

/* Tries to read what a daemon that runs may prune meanwhile, here or on the way here.
 * What is wrong for good is so when nothing else has changed, or in the end. */
struct mal_history_tries {
    int64_t seen; /* mal_store_data_version() */
    int n;
};

bool mal_history_begin_tries(struct mal_store *store, struct mal_history_tries *out,
                             struct mal_error *err) MAL_CHECK;
/* After one that failed: whether it is worth another. *err is clear then. */
bool mal_history_try_again(struct mal_store *store, struct mal_history_tries *tries,
                           struct mal_error *err) MAL_CHECK;

/* What a replay reads: the end of the path, from the last version on the way, a rollback
 * too, that has a keyframe. */
struct mal_history_plan {
    int64_t keyframe; /* the version whose keyframe it begins with; -1: the base */
    int64_t *deltas;  /* (n) versions whose deltas follow, ascending, owned */
    size_t n;
};

/* MAL_CONFLICT: the version was pruned. */
bool mal_history_check_stored(const struct mal_version_row *row,
                              struct mal_error *err) MAL_CHECK;
/* The same refusal. */
bool mal_history_plan(struct mal_store *store, int64_t version,
                      struct mal_history_plan *out, struct mal_error *err) MAL_CHECK;
void mal_history_plan_finish(struct mal_history_plan *plan);

/* Prepares the weights of a version as the successor of the live ones, following its
 * plan. The caller checks their hash. `tick` (may be NULL) is called in between. */
bool mal_history_replay(struct mal_store *store, int64_t version,
                        struct mal_weights_state *ws, void (*tick)(void *),
                        void *tick_arg, struct mal_error *err) MAL_CHECK;

/* The stored delta of a version; every part's bytes and the whole are checked against
 * their hashes, MAL_CORRUPT naming version and module. */
bool mal_history_delta(struct mal_store *store, int64_t version, struct mal_delta *out,
                       struct mal_error *err) MAL_CHECK;
/* T as stored with a version that has a keyframe, in dense parts; modules without a part
 * are the base's. Bytes are checked. */
bool mal_history_keyframe(struct mal_store *store, int64_t version, struct mal_delta *out,
                          struct mal_error *err) MAL_CHECK;
/* Statistics as of a version into `norms` (n_shapes, initialised): those stored last on
 * the way to it; shapes that have none stay as they are. */
bool mal_history_norms(struct mal_store *store, int64_t version,
                       const struct mal_editor *editor, struct mal_normalizer *norms,
                       struct mal_error *err) MAL_CHECK;

/* ---- Staging ---- */

/* Value differences of one fact, as they are stored. */
struct mal_history_value {
    int64_t fact;   /* seq */
    const char *id; /* borrowed */
    void *data;     /* packed; NULL: they are staged */
    size_t bytes;
    char sha256[MAL_HASH_HEX]; /* of the data */
    bool replaces;             /* others that are staged */
};

/* Fills data (owned), bytes and sha256: in bf16 where that is exact, else in fp32. False:
 * out of memory. Any thread. */
bool mal_history_pack_values(struct mal_history_value *value, const float *values,
                             size_t n) MAL_CHECK;
/* `n` numbers that were packed. Takes *data over and gives floats, owned; false: neither
 * size is theirs (MAL_CORRUPT), or memory is out. */
bool mal_history_unpack_values(void **data, uint64_t bytes, size_t n,
                               struct mal_error *err) MAL_CHECK;

/* The version row's values_hash: SHA-256 over (id, sha256) of all, which are in the order
 * of seq; "" for none. */
bool mal_history_hash_values(const struct mal_history_value *values, size_t n,
                             char out[MAL_HASH_HEX], struct mal_error *err) MAL_CHECK;

/* What is stored with a version; all borrowed. */
struct mal_history_parts {
    struct mal_delta *delta;                /* the hash of its data is taken, or made;
                                             * NULL: it is staged */
    struct mal_delta *keyframe;             /* mal_weights_read_keyframe(); NULL: none */
    const struct mal_editor *editor;        /* of norms */
    const struct mal_normalizer *norms;     /* (n_shapes); NULL: none. UltraEdit's go with
                                             * every edit, consolidation and keyframe */
    const struct mal_history_value *values; /* (n_values) */
    size_t n_values;
};

bool mal_history_stage(struct mal_store *writer, int64_t version,
                       const struct mal_history_parts *parts,
                       struct mal_error *err) MAL_CHECK;

/* Of that, one part of a delta, whose data is hashed; and values that are not staged. */
bool mal_history_stage_part(struct mal_store *writer, int64_t version,
                            const struct mal_delta_part *part,
                            struct mal_error *err) MAL_CHECK;
bool mal_history_stage_values(struct mal_store *writer, int64_t version,
                              const struct mal_history_value *values, size_t n,
                              struct mal_error *err) MAL_CHECK;

/* ---- How weights are hashed ---- */

/* What the database says; one without versions will be hashed in pieces. */
bool mal_history_digest_form(struct mal_store *store, enum mal_digest_form *out,
                             struct mal_error *err) MAL_CHECK;
/* Says so, before its first version. */
bool mal_history_note_digest_form(struct mal_store *writer, enum mal_digest_form form,
                                  struct mal_error *err) MAL_CHECK;

/* ---- Checks ---- */

/* What the database was made with ("base_model", "modules") must be ours, else
 * MAL_CONFLICT. */
bool mal_history_check_meta(struct mal_store *store, const char *key, const char *ours,
                            struct mal_error *err) MAL_CHECK;
/* Checks the bytes of every blob of a version that is not part of its delta. */
bool mal_history_check_blobs(struct mal_store *store, int64_t version,
                             struct mal_error *err) MAL_CHECK;
/* Checks the bytes of the values stored with a version and, unless it was pruned and they
 * may be fewer, that its row's values_hash is theirs. *out_n: how many. */
bool mal_history_check_values(struct mal_store *store, const struct mal_version_row *row,
                              size_t *out_n, struct mal_error *err) MAL_CHECK;

/* ---- The chain ---- */

/* Link of the chain: SHA-256 over the parent's chain hash ("" for version 0) and
 * everything the row says but `live_facts`, `pruned` and `keyframe`, which are not known
 * yet, change later or say only how the version is stored. */
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
