/* store.h - the durable state: jobs, facts, versions, deltas, in one SQLite database.
 *
 * Everything answered 202 is here; a batch is applied exactly once because its version, its jobs'
 * and its facts' states change in one transaction. Exactly one connection writes and one copies the
 * log into the database, by turns where SQLite before 3.51.3 could lose a log otherwise
 * (store_log.c); readers are separate, read-only handles. A handle belongs to one thread at a time.
 * Strings in are borrowed for the call. Times are milliseconds since 1970 UTC. After MAL_IO from a
 * write the process must stop and recover: never retry on the same handle. The narrow interface is
 * what another database would implement. */
#ifndef MAL_STORE_H
#define MAL_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

struct mal_store;

enum mal_job_kind {
    MAL_JOB_EDIT, MAL_JOB_ROLLBACK, MAL_JOB_RETRACTION, MAL_JOB_CONSOLIDATION, MAL_JOB_REPAIR,
    MAL_JOB_EVALUATION, MAL_N_JOB_KINDS
};
enum mal_job_state {
    MAL_JOB_QUEUED, MAL_JOB_RUNNING, MAL_JOB_APPLIED, MAL_JOB_DONE, MAL_JOB_REJECTED,
    MAL_JOB_FAILED, MAL_JOB_CANCELLED, MAL_N_JOB_STATES
};
enum mal_fact_state {
    MAL_FACT_QUEUED, MAL_FACT_LIVE, MAL_FACT_SUPERSEDED, MAL_FACT_RETRACTED,
    MAL_FACT_ROLLED_BACK, MAL_FACT_REJECTED, MAL_FACT_FAILED, MAL_N_FACT_STATES
};
enum mal_version_kind {
    MAL_VERSION_BASE, MAL_VERSION_EDIT, MAL_VERSION_ROLLBACK, MAL_VERSION_RETRACTION,
    MAL_VERSION_CONSOLIDATION, MAL_VERSION_REPAIR, MAL_N_VERSION_KINDS
};
/* The words of the API ("queued", "rolled_back", ...), also what the database holds. */
const char *mal_job_kind_name(enum mal_job_kind kind);
const char *mal_job_state_name(enum mal_job_state state);
const char *mal_fact_state_name(enum mal_fact_state state);
const char *mal_version_kind_name(enum mal_version_kind kind);
/* -1: no such word */
int mal_job_kind_from_name(const char *name);
int mal_job_state_from_name(const char *name);
int mal_fact_state_from_name(const char *name);
bool mal_job_state_ended(enum mal_job_state state);

/* Rows. Owned strings when filled by the store (mal_*_row_finish), borrowed when passed in. */

struct mal_job_row {
    char *id;              /* "job_...", sorts by time of creation */
    enum mal_job_kind kind;
    enum mal_job_state state;
    int64_t created_ms, started_ms, finished_ms; /* 0: not yet */
    int64_t n_facts;
    int64_t version;       /* -1: none yet */
    int64_t to_version;    /* rollback: where to; evaluation: which, if it says; -1 otherwise */
    char *note;            /* or reason, or an evaluation's suite; NULL: none */
    char *request_json;    /* what else the request said (gate); NULL. An evaluation's facts:
                            * mal_store_job_request() alone reads them, until the job has ended */
    char *result_json;     /* NULL: none yet */
    char *error_json;      /* a Problem; NULL: none */
};

struct mal_fact_row {
    int64_t seq;           /* position in the whole history, from 1 */
    char *id;              /* "fact_..." */
    char *job;
    int64_t index;         /* in its job, from 0 */
    enum mal_fact_state state;
    int64_t version;       /* first version it was live in; -1: none */
    char *prompt, *target;
    char *fact_json;       /* the whole Fact object as accepted */
    char *verified_json;   /* {"decoded","logprob","rank"}; NULL: not measured */
    char *superseded_by;   /* id; NULL */
    bool pinned;           /* retracted, and its keys stay in the joint system */
};

