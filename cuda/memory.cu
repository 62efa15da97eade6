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

void *mal_cuda_alloc(struct mal_backend *be, size_t bytes) {
    struct mal_cuda *cu = mal_cuda_of(be);
    void *mem = NULL;
    if (!make_room(cu)) return NULL;
    if (cudaMallocAsync(&mem, bytes ? bytes : 1, cu->stream) != cudaSuccess) {
        (void)cudaGetLastError(); /* too little memory is an answer, not a failure */
        return NULL;
    }
    cu->blocks[cu->n_blocks++] = {mem, bytes};
    be->bytes += bytes;
    return mem;
}

void mal_cuda_free(struct mal_backend *be, void *mem) {
    struct mal_cuda *cu = mal_cuda_of(be);
    size_t i = cu->n_blocks;
    while (cu->blocks[--i].mem != mem) /* the youngest go first, mostly */
        ;
    be->bytes -= cu->blocks[i].bytes;
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

/* From pageable memory the call returns once the bytes have left it, so the caller may
 * overwrite them. */
void mal_cuda_upload(struct mal_backend *be, void *dst, const void *host, size_t bytes) {
    struct mal_cuda *cu = mal_cuda_of(be);
    mal_cuda_check(cu,
                   cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, cu->stream),
                   "upload");
}

void mal_cuda_download(struct mal_backend *be, void *host, const void *src,
                       size_t bytes) {
    struct mal_cuda *cu = mal_cuda_of(be);
    mal_cuda_check(cu,
                   cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, cu->stream),
                   "download");
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
