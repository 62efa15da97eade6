/* arena.c - a bump pointer over one block of device memory. */
#include "core/arena.h"

#include <assert.h>

enum { ALIGNMENT = 64 };

static size_t round_up(size_t bytes) {
    assert(bytes <= SIZE_MAX - ALIGNMENT);
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

bool mal_arena_init(struct mal_arena *arena, struct mal_backend *be, size_t bytes,
                    struct mal_error *err) {
    size_t capacity = round_up(bytes ? bytes : 1);
    char *base = mal_backend_alloc(be, capacity);
    if (!base) {
        return mal_fail(err, MAL_NO_MEMORY, "no %zu bytes of memory on device %s",
                        capacity, mal_backend_name(be));
    }
    *arena = (struct mal_arena){.be = be, .base = base, .capacity = capacity};
    return true;
}

void mal_arena_init_counting(struct mal_arena *arena) {
    *arena = (struct mal_arena){0};
}

void mal_arena_finish(struct mal_arena *arena) {
    if (arena->base) mal_backend_free(arena->be, arena->base);
    *arena = (struct mal_arena){0};
}

void *mal_arena_alloc(struct mal_arena *arena, size_t bytes) {
    size_t start = arena->used;
    size_t size = round_up(bytes);
    assert(size <= SIZE_MAX - start);
    assert(!arena->base || start + size <= arena->capacity);
    arena->used = start + size;
    if (arena->used > arena->peak) arena->peak = arena->used;
    return arena->base ? arena->base + start : NULL;
}

float *mal_arena_floats(struct mal_arena *arena, int64_t n) {
    assert(n >= 0 && (uint64_t)n <= SIZE_MAX / sizeof(float));
    return mal_arena_alloc(arena, (size_t)n * sizeof(float));
}

int32_t *mal_arena_ints(struct mal_arena *arena, int64_t n) {
    assert(n >= 0 && (uint64_t)n <= SIZE_MAX / sizeof(int32_t));
    return mal_arena_alloc(arena, (size_t)n * sizeof(int32_t));
}

size_t mal_arena_mark(const struct mal_arena *arena) {
    return arena->used;
}

void mal_arena_reset(struct mal_arena *arena, size_t mark) {
    assert(mark <= arena->used);
    arena->used = mark;
}

bool mal_arena_reserve(struct mal_arena *arena, size_t bytes, struct mal_error *err) {
    assert(arena->be);
    if (arena->base && bytes <= arena->capacity) {
        arena->used = 0;
        return true;
    }
    struct mal_backend *be = arena->be;
    size_t capacity = arena->capacity;
    mal_arena_finish(arena); /* first, so that old and new need not fit together */
    if (mal_arena_init(arena, be, bytes, err)) return true;

    /* The arena stays usable at its old size: the caller's job failed, not the arena. */
    struct mal_error ignored = {0};
    if (capacity == 0 || !mal_arena_init(arena, be, capacity, &ignored)) arena->be = be;
    return false;
}
