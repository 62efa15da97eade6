/* test_solve.c - the shift against elimination in long double, both systems, both forms
 * it is stored in, and what the errors name. */
#include "delta_part.h"
#include "edit_golden.h"

#include <float.h>

#include "core/editor/hypernet.h"
#include "core/editor/solve.h"

/* ---- Reference: (U'U + ridge I) S = U'D by elimination with pivoting, long double ----
 */

static void eliminate(int64_t n, int64_t m, long double *a, long double *b) {
    for (int64_t k = 0; k < n; k++) {
        int64_t p = k;
        for (int64_t i = k + 1; i < n; i++)
            if (fabsl(a[i * n + k]) > fabsl(a[p * n + k])) p = i;
        for (int64_t j = 0; j < n; j++) {
            long double t = a[k * n + j];
            a[k * n + j] = a[p * n + j];
            a[p * n + j] = t;
        }
        for (int64_t j = 0; j < m; j++) {
            long double t = b[k * m + j];
            b[k * m + j] = b[p * m + j];
            b[p * m + j] = t;
        }
        for (int64_t i = k + 1; i < n; i++) {
            long double f = a[i * n + k] / a[k * n + k];
            for (int64_t j = k; j < n; j++)
                a[i * n + j] -= f * a[k * n + j];
            for (int64_t j = 0; j < m; j++)
                b[i * m + j] -= f * b[k * m + j];
        }
    }
    for (int64_t k = n - 1; k >= 0; k--) {
        for (int64_t j = 0; j < m; j++) {
            for (int64_t i = k + 1; i < n; i++)
                b[k * m + j] -= a[k * n + i] * b[i * m + j];
            b[k * m + j] /= a[k * n + k];
        }
    }
}

static double *reference_shift(const float *u, const float *d, int64_t n, int64_t d_in,
                               int64_t d_out, double ridge) {
    long double *a = mal_calloc((size_t)(d_in * d_in), sizeof *a);
    long double *b = mal_calloc((size_t)(d_in * d_out), sizeof *b);
    double *s = mal_malloc((size_t)(d_in * d_out) * sizeof *s);
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < d_in; i++) {
            for (int64_t j = 0; j < d_in; j++)
                a[i * d_in + j] +=
                    (long double)u[r * d_in + i] * (long double)u[r * d_in + j];
            for (int64_t j = 0; j < d_out; j++)
                b[i * d_out + j] +=
                    (long double)u[r * d_in + i] * (long double)d[r * d_out + j];
        }
    }
    for (int64_t i = 0; i < d_in; i++)
        a[i * d_in + i] += (long double)ridge;
    eliminate(d_in, d_out, a, b);
    for (int64_t i = 0; i < d_in * d_out; i++)
        s[i] = (double)b[i];
    mal_free(a);
    mal_free(b);
    return s;
}

static void part_free(struct mal_delta_part *part) {
    mal_free(part->module);
    mal_free(part->data);
}

/* ||Q'Q - I|| largest element of the left factor as stored */
static double skewness(const struct mal_delta_part *part) {
    double worst = 0;
    float *left = part_floats(part);
    for (int64_t k = 0; k < part->rank; k++) {
        for (int64_t l = 0; l <= k; l++) {
            double sum = k == l ? -1 : 0;
            for (int64_t i = 0; i < part->d_in; i++)
                sum +=
                    (double)left[i * part->rank + k] * (double)left[i * part->rank + l];
            worst = fmax(worst, fabs(sum));
        }
    }
    mal_free(left);
    return worst;
}

/* ---- Against the reference ---- */

struct problem {
    int64_t n, d_in, d_out;
    double ridge;
    double decay; /* row i of u is scaled by decay^i / n: 1 = well-conditioned */
    bool twins;   /* rows come twice */
    enum mal_dtype dtype;
};

static float *make_keys(const struct problem *p) {
    float *u = random_floats(p->n * p->d_in, 1, (uint64_t)(p->n * 131 + p->d_in));
    for (int64_t i = 0; i < p->n; i++) {
        float scale = (float)pow(p->decay, (double)i / (double)p->n);
        for (int64_t j = 0; j < p->d_in; j++) {
            if (p->twins && i % 2)
                u[i * p->d_in + j] = u[(i - 1) * p->d_in + j];
            else
                u[i * p->d_in + j] *= scale;
        }
    }
    return u;
}

