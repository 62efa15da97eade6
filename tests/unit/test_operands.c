/* test_operands.c - activations written in the type that products read: what the
 * operations give in it is their fp32 result rounded, and a product of it is that of what
 * it would have rounded itself. */
#include "rounding.h"

#include "core/round.h"
#include "reference.h"

static void test_types(void **state) {
    struct device *dev = *state;
    assert_int_equal(mal_operand_dtype(dev->be, MAL_BF16),
                     on_cuda() ? MAL_BF16 : MAL_F32);
    assert_int_equal(mal_operand_dtype(dev->be, MAL_F16), MAL_F32);
    assert_int_equal(mal_operand_dtype(dev->be, MAL_F32), MAL_F32);
    static const char *const exact[] = {"cpu", "cuda:0:fp32", "cuda:0:emulated"};
    for (size_t i = 0; i < (on_cuda() ? 3 : 1); i++) {
        struct mal_backend *be;
        struct mal_error err = {0};
        assert_true(mal_backend_create(&be, exact[i], &err));
        assert_int_equal(mal_operand_dtype(be, MAL_BF16), MAL_F32);
        mal_backend_destroy(be);
    }
}

static uint16_t *device_bf16(struct device *dev, int64_t n) {
    return device_buffer(dev, NULL, (size_t)n * sizeof(uint16_t));
}

static void check_rounded(struct device *dev, const char *what, int64_t n,
                          const float *wide, const uint16_t *narrow) {
    float *want = host_floats(dev, wide, n);
    uint16_t *got = host_copy(dev, narrow, (size_t)n * sizeof *got);
    for (int64_t i = 0; i < n; i++) {
        if (got[i] != f32_to_bf16(want[i]))
            fail_msg("%s: element %lld is %04x, must be %04x", what, (long long)i, got[i],
                     f32_to_bf16(want[i]));
    }
    free(want), free(got);
}

/* Rows of one element, of odd and even lengths, and longer than a block keeps. */
static const int64_t row_lengths[] = {1, 2, 7, 64, 333, 1024, 4100, 9001};

enum { N_LENGTHS = sizeof row_lengths / sizeof *row_lengths };

static void test_norm(void **state) {
    struct device *dev = *state;
    for (int form = 0; form < 4; form++) {
        for (size_t t = 0; t < N_LENGTHS; t++) {
            int64_t n = 1 + (int64_t)t % 3, c = row_lengths[t];
            float *x = random_floats(dev, n * c), *gain = random_floats(dev, c);
            float *bias = random_floats(dev, c);
            struct mal_norm norm = {.n = n, .c = c, .rms = form & 1, .eps = 1e-6f};
            norm.gain = device_floats(dev, gain, c);
            if (form & 2) norm.bias = device_floats(dev, bias, c);
            float *from = device_floats(dev, x, n * c);
            float *wide = device_floats(dev, NULL, n * c);
            uint16_t *narrow = device_bf16(dev, n * c);
            mal_norm_fwd(dev->be, &norm, from, wide, MAL_F32);
            mal_norm_fwd(dev->be, &norm, from, narrow, MAL_BF16);
            check_rounded(dev, "norm", n * c, wide, narrow);
            free(x), free(gain), free(bias);
            device_release(dev);
        }
    }
}

/* With a bias, the same as of the sums; on every device. */
static void test_act(void **state) {
    struct device *dev = *state;
    for (enum mal_act act = MAL_GELU_TANH; act <= MAL_TANH; act++) {
        for (size_t t = 0; t < N_LENGTHS; t++) {
            int64_t n = 1 + (int64_t)t % 4, c = row_lengths[t];
            float *x = random_floats(dev, n * c), *bias = random_floats(dev, c);
            float *from = device_floats(dev, x, n * c), *b = device_floats(dev, bias, c);
            for (int64_t i = 0; i < n * c; i++)
                x[i] += bias[i % c];
            float *sums = device_floats(dev, x, n * c);
            float *want = device_floats(dev, NULL, n * c);
            float *wide = device_floats(dev, NULL, n * c);
            mal_act_fwd(dev->be, act, 1, n * c, sums, NULL, want, MAL_F32);
            mal_act_fwd(dev->be, act, n, c, from, b, wide, MAL_F32);
            float *first = host_floats(dev, want, n * c);
            float *second = host_floats(dev, wide, n * c);
            assert_memory_equal(first, second, (size_t)(n * c) * sizeof *first);
            if (narrows(dev)) {
                uint16_t *biased = device_bf16(dev, n * c);
                uint16_t *plain = device_bf16(dev, n * c);
                mal_act_fwd(dev->be, act, n, c, from, b, biased, MAL_BF16);
                mal_act_fwd(dev->be, act, n, c, sums, NULL, plain, MAL_BF16);
                check_rounded(dev, "act with a bias", n * c, want, biased);
                check_rounded(dev, "act", n * c, want, plain);
            }
            mal_act_fwd(dev->be, act, n, c, from, b, from, MAL_F32); /* in place */
            float *third = host_floats(dev, from, n * c);
            assert_memory_equal(first, third, (size_t)(n * c) * sizeof *first);
            free(x), free(bias), free(first), free(second), free(third);
            device_release(dev);
        }
    }
}

