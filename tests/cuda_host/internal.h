/* internal.h - what the files of this runtime share. */
#ifndef MAL_HOST_INTERNAL_H
#define MAL_HOST_INTERNAL_H

#include <pthread.h>

#include "cuda_runtime.h"

#if defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define MAL_HOST_ASAN 1
#    elif __has_feature(thread_sanitizer)
#        define MAL_HOST_TSAN 1
#    endif
#endif
#ifdef __SANITIZE_ADDRESS__
#    define MAL_HOST_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#    define MAL_HOST_TSAN 1
#endif

/* Says what is wrong with the program under test on stderr, and ends it. */
[[noreturn]] void mal_host_stop(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* What cudaGetLastError() gives next, unless there is one already; returns it. */
cudaError_t mal_host_error(cudaError_t code);

/* The seed of MAL_CUDA_HOST_ORDER; 0: the order of every day. */
uint64_t mal_host_order();

/* ---- Streams (streams.cpp) ---- */

enum { MAL_HOST_STREAMS = 16 }; /* at once */

/* Of an allocation: the number of each stream's last use. */
struct mal_host_uses {
    uint64_t read[MAL_HOST_STREAMS], wrote[MAL_HOST_STREAMS];
};

enum mal_host_how { MAL_HOST_READS, MAL_HOST_WRITES };

bool mal_host_is_stream(cudaStream_t stream);
int mal_host_index(cudaStream_t stream);
/* Stops where another stream's use is not waited for. */
void mal_host_join_uses(mal_host_uses *uses, cudaStream_t stream, mal_host_how how,
                        const char *what);
void mal_host_waited(cudaStream_t stream);   /* the host, for all that is queued there */
void mal_host_wait_for(cudaStream_t stream); /* as cudaStreamSynchronize() */
void mal_host_waited_for_all();

/* ---- Device memory (memory.cpp) ---- */

/* Device memory may be touched only between these; they nest. */
void mal_host_enter();
void mal_host_leave();

struct mal_host_access {
    mal_host_access() {
        mal_host_enter();
    }

    ~mal_host_access() {
        mal_host_leave();
    }

    mal_host_access(const mal_host_access &) = delete;
    mal_host_access &operator=(const mal_host_access &) = delete;
};

void mal_host_pool_wait(); /* the host has waited: the pool keeps its threshold only */
bool mal_host_is_device(const void *p);
int64_t mal_host_device_at(const void *p); /* bytes into all of it; -1: not in it */
size_t mal_host_device_bytes();            /* of the range that it is in */
/* Stops unless all of it is inside one allocation that lives. */
void mal_host_need_device(const void *p, size_t bytes, const char *what);
/* And where another stream's use of that allocation is not waited for. */
void mal_host_use_device(cudaStream_t stream, const void *p, size_t bytes,
                         mal_host_how how, const char *what);
/* Stops if it begins or ends in device memory. */
void mal_host_need_host(const void *p, size_t bytes, const char *what);

/* ---- Copies to and from pinned memory (pinned.cpp) ---- */

/* A copy between device memory and pinned host memory is done when the host has waited
 * for it: until then what is read is NaN, and what is written stays as it is. */
bool mal_host_is_pinned(const void *p, size_t bytes);
void mal_host_late_read(cudaStream_t stream, void *pinned, const void *src, size_t bytes);
void mal_host_late_write(cudaStream_t stream, void *dst, const void *pinned,
                         size_t bytes);
uint64_t mal_host_late_now(); /* as late as the last copy that was queued */
/* Whether one of the stream's copies from before `now` is not waited for. */
bool mal_host_late_pending(cudaStream_t stream, uint64_t now);
void mal_host_late_wait(cudaStream_t stream, uint64_t now);
void mal_host_late_wait_for_all();

/* ---- Shared memory (shared.cpp) ---- */

/* Fills what kernels have as __shared__, in this thread of the system, with NaN. */
void mal_host_spoil_shared();
/* Where an address lies in all of that, in bytes; -1: it does not. */
int64_t mal_host_shared_at(const void *p);
int64_t mal_host_shared_bytes(); /* of all of it */

/* ---- Races (race.cpp, in programs whose kernels tell of their accesses) ---- */

extern bool mal_host_tells; /* blocks run one after the other */

/* What runs, and how far it has come. */
struct mal_host_moment {
    uint64_t launch; /* from 1 */
    cudaStream_t stream;
    uint32_t block, thread;
    uint32_t n_barriers, n_syncs; /* that its block, its warp have passed */
    const char *shared;           /* the block's dynamic shared memory */
    size_t shared_bytes;
};

bool mal_host_now(mal_host_moment *m); /* false: no kernel runs */

/* ---- Fibers (fiber.cpp) ---- */

/* A stack and where it is left. The one that the system made (bottom is NULL until it has
 * been left once) has no memory here. */
struct mal_fiber {
    void *sp;
    char *bottom;
    size_t bytes;
    void *sanitizer; /* what the address or thread sanitizer keeps */
};

enum { MAL_FIBER_BYTES = 128 << 10 };

/* Gives it memory, once. Then, as often as wanted: makes it begin with entry(), which
 * never returns, when it is switched to, which is the next thing to do. Fibers of
 * different numbers use different lines of the caches. */
void mal_fiber_begin(mal_fiber *fiber, void (*entry)(), int number);
/* `gone`: nothing will switch back to `from` as it is now. */
void mal_fiber_switch(mal_fiber *from, mal_fiber *to, bool gone);

#endif
