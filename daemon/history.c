/* history.c - versions to and from the store. */
#include "daemon/history.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"

/* ---- The path from the base ---- */

bool mal_history_path(struct mal_store *store, int64_t version, int64_t **out,
                      size_t *out_n, struct mal_error *err) {
    int64_t *path = mal_calloc((size_t)version + 1, sizeof *path);
    if (!path) return mal_fail(err, MAL_NO_MEMORY, "versions");
    size_t n = 0;
    while (version > 0) {
        struct mal_version_row row = {0};
        if (!mal_store_get_version(store, version, &row, err)) goto fail;
        int64_t next = row.to_version >= 0 ? row.to_version : row.parent;
        bool follows = row.to_version < 0;
        mal_version_row_finish(&row);
        if (next >= version || next < 0) {
            mal_fail(err, MAL_CORRUPT, "version %lld leads to version %lld",
                     (long long)version, (long long)next);
            goto fail;
        }
        if (follows) path[n++] = version;
        version = next;
    }
    for (size_t i = 0; i < n / 2; i++) {
        int64_t v = path[i];
        path[i] = path[n - 1 - i];
        path[n - 1 - i] = v;
    }
    *out = path;
    *out_n = n;
    return true;

fail:
    mal_free(path);
    return false;
}

/* ---- Blobs ---- */

static bool read_checked(struct mal_store *store, int64_t version,
                         const struct mal_blob_row *blob, void *data,
                         struct mal_error *err) {
    char hex[MAL_HASH_HEX];
    if (!mal_store_read_blob(store, version, blob, data, err)) return false;
    struct mal_hash hash = mal_hash_of(data, blob->bytes);
    mal_hash_hex(&hash, hex);
    if (strcmp(hex, blob->sha256) == 0) return true;
    return mal_fail(err, MAL_CORRUPT,
                    "version %lld: the stored bytes of '%s' do not match their hash",
                    (long long)version, blob->name);
}

/* Reads header_json; the sizes must agree with the blob's. */
static bool read_part_header(int64_t version, const struct mal_blob_row *blob,
                             struct mal_delta_part *part, struct mal_error *err) {
    json_t *header = json_loads(blob->header_json, JSON_REJECT_DUPLICATES, NULL);
    const char *encoding = "";
    json_int_t d_in = 0, d_out = 0, rank = 0;
    int bad = json_unpack(header, "{s:s,s:I,s:I,s:I,s:F,s:F}", "encoding", &encoding,
                          "d_in", &d_in, "d_out", &d_out, "rank", &rank, "norm",
                          &part->norm, "rounding_error", &part->rounding_error);
    const json_int_t max = 1 << 30;
    bool factors = strcmp(encoding, "factors") == 0,
         dense = strcmp(encoding, "dense") == 0;
    part->encoding = factors ? MAL_ENCODING_FACTORS : MAL_ENCODING_DENSE;
    part->d_in = d_in;
    part->d_out = d_out;
    part->rank = rank;
    json_decref(header);
    if (!bad && (factors || dense) && d_in > 0 && d_out > 0 && d_in < max &&
        d_out < max && (factors ? rank > 0 && rank < max : rank == 0) &&
        mal_delta_part_bytes(part) == blob->bytes) {
        return true;
    }
    return mal_fail(err, MAL_CORRUPT,
                    "version %lld: the header of '%s' does not fit its data",
                    (long long)version, blob->name);
}

static bool read_part(struct mal_store *store, int64_t version,
                      const struct mal_blob_row *blob, struct mal_delta_part *part,
                      struct mal_error *err) {
    if (!read_part_header(version, blob, part, err)) return false;
    part->module = mal_strdup(blob->name + strlen("delta/"));
    part->data = mal_malloc(blob->bytes);
    if (!part->module || !part->data) return mal_fail(err, MAL_NO_MEMORY, "delta");
    return read_checked(store, version, blob, part->data, err);
}

