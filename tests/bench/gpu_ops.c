/* gpu_ops.c - how long single operations of a device take at the sizes that an edit of
 * GPT-J 6B has, against what the device could do: the products and factorisations here,
 * the transformer's and the editor's in the files beside.
 *
 *     bench_gpu [--device NAME] [--scale N] [--only NAME] [--seconds S] [--peak LIST]
 *
 * Sizes are divided by N, so that it runs on a CPU, too. LIST: the device's rates in
 * 10^12 a second, "bf16=989,tf32=494,fp32=67,fp64=67,bytes=3.35"; "share" is the least
 * time by those over the measured one. A JSON line for each case. */
#include <getopt.h>

#include "core/cpu/blas.h"
#include "core/editor/cholesky.h"
#include "gpu_ops.h"

/* ---- Memory ---- */

static void bench_memory(struct ops_bench *o) {
    struct bench *b = &o->b;
    int64_t n = ((int64_t)256 << 20) / o->scale;
    char *x = bench_take(b, n), *y = bench_take(b, n), *host = mal_malloc((size_t)n),
         what[32];
    if (!host) b->no_memory = true;
    if (host) memset(host, 1, (size_t)n);
    snprintf(what, sizeof what, "%lld MiB", (long long)(n >> 20));
    struct cost twice = {.bytes = 2 * (double)n}, once = {.bytes = (double)n};
    for (struct timer t = timer(b, "memory copy", what, twice); timer_next(&t);)
        mal_backend_copy(b->be, y, x, (size_t)n);
    for (struct timer t = timer(b, "memory upload", what, once); timer_next(&t);)
        mal_backend_upload(b->be, x, host, (size_t)n);
    for (struct timer t = timer(b, "memory download", what, once); timer_next(&t);)
        mal_backend_download(b->be, host, x, (size_t)n);
    for (struct timer t = timer(b, "memory download", "4 KiB", (struct cost){0});
         timer_next(&t);)
        mal_backend_download(b->be, host, x, 4096);
    for (struct timer t = timer(b, "memory take and free", what, (struct cost){0});
         timer_next(&t);)
        mal_backend_free(b->be, mal_backend_alloc(b->be, (size_t)n));
    mal_free(host);
    bench_release(b);
}

/* ---- Products ---- */

static struct cost gemm_cost(const struct ops_bench *o, const struct mal_gemm *g) {
    double m = (double)g->m, n = (double)g->n, k = (double)g->k;
    double weight = (double)mal_dtype_size(g->b_dtype);
    return (struct cost){.flops = 2 * m * n * k,
                         .unit = unit_of(o, g->b_dtype, g->tf32),
                         .bytes = (g->a16 ? 2 : 4) * m * k + weight * n * k +
                                  4 * m * n * (g->beta != 0 ? 2 : 1)};
}

/* Weights that fit into a cache are taken in turn, so that they do not stay there. */
static void time_gemm(struct ops_bench *o, const char *name, const struct mal_gemm *g) {
    enum { MAX_WEIGHTS = 16 };
    struct bench *b = &o->b;
    const void *weights[MAX_WEIGHTS] = {g->b};
    int64_t size = g->n * g->k, at_once = ((int64_t)192 << 20) / o->scale;
    size_t n_weights = 1, turn = 0;
    while (g->b && n_weights < MAX_WEIGHTS && (int64_t)n_weights * size * 2 < at_once)
        weights[n_weights++] = g->b_dtype == MAL_F32 ? (void *)bench_floats(b, size)
                                                     : (void *)bench_bf16(b, size);
    char what[96];
    const char *type = g->b_dtype == MAL_BF16 ? "bf16"
                       : g->tf32 && !o->exact ? "tf32"
                                              : "fp32";
    snprintf(what, sizeof what, "%s %lldx%lldx%lld %c%c", type, (long long)g->m,
             (long long)g->n, (long long)g->k, g->trans_a ? 't' : 'n',
             g->trans_b ? 't' : 'n');
    for (struct timer t = timer(b, name, what, gemm_cost(o, g)); timer_next(&t);) {
        struct mal_gemm one = *g;
        one.b = weights[turn++ % n_weights];
        mal_gemm(b->be, &one);
    }
}

