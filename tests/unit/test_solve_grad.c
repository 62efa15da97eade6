/* test_solve_grad.c - the solve of training against elimination in double, and its
 * backward pass against differences of L = <m, S>. */
#include "delta_part.h"
#include "edit_golden.h"

#include "core/editor/solve.h"
#include "core/editor/solve_grad.h"

/* ---- Reference: A S = U'D with A = U'U + e^lamda I + w K0'K0, in double ---- */

struct problem {
    int64_t n, d_in, d_out;
    double lamda, log_w;
    bool preserve;
};

enum { N_KEYS = 7 }; /* to preserve: fewer than most d_in, so their Gram is singular */

/* Host memory; `gram` is the whole symmetric matrix. */
struct made {
    struct problem p;
    double *u, *d, *m, *gram;
};

static double *wide(const float *x, int64_t n) {
    double *y = mal_malloc((size_t)n * sizeof *y);
    assert_non_null(y);
    for (int64_t i = 0; i < n; i++)
        y[i] = (double)x[i];
    return y;
}

static double *random_doubles(int64_t n, float scale, uint64_t seed) {
    float *x = random_floats(n, scale, seed);
    double *y = wide(x, n);
    mal_free(x);
    return y;
}

static struct made make(const struct problem *p) {
    struct made made = {.p = *p,
                        .u = random_doubles(p->n * p->d_in, 1, 11),
                        .d = random_doubles(p->n * p->d_out, 0.3f, 12),
                        .m = random_doubles(p->d_in * p->d_out, 1, 13)};
    if (!p->preserve) return made;
    double *keys = random_doubles(N_KEYS * p->d_in, 1, 14);
    made.gram = mal_calloc((size_t)(p->d_in * p->d_in), sizeof *made.gram);
    for (int64_t k = 0; k < N_KEYS; k++) {
        for (int64_t i = 0; i < p->d_in * p->d_in; i++) {
            made.gram[i] +=
                keys[k * p->d_in + i / p->d_in] * keys[k * p->d_in + i % p->d_in];
        }
    }
    mal_free(keys);
    return made;
}

static void made_free(struct made *made) {
    mal_free(made->u);
    mal_free(made->d);
    mal_free(made->m);
    mal_free(made->gram);
}

static void swap_rows(int64_t n, double *x, double *y) {
    for (int64_t j = 0; j < n; j++) {
        double t = x[j];
        x[j] = y[j];
        y[j] = t;
    }
}

/* b (n,m) := a^-1 b by elimination with pivoting; a is used up. */
static void eliminate(int64_t n, int64_t m, double *a, double *b) {
    for (int64_t k = 0; k < n; k++) {
        int64_t p = k;
        for (int64_t i = k + 1; i < n; i++)
            if (fabs(a[i * n + k]) > fabs(a[p * n + k])) p = i;
        swap_rows(n, a + k * n, a + p * n);
        swap_rows(m, b + k * m, b + p * m);
        for (int64_t i = 0; i < n; i++) {
            double f = a[i * n + k] / a[k * n + k];
            for (int64_t j = k; i != k && j < n; j++)
                a[i * n + j] -= f * a[k * n + j];
            for (int64_t j = 0; i != k && j < m; j++)
                b[i * m + j] -= f * b[k * m + j];
        }
    }
    for (int64_t i = 0; i < n * m; i++)
        b[i] /= a[i / m * n + i / m];
}

static double *reference_shift(const struct made *made) {
    const struct problem *p = &made->p;
    int64_t d_in = p->d_in, d_out = p->d_out;
    double *a = mal_calloc((size_t)(d_in * d_in), sizeof *a);
    double *s = mal_calloc((size_t)(d_in * d_out), sizeof *s);
    for (int64_t r = 0; r < p->n; r++) {
        const double *u = made->u + r * d_in, *d = made->d + r * d_out;
        for (int64_t i = 0; i < d_in * d_in; i++)
            a[i] += u[i / d_in] * u[i % d_in];
        for (int64_t i = 0; i < d_in * d_out; i++)
            s[i] += u[i / d_out] * d[i % d_out];
    }
    for (int64_t i = 0; p->preserve && i < d_in * d_in; i++)
        a[i] += exp(p->log_w) * made->gram[i];
    for (int64_t i = 0; i < d_in; i++)
        a[i * d_in + i] += exp(p->lamda);
    eliminate(d_in, d_out, a, s);
    mal_free(a);
    return s;
}

