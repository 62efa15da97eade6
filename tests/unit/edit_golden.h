/* edit_golden.h - what the editor's tests share: device memory, random numbers, and the
 * cases of
 * golden_dir(). */
#ifndef MAL_TEST_EDIT_GOLDEN_H
#define MAL_TEST_EDIT_GOLDEN_H

#include "scratch.h"

#include <math.h>

#include "core/alloc.h"
#include "core/backend.h"
#include "core/editor/editor.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "test_device.h"

/* ---- Device memory and numbers ---- */

static inline struct mal_backend *test_backend(void) {
    static struct mal_backend *be;
    struct mal_error err = {0};
    if (!be) assert_ok(mal_backend_create(&be, test_device(), &err), &err);
    return be;
}

static inline float *on_device(const float *x, int64_t n) {
    float *mem = mal_backend_alloc(test_backend(), (size_t)n * sizeof *x);
    assert_non_null(mem);
    if (x) mal_backend_upload(test_backend(), mem, x, (size_t)n * sizeof *x);
    return mem;
}

static inline void from_device(float *x, const float *mem, int64_t n) {
    struct mal_error err = {0};
    mal_backend_download(test_backend(), x, mem, (size_t)n * sizeof *x);
    assert_ok(mal_backend_sync(test_backend(), &err), &err);
}

static inline void free_device(const float *mem) {
    mal_backend_free(test_backend(), (void *)(uintptr_t)mem);
}

/* In [-1, 1), the same every run. */
static inline float next_float(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*seed >> 40) / (double)(1 << 23) - 1);
}

static inline float *random_floats(int64_t n, float scale, uint64_t seed) {
    float *x = mal_malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = scale * next_float(&seed);
    return x;
}

/* ||a - b||_F / ||b||_F */
static inline double relative_error(const double *a, const double *b, int64_t n) {
    double sum = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return norm > 0 ? sqrt(sum / norm) : sqrt(sum);
}

static inline double relative_error_f32(const float *a, const float *b, int64_t n) {
    double sum = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        sum += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    return norm > 0 ? sqrt(sum / norm) : sqrt(sum);
}

/* ---- Golden cases ---- */

static const char *const edit_cases[] = {"gpt2-malmen",
                                         "gpt2-malmen-dual",
                                         "gpt2-malmen-mixed-shapes",
                                         "gpt2-malmen-sequential",
                                         "gpt2-malmen-token-sum",
                                         "gpt2-mend",
                                         "gpt2-ultraedit-sequential"};

enum { N_EDIT_CASES = sizeof edit_cases / sizeof *edit_cases };

struct golden {
    char dir[1024];
    struct mal_editor *editor;
    struct mal_safetensors *expected;
    json_t *info; /* expected.json */
    size_t n_batches;
    bool sequential;
};

/* False: there is no such case. */
static inline bool golden_open(struct golden *g, const char *name) {
    char path[1200];
    struct mal_error err = {0};
    *g = (struct golden){0};
    snprintf(g->dir, sizeof g->dir, "%s/%s", golden_dir(), name);
    if (access(g->dir, R_OK) != 0) return false;
    snprintf(path, sizeof path, "%s/editor.safetensors", g->dir);
    assert_ok(mal_editor_open(&g->editor, path, &err), &err);
    snprintf(path, sizeof path, "%s/expected.safetensors", g->dir);
    assert_ok(mal_safetensors_open(&g->expected, path, &err), &err);
    snprintf(path, sizeof path, "%s/expected.json", g->dir);
    assert_ok(mal_json_load(&g->info, path, &err), &err);
    g->n_batches = json_array_size(json_object_get(g->info, "batches"));
    g->sequential = strstr(name, "-sequential");
    return true;
}

static inline void golden_close(struct golden *g) {
    mal_editor_close(g->editor);
    mal_safetensors_close(g->expected);
    json_decref(g->info);
}

