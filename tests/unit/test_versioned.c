/* test_versioned.c - the operations behind versions: their bits are those of a plain
 * loop, for every shape, orientation and number of threads. */
#include "device.h"

#include <omp.h>

static const struct {
    int64_t d_in, d_out, rank;
} shapes[] = {
    {1, 1, 1},   {5, 3, 2},      {6, 32, 128},   {7, 33, 129},  {64, 48, 17},
    {13, 47, 1}, {385, 31, 260}, {96, 257, 131}, {770, 65, 40}, {3, 400, 5},
};

/* Numbers of very different size, so that another order of sums shows in the bits. */
static float *wild_floats(struct device *dev, int64_t n) {
    float *x = random_floats(dev, n);
    for (int64_t i = 0; i < n; i++)
        x[i] *= (float)exp2(12 * random_uniform(dev) - 6);
    return x;
}

static void check_bits(int64_t d_in, int64_t d_out, const float *want, const float *got,
                       bool transposed) {
    for (int64_t i = 0; i < d_in; i++) {
        for (int64_t j = 0; j < d_out; j++) {
            const float *g = got + (transposed ? j * d_in + i : i * d_out + j);
            if (memcmp(g, want + i * d_out + j, sizeof *g) != 0)
                fail_msg("(%lld,%lld) at %lld,%lld: %a, must be %a", (long long)d_in,
                         (long long)d_out, (long long)i, (long long)j, (double)*g,
                         (double)want[i * d_out + j]);
        }
    }
}

static float *transpose(int64_t rows, int64_t cols, const float *x) {
    float *y = malloc((size_t)(rows * cols) * sizeof *y);
    assert_non_null(y);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            y[j * rows + i] = x[i * cols + j];
    return y;
}

static void check_factors(struct device *dev, int64_t d_in, int64_t d_out, int64_t rank) {
    float *l = wild_floats(dev, d_in * rank), *r = wild_floats(dev, rank * d_out);
    float *t = wild_floats(dev, d_in * d_out), *t_transposed = transpose(d_in, d_out, t);
    float *dev_l = device_floats(dev, l, d_in * rank);
    float *dev_r = device_floats(dev, r, rank * d_out);
    float *dev_t = device_floats(dev, NULL, d_in * d_out);
    int64_t n = d_in * d_out;

    float *want = malloc((size_t)n * sizeof *want);
    assert_non_null(want);
    for (int64_t i = 0; i < d_in; i++) {
        for (int64_t j = 0; j < d_out; j++) {
            float sum = t[i * d_out + j];
            for (int64_t k = 0; k < rank; k++)
                sum = fmaf(l[i * rank + k], r[k * d_out + j], sum);
            want[i * d_out + j] = sum;
        }
    }
    for (int threads = 1; threads <= 2; threads++) {
        for (int transposed = 0; transposed < 2; transposed++) {
            omp_set_num_threads(threads);
            mal_backend_upload(dev->be, dev_t, transposed ? t_transposed : t,
                               (size_t)n * sizeof *t);
            mal_apply_factors(dev->be, d_in, d_out, rank, dev_l, dev_r, transposed,
                              dev_t);
            float *got = host_floats(dev, dev_t, n);
            check_bits(d_in, d_out, want, got, transposed);
            free(got);
        }
    }
    omp_set_num_threads(2);
    free(l);
    free(r);
    free(t);
    free(t_transposed);
    free(want);
    device_release(dev);
}

static void apply_factors_is_a_chain_of_fmas(void **state) {
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_factors(*state, shapes[i].d_in, shapes[i].d_out, shapes[i].rank);
}

/* Two deltas one after the other are the same as both factors side by side: a replay may
 * not depend on how it was cut. */
static void rank_can_be_split(void **state) {
    struct device *dev = *state;
    int64_t d_in = 37, d_out = 70, rank = 150, cut = 61;
    float *l = wild_floats(dev, d_in * rank), *r = wild_floats(dev, rank * d_out);
    float *t = wild_floats(dev, d_in * d_out), *left = wild_floats(dev, d_in * rank);
    float *one = device_floats(dev, t, d_in * d_out),
          *two = device_floats(dev, t, d_in * d_out);
    float *dev_r = device_floats(dev, r, rank * d_out);
    mal_apply_factors(dev->be, d_in, d_out, rank, device_floats(dev, l, d_in * rank),
                      dev_r, false, one);
    for (int64_t i = 0; i < d_in; i++)
        memcpy(left + i * cut, l + i * rank, (size_t)cut * sizeof *l);
    mal_apply_factors(dev->be, d_in, d_out, cut, device_floats(dev, left, d_in * cut),
                      dev_r, false, two);
    for (int64_t i = 0; i < d_in; i++)
        memcpy(left + i * (rank - cut), l + i * rank + cut,
               (size_t)(rank - cut) * sizeof *l);
    mal_apply_factors(dev->be, d_in, d_out, rank - cut,
                      device_floats(dev, left, d_in * (rank - cut)), dev_r + cut * d_out,
                      false, two);
    float *a = host_floats(dev, one, d_in * d_out),
          *b = host_floats(dev, two, d_in * d_out);
    check_bits(d_in, d_out, a, b, false);
    free(a);
    free(b);
    free(l);
    free(r);
    free(t);
    free(left);
    device_release(dev);
}