static bool starts_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool check_delta_hash(struct mal_store *store, int64_t version,
                             const struct mal_delta *delta, struct mal_error *err) {
    struct mal_version_row row = {0};
    struct mal_hash hash;
    char hex[MAL_HASH_HEX] = "";
    bool ok = mal_store_get_version(store, version, &row, err) &&
              mal_delta_hash(delta, &hash, err);
    if (ok) mal_hash_hex(&hash, hex);
    if (ok && strcmp(hex, row.delta_hash) != 0) {
        ok = mal_fail(err, MAL_CORRUPT,
                      "version %lld: the delta's hash is %s, the row says %s",
                      (long long)version, hex, row.delta_hash);
    }
    mal_version_row_finish(&row);
    return ok;
}

bool mal_history_delta(struct mal_store *store, int64_t version, struct mal_delta *out,
                       struct mal_error *err) {
    struct mal_blob_row *blobs = NULL;
    size_t n = 0;
    struct mal_delta delta = {0};
    if (!mal_store_blobs(store, version, &blobs, &n, err)) return false;
    delta.parts = mal_calloc(n, sizeof *delta.parts);
    bool ok = delta.parts || mal_fail(err, MAL_NO_MEMORY, "delta");
    for (size_t i = 0; ok && i < n; i++) {
        if (!starts_with(blobs[i].name, "delta/")) continue;
        ok = read_part(store, version, &blobs[i], &delta.parts[delta.n_parts++], err);
    }
    mal_blob_rows_free(blobs, n);
    ok = ok && check_delta_hash(store, version, &delta, err);
    if (!ok) {
        mal_delta_finish(&delta);
        return false;
    }
    *out = delta;
    return true;
}

struct path {
    struct mal_store *store;
    int64_t *versions;
    size_t n;
};

static bool next_delta(void *arg, size_t i, struct mal_delta *out,
                       struct mal_error *err) {
    const struct path *path = arg;
    return mal_history_delta(path->store, path->versions[i], out, err);
}

bool mal_history_replay(struct mal_store *store, int64_t version,
                        struct mal_weights_state *ws, struct mal_error *err) {
    struct path path = {.store = store};
    if (!mal_history_path(store, version, &path.versions, &path.n, err)) return false;
    bool ok = mal_weights_prepare_replay(ws, path.n, next_delta, &path, err);
    mal_free(path.versions);
    return ok;
}

/* ---- Statistics: n, then mean, var, std ---- */

static void norm_name(const struct mal_editor_shape *shape, char out[64]) {
    snprintf(out, 64, "normalizer/(%lld, %lld)", (long long)shape->d_in,
             (long long)shape->d_out);
}

static size_t norm_floats(const struct mal_normalizer *norm) {
    return 1 + 3 * (size_t)norm->size;
}

static bool read_norm(struct mal_store *store, int64_t version,
                      const struct mal_blob_row *blob, struct mal_normalizer *norm,
                      struct mal_error *err) {
    size_t floats = norm_floats(norm), row = (size_t)norm->size;
    if (blob->bytes != floats * sizeof(float)) {
        return mal_fail(err, MAL_CORRUPT, "version %lld: '%s' has %llu bytes, not %zu",
                        (long long)version, blob->name, (unsigned long long)blob->bytes,
                        floats * sizeof(float));
    }
    float *data = mal_malloc(blob->bytes);
    if (!data) return mal_fail(err, MAL_NO_MEMORY, "statistics");
    bool ok = read_checked(store, version, blob, data, err);
    if (ok) {
        norm->n = data[0];
        memcpy(norm->mean, data + 1, row * sizeof *data);
        memcpy(norm->var, data + 1 + row, row * sizeof *data);
        memcpy(norm->std, data + 1 + 2 * row, row * sizeof *data);
    }
    mal_free(data);
    return ok;
}

