/* alloc.c - malloc behind a countdown. */
#include "core/alloc.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
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

/* ---- How much there is ---- */

static bool read_number(const char *path, const char *before, uint64_t *out) {
    char line[256];
    FILE *file = fopen(path, "re");
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        size_t n = strlen(before);
        found = strncmp(line, before, n) == 0 && sscanf(line + n, "%" SCNu64, out) == 1;
    }
    if (file) fclose(file);
    return found;
}

size_t mal_available_memory(void) {
    uint64_t free_kib = 0, limit = 0, used = 0, cached = 0;
    if (!read_number("/proc/meminfo", "MemAvailable:", &free_kib)) return 0;
    uint64_t bytes = free_kib * 1024;
    if (read_number("/sys/fs/cgroup/memory.max", "", &limit) &&
        read_number("/sys/fs/cgroup/memory.current", "", &used)) {
        /* files that were read fill a container to its limit, and give way */
        (void)read_number("/sys/fs/cgroup/memory.stat", "inactive_file ", &cached);
        limit += cached < used ? cached : used;
        if (limit < used + bytes) bytes = limit > used ? limit - used : 1;
    }
    return (size_t)bytes;
}
