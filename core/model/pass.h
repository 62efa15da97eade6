/* pass.h - one run of a packed batch through a model: its rows, buffers and what it
 * captures.
 *
 * "Top" rows are the last rows of each sequence that something is wanted of: labels, or
 * the next token. From the last block's attention on only they are computed. "Kept" rows
 * are those the backward pass knows: the top rows, since losses sit there and gradients
 * flow from later to earlier positions only (core/README.md section 5); or all rows,
 * where gradients of weights or of all tokens are wanted. */
#ifndef MAL_PASS_H
#define MAL_PASS_H

#include "core/model/model.h"

struct mal_kv_cache {
    float **kv; /* per block: (rows, 2 * n_kv_heads * head_size), keys then values */
    int64_t n_blocks, rows;
};

/* What the backward pass of a block needs; all device memory of the pass. M kept rows; in
 * the last block, from the queries on, the top rows. */
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
    float *q;     /* (M or top, C) */
    float *ao;    /* (N, C) */
    float *lse;   /* (N, H) */
    float *ff;    /* (N, F) */
    float *dff;   /* (M, F) */
    float *dh;    /* (M, C) */
    float *dqkv;  /* (M, 3C) */
};

/* Some of the packed rows: the last ones of each sequence. */
struct mal_row_set {
    int64_t n, max;       /* of all sequences, of one */
    const int32_t *rows;  /* (n) packed rows */
    const int32_t *start; /* (n_seqs + 1) where a sequence's begin */
};

struct mal_pass {
    struct mal_backend *be;
    struct mal_arena *arena;

    int64_t n_seqs, n_tokens;
    int64_t max_queries, max_keys;  /* of one sequence */
    const int32_t *ids, *pos;       /* (n_tokens) */
    const int32_t *q_start;         /* (n_seqs + 1) */
    const int32_t *k_start, *k_len; /* (n_seqs); rows of the cache when there is one */

    struct mal_row_set kept, top; /* top is among kept */

    int64_t n_head;           /* top rows that go through the head */
    const int32_t *head_rows; /* (n_head) indices among the top rows */
    const int32_t *labels;    /* (n_head), -1: none */

    struct mal_kv_cache *cache; /* NULL: none */
    const int32_t *cache_rows;  /* (n_tokens) where keys and values go */

    /* A pass on the base weights and one on those in use, which share what is below the
     * lowest edited block: the first leaves the state there in `lower`, the second
     * resumes with it. */
    bool compare, resume;
    float *lower; /* (N, C) */
    float *y0;    /* (top, C) y of the base weights */

    bool backward;    /* a backward pass follows */
    float *const *u;  /* keys per edit module, memory of the caller; NULL: not wanted */
    float *const *g;  /* value gradients, likewise */
    float *const *dw; /* (d_in, d_out) likewise, added to */
    size_t left;      /* edit modules whose gradients are still to come */

    struct mal_pass_buffers buf;
    float *y, *dy; /* (top, C) */
};

/* ---- Layers over a pass ---- */

/* y (n, d_out) = x W + b, added to y when `add`. */
void mal_linear_fwd(struct mal_backend *be, const struct mal_linear *lin, int64_t n,
                    const float *x, float *y, bool add);
/* dx (n, d_in) = dy W' */
void mal_linear_bwd(struct mal_backend *be, const struct mal_linear *lin, int64_t n,
                    const float *dy, float *dx);

/* If `lin` is an edit module being measured: its keys are the kept rows of x, which holds
 * all tokens, or only the top rows when `reduced`. */
void mal_capture_keys(struct mal_pass *pass, const struct mal_linear *lin, const float *x,
                      bool reduced);
/* Likewise its value gradients, dy (n, d_out), all rows there are. False: that was the
 * lowest module, stop here. */
bool mal_capture_grads(struct mal_pass *pass, const struct mal_linear *lin, int64_t n,
                       const float *dy);
/* Whether the gradient of this layer's weight is wanted: then its input is needed again.
 */
bool mal_learns(const struct mal_pass *pass, const struct mal_linear *lin);
/* Adds it, from the input x (n, d_in) and dy (n, d_out), before mal_capture_grads(). */
void mal_add_weight_grad(struct mal_pass *pass, const struct mal_linear *lin, int64_t n,
                         const float *x, const float *dy);

/* y (M, c) = the kept rows of x (N rows of stride ldx). When `reduced`, x holds the top
 * rows only, and so does y. */
void mal_keep_rows(struct mal_pass *pass, int64_t c, const float *x, int64_t ldx,
                   bool reduced, float *y);
/* y (top, c) = the top rows of x (N rows of stride ldx). */
void mal_top_rows(struct mal_pass *pass, int64_t c, const float *x, int64_t ldx,
                  float *y);
/* At the start of a forward pass, whose residual stream is x (N, C): whether it begins at
 * `block` with the state kept from an earlier one. */
bool mal_resume_at(struct mal_pass *pass, const struct mal_model *model, float *x);
/* Before each block: keeps the state where the lowest edited one begins. */
void mal_keep_lower(struct mal_pass *pass, const struct mal_model *model, int64_t block,
                    const float *x);

#endif
