/* version_diff.c - differences of shifts, from stored deltas. */
#include "daemon/engine/version_diff.h"

#include <math.h>
#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/json.h"
#include "daemon/engine/history.h"

void mal_diff_finish(struct mal_diff *diff) {
    for (size_t i = 0; i < diff->n; i++) {
        mal_free(diff->modules[i].name);
        mal_free(diff->modules[i].sum);
    }
    mal_free(diff->modules);
    *diff = (struct mal_diff){0};
}

/* ---- Modules ---- */

static bool need_module(struct mal_diff *diff, const char *name,
                        struct mal_module_diff **out, struct mal_error *err) {
    for (size_t i = 0; i < diff->n; i++) {
        *out = &diff->modules[i];
        if (!strcmp((*out)->name, name)) return true;
    }
    struct mal_module_diff *modules =
        mal_realloc(diff->modules, (diff->n + 1) * sizeof *modules);
    if (modules) diff->modules = modules;
    char *copy = modules ? mal_strdup(name) : NULL;
    if (!copy) return mal_fail(err, MAL_NO_MEMORY, "modules of a difference");
    *out = &modules[diff->n++];
    **out = (struct mal_module_diff){.name = copy};
    return true;
}

/* Those of the row, so that a module that is the same in both is there too. */
static bool name_modules(struct mal_diff *diff, const struct mal_version_row *row,
                         struct mal_error *err) {
    json_t *list = NULL;
    bool ok = !row->modules_json ||
              mal_json_read(&list, row->modules_json, "the version's modules", err);
    for (size_t i = 0; i < json_array_size(list) && ok; i++) {
        const json_t *module = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(module, "name"));
        struct mal_module_diff *out;
        if (name) ok = need_module(diff, name, &out, err);
    }
    json_decref(list);
    return ok;
}

/* ---- Sums ---- */

static void add_dense(float *sum, const float *data, size_t n, float sign) {
    for (size_t i = 0; i < n; i++)
        sum[i] += sign * data[i];
}

static void add_factors(float *sum, const struct mal_delta_part *part, float sign) {
    size_t d_in = (size_t)part->d_in, d_out = (size_t)part->d_out,
           rank = (size_t)part->rank;
    const float *left = part->data, *right = left + d_in * rank;
    for (size_t i = 0; i < d_in; i++) {
        for (size_t k = 0; k < rank; k++) {
            float x = sign * left[i * rank + k];
            for (size_t j = 0; j < d_out; j++)
                sum[i * d_out + j] += x * right[k * d_out + j];
        }
    }
}

/* The part becomes fp32. */
static bool add_part(struct mal_diff *diff, struct mal_delta_part *part, int64_t version,
                     float sign, struct mal_error *err) {
    struct mal_module_diff *module;
    if (!need_module(diff, part->module, &module, err)) return false;
    size_t n = (size_t)part->d_in * (size_t)part->d_out;
    if (!module->sum) {
        module->sum = mal_calloc(n, sizeof *module->sum);
        if (!module->sum) return mal_fail(err, MAL_NO_MEMORY, "%s", part->module);
        module->d_in = part->d_in;
        module->d_out = part->d_out;
    }
    if (module->d_in != part->d_in || module->d_out != part->d_out) {
        return mal_fail(err, MAL_CORRUPT,
                        "version %lld: %s has another shape than in other versions",
                        (long long)version, part->module);
    }
    if (!mal_delta_part_widen(part, err)) return false;
    if (part->encoding == MAL_ENCODING_FACTORS) {
        add_factors(module->sum, part, sign);
    } else {
        add_dense(module->sum, part->data, n, sign);
    }
    return true;
}

/* Where the version's delta is gone, diff->stored becomes false; its row is read last,
 * since a delta may be pruned while it is read. */
static bool add_version(struct mal_diff *diff, struct mal_store *store, int64_t version,
                        float sign, struct mal_error *err) {
    struct mal_version_row row = {0};
    struct mal_delta delta = {0};
    struct mal_error failure = {0};
    bool ok = mal_history_delta(store, version, &delta, &failure);
    if (!mal_store_get_version(store, version, &row, err)) {
        mal_delta_finish(&delta);
        return false;
    }
    diff->stored = !row.pruned;
    mal_version_row_finish(&row);
    if (!ok && diff->stored) *err = failure;
    for (size_t i = 0; i < delta.n_parts && ok && diff->stored; i++)
        ok = add_part(diff, &delta.parts[i], version, sign, err);
    mal_delta_finish(&delta);
    return ok || !diff->stored;
}

static bool add_path(struct mal_diff *diff, struct mal_store *store, const int64_t *path,
                     size_t n, float sign, struct mal_error *err) {
    for (size_t i = 0; i < n && diff->stored; i++) {
        if (!add_version(diff, store, path[i], sign, err)) return false;
    }
    return true;
}

static bool add_paths(struct mal_diff *diff, struct mal_store *store, int64_t a,
                      int64_t b, struct mal_error *err) {
    int64_t *to_a = NULL, *to_b = NULL;
    size_t n_a = 0, n_b = 0, both = 0;
    bool ok = mal_history_path(store, a, &to_a, &n_a, err) &&
              mal_history_path(store, b, &to_b, &n_b, err);
    while (ok && both < n_a && both < n_b && to_a[both] == to_b[both])
        both++;
    ok = ok && add_path(diff, store, to_a + both, n_a - both, -1, err) &&
         add_path(diff, store, to_b + both, n_b - both, 1, err);
    mal_free(to_a);
    mal_free(to_b);
    return ok;
}

static double norm_of(const struct mal_module_diff *module) {
    double squares = 0;
    size_t n = module->sum ? (size_t)module->d_in * (size_t)module->d_out : 0;
    for (size_t i = 0; i < n; i++)
        squares += (double)module->sum[i] * module->sum[i];
    return sqrt(squares);
}

bool mal_diff_versions(struct mal_store *store, const struct mal_version_row *a,
                       const struct mal_version_row *b, struct mal_diff *out,
                       struct mal_error *err) {
    struct mal_diff diff = {.stored = !a->pruned && !b->pruned};
    bool ok = true;
    if (diff.stored) {
        ok = name_modules(&diff, b, err) && name_modules(&diff, a, err) &&
             add_paths(&diff, store, a->version, b->version, err);
    }
    if (!ok || !diff.stored) {
        mal_diff_finish(&diff);
        return ok;
    }
    for (size_t i = 0; i < diff.n; i++)
        diff.modules[i].norm = norm_of(&diff.modules[i]);
    *out = diff;
    return true;
}