static double loss_of(const struct made *made) {
    double *s = reference_shift(made), sum = 0;
    for (int64_t i = 0; i < made->p.d_in * made->p.d_out; i++)
        sum += s[i] * made->m[i];
    mal_free(s);
    return sum;
}

/* dL/d *x, x being a number of `made`. */
static double slope(const struct made *made, double *x, double h) {
    double at = *x;
    *x = at + h;
    double above = loss_of(made);
    *x = at - h;
    double below = loss_of(made);
    *x = at;
    return (above - below) / (2 * h);
}

/* ---- The same on the device ---- */

struct device_problem {
    struct mal_solve solve;
    float *u, *d, *m, *shift, *dd;
    double *gram;
    struct mal_arena scratch;
};

static float *narrow(const double *x, int64_t n) {
    float *y = mal_malloc((size_t)n * sizeof *y), *mem;
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)x[i];
    mem = on_device(y, n);
    mal_free(y);
    return mem;
}

/* Of the Gram matrix the upper triangle is NaN: nobody may look at it. */
static void put(struct device_problem *dev, const struct made *made) {
    const struct problem *p = &made->p;
    *dev = (struct device_problem){.scratch = {.be = test_backend()},
                                   .u = narrow(made->u, p->n * p->d_in),
                                   .d = narrow(made->d, p->n * p->d_out),
                                   .m = narrow(made->m, p->d_in * p->d_out),
                                   .shift = on_device(NULL, p->d_in * p->d_out),
                                   .dd = on_device(NULL, p->n * p->d_out)};
    if (p->preserve) {
        size_t n = (size_t)(p->d_in * p->d_in);
        double *lower = mal_malloc(n * sizeof *lower);
        for (int64_t i = 0; i < p->d_in * p->d_in; i++)
            lower[i] = i % p->d_in > i / p->d_in ? (double)NAN : made->gram[i];
        dev->gram = mal_backend_alloc(test_backend(), n * sizeof *lower);
        mal_backend_upload(test_backend(), dev->gram, lower, n * sizeof *lower);
        mal_free(lower);
    }
    dev->solve = (struct mal_solve){.module = "h.3.c_proj",
                                    .n = p->n,
                                    .d_in = p->d_in,
                                    .d_out = p->d_out,
                                    .u = dev->u,
                                    .d = dev->d,
                                    .ridge = exp(p->lamda),
                                    .preserve_gram = dev->gram,
                                    .preserve_weight = p->preserve ? exp(p->log_w) : 0};
}

static void take_away(struct device_problem *dev) {
    free_device(dev->u);
    free_device(dev->d);
    free_device(dev->m);
    free_device(dev->shift);
    free_device(dev->dd);
    mal_backend_free(test_backend(), dev->gram);
    mal_arena_finish(&dev->scratch);
}

static void expect_close(const struct problem *p, const char *what, const float *device,
                         const double *want, int64_t n, double tolerance) {
    float *host = mal_malloc((size_t)n * sizeof *host);
    from_device(host, device, n);
    double *got = wide(host, n), error = relative_error(got, want, n);
    mal_free(host);
    mal_free(got);
    if (error <= tolerance) return;
    fail_msg("n %lld (%lld, %lld)%s: %s is %.3g off", (long long)p->n, (long long)p->d_in,
             (long long)p->d_out, p->preserve ? " preserving" : "", what, error);
}

static void expect_number(const struct problem *p, const char *what, double got,
                          double want) {
    if (fabs(got - want) <= 1e-6 * fabs(want) + 1e-9) return; /* the difference's own */
    fail_msg("n %lld (%lld, %lld)%s: %s is %.12g, must be %.12g", (long long)p->n,
             (long long)p->d_in, (long long)p->d_out, p->preserve ? " preserving" : "",
             what, got, want);
}

static const struct problem problems[] = {
    {.n = 1, .d_in = 1, .d_out = 1, .lamda = 0.3},
    {.n = 1, .d_in = 16, .d_out = 8, .lamda = -1},
    {.n = 5, .d_in = 16, .d_out = 3, .lamda = 0},  /* dual */
    {.n = 3, .d_in = 17, .d_out = 17, .lamda = 0}, /* factors in mal_solve() */
    {.n = 11, .d_in = 12, .d_out = 2, .lamda = -2},
    {.n = 12, .d_in = 12, .d_out = 2, .lamda = -2}, /* primal */
    {.n = 13, .d_in = 12, .d_out = 1, .lamda = 1},
    {.n = 30, .d_in = 9, .d_out = 5, .lamda = -1},
    {.n = 1, .d_in = 12, .d_out = 4, .lamda = 0, .log_w = 0.5, .preserve = true},
    {.n = 5, .d_in = 12, .d_out = 3, .lamda = -1, .log_w = -3, .preserve = true},
    {.n = 20, .d_in = 12, .d_out = 3, .lamda = -1, .log_w = 2, .preserve = true},
    {.n = 6, .d_in = 5, .d_out = 2, .lamda = 0, .log_w = -0.5, .preserve = true},
};

