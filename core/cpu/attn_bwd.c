/* attn_bwd.c - gradients of attention; probabilities are computed again from the kept
 * log-sum-exp, a tile at a time.
 *
 * With p the probabilities and dp = dout v': ds = p (dp - <dout, out>), dq = scale ds k,
 * dk = scale ds' q, dv = p' dout, where keys before the first query get nothing. */
#include <string.h>

#include "core/cpu/attn_tile.h"
#include "core/cpu/cpu.h"
#include "core/cpu/tile.h"
#include "core/cpu/vmath.h"

/* Gradients of one head of one sequence. */
struct grads {
    float *dq, *dk, *dv;
    int64_t ld_q, ld_kv;
    int64_t position; /* of the first row in dk and dv */
};

/* What a tile of queries brings along. */
struct given {
    const float *dout;
    int64_t ld_dout;
    float max[ATTN_QUERIES], log_sum[ATTN_QUERIES];
    float delta[ATTN_QUERIES]; /* <dout, out> */
};

static MAL_SIMD float channel_dot(int64_t n, const float *a, const float *b) {
    double s = 0;
    MAL_SIMD_SUM(s)
    for (int64_t c = 0; c < n; c++)
        s += (double)a[c] * (double)b[c];
    return (float)s;
}

/* s: scores, becomes probabilities; dp: becomes scale * ds. What capped the scores has a
 * slope of 1 - (s / cap)^2. */
static MAL_SIMD void tile_grads(int64_t n_keys, int64_t columns, float scale, float cap,
                                const struct given *given, float *s, float *dp) {
    float inverse = cap > 0 ? 1 / cap : 0;
    for (int64_t j = 0; j < n_keys; j++) {
        MAL_SIMD_LOOP
        for (int64_t i = 0; i < columns; i++) {
            float x = s[j * ATTN_QUERIES + i], t = inverse * x;
            float p = vexp(x - given->max[i] - given->log_sum[i]);
            s[j * ATTN_QUERIES + i] = p;
            dp[j * ATTN_QUERIES + i] =
                scale * (p * (dp[j * ATTN_QUERIES + i] - given->delta[i])) * (1 - t * t);
        }
    }
}

static void bwd_piece(const struct attn_piece *piece, const struct given *given,
                      const struct grads *grads, float *dq) {
    _Alignas(64) float packed_q[ATTN_DEPTH * ATTN_QUERIES];
    _Alignas(64) float packed_d[ATTN_DEPTH * ATTN_QUERIES];
    _Alignas(64) float s[ATTN_KEYS * ATTN_QUERIES], ds[ATTN_KEYS * ATTN_QUERIES];
    int64_t n = piece->n_queries, d = piece->head_size;

    for (int64_t j = piece->first_key; j < piece->end_key; j += ATTN_KEYS) {
        int64_t n_keys = attn_tile_keys(piece, j);
        const float *k = piece->k + j * piece->ld_k, *v = piece->v + j * piece->ld_v;
        mal_cpu_attn_scores(piece, j, packed_q, s);
        mal_cpu_attn_products(piece, n_keys, v, piece->ld_v, given->dout, given->ld_dout,
                              1.0f, j == piece->first_key, packed_d, ds);
        tile_grads(n_keys, attn_columns(piece), piece->scale, piece->cap, given, s, ds);
        mal_cpu_attn_hide(piece, j, 0, s);
        mal_cpu_attn_hide(piece, j, 0, ds);
        mal_cpu_tile(n, d, n_keys, ds, 1, ATTN_QUERIES, k, piece->ld_k, dq, grads->ld_q);

        int64_t skip = grads->position > j ? grads->position - j : 0;
        if (skip >= n_keys) continue;
        int64_t row = j + skip - grads->position, from = skip * ATTN_QUERIES;
        mal_cpu_tile(n_keys - skip, d, n, ds + from, ATTN_QUERIES, 1, piece->q,
                     piece->ld_q, grads->dk + row * grads->ld_kv, grads->ld_kv);
        mal_cpu_tile(n_keys - skip, d, n, s + from, ATTN_QUERIES, 1, given->dout,
                     given->ld_dout, grads->dv + row * grads->ld_kv, grads->ld_kv);
    }
}

static void zero_rows(int64_t n, int64_t d, float *x, int64_t ld) {
    for (int64_t i = 0; i < n; i++)
        memset(x + i * ld, 0, (size_t)d * sizeof *x);
}

/* All query tiles of one query head; dk and dv are added to. */
static void bwd_head(const struct mal_attn *attn, int64_t s, int64_t h, const float *out,
                     int64_t ld_out, const float *norm, const float *dout,
                     int64_t ld_dout, const struct grads *grads) {
    int64_t row0 = attn->q_start[s], n_queries = attn->q_start[s + 1] - row0;
    int64_t d = attn->head_size;
    for (int64_t i = 0; i < n_queries; i += ATTN_QUERIES) {
        struct attn_piece piece = mal_cpu_attn_piece(attn, s, h, i);
        int64_t row = row0 + i;
        struct given given = {.dout = dout + row * ld_dout + h * d, .ld_dout = ld_dout};
        for (int64_t c = 0; c < piece.n_queries; c++) {
            const float *of = norm + 2 * ((row + c) * attn->n_heads + h);
            given.max[c] = of[0];
            given.log_sum[c] = of[1];
            given.delta[c] = channel_dot(d, given.dout + c * ld_dout,
                                         out + (row + c) * ld_out + h * d);
        }
        float *dq = grads->dq + i * grads->ld_q;
        zero_rows(piece.n_queries, d, dq, grads->ld_q);
        bwd_piece(&piece, &given, grads, dq);
    }
}

void mal_cpu_attn_bwd(struct mal_backend *be, const struct mal_attn *attn,
                      const float *out, int64_t ld_out, const float *norm,
                      const float *dout, int64_t ld_dout,
                      const struct mal_attn_grads *wanted) {
    int64_t d = attn->head_size, group = attn->n_heads / attn->n_kv_heads;
#pragma omp parallel for collapse(2) schedule(dynamic, 2) if (attn_is_parallel(attn))
    for (int64_t s = 0; s < attn->n_seqs; s++) {
        for (int64_t h_kv = 0; h_kv < attn->n_kv_heads; h_kv++) {
            int64_t row = attn->q_start[s], n = attn->q_start[s + 1] - row;
            int64_t k_row = wanted->all_keys ? attn->k_start[s] : row;
            int64_t n_keys = wanted->all_keys ? attn->k_len[s] : n;
            struct grads grads = {
                .dk = wanted->dk + k_row * wanted->ld_kv + h_kv * d,
                .dv = wanted->dv + k_row * wanted->ld_kv + h_kv * d,
                .ld_q = wanted->ld_q,
                .ld_kv = wanted->ld_kv,
                .position = attn->k_len[s] - n_keys,
            };
            zero_rows(n_keys, d, grads.dk, grads.ld_kv);
            zero_rows(n_keys, d, grads.dv, grads.ld_kv);
            for (int64_t h = h_kv * group; h < (h_kv + 1) * group; h++) {
                grads.dq = wanted->dq + row * wanted->ld_q + h * d;
                bwd_head(attn, s, h, out, ld_out, norm, dout, ld_dout, &grads);
            }
        }
    }
}
