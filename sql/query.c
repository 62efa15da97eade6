/* query.c - prepared statements with sticky errors, transactions, and SQLite's failures
 * as ours. */
#include "sql/store_impl.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "core/alloc.h"

/* ---- Errors ---- */

static enum mal_status status_of(int rc, int system) {
    if (rc == SQLITE_IOERR_NOMEM) return MAL_NO_MEMORY;
    if (rc == SQLITE_IOERR_CORRUPTFS) return MAL_CORRUPT;
    switch (rc & 0xff) {
    case SQLITE_NOMEM: return MAL_NO_MEMORY;
    case SQLITE_FULL: return MAL_NO_SPACE;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
    case SQLITE_ERROR:
        return MAL_CORRUPT; /* statements are fixed, so the schema is not ours */
    case SQLITE_CONSTRAINT: return MAL_CONFLICT;
    case SQLITE_TOOBIG: return MAL_TOO_LARGE;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return MAL_NOT_READY;
    case SQLITE_INTERRUPT:
    case SQLITE_ABORT: return MAL_CANCELLED;
    default: return mal_status_of_errno(system);
    }
}

/* What a file was asked for by itself its connection does not know of. */
static bool is_its_last(const struct mal_store *store, int rc) {
    return (sqlite3_errcode(store->db) & 0xff) == (rc & 0xff);
}

static int system_errno(const struct mal_store *store, int rc) {
    int primary = rc & 0xff;
    bool told = primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN;
    return told && is_its_last(store, rc) ? sqlite3_system_errno(store->db) : 0;
}

enum mal_status mal_store_status(const struct mal_store *store, int rc) {
    return status_of(rc, system_errno(store, rc));
}

bool mal_store_fail(const struct mal_store *store, int rc, struct mal_error *err) {
    int system = system_errno(store, rc);
    char reason[64] = "";
    if (system && strerror_r(system, reason, sizeof reason)) reason[0] = '\0';
    const char *text =
        is_its_last(store, rc) ? sqlite3_errmsg(store->db) : sqlite3_errstr(rc);
    return mal_fail(err, status_of(rc, system), "database '%s': %s%s%s%s", store->path,
                    text, reason[0] ? " (" : "", reason, reason[0] ? ")" : "");
}

bool mal_store_fail_errno(const char *path, int number, struct mal_error *err) {
    char reason[64];
    if (strerror_r(number, reason, sizeof reason)) reason[0] = '\0';
    enum mal_status status = number == ENOMEM   ? MAL_NO_MEMORY
                             : number == ENOENT ? MAL_NOT_FOUND
                                                : mal_status_of_errno(number);
    return mal_fail(err, status, "'%s': %s", path, reason);
}

