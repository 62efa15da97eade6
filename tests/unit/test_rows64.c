/* test_rows64.c - sums of rows in fp64, and what rounding a shift loses, against plain
 * loops. */
#include "device.h"

static void axpby64(void **state) {
    struct device *dev = *state;

    static const struct {
        int64_t n, c, pad_x, pad_y;
        double alpha, beta;
        bool narrow;
    } cases[] = {{1, 1, 0, 0, 2, 0, false},    {3, 5, 2, 1, -1, 1, true},
                 {7, 64, 0, 3, 0.5, 1, false}, {130, 257, 1, 0, 1, 1, true},
                 {2, 3000, 0, 0, 1, -2, true}, {4, 8, 0, 0, 3, 0, true}};

    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t].n, c = cases[t].c;
        int64_t ldx = c + cases[t].pad_x, ldy = c + cases[t].pad_y;
        float *x = random_floats(dev, n * ldx), *y = random_floats(dev, n * ldy);
        double *x64 = wide(x, n * ldx), *want = wide(y, n * ldy);
        if (cases[t].beta == 0) want[0] = NAN; /* is not read */
        double *dev_y = device_doubles(dev, want, n * ldy);
        mal_axpby64(dev->be,
                    &(struct mal_axpby64){
                        .n = n,
                        .c = c,
                        .alpha = cases[t].alpha,
                        .beta = cases[t].beta,
                        .x = cases[t].narrow ? (void *)device_floats(dev, x, n * ldx)
                                             : (void *)device_doubles(dev, x64, n * ldx),
                        .x_dtype = cases[t].narrow ? MAL_F32 : MAL_F64,
                        .ldx = ldx,
                        .y = dev_y,
                        .ldy = ldy});
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = 0; j < c; j++) {
                double before =
                    cases[t].beta == 0 ? 0 : cases[t].beta * want[i * ldy + j];
                want[i * ldy + j] = cases[t].alpha * x64[i * ldx + j] + before;
            }
        }
        double *got = host_copy(dev, dev_y, (size_t)(n * ldy) * sizeof *got);
        check_doubles("axpby64", n * ldy, got, want, 1e-15, 1e-15);
        free(x);
        free(y);
        free(x64);
        free(want);
        free(got);
        device_release(dev);
    }
}

/* Without x: ones, here down a diagonal. */
static void a_diagonal(void **state) {
    struct device *dev = *state;
    for (int64_t n = 1; n < 300; n = 3 * n + 1) {
        float *a = random_floats(dev, n * n);
        double *want = wide(a, n * n), *dev_a = device_doubles(dev, want, n * n);
        mal_axpby64(
            dev->be,
            &(struct mal_axpby64){
                .n = n, .c = 1, .alpha = 0.25, .beta = 1, .y = dev_a, .ldy = n + 1});
        for (int64_t i = 0; i < n; i++)
            want[i * n + i] += 0.25;
        double *got = host_copy(dev, dev_a, (size_t)(n * n) * sizeof *got);
        check_doubles("diagonal", n * n, got, want, 0, 0);
        free(a);
        free(want);
        free(got);
        device_release(dev);
    }
}

static void round_rows(void **state) {
    struct device *dev = *state;
    static const int64_t sizes[][2] = {{1, 1}, {1, 1000}, {33, 1}, {40, 70}, {130, 515}};
    for (size_t t = 0; t < 4 * sizeof sizes / sizeof sizes[0]; t++) {
        int64_t n = sizes[t / 4][0], c = sizes[t / 4][1];
        bool transposed = t % 2;
        enum mal_dtype dtype = t % 4 < 2 ? MAL_F32 : MAL_BF16;
        double *x = double_zeros(n * c), *want = double_zeros(2 * n);
        for (int64_t i = 0; i < n * c; i++)
            x[i] = random_uniform(dev) * pow(2.0, (double)(i % 9) - 4);
        size_t size = mal_dtype_size(dtype);
        void *y = device_buffer(dev, NULL, (size_t)(n * c) * size);
        double *sums = device_doubles(dev, NULL, 2 * n);
        mal_round_rows(dev->be, n, c, device_doubles(dev, x, n * c), transposed, y, dtype,
                       sums);
        void *stored = host_copy(dev, y, (size_t)(n * c) * size);
        float *got = malloc((size_t)(n * c) * sizeof *got);
        mal_to_f32(got, stored, dtype, (size_t)(n * c));
        double *got_sums = host_copy(dev, sums, 2 * (size_t)n * sizeof *got_sums);
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = 0; j < c; j++) {
                float rounded = (float)x[i * c + j];
                if (dtype == MAL_BF16)
                    rounded = mal_bf16_to_f32(mal_f32_to_bf16(rounded));
                double lost = (double)rounded - x[i * c + j];
                assert_true(got[transposed ? j * n + i : i * c + j] == rounded);
                want[2 * i] += x[i * c + j] * x[i * c + j];
                want[2 * i + 1] += lost * lost;
            }
        }
        check_doubles("sums", 2 * n, got_sums, want, 0, 1e-13);
        free(x);
        free(want);
        free(stored);
        free(got);
        free(got_sums);
        device_release(dev);
    }
}

/* What is beyond fp32 shows in the sums. */
static void round_rows_too_large(void **state) {
    struct device *dev = *state;
    const double x[6] = {1, 1e40, 2, 1, NAN, 2};
    float *y = device_floats(dev, NULL, 6);
    double *sums = device_doubles(dev, NULL, 4);
    mal_round_rows(dev->be, 2, 3, device_doubles(dev, x, 6), false, y, MAL_F32, sums);
    double *got = host_copy(dev, sums, 4 * sizeof *got);
    assert_true(isinf(got[1]) && isnan(got[3]));
    free(got);
    device_release(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(axpby64),
        cmocka_unit_test(a_diagonal),
        cmocka_unit_test(round_rows),
        cmocka_unit_test(round_rows_too_large),
    };
    return cmocka_run_group_tests_name("rows64", tests, device_open, device_close);
}
