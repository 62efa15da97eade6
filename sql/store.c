/* store.c - opening and closing, and what concerns the database as a whole. */
#include "sql/store.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "sql/store_impl.h"

/* ---- Opening ---- */

static struct mal_store *new_store(struct mal_error *err) {
    struct mal_store *store = mal_calloc(1, sizeof *store);
    if (!store) {
        mal_fail(err, MAL_NO_MEMORY, "store");
        return NULL;
    }
    store->lock_fd = -1;
    mal_log_init(&store->log);
    return store;
}

/* Looks at the file through a read-only connection, so that a refused one keeps its
 * bytes. */
static bool look(struct mal_store *store, int64_t *out_schema, struct mal_error *err) {
    bool done = mal_store_connect(store, SQLITE_OPEN_READONLY, err) &&
                mal_store_inspect(store, out_schema, err);
    sqlite3_close(store->db);
    store->db = NULL;
    return done;
}

bool mal_store_prepare(struct mal_store *store, enum mal_sql first, enum mal_sql last,
                       struct mal_error *err) {
    for (int i = (int)first; i <= (int)last; i++) {
        assert(mal_sql_texts[i]);
        int rc = sqlite3_prepare_v3(store->db, mal_sql_texts[i], -1,
                                    SQLITE_PREPARE_PERSISTENT, &store->stmts[i], NULL);
        if (rc != SQLITE_OK) return mal_store_fail(store, rc, err);
    }
    return true;
}

static bool prepare_all(struct mal_store *store, struct mal_error *err) {
    return mal_store_prepare(store, 0, MAL_N_SQL - 1, err);
}

/* Where the file system has no shared memory SQLite quietly keeps another mode. */
static bool use_wal(struct mal_store *store, struct mal_error *err) {
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(store->db, "PRAGMA journal_mode = WAL", -1, &stmt, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(stmt);
    bool done = rc == SQLITE_ROW;
    const char *mode = done ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
    if (!done) {
        mal_store_fail(store, rc, err);
    } else if (!mode || strcmp(mode, "wal") != 0) {
        done =
            mal_fail(err, MAL_IO, "database '%s': no write-ahead log on this file system",
                     store->path);
    }
    sqlite3_finalize(stmt);
    return done;
}

/* cell_size_check: a damaged page is reported and not followed. secure_delete, which some
 * builds have on, would write zeros over all that is pruned. */
static bool set_pragmas(struct mal_store *store, struct mal_error *err) {
    return use_wal(store, err) && mal_store_exec(store,
                                                 "PRAGMA synchronous = FULL;"
                                                 "PRAGMA journal_size_limit = 67108864;"
                                                 "PRAGMA cell_size_check = ON;"
                                                 "PRAGMA secure_delete = OFF;"
                                                 "PRAGMA trusted_schema = OFF",
                                                 err);
}

static bool sweep(struct mal_store *store, struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_SWEEP);
    if (!mal_query_run(&q, NULL, err)) return false;
    mal_query_open(&q, store, MAL_SQL_SWEEP_VALUES);
    return mal_query_run(&q, NULL, err);
}

bool mal_store_open(struct mal_store **out, const char *path, struct mal_error *err) {
    struct mal_store *store = new_store(err);
    if (!store) return false;
    bool used = false, missing = false;
    int64_t schema;
    if (!mal_store_resolve(store, path, err)) goto fail;
    if (!mal_store_check_name(store, err)) goto fail;
    if (!mal_store_lock(store, &used, err)) goto fail;
    if (!mal_store_missing(store, used, &missing, err)) goto fail;
    if (missing && !mal_store_create(store, err)) goto fail;
    if (!look(store, &schema, err)) goto fail;
    if (!mal_store_connect(store, SQLITE_OPEN_READWRITE, err)) goto fail;
    if (!set_pragmas(store, err)) goto fail;
    mal_log_hook(store);
    if (!mal_store_migrate(store, err)) goto fail;
    /* After the migrations: rebuilding a table is only possible without. */
    if (!mal_store_exec(store, "PRAGMA foreign_keys = ON", err)) goto fail;
    if (!prepare_all(store, err)) goto fail;
    if (!sweep(store, err)) goto fail;
    if (!mal_store_note_files(store, err)) goto fail;
    *out = store;
    return true;

fail:
    mal_store_close(store);
    return false;
}

