/* bench.h - what programs that time operations share. */
#ifndef MAL_BENCH_H
#define MAL_BENCH_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/backend.h"

static inline double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline void *device_memory(struct mal_backend *be, size_t bytes) {
    void *mem = mal_backend_alloc(be, bytes);
    if (!mem) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    return mem;
}

/* n numbers in [-1, 1), always the same. */
static inline float *floats(struct mal_backend *be, int64_t n) {
    float *x = device_memory(be, (size_t)n * sizeof *x);
    uint32_t seed = 1;
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        x[i] = (float)(seed >> 8) * 0x1p-23f - 1;
    }
    return x;
}

#endif
