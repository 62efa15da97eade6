/* device_code.h - what kernels are written with: qualifiers, built-in variables, vector
 * types, barriers, shuffles, atomics, and the mathematics that C does not have. */
#ifndef MAL_HOST_DEVICE_CODE_H
#define MAL_HOST_DEVICE_CODE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <type_traits>

#define __host__
#define __device__
#define __global__
#define __constant__    static
#define __shared__      static thread_local
#define __forceinline__ __inline__ __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __align__(n)    __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

/* ---- Vector types ---- */

#define MAL_HOST_VECTORS(type, name)                                        \
    struct name##1 {                                                        \
        type x;                                                             \
    };                                                                      \
    struct alignas(2 * sizeof(type)) name##2 {                              \
        type x, y;                                                          \
    };                                                                      \
    struct name##3 {                                                        \
        type x, y, z;                                                       \
    };                                                                      \
    struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4 { \
        type x, y, z, w;                                                    \
    };                                                                      \
    static inline name##1 make_##name##1(type x) {                          \
        return {x};                                                         \
    }                                                                       \
    static inline name##2 make_##name##2(type x, type y) {                  \
        return {x, y};                                                      \
    }                                                                       \
    static inline name##3 make_##name##3(type x, type y, type z) {          \
        return {x, y, z};                                                   \
    }                                                                       \
    static inline name##4 make_##name##4(type x, type y, type z, type w) {  \
        return {x, y, z, w};                                                \
    }

MAL_HOST_VECTORS(signed char, char)
MAL_HOST_VECTORS(unsigned char, uchar)
MAL_HOST_VECTORS(short, short)
MAL_HOST_VECTORS(unsigned short, ushort)
MAL_HOST_VECTORS(int, int)
MAL_HOST_VECTORS(unsigned, uint)
MAL_HOST_VECTORS(long long, longlong)
MAL_HOST_VECTORS(unsigned long long, ulonglong)
MAL_HOST_VECTORS(float, float)
MAL_HOST_VECTORS(double, double)
#undef MAL_HOST_VECTORS

struct dim3 {
    unsigned x, y, z;

    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}

    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

/* ---- Launching; the threads of a block ---- */

extern __thread uint3 threadIdx, blockIdx;
extern __thread dim3 blockDim, gridDim;
static const int warpSize = 32;

/* Runs call(kernel) for every thread of every block; a launch the device would refuse
 * leaves its error for cudaGetLastError(). */
void mal_host_run(int64_t grid_x, dim3 grid, int64_t block_x, dim3 block, int64_t shared,
                  cudaStream_t stream, void (*call)(const void *kernel),
                  const void *kernel);
void *mal_host_shared(); /* the block's dynamic shared memory */

/* Sizes are given as a dim3, or as a number of any type: `wide` is what does not fit. */
static inline dim3 mal_host_dim(dim3 d, int64_t *wide) {
    *wide = d.x;
    return d;
}

template <class T>
static inline std::enable_if_t<std::is_integral_v<T> || std::is_enum_v<T>, dim3>
mal_host_dim(T n, int64_t *wide) {
    *wide = (int64_t)n;
    return dim3((unsigned)n);
}

template <class Grid, class Block, class Shared, class Kernel>
static inline void mal_host_launch(Grid grid, Block block, Shared shared,
                                   cudaStream_t stream, const Kernel &kernel) {
    int64_t grid_x, block_x;
    dim3 grid_dim = mal_host_dim(grid, &grid_x),
         block_dim = mal_host_dim(block, &block_x);
    mal_host_run(
        grid_x, grid_dim, block_x, block_dim, (int64_t)shared, stream,
        [](const void *f) { (*static_cast<const Kernel *>(f))(); }, &kernel);
}

/* ---- Barriers and shuffles ---- */

enum mal_host_collective {
    MAL_HOST_SYNCTHREADS,
    MAL_HOST_SYNCWARP,
    MAL_HOST_SHFL,
    MAL_HOST_SHFL_UP,
    MAL_HOST_SHFL_DOWN,
    MAL_HOST_SHFL_XOR,
    MAL_HOST_BALLOT
};

