/* block_fwd.c - one transformer block forward: attention, attention to an encoder's
 * output, MLP, with the norms where the stack has them. In the last block only the top
 * rows go on from the attention. */
#include "core/model/model_impl.h"

enum mal_dtype mal_block_operand(const struct mal_backend *be,
                                 const struct mal_transformer_block *block) {
    const struct mal_linear *all[] = {&block->self.q,   &block->self.k,  &block->self.v,
                                      &block->self.o,   &block->cross.q, &block->cross.k,
                                      &block->cross.v,  &block->cross.o, &block->mlp.up,
                                      &block->mlp.gate, &block->mlp.down};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (mal_linear_there(all[i]) && mal_operand_dtype(be, all[i]->w_dtype) == MAL_F32)
            return MAL_F32;
    }
    return MAL_BF16;
}

static void norm_rows(const struct mal_step *s, const struct mal_norm_weights *w,
                      int64_t n, const float *x, void *y, enum mal_dtype y_dtype) {
    struct mal_norm norm = mal_norm_of(s->model, w, n);
    mal_norm_fwd(s->pass->be, &norm, x, y, y_dtype);
}

/* Of what attention and MLP read, which is the residual stream where no norm does. */
static enum mal_dtype input_dtype(const struct mal_step *s) {
    return mal_norms_input(s->stack) ? s->in : MAL_F32;
}

/* The rows of a tape that has a row for each one that goes out. */
static void keep(const struct mal_step *s, int64_t c, const float *x, float *y) {
    if (s->tape) mal_keep_rows(s->pass, s->lane, c, x, c, s->last, y);
}

/* x += what the layer makes of `in`; through a norm where outputs are normed, `kept`
 * being what that reads. `in` may be ao, of which nothing is left then. */
static void add_output(const struct mal_step *s, const struct mal_linear *lin,
                       const struct mal_norm_weights *norm, int64_t n, const void *in,
                       float *kept) {
    struct mal_backend *be = s->pass->be;
    struct mal_pass_buffers *buf = &s->lane->buf;
    int64_t c = s->model->info.n_channels;
    if (!mal_norms_output(s->stack)) {
        mal_linear_fwd(be, lin, n, in, s->in, buf->x, c, true);
        return;
    }
    mal_linear_fwd(be, lin, n, in, s->in, buf->h, c, false);
    keep(s, c, buf->h, kept);
    norm_rows(s, norm, n, buf->h, buf->ao, MAL_F32);
    mal_add(be, n * c, buf->ao, buf->x);
}

static void rotate(const struct mal_step *s, int64_t n, int64_t n_heads,
                   const float *const *angles, float *x, int64_t ldx) {
    const struct mal_rotary *rotary = &s->model->rotary;
    if (rotary->half == 0 || s->block->self.rope < 0) return;
    struct mal_rope rope = {.n = n,
                            .n_heads = n_heads,
                            .head_size = s->model->head_size,
                            .half = rotary->half,
                            .interleaved = rotary->interleaved,
                            .cs = angles[s->block->self.rope]};
    mal_rope(s->pass->be, &rope, x, ldx);
}

static void norm_heads(const struct mal_step *s, int64_t n, int64_t n_heads,
                       const float *gain, float *x, int64_t ldx) {
    struct mal_head_norm norm =
        mal_head_norm_of(s->model, &s->block->self, n, n_heads, gain);
    if (gain) mal_head_norm_fwd(s->pass->be, &norm, x, ldx);
}

/* ---- Attention ---- */

/* Queries, keys and values of all rows into qkv, from `in` (N, C); in the last block the
 * top rows' queries into q (top, Q), otherwise only a copy of the kept ones for the tape.
 */
