/* block_bwd.c - the way back through one transformer block, as far as value gradients and
 * weight gradients of edit modules need it. */
#include "core/model/model_impl.h"

/* Rows whose gradient comes in: the top rows in the last block, else the kept rows. */
static int64_t rows_in(const struct mal_step *s) {
    return s->last ? s->lane->top.n : s->lane->kept.n;
}

/* dr (n, C) := the gradient before a norm of dx, x being what it read. */
static void norm_bwd(const struct mal_step *s, const struct mal_norm_weights *w,
                     int64_t n, const float *x) {
    struct mal_pass_buffers *buf = &s->lane->buf;
    struct mal_norm norm = mal_norm_of(s->model, w, n);
    mal_backend_zero(s->pass->be, buf->dr, (size_t)(n * norm.c) * sizeof *buf->dr);
    mal_norm_bwd(s->pass->be, &norm, x, buf->dx, buf->dr);
}

/* dx (n, C) := the gradient before a norm that comes after, x being what it read. */
static void norm_after_bwd(const struct mal_step *s, const struct mal_norm_weights *w,
                           int64_t n, const float *x) {
    struct mal_pass_buffers *buf = &s->lane->buf;
    float *dy = buf->dx;
    norm_bwd(s, w, n, x);
    buf->dx = buf->dr;
    buf->dr = dy;
}

/* The gradient (n, C) at what attention or MLP has given, x, which a norm may have read.
 */
static const float *output_grad(const struct mal_step *s,
                                const struct mal_norm_weights *w, int64_t n,
                                const float *x) {
    if (!mal_norms_output(s->stack)) return s->lane->buf.dx;
    norm_bwd(s, w, n, x);
    return s->lane->buf.dr;
}

/* dx (n, C) += the gradient dh at the output of a norm before, or through none. */
static void norm_before_bwd(const struct mal_step *s, const struct mal_norm_weights *w,
                            int64_t n, const float *x) {
    struct mal_pass_buffers *buf = &s->lane->buf;
    struct mal_norm norm = mal_norm_of(s->model, w, n);
    if (mal_norms_input(s->stack))
        mal_norm_bwd(s->pass->be, &norm, x, buf->dh, buf->dx);
    else
        mal_add(s->pass->be, n * norm.c, buf->dh, buf->dx);
}

/* ---- MLP ---- */

static void recompute_inner(const struct mal_step *s, int64_t n, float *out) {
    int64_t size = n * s->model->n_inner;
    if (mal_mlp_gated(&s->block->mlp))
        mal_glu_fwd(s->pass->be, s->model->act, size, s->tape->ff, s->tape->ff2, out,
                    MAL_F32);
    else
        mal_act_fwd(s->pass->be, s->model->act, n, s->model->n_inner, s->tape->ff, NULL,
                    out, MAL_F32);
}

/* What the MLP read: x2, or that through a norm, into dh. */
static const float *mlp_input(const struct mal_step *s, int64_t n) {
    enum mal_norm_place norms = s->stack->norms;
    if (norms == MAL_NORM_SHARED || norms == MAL_NORM_OUTPUT) return s->tape->x2;
    bool after = norms == MAL_NORM_AFTER;
    struct mal_norm norm =
        mal_norm_of(s->model, after ? &s->block->self.norm : &s->block->mlp.norm, n);
    mal_norm_fwd(s->pass->be, &norm, s->tape->x2, s->lane->buf.dh, MAL_F32);
    return s->lane->buf.dh;
}

/* dff (n, F), the gradient at the activation, becomes that at `up`; dff2 that at the
 * gate; dup (n, 2 F) that at both where they are one. */
static void act_bwd(const struct mal_step *s, int64_t n) {
    const struct mal_tape_block *tape = s->tape;
    struct mal_pass_buffers *buf = &s->lane->buf;
    int64_t f = s->model->n_inner, size = n * f;
    if (mal_mlp_gated(&s->block->mlp)) {
        mal_glu_bwd(s->pass->be, s->model->act, size, tape->ff, tape->ff2, buf->dff,
                    buf->dff2, buf->dff);
    } else {
        mal_act_bwd(s->pass->be, s->model->act, size, tape->ff, buf->dff, buf->dff);
    }
    if (s->block->mlp.fused) {
        mal_gather_rows(s->pass->be, n, f, NULL, buf->dff2, f, buf->dup, 2 * f);
        mal_gather_rows(s->pass->be, n, f, NULL, buf->dff, f, buf->dup + f, 2 * f);
    }
}