struct mal_version_row {
    int64_t version, parent; /* parent -1 for version 0 */
    enum mal_version_kind kind;
    int64_t created_ms;
    int64_t to_version;      /* rollback: the version whose weights these are; -1 otherwise */
    int64_t n_facts;         /* facts this version taught */
    int64_t live_facts;
    char *weights_hash, *chain_hash; /* hex */
    char *delta_hash;        /* hex, of nothing: hash of an empty delta */
    char *encoding;          /* "none", "factors", "dense" */
    int64_t delta_bytes;
    char *editor_method, *editor_hash; /* hash hex, may be empty */
    char *update;            /* "sequential", "joint" */
    char *modules_json;      /* [{"name","shift_norm","weight_norm"}...] */
    char *measures_json;     /* object */
    bool pruned;             /* its blobs are gone */
    bool keyframe;           /* its blobs hold the whole shift of every module */
    char *values_hash;       /* hex, over what mal_store_values lists; "" or NULL: nothing */
    char *basis;             /* hex, of what the facts' system is made of beside their keys; "" or
                                NULL: not known, or there is none */
};

/* Who asked for what. job and created_ms are the store's to fill in, and id, from 1, ascending. */
struct mal_audit_row {
    int64_t id, created_ms;
    char *who, *role, *origin; /* a token's name, "edit", "192.0.2.7" */
    char *action;              /* "POST /v1/edits" */
    char *request_id;
    char *job;                 /* id */
    char *detail_json;         /* object */
};

void mal_job_row_finish(struct mal_job_row *row);
void mal_fact_row_finish(struct mal_fact_row *row);
void mal_version_row_finish(struct mal_version_row *row);
void mal_audit_row_finish(struct mal_audit_row *row);

/* ---- Opening ---- */

/* Creates or migrates the database, removes what a kill left half staged, and takes an exclusive
 * lock: a second writer on the same file is MAL_CONFLICT, and so is another name (a hard link) than that
 * which it was opened by before. A database of a newer schema, a torn or
 * foreign file: MAL_CORRUPT, nothing changed. */
bool mal_store_open(struct mal_store **out, const char *path, struct mal_error *err) MAL_CHECK;
/* Read-only; sees what was committed. */
bool mal_store_open_reader(struct mal_store **out, const char *path,
                           struct mal_error *err) MAL_CHECK;
void mal_store_close(struct mal_store *store); /* takes NULL */

/* What mal_store_open() would meet, without a lock and without changing anything. Fails as it
 * would, but for a lock that another holds; also where file or directory cannot be written. */
struct mal_store_look {
    bool exists;   /* else it would be made */
    bool outdated; /* of an older schema: it would be migrated, and no reader opens it before */
};
bool mal_store_look(struct mal_store_look *out, const char *path, struct mal_error *err) MAL_CHECK;

/* Facts about the database as a whole ("base_model", "created_ms", ...). set: once, a second
 * different value is MAL_CONFLICT. get: *out owned, NULL when absent. */
bool mal_store_set_meta(struct mal_store *store, const char *key, const char *value,
                        struct mal_error *err) MAL_CHECK;
bool mal_store_get_meta(struct mal_store *store, const char *key, char **out,
                        struct mal_error *err) MAL_CHECK;

/* False: the disk failed when a commit, which stands, was to be copied from the log into the
 * database. As MAL_IO from a write: stop and recover. */
bool mal_store_sound(struct mal_store *store, struct mal_error *err) MAL_CHECK;

/* From now on the log is copied into the database by mal_store_copy_log() alone, on a thread and a
 * connection of its own, so that writes wait neither for that nor for its syncs. `wake` is called
 * by the writer's thread, within a commit, when it is time. What is staged for a version is copied
 * when the version is published, unless the log takes more than a quarter of the room that is left
 * on its disk. */
bool mal_store_share_log(struct mal_store *writer, void (*wake)(void *arg), void *arg,
                         struct mal_error *err) MAL_CHECK;
/* Any one other thread. False as for mal_store_sound(); what lacks room or memory, or is still read,
 * is left for the next time. */
bool mal_store_copy_log(struct mal_store *writer, struct mal_error *err) MAL_CHECK;
/* Any thread: one that is under way is given up. */
void mal_store_stop_copying(struct mal_store *writer);
/* When no other thread copies or writes any more: what is left, unless that would take long, so that
 * the file alone is the database for those who forget its log. False: the disk failed now. */
bool mal_store_copy_rest(struct mal_store *writer, struct mal_error *err) MAL_CHECK;

/* `between` is called in the middle of staging, after each chunk's commit, and may write; false
 * ends the staging with its error. NULL: nothing. */
void mal_store_between(struct mal_store *writer, bool (*between)(void *arg, struct mal_error *err),
                       void *arg);

