/* ops.c - what products with weights in 16 bits cost beside those in fp32, and attention
 * with windows, biases and in both directions beside plain causal attention.
 *
 * bench_ops [gemm|attn|convert|all [DEVICE]]: one of them alone; "cpu:bf16" is the CPU
 * with products in bf16. */
#include <math.h>
#include <string.h>

#include "bench.h"
#include "core/cpu/blas.h"

enum { MAX_OPS = 3 };

/* The best of as many runs as fit into about half a second, three at least, of each of n
 * operations in turn: what else the machine does hits them all. */
static void best_times(struct mal_backend *be, size_t n,
                       void (*step)(struct mal_backend *be, const void *op),
                       const void *const op[], double best[]) {
    double total = 0;
    for (size_t t = 0; t < n; t++)
        best[t] = INFINITY;
    for (int i = 0; i < 3 || (total < 0.5 * (double)n && i < 1000); i++) {
        for (size_t t = 0; t < n; t++) {
            double start = seconds(CLOCK_MONOTONIC);
            step(be, op[t]);
            double time = seconds(CLOCK_MONOTONIC) - start;
            best[t] = time < best[t] ? time : best[t];
            total += time;
        }
    }
}

static double best_time(struct mal_backend *be,
                        void (*step)(struct mal_backend *be, const void *op),
                        const void *op) {
    double best;
    best_times(be, 1, step, &op, &best);
    return best;
}

/* ---- Products ---- */

static void gemm_step(struct mal_backend *be, const void *op) {
    mal_gemm(be, op);
}

static void bench_gemm(struct mal_backend *be) {
    static const int64_t shapes[][2] = {{768, 3072}, {4096, 4096}, {4096, 16384}};
    static const int64_t rows[] = {1, 2, 4, 8, 16, 32, 256, 1024};

    static const enum mal_dtype dtypes[] = {MAL_F32, MAL_BF16, MAL_F16};

    printf("%6s %6s %6s %6s  %9s %9s %9s ms  GFLOP/s of each; GB/s of weights\n", "m",
           "n", "k", "trans", "F32", "BF16", "F16");
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        int64_t k = shapes[s][0], n = shapes[s][1];
        float *a = floats(be, 1024 * k), *b = floats(be, k * n),
              *c = floats(be, 1024 * n);
        void *b16[2];
        for (int t = 0; t < 2; t++) {
            b16[t] = device_memory(be, (size_t)(k * n) * 2);
            mal_convert(be, k * n, b16[t], dtypes[1 + t], b, MAL_F32);
        }
        for (int trans = 0; trans < 2; trans++) {
            for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
                double time[MAX_OPS], flops = 2e-9 * (double)(rows[r] * n * k);
                struct mal_gemm g[MAX_OPS];
                const void *ops[MAX_OPS] = {&g[0], &g[1], &g[2]};
                for (int t = 0; t < MAX_OPS; t++)
                    g[t] = (struct mal_gemm){.m = rows[r],
                                             .n = n,
                                             .k = k,
                                             .a = a,
                                             .b = t ? b16[t - 1] : b,
                                             .b_dtype = dtypes[t],
                                             .trans_b = trans,
                                             .c = c,
                                             .alpha = 1};
                best_times(be, MAX_OPS, gemm_step, ops, time);
                printf("%6lld %6lld %6lld %6d  %9.3f %9.3f %9.3f     %6.1f %6.1f %6.1f  "
                       "%6.1f %6.1f %6.1f\n",
                       (long long)rows[r], (long long)n, (long long)k, trans,
                       1e3 * time[0], 1e3 * time[1], 1e3 * time[2], flops / time[0],
                       flops / time[1], flops / time[2], 4e-9 * (double)(n * k) / time[0],
                       2e-9 * (double)(n * k) / time[1],
                       2e-9 * (double)(n * k) / time[2]);
                fflush(stdout);
            }
        }
        mal_backend_free(be, a);
        mal_backend_free(be, b);
        mal_backend_free(be, c);
        mal_backend_free(be, b16[0]);
        mal_backend_free(be, b16[1]);
    }
}

/* ---- Attention ---- */

struct attn_op {
    struct mal_attn attn;
    float *out, *norm, *dout;
    struct mal_attn_grads grads;
};

static void attn_fwd_step(struct mal_backend *be, const void *op) {
    const struct attn_op *o = op;
    mal_attn_fwd(be, &o->attn, o->out, MAL_F32, 0, o->norm);
}

static void attn_bwd_step(struct mal_backend *be, const void *op) {
    const struct attn_op *o = op;
    mal_attn_bwd(be, &o->attn, o->out, 0, o->norm, o->dout, 0, &o->grads);
}