/* Where it stands in the source: for messages. */
struct mal_host_place {
    const char *file;
    int line;
};

#define MAL_HOST_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

void mal_host_sync_block(mal_host_place place);
/* The same for the threads of a warp that `mask` names; gives this thread what the
 * collective makes of all their values. */
uint64_t mal_host_sync_warp(mal_host_collective kind, unsigned mask, uint64_t value,
                            unsigned lane, int width, mal_host_place place);

static inline void __syncthreads(MAL_HOST_PLACE) {
    mal_host_sync_block({file, line});
}

static inline void __syncwarp(unsigned mask = 0xffffffffu, MAL_HOST_PLACE) {
    mal_host_sync_warp(MAL_HOST_SYNCWARP, mask, 0, 0, 32, {file, line});
}

template <class T>
static inline T mal_host_shuffle(mal_host_collective kind, unsigned mask, T value,
                                 unsigned lane, int width, mal_host_place place) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                  "shuffles take 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = mal_host_sync_warp(kind, mask, bits, lane, width, place);
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
                            MAL_HOST_PLACE) {
    return mal_host_shuffle(MAL_HOST_SHFL, mask, value, (unsigned)lane, width,
                            {file, line});
}

template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                               MAL_HOST_PLACE) {
    return mal_host_shuffle(MAL_HOST_SHFL_UP, mask, value, delta, width, {file, line});
}

template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                 MAL_HOST_PLACE) {
    return mal_host_shuffle(MAL_HOST_SHFL_DOWN, mask, value, delta, width, {file, line});
}

template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                                MAL_HOST_PLACE) {
    return mal_host_shuffle(MAL_HOST_SHFL_XOR, mask, value, (unsigned)lanes, width,
                            {file, line});
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, MAL_HOST_PLACE) {
    return (unsigned)mal_host_sync_warp(MAL_HOST_BALLOT, mask, predicate != 0, 0, 32,
                                        {file, line});
}

static inline int __any_sync(unsigned mask, int predicate, MAL_HOST_PLACE) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}

static inline int __all_sync(unsigned mask, int predicate, MAL_HOST_PLACE) {
    return __ballot_sync(mask, predicate, file, line) == mask;
}

static inline void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void __threadfence_block() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* ---- Atomics: blocks run side by side in the threads of the system ---- */

template <class T, class Change> static inline T mal_host_atomic(T *at, Change change) {
    T old, changed;
    __atomic_load(at, &old, __ATOMIC_RELAXED);
    do
        changed = change(old);
    while (!__atomic_compare_exchange(at, &old, &changed, true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED));
    return old;
}

#define MAL_HOST_ATOMIC(name, type, expression)                                          \
    static inline type name(type *address, type val) {                                   \
        return mal_host_atomic(address, [=](type old) -> type { return (expression); }); \
    }

MAL_HOST_ATOMIC(atomicAdd, int, (int)((unsigned)old + (unsigned)val))
MAL_HOST_ATOMIC(atomicAdd, unsigned, old + val)
MAL_HOST_ATOMIC(atomicAdd, unsigned long long, old + val)
MAL_HOST_ATOMIC(atomicAdd, float, old + val)
MAL_HOST_ATOMIC(atomicAdd, double, old + val)
MAL_HOST_ATOMIC(atomicSub, int, (int)((unsigned)old - (unsigned)val))
MAL_HOST_ATOMIC(atomicSub, unsigned, old - val)
MAL_HOST_ATOMIC(atomicMax, int, old > val ? old : val)
MAL_HOST_ATOMIC(atomicMax, unsigned, old > val ? old : val)
MAL_HOST_ATOMIC(atomicMax, long long, old > val ? old : val)
MAL_HOST_ATOMIC(atomicMax, unsigned long long, old > val ? old : val)
MAL_HOST_ATOMIC(atomicMin, int, old < val ? old : val)
MAL_HOST_ATOMIC(atomicMin, unsigned, old < val ? old : val)
MAL_HOST_ATOMIC(atomicMin, long long, old < val ? old : val)
MAL_HOST_ATOMIC(atomicMin, unsigned long long, old < val ? old : val)
MAL_HOST_ATOMIC(atomicOr, int, old | val)
MAL_HOST_ATOMIC(atomicOr, unsigned, old | val)
MAL_HOST_ATOMIC(atomicAnd, int, old &val)
MAL_HOST_ATOMIC(atomicAnd, unsigned, old &val)
MAL_HOST_ATOMIC(atomicExch, int, ((void)old, val))
MAL_HOST_ATOMIC(atomicExch, unsigned, ((void)old, val))
MAL_HOST_ATOMIC(atomicExch, unsigned long long, ((void)old, val))
MAL_HOST_ATOMIC(atomicExch, float, ((void)old, val))
#undef MAL_HOST_ATOMIC

