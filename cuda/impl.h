/* impl.h - the device "cuda:N": its struct and its operations, a family per file.
 *
 * Everything is queued on one stream; a queue beside it is a second such struct with a
 * stream that is preferred. An operation launches kernels and calls libraries;
 * it neither allocates nor waits. What fails is recorded with mal_cuda_check().
 *
 * Kernels see fp16 and bf16 as uint16_t and convert with core/round.h, the same code the
 * CPU runs. They are launched with MAL_LAUNCH and take dynamic shared memory with
 * MAL_SHARED only, so that tests/cuda_host can run them without a device. */
#ifndef MAL_CUDA_IMPL_H
#define MAL_CUDA_IMPL_H

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cusolverDn.h>

#include "core/backend_impl.h"

struct mal_cuda {
    struct mal_backend base;
    int index;
    int n_sms;
    bool exact;        /* operands of products are rounded nowhere */
    bool emulates64;   /* cuBLAS makes products in fp64 of such of integers, */
    bool emulates_all; /* also where that is not faster */
    cudaStream_t stream;
    cublasHandle_t blas;
    cusolverDnHandle_t solver;
    cusolverDnParams_t solver_params;
    char *work; /* device memory: scratch of single operations, so that none allocates */
    size_t work_bytes;
    void *blas_work; /* device memory: cuBLAS' scratch */
    size_t blas_bytes;
    char *solver_host; /* the solver's scratch in host memory */
    size_t solver_host_bytes;
    int *info; /* device memory: what the solver reports */

    void *pinned; /* host memory that was given back, for who asks next; memory.cu */

    struct mal_cuda_block *blocks; /* allocations that live */
    size_t n_blocks, room_blocks;
};

/* Records what a call of the runtime, cuBLAS or cuSOLVER returned; true when it
 * succeeded. `what` is the call or the kernel. */
bool mal_cuda_check(struct mal_cuda *cu, cudaError_t code, const char *what);
bool mal_cuda_check_blas(struct mal_cuda *cu, cublasStatus_t code, const char *what);
bool mal_cuda_check_solver(struct mal_cuda *cu, cusolverStatus_t code, const char *what);

static inline struct mal_cuda *mal_cuda_of(struct mal_backend *be) {
    struct mal_cuda *cu = (struct mal_cuda *)be;
    (void)cudaSetDevice(cu->index); /* of this thread; next to nothing where it is set */
    return cu;
}

static inline int64_t mal_cuda_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- Launching ---- */