/* From dy (n, C); leaves the gradient at its input in dh, with a shared norm in dr.
 * False: done. */
static bool mlp_layers_bwd(const struct mal_step *s, int64_t n, const float *dy) {
    struct mal_pass *pass = s->pass;
    struct mal_pass_buffers *buf = &s->lane->buf;
    const struct mal_mlp *mlp = &s->block->mlp;
    int64_t c = s->model->info.n_channels, f = s->model->n_inner;
    bool gate = mal_linear_there(&mlp->gate);
    const float *dup = mlp->fused ? buf->dup : buf->dff;

    if (mal_learns(pass, &mlp->down)) {
        recompute_inner(s, n, buf->dff);
        mal_add_weight_grad(pass, &mlp->down, n, buf->dff, dy, c);
    }
    if (!mal_capture_grads(pass, s->lane, &mlp->down, n, dy, c)) return false;
    mal_linear_bwd(pass->be, &mlp->down, n, dy, c, buf->dff, false);
    act_bwd(s, n);
    if (mal_learns(pass, &mlp->up) || mal_learns(pass, &mlp->gate)) {
        const float *in = mlp_input(s, n);
        mal_add_weight_grad(pass, &mlp->up, n, in, dup, mlp->up.d_out);
        mal_add_weight_grad(pass, &mlp->gate, n, in, buf->dff2, f);
    }
    if (!mal_capture_grads(pass, s->lane, &mlp->up, n, dup, mlp->up.d_out)) return false;
    if (gate && !mal_capture_grads(pass, s->lane, &mlp->gate, n, buf->dff2, f))
        return false;
    float *dh = s->stack->norms == MAL_NORM_SHARED ? buf->dr : buf->dh;
    mal_linear_bwd(pass->be, &mlp->up, n, dup, mlp->up.d_out, dh, false);
    if (gate) mal_linear_bwd(pass->be, &mlp->gate, n, buf->dff2, f, dh, true);
    return true;
}

static bool mlp_bwd(const struct mal_step *s) {
    int64_t n = rows_in(s);
    if (s->stack->norms == MAL_NORM_AFTER)
        norm_after_bwd(s, &s->block->mlp.norm, n, s->tape->x3);
    const float *dy = output_grad(s, &s->block->mlp.out_norm, n, s->tape->x3);
    if (!mlp_layers_bwd(s, n, dy)) return false;
    if (s->stack->norms != MAL_NORM_SHARED)
        norm_before_bwd(s, &s->block->mlp.norm, n, s->tape->x2);
    return true;
}

/* ---- Attention to the encoder's output ---- */

/* The gradient dkvc at its keys and values, to the layers that made them and on to the
 * encoder's output. False: done. */
static bool source_kv_bwd(const struct mal_step *s) {
    struct mal_pass *pass = s->pass;
    struct mal_lane *source = &pass->source;
    const struct mal_attention *attention = &s->block->cross;
    int64_t n = source->n_tokens, wkv = mal_kv_width(s->model), ld = 2 * wkv;
    const float *dk = s->lane->buf.dkvc, *dv = dk + wkv;

    mal_add_weight_grad(pass, &attention->k, n, source->y, dk, ld);
    mal_add_weight_grad(pass, &attention->v, n, source->y, dv, ld);
    if (!mal_capture_grads(pass, source, &attention->k, n, dk, ld)) return false;
    if (!mal_capture_grads(pass, source, &attention->v, n, dv, ld)) return false;
    if (s->model->lowest_edit_block >= s->model->decoder.first) return true;
    mal_linear_bwd(pass->be, &attention->k, n, dk, ld, source->dy, true);
    mal_linear_bwd(pass->be, &attention->v, n, dv, ld, source->dy, true);
    return true;
}

