/* train_ops.cu - backward of the editors' own operations, and the optimiser's step. */
#include <math.h>

#include "cuda/impl.h"
#include "cuda/number.h"
#include "cuda/reduce.h"

/* ---- Hyper-network ---- */

__global__ static void block_bwd(int64_t n, int64_t c, const float *dh,
                                 const float *scale, float *z, float *dscale,
                                 float *dshift, float *dbias) {
    int64_t j = (int64_t)blockIdx.x * MAL_COLUMNS + threadIdx.x;
    double s_scale = 0, s_shift = 0, s_bias = 0;
    for (int64_t i = threadIdx.y; j < c && i < n; i += MAL_GROUPS) {
        float d = dh[i * c + j], x = z[i * c + j];
        float dz = x < 0 ? 0 : d * scale[j], r = x < 0 ? 0 : x;
        s_scale += (double)d * (double)r;
        s_shift += (double)d;
        s_bias += (double)dz;
        z[i * c + j] = dz;
    }
    s_scale = mal_column_sum(s_scale);
    s_shift = mal_column_sum(s_shift);
    s_bias = mal_column_sum(s_bias);
    if (threadIdx.y > 0 || j >= c) return;
    dscale[j] += (float)s_scale;
    dshift[j] += (float)s_shift;
    dbias[j] += (float)s_bias;
}

void mal_cuda_block_bwd(struct mal_backend *be, int64_t n, int64_t c, const float *dh,
                        const float *scale, float *z, float *dscale, float *dshift,
                        float *dbias) {
    struct mal_cuda *cu = mal_cuda_of(be);
    MAL_LAUNCH(cu, block_bwd, (unsigned)((c + MAL_COLUMNS - 1) / MAL_COLUMNS),
               dim3(MAL_COLUMNS, MAL_GROUPS), 0, n, c, dh, scale, z, dscale, dshift,
               dbias);
}

/* ---- Sums of parts ---- */

static const int64_t MOST_PARTS = 4096; /* fp64 sums in the workspace */

static unsigned parts_of(int64_t rows) {
    return (unsigned)(rows < 1 ? 1 : rows < MOST_PARTS ? rows : MOST_PARTS);
}

/* ---- Value differences ---- */

/* A block every grid-th row. */
__global__ static void diffs_rows(struct mal_edit_diffs_bwd g, double *part) {
    double dlr = 0;
    for (int64_t i = blockIdx.x; i < g.n; i += gridDim.x) {
        const float *a = g.a + i * g.lda, *b = g.b + i * g.ldb;
        const float *c = g.c + i * g.ldc, *e = g.e + i * g.lde;
        double ab = 0, ec = 0;
        for (int64_t j = threadIdx.x; j < g.da; j += blockDim.x)
            ab += (double)a[j] * (double)b[j];
        for (int64_t j = threadIdx.x; j < g.dc; j += blockDim.x)
            ec += (double)e[j] * (double)c[j];
        ab = mal_block_sum(ab);
        ec = mal_block_sum(ec);
        float to_b = (float)(-(double)g.lr * ec), to_c = (float)(-(double)g.lr * ab);
        for (int64_t j = threadIdx.x; j < g.da; j += blockDim.x)
            g.grad_b[i * g.ld_grad + j] = to_b * a[j];
        for (int64_t j = threadIdx.x; j < g.dc; j += blockDim.x)
            g.grad_c[i * g.ld_grad + j] = to_c * e[j];
        dlr -= ab * ec;
    }
    if (threadIdx.x == 0) part[blockIdx.x] = dlr;
}

void mal_cuda_edit_diffs_bwd(struct mal_backend *be, const struct mal_edit_diffs_bwd *g) {
    struct mal_cuda *cu = mal_cuda_of(be);
    double *part = (double *)cu->work;
    unsigned parts = parts_of(g->n);
    MAL_LAUNCH(cu, diffs_rows, parts, MAL_THREADS, 0, *g, part);
    mal_cuda_add_parts(cu, parts, part, true, g->dlr);
}

