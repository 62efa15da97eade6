/* device.cpp - the device's properties, errors and events. There is nothing to
 * wait for but copies of pinned memory: everything else is done when its call returns. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

struct CUevent_st {
    uint64_t sign, late;
    cudaStream_t stream;
    bool timed, recorded;
    struct timespec at;
};

static const uint64_t EVENT = 0x6d616c65766e7431u;

enum { MULTIPROCESSORS = 4 };

/* ---- Messages and errors ---- */

void mal_host_stop(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fputs("cuda_host: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

static __thread cudaError_t last_error;

cudaError_t mal_host_error(cudaError_t code) {
    if (code != cudaSuccess && code != cudaErrorNotReady && last_error == cudaSuccess)
        last_error = code;
    return code;
}

cudaError_t cudaGetLastError() {
    cudaError_t code = last_error;
    last_error = cudaSuccess;
    return code;
}

cudaError_t cudaPeekAtLastError() {
    return last_error;
}

static const struct {
    cudaError_t code;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError",
     "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer",
     "invalid device pointer"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction",
     "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle",
     "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const char *cudaGetErrorName(cudaError_t error) {
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (errors[i].code == error) return errors[i].name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error) {
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (errors[i].code == error) return errors[i].text;
    return "unrecognized error code";
}

uint64_t mal_host_order() {
    const char *given = getenv("MAL_CUDA_HOST_ORDER");
    return given ? strtoull(given, nullptr, 10) : 0;
}

/* ---- The device ---- */

cudaError_t cudaGetDeviceCount(int *count) {
    if (!count) return mal_host_error(cudaErrorInvalidValue);
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    return mal_host_error(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device) {
    if (!device) return mal_host_error(cudaErrorInvalidValue);
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned int) {
    return cudaSuccess;
}

cudaError_t cudaInitDevice(int device, unsigned int, unsigned int) {
    return cudaSetDevice(device);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device) {
    if (!prop) return mal_host_error(cudaErrorInvalidValue);
    if (device != 0) return mal_host_error(cudaErrorInvalidDevice);
    size_t free;
    *prop = {};
    snprintf(prop->name, sizeof prop->name, "CPU playing a CUDA device");
    cudaMemGetInfo(&free, &prop->totalGlobalMem);
    prop->sharedMemPerBlock = 48 << 10;
    prop->regsPerBlock = 65536;
    prop->warpSize = 32;
    prop->maxThreadsPerBlock = 1024;
    prop->maxThreadsDim[0] = prop->maxThreadsDim[1] = 1024;
    prop->maxThreadsDim[2] = 64;
    prop->maxGridSize[0] = INT32_MAX;
    prop->maxGridSize[1] = prop->maxGridSize[2] = 65535;
    prop->major = 9;
    prop->minor = 0;
    prop->multiProcessorCount = MULTIPROCESSORS;
    prop->unifiedAddressing = 1;
    prop->memoryBusWidth = 64;
    prop->l2CacheSize = 1 << 20;
    prop->maxThreadsPerMultiProcessor = 2048;
    prop->sharedMemPerMultiprocessor = 228 << 10;
    prop->sharedMemPerBlockOptin = 227 << 10;
    prop->memoryPoolsSupported = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device) {
    struct cudaDeviceProp prop;
    if (!value) return mal_host_error(cudaErrorInvalidValue);
    cudaError_t code = cudaGetDeviceProperties(&prop, device);
    if (code != cudaSuccess) return code;
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock: *value = prop.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)prop.sharedMemPerBlock; break;
    case cudaDevAttrWarpSize: *value = prop.warpSize; break;
    case cudaDevAttrMultiProcessorCount: *value = prop.multiProcessorCount; break;
    case cudaDevAttrIntegrated:
    case cudaDevAttrManagedMemory: *value = 0; break;
    case cudaDevAttrSingleToDoublePrecisionPerfRatio: *value = 2; break;
    case cudaDevAttrL2CacheSize: *value = prop.l2CacheSize; break;
    case cudaDevAttrComputeCapabilityMajor: *value = prop.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = prop.minor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)prop.sharedMemPerBlockOptin;
        break;
    case cudaDevAttrMemoryPoolsSupported: *value = prop.memoryPoolsSupported; break;
    default: return mal_host_error(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *driverVersion) {
    *driverVersion = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *runtimeVersion) {
    *runtimeVersion = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
    mal_host_late_wait_for_all();
    mal_host_waited_for_all();
    mal_host_pool_wait();
    return cudaSuccess;
}

/* ---- Events ---- */

static bool is_event(cudaEvent_t event) {
    return event && event->sign == EVENT;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
    if (!mal_host_is_stream(stream) || !is_event(event))
        return mal_host_error(cudaErrorInvalidResourceHandle);
    mal_host_stop("cudaStreamWaitEvent(): streams.cpp knows only of hosts that wait");
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags) {
    if (!event) return mal_host_error(cudaErrorInvalidValue);
    cudaEvent_t e = (cudaEvent_t)calloc(1, sizeof *e);
    if (!e) return mal_host_error(cudaErrorMemoryAllocation);
    e->sign = EVENT;
    e->timed = !(flags & cudaEventDisableTiming);
    *event = e;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (!is_event(event) || !mal_host_is_stream(stream))
        return mal_host_error(cudaErrorInvalidResourceHandle);
    event->recorded = true;
    event->late = mal_host_late_now();
    event->stream = stream;
    clock_gettime(CLOCK_MONOTONIC, &event->at);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (!is_event(event)) return mal_host_error(cudaErrorInvalidResourceHandle);
    if (!mal_host_late_pending(event->stream, event->late)) return cudaSuccess;
    mal_host_late_wait(event->stream, event->late);
    return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (!is_event(event)) return mal_host_error(cudaErrorInvalidResourceHandle);
    mal_host_late_wait(event->stream, event->late);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    if (!is_event(start) || !is_event(end) || !start->timed || !end->timed ||
        !start->recorded || !end->recorded)
        return mal_host_error(cudaErrorInvalidResourceHandle);
    *ms = (float)((double)(end->at.tv_sec - start->at.tv_sec) * 1e3 +
                  (double)(end->at.tv_nsec - start->at.tv_nsec) * 1e-6);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    if (!is_event(event)) return mal_host_error(cudaErrorInvalidResourceHandle);
    event->sign = 0;
    free(event);
    return cudaSuccess;
}
