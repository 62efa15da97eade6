/* hypernet.h - the paper's hyper-network: normalised (u, g) rows through residual blocks.
 */
#ifndef MAL_HYPERNET_H
#define MAL_HYPERNET_H

#include "core/arena.h"
#include "core/editor/editor.h"

/* One shape's parameters on the device. Where device memory is host memory they stay in
 * `shape`, as its blocks do where they are resident: those must then outlive the network.
 */
struct mal_hypernet;

bool mal_hypernet_create(struct mal_hypernet **out, const struct mal_editor_shape *shape,
                         int64_t rank, int64_t n_blocks, struct mal_backend *be,
                         struct mal_error *err) MAL_CHECK;
/* The same over a shape whose statistics and blocks are in device memory already and stay
 * there: what training changes. */
bool mal_hypernet_borrow(struct mal_hypernet **out, const struct mal_editor_shape *shape,
                         int64_t rank, int64_t n_blocks, struct mal_backend *be,
                         struct mal_error *err) MAL_CHECK;
void mal_hypernet_destroy(struct mal_hypernet *net); /* takes NULL */

/* Scratch for `rows` rows: h (rows, size), z (rows, size), hidden (rows, rank). */
size_t mal_hypernet_scratch_bytes(const struct mal_hypernet *net, int64_t rows);

/* h (rows, size) = the network's output for u (rows, d_in), g (rows, d_out) of the module
 * `row` of its shape: h[:, :d_in] is u_hat, h[:, d_in:] is g_hat. h comes from `scratch`.
 */
float *mal_hypernet_fwd(struct mal_hypernet *net, size_t row, int64_t rows,
                        const float *u, const float *g, struct mal_arena *scratch);

/* ---- Training ---- */

/* What the backward pass needs of a forward pass; device memory of a scratch arena. */
struct mal_hypernet_tape {
    int64_t rows;
    float *h; /* (n_blocks + 1, rows, size): the input of each block, then the output */
    float *z; /* (n_blocks, rows, size) */
    float *hidden; /* (n_blocks, rows, rank) */
    float *out;    /* the last of h: u_hat, g_hat */
};

size_t mal_hypernet_tape_bytes(const struct mal_hypernet *net, int64_t rows);
void mal_hypernet_fwd_taped(struct mal_hypernet *net, size_t row, int64_t rows,
                            const float *u, const float *g, struct mal_arena *scratch,
                            struct mal_hypernet_tape *tape);
/* Adds the gradients of the parameters, for dh (rows, size) at the output, to `grads`
 * (n_blocks), which has the parameters' shapes; tape and dh are used up. The statistics
 * are constants. */
void mal_hypernet_bwd(struct mal_hypernet *net, size_t row,
                      const struct mal_hypernet_tape *tape, float *dh,
                      const struct mal_block *grads);

#endif