enum { N_PROBLEMS = sizeof problems / sizeof *problems };

/* ---- Forward ---- */

static void test_shift(void **state) {
    struct mal_error err = {0};
    for (size_t i = 0; i < N_PROBLEMS; i++) {
        struct made made = make(&problems[i]);
        struct device_problem dev;
        struct mal_delta_part part;
        put(&dev, &made);
        int64_t n = made.p.d_in * made.p.d_out;
        assert_ok(mal_solve(test_backend(), &dev.solve, &part, &err), &err);
        double *edit = part_shift(&part), *want = reference_shift(&made);
        for (int scratch = 0; scratch < 2; scratch++) {
            size_t before = mal_backend_bytes(test_backend());
            dev.solve.scratch = scratch ? &dev.scratch : NULL;
            mal_backend_zero(test_backend(), dev.shift, (size_t)n * sizeof(float));
            assert_ok(mal_solve_shift(test_backend(), &dev.solve, dev.shift, &err), &err);
            expect_close(&made.p, "shift", dev.shift, want, n, 1e-7);
            expect_close(&made.p, "shift of an edit", dev.shift, edit, n, 3e-7);
            size_t own = mal_backend_bytes(test_backend()) - before;
            assert_int_equal(own, scratch ? mal_solve_grad_bytes(&dev.solve) : 0);
        }
        mal_free(edit);
        mal_free(want);
        mal_free(part.module);
        mal_free(part.data);
        take_away(&dev);
        made_free(&made);
    }
}

/* ---- Backward ---- */

static double *difference_gradient(struct made *made) {
    int64_t n = made->p.n * made->p.d_out;
    double *want = mal_malloc((size_t)n * sizeof *want);
    for (int64_t i = 0; i < n; i++)
        want[i] = slope(made, &made->d[i], 0.5); /* L is linear in D */
    return want;
}

static void test_gradients(void **state) {
    struct mal_error err = {0};
    for (size_t i = 0; i < 4 * N_PROBLEMS; i++) {
        struct made made = make(&problems[i / 4]);
        struct device_problem dev;
        bool alias = i & 1;
        put(&dev, &made);
        if (i & 2) dev.solve.scratch = &dev.scratch;
        float *dd = alias ? dev.d : dev.dd;
        double *want = difference_gradient(&made), d_lamda = NAN, d_preserve = NAN;
        size_t before = mal_backend_bytes(test_backend());
        assert_ok(mal_solve_bwd(test_backend(), &dev.solve, dev.m, dd, &d_lamda,
                                &d_preserve, &err),
                  &err);
        size_t own = mal_backend_bytes(test_backend()) - before;
        assert_int_equal(own, i & 2 ? mal_solve_grad_bytes(&dev.solve) : 0);
        expect_close(&made.p, "dL/dD", dd, want, made.p.n * made.p.d_out, 1e-7);
        expect_number(&made.p, "dL/dlamda", d_lamda, slope(&made, &made.p.lamda, 1e-4));
        expect_number(&made.p, "dL/d log w", d_preserve,
                      made.p.preserve ? slope(&made, &made.p.log_w, 1e-4) : 0);
        mal_free(want);
        take_away(&dev);
        made_free(&made);
    }
}

/* Who does not want it need not give a place for it. */
static void test_no_preserve_gradient(void **state) {
    struct mal_error err = {0};
    struct made made = make(&problems[9]);
    struct device_problem dev;
    double d_lamda = NAN;
    assert_true(made.p.preserve);
    put(&dev, &made);
    assert_ok(
        mal_solve_bwd(test_backend(), &dev.solve, dev.m, dev.dd, &d_lamda, NULL, &err),
        &err);
    expect_number(&made.p, "dL/dlamda", d_lamda, slope(&made, &made.p.lamda, 1e-4));
    take_away(&dev);
    made_free(&made);
}

