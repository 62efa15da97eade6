/* device.cu - finding a CUDA device. */
#include "cuda/cuda.h"

#include <cuda_runtime.h>

extern "C" bool mal_cuda_create(struct mal_backend **out, int index, struct mal_error *err) {
    (void)out;
    int n = 0;
    cudaError_t code = cudaGetDeviceCount(&n);
    if (code != cudaSuccess) {
        return mal_fail(err, MAL_DEVICE, "cuda:%d: %s", index, cudaGetErrorString(code));
    }
    if (index >= n) {
        return mal_fail(err, MAL_DEVICE, "cuda:%d: there are %d CUDA devices", index, n);
    }
    struct cudaDeviceProp device;
    code = cudaGetDeviceProperties(&device, index);
    if (code != cudaSuccess) {
        return mal_fail(err, MAL_DEVICE, "cuda:%d: %s", index, cudaGetErrorString(code));
    }
    return mal_fail(err, MAL_DEVICE,
                    "cuda:%d: %s (compute capability %d.%d) is there, but this version of malmend "
                    "computes on the CPU only",
                    index, device.name, device.major, device.minor);
}
