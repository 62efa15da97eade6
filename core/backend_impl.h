/* backend_impl.h - what a device implements: one function per operation of backend.h.
 *
 * The wrappers in backend_ops.c check arguments, fill in leading dimensions given as 0,
 * skip empty operations and those after a sticky error; an implementation does none of
 * that. It reports a failure once with mal_fail(&be->error, MAL_DEVICE, ...). */
#ifndef MAL_BACKEND_IMPL_H
#define MAL_BACKEND_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "core/backend.h"

/* Function pointers only, and every one is set: mal_backend_init() checks. */
struct mal_backend_ops {
    bool (*create_beside)(struct mal_backend **out, struct mal_backend *first,
                          struct mal_error *err);
    void (*destroy)(struct mal_backend *be);

    void *(*alloc)(struct mal_backend *be, size_t bytes); /* keeps be->bytes */
    void (*free)(struct mal_backend *be, void *mem);      /* mem is not NULL */
    void *(*alloc_host)(struct mal_backend *be, size_t bytes);
    void (*free_host)(struct mal_backend *be, void *mem); /* mem is not NULL */
    size_t (*available)(struct mal_backend *be);
    void (*upload)(struct mal_backend *be, void *dst, const void *host, size_t bytes);
    void (*download)(struct mal_backend *be, void *host, const void *src, size_t bytes);
    void (*copy)(struct mal_backend *be, void *dst, const void *src, size_t bytes);
    void (*zero)(struct mal_backend *be, void *dst, size_t bytes);
    void (*sync)(struct mal_backend *be);

    void (*gemm)(struct mal_backend *be, const struct mal_gemm *g);
    void (*gemm64)(struct mal_backend *be, const struct mal_gemm64 *g);
    void (*syrk64)(struct mal_backend *be, int64_t n, int64_t k, double alpha,
                   const float *a, int64_t lda, bool trans, double beta, double *c,
                   int64_t ldc);
    void (*potrf64)(struct mal_backend *be, int64_t n, double *a, int64_t lda,
                    int64_t row0, double *info);
    void (*trsm64)(struct mal_backend *be, bool right, bool trans_l, int64_t m, int64_t n,
                   const double *l, int64_t ldl, double *b, int64_t ldb);
    void (*invert_blocks64)(struct mal_backend *be, int64_t n, const double *l,
                            int64_t ldl, double *inverses);
    /* inverses may be NULL */
    void (*solve_rows64)(struct mal_backend *be, bool first, int64_t m, int64_t n,
                         const double *l, int64_t ldl, const double *inverses, double *b,
                         int64_t ldb);
    void (*qr64)(struct mal_backend *be, int64_t m, int64_t n, double *a, double *r);
    void (*transpose_lower64)(struct mal_backend *be, int64_t n, const double *l,
                              double *y);
    void (*convert)(struct mal_backend *be, int64_t n, void *y, enum mal_dtype y_dtype,
                    const void *x, enum mal_dtype x_dtype);
    void (*axpby64)(struct mal_backend *be, const struct mal_axpby64 *add);
    void (*round_rows)(struct mal_backend *be, int64_t n, int64_t c, const double *x,
                       bool transposed, void *y, enum mal_dtype y_dtype, double *sums);

    void (*embed)(struct mal_backend *be, int64_t n, int64_t c, const int32_t *ids,
                  const int32_t *pos, const void *tokens, enum mal_dtype tokens_dtype,
                  float scale, const float *positions, float *y);
    void (*norm_fwd)(struct mal_backend *be, const struct mal_norm *norm, const float *x,
                     void *y, enum mal_dtype y_dtype);
    void (*norm_bwd)(struct mal_backend *be, const struct mal_norm *norm, const float *x,
                     const float *dy, float *dx);
    void (*head_norm_fwd)(struct mal_backend *be, const struct mal_head_norm *norm,
                          float *x, int64_t ldx);
    void (*head_norm_bwd)(struct mal_backend *be, const struct mal_head_norm *norm,
                          const float *x, int64_t ldx, float *dy, int64_t ld_dy);
    void (*act_fwd)(struct mal_backend *be, enum mal_act act, int64_t n, int64_t c,
                    const float *x, const float *bias, void *y, enum mal_dtype y_dtype);
    void (*act_bwd)(struct mal_backend *be, enum mal_act act, int64_t n, const float *x,
                    const float *dy, float *dx);
    void (*glu_fwd)(struct mal_backend *be, enum mal_act act, int64_t n,
                    const float *gate, const float *x, void *y, enum mal_dtype y_dtype);
    void (*glu_bwd)(struct mal_backend *be, enum mal_act act, int64_t n,
                    const float *gate, const float *x, const float *dy, float *dgate,
                    float *dx);
    void (*rope_angles)(struct mal_backend *be, int64_t n, int64_t half,
                        const int32_t *pos, const float *inv_freq, float scale,
                        float *cs);
    void (*rope)(struct mal_backend *be, const struct mal_rope *rope, float *x,
                 int64_t ldx);
    void (*attn_fwd)(struct mal_backend *be, const struct mal_attn *attn, void *out,
                     enum mal_dtype out_dtype, int64_t ld_out, float *norm);
    void (*attn_bwd)(struct mal_backend *be, const struct mal_attn *attn,
                     const float *out, int64_t ld_out, const float *norm,
                     const float *dout, int64_t ld_dout,
                     const struct mal_attn_grads *grads);
    void (*cap_fwd)(struct mal_backend *be, int64_t n, float cap, float *x);
    void (*cap_bwd)(struct mal_backend *be, int64_t n, float cap, const float *y,
                    float *dy);
    void (*add)(struct mal_backend *be, int64_t n, const float *x, float *y);
    void (*gather_rows)(struct mal_backend *be, int64_t n, int64_t c, const int32_t *rows,
                        const float *x, int64_t ldx, float *y, int64_t ldy);
    void (*scatter_rows)(struct mal_backend *be, int64_t n, int64_t c,
                         const int32_t *rows, const float *x, int64_t ldx, float *y,
                         int64_t ldy);
    void (*xent_fwd)(struct mal_backend *be, int64_t n, int64_t v, const float *logits,
                     const int32_t *label, float *logprob, int32_t *rank,
                     int32_t *argmax);
    void (*xent_bwd)(struct mal_backend *be, int64_t n, int64_t v, float *logits,
                     const int32_t *label, const float *scale);
    void (*kl)(struct mal_backend *be, int64_t n, int64_t v, const float *base,
               float *logits, const float *scale, float *kl);
    void (*kl_now)(struct mal_backend *be, int64_t n, int64_t v, const float *base,
                   float *logits, const float *scale, float *kl);