static void project(const struct mal_step *s, const void *in, float *qkv, float *q) {
    struct mal_model *model = s->model;
    struct mal_pass *pass = s->pass;
    struct mal_lane *lane = s->lane;
    const struct mal_attention *attention = &s->block->self;
    int64_t n = lane->n_tokens, wq = mal_q_width(model), ld = mal_qkv_width(model);
    enum mal_dtype dtype = input_dtype(s);
    bool alone = s->last && !attention->fused; /* queries of the top rows only */

    const struct mal_linear *all[] = {&attention->q, &attention->k, &attention->v};

    if (!attention->fused) {
        mal_capture_keys(pass, lane, &attention->k, in, false);
        mal_capture_keys(pass, lane, &attention->v, in, false);
    }
    if (alone) {
        mal_linears_fwd(pass->be, all + 1, 2, n, in, dtype, qkv + wq, ld);
        mal_top_rows(pass, lane, model->info.n_channels, in, model->info.n_channels,
                     lane->y);
        mal_capture_keys(pass, lane, &attention->q, lane->y, true);
        mal_linear_fwd(pass->be, &attention->q, lane->top.n, lane->y, MAL_F32, q, wq,
                       false);
        norm_heads(s, lane->top.n, model->n_heads, attention->q_gain, q, wq);
        norm_heads(s, n, model->n_kv_heads, attention->k_gain, qkv + wq, ld);
        rotate(s, lane->top.n, model->n_heads, lane->top.angles, q, wq);
        rotate(s, n, model->n_kv_heads, lane->angles, qkv + wq, ld);
    } else { /* keys follow the queries */
        mal_capture_keys(pass, lane, &attention->q, in, false);
        mal_linears_fwd(pass->be, all, attention->fused ? 1 : 3, n, in, dtype, qkv, ld);
        norm_heads(s, n, model->n_heads, attention->q_gain, qkv, ld);
        norm_heads(s, n, model->n_kv_heads, attention->k_gain, qkv + wq, ld);
        rotate(s, n, model->n_heads + model->n_kv_heads, lane->angles, qkv, ld);
    }

    if (s->last && !alone) mal_top_rows(pass, lane, wq, qkv, ld, q);
    if (!s->last && s->tape) mal_keep_rows(pass, lane, wq, qkv, ld, false, q);
}

static struct mal_attn attn_of(const struct mal_step *s,
                               const struct mal_attention *attention) {
    const struct mal_lane *lane = s->lane;
    const struct mal_model *model = s->model;
    return (struct mal_attn){.n_seqs = lane->n_seqs,
                             .n_queries = lane->n_tokens,
                             .max_queries = lane->max_queries,
                             .max_keys = lane->max_keys,
                             .n_heads = model->n_heads,
                             .n_kv_heads = model->n_kv_heads,
                             .head_size = model->head_size,
                             .q_start = lane->q_start,
                             .k_start = lane->k_start,
                             .k_len = lane->k_len,
                             .scale = attention->scale,
                             .window = attention->window,
                             .cap = model->score_cap};
}

/* An encoder reads its text at once, and has none. */
static const struct mal_kv_cache *cache_of(const struct mal_step *s) {
    const struct mal_kv_cache *cache = s->lane == &s->pass->main ? s->pass->cache : NULL;
    return cache && cache->kv[s->index] ? cache : NULL;
}

struct mal_attn mal_self_attn(const struct mal_step *s, const float *qkv) {
    const struct mal_kv_cache *cache = cache_of(s);
    int64_t wq = mal_q_width(s->model), wkv = mal_kv_width(s->model);
    struct mal_attn attn = attn_of(s, &s->block->self);
    attn.q = qkv;
    attn.ld_q = mal_qkv_width(s->model);
    attn.k = cache ? cache->kv[s->index] : qkv + wq;
    attn.v = attn.k + wkv;
    attn.ld_k = attn.ld_v = cache ? 2 * wkv : attn.ld_q;
    attn.causal = s->stack->causal;
    attn.rel_bias = s->stack->rel_bias;
    attn.rel_span = s->stack->rel_span;
    return attn;
}

struct mal_attn mal_cross_attn(const struct mal_step *s, const float *q,
                               const float *kv) {
    const struct mal_lane *source = &s->pass->source;
    int64_t wkv = mal_kv_width(s->model);
    struct mal_attn attn = attn_of(s, &s->block->cross);
    attn.max_keys = source->max_keys;
    attn.k_start = source->k_start;
    attn.k_len = source->k_len;
    attn.q = q;
    attn.ld_q = mal_q_width(s->model);
    attn.k = kv;
    attn.v = kv + wkv;
    attn.ld_k = attn.ld_v = 2 * wkv;
    return attn;
}

void mal_only_queries_of(struct mal_attn *attn, const struct mal_row_set *set,
                         const float *q, int64_t ld_q) {
    attn->n_queries = set->n;
    attn->max_queries = set->max;
    attn->q_start = set->start;
    attn->q = q;
    attn->ld_q = ld_q;
}