static void test_glu(void **state) {
    struct device *dev = *state;
    for (enum mal_act act = MAL_GELU_TANH; act <= MAL_TANH; act++) {
        for (size_t t = 0; t < N_LENGTHS; t++) {
            int64_t n = row_lengths[t];
            float *x = random_floats(dev, n), *gate = random_floats(dev, n);
            float *dev_x = device_floats(dev, x, n), *g = device_floats(dev, gate, n);
            float *wide = device_floats(dev, NULL, n);
            uint16_t *narrow = device_bf16(dev, n);
            mal_glu_fwd(dev->be, act, n, g, dev_x, wide, MAL_F32);
            mal_glu_fwd(dev->be, act, n, g, dev_x, narrow, MAL_BF16);
            check_rounded(dev, "glu", n, wide, narrow);
            free(x), free(gate);
            device_release(dev);
        }
    }
}

/* a is what the device itself would round fp32's to. */
static void test_product(void **state) {
    struct device *dev = *state;
    static const int64_t sizes[][3] = {
        {5, 1, 1}, {1, 33, 8}, {97, 31, 1023}, {64, 40, 0}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int form = 0; form < 8; form++) {
            int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
            bool trans_a = form & 1, biased = form & 4;
            int64_t rows = trans_a ? k : m, ld = (trans_a ? m : k) + (form & 2);
            float *a = random_floats(dev, rows * ld), *c = random_floats(dev, m * n);
            float *b = random_floats(dev, k * n), *bias = random_floats(dev, n);
            uint16_t *a16 = malloc((size_t)(rows * ld + 1) * sizeof *a16);
            uint16_t *b16 = malloc((size_t)(k * n + 1) * sizeof *b16);
            for (int64_t j = 0; j < rows * ld; j++)
                a16[j] = f32_to_bf16(a[j]);
            for (int64_t j = 0; j < k * n; j++)
                b16[j] = f32_to_bf16(b[j]);
            struct mal_gemm g = {.m = m,
                                 .n = n,
                                 .k = k,
                                 .a = device_floats(dev, a, rows * ld),
                                 .lda = ld,
                                 .trans_a = trans_a,
                                 .b = device_buffer(dev, b16, (size_t)(k * n) * 2),
                                 .b_dtype = MAL_BF16,
                                 .trans_b = form & 2,
                                 .c = device_floats(dev, c, m * n),
                                 .alpha = 0.5F,
                                 .beta = form & 1 ? 2 : 0,
                                 .bias = biased ? device_floats(dev, bias, n) : NULL};
            mal_gemm(dev->be, &g);
            float *want = host_floats(dev, g.c, m * n);
            g.a16 = device_buffer(dev, a16, (size_t)(rows * ld) * sizeof *a16);
            g.a = NULL;
            g.c = device_floats(dev, c, m * n);
            mal_gemm(dev->be, &g);
            float *got = host_floats(dev, g.c, m * n);
            double *same = wide(want, m * n);
            check_floats("c", m * n, got, same, 2e-6 * sqrt((double)k + 1), 1e-6);
            free(a), free(b), free(c), free(bias), free(a16), free(b16);
            free(want), free(got), free(same);
            device_release(dev);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_types),
                                       cmocka_unit_test(test_act)};
    const struct CMUnitTest on_a_gpu[] = {
        cmocka_unit_test(test_types), cmocka_unit_test(test_norm),
        cmocka_unit_test(test_act), cmocka_unit_test(test_glu),
        cmocka_unit_test(test_product)};
    if (!rounds_here()) return 0;
    if (on_cuda())
        return cmocka_run_group_tests_name("operands", on_a_gpu, open_rounding,
                                           close_rounding);
    return cmocka_run_group_tests_name("operands", tests, open_rounding, close_rounding);
}
