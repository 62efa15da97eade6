/* test_normalizer.c - running statistics against the plain definition over all rows, and
 * the states of the reference. */
#include "edit_golden.h"

#include <float.h>

#include "core/editor/normalizer.h"

enum { DU = 5, DG = 3, SIZE = DU + DG };

static void take_in(struct mal_normalizer *norm, int64_t rows, int64_t du, int64_t dg,
                    const float *u, const float *g) {
    struct mal_backend *be = test_backend();
    struct mal_error err = {0};
    size_t bytes = (size_t)(du + dg) * sizeof(double);
    double *stats = mal_backend_alloc(be, 2 * bytes), *host = mal_malloc(2 * bytes);
    assert_non_null(stats);
    assert_non_null(host);
    mal_column_stats(be, rows, du, dg, u, du, g, dg, stats, stats + du + dg);
    mal_backend_download(be, host, stats, 2 * bytes);
    assert_ok(mal_backend_sync(be, &err), &err);
    mal_normalizer_update(norm, rows, host, host + du + dg);
    mal_backend_free(be, stats);
    mal_free(host);
}

static void assert_close(double a, double b, double tolerance) {
    if (!(fabs(a - b) <= tolerance * (1 + fabs(b)))) fail_msg("%.9g is not %.9g", a, b);
}

static void test_empty(void **state) {
    struct mal_normalizer norm, copy;
    struct mal_error err = {0};
    assert_ok(mal_normalizer_init(&norm, SIZE, &err), &err);
    double mean[SIZE] = {0};
    mal_normalizer_update(&norm, 0, mean, mean);
    assert_true(norm.n == 0);
    for (int i = 0; i < SIZE; i++)
        assert_true(norm.mean[i] == 0 && norm.var[i] == 0 && norm.std[i] == 0);
    assert_ok(mal_normalizer_copy(&copy, &norm, &err), &err);
    norm.mean[1] = 3;
    assert_true(copy.mean[1] == 0);
    mal_normalizer_finish(&copy);
    mal_normalizer_finish(&norm);
    mal_normalizer_finish(&norm);
}

/* A batch of one row has no variance of its own: NaN in the reference, 0 here. */
static void test_single_rows(void **state) {
    struct mal_normalizer norm;
    struct mal_error err = {0};
    assert_ok(mal_normalizer_init(&norm, 1, &err), &err);
    double m2 = 0;
    mal_normalizer_update(&norm, 1, &(double){4}, &m2);
    assert_true(norm.n == 1 && norm.mean[0] == 4 && norm.var[0] == 0 && norm.std[0] == 0);
    mal_normalizer_update(&norm, 1, &(double){6}, &m2);
    assert_true(norm.n == 2 && norm.mean[0] == 5);
    assert_close((double)norm.var[0], 2, 1e-6); /* (4-5)^2 + (6-5)^2 */
    assert_close((double)norm.std[0], sqrt(2), 1e-6);
    mal_normalizer_finish(&norm);
}

/* The formulas of core/README.md section 3 written out in double. */
static void test_formulas(void **state) {
    static const int64_t cuts[] = {7, 1, 12, 2};
    struct mal_normalizer norm;
    struct mal_error err = {0};
    double n = 0, mean[SIZE] = {0}, var[SIZE] = {0};
    assert_ok(mal_normalizer_init(&norm, SIZE, &err), &err);
    for (size_t c = 0; c < 4; c++) {
        int64_t b = cuts[c];
        float *u = random_floats(b * DU, 3, 10 + c),
              *g = random_floats(b * DG, 0.01f, 20 + c);
        float *du = on_device(u, b * DU), *dg = on_device(g, b * DG);
        take_in(&norm, b, DU, DG, du, dg);
        for (int i = 0; i < SIZE; i++) {
            double sum = 0, m2 = 0;
            for (int64_t r = 0; r < b; r++)
                sum += (double)(i < DU ? u[r * DU + i] : g[r * DG + i - DU]);
            for (int64_t r = 0; r < b; r++) {
                double d = (double)(i < DU ? u[r * DU + i] : g[r * DG + i - DU]) -
                           sum / (double)b;
                m2 += d * d;
            }
            double delta = sum / (double)b - mean[i];
            double unbiased = b > 1 ? m2 / (double)(b - 1) : 0;
            mean[i] += (double)b * delta / (n + (double)b);
            var[i] +=
                (double)b * unbiased + n * (double)b * delta * delta / (n + (double)b);
        }
        n += (double)b;
        free_device(du);
        free_device(dg);
        mal_free(u);
        mal_free(g);
    }
    assert_true((double)norm.n == n);
    for (int i = 0; i < SIZE; i++) {
        assert_close((double)norm.mean[i], mean[i], 1e-6);
        assert_close((double)norm.var[i], var[i], 1e-6);
        assert_close((double)norm.std[i], sqrt(var[i] / (n - 1 + (double)FLT_EPSILON)),
                     1e-6);
    }
    mal_normalizer_finish(&norm);
}

/* ---- The reference's states ---- */

/* Rows of micro-batch k: facts of a batch are sorted by length, so a micro-batch is a run
 * of rows with micro_batch different facts. */
static int64_t micro_batch_end(const float *fact, int64_t n, int64_t from,
                               int64_t facts) {
    int64_t seen = 0, i = from;
    for (; i < n; i++) {
        if (i == from || fact[i] != fact[i - 1]) seen++;
        if (seen > facts) break;
    }
    return i;
}

