/* gpu_ops_editor.c - the editors' operations: networks, systems, versions of weights. */
#include "core/weights_digest.h"
#include "gpu_ops.h"

static struct cost moved(double bytes) {
    return (struct cost){.bytes = bytes};
}

/* ---- Rows ---- */

static void bench_rows(struct ops_bench *o) {
    struct bench *b = &o->b;
    int64_t n = 8192 / o->scale, du = o->f, dg = o->c, size = du + dg;
    double all = 4 * (double)n * (double)size, values = 4 * (double)n * (double)dg;
    float *u = bench_floats(b, n * du), *g = bench_floats(b, n * dg),
          *h = bench_floats(b, n * size), *z = bench_floats(b, n * size),
          *d = bench_floats(b, n * dg), *one = bench_floats(b, size),
          *two = bench_floats(b, size), *sums = bench_floats(b, 3 * size);
    double *stats = bench_take(b, 2 * size * 8);
    char what[64];
    snprintf(what, sizeof what, "%lldx%lld", (long long)n, (long long)size);
    for (struct timer t = timer(b, "normalize_rows", what, moved(2 * all));
         timer_next(&t);)
        mal_normalize_rows(b->be, n, du, dg, u, du, g, dg, one, two, h);
    for (struct timer t = timer(b, "block_fwd", what, moved(3 * all)); timer_next(&t);)
        mal_block_fwd(b->be, n, size, z, one, two, h);
    if (sums) mal_backend_zero(b->be, sums, (size_t)(3 * size) * sizeof *sums);
    for (struct timer t = timer(b, "block_bwd", what, moved(3 * all)); timer_next(&t);)
        mal_block_bwd(b->be, n, size, h, one, z, sums, sums + size, sums + 2 * size);
    for (struct timer t = timer(b, "column_stats", what, moved(all)); timer_next(&t);)
        mal_column_stats(b->be, n, du, dg, u, du, g, dg, stats, stats + size);
    for (struct timer t = timer(b, "edit_diffs", what, moved(3 * all - values));
         timer_next(&t);)
        mal_edit_diffs(b->be, n, du, dg, 1e-3F, u, du, h, size, h + du, size, d, dg);
    struct mal_edit_diffs_bwd bwd = {.n = n,
                                     .da = du,
                                     .dc = dg,
                                     .lr = 1e-3F,
                                     .a = u,
                                     .b = h,
                                     .ldb = size,
                                     .c = h + du,
                                     .ldc = size,
                                     .e = d,
                                     .grad_b = z,
                                     .grad_c = z + du,
                                     .ld_grad = size,
                                     .dlr = stats};
    if (stats) mal_backend_zero(b->be, stats, sizeof *stats);
    for (struct timer t = timer(b, "edit_diffs_bwd", what, moved(4 * all - 2 * values));
         timer_next(&t);)
        mal_edit_diffs_bwd(b->be, &bwd);
    bench_release(b);
}

static void bench_adam(struct ops_bench *o) {
    struct bench *b = &o->b;
    int64_t n = (o->c + o->f) * o->rank; /* one matrix of a block */
    float *p = bench_floats(b, n), *m = bench_floats(b, n), *v = bench_take(b, n * 4),
          *g = bench_floats(b, n);
    char what[32];
    if (v) mal_backend_zero(b->be, v, (size_t)n * sizeof *v);
    snprintf(what, sizeof what, "%lld", (long long)n);
    struct mal_adam adam = {.n = n,
                            .p = p,
                            .m = m,
                            .v = v,
                            .g = g,
                            .lr = 1e-5,
                            .beta1 = 0.9,
                            .beta2 = 0.999,
                            .eps = 1e-8,
                            .grad_scale = 1,
                            .t = 1};
    for (struct timer t = timer(b, "adam_step", what, moved(28 * (double)n));
         timer_next(&t);)
        mal_adam_step(b->be, &adam);
    bench_release(b);
}

/* ---- Weights ---- */