bool mal_history_norms(struct mal_store *store, int64_t version,
                       const struct mal_editor *editor, struct mal_normalizer *norms,
                       struct mal_error *err) {
    struct mal_blob_row *blobs = NULL;
    size_t n = 0;
    bool ok = mal_store_blobs(store, version, &blobs, &n, err);
    for (size_t i = 0; ok && i < n; i++) {
        for (size_t s = 0; ok && s < editor->n_shapes; s++) {
            char name[64];
            norm_name(&editor->shapes[s], name);
            if (strcmp(blobs[i].name, name) != 0) continue;
            ok = read_norm(store, version, &blobs[i], &norms[s], err);
        }
    }
    mal_blob_rows_free(blobs, n);
    return ok;
}

/* ---- Staging ---- */

static bool stage(struct mal_store *writer, int64_t version, const char *name,
                  const char *header_json, const void *data, size_t bytes,
                  struct mal_error *err) {
    char hex[MAL_HASH_HEX];
    struct mal_hash hash = mal_hash_of(data, bytes);
    mal_hash_hex(&hash, hex);
    struct mal_blob blob = {.name = name,
                            .header_json = header_json,
                            .data = data,
                            .bytes = bytes,
                            .sha256 = hex};
    return mal_store_stage_blob(writer, version, &blob, err);
}

static bool stage_part(struct mal_store *writer, int64_t version,
                       const struct mal_delta_part *part, struct mal_error *err) {
    char name[256], header[256];
    snprintf(name, sizeof name, "delta/%s", part->module);
    snprintf(header, sizeof header,
             "{\"encoding\":\"%s\",\"d_in\":%lld,\"d_out\":%lld,\"rank\":%lld,"
             "\"norm\":%.17g,\"rounding_error\":%.17g}",
             mal_encoding_name(part->encoding), (long long)part->d_in,
             (long long)part->d_out, (long long)part->rank, part->norm,
             part->rounding_error);
    return stage(writer, version, name, header, part->data, mal_delta_part_bytes(part),
                 err);
}

static bool stage_norm(struct mal_store *writer, int64_t version,
                       const struct mal_editor_shape *shape,
                       const struct mal_normalizer *norm, struct mal_error *err) {
    size_t floats = norm_floats(norm), row = (size_t)norm->size;
    float *data = mal_malloc(floats * sizeof *data);
    if (!data) return mal_fail(err, MAL_NO_MEMORY, "statistics");
    data[0] = norm->n;
    memcpy(data + 1, norm->mean, row * sizeof *data);
    memcpy(data + 1 + row, norm->var, row * sizeof *data);
    memcpy(data + 1 + 2 * row, norm->std, row * sizeof *data);
    char name[64];
    norm_name(shape, name);
    bool ok = stage(writer, version, name, "{}", data, floats * sizeof *data, err);
    mal_free(data);
    return ok;
}

bool mal_history_stage(struct mal_store *writer, int64_t version,
                       const struct mal_delta *delta, const struct mal_editor *editor,
                       const struct mal_normalizer *norms, struct mal_error *err) {
    for (size_t i = 0; i < delta->n_parts; i++) {
        if (!stage_part(writer, version, &delta->parts[i], err)) return false;
    }
    for (size_t s = 0; norms && s < editor->n_shapes; s++) {
        if (!stage_norm(writer, version, &editor->shapes[s], &norms[s], err))
            return false;
    }
    return true;
}

/* ---- Checks ---- */

bool mal_history_check_meta(struct mal_store *store, const char *key, const char *ours,
                            struct mal_error *err) {
    char *theirs = NULL;
    if (!mal_store_get_meta(store, key, &theirs, err)) return false;
    bool same = theirs && strcmp(theirs, ours) == 0;
    if (!same) {
        mal_fail(err, MAL_CONFLICT, "the database was made with %s %s, this is %s", key,
                 theirs ? theirs : "(none)", ours);
    }
    mal_free(theirs);
    return same;
}

static bool check_blob(struct mal_store *store, int64_t version,
                       const struct mal_blob_row *blob, struct mal_error *err) {
    if (starts_with(blob->name, "delta/")) return true;
    void *data = mal_malloc(blob->bytes);
    if (!data) return mal_fail(err, MAL_NO_MEMORY, "'%s'", blob->name);
    bool ok = read_checked(store, version, blob, data, err);
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
