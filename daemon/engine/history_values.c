/* history_values.c - value differences of facts, as they are stored with versions. */
#include <string.h>

#include "core/alloc.h"
#include "daemon/engine/history_impl.h"

/* ---- As they are stored ---- */

static bool is_coarse(const float *values, size_t n) {
    uint32_t low = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        low |= bits & 0xffff;
    }
    return low == 0;
}

bool mal_history_pack_values(struct mal_history_value *value, const float *values,
                             size_t n) {
    bool coarse = is_coarse(values, n);
    value->bytes = n * (coarse ? sizeof(uint16_t) : sizeof(float));
    value->data = mal_malloc(value->bytes);
    if (!value->data) return false;
    uint16_t *narrow = value->data;
    for (size_t i = 0; coarse && i < n; i++)
        narrow[i] = mal_f32_to_bf16(values[i]);
    if (!coarse) memcpy(value->data, values, value->bytes);
    struct mal_hash hash = mal_hash_of(value->data, value->bytes);
    mal_hash_hex(&hash, value->sha256);
    return true;
}

bool mal_history_unpack_values(void **data, uint64_t bytes, size_t n,
                               struct mal_error *err) {
    if (bytes == n * sizeof(float)) return true;
    if (bytes != n * sizeof(uint16_t))
        return mal_fail(err, MAL_CORRUPT, "%llu bytes, not %zu values",
                        (unsigned long long)bytes, n);
    float *values = mal_malloc(n * sizeof *values);
    if (!values) return mal_fail(err, MAL_NO_MEMORY, "values of a fact");
    mal_to_f32(values, *data, MAL_BF16, n);
    mal_free(*data);
    *data = values;
    return true;
}

/* ---- Hashes ---- */

bool mal_history_hash_values(const struct mal_history_value *values, size_t n,
                             char out[MAL_HASH_HEX], struct mal_error *err) {
    struct mal_hasher *hasher = NULL;
    out[0] = '\0';
    if (n == 0) return true;
    if (!mal_hasher_create(&hasher, err)) return false;
    for (size_t i = 0; i < n; i++) {
        mal_hasher_add_text(hasher, values[i].id);
        mal_hasher_add_text(hasher, values[i].sha256);
    }
    struct mal_hash hash = mal_hasher_end(hasher);
    mal_hasher_destroy(hasher);
    mal_hash_hex(&hash, out);
    return true;
}

/* ---- Staging ---- */

/* Values that take the place of staged ones. */
static bool unstage_replaced(struct mal_store *writer, int64_t version,
                             const struct mal_history_value *values, size_t n,
                             struct mal_error *err) {
    int64_t *facts = mal_calloc(n, sizeof *facts);
    size_t n_facts = 0;
    if (!facts) return mal_fail(err, MAL_NO_MEMORY, "values of %zu facts", n);
    for (size_t i = 0; i < n; i++)
        if (values[i].replaces) facts[n_facts++] = values[i].fact;
    bool ok =
        n_facts == 0 || mal_store_unstage_values(writer, version, facts, n_facts, err);
    mal_free(facts);
    return ok;
}

static bool stage_rest(struct mal_store *writer, int64_t version,
                       const struct mal_history_value *values, size_t n,
                       struct mal_error *err) {
    struct mal_fact_values *rows = mal_calloc(n, sizeof *rows);
    size_t n_rows = 0;
    if (!rows) return mal_fail(err, MAL_NO_MEMORY, "values of %zu facts", n);
    for (size_t i = 0; i < n; i++) {
        if (!values[i].data) continue;
        rows[n_rows++] = (struct mal_fact_values){.fact = values[i].fact,
                                                  .data = values[i].data,
                                                  .bytes = values[i].bytes,
                                                  .sha256 = values[i].sha256};
    }
    bool ok = mal_store_stage_values(writer, version, rows, n_rows, err);
    mal_free(rows);
    return ok;
}

bool mal_history_stage_values(struct mal_store *writer, int64_t version,
                              const struct mal_history_value *values, size_t n,
                              struct mal_error *err) {
    return n == 0 || (unstage_replaced(writer, version, values, n, err) &&
                      stage_rest(writer, version, values, n, err));
}

/* ---- Checking ---- */

static bool check_value(struct mal_store *store, int64_t version,
                        const struct mal_value_row *row, struct mal_error *err) {
    void *data = NULL;
    uint64_t bytes = 0;
    char *sha256 = NULL, hex[MAL_HASH_HEX] = "";
    bool ok =
        mal_store_read_values(store, row->fact, &version, 1, &data, &bytes, &sha256, err);
    if (ok && data) {
        struct mal_hash hash = mal_hash_of(data, bytes);
        mal_hash_hex(&hash, hex);
    }
    if (ok && strcmp(hex, row->sha256) != 0) {
        ok = mal_fail(err, MAL_CORRUPT,
                      "version %lld: the stored values of fact '%s' do not match their "
                      "hash",
                      (long long)version, row->id);
    }
    mal_free(data);
    mal_free(sha256);
    return ok;
}

static bool check_list(const struct mal_version_row *row,
                       const struct mal_value_row *rows, size_t n,
                       struct mal_error *err) {
    char hex[MAL_HASH_HEX];
    struct mal_history_value *values = mal_calloc(n, sizeof *values);
    if (!values) return mal_fail(err, MAL_NO_MEMORY, "values of %zu facts", n);
    for (size_t i = 0; i < n; i++) {
        values[i].id = rows[i].id;
        strncpy(values[i].sha256, rows[i].sha256, MAL_HASH_HEX - 1);
    }
    bool ok = mal_history_hash_values(values, n, hex, err);
    mal_free(values);
    if (!ok || strcmp(hex, row->values_hash) == 0) return ok;
    return mal_fail(
        err, MAL_CORRUPT,
        "version %lld: the values of its facts hash to '%s', its row says '%s'",
        (long long)row->version, hex, row->values_hash);
}

bool mal_history_check_values(struct mal_store *store, const struct mal_version_row *row,
                              size_t *out_n, struct mal_error *err) {
    struct mal_value_row *rows = NULL;
    if (!mal_store_values(store, row->version, &rows, out_n, err)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < *out_n; i++)
        ok = check_value(store, row->version, &rows[i], err);
    if (ok && !row->pruned) ok = check_list(row, rows, *out_n, err);
    mal_value_rows_free(rows, *out_n);
    return ok;
}
