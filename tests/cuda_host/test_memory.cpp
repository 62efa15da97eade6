/* test_memory.cpp - the device memory of test_host.cpp's device: who may touch it, and
 * copies to and from it. */
#include <stdlib.h>
#include <string.h>

#include <cublas_v2.h>

#include "test.h"

extern "C" {
#include "core/backend.h"
}

/* ---- Device memory ---- */

static float *volatile host_pointer;
static volatile float sink;

__global__ static void write_to(char *p, int64_t at) {
    p[at] = 1;
}

static void the_host_cannot_touch_device_memory() {
    float x = 1;
    host_pointer = device(1, &x);
    CHECK(dies([] { sink = host_pointer[0]; }, ""));
    CHECK(dies([] { host_pointer[0] = 2; }, ""));
    CHECK(dies(
        [] {
            LAUNCH(write_to, 1, 1, 0, (char *)host_pointer, 0);
            sink = host_pointer[0];
        },
        ""));
    cudaFree(host_pointer);
}

static char *block_of_100() {
    return device<char>(100);
}

static void copies_are_checked() {
    static char host[200];
    CHECK(dies([] { cudaMemcpy(host, host + 100, 50, cudaMemcpyHostToDevice); },
               "is not device memory"));
    CHECK(dies(
        [] { cudaMemcpy(block_of_100(), block_of_100(), 50, cudaMemcpyHostToDevice); },
        "is device memory"));
    CHECK(dies([] { cudaMemcpy(block_of_100() + 60, host, 50, cudaMemcpyHostToDevice); },
               "the allocation ends after 40"));
    CHECK(dies([] { cudaMemset(block_of_100(), 0, 101); },
               "the allocation ends after 100"));
    CHECK(dies(
        [] {
            char *p = block_of_100();
            cudaFree(p);
            cudaMemcpy(host, p, 50, cudaMemcpyDeviceToHost);
        },
        "is not device memory"));
    CHECK(cudaMemcpy2DAsync(block_of_100(), 25, host, 50, 26, 4, cudaMemcpyDefault) ==
          cudaErrorInvalidPitchValue);
    CHECK(cudaGetLastError() == cudaErrorInvalidPitchValue);
    CHECK(dies(
        [] { cudaMemcpy2DAsync(block_of_100(), 26, host, 50, 25, 4, cudaMemcpyDefault); },
        "the allocation ends after 100"));
    CHECK(dies(
        [] {
            char *p = block_of_100();
            cudaMemcpyAsync(p, p + 10, 50, cudaMemcpyDeviceToDevice);
        },
        "overlap"));
}

static void copies_copy() {
    char host[64], back[64];
    for (int i = 0; i < 64; i++)
        host[i] = (char)i;
    char *p = device<char>(64);
    CHECK(cudaMemcpy2DAsync(p, 16, host, 8, 8, 4, cudaMemcpyHostToDevice) == cudaSuccess);
    CHECK(cudaMemset2DAsync(p + 8, 16, 7, 8, 4) == cudaSuccess);
    fetch(back, p, 64);
    for (int i = 0; i < 64; i++)
        CHECK(back[i] == (i % 16 < 8 ? i / 16 * 8 + i % 16 : 7));
    cudaFree(p);
}

static void writing_behind_an_allocation_is_found() {
    CHECK(dies(
        [] {
            char *p = block_of_100();
            LAUNCH(write_to, 1, 1, 0, p, 100);
            cudaFree(p);
        },
#ifdef __SANITIZE_ADDRESS__
        "use-after-poison"
#else
        "wrote 0 bytes behind an allocation of 100 bytes"
#endif
        ));
}

