/* delta.h - what leads from a version of the weights to the next: per edit module a shift
 * S (d_in, d_out), as factors S = left right where that is smaller, else dense.
 *
 * What is stored defines what is applied, and what is applied is what gets verified:
 * parts are rounded as they are stored (core/README.md section 4), for weights in bf16 to
 * bf16, else to fp32. Immutable once made. */
#ifndef MAL_DELTA_H
#define MAL_DELTA_H

#include <stdint.h>

#include "core/error.h"
#include "core/hash.h"
#include "core/tensor.h"

enum mal_encoding { MAL_ENCODING_NONE, MAL_ENCODING_FACTORS, MAL_ENCODING_DENSE };

const char *
mal_encoding_name(enum mal_encoding encoding); /* "none", "factors", "dense" */

struct mal_delta_part {
    char *module;               /* name as in the checkpoint, owned */
    int64_t d_in, d_out, rank;  /* rank 0 when dense */
    enum mal_encoding encoding; /* FACTORS or DENSE */
    enum mal_dtype dtype;       /* of data: MAL_F32 or MAL_BF16 */
    void *data;            /* owned, host: left (d_in, rank) then right (rank, d_out), or
                            * dense (d_in, d_out); what is stored, little endian */
    double norm;           /* Frobenius norm of S before rounding */
    double rounding_error; /* ||stored - S|| / ||S|| */
    struct mal_hash hash;  /* SHA-256 of data, where it is known */
    bool hashed;
};

struct mal_delta {
    struct mal_delta_part *parts; /* in the order of module names */
    size_t n_parts;               /* 0: nothing changes */
};

void mal_delta_sort(struct mal_delta *delta); /* by module names */
/* What the shift of a weight of this type in the checkpoint is rounded to: MAL_BF16 of
 * bf16, whose own rounding loses more of the sum, else MAL_F32. */
enum mal_dtype mal_delta_dtype(enum mal_dtype weight);
size_t mal_delta_part_elements(const struct mal_delta_part *part); /* of data */
size_t mal_delta_part_bytes(const struct mal_delta_part *part);
/* data becomes fp32, its hash unknown. */
bool mal_delta_part_widen(struct mal_delta_part *part, struct mal_error *err) MAL_CHECK;
/* Whether factors of this rank take fewer bytes than the dense shift. */
bool mal_delta_factors_pay(int64_t d_in, int64_t d_out, int64_t rank);
uint64_t mal_delta_bytes(const struct mal_delta *delta);
enum mal_encoding
mal_delta_encoding(const struct mal_delta *delta); /* DENSE if any part is */
/* The hash of each part's data that is not known yet; parts side by side. */
void mal_delta_hash_data(struct mal_delta *delta);
/* SHA-256 over the parts in order: (module, encoding, d_in, d_out, rank, SHA-256 of
 * data); the encoding of bf16 data is "factors BF16" or "dense BF16" there. */
bool mal_delta_hash(struct mal_delta *delta, struct mal_hash *out,
                    struct mal_error *err) MAL_CHECK;
void mal_delta_finish(struct mal_delta *delta); /* takes a zeroed one */

#endif
