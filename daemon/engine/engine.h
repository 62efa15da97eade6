/* engine.h - everything the worker thread owns: device, model, tokenizer, editor and the
 * weights of all versions in memory; and how a change is made, made durable, and
 * published.
 *
 * One thread uses an engine, and one more where reads run beside changes. A change has
 * three steps: mal_engine_edit() or _rollback()
 * prepares it on shadow memory; mal_change_persist() makes it durable (on the store's
 * writer thread); mal_engine_publish() swaps pointers. Until the last step readers see
 * the old version. */
#ifndef MAL_ENGINE_H
#define MAL_ENGINE_H

#include "core/editor/instant.h"
#include "core/eval.h"
#include "core/model/generate.h"
#include "core/weights_state.h"
#include "daemon/engine/gate.h"
#include "sql/store.h"

struct mal_engine;

struct mal_engine_options {
    const char *model_dir;
    const char *editor_path;   /* NULL: none is given */
    const char *cache_path;    /* where an editor made on the spot is, or will be */
    const char *modules_json;  /* what the database was made with; NULL: not yet */
    enum mal_digest_form form; /* how it hashes weights */
    const char *device;        /* "auto", "cpu", "cuda:N" */
    int keep_versions;         /* in memory beside live and base */
    const char *read_stream;   /* "on", "off"; "auto": where that is another processor */
    const char *update;        /* "joint", "sequential"; NULL: what the editor is for */
    const char *preserve;      /* file of texts to preserve; NULL: those of the editor */
    double preserve_weight;    /* as mal_preserve_create()'s share */
    int64_t repair_rounds;     /* at most, where the method solves */
    double repair_tau;
    int64_t verify_limit; /* live facts that a change looks at beside its own */
    size_t joint_memory;  /* bytes of the joint system; 0: no bound */
    const char *probes;   /* file of prompts whose answers are to stay; NULL: none */
    struct mal_gate gate;
};

/* The editor's file, the given one before the one made on the spot; NULL: there is none.
 */
const char *mal_engine_editor_path(const struct mal_engine_options *options);

/* What can be said at once: whether the model's and the editor's files are there and
 * their headers hold. Touches no device. */
bool mal_engine_look(const struct mal_engine_options *options,
                     struct mal_error *err) MAL_CHECK;

bool mal_engine_open(struct mal_engine **out, const struct mal_engine_options *options,
                     struct mal_error *err) MAL_CHECK;
void mal_engine_close(struct mal_engine *engine); /* takes NULL */

/* Read-only after opening, safe from any thread. */
const char *mal_engine_modules(const struct mal_engine *engine); /* JSON, sorted */
const struct mal_model_info *mal_engine_model_info(const struct mal_engine *engine);
const struct mal_tokenizer *mal_engine_tokenizer(const struct mal_engine *engine);
const char *mal_engine_device(const struct mal_engine *engine);
const char *mal_engine_base_model(const struct mal_engine *engine); /* fingerprint, hex */
const char *
mal_engine_model_name(const struct mal_engine *engine); /* last part of its path */

/* Whether all live facts are held in one system, or batches added up. */
bool mal_engine_is_joint(const struct mal_engine *engine);

/* MAL_CONFLICT where facts are added up; `joint` is what mal_engine_is_joint() said. */
MAL_CHECK static inline bool mal_engine_need_joint(bool joint, struct mal_error *err) {
    return joint ||
           mal_fail(err, MAL_CONFLICT,
                    "this daemon runs --update sequential, where facts are added up and "
                    "cannot be taken back singly: roll back, or, with an editor whose "
                    "facts one system can hold, serve with --update joint");
}

const struct mal_gate *mal_engine_gate(const struct mal_engine *engine);
/* That gate asks for a perplexity, and why there is none to be measured; NULL: it does
 * not, or there is. */
const char *mal_engine_lacks_texts(const struct mal_engine *engine);

/* NULL: none yet. For the engine's thread. */
const struct mal_editor *mal_engine_editor(const struct mal_engine *engine);
/* Makes one (core/editor/instant.h) where there is none; it is in the file cache_path,
 * whole and synced, before it is used. Reads may be served in ticks. */
