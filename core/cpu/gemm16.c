/* gemm16.c - products with weights in 16 bits, computed in fp32: panels of them are
 * widened into scratch that stays in the cache while BLAS reads it, never all of them. */
#include "core/cpu/cpu.h"

enum { PANEL = 1 << 20, DEPTH = 2048 }; /* floats of scratch, and its rows at most */

/* y (rows, cols), dense, = x (rows, cols), ldx, of dtype. */
static void widen(int64_t rows, int64_t cols, const uint16_t *x, int64_t ldx,
                  enum mal_dtype dtype, float *y) {
#pragma omp parallel for schedule(static) if (rows * cols > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < rows; i++)
        mal_to_f32(y + i * cols, x + i * ldx, dtype, (size_t)cols);
}

void mal_cpu_gemm16(struct mal_backend *be, const struct mal_gemm *g) {
    struct mal_cpu *cpu = (struct mal_cpu *)be;
    float *panel = (float *)cpu->work;
    int64_t depth = g->k < DEPTH ? g->k : DEPTH, columns = PANEL / DEPTH;
    struct mal_gemm part = *g;
    part.b = panel;
    part.b_dtype = MAL_F32;
    for (int64_t j = 0; j < g->n; j += columns) {
        part.n = g->n - j < columns ? g->n - j : columns;
        part.c = g->c + j;
        part.bias = g->bias ? g->bias + j : NULL;
        part.beta = g->beta;
        int64_t p = 0;
        do { /* once for k = 0 too */
            part.k = g->k - p < depth ? g->k - p : depth;
            part.a = g->a + p * (g->trans_a ? g->lda : 1);
            part.ldb = g->trans_b ? part.k : part.n;
            const uint16_t *b = g->b;
            if (g->trans_b)
                widen(part.n, part.k, b + j * g->ldb + p, g->ldb, g->b_dtype, panel);
            else
                widen(part.k, part.n, b + p * g->ldb + j, g->ldb, g->b_dtype, panel);
            mal_cpu_gemm(be, &part);
            part.bias = NULL;
            part.beta = 1;
            p += depth;
        } while (p < g->k);
    }
}