/* In a process of its own: the range of addresses is made once. */
static void use_up_memory() {
    size_t left, all;
    char *a, *b;
    setenv("MAL_CUDA_HOST_MEMORY", "1000000", 1);
    CHECK(cudaMemGetInfo(&left, &all) == cudaSuccess && all == 1000000 && left == all);
    CHECK(cudaMalloc(&a, 999936) == cudaSuccess);
    CHECK(cudaMalloc(&b, 65) == cudaErrorMemoryAllocation && !b);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    CHECK(cudaMallocAsync(&b, 65, 0) == cudaErrorMemoryAllocation);
    CHECK(cudaMemGetInfo(&left, &all) == cudaSuccess && left == 64);
    CHECK(cudaFree(a) == cudaSuccess);
    CHECK(cudaMalloc(&a, SIZE_MAX) == cudaErrorMemoryAllocation);

    cudaMemPool_t pool;
    uint64_t keep = 300000, reserved = 0, used = 0;
    CHECK(cudaDeviceGetDefaultMemPool(&pool, 0) == cudaSuccess);
    CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep) ==
          cudaSuccess);
    CHECK(cudaMallocAsync(&a, 512000, 0) == cudaSuccess);
    CHECK(cudaFreeAsync(a, 0) == cudaSuccess);
    CHECK(cudaMemGetInfo(&left, &all) == cudaSuccess && left == 488000);
    CHECK(cudaMallocAsync(&b, 512000, 0) == cudaErrorMemoryAllocation); /* not yet */
    CHECK(cudaStreamSynchronize(0) == cudaSuccess);
    CHECK(cudaMemGetInfo(&left, &all) == cudaSuccess && left == 700000);
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved);
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used);
    CHECK(reserved == 300000 && used == 0);
    CHECK(cudaMalloc(&a, 999936) == cudaSuccess); /* the pool gives back what it keeps */
}

static void memory_ends() {
    char text[1024];
    CHECK(ends_well(use_up_memory, text, sizeof text));
}

static void give_back_and_take() {
    struct mal_backend *be;
    struct mal_error err = {};
    CHECK(mal_backend_create(&be, "cuda:0", &err));
    size_t most = mal_backend_available(be) / 5 * 3;
    void *mem = mal_backend_alloc(be, most);
    CHECK(mem);
    mal_backend_free(be, mem);
    mem = mal_backend_alloc(be, most + 1000);
    CHECK(mem);
    CHECK(!mal_backend_alloc(be, most));
    CHECK(mal_backend_sync(be, &err));
    mal_backend_free(be, mem);
    mal_backend_destroy(be);
}

/* It is the stream's until the stream has come to it: cuda/ waits for that. */
static void what_was_given_back_can_be_taken() {
    char text[1024];
    CHECK(ends_well(give_back_and_take, text, sizeof text));
}

static void memory_is_reused() {
    char *a = device<char>(1000), *b = device<char>(1000), *c = device<char>(3 << 20);
    CHECK((uintptr_t)a % 256 == 0 && (uintptr_t)b % 256 == 0 && (uintptr_t)c % 256 == 0);
    CHECK(cudaMemset(b, 0, 1000) == cudaSuccess && cudaFree(b) == cudaSuccess);
    float host[250], *again = device<float>(250);
    CHECK((char *)again == b);
    fetch(host, again, 250);
    for (float x : host)
        CHECK(isnan(x));
    CHECK(cudaFree(a) == cudaSuccess && cudaFree(again) == cudaSuccess);
    CHECK(cudaFree(c + 1) == cudaErrorInvalidValue);
    CHECK(cudaFree(c) == cudaSuccess && cudaFree(c) == cudaErrorInvalidValue);
    CHECK(cudaFree(nullptr) == cudaSuccess);
    cudaGetLastError();
}

static void pinned_copies_are_late() {
    int x = 5, *p = device(1, &x), *pinned = nullptr;
    cudaEvent_t event;
    CHECK(cudaHostAlloc(&pinned, 2 * sizeof *pinned, cudaHostAllocDefault) ==
          cudaSuccess);
    CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
    cudaMemcpyAsync(pinned, p, sizeof x, cudaMemcpyDeviceToHost);
    CHECK(cudaEventRecord(event) == cudaSuccess);
    cudaMemcpyAsync(pinned + 1, p, sizeof x, cudaMemcpyDeviceToHost);
    CHECK(pinned[0] == -1 && pinned[1] == -1);
    CHECK(cudaEventQuery(event) == cudaErrorNotReady);
    CHECK(cudaEventSynchronize(event) == cudaSuccess &&
          cudaEventQuery(event) == cudaSuccess);
    CHECK(pinned[0] == 5 && pinned[1] == -1);
    CHECK(cudaStreamSynchronize(0) == cudaSuccess && pinned[1] == 5);

    cudaMemcpyAsync(pinned, p, sizeof x, cudaMemcpyDeviceToHost);
    cudaMemset(p, 0, sizeof x);
    cudaMemcpyAsync(p, pinned, sizeof x,
                    cudaMemcpyHostToDevice); /* of what has been read */
    fetch(&x, p, 1);
    CHECK(x == 5);
    CHECK(cudaEventDestroy(event) == cudaSuccess && cudaFreeHost(pinned) == cudaSuccess);
    cudaFree(p);
    CHECK(dies(
        [] {
            int *q = device<int>(1), *from = nullptr;
            cudaMallocHost(&from, sizeof *from);
            cudaMemcpyAsync(q, from, sizeof *from, cudaMemcpyHostToDevice);
            *from = 3;
            cudaStreamSynchronize(0);
        },
        "changed before the host waited"));
}

