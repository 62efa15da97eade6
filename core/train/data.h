/* data.h - facts to train an editor on, as token sequences. */
#ifndef MAL_TRAIN_DATA_H
#define MAL_TRAIN_DATA_H

#include "core/example.h"
#include "core/facts.h"

/* Where a fact's sequences are among the examples. */
struct mal_train_fact {
    size_t edit, n_edits;         /* the prompt and its further phrasings, taught */
    size_t rephrase, n_rephrases; /* at least one: the prompt where there are none */
    size_t probe, n_probes;       /* unrelated prompts; may be none */
};

struct mal_train_data {
    struct mal_example *examples; /* owned */
    size_t n_examples;
    struct mal_train_fact *facts; /* owned */
    size_t n_facts;
};

/* An unrelated prompt without a target is compared at its next token only. `facts` need
 * not outlive the call. A fact that does not fit the model is MAL_INVALID naming it. */
bool mal_train_data_make(struct mal_train_data *out, const struct mal_model *model,
                         const struct mal_tokenizer *tok, const struct mal_fact *facts,
                         size_t n_facts, struct mal_error *err) MAL_CHECK;
void mal_train_data_finish(struct mal_train_data *data); /* takes a zeroed one */

/* What one step works on. The sequences are borrowed from the data. */
struct mal_train_batch {
    size_t n_facts;
    struct mal_example *edits, *rephrases, *probes; /* arrays owned */
    size_t n_edits, n_rephrases, n_probes;
};

/* One rephrase and one probe of each fact: by `seed`, or the first where it is 0. */
bool mal_train_batch_make(struct mal_train_batch *out, const struct mal_train_data *data,
                          const size_t *facts, size_t n_facts, uint64_t seed,
                          struct mal_error *err) MAL_CHECK;
void mal_train_batch_finish(struct mal_train_batch *batch); /* takes a zeroed one */

#endif
