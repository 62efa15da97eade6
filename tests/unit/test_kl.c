/* test_kl.c - the divergence of two rows of logits, either way, and its gradient, against
 * formulas and central differences in double. */
#include "device.h"

#include "reference.h"

struct kl_rows {
    int64_t v;
    double *base, *logits;
};

static double log_sum(int64_t v, const double *x) {
    return -ref_logprob(v, x, 0) + x[0];
}

static double ref_kl(const void *arg) {
    const struct kl_rows *r = arg;
    double sum = 0, from = log_sum(r->v, r->base), to = log_sum(r->v, r->logits);
    for (int64_t j = 0; j < r->v; j++) {
        double log_p = r->base[j] - from, log_q = r->logits[j] - to;
        sum += exp(log_p) * (log_p - log_q);
    }
    return sum;
}

/* Of the rows now from the base's. */
static double ref_kl_now(const void *arg) {
    const struct kl_rows *r = arg;
    return ref_kl(&(struct kl_rows){r->v, r->logits, r->base});
}

static const struct kl_case {
    int64_t n, v;
    float size;   /* of the base's logits */
    float offset; /* added to them */
    float apart;  /* of the rows */
} kl_cases[] = {
    {1, 1, 3, 0, 1},          {2, 2, 1, 0, 1},         {5, 31, 2, 0, 0.5f},
    {3, 33, 10, 0, 10},       {2, 200, 40, 0, 40},     {4, 1001, 2, -100, 1e-3f},
    {6, 3, 2, 0, 1e-3f},      {6, 31, 5, 0, 1e-3f},    {6, 31, 5, -100, 1e-5f},
    {3, 50257, 3, 0, 1},      {2, 50257, 3, 0, 1e-2f}, {2, 50257, 3, -100, 1e-5f},
    {2, 50257, 20, -100, 20},
};

/* A row of `got`, the gradient, and its divergence. */
static void check_kl_row(const struct kl_case *c, int64_t i, const float *base,
                         const float *logits, double scale, double kl, const float *got) {
    struct kl_rows row = {c->v, wide(base, c->v), wide(logits, c->v)};
    double want = ref_kl(&row);
    double from = log_sum(c->v, row.base), to = log_sum(c->v, row.logits);
    /* Exponentials are right to 1.5 ulp, and what cancels is of order 1. */
    check_close("kl", i, kl, want, 6e-8 + 5e-7 * want);
    int64_t step = c->v > 10000 ? 1009 : c->v > 1000 ? 37 : 1;
    for (int64_t j = 0; j < c->v; j++) {
        double q = exp(row.logits[j] - to), p = exp(row.base[j] - from);
        check_close("kl gradient", i * c->v + j, (double)got[j], scale * (q - p),
                    fabs(scale) * (1e-5 * (p + q) + 1e-37));
    }
    for (int64_t j = 0; j < c->v; j += step) {
        double by_difference = scale * slope(&row.logits[j], ref_kl, &row);
        check_close("kl gradient by differences", i * c->v + j, (double)got[j],
                    by_difference, 2e-6 * fabs(scale));
    }
    free(row.base);
    free(row.logits);
}

/* The same of mal_kl_now(). */
static void check_kl_now_row(const struct kl_case *c, int64_t i, const float *base,
                             const float *logits, double scale, double kl,
                             const float *got) {
    struct kl_rows row = {c->v, wide(base, c->v), wide(logits, c->v)};
    double want = ref_kl_now(&row);
    double from = log_sum(c->v, row.base), to = log_sum(c->v, row.logits);
    check_close("kl now", i, kl, want, 6e-8 + 5e-7 * want);
    int64_t step = c->v > 10000 ? 1009 : c->v > 1000 ? 37 : 1;
    for (int64_t j = 0; j < c->v; j++) {
        double log_q = row.logits[j] - to, log_p = row.base[j] - from, q = exp(log_q);
        /* The mean of log q - log p is right to a part of how far the rows are apart. */
        double size = fabs(log_q - log_p) + want + 0.02 * (double)c->apart;
        check_close("kl now gradient", i * c->v + j, (double)got[j],
                    scale * q * (log_q - log_p - want),
                    fabs(scale) * (1e-5 * q + 1e-37) * size);
    }
    for (int64_t j = 0; j < c->v; j += step) {
        double by_difference = scale * slope(&row.logits[j], ref_kl_now, &row);
        check_close("kl now gradient by differences", i * c->v + j, (double)got[j],
                    by_difference, 2e-6 * fabs(scale) * (1 + want));
    }
    free(row.base);
    free(row.logits);
}

