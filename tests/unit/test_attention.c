/* test_attention.c - attention and its gradients against a forward pass written
 * independently in double precision (reference.h), and its central differences. */
#include "device.h"

#include "core/round.h"
#include "reference.h"

/* ---- Attention ---- */

enum { MAX_SEQS = 6 };

static const struct attn_case {
    int64_t n_seqs;
    int32_t keys[MAX_SEQS], queries[MAX_SEQS];
    int64_t heads, kv_heads, head_size;
    bool causal;
    int64_t pad, window, span; /* span: of relative biases; 0: none */
    float cap;
} attn_cases[] = {
    {1, {1}, {1}, 1, 1, 1, true, 0},
    {3, {4, 1, 7}, {4, 1, 7}, 2, 2, 5, true, 0},
    {3, {5, 3, 6}, {2, 1, 3}, 4, 2, 8, true, 3},
    {2, {9, 4}, {9, 4}, 6, 2, 3, false, 0},
    {2, {6, 5}, {2, 5}, 2, 1, 4, false, 1},
    {1, {70}, {40}, 1, 1, 16, true, 0},
    {4, {2, 35, 0, 3}, {0, 34, 0, 3}, 2, 1, 17, true, 2},
    {3, {4, 1, 7}, {4, 1, 7}, 2, 2, 5, true, 0, 1, 0},
    {3, {5, 3, 9}, {2, 1, 8}, 4, 2, 8, true, 3, 2, 0},
    {2, {9, 4}, {5, 4}, 2, 1, 3, true, 0, 7, 2},
    {2, {9, 4}, {9, 4}, 6, 3, 3, false, 1, 0, 3},
    {2, {6, 5}, {2, 5}, 2, 2, 4, false, 0, 0, 20},
    {1, {75}, {70}, 1, 1, 4, true, 0, 34, 5},
};

/* Larger ones, forward only and bwd against fwd elsewhere: several tiles both ways. */
static const struct attn_case attn_large[] = {
    {2, {200, 65}, {200, 33}, 3, 1, 64, true, 0},
    {1, {300}, {1}, 2, 2, 80, true, 4},
    {2, {129, 64}, {97, 64}, 2, 2, 300, false, 0},
    {6, {20, 21, 19, 20, 1, 33}, {20, 21, 19, 20, 1, 33}, 12, 12, 64, true, 0},
    {2, {200, 65}, {200, 33}, 3, 1, 24, true, 0, 1, 0},
    {2, {200, 65}, {200, 33}, 3, 1, 24, true, 1, 31, 0},
    {2, {200, 64}, {200, 64}, 4, 2, 24, true, 0, 64, 0},
    {2, {200, 65}, {199, 33}, 2, 1, 24, true, 0, 65, 16},
    {2, {300, 20}, {1, 1}, 2, 1, 24, true, 2, 100, 0},
    {2, {200, 65}, {200, 65}, 2, 2, 24, true, 0, 1000, 0},
    {3, {200, 63, 1}, {200, 63, 1}, 3, 3, 24, false, 0, 0, 128},
    {2, {190, 33}, {190, 33}, 3, 1, 24, false, 3, 0, 8},
    {2, {150, 33}, {1, 20}, 3, 1, 24, true, 0, 0, 33},
    {4, {300, 33, 700, 1}, {1, 1, 1, 1}, 8, 2, 128, true, 0},
    {1, {1500}, {1}, 2, 1, 64, true, 0},
    {1, {1300}, {1}, 4, 1, 96, true, 1, 1000, 0},
    {2, {40, 20}, {40, 20}, 2, 1, 256, true, 0},
};

/* The keys are another sequence's: as many as they like. */
static const struct attn_case attn_cross[] = {
    {3, {3, 9, 1}, {7, 2, 5}, 2, 1, 5, false, 1},
    {2, {1, 33}, {34, 0}, 2, 2, 3, false, 0},
    {2, {5, 130}, {100, 3}, 4, 2, 8, false, 0},
};

