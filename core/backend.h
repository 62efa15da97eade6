/* backend.h - the operations of a device: what the transformer passes and the editors are
 * made of.
 *
 * One set of operations, implemented once per device (core/cpu, cuda) and chosen at run
 * time. Pointers to data and to index arrays are device memory (on the CPU: host memory);
 * sizes and scalars are passed by value. Operations are queued in order, allocate nothing
 * and return nothing: a device's first error sticks, later operations do nothing,
 * mal_backend_sync() tells. Matrices are row-major with a leading dimension in elements
 * (0 = the row length). Shapes are asserted here, not in the implementations. A size of 0
 * is a no-op. Activations are fp32, or what products round them to; weights may be stored
 * in 16 bits, and are widened where they are used. */
#ifndef MAL_BACKEND_H
#define MAL_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "core/hash.h"
#include "core/tensor.h"

struct mal_backend;

/* "cpu", "cuda:N", or "auto": the first CUDA device where one works, else the CPU.
 * "cpu:bf16" multiplies bf16 weights with what is rounded to bf16, summed up in fp32:
 * about twice as fast, relative error about 2^-9; so does "cuda:N", which multiplies fp16
 * weights in TF32 (2^-11), too. "cuda:N:fp32" rounds no operand of a product;
 * "cuda:N:emulated" does not either, and makes products in fp64 as on GPUs where those
 * are slow. */
bool mal_backend_create(struct mal_backend **out, const char *device,
                        struct mal_error *err) MAL_CHECK;
/* Whether that is a device's name, there or not; MAL_INVALID says what is. */
bool mal_backend_check_name(const char *device, struct mal_error *err) MAL_CHECK;
/* A second queue on the device of `first`, for another thread: what is queued here waits
 * for nothing that is queued there, and is preferred where both have work. Either may
 * read the other's memory once what was to be there has been waited for. `first` must
 * outlive it. */
bool mal_backend_create_beside(struct mal_backend **out, struct mal_backend *first,
                               struct mal_error *err) MAL_CHECK;
void mal_backend_destroy(struct mal_backend *be);           /* takes NULL */
const char *mal_backend_name(const struct mal_backend *be); /* "cpu", "cuda:0" */
/* One line for a log: the processor and libraries in use, with their threads. */
const char *mal_backend_describe(const struct mal_backend *be);

/* ---- Memory ---- */

/* 64-byte aligned; NULL (and no sticky error) when there is not enough. */
void *mal_backend_alloc(struct mal_backend *be, size_t bytes);
void mal_backend_free(struct mal_backend *be, void *mem); /* takes NULL */
/* For what is kept only while there is room: an allocation that fails calls `release`,
 * which allocates nothing and says whether it gave memory back, and is tried again.
 * `release` NULL ends it. One at a time: false where there is one already. */
bool mal_backend_on_shortage(struct mal_backend *be, bool (*release)(void *arg),
                             void *arg);
/* Host memory that is copied to and from the device at full speed and beside other work;
 * NULL when there is not enough. */
void *mal_backend_alloc_host(struct mal_backend *be, size_t bytes);
void mal_backend_free_host(struct mal_backend *be, void *mem); /* takes NULL */
/* Memory that is not of mal_backend_alloc_host() may change once upload has returned;
 * what is downloaded is there after mal_backend_sync(). */
void mal_backend_upload(struct mal_backend *be, void *dst, const void *host,
                        size_t bytes);
void mal_backend_download(struct mal_backend *be, void *host, const void *src,
                          size_t bytes);
void mal_backend_copy(struct mal_backend *be, void *dst, const void *src, size_t bytes);
void mal_backend_zero(struct mal_backend *be, void *dst, size_t bytes);
/* Waits; false with the device's first error since it was created. */
bool mal_backend_sync(struct mal_backend *be, struct mal_error *err) MAL_CHECK;
/* A device that has failed gives no memory, either: that error of *err becomes the
 * device's first. */
void mal_backend_name_failure(const struct mal_backend *be, struct mal_error *err);
size_t mal_backend_bytes(const struct mal_backend *be); /* allocated now */
/* What could still be allocated, as far as that can be known; 0: it cannot. */
size_t mal_backend_available(struct mal_backend *be);
/* Device memory is host memory: what is there already need not be copied to be used. */
bool mal_backend_on_host(const struct mal_backend *be);
/* Multiply-adds in fp64 that make one slice of a large product: tens of milliseconds,
 * which a reader may have to wait for. */
