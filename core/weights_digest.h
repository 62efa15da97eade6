/* weights_digest.h - SHA-256 of edited weights: per tensor, and over all of them. */
#ifndef MAL_WEIGHTS_DIGEST_H
#define MAL_WEIGHTS_DIGEST_H

#include "core/hash.h"
#include "core/model/model.h"

struct mal_digest {
    const struct mal_linear *linear; /* borrowed */
    const void *w;                   /* on the device, of linear->w_dtype */
    /* out */
    struct mal_hash hash; /* of the bytes as the checkpoint would have them */
    double sum_squares;   /* NaN or infinite where an element is */
};

/* Tensors side by side, each downloaded in slices; `tick` (may be NULL) between the
 * slices. */
bool mal_digest_weights(struct mal_backend *be, struct mal_digest *digests, size_t n,
                        void (*tick)(void *), void *tick_arg,
                        struct mal_error *err) MAL_CHECK;

struct mal_named_digest {
    const struct mal_linear *linear;
    struct mal_hash hash;
};

/* The weights hash (core/README.md section 4): SHA-256 over the modules in name order of
 * (name, dtype, shape as in the checkpoint, SHA-256 of the bytes). Sorts `named`. */
bool mal_digest_combine(struct mal_named_digest *named, size_t n, struct mal_hash *out,
                        struct mal_error *err) MAL_CHECK;

#endif
