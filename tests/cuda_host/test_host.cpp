/* test_host.cpp - the stand-in device itself: what it runs is right, and what it should
 * find it finds. What ends the program is tried in a process of its own, before anything
 * has made threads. TAP on stdout. */
#include <stdlib.h>
#include <string.h>

#include "test.h"

/* As sources of cuda/ are compiled: shared memory is looked for in this namespace. */
namespace mal_cuda_host {

/* ---- Threads and blocks ---- */

__global__ static void count_threads(unsigned *seen) {
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    atomicAdd(&seen[block * (blockDim.x * blockDim.y * blockDim.z) + thread], 1);
}

static void check_count(dim3 grid, dim3 block) {
    size_t n = (size_t)grid.x * grid.y * grid.z * block.x * block.y * block.z, once = 0;
    unsigned *seen = device<unsigned>(n), *host = new unsigned[n];
    CHECK(cudaMemset(seen, 0, n * sizeof *seen) == cudaSuccess);
    LAUNCH(count_threads, grid, block, 0, seen);
    fetch(host, seen, n);
    for (size_t i = 0; i < n; i++)
        once += host[i] == 1;
    CHECK(once == n);
    CHECK(cudaGetLastError() == cudaSuccess);
    delete[] host;
    cudaFree(seen);
}

static void every_thread_runs_once() {
    check_count(dim3(1), dim3(1));
    check_count(dim3(7), dim3(33));
    check_count(dim3(3, 5, 2), dim3(8, 3, 5));
    check_count(dim3(100), dim3(1024));
    check_count(dim3(1, 300), dim3(1, 31));
    unsigned *seen = device<unsigned>(12);
    LAUNCH(count_threads, 3, 4u, 0, seen); /* numbers of any type */
    LAUNCH(count_threads, (int64_t)3, (char)4, (size_t)0, seen);
    CHECK(cudaGetLastError() == cudaSuccess);
    cudaFree(seen);
}

__global__ static void number_threads(int *order, int *n) {
    order[threadIdx.x] = (*n)++;
}

static void run_order(int *host) {
    int *order = device<int>(256), *n = device<int>(1);
    CHECK(cudaMemset(n, 0, sizeof *n) == cudaSuccess);
    LAUNCH(number_threads, 1, 256, 0, order, n);
    fetch(host, order, 256);
    cudaFree(order);
    cudaFree(n);
}

static void threads_begin_in_many_orders() {
    int a[256], b[256], n_up = 0;
    unsetenv("MAL_CUDA_HOST_ORDER");
    run_order(a);
    run_order(b);
    CHECK(memcmp(a, b, sizeof a) == 0);
    for (int i = 0; i < 255; i++)
        n_up += a[i] < a[i + 1];
    CHECK(n_up > 50 && n_up < 205); /* of neighbours either may be first */
    setenv("MAL_CUDA_HOST_ORDER", "1", 1);
    run_order(a);
    setenv("MAL_CUDA_HOST_ORDER", "2", 1);
    run_order(b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    check_count(dim3(9, 7), dim3(100));
    unsetenv("MAL_CUDA_HOST_ORDER");
}

/* ---- Barriers ---- */

/* y[i] = x[n - 1 - i] within a block. */
__global__ static void reverse(const float *x, float *y, bool barrier) {
    __shared__ float part[1024];
    int64_t first = (int64_t)blockIdx.x * blockDim.x;
    part[threadIdx.x] = x[first + threadIdx.x];
    if (barrier) __syncthreads();
    y[first + threadIdx.x] = part[blockDim.x - 1 - threadIdx.x];
}

/* How many elements are right. */
static int reversed(int blocks, int threads, bool barrier) {
    int n = blocks * threads, right = 0;
    float *host = new float[n];
    for (int i = 0; i < n; i++)
        host[i] = (float)i;
    float *x = device(n, host), *y = device<float>(n);
    LAUNCH(reverse, blocks, threads, 0, x, y, barrier);
    fetch(host, y, n);
    for (int i = 0; i < n; i++)
        right += host[i] == (float)(i / threads * threads + threads - 1 - i % threads);
    cudaFree(x);
    cudaFree(y);
    delete[] host;
    return right;
}

static void barriers_hold() {
    const char *seeds[] = {"0", "1", "2", "3"};
    for (const char *seed : seeds) {
        setenv("MAL_CUDA_HOST_ORDER", seed, 1);
        CHECK(reversed(1, 1, true) == 1);
        CHECK(reversed(7, 33, true) == 7 * 33);
        CHECK(reversed(20, 1024, true) == 20 * 1024);
        CHECK(reversed(1, 256, false) < 256);
        CHECK(reversed(7, 64, false) < 7 * 64);
    }
    unsetenv("MAL_CUDA_HOST_ORDER");
}

/* What a thread has in its own variables outlives many barriers. */
__global__ static void keep_locals(int64_t *y) {
    int64_t own[8] = {}, sum = 0;
    int id = (int)threadIdx.x;
    for (int i = 0; i < 50; i++) {
        own[i % 8] += id * (int64_t)i;
        __syncthreads();
        if (threadIdx.x != (unsigned)id) own[0] = -1000000;
    }
    for (int i = 0; i < 8; i++)
        sum += own[i];
    y[(int64_t)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

static void locals_outlive_barriers() {
    static int64_t host[8 * 1024];
    int64_t *y = device<int64_t>(8 * 1024);
    LAUNCH(keep_locals, 8, 1024, 0, y);
    fetch(host, y, 8 * 1024);
    int right = 0;
    for (int i = 0; i < 8 * 1024; i++)
        right += host[i] == i % 1024 * (int64_t)1225;
    CHECK(right == 8 * 1024);
    cudaFree(y);
}

__global__ static void some_return() {
    if (threadIdx.x >= 20) return;
    __syncthreads();
}

__global__ static void two_places() {
    if (threadIdx.x % 2)
        __syncthreads();
    else
        __syncthreads();
}

__global__ static void barrier_and_shuffle(int *y) {
    if (threadIdx.x < 32)
        y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, (int)threadIdx.x, 1);
    if (threadIdx.x != 5) __syncthreads();
}

static void barriers_that_not_all_reach_are_found() {
    CHECK(dies(
        [] { LAUNCH(some_return, 1, 64, 0); },
        "of 64 threads 44 have returned; 20 (such as (0,0,0)) wait in __syncthreads()"));
    CHECK(dies([] { LAUNCH(two_places, 1, 64, 0); }, "they wait for each other"));
    CHECK(dies(
        [] {
            int *y = device<int>(32);
            LAUNCH(barrier_and_shuffle, 1, 64, 0, y);
        },
        "63 (such as (0,0,0)) wait in __syncthreads()"));
    CHECK(dies([] { __syncthreads(); }, "outside of a kernel"));
}

/* ---- Shuffles ---- */

enum shuffle { IDX, UP, DOWN, XOR };

template <class T>
__global__ static void shuffle_all(T *y, shuffle how, int by, int width) {
    T x = (T)(100 + threadIdx.x), z;
    if (how == IDX)
        z = __shfl_sync(0xffffffffu, x, by, width);
    else if (how == UP)
        z = __shfl_up_sync(0xffffffffu, x, (unsigned)by, width);
    else if (how == DOWN)
        z = __shfl_down_sync(0xffffffffu, x, (unsigned)by, width);
    else
        z = __shfl_xor_sync(0xffffffffu, x, by, width);
    y[threadIdx.x] = z;
}

static int source_of(int lane, shuffle how, int by, int width) {
    int base = lane / width * width, at = lane - base;
    if (how == IDX) return base + by % width;
    if (how == UP) return at >= by ? lane - by : lane;
    if (how == DOWN) return at + by < width ? lane + by : lane;
    return (lane ^ by) < base + width ? lane ^ by : lane;
}

template <class T> static void check_shuffles() {
    T host[96], *y = device<T>(96);
    for (int how = IDX; how <= XOR; how++) {
        for (int width = 1; width <= 32; width *= 2) {
            for (int by = 0; by < 32; by += by < 4 ? 1 : 5) {
                LAUNCH(shuffle_all<T>, 1, 96, 0, y, (shuffle)how, by, width);
                fetch(host, y, 96);
                bool right = true;
                for (int i = 0; i < 96; i++)
                    right = right &&
                            host[i] == (T)(100 + i / 32 * 32 +
                                           source_of(i % 32, (shuffle)how, by, width));
                CHECK(right);
            }
        }
    }
    cudaFree(y);
}

static void shuffles() {
    check_shuffles<float>();
    check_shuffles<int>();
    check_shuffles<double>();
    check_shuffles<unsigned long long>();
}

__global__ static void vote(unsigned *y) {
    unsigned lane = threadIdx.x % 32, mask = lane < 8 ? 0xffu : 0xffffff00u;
    y[threadIdx.x] = __ballot_sync(mask, lane % 3 == 0);
    y[64 + threadIdx.x] = (unsigned)__any_sync(mask, lane == 8);
    y[128 + threadIdx.x] = (unsigned)__all_sync(mask, lane >= 8);
    __syncwarp();
    if (lane < 5) y[192 + threadIdx.x] = __shfl_down_sync(0x1fu, lane, 1u);
}

static void votes_and_parts_of_warps() {
    static unsigned host[256];
    unsigned *y = device<unsigned>(256);
    LAUNCH(vote, 1, 64, 0, y);
    fetch(host, y, 256);
    for (unsigned i = 0; i < 64; i++) {
        unsigned lane = i % 32;
        CHECK(host[i] == (0x49249249u & (lane < 8 ? 0xffu : 0xffffff00u)));
        CHECK(host[64 + i] == (lane >= 8));
        CHECK(host[128 + i] == (lane >= 8));
        if (lane < 4) CHECK(host[192 + i] == lane + 1);
        if (lane == 4)
            CHECK(host[192 + i] == UINT32_MAX); /* of a lane that is not there */
    }
    cudaFree(y);
}

__global__ static void absent_lane() {
    if (threadIdx.x != 3) __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}

__global__ static void not_in_its_mask() {
    __syncwarp(0xfffffffeu);
}

__global__ static void two_shuffles() {
    if (threadIdx.x < 16)
        __shfl_xor_sync(0xffffffffu, 1.0f, 1);
    else
        __shfl_down_sync(0xffffffffu, 1.0f, 1);
}

static void shuffles_that_not_all_reach_are_found() {
    CHECK(dies([] { LAUNCH(absent_lane, 1, 32, 0); },
               "31 (such as (0,0,0)) wait in __shfl_xor"));
    CHECK(dies([] { LAUNCH(absent_lane, 1, 20, 0); },
               "names lanes that the block does not have"));
    CHECK(dies([] { LAUNCH(not_in_its_mask, 1, 32, 0); }, "leaves itself out"));
    CHECK(dies([] { LAUNCH(two_shuffles, 1, 32, 0); }, "they wait for each other"));
}

/* ---- Atomics ---- */

__global__ static void add_up(float *f, double *d, int *most, unsigned *counts) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(f, 1.0f);
    atomicAdd(d, 0.5);
    atomicMax(most, i);
    atomicAdd(&counts[i % 7], 1u);
}

static void atomics() {
    float f = 0;
    double d = 0;
    int most = -5;
    unsigned counts[7] = {}, sum = 0;
    float *df = device(1, &f);
    double *dd = device(1, &d);
    int *dm = device(1, &most);
    unsigned *dc = device(7, counts);
    LAUNCH(add_up, 100, 200, 0, df, dd, dm, dc);
    fetch(&f, df, 1);
    fetch(&d, dd, 1);
    fetch(&most, dm, 1);
    fetch(counts, dc, 7);
    for (unsigned count : counts)
        sum += count;
    CHECK(f == 20000 && d == 10000 && most == 19999 && sum == 20000);
    cudaFree(df);
    cudaFree(dd);
    cudaFree(dm);
    cudaFree(dc);
}

/* ---- Launches ---- */

__global__ static void nothing() {}

template <class Grid, class Block>
static bool refused(Grid grid, Block block, int64_t shared) {
    LAUNCH(nothing, grid, block, shared);
    return cudaGetLastError() == cudaErrorInvalidConfiguration &&
           cudaGetLastError() == cudaSuccess;
}

static void launches_beyond_the_limits_are_refused() {
    CHECK(!refused(1, 1024, 48 << 10));
    CHECK(refused(0, 1, 0));
    CHECK(refused(1, 0, 0));
    CHECK(refused(-1, 1, 0));
    CHECK(refused(1, 1025, 0));
    CHECK(refused((int64_t)1 << 31, 1, 0));
    CHECK(refused((int64_t)1 << 32, 1, 0));
    CHECK(refused(dim3(1, 65536), 1, 0));
    CHECK(refused(dim3(1, 1, 65536), 1, 0));
    CHECK(refused(dim3(1, 0), 1, 0));
    CHECK(refused(1, dim3(32, 33), 0));
    CHECK(refused(1, dim3(1, 1, 65), 0));
    CHECK(refused(1, 1, (48 << 10) + 1));
    CHECK(refused(1, 1, -1));
    CHECK(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               228 << 10) == cudaErrorInvalidValue);
    CHECK(cudaGetLastError() == cudaErrorInvalidValue);
    CHECK(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               64 << 10) == cudaSuccess);
    CHECK(!refused(1, 1, 64 << 10));
}