bool mal_engine_make_editor(struct mal_engine *engine, const struct mal_fact *facts,
                            size_t n, const struct mal_progress *progress,
                            struct mal_instant_report *report,
                            struct mal_error *err) MAL_CHECK;

/* Brings the weights to the live version of the database, replaying stored deltas from
 * the base and checking each replayed version's hash. An empty database: *out_empty true,
 * version 0 must be published (mal_engine_base_change). Another base model or editor
 * modules that do not fit: MAL_CONFLICT. A hash that differs: MAL_CORRUPT naming the
 * version. */
bool mal_engine_recover(struct mal_engine *engine, struct mal_store *store,
                        bool *out_empty, struct mal_error *err) MAL_CHECK;

/* ---- Changes ---- */

struct mal_history_value;
struct mal_resume;
struct mal_stager;

/* A prepared change: its version row, what is stored with it, and what it measured. */
struct mal_change {
    struct mal_version_row row; /* strings owned */
    struct mal_delta delta;
    struct mal_delta keyframe;    /* where row.keyframe */
    struct mal_normalizer *norms; /* UltraEdit's new statistics, (n_shapes); NULL: none */
    size_t n_norms;
    const struct mal_editor *editor; /* borrowed; NULL: there is none */
    char *base_model,
        *modules_json;         /* version 0: what the database is made with; owned */
    enum mal_digest_form form; /* version 0: how it hashes weights */
    struct mal_history_value *values; /* (n_values), what they point at owned; in the
                                       * order of seq once the row is filled */
    size_t n_values;
    struct mal_stager *stager; /* takes on early what is stored, borrowed; or NULL */
    bool delta_given;          /* to the stager */
    struct mal_edit_report report;
    int64_t n_rounds; /* of repair */
    struct mal_measures measures;
    size_t n_wrong;                /* facts it taught that are wrong after it */
    size_t n_wrong_others;         /* facts it did not teach that are wrong after it */
    struct mal_fact_result *facts; /* (n_facts), strings owned by the change */
    size_t n_facts;
    char **results; /* (n_results) of each job, owned */
    size_t n_results;
    const struct mal_retraction *retracted; /* borrowed */
    size_t n_retracted;
    const char *const *rejected; /* ids, borrowed */
    size_t n_rejected;
    bool passes; /* the gate's verdict */
};

/* Takes a zeroed one. What its stager has of it is dropped, unless it was published. */
void mal_change_finish(struct mal_change *change);

bool mal_engine_base_change(struct mal_engine *engine, int64_t now_ms,
                            struct mal_change *out, struct mal_error *err) MAL_CHECK;

/* A batch to be taught. */
struct mal_batch_edit {
    const struct mal_fact
        *facts;          /* (n) with ids; those of equal prompts in their order */
    const int64_t *seqs; /* (n) */
    size_t n;
    const size_t *first; /* (n_jobs + 1) each job's facts */
    size_t n_jobs;
    const struct mal_gate *gate;
    const struct mal_gate *own;  /* (n_jobs) limits for the job's own facts; NULL: none */
    const char *const *rejected; /* (n_rejected) ids that the gate kept out of it */
    size_t n_rejected;
    const struct mal_resume *resume; /* as in struct mal_edit_task */
    struct mal_stager *stager;       /* as in struct mal_change */
};

/* What the unrelated prompts of a batch's facts, and the daemon's probes, are answered on
 * the base weights: made once for all changes that are tried of the batch. */
struct mal_agreement;
bool mal_engine_ask(struct mal_engine *engine, const struct mal_fact *facts, size_t n,
                    const struct mal_progress *progress, struct mal_agreement *out,
                    struct mal_error *err) MAL_CHECK;

/* On an error nothing is prepared; there is an editor. A change that the gate refuses
 * (out->passes false) is prepared, too: its numbers are in the results, and it is to be
 * abandoned. `store`: any handle of this thread. */
bool mal_engine_edit(struct mal_engine *engine, struct mal_store *store,
                     const struct mal_batch_edit *batch,
                     const struct mal_agreement *agreement, int64_t now_ms,
                     const struct mal_progress *progress, struct mal_change *out,
                     struct mal_error *err) MAL_CHECK;
