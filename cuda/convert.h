/* convert.h - rows of one element type as packed rows of another. */
#ifndef MAL_CUDA_CONVERT_H
#define MAL_CUDA_CONVERT_H

#include "cuda/impl.h"

/* y (rows, cols) = x (rows, cols; ldx), rounded once: the pairs of mal_convert(). */
void mal_cuda_convert_rows(struct mal_cuda *cu, int64_t rows, int64_t cols, const void *x,
                           enum mal_dtype x_dtype, int64_t ldx, void *y,
                           enum mal_dtype y_dtype);

#endif
