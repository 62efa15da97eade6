/* pinned.cpp - pinned host memory, and copies that the device makes when it comes to
 * them.
 *
 * Here every copy is made at once. So that the host cannot rely on that, what a copy to
 * pinned memory reads appears only when the host has waited, and memory that a copy has
 * been queued from must still be the same then. */
#include "internal.h"

#include <pthread.h>

struct pinned {
    pinned *next;
    char *mem;
    size_t bytes;
};

/* A queued copy: to `mem` (what it reads is in `data`) or from it (`sum` is of what is
 * there). */
struct late {
    late *next;
    cudaStream_t stream;
    char *mem, *data;
    size_t bytes;
    uint64_t sum, number;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pinned *all;
static late *first, **last = &first;
static uint64_t n_queued;

static uint64_t sum_of(const char *p, size_t bytes) {
    uint64_t sum = 0xcbf29ce484222325u;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, sizeof word);
        sum = (sum ^ word) * 0x100000001b3u;
        sum ^= sum >> 29;
    }
    for (; bytes; bytes--)
        sum = (sum ^ (unsigned char)*p++) * 0x100000001b3u;
    return sum;
}

/* ---- The queue; the lock is held ---- */

static void finish(late *copy) {
    if (copy->data)
        memcpy(copy->mem, copy->data, copy->bytes);
    else if (sum_of(copy->mem, copy->bytes) != copy->sum)
        mal_host_stop(
            "%zu bytes of pinned memory at %p changed before the host waited for "
            "the copy from there",
            copy->bytes, (void *)copy->mem);
    free(copy->data);
    free(copy);
}

/* Of all streams: `any`. */
static void wait_until(bool any, cudaStream_t stream, uint64_t now) {
    for (late **at = &first; *at;) {
        late *copy = *at;
        if (copy->number > now || (!any && copy->stream != stream)) {
            at = &copy->next;
            continue;
        }
        *at = copy->next;
        finish(copy);
    }
    for (last = &first; *last;)
        last = &(*last)->next;
}

/* Copies that a stream makes one after another see what the ones before have done. */
static void wait_for_overlap(cudaStream_t stream, const char *mem, size_t bytes) {
    bool found = false;
    for (const late *copy = first; copy; copy = copy->next) {
        if (!copy->data || copy->mem >= mem + bytes || mem >= copy->mem + copy->bytes)
            continue;
        if (copy->stream != stream)
            mal_host_stop("two streams copy to %p, and the host has waited for neither",
                          (const void *)mem);
        found = true;
    }
    if (found) wait_until(false, stream, n_queued);
}

static void *need(size_t bytes) {
    void *mem = malloc(bytes);
    if (!mem) mal_host_stop("no memory for a copy");
    return mem;
}

static void queue(cudaStream_t stream, char *mem, char *data, size_t bytes,
                  uint64_t sum) {
    late *copy = (late *)need(sizeof *copy);
    *copy = {nullptr, stream, mem, data, bytes, sum, ++n_queued};
    *last = copy;
    last = &copy->next;
}

/* ---- For copies ---- */

bool mal_host_is_pinned(const void *p, size_t bytes) {
    pthread_mutex_lock(&lock);
    const pinned *block = all;
    while (block && ((const char *)p < block->mem ||
                     (const char *)p + bytes > block->mem + block->bytes))
        block = block->next;
    pthread_mutex_unlock(&lock);
    return block;
}

void mal_host_late_read(cudaStream_t stream, void *mem, const void *src, size_t bytes) {
    pthread_mutex_lock(&lock);
    wait_for_overlap(stream, (char *)mem, bytes);
    char *data = (char *)need(bytes);
    memcpy(data, src, bytes);
    memset(mem, 0xff, bytes);
    queue(stream, (char *)mem, data, bytes, 0);
    pthread_mutex_unlock(&lock);
}

void mal_host_late_write(cudaStream_t stream, void *dst, const void *mem, size_t bytes) {
    pthread_mutex_lock(&lock);
    wait_for_overlap(stream, (const char *)mem, bytes);
    memcpy(dst, mem, bytes);
    queue(stream, (char *)const_cast<void *>(mem), nullptr, bytes,
          sum_of((const char *)mem, bytes));
    pthread_mutex_unlock(&lock);
}

uint64_t mal_host_late_now() {
    pthread_mutex_lock(&lock);
    uint64_t now = n_queued;
    pthread_mutex_unlock(&lock);
    return now;
}

bool mal_host_late_pending(cudaStream_t stream, uint64_t now) {
    pthread_mutex_lock(&lock);
    const late *copy = first;
    while (copy && (copy->stream != stream || copy->number > now))
        copy = copy->next;
    pthread_mutex_unlock(&lock);
    return copy;
}

void mal_host_late_wait(cudaStream_t stream, uint64_t now) {
    pthread_mutex_lock(&lock);
    wait_until(false, stream, now);
    pthread_mutex_unlock(&lock);
}

void mal_host_late_wait_for_all() {
    pthread_mutex_lock(&lock);
    wait_until(true, nullptr, n_queued);
    pthread_mutex_unlock(&lock);
}

/* ---- The runtime's functions ---- */

cudaError_t cudaHostAlloc(void **pHost, size_t size, unsigned int) {
    if (!pHost) return mal_host_error(cudaErrorInvalidValue);
    *pHost = nullptr;
    if (size == 0) return cudaSuccess;
    pinned *block = (pinned *)malloc(sizeof *block);
    void *mem = nullptr;
    if (!block || posix_memalign(&mem, 4096, size) != 0) {
        free(block);
        return mal_host_error(cudaErrorMemoryAllocation);
    }
    memset(mem, 0xff, size);
    pthread_mutex_lock(&lock);
    *block = {all, (char *)mem, size};
    all = block;
    pthread_mutex_unlock(&lock);
    *pHost = mem;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes,
                                     const void *ptr) {
    void *p = const_cast<void *>(ptr);
    if (!attributes) return mal_host_error(cudaErrorInvalidValue);
    *attributes = {};
    if (mal_host_is_device(p)) {
        *attributes = {cudaMemoryTypeDevice, 0, p, nullptr};
    } else if (mal_host_is_pinned(p, 1)) {
        *attributes = {cudaMemoryTypeHost, 0, p, p};
    }
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **ptr, size_t size) {
    return cudaHostAlloc(ptr, size, 0);
}

cudaError_t cudaFreeHost(void *ptr) {
    if (!ptr) return cudaSuccess;
    pthread_mutex_lock(&lock);
    wait_until(true, nullptr, n_queued); /* as the real one does */
    pinned **at = &all;
    while (*at && (*at)->mem != ptr)
        at = &(*at)->next;
    pinned *block = *at;
    if (block) *at = block->next;
    pthread_mutex_unlock(&lock);
    if (!block) return mal_host_error(cudaErrorInvalidValue);
    free(block->mem);
    free(block);
    return cudaSuccess;
}