/* Takes facts back, all in one mode (borrowed until the change is finished).
 * MAL_CONFLICT: one is not retractable, or the daemon adds facts up. */
bool mal_engine_retract(struct mal_engine *engine, struct mal_store *store,
                        const struct mal_retraction *facts, size_t n, int64_t now_ms,
                        const struct mal_progress *progress, struct mal_change *out,
                        struct mal_error *err) MAL_CHECK;
/* Repairs live facts that fail: those given (seqs, ascending), and what else it looks at,
 * as any change does. out->passes: fewer are wrong then, or as many, and fewer fail; else
 * it is to be abandoned. */
bool mal_engine_repair(struct mal_engine *engine, struct mal_store *store,
                       const int64_t *facts, size_t n, int64_t now_ms,
                       const struct mal_progress *progress, struct mal_change *out,
                       struct mal_error *err) MAL_CHECK;
/* Whether the live facts were solved with another ridge, preservation or tokenizer: then
 * they are to be solved anew before anything else is changed in their system. */
bool mal_engine_solved_otherwise(struct mal_engine *engine, struct mal_store *store,
                                 bool *out, struct mal_error *err) MAL_CHECK;
/* Solves all live facts anew from the base. out->passes: it measures no worse. */
bool mal_engine_consolidate(struct mal_engine *engine, struct mal_store *store,
                            int64_t now_ms, const struct mal_progress *progress,
                            struct mal_change *out, struct mal_error *err) MAL_CHECK;

/* Scores the next live facts after the one of seq `after`. */
enum { MAL_SCRUB_FACTS = 32 };

struct mal_scrubbed {
    int64_t last; /* one's seq, 0 when there are none left */
    size_t n;
    int64_t wrong[MAL_SCRUB_FACTS]; /* (n_wrong) seqs: the prompt is not given right */
    size_t n_wrong;
    int64_t failing[MAL_SCRUB_FACTS]; /* (n_failing) those, and all others of which a text
                                       * fails repair's test (core/editor/repair.h) */
    size_t n_failing;
    /* (n_results) of those whose verdict is not what their row says, strings owned */
    struct mal_fact_result results[MAL_SCRUB_FACTS];
    size_t n_results;
};

void mal_scrubbed_finish(struct mal_scrubbed *scrubbed); /* also after a failure */

bool mal_engine_scrub(struct mal_engine *engine, struct mal_store *store, int64_t after,
                      bool (*tick)(void *), void *tick_arg, struct mal_scrubbed *out,
                      struct mal_error *err) MAL_CHECK;
/* Whether the next change of the live facts finds their system in step, and its factors
 * made, with room for rows that join. */
bool mal_engine_is_ready(const struct mal_engine *engine);
/* A step towards it; one that is cut off has done no harm, but amid MAL_STAGE_GRAM all of
 * the system is made anew. */
bool mal_engine_make_ready(struct mal_engine *engine, struct mal_store *store,
                           const struct mal_progress *progress,
                           struct mal_error *err) MAL_CHECK;
/* Bytes of the joint system, 0: it is not made yet; facts in it; whether those are the
 * live version's. */
void mal_engine_joint_size(const struct mal_engine *engine, size_t *bytes,
                           size_t *n_facts, bool *in_step);

/* MAL_INVALID: no such version, MAL_CONFLICT: it was pruned. The prepared weights hash as
 * the row of to_version says.
 */
bool mal_engine_rollback(struct mal_engine *engine, struct mal_store *store,
                         int64_t to_version, int64_t now_ms,
                         const struct mal_progress *progress, struct mal_change *out,
                         struct mal_error *err) MAL_CHECK;

/* Gives a prepared change a keyframe: the whole shift and, of UltraEdit, the statistics.
 */
bool mal_engine_add_keyframe(struct mal_engine *engine, struct mal_change *change,
                             const struct mal_progress *progress,
                             struct mal_error *err) MAL_CHECK;

/* Stages what its stager, which is settled, does not have, and publishes row, jobs and
 * facts, on the writer's handle. */
