/* solver.cpp - cuSOLVER on the CPU's LAPACK, fp64 only. Workspaces are looked at and
 * filled with NaN, so that neither a short one nor what is kept in one goes unnoticed. */
#include "cusolverDn.h"
#include "internal.h"

#include <cblas.h>

extern "C" {
void dpotrf_(const char *uplo, const blasint *n, double *a, const blasint *lda,
             blasint *info);
void dgeqrf_(const blasint *m, const blasint *n, double *a, const blasint *lda,
             double *tau, double *work, const blasint *n_work, blasint *info);
void dorgqr_(const blasint *m, const blasint *n, const blasint *k, double *a,
             const blasint *lda, const double *tau, double *work, const blasint *n_work,
             blasint *info);
void dtrtri_(const char *uplo, const char *diag, const blasint *n, double *a,
             const blasint *lda, blasint *info);
}

struct cusolverDnContext {
    uint64_t sign; /* that it is one, and lives */
    cudaStream_t stream;
};

struct cusolverDnParams {
    uint64_t sign;
};

static const uint64_t HANDLE = 0x6d616c736c767231u, PARAMS = 0x6d616c706172616du;

static bool is_handle(cusolverDnHandle_t handle) {
    return handle && handle->sign == HANDLE;
}

/* ---- Handles ---- */

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle) {
    if (!handle) return CUSOLVER_STATUS_INVALID_VALUE;
    *handle = (cusolverDnHandle_t)calloc(1, sizeof **handle);
    if (!*handle) return CUSOLVER_STATUS_ALLOC_FAILED;
    (*handle)->sign = HANDLE;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
    if (!is_handle(handle)) return CUSOLVER_STATUS_NOT_INITIALIZED;
    handle->sign = 0;
    free(handle);
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
    if (!is_handle(handle)) return CUSOLVER_STATUS_NOT_INITIALIZED;
    handle->stream = stream;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSetDeterministicMode(cusolverDnHandle_t handle,
                                                cusolverDeterministicMode_t) {
    return is_handle(handle) ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_NOT_INITIALIZED;
}

cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t *params) {
    if (!params) return CUSOLVER_STATUS_INVALID_VALUE;
    *params = (cusolverDnParams_t)calloc(1, sizeof **params);
    if (!*params) return CUSOLVER_STATUS_ALLOC_FAILED;
    (*params)->sign = PARAMS;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) {
    if (!params || params->sign != PARAMS) return CUSOLVER_STATUS_INVALID_VALUE;
    params->sign = 0;
    free(params);
    return CUSOLVER_STATUS_SUCCESS;
}

/* ---- Arguments ---- */

static bool fits(int64_t ld, int64_t rows) {
    return ld >= (rows > 1 ? rows : 1) && ld <= INT32_MAX;
}

static void need_matrix(cusolverDnHandle_t handle, mal_host_how how, const void *a,
                        int64_t rows, int64_t cols, int64_t ld, const char *what) {
    if (rows > 0 && cols > 0)
        mal_host_use_device(handle->stream, a,
                            (size_t)((cols - 1) * ld + rows) * sizeof(double), how, what);
}

static const size_t HOST_BYTES = 64;

static size_t device_bytes(int64_t rows, int64_t cols) {
    return (size_t)(32 * (rows + cols) + 64) * sizeof(double);
}

static void sizes(int64_t rows, int64_t cols, size_t *on_device, size_t *on_host) {
    *on_device = device_bytes(rows, cols);
    *on_host = HOST_BYTES;
}

struct workspace {
    void *on_device;
    size_t device_bytes;
    void *on_host;
    size_t host_bytes;
};

static bool large_enough(cusolverDnHandle_t handle, const workspace *w, int64_t rows,
                         int64_t cols, const char *what) {
    if (w->device_bytes < device_bytes(rows, cols) || w->host_bytes < HOST_BYTES)
        return false;
    mal_host_use_device(handle->stream, w->on_device, w->device_bytes, MAL_HOST_WRITES,
                        what);
    mal_host_need_host(w->on_host, w->host_bytes, what);
    return true;
}

/* Device memory is open. */
static void use(const workspace *w, int64_t rows, int64_t cols) {
    memset(w->on_device, 0xff, device_bytes(rows, cols));
    memset(w->on_host, 0xff, HOST_BYTES);
}

static double *lapack_work(int64_t n) {
    double *work = (double *)malloc((size_t)(n > 1 ? n : 1) * sizeof *work);
    if (!work) mal_host_stop("no memory for a factorization");
    return work;
}

static bool is_handle_with(cusolverDnHandle_t handle, cusolverDnParams_t params) {
    return is_handle(handle) && (!params || params->sign == PARAMS);
}

/* ---- Cholesky ---- */

