/* alloc.c - malloc behind a countdown. */
#include "core/alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static atomic_long countdown;

void mal_alloc_fail_at(long n) {
    atomic_store(&countdown, n);
}

static bool must_fail(void) {
    if (atomic_load_explicit(&countdown, memory_order_relaxed) == 0) return false;
    return atomic_fetch_sub(&countdown, 1) == 1;
}

void *mal_malloc(size_t bytes) {
    return must_fail() ? NULL : malloc(bytes ? bytes : 1);
}

void *mal_calloc(size_t n, size_t size) {
    return must_fail() ? NULL : calloc(n ? n : 1, size ? size : 1);
}

void *mal_realloc(void *mem, size_t bytes) {
    return must_fail() ? NULL : realloc(mem, bytes ? bytes : 1);
}

char *mal_strdup(const char *text) {
    size_t bytes = strlen(text) + 1;
    char *copy = mal_malloc(bytes);
    if (copy) memcpy(copy, text, bytes);
    return copy;
}

void mal_free(void *mem) {
    free(mem);
}
