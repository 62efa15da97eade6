/* attn_tile.c - tiles of products between keys and queries. */
#include "core/cpu/attn_tile.h"

#include <string.h>

#include "core/cpu/tile.h"
#include "core/cpu/vmath.h"
#include "core/simd.h"

struct attn_piece mal_cpu_attn_piece(const struct mal_attn *attn, int64_t s, int64_t h,
                                     int64_t i) {
    int64_t n_queries = attn->q_start[s + 1] - attn->q_start[s];
    int64_t n_keys = attn->k_len[s];
    int64_t row = attn->q_start[s] + i, d = attn->head_size;
    int64_t h_kv = h / (attn->n_heads / attn->n_kv_heads);

    struct attn_piece piece = {
        .q = attn->q + row * attn->ld_q + h * d,
        .k = attn->k + attn->k_start[s] * attn->ld_k + h_kv * d,
        .v = attn->v + attn->k_start[s] * attn->ld_v + h_kv * d,
        .ld_q = attn->ld_q,
        .ld_k = attn->ld_k,
        .ld_v = attn->ld_v,
        .n_queries = n_queries - i < ATTN_QUERIES ? n_queries - i : ATTN_QUERIES,
        .end_key = n_keys,
        .position = n_keys - n_queries + i,
        .head_size = d,
        .scale = attn->scale,
        .causal = attn->causal,
        .window = attn->window,
        .rel_span = attn->rel_span,
        .cap = attn->cap,
    };
    if (piece.causal && piece.position + piece.n_queries < n_keys)
        piece.end_key = piece.position + piece.n_queries;
    if (piece.window && piece.position >= piece.window)
        piece.first_key = piece.position - piece.window + 1;
    if (attn->rel_bias)
        piece.rel_bias = attn->rel_bias + h * (2 * piece.rel_span + 1) + piece.rel_span;
    return piece;
}

/* packed[d][i] = scale * y[i][d]; columns beyond the queries are 0. */
static MAL_SIMD void pack(int64_t n, int64_t columns, int64_t depth, const float *y,
                          int64_t ld_y, float scale, float *packed) {
    for (int64_t d = 0; d < depth; d++) {
        for (int64_t i = 0; i < n; i++)
            packed[d * ATTN_QUERIES + i] = scale * y[i * ld_y + d];
        for (int64_t i = n; i < columns; i++)
            packed[d * ATTN_QUERIES + i] = 0;
    }
}

void mal_cpu_attn_products(const struct attn_piece *piece, int64_t n_keys, const float *x,
                           int64_t ld_x, const float *y, int64_t ld_y, float scale,
                           bool first, float *packed, float *tile) {
    int64_t columns = attn_columns(piece);
    memset(tile, 0, (size_t)(n_keys * ATTN_QUERIES) * sizeof *tile);
    for (int64_t d = 0; d < piece->head_size; d += ATTN_DEPTH) {
        int64_t depth =
            piece->head_size - d < ATTN_DEPTH ? piece->head_size - d : ATTN_DEPTH;
        if (first || piece->head_size > ATTN_DEPTH)
            pack(piece->n_queries, columns, depth, y + d, ld_y, scale, packed);
        mal_cpu_tile(n_keys, columns, depth, x + d, ld_x, 1, packed, ATTN_QUERIES, tile,
                     ATTN_QUERIES);
    }
}

/* Down a tile the distance from query to key grows, across it falls: one row of biases by
 * falling distance serves all its rows, each from another column on. */
static MAL_SIMD void add_bias(int64_t n_keys, int64_t columns, const float *falling,
                              float *tile) {
    for (int64_t p = 0; p < n_keys; p++) {
        const float *row = falling + n_keys - 1 - p;
        MAL_SIMD_LOOP
        for (int64_t i = 0; i < columns; i++)
            tile[p * ATTN_QUERIES + i] += row[i];
    }
}

static MAL_SIMD void cap_tile(int64_t n_keys, int64_t columns, float cap, float *tile) {
    float inverse = 1 / cap;
    for (int64_t p = 0; p < n_keys; p++) {
        MAL_SIMD_LOOP
        for (int64_t i = 0; i < columns; i++)
            tile[p * ATTN_QUERIES + i] =
                cap * vtanh(inverse * tile[p * ATTN_QUERIES + i]);
    }
}

void mal_cpu_attn_scores(const struct attn_piece *piece, int64_t j, float *packed,
                         float *tile) {
    int64_t n_keys = attn_tile_keys(piece, j);
    mal_cpu_attn_products(piece, n_keys, piece->k + j * piece->ld_k, piece->ld_k,
                          piece->q, piece->ld_q, piece->scale, j == piece->first_key,
                          packed, tile);
    if (piece->cap > 0) cap_tile(n_keys, attn_columns(piece), piece->cap, tile);
    if (!piece->rel_bias) return;

    float falling[ATTN_KEYS + ATTN_QUERIES];
    int64_t columns = attn_columns(piece), distance = j + n_keys - 1 - piece->position;
    for (int64_t i = 0; i < n_keys - 1 + columns; i++, distance--) {
        int64_t near = distance < piece->rel_span ? distance : piece->rel_span;
        falling[i] = piece->rel_bias[near > -piece->rel_span ? near : -piece->rel_span];
    }
    add_bias(n_keys, columns, falling, tile);
}

void mal_cpu_attn_hide(const struct attn_piece *piece, int64_t j, float value,
                       float *tile) {
    if (!piece->causal) return;
    for (int64_t p = 0; p < attn_tile_keys(piece, j); p++) {
        /* Query i is this many positions after the key, plus i. */
        int64_t after = piece->position - (j + p), n = piece->n_queries;
        for (int64_t i = 0; i < -after && i < n; i++)
            tile[p * ATTN_QUERIES + i] = value;
        int64_t last = piece->window ? piece->window - after : n;
        for (int64_t i = last > 0 ? last : 0; i < n; i++)
            tile[p * ATTN_QUERIES + i] = value;
    }
}
