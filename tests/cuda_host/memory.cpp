/* memory.cpp - device memory: one range of addresses that the host can touch only while a
 * kernel, a copy or a library call runs.
 *
 * Allocations are looked for from the lowest address on. New memory is full of NaN (of a
 * large allocation its ends: the rest costs nothing until it is used); behind every
 * allocation is a guard whose bytes are looked at when it is freed. With the address
 * sanitizer everything outside of allocations is poisoned too. */
#include "internal.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

#ifdef MAL_HOST_ASAN
#    include <sanitizer/asan_interface.h>
#    define POISON(p, bytes)   ASAN_POISON_MEMORY_REGION(p, bytes)
#    define UNPOISON(p, bytes) ASAN_UNPOISON_MEMORY_REGION(p, bytes)
#else
#    define POISON(p, bytes)   ((void)(p), (void)(bytes))
#    define UNPOISON(p, bytes) ((void)(p), (void)(bytes))
#endif

enum { ALIGN = 256, GUARD = 256, GUARD_BYTE = 0xa5, CHUNK = 2 << 20 };

struct allocation {
    size_t at, bytes; /* from the range's beginning */
    bool pooled;
    mal_host_uses uses;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *base;       /* of the range; NULL: not asked for yet */
static size_t room;      /* of the range: more than the device has, for guards and gaps */
static size_t capacity;  /* of the device */
static size_t reached;   /* what has ever been in use, in whole chunks */
static int n_inside;     /* kernels, copies and calls that run */
static allocation *live; /* in order of addresses */
static size_t n_live, room_live;
static size_t used, pooled, pool_reserved, pool_used_high, pool_reserved_high;
static size_t late; /* given back to the pool, and not waited for */
static uint64_t pool_threshold;

static size_t up(size_t n, size_t step) {
    return (n + step - 1) / step * step;
}

/* ---- The range ---- */

static void need_range() {
    if (base) return;
    const char *given = getenv("MAL_CUDA_HOST_MEMORY");
    capacity = given ? (size_t)strtoull(given, nullptr, 10) : (size_t)8 << 30;
    room = 4 * up(capacity, CHUNK) + ((size_t)64 << 20);
    void *mem = mmap(nullptr, room + CHUNK, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mem == MAP_FAILED) mal_host_stop("no addresses for %zu bytes", room);
    base = (char *)up((size_t)mem, CHUNK);
    madvise(base, room, MADV_HUGEPAGE); /* large pages are protected faster */
}

static void protect(size_t from, size_t to, int how) {
    if (to > from && mprotect(base + from, to - from, how) != 0)
        mal_host_stop("device memory cannot be protected");
}

void mal_host_enter() {
    pthread_mutex_lock(&lock);
    if (n_inside++ == 0) protect(0, reached, PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&lock);
}

void mal_host_leave() {
    pthread_mutex_lock(&lock);
    if (--n_inside == 0) protect(0, reached, PROT_NONE);
    pthread_mutex_unlock(&lock);
}

/* The same for the chunks of one allocation; the lock is held. */
static void open_chunks(size_t at, size_t bytes) {
    protect(at / CHUNK * CHUNK, up(at + bytes, CHUNK), PROT_READ | PROT_WRITE);
}

static void close_chunks(size_t at, size_t bytes) {
    if (n_inside == 0) protect(at / CHUNK * CHUNK, up(at + bytes, CHUNK), PROT_NONE);
}

/* ---- Allocations; the lock is held ---- */

/* The first allocation that begins behind `at`. */
static size_t after(size_t at) {
    size_t from = 0, to = n_live;
    while (from < to) {
        size_t middle = (from + to) / 2;
        if (live[middle].at > at)
            to = middle;
        else
            from = middle + 1;
    }
    return from;
}

/* The one that holds this address; NULL: none. */
static allocation *holding(const void *p) {
    if (!mal_host_is_device(p)) return nullptr;
    size_t at = (size_t)((const char *)p - base), i = after(at);
    if (i == 0 || at >= live[i - 1].at + live[i - 1].bytes) return nullptr;
    return &live[i - 1];
}

static size_t place_of(size_t i) {
    return i == 0 ? 0 : up(live[i - 1].at + live[i - 1].bytes, ALIGN) + GUARD;
}

/* `stream`: whose it is, where it is pooled. */
static cudaError_t allocate(void **out, size_t bytes, bool is_pooled,
                            cudaStream_t stream) {
    *out = nullptr;
    if (bytes == 0) return cudaSuccess;
    need_range();
    size_t counted = up(bytes, ALIGN);
    if (counted < bytes || counted > capacity - used - late)
        return cudaErrorMemoryAllocation;
    if (n_live == room_live) {
        size_t more = room_live ? 2 * room_live : 64;
        void *mem = realloc(live, more * sizeof *live);
        if (!mem) mal_host_stop("no memory for the list of allocations");
        live = (allocation *)mem;
        room_live = more;
    }
    size_t i = 0, size = counted + GUARD;
    while (i < n_live && place_of(i) + size > live[i].at)
        i++;
    size_t at = place_of(i);
    if (at + size > room) return cudaErrorMemoryAllocation;
    memmove(live + i + 1, live + i, (n_live - i) * sizeof *live);
    live[i] = {at, bytes, is_pooled, {}};
    n_live++;
    if (is_pooled)
        mal_host_join_uses(&live[i].uses, stream, MAL_HOST_WRITES, "cudaMallocAsync");

    if (at + size > reached) {
        size_t end = up(at + size, CHUNK);
        POISON(base + reached, end - reached);
        reached = end;
    }
    used += counted;
    if (is_pooled) {
        pooled += counted;
        if (pooled > pool_reserved) pool_reserved = pooled;
        if (pooled > pool_used_high) pool_used_high = pooled;
        if (pool_reserved > pool_reserved_high) pool_reserved_high = pool_reserved;
    }
    open_chunks(at, size);
    UNPOISON(base + at, size);
    size_t ends = bytes < 8 * (size_t)CHUNK ? bytes : (size_t)CHUNK;
    memset(base + at, 0xff, ends);
    memset(base + at + bytes - ends, 0xff, ends);
    memset(base + at + bytes, GUARD_BYTE, size - bytes);
    POISON(base + at + bytes, size - bytes);
    close_chunks(at, size);
    *out = base + at;
    return cudaSuccess;
}

static void check_guard(const allocation *a) {
    const unsigned char *p = (const unsigned char *)base + a->at + a->bytes;
    size_t n = up(a->bytes, ALIGN) - a->bytes + GUARD;
    UNPOISON(p, n);
    for (size_t i = 0; i < n; i++)
        if (p[i] != GUARD_BYTE)
            mal_host_stop(
                "something wrote %zu bytes behind an allocation of %zu bytes of "
                "device memory",
                i, a->bytes);
}

static cudaError_t release(void *p) {
    if (!p) return cudaSuccess;
    allocation *a = holding(p);
    if (!a || base + a->at != p) return cudaErrorInvalidValue;
    size_t at = a->at, size = up(a->bytes, ALIGN);
    open_chunks(at, size + GUARD);
    check_guard(a);
    size_t from = up(at, CHUNK), to = (at + size) / CHUNK * CHUNK; /* chunks of its own */
    if (from < to) {
        memset(base + at, 0xff, from - at);
        madvise(base + from, to - from, MADV_DONTNEED);
        memset(base + to, 0xff, at + size - to);
    } else {
        memset(base + at, 0xff, size);
    }
    POISON(base + at, size + GUARD);
    close_chunks(at, size + GUARD);
    used -= size;
    if (a->pooled) {
        pooled -= size;
        late += size;
    }
    n_live--;
    memmove(a, a + 1, (size_t)(live + n_live - a) * sizeof *a);
    return cudaSuccess;
}

/* ---- The runtime's functions ---- */

cudaError_t cudaMalloc(void **devPtr, size_t size) {
    if (!devPtr) return mal_host_error(cudaErrorInvalidValue);
    pthread_mutex_lock(&lock);
    cudaError_t code = allocate(devPtr, size, false, nullptr);
    pthread_mutex_unlock(&lock);
    return mal_host_error(code);
}

cudaError_t cudaMallocAsync(void **devPtr, size_t size, cudaStream_t stream) {
    if (!devPtr) return mal_host_error(cudaErrorInvalidValue);
    pthread_mutex_lock(&lock);
    cudaError_t code = allocate(devPtr, size, true, stream);
    pthread_mutex_unlock(&lock);
    return mal_host_error(code);
}

cudaError_t cudaFree(void *devPtr) {
    pthread_mutex_lock(&lock);
    cudaError_t code = release(devPtr);
    pthread_mutex_unlock(&lock);
    return mal_host_error(code);
}

cudaError_t cudaFreeAsync(void *devPtr, cudaStream_t stream) {
    if (!devPtr) return mal_host_error(cudaErrorInvalidValue);
    mal_host_use_device(stream, devPtr, 1, MAL_HOST_WRITES, "cudaFreeAsync");
    return cudaFree(devPtr);
}

/* What the pool keeps of the memory that is free again counts as taken, as it does there.
 */
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    pthread_mutex_lock(&lock);
    need_range();
    size_t taken = used - pooled + pool_reserved;
    *free = capacity > taken ? capacity - taken : 0;
    *total = capacity;
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

static void trim(uint64_t keep) {
    pthread_mutex_lock(&lock);
    if (pool_reserved > keep) pool_reserved = pooled > keep ? pooled : (size_t)keep;
    pthread_mutex_unlock(&lock);
}

void mal_host_pool_wait() {
    trim(pool_threshold);
    pthread_mutex_lock(&lock);
    late = 0;
    pthread_mutex_unlock(&lock);
}

static CUmemPoolHandle_st *const the_pool = (CUmemPoolHandle_st *)&pool_threshold;

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *memPool, int device) {
    if (device != 0) return mal_host_error(cudaErrorInvalidDevice);
    *memPool = the_pool;
    return cudaSuccess;
}