/* Between begin and end all that is written is one transaction: durable when `end` returns
 * true, which it does only if asked to (`done`), else none of it is there. A write that
 * fails meanwhile has left something behind, for `end` to undo, where the changes are no
 * longer what they were before it: rows so far, or -1 once SQLite has rolled back by itself. */
bool mal_store_begin_together(struct mal_store *store, struct mal_error *err) MAL_CHECK;
int64_t mal_store_changes(const struct mal_store *store);
bool mal_store_end_together(struct mal_store *store, bool done,
                            struct mal_error *err) MAL_CHECK;

/* sqlite's integrity_check; MAL_CORRUPT with its first line. */
bool mal_store_check(struct mal_store *store, struct mal_error *err) MAL_CHECK;

/* ---- Jobs and facts ---- */

/* The facts of a new job, one after another. */
struct mal_fact_source {
    size_t n;
    /* Fact i, of which id, prompt, target and fact_json are needed, borrowed until the next call.
     * Called inside the transaction; may read the store. */
    bool (*get)(void *arg, struct mal_store *store, size_t i, struct mal_fact_row *out,
                struct mal_error *err);
    void *arg;
};

/* One transaction: the job and its facts (NULL: none), all queued, and who asked for it, durable
 * when it returns. With `idempotency_key`: remembered with `body_hash` and `answer_json`; a key already there is
 * MAL_CONFLICT and nothing is inserted (look it up first). */
bool mal_store_add_job(struct mal_store *store, const struct mal_job_row *job,
                       const struct mal_fact_source *facts, const char *idempotency_key,
                       const char *body_hash, const char *answer_json,
                       const struct mal_audit_row *audit,
                       struct mal_error *err) MAL_CHECK;
/* *answer NULL when the key is unknown; both owned by the caller. */
bool mal_store_find_idempotency(struct mal_store *store, const char *key, char **body_hash,
                                char **answer, struct mal_error *err) MAL_CHECK;

/* A queued job begins: running, started now. */
bool mal_store_start_jobs(struct mal_store *store, const char *const *ids, size_t n,
                          int64_t now_ms, struct mal_error *err) MAL_CHECK;
/* Running jobs wait again: queued, not started. */
bool mal_store_requeue_jobs(struct mal_store *store, const char *const *ids, size_t n,
                            struct mal_error *err) MAL_CHECK;
/* Ends jobs without a version (failed, rejected, done); their facts follow: failed or rejected.
 * result_json and error_json may be NULL. */
bool mal_store_end_jobs(struct mal_store *store, const char *const *ids, size_t n,
                        enum mal_job_state state, int64_t now_ms, const char *result_json,
                        const char *error_json, struct mal_error *err) MAL_CHECK;
/* Ends one because somebody asked for that; its facts are rejected. */
bool mal_store_cancel_job(struct mal_store *store, const char *id, int64_t now_ms,
                          const struct mal_audit_row *audit, struct mal_error *err) MAL_CHECK;
/* After a kill: running jobs go back to queued. */
bool mal_store_requeue_running(struct mal_store *store, int64_t *out_n,
                               struct mal_error *err) MAL_CHECK;

bool mal_store_get_job(struct mal_store *store, const char *id, struct mal_job_row *out,
                       struct mal_error *err) MAL_CHECK; /* MAL_NOT_FOUND */

/* A job's request_json; *out owned, NULL: there is none. */
bool mal_store_job_request(struct mal_store *store, const char *id, char **out,
                           struct mal_error *err) MAL_CHECK; /* MAL_NOT_FOUND */

/* Newest first; kind, state -1: any; after: id of the last one of the page before, or NULL (an
 * unknown id is MAL_NOT_FOUND). Returns up to limit rows, *has_more if there are others. */
struct mal_job_query {
    int kind, state;
    const char *after;
    size_t limit;
};
bool mal_store_list_jobs(struct mal_store *store, const struct mal_job_query *query,
                         struct mal_job_row **out, size_t *out_n, bool *has_more,
                         struct mal_error *err) MAL_CHECK;
void mal_job_rows_free(struct mal_job_row *rows, size_t n);

/* Ids, kinds and fact counts of queued jobs, oldest first: what the queue is rebuilt from. */
bool mal_store_queued_jobs(struct mal_store *store, struct mal_job_row **out, size_t *out_n,
                           struct mal_error *err) MAL_CHECK;
