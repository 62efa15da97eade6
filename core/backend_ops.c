/* backend_ops.c - the checks in front of every operation.
 *
 * A wrapper asserts the contract of backend.h (shapes, pointers), replaces leading
 * dimensions of 0, and does not call the device when there is nothing to do or an error
 * sticks. */
#include <assert.h>

#include "core/backend_impl.h"

static int64_t ld(int64_t given, int64_t row) {
    assert(given == 0 || given >= row);
    return given ? given : row;
}

/* ---- Linear algebra ---- */

/* A type that weights are kept in. */
static bool is_weight(enum mal_dtype dtype) {
    return dtype == MAL_F32 || dtype == MAL_F16 || dtype == MAL_BF16;
}

/* With k = 0 the product is 0: c = beta c + bias still happens. */
void mal_gemm(struct mal_backend *be, const struct mal_gemm *g) {
    assert(g->m >= 0 && g->n >= 0 && g->k >= 0);
    if (g->m == 0 || g->n == 0 || !mal_backend_runs(be)) return;
    assert(g->c && (g->k == 0 || ((g->a || g->a16) && g->b)));
    assert(is_weight(g->b_dtype));
    assert(!g->a16 || (!g->a && mal_operand_dtype(be, g->b_dtype) == MAL_BF16));

    struct mal_gemm full = *g;
    full.lda = ld(g->lda, g->trans_a ? g->m : g->k);
    full.ldb = ld(g->ldb, g->trans_b ? g->k : g->n);
    full.ldc = ld(g->ldc, g->n);
    be->ops->gemm(be, &full);
}

enum mal_dtype mal_operand_dtype(const struct mal_backend *be, enum mal_dtype weights) {
    return be && be->takes_bf16 && weights == MAL_BF16 ? MAL_BF16 : MAL_F32;
}

/* A type that activations may be written in. */
static bool is_activation(const struct mal_backend *be, enum mal_dtype dtype) {
    return dtype == MAL_F32 || (dtype == MAL_BF16 && be->takes_bf16);
}

static bool is_float_or_double(enum mal_dtype dtype) {
    return dtype == MAL_F32 || dtype == MAL_F64;
}

void mal_gemm64(struct mal_backend *be, const struct mal_gemm64 *g) {
    assert(g->m >= 0 && g->n >= 0 && g->k >= 0);
    if (g->m == 0 || g->n == 0 || !mal_backend_runs(be)) return;
    assert(g->c && (g->k == 0 || (g->a && g->b)));
    assert(is_float_or_double(g->a_dtype) && is_float_or_double(g->b_dtype));

    struct mal_gemm64 full = *g;
    full.lda = ld(g->lda, g->trans_a ? g->m : g->k);
    full.ldb = ld(g->ldb, g->trans_b ? g->k : g->n);
    full.ldc = ld(g->ldc, g->n);
    be->ops->gemm64(be, &full);
}

void mal_syrk64(struct mal_backend *be, int64_t n, int64_t k, double alpha,
                const float *a, int64_t lda, bool trans, double beta, double *c,
                int64_t ldc) {
    assert(n >= 0 && k >= 0);
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(c && (k == 0 || a));
    be->ops->syrk64(be, n, k, alpha, a, ld(lda, trans ? n : k), trans, beta, c,
                    ld(ldc, n));
}

void mal_potrf64(struct mal_backend *be, int64_t n, double *a, int64_t lda, int64_t row0,
                 double *info) {
    assert(n >= 0 && row0 >= 0);
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(a && info);
    be->ops->potrf64(be, n, a, ld(lda, n), row0, info);
}

void mal_trsm64(struct mal_backend *be, bool right, bool trans_l, int64_t m, int64_t n,
                const double *l, int64_t ldl, double *b, int64_t ldb) {
    assert(m >= 0 && n >= 0);
    if (m == 0 || n == 0 || !mal_backend_runs(be)) return;
    assert(l && b);
    be->ops->trsm64(be, right, trans_l, m, n, l, ld(ldl, right ? n : m), b, ld(ldb, n));
}

int64_t mal_inverses64(const struct mal_backend *be, int64_t n) {
    return n * be->inverse_block;
}

