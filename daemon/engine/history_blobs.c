/* history_blobs.c - what is stored with a version: parts of its delta, a keyframe,
 * statistics; each blob with its hash. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "daemon/engine/history_impl.h"

bool mal_blob_is(const struct mal_blob_row *blob, const char *prefix) {
    return strncmp(blob->name, prefix, strlen(prefix)) == 0;
}

static bool check_hash(int64_t version, const struct mal_blob_row *blob,
                       const struct mal_hash *hash, struct mal_error *err) {
    char hex[MAL_HASH_HEX];
    mal_hash_hex(hash, hex);
    if (strcmp(hex, blob->sha256) == 0) return true;
    return mal_fail(err, MAL_CORRUPT,
                    "version %lld: the stored bytes of '%s' do not match their hash",
                    (long long)version, blob->name);
}

bool mal_blob_read(struct mal_store *store, int64_t version,
                   const struct mal_blob_row *blob, void *data, struct mal_error *err) {
    if (!mal_store_read_blob(store, version, blob, data, err)) return false;
    struct mal_hash hash = mal_hash_of(data, blob->bytes);
    return check_hash(version, blob, &hash, err);
}

bool mal_blob_stage(struct mal_store *writer, int64_t version, const char *name,
                    const char *header_json, const void *data, size_t bytes,
                    const struct mal_hash *hash, struct mal_error *err) {
    char hex[MAL_HASH_HEX];
    mal_hash_hex(hash, hex);
    struct mal_blob blob = {.name = name,
                            .header_json = header_json,
                            .data = data,
                            .bytes = bytes,
                            .sha256 = hex};
    return mal_store_stage_blob(writer, version, &blob, err);
}

/* ---- Deltas ---- */

static bool take_size(const json_t *header, const char *key, int64_t *out) {
    const json_t *value = json_object_get(header, key);
    const json_int_t max = 1 << 30;
    *out = json_integer_value(value);
    return json_is_integer(value) && *out >= 0 && *out < max;
}

static bool take_number(const json_t *header, const char *key, double *out) {
    const json_t *value = json_object_get(header, key);
    *out = json_number_value(value);
    return json_is_number(value);
}

static bool take_dtype(const json_t *value, enum mal_dtype *out) {
    const char *name = json_string_value(value);
    return name && mal_dtype_from_name(name, out) &&
           (*out == MAL_F32 || *out == MAL_BF16);
}

/* json_unpack() would do, but takes lack of memory for a header that does not fit. */
static bool take_header(const json_t *header, bool keyframe, struct mal_delta_part *out) {
    out->encoding = MAL_ENCODING_DENSE;
    out->dtype = MAL_F32;
    out->rank = 0;
    if (!take_size(header, "d_in", &out->d_in) || out->d_in == 0 ||
        !take_size(header, "d_out", &out->d_out) || out->d_out == 0)
        return false;
    if (keyframe) return true;
    const char *encoding = json_string_value(json_object_get(header, "encoding"));
    const json_t *dtype = json_object_get(header, "dtype"); /* older ones have none */
    bool factors = encoding && strcmp(encoding, "factors") == 0;
    if (factors) out->encoding = MAL_ENCODING_FACTORS;
    if (dtype && !take_dtype(dtype, &out->dtype)) return false;
    return (factors || (encoding && strcmp(encoding, "dense") == 0)) &&
           take_size(header, "rank", &out->rank) && (out->rank > 0) == factors &&
           take_number(header, "norm", &out->norm) &&
           take_number(header, "rounding_error", &out->rounding_error);
}

/* Reads header_json; the sizes must agree with the blob's. A keyframe's says only those.
 */
static bool read_part_header(int64_t version, const struct mal_blob_row *blob,
                             struct mal_delta_part *part, struct mal_error *err) {
    json_t *header = NULL;
    if (!mal_json_read(&header, blob->header_json, blob->name, err))
        return mal_fail_wrap(err, "version %lld", (long long)version);
    bool fits = take_header(header, mal_blob_is(blob, MAL_BLOB_KEYFRAME), part);
    json_decref(header);
    if (fits && mal_delta_part_bytes(part) == blob->bytes) return true;
    return mal_fail(err, MAL_CORRUPT,
                    "version %lld: the header of '%s' does not fit its data",
                    (long long)version, blob->name);
}

/* Without a look at its hash. *part zeroed, owned even on failure. */
static bool read_unchecked(struct mal_store *store, int64_t version,
                           const struct mal_blob_row *blob, struct mal_delta_part *part,
                           struct mal_error *err) {
    if (!read_part_header(version, blob, part, err)) return false;
    part->module = mal_strdup(strchr(blob->name, '/') + 1);
    part->data = mal_malloc(blob->bytes);
    if (!part->module || !part->data) return mal_fail(err, MAL_NO_MEMORY, "delta");
    return mal_store_read_blob(store, version, blob, part->data, err);
}

