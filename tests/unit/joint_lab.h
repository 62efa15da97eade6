/* joint_lab.h - what the tests of joint systems share: a golden case's model, editor and
 * facts, and a reference that sums up and solves in long double. */
#ifndef MAL_TEST_JOINT_LAB_H
#define MAL_TEST_JOINT_LAB_H

#include "no_memory.h"

#include <math.h>

#include "core/editor/joint_change.h"
#include "test_device.h"

enum { MAX_MODULES = 8 };

struct lab {
    struct mal_backend *be;
    struct mal_model *model;
    struct mal_tokenizer *tok;
    struct mal_editor *editor;
    struct mal_fact *facts;
    size_t n_facts, n_modules;
    /* sums over rows in long double, per module: u'u (d_in, d_in) and u'd (d_in, d_out)
     */
    long double *a[MAX_MODULES], *v[MAX_MODULES];
};

static struct lab lab;

static inline const char *case_path(const char *name, const char *file) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/tests/golden/cases/%s/%s", getenv("MAL_SOURCE_ROOT"),
             name, file);
    return path;
}

static inline void open_lab(const char *name) {
    struct mal_error err = {0};
    lab = (struct lab){0};
    assert_ok(mal_backend_create(&lab.be, test_device(), &err), &err);
    assert_ok(mal_model_open(&lab.model, case_path(name, "model"), lab.be, &err), &err);
    assert_ok(mal_tokenizer_open(&lab.tok, case_path(name, "model"), &err), &err);
    assert_ok(mal_editor_open(&lab.editor, case_path(name, "editor.safetensors"), &err),
              &err);
    assert_ok(mal_editor_bind(lab.editor, lab.model, &err), &err);
    assert_ok(
        mal_facts_load(&lab.facts, &lab.n_facts, case_path(name, "facts.json"), &err),
        &err);
    lab.editor->loss = MAL_LOSS_TOKEN_SUM;
    lab.n_modules = mal_model_n_edits(lab.model);
    assert_in_range(lab.n_modules, 1, MAX_MODULES);
    assert_true(lab.n_facts >= 2);
}

static inline void forget_sums(void) {
    for (size_t m = 0; m < MAX_MODULES; m++) {
        mal_free(lab.a[m]);
        mal_free(lab.v[m]);
        lab.a[m] = lab.v[m] = NULL;
    }
}

static inline void close_lab(void) {
    forget_sums();
    mal_facts_free(lab.facts, lab.n_facts);
    mal_editor_close(lab.editor);
    mal_tokenizer_close(lab.tok);
    mal_model_close(lab.model);
    mal_backend_destroy(lab.be);
}

/* A copy of device memory in host memory, and back. */
static inline float *to_host(const float *data, size_t n) {
    struct mal_error err = {0};
    float *x = mal_malloc(n * sizeof *x);
    assert_non_null(x);
    mal_backend_download(lab.be, x, data, n * sizeof *x);
    assert_ok(mal_backend_sync(lab.be, &err), &err);
    return x;
}

static inline void to_device(float *dst, const float *x, size_t n) {
    struct mal_error err = {0};
    mal_backend_upload(lab.be, dst, x, n * sizeof *x);
    assert_ok(mal_backend_sync(lab.be, &err), &err);
}

/* ---- The reference ---- */

/* Keys (rows, d_in) and value differences (rows, d_out) of module m join its sums. */
static inline void sum_rows(size_t m, int64_t rows, const float *u, const float *d) {
    const struct mal_linear *lin = mal_model_edit(lab.model, m);
    int64_t n = lin->d_in, k = lin->d_out;
    if (!lab.a[m]) lab.a[m] = mal_calloc((size_t)(n * n), sizeof(long double));
    if (!lab.v[m]) lab.v[m] = mal_calloc((size_t)(n * k), sizeof(long double));
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < n; i++) {
            long double x = (long double)u[r * n + i];
            for (int64_t j = 0; j < n; j++)
                lab.a[m][i * n + j] += x * (long double)u[r * n + j];
            for (int64_t j = 0; j < k; j++)
                lab.v[m][i * k + j] += x * (long double)d[r * k + j];
        }
    }
}

static inline double ridge_at(size_t m) {
    const struct mal_editor_module *module = &lab.editor->modules[m];
    return exp((double)lab.editor->shapes[module->shape].lamda[module->row]);
}

/* (a + ridge I + w gram)^-1 v, using the sums up: Gauss and Jordan without pivoting,
 * which a positive definite system does not need. */
static inline double *reference_shift(size_t m, double ridge, const double *gram,
                                      double w) {
    const struct mal_linear *lin = mal_model_edit(lab.model, m);
    int64_t n = lin->d_in, k = lin->d_out;
    long double *a = lab.a[m], *v = lab.v[m];
    for (int64_t i = 0; i < n; i++) {
        a[i * n + i] += (long double)ridge;
        for (int64_t j = 0; gram && j < n; j++)
            a[i * n + j] +=
                (long double)w * (long double)gram[i > j ? i * n + j : j * n + i];
    }
    for (int64_t p = 0; p < n; p++) {
        for (int64_t i = 0; i < n; i++) {
            if (i == p) continue;
            long double f = a[i * n + p] / a[p * n + p];
            for (int64_t j = p; j < n; j++)
                a[i * n + j] -= f * a[p * n + j];
            for (int64_t j = 0; j < k; j++)
                v[i * k + j] -= f * v[p * k + j];
        }
    }
    double *s = mal_malloc((size_t)(n * k) * sizeof *s);
    for (int64_t i = 0; i < n * k; i++)
        s[i] = (double)(v[i] / a[i / k * n + i / k]);
    return s;
}

/* ---- Shifts ---- */

/* The live version's whole difference from the base in module m. */
static inline float *shift_at(struct mal_weights_state *ws, size_t m) {
    struct mal_error err = {0};
    const struct mal_linear *lin = mal_model_edit(lab.model, m);
    float *x = mal_malloc((size_t)(lin->d_in * lin->d_out) * sizeof *x);
    assert_ok(mal_weights_read_shift(ws, m, x, &err), &err);
    return x;
}

/* ||a - b||_F / ||b||_F over a module's shift. */
static inline double shift_distance(size_t m, const float *a, const double *b) {
    const struct mal_linear *lin = mal_model_edit(lab.model, m);
    double sum = 0, norm = 0;
    for (int64_t i = 0; i < lin->d_in * lin->d_out; i++) {
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return sqrt(sum / norm);
}

static inline double *in_fp64(size_t m, const float *x) {
    const struct mal_linear *lin = mal_model_edit(lab.model, m);
    double *out = mal_malloc((size_t)(lin->d_in * lin->d_out) * sizeof *out);
    for (int64_t i = 0; i < lin->d_in * lin->d_out; i++)
        out[i] = (double)x[i];
    return out;
}

#endif
