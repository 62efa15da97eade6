/* convert.cu - element types: whole arrays, and the rows that a product is to read packed
 * in another type. */
#include "cuda/convert.h"

#include "cuda/number.h"

template <typename Y, typename X>
__global__ static void convert_each(int64_t rows, int64_t cols, const X *x, int64_t ldx,
                                    Y *y) {
    MAL_EACH_ROW(i, rows)
    MAL_EACH(j, cols)
    mal_set(y + i * cols + j, mal_widen(x[i * ldx + j]));
}

/* cols and ldx are multiples of a pack, x and y begin with one. */
template <typename Y, typename X>
__global__ static void convert_packs(int64_t rows, int64_t cols, const X *x, int64_t ldx,
                                     Y *y) {
    MAL_EACH_ROW(i, rows)
    MAL_EACH(j, cols / MAL_WIDE) {
        const mal_pack<X> from = *(const mal_pack<X> *)(x + i * ldx + MAL_WIDE * j);
        mal_pack<Y> to;
#pragma unroll
        for (int k = 0; k < MAL_WIDE; k++)
            mal_set(to.x + k, mal_widen(from.x[k]));
        *(mal_pack<Y> *)(y + i * cols + MAL_WIDE * j) = to;
    }
}

template <typename Y, typename X>
static void convert(struct mal_cuda *cu, int64_t rows, int64_t cols, const void *from,
                    int64_t ldx, void *to) {
    const X *x = (const X *)from;
    Y *y = (Y *)to;
    if ((cols | ldx) % MAL_WIDE == 0 && mal_starts_pack(x) && mal_starts_pack(y)) {
        auto kernel = convert_packs<Y, X>;
        MAL_LAUNCH(cu, kernel, mal_cuda_grid_rows(cu, rows, cols / MAL_WIDE), MAL_THREADS,
                   0, rows, cols, x, ldx, y);
    } else {
        auto kernel = convert_each<Y, X>;
        MAL_LAUNCH(cu, kernel, mal_cuda_grid_rows(cu, rows, cols), MAL_THREADS, 0, rows,
                   cols, x, ldx, y);
    }
}

template <typename X>
static void convert_from(struct mal_cuda *cu, int64_t rows, int64_t cols, const void *x,
                         int64_t ldx, void *y, enum mal_dtype y_dtype) {
    if (y_dtype == MAL_F32)
        convert<float, X>(cu, rows, cols, x, ldx, y);
    else if (y_dtype == MAL_F16)
        convert<mal_f16, X>(cu, rows, cols, x, ldx, y);
    else
        convert<mal_bf16, X>(cu, rows, cols, x, ldx, y);
}

void mal_cuda_convert_rows(struct mal_cuda *cu, int64_t rows, int64_t cols, const void *x,
                           enum mal_dtype x_dtype, int64_t ldx, void *y,
                           enum mal_dtype y_dtype) {
    if (rows == 0 || cols == 0) return;
    if (x_dtype == MAL_F64 && y_dtype == MAL_F64)
        convert<double, double>(cu, rows, cols, x, ldx, y);
    else if (x_dtype == MAL_F64)
        convert<float, double>(cu, rows, cols, x, ldx, y);
    else if (y_dtype == MAL_F64)
        convert<double, float>(cu, rows, cols, x, ldx, y);
    else if (x_dtype == MAL_F32)
        convert_from<float>(cu, rows, cols, x, ldx, y, y_dtype);
    else if (x_dtype == MAL_F16)
        convert_from<mal_f16>(cu, rows, cols, x, ldx, y, y_dtype);
    else
        convert_from<mal_bf16>(cu, rows, cols, x, ldx, y, y_dtype);
}

void mal_cuda_convert(struct mal_backend *be, int64_t n, void *y, enum mal_dtype y_dtype,
                      const void *x, enum mal_dtype x_dtype) {
    mal_cuda_convert_rows(mal_cuda_of(be), 1, n, x, x_dtype, n, y, y_dtype);
}
