/* copy.cpp - copies and fills. Both ends are looked at: what should be device memory is
 * inside one allocation, what should be host memory is not. */
#include "internal.h"

/* `height` rows of `width` bytes. */
struct area {
    const char *name;
    size_t pitch, width, height;
};

static size_t extent(size_t pitch, const area *a) {
    return a->height == 0 || a->width == 0 ? 0 : (a->height - 1) * pitch + a->width;
}

static bool from_device(const void *src, enum cudaMemcpyKind kind) {
    if (kind == cudaMemcpyDefault) return mal_host_is_device(src);
    return kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
}

static bool to_device(const void *dst, enum cudaMemcpyKind kind) {
    if (kind == cudaMemcpyDefault) return mal_host_is_device(dst);
    return kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
}

static void need(cudaStream_t stream, bool on_device, const void *p, size_t bytes,
                 mal_host_how how, const char *what) {
    if (on_device)
        mal_host_use_device(stream, p, bytes, how, what);
    else
        mal_host_need_host(p, bytes, what);
}

static bool overlap(const char *a, const char *b, size_t bytes) {
    return a < b + bytes && b < a + bytes;
}

static cudaError_t copy(const char *name, void *dst, size_t dpitch, const void *src,
                        size_t spitch, size_t width, size_t height,
                        enum cudaMemcpyKind kind, cudaStream_t stream, bool late) {
    area a = {name, 0, width, height};
    size_t dst_bytes = extent(dpitch, &a), src_bytes = extent(spitch, &a);
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return mal_host_error(cudaErrorInvalidMemcpyDirection);
    if (height > 1 && (dpitch < width || spitch < width))
        return mal_host_error(cudaErrorInvalidPitchValue);
    if (dst_bytes == 0) return cudaSuccess;
    bool from = from_device(src, kind), to = to_device(dst, kind);
    bool pinned =
        from != to && mal_host_is_pinned(to ? src : dst, to ? src_bytes : dst_bytes);
    bool waits = !late || (from && !to && !pinned); /* until it is there */
    if (waits || (to && !from && !pinned)) mal_host_wait_for(stream);
    need(stream, from, src, src_bytes, MAL_HOST_READS, name);
    need(stream, to, dst, dst_bytes, MAL_HOST_WRITES, name);
    if (waits) mal_host_waited(stream);
    late = pinned && !waits;

    mal_host_access access;
    for (size_t i = 0; i < height; i++) {
        char *y = (char *)dst + i * dpitch;
        const char *x = (const char *)src + i * spitch;
        if (overlap(y, x, width))
            mal_host_stop("%s: source and destination overlap", name);
        if (late && to)
            mal_host_late_write(stream, y, x, width);
        else if (late)
            mal_host_late_read(stream, y, x, width);
        else
            memcpy(y, x, width);
    }
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t count,
                       enum cudaMemcpyKind kind) {
    return copy("cudaMemcpy", dst, count, src, count, count, 1, kind, nullptr, false);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t count,
                            enum cudaMemcpyKind kind, cudaStream_t stream) {
    return copy("cudaMemcpyAsync", dst, count, src, count, count, 1, kind, stream, true);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dpitch, const void *src, size_t spitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream) {
    return copy("cudaMemcpy2DAsync", dst, dpitch, src, spitch, width, height, kind,
                stream, true);
}

static cudaError_t fill(const char *name, void *mem, size_t pitch, int value,
                        size_t width, size_t height, cudaStream_t stream) {
    area a = {name, pitch, width, height};
    if (height > 1 && pitch < width) return mal_host_error(cudaErrorInvalidPitchValue);
    size_t bytes = extent(pitch, &a);
    if (bytes == 0) return cudaSuccess;
    mal_host_use_device(stream, mem, bytes, MAL_HOST_WRITES, name);
    mal_host_access access;
    for (size_t i = 0; i < height; i++)
        memset((char *)mem + i * pitch, value, width);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *devPtr, int value, size_t count) {
    return fill("cudaMemset", devPtr, count, value, count, 1, nullptr);
}

cudaError_t cudaMemsetAsync(void *devPtr, int value, size_t count, cudaStream_t stream) {
    return fill("cudaMemsetAsync", devPtr, count, value, count, 1, stream);
}

cudaError_t cudaMemset2DAsync(void *devPtr, size_t pitch, int value, size_t width,
                              size_t height, cudaStream_t stream) {
    return fill("cudaMemset2DAsync", devPtr, pitch, value, width, height, stream);
}
