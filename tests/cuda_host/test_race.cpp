/* test_race.cpp - races are found, and what is ordered is none. This file is compiled as
 * the kernels are that race.cpp looks at. TAP on stdout. */
#include <string.h>

#include "test.h"

/* As sources of cuda/ are compiled: shared memory is looked for in this namespace. */
namespace mal_cuda_host {

enum { THREADS = 96 };

static int *ints(size_t n) {
    int *p = device<int>(n);
    CHECK(cudaMemset(p, 0, n * sizeof *p) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    return p;
}

/* Whether run() with n ints ends the program, saying `words`. */
static bool races(void (*run)(int *p), size_t n, const char *words) {
    static void (*to_run)(int *p);
    static int *ready;
    to_run = run;
    ready = ints(n);
    bool found = dies([] { to_run(ready); }, words);
    cudaFree(ready);
    return found;
}

/* ---- In a block ---- */

static const int TURN = __LINE__; /* four lines above the write, six above the read */

template <bool ORDERED> __global__ static void turn(int *out) {
    __shared__ int at[THREADS];
    at[threadIdx.x] = (int)threadIdx.x;
    if (ORDERED) __syncthreads();
    out[threadIdx.x] = at[THREADS - 1 - threadIdx.x];
}

/* The second round writes what the first still reads. */
template <bool ORDERED> __global__ static void turn_twice(int *out) {
    int *at = (int *)mal_host_shared();
    for (int i = 0; i < 2; i++) {
        at[threadIdx.x] = i;
        __syncthreads();
        out[threadIdx.x] += at[THREADS - 1 - threadIdx.x];
        if (ORDERED) __syncthreads();
    }
}

__global__ static void all_write_the_same(int *out) {
    __shared__ int at;
    at = 7;
    __syncthreads();
    out[threadIdx.x] = at;
}

static void shared_memory_of_a_block() {
    CHECK(races([](int *p) { LAUNCH(turn<false>, 2, THREADS, 0, p); }, THREADS,
                "race in shared memory"));
    CHECK(races([](int *p) { LAUNCH(turn_twice<false>, 1, THREADS, 4 * THREADS, p); },
                THREADS, "race in shared memory"));
    CHECK(races([](int *p) { LAUNCH(all_write_the_same, 1, THREADS, 0, p); }, THREADS,
                "race in shared memory"));
    int *out = ints(THREADS), host[THREADS];
    LAUNCH(turn<true>, 1, THREADS, 0, out);
    LAUNCH(turn_twice<true>, 1, THREADS, 4 * THREADS, out);
    fetch(host, out, THREADS);
    for (int i = 0; i < THREADS; i++)
        CHECK(host[i] == THREADS - 1 - i + 1);
    cudaFree(out);
}

/* ---- In a warp ---- */

enum between { NOTHING, SYNCWARP, SHUFFLE };

template <between HOW> __global__ static void turn_lanes(int *out) {
    __shared__ int at[THREADS];
    at[threadIdx.x] = (int)threadIdx.x;
    if (HOW == SYNCWARP) __syncwarp();
    if (HOW == SHUFFLE) (void)__shfl_xor_sync(0xffffffffu, 1, 1);
    out[threadIdx.x] = at[threadIdx.x ^ 1];
}

/* __syncwarp() does not order the lanes of different warps. */
__global__ static void turn_warps(int *out) {
    __shared__ int at[THREADS];
    at[threadIdx.x] = (int)threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = at[(threadIdx.x + 32) % THREADS];
}

static void shared_memory_of_a_warp() {
    CHECK(races([](int *p) { LAUNCH(turn_lanes<NOTHING>, 1, THREADS, 0, p); }, THREADS,
                "race in shared memory"));
    CHECK(races([](int *p) { LAUNCH(turn_lanes<SHUFFLE>, 1, THREADS, 0, p); }, THREADS,
                "race in shared memory"));
    CHECK(races([](int *p) { LAUNCH(turn_warps, 1, THREADS, 0, p); }, THREADS,
                "race in shared memory"));
    int *out = ints(THREADS), host[THREADS];
    LAUNCH(turn_lanes<SYNCWARP>, 1, THREADS, 0, out);
    fetch(host, out, THREADS);
    for (int i = 0; i < THREADS; i++)
        CHECK(host[i] == (i ^ 1));
    cudaFree(out);
}

/* ---- Between blocks ---- */

__global__ static void write_one(int *out) {
    if (threadIdx.x == 0) out[0] = 1;
}

/* A barrier is of one block: what the others do is not behind it. */
__global__ static void read_neighbour(int *out) {
    int i = (int)blockIdx.x;
    if (threadIdx.x == 0) out[i] = 1;
    __syncthreads();
    if (threadIdx.x == 1) out[gridDim.x + i] = out[(i + 1) % gridDim.x];
}

/* All read what none but one may write afterwards. */
__global__ static void write_what_all_read(int *out) {
    out[1 + blockIdx.x] = out[0];
    __syncthreads();
    if (blockIdx.x == 1) out[0] = 2;
}

/* Halves of words of different threads, read and written in place. */
__global__ static void add_one(uint16_t *x) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    x[i] = (uint16_t)(x[i] + 1);
}

static void blocks() {
    CHECK(races([](int *p) { LAUNCH(write_one, 2, 32, 0, p); }, 1,
                "race in device memory"));
    CHECK(races([](int *p) { LAUNCH(read_neighbour, 3, 32, 0, p); }, 6,
                "race in device memory"));
    CHECK(races([](int *p) { LAUNCH(write_what_all_read, 3, 1, 0, p); }, 4,
                "race in device memory"));

    enum { N = 10 };

    uint16_t *x = device<uint16_t>(N), host[N];
    CHECK(cudaMemset(x, 0, sizeof host) == cudaSuccess);
    LAUNCH(add_one, 2, N / 2, 0, x);
    LAUNCH(add_one, 1, N, 0, x); /* a launch is behind the one before */
    fetch(host, x, N);
    for (int i = 0; i < N; i++)
        CHECK(host[i] == 2);
    cudaFree(x);
    int *out = ints(1);
    LAUNCH(write_one, 1, 32, 0, out);
    cudaFree(out);
}

static void streams() {
    static cudaStream_t one, other;
    CHECK(cudaStreamCreate(&one) == cudaSuccess &&
          cudaStreamCreate(&other) == cudaSuccess);
    CHECK(races(
        [](int *p) {
            LAUNCH_ON(one, write_one, 1, 32, 0, p);
            LAUNCH_ON(other, write_what_all_read, 1, 1, 0, p);
        },
        2, "a kernel on stream 2 reads memory that stream 1 writes"));
    int *p = ints(2);
    LAUNCH_ON(one, write_one, 1, 32, 0, p);
    cudaStreamSynchronize(one);
    LAUNCH_ON(other, write_what_all_read, 1, 1, 0, p);
    cudaStreamDestroy(one);
    cudaStreamDestroy(other);
    cudaFree(p);
}

/* Both places in the source are named. */
static void places() {
    for (int i = 4; i <= 6; i += 2) {
        char words[64];
        snprintf(words, sizeof words, "test_race.cpp:%d", TURN + i);
        CHECK(
            races([](int *p) { LAUNCH(turn<false>, 1, THREADS, 0, p); }, THREADS, words));
    }
}

} /* namespace mal_cuda_host */

using namespace mal_cuda_host;

int main() {
    printf("1..5\n");
    test("shared memory of a block", shared_memory_of_a_block);
    test("shared memory of a warp", shared_memory_of_a_warp);
    test("blocks", blocks);
    test("streams", streams);
    test("places in the source", places);
    return any_failed();
}