/* Weights stand (d_out, d_in) as in GPT-J's checkpoint. */
static void bench_weights(struct ops_bench *o) {
    struct bench *b = &o->b;
    int64_t n = o->f * o->c,
            ranks[] = {4, 350 / o->scale, 512 / o->scale, 2048 / o->scale};
    double elements = (double)n;
    float *t32 = bench_floats(b, n), *s = bench_floats(b, n);
    uint16_t *w0 = bench_bf16(b, n), *w = bench_take(b, n * 2);
    double *sum = bench_take(b, 64);
    char what[64];
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        double rank = (double)ranks[i];
        struct cost cost = {.flops = 2 * elements * rank,
                            .unit = PEAK_FP32,
                            .bytes = 8 * elements + 4 * rank * (double)(o->f + o->c)};
        snprintf(what, sizeof what, "%lldx%lld, rank %lld", (long long)o->f,
                 (long long)o->c, (long long)ranks[i]);
        for (struct timer t = timer(b, "apply_factors", what, cost); timer_next(&t);)
            mal_apply_factors(b->be, o->f, o->c, ranks[i], s, s + o->f * ranks[i], true,
                              t32);
    }
    snprintf(what, sizeof what, "%lldx%lld", (long long)o->f, (long long)o->c);
    for (struct timer t = timer(b, "apply_dense", what, moved(12 * elements));
         timer_next(&t);)
        mal_apply_dense(b->be, o->f, o->c, s, true, t32);
    for (struct timer t = timer(b, "round_weight", what, moved(8 * elements));
         timer_next(&t);)
        mal_round_weight(b->be, n, w0, t32, MAL_BF16, w, MAL_BF16);
    for (struct timer t = timer(b, "sum_squares", what, moved(4 * elements));
         timer_next(&t);)
        mal_sum_squares(b->be, n, t32, sum);
    struct mal_pieces six[6]; /* as many as GPT-J's editor has modules */
    for (size_t i = 0; i < 6; i++) {
        six[i] =
            (struct mal_pieces){.w = w, .n = n, .w_dtype = MAL_BF16, .dtype = MAL_BF16};
        int64_t pieces = mal_n_pieces(&six[i], MAL_DIGEST_PIECE);
        six[i].hashes = bench_take(b, pieces * (int64_t)sizeof(struct mal_hash));
        six[i].sums = bench_take(b, pieces * 8);
    }
    for (struct timer t = timer(b, "digest_pieces of six", what, moved(12 * elements));
         timer_next(&t);)
        mal_digest_pieces(b->be, MAL_DIGEST_PIECE, six, 6);
    for (struct timer t = timer(b, "dot", what, moved(8 * elements)); timer_next(&t);)
        mal_dot(b->be, o->f, o->c, t32, MAL_F32, 0, s, MAL_F32, 0, sum);
    bench_release(b);
}

/* From fp64 to what is stored, dense and as the left and right of factors. */
static void bench_rounding(struct ops_bench *o) {
    struct bench *b = &o->b;
    int64_t n = o->f * o->c;
    double elements = (double)n;
    double *x = bench_doubles(b, n), *sums = bench_take(b, 16 * o->f);
    float *y = bench_floats(b, n);
    char what[64];
    for (int turned = 0; turned < 2; turned++) {
        int64_t rows = turned ? o->c : o->f, columns = turned ? o->f : o->c;
        snprintf(what, sizeof what, "%lldx%lld%s", (long long)rows, (long long)columns,
                 turned ? " turned" : "");
        for (struct timer t = timer(b, "round_rows", what, moved(12 * elements));
             timer_next(&t);)
            mal_round_rows(b->be, rows, columns, x, turned, y, MAL_F32, sums);
        for (struct timer t = timer(b, "round_rows to bf16", what, moved(10 * elements));
             timer_next(&t);)
            mal_round_rows(b->be, rows, columns, x, turned, y, MAL_BF16, sums);
    }
    snprintf(what, sizeof what, "%lldx%lld", (long long)o->f, (long long)o->c);
    for (struct timer t = timer(b, "convert 32 to 64", what, moved(12 * elements));
         timer_next(&t);)
        mal_convert(b->be, n, x, MAL_F64, y, MAL_F32);
    for (struct timer t = timer(b, "convert 64 to 32", what, moved(12 * elements));
         timer_next(&t);)
        mal_convert(b->be, n, y, MAL_F32, x, MAL_F64);
    struct mal_axpby64 add = {.n = o->f,
                              .c = o->c,
                              .alpha = 0.5,
                              .beta = 0.5,
                              .x = y,
                              .x_dtype = MAL_F32,
                              .y = x};
    for (struct timer t = timer(b, "axpby64", what, moved(20 * elements));
         timer_next(&t);)
        mal_axpby64(b->be, &add);
    bench_release(b);
}

void bench_editor_ops(struct ops_bench *o) {
    static const char *const rows[] = {"normalize_rows", "block_", "column_stats",
                                       "edit_diffs"};
    static const char *const weights[] = {"apply_", "round_weight", "sum_squares",
                                          "digest_pieces", "dot"};
    static const char *const rounding[] = {"round_rows", "convert", "axpby64"};
    bool wanted[3] = {false};
    for (size_t i = 0; i < 5; i++) {
        wanted[0] = wanted[0] || (i < 4 && bench_wants(&o->b, rows[i]));
        wanted[1] = wanted[1] || bench_wants(&o->b, weights[i]);
        wanted[2] = wanted[2] || (i < 3 && bench_wants(&o->b, rounding[i]));
    }
    if (wanted[0]) bench_rows(o);
    if (wanted[1]) bench_weights(o);
    if (wanted[2]) bench_rounding(o);
    if (bench_wants(&o->b, "adam_step")) bench_adam(o);
}
