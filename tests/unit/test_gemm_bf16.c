/* test_gemm_bf16.c - products on the devices that round: on "cpu:bf16" and "cuda:N" what
 * bf16 weights are multiplied with is rounded to bf16, everything else is exact to fp32's
 * sums; "cuda:N" multiplies fp16 weights, and fp32 where it may, in TF32. */
#include "rounding.h"

#include "core/round.h"

static void fill_bf16(struct device *dev, int64_t n, float *wide, uint16_t *narrow) {
    float *x = random_floats(dev, n);
    for (int64_t i = 0; i < n; i++) {
        narrow[i] = f32_to_bf16(x[i]);
        wide[i] = bf16_to_f32(narrow[i]);
    }
    free(x);
}

struct product {
    int64_t m, n, k;
    bool trans_a, trans_b, bias;
    float alpha, beta;
};

static void check(struct device *dev, const struct product *p) {
    int64_t m = p->m, n = p->n, k = p->k, ld_b = (p->trans_b ? k : n) + 3;
    int64_t rows_b = p->trans_b ? n : k, ld_a = (p->trans_a ? m : k) + 1, ld_c = n + 2;
    int64_t rows_a = p->trans_a ? k : m;
    float *a = random_floats(dev, rows_a * ld_a), *c = random_floats(dev, m * ld_c);
    float *bias = random_floats(dev, n), *b = malloc((size_t)(rows_b * ld_b) * sizeof *b);
    uint16_t *narrow = malloc((size_t)(rows_b * ld_b) * sizeof *narrow);
    fill_bf16(dev, rows_b * ld_b, b, narrow);

    double *want = calloc((size_t)(m * ld_c), sizeof *want);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < ld_c; j++) {
            double sum = 0;
            want[i * ld_c + j] = (double)c[i * ld_c + j];
            if (j >= n) continue; /* between rows nothing is written */
            for (int64_t q = 0; q < k; q++) {
                float x = a[p->trans_a ? q * ld_a + i : i * ld_a + q];
                float w = b[p->trans_b ? j * ld_b + q : q * ld_b + j];
                sum += (double)round_to_bf16(x) * (double)w;
            }
            want[i * ld_c + j] = (double)p->alpha * sum +
                                 (double)p->beta * want[i * ld_c + j] +
                                 (p->bias ? (double)bias[j] : 0);
        }
    }
    struct mal_gemm g = {
        .m = m,
        .n = n,
        .k = k,
        .a = device_floats(dev, a, rows_a * ld_a),
        .lda = ld_a,
        .trans_a = p->trans_a,
        .b = device_buffer(dev, narrow, (size_t)(rows_b * ld_b) * sizeof *narrow),
        .b_dtype = MAL_BF16,
        .ldb = ld_b,
        .trans_b = p->trans_b,
        .c = device_floats(dev, c, m * ld_c),
        .ldc = ld_c,
        .alpha = p->alpha,
        .beta = p->beta,
        .bias = p->bias ? device_floats(dev, bias, n) : NULL};
    mal_gemm(dev->be, &g);
    float *got = host_floats(dev, g.c, m * ld_c);
    check_floats("c", m * ld_c, got, want, 2e-6 * sqrt((double)k + 1), 1e-6);
    device_release(dev);
    free(a), free(b), free(c), free(bias), free(narrow), free(want), free(got);
}

static void test_products(void **state) {
    struct device *dev = *state;
    static const int64_t sizes[][3] = {{5, 1, 1},     {6, 32, 2},     {7, 33, 3},
                                       {96, 64, 64},  {97, 31, 1023}, {13, 300, 1025},
                                       {200, 65, 40}, {150, 8, 1030}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int form = 0; form < 8; form++) {
            struct product p = {.m = sizes[i][0],
                                .n = sizes[i][1],
                                .k = sizes[i][2],
                                .trans_a = form & 1,
                                .trans_b = form & 2,
                                .bias = form & 4,
                                .alpha = form & 4 ? 0.5F : 1,
                                .beta = form & 1 ? 2 : 0};
            check(dev, &p);
        }
    }
}

/* A NaN in a row of a is in that row of c, and nowhere else. */
static void test_not_a_number(void **state) {
    struct device *dev = *state;

    enum { M = 7, N = 40, K = 10 };

    float *a = random_floats(dev, M * K), wide[K * N];
    uint16_t narrow[K * N];
    fill_bf16(dev, K * N, wide, narrow);
    a[3 * K + 4] = NAN;
    float *c = device_floats(dev, NULL, M * N);
    mal_gemm(dev->be, &(struct mal_gemm){.m = M,
                                         .n = N,
                                         .k = K,
                                         .a = device_floats(dev, a, M * K),
                                         .b = device_buffer(dev, narrow, sizeof narrow),
                                         .b_dtype = MAL_BF16,
                                         .c = c,
                                         .alpha = 1});
    float *got = host_floats(dev, c, M * N);
    for (int64_t i = 0; i < M * N; i++)
        assert_int_equal(isnan(got[i]) != 0, i / N == 3);
    device_release(dev);
    free(a), free(got);
}

/* Both operands keep 10 bits of mantissa, and fp32's range: 1e30 is not infinite. */
static void test_tf32(void **state) {
    struct device *dev = *state;

    enum { M = 33, N = 70, K = 129 };

    float *a = random_floats(dev, M * K), *b = random_floats(dev, K * N);
    uint16_t *narrow = malloc(K * N * sizeof *narrow);
    for (int64_t i = 0; i < K; i++)
        a[7 * K + i] *= 1e30F;
    for (int64_t i = 0; i < K * N; i++) {
        narrow[i] = f32_to_f16(b[i]);
        b[i] = f16_to_f32(narrow[i]);
    }
    for (int f16 = 0; f16 < 2; f16++) {
        float *c = device_floats(dev, NULL, M * N);
        struct mal_gemm g = {.m = M, .n = N, .k = K, .c = c, .alpha = 1, .tf32 = true};
        g.a = device_floats(dev, a, M * K);
        g.b = f16 ? device_buffer(dev, narrow, K * N * sizeof *narrow)
                  : (void *)device_floats(dev, b, K * N);
        g.b_dtype = f16 ? MAL_F16 : MAL_F32;
        mal_gemm(dev->be, &g);
        float *got = host_floats(dev, c, M * N);
        for (int64_t i = 0; i < M * N; i++) {
            double sum = 0, size = 0;
            for (int64_t q = 0; q < K; q++) {
                double x = (double)a[i / N * K + q] * (double)b[q * N + i % N];
                sum += x;
                size += fabs(x);
            }
            check_close("c", i, (double)got[i], sum, size * 0x1p-10);
        }
        free(got);
        device_release(dev);
    }
    free(a), free(b), free(narrow);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products),
                                       cmocka_unit_test(test_not_a_number)};
    const struct CMUnitTest on_a_gpu[] = {cmocka_unit_test(test_products),
                                          cmocka_unit_test(test_not_a_number),
                                          cmocka_unit_test(test_tf32)};
    if (!rounds_here()) return 0;
    if (on_cuda())
        return cmocka_run_group_tests_name("gemm_bf16", on_a_gpu, open_rounding,
                                           close_rounding);
    return cmocka_run_group_tests_name("gemm_bf16", tests, open_rounding, close_rounding);
}