static void apply_dense_adds_once(void **state) {
    struct device *dev = *state;
    for (size_t c = 0; c < sizeof shapes / sizeof shapes[0]; c++) {
        int64_t d_in = shapes[c].d_in, d_out = shapes[c].d_out, n = d_in * d_out;
        float *s = wild_floats(dev, n), *t = wild_floats(dev, n);
        float *t_transposed = transpose(d_in, d_out, t);
        float *dev_s = device_floats(dev, s, n), *dev_t = device_floats(dev, NULL, n);
        float *want = malloc((size_t)n * sizeof *want);
        assert_non_null(want);
        for (int64_t i = 0; i < n; i++)
            want[i] = t[i] + s[i];
        for (int transposed = 0; transposed < 2; transposed++) {
            mal_backend_upload(dev->be, dev_t, transposed ? t_transposed : t,
                               (size_t)n * sizeof *t);
            mal_apply_dense(dev->be, d_in, d_out, dev_s, transposed, dev_t);
            float *got = host_floats(dev, dev_t, n);
            check_bits(d_in, d_out, want, got, transposed);
            free(got);
        }
        free(s);
        free(t);
        free(t_transposed);
        free(want);
        device_release(dev);
    }
}

/* x rounded to a type of `bits` significant bits and the smallest exponent `min`, by
 * arithmetic in double. */
static double rounded(double x, int bits, int min, double largest) {
    if (!isfinite(x)) return x;
    int exponent;
    frexp(x, &exponent);
    if (exponent < min) exponent = min;
    double step = ldexp(1, exponent - bits), y = nearbyint(x / step) * step;
    return fabs(y) > largest ? copysign(INFINITY, x) : y;
}

static double rounded_to(enum mal_dtype dtype, float x) {
    if (dtype == MAL_F16) return rounded((double)x, 11, -13, 65504);
    if (dtype == MAL_BF16) return rounded((double)x, 8, -125, 3.3895313892515355e38);
    return (double)x;
}

static void round_weight_rounds_once(void **state) {
    struct device *dev = *state;

    static const enum mal_dtype dtypes[] = {MAL_F32, MAL_F16, MAL_BF16};

    int64_t n = 70003;
    for (size_t c = 0; c < 3; c++) {
        float *w0 = random_floats(dev, n), *t = random_floats(dev, n);
        for (int64_t i = 0; i < n; i++) {
            float scale = (float)exp2(50 * random_uniform(dev) - 32);
            w0[i] = (float)rounded_to(dtypes[c], w0[i] * scale);
            if (isinf(w0[i])) w0[i] = 65504;
            t[i] *= scale * (float)exp2(-20 * random_uniform(dev));
        }
        t[0] = 0;
        w0[1] = 65504;
        t[1] = 1e30f;
        t[2] = NAN;
        t[3] = -INFINITY;
        float *dev_w = device_floats(dev, NULL, n);
        mal_round_weight(dev->be, n, device_floats(dev, w0, n), device_floats(dev, t, n),
                         dtypes[c], dev_w, MAL_F32);
        float *got = host_floats(dev, dev_w, n);
        assert_true(got[0] == w0[0]);
        for (int64_t i = 0; i < n; i++)
            check_close(mal_dtype_name(dtypes[c]), i, (double)got[i],
                        rounded_to(dtypes[c], w0[i] + t[i]), 0);
        free(got);
        free(w0);
        free(t);
        device_release(dev);
    }
}

static void sum_of_squares(void **state) {
    struct device *dev = *state;
    static const int64_t lengths[] = {0, 1, 7, 255, 257, 100001};
    double *dev_out, *sums[2];
    for (size_t c = 0; c < sizeof lengths / sizeof lengths[0]; c++) {
        int64_t n = lengths[c];
        float *x = wild_floats(dev, n);
        double want = 0;
        for (int64_t i = 0; i < n; i++)
            want += (double)x[i] * (double)x[i];
        float *dev_x = device_floats(dev, x, n);
        dev_out = device_doubles(dev, NULL, 1);
        for (int threads = 1; threads <= 2; threads++) {
            omp_set_num_threads(threads);
            mal_sum_squares(dev->be, n, dev_x, dev_out);
            sums[threads - 1] = host_copy(dev, dev_out, sizeof(double));
        }
        check_close("sum", n, *sums[0], want, 1e-13 * want);
        assert_memory_equal(sums[0], sums[1], sizeof(double));
        free(sums[0]);
        free(sums[1]);
        if (n > 0) {
            x[n - 1] = NAN;
            mal_backend_upload(dev->be, dev_x, x, (size_t)n * sizeof *x);
            mal_sum_squares(dev->be, n, dev_x, dev_out);
            double *got = host_copy(dev, dev_out, sizeof(double));
            assert_true(isnan(*got));
            free(got);
        }
        free(x);
        device_release(dev);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(apply_factors_is_a_chain_of_fmas),
        cmocka_unit_test(rank_can_be_split),
        cmocka_unit_test(apply_dense_adds_once),
        cmocka_unit_test(round_weight_rounds_once),
        cmocka_unit_test(sum_of_squares),
    };
    return cmocka_run_group_tests_name("versioned", tests, device_open, device_close);
}
