/* tensor.c - element types and the conversions between them, rounded to nearest even.
 *
 * The conversions have no branches, so that the loops over whole tensors are vectorised.
 */
#include "core/tensor.h"

#include <assert.h>
#include <string.h>

#include "core/round.h"
#include "core/simd.h"

size_t mal_dtype_size(enum mal_dtype dtype) {
    static const size_t sizes[] = {
        [MAL_F64] = 8, [MAL_F32] = 4, [MAL_F16] = 2, [MAL_BF16] = 2, [MAL_I64] = 8,
        [MAL_I32] = 4, [MAL_I16] = 2, [MAL_I8] = 1,  [MAL_U8] = 1,   [MAL_BOOL] = 1,
    };
    assert(dtype < MAL_N_DTYPES);
    return sizes[dtype];
}

const char *mal_dtype_name(enum mal_dtype dtype) {
    static const char *const names[] = {
        [MAL_F64] = "F64", [MAL_F32] = "F32",   [MAL_F16] = "F16", [MAL_BF16] = "BF16",
        [MAL_I64] = "I64", [MAL_I32] = "I32",   [MAL_I16] = "I16", [MAL_I8] = "I8",
        [MAL_U8] = "U8",   [MAL_BOOL] = "BOOL",
    };
    assert(dtype < MAL_N_DTYPES);
    return names[dtype];
}

bool mal_dtype_from_name(const char *name, enum mal_dtype *out) {
    for (int i = 0; i < MAL_N_DTYPES; i++) {
        *out = (enum mal_dtype)i;
        if (strcmp(name, mal_dtype_name(*out)) == 0) return true;
    }
    return false;
}

uint16_t mal_f32_to_f16(float x) {
    return f32_to_f16(x);
}

uint16_t mal_f32_to_bf16(float x) {
    return f32_to_bf16(x);
}

float mal_f16_to_f32(uint16_t x) {
    return f16_to_f32(x);
}

float mal_bf16_to_f32(uint16_t x) {
    return bf16_to_f32(x);
}

/* ---- Whole tensors, in blocks that threads share ---- */

enum { BLOCK = 1 << 14, SHARED_FROM = 4 * BLOCK };

static MAL_SIMD void f64_block(float *restrict dst, const double *restrict src,
                               size_t n) {
    MAL_SIMD_LOOP
    for (size_t i = 0; i < n; i++)
        dst[i] = (float)src[i];
}

static MAL_SIMD void f16_block(float *restrict dst, const uint16_t *restrict src,
                               size_t n) {
    MAL_SIMD_LOOP
    for (size_t i = 0; i < n; i++)
        dst[i] = f16_to_f32(src[i]);
}

static MAL_SIMD void bf16_block(float *restrict dst, const uint16_t *restrict src,
                                size_t n) {
    MAL_SIMD_LOOP
    for (size_t i = 0; i < n; i++)
        dst[i] = bf16_to_f32(src[i]);
}

static MAL_SIMD void to_f16_block(uint16_t *restrict dst, const float *restrict src,
                                  size_t n) {
    MAL_SIMD_LOOP
    for (size_t i = 0; i < n; i++)
        dst[i] = f32_to_f16(src[i]);
}

static MAL_SIMD void to_bf16_block(uint16_t *restrict dst, const float *restrict src,
                                   size_t n) {
    MAL_SIMD_LOOP
    for (size_t i = 0; i < n; i++)
        dst[i] = f32_to_bf16(src[i]);
}

static void to_f32_block(float *dst, const void *src, enum mal_dtype dtype, size_t i,
                         size_t n) {
    switch (dtype) {
    case MAL_F64: f64_block(dst + i, (const double *)src + i, n); break;
    case MAL_F32: memcpy(dst + i, (const float *)src + i, n * sizeof *dst); break;
    case MAL_F16: f16_block(dst + i, (const uint16_t *)src + i, n); break;
    case MAL_BF16: bf16_block(dst + i, (const uint16_t *)src + i, n); break;
    default: assert(!"a dtype of floating-point numbers");
    }
}

static void from_f32_block(void *dst, const float *src, enum mal_dtype dtype, size_t i,
                           size_t n) {
    switch (dtype) {
    case MAL_F32: memcpy((float *)dst + i, src + i, n * sizeof *src); break;
    case MAL_F16: to_f16_block((uint16_t *)dst + i, src + i, n); break;
    case MAL_BF16: to_bf16_block((uint16_t *)dst + i, src + i, n); break;
    default: assert(!"a dtype of weights");
    }
}

void mal_to_f32(float *dst, const void *src, enum mal_dtype dtype, size_t n) {
#pragma omp parallel for schedule(static) if (n > SHARED_FROM)
    for (size_t i = 0; i < n; i += BLOCK)
        to_f32_block(dst, src, dtype, i, n - i < BLOCK ? n - i : BLOCK);
}

void mal_from_f32(void *dst, const float *src, enum mal_dtype dtype, size_t n) {
#pragma omp parallel for schedule(static) if (n > SHARED_FROM)
    for (size_t i = 0; i < n; i += BLOCK)
        from_f32_block(dst, src, dtype, i, n - i < BLOCK ? n - i : BLOCK);
}

/* ---- Values that are no numbers ---- */

/* How many of the n have all of `exponent`'s bits. */
static MAL_SIMD size_t count_f32(const uint32_t *x, size_t n, uint32_t exponent) {
    size_t count = 0;
    MAL_SIMD_SUM(count)
    for (size_t i = 0; i < n; i++)
        count += (x[i] & exponent) == exponent;
    return count;
}

static MAL_SIMD size_t count_f16(const uint16_t *x, size_t n, uint16_t exponent) {
    size_t count = 0;
    MAL_SIMD_SUM(count)
    for (size_t i = 0; i < n; i++)
        count += (x[i] & exponent) == exponent;
    return count;
}

static size_t count_not_finite(const void *x, enum mal_dtype dtype, size_t i, size_t n) {
    switch (dtype) {
    case MAL_F32: return count_f32((const uint32_t *)x + i, n, 0x7f800000);
    case MAL_F16: return count_f16((const uint16_t *)x + i, n, 0x7c00);
    case MAL_BF16: return count_f16((const uint16_t *)x + i, n, 0x7f80);
    default: assert(!"a dtype of weights"); return 0;
    }
}

size_t mal_find_not_finite(const void *x, enum mal_dtype dtype, size_t n) {
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t m = n - i < BLOCK ? n - i : BLOCK;
        if (count_not_finite(x, dtype, i, m) == 0) continue;
        while (count_not_finite(x, dtype, i, 1) == 0)
            i++;
        return i;
    }
    return n;
}

/* In squares that stay in the cache. */
void mal_transpose(float *to, const float *from, int64_t rows, int64_t columns) {
    enum { SQUARE = 32 };

#pragma omp parallel for
    for (int64_t r = 0; r < rows; r += SQUARE) {
        for (int64_t c = 0; c < columns; c += SQUARE) {
            for (int64_t i = r; i < rows && i < r + SQUARE; i++) {
                for (int64_t j = c; j < columns && j < c + SQUARE; j++)
                    to[j * rows + i] = from[i * columns + j];
            }
        }
    }
}