bool mal_change_persist(struct mal_change *change, struct mal_store *writer,
                        const char *const *jobs, size_t n_jobs,
                        struct mal_error *err) MAL_CHECK;

/* Makes the prepared weights live (or forgets them). Cannot fail. */
void mal_engine_publish(struct mal_engine *engine, struct mal_change *change);
void mal_engine_abandon(struct mal_engine *engine);

/* ---- Evaluations: facts measured on one version while others are made ---- */

struct mal_evaluation;

/* Holds the weights of a version of the database until it is closed; one at a time.
 * `facts` are borrowed till then. MAL_INVALID: no such version, MAL_CONFLICT: it was
 * pruned. `tick` (may be NULL) is called in between. */
bool mal_engine_evaluate(struct mal_engine *engine, struct mal_store *store,
                         int64_t version, const struct mal_fact *facts, size_t n,
                         void (*tick)(void *), void *tick_arg,
                         struct mal_evaluation **out, struct mal_error *err) MAL_CHECK;
/* One slice, which reads wait for as they do for one of a change; changes may be made
 * between two. *out_over: *out is what they measure, as the edit that made the version
 * would have measured them. */
bool mal_evaluation_step(struct mal_evaluation *evaluation, bool (*tick)(void *),
                         void *tick_arg, bool *out_over, struct mal_measures *out,
                         struct mal_error *err) MAL_CHECK;
/* In texts. */
void mal_evaluation_progress(const struct mal_evaluation *evaluation, int64_t *done,
                             int64_t *total);
void mal_evaluation_close(struct mal_evaluation *evaluation); /* takes NULL */

/* ---- Reads: on any version in memory ---- */

int64_t mal_engine_live(const struct mal_engine *engine);
/* Of a change or an evaluation, of a read: mal_backend_name_failure(). */
void mal_engine_name_failure(const struct mal_engine *engine, struct mal_error *err);
void mal_engine_name_read_failure(const struct mal_engine *engine, struct mal_error *err);
void mal_engine_live_hash(const struct mal_engine *engine, char out[MAL_HASH_HEX]);
bool mal_engine_has(const struct mal_engine *engine, int64_t version); /* readable now */
/* Versions in memory, ascending; returns how many, at most `max` written. */
size_t mal_engine_versions(const struct mal_engine *engine, int64_t *out, size_t max);
size_t mal_engine_device_bytes(const struct mal_engine *engine);

/* Whether reads run beside changes: then they have a thread of their own, and a queue of
 * the device. Else they are the engine's thread's, between two slices of its work. */
bool mal_engine_reads_beside(const struct mal_engine *engine);
/* From here to the end the next two use *version; -1: the live one, and *version becomes
 * its number. MAL_NOT_FOUND: it is not in memory. */
bool mal_engine_begin_read(struct mal_engine *engine, int64_t *version,
                           struct mal_error *err) MAL_CHECK;
void mal_engine_end_read(struct mal_engine *engine);
bool mal_engine_generate(struct mal_engine *engine, struct mal_generation *gens, size_t n,
                         bool (*tick)(void *), void *tick_arg,
                         struct mal_error *err) MAL_CHECK;
bool mal_engine_score(struct mal_engine *engine, const struct mal_score_item *items,
                      size_t n, const char *pointer, bool (*tick)(void *), void *tick_arg,
                      struct mal_score **out, struct mal_error *err) MAL_CHECK;
/* Checks facts as a batch will: tokenizes each, in the loop thread too (touches no
 * device). *out_tokens: target tokens. The first fact that does not fit is MAL_INVALID
 * with pointer; `first` is the position of facts[0]. */
bool mal_engine_check_facts(const struct mal_engine *engine, const struct mal_fact *facts,
                            size_t n, size_t first, int64_t *out_tokens,
                            struct mal_error *err) MAL_CHECK;
/* The same of facts that are to be taught, by the engine's editor. */
bool mal_engine_check_taught(const struct mal_engine *engine,
                             const struct mal_fact *facts, size_t n, size_t first,
                             int64_t *out_tokens, struct mal_error *err) MAL_CHECK;

#endif