/* A case with its data: host rows without strides, device memory with them. */
struct attn_data {
    struct mal_attn attn; /* device pointers */
    int32_t q_start[MAX_SEQS + 1], k_start[MAX_SEQS], k_len[MAX_SEQS];
    int64_t n_queries, n_keys, row_q, row_k; /* row_*: floats without padding */
    int64_t ld_out, ld_dq, ld_dkv;
    float *q, *k, *v, *dout, *rel_bias;
    float *dev_out, *dev_norm, *dev_dout, *dq, *dk, *dv;
    bool all_keys;
    int64_t n_grads; /* rows of dk and dv */
    float *before;   /* what both hold at first */
};

/* Rows of n floats put ld apart, and back. */
static float *strided(struct device *dev, const float *x, int64_t rows, int64_t n,
                      int64_t ld) {
    float *y = random_floats(dev, rows * ld);
    for (int64_t i = 0; i < rows && x; i++)
        memcpy(y + i * ld, x + i * n, (size_t)n * sizeof *y);
    float *dev_y = device_floats(dev, y, rows * ld);
    free(y);
    return dev_y;
}

static float *dense(struct device *dev, const float *x, int64_t rows, int64_t n,
                    int64_t ld) {
    float *y = host_floats(dev, x, rows * ld);
    for (int64_t i = 0; i < rows; i++)
        memmove(y + i * n, y + i * ld, (size_t)n * sizeof *y);
    return y;
}

static void attn_open(struct device *dev, const struct attn_case *c, bool all_keys,
                      struct attn_data *a) {
    *a = (struct attn_data){.row_q = c->heads * c->head_size,
                            .row_k = c->kv_heads * c->head_size,
                            .all_keys = all_keys};
    int32_t max_keys = 1, max_queries = 1;
    for (int64_t s = 0; s < c->n_seqs; s++) {
        a->q_start[s + 1] = a->q_start[s] + c->queries[s];
        a->k_start[s] =
            (int32_t)a->n_keys + 1; /* a row between sequences belongs to none */
        a->k_len[s] = c->keys[s];
        a->n_keys += c->keys[s] + 1;
        max_keys = c->keys[s] > max_keys ? c->keys[s] : max_keys;
        max_queries = c->queries[s] > max_queries ? c->queries[s] : max_queries;
    }
    a->n_keys++;
    a->n_queries = a->q_start[c->n_seqs];
    a->q = random_floats(dev, a->n_queries * a->row_q);
    a->dout = random_floats(dev, a->n_queries * a->row_q);
    a->k = random_floats(dev, a->n_keys * a->row_k);
    a->v = random_floats(dev, a->n_keys * a->row_k);
    int64_t n_biases = c->span ? c->heads * (2 * c->span + 1) : 0;
    a->rel_bias = c->span ? random_floats(dev, n_biases) : NULL;
    int64_t ld_q = a->row_q + c->pad, ld_k = a->row_k + 2 * c->pad;
    a->ld_out = a->row_q + c->pad;
    a->ld_dq = a->row_q + 3 * c->pad;
    a->ld_dkv = a->row_k + 5 * c->pad;
    a->dev_out = strided(dev, NULL, a->n_queries, a->row_q, a->ld_out);
    a->dev_dout = strided(dev, a->dout, a->n_queries, a->row_q, a->ld_out);
    a->dev_norm = device_floats(dev, NULL, a->n_queries * 2 * c->heads);
    a->dq = strided(dev, NULL, a->n_queries, a->row_q, a->ld_dq);
    a->n_grads = all_keys ? a->n_keys : a->n_queries;
    a->before = random_floats(dev, a->n_grads * a->ld_dkv);
    a->dk = device_floats(dev, a->before, a->n_grads * a->ld_dkv);
    a->dv = device_floats(dev, a->before, a->n_grads * a->ld_dkv);
    a->attn = (struct mal_attn){
        .n_seqs = c->n_seqs,
        .n_queries = a->n_queries,
        .max_queries = max_queries,
        .max_keys = max_keys,
        .n_heads = c->heads,
        .n_kv_heads = c->kv_heads,
        .head_size = c->head_size,
        .q_start = device_ints(dev, a->q_start, c->n_seqs + 1),
        .k_start = device_ints(dev, a->k_start, c->n_seqs),
        .k_len = device_ints(dev, a->k_len, c->n_seqs),
        .q = strided(dev, a->q, a->n_queries, a->row_q, ld_q),
        .k = strided(dev, a->k, a->n_keys, a->row_k, ld_k),
        .v = strided(dev, a->v, a->n_keys, a->row_k, ld_k),
        .ld_q = c->pad ? ld_q : 0,
        .ld_k = c->pad ? ld_k : 0,
        .ld_v = c->pad ? ld_k : 0,
        .scale = (float)(1 / sqrt((double)c->head_size)),
        .causal = c->causal,
        .window = c->window,
        .rel_bias = c->span ? device_floats(dev, a->rel_bias, n_biases) : NULL,
        .rel_span = c->span,
        .cap = c->cap,
    };
}

