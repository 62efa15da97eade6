/* history_check.c - the chain of versions, and what a database is checked for. */
#include <string.h>

#include "core/alloc.h"
#include "daemon/engine/history_impl.h"

bool mal_history_check_meta(struct mal_store *store, const char *key, const char *ours,
                            struct mal_error *err) {
    char *theirs = NULL;
    if (!mal_store_get_meta(store, key, &theirs, err)) return false;
    bool same = theirs && strcmp(theirs, ours) == 0;
    if (!same) {
        bool model = strcmp(key, "base_model") == 0;
        mal_fail(err, MAL_CONFLICT, "the database was made with %s: %s %s, this is %s",
                 model ? "another model" : "other edit modules", key,
                 theirs ? theirs : "(none)", ours);
    }
    mal_free(theirs);
    return same;
}

static bool check_blob(struct mal_store *store, int64_t version,
                       const struct mal_blob_row *blob, struct mal_error *err) {
    if (mal_blob_is(blob, MAL_BLOB_DELTA)) return true;
    void *data = mal_malloc(blob->bytes);
    if (!data) return mal_fail(err, MAL_NO_MEMORY, "'%s'", blob->name);
    bool ok = mal_blob_read(store, version, blob, data, err);
    mal_free(data);
    return ok;
}

bool mal_history_check_blobs(struct mal_store *store, int64_t version,
                             struct mal_error *err) {
    struct mal_blob_row *blobs = NULL;
    size_t n = 0;
    bool ok = mal_store_blobs(store, version, &blobs, &n, err);
    for (size_t i = 0; ok && i < n; i++)
        ok = check_blob(store, version, &blobs[i], err);
    mal_blob_rows_free(blobs, n);
    return ok;
}

/* ---- The chain ---- */

bool mal_history_chain(const struct mal_version_row *row, const char *parent_chain,
                       char out[MAL_HASH_HEX], struct mal_error *err) {
    struct mal_hasher *hasher = NULL;
    if (!mal_hasher_create(&hasher, err)) return false;
    mal_hasher_add_text(hasher, "malmend-chain-1");
    mal_hasher_add_text(hasher, parent_chain);
    mal_hasher_add_u64(hasher, (uint64_t)row->version);
    mal_hasher_add_u64(hasher, (uint64_t)row->parent);
    mal_hasher_add_text(hasher, mal_version_kind_name(row->kind));
    mal_hasher_add_u64(hasher, (uint64_t)row->created_ms);
    mal_hasher_add_u64(hasher, (uint64_t)row->to_version);
    mal_hasher_add_u64(hasher, (uint64_t)row->n_facts);
    mal_hasher_add_text(hasher, row->editor_method);
    mal_hasher_add_text(hasher, row->editor_hash);
    mal_hasher_add_text(hasher, row->update);
    mal_hasher_add_text(hasher, row->encoding);
    mal_hasher_add_u64(hasher, (uint64_t)row->delta_bytes);
    mal_hasher_add_text(hasher, row->delta_hash);
    mal_hasher_add_text(hasher, row->weights_hash);
    mal_hasher_add_text(hasher, row->modules_json);
    mal_hasher_add_text(hasher, row->measures_json);
    if (row->values_hash && row->values_hash[0])
        mal_hasher_add_text(hasher, row->values_hash);
    if (row->basis && row->basis[0]) {
        mal_hasher_add_text(hasher, "basis");
        mal_hasher_add_text(hasher, row->basis);
    }
    struct mal_hash hash = mal_hasher_end(hasher);
    mal_hasher_destroy(hasher);
    mal_hash_hex(&hash, out);
    return true;
}

bool mal_history_follow(const struct mal_version_row *row, char chain[MAL_HASH_HEX],
                        struct mal_error *err) {
    char next[MAL_HASH_HEX];
    if (row->parent != row->version - 1) {
        return mal_fail(err, MAL_CORRUPT, "version %lld: its parent is %lld",
                        (long long)row->version, (long long)row->parent);
    }
    if (!mal_history_chain(row, chain, next, err)) return false;
    if (strcmp(next, row->chain_hash) != 0) {
        return mal_fail(err, MAL_CORRUPT,
                        "version %lld: the chain hash is %s, its row says %s",
                        (long long)row->version, next, row->chain_hash);
    }
    memcpy(chain, next, MAL_HASH_HEX);
    return true;
}

bool mal_history_check_chain(struct mal_store *store, int64_t last,
                             struct mal_error *err) {
    char chain[MAL_HASH_HEX] = "";
    bool ok = true;
    for (int64_t version = 0; ok && version <= last; version++) {
        struct mal_version_row row = {0};
        ok = mal_store_get_version(store, version, &row, err) &&
             mal_history_follow(&row, chain, err);
        mal_version_row_finish(&row);
    }
    return ok;
}