void mal_invert_blocks64(struct mal_backend *be, int64_t n, const double *l, int64_t ldl,
                         double *inverses) {
    assert(n >= 0);
    if (mal_inverses64(be, n) == 0 || !mal_backend_runs(be)) return;
    assert(l && inverses);
    be->ops->invert_blocks64(be, n, l, ld(ldl, n), inverses);
}

void mal_solve_rows64(struct mal_backend *be, bool first, int64_t m, int64_t n,
                      const double *l, int64_t ldl, const double *inverses, double *b,
                      int64_t ldb) {
    assert(m >= 0 && n >= 0);
    if (m == 0 || n == 0 || !mal_backend_runs(be)) return;
    assert(l && b);
    be->ops->solve_rows64(be, first, m, n, l, ld(ldl, n), inverses, b, ld(ldb, n));
}

void mal_qr64(struct mal_backend *be, int64_t m, int64_t n, double *a, double *r) {
    assert(n >= 0 && m >= n);
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(a && r);
    be->ops->qr64(be, m, n, a, r);
}

void mal_transpose_lower64(struct mal_backend *be, int64_t n, const double *l,
                           double *y) {
    assert(n >= 0);
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(l && y && l != y);
    be->ops->transpose_lower64(be, n, l, y);
}

void mal_convert(struct mal_backend *be, int64_t n, void *y, enum mal_dtype y_dtype,
                 const void *x, enum mal_dtype x_dtype) {
    assert(n >= 0);
    assert((is_float_or_double(y_dtype) && is_float_or_double(x_dtype)) ||
           (y_dtype == MAL_F32 && is_weight(x_dtype)) ||
           (x_dtype == MAL_F32 && is_weight(y_dtype)));
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(x && y);
    be->ops->convert(be, n, y, y_dtype, x, x_dtype);
}

void mal_axpby64(struct mal_backend *be, const struct mal_axpby64 *add) {
    assert(add->n >= 0 && add->c >= 0);
    assert(!add->x || is_float_or_double(add->x_dtype));
    if (add->n == 0 || add->c == 0 || !mal_backend_runs(be)) return;
    assert(add->y);
    struct mal_axpby64 full = *add;
    full.ldx = ld(add->ldx, add->c);
    full.ldy = ld(add->ldy, add->c);
    be->ops->axpby64(be, &full);
}

void mal_round_rows(struct mal_backend *be, int64_t n, int64_t c, const double *x,
                    bool transposed, void *y, enum mal_dtype y_dtype, double *sums) {
    assert(n >= 0 && c > 0 && (y_dtype == MAL_F32 || y_dtype == MAL_BF16));
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(x && y && sums);
    be->ops->round_rows(be, n, c, x, transposed, y, y_dtype, sums);
}

/* ---- Transformer ---- */

void mal_embed(struct mal_backend *be, int64_t n, int64_t c, const int32_t *ids,
               const int32_t *pos, const void *tokens, enum mal_dtype tokens_dtype,
               float scale, const float *positions, float *y) {
    assert(n >= 0 && c >= 0 && is_weight(tokens_dtype));
    if (n == 0 || c == 0 || !mal_backend_runs(be)) return;
    assert(ids && tokens && y && (pos || !positions));
    be->ops->embed(be, n, c, ids, pos, tokens, tokens_dtype, scale, positions, y);
}

void mal_norm_fwd(struct mal_backend *be, const struct mal_norm *norm, const float *x,
                  void *y, enum mal_dtype y_dtype) {
    assert(norm->n >= 0 && norm->c >= 0 && is_activation(be, y_dtype));
    if (norm->n == 0 || norm->c == 0 || !mal_backend_runs(be)) return;
    assert(norm->gain && x && y);
    be->ops->norm_fwd(be, norm, x, y, y_dtype);
}

void mal_norm_bwd(struct mal_backend *be, const struct mal_norm *norm, const float *x,
                  const float *dy, float *dx) {
    assert(norm->n >= 0 && norm->c >= 0);
    if (norm->n == 0 || norm->c == 0 || !mal_backend_runs(be)) return;
    assert(norm->gain && x && dy && dx);
    be->ops->norm_bwd(be, norm, x, dy, dx);
}

