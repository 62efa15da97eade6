/* device.cu - the device "cuda:N": its table of operations, created and destroyed. */
#include <stdio.h>
#include <stdlib.h>

#ifndef MAL_CUDA_ON_HOST
#    include <dlfcn.h>
#endif

#include "cuda/cuda.h"
#include "cuda/impl.h"
#include "cuda/libraries.h"

/* Holds one 16-bit copy of 20,480 rows of 16,384 columns, or fp64 slices of 2,048 rows of
 * them, whichever an operation asks for; larger operands are worked in slices. Small on
 * the host, so that tests have several. */
#ifdef MAL_CUDA_ON_HOST
static const size_t WORK_BYTES = (size_t)256 << 10;
#else
static const size_t WORK_BYTES = (size_t)768 << 20;
#endif
/* Of a queue beside another, whose work is small. */
static const size_t BESIDE_BYTES = (size_t)128 << 20;
/* What cuBLAS asks for on Hopper, and what it takes to make products in fp64 of others.
 */
static const size_t BLAS_BYTES = (size_t)32 << 20;
static const size_t EMULATION_BYTES = (size_t)512 << 20;

/* Of fp32 over fp64 in speed, from which fp64 is slow: 2 on the GPUs of data centres, 32
 * and more on others. */
enum { SLOW_FP64 = 8 };

/* ---- Errors ---- */

static bool failed(struct mal_cuda *cu, const char *what, const char *why) {
    return mal_fail(&cu->base.error, MAL_DEVICE, "%s: %s: %s", cu->base.name, what, why);
}

bool mal_cuda_check(struct mal_cuda *cu, cudaError_t code, const char *what) {
    return code == cudaSuccess || failed(cu, what, cudaGetErrorString(code));
}

bool mal_cuda_check_blas(struct mal_cuda *cu, cublasStatus_t code, const char *what) {
    return code == CUBLAS_STATUS_SUCCESS ||
           failed(cu, what, mal_blas()->status_text(code));
}

bool mal_cuda_check_solver(struct mal_cuda *cu, cusolverStatus_t code, const char *what) {
    if (code == CUSOLVER_STATUS_SUCCESS) return true;
    char text[48];
    snprintf(text, sizeof text, "cuSOLVER status %d", (int)code);
    return failed(cu, what, text);
}

/* ---- The table ---- */

static void destroy(struct mal_backend *be) {
    struct mal_cuda *cu = mal_cuda_of(be);
    if (cu->stream) (void)cudaStreamSynchronize(cu->stream);
    if (cu->solver_params) (void)mal_solver()->destroy_params(cu->solver_params);
    if (cu->solver) (void)mal_solver()->destroy(cu->solver);
    if (cu->blas) (void)mal_blas()->destroy(cu->blas);
    if (cu->pinned) (void)cudaFreeHost(cu->pinned);
    (void)cudaFree(cu->blas_work);
    (void)cudaFree(cu->work);
    (void)cudaFree(cu->info);
    if (cu->stream) (void)cudaStreamDestroy(cu->stream);
    free(cu->solver_host);
    free(cu->blocks);
    free(cu);
}

static bool create_beside(struct mal_backend **out, struct mal_backend *first,
                          struct mal_error *err);

static struct mal_backend_ops table(void) {
    struct mal_backend_ops ops = {};
    ops.create_beside = create_beside;
    ops.destroy = destroy;
#define OP(name) ops.name = mal_cuda_##name
    OP(alloc);
    OP(free);
    OP(alloc_host);
    OP(free_host);
    OP(available);
    OP(upload);
    OP(download);
    OP(copy);
    OP(zero);
    OP(sync);
    OP(gemm);
    OP(gemm64);
    OP(syrk64);
    OP(potrf64);
    OP(trsm64);
    OP(invert_blocks64);
    OP(solve_rows64);
    OP(qr64);
    OP(transpose_lower64);
    OP(convert);
    OP(axpby64);
    OP(round_rows);
    OP(embed);
    OP(norm_fwd);
    OP(norm_bwd);
    OP(head_norm_fwd);
    OP(head_norm_bwd);
    OP(act_fwd);
    OP(act_bwd);
    OP(glu_fwd);
    OP(glu_bwd);
    OP(rope_angles);
    OP(rope);
    OP(attn_fwd);
    OP(attn_bwd);
    OP(cap_fwd);
    OP(cap_bwd);
    OP(add);
    OP(gather_rows);
    OP(scatter_rows);
    OP(xent_fwd);
    OP(xent_bwd);
    OP(kl);
    OP(kl_now);
    OP(normalize_rows);
    OP(column_stats);
    OP(block_fwd);
    OP(edit_diffs);
    OP(block_bwd);
    OP(edit_diffs_bwd);
    OP(dot);
    OP(adam_step);
    OP(apply_factors);
    OP(apply_dense);
    OP(round_weight);
    OP(sum_squares);
    OP(digest_pieces);
#undef OP
    return ops;
}

