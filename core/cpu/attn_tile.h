/* attn_tile.h - what attention forward and backward share: tiles of transposed scores.
 *
 * A tile has one row per key and one column per query, so that maximum, sum and exp of a
 * query run down a column, many queries side by side, and only the queries are ever
 * transposed. */
#ifndef MAL_ATTN_TILE_H
#define MAL_ATTN_TILE_H

#include <stdint.h>

#include "core/cpu/cpu.h"

enum {
    ATTN_QUERIES = 32, /* columns of a tile */
    ATTN_KEYS = 64,    /* rows of a tile */
    ATTN_DEPTH = 256   /* channels of queries transposed at once */
};

/* One head of up to ATTN_QUERIES queries and the keys they see. */
struct attn_piece {
    const float *q, *k, *v; /* at the first query, and at the first key of the sequence */
    int64_t ld_q, ld_k, ld_v;
    int64_t n_queries;
    int64_t first_key, end_key; /* the keys that any of the queries sees */
    int64_t position;           /* of the first query */
    int64_t head_size;
    float scale;
    bool causal;
    int64_t window;
    const float *rel_bias; /* of the head, at distance 0; NULL: none */
    int64_t rel_span;
    float cap; /* 0: none */
};

/* Columns worked on: the queries, filled up to whole vectors. */
static inline int64_t attn_columns(const struct attn_piece *piece) {
    return (piece->n_queries + 15) / 16 * 16;
}

/* Keys of the tile that starts at key j. */
static inline int64_t attn_tile_keys(const struct attn_piece *piece, int64_t j) {
    return piece->end_key - j < ATTN_KEYS ? piece->end_key - j : ATTN_KEYS;
}

/* Whether there is enough to do for a second thread. */
static inline bool attn_is_parallel(const struct mal_attn *attn) {
    int64_t channels = attn->n_heads * attn->head_size;
    return attn->n_queries * channels * attn->max_keys > 16 * PARALLEL_ELEMENTS;
}

/* The piece of sequence s, head h and the tile of queries that starts at its query i. */
struct attn_piece mal_cpu_attn_piece(const struct mal_attn *attn, int64_t s, int64_t h,
                                     int64_t i);

/* tile (n_keys, columns), ld ATTN_QUERIES = scale * x (n_keys, d) @ y (columns, d)'.
 * `packed` (ATTN_DEPTH, ATTN_QUERIES) keeps y transposed between calls: `first` says it
 * does not hold y yet. */
void mal_cpu_attn_products(const struct attn_piece *piece, int64_t n_keys, const float *x,
                           int64_t ld_x, const float *y, int64_t ld_y, float scale,
                           bool first, float *packed, float *tile);

/* The scores of the tile that starts at key j, with their bias or capped; `packed` as
 * above. */
void mal_cpu_attn_scores(const struct attn_piece *piece, int64_t j, float *packed,
                         float *tile);

/* tile := value where a query does not see the key. */
void mal_cpu_attn_hide(const struct attn_piece *piece, int64_t j, float value,
                       float *tile);

#endif