/* The rounding error a part states is what rounding did: exact for dense, put together
 * from the factors' own otherwise. */
static void check_rounding(const struct mal_delta_part *part, const double *got,
                           const double *want) {
    double lost = relative_error(got, want, part->d_in * part->d_out);
    if (!(part->rounding_error < (part->dtype == MAL_BF16 ? 4e-3 : 1e-6)))
        fail_msg("rounding error %g", part->rounding_error);
    if (part->rounding_error > 0 &&
        !(lost < 1.5 * part->rounding_error && lost > 0.6 * part->rounding_error))
        fail_msg("stated rounding error %g, measured %g", part->rounding_error, lost);
}

static void check_problem(const struct problem *p, double tolerance) {
    struct mal_error err = {0};
    struct mal_delta_part part;
    float *u = make_keys(p), *d = random_floats(p->n * p->d_out, 0.1f, 99);
    struct mal_solve solve = {.module = "h.0.mlp",
                              .n = p->n,
                              .d_in = p->d_in,
                              .d_out = p->d_out,
                              .dtype = p->dtype,
                              .ridge = p->ridge,
                              .u = on_device(u, p->n * p->d_in),
                              .d = on_device(d, p->n * p->d_out)};
    size_t before = mal_backend_bytes(test_backend());
    assert_ok(mal_solve(test_backend(), &solve, &part, &err), &err);
    assert_int_equal(mal_backend_bytes(test_backend()), before);
    assert_string_equal(part.module, "h.0.mlp");
    assert_int_equal(part.d_in, p->d_in);
    assert_int_equal(part.d_out, p->d_out);

    bool factors = p->n < p->d_in && mal_delta_factors_pay(p->d_in, p->d_out, p->n);
    assert_int_equal(part.encoding, factors ? MAL_ENCODING_FACTORS : MAL_ENCODING_DENSE);
    assert_int_equal(part.rank, factors ? p->n : 0);
    assert_int_equal(part.dtype, p->dtype == MAL_BF16 ? MAL_BF16 : MAL_F32);
    if (factors) assert_true(skewness(&part) < (p->dtype == MAL_BF16 ? 4e-3 : 1e-6));

    double *want = reference_shift(u, d, p->n, p->d_in, p->d_out, p->ridge);
    double *got = part_shift(&part), norm = 0;
    double error = relative_error(got, want, p->d_in * p->d_out);
    for (int64_t i = 0; i < p->d_in * p->d_out; i++)
        norm += want[i] * want[i];
    if (!(error < tolerance)) {
        fail_msg("n %lld (%lld, %lld) decay %g: off by %g", (long long)p->n,
                 (long long)p->d_in, (long long)p->d_out, p->decay, error);
    }
    if (!(fabs(part.norm - sqrt(norm)) <= 1e-6 * sqrt(norm)))
        fail_msg("norm %.9g, not %.9g", part.norm, sqrt(norm));
    if (p->n * p->d_out >= 64) check_rounding(&part, got, want);
    free_device(solve.u);
    free_device(solve.d);
    mal_free(u);
    mal_free(d);
    mal_free(want);
    mal_free(got);
    part_free(&part);
}

static void test_shapes(void **state) {
    static const struct problem problems[] = {
        {.n = 1, .d_in = 1, .d_out = 1},     {.n = 1, .d_in = 16, .d_out = 8},
        {.n = 15, .d_in = 16, .d_out = 8},   {.n = 16, .d_in = 16, .d_out = 8},
        {.n = 17, .d_in = 16, .d_out = 8},   {.n = 200, .d_in = 33, .d_out = 7},
        {.n = 5, .d_in = 16, .d_out = 16}, /* factors */
        {.n = 8, .d_in = 16, .d_out = 16}, /* as many bytes: dense */
        {.n = 20, .d_in = 67, .d_out = 130}, {.n = 40, .d_in = 48, .d_out = 5},
        {.n = 70, .d_in = 65, .d_out = 3},   {.n = 9, .d_in = 8, .d_out = 1},
    };
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        struct problem p = problems[i];
        p.ridge = i % 2 ? 1 : 0.25;
        p.decay = 1;
        check_problem(&p, 2e-7);
    }
}