/* What the attention reads, (N, C). */
static const void *attention_input(const struct mal_step *s) {
    struct mal_pass_buffers *buf = &s->lane->buf;
    if (!mal_norms_input(s->stack)) return buf->x;
    norm_rows(s, &s->block->self.norm, s->lane->n_tokens, buf->x, buf->h, s->in);
    return buf->h;
}

static void self_fwd(const struct mal_step *s) {
    struct mal_model *model = s->model;
    struct mal_pass *pass = s->pass;
    struct mal_lane *lane = s->lane;
    struct mal_pass_buffers *buf = &lane->buf;
    const struct mal_tape_block *tape = s->tape;
    int64_t c = model->info.n_channels, wq = mal_q_width(model);
    float *qkv = tape && !pass->cache ? tape->qkv : buf->qkv;
    float *q = tape ? tape->q : buf->q;
    float *softmax = tape ? buf->norm : NULL;

    if (tape) mal_keep_rows(pass, lane, c, buf->x, c, false, tape->x1);
    project(s, attention_input(s), qkv, q);
    if (cache_of(s)) {
        int64_t kv = 2 * mal_kv_width(model);
        mal_scatter_rows(pass->be, lane->n_tokens, kv, pass->cache_rows, qkv + wq,
                         mal_qkv_width(model), cache_of(s)->kv[s->index], kv);
    }
    struct mal_attn attn = mal_self_attn(s, qkv);
    if (s->last) mal_only_queries_of(&attn, &lane->top, q, wq);
    mal_attn_fwd(pass->be, &attn, buf->ao, s->in, wq, softmax);
    if (tape) {
        keep(s, wq, buf->ao, tape->ao);
        keep(s, 2 * model->n_heads, softmax, tape->norm);
    }

    if (s->last) { /* h is free then: it holds the top rows of x from here on */
        if (s->stack->norms == MAL_NORM_SHARED)
            mal_top_rows(pass, lane, c, buf->h, c, lane->y);
        mal_top_rows(pass, lane, c, buf->x, c, buf->h);
        mal_swap_x_h(lane);
    }
    int64_t n = mal_rows_out(s);
    mal_capture_keys(pass, lane, &s->block->self.o, buf->ao, s->last);
    add_output(s, &s->block->self.o, &s->block->self.out_norm, n, buf->ao,
               tape ? tape->xo : NULL);
    if (s->stack->norms == MAL_NORM_AFTER) {
        if (tape) keep(s, c, buf->x, tape->x2);
        norm_rows(s, &s->block->self.norm, n, buf->x, buf->h, MAL_F32);
        mal_swap_x_h(lane);
    }
}

/* Keys and values of the encoder's output, (source rows, 2 KV). */
static const float *source_kv(const struct mal_step *s) {
    struct mal_pass *pass = s->pass;
    const struct mal_lane *source = &pass->source;
    const struct mal_attention *attention = &s->block->cross;
    int64_t n = source->n_tokens, wkv = mal_kv_width(s->model);
    float *kv = pass->cache ? pass->cache->cross[s->index]
                            : (s->tape ? s->tape->kvc : s->lane->buf.kvc);
    if (pass->source_ready) return kv;
    mal_capture_keys(pass, source, &attention->k, source->y, true);
    mal_capture_keys(pass, source, &attention->v, source->y, true);
    const struct mal_linear *both[] = {&attention->k, &attention->v};
    mal_linears_fwd(pass->be, both, 2, n, source->y, MAL_F32, kv, 2 * wkv);
    return kv;
}

