/* history_shift.c - adds up what is stored, one module at a time. */
#include "daemon/engine/history_shift.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/shift.h"
#include "daemon/engine/history_impl.h"

/* A version on the way. */
struct step {
    int64_t version;
    struct mal_blob_row *blobs;
    size_t n_blobs;
};

struct way {
    struct step *steps;
    size_t n;
};

struct mal_history_shift {
    struct mal_store *store;
    struct mal_backend *be; /* "cpu" */
    struct step keyframe;   /* version -1: the way begins with the base */
    struct way way;         /* from there on */
    struct way whole;       /* all from the base, if it is stored: for factors */
    bool is_whole;
};

/* ---- The way ---- */

/* What is listed is complete if the version was not pruned afterwards either. */
static bool list_blobs(struct step *step, struct mal_store *store, int64_t version,
                       struct mal_version_row *row, struct mal_error *err) {
    step->version = version;
    return mal_store_blobs(store, version, &step->blobs, &step->n_blobs, err) &&
           mal_store_get_version(store, version, row, err);
}

/* *out_pruned NULL: MAL_CONFLICT if it was. */
static bool read_step(struct step *step, struct mal_store *store, int64_t version,
                      bool *out_pruned, struct mal_error *err) {
    struct mal_version_row row = {0};
    uint64_t bytes = 0;
    bool ok = list_blobs(step, store, version, &row, err);
    for (size_t i = 0; ok && i < step->n_blobs; i++) {
        if (mal_blob_is(&step->blobs[i], MAL_BLOB_DELTA)) bytes += step->blobs[i].bytes;
    }
    if (ok && out_pruned && row.pruned) {
        *out_pruned = true;
    } else if (ok) {
        ok = mal_history_check_stored(&row, err);
        if (ok && bytes != (uint64_t)row.delta_bytes) {
            ok = mal_fail(err, MAL_CORRUPT,
                          "version %lld: its delta has %llu bytes, its row says %lld",
                          (long long)version, (unsigned long long)bytes,
                          (long long)row.delta_bytes);
        }
    }
    mal_version_row_finish(&row);
    return ok;
}

static bool read_way(struct way *way, struct mal_store *store, const int64_t *versions,
                     size_t n, bool *out_pruned, struct mal_error *err) {
    way->steps = mal_calloc(n, sizeof *way->steps);
    if (!way->steps) return mal_fail(err, MAL_NO_MEMORY, "versions");
    for (; way->n < n; way->n++) {
        if (!read_step(&way->steps[way->n], store, versions[way->n], out_pruned, err)) {
            way->n++;
            return false;
        }
    }
    return true;
}

static void way_finish(struct way *way) {
    for (size_t i = 0; i < way->n; i++)
        mal_blob_rows_free(way->steps[i].blobs, way->steps[i].n_blobs);
    mal_free(way->steps);
}

static bool follow_plan(struct mal_history_shift *shift, int64_t version,
                        struct mal_error *err) {
    struct mal_history_plan plan;
    if (!mal_history_plan(shift->store, version, &plan, err)) return false;
    shift->keyframe.version = plan.keyframe;
    bool ok = plan.keyframe < 0 ||
              read_step(&shift->keyframe, shift->store, plan.keyframe, NULL, err);
    ok = ok && read_way(&shift->way, shift->store, plan.deltas, plan.n, NULL, err);
    mal_history_plan_finish(&plan);
    return ok;
}

static bool follow_path(struct mal_history_shift *shift, int64_t version,
                        struct mal_error *err) {
    int64_t *path = NULL;
    size_t n = 0;
    bool pruned = false;
    bool ok = mal_history_path(shift->store, version, &path, &n, err) &&
              read_way(&shift->whole, shift->store, path, n, &pruned, err);
    shift->is_whole = !pruned;
    mal_free(path);
    return ok;
}

bool mal_history_shift_open(struct mal_history_shift **out, struct mal_store *store,
                            int64_t version, struct mal_error *err) {
    struct mal_history_shift *shift = mal_calloc(1, sizeof *shift);
    if (!shift) return mal_fail(err, MAL_NO_MEMORY, "versions");
    shift->store = store;
    if (!mal_backend_create(&shift->be, "cpu", err)) goto fail;
    if (!follow_plan(shift, version, err)) goto fail;
    if (!follow_path(shift, version, err)) goto fail;
    *out = shift;
    return true;

fail:
    mal_history_shift_close(shift);
    return false;
}

bool mal_history_shift_is_whole(const struct mal_history_shift *shift) {
    return shift->is_whole;
}

void mal_history_shift_close(struct mal_history_shift *shift) {
    if (!shift) return;
    mal_blob_rows_free(shift->keyframe.blobs, shift->keyframe.n_blobs);
    way_finish(&shift->way);
    way_finish(&shift->whole);
    mal_backend_destroy(shift->be);
    mal_free(shift);
}

