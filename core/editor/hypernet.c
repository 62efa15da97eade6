/* hypernet.c - the hyper-network's forward pass (core/README.md section 3, steps 1 to 3):
 * statistics in one device allocation, blocks in another or where the editor has them;
 * two thin products a block. */
#include "core/editor/hypernet_impl.h"

#include <assert.h>
#include <string.h>

#include "core/alloc.h"

/* The editor's own arrays, where the device can read them. */
static void borrow(struct mal_hypernet *net, const struct mal_editor_shape *shape) {
    net->mean = shape->norm.mean;
    net->std = shape->norm.std;
    for (int64_t i = 0; i < net->n_blocks; i++) {
        net->blocks[i] = shape->blocks[i];
    }
}

static void place_statistics(struct mal_hypernet *net, struct mal_arena *arena) {
    net->mean = mal_arena_floats(arena, net->size);
    net->std = mal_arena_floats(arena, net->size);
}

/* Running ones change with every edit, so they are never resident. */
static bool take_statistics(struct mal_hypernet *net,
                            const struct mal_editor_shape *shape, struct mal_error *err) {
    size_t bytes = (size_t)net->size * sizeof(float);
    struct mal_arena counting;
    mal_arena_init_counting(&counting);
    place_statistics(net, &counting);
    if (!mal_arena_init(&net->arena, net->be, counting.peak, err)) return false;
    place_statistics(net, &net->arena);
    mal_backend_upload(net->be, net->mean, shape->norm.mean, bytes);
    mal_backend_upload(net->be, net->std, shape->norm.std, bytes);
    return true;
}

static bool take_blocks(struct mal_hypernet *net, const struct mal_editor_shape *shape,
                        struct mal_error *err) {
    const struct mal_resident_blocks *there = shape->resident;
    if (net->n_blocks == 0) return true;
    if (!there) {
        if (!mal_resident_blocks_create(&net->own, shape, net->rank, net->n_blocks,
                                        net->be, err))
            return false;
        there = net->own;
    }
    memcpy(net->blocks, mal_resident_blocks_of(there),
           (size_t)net->n_blocks * sizeof *net->blocks);
    return true;
}

static bool create(struct mal_hypernet **out, const struct mal_editor_shape *shape,
                   int64_t rank, int64_t n_blocks, struct mal_backend *be,
                   struct mal_error *err) {
    assert(shape->size == shape->d_in + shape->d_out && shape->norm.size == shape->size);
    assert(n_blocks >= 0 && (rank > 0 || n_blocks == 0));
    struct mal_hypernet *net = mal_calloc(1, sizeof *net);
    if (!net) return mal_fail(err, MAL_NO_MEMORY, "hyper-network");
    *net = (struct mal_hypernet){.be = be,
                                 .d_in = shape->d_in,
                                 .d_out = shape->d_out,
                                 .size = shape->size,
                                 .n_modules = shape->n_modules,
                                 .rank = rank,
                                 .n_blocks = n_blocks};
    net->blocks = mal_calloc((size_t)n_blocks, sizeof *net->blocks);
    if (!net->blocks) {
        mal_hypernet_destroy(net);
        return mal_fail(err, MAL_NO_MEMORY, "hyper-network");
    }
    *out = net;
    return true;
}

bool mal_hypernet_borrow(struct mal_hypernet **out, const struct mal_editor_shape *shape,
                         int64_t rank, int64_t n_blocks, struct mal_backend *be,
                         struct mal_error *err) {
    if (!create(out, shape, rank, n_blocks, be, err)) return false;
    borrow(*out, shape);
    return true;
}

bool mal_hypernet_create(struct mal_hypernet **out, const struct mal_editor_shape *shape,
                         int64_t rank, int64_t n_blocks, struct mal_backend *be,
                         struct mal_error *err) {
    if (mal_backend_on_host(be))
        return mal_hypernet_borrow(out, shape, rank, n_blocks, be, err);
    struct mal_hypernet *net;
    if (!create(&net, shape, rank, n_blocks, be, err)) return false;
    if (!take_statistics(net, shape, err) || !take_blocks(net, shape, err)) {
        mal_hypernet_destroy(net);
        return false;
    }
    *out = net;
    return true;
}

void mal_hypernet_destroy(struct mal_hypernet *net) {
    if (!net) return;
    mal_arena_finish(&net->arena);
    mal_resident_blocks_destroy(net->own);
    mal_free(net->blocks);
    mal_free(net);
}

struct rows_scratch {
    float *h, *z, *hidden; /* (rows, size), (rows, size), (rows, rank) */
};

static struct rows_scratch place_rows(const struct mal_hypernet *net, int64_t rows,
                                      struct mal_arena *scratch) {
    struct rows_scratch s = {.h = mal_arena_floats(scratch, rows * net->size)};
    size_t mark = mal_arena_mark(scratch);
    if (net->n_blocks > 0) {
        s.z = mal_arena_floats(scratch, rows * net->size);
        s.hidden = mal_arena_floats(scratch, rows * net->rank);
    }
    /* Only h outlives the call; operations run in order, so what comes later may
     * overwrite z. */
    mal_arena_reset(scratch, mark);
    return s;
}

size_t mal_hypernet_scratch_bytes(const struct mal_hypernet *net, int64_t rows) {
    struct mal_arena counting;
    mal_arena_init_counting(&counting);
    place_rows(net, rows, &counting);
    return counting.peak;
}

void mal_hypernet_inner(const struct mal_hypernet *net, int64_t block, int64_t rows,
                        const float *h, float *hidden, float *z) {
    mal_gemm(net->be, &(struct mal_gemm){.m = rows,
                                         .n = net->rank,
                                         .k = net->size,
                                         .a = h,
                                         .b = net->blocks[block].a,
                                         .b_dtype = MAL_F32,
                                         .c = hidden,
                                         .alpha = 1,
                                         .tf32 = true});
    mal_gemm(net->be, &(struct mal_gemm){.m = rows,
                                         .n = net->size,
                                         .k = net->rank,
                                         .a = hidden,
                                         .b = net->blocks[block].b,
                                         .b_dtype = MAL_F32,
                                         .c = z,
                                         .alpha = 1,
                                         .bias = net->blocks[block].bias,
                                         .tf32 = true});
}

float *mal_hypernet_fwd(struct mal_hypernet *net, size_t row, int64_t rows,
                        const float *u, const float *g, struct mal_arena *scratch) {
    assert(net->n_blocks == 0 || (int64_t)row < net->n_modules);
    int64_t at = (int64_t)row * net->size;
    struct rows_scratch s = place_rows(net, rows, scratch);

    /* Step 1: h = (concat(u, g) - mean) / (std + eps) */
    mal_normalize_rows(net->be, rows, net->d_in, net->d_out, u, net->d_in, g, net->d_out,
                       net->mean, net->std, s.h);
    /* Step 2: h += scale_m * relu(h A B + bias) + shift_m */
    for (int64_t i = 0; i < net->n_blocks; i++) {
        mal_hypernet_inner(net, i, rows, s.h, s.hidden, s.z);
        mal_block_fwd(net->be, rows, net->size, s.z, net->blocks[i].scale + at,
                      net->blocks[i].shift + at, s.h);
    }
    return s.h; /* Step 3: columns [0, d_in) are u_hat, the rest g_hat. */
}
