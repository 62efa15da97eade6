/* memory.c - blocks of host memory, aligned for the widest vectors. */
#include "core/cpu/cpu.h"

#include <string.h>
#include <sys/mman.h>

#include "core/alloc.h"

enum { ALIGNMENT = 64, HUGE_FROM = 4 << 20 };

/* Stands right before each block. */
struct header {
    void *start; /* of the allocation */
    size_t bytes;
};

/* Large blocks are read in full again and again; huge pages spare most of their address
 * lookups. */
static void ask_for_huge_pages(void *mem, size_t bytes) {
    uintptr_t page = 1 << 12;
    size_t skip = (size_t)(-(uintptr_t)mem & (page - 1));
    /* Advice only: where it is refused nothing changes. */
    if (bytes > skip)
        madvise((char *)mem + skip, (bytes - skip) & ~(page - 1), MADV_HUGEPAGE);
}

void *mal_cpu_alloc(struct mal_backend *be, size_t bytes) {
    size_t extra = ALIGNMENT + sizeof(struct header);
    if (bytes > SIZE_MAX - extra) return NULL;
    char *start = mal_malloc(bytes + extra);
    if (!start) return NULL;

    size_t offset = sizeof(struct header);
    offset += (size_t)(-(uintptr_t)(start + offset) & (ALIGNMENT - 1));
    char *mem = start + offset;
    ((struct header *)(void *)mem)[-1] = (struct header){.start = start, .bytes = bytes};
    if (bytes >= HUGE_FROM) ask_for_huge_pages(mem, bytes);
    mal_backend_count(be, (int64_t)bytes);
    return mem;
}

void mal_cpu_free(struct mal_backend *be, void *mem) {
    struct header header = ((struct header *)mem)[-1];
    mal_backend_count(be, -(int64_t)header.bytes);
    mal_free(header.start);
}

void *mal_cpu_alloc_host(struct mal_backend *be, size_t bytes) {
    return mal_malloc(bytes);
}

void mal_cpu_free_host(struct mal_backend *be, void *mem) {
    mal_free(mem);
}

void mal_cpu_upload(struct mal_backend *be, void *dst, const void *host, size_t bytes) {
    memcpy(dst, host, bytes);
}

void mal_cpu_download(struct mal_backend *be, void *host, const void *src, size_t bytes) {
    memcpy(host, src, bytes);
}

void mal_cpu_copy(struct mal_backend *be, void *dst, const void *src, size_t bytes) {
    memcpy(dst, src, bytes);
}

void mal_cpu_zero(struct mal_backend *be, void *dst, size_t bytes) {
    memset(dst, 0, bytes);
}

size_t mal_cpu_available(struct mal_backend *be) {
    return mal_available_memory();
}
