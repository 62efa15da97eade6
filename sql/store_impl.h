/* store_impl.h - what the files of sql/ share: the handle, queries with sticky errors,
 * rows.
 *
 * A query binds, steps and reads columns in order. Failures of binding and of copying a
 * column are held until the next call that can report, so that a row is read in straight
 * lines. */
#ifndef MAL_STORE_IMPL_H
#define MAL_STORE_IMPL_H

#include <pthread.h>
#include <sqlite3.h>
#include <sys/types.h>

#include "sql/statements.h"
#include "sql/store.h"

enum {
    MAL_STORE_APPLICATION_ID = 0x6d616c6d, /* "malm" */
    MAL_STORE_CHUNK_BYTES = 8 << 20,
};

/* Which file a name stands for. */
struct mal_store_file {
    dev_t device;
    ino_t node;
};

enum { MAL_STORE_FILES = 3 }; /* database, log, the log's index */

/* The write-ahead log of a writer, and who copies it into the database (store_log.c). */
struct mal_store_log {
    sqlite3 *copier; /* NULL: the writer's own connection copies */
    void (*wake)(void *arg);
    void *arg;
    int fd; /* of the log, -1: none */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool taken;   /* by a transaction, or by who copies */
    bool wanted;  /* by who copies, and comes first */
    bool growing; /* chunks are staged for a version that is not there yet */
    bool unsure;  /* a checkpoint has failed since the last commit */
    int pages;    /* after the last commit */
    int copied;   /* as many of the first ones are in the database */
    int64_t page_bytes;
    struct mal_error broken; /* of copying */
};

struct mal_store {
    sqlite3 *db;
    char *path;  /* absolute, owned */
    int lock_fd; /* -1: holds no lock (readers) */
    bool reader;
    bool together; /* what is a transaction elsewhere is part of one that is open */
    bool staging;  /* commits are not synced, mal_stage_begin() */
    struct mal_store_log log;                          /* of the writer */
    bool (*between)(void *arg, struct mal_error *err); /* mal_store_between() */
    void *between_arg;
    struct mal_store_file files[MAL_STORE_FILES]; /* of the writer */
    sqlite3_stmt *stmts[MAL_N_SQL];
    /* Jobs up to this seq have ended, so many in each state (store_counts.c). */
    int64_t settled, settled_jobs[MAL_N_JOB_STATES];
};

/* ---- Files (store_file.c) ---- */

/* The path with a suffix: a file that belongs to it. Owned; NULL: out of memory. */
char *mal_store_beside(const char *path, const char *suffix);
/* Fills store->path: absolute, symbolic links followed, so that one database has one
 * lock. */
bool mal_store_resolve(struct mal_store *store, const char *path,
                       struct mal_error *err) MAL_CHECK;
/* Before the lock is taken: that it is a file, if it is there, and MAL_CONFLICT where
 * another name of it is the one. */
bool mal_store_check_name(const struct mal_store *store, struct mal_error *err) MAL_CHECK;
/* Held until the handle closes or the process dies. *out_used: some writer held it
 * before. */
bool mal_store_lock(struct mal_store *store, bool *out_used,
                    struct mal_error *err) MAL_CHECK;
struct stat;

bool mal_store_check_file(const struct mal_store *store, const struct stat *info,
                          struct mal_error *err) MAL_CHECK;
/* *out_missing: there is nothing at the path, or an empty file that was never in use. */
bool mal_store_missing(const struct mal_store *store, bool used, bool *out_missing,
                       struct mal_error *err) MAL_CHECK;
/* Makes a complete, empty database beside the path and renames it there. */
bool mal_store_create(const struct mal_store *store, struct mal_error *err) MAL_CHECK;
/* The file and what SQLite puts beside it; what is not there is fine. */
bool mal_store_remove(const char *path, struct mal_error *err) MAL_CHECK;
/* What SQLite puts beside it alone. */
bool mal_store_remove_logs(const char *path, struct mal_error *err) MAL_CHECK;
/* Fills store->files. */
bool mal_store_note_files(struct mal_store *store, struct mal_error *err) MAL_CHECK;
/* MAL_IO where one of them has been deleted or replaced: what is written now would be
 * lost, or spoil what is there instead. */
bool mal_store_check_files(const struct mal_store *store,
                           struct mal_error *err) MAL_CHECK;
/* Opens store->db. */
bool mal_store_connect(struct mal_store *store, int flags,
                       struct mal_error *err) MAL_CHECK;
/* Refuses what is not ours or is of a newer schema; changes nothing. */
bool mal_store_inspect(struct mal_store *store, int64_t *out_schema,
                       struct mal_error *err) MAL_CHECK;

/* Prepares the statements from `first` to `last`. */
bool mal_store_prepare(struct mal_store *store, enum mal_sql first, enum mal_sql last,
                       struct mal_error *err) MAL_CHECK;
/* Closes store->db, if it is open, with its statements. */
void mal_store_disconnect(struct mal_store *store);

/* ---- Migrations (migrate.c) ---- */

extern const char
    *const mal_sql_migrations[]; /* NULL-terminated, generated by embed.py */

int64_t mal_store_newest_schema(void);
/* Brings an inspected database to the newest schema, a transaction a step. */
bool mal_store_migrate(struct mal_store *store, struct mal_error *err) MAL_CHECK;

/* ---- The log (store_frames.c, store_log.c) ---- */

/* SQLite's name of what a writer's files are reached by; NULL: the system's own. */
const char *mal_store_vfs(void);