int64_t mal_backend_slice_fma(const struct mal_backend *be);
/* How many times as many rows as on a CPU should be worked at once: few do not fill a
 * wide device. */
int64_t mal_backend_breadth(const struct mal_backend *be);

/* ---- Linear algebra ---- */

/* c (m,n) = alpha op(a) (m,k) @ op(b) (k,n) + beta c, then + bias (n) to each row if
 * given. */
struct mal_gemm {
    int64_t m, n, k;
    const float *a;
    const uint16_t *a16; /* instead of a: it is bf16, where mal_operand_dtype() says so */
    int64_t lda;
    bool trans_a; /* a is stored (k,m) */
    const void *b;
    enum mal_dtype b_dtype; /* MAL_F32, MAL_F16 or MAL_BF16; 0-init is F64: set it */
    int64_t ldb;
    bool trans_b; /* b is stored (n,k) */
    float *c;
    int64_t ldc;
    float alpha, beta;
    const float *bias; /* NULL: none */
    bool tf32; /* fp32 operands may be rounded to 10 bits of mantissa where that is faster
                */
};

void mal_gemm(struct mal_backend *be, const struct mal_gemm *g);

/* What a product rounds activations to, when weights are of that type: MAL_F32 (they are
 * not), or MAL_BF16. Where nothing else reads them they can be written in it from the
 * start, by the operations below that have a y_dtype. Without a device (NULL): MAL_F32.
 */
enum mal_dtype mal_operand_dtype(const struct mal_backend *be, enum mal_dtype weights);

/* fp64 from fp32 rows: c (m,n) = op(a) @ op(b) + beta c; products are exact, sums fp64.
 */
struct mal_gemm64 {
    int64_t m, n, k;
    const void *a;
    enum mal_dtype a_dtype; /* MAL_F32 or MAL_F64 */
    int64_t lda;
    bool trans_a;
    const void *b;
    enum mal_dtype b_dtype;
    int64_t ldb;
    bool trans_b;
    double *c;
    int64_t ldc;
    double alpha, beta;
};

void mal_gemm64(struct mal_backend *be, const struct mal_gemm64 *g);

/* Lower triangle of c (n,n) fp64 = alpha a'a + beta c (trans: a is (k,n)) or alpha a a' +
 * beta c (a is (n,k)); a is fp32, ld lda. The upper triangle is not touched. */
void mal_syrk64(struct mal_backend *be, int64_t n, int64_t k, double alpha,
                const float *a, int64_t lda, bool trans, double beta, double *c,
                int64_t ldc);

/* Cholesky of the lower triangle in place: a = l l'. info[0] = 0, or 1 + the row of the
 * pivot that was not positive, with that pivot in info[1] (device memory, 2 doubles).
 * When info[0] is not 0 on entry nothing is done, so that blocks can be queued one after
 * another. `row0` is added to the reported row. */
void mal_potrf64(struct mal_backend *be, int64_t n, double *a, int64_t lda, int64_t row0,
                 double *info);

/* b (m,n) := op(l)^-1 b (left, l (m,m)) or b op(l)^-1 (right, l (n,n)); l lower
 * triangular. */
void mal_trsm64(struct mal_backend *be, bool right, bool trans_l, int64_t m, int64_t n,
                const double *l, int64_t ldl, double *b, int64_t ldb);

/* ---- Rows through a Cholesky factor l (n,n), again and again ---- */

/* Where a triangular solve is mostly waiting, a device takes the inverses of the blocks
 * on the factor's diagonal, found once: so many doubles of device memory; 0: none. */
int64_t mal_inverses64(const struct mal_backend *be, int64_t n);
void mal_invert_blocks64(struct mal_backend *be, int64_t n, const double *l, int64_t ldl,
                         double *inverses);
/* b (m,n) := b l'^-1 where `first`, else b l^-1: together b (l l')^-1. `inverses` of this
 * l, or NULL. */
void mal_solve_rows64(struct mal_backend *be, bool first, int64_t m, int64_t n,
                      const double *l, int64_t ldl, const double *inverses, double *b,
                      int64_t ldb);