/* Layers as the checkpoint stores them, (n, k), on rows of many texts, of slices as the
 * product cuts them, and of a decode step. */
static void bench_layers(struct ops_bench *o) {
    struct bench *b = &o->b;
    const int64_t layers[][2] = {{o->c, o->c}, {o->f, o->c}, {o->c, o->f}, {o->v, o->c}};
    const int64_t rows[] = {o->rows, 2048 / o->scale, 512 / o->scale, 64, 8, 1};
    for (size_t l = 0; l < sizeof layers / sizeof *layers; l++) {
        int64_t n = layers[l][0], k = layers[l][1];
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            int64_t m = l == 3 && rows[r] > 512 ? 332 : rows[r]; /* a slice of the head */
            if (l == 3 && r == 1) continue;
            struct mal_gemm g = {.m = m,
                                 .n = n,
                                 .k = k,
                                 .a = bench_floats(b, m * k),
                                 .b = bench_bf16(b, n * k),
                                 .b_dtype = MAL_BF16,
                                 .trans_b = true,
                                 .c = bench_floats(b, m * n),
                                 .alpha = 1};
            time_gemm(o, "gemm", &g);
            if (narrows(b)) { /* as most blocks of a forward pass have it */
                struct mal_gemm rounded = g;
                rounded.a = NULL;
                rounded.a16 = bench_bf16(b, m * k);
                time_gemm(o, "gemm a16", &rounded);
            }
            if (r == 0 && l < 3) { /* and back: dx = dy W */
                struct mal_gemm back = g;
                back.k = n;
                back.n = k;
                back.trans_b = false;
                back.a = g.c;
                back.c = (float *)g.a;
                time_gemm(o, "gemm", &back);
            }
            bench_release(b);
        }
    }
}

/* The hyper-network, and the gradient at a weight. */
static void bench_fp32(struct ops_bench *o, bool tf32) {
    struct bench *b = &o->b;
    int64_t size = o->c + o->f, rows[] = {1024 / o->scale, 8192 / o->scale};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        struct mal_gemm g = {.m = rows[r],
                             .n = o->rank,
                             .k = size,
                             .a = bench_floats(b, rows[r] * size),
                             .b = bench_floats(b, size * o->rank),
                             .b_dtype = MAL_F32,
                             .c = bench_floats(b, rows[r] * size),
                             .alpha = 1,
                             .tf32 = tf32};
        time_gemm(o, "gemm", &g);
        g.n = size;
        g.k = o->rank;
        time_gemm(o, "gemm", &g);
        bench_release(b);
    }
    struct mal_gemm dw = {.m = o->f,
                          .n = o->c,
                          .k = 1024 / o->scale,
                          .a = bench_floats(b, o->f * 1024 / o->scale),
                          .trans_a = true,
                          .b = bench_floats(b, o->c * 1024 / o->scale),
                          .b_dtype = MAL_F32,
                          .c = bench_floats(b, o->f * o->c),
                          .alpha = 1,
                          .beta = 1,
                          .tf32 = tf32};
    time_gemm(o, "gemm", &dw);
    bench_release(b);
}

/* ---- fp64 ---- */

static bool go_on(void *arg) {
    (void)arg;
    return true;
}

static struct cost fp64_cost(double flops, double bytes) {
    return (struct cost){.flops = flops, .unit = PEAK_FP64, .bytes = bytes};
}

