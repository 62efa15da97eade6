/* store_values.c - the value differences of facts: staged with a version, and those in
 * force in one. */
#include "sql/store_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "core/alloc.h"

/* ---- Staging ---- */

static bool insert_values(struct mal_store *store, int64_t version,
                          const struct mal_fact_values *values, struct mal_error *err) {
    assert(values->bytes > 0);
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_ADD_VALUES);
    mal_bind_int(&q, values->fact);
    mal_bind_int(&q, version);
    mal_bind_text(&q, values->sha256);
    mal_bind_blob(&q, values->data, values->bytes);
    return mal_query_run(&q, NULL, err) ||
           mal_fail_wrap(err, "values of fact %" PRId64, values->fact);
}

bool mal_store_stage_values(struct mal_store *store, int64_t version,
                            const struct mal_fact_values *values, size_t n,
                            struct mal_error *err) {
    for (size_t i = 0; i < n;) {
        uint64_t bytes = 0;
        bool done = true;
        if (!mal_stage_begin(store, err)) return false;
        for (; done && i < n && bytes < MAL_STORE_CHUNK_BYTES; i++) {
            done = insert_values(store, version, &values[i], err);
            bytes += values[i].bytes;
        }
        if (!mal_tx_end(store, done, err)) {
            return mal_fail_wrap(err, "version %" PRId64, version);
        }
        if (!mal_stage_pause(store, err)) return false;
    }
    return true;
}

static bool delete_values(struct mal_store *store, int64_t version, const int64_t *facts,
                          size_t n, struct mal_error *err) {
    for (size_t i = 0; i < n; i++) {
        struct mal_query q;
        mal_query_open(&q, store, MAL_SQL_UNSTAGE_FACT);
        mal_bind_int(&q, facts[i]);
        mal_bind_int(&q, version);
        if (!mal_query_run(&q, NULL, err)) return false;
    }
    return true;
}

bool mal_store_unstage_values(struct mal_store *store, int64_t version,
                              const int64_t *facts, size_t n, struct mal_error *err) {
    if (!mal_store_check_unpublished(store, version, err) || !mal_stage_begin(store, err))
        return false;
    return mal_tx_end(store, delete_values(store, version, facts, n, err), err);
}

/* ---- Reading ---- */

static bool on_path(const int64_t *path, size_t n, int64_t version) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (path[middle] < version) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < n && path[low] == version;
}

/* The row of the fact's newest values on the path, -1: none. Leaves the query open, so
 * that what it found is there until it is read. */
static bool find_values(struct mal_query *q, const int64_t *path, size_t n_path,
                        int64_t *out, struct mal_error *err) {
    bool row = false, done;
    *out = -1;
    while ((done = mal_query_next(q, &row, err)) && row) {
        if (!on_path(path, n_path, mal_take_int(q))) continue;
        *out = mal_take_int(q);
        break;
    }
    return done;
}

struct bytes {
    void *data;
    uint64_t n;
    char *sha256;
};

static void *take_blob(struct mal_query *q, uint64_t *out_bytes) {
    int column = q->column++;
    const void *data = sqlite3_column_blob(q->stmt, column);
    *out_bytes = (uint64_t)sqlite3_column_bytes(q->stmt, column);
    if (!data) {
        q->bad = true; /* empty ones are not stored */
        return NULL;
    }
    void *copy = mal_malloc(*out_bytes);
    if (copy) {
        memcpy(copy, data, *out_bytes);
    } else {
        q->rc = SQLITE_NOMEM;
    }
    return copy;
}

static bool copy_values(struct mal_store *store, int64_t id, struct bytes *out,
                        struct mal_error *err) {
    struct mal_query q;
    bool row = false;
    mal_query_open(&q, store, MAL_SQL_READ_VALUES);
    mal_bind_int(&q, id);
    bool done = mal_query_next(&q, &row, err);
    if (done && row) {
        out->sha256 = mal_take_text(&q);
        out->data = take_blob(&q, &out->n);
        done = mal_query_taken(&q, err);
    }
    mal_query_close(&q);
    return done;
}

bool mal_store_read_values(struct mal_store *store, int64_t fact, const int64_t *path,
                           size_t n_path, void **out, uint64_t *bytes, char **sha256,
                           struct mal_error *err) {
    struct mal_query q;
    struct bytes found = {0};
    int64_t id;
    mal_query_open(&q, store, MAL_SQL_VALUES_OF_FACT);
    mal_bind_int(&q, fact);
    bool done = find_values(&q, path, n_path, &id, err) &&
                (id < 0 || copy_values(store, id, &found, err));
    mal_query_close(&q);
    if (!done) {
        mal_free(found.data);
        mal_free(found.sha256);
        return false;
    }
    *out = found.data;
    *bytes = found.n;
    *sha256 = found.sha256;
    return true;
}

bool mal_store_values(struct mal_store *store, int64_t version,
                      struct mal_value_row **out, size_t *out_n, struct mal_error *err) {
    struct mal_query q;
    void *rows;
    mal_query_open(&q, store, MAL_SQL_LIST_VALUES);
    mal_bind_int(&q, version);
    if (!mal_query_rows(&q, &mal_value_rows, SIZE_MAX, &rows, out_n, NULL, err)) {
        return false;
    }
    *out = rows;
    return true;
}

bool mal_store_bytes(struct mal_store *store, int64_t version, uint64_t *out,
                     struct mal_error *err) {
    struct mal_query q;
    int64_t bytes;
    mal_query_open(&q, store, MAL_SQL_BYTES);
    mal_bind_int(&q, version);
    if (!mal_query_value(&q, 0, &bytes, err)) return false;
    *out = (uint64_t)bytes;
    return true;
}