static uint64_t *pool_number(enum cudaMemPoolAttr attr, uint64_t *copy) {
    switch (attr) {
    case cudaMemPoolAttrReleaseThreshold: return &pool_threshold;
    case cudaMemPoolAttrReservedMemCurrent: *copy = pool_reserved; return copy;
    case cudaMemPoolAttrReservedMemHigh: *copy = pool_reserved_high; return copy;
    case cudaMemPoolAttrUsedMemCurrent: *copy = pooled; return copy;
    case cudaMemPoolAttrUsedMemHigh: *copy = pool_used_high; return copy;
    default: return nullptr;
    }
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t memPool, enum cudaMemPoolAttr attr,
                                    void *value) {
    if (memPool != the_pool || !value) return mal_host_error(cudaErrorInvalidValue);
    pthread_mutex_lock(&lock);
    if (attr == cudaMemPoolAttrReleaseThreshold)
        memcpy(&pool_threshold, value, sizeof pool_threshold);
    else if (attr == cudaMemPoolAttrReservedMemHigh)
        pool_reserved_high = pool_reserved;
    else if (attr == cudaMemPoolAttrUsedMemHigh)
        pool_used_high = pooled;
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t memPool, enum cudaMemPoolAttr attr,
                                    void *value) {
    uint64_t copy = 0;
    if (memPool != the_pool || !value) return mal_host_error(cudaErrorInvalidValue);
    pthread_mutex_lock(&lock);
    const uint64_t *number = pool_number(attr, &copy);
    if (number)
        memcpy(value, number, sizeof *number);
    else
        memset(value, 0, sizeof(int));
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t memPool, size_t minBytesToKeep) {
    if (memPool != the_pool) return mal_host_error(cudaErrorInvalidValue);
    trim(minBytesToKeep);
    return cudaSuccess;
}

