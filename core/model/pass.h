/* pass.h - one run of a packed batch through a model: its rows, buffers and what it
 * captures.
 *
 * "Kept" rows are the last rows of each sequence that something is wanted of: labels,
 * gradients, or the next token. From the last block's attention on only they are
 * computed, and the backward pass knows no others (core/README.md section 5: exact, since
 * losses sit there and gradients flow from later to earlier positions only). */
#ifndef MAL_PASS_H
#define MAL_PASS_H

#include "core/model/model.h"

struct mal_kv_cache {
    float **kv; /* per block: (rows, 2 * n_kv_heads * head_size), keys then values */
    int64_t n_blocks, rows;
};

/* What the backward pass of a block needs; all device memory of the pass. M kept rows. */
struct mal_tape_block {
    float *x1;  /* (M, C) input of the block */
    float *qkv; /* (N, 3C) of all rows: keys and values of earlier rows matter */
    float *q;   /* (M, C) queries */
    float *ao;  /* (M, C) output of the attention */
    float *lse; /* (M, H) */
    float *x2;  /* (M, C) after the attention */
    float *ff;  /* (M, F) before the activation */
};

/* Buffers of the forward and the backward pass. */
struct mal_pass_buffers {
    float *x, *h; /* (N, C) residual stream, normalised input */
    float *qkv;   /* (N, 3C) */
    float *q;     /* (M, C) */
    float *ao;    /* (N, C) */
    float *lse;   /* (N, H) */
    float *ff;    /* (N, F) */
    float *dff;   /* (M, F) */
    float *dh;    /* (M, C) */
    float *dqkv;  /* (M, 3C) */
};

struct mal_pass {
    struct mal_backend *be;
    struct mal_arena *arena;

    int64_t n_seqs, n_tokens;
    int64_t max_queries, max_keys;  /* of one sequence */
    const int32_t *ids, *pos;       /* (n_tokens) */
    const int32_t *q_start;         /* (n_seqs + 1) */
    const int32_t *k_start, *k_len; /* (n_seqs); rows of the cache when there is one */

    int64_t n_kept, max_kept;
    const int32_t *kept;       /* (n_kept) packed rows */
    const int32_t *kept_start; /* (n_seqs + 1) */

    int64_t n_head;           /* kept rows that go through the head */
    const int32_t *head_rows; /* (n_head) indices among the kept rows */
    const int32_t *labels;    /* (n_head), -1: none */

    struct mal_kv_cache *cache; /* NULL: none */
    const int32_t *cache_rows;  /* (n_tokens) where keys and values go */

    bool measure; /* a backward pass follows */
    float *const *u, *const
                         *g; /* per edit module, memory of the caller; u NULL: no keys */
    size_t left;             /* edit modules whose g is still to come */

    struct mal_pass_buffers buf;
    float *y, *dy; /* (M, C) */
};

/* ---- Layers over a pass ---- */

/* y (n, d_out) = x W + b, added to y when `add`. */
void mal_linear_fwd(struct mal_backend *be, const struct mal_linear *lin, int64_t n,
                    const float *x, float *y, bool add);
/* dx (n, d_in) = dy W' */
void mal_linear_bwd(struct mal_backend *be, const struct mal_linear *lin, int64_t n,
                    const float *dy, float *dx);

/* If `lin` is an edit module being measured: its keys are the kept rows of x, which holds
 * all tokens, or only the kept rows when `reduced`. */
void mal_capture_keys(struct mal_pass *pass, const struct mal_linear *lin, const float *x,
                      bool reduced);
/* Likewise its value gradients, dy (M, d_out). False: that was the lowest module, stop
 * here. */
bool mal_capture_grads(struct mal_pass *pass, const struct mal_linear *lin,
                       const float *dy);

/* y (M, c) = the kept rows of x (N or, `reduced`, M rows of stride ldx). */
void mal_keep_rows(struct mal_pass *pass, int64_t c, const float *x, int64_t ldx,
                   bool reduced, float *y);

#endif