/* Thin QR, m >= n: the n rows of a (n,m) are the columns of the matrix; on return they
 * are the orthonormal columns of Q, and r (n,n), row-major upper triangular with zeros
 * below, has matrix = Q r. */
void mal_qr64(struct mal_backend *be, int64_t m, int64_t n, double *a, double *r);

/* y (n,n) = the lower triangle of l (n,n), transposed, with zeros below. */
void mal_transpose_lower64(struct mal_backend *be, int64_t n, const double *l, double *y);

/* y (n) of y_dtype = x (n) of x_dtype, rounded once; fp32 and fp64 either way, or fp32 on
 * one side and 16 bits on the other. */
void mal_convert(struct mal_backend *be, int64_t n, void *y, enum mal_dtype y_dtype,
                 const void *x, enum mal_dtype x_dtype);

/* y (n,c) fp64 = alpha x + beta y by rows; x is fp32 or fp64, or NULL: ones. With c = 1
 * and ldy = n + 1, y is the diagonal of a matrix. */
struct mal_axpby64 {
    int64_t n, c;
    double alpha, beta;
    const void *x;
    enum mal_dtype x_dtype; /* MAL_F32 or MAL_F64 */
    int64_t ldx;
    double *y;
    int64_t ldy;
};

void mal_axpby64(struct mal_backend *be, const struct mal_axpby64 *add);

/* What a shift loses when it is rounded: y = x (n,c), each element rounded to fp32 and,
 * where y_dtype is MAL_BF16, from there to that; and of each row sums (n,2) = the sum of
 * x^2 and that of (y - x)^2. `transposed`: y is (c,n). */
void mal_round_rows(struct mal_backend *be, int64_t n, int64_t c, const double *x,
                    bool transposed, void *y, enum mal_dtype y_dtype, double *sums);

/* ---- Transformer ---- */

/* y (n,c) = scale tokens[ids[i]] + positions[pos[i]]; tokens are fp32, fp16 or bf16.
 * Without positions (NULL) pos is not read. */
void mal_embed(struct mal_backend *be, int64_t n, int64_t c, const int32_t *ids,
               const int32_t *pos, const void *tokens, enum mal_dtype tokens_dtype,
               float scale, const float *positions, float *y);

/* Layer norm: y = (x - mean(x)) / sqrt(var(x) + eps) * gain + bias, over rows of c.
 * RMS norm (`rms`): y = x / sqrt(mean(x^2) + eps) * gain. */
struct mal_norm {
    int64_t n, c;
    bool rms;
    float eps;
    const float *gain, *bias; /* (c); bias NULL: none */
};

void mal_norm_fwd(struct mal_backend *be, const struct mal_norm *norm, const float *x,
                  void *y, enum mal_dtype y_dtype);
/* dx (n,c) += gradient of the norm at x for dy; statistics are computed again from x. */
void mal_norm_bwd(struct mal_backend *be, const struct mal_norm *norm, const float *x,
                  const float *dy, float *dx);

/* RMS norm of each head, in place on rows of n_heads heads: a head's channels x become
 * x / sqrt(mean(x^2) + eps) * gain. */
struct mal_head_norm {
    int64_t n, n_heads, head_size;
    float eps;
    const float *gain; /* (head_size) */
};

void mal_head_norm_fwd(struct mal_backend *be, const struct mal_head_norm *norm, float *x,
                       int64_t ldx);
/* dy := the gradient at x, what the norm has read, for dy at what it wrote. */
void mal_head_norm_bwd(struct mal_backend *be, const struct mal_head_norm *norm,
                       const float *x, int64_t ldx, float *dy, int64_t ld_dy);

enum mal_act {
    MAL_GELU_TANH, /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): HF "gelu_new",
                      "gelu_pytorch_tanh" */
    MAL_GELU_ERF,  /* 0.5 x (1 + erf(x / sqrt 2)): HF "gelu" */
    MAL_RELU,
    MAL_SILU,
    MAL_TANH
};

/* y (n,c) = act(x + bias); bias (c), or NULL: none. y may be x where it is fp32. */
void mal_act_fwd(struct mal_backend *be, enum mal_act act, int64_t n, int64_t c,
                 const float *x, const float *bias, void *y, enum mal_dtype y_dtype);
/* dx = act'(x) dy; relu'(0) = 1 (core/README.md section 3); dx may be dy. */
void mal_act_bwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *x,
                 const float *dy, float *dx);