/* Whether there is something to do. */
static bool has_heads(struct mal_backend *be, const struct mal_head_norm *norm) {
    assert(norm->n >= 0 && norm->n_heads >= 0 && norm->head_size > 0);
    return norm->n > 0 && norm->n_heads > 0 && mal_backend_runs(be);
}

void mal_head_norm_fwd(struct mal_backend *be, const struct mal_head_norm *norm, float *x,
                       int64_t ldx) {
    if (!has_heads(be, norm)) return;
    assert(norm->gain && x);
    be->ops->head_norm_fwd(be, norm, x, ld(ldx, norm->n_heads * norm->head_size));
}

void mal_head_norm_bwd(struct mal_backend *be, const struct mal_head_norm *norm,
                       const float *x, int64_t ldx, float *dy, int64_t ld_dy) {
    int64_t width = norm->n_heads * norm->head_size;
    if (!has_heads(be, norm)) return;
    assert(norm->gain && x && dy && x != dy);
    be->ops->head_norm_bwd(be, norm, x, ld(ldx, width), dy, ld(ld_dy, width));
}

void mal_act_fwd(struct mal_backend *be, enum mal_act act, int64_t n, int64_t c,
                 const float *x, const float *bias, void *y, enum mal_dtype y_dtype) {
    assert(n >= 0 && c >= 0 && act <= MAL_TANH && is_activation(be, y_dtype));
    if (n == 0 || c == 0 || !mal_backend_runs(be)) return;
    assert(x && y && (y_dtype == MAL_F32 || y != x));
    be->ops->act_fwd(be, act, n, c, x, bias, y, y_dtype);
}

void mal_act_bwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *x,
                 const float *dy, float *dx) {
    assert(n >= 0 && act <= MAL_TANH);
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(x && dy && dx);
    be->ops->act_bwd(be, act, n, x, dy, dx);
}

void mal_glu_fwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *gate,
                 const float *x, void *y, enum mal_dtype y_dtype) {
    assert(n >= 0 && act <= MAL_TANH && is_activation(be, y_dtype));
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(gate && x && y && (y_dtype == MAL_F32 || (y != gate && y != x)));
    be->ops->glu_fwd(be, act, n, gate, x, y, y_dtype);
}

void mal_glu_bwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *gate,
                 const float *x, const float *dy, float *dgate, float *dx) {
    assert(n >= 0 && act <= MAL_TANH);
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(gate && x && dy && dgate && dx && dgate != dy);
    be->ops->glu_bwd(be, act, n, gate, x, dy, dgate, dx);
}

void mal_rope_angles(struct mal_backend *be, int64_t n, int64_t half, const int32_t *pos,
                     const float *inv_freq, float scale, float *cs) {
    assert(n >= 0 && half >= 0);
    if (n == 0 || half == 0 || !mal_backend_runs(be)) return;
    assert(pos && inv_freq && cs);
    be->ops->rope_angles(be, n, half, pos, inv_freq, scale, cs);
}

void mal_rope(struct mal_backend *be, const struct mal_rope *rope, float *x,
              int64_t ldx) {
    assert(rope->n >= 0 && rope->n_heads >= 0 && rope->half >= 0);
    assert(2 * rope->half <= rope->head_size);
    if (rope->n == 0 || rope->n_heads == 0 || rope->half == 0 || !mal_backend_runs(be))
        return;
    assert(rope->cs && x);
    be->ops->rope(be, rope, x, ld(ldx, rope->n_heads * rope->head_size));
}

/* The same batch with its leading dimensions filled in. */
static struct mal_attn full_attn(const struct mal_attn *attn) {
    assert(attn->q && attn->k && attn->v);
    assert(attn->q_start && attn->k_start && attn->k_len);
    assert(attn->head_size > 0 && attn->n_kv_heads > 0 && attn->n_heads > 0);
    assert(attn->n_heads % attn->n_kv_heads == 0);
    assert(attn->max_queries > 0 && attn->max_keys > 0);
    assert(attn->max_keys >= attn->max_queries || (!attn->causal && !attn->rel_bias));
    assert(attn->window >= 0 && (attn->window == 0 || attn->causal));
    assert(attn->rel_span >= 0 && attn->cap >= 0 && !(attn->cap > 0 && attn->rel_bias));