/* Several panels of the factorisation, the last one not full. */
static void test_panels(void **state) {
    check_problem(
        &(struct problem){.n = 700, .d_in = 530, .d_out = 6, .ridge = 1, .decay = 1},
        2e-7);
    check_problem(
        &(struct problem){.n = 520, .d_in = 540, .d_out = 3, .ridge = 1, .decay = 1},
        2e-7);
}

/* Condition numbers of 1e8 and more, where the reference's fp32 keeps nothing. */
static void test_ill_conditioned(void **state) {
    check_problem(
        &(struct problem){.n = 60, .d_in = 24, .d_out = 4, .ridge = 1e-7, .decay = 1e-5},
        1e-6);
    check_problem(
        &(struct problem){.n = 20, .d_in = 64, .d_out = 64, .ridge = 1e-7, .decay = 1e-4},
        1e-6);
    check_problem(
        &(struct problem){
            .n = 16, .d_in = 64, .d_out = 64, .ridge = 1e-3, .decay = 1, .twins = true},
        1e-6);
}

/* For weights in bf16 the same, as coarse as they are, however badly conditioned. */
static void test_bf16(void **state) {
    static const struct problem problems[] = {
        {.n = 1, .d_in = 16, .d_out = 8, .ridge = 1, .decay = 1},
        {.n = 17, .d_in = 16, .d_out = 8, .ridge = 1, .decay = 1},
        {.n = 5, .d_in = 16, .d_out = 16, .ridge = 1, .decay = 1},
        {.n = 20, .d_in = 67, .d_out = 130, .ridge = 1, .decay = 1},
        {.n = 60, .d_in = 24, .d_out = 4, .ridge = 1e-7, .decay = 1e-5},
        {.n = 20, .d_in = 64, .d_out = 64, .ridge = 1e-7, .decay = 1e-4},
    };
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        struct problem p = problems[i];
        p.dtype = MAL_BF16;
        check_problem(&p, 4e-3);
    }
}

/* fp16 has more digits than bf16: fp32 is kept. */
static void test_fp16(void **state) {
    check_problem(
        &(struct problem){
            .n = 5, .d_in = 16, .d_out = 16, .ridge = 1, .decay = 1, .dtype = MAL_F16},
        2e-7);
}

/* Primal and dual are the same S: below and above n = d_in with rows of zeros filled up.
 */
static void test_primal_is_dual(void **state) {
    enum { N = 12, D_IN = 16, D_OUT = 5 };
    struct mal_error err = {0};
    float u[D_IN * D_IN] = {0}, d[D_IN * D_OUT] = {0};
    uint64_t seed = 5;
    for (int i = 0; i < N * D_IN; i++)
        u[i] = next_float(&seed);
    for (int i = 0; i < N * D_OUT; i++)
        d[i] = next_float(&seed);
    struct mal_solve solve = {.module = "m",
                              .n = N,
                              .d_in = D_IN,
                              .d_out = D_OUT,
                              .ridge = 0.5,
                              .u = on_device(u, D_IN * D_IN),
                              .d = on_device(d, D_IN * D_OUT)};
    struct mal_delta_part dual, primal;
    assert_ok(mal_solve(test_backend(), &solve, &dual, &err), &err);
    solve.n = D_IN;
    assert_ok(mal_solve(test_backend(), &solve, &primal, &err), &err);
    double *a = part_shift(&dual), *b = part_shift(&primal);
    assert_true(relative_error(a, b, D_IN * D_OUT) < 2e-7);
    free_device(solve.u);
    free_device(solve.d);
    mal_free(a);
    mal_free(b);
    part_free(&dual);
    part_free(&primal);
}