static const struct mal_backend_ops ops = table();

/* ---- Creation ---- */

/* The runtime needs memory to find out that there is no driver, and falls over without.
 */
static bool has_driver(void) {
#ifdef MAL_CUDA_ON_HOST
    return true;
#else
    static void *driver; /* stays loaded */
    if (!driver) driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    return driver != NULL;
#endif
}

/* The device's properties, or what stands in the way of using it. */
static bool find(int index, struct cudaDeviceProp *device, struct mal_error *err) {
    int n = 0, driver = 0;
    if (!has_driver())
        return mal_fail(err, MAL_DEVICE, "cuda:%d: no CUDA driver is installed", index);
    cudaError_t code = cudaGetDeviceCount(&n);
    if (code == cudaErrorInsufficientDriver &&
        cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0) {
        return mal_fail(err, MAL_DEVICE,
                        "cuda:%d: the driver is for CUDA %d.%d, this program needs %d.%d",
                        index, driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                        CUDART_VERSION % 1000 / 10);
    }
    if (code == cudaErrorNoDevice || (code == cudaSuccess && n == 0))
        return mal_fail(err, MAL_DEVICE, "cuda:%d: there is no CUDA device", index);
    if (code != cudaSuccess)
        return mal_fail(err, MAL_DEVICE, "cuda:%d: %s", index, cudaGetErrorString(code));
    if (index >= n)
        return mal_fail(err, MAL_DEVICE, "cuda:%d: the last CUDA device is cuda:%d",
                        index, n - 1);
    code = cudaGetDeviceProperties(device, index);
    if (code != cudaSuccess)
        return mal_fail(err, MAL_DEVICE, "cuda:%d: %s", index, cudaGetErrorString(code));
    return device->major >= 8 ||
           mal_fail(err, MAL_DEVICE,
                    "cuda:%d: %s has compute capability %d.%d, this program needs 8.0",
                    index, device->name, device->major, device->minor);
}

static void describe(struct mal_cuda *cu, const struct cudaDeviceProp *device) {
    int driver = 0;
    (void)cudaDriverGetVersion(&driver);
    snprintf(
        cu->base.description, sizeof cu->base.description,
        "%.96s, %.1f GiB, compute capability %d.%d, %d multiprocessors; CUDA %d.%d, driver for "
        "%d.%d",
        device->name, (double)device->totalGlobalMem / (1 << 30), device->major,
        device->minor, device->multiProcessorCount, CUDART_VERSION / 1000,
        CUDART_VERSION % 1000 / 10, driver / 1000, driver % 1000 / 10);
}

/* Freed memory stays with the pool. */
static bool keep_memory(struct mal_cuda *cu) {
    cudaMemPool_t pool;
    uint64_t keep = UINT64_MAX;
    return mal_cuda_check(cu, cudaDeviceGetDefaultMemPool(&pool, cu->index),
                          "memory pool") &&
           mal_cuda_check(
               cu, cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
               "memory pool");
}

static bool take_memory(struct mal_cuda *cu, size_t work_bytes) {
    void *mem = NULL;
    cu->work_bytes = work_bytes;
    if (!mal_cuda_check(cu, cudaMalloc(&mem, work_bytes), "workspace")) return false;
    cu->work = (char *)mem;
    cu->blas_bytes = cu->emulates64 ? EMULATION_BYTES : BLAS_BYTES;
    if (!mal_cuda_check(cu, cudaMalloc(&cu->blas_work, cu->blas_bytes),
                        "workspace of cuBLAS"))
        return false;
    if (!mal_cuda_check(cu, cudaMalloc(&mem, sizeof *cu->info), "workspace"))
        return false;
    cu->info = (int *)mem;
    return true;
}