static void attn_run(struct device *dev, struct attn_data *a) {
    mal_attn_fwd(dev->be, &a->attn, a->dev_out, MAL_F32, a->ld_out, a->dev_norm);
    mal_attn_bwd(dev->be, &a->attn, a->dev_out, a->ld_out, a->dev_norm, a->dev_dout,
                 a->ld_out,
                 &(struct mal_attn_grads){.dq = a->dq,
                                          .dk = a->dk,
                                          .dv = a->dv,
                                          .ld_q = a->ld_dq > a->row_q ? a->ld_dq : 0,
                                          .ld_kv = a->ld_dkv > a->row_k ? a->ld_dkv : 0,
                                          .all_keys = a->all_keys});
}

static void attn_close(struct device *dev, struct attn_data *a) {
    free(a->q);
    free(a->k);
    free(a->v);
    free(a->dout);
    free(a->rel_bias);
    free(a->before);
    device_release(dev);
}

/* Written in bf16 it is `out` (dense) rounded, between rows nothing. */
static void check_rounded(struct device *dev, const struct attn_data *a,
                          const float *out) {
    int64_t n = a->n_queries * a->ld_out;
    uint16_t *before = malloc((size_t)n * sizeof *before);
    memset(before, 0x5a, (size_t)n * sizeof *before);
    uint16_t *y = device_buffer(dev, before, (size_t)n * sizeof *y);
    mal_attn_fwd(dev->be, &a->attn, y, MAL_BF16, a->ld_out, a->dev_norm);
    uint16_t *got = host_copy(dev, y, (size_t)n * sizeof *got);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = i / a->ld_out, c = i % a->ld_out;
        uint16_t want = c < a->row_q ? f32_to_bf16(out[row * a->row_q + c]) : before[i];
        if (got[i] != want)
            fail_msg("row %lld, channel %lld: %04x, must be %04x", (long long)row,
                     (long long)c, got[i], want);
    }
    free(before);
    free(got);
}

static void check_attn_fwd(struct device *dev, const struct attn_case *c) {
    struct attn_data a;
    attn_open(dev, c, false, &a);
    double *q = wide(a.q, a.n_queries * a.row_q), *k = wide(a.k, a.n_keys * a.row_k);
    double *v = wide(a.v, a.n_keys * a.row_k), *out = double_zeros(a.n_queries * a.row_q);
    double *lse = double_zeros(a.n_queries * c->heads);
    ref_attn(&a.attn, a.q_start, a.k_start, a.k_len, a.rel_bias, q, k, v, out, lse);
    mal_attn_fwd(dev->be, &a.attn, a.dev_out, MAL_F32, a.ld_out, NULL);
    float *without = dense(dev, a.dev_out, a.n_queries, a.row_q, a.ld_out);
    mal_attn_fwd(dev->be, &a.attn, a.dev_out, MAL_F32, a.ld_out, a.dev_norm);
    float *got = dense(dev, a.dev_out, a.n_queries, a.row_q, a.ld_out);
    float *got_lse = host_floats(dev, a.dev_norm, a.n_queries * 2 * c->heads);
    for (int64_t i = 0; i < a.n_queries * c->heads; i++)
        got_lse[i] = got_lse[2 * i] + got_lse[2 * i + 1];
    check_floats("out", a.n_queries * a.row_q, got, out, 2e-6, 0);
    check_floats("lse", a.n_queries * c->heads, got_lse, lse, 2e-6, 1e-7);
    assert_memory_equal(got, without, (size_t)(a.n_queries * a.row_q) * sizeof *got);
    if (narrows(dev)) check_rounded(dev, &a, got);
    free(q);
    free(k);
    free(v);
    free(out);
    free(lse);
    free(got);
    free(got_lse);
    free(without);
    attn_close(dev, &a);
}