/* y = act(gate) x, element by element; y may be gate or x where it is fp32. */
void mal_glu_fwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *gate,
                 const float *x, void *y, enum mal_dtype y_dtype);
/* dgate = act'(gate) x dy, dx = act(gate) dy; dx may be dy, dgate may not. */
void mal_glu_bwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *gate,
                 const float *x, const float *dy, float *dgate, float *dx);

/* cs (n, 2 half): row i has the cosines of pos[i] inv_freq[j], j < half, then the sines;
 * the angle is that product in fp32, and its cosine and sine are right to fp32, then
 * multiplied with `scale`. */
void mal_rope_angles(struct mal_backend *be, int64_t n, int64_t half, const int32_t *pos,
                     const float *inv_freq, float scale, float *cs);

/* Rotary positions, in place on rows of n_heads heads: of each head, the first 2 half
 * channels are turned in pairs, (2j, 2j + 1) if interleaved, else (j, j + half): (a, b)
 * becomes (a cos - b sin, b cos + a sin). `inverse` is the gradient, and turns back where
 * their scale is 1. */
struct mal_rope {
    int64_t n, n_heads, head_size, half;
    bool interleaved, inverse;
    const float *cs; /* (n, 2 half) of mal_rope_angles() */
};

void mal_rope(struct mal_backend *be, const struct mal_rope *rope, float *x, int64_t ldx);

/* Attention over packed, ragged sequences. Sequence s has its queries in rows
 * [q_start[s], q_start[s+1]) and its keys in rows [k_start[s], k_start[s] + k_len[s]) of
 * k and v. Queries are the last ones of the sequence: key j is at position j, query i of
 * a sequence with nq of them at position k_len - nq + i. Causal: position p sees
 * positions 0..p, of those the last `window` where that is not 0. out = softmax(scale q
 * k' + bias) v per head; query head h uses key head h / (n_heads / n_kv_heads). The bias
 * of a query at p and a key at t is rel_bias[h][clamp(t - p, -rel_span, rel_span) +
 * rel_span]. Instead of a bias there may be a cap: x = scale q k' becomes cap tanh(x /
 * cap).
 *
 * Without causal and rel_bias positions mean nothing, and the keys may be those of
 * another sequence (cross-attention): fewer than the queries, but one at least. */
struct mal_attn {
    int64_t n_seqs, n_queries; /* n_queries = q_start[n_seqs] */
    int64_t max_queries,
        max_keys; /* of one sequence: what an implementation sizes its tiles by */
    int64_t n_heads, n_kv_heads, head_size;
    const int32_t *q_start, *k_start, *k_len; /* (n_seqs + 1), (n_seqs), (n_seqs) */
    const float *q, *k, *v;
    int64_t ld_q, ld_k, ld_v;
    float scale;
    bool causal;
    int64_t window;        /* 0: none; only with causal */
    const float *rel_bias; /* (n_heads, 2 rel_span + 1); NULL: none */
    int64_t rel_span;
    float cap; /* 0: none */
};

/* out (n_queries, n_heads * head_size), ld_out; norm (n_queries, n_heads, 2) = the
 * largest score, and the log of the sum of exp(score - largest): apart, for their sum in
 * fp32 would blur the probabilities that the backward pass makes again. NULL when none
 * follows. */
void mal_attn_fwd(struct mal_backend *be, const struct mal_attn *attn, void *out,
                  enum mal_dtype out_dtype, int64_t ld_out, float *norm);

/* Gradients, written (not added): dq (n_queries, H D), and dk, dv (rows, Hkv D) of the
 * keys at the queries' own positions, in the queries' rows; what flows to earlier keys is
 * dropped (they need no gradient: core/README.md section 5). With `all_keys` instead of
 * every key, in the rows of k and v; cross-attention needs that. rel_bias is constant. */
struct mal_attn_grads {
    float *dq, *dk, *dv;
    int64_t ld_q, ld_kv;
    bool all_keys;
};

void mal_attn_bwd(struct mal_backend *be, const struct mal_attn *attn, const float *out,
                  int64_t ld_out, const float *norm, const float *dout, int64_t ld_dout,
                  const struct mal_attn_grads *grads);

