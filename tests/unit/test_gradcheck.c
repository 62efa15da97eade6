/* test_gradcheck.c - every backward operation against central differences of a forward
 * pass written independently in double precision (reference.h). */
#include "device.h"

#include "reference.h"

static double *wide(const float *x, int64_t n) {
    double *y = double_zeros(n);
    for (int64_t i = 0; i < n; i++)
        y[i] = (double)x[i];
    return y;
}

/* ---- Norms ---- */

static void norm_bwd(void **state) {
    struct device *dev = *state;

    static const struct {
        int64_t n, c;
        bool rms, bias;
    } cases[] = {{1, 1, false, true},  {2, 2, false, true},  {3, 7, true, false},
                 {2, 33, false, true}, {3, 48, true, false}, {2, 100, false, false}};

    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t].n, c = cases[t].c;
        float *x = random_floats(dev, n * c), *dy = random_floats(dev, n * c);
        float *gain = random_floats(dev, c), *bias = random_floats(dev, c);
        float *before = random_floats(dev, n * c);
        double *x64 = wide(x, n * c), *y = double_zeros(n * c),
               *want = double_zeros(n * c);
        struct mal_norm norm = {.n = n, .c = c, .rms = cases[t].rms, .eps = 1e-5f};
        for (int64_t i = 0; i < n * c; i++) {
            double h = 1e-5, loss[2];
            for (int side = 0; side < 2; side++) {
                x64[i] = (double)x[i] + (side ? h : -h);
                ref_norm(&norm, gain, cases[t].bias ? bias : NULL, x64, y);
                loss[side] = 0;
                for (int64_t j = 0; j < n * c; j++)
                    loss[side] += y[j] * (double)dy[j];
            }
            x64[i] = (double)x[i];
            want[i] = (double)before[i] + (loss[1] - loss[0]) / (2 * h);
        }
        norm.gain = device_floats(dev, gain, c);
        norm.bias = cases[t].bias ? device_floats(dev, bias, c) : NULL;
        float *dx = device_floats(dev, before, n * c);
        mal_norm_bwd(dev->be, &norm, device_floats(dev, x, n * c),
                     device_floats(dev, dy, n * c), dx);
        float *got = host_floats(dev, dx, n * c);
        check_floats("norm gradient", n * c, got, want, 3e-6, 1e-5);
        free(x);
        free(dy);
        free(gain);
        free(bias);
        free(before);
        free(x64);
        free(y);
        free(want);
        free(got);
        device_release(dev);
    }
}

/* ---- Activations ---- */

static void act_bwd(void **state) {
    struct device *dev = *state;
    int64_t n = 20011;
    float *x = malloc((size_t)n * sizeof *x), *dy = random_floats(dev, n);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(20 * ((double)i + 0.25) / (double)n - 10);
    for (enum mal_act act = MAL_GELU_TANH; act <= MAL_SILU; act++) {
        float *dev_x = device_floats(dev, x, n), *dev_dy = device_floats(dev, dy, n);
        float *dx = device_floats(dev, NULL, n);
        mal_act_bwd(dev->be, act, n, dev_x, dev_dy, dx);
        mal_act_bwd(dev->be, act, n, dev_x, dev_dy, dev_dy);
        float *got = host_floats(dev, dx, n), *same = host_floats(dev, dev_dy, n);
        assert_memory_equal(got, same, (size_t)n * sizeof *got);
        for (int64_t i = 0; i < n; i++) {
            double h = 1e-5, at = (double)x[i];
            double slope = (ref_act(act, at + h) - ref_act(act, at - h)) / (2 * h);
            check_close("slope", i, (double)got[i], slope * (double)dy[i], 3e-6);
        }
        free(got);
        free(same);
        device_release(dev);
    }
    free(x);
    free(dy);
}

/* With slope 0 at 0 an untrained hyper-network would never learn (core/README.md section
 * 3).
 */
static void relu_has_slope_1_at_0(void **state) {
    struct device *dev = *state;
    const float x[] = {0.0f, -0.0f, -1e-30f, 1e-30f}, dy[] = {3, 4, 5, 6};
    float *dx = device_floats(dev, dy, 4);
    mal_act_bwd(dev->be, MAL_RELU, 4, device_floats(dev, x, 4), dx, dx);
    float *got = host_floats(dev, dx, 4);
    assert_true(got[0] == 3 && got[1] == 4 && got[2] == 0 && got[3] == 6);
    free(got);
    device_release(dev);
}

/* ---- Attention ---- */

enum { MAX_SEQS = 6 };

static const struct attn_case {
    int64_t n_seqs;
    int32_t keys[MAX_SEQS], queries[MAX_SEQS];
    int64_t heads, kv_heads, head_size;
    bool causal;
    int64_t pad;
} attn_cases[] = {
    {1, {1}, {1}, 1, 1, 1, true, 0},
    {3, {4, 1, 7}, {4, 1, 7}, 2, 2, 5, true, 0},
    {3, {5, 3, 6}, {2, 1, 3}, 4, 2, 8, true, 3},
    {2, {9, 4}, {9, 4}, 6, 2, 3, false, 0},
    {2, {6, 5}, {2, 5}, 2, 1, 4, false, 1},
    {1, {70}, {40}, 1, 1, 16, true, 0},
    {4, {2, 35, 0, 3}, {0, 34, 0, 3}, 2, 1, 17, true, 2},
};