/* ---- Checks ---- */

bool mal_host_is_device(const void *p) {
    return base && (const char *)p >= base && (const char *)p < base + room;
}

int64_t mal_host_device_at(const void *p) {
    return mal_host_is_device(p) ? (const char *)p - base : -1;
}

size_t mal_host_device_bytes() {
    pthread_mutex_lock(&lock);
    need_range();
    pthread_mutex_unlock(&lock);
    return room;
}

void mal_host_need_device(const void *p, size_t bytes, const char *what) {
    pthread_mutex_lock(&lock);
    const allocation *a = holding(p);
    size_t left = a ? (size_t)(base + a->at + a->bytes - (const char *)p) : 0;
    pthread_mutex_unlock(&lock);
    if (!a) mal_host_stop("%s: %p is not device memory that is allocated", what, p);
    if (bytes > left)
        mal_host_stop("%s: %zu bytes at %p, but the allocation ends after %zu", what,
                      bytes, p, left);
}

void mal_host_use_device(cudaStream_t stream, const void *p, size_t bytes,
                         mal_host_how how, const char *what) {
    mal_host_need_device(p, bytes, what);
    pthread_mutex_lock(&lock);
    mal_host_join_uses(&holding(p)->uses, stream, how, what);
    pthread_mutex_unlock(&lock);
}

void mal_host_need_host(const void *p, size_t bytes, const char *what) {
    if (!p) mal_host_stop("%s: no host memory", what);
    if (mal_host_is_device(p) || mal_host_is_device((const char *)p + bytes - 1))
        mal_host_stop("%s: %p is device memory", what, p);
}
