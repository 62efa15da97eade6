/* linalg64.c - the solve's linear algebra in fp64, through BLAS and LAPACK.
 *
 * fp32 operands are widened slice by slice (over k) into the device's workspace.
 * Row-major lower triangles are LAPACK's column-major upper ones. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/cpu/blas.h"
#include "core/cpu/cpu.h"
#include "core/round.h"
#include "core/simd.h"

/* ---- Conversion ---- */

static MAL_SIMD void widen(int64_t n, const float *restrict x, double *restrict y) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i];
}

static MAL_SIMD void narrow(int64_t n, const double *restrict x, float *restrict y) {
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)x[i];
}

static void widen_rows(int64_t rows, int64_t cols, const float *x, int64_t ldx,
                       double *y) {
#pragma omp parallel for schedule(static) if (rows * cols > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < rows; i++)
        widen(cols, x + i * ldx, y + i * cols);
}

static void convert_block(int64_t i, int64_t n, void *y, enum mal_dtype y_dtype,
                          const void *x, enum mal_dtype x_dtype) {
    const float *x32 = x;
    const double *x64 = x;
    float *y32 = y;
    double *y64 = y;
    if (x_dtype == MAL_F32 && y_dtype == MAL_F64) {
        widen(n, x32 + i, y64 + i);
    } else if (x_dtype == MAL_F64 && y_dtype == MAL_F32) {
        narrow(n, x64 + i, y32 + i);
    } else {
        memcpy(y64 + i, x64 + i, (size_t)n * sizeof *y64);
    }
}

void mal_cpu_convert(struct mal_backend *be, int64_t n, void *y, enum mal_dtype y_dtype,
                     const void *x, enum mal_dtype x_dtype) {
    if (y_dtype != MAL_F64 && x_dtype != MAL_F64) {
        if (y_dtype == MAL_F32)
            mal_to_f32(y, x, x_dtype, (size_t)n);
        else
            mal_from_f32(y, x, y_dtype, (size_t)n);
        return;
    }
    int64_t block = 1 << 13;
#pragma omp parallel for schedule(static) if (n > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i += block)
        convert_block(i, n - i < block ? n - i : block, y, y_dtype, x, x_dtype);
}

static void axpby_row(const struct mal_axpby64 *add, int64_t i) {
    const float *x32 = add->x;
    const double *x64 = add->x;
    int64_t at = i * add->ldx;
    double *y = add->y + i * add->ldy;
    for (int64_t j = 0; j < add->c; j++) {
        double x = !add->x                   ? 1
                   : add->x_dtype == MAL_F32 ? (double)x32[at + j]
                                             : x64[at + j];
        y[j] = add->alpha * x + (add->beta == 0 ? 0 : add->beta * y[j]);
    }
}

void mal_cpu_axpby64(struct mal_backend *be, const struct mal_axpby64 *add) {
#pragma omp parallel for schedule(static) if (add->n * add->c > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < add->n; i++)
        axpby_row(add, i);
}

/* Rows of x in a task: where they become columns, whole cache lines are written. */
enum { ROUND_ROWS = 16 };

/* Element j goes to y[j * step]. */
static void round_row(int64_t c, const double *x, void *y, enum mal_dtype y_dtype,
                      int64_t step, double sums[2]) {
    bool narrow = y_dtype == MAL_BF16;
    float *y32 = y;
    uint16_t *y16 = y;
    double s = 0, lost = 0;
    for (int64_t j = 0; j < c; j++) {
        float rounded = narrow ? round_to_bf16((float)x[j]) : (float)x[j];
        double d = (double)rounded - x[j];
        if (narrow)
            y16[j * step] = f32_to_bf16(rounded);
        else
            y32[j * step] = rounded;
        s += x[j] * x[j];
        lost += d * d;
    }
    sums[0] = s;
    sums[1] = lost;
}

void mal_cpu_round_rows(struct mal_backend *be, int64_t n, int64_t c, const double *x,
                        bool transposed, void *y, enum mal_dtype y_dtype, double *sums) {
    size_t row = (size_t)(transposed ? 1 : c) * mal_dtype_size(y_dtype);
#pragma omp parallel for schedule(static, ROUND_ROWS) if (n * c > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++)
        round_row(c, x + i * c, (char *)y + (size_t)i * row, y_dtype, transposed ? n : 1,
                  sums + 2 * i);
}

/* ---- Products ---- */

/* The largest c of one product: what keeps a slice of 256 rows of both operands in the
 * workspace. */
enum { TILE = 8192 };

/* Rows [i, i + rows) and columns [j, j + cols) of an operand as fp64: in place, or
 * widened to `work`, which is advanced. */
static const double *operand64(const void *x, enum mal_dtype dtype, int64_t i,
                               int64_t rows, int64_t j, int64_t cols, int64_t *ld,
                               double **work) {
    if (dtype == MAL_F64) return (const double *)x + i * *ld + j;
    double *y = *work;
    widen_rows(rows, cols, (const float *)x + i * *ld + j, *ld, y);
    *ld = cols;
    *work += rows * cols;
    return y;
}

