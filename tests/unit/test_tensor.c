/* test_tensor.c - element types: every half-precision value, rounding to nearest even. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/tensor.h"

static uint32_t bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static void sizes_and_names(void **state) {
    static const struct {
        enum mal_dtype dtype;
        size_t size;
        const char *name;
    } cases[] = {{MAL_F64, 8, "F64"},   {MAL_F32, 4, "F32"}, {MAL_F16, 2, "F16"},
                 {MAL_BF16, 2, "BF16"}, {MAL_I64, 8, "I64"}, {MAL_I32, 4, "I32"},
                 {MAL_I16, 2, "I16"},   {MAL_I8, 1, "I8"},   {MAL_U8, 1, "U8"},
                 {MAL_BOOL, 1, "BOOL"}};

    assert_int_equal(sizeof cases / sizeof cases[0], MAL_N_DTYPES);
    for (size_t i = 0; i < MAL_N_DTYPES; i++) {
        assert_int_equal(mal_dtype_size(cases[i].dtype), cases[i].size);
        assert_string_equal(mal_dtype_name(cases[i].dtype), cases[i].name);
    }
}

/* Value of a half-precision number by its definition. */
static double f16_value(uint16_t x) {
    int exponent = x >> 10 & 31, mantissa = x & 1023;
    double sign = x & 0x8000 ? -1 : 1;
    if (exponent == 0) return sign * ldexp(mantissa, -24);
    return sign * ldexp(1024 + mantissa, exponent - 25);
}

static void all_f16_values(void **state) {
    for (uint32_t u = 0; u < 65536; u++) {
        uint16_t x = (uint16_t)u;
        float y = mal_f16_to_f32(x);
        if ((u & 0x7fff) > 0x7c00) {
            assert_true(isnan(y));
            assert_true((mal_f32_to_f16(y) & 0x7fff) > 0x7c00);
            assert_int_equal(mal_f32_to_f16(y) & 0x8000, u & 0x8000);
            continue;
        }
        if ((u & 0x7fff) == 0x7c00) {
            assert_true(isinf(y) && (y < 0) == (u >> 15));
        } else {
            assert_true((double)y == f16_value(x) && !signbit(y) == (u < 0x8000));
        }
        assert_int_equal(mal_f32_to_f16(y), u);
    }
}

static void all_bf16_values(void **state) {
    for (uint32_t u = 0; u < 65536; u++) {
        float y = mal_bf16_to_f32((uint16_t)u);
        assert_int_equal(bits(y), u << 16);
        if ((u & 0x7fff) > 0x7f80) {
            assert_true((mal_f32_to_bf16(y) & 0x7fff) > 0x7f80);
        } else {
            assert_int_equal(mal_f32_to_bf16(y), u);
        }
    }
}

/* Between each two neighbours: the middle goes to the even one, and what is next to the
 * middle to the nearer one. From the largest value on, infinity is the next neighbour. */
static void check_between(uint32_t lower, double low, double high,
                          uint16_t (*round)(float x)) {
    float middle = (float)((low + high) / 2);
    assert_true((double)middle == (low + high) / 2);
    uint32_t even = lower & 1 ? lower + 1 : lower;
    assert_int_equal(round(middle), even);
    assert_int_equal(round(nextafterf(middle, 0)), lower);
    assert_int_equal(round(nextafterf(middle, INFINITY)), lower + 1);
    assert_int_equal(round(-middle), even | 0x8000);
    assert_int_equal(round(-nextafterf(middle, 0)), lower | 0x8000);
    assert_int_equal(round(-nextafterf(middle, INFINITY)), (lower + 1) | 0x8000);
}