/* The system is copied for each: that is part of what an edit does. */
static void time_factors(struct ops_bench *o, const double *a, double *l, double *info) {
    struct bench *b = &o->b;
    int64_t n = o->f;
    double order = (double)n;
    struct cost cost = fp64_cost(order * order * order / 3, 16 * order * order);
    struct mal_error err = {0};
    char what[64];
    for (int paced = 0; paced < 2; paced++) {
        struct mal_pace pace = {.be = b->be, .tick = paced ? go_on : NULL};
        snprintf(what, sizeof what, "%lld%s", (long long)n, paced ? " in slices" : "");
        for (struct timer t = timer(b, "cholesky", what, cost); timer_next(&t);) {
            mal_backend_copy(b->be, l, a, (size_t)(n * n) * sizeof *a);
            mal_backend_zero(b->be, info, 2 * sizeof *info);
            if (!mal_cholesky_factor(&pace, n, l, info, &err)) return;
        }
    }
    double report[2] = {0}; /* a failed factorisation would be fast */
    mal_backend_download(b->be, report, info, sizeof report);
    if (mal_backend_sync(b->be, &err) && report[0] == 0) return;
    print_line(json_pack("{s:s,s:s,s:f}", "name", "cholesky", "error",
                         "not positive definite, or failed", "row", report[0]));
    b->n_failed++;
}

/* Few rows and some, as a triangular solve and with inverted blocks. */
static void time_rows(struct ops_bench *o, const double *l, double *x) {
    struct bench *b = &o->b;
    int64_t n = o->f, counts[] = {4, 350 / o->scale};
    double order = (double)n;
    double *inverses = bench_take(b, mal_inverses64(b->be, n) * 8);
    char what[64];
    snprintf(what, sizeof what, "%lld", (long long)n);
    for (struct timer t = timer(b, "invert_blocks64", what,
                                fp64_cost(order * 512 * 512 / 3, 4 * order * 512));
         timer_next(&t);)
        mal_invert_blocks64(b->be, n, l, n, inverses);
    for (size_t i = 0; i < 4 * sizeof counts / sizeof *counts; i++) {
        bool first = i & 1, plain = i & 2;
        int64_t m = counts[i / 4];
        struct cost cost = fp64_cost(order * order * (double)m,
                                     4 * order * order + 16 * order * (double)m);
        snprintf(what, sizeof what, "%lldx%lld, %s half%s", (long long)m, (long long)n,
                 first ? "first" : "second", plain ? ", as trsm64" : "");
        for (struct timer t = timer(b, "solve_rows64", what, cost); timer_next(&t);)
            mal_solve_rows64(b->be, first, m, n, l, n, plain ? NULL : inverses, x, n);
    }
}

static void time_solves(struct ops_bench *o, const double *l) {
    struct bench *b = &o->b;
    int64_t n = o->f, m = o->c, few = 350 / o->scale;
    double order = (double)n, columns = (double)m, rows = (double)few;
    double *x = bench_doubles(b, n * m);
    struct mal_error err = {0};
    char what[64];
    struct cost cost =
        fp64_cost(order * order * columns, 4 * order * order + 16 * order * columns);
    for (int right = 0; right < 2; right++) {
        snprintf(what, sizeof what, "%lldx%lld %s", (long long)n, (long long)m,
                 right ? "right" : "left");
        for (struct timer t = timer(b, "trsm64", what, cost); timer_next(&t);)
            mal_trsm64(b->be, right, right, right ? m : n, right ? n : m, l, n, x,
                       right ? n : m);
    }
    time_rows(o, l, x);
    for (int paced = 0; paced < 2; paced++) {
        struct mal_pace pace = {.be = b->be, .tick = paced ? go_on : NULL};
        const char *how = paced ? " in slices" : "";
        struct cost all = cost, some = fp64_cost(2 * order * order * rows,
                                                 8 * order * order + 16 * order * rows);
        all.flops *= 2;
        snprintf(what, sizeof what, "%lldx%lld%s", (long long)n, (long long)m, how);
        for (struct timer t = timer(b, "cholesky solve", what, all); timer_next(&t);)
            if (!mal_cholesky_solve(&pace, n, m, l, x, &err)) return;
        snprintf(what, sizeof what, "%lldx%lld%s", (long long)few, (long long)n, how);
        for (struct timer t = timer(b, "cholesky solve rows", what, some);
             timer_next(&t);)
            if (!mal_cholesky_solve_rows(&pace, n, few, l, x, &err)) return;
    }
}

