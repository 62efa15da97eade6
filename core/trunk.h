/* trunk.h - what the blocks below every edit make of texts, kept in memory.
 *
 * No version of the weights changes those blocks. So a text that goes through the model
 * again and again - measured, verified, repaired, trained on - goes through them once: of
 * GPT-J with the paper's modules, through 22 of 28 blocks. A text's states are n * C
 * floats. */
#ifndef MAL_TRUNK_H
#define MAL_TRUNK_H

#include "core/example.h"

struct mal_trunk;

/* Keeps nothing yet, and never more than a quarter of the memory that is free: of the
 * device's, which it gives back when that is short, or else of the host's. Texts are
 * known by where their ids are: neither these nor what is edited in `model`, which is
 * borrowed, may change before it is destroyed. */
bool mal_trunk_create(struct mal_trunk **out, struct mal_model *model,
                      struct mal_error *err) MAL_CHECK;
void mal_trunk_destroy(struct mal_trunk *trunk); /* takes NULL */

/* Around a pass over the batch that was packed of examples[order[0 .. n)] (order NULL: as
 * they come): it begins where the trunk ends if all of them are kept, and else leaves
 * what is to be kept, as far as there is memory. The second only after a pass that did
 * not fail. A trunk that is NULL does nothing. */
void mal_trunk_begin(struct mal_trunk *trunk, const struct mal_example *examples,
                     const size_t *order, size_t n, struct mal_batch *batch);
void mal_trunk_end(struct mal_trunk *trunk, const struct mal_example *examples,
                   const size_t *order, const struct mal_batch *batch);

/* Bytes of the states kept. */
size_t mal_trunk_bytes(const struct mal_trunk *trunk);

#endif
