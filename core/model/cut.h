/* cut.h - texts through a causal model in two parts, cut at the output of one block:
 * below it once, above it as often as wanted, with another state at one row of each text.
 *
 * So MEMIT finds the values it writes (core/editor/memit.h). The states below are kept,
 * and as no row of a causal model sees a later one, so are the keys and values that the
 * blocks above make of the rows before the one that changes: only the rows from there on
 * are run again, with the same numbers as if all were. */
#ifndef MAL_CUT_H
#define MAL_CUT_H

#include "core/model/model.h"

struct mal_cut_text {
    const int32_t *ids; /* (n) */
    int32_t n;
    int32_t at;   /* the row whose state is set */
    int32_t from; /* first row that predicts, at or after `at` */
    /* (n - from) what those rows must predict: the text's loss is the sum of -log p.
     * NULL: its last row, which is `at`, is to predict what it did: the loss is KL(now ||
     * before). */
    const int32_t *labels;
    float scale; /* of the loss, where gradients are taken */
};

/* Device bytes known beforehand: what a cut of these texts keeps, and the scratch of one
 * pass above it over all of them. */
struct mal_cut_bytes {
    size_t kept, pass;
};

struct mal_cut_bytes mal_cut_bytes(const struct mal_model *model, int64_t block,
                                   const struct mal_cut_text *texts, size_t n);

struct mal_cut;

/* A cut at the output of `block`, which is not the last one, of `model`, a causal one
 * with a head. `texts` are borrowed until it is destroyed. */
bool mal_cut_create(struct mal_cut **out, struct mal_model *model, int64_t block,
                    const struct mal_cut_text *texts, size_t n,
                    struct mal_error *err) MAL_CHECK;
void mal_cut_destroy(struct mal_cut *cut); /* takes NULL */

/* Runs texts [first, first + n) below the cut and, for what is kept, above it, on the
 * weights in use. */
bool mal_cut_begin(struct mal_cut *cut, size_t first, size_t n,
                   struct mal_error *err) MAL_CHECK;
/* (n, C) host, of the texts begun: the block's output at row `at`. */
const float *mal_cut_states(const struct mal_cut *cut);

/* One pass above the cut over the texts which[0 .. n), with states (n, C) at their rows
 * `at`: their losses, and grads (n, C), the gradients of scale * loss at the states. All
 * host memory; the weights are those of mal_cut_begin(). */
bool mal_cut_measure(struct mal_cut *cut, const size_t *which, size_t n,
                     const float *states, double *losses, float *grads,
                     struct mal_error *err) MAL_CHECK;

#endif