static void attn_fwd(void **state) {
    for (size_t t = 0; t < sizeof attn_cases / sizeof attn_cases[0]; t++)
        check_attn_fwd(*state, &attn_cases[t]);
    for (size_t t = 0; t < sizeof attn_large / sizeof attn_large[0]; t++)
        check_attn_fwd(*state, &attn_large[t]);
    for (size_t t = 0; t < sizeof attn_cross / sizeof attn_cross[0]; t++)
        check_attn_fwd(*state, &attn_cross[t]);
}

/* What is far outside a window is not looked at. */
static void window_leaves_far_keys_alone(void **state) {
    struct device *dev = *state;
    static const struct attn_case c = {1, {400}, {40}, 2, 1, 16, true, 0, 20, 0};
    struct attn_data a;
    attn_open(dev, &c, true, &a);
    int64_t far = 400 - 40 - 20 - 128; /* tiles may begin earlier */
    float *nan = random_floats(dev, far * a.row_k);
    for (int64_t i = 0; i < far * a.row_k; i++)
        nan[i] = NAN;
    size_t from = (size_t)(a.k_start[0] * a.row_k), bytes = (size_t)(far * a.row_k) * 4;
    mal_backend_upload(dev->be, (float *)(uintptr_t)a.attn.k + from, nan, bytes);
    mal_backend_upload(dev->be, (float *)(uintptr_t)a.attn.v + from, nan, bytes);
    attn_run(dev, &a);
    float *out = dense(dev, a.dev_out, a.n_queries, a.row_q, a.ld_out);
    float *dq = dense(dev, a.dq, a.n_queries, a.row_q, a.ld_dq);
    float *dk = dense(dev, a.dk, a.n_grads, a.row_k, a.ld_dkv);
    for (int64_t i = 0; i < a.n_queries * a.row_q; i++)
        assert_true(isfinite(out[i]) && isfinite(dq[i]));
    for (int64_t i = 0; i < 400 * a.row_k; i++) {
        bool seen = i / a.row_k > 400 - 40 - 20;
        assert_true(seen ? dk[from + (size_t)i] != 0 : dk[from + (size_t)i] == 0);
    }
    free(nan);
    free(out);
    free(dq);
    free(dk);
    attn_close(dev, &a);
}

/* Central difference of sum(dout * out) by x[i], one of q, k, v. */
static double attn_slope(const struct attn_data *a, double *const qkv[3], double *x,
                         int64_t i, double *out) {
    double h = 1e-5, kept = x[i], loss[2];
    for (int side = 0; side < 2; side++) {
        x[i] = kept + (side ? h : -h);
        ref_attn(&a->attn, a->q_start, a->k_start, a->k_len, a->rel_bias, qkv[0], qkv[1],
                 qkv[2], out, NULL);
        loss[side] = 0;
        for (int64_t j = 0; j < a->n_queries * a->row_q; j++)
            loss[side] += out[j] * (double)a->dout[j];
    }
    x[i] = kept;
    return (loss[1] - loss[0]) / (2 * h);
}

/* The row of keys that row `row` of dk and dv is about; -1: of no sequence. */
static int64_t key_row(const struct attn_data *a, const struct attn_case *c,
                       int64_t row) {
    int64_t s = 0;
    if (a->all_keys) {
        for (; s < c->n_seqs; s++) {
            if (row >= a->k_start[s] && row < a->k_start[s] + c->keys[s]) return row;
        }
        return -1;
    }
    while (row >= a->q_start[s + 1])
        s++;
    return a->k_start[s] + c->keys[s] - c->queries[s] + row - a->q_start[s];
}

/* dk or dv: rows of no sequence, and what is between two rows, are as before. */
static void check_untouched(struct device *dev, const struct attn_data *a,
                            const struct attn_case *c, const float *grad) {
    float *got = host_floats(dev, grad, a->n_grads * a->ld_dkv);
    for (int64_t i = 0; i < a->n_grads; i++) {
        int64_t first = key_row(a, c, i) < 0 ? 0 : a->row_k;
        assert_memory_equal(got + i * a->ld_dkv + first,
                            a->before + i * a->ld_dkv + first,
                            (size_t)(a->ld_dkv - first) * sizeof *got);
    }
    free(got);
}