static void cross_fwd(const struct mal_step *s) {
    struct mal_model *model = s->model;
    struct mal_pass *pass = s->pass;
    struct mal_lane *lane = s->lane;
    struct mal_pass_buffers *buf = &lane->buf;
    const struct mal_tape_block *tape = s->tape;
    const struct mal_attention *attention = &s->block->cross;
    int64_t c = model->info.n_channels, wq = mal_q_width(model), n = mal_rows_out(s);
    float *softmax = tape ? buf->norm : NULL;

    norm_rows(s, &attention->norm, n, buf->x, buf->h, s->in);
    if (tape) keep(s, c, buf->x, tape->xc);
    mal_capture_keys(pass, lane, &attention->q, buf->h, s->last);
    mal_linear_fwd(pass->be, &attention->q, n, buf->h, s->in, buf->qkv, wq, false);
    if (tape) keep(s, wq, buf->qkv, tape->qc);

    struct mal_attn attn = mal_cross_attn(s, buf->qkv, source_kv(s));
    if (s->last) mal_only_queries_of(&attn, &lane->top, buf->qkv, wq);
    mal_attn_fwd(pass->be, &attn, buf->ao, s->in, wq, softmax);
    if (tape) {
        keep(s, wq, buf->ao, tape->aoc);
        keep(s, 2 * model->n_heads, softmax, tape->normc);
    }
    mal_capture_keys(pass, lane, &attention->o, buf->ao, s->last);
    mal_linear_fwd(pass->be, &attention->o, n, buf->ao, s->in, buf->x, c, true);
}

/* ---- MLP ---- */

/* What it reads, (rows out, C). */
static const void *mlp_input(const struct mal_step *s, int64_t n) {
    struct mal_pass_buffers *buf = &s->lane->buf;
    switch (s->stack->norms) {
    case MAL_NORM_BEFORE:
    case MAL_NORM_BOTH:
        norm_rows(s, &s->block->mlp.norm, n, buf->x, buf->h, s->in);
        return buf->h;
    case MAL_NORM_AFTER:
    case MAL_NORM_OUTPUT: return buf->x;
    case MAL_NORM_SHARED: break;
    }
    return s->last ? s->lane->y : buf->h;
}

static void mlp_fwd(const struct mal_step *s) {
    struct mal_model *model = s->model;
    struct mal_pass *pass = s->pass;
    struct mal_lane *lane = s->lane;
    struct mal_pass_buffers *buf = &lane->buf;
    const struct mal_tape_block *tape = s->tape;
    const struct mal_mlp *mlp = &s->block->mlp;
    int64_t c = model->info.n_channels, f = model->n_inner, n = mal_rows_out(s);
    bool gated = mal_mlp_gated(mlp);
    const void *in = mlp_input(s, n);
    enum mal_dtype dtype = input_dtype(s);
    void *inner = s->in == MAL_F32 ? buf->ff : buf->inner;
    struct mal_linear gate = mlp->gate;
    struct mal_linear up = mlp->up; /* its bias is the activation's, where that is free */
    const float *bias = NULL;
    if (mlp->fused) {
        gate = mal_linear_part(&mlp->up, 0, f);
        up = mal_linear_part(&mlp->up, f, f);
    }
    if (s->in != MAL_F32 && !gated) {
        bias = up.bias;
        up.bias = NULL;
    }

    bool shared = s->stack->norms == MAL_NORM_SHARED;
    if (tape && s->stack->norms != MAL_NORM_AFTER)
        keep(s, c, shared ? in : buf->x, tape->x2);
    mal_capture_keys(pass, lane, &mlp->up, in, s->last);
    if (gated) {
        if (!mlp->fused) mal_capture_keys(pass, lane, &mlp->gate, in, s->last);
        mal_linear_fwd(pass->be, &gate, n, in, dtype, buf->ff, f, false);
        mal_linear_fwd(pass->be, &up, n, in, dtype, buf->ff2, f, false);
        if (tape) keep(s, f, buf->ff2, tape->ff2);
    } else {
        mal_linear_fwd(pass->be, &up, n, in, dtype, buf->ff, f, false);
    }
    if (tape) keep(s, f, buf->ff, tape->ff);
    if (gated)
        mal_glu_fwd(pass->be, model->act, n * f, buf->ff, buf->ff2, inner, s->in);
    else
        mal_act_fwd(pass->be, model->act, n, f, buf->ff, bias, inner, s->in);
    mal_capture_keys(pass, lane, &mlp->down, inner, s->last);
    add_output(s, &mlp->down, &mlp->out_norm, n, inner, tape ? tape->x3 : NULL);
    if (s->stack->norms == MAL_NORM_AFTER) {
        if (tape) keep(s, c, buf->x, tape->x3);
        norm_rows(s, &mlp->norm, n, buf->x, buf->h, MAL_F32);
        mal_swap_x_h(lane);
    }
}

void mal_step_forward(const struct mal_step *step) {
    self_fwd(step);
    if (mal_linear_there(&step->block->cross.q)) cross_fwd(step);
    mlp_fwd(step);
}