/* Larger ones, forward only and bwd against fwd elsewhere: several tiles both ways. */
static const struct attn_case attn_large[] = {
    {2, {200, 65}, {200, 33}, 3, 1, 64, true, 0},
    {1, {300}, {1}, 2, 2, 80, true, 4},
    {2, {129, 64}, {97, 64}, 2, 2, 300, false, 0},
    {6, {20, 21, 19, 20, 1, 33}, {20, 21, 19, 20, 1, 33}, 12, 12, 64, true, 0},
};

/* A case with its data: host rows without strides, device memory with them. */
struct attn_data {
    struct mal_attn attn; /* device pointers */
    int32_t q_start[MAX_SEQS + 1], k_start[MAX_SEQS], k_len[MAX_SEQS];
    int64_t n_queries, n_keys, row_q, row_k; /* row_*: floats without padding */
    int64_t ld_out, ld_dq, ld_dkv;
    float *q, *k, *v, *dout;
    float *dev_out, *dev_lse, *dev_dout, *dq, *dk, *dv;
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
    int32_t max_keys = 1;
    for (int64_t s = 0; s < c->n_seqs; s++) {
        a->q_start[s + 1] = a->q_start[s] + c->queries[s];
        a->k_start[s] =
            (int32_t)a->n_keys + 1; /* a row between sequences belongs to none */
        a->k_len[s] = c->keys[s];
        a->n_keys += c->keys[s] + 1;
        max_keys = c->keys[s] > max_keys ? c->keys[s] : max_keys;
    }
    a->n_keys++;
    a->n_queries = a->q_start[c->n_seqs];
    a->q = random_floats(dev, a->n_queries * a->row_q);
    a->dout = random_floats(dev, a->n_queries * a->row_q);
    a->k = random_floats(dev, a->n_keys * a->row_k);
    a->v = random_floats(dev, a->n_keys * a->row_k);
    int64_t ld_q = a->row_q + c->pad, ld_k = a->row_k + 2 * c->pad;
    a->ld_out = a->row_q + c->pad;
    a->ld_dq = a->row_q + 3 * c->pad;
    a->ld_dkv = a->row_k + 5 * c->pad;
    a->dev_out = strided(dev, NULL, a->n_queries, a->row_q, a->ld_out);
    a->dev_dout = strided(dev, a->dout, a->n_queries, a->row_q, a->ld_out);
    a->dev_lse = device_floats(dev, NULL, a->n_queries * c->heads);
    a->dq = strided(dev, NULL, a->n_queries, a->row_q, a->ld_dq);
    a->n_grads = all_keys ? a->n_keys : a->n_queries;
    a->before = random_floats(dev, a->n_grads * a->ld_dkv);
    a->dk = device_floats(dev, a->before, a->n_grads * a->ld_dkv);
    a->dv = device_floats(dev, a->before, a->n_grads * a->ld_dkv);
    a->attn = (struct mal_attn){
        .n_seqs = c->n_seqs,
        .n_queries = a->n_queries,
        .max_queries = max_keys,
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
    };
}

