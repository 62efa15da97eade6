/* blas.c - what this machine's BLAS does on the shapes that matter here: tall-skinny
 * products, rank-k updates in fp64, Cholesky, and the own product of versioned weights
 * beside them.
 *
 * bench_blas [N]: N is the size of the largest Cholesky (8192; 0 = none). */
#include <math.h>

#include "bench.h"
#include "core/cpu/blas.h"

/* What is timed: the best of a few runs, because the machine may do something else at a
 * time. */
struct run {
    struct mal_backend *be;
    int64_t m, n, k;
    float *a, *b, *c;
    double *c64, *info;
};

static void report(const char *what, const struct run *run, int repeats, double flops,
                   void (*step)(const struct run *run),
                   void (*before)(const struct run *run)) {
    double best = INFINITY, best_cpu = INFINITY;
    for (int i = 0; i < repeats; i++) {
        if (before) before(run);
        double start = seconds(CLOCK_MONOTONIC);
        double start_cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
        step(run);
        double time = seconds(CLOCK_MONOTONIC) - start;
        double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - start_cpu;
        best = time < best ? time : best;
        best_cpu = cpu < best_cpu ? cpu : best_cpu;
    }
    printf("%-14s %6lld %6lld %6lld  %9.2f ms  %7.1f GFLOP/s  %7.1f per CPU second\n",
           what, (long long)run->m, (long long)run->n, (long long)run->k, 1e3 * best,
           1e-9 * flops / best, 1e-9 * flops / best_cpu);
    fflush(stdout);
}

static void sgemm(const struct run *run) {
    mal_gemm(run->be, &(struct mal_gemm){.m = run->m,
                                         .n = run->n,
                                         .k = run->k,
                                         .a = run->a,
                                         .b = run->b,
                                         .b_dtype = MAL_F32,
                                         .c = run->c,
                                         .alpha = 1});
}

static void apply(const struct run *run) {
    mal_apply_factors(run->be, run->m, run->n, run->k, run->a, run->b, false, run->c);
}

static void apply_transposed(const struct run *run) {
    mal_apply_factors(run->be, run->m, run->n, run->k, run->a, run->b, true, run->c);
}

static void bench_products(struct mal_backend *be) {
    static const int64_t shapes[][3] = {
        {640, 3072, 768}, {640, 768, 3072}, {512, 1920, 3840}, {900, 50257, 768}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct run run = {
            .be = be, .m = shapes[i][0], .n = shapes[i][1], .k = shapes[i][2]};
        run.a = floats(be, run.m * run.k);
        run.b = floats(be, run.k * run.n);
        run.c = floats(be, run.m * run.n);
        report("sgemm", &run, 7, 2.0 * (double)(run.m * run.n) * (double)run.k, sgemm,
               NULL);
        mal_backend_free(be, run.a);
        mal_backend_free(be, run.b);
        mal_backend_free(be, run.c);
    }
    struct run run = {.be = be, .m = 3072, .n = 768, .k = 512};
    double flops = 2.0 * (double)(run.m * run.n) * (double)run.k;
    run.a = floats(be, run.m * run.k);
    run.b = floats(be, run.k * run.n);
    run.c = floats(be, run.m * run.n);
    report("sgemm", &run, 7, flops, sgemm, NULL);
    report("apply_factors", &run, 7, flops, apply, NULL);
    report("  transposed", &run, 7, flops, apply_transposed, NULL);
    mal_backend_free(be, run.a);
    mal_backend_free(be, run.b);
    mal_backend_free(be, run.c);
}

static void syrk(const struct run *run) {
    mal_syrk64(run->be, run->n, run->k, 1, run->a, 0, true, 0, run->c64, 0);
}

static void bench_syrk(struct mal_backend *be) {
    struct run run = {.be = be, .m = 3072, .n = 3072, .k = 3600};
    run.a = floats(be, run.k * run.n);
    run.c64 = device_memory(be, (size_t)(run.n * run.n) * sizeof(double));
    report("syrk64", &run, 3, (double)run.n * (double)run.n * (double)run.k, syrk, NULL);
    mal_backend_free(be, run.a);
    mal_backend_free(be, run.c64);
}

/* The identity plus 1 / (i + j + 1): positive definite. */
static void fill_definite(const struct run *run) {
    run->info[0] = 0;
    for (int64_t i = 0; i < run->n; i++)
        for (int64_t j = 0; j <= i; j++)
            run->c64[i * run->n + j] = (i == j) + 1.0 / (double)(i + j + 1);
}

static void potrf(const struct run *run) {
    mal_potrf64(run->be, run->n, run->c64, 0, 0, run->info);
}

static void bench_cholesky(struct mal_backend *be, int64_t n) {
    double info[2];
    struct run run = {.be = be, .m = n, .n = n, .k = n, .info = info};
    run.c64 = device_memory(be, (size_t)(n * n) * sizeof(double));
    report("potrf64", &run, n > 8192 ? 1 : 2, (double)n * (double)n * (double)n / 3,
           potrf, fill_definite);
    mal_backend_free(be, run.c64);
}

int main(int argc, char **argv) {
    mal_cpu_prepare(argv);
    long largest = argc > 1 ? strtol(argv[1], NULL, 10) : 8192;
    struct mal_backend *be;
    struct mal_error err = {0};
    if (!mal_backend_create(&be, "cpu", &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    printf("%s\n%-14s %6s %6s %6s\n", mal_backend_describe(be), "", "m", "n", "k");
    bench_products(be);
    bench_syrk(be);
    if (largest > 4096) bench_cholesky(be, 4096);
    if (largest > 0) bench_cholesky(be, largest);
    mal_backend_destroy(be);
    return 0;
}
