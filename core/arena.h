/* arena.h - bump allocation over one block of device memory.
 *
 * A layout is written once as a function that takes an arena: run on a counting arena it
 * says how many bytes it needs, run on a real one it hands them out. So a job's need is
 * known before it starts, and no operation allocates. */
#ifndef MAL_ARENA_H
#define MAL_ARENA_H

#include "core/backend.h"

struct mal_arena {
    struct mal_backend *be;
    char *base; /* NULL: only counts */
    size_t capacity, used;
    size_t peak; /* highest `used` so far */
};

/* One allocation; false with MAL_NO_MEMORY that says how much was wanted. */
bool mal_arena_init(struct mal_arena *arena, struct mal_backend *be, size_t bytes,
                    struct mal_error *err) MAL_CHECK;
void mal_arena_init_counting(struct mal_arena *arena);
void mal_arena_finish(struct mal_arena *arena); /* takes a zeroed one */

/* 64-byte aligned; a real arena asserts that it fits. A counting arena returns NULL. */
void *mal_arena_alloc(struct mal_arena *arena, size_t bytes);
float *mal_arena_floats(struct mal_arena *arena, int64_t n);
int32_t *mal_arena_ints(struct mal_arena *arena, int64_t n);

size_t mal_arena_mark(const struct mal_arena *arena);
void mal_arena_reset(struct mal_arena *arena, size_t mark);
/* Makes sure that `bytes` fit, by one new allocation if need be; contents are lost. */
bool mal_arena_reserve(struct mal_arena *arena, size_t bytes,
                       struct mal_error *err) MAL_CHECK;

#endif
