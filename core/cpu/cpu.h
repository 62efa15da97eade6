/* cpu.h - the device "cpu": its struct and its operations, a family per file.
 *
 * Loops are shared between threads with OpenMP from PARALLEL_ELEMENTS elements on.
 * Results do not depend on the number of threads except through BLAS. */
#ifndef MAL_CPU_H
#define MAL_CPU_H

#include "core/backend_impl.h"

/* Elements below which waking a second thread costs more than it saves. */
enum { PARALLEL_ELEMENTS = 1 << 14 };

struct mal_cpu {
    struct mal_backend base;
    double *work; /* scratch of single operations, so that none allocates */
    int64_t n_work;
    bool bf16; /* products with bf16 weights are computed in bf16 */
};

/* memory.c */
void *mal_cpu_alloc(struct mal_backend *be, size_t bytes);
void mal_cpu_free(struct mal_backend *be, void *mem);
void *mal_cpu_alloc_host(struct mal_backend *be, size_t bytes);
void mal_cpu_free_host(struct mal_backend *be, void *mem);
size_t mal_cpu_available(struct mal_backend *be);
void mal_cpu_upload(struct mal_backend *be, void *dst, const void *host, size_t bytes);
void mal_cpu_download(struct mal_backend *be, void *host, const void *src, size_t bytes);
void mal_cpu_copy(struct mal_backend *be, void *dst, const void *src, size_t bytes);
void mal_cpu_zero(struct mal_backend *be, void *dst, size_t bytes);

/* gemm.c, gemm16.c, gemm_bf16.c, gemm_panels.c, gemm_thin.c */
enum { THIN_ROWS = 8 };

void mal_cpu_gemm(struct mal_backend *be, const struct mal_gemm *g);
/* By the calling thread alone: rows [i, i + rows) and columns [j, j + cols) of c := alpha
 * sums + beta c + bias, or, when not the `first` sums, c += alpha sums. */
void mal_cpu_gemm_finish(const struct mal_gemm *g, int64_t i, int64_t rows, int64_t j,
                         int64_t cols, bool first, const float *sums, int64_t ld_sums);
/* Where there are few rows of a; false: nothing was done, as it would not pay. */
bool mal_cpu_gemm_thin(struct mal_backend *be, const struct mal_gemm *g);
/* b is fp16 or bf16. */
void mal_cpu_gemm16(struct mal_backend *be, const struct mal_gemm *g);
/* b is bf16, and the processor has instructions for it. */
void mal_cpu_gemm_bf16(struct mal_backend *be, const struct mal_gemm *g);
bool mal_cpu_has_bf16(void);

/* How weights are made ready in panels and multiplied with (gemm_panels.c); words are of
 * 32 bits. */
struct mal_panels {
    int64_t strip;         /* columns */
    int64_t strips, depth; /* strips and rows of a panel, at most */
    int64_t panel_words;
    int64_t scratch_words; /* the panel and, behind it, what multiply() works in */
    /* Rows [p, p + depth) and columns [j, j + cols) of op(b). */
    void (*make)(const struct mal_gemm *g, int64_t p, int64_t depth, int64_t j,
                 int64_t cols, void *panel);
    /* Adds the product of all rows of op(a) with them to c. */
    void (*multiply)(const struct mal_gemm *g, int64_t p, int64_t depth, int64_t j,
                     int64_t cols, const void *panel, void *scratch);
};

void mal_cpu_gemm_panels(struct mal_backend *be, const struct mal_gemm *g,
                         const struct mal_panels *panels);

/* linalg64.c */
void mal_cpu_gemm64(struct mal_backend *be, const struct mal_gemm64 *g);
void mal_cpu_syrk64(struct mal_backend *be, int64_t n, int64_t k, double alpha,
                    const float *a, int64_t lda, bool trans, double beta, double *c,
                    int64_t ldc);
void mal_cpu_potrf64(struct mal_backend *be, int64_t n, double *a, int64_t lda,
                     int64_t row0, double *info);
void mal_cpu_trsm64(struct mal_backend *be, bool right, bool trans_l, int64_t m,
                    int64_t n, const double *l, int64_t ldl, double *b, int64_t ldb);
void mal_cpu_solve_rows64(struct mal_backend *be, bool first, int64_t m, int64_t n,
                          const double *l, int64_t ldl, const double *inverses, double *b,
                          int64_t ldb);
void mal_cpu_qr64(struct mal_backend *be, int64_t m, int64_t n, double *a, double *r);
void mal_cpu_transpose_lower64(struct mal_backend *be, int64_t n, const double *l,
                               double *y);
void mal_cpu_convert(struct mal_backend *be, int64_t n, void *y, enum mal_dtype y_dtype,
                     const void *x, enum mal_dtype x_dtype);
void mal_cpu_axpby64(struct mal_backend *be, const struct mal_axpby64 *add);
void mal_cpu_round_rows(struct mal_backend *be, int64_t n, int64_t c, const double *x,
                        bool transposed, void *y, enum mal_dtype y_dtype, double *sums);

/* embed.c */
/* y += x by the calling thread alone. */
void mal_cpu_add_row(int64_t n, const float *x, float *y);
void mal_cpu_embed(struct mal_backend *be, int64_t n, int64_t c, const int32_t *ids,
                   const int32_t *pos, const void *tokens, enum mal_dtype tokens_dtype,
                   float scale, const float *positions, float *y);
void mal_cpu_add(struct mal_backend *be, int64_t n, const float *x, float *y);
void mal_cpu_gather_rows(struct mal_backend *be, int64_t n, int64_t c,
                         const int32_t *rows, const float *x, int64_t ldx, float *y,
                         int64_t ldy);