/* ---- One module ---- */

static const struct mal_blob_row *find_blob(const struct step *step, const char *kind,
                                            const char *module) {
    for (size_t i = 0; i < step->n_blobs; i++) {
        const struct mal_blob_row *blob = &step->blobs[i];
        if (mal_blob_is(blob, kind) && strcmp(blob->name + strlen(kind), module) == 0)
            return blob;
    }
    return NULL;
}

/* *out zeroed; its module stays NULL where there is nothing of this kind for it. */
static bool read_part(struct mal_history_shift *shift, const struct step *step,
                      const char *kind, const struct mal_export_module *module,
                      struct mal_delta_part *out, struct mal_error *err) {
    const struct mal_blob_row *blob = find_blob(step, kind, module->name);
    if (!blob) return true;
    if (!mal_blob_read_part(shift->store, step->version, blob, out, err)) return false;
    if (out->d_in == module->d_in && out->d_out == module->d_out) return true;
    return mal_fail(err, MAL_CORRUPT, "version %lld: '%s' is not of the module's shape",
                    (long long)step->version, blob->name);
}

static void part_finish(struct mal_delta_part *part) {
    mal_free(part->module);
    mal_free(part->data);
    *part = (struct mal_delta_part){0};
}

/* T itself, or zeros. */
static bool begin(struct mal_history_shift *shift, const struct mal_export_module *module,
                  float *t, struct mal_error *err) {
    struct mal_delta_part part = {0};
    size_t bytes = (size_t)(module->d_in * module->d_out) * sizeof *t;
    bool ok = read_part(shift, &shift->keyframe, MAL_BLOB_KEYFRAME, module, &part, err);
    if (ok && part.module)
        memcpy(t, part.data, bytes);
    else
        memset(t, 0, bytes);
    part_finish(&part);
    return ok;
}

bool mal_history_shift_read(struct mal_history_shift *shift,
                            const struct mal_export_module *module, float *t,
                            struct mal_error *err) {
    bool ok = begin(shift, module, t, err);
    for (size_t i = 0; ok && i < shift->way.n; i++) {
        struct mal_delta_part part = {0};
        ok = read_part(shift, &shift->way.steps[i], MAL_BLOB_DELTA, module, &part, err);
        if (ok && part.module) ok = mal_shift_add_part(shift->be, &part, false, t, err);
        part_finish(&part);
    }
    return ok;
}

/* ---- Factors ---- */

/* Rows behind those there are: `left` turned. The part becomes fp32. */
static bool append(struct mal_export_factors *f, struct mal_delta_part *part,
                   struct mal_error *err) {
    if (!mal_delta_part_widen(part, err)) return false;
    const float *from = part->data;
    int64_t rank = f->rank + part->rank, d_in = part->d_in, d_out = part->d_out;
    float *left = mal_realloc(f->left, (size_t)(rank * d_in) * sizeof *left);
    if (left) f->left = left;
    float *right = mal_realloc(f->right, (size_t)(rank * d_out) * sizeof *right);
    if (right) f->right = right;
    if (!left || !right) return mal_fail(err, MAL_NO_MEMORY, "factors");
    for (int64_t k = 0; k < part->rank; k++) {
        for (int64_t i = 0; i < d_in; i++)
            left[(f->rank + k) * d_in + i] = from[i * part->rank + k];
    }
    memcpy(right + f->rank * d_out, from + d_in * part->rank,
           (size_t)(part->rank * d_out) * sizeof *right);
    f->rank = rank;
    return true;
}

static void factors_finish(struct mal_export_factors *f) {
    mal_free(f->left);
    mal_free(f->right);
    *f = (struct mal_export_factors){0};
}

bool mal_history_shift_factors(struct mal_history_shift *shift,
                               const struct mal_export_module *module,
                               struct mal_export_factors *out, struct mal_error *err) {
    struct mal_export_factors f = {0};
    int64_t full = module->d_in < module->d_out ? module->d_in : module->d_out;
    bool ok = true, thin = shift->is_whole;
    for (size_t i = 0; ok && thin && i < shift->whole.n; i++) {
        struct mal_delta_part part = {0};
        ok = read_part(shift, &shift->whole.steps[i], MAL_BLOB_DELTA, module, &part, err);
        if (ok && part.module) {
            thin = part.encoding == MAL_ENCODING_FACTORS && f.rank + part.rank < full;
            ok = !thin || append(&f, &part, err);
        }
        part_finish(&part);
    }
    if (!ok || !thin) factors_finish(&f);
    if (ok) *out = f;
    return ok;
}
