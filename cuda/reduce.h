/* reduce.h - sums and maxima over a warp and over a block. */
#ifndef MAL_CUDA_REDUCE_H
#define MAL_CUDA_REDUCE_H

#include <cuda_runtime.h>

enum { MAL_WARP = 32 };

template <typename T> __device__ inline T mal_warp_sum(T x) {
    for (int step = MAL_WARP / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

template <typename T> __device__ inline T mal_warp_max(T x) {
    for (int step = MAL_WARP / 2; step > 0; step /= 2) {
        T other = __shfl_xor_sync(0xffffffffu, x, step);
        x = other > x ? other : x;
    }
    return x;
}

/* The sum over all threads of a block (a multiple of 32 of them), given to all; every
 * thread takes part. */
template <typename T> __device__ inline T mal_block_sum(T x) {
    __shared__ T part[MAL_WARP];
    int warp = threadIdx.x / MAL_WARP, lane = threadIdx.x % MAL_WARP;
    x = mal_warp_sum(x);
    __syncthreads(); /* the last sum has been read */
    if (lane == 0) part[warp] = x;
    __syncthreads();
    x = lane < (int)blockDim.x / MAL_WARP ? part[lane] : T(0);
    return mal_warp_sum(x);
}

/* A block has MAL_COLUMNS columns (x) and for each MAL_GROUPS threads (y) that share its
 * rows: the sum over them, given to all. */
enum { MAL_COLUMNS = 32, MAL_GROUPS = 16 };

__device__ inline double mal_column_sum(double x) {
    __shared__ double part[MAL_GROUPS][MAL_COLUMNS];
    __syncthreads(); /* the last sum has been read */
    part[threadIdx.y][threadIdx.x] = x;
    __syncthreads();
    double sum = 0;
    for (int k = 0; k < MAL_GROUPS; k++)
        sum += part[k][threadIdx.x];
    return sum;
}

#endif