static void bench_systems(struct ops_bench *o) {
    struct bench *b = &o->b;
    int64_t n = o->f, k = o->f / 2;
    double order = (double)n, depth = (double)k;
    float *u = bench_floats(b, k * n);
    double *a = bench_take(b, n * n * 8), *l = bench_take(b, n * n * 8);
    double *info = bench_take(b, 64);
    char what[64];
    snprintf(what, sizeof what, "%lld, %lld rows", (long long)n, (long long)k);
    struct cost cost =
        fp64_cost(order * order * depth, 4 * order * depth + 4 * order * order);
    for (struct timer t = timer(b, "syrk64", what, cost); timer_next(&t);)
        mal_syrk64(b->be, n, k, 1, u, n, true, 0, a, n);
    int64_t slice = 512 / o->scale;
    snprintf(what, sizeof what, "%lld, %lld rows", (long long)n, (long long)slice);
    cost = fp64_cost(order * order * (double)slice,
                     4 * order * (double)slice + 8 * order * order);
    for (struct timer t = timer(b, "syrk64", what, cost); timer_next(&t);)
        mal_syrk64(b->be, n, slice, 1, u, n, true, 1, a, n);
    if (a && l && info) {
        mal_syrk64(b->be, n, slice, 1e-3, u, n, true, 0, a, n);
        mal_add_ridge(b->be, n, 1, a); /* far from singular */
        time_factors(o, a, l, info);
        time_solves(o, l);
    }
    bench_release(b);
}

/* U'D, and one panel's update in a factorisation. */
static void bench_gemm64(struct ops_bench *o) {
    struct bench *b = &o->b;
    int64_t m = o->f, n = o->c, k = o->f / 2, panel = 512 / o->scale;
    char what[64];
    struct mal_gemm64 g = {.m = m,
                           .n = n,
                           .k = k,
                           .a = bench_floats(b, k * m),
                           .a_dtype = MAL_F32,
                           .trans_a = true,
                           .b = bench_floats(b, k * n),
                           .b_dtype = MAL_F32,
                           .c = bench_doubles(b, m * n),
                           .alpha = 1};
    snprintf(what, sizeof what, "fp32 %lldx%lldx%lld tn", (long long)m, (long long)n,
             (long long)k);
    struct cost cost = fp64_cost(2 * (double)m * (double)n * (double)k,
                                 4 * (double)(k * m + k * n) + 8 * (double)(m * n));
    for (struct timer t = timer(b, "gemm64", what, cost); timer_next(&t);)
        mal_gemm64(b->be, &g);
    bench_release(b);

    struct mal_gemm64 update = {.m = o->f / 2,
                                .n = panel,
                                .k = o->f / 2,
                                .a = bench_doubles(b, m / 2 * m / 2),
                                .a_dtype = MAL_F64,
                                .b = bench_doubles(b, panel * m / 2),
                                .b_dtype = MAL_F64,
                                .trans_b = true,
                                .c = bench_doubles(b, m / 2 * panel),
                                .alpha = -1,
                                .beta = 1};
    snprintf(what, sizeof what, "fp64 %lldx%lldx%lld nt", (long long)update.m,
             (long long)panel, (long long)update.k);
    double half = (double)m / 2, wide = (double)panel;
    cost = fp64_cost(2 * half * half * wide, 8 * (half * half + 3 * half * wide));
    for (struct timer t = timer(b, "gemm64", what, cost); timer_next(&t);)
        mal_gemm64(b->be, &update);
    bench_release(b);
}

