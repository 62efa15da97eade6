/* memory.cu - device memory, from the device's own pool: taking and giving back are
 * queued like everything else, and what was given back is kept for what comes next. */
#include <stdlib.h>
#include <string.h>

#include "cuda/impl.h"

struct mal_cuda_block {
    void *mem;
    size_t bytes;
};

/* Room for one more block in the list. */
static bool make_room(struct mal_cuda *cu) {
    if (cu->n_blocks < cu->room_blocks) return true;
    size_t room = cu->room_blocks ? 2 * cu->room_blocks : 64;
    void *blocks = realloc(cu->blocks, room * sizeof *cu->blocks);
    if (!blocks) return false;
    cu->blocks = (struct mal_cuda_block *)blocks;
    cu->room_blocks = room;
    return true;
}

/* NULL: too little memory is an answer, not a failure. */
static void *take(struct mal_cuda *cu, size_t bytes) {
    void *mem = NULL;
    if (cudaMallocAsync(&mem, bytes, cu->stream) == cudaSuccess) return mem;
    (void)cudaGetLastError();
    return NULL;
}

/* What was given back becomes part of a larger block once the stream has come to it: the
 * pool does not wait for that. */
static void *take_after_all(struct mal_cuda *cu, size_t bytes) {
    return mal_cuda_check(cu, cudaStreamSynchronize(cu->stream), "cudaStreamSynchronize")
               ? take(cu, bytes)
               : NULL;
}

void *mal_cuda_alloc(struct mal_backend *be, size_t bytes) {
    struct mal_cuda *cu = mal_cuda_of(be);
    if (!make_room(cu)) return NULL;
    void *mem = take(cu, bytes ? bytes : 1);
    if (!mem) mem = take_after_all(cu, bytes ? bytes : 1);
    if (!mem) return NULL;
    cu->blocks[cu->n_blocks++] = {mem, bytes};
    mal_backend_count(be, (int64_t)bytes);
    return mem;
}

void mal_cuda_free(struct mal_backend *be, void *mem) {
    struct mal_cuda *cu = mal_cuda_of(be);
    size_t i = cu->n_blocks;
    while (cu->blocks[--i].mem != mem) /* the youngest go first, mostly */
        ;
    mal_backend_count(be, -(int64_t)cu->blocks[i].bytes);
    cu->blocks[i] = cu->blocks[--cu->n_blocks];
    mal_cuda_check(cu, cudaFreeAsync(mem, cu->stream), "cudaFreeAsync");
}

/* The size stands before the memory, which stays aligned for any copy. */
enum { PINNED_HEAD = 256 };

void *mal_cuda_alloc_host(struct mal_backend *be, size_t bytes) {
    struct mal_cuda *cu = mal_cuda_of(be);
    void *mem = cu->pinned;
    if (mem && *(size_t *)mem >= bytes) {
        cu->pinned = NULL;
        return (char *)mem + PINNED_HEAD;
    }
    if (bytes > SIZE_MAX - PINNED_HEAD ||
        cudaHostAlloc(&mem, bytes + PINNED_HEAD, cudaHostAllocDefault) != cudaSuccess) {
        (void)cudaGetLastError();
        return NULL;
    }
    *(size_t *)mem = bytes;
    return (char *)mem + PINNED_HEAD;
}

/* Pinning takes milliseconds, so the largest block given back is kept. */
void mal_cuda_free_host(struct mal_backend *be, void *mem) {
    struct mal_cuda *cu = mal_cuda_of(be);
    void *block = (char *)mem - PINNED_HEAD, *smaller = cu->pinned;
    if (!smaller || *(size_t *)smaller < *(size_t *)block) {
        cu->pinned = block;
    } else {
        smaller = block;
    }
    if (smaller) mal_cuda_check(cu, cudaFreeHost(smaller), "cudaFreeHost");
}

/* What the driver has left, and what the pool keeps without using it. */
size_t mal_cuda_available(struct mal_backend *be) {
    struct mal_cuda *cu = mal_cuda_of(be);
    size_t left = 0, all = 0;
    uint64_t reserved = 0, used = 0;
    cudaMemPool_t pool;
    if (cudaMemGetInfo(&left, &all) != cudaSuccess) return 0;
    if (cudaDeviceGetDefaultMemPool(&pool, cu->index) == cudaSuccess) {
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved);
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used);
    }
    return left + (size_t)(reserved > used ? reserved - used : 0);
}

/* ---- Copies ---- */

/* From pageable memory the call returns once the bytes have left it, so the caller may
 * overwrite them. */
static bool copy_up(struct mal_cuda *cu, void *dst, const void *host, size_t bytes) {
    return mal_cuda_check(
        cu, cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, cu->stream),
        "upload");
}