void mal_cpu_scatter_rows(struct mal_backend *be, int64_t n, int64_t c,
                          const int32_t *rows, const float *x, int64_t ldx, float *y,
                          int64_t ldy);

/* norm.c; a y_dtype is fp32 here and below */
void mal_cpu_norm_fwd(struct mal_backend *be, const struct mal_norm *norm, const float *x,
                      void *y, enum mal_dtype y_dtype);
void mal_cpu_norm_bwd(struct mal_backend *be, const struct mal_norm *norm, const float *x,
                      const float *dy, float *dx);
void mal_cpu_head_norm_fwd(struct mal_backend *be, const struct mal_head_norm *norm,
                           float *x, int64_t ldx);
void mal_cpu_head_norm_bwd(struct mal_backend *be, const struct mal_head_norm *norm,
                           const float *x, int64_t ldx, float *dy, int64_t ld_dy);

/* act.c */
void mal_cpu_cap_fwd(struct mal_backend *be, int64_t n, float cap, float *x);
void mal_cpu_cap_bwd(struct mal_backend *be, int64_t n, float cap, const float *y,
                     float *dy);
void mal_cpu_act_fwd(struct mal_backend *be, enum mal_act act, int64_t n, int64_t c,
                     const float *x, const float *bias, void *y, enum mal_dtype y_dtype);
void mal_cpu_act_bwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *x,
                     const float *dy, float *dx);

void mal_cpu_glu_fwd(struct mal_backend *be, enum mal_act act, int64_t n,
                     const float *gate, const float *x, void *y, enum mal_dtype y_dtype);
void mal_cpu_glu_bwd(struct mal_backend *be, enum mal_act act, int64_t n,
                     const float *gate, const float *x, const float *dy, float *dgate,
                     float *dx);

/* rope.c */
void mal_cpu_rope_angles(struct mal_backend *be, int64_t n, int64_t half,
                         const int32_t *pos, const float *inv_freq, float scale,
                         float *cs);
void mal_cpu_rope(struct mal_backend *be, const struct mal_rope *rope, float *x,
                  int64_t ldx);

/* attn_fwd.c, attn_bwd.c */
void mal_cpu_attn_fwd(struct mal_backend *be, const struct mal_attn *attn, void *out,
                      enum mal_dtype out_dtype, int64_t ld_out, float *norm);
void mal_cpu_attn_bwd(struct mal_backend *be, const struct mal_attn *attn,
                      const float *out, int64_t ld_out, const float *norm,
                      const float *dout, int64_t ld_dout,
                      const struct mal_attn_grads *grads);

/* xent.c */
void mal_cpu_xent_fwd(struct mal_backend *be, int64_t n, int64_t v, const float *logits,
                      const int32_t *label, float *logprob, int32_t *rank,
                      int32_t *argmax);
void mal_cpu_xent_bwd(struct mal_backend *be, int64_t n, int64_t v, float *logits,
                      const int32_t *label, const float *scale);
void mal_cpu_kl(struct mal_backend *be, int64_t n, int64_t v, const float *base,
                float *logits, const float *scale, float *kl);
void mal_cpu_kl_now(struct mal_backend *be, int64_t n, int64_t v, const float *base,
                    float *logits, const float *scale, float *kl);

/* editor_ops.c */
/* By the calling thread alone: <a, b> in fp64; d = factor * c. */
double mal_cpu_dot_row(int64_t n, const float *a, const float *b);
void mal_cpu_scale_row(int64_t n, float factor, const float *c, float *d);
void mal_cpu_normalize_rows(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                            const float *u, int64_t ldu, const float *g, int64_t ldg,
                            const float *mean, const float *std, float *h);
void mal_cpu_column_stats(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                          const float *u, int64_t ldu, const float *g, int64_t ldg,
                          double *mean, double *m2);
void mal_cpu_block_fwd(struct mal_backend *be, int64_t n, int64_t c, const float *z,
                       const float *scale, const float *shift, float *h);
void mal_cpu_edit_diffs(struct mal_backend *be, int64_t n, int64_t da, int64_t dc,
                        float lr, const float *a, int64_t lda, const float *b,
                        int64_t ldb, const float *c, int64_t ldc, float *d, int64_t ldd);

/* train_ops.c */
void mal_cpu_block_bwd(struct mal_backend *be, int64_t n, int64_t c, const float *dh,
                       const float *scale, float *z, float *dscale, float *dshift,
                       float *dbias);
void mal_cpu_edit_diffs_bwd(struct mal_backend *be, const struct mal_edit_diffs_bwd *g);
void mal_cpu_dot(struct mal_backend *be, int64_t n, int64_t c, const void *a,
                 enum mal_dtype a_dtype, int64_t lda, const void *b,
                 enum mal_dtype b_dtype, int64_t ldb, double *out);
void mal_cpu_adam_step(struct mal_backend *be, const struct mal_adam *adam);

/* versioned.c */
void mal_cpu_apply_factors(struct mal_backend *be, int64_t d_in, int64_t d_out,
                           int64_t rank, const float *l, const float *r, bool transposed,
                           float *t);
void mal_cpu_apply_dense(struct mal_backend *be, int64_t d_in, int64_t d_out,
                         const float *s, bool transposed, float *t);
void mal_cpu_round_weight(struct mal_backend *be, int64_t n, const void *w0,
                          const float *t, enum mal_dtype dtype, void *w,
                          enum mal_dtype w_dtype);
void mal_cpu_sum_squares(struct mal_backend *be, int64_t n, const float *x, double *out);

/* digest.c */
void mal_cpu_digest_pieces(struct mal_backend *be, int64_t bytes,
                           const struct mal_pieces *list, size_t n);

#endif