#define MAL_HOST_CAS(type)                                                            \
    static inline type atomicCAS(type *address, type compare, type val) {             \
        return mal_host_atomic(address,                                               \
                               [=](type old) { return old == compare ? val : old; }); \
    }

MAL_HOST_CAS(int)
MAL_HOST_CAS(unsigned)
MAL_HOST_CAS(unsigned long long)
#undef MAL_HOST_CAS

/* ---- Loads, bits, arithmetic ---- */

template <class T> static inline T __ldg(const T *p) {
    return *p;
}

template <class To, class From> static inline To mal_host_bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

static inline unsigned __float_as_uint(float x) {
    return mal_host_bits<unsigned>(x);
}

static inline int __float_as_int(float x) {
    return mal_host_bits<int>(x);
}

static inline float __uint_as_float(unsigned x) {
    return mal_host_bits<float>(x);
}

static inline float __int_as_float(int x) {
    return mal_host_bits<float>(x);
}

static inline long long __double_as_longlong(double x) {
    return mal_host_bits<long long>(x);
}

static inline double __longlong_as_double(long long x) {
    return mal_host_bits<double>(x);
}

static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}

static inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}

static inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}

static inline int __ffs(int x) {
    return __builtin_ffs(x);
}

static inline float __fadd_rn(float a, float b) {
    return a + b;
}

static inline float __fsub_rn(float a, float b) {
    return a - b;
}

static inline float __fmul_rn(float a, float b) {
    return a * b;
}

static inline float __fdiv_rn(float a, float b) {
    return a / b;
}

static inline float __fsqrt_rn(float x) {
    return sqrtf(x);
}

static inline float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}

static inline double __dadd_rn(double a, double b) {
    return a + b;
}

static inline double __dsub_rn(double a, double b) {
    return a - b;
}

static inline double __dmul_rn(double a, double b) {
    return a * b;
}

static inline double __fma_rn(double a, double b, double c) {
    return fma(a, b, c);
}

static inline double __ddiv_rn(double a, double b) {
    return a / b;
}

static inline double __dsqrt_rn(double x) {
    return sqrt(x);
}

static inline float __double2float_rn(double x) {
    return (float)x;
}

static inline float rsqrtf(float x) {
    return (float)(1.0 / sqrt((double)x));
}

static inline double rsqrt(double x) {
    return 1.0 / sqrt(x);
}

static inline float rsqrt(float x) {
    return rsqrtf(x);
}

/* As the device's: of a number and a NaN the number, of two types the wider one. */
#define MAL_HOST_MIN_MAX(type)               \
    static inline type min(type a, type b) { \
        return b < a ? b : a;                \
    }                                        \
    static inline type max(type a, type b) { \
        return a < b ? b : a;                \
    }

MAL_HOST_MIN_MAX(int)
MAL_HOST_MIN_MAX(unsigned)
MAL_HOST_MIN_MAX(long)
MAL_HOST_MIN_MAX(unsigned long)
MAL_HOST_MIN_MAX(long long)
MAL_HOST_MIN_MAX(unsigned long long)
#undef MAL_HOST_MIN_MAX

static inline float min(float a, float b) {
    return fminf(a, b);
}

static inline float max(float a, float b) {
    return fmaxf(a, b);
}

static inline double min(double a, double b) {
    return fmin(a, b);
}

static inline double max(double a, double b) {
    return fmax(a, b);
}

#endif
