/* stop_text.c - texts that end an answer. */
#include "core/model/stop_text.h"

#include <string.h>

size_t mal_before_stop(const char *text, size_t bytes, const char *const *stop,
                       size_t n_stop) {
    size_t before = bytes;
    for (size_t i = 0; i < n_stop; i++) {
        size_t n = strlen(stop[i]), most = n > 0 ? n - 1 : 0;
        for (size_t k = most < bytes ? most : bytes; k > bytes - before; k--) {
            if (memcmp(text + bytes - k, stop[i], k) == 0) before = bytes - k;
        }
    }
    return before;
}