static void f16_ties_to_even(void **state) {
    for (uint32_t u = 0; u < 0x7c00; u++)
        check_between(u, f16_value((uint16_t)u), f16_value((uint16_t)(u + 1)),
                      mal_f32_to_f16);
    assert_int_equal(mal_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(mal_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(mal_f32_to_f16(3e38f), 0x7c00);
    assert_int_equal(mal_f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(mal_f32_to_f16(from_bits(1)), 0);
    assert_true((mal_f32_to_f16(from_bits(0x7f800001)) & 0x7fff) > 0x7c00);
}

static void bf16_ties_to_even(void **state) {
    for (uint32_t u = 0; u < 0x7f7f; u++)
        check_between(u, (double)from_bits(u << 16), (double)from_bits((u + 1) << 16),
                      mal_f32_to_bf16);
    assert_int_equal(mal_f32_to_bf16(3.4028235e38f), 0x7f80);
    assert_int_equal(mal_f32_to_bf16(INFINITY), 0x7f80);
    assert_true((mal_f32_to_bf16(from_bits(0x7f800001)) & 0x7fff) > 0x7f80);
    assert_true((mal_f32_to_bf16(from_bits(0xffffffff)) & 0x7fff) > 0x7f80);
}

/* Whole tensors give what single elements give, at every length around a vector. */
static void whole_tensors(void **state) {
    static const size_t lengths[] = {0, 1, 7, 16, 33, 1000, 100003};

    static const enum mal_dtype dtypes[] = {MAL_F32, MAL_F16, MAL_BF16};

    for (size_t c = 0; c < sizeof lengths / sizeof lengths[0]; c++) {
        size_t n = lengths[c];
        float *x = malloc((n + 1) * sizeof *x), *y = malloc((n + 1) * sizeof *y);
        uint32_t *packed = malloc((n + 1) * sizeof *packed);
        uint32_t seed = 1;
        for (size_t i = 0; i < n; i++) {
            seed = seed * 1664525 + 1013904223;
            x[i] = from_bits(seed);
            if (isnan(x[i])) x[i] = 0;
        }
        for (size_t t = 0; t < 3; t++) {
            memset(packed, 0x5a, (n + 1) * sizeof *packed);
            y[n] = 17;
            mal_from_f32(packed, x, dtypes[t], n);
            mal_to_f32(y, packed, dtypes[t], n);
            for (size_t i = 0; i < n; i++) {
                float want = dtypes[t] == MAL_F16 ? mal_f16_to_f32(mal_f32_to_f16(x[i]))
                             : dtypes[t] == MAL_BF16
                                 ? mal_bf16_to_f32(mal_f32_to_bf16(x[i]))
                                 : x[i];
                assert_int_equal(bits(y[i]), bits(want));
            }
            const unsigned char *end =
                (unsigned char *)packed + n * mal_dtype_size(dtypes[t]);
            assert_int_equal(*end, 0x5a);
            assert_true(y[n] == 17);
        }
        free(x);
        free(y);
        free(packed);
    }
    double wide[] = {1.0 + 0x1p-24, 1.0 + 3 * 0x1p-24, -1e300, 0.1};
    float narrow[4];
    mal_to_f32(narrow, wide, MAL_F64, 4);
    assert_true(narrow[0] == 1.0f && narrow[1] == 1.0f + 0x1p-22f);
    assert_true(isinf(narrow[2]) && narrow[3] == 0.1f);
}

static void not_finite(void **state) {
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};

    static const enum mal_dtype dtypes[] = {MAL_F32, MAL_F16, MAL_BF16};

    enum { N = 40003 };

    static const size_t places[] = {0, 5, 16383, 16384, N - 1};

    float *x = malloc(N * sizeof *x);
    void *packed = malloc(N * sizeof *x);
    for (size_t i = 0; i < N; i++)
        x[i] = (i % 2 ? -10000.0f : 6e-8f) * (float)(i % 7);
    for (size_t t = 0; t < 3; t++) {
        for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
            size_t at = places[p];
            float kept = x[at];
            x[at] = bad[p % 4];
            if (at + 3 < N) x[at + 3] = NAN;
            mal_from_f32(packed, x, dtypes[t], N);
            assert_int_equal(mal_find_not_finite(packed, dtypes[t], N), at);
            assert_int_equal(mal_find_not_finite(packed, dtypes[t], at), at);
            x[at] = kept;
            if (at + 3 < N) x[at + 3] = 1;
        }
        mal_from_f32(packed, x, dtypes[t], N);
        assert_int_equal(mal_find_not_finite(packed, dtypes[t], N), N);
    }
    assert_int_equal(mal_find_not_finite(packed, MAL_F16, 0), 0);
    free(x);
    free(packed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_and_names),   cmocka_unit_test(all_f16_values),
        cmocka_unit_test(all_bf16_values),   cmocka_unit_test(f16_ties_to_even),
        cmocka_unit_test(bf16_ties_to_even), cmocka_unit_test(whole_tensors),
        cmocka_unit_test(not_finite),
    };
    return cmocka_run_group_tests_name("tensor", tests, NULL, NULL);
}
