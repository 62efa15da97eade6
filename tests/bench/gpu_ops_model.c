/* gpu_ops_model.c - the transformer's operations but for the products. */
#include "gpu_ops.h"

static struct cost moved(double bytes) {
    return (struct cost){.bytes = bytes};
}

/* ---- Element by element, row by row ---- */

static void bench_elements(struct ops_bench *o) {
    struct bench *b = &o->b;
    int64_t n = o->rows, c = o->c, f = o->f, half = o->head / 8;
    double narrow = 4 * (double)n * (double)c, wide = 4 * (double)n * (double)f;
    float *x = bench_floats(b, n * f), *y = bench_floats(b, n * f),
          *gain = bench_floats(b, c), *bias = bench_floats(b, f),
          *inv_freq = bench_floats(b, half), *angles = bench_floats(b, n * 2 * half);
    int32_t *pos = bench_ints(b, n, 0, 64), *rows = bench_ints(b, n, 0, n);
    char what[64];
    snprintf(what, sizeof what, "%lldx%lld", (long long)n, (long long)c);
    struct mal_norm norm = {.n = n, .c = c, .eps = 1e-5F, .gain = gain, .bias = gain};
    for (struct timer t = timer(b, "norm_fwd", what, moved(2 * narrow)); timer_next(&t);)
        mal_norm_fwd(b->be, &norm, x, y, MAL_F32);
    if (narrows(b)) {
        for (struct timer t = timer(b, "norm_fwd to bf16", what, moved(1.5 * narrow));
             timer_next(&t);)
            mal_norm_fwd(b->be, &norm, x, y, MAL_BF16);
    }
    for (struct timer t = timer(b, "norm_bwd", what, moved(4 * narrow)); timer_next(&t);)
        mal_norm_bwd(b->be, &norm, x, x + n * c, y);
    for (struct timer t = timer(b, "add", what, moved(3 * narrow)); timer_next(&t);)
        mal_add(b->be, n * c, x, y);
    for (struct timer t = timer(b, "gather_rows", what, moved(2 * narrow));
         timer_next(&t);)
        mal_gather_rows(b->be, n, c, rows, x, c, y, c);
    mal_rope_angles(b->be, n, half, pos, inv_freq, 1, angles);
    struct mal_rope rope = {.n = n,
                            .n_heads = o->heads,
                            .head_size = o->head,
                            .half = half,
                            .interleaved = true,
                            .cs = angles};
    for (struct timer t = timer(b, "rope", what, moved(narrow / 2)); timer_next(&t);)
        mal_rope(b->be, &rope, y, c);
    struct mal_head_norm heads = {
        .n = n, .n_heads = o->heads, .head_size = o->head, .eps = 1e-6F, .gain = gain};
    for (struct timer t = timer(b, "head_norm_fwd", what, moved(2 * narrow));
         timer_next(&t);)
        mal_head_norm_fwd(b->be, &heads, y, c);
    for (struct timer t = timer(b, "head_norm_bwd", what, moved(3 * narrow));
         timer_next(&t);)
        mal_head_norm_bwd(b->be, &heads, x, c, y, c);
    snprintf(what, sizeof what, "%lldx%lld", (long long)n, (long long)f);
    for (struct timer t = timer(b, "act_fwd", what, moved(2 * wide)); timer_next(&t);)
        mal_act_fwd(b->be, MAL_GELU_TANH, n, f, x, NULL, y, MAL_F32);
    if (narrows(b)) {
        for (struct timer t = timer(b, "act_fwd to bf16", what, moved(1.5 * wide));
             timer_next(&t);)
            mal_act_fwd(b->be, MAL_GELU_TANH, n, f, x, bias, y, MAL_BF16);
    }
    for (struct timer t = timer(b, "act_bwd", what, moved(3 * wide)); timer_next(&t);)
        mal_act_bwd(b->be, MAL_GELU_TANH, n * f, x, y, y);
    bench_release(b);
}

static void bench_embed(struct ops_bench *o) {
    struct bench *b = &o->b;
    int64_t n = o->rows, c = o->c;
    double bytes = 6 * (double)n * (double)c;
    float *y = bench_floats(b, n * c);
    uint16_t *tokens = bench_bf16(b, o->v * c);
    int32_t *ids = bench_ints(b, n, 0, o->v), *pos = bench_ints(b, n, 0, 64);
    char what[64];
    snprintf(what, sizeof what, "%lldx%lld bf16", (long long)n, (long long)c);
    for (struct timer t = timer(b, "embed", what, moved(bytes)); timer_next(&t);)
        mal_embed(b->be, n, c, ids, pos, tokens, MAL_BF16, 1, NULL, y);
    bench_release(b);
}

/* ---- Scores ---- */