cusolverStatus_t cusolverDnXpotrf_bufferSize(
    cusolverDnHandle_t handle, cusolverDnParams_t params, cublasFillMode_t, int64_t n,
    cudaDataType dataTypeA, const void *, int64_t lda, cudaDataType computeType,
    size_t *workspaceInBytesOnDevice, size_t *workspaceInBytesOnHost) {
    if (!is_handle_with(handle, params)) return CUSOLVER_STATUS_NOT_INITIALIZED;
    if (n < 0 || !fits(lda, n)) return CUSOLVER_STATUS_INVALID_VALUE;
    if (dataTypeA != CUDA_R_64F || computeType != CUDA_R_64F)
        return CUSOLVER_STATUS_NOT_SUPPORTED;
    sizes(n, n, workspaceInBytesOnDevice, workspaceInBytesOnHost);
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXpotrf(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                  cublasFillMode_t uplo, int64_t n,
                                  cudaDataType dataTypeA, void *A, int64_t lda,
                                  cudaDataType computeType, void *bufferOnDevice,
                                  size_t workspaceInBytesOnDevice, void *bufferOnHost,
                                  size_t workspaceInBytesOnHost, int *info) {
    static const char what[] = "cusolverDnXpotrf";
    workspace w = {bufferOnDevice, workspaceInBytesOnDevice, bufferOnHost,
                   workspaceInBytesOnHost};
    if (!is_handle_with(handle, params)) return CUSOLVER_STATUS_NOT_INITIALIZED;
    if (n < 0 || !fits(lda, n) || uplo == CUBLAS_FILL_MODE_FULL)
        return CUSOLVER_STATUS_INVALID_VALUE;
    if (dataTypeA != CUDA_R_64F || computeType != CUDA_R_64F)
        return CUSOLVER_STATUS_NOT_SUPPORTED;
    if (!large_enough(handle, &w, n, n, what)) return CUSOLVER_STATUS_INVALID_VALUE;
    need_matrix(handle, MAL_HOST_WRITES, A, n, n, lda, what);
    mal_host_use_device(handle->stream, info, sizeof *info, MAL_HOST_WRITES, what);
    mal_host_access access;
    use(&w, n, n);
    blasint size = (blasint)n, stride = (blasint)lda, code = 0;
    if (n > 0)
        dpotrf_(uplo == CUBLAS_FILL_MODE_LOWER ? "L" : "U", &size, (double *)A, &stride,
                &code);
    *info = (int)code;
    return CUSOLVER_STATUS_SUCCESS;
}

/* ---- QR ---- */

cusolverStatus_t
cusolverDnXgeqrf_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                            int64_t m, int64_t n, cudaDataType dataTypeA, const void *,
                            int64_t lda, cudaDataType dataTypeTau, const void *,
                            cudaDataType computeType, size_t *workspaceInBytesOnDevice,
                            size_t *workspaceInBytesOnHost) {
    if (!is_handle_with(handle, params)) return CUSOLVER_STATUS_NOT_INITIALIZED;
    if (m < 0 || n < 0 || !fits(lda, m)) return CUSOLVER_STATUS_INVALID_VALUE;
    if (dataTypeA != CUDA_R_64F || dataTypeTau != CUDA_R_64F || computeType != CUDA_R_64F)
        return CUSOLVER_STATUS_NOT_SUPPORTED;
    sizes(m, n, workspaceInBytesOnDevice, workspaceInBytesOnHost);
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXgeqrf(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                  int64_t m, int64_t n, cudaDataType dataTypeA, void *A,
                                  int64_t lda, cudaDataType dataTypeTau, void *tau,
                                  cudaDataType computeType, void *bufferOnDevice,
                                  size_t workspaceInBytesOnDevice, void *bufferOnHost,
                                  size_t workspaceInBytesOnHost, int *info) {
    static const char what[] = "cusolverDnXgeqrf";
    workspace w = {bufferOnDevice, workspaceInBytesOnDevice, bufferOnHost,
                   workspaceInBytesOnHost};
    if (!is_handle_with(handle, params)) return CUSOLVER_STATUS_NOT_INITIALIZED;
    if (m < 0 || n < 0 || !fits(lda, m)) return CUSOLVER_STATUS_INVALID_VALUE;
    if (dataTypeA != CUDA_R_64F || dataTypeTau != CUDA_R_64F || computeType != CUDA_R_64F)
        return CUSOLVER_STATUS_NOT_SUPPORTED;
    if (!large_enough(handle, &w, m, n, what)) return CUSOLVER_STATUS_INVALID_VALUE;
    need_matrix(handle, MAL_HOST_WRITES, A, m, n, lda, what);
    need_matrix(handle, MAL_HOST_WRITES, tau, m < n ? m : n, 1, m, what);
    mal_host_use_device(handle->stream, info, sizeof *info, MAL_HOST_WRITES, what);
    mal_host_access access;
    use(&w, m, n);
    blasint rows = (blasint)m, cols = (blasint)n, stride = (blasint)lda,
            n_work = (blasint)(64 * n + 1), code = 0;
    double *work = lapack_work(n_work);
    dgeqrf_(&rows, &cols, (double *)A, &stride, (double *)tau, work, &n_work, &code);
    free(work);
    *info = (int)code;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDorgqr_bufferSize(cusolverDnHandle_t handle, int m, int n,
                                             int k, const double *, int lda,
                                             const double *, int *lwork) {
    if (!is_handle(handle)) return CUSOLVER_STATUS_NOT_INITIALIZED;
    if (k < 0 || n < k || m < n || !fits(lda, m)) return CUSOLVER_STATUS_INVALID_VALUE;
    *lwork = (int)(device_bytes(m, n) / sizeof(double));
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDorgqr(cusolverDnHandle_t handle, int m, int n, int k,
                                  double *A, int lda, const double *tau, double *work,
                                  int lwork, int *info) {
    static const char what[] = "cusolverDnDorgqr";
    char on_host[HOST_BYTES];
    if (!is_handle(handle)) return CUSOLVER_STATUS_NOT_INITIALIZED;
    if (k < 0 || n < k || m < n || !fits(lda, m) || lwork < 0)
        return CUSOLVER_STATUS_INVALID_VALUE;
    workspace w = {work, (size_t)lwork * sizeof *work, on_host, sizeof on_host};
    if (!large_enough(handle, &w, m, n, what)) return CUSOLVER_STATUS_INVALID_VALUE;
    need_matrix(handle, MAL_HOST_WRITES, A, m, n, lda, what);
    need_matrix(handle, MAL_HOST_READS, tau, k, 1, k, what);
    mal_host_use_device(handle->stream, info, sizeof *info, MAL_HOST_WRITES, what);
    mal_host_access access;
    use(&w, m, n);
    blasint rows = m, cols = n, reflectors = k, stride = lda, n_work = 64 * n + 1,
            code = 0;
    double *own = lapack_work(n_work);
    dorgqr_(&rows, &cols, &reflectors, A, &stride, tau, own, &n_work, &code);
    free(own);
    *info = (int)code;
    return CUSOLVER_STATUS_SUCCESS;
}

/* ---- Inverse of a triangle ---- */

cusolverStatus_t cusolverDnXtrtri_bufferSize(cusolverDnHandle_t handle, cublasFillMode_t,
                                             cublasDiagType_t, int64_t n,
                                             cudaDataType dataTypeA, void *, int64_t lda,
                                             size_t *workspaceInBytesOnDevice,
                                             size_t *workspaceInBytesOnHost) {
    if (!is_handle(handle)) return CUSOLVER_STATUS_NOT_INITIALIZED;
    if (n < 0 || !fits(lda, n)) return CUSOLVER_STATUS_INVALID_VALUE;
    if (dataTypeA != CUDA_R_64F) return CUSOLVER_STATUS_NOT_SUPPORTED;
    sizes(n, n, workspaceInBytesOnDevice, workspaceInBytesOnHost);
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXtrtri(cusolverDnHandle_t handle, cublasFillMode_t uplo,
                                  cublasDiagType_t diag, int64_t n,
                                  cudaDataType dataTypeA, void *A, int64_t lda,
                                  void *bufferOnDevice, size_t workspaceInBytesOnDevice,
                                  void *bufferOnHost, size_t workspaceInBytesOnHost,
                                  int *devInfo) {
    static const char what[] = "cusolverDnXtrtri";
    workspace w = {bufferOnDevice, workspaceInBytesOnDevice, bufferOnHost,
                   workspaceInBytesOnHost};
    if (!is_handle(handle)) return CUSOLVER_STATUS_NOT_INITIALIZED;
    if (n < 0 || !fits(lda, n) || uplo == CUBLAS_FILL_MODE_FULL)
        return CUSOLVER_STATUS_INVALID_VALUE;
    if (dataTypeA != CUDA_R_64F) return CUSOLVER_STATUS_NOT_SUPPORTED;
    if (!large_enough(handle, &w, n, n, what)) return CUSOLVER_STATUS_INVALID_VALUE;
    need_matrix(handle, MAL_HOST_WRITES, A, n, n, lda, what);
    mal_host_use_device(handle->stream, devInfo, sizeof *devInfo, MAL_HOST_WRITES, what);
    mal_host_access access;
    use(&w, n, n);
    blasint size = (blasint)n, stride = (blasint)lda, code = 0;
    if (n > 0)
        dtrtri_(uplo == CUBLAS_FILL_MODE_LOWER ? "L" : "U",
                diag == CUBLAS_DIAG_UNIT ? "U" : "N", &size, (double *)A, &stride, &code);
    *devInfo = (int)code;
    return CUSOLVER_STATUS_SUCCESS;
}
