/* perplexity.h - how well a model foretells texts to preserve: what a change does to the
 * model's language as a whole. */
#ifndef MAL_PERPLEXITY_H
#define MAL_PERPLEXITY_H

#include "core/editor/preserve_texts.h"

enum { MAL_PERPLEXITY_TOKENS = 16384 }; /* enough of a large set */

/* *out: the mean over tokens of -log p, the logarithm of the perplexity, on the weights
 * in use. Of each text the tokens after its position from[i] count (of an
 * encoder-decoder's those of its answer), the last one of a fact's target not being part
 * of its text. Of more than max_tokens that many are taken, from texts that the number of
 * texts alone decides, so that two measurements compare. NaN: there is no such token, or
 * the model is a classifier. `tick` (may be NULL; false: MAL_CANCELLED) comes between
 * slices. An output that is not finite is MAL_NUMERIC. */
bool mal_perplexity_measure(struct mal_model *model,
                            const struct mal_preserve_texts *texts, int64_t max_tokens,
                            bool (*tick)(void *), void *tick_arg, double *out,
                            struct mal_error *err) MAL_CHECK;
/* Whether there is such a token. */
bool mal_perplexity_has_tokens(enum mal_model_kind kind,
                               const struct mal_preserve_texts *texts);

#endif