bool mal_blob_read_part(struct mal_store *store, int64_t version,
                        const struct mal_blob_row *blob, struct mal_delta_part *part,
                        struct mal_error *err) {
    if (!read_unchecked(store, version, blob, part, err)) return false;
    mal_delta_hash_data(&(struct mal_delta){.parts = part, .n_parts = 1});
    return check_hash(version, blob, &part->hash, err);
}

/* What is read is hashed side by side. */
static bool read_parts(struct mal_store *store, int64_t version, const char *prefix,
                       struct mal_delta *out, struct mal_error *err) {
    struct mal_blob_row *blobs = NULL;
    size_t n = 0, at = 0;
    struct mal_delta delta = {0};
    if (!mal_store_blobs(store, version, &blobs, &n, err)) return false;
    delta.parts = mal_calloc(n, sizeof *delta.parts);
    bool ok = delta.parts || mal_fail(err, MAL_NO_MEMORY, "delta");
    for (size_t i = 0; ok && i < n; i++) {
        if (!mal_blob_is(&blobs[i], prefix)) continue;
        ok =
            read_unchecked(store, version, &blobs[i], &delta.parts[delta.n_parts++], err);
    }
    if (ok) mal_delta_hash_data(&delta);
    for (size_t i = 0; ok && i < n; i++) {
        if (mal_blob_is(&blobs[i], prefix))
            ok = check_hash(version, &blobs[i], &delta.parts[at++].hash, err);
    }
    mal_blob_rows_free(blobs, n);
    if (!ok) {
        mal_delta_finish(&delta);
        return false;
    }
    *out = delta;
    return true;
}

static bool check_delta_hash(struct mal_store *store, int64_t version,
                             struct mal_delta *delta, struct mal_error *err) {
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
    struct mal_delta delta = {0};
    if (!read_parts(store, version, MAL_BLOB_DELTA, &delta, err)) return false;
    if (!check_delta_hash(store, version, &delta, err)) {
        mal_delta_finish(&delta);
        return false;
    }
    *out = delta;
    return true;
}

bool mal_history_keyframe(struct mal_store *store, int64_t version, struct mal_delta *out,
                          struct mal_error *err) {
    return read_parts(store, version, MAL_BLOB_KEYFRAME, out, err);
}

bool mal_history_stage_part(struct mal_store *writer, int64_t version,
                            const struct mal_delta_part *part, struct mal_error *err) {
    char name[256], header[256];
    snprintf(name, sizeof name, MAL_BLOB_DELTA "%s", part->module);
    snprintf(
        header, sizeof header,
        "{\"encoding\":\"%s\",\"dtype\":\"%s\",\"d_in\":%lld,\"d_out\":%lld,\"rank\":%lld,"
        "\"norm\":%.17g,\"rounding_error\":%.17g}",
        mal_encoding_name(part->encoding), mal_dtype_name(part->dtype),
        (long long)part->d_in, (long long)part->d_out, (long long)part->rank, part->norm,
        part->rounding_error);
    return mal_blob_stage(writer, version, name, header, part->data,
                          mal_delta_part_bytes(part), &part->hash, err);
}

static bool stage_keyframe(struct mal_store *writer, int64_t version,
                           const struct mal_delta_part *part, struct mal_error *err) {
    char name[256], header[64];
    snprintf(name, sizeof name, MAL_BLOB_KEYFRAME "%s", part->module);
    snprintf(header, sizeof header, "{\"d_in\":%lld,\"d_out\":%lld}",
             (long long)part->d_in, (long long)part->d_out);
    return mal_blob_stage(writer, version, name, header, part->data,
                          mal_delta_part_bytes(part), &part->hash, err);
}

/* All parts, each by `stage_one`. */
static bool
stage_delta(struct mal_store *writer, int64_t version, struct mal_delta *delta,
            bool (*stage_one)(struct mal_store *, int64_t, const struct mal_delta_part *,
                              struct mal_error *),
            struct mal_error *err) {
    bool ok = true;
    mal_delta_hash_data(delta);
    for (size_t i = 0; ok && i < delta->n_parts; i++)
        ok = stage_one(writer, version, &delta->parts[i], err);
    return ok;
}

bool mal_history_stage(struct mal_store *writer, int64_t version,
                       const struct mal_history_parts *parts, struct mal_error *err) {
    if ((parts->delta &&
         !stage_delta(writer, version, parts->delta, mal_history_stage_part, err)) ||
        (parts->keyframe &&
         !stage_delta(writer, version, parts->keyframe, stage_keyframe, err)) ||
        (parts->norms &&
         !mal_history_stage_norms(writer, version, parts->editor, parts->norms, err)))
        return false;
    return mal_history_stage_values(writer, version, parts->values, parts->n_values, err);
}