#ifdef MAL_CUDA_ON_HOST
#    define MAL_LAUNCH(cu, kernel, grid, block, shared, ...)      \
        (mal_host_launch((grid), (block), (shared), (cu)->stream, \
                         [=] { kernel(__VA_ARGS__); }),           \
         mal_cuda_check((cu), cudaGetLastError(), #kernel))
#    define MAL_SHARED(type, name) type *name = (type *)mal_host_shared()
#else
#    define MAL_LAUNCH(cu, kernel, grid, block, shared, ...)               \
        (kernel<<<(grid), (block), (shared), (cu)->stream>>>(__VA_ARGS__), \
         mal_cuda_check((cu), cudaGetLastError(), #kernel))
#    define MAL_SHARED(type, name)                         \
        extern __shared__ __align__(16) char mal_shared[]; \
        type *name = (type *)mal_shared
#endif

enum { MAL_THREADS = 256 }; /* of a block, where nothing else is said */

/* Order of the blocks of solve_rows64.cu; small on the host, so that tests have several.
 */
#ifdef MAL_CUDA_ON_HOST
enum { MAL_INVERSE_BLOCK = 64 };
#else
enum { MAL_INVERSE_BLOCK = 512 };
#endif

/* Blocks of MAL_THREADS for n elements, a thread taking every grid-th: no more than fill
 * the device. */
static inline unsigned mal_cuda_grid(const struct mal_cuda *cu, int64_t n) {
    int64_t blocks = (n + MAL_THREADS - 1) / MAL_THREADS, most = 16 * (int64_t)cu->n_sms;
    return (unsigned)(blocks < most ? blocks : most);
}

/* Of a block that has n things to do: whole warps, MAL_THREADS at most. */
static inline unsigned mal_cuda_threads(int64_t n) {
    return n < MAL_THREADS ? (unsigned)(n + 31) / 32 * 32 : (unsigned)MAL_THREADS;
}

/* For kernels over n elements with mal_cuda_grid() blocks. */
#define MAL_EACH(i, n)                                                        \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n); \
         i += (int64_t)gridDim.x * blockDim.x)

/* The same over rows: blocks of MAL_THREADS for the columns, and of them as many as fill
 * the device, each taking every gridDim.y-th row. */
static inline dim3 mal_cuda_grid_rows(const struct mal_cuda *cu, int64_t n, int64_t c) {
    int64_t across = (c + 4 * MAL_THREADS - 1) / (4 * MAL_THREADS);
    int64_t down = (16 * (int64_t)cu->n_sms + across - 1) / across;
    return dim3((unsigned)across, (unsigned)(down < n ? down : n));
}

#define MAL_EACH_ROW(i, n) for (int64_t i = blockIdx.y; i < (n); i += gridDim.y)

/* out[0] = the sum of part (n), or that added `onto` what is there; device memory. */
void mal_cuda_add_parts(struct mal_cuda *cu, unsigned n, const double *part, bool onto,
                        double *out); /* reduce.cu */

/* ---- Operations: as backend_impl.h ---- */

/* memory.cu */
void *mal_cuda_alloc(struct mal_backend *be, size_t bytes);
void mal_cuda_free(struct mal_backend *be, void *mem);
void *mal_cuda_alloc_host(struct mal_backend *be, size_t bytes);
void mal_cuda_free_host(struct mal_backend *be, void *mem);
size_t mal_cuda_available(struct mal_backend *be);
void mal_cuda_upload(struct mal_backend *be, void *dst, const void *host, size_t bytes);
void mal_cuda_download(struct mal_backend *be, void *host, const void *src, size_t bytes);
void mal_cuda_copy(struct mal_backend *be, void *dst, const void *src, size_t bytes);
void mal_cuda_zero(struct mal_backend *be, void *dst, size_t bytes);
void mal_cuda_sync(struct mal_backend *be);

/* gemm.cu */
void mal_cuda_gemm(struct mal_backend *be, const struct mal_gemm *g);

/* linalg64.cu, potrf64.cu, solve_rows64.cu, convert.cu */
void mal_cuda_gemm64(struct mal_backend *be, const struct mal_gemm64 *g);
void mal_cuda_syrk64(struct mal_backend *be, int64_t n, int64_t k, double alpha,
                     const float *a, int64_t lda, bool trans, double beta, double *c,
                     int64_t ldc);
void mal_cuda_potrf64(struct mal_backend *be, int64_t n, double *a, int64_t lda,
                      int64_t row0, double *info);
void mal_cuda_trsm64(struct mal_backend *be, bool right, bool trans_l, int64_t m,
                     int64_t n, const double *l, int64_t ldl, double *b, int64_t ldb);
void mal_cuda_invert_blocks64(struct mal_backend *be, int64_t n, const double *l,
                              int64_t ldl, double *inverses);
void mal_cuda_solve_rows64(struct mal_backend *be, bool first, int64_t m, int64_t n,
                           const double *l, int64_t ldl, const double *inverses,
                           double *b, int64_t ldb);
void mal_cuda_qr64(struct mal_backend *be, int64_t m, int64_t n, double *a, double *r);
void mal_cuda_transpose_lower64(struct mal_backend *be, int64_t n, const double *l,
                                double *y);
void mal_cuda_convert(struct mal_backend *be, int64_t n, void *y, enum mal_dtype y_dtype,
                      const void *x, enum mal_dtype x_dtype);
void mal_cuda_axpby64(struct mal_backend *be, const struct mal_axpby64 *add);
void mal_cuda_round_rows(struct mal_backend *be, int64_t n, int64_t c, const double *x,
                         bool transposed, void *y, enum mal_dtype y_dtype, double *sums);

/* embed.cu */
void mal_cuda_embed(struct mal_backend *be, int64_t n, int64_t c, const int32_t *ids,
                    const int32_t *pos, const void *tokens, enum mal_dtype tokens_dtype,
                    float scale, const float *positions, float *y);
void mal_cuda_add(struct mal_backend *be, int64_t n, const float *x, float *y);
void mal_cuda_gather_rows(struct mal_backend *be, int64_t n, int64_t c,
                          const int32_t *rows, const float *x, int64_t ldx, float *y,
                          int64_t ldy);
void mal_cuda_scatter_rows(struct mal_backend *be, int64_t n, int64_t c,
                           const int32_t *rows, const float *x, int64_t ldx, float *y,
                           int64_t ldy);

/* norm.cu */
void mal_cuda_norm_fwd(struct mal_backend *be, const struct mal_norm *norm,
                       const float *x, void *y, enum mal_dtype y_dtype);
void mal_cuda_norm_bwd(struct mal_backend *be, const struct mal_norm *norm,
                       const float *x, const float *dy, float *dx);
void mal_cuda_head_norm_fwd(struct mal_backend *be, const struct mal_head_norm *norm,
                            float *x, int64_t ldx);
void mal_cuda_head_norm_bwd(struct mal_backend *be, const struct mal_head_norm *norm,
                            const float *x, int64_t ldx, float *dy, int64_t ld_dy);

/* act.cu */
void mal_cuda_cap_fwd(struct mal_backend *be, int64_t n, float cap, float *x);
void mal_cuda_cap_bwd(struct mal_backend *be, int64_t n, float cap, const float *y,
                      float *dy);
void mal_cuda_act_fwd(struct mal_backend *be, enum mal_act act, int64_t n, int64_t c,
                      const float *x, const float *bias, void *y, enum mal_dtype y_dtype);
void mal_cuda_act_bwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *x,
                      const float *dy, float *dx);
void mal_cuda_glu_fwd(struct mal_backend *be, enum mal_act act, int64_t n,
                      const float *gate, const float *x, void *y, enum mal_dtype y_dtype);
void mal_cuda_glu_bwd(struct mal_backend *be, enum mal_act act, int64_t n,
                      const float *gate, const float *x, const float *dy, float *dgate,
                      float *dx);

/* rope.cu */
void mal_cuda_rope_angles(struct mal_backend *be, int64_t n, int64_t half,
                          const int32_t *pos, const float *inv_freq, float scale,
                          float *cs);
void mal_cuda_rope(struct mal_backend *be, const struct mal_rope *rope, float *x,
                   int64_t ldx);

/* attn_fwd.cu, attn_bwd.cu */
void mal_cuda_attn_fwd(struct mal_backend *be, const struct mal_attn *attn, void *out,
                       enum mal_dtype out_dtype, int64_t ld_out, float *norm);
void mal_cuda_attn_bwd(struct mal_backend *be, const struct mal_attn *attn,
                       const float *out, int64_t ld_out, const float *norm,
                       const float *dout, int64_t ld_dout,
                       const struct mal_attn_grads *grads);

/* xent.cu */
void mal_cuda_xent_fwd(struct mal_backend *be, int64_t n, int64_t v, const float *logits,
                       const int32_t *label, float *logprob, int32_t *rank,
                       int32_t *argmax);
void mal_cuda_xent_bwd(struct mal_backend *be, int64_t n, int64_t v, float *logits,
                       const int32_t *label, const float *scale);
void mal_cuda_kl(struct mal_backend *be, int64_t n, int64_t v, const float *base,
                 float *logits, const float *scale, float *kl);
void mal_cuda_kl_now(struct mal_backend *be, int64_t n, int64_t v, const float *base,
                     float *logits, const float *scale, float *kl);

/* editor_ops.cu */
void mal_cuda_normalize_rows(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                             const float *u, int64_t ldu, const float *g, int64_t ldg,
                             const float *mean, const float *std, float *h);
void mal_cuda_column_stats(struct mal_backend *be, int64_t n, int64_t du, int64_t dg,
                           const float *u, int64_t ldu, const float *g, int64_t ldg,
                           double *mean, double *m2);
void mal_cuda_block_fwd(struct mal_backend *be, int64_t n, int64_t c, const float *z,
                        const float *scale, const float *shift, float *h);
void mal_cuda_edit_diffs(struct mal_backend *be, int64_t n, int64_t da, int64_t dc,
                         float lr, const float *a, int64_t lda, const float *b,
                         int64_t ldb, const float *c, int64_t ldc, float *d, int64_t ldd);

/* train_ops.cu */
void mal_cuda_block_bwd(struct mal_backend *be, int64_t n, int64_t c, const float *dh,
                        const float *scale, float *z, float *dscale, float *dshift,
                        float *dbias);
void mal_cuda_edit_diffs_bwd(struct mal_backend *be, const struct mal_edit_diffs_bwd *g);
void mal_cuda_dot(struct mal_backend *be, int64_t n, int64_t c, const void *a,
                  enum mal_dtype a_dtype, int64_t lda, const void *b,
                  enum mal_dtype b_dtype, int64_t ldb, double *out);
void mal_cuda_adam_step(struct mal_backend *be, const struct mal_adam *adam);

/* versioned.cu */
void mal_cuda_apply_factors(struct mal_backend *be, int64_t d_in, int64_t d_out,
                            int64_t rank, const float *l, const float *r, bool transposed,
                            float *t);
void mal_cuda_apply_dense(struct mal_backend *be, int64_t d_in, int64_t d_out,
                          const float *s, bool transposed, float *t);
void mal_cuda_round_weight(struct mal_backend *be, int64_t n, const void *w0,
                           const float *t, enum mal_dtype dtype, void *w,
                           enum mal_dtype w_dtype);
void mal_cuda_sum_squares(struct mal_backend *be, int64_t n, const float *x, double *out);

/* digest.cu */
void mal_cuda_digest_pieces(struct mal_backend *be, int64_t bytes,
                            const struct mal_pieces *list, size_t n);

#endif
