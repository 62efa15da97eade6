/* gemm_panels.c - products whose weights are made ready in panels: each thread has one in
 * its cache, and multiplies all rows of a with it. */
#include <omp.h>

#include "core/cpu/cpu.h"

static void multiply_columns(const struct mal_gemm *g, const struct mal_panels *panels,
                             int64_t j, int64_t cols, float *scratch) {
    int64_t p = 0;
    do { /* once for k = 0 too */
        int64_t depth = g->k - p < panels->depth ? g->k - p : panels->depth;
        panels->make(g, p, depth, j, cols, scratch);
        panels->multiply(g, p, depth, j, cols, scratch, scratch + panels->panel_words);
        p += depth;
    } while (p < g->k);
}

/* Columns of a panel, so that every thread has as many panels. */
static int64_t panel_columns(const struct mal_panels *panels, int64_t n,
                             int64_t n_threads) {
    int64_t strips = (n + panels->strip - 1) / panels->strip;
    int64_t together = n_threads * panels->strips;
    int64_t rounds = (strips + together - 1) / together;
    return (strips + n_threads * rounds - 1) / (n_threads * rounds) * panels->strip;
}

void mal_cpu_gemm_panels(struct mal_backend *be, const struct mal_gemm *g,
                         const struct mal_panels *panels) {
    struct mal_cpu *cpu = (struct mal_cpu *)be;
    int64_t most = cpu->n_work * 2 / panels->scratch_words;
    int64_t n_threads = omp_get_max_threads();
    n_threads = n_threads < most ? n_threads : most;
    int64_t cols = panel_columns(panels, g->n, n_threads);
#pragma omp parallel for schedule(dynamic) \
    num_threads((int)n_threads) if (g->m * g->n * g->k > 16 * PARALLEL_ELEMENTS)
    for (int64_t j = 0; j < g->n; j += cols)
        multiply_columns(g, panels, j, g->n - j < cols ? g->n - j : cols,
                         (float *)cpu->work +
                             omp_get_thread_num() * panels->scratch_words);
}
