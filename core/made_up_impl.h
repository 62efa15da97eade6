/* made_up_impl.h - what the ways of making facts up share. */
#ifndef MAL_MADE_UP_IMPL_H
#define MAL_MADE_UP_IMPL_H

#include "core/made_up.h"

/* Whether one of the facts has this prompt. */
bool mal_made_up_known(const struct mal_fact *like, size_t n_like, const char *prompt);

/* mal_facts_make_up() of an encoder-decoder or a classifier. */
bool mal_made_up_texts(struct mal_model *model, const struct mal_tokenizer *tok,
                       const struct mal_fact *like, size_t n_like, size_t n,
                       bool (*tick)(void *), void *tick_arg, struct mal_fact **out,
                       size_t *out_n, struct mal_error *err) MAL_CHECK;

#endif
