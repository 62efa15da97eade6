/* resident.c - a shape's blocks in one allocation of device memory. */
#include "core/editor/resident.h"

#include "core/alloc.h"
#include "core/arena.h"

struct mal_resident_blocks {
    struct mal_arena arena;
    struct mal_block *blocks;
};

enum { N_TENSORS = 5 };

/* The tensors of one block: where they are, and how many elements each has. */
static void tensors_of(struct mal_block *block, const struct mal_editor_shape *shape,
                       int64_t rank, float **out[N_TENSORS], int64_t n[N_TENSORS]) {
    float **const at[] = {&block->a, &block->b, &block->bias, &block->scale,
                          &block->shift};
    const int64_t matrix = shape->size * rank, rows = shape->n_modules * shape->size;
    const int64_t sizes[] = {matrix, matrix, shape->size, rows, rows};
    for (int k = 0; k < N_TENSORS; k++) {
        out[k] = at[k];
        n[k] = sizes[k];
    }
}

/* The layout: run on a counting arena first. */
static void place(struct mal_resident_blocks *resident,
                  const struct mal_editor_shape *shape, int64_t rank, int64_t n_blocks,
                  struct mal_arena *arena) {
    for (int64_t i = 0; i < n_blocks; i++) {
        float **to[N_TENSORS];
        int64_t n[N_TENSORS];
        tensors_of(&resident->blocks[i], shape, rank, to, n);
        for (int k = 0; k < N_TENSORS; k++)
            *to[k] = mal_arena_floats(arena, n[k]);
    }
}

static void upload(struct mal_resident_blocks *resident,
                   const struct mal_editor_shape *shape, int64_t rank, int64_t n_blocks) {
    for (int64_t i = 0; i < n_blocks; i++) {
        struct mal_block from = shape->blocks[i];
        float **src[N_TENSORS], **dst[N_TENSORS];
        int64_t n[N_TENSORS];
        tensors_of(&from, shape, rank, src, n);
        tensors_of(&resident->blocks[i], shape, rank, dst, n);
        for (int k = 0; k < N_TENSORS; k++)
            mal_backend_upload(resident->arena.be, *dst[k], *src[k],
                               (size_t)n[k] * sizeof(float));
    }
}

bool mal_resident_blocks_create(struct mal_resident_blocks **out,
                                const struct mal_editor_shape *shape, int64_t rank,
                                int64_t n_blocks, struct mal_backend *be,
                                struct mal_error *err) {
    struct mal_resident_blocks *resident = mal_calloc(1, sizeof *resident);
    struct mal_arena counting;
    if (!resident) return mal_fail(err, MAL_NO_MEMORY, "networks");
    resident->blocks = mal_calloc((size_t)n_blocks, sizeof *resident->blocks);
    if (!resident->blocks) {
        mal_free(resident);
        return mal_fail(err, MAL_NO_MEMORY, "networks");
    }
    mal_arena_init_counting(&counting);
    place(resident, shape, rank, n_blocks, &counting);
    if (!mal_arena_init(&resident->arena, be, counting.peak, err)) {
        mal_resident_blocks_destroy(resident);
        return mal_fail_wrap(err, "networks of shape (%lld, %lld)",
                             (long long)shape->d_in, (long long)shape->d_out);
    }
    place(resident, shape, rank, n_blocks, &resident->arena);
    upload(resident, shape, rank, n_blocks);
    *out = resident;
    return true;
}

void mal_resident_blocks_destroy(struct mal_resident_blocks *resident) {
    if (!resident) return;
    mal_arena_finish(&resident->arena);
    mal_free(resident->blocks);
    mal_free(resident);
}

const struct mal_block *
mal_resident_blocks_of(const struct mal_resident_blocks *resident) {
    return resident->blocks;
}

bool mal_editor_make_resident(struct mal_editor *editor, struct mal_backend *be,
                              struct mal_error *err) {
    if (mal_backend_on_host(be)) return true;
    for (size_t s = 0; s < editor->n_shapes; s++) {
        struct mal_editor_shape *shape = &editor->shapes[s];
        if (shape->resident || editor->n_blocks == 0) continue;
        if (!mal_resident_blocks_create(&shape->resident, shape, editor->rank,
                                        editor->n_blocks, be, err))
            return false;
    }
    return mal_backend_sync(be, err);
}
