/* pass.h - one run of a packed batch through a model: its rows, buffers and what it
 * captures.
 *
 * A lane is the rows of one stack. "Top" rows are the last rows of each sequence that
 * something is wanted of: labels, or the next token; a bidirectional classifier's are the
 * first. From the last block's queries on only they are computed. "Kept" rows are those
 * the backward pass knows: in a causal model the top rows suffice, since losses sit there
 * and gradients flow from later to earlier positions only (core/README.md section 5);
 * else, also in a decoder, whose every row hands gradients to the encoder, or where those
 * of weights or of all tokens are wanted, all rows. What an
 * editor measures, it measures at the top rows. */
#ifndef MAL_PASS_H
#define MAL_PASS_H

#include "core/model/block.h"

struct mal_kv_cache {
    float **kv;    /* per decoder block: (rows, 2 * n_kv_heads * head_size), keys then
                      values; NULL: that block has none */
    float **cross; /* likewise of the encoder's output (source_rows, ...); NULL: none */
    int64_t n_blocks, rows, source_rows;
};

/* What the backward pass of a block needs; all device memory of the pass. N rows, M kept;
 * R: kept rows, in the last block the top rows. Q = n_heads * head_size, W = Q + 2 *
 * n_kv_heads * head_size. */
struct mal_tape_block {
    float *x1;   /* (M, C) input of the block */
    float *qkv;  /* (N, W) of all rows: keys and values of earlier rows matter; none where
                    they are in a cache */
    float *q;    /* (R, Q) queries */
    float *ao;   /* (R, Q) output of the attention */
    float *norm; /* (R, 2 H) of its softmax, see mal_attn_fwd() */
    float *x2;   /* (R, C) input of the MLP's norm; of the attention's where norms come
                    after; of the MLP where it has none of its own */
    float *ff;   /* (R, F) before the activation */
    float *ff2;  /* (R, F) what the activation is multiplied with */
    float *xo;   /* (R, C) output of the attention, where that is normed */
    float *x3;   /* (R, C) likewise of the MLP; input of its norm that comes after */
    float *xc, *qc, *aoc, *normc; /* (R, C), (R, Q), (R, Q), (R, 2 H): cross-attention */
    float *kvc;                   /* (source rows, 2 KV) */
};

/* Buffers of a lane's forward and backward pass. */
struct mal_pass_buffers {
    float *x, *h; /* (N, C) residual stream, normalised input */
    float *qkv;   /* (N, W) */
    float *q;     /* (R, Q) */
    float *ao;    /* (N, max(C, Q)) */
    float *norm;  /* (N, 2 H) */
    float *ff;    /* (N, F) */
    float *ff2;   /* (N, F) */
    void *inner;  /* (N, F) after the activation, of type step->in if not fp32 */
    float *kvc;   /* (source rows, 2 KV) */
    float *dx;    /* gradient on its way down, (R, C): begins as ao */
    float *dr;    /* (M, C) */
    float *dff;   /* (M, F) */
    float *dff2;  /* (M, F) */
    float *dup;   /* (M, 2 F) of a fused MLP, both side by side */
    float *dh;    /* (M, max(C, Q)) */
    float *dqkv;  /* (M, W) */
    float *dkvc;  /* (source rows, 2 KV) */
};

/* Some of the packed rows: the last ones of each sequence, or its first. */
struct mal_row_set {
    int64_t n, max;                      /* of all sequences, of one */
    const int32_t *rows;                 /* (n) packed rows */
    const int32_t *start;                /* (n_seqs + 1) where a sequence's begin */
    const float *angles[MAL_MOST_ROPES]; /* (n, 2 rope.half) of each kind; NULL: none */
};

struct mal_lane {
    int64_t n_seqs, n_tokens;
    int64_t max_queries, max_keys;  /* of one sequence */
    const int32_t *ids, *pos;       /* (n_tokens) */
    const int32_t *q_start;         /* (n_seqs + 1) */
    const int32_t *k_start, *k_len; /* (n_seqs); rows of the cache when there is one */
    struct mal_row_set kept, top;   /* top is among kept */
    const float *angles[MAL_MOST_ROPES]; /* (n_tokens, 2 rope.half) */
    struct mal_pass_buffers buf;
    float *y, *dy; /* (top, C) final hidden state */
};

struct mal_pass {
    struct mal_backend *be;
    struct mal_arena *arena;

    struct mal_lane main;   /* what the head sits on */
    struct mal_lane source; /* the encoder of an encoder-decoder */
    bool source_ready;      /* what it gives is in the cache */

    int64_t n_head;           /* top rows that go through the head */
    const int32_t *head_rows; /* (n_head) indices among the top rows */
    const int32_t *labels;    /* (n_head), -1: none */
    /* Host, (n_rounds + 1): head rows of which no two are of one top row, where several
     * tokens are predicted at one; NULL: no two of all are. */
    const int64_t *rounds;
    size_t n_rounds;
    float *pooled; /* (top, C) before the pooler's activation */