static void test_outer(void **state) {
    static const int64_t sizes[][3] = {{3, 16, 16}, {1, 4, 4}, {9, 16, 16}, {40, 16, 8}};
    for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
        int64_t n = sizes[c][0], d_in = sizes[c][1], d_out = sizes[c][2];
        struct mal_error err = {0};
        struct mal_delta_part part;
        float *u = random_floats(n * d_in, 1, 3), *g = random_floats(n * d_out, 1, 4);
        struct mal_solve solve = {.module = "m",
                                  .n = n,
                                  .d_in = d_in,
                                  .d_out = d_out,
                                  .u = on_device(u, n * d_in),
                                  .d = on_device(g, n * d_out)};
        double *want = mal_calloc((size_t)(d_in * d_out), sizeof *want);
        for (int64_t r = 0; r < n; r++)
            for (int64_t i = 0; i < d_in; i++)
                for (int64_t j = 0; j < d_out; j++)
                    want[i * d_out + j] -=
                        0.3 * (double)u[r * d_in + i] * (double)g[r * d_out + j];
        assert_ok(mal_outer_shift(test_backend(), &solve, -0.3, &part, &err), &err);
        assert_int_equal(part.encoding, mal_delta_factors_pay(d_in, d_out, n)
                                            ? MAL_ENCODING_FACTORS
                                            : MAL_ENCODING_DENSE);
        double *got = part_shift(&part);
        assert_true(relative_error(got, want, d_in * d_out) < 2e-7);
        free_device(solve.u);
        free_device(solve.d);
        mal_free(u);
        mal_free(g);
        mal_free(want);
        mal_free(got);
        part_free(&part);
    }
}

/* No difference, no shift. */
static void test_zero(void **state) {
    struct mal_error err = {0};
    struct mal_delta_part part;
    float u[2 * 8], d[2 * 8] = {0};
    uint64_t seed = 1;
    for (int i = 0; i < 16; i++)
        u[i] = next_float(&seed);
    struct mal_solve solve = {.module = "m",
                              .n = 2,
                              .d_in = 8,
                              .d_out = 8,
                              .ridge = 1,
                              .u = on_device(u, 16),
                              .d = on_device(d, 16)};
    assert_ok(mal_solve(test_backend(), &solve, &part, &err), &err);
    assert_true(part.norm == 0 && part.rounding_error == 0);
    free_device(solve.u);
    free_device(solve.d);
    part_free(&part);
}

/* ---- Errors ---- */

static void expect_error(float *u, float *d, int64_t n, double ridge,
                         bool (*tick)(void *), enum mal_status status,
                         const char *words) {
    struct mal_error err = {0};
    struct mal_delta_part part = {0};
    struct mal_solve solve = {.module = "h.7.c_proj",
                              .n = n,
                              .d_in = 4,
                              .d_out = 3,
                              .ridge = ridge,
                              .u = on_device(u, n * 4),
                              .d = on_device(d, n * 3),
                              .tick = tick};
    size_t before = mal_backend_bytes(test_backend());
    assert_false(mal_solve(test_backend(), &solve, &part, &err));
    assert_null(part.data);
    assert_int_equal(mal_backend_bytes(test_backend()), before);
    assert_error(&err, status, words);
    free_device(solve.u);
    free_device(solve.d);
}

static bool stop(void *arg) {
    return false;
}

static void test_errors(void **state) {
    float u[8 * 4], d[8 * 3], zero[8 * 4] = {0};
    uint64_t seed = 1;
    for (int i = 0; i < 8 * 4; i++)
        u[i] = next_float(&seed);
    for (int i = 0; i < 8 * 3; i++)
        d[i] = next_float(&seed);
    for (int64_t n = 2; n <= 8; n += 6) { /* dual, primal */
        expect_error(u, d, n, 1, stop, MAL_CANCELLED, "cancelled");
        expect_error(u, d, n, 0, NULL, MAL_NUMERIC,
                     "module 'h.7.c_proj': the ridge e^lamda is 0");
        expect_error(u, d, n, (double)INFINITY, NULL, MAL_NUMERIC,
                     "ridge e^lamda is inf");
        expect_error(u, d, n, (double)NAN, NULL, MAL_NUMERIC, "ridge e^lamda is");
        u[5] = NAN;
        expect_error(u, d, n, 1, NULL, MAL_NUMERIC,
                     "module 'h.7.c_proj': the keys have a NaN");
        u[5] = 0.5f;
        d[2] = INFINITY;
        expect_error(u, d, n, 1, NULL, MAL_NUMERIC,
                     "h.7.c_proj': the value differences have");
        d[2] = 0.5f;
    }
    /* Equal rows and a ridge that vanishes beside them: the second pivot is 0. */
    for (int i = 0; i < 8; i++)
        u[i] = 1;
    expect_error(
        u, d, 2, 1e-300, NULL, MAL_NUMERIC,
        "'h.7.c_proj': the system of 2 is not positive definite: pivot 0 in row 1");
    /* A column of zeros is held up by the ridge alone, however small; sums beyond fp32
     * are not. */
    for (int i = 0; i < 8 * 3; i++)
        d[i] = 3e38f;
    for (int i = 0; i < 8 * 4; i++)
        u[i] = i % 5 ? 0 : 1e-3f;
    expect_error(u, d, 8, 1e-12, NULL, MAL_NUMERIC, "h.7.c_proj': the shift has a value");
    expect_error(zero, d, 8, -1, NULL, MAL_NUMERIC, "ridge");
}