static void check_state(const struct golden *g, size_t batch,
                        const struct mal_normalizer *norm,
                        const struct mal_editor_shape *shape) {
    struct mal_normalizer want;
    golden_shape(g, batch, shape, &want);
    double errors[] = {relative_error_f32(norm->mean, want.mean, norm->size),
                       relative_error_f32(norm->var, want.var, norm->size),
                       relative_error_f32(norm->std, want.std, norm->size)};
    for (int i = 0; i < 3; i++)
        if (errors[i] > 2e-6)
            fail_msg("%s batch %zu: %d is off by %g", g->dir, batch, i, errors[i]);
    mal_normalizer_finish(&want);
}

static void test_golden(void **state) {
    struct golden g;
    struct mal_error err = {0};
    assert_true(golden_open(&g, "gpt2-ultraedit-sequential"));
    const struct mal_editor_shape *shape = &g.editor->shapes[0];
    struct mal_normalizer norm;
    assert_ok(mal_normalizer_copy(&norm, &shape->norm, &err), &err);
    for (size_t batch = 0; batch < g.n_batches; batch++) {
        const struct mal_st_tensor *t = golden_find(&g, "row_fact", batch, "");
        int32_t *ids = mal_malloc(t->bytes);
        float *fact = mal_malloc(t->bytes);
        assert_ok(mal_safetensors_read(g.expected, t, 0, ids, t->bytes, &err), &err);
        for (int64_t i = 0; i < t->n_elements; i++)
            fact[i] = (float)ids[i];
        /* Micro-batches outside, modules of the shape inside. */
        for (int64_t from = 0, end; from < t->n_elements; from = end) {
            end = micro_batch_end(fact, t->n_elements, from, g.editor->micro_batch);
            for (size_t m = 0; m < g.editor->n_modules; m++) {
                struct golden_rows r = golden_rows(&g, batch, m);
                take_in(&norm, end - from, r.d_in, r.d_out, r.u + from * r.d_in,
                        r.g + from * r.d_out);
                golden_rows_free(&r);
            }
        }
        mal_free(ids);
        mal_free(fact);
        check_state(&g, batch, &norm, shape);
    }
    mal_normalizer_finish(&norm);
    golden_close(&g);
}

/* The statistics that MALMEN's golden editors hold were taken over their facts once,
 * several micro-batches and modules nested. */
static void test_golden_malmen(void **state) {
    struct golden g;
    struct mal_error err = {0};
    assert_true(golden_open(&g, "gpt2-malmen-mixed-shapes"));
    const struct mal_st_tensor *t = golden_find(&g, "row_fact", 0, "");
    int32_t *ids = mal_malloc(t->bytes);
    float *fact = mal_malloc(t->bytes);
    assert_ok(mal_safetensors_read(g.expected, t, 0, ids, t->bytes, &err), &err);
    for (int64_t i = 0; i < t->n_elements; i++)
        fact[i] = (float)ids[i];
    for (size_t s = 0; s < g.editor->n_shapes; s++) {
        const struct mal_editor_shape *shape = &g.editor->shapes[s];
        struct mal_normalizer norm;
        assert_ok(mal_normalizer_init(&norm, shape->size, &err), &err);
        for (int64_t from = 0, end; from < t->n_elements; from = end) {
            end = micro_batch_end(fact, t->n_elements, from, g.editor->micro_batch);
            for (size_t m = 0; m < g.editor->n_modules; m++) {
                struct golden_rows r = golden_rows(&g, 0, m);
                if (r.shape == shape) {
                    take_in(&norm, end - from, r.d_in, r.d_out, r.u + from * r.d_in,
                            r.g + from * r.d_out);
                }
                golden_rows_free(&r);
            }
        }
        assert_true(norm.n == shape->norm.n);
        check_state(&g, 0, &norm, shape);
        mal_normalizer_finish(&norm);
    }
    mal_free(ids);
    mal_free(fact);
    golden_close(&g);
}

/* Keys that never varied, one that hardly did, and gradients that none did. */
static void test_lift(void **state) {
    struct mal_normalizer norm;
    struct mal_error err = {0};
    const float before[SIZE] = {0, 0.5f, 1e-6f, 1.5f, 0.03f, 0, 0, 0};
    const float mean = 2.030001f / 4, after[2] = {mean, 0.01f * mean};
    assert_ok(mal_normalizer_init(&norm, SIZE, &err), &err);
    memcpy(norm.std, before, sizeof before);
    mal_normalizer_lift(&norm, DU);
    assert_close((double)norm.std[0], (double)after[0], 1e-6);
    assert_close((double)norm.std[2], (double)after[1], 1e-6);
    for (int i = 0; i < SIZE; i++)
        if (i != 0 && i != 2) assert_true(norm.std[i] == before[i]);
    for (int i = DU; i < SIZE; i++)
        norm.std[i] = (float)(i - DU);
    mal_normalizer_lift(&norm, DU);
    assert_true(norm.std[DU] == 1.5f && norm.std[DU + 1] == 1 && norm.std[DU + 2] == 2);
    mal_normalizer_finish(&norm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),         cmocka_unit_test(test_single_rows),
        cmocka_unit_test(test_formulas),      cmocka_unit_test(test_golden),
        cmocka_unit_test(test_golden_malmen), cmocka_unit_test(test_lift),
    };
    return cmocka_run_group_tests_name("normalizer", tests, NULL, NULL);
}
