/* rounding.h - the device of tests that are about rounding activations: "cuda:0" where
 * MAL_TEST_DEVICE names one of that kind, else "cpu:bf16"; NULL where the processor
 * cannot. */
#ifndef MAL_TEST_ROUNDING_H
#define MAL_TEST_ROUNDING_H

#include "device.h"

static inline bool on_cuda(void) {
    return strncmp(test_device(), "cuda:", 5) == 0;
}

static inline int open_rounding(void **state) {
    static struct device dev;
    struct mal_error err = {0};
    dev = (struct device){.seed = 1};
    if (!mal_backend_create(&dev.be, on_cuda() ? "cuda:0" : "cpu:bf16", &err)) {
        assert_int_equal(err.status, MAL_DEVICE);
        print_message("# %s\n", err.text);
        *state = NULL;
        return 0;
    }
    *state = &dev;
    return 0;
}

static inline int close_rounding(void **state) {
    struct device *dev = *state;
    if (dev) mal_backend_destroy(dev->be);
    return 0;
}

#endif