/* Several panels of the factorisation: <dL/dD, D> = <m, S>, as S is linear in D. */
static void test_panels(void **state) {
    static const struct problem large[] = {{.n = 520, .d_in = 540, .d_out = 3},
                                           {.n = 560, .d_in = 530, .d_out = 3}};
    struct mal_error err = {0};
    for (size_t i = 0; i < 2; i++) {
        struct made made = make(&large[i]);
        struct device_problem dev;
        double d_lamda, left = 0;
        put(&dev, &made);
        int64_t n = made.p.n * made.p.d_out;
        float *dd = mal_malloc((size_t)n * sizeof *dd);
        assert_ok(mal_solve_bwd(test_backend(), &dev.solve, dev.m, dev.dd, &d_lamda, NULL,
                                &err),
                  &err);
        from_device(dd, dev.dd, n);
        for (int64_t k = 0; k < n; k++)
            left += (double)dd[k] * made.d[k];
        expect_number(&made.p, "<dL/dD, D>", left, loss_of(&made));
        mal_free(dd);
        take_away(&dev);
        made_free(&made);
    }
}

/* ---- Errors ---- */

static void expect_failure(struct device_problem *dev, enum mal_status status,
                           const char *words) {
    struct mal_error err = {0};
    double d_lamda = 5, d_preserve = 6;
    size_t before = mal_backend_bytes(test_backend());
    assert_false(mal_solve_shift(test_backend(), &dev->solve, dev->shift, &err));
    assert_non_null(strstr(err.text, "h.3.c_proj"));
    assert_error(&err, status, words);
    assert_false(mal_solve_bwd(test_backend(), &dev->solve, dev->m, dev->dd, &d_lamda,
                               &d_preserve, &err));
    assert_non_null(strstr(err.text, "h.3.c_proj"));
    assert_error(&err, status, words);
    assert_true(d_lamda == 5 && d_preserve == 6);
    assert_int_equal(mal_backend_bytes(test_backend()), before);
}

static void set_float(float *mem, float value) {
    mal_backend_upload(test_backend(), mem, &value, sizeof value);
}

static void test_errors(void **state) {
    for (int dual = 0; dual < 2; dual++) {
        struct problem p = {.n = dual ? 3 : 9, .d_in = 5, .d_out = 2};
        struct made made = make(&p);
        struct device_problem dev;
        static const double ridges[] = {0, -1, (double)INFINITY, (double)NAN};
        put(&dev, &made);
        for (size_t i = 0; i < sizeof ridges / sizeof *ridges; i++) {
            dev.solve.ridge = ridges[i];
            expect_failure(&dev, MAL_NUMERIC, "ridge");
        }
        dev.solve.ridge = 1;
        set_float(dev.d + 1, NAN);
        expect_failure(&dev, MAL_NUMERIC, "value differences");
        set_float(dev.d + 1, 0);
        set_float(dev.u + 2, INFINITY);
        expect_failure(&dev, MAL_NUMERIC, "keys");
        take_away(&dev);
        made_free(&made);
    }
}

/* A Gram matrix of keys cannot be indefinite; what is not one is found. */
static void test_indefinite(void **state) {
    struct problem p = {.n = 3, .d_in = 5, .d_out = 2, .preserve = true};
    struct made made = make(&p);
    struct device_problem dev;
    for (int64_t i = 0; i < 25; i++)
        made.gram[i] = i % 6 == 0 ? -100 : 0;
    put(&dev, &made);
    expect_failure(&dev, MAL_NUMERIC, "not positive definite");
    dev.solve.preserve_weight = -1;
    expect_failure(&dev, MAL_NUMERIC, "weight of the preservation keys");
    take_away(&dev);
    made_free(&made);
}

static bool refuse(void *arg) {
    return false;
}

static void test_cancelled(void **state) {
    struct mal_error err = {0};
    struct made made = make(&problems[2]);
    struct device_problem dev;
    double d_lamda = 5;
    size_t before = mal_backend_bytes(test_backend());
    put(&dev, &made);
    dev.solve.tick = refuse;
    assert_false(mal_solve_shift(test_backend(), &dev.solve, dev.shift, &err));
    assert_error(&err, MAL_CANCELLED, "cancelled");
    assert_false(
        mal_solve_bwd(test_backend(), &dev.solve, dev.m, dev.dd, &d_lamda, NULL, &err));
    assert_error(&err, MAL_CANCELLED, "cancelled");
    take_away(&dev);
    made_free(&made);
    assert_int_equal(mal_backend_bytes(test_backend()), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shift),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_no_preserve_gradient),
        cmocka_unit_test(test_panels),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_indefinite),
        cmocka_unit_test(test_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