    struct mal_attn full = *attn;
    full.ld_q = ld(attn->ld_q, attn->n_heads * attn->head_size);
    full.ld_k = ld(attn->ld_k, attn->n_kv_heads * attn->head_size);
    full.ld_v = ld(attn->ld_v, attn->n_kv_heads * attn->head_size);
    return full;
}

void mal_attn_fwd(struct mal_backend *be, const struct mal_attn *attn, void *out,
                  enum mal_dtype out_dtype, int64_t ld_out, float *norm) {
    assert(attn->n_seqs >= 0 && attn->n_queries >= 0 && is_activation(be, out_dtype));
    if (attn->n_seqs == 0 || attn->n_queries == 0 || !mal_backend_runs(be)) return;
    assert(out);
    struct mal_attn full = full_attn(attn);
    be->ops->attn_fwd(be, &full, out, out_dtype,
                      ld(ld_out, attn->n_heads * attn->head_size), norm);
}

void mal_attn_bwd(struct mal_backend *be, const struct mal_attn *attn, const float *out,
                  int64_t ld_out, const float *norm, const float *dout, int64_t ld_dout,
                  const struct mal_attn_grads *grads) {
    assert(attn->n_seqs >= 0 && attn->n_queries >= 0);
    bool nothing = attn->n_queries == 0 && !grads->all_keys; /* else keys get zeros */
    if (attn->n_seqs == 0 || nothing || !mal_backend_runs(be)) return;
    assert(out && norm && dout && grads->dq && grads->dk && grads->dv);
    assert(grads->all_keys || attn->max_keys >= attn->max_queries);
    struct mal_attn full = full_attn(attn);
    struct mal_attn_grads full_grads = *grads;
    int64_t row = attn->n_heads * attn->head_size;
    full_grads.ld_q = ld(grads->ld_q, row);
    full_grads.ld_kv = ld(grads->ld_kv, attn->n_kv_heads * attn->head_size);
    be->ops->attn_bwd(be, &full, out, ld(ld_out, row), norm, dout, ld(ld_dout, row),
                      &full_grads);
}

void mal_cap_fwd(struct mal_backend *be, int64_t n, float cap, float *x) {
    assert(n >= 0 && cap > 0);
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(x);
    be->ops->cap_fwd(be, n, cap, x);
}

void mal_cap_bwd(struct mal_backend *be, int64_t n, float cap, const float *y,
                 float *dy) {
    assert(n >= 0 && cap > 0);
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(y && dy && y != dy);
    be->ops->cap_bwd(be, n, cap, y, dy);
}

void mal_add(struct mal_backend *be, int64_t n, const float *x, float *y) {
    assert(n >= 0);
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(x && y);
    be->ops->add(be, n, x, y);
}

void mal_gather_rows(struct mal_backend *be, int64_t n, int64_t c, const int32_t *rows,
                     const float *x, int64_t ldx, float *y, int64_t ldy) {
    assert(n >= 0 && c >= 0);
    if (n == 0 || c == 0 || !mal_backend_runs(be)) return;
    assert(x && y);
    be->ops->gather_rows(be, n, c, rows, x, ld(ldx, c), y, ld(ldy, c));
}

void mal_scatter_rows(struct mal_backend *be, int64_t n, int64_t c, const int32_t *rows,
                      const float *x, int64_t ldx, float *y, int64_t ldy) {
    assert(n >= 0 && c >= 0);
    if (n == 0 || c == 0 || !mal_backend_runs(be)) return;
    assert(x && y);
    be->ops->scatter_rows(be, n, c, rows, x, ld(ldx, c), y, ld(ldy, c));
}