/* GPT-2 small's heads: 12 of 64, on n_seqs sequences of `length`. */
static void bench_attn_of(struct mal_backend *be, int64_t n_seqs, int64_t length) {
    static const struct {
        const char *name;
        bool causal, bias;
        int64_t window;
    } kinds[] = {{"causal", true, false, 0},
                 {"window 256", true, false, 256},
                 {"causal, bias", true, true, 0},
                 {"both directions", false, false, 0},
                 {"both directions, bias", false, true, 0}};

    int64_t c = 768, rows = n_seqs * length, span = 128;
    int32_t *starts = device_memory(be, (size_t)(n_seqs + 1) * 4);
    int32_t *lengths = device_memory(be, (size_t)n_seqs * 4);
    for (int64_t s = 0; s <= n_seqs; s++)
        starts[s] = (int32_t)(s * length);
    for (int64_t s = 0; s < n_seqs; s++)
        lengths[s] = (int32_t)length;
    float *mem[9];
    for (int i = 0; i < 8; i++)
        mem[i] = floats(be, rows * c);
    mem[8] = floats(be, 12 * (2 * span + 1));
    for (size_t t = 0; t < sizeof kinds / sizeof kinds[0]; t++) {
        struct attn_op op = {
            .attn = {.n_seqs = n_seqs,
                     .n_queries = rows,
                     .max_queries = length,
                     .max_keys = length,
                     .n_heads = 12,
                     .n_kv_heads = 12,
                     .head_size = 64,
                     .q_start = starts,
                     .k_start = starts,
                     .k_len = lengths,
                     .q = mem[0],
                     .k = mem[1],
                     .v = mem[2],
                     .scale = 0.125f,
                     .causal = kinds[t].causal,
                     .window = kinds[t].window,
                     .rel_bias = kinds[t].bias ? mem[8] : NULL,
                     .rel_span = span},
            .out = mem[3],
            .norm = floats(be, rows * 24),
            .dout = mem[4],
            .grads = {.dq = mem[5], .dk = mem[6], .dv = mem[7]},
        };
        double fwd = best_time(be, attn_fwd_step, &op);
        double bwd = best_time(be, attn_bwd_step, &op);
        printf("%4lld x %5lld  %-22s  forward %8.2f ms, backward %8.2f ms\n",
               (long long)n_seqs, (long long)length, kinds[t].name, 1e3 * fwd, 1e3 * bwd);
        fflush(stdout);
        mal_backend_free(be, op.norm);
    }
    for (int i = 0; i < 9; i++)
        mal_backend_free(be, mem[i]);
    mal_backend_free(be, starts);
    mal_backend_free(be, lengths);
}

static void bench_attn(struct mal_backend *be) {
    bench_attn_of(be, 64, 24);
    bench_attn_of(be, 8, 256);
    bench_attn_of(be, 1, 2048);
}

/* ---- Conversions ---- */

struct convert_op {
    int64_t n;
    void *y;
    enum mal_dtype y_dtype;
    const void *x;
    enum mal_dtype x_dtype;
};

static void convert_step(struct mal_backend *be, const void *op) {
    const struct convert_op *o = op;
    mal_convert(be, o->n, o->y, o->y_dtype, o->x, o->x_dtype);
}

static void bench_convert(struct mal_backend *be) {
    static const enum mal_dtype dtypes[] = {MAL_F32, MAL_BF16, MAL_F16};

    for (int64_t n = 1 << 16; n <= 1 << 26; n <<= 10) {
        float *x = floats(be, n);
        void *y = floats(be, n);
        for (int t = 0; t < 6; t++) {
            enum mal_dtype to = t < 3 ? MAL_F32 : dtypes[t - 3];
            enum mal_dtype from = t < 3 ? dtypes[t] : MAL_F32;
            struct convert_op op = {n, y, to, x, from};
            double time = best_time(be, convert_step, &op);
            double bytes = (double)(mal_dtype_size(to) + mal_dtype_size(from));
            printf("%9lld  %4s to %4s  %8.3f ms  %6.1f GB/s\n", (long long)n,
                   mal_dtype_name(from), mal_dtype_name(to), 1e3 * time,
                   1e-9 * bytes * (double)n / time);
        }
        mal_backend_free(be, x);
        mal_backend_free(be, y);
    }
}

int main(int argc, char **argv) {
    mal_cpu_prepare(argv);
    struct mal_backend *be;
    struct mal_error err = {0};
    if (!mal_backend_create(&be, argc > 2 ? argv[2] : "cpu", &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    printf("%s\n", mal_backend_describe(be));
    const char *which = argc > 1 && strcmp(argv[1], "all") != 0 ? argv[1] : "";
    if (!*which || strcmp(which, "gemm") == 0) bench_gemm(be);
    if (!*which || strcmp(which, "attn") == 0) bench_attn(be);
    if (!*which || strcmp(which, "convert") == 0) bench_convert(be);
    mal_backend_destroy(be);
    return 0;
}
