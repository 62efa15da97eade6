/* tensor.h - element types and the letters shapes are written in.
 *
 * B sequences of a batch, T tokens of a sequence, N rows (packed tokens), C channels
 * (hidden size), H heads, D head size, F inner size of the MLP, V vocabulary, R rank. All
 * matrices are row-major; y = x W + b with W (d_in, d_out). */
#ifndef MAL_TENSOR_H
#define MAL_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAL_MAX_DIMS = 8 };

enum mal_dtype {
    MAL_F64,
    MAL_F32,
    MAL_F16,
    MAL_BF16,
    MAL_I64,
    MAL_I32,
    MAL_I16,
    MAL_I8,
    MAL_U8,
    MAL_BOOL,
    MAL_N_DTYPES
};

size_t mal_dtype_size(enum mal_dtype dtype);
const char *
mal_dtype_name(enum mal_dtype dtype); /* as in safetensors: "F32", "BF16", ... */
bool mal_dtype_from_name(const char *name, enum mal_dtype *out); /* false: no such */

/* Rounded once to nearest even; NaN stays NaN, too large becomes infinite. */
uint16_t mal_f32_to_f16(float x);
uint16_t mal_f32_to_bf16(float x);
float mal_f16_to_f32(uint16_t x);
float mal_bf16_to_f32(uint16_t x);

/* dst (n) fp32 from src (n) of dtype F64, F32, F16 or BF16. */
void mal_to_f32(float *dst, const void *src, enum mal_dtype dtype, size_t n);
/* dst (n) of dtype F32, F16 or BF16 from src (n) fp32. */
void mal_from_f32(void *dst, const float *src, enum mal_dtype dtype, size_t n);

/* Which of x (n) of dtype F32, F16 or BF16 is the first that is NaN or infinite; n: none.
 */
size_t mal_find_not_finite(const void *x, enum mal_dtype dtype, size_t n);

/* to (columns, rows) = the transpose of from (rows, columns). */
void mal_transpose(float *to, const float *from, int64_t rows, int64_t columns);

#endif