/* cuBLAS' own workspace is given to it, so that it allocates nothing. */
static bool open_libraries(struct mal_cuda *cu) {
    return mal_cuda_load_libraries(&cu->base.error) &&
           mal_cuda_check_blas(cu, mal_blas()->create(&cu->blas), "cuBLAS") &&
           mal_cuda_check_blas(cu, mal_blas()->set_stream(cu->blas, cu->stream),
                               "cuBLAS") &&
           mal_cuda_check_blas(
               cu, mal_blas()->set_workspace(cu->blas, cu->blas_work, cu->blas_bytes),
               "cuBLAS") &&
           (!cu->emulates64 ||
            mal_cuda_check_blas(cu, mal_cuda_emulate64(cu->blas, cu->emulates_all),
                                "cuBLAS")) &&
           mal_cuda_check_solver(cu, mal_solver()->create(&cu->solver), "cuSOLVER") &&
           mal_cuda_check_solver(cu, mal_solver()->set_stream(cu->solver, cu->stream),
                                 "cuSOLVER") &&
           mal_cuda_check_solver(cu, mal_solver()->create_params(&cu->solver_params),
                                 "cuSOLVER");
}

/* A queue on the device, with what it needs; `preferred` to others there. */
static bool open_queue(struct mal_cuda *cu, bool preferred) {
    int least = 0, greatest = 0;
    return mal_cuda_check(cu, cudaSetDevice(cu->index), "cudaSetDevice") &&
           keep_memory(cu) &&
           mal_cuda_check(cu, cudaDeviceGetStreamPriorityRange(&least, &greatest),
                          "cudaDeviceGetStreamPriorityRange") &&
           mal_cuda_check(cu,
                          cudaStreamCreateWithPriority(&cu->stream, cudaStreamNonBlocking,
                                                       preferred ? greatest : least),
                          "cudaStreamCreate") &&
           take_memory(cu, preferred ? BESIDE_BYTES : WORK_BYTES) && open_libraries(cu);
}

static struct mal_cuda *begin(const char *name, int index, struct mal_error *err) {
    struct mal_cuda *cu = (struct mal_cuda *)calloc(1, sizeof *cu);
    if (!cu) {
        mal_fail(err, MAL_NO_MEMORY, "device cuda:%d", index);
        return NULL;
    }
    mal_backend_init(&cu->base, &ops, name);
    cu->base.slice_fma = (int64_t)1 << 38;
    cu->base.breadth = 4;
    cu->base.inverse_block = MAL_INVERSE_BLOCK;
    cu->index = index;
    return cu;
}

static bool finish(struct mal_cuda *cu, bool preferred, struct mal_backend **out,
                   struct mal_error *err) {
    if (open_queue(cu, preferred)) {
        *out = &cu->base;
        return true;
    }
    mal_fail(err, MAL_DEVICE, "%s", cu->base.error.text);
    destroy(&cu->base);
    return false;
}

static void set_exact(struct mal_cuda *cu, bool exact) {
    cu->exact = exact;
    cu->base.takes_bf16 = !exact;
}

static bool create_beside(struct mal_backend **out, struct mal_backend *first,
                          struct mal_error *err) {
    const struct mal_cuda *of = mal_cuda_of(first);
    struct mal_cuda *cu = begin(first->name, of->index, err);
    if (!cu) return false;
    set_exact(cu, of->exact);
    cu->emulates64 = of->emulates64;
    cu->emulates_all = of->emulates_all;
    cu->n_sms = of->n_sms;
    snprintf(cu->base.description, sizeof cu->base.description, "%s", first->description);
    return finish(cu, true, out, err);
}

static bool is_slow64(int index) {
    int ratio = 0;
    (void)cudaDeviceGetAttribute(&ratio, cudaDevAttrSingleToDoublePrecisionPerfRatio,
                                 index);
    return ratio >= SLOW_FP64;
}

bool mal_cuda_create(struct mal_backend **out, int index, enum mal_cuda_kind kind,
                     struct mal_error *err) {
    static const char *const suffixes[] = {"", ":fp32", ":emulated"};
    struct cudaDeviceProp device;
    char name[32];
    if (!find(index, &device, err)) return false;
    snprintf(name, sizeof name, "cuda:%d%s", index, suffixes[kind]);
    struct mal_cuda *cu = begin(name, index, err);
    if (!cu) return false;
    set_exact(cu, kind != MAL_CUDA_ROUNDED);
    cu->emulates_all = kind == MAL_CUDA_EMULATED;
    cu->emulates64 = cu->emulates_all || is_slow64(index);
    cu->n_sms = device.multiProcessorCount;
    describe(cu, &device);
    return finish(cu, false, out, err);
}
