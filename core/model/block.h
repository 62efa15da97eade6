/* block.h - what every model here is made of: stacks of transformer blocks over shared
 * layers. An architecture fills these in; block_fwd.c and block_bwd.c run them. */
#ifndef MAL_BLOCK_H
#define MAL_BLOCK_H

#include "core/model/model.h"

struct mal_norm_weights {
    const float *gain, *bias; /* (C); gain NULL: no such norm, bias NULL: none */
};

/* Where a block's norms stand, f and g being attention and MLP. */
enum mal_norm_place {
    MAL_NORM_BEFORE, /* x + f(norm(x)), then x + g(norm(x)): GPT-2, Llama, T5 */
    MAL_NORM_AFTER,  /* norm(x + f(x)), then norm(x + g(x)): BERT */
    MAL_NORM_SHARED, /* x + f(h) + g(h) with h = norm(x): GPT-J */
    MAL_NORM_BOTH,   /* x + norm'(f(norm(x))), then x + norm'(g(norm(x))): Gemma 2, 3 */
    MAL_NORM_OUTPUT  /* x + norm'(f(x)), then x + norm'(g(x)): OLMo 2, 3 */
};

enum { MAL_MOST_ROPES = 2 }; /* ways in which the blocks of a model rotate */

/* A layer that is not there has no name. Query head h uses key head h / (n_heads /
 * n_kv_heads). `fused`: q gives queries, keys and values in one, k and v are not there.
 */
struct mal_attention {
    struct mal_norm_weights norm,
        out_norm; /* see mal_norms_input(), mal_norms_output() */
    struct mal_linear q, k, v, o;
    bool fused;
    /* (head_size) of the RMS norms of each head of queries and of keys, which come before
     * their rotation; with `heads_at_once` (heads, head_size) of one norm over all heads
     * of a row. NULL: none */
    const float *q_gain, *k_gain;
    bool heads_at_once;
    float scale;
    int64_t window; /* 0: none; positions seen, one's own included */
    int rope;       /* which of the model's rotations; -1: none */
};

/* down(act(up(x))), or with a gate down(act(gate(x)) * up(x)). `fused`: up gives the
 * gate's outputs and then its own, gate is not there. */
struct mal_mlp {
    struct mal_norm_weights norm, out_norm; /* no norm with MAL_NORM_SHARED */
    struct mal_linear up, gate, down;
    bool fused;
};

struct mal_transformer_block {
    struct mal_attention self, cross; /* cross: to the encoder's output */
    struct mal_mlp mlp;
};

struct mal_stack {
    struct mal_transformer_block *blocks; /* (n), owned */
    int64_t n;
    int64_t first; /* index among all blocks of the model of the first one here */
    enum mal_norm_place norms;
    bool causal;
    struct mal_norm_weights final_norm;
    const float *rel_bias; /* (n_heads, 2 rel_span + 1); NULL: none */
    int64_t rel_span;
};

static inline bool mal_linear_there(const struct mal_linear *lin) {
    return lin->name != NULL;
}

/* Whether norms stand before attention and MLP, which read the residual stream otherwise.
 */
static inline bool mal_norms_input(const struct mal_stack *stack) {
    return stack->norms != MAL_NORM_AFTER && stack->norms != MAL_NORM_OUTPUT;
}

/* Whether what they give is normed before it is added to the stream. */
static inline bool mal_norms_output(const struct mal_stack *stack) {
    return stack->norms == MAL_NORM_BOTH || stack->norms == MAL_NORM_OUTPUT;
}

static inline bool mal_mlp_gated(const struct mal_mlp *mlp) {
    return mlp->fused || mal_linear_there(&mlp->gate);
}

/* ---- Running one ---- */

struct mal_pass;
struct mal_lane;
struct mal_tape_block;

/* A block in a pass. The rows that come in are the lane's; those that go out are its top
 * rows in the last block, else the same. */
struct mal_step {
    struct mal_model *model;
    struct mal_pass *pass;
    struct mal_lane *lane;
    const struct mal_stack *stack;
    const struct mal_transformer_block *block;
    int64_t index;               /* in the stack */
    struct mal_tape_block *tape; /* NULL: no backward pass goes through */
    bool last;
    /* Forward: the type of what norms, attention and activation write, which is the one
     * that products read where nothing else reads it. */
    enum mal_dtype in;
};

/* MAL_F32, or what all products of the block read instead: mal_operand_dtype(). */
enum mal_dtype mal_block_operand(const struct mal_backend *be,
                                 const struct mal_transformer_block *block);

/* The residual stream lane->buf.x, from the block's input to its output. */
void mal_step_forward(const struct mal_step *step);
/* lane->buf.dx, from the gradient at the block's output to that at its input. False: the
 * last edit module's gradients are there, nothing more is wanted. */
bool mal_step_backward(const struct mal_step *step);

/* Buffers of a pass from its arena, which may only be counting; sizes of lanes are set.
 */
void mal_stacks_layout(const struct mal_model *model, struct mal_pass *pass);
/* The whole of a model: the final hidden state of the top rows into pass->main.y, and
 * back from pass->main.dy. */
void mal_model_forward(struct mal_model *model, struct mal_pass *pass);
void mal_model_backward(struct mal_model *model, struct mal_pass *pass);

#endif