static void check_kl(struct device *dev, const struct kl_case *c, bool now) {
    float *base = random_floats(dev, c->n * c->v);
    float *logits = random_floats(dev, c->n * c->v);
    float *scale = random_floats(dev, c->n);
    for (int64_t i = 0; i < c->n * c->v; i++) {
        base[i] = c->offset + c->size * base[i];
        logits[i] = base[i] + c->apart * logits[i];
    }
    float *dev_base = device_floats(dev, base, c->n * c->v);
    float *dev_logits = device_floats(dev, logits, c->n * c->v);
    float *dev_kl = device_floats(dev, NULL, c->n);
    (now ? mal_kl_now : mal_kl)(dev->be, c->n, c->v, dev_base, dev_logits,
                                device_floats(dev, scale, c->n), dev_kl);
    float *got = host_floats(dev, dev_logits, c->n * c->v);
    float *got_kl = host_floats(dev, dev_kl, c->n);
    float *base_after = host_floats(dev, dev_base, c->n * c->v);
    assert_memory_equal(base_after, base, (size_t)(c->n * c->v) * sizeof *base);
    for (int64_t i = 0; i < c->n; i++) {
        (now ? check_kl_now_row : check_kl_row)(c, i, base + i * c->v, logits + i * c->v,
                                                (double)scale[i], (double)got_kl[i],
                                                got + i * c->v);
    }
    free(base);
    free(logits);
    free(scale);
    free(got);
    free(got_kl);
    free(base_after);
    device_release(dev);
}

static void kl(void **state) {
    for (size_t t = 0; t < sizeof kl_cases / sizeof kl_cases[0]; t++) {
        check_kl(*state, &kl_cases[t], false);
        check_kl(*state, &kl_cases[t], true);
    }
}

/* Nothing diverges from itself, not by the last bit; nor, to rounding, from itself plus a
 * constant. */
static void kl_of_the_same(void **state) {
    struct device *dev = *state;
    int64_t n = 2, v = 5003;
    const float scale[] = {3, -2};
    float *x = random_floats(dev, n * v);
    for (int64_t i = 0; i < n * v; i++)
        x[i] *= 5;
    float *base = device_floats(dev, x, n * v), *logits = device_floats(dev, x, n * v);
    float *dev_kl = device_floats(dev, NULL, n),
          *dev_scale = device_floats(dev, scale, n);
    mal_kl(dev->be, n, v, base, logits, dev_scale, dev_kl);
    float *got = host_floats(dev, logits, n * v), *kl = host_floats(dev, dev_kl, n);
    for (int64_t i = 0; i < n; i++)
        assert_true(kl[i] == 0);
    for (int64_t i = 0; i < n * v; i++)
        assert_true(got[i] == 0);
    free(got);
    free(kl);

    mal_backend_upload(dev->be, logits, x, (size_t)(n * v) * sizeof *x);
    mal_kl_now(dev->be, n, v, base, logits, dev_scale, dev_kl);
    got = host_floats(dev, logits, n * v);
    kl = host_floats(dev, dev_kl, n);
    for (int64_t i = 0; i < n; i++)
        assert_true(kl[i] == 0);
    for (int64_t i = 0; i < n * v; i++)
        assert_true(got[i] == 0);
    free(got);
    free(kl);

    for (int64_t i = 0; i < n * v; i++)
        x[i] += 64;
    mal_backend_upload(dev->be, logits, x, (size_t)(n * v) * sizeof *x);
    mal_kl(dev->be, n, v, base, logits, dev_scale, dev_kl);
    kl = host_floats(dev, dev_kl, n);
    for (int64_t i = 0; i < n; i++)
        check_close("kl of shifted logits", i, (double)kl[i], 0, 5e-7);
    free(kl);
    free(x);
    device_release(dev);
}

/* q underflows where p is all there is: the divergence is a difference of logits still.
 */
static void kl_of_the_impossible(void **state) {
    struct device *dev = *state;
    const float base[] = {0, 300, 0}, logits[] = {0, -500, 0}, scale = 2;
    float *x = device_floats(dev, logits, 3), *dev_kl = device_floats(dev, NULL, 1);
    mal_kl(dev->be, 1, 3, device_floats(dev, base, 3), x, device_floats(dev, &scale, 1),
           dev_kl);
    float *got = host_floats(dev, x, 3), *kl = host_floats(dev, dev_kl, 1);
    const double want[] = {1, -2, 1};
    check_floats("gradient", 3, got, want, 1e-6, 0);
    check_close("kl", 0, (double)kl[0], 500 + log(2), 1e-4);
    free(got);
    free(kl);
    device_release(dev);
}

/* A pass that broke down shows: NaN in either row, and in no other. */
static void kl_of_nan(void **state) {
    struct device *dev = *state;
    const float base[] = {1, NAN, 2, 1, 2, 3, 1, 2, 3};
    const float logits[] = {1, 2, 3, 1, 2, NAN, 3, 2, 1}, scale[] = {1, 1, 1};
    float *x = device_floats(dev, logits, 9), *dev_kl = device_floats(dev, NULL, 3);
    mal_kl(dev->be, 3, 3, device_floats(dev, base, 9), x, device_floats(dev, scale, 3),
           dev_kl);
    float *kl = host_floats(dev, dev_kl, 3);
    assert_true(isnan(kl[0]) && isnan(kl[1]) && kl[2] > 0);
    free(kl);
    mal_backend_upload(dev->be, x, logits, sizeof logits);
    mal_kl_now(dev->be, 3, 3, device_floats(dev, base, 9), x,
               device_floats(dev, scale, 3), dev_kl);
    kl = host_floats(dev, dev_kl, 3);
    assert_true(isnan(kl[0]) && isnan(kl[1]) && kl[2] > 0);
    free(kl);
    device_release(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kl),
        cmocka_unit_test(kl_of_the_same),
        cmocka_unit_test(kl_of_the_impossible),
        cmocka_unit_test(kl_of_nan),
    };
    return cmocka_run_group_tests_name("kl", tests, device_open, device_close);
}
