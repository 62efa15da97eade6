/* history_norms.c - UltraEdit's statistics, which go on from version to version. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "daemon/engine/history_impl.h"

/* ---- Statistics: n, then mean, var, std ---- */

static void norm_name(const struct mal_editor_shape *shape, char out[64]) {
    snprintf(out, 64, MAL_BLOB_NORM "(%lld, %lld)", (long long)shape->d_in,
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
    bool ok = mal_blob_read(store, version, blob, data, err);
    if (ok) {
        norm->n = data[0];
        memcpy(norm->mean, data + 1, row * sizeof *data);
        memcpy(norm->var, data + 1 + row, row * sizeof *data);
        memcpy(norm->std, data + 1 + 2 * row, row * sizeof *data);
    }
    mal_free(data);
    return ok;
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
    size_t bytes = floats * sizeof *data;
    struct mal_hash hash = mal_hash_of(data, bytes);
    bool ok = mal_blob_stage(writer, version, name, "{}", data, bytes, &hash, err);
    mal_free(data);
    return ok;
}

bool mal_history_stage_norms(struct mal_store *writer, int64_t version,
                             const struct mal_editor *editor,
                             const struct mal_normalizer *norms, struct mal_error *err) {
    for (size_t s = 0; s < editor->n_shapes; s++) {
        if (!stage_norm(writer, version, &editor->shapes[s], &norms[s], err))
            return false;
    }
    return true;
}

/* Those stored with exactly this version. */
static bool read_norms(struct mal_store *store, int64_t version,
                       const struct mal_editor *editor, struct mal_normalizer *norms,
                       bool *out_found, struct mal_error *err) {
    struct mal_blob_row *blobs = NULL;
    size_t n = 0;
    bool ok = mal_store_blobs(store, version, &blobs, &n, err);
    *out_found = false;
    for (size_t i = 0; ok && i < n; i++) {
        if (mal_blob_is(&blobs[i], MAL_BLOB_NORM)) *out_found = true;
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

bool mal_history_norms(struct mal_store *store, int64_t version,
                       const struct mal_editor *editor, struct mal_normalizer *norms,
                       struct mal_error *err) {
    bool found = false;
    while (version > 0) {
        struct mal_version_row row = {0};
        bool ok = mal_store_get_version(store, version, &row, err) &&
                  read_norms(store, version, editor, norms, &found, err);
        bool begins = mal_history_begins(&row);
        ok = ok && mal_history_step(&row, &version, err);
        mal_version_row_finish(&row);
        if (!ok) return false;
        if (found || begins) break;
    }
    return true;
}