/* x := cap tanh(x / cap) */
void mal_cap_fwd(struct mal_backend *be, int64_t n, float cap, float *x);
/* dy := the gradient at x, for dy at what it has become, y. */
void mal_cap_bwd(struct mal_backend *be, int64_t n, float cap, const float *y, float *dy);

/* y += x */
void mal_add(struct mal_backend *be, int64_t n, const float *x, float *y);
/* y[i] = x[rows[i]] for i < n, rows of c (strides ldx, ldy); rows NULL: y[i] = x[i]. */
void mal_gather_rows(struct mal_backend *be, int64_t n, int64_t c, const int32_t *rows,
                     const float *x, int64_t ldx, float *y, int64_t ldy);
/* y[rows[i]] = x[i], no row being there twice; rows NULL: y[i] = x[i]. */
void mal_scatter_rows(struct mal_backend *be, int64_t n, int64_t c, const int32_t *rows,
                      const float *x, int64_t ldx, float *y, int64_t ldy);

/* Per row i of logits (n,v) with label[i] >= 0: logprob[i] = log
 * softmax(logits_i)[label], rank[i] = 1 + how many tokens come before the label (larger
 * logit, or equal and smaller id). argmax[i] is for every row (the smallest id of the
 * largest). label, logprob, rank may be NULL together; a label of -1 gives logprob 0 and
 * rank 0. A row with a NaN: argmax -1, rank 0, logprob NaN. */
void mal_xent_fwd(struct mal_backend *be, int64_t n, int64_t v, const float *logits,
                  const int32_t *label, float *logprob, int32_t *rank, int32_t *argmax);
/* In place: logits_i := scale[i] (softmax(logits_i) - onehot(label_i)); 0 where label is
 * -1. */
void mal_xent_bwd(struct mal_backend *be, int64_t n, int64_t v, float *logits,
                  const int32_t *label, const float *scale);

/* Per row i, with p = softmax(base_i) and q = softmax(logits_i): kl[i] = sum p (log p -
 * log q), and in place logits_i := scale[i] (q - p), its gradient at the logits. */
void mal_kl(struct mal_backend *be, int64_t n, int64_t v, const float *base,
            float *logits, const float *scale, float *kl);
/* The other way: kl[i] = sum q (log q - log p), and logits_i := scale[i] q (log q - log p
 * - kl[i]). */
void mal_kl_now(struct mal_backend *be, int64_t n, int64_t v, const float *base,
                float *logits, const float *scale, float *kl);

/* ---- Editors ---- */

/* h (n, du + dg) = (concat(u, g) - mean) / (std + eps), eps = FLT_EPSILON
 * (core/README.md 3.1). */
void mal_normalize_rows(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                        const float *u, int64_t ldu, const float *g, int64_t ldg,
                        const float *mean, const float *std, float *h);
/* Columns of concat(u, g): mean (du + dg) and sum of squared differences from it, both
 * fp64. */
void mal_column_stats(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                      const float *u, int64_t ldu, const float *g, int64_t ldg,
                      double *mean, double *m2);
/* h += scale * relu(z) + shift, rows of c; z already holds h A B + bias
 * (core/README.md 3.2).
 */
void mal_block_fwd(struct mal_backend *be, int64_t n, int64_t c, const float *z,
                   const float *scale, const float *shift, float *h);
/* d[j] = -lr <a_j, b_j> c_j: a, b rows of da, c and d rows of dc
 * (core/README.md 3.4, 3.6). */
void mal_edit_diffs(struct mal_backend *be, int64_t n, int64_t da, int64_t dc, float lr,
                    const float *a, int64_t lda, const float *b, int64_t ldb,
                    const float *c, int64_t ldc, float *d, int64_t ldd);

/* ---- Training of editors (core/README.md section 8) ---- */

/* Backward of mal_block_fwd() for dh (n,c), the gradient at its result: in place z := dz
 * = dh * scale where z >= 0 (the slope at 0 is 1), 0 elsewhere; and added to sums over
 * the rows (c): dscale += dh * relu(z), dshift += dh, dbias += dz. The gradient at its h
 * is dh. */
void mal_block_bwd(struct mal_backend *be, int64_t n, int64_t c, const float *dh,
                   const float *scale, float *z, float *dscale, float *dshift,
                   float *dbias);