void mal_xent_fwd(struct mal_backend *be, int64_t n, int64_t v, const float *logits,
                  const int32_t *label, float *logprob, int32_t *rank, int32_t *argmax) {
    assert(n >= 0 && v >= 0);
    if (n == 0 || v == 0 || !mal_backend_runs(be)) return;
    assert(logits && argmax && !label == !logprob && !label == !rank);
    be->ops->xent_fwd(be, n, v, logits, label, logprob, rank, argmax);
}

void mal_xent_bwd(struct mal_backend *be, int64_t n, int64_t v, float *logits,
                  const int32_t *label, const float *scale) {
    assert(n >= 0 && v >= 0);
    if (n == 0 || v == 0 || !mal_backend_runs(be)) return;
    assert(logits && label && scale);
    be->ops->xent_bwd(be, n, v, logits, label, scale);
}

void mal_kl(struct mal_backend *be, int64_t n, int64_t v, const float *base,
            float *logits, const float *scale, float *kl) {
    assert(n >= 0 && v >= 0);
    if (n == 0 || v == 0 || !mal_backend_runs(be)) return;
    assert(base && logits && scale && kl);
    be->ops->kl(be, n, v, base, logits, scale, kl);
}

void mal_kl_now(struct mal_backend *be, int64_t n, int64_t v, const float *base,
                float *logits, const float *scale, float *kl) {
    assert(n >= 0 && v >= 0);
    if (n == 0 || v == 0 || !mal_backend_runs(be)) return;
    assert(base && logits && scale && kl);
    be->ops->kl_now(be, n, v, base, logits, scale, kl);
}

/* ---- Editors ---- */

void mal_normalize_rows(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                        const float *u, int64_t ldu, const float *g, int64_t ldg,
                        const float *mean, const float *std, float *h) {
    assert(n >= 0 && du >= 0 && dg >= 0);
    if (n == 0 || du + dg == 0 || !mal_backend_runs(be)) return;
    assert((u || du == 0) && (g || dg == 0) && mean && std && h);
    be->ops->normalize_rows(be, n, du, dg, u, ld(ldu, du), g, ld(ldg, dg), mean, std, h);
}

void mal_column_stats(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                      const float *u, int64_t ldu, const float *g, int64_t ldg,
                      double *mean, double *m2) {
    assert(n >= 0 && du >= 0 && dg >= 0);
    if (n == 0 || du + dg == 0 || !mal_backend_runs(be)) return;
    assert((u || du == 0) && (g || dg == 0) && mean && m2);
    be->ops->column_stats(be, n, du, dg, u, ld(ldu, du), g, ld(ldg, dg), mean, m2);
}

void mal_block_fwd(struct mal_backend *be, int64_t n, int64_t c, const float *z,
                   const float *scale, const float *shift, float *h) {
    assert(n >= 0 && c >= 0);
    if (n == 0 || c == 0 || !mal_backend_runs(be)) return;
    assert(z && scale && shift && h);
    be->ops->block_fwd(be, n, c, z, scale, shift, h);
}

void mal_edit_diffs(struct mal_backend *be, int64_t n, int64_t da, int64_t dc, float lr,
                    const float *a, int64_t lda, const float *b, int64_t ldb,
                    const float *c, int64_t ldc, float *d, int64_t ldd) {
    assert(n >= 0 && da >= 0 && dc >= 0);
    if (n == 0 || dc == 0 || !mal_backend_runs(be)) return;
    assert((da == 0 || (a && b)) && c && d);
    be->ops->edit_diffs(be, n, da, dc, lr, a, ld(lda, da), b, ld(ldb, da), c, ld(ldc, dc),
                        d, ld(ldd, dc));
}

/* ---- Training of editors ---- */

void mal_block_bwd(struct mal_backend *be, int64_t n, int64_t c, const float *dh,
                   const float *scale, float *z, float *dscale, float *dshift,
                   float *dbias) {
    assert(n >= 0 && c >= 0);
    if (n == 0 || c == 0 || !mal_backend_runs(be)) return;
    assert(dh && scale && z && dscale && dshift && dbias);
    be->ops->block_bwd(be, n, c, dh, scale, z, dscale, dshift, dbias);
}

