/* rounding.h - the device of tests that are about rounding activations: "cuda:0" where
 * MAL_TEST_DEVICE names one of that kind, else "cpu:bf16". */
#ifndef MAL_TEST_ROUNDING_H
#define MAL_TEST_ROUNDING_H

#include "device.h"

static inline bool on_cuda(void) {
    return strncmp(test_device(), "cuda:", 5) == 0;
}

static inline const char *rounding_device(void) {
    return on_cuda() ? "cuda:0" : "cpu:bf16";
}

/* False, and said, where the processor cannot: the program has no tests then (cmocka
 * calls those that it skips "not ok"). */
static inline bool rounds_here(void) {
    struct mal_backend *be = NULL;
    struct mal_error err = {0};
    bool can = mal_backend_create(&be, rounding_device(), &err);
    if (!can) printf("1..0 # SKIP %s\n", err.text);
    mal_backend_destroy(be);
    return can;
}

static inline int open_rounding(void **state) {
    static struct device dev;
    struct mal_error err = {0};
    dev = (struct device){.seed = 1};
    assert_true(mal_backend_create(&dev.be, rounding_device(), &err));
    *state = &dev;
    return 0;
}

static inline int close_rounding(void **state) {
    mal_backend_destroy(((struct device *)*state)->be);
    return 0;
}

#endif