/* The row is that of the whole system, not of the panel it was found in. */
static void test_pivot_in_later_panel(void **state) {
    enum { N = 520, D_IN = 600 };
    struct mal_error err = {0};
    struct mal_delta_part part;
    float *u = mal_calloc((size_t)N * D_IN, sizeof *u), d[N] = {0};
    for (int i = 0; i < N; i++)
        u[i * D_IN + (i == 517 ? 3 : i)] = 1;
    struct mal_solve solve = {.module = "m",
                              .n = N,
                              .d_in = D_IN,
                              .d_out = 1,
                              .ridge = 1e-300,
                              .u = on_device(u, (int64_t)N * D_IN),
                              .d = on_device(d, N)};
    assert_false(mal_solve(test_backend(), &solve, &part, &err));
    assert_error(&err, MAL_NUMERIC, "pivot 0 in row 517");
    free_device(solve.u);
    free_device(solve.d);
    mal_free(u);
}

static bool count(void *arg) {
    ++*(int *)arg;
    return true;
}

static void test_ticks_and_time(void **state) {
    enum { N = 1200, D_IN = 1100, D_OUT = 2 };
    struct mal_error err = {0};
    struct mal_delta_part part;
    float *u = random_floats(N * D_IN, 1, 1), *d = random_floats(N * D_OUT, 1, 2);
    double seconds[2] = {0};
    int ticks = 0;
    struct mal_solve solve = {.module = "m",
                              .n = N,
                              .d_in = D_IN,
                              .d_out = D_OUT,
                              .ridge = 1,
                              .u = on_device(u, N * D_IN),
                              .d = on_device(d, N * D_OUT),
                              .tick = count,
                              .tick_arg = &ticks,
                              .seconds = seconds};
    assert_ok(mal_solve(test_backend(), &solve, &part, &err), &err);
    assert_true(ticks > 6);
    assert_true(seconds[0] > 0 && seconds[1] > 0);
    part_free(&part);
    free_device(solve.u);
    free_device(solve.d);
    mal_free(u);
    mal_free(d);
}

static void test_no_memory(void **state) {
    float *u = random_floats(3 * 16, 1, 1), *d = random_floats(3 * 16, 1, 2);
    struct mal_solve solve = {.module = "m",
                              .n = 3,
                              .d_in = 16,
                              .d_out = 16,
                              .ridge = 1,
                              .u = on_device(u, 3 * 16),
                              .d = on_device(d, 3 * 16)};
    for (long n = 1; n < 50; n++) {
        struct mal_error err = {0};
        struct mal_delta_part part;
        mal_alloc_fail_at(n);
        bool ok = mal_solve(test_backend(), &solve, &part, &err);
        mal_alloc_fail_at(0);
        if (ok) {
            part_free(&part);
            assert_true(n > 3);
            break;
        }
        assert_error(&err, MAL_NO_MEMORY, "module 'm'");
    }
    free_device(solve.u);
    free_device(solve.d);
    mal_free(u);
    mal_free(d);
}

/* ---- Against the reference implementation ---- */

static double shift_tolerance(const struct golden *g, size_t batch, const char *module) {
    char key[256];
    snprintf(key, sizeof key, "%zu.%s", batch, module);
    const json_t *t = json_object_get(json_object_get(g->info, "tolerance"), "shift");
    return json_number_value(json_object_get(t, g->sequential ? key : module));
}

