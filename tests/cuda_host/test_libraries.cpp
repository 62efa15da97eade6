/* test_libraries.cpp - cuBLAS and cuSOLVER as test_host.cpp's device has them:
 * column-major, against loops. */
#include <cublas_v2.h>
#include <cusolverDn.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/round.h"
#include "test.h"

static cublasHandle_t blas;
static cusolverDnHandle_t solver;
static cusolverDnParams_t params;
static uint64_t seed = 1;

enum { MOST = 40 * 40 };

static double random_number() {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 11) * 0x1p-52 - 1;
}

/* A column-major matrix, with something else between its columns. */
struct matrix {
    int rows, cols, ld;
    double x[MOST];

    double &at(int i, int j) {
        return x[j * ld + i];
    }

    size_t size() const {
        return (size_t)((cols - 1) * ld + rows);
    }
};

static matrix made(int rows, int cols, int gap) {
    matrix m = {rows, cols, rows + gap, {}};
    for (double &x : m.x)
        x = random_number();
    return m;
}

static double *sent(const matrix *m) {
    return device(m->size(), m->x);
}

static void took(matrix *m, double *p) {
    fetch(m->x, p, m->size());
    cudaFree(p);
}

static bool same(const matrix *a, const matrix *b, double most) {
    for (size_t i = 0; i < a->size(); i++)
        if (!(fabs(a->x[i] - b->x[i]) <= most)) return false;
    return true;
}

static double op(matrix *m, cublasOperation_t how, int i, int j) {
    return how == CUBLAS_OP_N ? m->at(i, j) : m->at(j, i);
}

/* c = alpha op(a) op(b) + beta c */
static void multiply(matrix *a, cublasOperation_t op_a, matrix *b, cublasOperation_t op_b,
                     double alpha, double beta, matrix *c) {
    int k = op_a == CUBLAS_OP_N ? a->cols : a->rows;
    for (int j = 0; j < c->cols; j++) {
        for (int i = 0; i < c->rows; i++) {
            double sum = 0;
            for (int p = 0; p < k; p++)
                sum += op(a, op_a, i, p) * op(b, op_b, p, j);
            c->at(i, j) = alpha * sum + (beta == 0 ? 0 : beta * c->at(i, j));
        }
    }
}

/* ---- Products ---- */

static const struct {
    int m, n, k;
    double alpha, beta;
} products[] = {{1, 1, 1, 1, 0},
                {3, 5, 7, 2, 1},
                {8, 1, 4, -1, 0.5},
                {5, 9, 0, 1, 3},
                {17, 6, 13, 1, 0}};

static void dgemm() {
    for (const auto &p : products) {
        for (int how = 0; how < 4; how++) {
            cublasOperation_t op_a = how & 1 ? CUBLAS_OP_T : CUBLAS_OP_N,
                              op_b = how & 2 ? CUBLAS_OP_T : CUBLAS_OP_N;
            matrix a = how & 1 ? made(p.k, p.m, 2) : made(p.m, p.k, 2);
            matrix b = how & 2 ? made(p.n, p.k, 1) : made(p.k, p.n, 1);
            matrix c = made(p.m, p.n, 3), y = c;
            if (p.beta == 0) y.at(0, 0) = NAN; /* is not read */
            double *da = p.k ? sent(&a) : nullptr, *db = p.k ? sent(&b) : nullptr,
                   *dc = sent(&y);
            CHECK(cublasDgemm(blas, op_a, op_b, p.m, p.n, p.k, &p.alpha, da, a.ld, db,
                              b.ld, &p.beta, dc, c.ld) == CUBLAS_STATUS_SUCCESS);
            took(&y, dc);
            multiply(&a, op_a, &b, op_b, p.alpha, p.beta, &c);
            CHECK(same(&y, &c, 1e-13));
            cudaFree(da);
            cudaFree(db);
        }
    }
}