static void bench_scores(struct ops_bench *o) {
    struct bench *b = &o->b;
    int64_t n = 4096 / o->scale, v = o->v;
    double bytes = 4 * (double)n * (double)v;
    float *logits = bench_floats(b, n * v), *base = bench_floats(b, n * v),
          *logprob = bench_floats(b, n), *scale = bench_floats(b, n);
    int32_t *label = bench_ints(b, n, 0, v), *rank = bench_ints(b, n, 1, 0),
            *argmax = bench_ints(b, n, 1, 0);
    char what[64];
    snprintf(what, sizeof what, "%lldx%lld", (long long)n, (long long)v);
    for (struct timer t = timer(b, "xent_fwd", what, moved(bytes)); timer_next(&t);)
        mal_xent_fwd(b->be, n, v, logits, label, logprob, rank, argmax);
    for (struct timer t = timer(b, "xent_bwd", what, moved(2 * bytes)); timer_next(&t);)
        mal_xent_bwd(b->be, n, v, logits, label, scale);
    for (struct timer t = timer(b, "kl", what, moved(3 * bytes)); timer_next(&t);)
        mal_kl(b->be, n, v, base, logits, scale, logprob);
    bench_release(b);
}

/* ---- Attention ---- */

/* `queries` of each sequence at the end of `keys`: a text as a whole, or a step of
 * generation over what is cached. */
static void bench_attention(struct ops_bench *o, int64_t seqs, int64_t queries,
                            int64_t keys) {
    struct bench *b = &o->b;
    int64_t c = o->c, n = seqs * queries, n_keys = seqs * keys;
    bool decode = queries < keys;
    int32_t *q_start = bench_ints(b, seqs + 1, queries, 0),
            *k_start = bench_ints(b, seqs, keys, 0), *k_len = bench_take(b, seqs * 4);
    int32_t *host = mal_malloc((size_t)seqs * sizeof *host);
    struct mal_error err = {0};
    for (int64_t s = 0; host && s < seqs; s++)
        host[s] = (int32_t)keys;
    if (host && k_len) mal_backend_upload(b->be, k_len, host, (size_t)seqs * 4);
    if (!host || !mal_backend_sync(b->be, &err)) b->no_memory = true;
    mal_free(host);
    /* as a pass has them: q, k and v beside each other, or a cache of k and v */
    float *q = bench_floats(b, n * 3 * c),
          *kv = decode ? bench_floats(b, n_keys * 2 * c) : NULL,
          *out = bench_floats(b, n * c), *norm = bench_floats(b, n * o->heads * 2),
          *dout = bench_floats(b, n * c), *grads = bench_floats(b, n * 3 * c);
    struct mal_attn attn = {.n_seqs = seqs,
                            .n_queries = n,
                            .max_queries = queries,
                            .max_keys = keys,
                            .n_heads = o->heads,
                            .n_kv_heads = o->heads,
                            .head_size = o->head,
                            .q_start = q_start,
                            .k_start = k_start,
                            .k_len = k_len,
                            .q = q,
                            .k = decode ? kv : q + c,
                            .v = decode ? kv + c : q + 2 * c,
                            .ld_q = 3 * c,
                            .ld_k = decode ? 2 * c : 3 * c,
                            .ld_v = decode ? 2 * c : 3 * c,
                            .scale = 0.0625F,
                            .causal = true};
    char what[64];
    snprintf(what, sizeof what, "%lld x %lld of %lld, %lld heads of %lld",
             (long long)seqs, (long long)queries, (long long)keys, (long long)o->heads,
             (long long)o->head);
    double row = 4 * (double)c, pairs = (double)(n * keys) / (decode ? 1 : 2);
    struct cost cost = {.flops = 4 * pairs * (double)c,
                        .unit = PEAK_FP32,
                        .bytes = row * (double)(2 * n + 2 * n_keys)};
    for (struct timer t = timer(b, "attn_fwd", what, cost); timer_next(&t);)
        mal_attn_fwd(b->be, &attn, out, MAL_F32, c, norm);
    if (narrows(b)) {
        struct cost less = cost;
        less.bytes -= row / 2 * (double)n;
        for (struct timer t = timer(b, "attn_fwd to bf16", what, less); timer_next(&t);)
            mal_attn_fwd(b->be, &attn, out, MAL_BF16, c, NULL);
    }
    if (!decode) {
        struct mal_attn_grads to = {.dq = grads,
                                    .dk = grads + c,
                                    .dv = grads + 2 * c,
                                    .ld_q = 3 * c,
                                    .ld_kv = 3 * c,
                                    .all_keys = true};
        cost.flops *= 2.5;
        cost.bytes = row * (double)(3 * n + 2 * n_keys + 3 * n);
        for (struct timer t = timer(b, "attn_bwd", what, cost); timer_next(&t);)
            mal_attn_bwd(b->be, &attn, out, c, norm, dout, c, &to);
    }
    bench_release(b);
}

void bench_model_ops(struct ops_bench *o) {
    static const char *const elements[] = {"norm_", "add",        "gather_rows",
                                           "rope",  "head_norm_", "act_"};
    bool wanted = false;
    for (size_t i = 0; i < sizeof elements / sizeof *elements; i++)
        wanted = wanted || bench_wants(&o->b, elements[i]);
    if (wanted) bench_elements(o);
    if (bench_wants(&o->b, "embed")) bench_embed(o);
    if (bench_wants(&o->b, "xent_") || bench_wants(&o->b, "kl")) bench_scores(o);
    if (!bench_wants(&o->b, "attn_")) return;
    bench_attention(o, o->seqs, 20, 20);
    bench_attention(o, 64 / o->scale + 1, 1, 256);
    bench_attention(o, 4 / o->scale + 1, 2048 / o->scale, 2048 / o->scale);
}