    void (*normalize_rows)(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                           const float *u, int64_t ldu, const float *g, int64_t ldg,
                           const float *mean, const float *std, float *h);
    void (*column_stats)(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                         const float *u, int64_t ldu, const float *g, int64_t ldg,
                         double *mean, double *m2);
    void (*block_fwd)(struct mal_backend *be, int64_t n, int64_t c, const float *z,
                      const float *scale, const float *shift, float *h);
    void (*edit_diffs)(struct mal_backend *be, int64_t n, int64_t da, int64_t dc,
                       float lr, const float *a, int64_t lda, const float *b, int64_t ldb,
                       const float *c, int64_t ldc, float *d, int64_t ldd);

    void (*block_bwd)(struct mal_backend *be, int64_t n, int64_t c, const float *dh,
                      const float *scale, float *z, float *dscale, float *dshift,
                      float *dbias);
    void (*edit_diffs_bwd)(struct mal_backend *be, const struct mal_edit_diffs_bwd *g);
    void (*dot)(struct mal_backend *be, int64_t n, int64_t c, const void *a,
                enum mal_dtype a_dtype, int64_t lda, const void *b,
                enum mal_dtype b_dtype, int64_t ldb, double *out);
    void (*adam_step)(struct mal_backend *be, const struct mal_adam *adam);

    void (*apply_factors)(struct mal_backend *be, int64_t d_in, int64_t d_out,
                          int64_t rank, const float *l, const float *r, bool transposed,
                          float *t);
    void (*apply_dense)(struct mal_backend *be, int64_t d_in, int64_t d_out,
                        const float *s, bool transposed, float *t);
    void (*round_weight)(struct mal_backend *be, int64_t n, const void *w0,
                         const float *t, enum mal_dtype dtype, void *w,
                         enum mal_dtype w_dtype);
    void (*sum_squares)(struct mal_backend *be, int64_t n, const float *x, double *out);
    void (*digest_pieces)(struct mal_backend *be, int64_t bytes,
                          const struct mal_pieces *list, size_t n);
};

/* A device's own struct begins with this one. */
struct mal_backend {
    const struct mal_backend_ops *ops;
    struct mal_error error;  /* the first one; MAL_OK: none */
    size_t bytes;            /* allocated now; other threads look at it */
    bool on_host;            /* device memory is host memory */
    bool takes_bf16;         /* bf16 where bf16 weights are multiplied with it: y_dtype */
    int64_t slice_fma;       /* as mal_backend_slice_fma() */
    int64_t breadth;         /* as mal_backend_breadth() */
    int64_t inverse_block;   /* order of blocks that it inverts; 0: it inverts none */
    bool (*release)(void *); /* as mal_backend_on_shortage(); NULL: nobody's */
    void *release_arg;
    char name[32];
    char description[256];
};

/* No error sticks. */
static inline bool mal_backend_runs(const struct mal_backend *be) {
    return be->error.status == MAL_OK;
}

/* Allocated, or (negative) given back. */
static inline void mal_backend_count(struct mal_backend *be, int64_t bytes) {
    __atomic_fetch_add(&be->bytes, (size_t)bytes, __ATOMIC_RELAXED);
}

/* Asserts that every member of `ops` is set. */
void mal_backend_init(struct mal_backend *be, const struct mal_backend_ops *ops,
                      const char *name);

/* `bf16`: products with bf16 weights are computed in bf16; MAL_DEVICE where the processor
 * has no instructions for it. */
bool mal_cpu_create(struct mal_backend **out, bool bf16, struct mal_error *err) MAL_CHECK;

enum mal_cuda_kind {
    MAL_CUDA_ROUNDED,  /* "cuda:N": activations as the weights they are multiplied with */
    MAL_CUDA_FP32,     /* "cuda:N:fp32": operands of products are rounded nowhere */
    MAL_CUDA_EMULATED, /* "cuda:N:emulated": the same, and products in fp64 are made as
                        * where the device's own are slow: of exact ones of integers */
};

/* What makes the devices "cuda:N" (cuda/cuda.h); another one stands in for it in tests on
 * machines without a GPU. */
typedef bool (*mal_cuda_create_fn)(struct mal_backend **out, int index,
                                   enum mal_cuda_kind kind, struct mal_error *err);
void mal_backend_use_cuda(mal_cuda_create_fn create);

#ifdef __cplusplus
}
#endif

#endif