/* ---- Streams ---- */

static cudaStream_t one, other;
static int *shared_by_both;

static void read_on(cudaStream_t stream) {
    int x;
    cudaMemcpyAsync(&x, shared_by_both, sizeof x, cudaMemcpyDeviceToHost, stream);
}

static void copy_on(cudaStream_t stream) {
    cudaMemcpyAsync(shared_by_both + 1, shared_by_both, sizeof(int),
                    cudaMemcpyDeviceToDevice, stream);
}

static void streams_do_not_wait_for_each_other() {
    CHECK(cudaStreamCreate(&one) == cudaSuccess &&
          cudaStreamCreate(&other) == cudaSuccess);
    shared_by_both = device<int>(2);
    CHECK(dies(
        [] {
            cudaMemsetAsync(shared_by_both, 0, sizeof(int), one);
            read_on(other);
        },
        "cudaMemcpyAsync on stream 2 reads memory that stream 1 writes"));
    CHECK(dies(
        [] {
            copy_on(one);
            cudaStreamSynchronize(other);
            cudaMemsetAsync(shared_by_both, 0, sizeof(int), other);
        },
        "on stream 2 writes or frees memory that stream 1 writes"));
    CHECK(dies(
        [] {
            int *to = device<int>(1);
            cudaMemcpyAsync(to, shared_by_both, sizeof *to, cudaMemcpyDeviceToDevice,
                            one);
            cudaFreeAsync(shared_by_both, other);
        },
        "cudaFreeAsync on stream 2 writes or frees memory that stream 1 reads"));
    CHECK(dies(
        [] {
            cudaMallocAsync(&shared_by_both, sizeof(int), one);
            cudaMemsetAsync(shared_by_both, 0, sizeof(int), other);
        },
        "memory that stream 1 writes"));
    CHECK(dies(
        [] {
            cublasHandle_t blas;
            float *x = device<float>(1), unit = 1;
            cublasCreate(&blas);
            cublasSetStream(blas, one);
            cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &unit, x, CUDA_R_32F, 1,
                         x, CUDA_R_32F, 1, &unit, shared_by_both, CUDA_R_32F, 1,
                         CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
            read_on(other);
        },
        "memory that stream 1 writes"));

    cudaMemsetAsync(shared_by_both, 0, sizeof(int), one);
    cudaStreamSynchronize(one);
    copy_on(other);
    read_on(other); /* waits until it is there */
    copy_on(one);
    CHECK(cudaStreamDestroy(one) == cudaSuccess);
    read_on(other);
    CHECK(cudaFree(shared_by_both) == cudaSuccess);
    CHECK(cudaStreamDestroy(other) == cudaSuccess);
}

static void a_wait_is_for_one_stream() {
    int x = 5, *p = device(1, &x), *pinned = nullptr;
    CHECK(cudaStreamCreate(&one) == cudaSuccess &&
          cudaStreamCreate(&other) == cudaSuccess);
    CHECK(cudaMallocHost(&pinned, sizeof *pinned) == cudaSuccess);
    cudaMemcpyAsync(pinned, p, sizeof x, cudaMemcpyDeviceToHost, one);
    cudaStreamSynchronize(other);
    CHECK(*pinned == -1 && cudaStreamQuery(other) == cudaSuccess);
    cudaStreamSynchronize(one);
    CHECK(*pinned == 5);
    cudaFreeHost(pinned);
    cudaFree(p);
    cudaStreamDestroy(one);
    cudaStreamDestroy(other);
}

void test_memory() {
    test("memory ends", memory_ends);
    test("the host cannot touch device memory", the_host_cannot_touch_device_memory);
    test("copies are checked", copies_are_checked);
    test("writing behind an allocation is found", writing_behind_an_allocation_is_found);
    test("pinned copies are late", pinned_copies_are_late);
    test("copies copy", copies_copy);
    test("memory is reused", memory_is_reused);
    test("what was given back can be taken", what_was_given_back_can_be_taken);
    test("streams do not wait for each other", streams_do_not_wait_for_each_other);
    test("a wait is for one stream", a_wait_is_for_one_stream);
}