static void attn_run(struct device *dev, struct attn_data *a) {
    mal_attn_fwd(dev->be, &a->attn, a->dev_out, a->ld_out, a->dev_lse);
    mal_attn_bwd(dev->be, &a->attn, a->dev_out, a->ld_out, a->dev_lse, a->dev_dout,
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
    free(a->before);
    device_release(dev);
}

static void check_attn_fwd(struct device *dev, const struct attn_case *c) {
    struct attn_data a;
    attn_open(dev, c, false, &a);
    double *q = wide(a.q, a.n_queries * a.row_q), *k = wide(a.k, a.n_keys * a.row_k);
    double *v = wide(a.v, a.n_keys * a.row_k), *out = double_zeros(a.n_queries * a.row_q);
    double *lse = double_zeros(a.n_queries * c->heads);
    ref_attn(&a.attn, a.q_start, a.k_start, a.k_len, q, k, v, out, lse);
    mal_attn_fwd(dev->be, &a.attn, a.dev_out, a.ld_out, NULL);
    float *without = dense(dev, a.dev_out, a.n_queries, a.row_q, a.ld_out);
    mal_attn_fwd(dev->be, &a.attn, a.dev_out, a.ld_out, a.dev_lse);
    float *got = dense(dev, a.dev_out, a.n_queries, a.row_q, a.ld_out);
    float *got_lse = host_floats(dev, a.dev_lse, a.n_queries * c->heads);
    check_floats("out", a.n_queries * a.row_q, got, out, 2e-6, 0);
    check_floats("lse", a.n_queries * c->heads, got_lse, lse, 2e-6, 1e-7);
    assert_memory_equal(got, without, (size_t)(a.n_queries * a.row_q) * sizeof *got);
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
}

/* Central difference of sum(dout * out) by x[i], one of q, k, v. */
static double attn_slope(const struct attn_data *a, double *const qkv[3], double *x,
                         int64_t i, double *out) {
    double h = 1e-5, kept = x[i], loss[2];
    for (int side = 0; side < 2; side++) {
        x[i] = kept + (side ? h : -h);
        ref_attn(&a->attn, a->q_start, a->k_start, a->k_len, qkv[0], qkv[1], qkv[2], out,
                 NULL);
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
    };
    for (size_t t = 0; t < sizeof attn_cases / sizeof attn_cases[0]; t++)
        check_attn_bwd(*state, &attn_cases[t], true);
    for (size_t t = 0; t < sizeof suffixes / sizeof suffixes[0]; t++)
        check_attn_bwd(*state, &suffixes[t], true);
}

/* When the loss touches only the last queries, computing those alone loses nothing: their
 * rows have the gradients of the full pass. */
static void suffix_has_the_full_gradient(void **state) {
    struct device *dev = *state;
    static const struct attn_case full[] = {
        {3, {5, 3, 6}, {5, 3, 6}, 4, 2, 8, true, 3},
        {2, {150, 66}, {150, 66}, 2, 1, 64, true, 0},
    };
    static const int32_t suffix[][MAX_SEQS] = {{2, 1, 3}, {70, 1}};
    for (size_t t = 0; t < sizeof full / sizeof full[0]; t++) {
        struct attn_case part = full[t];
        memcpy(part.queries, suffix[t], sizeof part.queries);
        struct attn_data a, b;
        uint64_t seed = dev->seed;
        attn_open(dev, &full[t], false, &a);
        dev->seed = seed;
        attn_open(dev, &part, false, &b);

        /* The same keys and values; queries and gradients of the suffix are rows of the
         * full. */
        size_t keys = (size_t)(a.n_keys * (a.row_k + 2 * part.pad)) * sizeof(float);
        mal_backend_copy(dev->be, (void *)(uintptr_t)b.attn.k, a.attn.k, keys);
        mal_backend_copy(dev->be, (void *)(uintptr_t)b.attn.v, a.attn.v, keys);
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
        free(b.before);
        attn_close(dev, &a);
    }
}

/* ---- Cross-entropy ---- */

static void xent_bwd(void **state) {
    struct device *dev = *state;
    static const int64_t cases[][2] = {{1, 1}, {1, 2}, {5, 31}, {4, 200}, {2, 3001}};
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t][0], v = cases[t][1];
        float *x = random_floats(dev, n * v), *scale = random_floats(dev, n);
        int32_t *label = random_ints(dev, n, (int32_t)v);
        if (n > 1) label[1] = -1;
        for (int64_t i = 0; i < n * v; i++)
            x[i] *= 3;
        float *dx = device_floats(dev, x, n * v);
        mal_xent_bwd(dev->be, n, v, dx, device_ints(dev, label, n),
                     device_floats(dev, scale, n));
        float *got = host_floats(dev, dx, n * v);
        int64_t step = v > 1000 ? 37 : 1;
        for (int64_t i = 0; i < n; i++) {
            double *row = wide(x + i * v, v);
            for (int64_t j = 0; j < v; j += step) {
                double h = 1e-5, kept = row[j], want = 0;
                if (label[i] >= 0) {
                    row[j] = kept + h;
                    want = -ref_logprob(v, row, label[i]);
                    row[j] = kept - h;
                    want += ref_logprob(v, row, label[i]);
                    row[j] = kept;
                }
                want *= (double)scale[i] / (2 * h);
                check_close("xent gradient", i * v + j, (double)got[i * v + j], want,
                            1e-6);
            }
            free(row);
        }
        free(x);
        free(scale);
        free(label);
        free(got);
        device_release(dev);
    }
}

/* p - 1 of a label that is almost certain does not cancel. */
static void xent_bwd_near_certainty(void **state) {
    struct device *dev = *state;
    const float x[] = {0, 25, 0}, one = 1;
    const int32_t label = 1;
    float *dx = device_floats(dev, x, 3);
    mal_xent_bwd(dev->be, 1, 3, dx, device_ints(dev, &label, 1),
                 device_floats(dev, &one, 1));
    float *got = host_floats(dev, dx, 3);
    double p = exp(-25.0) / (1 + 2 * exp(-25.0));
    check_close("others", 0, (double)got[0], p, 1e-6 * p);
    check_close("label", 1, (double)got[1], -2 * p, 2e-5 * p);
    free(got);
    device_release(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_bwd),
        cmocka_unit_test(act_bwd),
        cmocka_unit_test(relu_has_slope_1_at_0),
        cmocka_unit_test(attn_fwd),
        cmocka_unit_test(attn_bwd),
        cmocka_unit_test(attn_bwd_all_keys),
        cmocka_unit_test(suffix_has_the_full_gradient),
        cmocka_unit_test(xent_bwd),
        cmocka_unit_test(xent_bwd_near_certainty),
    };
    return cmocka_run_group_tests_name("gradcheck", tests, device_open, device_close);
}
