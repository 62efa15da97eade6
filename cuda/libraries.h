/* libraries.h - cuBLAS and cuSOLVER, loaded when a device is opened: they are hundreds of
 * megabytes, of no use where no GPU is and missing on most such machines.
 *
 * A function is called through the table: mal_blas()->gemm_ex(...). */
#ifndef MAL_CUDA_LIBRARIES_H
#define MAL_CUDA_LIBRARIES_H

#include <assert.h>
#include <cublas_v2.h>
#include <cusolverDn.h>
#include <limits.h>
#include <stdint.h>

extern "C" {
#include "core/error.h"
}

/* member, function */
#define MAL_BLAS_MAP(X)                     \
    X(create, cublasCreate_v2)              \
    X(destroy, cublasDestroy_v2)            \
    X(set_stream, cublasSetStream_v2)       \
    X(set_workspace, cublasSetWorkspace_v2) \
    X(status_text, cublasGetStatusString)   \
    X(dgemm, cublasDgemm_v2)                \
    X(dsyrk, cublasDsyrk_v2)                \
    X(dtrsm, cublasDtrsm_v2)

#define MAL_SOLVER_MAP(X)                      \
    X(create, cusolverDnCreate)                \
    X(destroy, cusolverDnDestroy)              \
    X(set_stream, cusolverDnSetStream)         \
    X(create_params, cusolverDnCreateParams)   \
    X(destroy_params, cusolverDnDestroyParams) \
    X(geqrf_size, cusolverDnXgeqrf_bufferSize) \
    X(geqrf, cusolverDnXgeqrf)                 \
    X(orgqr_size, cusolverDnDorgqr_bufferSize) \
    X(orgqr, cusolverDnDorgqr)

#define MAL_MEMBER(member, function) decltype(&function) member;

/* Has an older overload in C++. */
typedef cublasStatus_t (*mal_gemm_ex_fn)(cublasHandle_t, cublasOperation_t,
                                         cublasOperation_t, int, int, int, const void *,
                                         const void *, cudaDataType, int, const void *,
                                         cudaDataType, int, const void *, void *,
                                         cudaDataType, int, cublasComputeType_t,
                                         cublasGemmAlgo_t);

struct mal_blas {
    MAL_BLAS_MAP(MAL_MEMBER)
    mal_gemm_ex_fn gemm_ex; /* cublasGemmEx */
    /* NULL: not in this version. */
    cublasStatus_t (*set_math_mode)(cublasHandle_t, int);
    cublasStatus_t (*set_emulation)(cublasHandle_t, int);
};

struct mal_solver {
    MAL_SOLVER_MAP(MAL_MEMBER)
};

#undef MAL_MEMBER

/* Loads both unless that is done; MAL_DEVICE naming the file or function that is missing.
 */
bool mal_cuda_load_libraries(struct mal_error *err);
/* Lets cuBLAS make products in fp64 of exact ones of small integers, to the accuracy of
 * fp64 (Ozaki et al., "Error-free transformations of matrix multiplication", 2012);
 * `all`: even where that is not faster. A cuBLAS that cannot do it yet (before 13.0) goes
 * on as ever. */
cublasStatus_t mal_cuda_emulate64(cublasHandle_t blas, bool all);
const struct mal_blas *mal_blas(void);
const struct mal_solver *mal_solver(void);

/* A size as the libraries take it. */
static inline int mal_cuda_int(int64_t n) {
    assert(n >= 0 && n <= INT_MAX);
    return (int)n;
}

/* cuBLAS refuses a stride of 0, which k = 0 brings. */
static inline int mal_cuda_stride(int64_t ld) {
    return mal_cuda_int(ld > 0 ? ld : 1);
}

#endif