static bool cross_bwd(const struct mal_step *s) {
    struct mal_pass *pass = s->pass;
    struct mal_lane *lane = s->lane;
    struct mal_pass_buffers *buf = &lane->buf;
    const struct mal_tape_block *tape = s->tape;
    const struct mal_attention *attention = &s->block->cross;
    int64_t c = s->model->info.n_channels, wq = mal_q_width(s->model);
    int64_t wkv = mal_kv_width(s->model), n = rows_in(s);
    struct mal_norm norm = mal_norm_of(s->model, &attention->norm, n);

    mal_add_weight_grad(pass, &attention->o, n, tape->aoc, buf->dx, c);
    if (!mal_capture_grads(pass, lane, &attention->o, n, buf->dx, c)) return false;
    mal_linear_bwd(pass->be, &attention->o, n, buf->dx, c, buf->dh, false);

    struct mal_attn attn = mal_cross_attn(s, tape->qc, tape->kvc);
    mal_only_queries_of(&attn, s->last ? &lane->top : &lane->kept, tape->qc, wq);
    struct mal_attn_grads grads = {.dq = buf->q,
                                   .dk = buf->dkvc,
                                   .dv = buf->dkvc + wkv,
                                   .ld_q = wq,
                                   .ld_kv = 2 * wkv,
                                   .all_keys = true};
    mal_attn_bwd(pass->be, &attn, tape->aoc, wq, tape->normc, buf->dh, wq, &grads);

    if (mal_learns(pass, &attention->q)) {
        mal_norm_fwd(pass->be, &norm, tape->xc, buf->dh, MAL_F32);
        mal_add_weight_grad(pass, &attention->q, n, buf->dh, buf->q, wq);
    }
    if (!mal_capture_grads(pass, lane, &attention->q, n, buf->q, wq)) return false;
    if (!source_kv_bwd(s)) return false;
    mal_linear_bwd(pass->be, &attention->q, n, buf->q, wq, buf->dh, false);
    mal_norm_bwd(pass->be, &norm, tape->xc, buf->dh, buf->dx);
    return true;
}

/* ---- Attention ---- */

static void rotate_back(const struct mal_step *s, const struct mal_row_set *rows,
                        int64_t n_heads, float *x, int64_t ldx) {
    const struct mal_rotary *rotary = &s->model->rotary;
    if (rotary->half == 0 || s->block->self.rope < 0) return;
    struct mal_rope rope = {.n = rows->n,
                            .n_heads = n_heads,
                            .head_size = s->model->head_size,
                            .half = rotary->half,
                            .interleaved = rotary->interleaved,
                            .inverse = true,
                            .cs = rows->angles[s->block->self.rope]};
    mal_rope(s->pass->be, &rope, x, ldx);
}

/* dqkv := the gradient at the queries, keys and values of the kept rows, for dh (n, Q) at
 * the attention's output. */
static void attn_op_bwd(const struct mal_step *s) {
    struct mal_backend *be = s->pass->be;
    struct mal_lane *lane = s->lane;
    struct mal_pass_buffers *buf = &lane->buf;
    const struct mal_tape_block *tape = s->tape;
    const struct mal_row_set *queries = s->last ? &lane->top : &lane->kept;
    int64_t wq = mal_q_width(s->model), wkv = mal_kv_width(s->model);
    int64_t ld = mal_qkv_width(s->model), m = lane->kept.n;
    bool widen = queries->n < m; /* queries of some rows, all keys */
    struct mal_attn_grads grads = {.dq = buf->dqkv,
                                   .dk = buf->dqkv + wq,
                                   .dv = buf->dqkv + wq + wkv,
                                   .ld_q = ld,
                                   .ld_kv = ld,
                                   .all_keys = m == lane->n_tokens && !s->pass->cache};
    if (widen) {
        mal_backend_zero(be, buf->dqkv, (size_t)(m * ld) * sizeof *buf->dqkv);
        grads.dq = buf->q;
        grads.ld_q = wq;
    }
    struct mal_attn attn = mal_self_attn(s, tape->qkv);
    mal_only_queries_of(&attn, queries, tape->q, wq);
    mal_attn_bwd(be, &attn, tape->ao, wq, tape->norm, buf->dh, wq, &grads);
    rotate_back(s, queries, s->model->n_heads, grads.dq, grads.ld_q);
    rotate_back(s, &lane->kept, s->model->n_kv_heads, grads.dk, ld);
    if (widen)
        mal_scatter_rows(be, queries->n, wq, queries->rows, buf->q, wq, buf->dqkv, ld);
}

/* Back through the norms of heads: what they read is computed again from the input of the
 * projections (M, C), where queries, keys and values are not wanted any more. */
static void head_norms_bwd(const struct mal_step *s, const float *in) {
    struct mal_model *model = s->model;
    struct mal_backend *be = s->pass->be;
    const struct mal_attention *attention = &s->block->self;
    int64_t m = s->lane->kept.n, wq = mal_q_width(model), ld = mal_qkv_width(model);
    float *qk = s->pass->cache ? s->lane->buf.qkv : s->tape->qkv;
    float *dqk = s->lane->buf.dqkv;

    struct mal_head_norm q =
        mal_head_norm_of(model, attention, m, model->n_heads, attention->q_gain);
    struct mal_head_norm k =
        mal_head_norm_of(model, attention, m, model->n_kv_heads, attention->k_gain);
    mal_linear_fwd(be, &attention->q, m, in, MAL_F32, qk, ld, false);
    mal_linear_fwd(be, &attention->k, m, in, MAL_F32, qk + wq, ld, false);
    mal_head_norm_bwd(be, &q, qk, ld, dqk, ld);
    mal_head_norm_bwd(be, &k, qk + wq, ld, dqk + wq, ld);
}