void mal_edit_diffs_bwd(struct mal_backend *be, const struct mal_edit_diffs_bwd *g) {
    assert(g->n >= 0 && g->da > 0 && g->dc > 0);
    if (g->n == 0 || !mal_backend_runs(be)) return;
    assert(g->a && g->b && g->c && g->e && g->grad_b && g->grad_c && g->dlr);
    struct mal_edit_diffs_bwd full = *g;
    full.lda = ld(g->lda, g->da);
    full.ldb = ld(g->ldb, g->da);
    full.ldc = ld(g->ldc, g->dc);
    full.lde = ld(g->lde, g->dc);
    assert(g->ld_grad > 0);
    be->ops->edit_diffs_bwd(be, &full);
}

/* Nothing has the sum 0, so n = 0 is not skipped. */
void mal_dot(struct mal_backend *be, int64_t n, int64_t c, const void *a,
             enum mal_dtype a_dtype, int64_t lda, const void *b, enum mal_dtype b_dtype,
             int64_t ldb, double *out) {
    assert(n >= 0 && c >= 0);
    assert(is_float_or_double(a_dtype) && is_float_or_double(b_dtype));
    if (!mal_backend_runs(be)) return;
    assert(out && (n * c == 0 || (a && b)));
    be->ops->dot(be, n, c, a, a_dtype, ld(lda, c), b, b_dtype, ld(ldb, c), out);
}

void mal_adam_step(struct mal_backend *be, const struct mal_adam *adam) {
    assert(adam->n >= 0 && adam->t >= 1);
    if (adam->n == 0 || !mal_backend_runs(be)) return;
    assert(adam->p && adam->m && adam->v && adam->g && adam->bound >= 0);
    assert(adam->decay == 0 || (adam->w && is_weight(adam->w_dtype)));
    be->ops->adam_step(be, adam);
}

/* ---- Versioned weights ---- */

void mal_apply_factors(struct mal_backend *be, int64_t d_in, int64_t d_out, int64_t rank,
                       const float *l, const float *r, bool transposed, float *t) {
    assert(d_in >= 0 && d_out >= 0 && rank >= 0);
    if (d_in == 0 || d_out == 0 || rank == 0 || !mal_backend_runs(be)) return;
    assert(l && r && t);
    be->ops->apply_factors(be, d_in, d_out, rank, l, r, transposed, t);
}

void mal_apply_dense(struct mal_backend *be, int64_t d_in, int64_t d_out, const float *s,
                     bool transposed, float *t) {
    assert(d_in >= 0 && d_out >= 0);
    if (d_in == 0 || d_out == 0 || !mal_backend_runs(be)) return;
    assert(s && t);
    be->ops->apply_dense(be, d_in, d_out, s, transposed, t);
}

void mal_round_weight(struct mal_backend *be, int64_t n, const void *w0, const float *t,
                      enum mal_dtype dtype, void *w, enum mal_dtype w_dtype) {
    assert(n >= 0 && is_weight(dtype) && is_weight(w_dtype));
    if (n == 0 || !mal_backend_runs(be)) return;
    assert(w0 && t && w);
    be->ops->round_weight(be, n, w0, t, dtype, w, w_dtype);
}

/* Nothing has the sum 0, so n = 0 is not skipped. */
void mal_sum_squares(struct mal_backend *be, int64_t n, const float *x, double *out) {
    assert(n >= 0);
    if (!mal_backend_runs(be)) return;
    assert(out && (n == 0 || x));
    be->ops->sum_squares(be, n, x, out);
}

void mal_digest_pieces(struct mal_backend *be, int64_t bytes,
                       const struct mal_pieces *list, size_t n) {
    assert(bytes > 0 && bytes % 64 == 0);
    for (size_t i = 0; i < n; i++) {
        const struct mal_pieces *run = &list[i];
        assert(run->n >= 0 && is_weight(run->dtype) && is_weight(run->w_dtype));
        assert(run->dtype == run->w_dtype || run->w_dtype == MAL_F32);
        assert(run->n == 0 || (run->w && run->hashes && run->sums));
    }
    if (n == 0 || !mal_backend_runs(be)) return;
    be->ops->digest_pieces(be, bytes, list, n);
}
