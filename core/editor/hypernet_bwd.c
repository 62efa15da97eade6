/* hypernet_bwd.c - the hyper-network's backward pass: for each block, from the last to
 * the first, with z = h A B + bias and h' = h + scale relu(z) + shift. */
#include <assert.h>

#include "core/editor/hypernet_impl.h"

static void place_tape(const struct mal_hypernet *net, int64_t rows,
                       struct mal_arena *scratch, struct mal_hypernet_tape *tape) {
    int64_t n = net->n_blocks;
    *tape = (struct mal_hypernet_tape){
        .rows = rows,
        .h = mal_arena_floats(scratch, (n + 1) * rows * net->size),
        .z = mal_arena_floats(scratch, n * rows * net->size),
        .hidden = mal_arena_floats(scratch, n * rows * net->rank)};
    if (tape->h) tape->out = tape->h + n * rows * net->size;
}

size_t mal_hypernet_tape_bytes(const struct mal_hypernet *net, int64_t rows) {
    struct mal_arena counting;
    struct mal_hypernet_tape tape;
    mal_arena_init_counting(&counting);
    place_tape(net, rows, &counting, &tape);
    return counting.peak;
}

void mal_hypernet_fwd_taped(struct mal_hypernet *net, size_t row, int64_t rows,
                            const float *u, const float *g, struct mal_arena *scratch,
                            struct mal_hypernet_tape *tape) {
    int64_t all = rows * net->size, at = (int64_t)row * net->size;
    place_tape(net, rows, scratch, tape);
    mal_normalize_rows(net->be, rows, net->d_in, net->d_out, u, net->d_in, g, net->d_out,
                       net->mean, net->std, tape->h);
    for (int64_t i = 0; i < net->n_blocks; i++) {
        float *h = tape->h + i * all, *z = tape->z + i * all;
        mal_hypernet_inner(net, i, rows, h, tape->hidden + i * rows * net->rank, z);
        mal_backend_copy(net->be, h + all, h, (size_t)all * sizeof *h);
        mal_block_fwd(net->be, rows, net->size, z, net->blocks[i].scale + at,
                      net->blocks[i].shift + at, h + all);
    }
}

/* c (m,n) += a' (m,rows) @ b (rows,n) */
static void add_product(const struct mal_hypernet *net, int64_t rows, int64_t m,
                        int64_t n, const float *a, const float *b, float *c) {
    mal_gemm(net->be, &(struct mal_gemm){.m = m,
                                         .n = n,
                                         .k = rows,
                                         .a = a,
                                         .trans_a = true,
                                         .b = b,
                                         .b_dtype = MAL_F32,
                                         .c = c,
                                         .alpha = 1,
                                         .beta = 1});
}

/* c (rows, n) = a (rows, k) @ b' (k, n) + beta c */
static void back(const struct mal_hypernet *net, int64_t rows, int64_t n, int64_t k,
                 const float *a, const float *b, float beta, float *c) {
    mal_gemm(net->be, &(struct mal_gemm){.m = rows,
                                         .n = n,
                                         .k = k,
                                         .a = a,
                                         .b = b,
                                         .b_dtype = MAL_F32,
                                         .trans_b = true,
                                         .c = c,
                                         .alpha = 1,
                                         .beta = beta});
}

void mal_hypernet_bwd(struct mal_hypernet *net, size_t row,
                      const struct mal_hypernet_tape *tape, float *dh,
                      const struct mal_block *grads) {
    assert(net->n_blocks == 0 || (int64_t)row < net->n_modules);
    int64_t rows = tape->rows, size = net->size, rank = net->rank;
    int64_t all = rows * size, at = (int64_t)row * size;
    for (int64_t i = net->n_blocks - 1; i >= 0; i--) {
        const struct mal_block *block = &net->blocks[i], *grad = &grads[i];
        float *hidden = tape->hidden + i * rows * rank, *dz = tape->z + i * all;
        mal_block_bwd(net->be, rows, size, dh, block->scale + at, dz, grad->scale + at,
                      grad->shift + at, grad->bias);
        add_product(net, rows, rank, size, hidden, dz, grad->b);
        back(net, rows, rank, size, dz, block->b, 0, hidden); /* hidden := its gradient */
        add_product(net, rows, size, rank, tape->h + i * all, hidden, grad->a);
        if (i > 0) back(net, rows, size, rank, hidden, block->a, 1, dh);
    }
}