static bool copy_down(struct mal_cuda *cu, void *host, const void *src, size_t bytes) {
    return mal_cuda_check(
        cu, cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, cu->stream),
        "download");
}

/* Large copies of pageable memory go through two halves of pinned memory, one of which is
 * the device's while threads copy the other: the driver's own staging is several times
 * slower, most of all where the pages are new. */
#ifdef MAL_CUDA_ON_HOST
enum : size_t { HALF = 1 << 16, SHARE = 1 << 12 }; /* so that tests are staged */
#else
enum : size_t { HALF = 1 << 23, SHARE = 1 << 19 };
#endif

static bool is_staged(struct mal_cuda *cu, const void *host, size_t bytes) {
    struct cudaPointerAttributes attributes;
    return bytes > HALF / 2 &&
           cudaPointerGetAttributes(&attributes, host) == cudaSuccess &&
           attributes.type == cudaMemoryTypeUnregistered;
}

static size_t part(size_t bytes, size_t at, size_t most) {
    return bytes - at < most ? bytes - at : most;
}

static void copy_on_host(char *dst, const char *src, size_t bytes) {
#pragma omp parallel for schedule(static)
    for (size_t at = 0; at < bytes; at += SHARE)
        memcpy(dst + at, src + at, part(bytes, at, SHARE));
}

static bool wait(struct mal_cuda *cu) {
    return mal_cuda_check(cu, cudaStreamSynchronize(cu->stream), "cudaStreamSynchronize");
}

static void upload_staged(struct mal_cuda *cu, char *dst, const char *host, size_t bytes,
                          char *halves) {
    for (size_t at = 0, i = 0; at < bytes; at += HALF, i++) {
        char *half = halves + i % 2 * HALF;
        size_t n = part(bytes, at, HALF);
        copy_on_host(half, host + at, n);
        /* the other half has arrived then, and can be filled */
        if ((i > 0 && !wait(cu)) || !copy_up(cu, dst + at, half, n)) return;
    }
    (void)wait(cu);
}

static void download_staged(struct mal_cuda *cu, char *host, const char *src,
                            size_t bytes, char *halves) {
    if (!copy_down(cu, halves, src, part(bytes, 0, HALF))) return;
    for (size_t at = 0, i = 0; at < bytes; at += HALF, i++) {
        size_t next = at + HALF;
        if (!wait(cu)) return;
        if (next < bytes && !copy_down(cu, halves + (i + 1) % 2 * HALF, src + next,
                                       part(bytes, next, HALF)))
            return;
        copy_on_host(host + at, halves + i % 2 * HALF, part(bytes, at, HALF));
    }
}

/* NULL: there is no such memory, and the driver does it. */
static char *take_halves(struct mal_backend *be, const void *host, size_t bytes) {
    struct mal_cuda *cu = mal_cuda_of(be);
    return is_staged(cu, host, bytes) ? (char *)mal_cuda_alloc_host(be, 2 * HALF) : NULL;
}

void mal_cuda_upload(struct mal_backend *be, void *dst, const void *host, size_t bytes) {
    struct mal_cuda *cu = mal_cuda_of(be);
    char *halves = take_halves(be, host, bytes);
    if (!halves) {
        copy_up(cu, dst, host, bytes);
        return;
    }
    upload_staged(cu, (char *)dst, (const char *)host, bytes, halves);
    mal_cuda_free_host(be, halves);
}

void mal_cuda_download(struct mal_backend *be, void *host, const void *src,
                       size_t bytes) {
    struct mal_cuda *cu = mal_cuda_of(be);
    char *halves = take_halves(be, host, bytes);
    if (!halves) {
        copy_down(cu, host, src, bytes);
        return;
    }
    download_staged(cu, (char *)host, (const char *)src, bytes, halves);
    mal_cuda_free_host(be, halves);
}

void mal_cuda_copy(struct mal_backend *be, void *dst, const void *src, size_t bytes) {
    struct mal_cuda *cu = mal_cuda_of(be);
    mal_cuda_check(cu,
                   cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, cu->stream),
                   "copy");
}

void mal_cuda_zero(struct mal_backend *be, void *dst, size_t bytes) {
    struct mal_cuda *cu = mal_cuda_of(be);
    mal_cuda_check(cu, cudaMemsetAsync(dst, 0, bytes, cu->stream), "zero");
}

void mal_cuda_sync(struct mal_backend *be) {
    struct mal_cuda *cu = mal_cuda_of(be);
    mal_cuda_check(cu, cudaStreamSynchronize(cu->stream), "cudaStreamSynchronize");
}