static void bench_qr(struct ops_bench *o) {
    struct bench *b = &o->b;
    int64_t m = o->f, ranks[] = {350 / o->scale, 2048 / o->scale};
    for (size_t i = 0; i < 2; i++) {
        int64_t n = ranks[i];
        double *a = bench_doubles(b, m * n), *q = bench_take(b, m * n * 8),
               *r = bench_take(b, n * n * 8);
        char what[64];
        snprintf(what, sizeof what, "%lldx%lld", (long long)m, (long long)n);
        double rows = (double)m, rank = (double)n;
        struct cost cost = fp64_cost(4 * rows * rank * rank, 48 * rows * rank);
        for (struct timer t = timer(b, "qr64", what, cost); timer_next(&t);) {
            mal_backend_copy(b->be, q, a, (size_t)(m * n) * sizeof *a);
            mal_qr64(b->be, m, n, q, r);
        }
        bench_release(b);
    }
}

/* ---- The program ---- */

static void set_sizes(struct ops_bench *o, int64_t scale) {
    o->scale = scale;
    o->c = 4096 / scale;
    o->f = 16384 / scale;
    o->v = 50400 / scale;
    o->heads = 16;
    o->head = o->c / o->heads;
    o->seqs = 1000 / scale + 1;
    o->rows = 20480 / scale;
    o->rank = 1920 / scale;
    o->blocks = 2;
}

static void run_all(struct ops_bench *o) {
    if (bench_wants(&o->b, "memory")) bench_memory(o);
    if (bench_wants(&o->b, "gemm")) {
        bench_layers(o);
        bench_fp32(o, false);
        if (!o->exact) bench_fp32(o, true);
    }
    if (bench_wants(&o->b, "gemm64")) bench_gemm64(o);
    if (bench_wants(&o->b, "syrk64") || bench_wants(&o->b, "cholesky") ||
        bench_wants(&o->b, "trsm64") || bench_wants(&o->b, "solve_rows64") ||
        bench_wants(&o->b, "invert_blocks64"))
        bench_systems(o);
    if (bench_wants(&o->b, "qr64")) bench_qr(o);
    bench_editor_ops(o);
    bench_model_ops(o);
}

static int usage(void) {
    fprintf(stderr, "usage: bench_gpu [--device NAME] [--scale N] [--only NAME] "
                    "[--seconds S] [--peak LIST]\n");
    return 2;
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"device", required_argument, NULL, 'd'},
                                            {"scale", required_argument, NULL, 's'},
                                            {"only", required_argument, NULL, 'o'},
                                            {"seconds", required_argument, NULL, 't'},
                                            {"peak", required_argument, NULL, 'p'},
                                            {0}};

    mal_cpu_prepare(argv);
    struct ops_bench o = {.b = {.peaks = peaks_default(), .seconds = 0.15}};
    const char *device = "cpu";
    int64_t scale = 1;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'd': device = optarg; break;
        case 's': scale = strtoll(optarg, NULL, 10); break;
        case 'o': o.b.only = optarg; break;
        case 't': o.b.seconds = strtod(optarg, NULL); break;
        case 'p':
            if (!peaks_parse(&o.b.peaks, optarg)) return usage();
            break;
        default: return usage();
        }
    }
    if (optind != argc || scale < 1 || scale > 64) return usage();
    set_sizes(&o, scale);
    o.exact = strstr(device, ":fp32") || strstr(device, ":emulated") ||
              strcmp(device, "cpu") == 0;
    struct mal_error err = {0};
    if (!bench_open(&o.b, device, &err)) {
        fprintf(stderr, "bench_gpu: %s\n", err.text);
        bench_close(&o.b);
        return 1;
    }
    print_line(json_pack("{s:s,s:s,s:I}", "device", device, "description",
                         mal_backend_describe(o.b.be), "scale", (json_int_t)scale));
    run_all(&o);
    int failed = o.b.n_failed;
    bench_close(&o.b);
    return failed ? 1 : 0;
}