/* y (M, C) := x (top, C) in the rows of those, zero elsewhere. */
static void widen_rows(const struct mal_step *s, const float *x, float *y) {
    const struct mal_lane *lane = s->lane;
    int64_t c = s->model->info.n_channels;
    mal_backend_zero(s->pass->be, y, (size_t)(lane->kept.n * c) * sizeof *y);
    mal_scatter_rows(s->pass->be, lane->top.n, c, lane->top.rows, x, c, y, c);
}

/* The layers whose outputs are dqkv; leaves the gradient at their input in dh (M, C).
 * False: done. */
static bool projections_bwd(const struct mal_step *s) {
    struct mal_pass *pass = s->pass;
    struct mal_lane *lane = s->lane;
    struct mal_pass_buffers *buf = &lane->buf;
    const struct mal_attention *attention = &s->block->self;
    int64_t m = lane->kept.n, wq = mal_q_width(s->model), ld = mal_qkv_width(s->model);

    const struct {
        const struct mal_linear *lin;
        const float *dy;
    } parts[] = {{&attention->q, buf->dqkv},
                 {&attention->k, buf->dqkv + wq},
                 {&attention->v, buf->dqkv + wq + mal_kv_width(s->model)}};

    size_t n = attention->fused ? 1 : 3;

    const float *in = s->tape->x1;
    bool again = attention->q_gain; /* the input is wanted */
    for (size_t i = 0; i < n; i++)
        again = again || mal_learns(pass, parts[i].lin);
    if (again && mal_norms_input(s->stack)) {
        struct mal_norm norm = mal_norm_of(s->model, &attention->norm, m);
        mal_norm_fwd(pass->be, &norm, s->tape->x1, buf->dh, MAL_F32);
        in = buf->dh;
    }
    if (attention->q_gain) head_norms_bwd(s, in);
    for (size_t i = 0; i < n; i++) {
        mal_add_weight_grad(pass, parts[i].lin, m, in, parts[i].dy, ld);
        if (!mal_capture_grads(pass, lane, parts[i].lin, m, parts[i].dy, ld))
            return false;
    }
    for (size_t i = 0; i < n; i++)
        mal_linear_bwd(pass->be, parts[i].lin, m, parts[i].dy, ld, buf->dh, i > 0);
    return true;
}

static bool self_bwd(const struct mal_step *s) {
    struct mal_pass *pass = s->pass;
    struct mal_lane *lane = s->lane;
    struct mal_pass_buffers *buf = &lane->buf;
    const struct mal_attention *attention = &s->block->self;
    int64_t c = s->model->info.n_channels, n = rows_in(s), m = lane->kept.n;

    if (s->stack->norms == MAL_NORM_AFTER)
        norm_after_bwd(s, &attention->norm, n, s->tape->x2);
    const float *dy = output_grad(s, &attention->out_norm, n, s->tape->xo);
    mal_add_weight_grad(pass, &attention->o, n, s->tape->ao, dy, c);
    if (!mal_capture_grads(pass, lane, &attention->o, n, dy, c)) return false;
    mal_linear_bwd(pass->be, &attention->o, n, dy, c, buf->dh, false);
    attn_op_bwd(s);
    if (!projections_bwd(s)) return false;
    if (n < m) { /* from here on all kept rows count; x and h are free */
        widen_rows(s, buf->dx, buf->h);
        buf->dx = buf->h;
        if (s->stack->norms == MAL_NORM_SHARED) {
            widen_rows(s, buf->dr, buf->x);
            mal_add(pass->be, m * c, buf->x, buf->dh);
        }
    } else if (s->stack->norms == MAL_NORM_SHARED) {
        mal_add(pass->be, m * c, buf->dr, buf->dh);
    }
    norm_before_bwd(s, &attention->norm, m, s->tape->x1);
    return true;
}

bool mal_step_backward(const struct mal_step *step) {
    if (!mlp_bwd(step)) return false;
    if (mal_linear_there(&step->block->cross.q) && !cross_bwd(step)) return false;
    return self_bwd(step);
}