static void check_attn_bwd(struct device *dev, const struct attn_case *c, bool all_keys) {
    struct attn_data a;
    attn_open(dev, c, all_keys, &a);
    attn_run(dev, &a);
    double *qkv[3] = {wide(a.q, a.n_queries * a.row_q), wide(a.k, a.n_keys * a.row_k),
                      wide(a.v, a.n_keys * a.row_k)};
    double *out = double_zeros(a.n_queries * a.row_q);
    float *got[3] = {dense(dev, a.dq, a.n_queries, a.row_q, a.ld_dq),
                     dense(dev, a.dk, a.n_grads, a.row_k, a.ld_dkv),
                     dense(dev, a.dv, a.n_grads, a.row_k, a.ld_dkv)};
    for (int x = 0; x < 3; x++) {
        int64_t n = x == 0 ? a.row_q : a.row_k, rows = x == 0 ? a.n_queries : a.n_grads;
        int64_t step = rows * n > 4000 ? 397 : rows * n > 400 ? 13 : 1; /* a sample */
        for (int64_t i = 0; i < rows * n; i += step) {
            int64_t row = i / n, from = x == 0 ? row : key_row(&a, c, row);
            if (from < 0) continue;
            double want = attn_slope(&a, qkv, qkv[x], from * n + i % n, out);
            check_close(x == 0   ? "dq"
                        : x == 1 ? "dk"
                                 : "dv",
                        i, (double)got[x][i], want, 1e-5 + 1e-5 * fabs(want));
        }
    }
    check_untouched(dev, &a, c, a.dk);
    check_untouched(dev, &a, c, a.dv);
    for (int x = 0; x < 3; x++) {
        free(qkv[x]);
        free(got[x]);
    }
    free(out);
    attn_close(dev, &a);
}

static void attn_bwd(void **state) {
    for (size_t t = 0; t < sizeof attn_cases / sizeof attn_cases[0]; t++)
        check_attn_bwd(*state, &attn_cases[t], false);
}

/* Gradients of every key, of those before the first query and of sequences without
 * queries, too. */
static void attn_bwd_all_keys(void **state) {
    static const struct attn_case suffixes[] = {
        {2, {150, 40}, {3, 37}, 2, 1, 16, true, 1},
        {3, {129, 5, 64}, {1, 0, 33}, 4, 2, 8, true, 0},
        {2, {130, 70}, {2, 40}, 2, 2, 9, false, 2},
        {1, {70}, {2}, 1, 1, 300, true, 0},
        {2, {3, 2}, {0, 0}, 2, 1, 4, true, 0}, /* zeros for all keys */
        {2, {150, 40}, {3, 37}, 2, 1, 6, true, 1, 33, 0},
        {2, {150, 70}, {100, 70}, 2, 1, 6, true, 0, 40, 9},
        {2, {130, 70}, {130, 40}, 2, 2, 5, false, 0, 0, 70},
    };
    for (size_t t = 0; t < sizeof attn_cases / sizeof attn_cases[0]; t++)
        check_attn_bwd(*state, &attn_cases[t], true);
    for (size_t t = 0; t < sizeof suffixes / sizeof suffixes[0]; t++)
        check_attn_bwd(*state, &suffixes[t], true);
    for (size_t t = 0; t < sizeof attn_cross / sizeof attn_cross[0]; t++)
        check_attn_bwd(*state, &attn_cross[t], true);
}

/* When the loss touches only the last queries, computing those alone loses nothing: their
 * rows have the gradients of the full pass. */
