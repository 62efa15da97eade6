/* attn_fwd.c - attention: softmax over tiles of keys with a running maximum and sum, so
 * that no more than a tile of scores exists at a time. */
#include <math.h>
#include <string.h>

#include "core/cpu/attn_tile.h"
#include "core/cpu/cpu.h"
#include "core/cpu/tile.h"
#include "core/cpu/vmath.h"

/* Of each query (column): largest score and sum of exp(score - largest) so far. */
struct running {
    float max[ATTN_QUERIES], sum[ATTN_QUERIES];
    float factor[ATTN_QUERIES]; /* what the last tile multiplies earlier sums by */
};

/* Scores become probabilities up to the factor that the end of all tiles gives. */
static MAL_SIMD void softmax_step(int64_t n_keys, int64_t columns, float *s,
                                  struct running *run) {
    float max[ATTN_QUERIES], sum[ATTN_QUERIES] = {0};
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < columns; i++)
        max[i] = run->max[i];
    for (int64_t j = 0; j < n_keys; j++) {
        MAL_SIMD_LOOP
        for (int64_t i = 0; i < columns; i++) {
            float x = s[j * ATTN_QUERIES + i];
            max[i] = x > max[i] ? x : max[i];
        }
    }
    for (int64_t j = 0; j < n_keys; j++) {
        MAL_SIMD_LOOP
        for (int64_t i = 0; i < columns; i++) {
            float p = vexp(s[j * ATTN_QUERIES + i] - max[i]);
            s[j * ATTN_QUERIES + i] = p;
            sum[i] += p;
        }
    }
    MAL_SIMD_LOOP
    for (int64_t i = 0; i < columns; i++) {
        run->factor[i] = vexp(run->max[i] - max[i]);
        run->sum[i] = run->sum[i] * run->factor[i] + sum[i];
        run->max[i] = max[i];
    }
}

static MAL_SIMD void scale_rows(int64_t n, int64_t d, const float *factor, float *out,
                                int64_t ld_out) {
    for (int64_t i = 0; i < n; i++) {
        MAL_SIMD_LOOP
        for (int64_t c = 0; c < d; c++)
            out[i * ld_out + c] *= factor[i];
    }
}

static void fwd_piece(const struct attn_piece *piece, float *out, int64_t ld_out,
                      float *norm, int64_t ld_norm) {
    _Alignas(64) float packed[ATTN_DEPTH * ATTN_QUERIES];
    _Alignas(64) float s[ATTN_KEYS * ATTN_QUERIES];
    struct running run;
    int64_t n = piece->n_queries, d = piece->head_size;
    for (int64_t i = 0; i < ATTN_QUERIES; i++) {
        run.max[i] = -INFINITY;
        run.sum[i] = 0;
    }
    for (int64_t i = 0; i < n; i++)
        memset(out + i * ld_out, 0, (size_t)d * sizeof *out);

    /* Every query sees a key of the first tile: a window begins at most n - 1 keys later
     * for the last query than for the first. */
    for (int64_t j = piece->first_key; j < piece->end_key; j += ATTN_KEYS) {
        int64_t n_keys = attn_tile_keys(piece, j);
        mal_cpu_attn_scores(piece, j, packed, s);
        mal_cpu_attn_hide(piece, j, -INFINITY, s);
        softmax_step(n_keys, attn_columns(piece), s, &run);
        if (j > piece->first_key) scale_rows(n, d, run.factor, out, ld_out);
        mal_cpu_tile(n, d, n_keys, s, 1, ATTN_QUERIES, piece->v + j * piece->ld_v,
                     piece->ld_v, out, ld_out);
    }

    for (int64_t i = 0; i < n; i++) {
        if (norm) {
            norm[i * ld_norm] = run.max[i];
            norm[i * ld_norm + 1] = (float)log((double)run.sum[i]);
        }
        run.factor[i] = 1.0f / run.sum[i];
    }
    scale_rows(n, d, run.factor, out, ld_out);
}

void mal_cpu_attn_fwd(struct mal_backend *be, const struct mal_attn *attn, void *out,
                      enum mal_dtype out_dtype, int64_t ld_out, float *norm) {
    float *y = out;
    int64_t tiles = (attn->max_queries + ATTN_QUERIES - 1) / ATTN_QUERIES;
#pragma omp parallel for collapse(3) schedule(dynamic, 4) if (attn_is_parallel(attn))
    for (int64_t s = 0; s < attn->n_seqs; s++) {
        for (int64_t t = 0; t < tiles; t++) {
            for (int64_t h = 0; h < attn->n_heads; h++) {
                int64_t i = t * ATTN_QUERIES, row = attn->q_start[s] + i;
                if (row >= attn->q_start[s + 1]) continue;
                struct attn_piece piece = mal_cpu_attn_piece(attn, s, h, i);
                fwd_piece(&piece, y + row * ld_out + h * attn->head_size, ld_out,
                          norm ? norm + 2 * (row * attn->n_heads + h) : NULL,
                          2 * attn->n_heads);
            }
        }
    }
}
