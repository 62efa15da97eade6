/* answers.h - what a model says by itself to the unrelated prompts of facts: two lists of
 * answers, one from the base model and one from the edited, tell how much else an edit
 * moved. */
#ifndef MAL_ANSWERS_H
#define MAL_ANSWERS_H

#include "core/facts.h"
#include "core/model/generate.h"

struct mal_answers {
    struct mal_generation *gens; /* (n), owned */
    struct mal_ids *prompts;     /* (n), owned */
    size_t n;
};

/* Greedy answers on the weights in use, of as many tokens as the probe's target has (8
 * where it has none), for at most `max` probes of `facts` in order. A classifier's is one
 * id, its class, and the class's name. A probe whose prompt does not fit the context is
 * MAL_INVALID. */
bool mal_answers_make(struct mal_model *model, const struct mal_tokenizer *tok,
                      const struct mal_fact *facts, size_t n_facts, size_t max,
                      bool (*tick)(void *), void *tick_arg, struct mal_answers *out,
                      struct mal_error *err) MAL_CHECK;
void mal_answers_finish(struct mal_answers *answers);

/* How many answers are equal. Both lists are from the same facts. */
size_t mal_answers_same(const struct mal_answers *a, const struct mal_answers *b);

#endif
