/* simd.h - how the CPU's own loops get the processor's wide instructions.
 *
 * A function marked MAL_SIMD is compiled for several x86-64 levels and the best one is
 * taken at run time; what it calls must be inlined (MAL_INLINE) to be compiled along.
 * MAL_SIMD_LOOP lets the compiler vectorise the loop that follows, MAL_SIMD_SUM also
 * reorder the named sums, so their last bits depend on the processor: not for versioned
 * weights. A loop inside of one that is vectorised must vanish: MAL_UNROLL sees to that
 * where the compiler thinks it too long. */
#ifndef MAL_SIMD_H
#define MAL_SIMD_H

#if defined(__has_feature)
#    if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
        __has_feature(memory_sanitizer)
#        define MAL_SANITIZED 1
#    endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#    define MAL_SANITIZED 1
#endif

/* Resolvers of clones run before a sanitizer is ready. clang 14 takes "arch=" but its
 * resolver then chooses wrongly, and it makes the resolver of a static function a global
 * symbol: names of MAL_SIMD functions differ between files. */
#if !defined(__x86_64__) || !defined(__linux__) || defined(MAL_SANITIZED)
#    define MAL_SIMD
#elif defined(__clang__)
#    define MAL_SIMD __attribute__((target_clones("avx512bw", "fma", "default")))
#else
#    define MAL_SIMD \
        __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif

#ifdef __CUDACC__ /* core/round.h is what kernels convert with, too */
#    define MAL_INLINE static __forceinline__ __host__ __device__
#else
#    define MAL_INLINE static inline __attribute__((always_inline))
#endif
#define MAL_PRAGMA(text)  _Pragma(#text)
#define MAL_SIMD_LOOP     MAL_PRAGMA(omp simd)
#define MAL_SIMD_SUM(...) MAL_PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#ifdef __clang__
#    define MAL_UNROLL MAL_PRAGMA(unroll)
#else
#    define MAL_UNROLL MAL_PRAGMA(GCC unroll 8)
#endif

#endif
