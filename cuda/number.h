/* number.h - element types in kernels: fp16 and bf16 as types of their own, converted by
 * core/round.h; and packs of elements read or written at once. */
#ifndef MAL_CUDA_NUMBER_H
#define MAL_CUDA_NUMBER_H

#include <cuda_runtime.h>

#include "core/round.h"
#include "core/tensor.h"

struct mal_f16 {
    uint16_t bits;
};

struct mal_bf16 {
    uint16_t bits;
};

__device__ inline float mal_widen(float x) {
    return x;
}

__device__ inline float mal_widen(mal_f16 x) {
    return f16_to_f32(x.bits);
}

__device__ inline float mal_widen(mal_bf16 x) {
    return bf16_to_f32(x.bits);
}

__device__ inline double mal_widen(double x) {
    return x;
}

/* y = x, rounded once. */
__device__ inline void mal_set(float *y, float x) {
    *y = x;
}

__device__ inline void mal_set(float *y, double x) {
    *y = (float)x;
}

__device__ inline void mal_set(double *y, double x) {
    *y = x;
}

__device__ inline void mal_set(double *y, float x) {
    *y = (double)x;
}

__device__ inline void mal_set(mal_f16 *y, float x) {
    y->bits = f32_to_f16(x);
}

__device__ inline void mal_set(mal_bf16 *y, float x) {
    y->bits = f32_to_bf16(x);
}

enum { MAL_WIDE = 4 }; /* elements of a pack, where rows allow it */

/* W elements that are read or written at once. */
template <typename T, int W = MAL_WIDE> struct alignas(W * sizeof(T)) mal_pack {
    T x[W];
};

template <int W = MAL_WIDE> using mal_floats = mal_pack<float, W>;

/* Whether a pack of MAL_WIDE can begin at p; NULL is as good as any. */
template <typename T> static inline bool mal_starts_pack(const T *p) {
    return (uintptr_t)p % sizeof(mal_pack<T>) == 0;
}

#endif