/* ---- Shared memory ---- */

/* Counts the numbers that are in shared memory, then leaves some there. */
__global__ static void look_at_shared(int *n_numbers, int n) {
    __shared__ float fixed[64];
    float *asked = (float *)mal_host_shared();
    for (int i = 0; i < n; i++)
        if (!isnan(asked[i])) atomicAdd(n_numbers, 1);
    for (int i = 0; i < 64; i++)
        if (!isnan(fixed[i])) atomicAdd(n_numbers, 1);
    for (int i = 0; i < 64; i++)
        fixed[i] = asked[i] = (float)n;
}

__global__ static void write_beyond(int at) {
    ((char *)mal_host_shared())[at] = 1;
}

static void shared_memory() {
    int none = 0, *n = device(1, &none);
    setenv("MAL_CUDA_HOST_ORDER", "1", 1);
    LAUNCH(look_at_shared, 10, 1, 1000, n, 250);
    unsetenv("MAL_CUDA_HOST_ORDER"); /* then only in the first block of a thread */
    LAUNCH(look_at_shared, 1, 1, 1000, n, 250);
    fetch(&none, n, 1);
    CHECK(none == 0);
    cudaFree(n);
    CHECK(dies([] { LAUNCH(write_beyond, 1, 1, 100, 100); },
               "wrote behind its 100 bytes of shared memory"));
}