static void suffix_has_the_full_gradient(void **state) {
    struct device *dev = *state;
    static const struct attn_case full[] = {
        {3, {5, 3, 6}, {5, 3, 6}, 4, 2, 8, true, 3},
        {2, {150, 66}, {150, 66}, 2, 1, 64, true, 0},
        {2, {150, 66}, {150, 66}, 2, 1, 16, true, 0, 33, 12},
    };
    static const int32_t suffix[][MAX_SEQS] = {{2, 1, 3}, {70, 1}, {70, 1}};
    for (size_t t = 0; t < sizeof full / sizeof full[0]; t++) {
        struct attn_case part = full[t];
        memcpy(part.queries, suffix[t], sizeof part.queries);
        struct attn_data a, b;
        uint64_t seed = dev->seed;
        attn_open(dev, &full[t], false, &a);
        dev->seed = seed;
        attn_open(dev, &part, false, &b);

        /* The same keys, values and biases; queries and gradients of the suffix are rows
         * of the full. */
        size_t keys = (size_t)(a.n_keys * (a.row_k + 2 * part.pad)) * sizeof(float);
        mal_backend_copy(dev->be, (void *)(uintptr_t)b.attn.k, a.attn.k, keys);
        mal_backend_copy(dev->be, (void *)(uintptr_t)b.attn.v, a.attn.v, keys);
        size_t biases = (size_t)(part.heads * (2 * part.span + 1)) * sizeof(float);
        if (part.span)
            mal_backend_copy(dev->be, (void *)(uintptr_t)b.attn.rel_bias, a.attn.rel_bias,
                             biases);
        float *zeros = calloc((size_t)(a.n_queries * a.ld_out), sizeof *zeros);
        assert_non_null(zeros);
        mal_backend_upload(dev->be, a.dev_dout, zeros,
                           (size_t)(a.n_queries * a.ld_out) * sizeof *zeros);
        free(zeros);
        size_t row_bytes =
            (size_t)a.ld_out * sizeof(float); /* of q too: the same padding */
        for (int64_t s = 0; s < part.n_seqs; s++) {
            int64_t from = a.q_start[s + 1] - suffix[t][s];
            size_t bytes = (size_t)suffix[t][s] * row_bytes;
            mal_backend_copy(dev->be,
                             (float *)(uintptr_t)b.attn.q + b.q_start[s] * a.ld_out,
                             a.attn.q + from * a.ld_out, bytes);
            mal_backend_copy(dev->be, a.dev_dout + from * a.ld_out,
                             b.dev_dout + b.q_start[s] * a.ld_out, bytes);
        }
        attn_run(dev, &a);
        attn_run(dev, &b);
        float *const all[] = {a.dq, a.dk, a.dv}, *const some[] = {b.dq, b.dk, b.dv};
        for (int x = 0; x < 3; x++) {
            int64_t n = x == 0 ? a.row_q : a.row_k;
            float *want = dense(dev, all[x], a.n_queries, n, x == 0 ? a.ld_dq : a.ld_dkv);
            float *got = dense(dev, some[x], b.n_queries, n, x == 0 ? b.ld_dq : b.ld_dkv);
            for (int64_t s = 0; s < part.n_seqs; s++)
                for (int64_t i = 0; i < suffix[t][s] * n; i++)
                    check_close("suffix", i, (double)got[b.q_start[s] * n + i],
                                (double)want[(a.q_start[s + 1] - suffix[t][s]) * n + i],
                                2e-6);
            free(want);
            free(got);
        }
        free(b.q);
        free(b.k);
        free(b.v);
        free(b.dout);
        free(b.rel_bias);
        free(b.before);
        attn_close(dev, &a);
    }
}

static void capped_scores(void **state) {
    static const struct attn_case cases[] = {
        {3, {5, 3, 9}, {2, 1, 8}, 4, 2, 8, true, 3, 4, 0, 0.3F},
        {1, {70}, {40}, 2, 1, 16, true, 0, 0, 0, 0.2F},
        {2, {9, 4}, {9, 4}, 6, 2, 3, false, 0, 0, 0, 1},
        {2, {40, 20}, {40, 20}, 2, 1, 256, true, 0, 0, 0, 0.1F},
        {2, {300, 20}, {1, 1}, 2, 1, 24, true, 2, 100, 0, 0.2F},
    };
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        check_attn_fwd(*state, &cases[t]);
        check_attn_bwd(*state, &cases[t], t == 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attn_fwd),
        cmocka_unit_test(window_leaves_far_keys_alone),
        cmocka_unit_test(attn_bwd),
        cmocka_unit_test(attn_bwd_all_keys),
        cmocka_unit_test(suffix_has_the_full_gradient),
        cmocka_unit_test(capped_scores),
    };
    return cmocka_run_group_tests_name("attention", tests, device_open, device_close);
}