bool mal_store_exec(struct mal_store *store, const char *sql, struct mal_error *err) {
    int rc = sqlite3_exec(store->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK || mal_store_fail(store, rc, err);
}

bool mal_store_ask(struct mal_store *store, const char *sql, int64_t *out,
                   struct mal_error *err) {
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(store->db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(stmt);
    bool done = rc == SQLITE_ROW;
    if (done) {
        *out = sqlite3_column_int64(stmt, 0);
    } else {
        mal_store_fail(store, rc, err);
    }
    sqlite3_finalize(stmt);
    return done;
}

/* ---- Queries ---- */

void mal_query_open(struct mal_query *q, struct mal_store *store, enum mal_sql sql) {
    *q = (struct mal_query){.store = store, .stmt = store->stmts[sql]};
    assert(!sqlite3_stmt_busy(q->stmt));
}

void mal_query_close(struct mal_query *q) {
    sqlite3_reset(q->stmt);
    sqlite3_clear_bindings(q->stmt);
}

void mal_bind_int(struct mal_query *q, int64_t value) {
    if (q->rc == SQLITE_OK) q->rc = sqlite3_bind_int64(q->stmt, ++q->n_bound, value);
}

void mal_bind_opt(struct mal_query *q, int64_t value, int64_t none) {
    if (value != none) {
        mal_bind_int(q, value);
    } else if (q->rc == SQLITE_OK) {
        q->rc = sqlite3_bind_null(q->stmt, ++q->n_bound);
    }
}

void mal_bind_text(struct mal_query *q, const char *text) {
    if (q->rc != SQLITE_OK) return;
    q->rc = sqlite3_bind_text64(q->stmt, ++q->n_bound, text, text ? strlen(text) : 0,
                                SQLITE_STATIC, SQLITE_UTF8);
}

void mal_bind_blob(struct mal_query *q, const void *data, uint64_t bytes) {
    if (q->rc != SQLITE_OK) return;
    q->rc = sqlite3_bind_blob64(q->stmt, ++q->n_bound, data, bytes, SQLITE_STATIC);
}

bool mal_query_next(struct mal_query *q, bool *out_row, struct mal_error *err) {
    int rc = q->rc == SQLITE_OK ? sqlite3_step(q->stmt) : q->rc;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) return mal_store_fail(q->store, rc, err);
    q->column = 0;
    *out_row = rc == SQLITE_ROW;
    return true;
}

bool mal_query_run(struct mal_query *q, int64_t *out_n, struct mal_error *err) {
    bool row = false;
    bool done = mal_query_next(q, &row, err);
    assert(!row);
    if (done && out_n) *out_n = sqlite3_changes64(q->store->db);
    mal_query_close(q);
    return done;
}

bool mal_query_value(struct mal_query *q, int64_t none, int64_t *out,
                     struct mal_error *err) {
    bool row = false;
    bool done = mal_query_next(q, &row, err);
    if (done) *out = row ? mal_take_opt(q, none) : none;
    mal_query_close(q);
    return done;
}

int64_t mal_take_int(struct mal_query *q) {
    return sqlite3_column_int64(q->stmt, q->column++);
}

int64_t mal_take_opt(struct mal_query *q, int64_t none) {
    bool null = sqlite3_column_type(q->stmt, q->column) == SQLITE_NULL;
    int64_t value = mal_take_int(q);
    return null ? none : value;
}

char *mal_take_opt_text(struct mal_query *q) {
    int column = q->column++;
    if (sqlite3_column_type(q->stmt, column) == SQLITE_NULL) return NULL;
    const char *text = (const char *)sqlite3_column_text(q->stmt, column);
    char *copy = text ? mal_strdup(text) : NULL;
    if (!copy) q->rc = SQLITE_NOMEM;
    return copy;
}

char *mal_take_text(struct mal_query *q) {
    if (sqlite3_column_type(q->stmt, q->column) == SQLITE_NULL) q->bad = true;
    return mal_take_opt_text(q);
}

int mal_take_word(struct mal_query *q, int (*from_name)(const char *)) {
    const char *text = (const char *)sqlite3_column_text(q->stmt, q->column++);
    int word = text ? from_name(text) : -1;
    if (word < 0) q->bad = true;
    return word < 0 ? 0 : word;
}

bool mal_query_taken(struct mal_query *q, struct mal_error *err) {
    if (q->rc == SQLITE_NOMEM) {
        return mal_fail(err, MAL_NO_MEMORY, "database '%s': out of memory",
                        q->store->path);
    }
    if (q->bad) {
        return mal_fail(err, MAL_CORRUPT, "database '%s': a row holds what it cannot: %s",
                        q->store->path, sqlite3_sql(q->stmt));
    }
    return true;
}

/* ---- Transactions ---- */

static bool run_plain(struct mal_store *store, enum mal_sql sql, struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, sql);
    return mal_query_run(&q, NULL, err);
}

/* Some failures (disk full, out of memory, interrupt) have rolled back by themselves. */
static void roll_back(struct mal_store *store) {
    struct mal_error ignored = {0};
    if (sqlite3_get_autocommit(store->db)) return;
    if (!run_plain(store, MAL_SQL_ROLLBACK, &ignored)) return;
}

/* Takes effect between transactions only. A chunk's pages are kept until its commit: of
 * each one that is written after others have had to be, SQLite looks through the whole
 * log. */
static bool set_staging(struct mal_store *store, bool staging, struct mal_error *err) {
    if (store->staging == staging) return true;
    if (!mal_store_exec(store,
                        staging ? "PRAGMA synchronous = NORMAL; PRAGMA cache_spill = OFF"
                                : "PRAGMA synchronous = FULL; PRAGMA cache_spill = ON",
                        err))
        return false;
    store->staging = staging;
    return true;
}

static bool begin(struct mal_store *store, bool staging, struct mal_error *err) {
    assert(!store->reader);
    if (!mal_store_check_files(store, err) || !set_staging(store, staging, err))
        return false;
    mal_log_enter(store);
    if (run_plain(store, MAL_SQL_BEGIN, err)) return true;
    roll_back(store); /* it may fail with the transaction already open */
    mal_log_leave(store);
    return false;
}

static bool end(struct mal_store *store, bool done, struct mal_error *err) {
    done = done && run_plain(store, MAL_SQL_COMMIT, err);
    if (!done) roll_back(store);
    mal_log_leave(store);
    return done;
}

bool mal_tx_begin(struct mal_store *store, struct mal_error *err) {
    return store->together || begin(store, false, err);
}

bool mal_stage_begin(struct mal_store *store, struct mal_error *err) {
    assert(!store->together);
    store->log.growing = true;
    return begin(store, true, err);
}

bool mal_stage_pause(struct mal_store *store, struct mal_error *err) {
    return !store->between || store->between(store->between_arg, err);
}

/* What is left of one that failed among others their end takes away. */
bool mal_tx_end(struct mal_store *store, bool done, struct mal_error *err) {
    return store->together ? done : end(store, done, err);
}

bool mal_store_begin_together(struct mal_store *store, struct mal_error *err) {
    assert(!store->together);
    store->together = begin(store, false, err);
    return store->together;
}

int64_t mal_store_changes(const struct mal_store *store) {
    return sqlite3_get_autocommit(store->db) ? -1 : sqlite3_total_changes64(store->db);
}

bool mal_store_end_together(struct mal_store *store, bool done, struct mal_error *err) {
    assert(store->together);
    store->together = false;
    return end(store, done, err);
}
