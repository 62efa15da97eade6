/* blas.cpp - cuBLAS on the CPU's BLAS: column-major as there. Arguments are checked as
 * cuBLAS checks them, and operands must lie inside allocations of device memory with all
 * they hold. */
#include "cublas_v2.h"
#include "internal.h"

#include <cblas.h>

#include "core/round.h"

struct cublasContext {
    uint64_t sign; /* that it is one, and lives */
    cudaStream_t stream;
    cublasMath_t math;
    void *workspace;
    size_t workspace_bytes;
};

static const uint64_t HANDLE = 0x6d616c626c617331u;

static bool is_handle(cublasHandle_t handle) {
    return handle && handle->sign == HANDLE;
}

/* ---- Handles ---- */

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    *handle = (cublasHandle_t)calloc(1, sizeof **handle);
    if (!*handle) return CUBLAS_STATUS_ALLOC_FAILED;
    (*handle)->sign = HANDLE;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    if (!is_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->sign = 0;
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t handle, int *version) {
    if (!is_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    *version = 130000;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    if (!is_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->stream = stream;
    handle->workspace = nullptr; /* as there: back to its own */
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace,
                                     size_t workspaceSizeInBytes) {
    if (!is_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (workspaceSizeInBytes && (uintptr_t)workspace % 256)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (workspaceSizeInBytes)
        mal_host_need_device(workspace, workspaceSizeInBytes, "cublasSetWorkspace");
    handle->workspace = workspace;
    handle->workspace_bytes = workspaceSizeInBytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
    if (!is_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    return mode == CUBLAS_POINTER_MODE_HOST ? CUBLAS_STATUS_SUCCESS
                                            : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    if (!is_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *mode) {
    if (!is_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    *mode = handle->math;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t) {
    return is_handle(handle) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

static const struct {
    cublasStatus_t status;
    const char *name, *text;
} statuses[] = {
    {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS", "success"},
    {CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED",
     "the library was not initialized"},
    {CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED",
     "the resource allocation failed"},
    {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE",
     "an unsupported value or parameter was passed to the function"},
    {CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED",
     "the function failed to launch on the GPU"},
    {CUBLAS_STATUS_INTERNAL_ERROR, "CUBLAS_STATUS_INTERNAL_ERROR",
     "an internal operation failed"},
    {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED",
     "the functionality requested is not supported"},
};

const char *cublasGetStatusName(cublasStatus_t status) {
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++)
        if (statuses[i].status == status) return statuses[i].name;
    return "<unknown>";
}

const char *cublasGetStatusString(cublasStatus_t status) {
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++)
        if (statuses[i].status == status) return statuses[i].text;
    return "<unknown>";
}

/* ---- Operands ---- */

static bool transposed(cublasOperation_t op) {
    return op != CUBLAS_OP_N;
}

static CBLAS_TRANSPOSE blas_op(cublasOperation_t op) {
    return transposed(op) ? CblasTrans : CblasNoTrans;
}

static bool fits(int ld, int rows) {
    return ld >= (rows > 1 ? rows : 1);
}

/* A matrix of `cols` columns, each `rows` elements, is all there. */
static void need(cublasHandle_t handle, mal_host_how how, const void *p, int64_t rows,
                 int64_t cols, int64_t ld, size_t element, const char *what) {
    if (rows > 0 && cols > 0)
        mal_host_use_device(handle->stream, p, (size_t)((cols - 1) * ld + rows) * element,
                            how, what);
}

static void need_scalars(const void *alpha, const void *beta, const char *what) {
    mal_host_need_host(alpha, 1, what);
    mal_host_need_host(beta, 1, what);
}

/* What cuBLAS was told to work with must be there when it works. */
static void need_workspace(cublasHandle_t handle, const char *what) {
    if (handle->workspace)
        mal_host_use_device(handle->stream, handle->workspace, handle->workspace_bytes,
                            MAL_HOST_WRITES, what);
}

static size_t element_bytes(cudaDataType type) {
    return type == CUDA_R_32F ? 4 : type == CUDA_R_64F ? 8 : 2;
}

/* ---- Products ---- */

static float rounded_to_tf32(float x) {
    uint32_t u = f32_bits(x);
    if ((u & 0x7f800000u) == 0x7f800000u) return x;
    return f32_from_bits((u + 0xfffu + ((u >> 13) & 1u)) & ~0x1fffu);
}

/* An operand as packed fp32. */
static float *widened(const void *x, cudaDataType type, int64_t rows, int64_t cols,
                      int64_t ld) {
    float *y = (float *)malloc((size_t)(rows * cols) * sizeof *y);
    if (!y) mal_host_stop("no memory for an operand");
    for (int64_t j = 0; j < cols; j++) {
        for (int64_t i = 0; i < rows; i++) {
            int64_t from = j * ld + i;
            if (type == CUDA_R_32F)
                y[j * rows + i] = rounded_to_tf32(((const float *)x)[from]);
            else if (type == CUDA_R_16F)
                y[j * rows + i] = f16_to_f32(((const uint16_t *)x)[from]);
            else
                y[j * rows + i] = bf16_to_f32(((const uint16_t *)x)[from]);
        }
    }
    return y;
}

/* Which types go together; fp32 results only. */
static bool supported(cudaDataType a, cudaDataType b, cudaDataType c,
                      cublasComputeType_t compute) {
    if (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC &&
        compute != CUBLAS_COMPUTE_32F_FAST_TF32)
        return false;
    if (compute == CUBLAS_COMPUTE_32F_FAST_TF32 && a != CUDA_R_32F) return false;
    return a == b && c == CUDA_R_32F &&
           (a == CUDA_R_32F || a == CUDA_R_16F || a == CUDA_R_16BF);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa,
                            cublasOperation_t transb, int m, int n, int k,
                            const void *alpha, const void *A, cudaDataType Atype, int lda,
                            const void *B, cudaDataType Btype, int ldb, const void *beta,
                            void *C, cudaDataType Ctype, int ldc,
                            cublasComputeType_t computeType, cublasGemmAlgo_t) {
    static const char what[] = "cublasGemmEx";
    if (!is_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    int a_rows = transposed(transa) ? k : m, a_cols = transposed(transa) ? m : k;
    int b_rows = transposed(transb) ? n : k, b_cols = transposed(transb) ? k : n;
    if (m < 0 || n < 0 || k < 0 || !fits(lda, a_rows) || !fits(ldb, b_rows) ||
        !fits(ldc, m) || !alpha || !beta)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!supported(Atype, Btype, Ctype, computeType)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
    need_scalars(alpha, beta, what);
    need_workspace(handle, what);
    need(handle, MAL_HOST_READS, A, a_rows, a_cols, lda, element_bytes(Atype), what);
    need(handle, MAL_HOST_READS, B, b_rows, b_cols, ldb, element_bytes(Btype), what);
    need(handle, MAL_HOST_WRITES, C, m, n, ldc, sizeof(float), what);

    mal_host_access access;
    bool tf32 =
        Atype == CUDA_R_32F && (computeType == CUBLAS_COMPUTE_32F_FAST_TF32 ||
                                (computeType == CUBLAS_COMPUTE_32F &&
                                 (handle->math & 15) == CUBLAS_TF32_TENSOR_OP_MATH));
    float *a = nullptr, *b = nullptr;
    if (k > 0 && (tf32 || Atype != CUDA_R_32F)) {
        A = a = widened(A, Atype, a_rows, a_cols, lda);
        B = b = widened(B, Btype, b_rows, b_cols, ldb);
        lda = a_rows;
        ldb = b_rows;
    }
    cblas_sgemm(CblasColMajor, blas_op(transa), blas_op(transb), m, n, k,
                *(const float *)alpha, (const float *)A, lda, (const float *)B, ldb,
                *(const float *)beta, (float *)C, ldc);
    free(a);
    free(b);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t transa,
                              cublasOperation_t transb, int m, int n, int k,
                              const float *alpha, const float *A, int lda, const float *B,
                              int ldb, const float *beta, float *C, int ldc) {
    return cublasGemmEx(handle, transa, transb, m, n, k, alpha, A, CUDA_R_32F, lda, B,
                        CUDA_R_32F, ldb, beta, C, CUDA_R_32F, ldc, CUBLAS_COMPUTE_32F,
                        CUBLAS_GEMM_DEFAULT);
}

cublasStatus_t cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t transa,
                              cublasOperation_t transb, int m, int n, int k,
                              const double *alpha, const double *A, int lda,
                              const double *B, int ldb, const double *beta, double *C,
                              int ldc) {
    static const char what[] = "cublasDgemm";
    if (!is_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    int a_rows = transposed(transa) ? k : m, a_cols = transposed(transa) ? m : k;
    int b_rows = transposed(transb) ? n : k, b_cols = transposed(transb) ? k : n;
    if (m < 0 || n < 0 || k < 0 || !fits(lda, a_rows) || !fits(ldb, b_rows) ||
        !fits(ldc, m) || !alpha || !beta)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
    need_scalars(alpha, beta, what);
    need_workspace(handle, what);
    need(handle, MAL_HOST_READS, A, a_rows, a_cols, lda, sizeof *A, what);
    need(handle, MAL_HOST_READS, B, b_rows, b_cols, ldb, sizeof *B, what);
    need(handle, MAL_HOST_WRITES, C, m, n, ldc, sizeof *C, what);
    mal_host_access access;
    cblas_dgemm(CblasColMajor, blas_op(transa), blas_op(transb), m, n, k, *alpha, A, lda,
                B, ldb, *beta, C, ldc);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- Symmetric and triangular ---- */

cublasStatus_t cublasDsyrk_v2(cublasHandle_t handle, cublasFillMode_t uplo,
                              cublasOperation_t trans, int n, int k, const double *alpha,
                              const double *A, int lda, const double *beta, double *C,
                              int ldc) {
    static const char what[] = "cublasDsyrk";
    if (!is_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    int rows = transposed(trans) ? k : n, cols = transposed(trans) ? n : k;
    if (n < 0 || k < 0 || !fits(lda, rows) || !fits(ldc, n) || !alpha || !beta ||
        uplo == CUBLAS_FILL_MODE_FULL)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (n == 0) return CUBLAS_STATUS_SUCCESS;
    need_scalars(alpha, beta, what);
    need_workspace(handle, what);
    need(handle, MAL_HOST_READS, A, rows, cols, lda, sizeof *A, what);
    need(handle, MAL_HOST_WRITES, C, n, n, ldc, sizeof *C, what);
    mal_host_access access;
    cblas_dsyrk(CblasColMajor, uplo == CUBLAS_FILL_MODE_LOWER ? CblasLower : CblasUpper,
                blas_op(trans), n, k, *alpha, A, lda, *beta, C, ldc);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDtrsm_v2(cublasHandle_t handle, cublasSideMode_t side,
                              cublasFillMode_t uplo, cublasOperation_t trans,
                              cublasDiagType_t diag, int m, int n, const double *alpha,
                              const double *A, int lda, double *B, int ldb) {
    static const char what[] = "cublasDtrsm";
    if (!is_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    int size = side == CUBLAS_SIDE_LEFT ? m : n;
    if (m < 0 || n < 0 || !fits(lda, size) || !fits(ldb, m) || !alpha ||
        uplo == CUBLAS_FILL_MODE_FULL)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
    need_scalars(alpha, alpha, what);
    need_workspace(handle, what);
    need(handle, MAL_HOST_READS, A, size, size, lda, sizeof *A, what);
    need(handle, MAL_HOST_WRITES, B, m, n, ldb, sizeof *B, what);
    mal_host_access access;
    cblas_dtrsm(CblasColMajor, side == CUBLAS_SIDE_LEFT ? CblasLeft : CblasRight,
                uplo == CUBLAS_FILL_MODE_LOWER ? CblasLower : CblasUpper, blas_op(trans),
                diag == CUBLAS_DIAG_UNIT ? CblasUnit : CblasNonUnit, m, n, *alpha, A, lda,
                B, ldb);
    return CUBLAS_STATUS_SUCCESS;
}
