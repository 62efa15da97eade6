/* test_device.h - the device that tests run on: MAL_TEST_DEVICE, "cpu" without it. */
#ifndef MAL_TEST_TEST_DEVICE_H
#define MAL_TEST_TEST_DEVICE_H

#include <stdlib.h>

static inline const char *test_device(void) {
    const char *name = getenv("MAL_TEST_DEVICE");
    return name ? name : "cpu";
}

#endif