/* ---- Alignment ---- */

__global__ static void sum_four(const float *x, float *sum) {
    float4 four = *(const float4 *)x;
    *sum = four.x + four.y + four.z + four.w;
}

static void what_is_read_at_once_is_aligned() {
    static float *x;
    float host[] = {1, 2, 3, 4, 5}, sum = 0;
    x = device(5, host);
    LAUNCH(sum_four, 1, 1, 0, x, x + 4);
    fetch(&sum, x + 4, 1);
    CHECK(sum == 10);
    CHECK(dies([] { LAUNCH(sum_four, 1, 1, 0, x + 1, x); }, "misaligned address"));
    cudaFree(x);
}

} /* namespace mal_cuda_host */

using namespace mal_cuda_host;

/* ---- The device ---- */

static void the_device() {
    int n = 0, at = -1, value = 0;
    struct cudaDeviceProp prop;
    CHECK(cudaGetDeviceCount(&n) == cudaSuccess && n == 1);
    CHECK(cudaSetDevice(0) == cudaSuccess && cudaSetDevice(1) == cudaErrorInvalidDevice);
    CHECK(cudaPeekAtLastError() == cudaErrorInvalidDevice);
    CHECK(cudaGetLastError() == cudaErrorInvalidDevice &&
          cudaGetLastError() == cudaSuccess);
    CHECK(cudaGetDevice(&at) == cudaSuccess && at == 0);
    CHECK(cudaGetDeviceProperties(&prop, 0) == cudaSuccess);
    CHECK(prop.major == 9 && prop.warpSize == 32 && prop.multiProcessorCount == 4);
    CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 0) ==
          cudaSuccess);
    CHECK(value == 9);
    CHECK(strcmp(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory") == 0);
    CHECK(strcmp(cudaGetErrorName(cudaErrorNoDevice), "cudaErrorNoDevice") == 0);
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    CHECK(cudaStreamQuery(stream) == cudaSuccess &&
          cudaStreamDestroy(stream) == cudaSuccess);
}

int main() {
    printf("1..%d\n", MEMORY_TESTS + 13 + LIBRARY_TESTS);
    test_memory();
    test("barriers that not all reach are found", barriers_that_not_all_reach_are_found);
    test("shuffles that not all reach are found", shuffles_that_not_all_reach_are_found);
    test("shared memory", shared_memory);
    test("what is read at once is aligned", what_is_read_at_once_is_aligned);
    test("the device", the_device);
    test("launches beyond the limits are refused",
         launches_beyond_the_limits_are_refused);
    test("every thread runs once", every_thread_runs_once);
    test("threads begin in many orders", threads_begin_in_many_orders);
    test("barriers hold", barriers_hold);
    test("locals outlive barriers", locals_outlive_barriers);
    test("shuffles", shuffles);
    test("votes and parts of warps", votes_and_parts_of_warps);
    test("atomics", atomics);
    test_libraries();
    return any_failed();
}
