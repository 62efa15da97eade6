/* store_blobs.c - deltas and other large things of a version, in chunks.
 *
 * A commit a chunk, so that other writes need not wait for the whole. These commits are
 * not synced: chunks of a version without a row are nobody's, and the row's commit syncs
 * the log they are in. */
#include "sql/store_impl.h"

#include <inttypes.h>
#include <string.h>

/* ---- Staging ---- */

static bool insert_blob(struct mal_store *store, int64_t version,
                        const struct mal_blob *blob, int64_t *out_id,
                        struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_ADD_BLOB);
    mal_bind_int(&q, version);
    mal_bind_text(&q, blob->name);
    mal_bind_text(&q, blob->header_json);
    mal_bind_text(&q, blob->sha256);
    mal_bind_int(&q, (int64_t)blob->bytes);
    if (!mal_query_run(&q, NULL, err)) return false;
    *out_id = sqlite3_last_insert_rowid(store->db);
    return true;
}

static bool insert_chunk(struct mal_store *store, int64_t id, const struct mal_blob *blob,
                         uint64_t index, struct mal_error *err) {
    uint64_t offset = index * MAL_STORE_CHUNK_BYTES, bytes = blob->bytes - offset;
    if (bytes > MAL_STORE_CHUNK_BYTES) bytes = MAL_STORE_CHUNK_BYTES;
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_ADD_CHUNK);
    mal_bind_int(&q, id);
    mal_bind_int(&q, (int64_t)index);
    mal_bind_blob(&q, (const char *)blob->data + offset, bytes);
    return mal_query_run(&q, NULL, err);
}

bool mal_store_stage_blob(struct mal_store *store, int64_t version,
                          const struct mal_blob *blob, struct mal_error *err) {
    uint64_t n_chunks =
        blob->bytes / MAL_STORE_CHUNK_BYTES + (blob->bytes % MAL_STORE_CHUNK_BYTES != 0);
    int64_t id = 0;
    for (uint64_t i = 0; i == 0 || i < n_chunks; i++) {
        if (!mal_stage_begin(store, err)) return false;
        bool done = (i > 0 || insert_blob(store, version, blob, &id, err)) &&
                    (n_chunks == 0 || insert_chunk(store, id, blob, i, err));
        if (!mal_tx_end(store, done, err)) {
            return mal_fail_wrap(err, "version %" PRId64 ", blob '%s'", version,
                                 blob->name);
        }
        if (!mal_stage_pause(store, err)) return false;
    }
    return true;
}

/* ---- Forgetting ---- */

enum { FACTS_TOGETHER = 64 }; /* whose values a commit takes away */

/* A blob, or where there is none left values of some facts. */
static bool delete_some(struct mal_store *store, int64_t version, int64_t *out_n,
                        struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_UNSTAGE);
    mal_bind_int(&q, version);
    if (!mal_query_run(&q, out_n, err)) return false;
    if (*out_n > 0) return true;
    mal_query_open(&q, store, MAL_SQL_UNSTAGE_VALUES);
    mal_bind_int(&q, version);
    mal_bind_int(&q, FACTS_TOGETHER);
    return mal_query_run(&q, out_n, err);
}

bool mal_store_check_unpublished(struct mal_store *store, int64_t version,
                                 struct mal_error *err) {
    int64_t last;
    if (!mal_store_last_version(store, &last, err)) return false;
    return version > last ||
           mal_fail(err, MAL_CONFLICT, "version %" PRId64 " is published already",
                    version);
}

/* Commits like those of staging: what is left after a kill is nobody's. */
bool mal_store_unstage(struct mal_store *store, int64_t version, struct mal_error *err) {
    int64_t n = 1;
    if (!mal_store_check_unpublished(store, version, err)) return false;
    while (n > 0) {
        if (!mal_stage_begin(store, err)) return false;
        store->log.growing = false; /* what comes now is copied as ever */
        if (!mal_tx_end(store, delete_some(store, version, &n, err), err)) return false;
        if (!mal_stage_pause(store, err)) return false;
    }
    return true;
}

/* ---- Reading ---- */

bool mal_store_blobs(struct mal_store *store, int64_t version, struct mal_blob_row **out,
                     size_t *out_n, struct mal_error *err) {
    int64_t last;
    if (!mal_store_last_version(store, &last, err)) return false;
    if (version < 0 || version > last) {
        return mal_fail(err, MAL_NOT_FOUND, "there is no version %" PRId64, version);
    }
    struct mal_query q;
    void *rows;
    mal_query_open(&q, store, MAL_SQL_LIST_BLOBS);
    mal_bind_int(&q, version);
    if (!mal_query_rows(&q, &mal_blob_rows, SIZE_MAX, &rows, out_n, NULL, err))
        return false;
    *out = rows;
    return true;
}

static bool copy_chunk(struct mal_query *q, int64_t index, uint64_t bytes, char *data,
                       uint64_t *offset) {
    if (mal_take_int(q) != index) return false;
    const void *chunk = sqlite3_column_blob(q->stmt, q->column);
    int n = sqlite3_column_bytes(q->stmt, q->column);
    if (!chunk || n <= 0 || (uint64_t)n > bytes - *offset) return false;
    memcpy(data + *offset, chunk, (size_t)n);
    *offset += (uint64_t)n;
    return true;
}

bool mal_store_read_blob(struct mal_store *store, int64_t version,
                         const struct mal_blob_row *row, void *data,
                         struct mal_error *err) {
    struct mal_query q;
    uint64_t offset = 0;
    int64_t index = 0;
    bool there = false, whole = true, done;
    mal_query_open(&q, store, MAL_SQL_READ_CHUNKS);
    mal_bind_int(&q, version);
    mal_bind_text(&q, row->name);
    while ((done = mal_query_next(&q, &there, err)) && there && whole) {
        whole = copy_chunk(&q, index++, row->bytes, data, &offset);
    }
    if (!whole && sqlite3_errcode(store->db) == SQLITE_NOMEM) {
        done = mal_fail(err, MAL_NO_MEMORY, "database '%s': out of memory", store->path);
    }
    mal_query_close(&q);
    if (done && (!whole || offset != row->bytes)) {
        done = mal_fail(err, MAL_CORRUPT,
                        "database '%s': version %" PRId64 ", blob '%s': chunk %" PRId64
                        " is missing or of a wrong size",
                        store->path, version, row->name, whole ? index : index - 1);
    }
    return done;
}
