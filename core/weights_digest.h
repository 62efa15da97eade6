/* weights_digest.h - SHA-256 of edited weights: per tensor, and over all of them.
 *
 * SHA-256 of a tensor as a whole is one core's work (1.2 GB/s: 0.12 s for a matrix of
 * GPT-J 6B), so a tensor's digest is that of the digests of its pieces, which all cores
 * of a CPU or threads of a GPU work on. */
#ifndef MAL_WEIGHTS_DIGEST_H
#define MAL_WEIGHTS_DIGEST_H

#include "core/hash.h"
#include "core/model/model.h"

enum mal_digest_form {
    MAL_DIGEST_PIECES, /* SHA-256 over the SHA-256 of each MAL_DIGEST_PIECE bytes */
    MAL_DIGEST_WHOLE,  /* SHA-256 of the bytes: databases made before there were pieces */
};

enum { MAL_DIGEST_PIECE = 256 << 10 }; /* the last one may be shorter */

struct mal_digest {
    const struct mal_linear *linear; /* borrowed */
    const void *w;                   /* on the device, of linear->w_dtype */
    /* out */
    struct mal_hash hash; /* of the bytes as the checkpoint would have them, in a form */
    double sum_squares;   /* NaN or infinite where an element is */
};

/* Tensors side by side, on the device that has them; `tick` (may be NULL) between slices
 * of them. */
bool mal_digest_weights(struct mal_backend *be, enum mal_digest_form form,
                        struct mal_digest *digests, size_t n, void (*tick)(void *),
                        void *tick_arg, struct mal_error *err) MAL_CHECK;

struct mal_named_digest {
    const struct mal_linear *linear;
    struct mal_hash hash;
};

/* The weights hash (core/README.md section 4): SHA-256 over the modules in name order of
 * (name, dtype, shape as in the checkpoint, the tensor's hash). Sorts `named`. */
bool mal_digest_combine(struct mal_named_digest *named, size_t n, struct mal_hash *out,
                        struct mal_error *err) MAL_CHECK;

#endif