/* ---- Sums of products ---- */

template <typename A, typename B>
__global__ static void dot_rows(int64_t n, int64_t c, const A *a, int64_t lda, const B *b,
                                int64_t ldb, double *part) {
    double sum = 0;
    for (int64_t i = blockIdx.x; i < n; i += gridDim.x) {
        for (int64_t j = threadIdx.x; j < c; j += blockDim.x)
            sum += (double)a[i * lda + j] * (double)b[i * ldb + j];
    }
    sum = mal_block_sum(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

template <typename A, typename B>
static void dot_of(struct mal_cuda *cu, int64_t n, int64_t c, const void *a, int64_t lda,
                   const void *b, int64_t ldb, double *part) {
    auto kernel = dot_rows<A, B>;
    MAL_LAUNCH(cu, kernel, parts_of(n), MAL_THREADS, 0, n, c, (const A *)a, lda,
               (const B *)b, ldb, part);
}

void mal_cuda_dot(struct mal_backend *be, int64_t n, int64_t c, const void *a,
                  enum mal_dtype a_dtype, int64_t lda, const void *b,
                  enum mal_dtype b_dtype, int64_t ldb, double *out) {
    struct mal_cuda *cu = mal_cuda_of(be);
    double *part = (double *)cu->work;
    if (a_dtype == MAL_F32 && b_dtype == MAL_F32)
        dot_of<float, float>(cu, n, c, a, lda, b, ldb, part);
    else if (a_dtype == MAL_F32)
        dot_of<float, double>(cu, n, c, a, lda, b, ldb, part);
    else if (b_dtype == MAL_F32)
        dot_of<double, float>(cu, n, c, a, lda, b, ldb, part);
    else
        dot_of<double, double>(cu, n, c, a, lda, b, ldb, part);
    mal_cuda_add_parts(cu, parts_of(n), part, false, out);
}

/* ---- Adam ---- */

struct adam_factors {
    float grad, mean, square, grad_square, step, correct, eps, decay, bound;
};

template <typename W>
__global__ static void adam_step(int64_t n, float *p, float *m, float *v, const float *g,
                                 const W *w, struct adam_factors k) {
    MAL_EACH(i, n) {
        float grad = g[i] * k.grad;
        if (k.decay != 0) grad += k.decay * (mal_widen(w[i]) + p[i]);
        float mean = m[i] + (grad - m[i]) * k.mean;
        float square = v[i] * k.square + grad * grad * k.grad_square;
        m[i] = mean;
        v[i] = square;
        float x = p[i] - k.step * mean / (sqrtf(square) / k.correct + k.eps);
        p[i] = k.bound == 0 ? x : x > k.bound ? k.bound : x < -k.bound ? -k.bound : x;
    }
}

template <typename W>
static void adam_over(struct mal_cuda *cu, const struct mal_adam *adam,
                      struct adam_factors k) {
    auto kernel = adam_step<W>;
    MAL_LAUNCH(cu, kernel, mal_cuda_grid(cu, adam->n), MAL_THREADS, 0, adam->n, adam->p,
               adam->m, adam->v, adam->g, (const W *)adam->w, k);
}

void mal_cuda_adam_step(struct mal_backend *be, const struct mal_adam *adam) {
    struct mal_cuda *cu = mal_cuda_of(be);
    double correct1 = 1 - pow(adam->beta1, (double)adam->t);
    double correct2 = 1 - pow(adam->beta2, (double)adam->t);
    struct adam_factors k = {
        (float)adam->grad_scale,  (float)(1 - adam->beta1),     (float)adam->beta2,
        (float)(1 - adam->beta2), (float)(adam->lr / correct1), (float)sqrt(correct2),
        (float)adam->eps,         (float)adam->decay,           (float)adam->bound};
    if (adam->w_dtype == MAL_F16)
        adam_over<mal_f16>(cu, adam, k);
    else if (adam->w_dtype == MAL_BF16)
        adam_over<mal_bf16>(cu, adam, k);
    else
        adam_over<float>(cu, adam, k);
}