/* How many jobs are in each state, counts[MAL_N_JOB_STATES]; live facts; versions. Takes time with
 * the jobs that have not ended and those ended since this handle was asked last, not with all there
 * ever were. Not within a transaction. */
struct mal_store_counts {
    int64_t jobs[MAL_N_JOB_STATES];
    int64_t live_facts, versions;
};
bool mal_store_counts(struct mal_store *store, struct mal_store_counts *out,
                      struct mal_error *err) MAL_CHECK;

/* Facts of one job in their order. */
bool mal_store_job_facts(struct mal_store *store, const char *job, struct mal_fact_row **out,
                         size_t *out_n, struct mal_error *err) MAL_CHECK;
bool mal_store_get_fact(struct mal_store *store, const char *id, struct mal_fact_row *out,
                        struct mal_error *err) MAL_CHECK; /* MAL_NOT_FOUND */
bool mal_store_get_fact_seq(struct mal_store *store, int64_t seq, struct mal_fact_row *out,
                            struct mal_error *err) MAL_CHECK; /* MAL_NOT_FOUND */

/* Oldest first, unless newest_first. state -1: any. version -1: any, else facts live in that
 * version. prompt: exactly this prompt, or NULL. job: of this job, or NULL. text: somewhere in the
 * prompt, ASCII letters in either case, or NULL. With `version` or `text` alone every fact may
 * have to be looked at. */
struct mal_fact_query {
    int state;
    int64_t version;
    const char *prompt;
    const char *job;
    const char *after; /* fact id */
    size_t limit;
    const char *text;
    bool newest_first;
};
bool mal_store_list_facts(struct mal_store *store, const struct mal_fact_query *query,
                          struct mal_fact_row **out, size_t *out_n, bool *has_more,
                          struct mal_error *err) MAL_CHECK;
void mal_fact_rows_free(struct mal_fact_row *rows, size_t n);

/* Members: facts whose keys are in the joint system of the live version, which are the live ones
 * and the pinned ones. At most one has a given prompt, and of those that share a text, prompt or
 * further phrasing, all have one target. All lists in the order of seq. */

/* Rows after `after_seq` (0: from the first), at most `limit`. */
bool mal_store_members(struct mal_store *store, int64_t after_seq, size_t limit,
                       struct mal_fact_row **out, size_t *out_n,
                       struct mal_error *err) MAL_CHECK;
/* Those that leave when fact `seq` is taught: they have its prompt, or share a text with it and have
 * another target or are pinned. */
bool mal_store_members_against(struct mal_store *store, int64_t seq,
                               struct mal_fact_row **out, size_t *out_n,
                               struct mal_error *err) MAL_CHECK;
/* What is compared with memory; *out owned (mal_free), NULL when there are none. Reads an index
 * only. */
struct mal_member {
    int64_t seq;
    bool pinned;
};
bool mal_store_member_list(struct mal_store *store, struct mal_member **out, size_t *out_n,
                           struct mal_error *err) MAL_CHECK;

/* ---- Audit ---- */

/* Newest first; who, action, job: exactly this one, or NULL; before: only rows with a lower id,
 * INT64_MAX from the newest. */
struct mal_audit_query {
    const char *who, *action, *job;
    int64_t before;
    size_t limit;
};
bool mal_store_list_audit(struct mal_store *store, const struct mal_audit_query *query,
                          struct mal_audit_row **out, size_t *out_n, bool *has_more,
                          struct mal_error *err) MAL_CHECK;
void mal_audit_rows_free(struct mal_audit_row *rows, size_t n);

/* ---- Versions ---- */

bool mal_store_get_version(struct mal_store *store, int64_t version,
                           struct mal_version_row *out, struct mal_error *err) MAL_CHECK;
/* A number that is another one when another connection has committed since. */
bool mal_store_data_version(struct mal_store *store, int64_t *out,
                            struct mal_error *err) MAL_CHECK;
/* Highest version number, -1 when there is none. The highest is the live one. */
bool mal_store_last_version(struct mal_store *store, int64_t *out,
                            struct mal_error *err) MAL_CHECK;
/* Newest first; after: version number, -1 from the newest. */
bool mal_store_list_versions(struct mal_store *store, int64_t after, size_t limit,
                             struct mal_version_row **out, size_t *out_n, bool *has_more,
                             struct mal_error *err) MAL_CHECK;