/* MEND: u_hat and g_hat, each on its own, through the net. */
static void mend_rows(const struct golden *g, const struct golden_rows *r, float **u_hat,
                      float **g_hat) {
    struct mal_backend *be = test_backend();
    struct mal_error err = {0};
    struct mal_hypernet *hyper;
    struct mal_arena scratch;
    assert_ok(mal_hypernet_create(&hyper, r->shape, g->editor->rank, g->editor->n_blocks,
                                  be, &err),
              &err);
    assert_ok(mal_arena_init(&scratch, be, mal_hypernet_scratch_bytes(hyper, r->n), &err),
              &err);
    float *h = mal_hypernet_fwd(hyper, r->row, r->n, r->u, r->g, &scratch);
    int64_t size = r->shape->size;
    float *host = mal_malloc((size_t)(r->n * size) * sizeof *host);
    from_device(host, h, r->n * size);
    *u_hat = on_device(NULL, r->n * r->d_in);
    *g_hat = on_device(NULL, r->n * r->d_out);
    for (int64_t i = 0; i < r->n; i++) {
        mal_backend_upload(be, *u_hat + i * r->d_in, host + i * size,
                           (size_t)r->d_in * sizeof *host);
        mal_backend_upload(be, *g_hat + i * r->d_out, host + i * size + r->d_in,
                           (size_t)r->d_out * sizeof *host);
    }
    assert_ok(mal_backend_sync(be, &err), &err);
    mal_free(host);
    mal_arena_finish(&scratch);
    mal_hypernet_destroy(hyper);
}

static void golden_solve(const struct golden *g, size_t batch,
                         const struct golden_rows *r, struct mal_delta_part *part) {
    struct mal_error err = {0};
    struct mal_solve solve = {.module = r->module,
                              .n = r->n,
                              .d_in = r->d_in,
                              .d_out = r->d_out,
                              .ridge = 1}; /* UltraEdit: lamda 0 */
    if (g->editor->method == &mal_method_mend) {
        float *u_hat, *g_hat;
        mend_rows(g, r, &u_hat, &g_hat);
        solve.u = u_hat;
        solve.d = g_hat;
        assert_ok(mal_outer_shift(test_backend(), &solve, -(double)r->shape->lr[r->row],
                                  part, &err),
                  &err);
        free_device(solve.u);
        free_device(solve.d);
        return;
    }
    float *d = golden_f32(g, golden_find(g, "D", batch, r->module));
    solve.u = r->u;
    solve.d = on_device(d, r->n * r->d_out);
    if (r->shape->lamda) solve.ridge = exp((double)r->shape->lamda[r->row]);
    assert_ok(mal_solve(test_backend(), &solve, part, &err), &err);
    free_device(solve.d);
    mal_free(d);
}

static void test_golden(void **state) {
    size_t seen = 0;
    for (size_t c = 0; c < N_EDIT_CASES; c++) {
        struct golden g;
        if (!golden_open(&g, edit_cases[c])) continue;
        for (size_t b = 0; b < g.n_batches; b++) {
            for (size_t m = 0; m < g.editor->n_modules; m++, seen++) {
                struct golden_rows r = golden_rows(&g, b, m);
                struct mal_delta_part part;
                golden_solve(&g, b, &r, &part);
                double *got = part_shift(&part);
                double *want = golden_f64(&g, golden_find(&g, "shift64", b, r.module));
                double error = relative_error(got, want, r.d_in * r.d_out);
                double tolerance = shift_tolerance(&g, b, r.module);
                assert_true(tolerance > 0);
                if (!(error <= tolerance)) {
                    fail_msg("%s batch %zu %s: S is off by %g, %g is allowed", g.dir, b,
                             r.module, error, tolerance);
                }
                mal_free(got);
                mal_free(want);
                part_free(&part);
                golden_rows_free(&r);
            }
        }
        golden_close(&g);
    }
    assert_true(seen > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_panels),
        cmocka_unit_test(test_ill_conditioned),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_fp16),
        cmocka_unit_test(test_primal_is_dual),
        cmocka_unit_test(test_outer),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_pivot_in_later_panel),
        cmocka_unit_test(test_ticks_and_time),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests_name("solve", tests, NULL, NULL);
}
