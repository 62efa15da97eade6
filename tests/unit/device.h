/* device.h - for tests of operations: device buffers between sentinels, random numbers,
 * comparison.
 *
 * The device is named by MAL_TEST_DEVICE ("cpu" without it), so the same cases run on
 * another. */
#ifndef MAL_TEST_DEVICE_H
#define MAL_TEST_DEVICE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/backend.h"
#include "test_device.h"

enum { GUARD = 64, MAX_BUFFERS = 64 };

struct device {
    struct mal_backend *be;

    struct {
        char *mem;    /* device memory: guard, data, guard */
        size_t bytes; /* of the data */
    } buffers[MAX_BUFFERS];

    size_t n_buffers;
    uint64_t seed;
};

static inline int device_open(void **state) {
    static struct device dev;
    struct mal_error err = {0};
    if (!mal_backend_create(&dev.be, test_device(), &err)) {
        print_message("# %s\n", err.text);
        return -1;
    }
    print_message("# %s\n", mal_backend_describe(dev.be));
    dev.seed = 1;
    *state = &dev;
    return 0;
}

static inline int device_close(void **state) {
    struct device *dev = *state;
    mal_backend_destroy(dev->be);
    return 0;
}

/* Whether activations can be written in bf16, as products read them. */
static inline bool narrows(struct device *dev) {
    return mal_operand_dtype(dev->be, MAL_BF16) == MAL_BF16;
}

/* ---- Buffers ---- */

static inline void *device_buffer(struct device *dev, const void *host, size_t bytes) {
    assert_true(dev->n_buffers < MAX_BUFFERS);
    unsigned char guard[GUARD];
    memset(guard, 0xa5, sizeof guard);
    char *mem = mal_backend_alloc(dev->be, bytes + 2 * GUARD);
    assert_non_null(mem);
    mal_backend_upload(dev->be, mem, guard, GUARD);
    mal_backend_upload(dev->be, mem + GUARD + bytes, guard, GUARD);
    if (host) mal_backend_upload(dev->be, mem + GUARD, host, bytes);
    dev->buffers[dev->n_buffers].mem = mem;
    dev->buffers[dev->n_buffers++].bytes = bytes;
    return mem + GUARD;
}

static inline float *device_floats(struct device *dev, const float *host, int64_t n) {
    return device_buffer(dev, host, (size_t)n * sizeof(float));
}

static inline double *device_doubles(struct device *dev, const double *host, int64_t n) {
    return device_buffer(dev, host, (size_t)n * sizeof(double));
}

static inline int32_t *device_ints(struct device *dev, const int32_t *host, int64_t n) {
    return device_buffer(dev, host, (size_t)n * sizeof(int32_t));
}

/* To host memory that the caller frees. */
static inline void *host_copy(struct device *dev, const void *src, size_t bytes) {
    void *host = malloc(bytes ? bytes : 1);
    assert_non_null(host);
    mal_backend_download(dev->be, host, src, bytes);
    struct mal_error err = {0};
    assert_true(mal_backend_sync(dev->be, &err));
    return host;
}

static inline float *host_floats(struct device *dev, const float *src, int64_t n) {
    return host_copy(dev, src, (size_t)n * sizeof(float));
}

/* Checks the sentinels around all buffers and frees them. */
static inline void device_release(struct device *dev) {
    for (size_t i = 0; i < dev->n_buffers; i++) {
        size_t bytes = dev->buffers[i].bytes;
        unsigned char *all = host_copy(dev, dev->buffers[i].mem, bytes + 2 * GUARD);
        for (size_t j = 0; j < GUARD; j++) {
            assert_int_equal(all[j], 0xa5);
            assert_int_equal(all[GUARD + bytes + j], 0xa5);
        }
        free(all);
        mal_backend_free(dev->be, dev->buffers[i].mem);
    }
    dev->n_buffers = 0;
    assert_int_equal(mal_backend_bytes(dev->be), 0);
}

/* ---- Random numbers ---- */

static inline double random_uniform(struct device *dev) {
    dev->seed = dev->seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(dev->seed >> 11) * 0x1p-53;
}

static inline float random_float(struct device *dev) {
    return (float)(4 * random_uniform(dev) - 2);
}

static inline float *random_floats(struct device *dev, int64_t n) {
    float *x = malloc((n > 0 ? (size_t)n : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = random_float(dev);
    return x;
}

static inline int32_t *random_ints(struct device *dev, int64_t n, int32_t below) {
    int32_t *x = malloc((n > 0 ? (size_t)n : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (int32_t)(random_uniform(dev) * below);
    return x;
}

static inline double *double_zeros(int64_t n) {
    double *x = calloc(n > 0 ? (size_t)n : 1, sizeof *x);
    assert_non_null(x);
    return x;
}

static inline double *wide(const float *x, int64_t n) {
    double *y = double_zeros(n);
    for (int64_t i = 0; i < n; i++)
        y[i] = (double)x[i];
    return y;
}

/* ---- Comparison ---- */

static inline void check_close(const char *what, int64_t i, double got, double want,
                               double tolerance) {
    if (isnan(want) ? isnan(got) : got == want || fabs(got - want) <= tolerance) return;
    fail_msg("%s: element %lld is %.9g, must be %.9g (off by %.3g, allowed %.3g)", what,
             (long long)i, got, want, got - want, tolerance);
}

static inline void check_floats(const char *what, int64_t n, const float *got,
                                const double *want, double absolute, double relative) {
    for (int64_t i = 0; i < n; i++)
        check_close(what, i, (double)got[i], want[i],
                    absolute + relative * fabs(want[i]));
}

static inline void check_doubles(const char *what, int64_t n, const double *got,
                                 const double *want, double absolute, double relative) {
    for (int64_t i = 0; i < n; i++)
        check_close(what, i, got[i], want[i], absolute + relative * fabs(want[i]));
}

#endif
