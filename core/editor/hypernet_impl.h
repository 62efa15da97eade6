/* hypernet_impl.h - the inside of a network, for its forward and its backward pass. */
#ifndef MAL_HYPERNET_IMPL_H
#define MAL_HYPERNET_IMPL_H

#include "core/editor/hypernet.h"
#include "core/editor/resident.h"

struct mal_hypernet {
    struct mal_backend *be; /* borrowed */
    int64_t d_in, d_out, size, n_modules, rank, n_blocks;
    struct mal_arena arena;          /* of the statistics, unless borrowed */
    float *mean, *std;               /* (size) */
    struct mal_block *blocks;        /* (n_blocks), in device memory */
    struct mal_resident_blocks *own; /* those, unless borrowed or the editor's */
};

/* hidden (rows, rank) = h A, z (rows, size) = hidden B + bias */
void mal_hypernet_inner(const struct mal_hypernet *net, int64_t block, int64_t rows,
                        const float *h, float *hidden, float *z);

#endif