static float as(float x, cudaDataType type, bool tf32) {
    if (type == CUDA_R_16F) return round_to_f16(x);
    if (type == CUDA_R_16BF) return round_to_bf16(x);
    return tf32 ? f32_from_bits((f32_bits(x) + 0x1000u) & ~0x1fffu) : x;
}

/* Of numbers of this type; exact if the fp32 operands are rounded as they should be. */
static void check_gemm(cudaDataType type, cublasComputeType_t compute, bool tf32) {
    enum { M = 9, N = 7, K = 5, LD = 12 };

    float a[K * LD], b[K * LD], c[N * LD], want, one = 1, zero = 0;
    uint16_t a16[K * LD], b16[K * LD];
    for (int i = 0; i < K * LD; i++) {
        a[i] = (float)random_number();
        b[i] = (float)random_number();
        a16[i] = type == CUDA_R_16F ? f32_to_f16(a[i]) : f32_to_bf16(a[i]);
        b16[i] = type == CUDA_R_16F ? f32_to_f16(b[i]) : f32_to_bf16(b[i]);
    }
    bool wide = type == CUDA_R_32F;
    void *da = wide ? (void *)device(K * LD, a) : (void *)device(K * LD, a16);
    void *db = wide ? (void *)device(K * LD, b) : (void *)device(K * LD, b16);
    float *dc = device<float>(N * LD);
    CHECK(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_T, M, N, K, &one, da, type, LD, db,
                       type, LD, &zero, dc, CUDA_R_32F, LD, compute,
                       CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS);
    fetch(c, dc, N * LD);
    for (int j = 0; j < N; j++) {
        for (int i = 0; i < M; i++) {
            double sum = 0;
            for (int p = 0; p < K; p++)
                sum +=
                    (double)as(a[p * LD + i], type, tf32) * as(b[p * LD + j], type, tf32);
            want = (float)sum;
            CHECK(fabsf(c[j * LD + i] - want) <= 1e-6f);
        }
        for (int i = M; i < LD; i++)
            CHECK(isnan(c[j * LD + i]));
    }
    cudaFree(da);
    cudaFree(db);
    cudaFree(dc);
}

static void gemm_of_every_type() {
    check_gemm(CUDA_R_32F, CUBLAS_COMPUTE_32F, false);
    check_gemm(CUDA_R_32F, CUBLAS_COMPUTE_32F_PEDANTIC, false);
    check_gemm(CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32, true);
    check_gemm(CUDA_R_16F, CUBLAS_COMPUTE_32F, false);
    check_gemm(CUDA_R_16BF, CUBLAS_COMPUTE_32F, false);
    check_gemm(CUDA_R_16BF, CUBLAS_COMPUTE_32F_PEDANTIC, false);
    CHECK(cublasSetMathMode(blas, CUBLAS_TF32_TENSOR_OP_MATH) == CUBLAS_STATUS_SUCCESS);
    check_gemm(CUDA_R_32F, CUBLAS_COMPUTE_32F, true);
    check_gemm(CUDA_R_32F, CUBLAS_COMPUTE_32F_PEDANTIC, false);
    CHECK(cublasSetMathMode(blas, CUBLAS_DEFAULT_MATH) == CUBLAS_STATUS_SUCCESS);
}

static cublasStatus_t gemm_with(int m, int n, int k, int lda, int ldb, int ldc,
                                cudaDataType a_type, cudaDataType b_type,
                                cublasComputeType_t compute) {
    static float *p;
    float one = 1;
    if (!p) p = device<float>(1000);
    return cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, m, n, k, &one, p, a_type, lda,
                        p + 300, b_type, ldb, &one, p + 600, CUDA_R_32F, ldc, compute,
                        CUBLAS_GEMM_DEFAULT);
}