bool mal_store_open_reader(struct mal_store **out, const char *path,
                           struct mal_error *err) {
    struct mal_store *store = new_store(err);
    if (!store) return false;
    store->reader = true;
    struct stat info;
    int64_t schema = 0;
    if (!mal_store_resolve(store, path, err)) goto fail;
    if (stat(store->path, &info) != 0) {
        mal_store_fail_errno(store->path, errno, err);
        goto fail;
    }
    if (!mal_store_check_file(store, &info, err)) goto fail;
    if (!mal_store_connect(store, SQLITE_OPEN_READONLY, err)) goto fail;
    if (!mal_store_inspect(store, &schema, err)) goto fail;
    if (schema < mal_store_newest_schema()) {
        mal_fail(err, MAL_CONFLICT,
                 "database '%s' has schema %" PRId64
                 ": only the daemon, which owns it, brings it to %" PRId64,
                 store->path, schema, mal_store_newest_schema());
        goto fail;
    }
    if (!mal_store_exec(store,
                        "PRAGMA wal_autocheckpoint = 0; PRAGMA query_only = ON;"
                        "PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF",
                        err)) {
        goto fail;
    }
    if (!prepare_all(store, err)) goto fail;
    *out = store;
    return true;

fail:
    mal_store_close(store);
    return false;
}

void mal_store_disconnect(struct mal_store *store) {
    for (int i = 0; i < MAL_N_SQL; i++) {
        sqlite3_finalize(store->stmts[i]);
        store->stmts[i] = NULL;
    }
    sqlite3_close(store->db);
    store->db = NULL;
}

void mal_store_close(struct mal_store *store) {
    if (!store) return;
    mal_log_finish(&store->log);
    mal_store_disconnect(store);
    if (store->lock_fd >= 0) close(store->lock_fd);
    mal_free(store->path);
    mal_free(store);
}

/* ---- Meta ---- */

bool mal_store_get_meta(struct mal_store *store, const char *key, char **out,
                        struct mal_error *err) {
    struct mal_query q;
    bool row;
    char *value = NULL;
    mal_query_open(&q, store, MAL_SQL_GET_META);
    mal_bind_text(&q, key);
    bool done = mal_query_next(&q, &row, err);
    if (done && row) {
        value = mal_take_text(&q);
        done = mal_query_taken(&q, err);
    }
    mal_query_close(&q);
    if (done) *out = value;
    return done;
}

bool mal_store_set_meta(struct mal_store *store, const char *key, const char *value,
                        struct mal_error *err) {
    assert(!store->reader);
    struct mal_query q;
    int64_t n;
    if (!mal_tx_begin(store, err)) return false;
    mal_query_open(&q, store, MAL_SQL_SET_META);
    mal_bind_text(&q, key);
    mal_bind_text(&q, value);
    bool done = mal_query_run(&q, &n, err);
    if (!mal_tx_end(store, done, err)) return false;
    if (n == 1) return true;

    char *there = NULL;
    if (!mal_store_get_meta(store, key, &there, err)) return false;
    bool same = there && strcmp(there, value) == 0;
    if (!same) {
        mal_fail(err, MAL_CONFLICT, "database '%s': %s is '%.100s', not '%.100s'",
                 store->path, key, there ? there : "", value);
    }
    mal_free(there);
    return same;
}

/* ---- Health ---- */

/* What SQLite says of a page that it could not look at for want of memory (7), or of a
 * whole tree: then a heading, and nothing under it. */
static bool lacked_memory(const char *line) {
    static const char begin[] = "*** in database ", end[] = " ***\n";
    size_t n = strlen(line), n_end = sizeof end - 1;
    if (strncmp(line, begin, sizeof begin - 1) != 0) return false;
    return strcmp(line + n - n_end, end) == 0 || strstr(line, "error code=7") != NULL;
}

bool mal_store_check(struct mal_store *store, struct mal_error *err) {
    struct mal_query q;
    bool row = false;
    mal_query_open(&q, store, MAL_SQL_INTEGRITY);
    bool done = mal_query_next(&q, &row, err);
    const char *line = done && row ? (const char *)sqlite3_column_text(q.stmt, 0) : NULL;
    if (done && (!line || lacked_memory(line))) {
        done =
            mal_fail(err, MAL_NO_MEMORY, "database '%s': integrity check", store->path);
    } else if (done && strcmp(line, "ok") != 0) {
        done = mal_fail(err, MAL_CORRUPT, "database '%s': %s", store->path, line);
    }
    mal_query_close(&q);
    if (!done) return false;

    mal_query_open(&q, store, MAL_SQL_FOREIGN_KEYS);
    done = mal_query_next(&q, &row, err);
    if (done && row) {
        const char *table = (const char *)sqlite3_column_text(q.stmt, 0);
        done = mal_fail(err, MAL_CORRUPT,
                        "database '%s': a row of table %s refers to one that is missing",
                        store->path, table ? table : "");
    }
    mal_query_close(&q);
    return done;
}