void mal_version_rows_free(struct mal_version_row *rows, size_t n);
/* Bytes of the deltas of all versions that are not pruned; reads every version's row. */
bool mal_store_delta_bytes(struct mal_store *store, int64_t *out,
                           struct mal_error *err) MAL_CHECK;
/* Ids of the jobs that made a version (owned array of owned strings). */
bool mal_store_version_jobs(struct mal_store *store, int64_t version, char ***out,
                            size_t *out_n, struct mal_error *err) MAL_CHECK;
void mal_store_strings_free(char **strings, size_t n);

/* Blobs of a version not yet published ("delta/<module>", "normalizer/<shape>", later keyframes
 * and Gram matrices): staged in chunks of 8 MiB, a commit each, invisible until the version is
 * published, which makes them durable. `header_json` says what it is (encoding, sizes, rounding
 * error). */
struct mal_blob {
    const char *name;
    const char *header_json;
    const void *data;
    uint64_t bytes;
    const char *sha256; /* hex of data */
};
bool mal_store_stage_blob(struct mal_store *store, int64_t version, const struct mal_blob *blob,
                          struct mal_error *err) MAL_CHECK;
/* Value differences of facts for a version not yet published, in commits of about 8 MiB. A second
 * row of one fact for the same version is MAL_CONFLICT; earlier commits of the call stay. As paths
 * begin with consolidations, one of those stores the values of every live fact. */
struct mal_fact_values {
    int64_t fact;       /* seq */
    const void *data;
    uint64_t bytes;     /* > 0 */
    const char *sha256; /* hex of data */
};
bool mal_store_stage_values(struct mal_store *store, int64_t version,
                            const struct mal_fact_values *values, size_t n,
                            struct mal_error *err) MAL_CHECK;
/* Forgets the values staged for some facts, whose others are to come; those that have none are left
 * out. */
bool mal_store_unstage_values(struct mal_store *store, int64_t version, const int64_t *facts,
                              size_t n, struct mal_error *err) MAL_CHECK;
/* Forgets what was staged for an unpublished version, blobs and values, in several commits. What an
 * error leaves of it is found by the next call, or by the next open. */
bool mal_store_unstage(struct mal_store *store, int64_t version, struct mal_error *err) MAL_CHECK;

/* What a fact measured in a version: a fact of its jobs, or one live before or after it. */
struct mal_fact_result {
    const char *id;
    const char *verified_json; /* NULL: not measured, what was known stays */
};

struct mal_retraction {
    const char *id;
    bool pin; /* its keys stay, without values; else it leaves the joint system */
};
/* A live fact can be retracted, one that is pinned only so that its keys go, too. */
bool mal_fact_retractable(const struct mal_fact_row *row, bool pin);

/* The one small transaction of a batch: the version row (its number must be last + 1, its
 * values_hash not empty exactly where values are staged, which a rollback has none of), its jobs applied with their results,
 * their facts that are not `rejected` live from this version. A fact taught supersedes the live
 * ones of mal_store_members_against() and unpins the pinned ones, which stay retracted. Facts `retracted` must be
 * retractable, else MAL_CONFLICT naming the first that is not; a version cannot retract what it supersedes or
 * rolls back. For a rollback (row->to_version >= 0) every fact ever taught gets back the state,
 * superseded_by and pinned it had at that version, rolled_back where it had none. Other kinds
 * (repair, consolidation) change no states and need no jobs. row->live_facts is filled in, n_facts
 * is what the caller says. Version 0 is published the same way. All or nothing. */
struct mal_publish {
    struct mal_version_row *row;
    const char *const *jobs;          /* ids */
    const char *const *job_results;   /* result_json of each, may be NULL */
    size_t n_jobs;
    const struct mal_fact_result *facts;
    size_t n_facts;
    int64_t now_ms;
    const struct mal_retraction *retracted;
    size_t n_retracted;
    const char *const *rejected;      /* ids of queued facts of the jobs */
    size_t n_rejected;
};
bool mal_store_publish(struct mal_store *store, const struct mal_publish *publish,
                       struct mal_error *err) MAL_CHECK;
/* What live facts measured in the live version after it was published, in one transaction; no
 * version comes of it. MAL_CONFLICT, and nothing is written: `version` is not the live one, or a
 * fact is not live. */