    struct mal_kv_cache *cache; /* NULL: none */
    const int32_t *cache_rows;  /* (main.n_tokens) where keys and values go */

    /* The blocks [first, end) of the model alone, `first` > 0 of a causal decoder; `end`
     * 0: to the last one, and the final norm. With `first` > 0 what that block reads is
     * in main.buf.x already, and a backward pass ends with the gradient there, in
     * main.buf.dx. */
    int64_t first, end;

    /* What the lowest edited block reads, which no edit changes: a pass leaves it there
     * or, to `resume`, begins with it. NULL: neither. */
    float *lower; /* (N of that block's lane, C) */
    bool resume;
    bool compare; /* a pass on the base weights and one on those in use share `lower` */
    bool against; /* y0 is the caller's to fill in */
    float *y0;    /* (top, C) y of the base weights */

    bool backward;    /* a backward pass follows */
    float *const *u;  /* keys per edit module, memory of the caller; NULL, also of one:
                         not wanted */
    float *const *g;  /* value gradients, likewise */
    float *const *dw; /* of all that is edited, likewise, added to */
    bool dw_as_stored;
    const float *ones; /* (rows) where biases are edited: what their gradients sum with */
    size_t left;       /* edit modules whose gradients are still to come */
};

/* Rows that go out of a block in the forward pass. */
static inline int64_t mal_rows_out(const struct mal_step *step) {
    return step->last ? step->lane->top.n : step->lane->n_tokens;
}

/* Rows of the longer lane. */
static inline int64_t mal_pass_rows(const struct mal_pass *pass) {
    int64_t main = pass->main.n_tokens, source = pass->source.n_tokens;
    return main > source ? main : source;
}

/* What was written beside the residual stream takes its place. */
static inline void mal_swap_x_h(struct mal_lane *lane) {
    float *x = lane->buf.x;
    lane->buf.x = lane->buf.h;
    lane->buf.h = x;
}

/* ---- Layers over a pass ---- */

/* y (n, d_out) = x W + b, rows of stride ld_y, added to y when `add`; x is fp32 or what
 * mal_operand_dtype() says of W. */
void mal_linear_fwd(struct mal_backend *be, const struct mal_linear *lin, int64_t n,
                    const void *x, enum mal_dtype x_dtype, float *y, int64_t ld_y,
                    bool add);
/* y = the outputs of layers that read the same x, side by side. Of an x that is not fp32
 * one product for those whose weights lie behind each other, as they do until one is
 * edited; in fp32 the sums of a layer shall not depend on its neighbours. */
void mal_linears_fwd(struct mal_backend *be, const struct mal_linear *const *layers,
                     size_t n_layers, int64_t n, const void *x, enum mal_dtype x_dtype,
                     float *y, int64_t ld_y);
/* The outputs [from, from + n) of a layer that is stored transposed, as a layer. */
struct mal_linear mal_linear_part(const struct mal_linear *lin, int64_t from, int64_t n);
/* dx (n, d_in) = dy W', rows of dy of stride ld_dy, added to dx when `add`. */
void mal_linear_bwd(struct mal_backend *be, const struct mal_linear *lin, int64_t n,
                    const float *dy, int64_t ld_dy, float *dx, bool add);

/* If `lin` is an edit module being measured: its keys are the top rows of x, which holds
 * all rows of the lane, or only those when `reduced`. */
void mal_capture_keys(struct mal_pass *pass, const struct mal_lane *lane,
                      const struct mal_linear *lin, const float *x, bool reduced);
/* Likewise its value gradients: dy (n, d_out) of stride ld_dy, the top rows or all rows
 * of the lane. False: that was the last module, stop here. */
bool mal_capture_grads(struct mal_pass *pass, const struct mal_lane *lane,
                       const struct mal_linear *lin, int64_t n, const float *dy,
                       int64_t ld_dy);
/* Whether the gradient of this layer's weight is wanted: then its input is needed again.
 */
bool mal_learns(const struct mal_pass *pass, const struct mal_linear *lin);
/* If so, adds it, from the input x (n, d_in) and dy (n, d_out) of stride ld_dy, before
 * mal_capture_grads(). */
void mal_add_weight_grad(struct mal_pass *pass, const struct mal_linear *lin, int64_t n,
                         const float *x, const float *dy, int64_t ld_dy);

/* y (M, c) = the kept rows of x (N rows of stride ldx). When `reduced`, x holds the top
 * rows only, and so does y. */
void mal_keep_rows(struct mal_pass *pass, const struct mal_lane *lane, int64_t c,
                   const float *x, int64_t ldx, bool reduced, float *y);
/* y (top, c) = the top rows of x (N rows of stride ldx). */
void mal_top_rows(struct mal_pass *pass, const struct mal_lane *lane, int64_t c,
                  const float *x, int64_t ldx, float *y);

#endif