void mal_log_init(struct mal_store_log *log);
void mal_log_finish(struct mal_store_log *log);
/* From here on commits are noticed, and a log that is long enough is copied. */
void mal_log_hook(struct mal_store *store);
/* Around each transaction of the writer. */
void mal_log_enter(struct mal_store *store);
void mal_log_leave(struct mal_store *store);

/* ---- Staging (store_blobs.c) ---- */

/* MAL_CONFLICT: what belongs to the version is not to be changed any more. */
bool mal_store_check_unpublished(struct mal_store *store, int64_t version,
                                 struct mal_error *err) MAL_CHECK;

/* ---- Queries (query.c) ---- */

/* sqlite's error `rc` with the database's path; always false. */
bool mal_store_fail(const struct mal_store *store, int rc, struct mal_error *err);
/* A failed system call on `path`; always false. */
bool mal_store_fail_errno(const char *path, int number, struct mal_error *err);
/* What it would be called. */
enum mal_status mal_store_status(const struct mal_store *store, int rc);
bool mal_store_exec(struct mal_store *store, const char *sql,
                    struct mal_error *err) MAL_CHECK;
/* First column of the first row of a statement that is not one of the prepared ones. */
bool mal_store_ask(struct mal_store *store, const char *sql, int64_t *out,
                   struct mal_error *err) MAL_CHECK;

struct mal_query {
    struct mal_store *store;
    sqlite3_stmt *stmt;
    int n_bound; /* parameters so far */
    int column;  /* next to be read */
    int rc;      /* first failure */
    bool bad;    /* a value that no writer of ours stores */
};

void mal_query_open(struct mal_query *q, struct mal_store *store, enum mal_sql sql);
void mal_query_close(struct mal_query *q); /* before the statement is used again */

void mal_bind_int(struct mal_query *q, int64_t value);
void mal_bind_opt(struct mal_query *q, int64_t value, int64_t none); /* none: NULL */
void mal_bind_text(struct mal_query *q, const char *text); /* borrowed; NULL: NULL */
void mal_bind_blob(struct mal_query *q, const void *data, uint64_t bytes); /* borrowed */

/* *out_row false: no further row. */
bool mal_query_next(struct mal_query *q, bool *out_row, struct mal_error *err) MAL_CHECK;
/* Runs a statement without rows and closes the query; *out_n (may be NULL): rows changed.
 */
bool mal_query_run(struct mal_query *q, int64_t *out_n, struct mal_error *err) MAL_CHECK;
/* One integer, `none` when there is no row or it is NULL; closes the query. */
bool mal_query_value(struct mal_query *q, int64_t none, int64_t *out,
                     struct mal_error *err) MAL_CHECK;

int64_t mal_take_int(struct mal_query *q);
int64_t mal_take_opt(struct mal_query *q, int64_t none);
char *mal_take_text(struct mal_query *q);     /* owned; NULL: a failure is held */
char *mal_take_opt_text(struct mal_query *q); /* owned; NULL for NULL too */
int mal_take_word(struct mal_query *q, int (*from_name)(const char *));
/* Reports what taking the columns of a row met. */
bool mal_query_taken(struct mal_query *q, struct mal_error *err) MAL_CHECK;

bool mal_tx_begin(struct mal_store *store, struct mal_error *err) MAL_CHECK;
/* The same, but what is committed is not durable before the next commit of the other
 * kind. Not among others. */
bool mal_stage_begin(struct mal_store *store, struct mal_error *err) MAL_CHECK;
/* After such a commit: lets others write, if there is anybody. */
bool mal_stage_pause(struct mal_store *store, struct mal_error *err) MAL_CHECK;
/* Commits when `done`, otherwise rolls back; returns whether it is committed. */
bool mal_tx_end(struct mal_store *store, bool done, struct mal_error *err) MAL_CHECK;

/* ---- Rows (store_rows.c) ---- */

struct mal_row_type {
    size_t size;
    /* Fills a row from the current one of the query; on failure owns nothing. */
    bool (*take)(struct mal_query *q, void *row, struct mal_error *err);
    void (*finish)(void *row);
};
extern const struct mal_row_type mal_job_rows, mal_fact_rows, mal_version_rows,
    mal_blob_rows, mal_value_rows, mal_member_rows, mal_string_rows, mal_audit_rows;

/* Up to `limit` rows in one owned array, NULL when there are none; closes the query.
 * *out_more (may be NULL): there was another one. */
bool mal_query_rows(struct mal_query *q, const struct mal_row_type *type, size_t limit,
                    void **out, size_t *out_n, bool *out_more,
                    struct mal_error *err) MAL_CHECK;
/* The first row, if there is one; closes the query. */
bool mal_query_row(struct mal_query *q, const struct mal_row_type *type, void *out,
                   bool *out_found, struct mal_error *err) MAL_CHECK;
/* A page's LIMIT: one row more than asked for, to know whether there are others. */
int64_t mal_page_limit(size_t limit);

int mal_version_kind_from_name(const char *name); /* -1: no such word */

/* ---- Audit (store_audit.c) ---- */

/* Within a transaction: a row about this job. */
bool mal_store_add_audit(struct mal_store *store, const struct mal_audit_row *row,
                         const char *job, int64_t now_ms,
                         struct mal_error *err) MAL_CHECK;

/* ---- Jobs (store_jobs.c) ---- */

/* Why a job could not change state: MAL_NOT_FOUND or MAL_CONFLICT; always false. */
bool mal_store_job_conflict(struct mal_store *store, const char *id,
                            struct mal_error *err);

#endif
