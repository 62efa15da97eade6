/* test.h - what the tests of this folder share. */
#ifndef MAL_HOST_TEST_H
#define MAL_HOST_TEST_H

#include <cuda_runtime.h>
#include <stdio.h>

extern bool failed; /* the test that runs */

#define CHECK(condition)                                             \
    do                                                               \
        if (!(condition)) {                                          \
            failed = true;                                           \
            printf("# %s:%d: %s\n", __FILE__, __LINE__, #condition); \
        }                                                            \
    while (0)

void test(const char *name, void (*run)());
bool any_failed();
void test_memory();
void test_libraries();

enum { MEMORY_TESTS = 10, LIBRARY_TESTS = 7 }; /* how many they are */

/* What becomes of run() in a process of its own: whether it ends well, and what it says
 * on stderr. Not once OpenMP has made threads: they would not be there. */
bool ends_well(void (*run)(), char *text, size_t bytes);
/* Whether run() ends the program, saying `words`. */
bool dies(void (*run)(), const char *words);

#define LAUNCH(kernel, grid, block, shared, ...) \
    LAUNCH_ON(nullptr, kernel, grid, block, shared, __VA_ARGS__)
#define LAUNCH_ON(stream, kernel, grid, block, shared, ...) \
    mal_host_launch((grid), (block), (shared), (stream), [=] { kernel(__VA_ARGS__); })

/* ---- Device memory ---- */

template <class T> static inline T *device(size_t n) {
    T *p = nullptr;
    CHECK(cudaMalloc(&p, n * sizeof(T)) == cudaSuccess);
    return p;
}

template <class T> static inline T *device(size_t n, const T *host) {
    T *p = device<T>(n);
    CHECK(cudaMemcpy(p, host, n * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
    return p;
}

template <class T> static inline void fetch(T *host, const T *p, size_t n) {
    CHECK(cudaMemcpy(host, p, n * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess);
}

#endif
