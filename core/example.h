/* example.h - a prompt with its target as the token sequence a model is run on
 * (core/README.md "Tokens and loss"), and many of them packed into a batch. */
#ifndef MAL_EXAMPLE_H
#define MAL_EXAMPLE_H

#include "core/model/model.h"
#include "core/tokenizer/tokenizer.h"

/* ids = tok(prompt) ++ tok(join target), without the last; the last prompt token and the
 * target tokens after it are the rows that predict the target. */
struct mal_example {
    int32_t *ids; /* (n), owned */
    int32_t n;
    int32_t from;    /* first row that predicts a target token */
    int32_t *target; /* (n_target), owned; n_target = n - from */
    int32_t n_target;
    size_t source; /* of the caller: which fact or item it came from */
};

/* Spaces at the seam are trimmed, then prompt and target are joined by `join` (NULL: one
 * space). `context` 0: no maximum. An empty prompt or target, or one longer than the
 * context, is MAL_INVALID. */
bool mal_example_init(struct mal_example *out, const struct mal_tokenizer *tok,
                      const char *prompt, const char *target, const char *join,
                      int64_t context, struct mal_error *err) MAL_CHECK;
/* The target's tokens alone, as they follow a prompt; appended to *out. */
bool mal_example_target(const struct mal_tokenizer *tok, const char *target,
                        const char *join, struct mal_ids *out,
                        struct mal_error *err) MAL_CHECK;
void mal_example_finish(struct mal_example *example);
void mal_examples_free(struct mal_example *examples, size_t n); /* takes NULL */

/* order (n) := the examples' indices, longest first, stable: as the reference cuts
 * micro-batches. */
bool mal_examples_longest_first(const struct mal_example *examples, size_t n,
                                size_t *order, struct mal_error *err) MAL_CHECK;

/* Packs examples[order[0..n)] (order NULL: as they come). *out's arrays are one
 * allocation: mal_packed_finish(). */
struct mal_packed {
    struct mal_batch batch;
    int64_t n_labels;
    int32_t *block;
};

bool mal_examples_pack(const struct mal_example *examples, const size_t *order, size_t n,
                       struct mal_packed *out, struct mal_error *err) MAL_CHECK;
void mal_packed_finish(struct mal_packed *packed);

#endif