/* Backward of mal_edit_diffs(), d[j] = -lr <a_j, b_j> c_j, for e (n, dc), the gradient at
 * d; a is constant: db[j] = -lr <e_j, c_j> a_j, dc[j] = -lr <a_j, b_j> e_j, and dlr[0] +=
 * -sum <a_j, b_j> <e_j, c_j> (fp64, device memory). */
struct mal_edit_diffs_bwd {
    int64_t n, da, dc;
    float lr;
    const float *a, *b, *c, *e;
    int64_t lda, ldb, ldc, lde;
    float *grad_b, *grad_c;
    int64_t ld_grad; /* of both */
    double *dlr;
};

void mal_edit_diffs_bwd(struct mal_backend *be, const struct mal_edit_diffs_bwd *g);

/* out[0] = sum over rows and columns of a (n,c) * b (n,c), fp32 or fp64 each, in fp64
 * (device memory). */
void mal_dot(struct mal_backend *be, int64_t n, int64_t c, const void *a,
             enum mal_dtype a_dtype, int64_t lda, const void *b, enum mal_dtype b_dtype,
             int64_t ldb, double *out);

/* One step of Adam (Kingma and Ba) in place, as torch.optim.Adam computes it: with g' =
 * grad_scale * g: m = beta1 m + (1 - beta1) g', v = beta2 v + (1 - beta2) g'^2, p -= lr /
 * (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps). Where p is a shift of weights
 * w, these may decay: then decay * (w + p) is part of g'; and p may be kept within a
 * bound: it is cut to [-bound, bound]. */
struct mal_adam {
    int64_t n;
    float *p, *m, *v; /* (n) */
    const float *g;   /* (n) */
    double lr, beta1, beta2, eps, grad_scale;
    int64_t t;              /* 1 in the first step */
    double decay, bound;    /* 0: none */
    const void *w;          /* (n) of w_dtype, where there is a decay */
    enum mal_dtype w_dtype; /* MAL_F32, MAL_F16 or MAL_BF16 */
};

void mal_adam_step(struct mal_backend *be, const struct mal_adam *adam);

/* ---- Versioned weights (core/README.md section 4): bit-exact on every device ---- */

/* t (d_in, d_out) += l (d_in, r) @ r (r, d_out): per element one fma per k, k = 0 ..
 * rank-1 in order, starting from t. `transposed`: t is stored (d_out, d_in), the same
 * sums. */
void mal_apply_factors(struct mal_backend *be, int64_t d_in, int64_t d_out, int64_t rank,
                       const float *l, const float *r, bool transposed, float *t);
/* t += s, one addition per element; s is (d_in, d_out) always, t as above. */
void mal_apply_dense(struct mal_backend *be, int64_t d_in, int64_t d_out, const float *s,
                     bool transposed, float *t);
/* w = round(w0 + t) to `dtype` (fp32 addition, then one rounding), n elements; w and w0
 * hold values of `dtype` in w_dtype, the type this device keeps weights in. */
void mal_round_weight(struct mal_backend *be, int64_t n, const void *w0, const float *t,
                      enum mal_dtype dtype, void *w, enum mal_dtype w_dtype);
/* out[0] = sum of x^2 in fp64 (device memory): NaN or infinite when an element is. */
void mal_sum_squares(struct mal_backend *be, int64_t n, const float *x, double *out);

/* A tensor for mal_digest_pieces(): device memory. Its elements are hashed as `dtype`
 * stores them, which is w_dtype or, of fp32, one that has the same values. */
struct mal_pieces {
    const void *w;           /* (n) */
    struct mal_hash *hashes; /* out: (n_pieces), SHA-256 of each piece */
    double *sums;            /* out: (n_pieces), of squares */
    int64_t n;
    enum mal_dtype w_dtype, dtype;
};

/* Pieces of `bytes` as they are hashed (a multiple of 64), the last one of each tensor
 * may be shorter. The sums have the same bits on every device: of elements k, k + 8, ...
 * of a piece each in order, added to that of its last n mod 8. NaN or infinite when an
 * element is. */
void mal_digest_pieces(struct mal_backend *be, int64_t bytes,
                       const struct mal_pieces *list, size_t n);

static inline int64_t mal_n_pieces(const struct mal_pieces *run, int64_t bytes) {
    int64_t each = bytes / (int64_t)mal_dtype_size(run->dtype);
    return (run->n + each - 1) / each;
}

#endif