/* "<what>.<module>", in sequential cases with the batch. */
static inline const struct mal_st_tensor *
golden_find(const struct golden *g, const char *what, size_t batch, const char *rest) {
    char name[256];
    if (g->sequential) {
        snprintf(name, sizeof name, "%s.%zu%s%s", what, batch, *rest ? "." : "", rest);
    } else {
        snprintf(name, sizeof name, "%s%s%s", what, *rest ? "." : "", rest);
    }
    const struct mal_st_tensor *t = mal_safetensors_find(g->expected, name);
    if (!t) fail_msg("%s: no tensor '%s'", g->dir, name);
    return t;
}

static inline float *golden_f32(const struct golden *g, const struct mal_st_tensor *t) {
    struct mal_error err = {0};
    float *x = mal_malloc((size_t)t->n_elements * sizeof *x);
    assert_non_null(x);
    assert_ok(mal_safetensors_read_f32(g->expected, t, x, &err), &err);
    return x;
}

static inline double *golden_f64(const struct golden *g, const struct mal_st_tensor *t) {
    struct mal_error err = {0};
    assert_int_equal(t->dtype, MAL_F64);
    double *x = mal_malloc(t->bytes);
    assert_non_null(x);
    assert_ok(mal_safetensors_read(g->expected, t, 0, x, t->bytes, &err), &err);
    return x;
}

/* One module's rows of one batch, on the device. */
struct golden_rows {
    const struct mal_editor_shape *shape;
    size_t row; /* of the module in its shape */
    const char *module;
    int64_t n, d_in, d_out;
    float *u, *g;
};

static inline void golden_place(const struct golden *g, size_t m, int64_t d_in,
                                int64_t d_out, struct golden_rows *out) {
    for (size_t s = 0; s < g->editor->n_shapes; s++) {
        const struct mal_editor_shape *shape = &g->editor->shapes[s];
        if (shape->d_in == d_in && shape->d_out == d_out) out->shape = shape;
    }
    assert_non_null(out->shape);
    for (size_t i = 0; i < m; i++) {
        const struct mal_st_tensor *u =
            golden_find(g, "U", 0, g->editor->modules[i].name);
        const struct mal_st_tensor *v =
            golden_find(g, "G", 0, g->editor->modules[i].name);
        out->row += u->shape[1] == d_in && v->shape[1] == d_out;
    }
}

static inline struct golden_rows golden_rows(const struct golden *g, size_t batch,
                                             size_t m) {
    const char *module = g->editor->modules[m].name;
    const struct mal_st_tensor *u = golden_find(g, "U", batch, module);
    const struct mal_st_tensor *v = golden_find(g, "G", batch, module);
    struct golden_rows r = {
        .module = module, .n = u->shape[0], .d_in = u->shape[1], .d_out = v->shape[1]};
    golden_place(g, m, r.d_in, r.d_out, &r);
    float *host_u = golden_f32(g, u), *host_g = golden_f32(g, v);
    r.u = on_device(host_u, u->n_elements);
    r.g = on_device(host_g, v->n_elements);
    mal_free(host_u);
    mal_free(host_g);
    return r;
}

static inline void golden_rows_free(struct golden_rows *r) {
    free_device(r->u);
    free_device(r->g);
}

/* The shape as it stands for this batch: UltraEdit's statistics run, others are frozen.
 * *norm is the caller's to finish. */
static inline struct mal_editor_shape golden_shape(const struct golden *g, size_t batch,
                                                   const struct mal_editor_shape *shape,
                                                   struct mal_normalizer *norm) {
    struct mal_editor_shape now = *shape;
    struct mal_error err = {0};
    assert_ok(mal_normalizer_copy(norm, &shape->norm, &err), &err);
    if (g->editor->method == &mal_method_ultraedit) {
        float *const dst[] = {norm->mean, norm->var, norm->std};
        const char *const names[] = {"mean", "var", "std"};
        for (int i = 0; i < 3; i++) {
            char rest[96];
            snprintf(rest, sizeof rest, "(%lld, %lld).%s", (long long)shape->d_in,
                     (long long)shape->d_out, names[i]);
            float *x = golden_f32(g, golden_find(g, "normalizer", batch, rest));
            memcpy(dst[i], x, (size_t)shape->size * sizeof *x);
            mal_free(x);
        }
    }
    now.norm = *norm;
    return now;
}

#endif
