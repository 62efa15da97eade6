/* made_up.h - facts a model makes up itself, where there are too few of its user's: its
 * own sentences with another's ending to teach, and others as they are to keep.
 *
 * Half of the sentences are sampled from the first words of given facts, so that they are
 * about the same sort of thing. A model that continues no texts is asked its user's
 * prompts with words exchanged for any of the vocabulary, half of the words or all: it is
 * taught the answer to another, a classifier its other class. Only a classifier is also
 * given some to keep. */
#ifndef MAL_MADE_UP_H
#define MAL_MADE_UP_H

#include "core/facts.h"
#include "core/model/generate.h"

/* About n facts (fewer where the model repeats itself), each with one unrelated prompt
 * and the greedy answer of the weights in use to it; an encoder-decoder's without. None
 * has the prompt of another or of one of `like`, which has at least one fact. The same
 * again from the same weights and facts. *out is the caller's: mal_facts_free(). */
bool mal_facts_make_up(struct mal_model *model, const struct mal_tokenizer *tok,
                       const struct mal_fact *like, size_t n_like, size_t n,
                       bool (*tick)(void *), void *tick_arg, struct mal_fact **out,
                       size_t *out_n, struct mal_error *err) MAL_CHECK;

#endif