bool mal_store_note_results(struct mal_store *store, int64_t version,
                            const struct mal_fact_result *results, size_t n,
                            struct mal_error *err) MAL_CHECK;

/* Blobs of a published version. */
struct mal_blob_row {
    char *name, *header_json, *sha256;
    uint64_t bytes;
};
bool mal_store_blobs(struct mal_store *store, int64_t version, struct mal_blob_row **out,
                     size_t *out_n, struct mal_error *err) MAL_CHECK; /* in name order */
void mal_blob_rows_free(struct mal_blob_row *rows, size_t n);
/* Reads the whole blob into data (row->bytes); a missing or short chunk is MAL_CORRUPT. The
 * caller checks the hash. */
bool mal_store_read_blob(struct mal_store *store, int64_t version,
                         const struct mal_blob_row *row, void *data,
                         struct mal_error *err) MAL_CHECK;

/* Values of a fact in force in a version whose path (mal_history_path, ascending) is given: the
 * newest stored with one of its versions. *out and *sha256 owned, NULL when there are none. The
 * caller checks the hash. */
bool mal_store_read_values(struct mal_store *store, int64_t fact, const int64_t *path,
                           size_t n_path, void **out, uint64_t *bytes, char **sha256,
                           struct mal_error *err) MAL_CHECK;
/* What is stored, or staged, with a version, in the order of seq. */
struct mal_value_row {
    int64_t fact; /* seq */
    char *id, *sha256;
    uint64_t bytes;
};
bool mal_store_values(struct mal_store *store, int64_t version, struct mal_value_row **out,
                      size_t *out_n, struct mal_error *err) MAL_CHECK;
void mal_value_rows_free(struct mal_value_row *rows, size_t n);

/* Bytes of the blobs and values stored, or staged, with a version. */
bool mal_store_bytes(struct mal_store *store, int64_t version, uint64_t *out,
                     struct mal_error *err) MAL_CHECK;

/* ---- Events ---- */

/* What has happened to jobs and versions, in order, as it was committed; ids have no gaps. The
 * last 100,000 are kept. */
struct mal_event_row {
    int64_t id;      /* from 1 */
    char *kind;      /* "job": a job came or changed its state; "version": one was published */
    char *data_json; /* {"id","state","kind","version"?}; {"version","kind","weights_hash"} */
};
/* Those after event `after`, at most `limit`. Where the first of them is not after + 1, those
 * between have been dropped. */
bool mal_store_events(struct mal_store *store, int64_t after, size_t limit,
                      struct mal_event_row **out, size_t *out_n, struct mal_error *err) MAL_CHECK;
void mal_event_rows_free(struct mal_event_row *rows, size_t n);
/* The ids of the first that is kept and of the last; with none: 1 and 0. */
bool mal_store_event_range(struct mal_store *store, int64_t *first, int64_t *last,
                           struct mal_error *err) MAL_CHECK;
bool mal_store_last_event(struct mal_store *store, int64_t *last, struct mal_error *err) MAL_CHECK;

/* ---- Pruning ---- */

/* One transaction: the weights of versions 1 to below - 1 are given up. Their rows stay with
 * `pruned` set, their blobs go, and so do values of facts, except those in force for a member in a
 * version that is not pruned: from `below` on everything reads as before. A version from `below`
 * on that is replayed from an older one is MAL_CONFLICT naming both, `below` above the live version
 * MAL_INVALID. Nothing is rolled back to a pruned version. The file does not shrink, its pages are
 * used again. */
bool mal_store_prune(struct mal_store *writer, int64_t below, struct mal_error *err) MAL_CHECK;
/* The highest `below`, at most `limit`, that mal_store_prune takes; 0: none. */
bool mal_store_prunable(struct mal_store *store, int64_t limit, int64_t *out,
                        struct mal_error *err) MAL_CHECK;

/* ---- Backup ---- */

/* A copy of the database at `db` as it is committed now, in one file `out`, while another process
 * writes; older schemas too. `progress` (may be NULL) is called between steps of 8 MiB with bytes
 * of the whole; false gives up with MAL_CANCELLED. The copy is checked, synced and renamed from
 * `out`.tmp-...; an `out` that exists is MAL_CONFLICT, a full disk MAL_NO_SPACE, and of a backup
 * that fails nothing stays. Opens like any database. */
bool mal_store_backup(const char *db, const char *out,
                      bool (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                      struct mal_error *err) MAL_CHECK;

#endif