static void gemm64_slice(double *work, const struct mal_gemm64 *g, int64_t i, int64_t m,
                         int64_t j, int64_t n, int64_t p, int64_t k) {
    int64_t lda = g->lda, ldb = g->ldb;
    const double *a = g->trans_a ? operand64(g->a, g->a_dtype, p, k, i, m, &lda, &work)
                                 : operand64(g->a, g->a_dtype, i, m, p, k, &lda, &work);
    const double *b = g->trans_b ? operand64(g->b, g->b_dtype, j, n, p, k, &ldb, &work)
                                 : operand64(g->b, g->b_dtype, p, k, j, n, &ldb, &work);
    cblas_dgemm(CblasRowMajor, g->trans_a ? CblasTrans : CblasNoTrans,
                g->trans_b ? CblasTrans : CblasNoTrans, mal_blas_int(m), mal_blas_int(n),
                mal_blas_int(k), g->alpha, a, mal_blas_int(lda > 0 ? lda : 1), b,
                mal_blas_int(ldb > 0 ? ldb : 1), p == 0 ? g->beta : 1.0,
                g->c + i * g->ldc + j, mal_blas_int(g->ldc));
}

void mal_cpu_gemm64(struct mal_backend *be, const struct mal_gemm64 *g) {
    struct mal_cpu *cpu = (struct mal_cpu *)be;
    bool in_place = g->a_dtype == MAL_F64 && g->b_dtype == MAL_F64;
    int64_t tile = in_place ? INT32_MAX : TILE;
    for (int64_t i = 0; i < g->m; i += tile) {
        int64_t m = g->m - i < tile ? g->m - i : tile;
        for (int64_t j = 0; j < g->n; j += tile) {
            int64_t n = g->n - j < tile ? g->n - j : tile;
            int64_t step = in_place ? INT32_MAX : cpu->n_work / (m + n);
            int64_t p = 0;
            do { /* once for k = 0 too: c = beta c */
                gemm64_slice(cpu->work, g, i, m, j, n, p,
                             g->k - p < step ? g->k - p : step);
                p += step;
            } while (p < g->k);
        }
    }
}

void mal_cpu_syrk64(struct mal_backend *be, int64_t n, int64_t k, double alpha,
                    const float *a, int64_t lda, bool trans, double beta, double *c,
                    int64_t ldc) {
    struct mal_cpu *cpu = (struct mal_cpu *)be;
    int64_t step = cpu->n_work / n;
    assert(step > 0);
    int64_t p = 0;
    do {
        int64_t slice = k - p < step ? k - p : step;
        int64_t rows = trans ? slice : n, cols = trans ? n : slice;
        widen_rows(rows, cols, a + (trans ? p * lda : p), lda, cpu->work);
        cblas_dsyrk(CblasRowMajor, CblasLower, trans ? CblasTrans : CblasNoTrans,
                    mal_blas_int(n), mal_blas_int(slice), alpha, cpu->work,
                    mal_blas_int(cols > 0 ? cols : 1), p == 0 ? beta : 1.0, c,
                    mal_blas_int(ldc));
        p += step;
    } while (p < k);
}

/* ---- Factorisations ---- */

void mal_cpu_potrf64(struct mal_backend *be, int64_t n, double *a, int64_t lda,
                     int64_t row0, double *info) {
    if (info[0] != 0) return;
    int64_t row = mal_lapack_potrf_upper(n, a, lda);
    /* A NaN passes for positive in LAPACK; it is found on the diagonal afterwards. */
    for (int64_t i = 0; row == 0 && i < n; i++)
        if (!isfinite(a[i * lda + i])) row = i + 1;
    if (row == 0) return;
    info[0] = (double)(row0 + row);
    info[1] = a[(row - 1) * (lda + 1)];
}

void mal_cpu_trsm64(struct mal_backend *be, bool right, bool trans_l, int64_t m,
                    int64_t n, const double *l, int64_t ldl, double *b, int64_t ldb) {
    cblas_dtrsm(CblasRowMajor, right ? CblasRight : CblasLeft, CblasLower,
                trans_l ? CblasTrans : CblasNoTrans, CblasNonUnit, mal_blas_int(m),
                mal_blas_int(n), 1.0, l, mal_blas_int(ldl), b, mal_blas_int(ldb));
}

void mal_cpu_solve_rows64(struct mal_backend *be, bool first, int64_t m, int64_t n,
                          const double *l, int64_t ldl, const double *inverses, double *b,
                          int64_t ldb) {
    mal_cpu_trsm64(be, true, first, m, n, l, ldl, b, ldb);
}

void mal_cpu_transpose_lower64(struct mal_backend *be, int64_t n, const double *l,
                               double *y) {
#pragma omp parallel for schedule(static) if (n * n > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++)
            y[i * n + j] = j < i ? 0.0 : l[j * n + i];
    }
}

void mal_cpu_qr64(struct mal_backend *be, int64_t m, int64_t n, double *a, double *r) {
    struct mal_cpu *cpu = (struct mal_cpu *)be;
    double *tau = cpu->work, *work = cpu->work + n;
    int64_t n_work = cpu->n_work - n;
    assert(n_work >= n); /* the least LAPACK asks for */

    mal_lapack_qr_factor(m, n, a, tau, work, n_work);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++)
            r[i * n + j] = j < i ? 0.0 : a[j * m + i];
    }
    mal_lapack_qr_form(m, n, a, tau, work, n_work);
}
