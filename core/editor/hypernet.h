/* hypernet.h - the paper's hyper-network: normalised (u, g) rows through residual blocks.
 */
#ifndef MAL_HYPERNET_H
#define MAL_HYPERNET_H

#include "core/arena.h"
#include "core/editor/editor.h"

/* One shape's parameters on the device. Where device memory is host memory they stay in
 * `shape`, whose arrays must then outlive the network. */
struct mal_hypernet;

bool mal_hypernet_create(struct mal_hypernet **out, const struct mal_editor_shape *shape,
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

#endif
