/* delta_part.h - a part of a delta as tests make it and look at it. */
#ifndef MAL_TEST_DELTA_PART_H
#define MAL_TEST_DELTA_PART_H

#include "scratch.h"

#include "core/alloc.h"
#include "core/delta.h"

/* Its data as fp32, the caller's. */
static inline float *part_floats(const struct mal_delta_part *part) {
    size_t n = mal_delta_part_elements(part);
    float *x = mal_malloc(n * sizeof *x);
    assert_non_null(x);
    mal_to_f32(x, part->data, part->dtype, n);
    return x;
}

/* Its data becomes these (borrowed), rounded to its dtype. */
static inline void part_set(struct mal_delta_part *part, const float *x) {
    part->data = mal_malloc(mal_delta_part_bytes(part));
    assert_non_null(part->data);
    mal_from_f32(part->data, x, part->dtype, mal_delta_part_elements(part));
}

/* S (d_in, d_out), the caller's. */
static inline double *part_shift(const struct mal_delta_part *part) {
    double *s = mal_calloc((size_t)(part->d_in * part->d_out), sizeof *s);
    float *left = part_floats(part);
    const float *right = left + part->d_in * part->rank;
    assert_non_null(s);
    for (int64_t i = 0; i < part->d_in; i++) {
        for (int64_t j = 0; j < part->d_out; j++) {
            double *x = &s[i * part->d_out + j];
            if (part->encoding == MAL_ENCODING_DENSE)
                *x = (double)left[i * part->d_out + j];
            for (int64_t k = 0; k < part->rank; k++)
                *x +=
                    (double)left[i * part->rank + k] * (double)right[k * part->d_out + j];
        }
    }
    mal_free(left);
    return s;
}

#endif