static void arguments_are_checked() {
    const cudaDataType F = CUDA_R_32F, H = CUDA_R_16F;
    const cublasComputeType_t C = CUBLAS_COMPUTE_32F;
    CHECK(gemm_with(4, 5, 6, 4, 6, 4, F, F, C) == CUBLAS_STATUS_SUCCESS);
    CHECK(gemm_with(-1, 5, 6, 4, 6, 4, F, F, C) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(gemm_with(4, 5, 6, 3, 6, 4, F, F, C) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(gemm_with(4, 5, 6, 4, 5, 4, F, F, C) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(gemm_with(4, 5, 6, 4, 6, 3, F, F, C) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(gemm_with(4, 5, 0, 4, 0, 4, F, F, C) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(gemm_with(4, 5, 0, 4, 1, 4, F, F, C) == CUBLAS_STATUS_SUCCESS);
    CHECK(gemm_with(4, 5, 6, 4, 6, 4, F, H, C) == CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(gemm_with(4, 5, 6, 4, 6, 4, H, H, CUBLAS_COMPUTE_32F_FAST_TF32) ==
          CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(cublasSetStream(nullptr, 0) == CUBLAS_STATUS_NOT_INITIALIZED);
    CHECK(strcmp(cublasGetStatusName(CUBLAS_STATUS_INVALID_VALUE),
                 "CUBLAS_STATUS_INVALID_VALUE") == 0);
}

/* ---- Symmetric and triangular ---- */

static void dsyrk() {
    double alpha = 2, beta = 0.5;
    for (int how = 0; how < 4; how++) {
        cublasOperation_t trans = how & 1 ? CUBLAS_OP_T : CUBLAS_OP_N;
        cublasFillMode_t uplo = how & 2 ? CUBLAS_FILL_MODE_UPPER : CUBLAS_FILL_MODE_LOWER;
        matrix a = how & 1 ? made(6, 9, 1) : made(9, 6, 1), c = made(9, 9, 2), y = c,
               all = c;
        double *da = sent(&a), *dc = sent(&c);
        CHECK(cublasDsyrk(blas, uplo, trans, 9, 6, &alpha, da, a.ld, &beta, dc, c.ld) ==
              CUBLAS_STATUS_SUCCESS);
        took(&y, dc);
        multiply(&a, trans, &a, how & 1 ? CUBLAS_OP_N : CUBLAS_OP_T, alpha, beta, &all);
        for (int j = 0; j < 9; j++)
            for (int i = 0; i < 9; i++)
                if (how & 2 ? i <= j : i >= j) c.at(i, j) = all.at(i, j);
        CHECK(same(&y, &c, 1e-13));
        cudaFree(da);
    }
}

/* The triangle of `a` that counts, the rest 0. */
static matrix triangle(const matrix *a, bool upper, bool unit) {
    matrix t = *a;
    for (int j = 0; j < t.cols; j++)
        for (int i = 0; i < t.rows; i++)
            if (i == j && unit)
                t.at(i, j) = 1;
            else if (upper ? i > j : i < j)
                t.at(i, j) = 0;
    return t;
}

static void dtrsm() {
    double alpha = 3;
    for (int how = 0; how < 16; how++) {
        bool left = how & 1, upper = how & 2, trans = how & 4, unit = how & 8;
        cublasOperation_t op_a = trans ? CUBLAS_OP_T : CUBLAS_OP_N;
        matrix a = made(left ? 6 : 4, left ? 6 : 4, 1), b = made(6, 4, 2), x = b;
        for (int i = 0; i < a.rows; i++)
            a.at(i, i) += 4;
        double *da = sent(&a), *db = sent(&b);
        CHECK(cublasDtrsm(blas, left ? CUBLAS_SIDE_LEFT : CUBLAS_SIDE_RIGHT,
                          upper ? CUBLAS_FILL_MODE_UPPER : CUBLAS_FILL_MODE_LOWER, op_a,
                          unit ? CUBLAS_DIAG_UNIT : CUBLAS_DIAG_NON_UNIT, 6, 4, &alpha,
                          da, a.ld, db, b.ld) == CUBLAS_STATUS_SUCCESS);
        took(&x, db);
        matrix t = triangle(&a, upper, unit), back = x;
        if (left)
            multiply(&t, op_a, &x, CUBLAS_OP_N, 1 / alpha, 0, &back);
        else
            multiply(&x, CUBLAS_OP_N, &t, op_a, 1 / alpha, 0, &back);
        CHECK(same(&back, &b, 1e-11));
        cudaFree(da);
    }
}

/* ---- Factorizations ---- */

/* Workspaces of the size that was asked for. */
struct workspace {
    size_t device_bytes, host_bytes;
    char *on_device, *on_host;
    int *info;

    void take() {
        on_device = device<char>(device_bytes);
        on_host = (char *)malloc(host_bytes);
        info = device<int>(1);
    }

    int give() {
        int code = -1;
        fetch(&code, info, 1);
        cudaFree(on_device);
        cudaFree(info);
        free(on_host);
        return code;
    }
};

static matrix positive(int n) {
    matrix a = made(n, n, 0), c = made(n, n, 3);
    multiply(&a, CUBLAS_OP_N, &a, CUBLAS_OP_T, 1, 0, &c);
    for (int i = 0; i < n; i++)
        c.at(i, i) += 1;
    return c;
}

static int factored(matrix *a, cublasFillMode_t uplo) {
    workspace w;
    double *p = sent(a);
    CHECK(cusolverDnXpotrf_bufferSize(solver, params, uplo, a->rows, CUDA_R_64F, p, a->ld,
                                      CUDA_R_64F, &w.device_bytes,
                                      &w.host_bytes) == CUSOLVER_STATUS_SUCCESS);
    w.take();
    CHECK(cusolverDnXpotrf(solver, params, uplo, a->rows, CUDA_R_64F, p, a->ld,
                           CUDA_R_64F, w.on_device, w.device_bytes - 1, w.on_host,
                           w.host_bytes, w.info) == CUSOLVER_STATUS_INVALID_VALUE);
    CHECK(cusolverDnXpotrf(solver, params, uplo, a->rows, CUDA_R_64F, p, a->ld,
                           CUDA_R_64F, w.on_device, w.device_bytes, w.on_host,
                           w.host_bytes, w.info) == CUSOLVER_STATUS_SUCCESS);
    took(a, p);
    return w.give();
}

static void cholesky() {
    for (int upper = 0; upper < 2; upper++) {
        matrix a = positive(11), l = a, back = a;
        cublasFillMode_t uplo = upper ? CUBLAS_FILL_MODE_UPPER : CUBLAS_FILL_MODE_LOWER;
        CHECK(factored(&l, uplo) == 0);
        matrix t = triangle(&l, upper, false);
        multiply(&t, upper ? CUBLAS_OP_T : CUBLAS_OP_N, &t,
                 upper ? CUBLAS_OP_N : CUBLAS_OP_T, 1, 0, &back);
        CHECK(same(&back, &a, 1e-12));
        for (int j = 0; j < 11; j++) /* the other triangle is as it was */
            for (int i = 0; i < 11; i++)
                if (upper ? i > j : i < j) CHECK(l.at(i, j) == a.at(i, j));
        a.at(4, 4) = -1;
        CHECK(factored(&a, uplo) == 5);

        matrix inverse = l, unit = l;
        workspace w;
        double *p = sent(&l);
        CHECK(cusolverDnXtrtri_bufferSize(solver, uplo, CUBLAS_DIAG_NON_UNIT, 11,
                                          CUDA_R_64F, p, l.ld, &w.device_bytes,
                                          &w.host_bytes) == CUSOLVER_STATUS_SUCCESS);
        w.take();
        CHECK(cusolverDnXtrtri(solver, uplo, CUBLAS_DIAG_NON_UNIT, 11, CUDA_R_64F, p,
                               l.ld, w.on_device, w.device_bytes, w.on_host, w.host_bytes,
                               w.info) == CUSOLVER_STATUS_SUCCESS);
        took(&inverse, p);
        CHECK(w.give() == 0);
        inverse = triangle(&inverse, upper, false);
        multiply(&t, CUBLAS_OP_N, &inverse, CUBLAS_OP_N, 1, 0, &unit);
        for (int j = 0; j < 11; j++)
            for (int i = 0; i < 11; i++)
                CHECK(fabs(unit.at(i, j) - (i == j)) <= 1e-11);
    }
}

static void qr() {
    enum { M = 13, N = 7 };

    matrix a = made(M, N, 2), q = a, back = a;
    workspace w;
    int n_work = 0;
    double *p = sent(&a), *tau = device<double>(N);
    CHECK(cusolverDnXgeqrf_bufferSize(solver, params, M, N, CUDA_R_64F, p, a.ld,
                                      CUDA_R_64F, tau, CUDA_R_64F, &w.device_bytes,
                                      &w.host_bytes) == CUSOLVER_STATUS_SUCCESS);
    w.take();
    CHECK(cusolverDnXgeqrf(solver, params, M, N, CUDA_R_64F, p, a.ld, CUDA_R_64F, tau,
                           CUDA_R_64F, w.on_device, w.device_bytes, w.on_host,
                           w.host_bytes, w.info) == CUSOLVER_STATUS_SUCCESS);
    CHECK(w.give() == 0);
    fetch(q.x, p, q.size());
    matrix r = {N, N, q.ld, {}};
    for (int j = 0; j < N; j++)
        for (int i = 0; i <= j; i++)
            r.at(i, j) = q.at(i, j);

    CHECK(cusolverDnDorgqr_bufferSize(solver, M, N, N, p, q.ld, tau, &n_work) ==
          CUSOLVER_STATUS_SUCCESS);
    double *work = device<double>((size_t)n_work);
    int *info = device<int>(1), code = -1;
    CHECK(cusolverDnDorgqr(solver, M, N, N, p, q.ld, tau, work, n_work - 1, info) ==
          CUSOLVER_STATUS_INVALID_VALUE);
    CHECK(cusolverDnDorgqr(solver, M, N, N, p, q.ld, tau, work, n_work, info) ==
          CUSOLVER_STATUS_SUCCESS);
    fetch(&code, info, 1);
    CHECK(code == 0);
    took(&q, p);
    multiply(&q, CUBLAS_OP_N, &r, CUBLAS_OP_N, 1, 0, &back);
    for (int j = 0; j < N; j++) {
        for (int i = 0; i < M; i++)
            CHECK(fabs(back.at(i, j) - a.at(i, j)) <= 1e-13);
        for (int i = 0; i <= j; i++) {
            double dot = 0;
            for (int k = 0; k < M; k++)
                dot += q.at(k, i) * q.at(k, j);
            CHECK(fabs(dot - (i == j)) <= 1e-13);
        }
    }
    cudaFree(tau);
    cudaFree(work);
    cudaFree(info);
}

void test_libraries() {
    CHECK(cublasCreate(&blas) == CUBLAS_STATUS_SUCCESS);
    CHECK(cusolverDnCreate(&solver) == CUSOLVER_STATUS_SUCCESS);
    CHECK(cusolverDnCreateParams(&params) == CUSOLVER_STATUS_SUCCESS);
    test("cublasDgemm", dgemm);
    test("cublasGemmEx of every type", gemm_of_every_type);
    test("arguments of cuBLAS are checked", arguments_are_checked);
    test("cublasDsyrk", dsyrk);
    test("cublasDtrsm", dtrsm);
    test("Cholesky and inverse", cholesky);
    test("QR", qr);
    CHECK(cusolverDnDestroyParams(params) == CUSOLVER_STATUS_SUCCESS);
    CHECK(cusolverDnDestroy(solver) == CUSOLVER_STATUS_SUCCESS);
    CHECK(cublasDestroy(blas) == CUBLAS_STATUS_SUCCESS);
}
