/* probes.h - prompts that an edit must answer as the base model does: those of a file
 * (`serve --probes`) and the unrelated ones of the facts it teaches. */
#ifndef MAL_PROBES_H
#define MAL_PROBES_H

#include "core/answers.h"

enum {
    MAL_MAX_PROBES = 1024,        /* of a file: of more, a sample that stays the same */
    MAL_MAX_BATCH_UNRELATED = 256 /* likewise of a batch */
};

/* Prompts in slices short enough for a reader to wait for one, with their answers. */
struct mal_asked {
    struct mal_fact *facts; /* (n) each with one unrelated probe and nothing else */
    size_t n;
    struct mal_answers
        *base; /* (n_slices) the base model's, owned; NULL: not asked yet */
    size_t n_slices;
    size_t n_answered; /* of the prompts, from the first on */
};

/* Those of a file; strings owned. */
struct mal_probes {
    struct mal_asked asked;
    char *path;
    const char *unit; /* "record", "line", "fact": what `place` counts */
    size_t *place;    /* (asked.n) where it stands in the file */
};

/* Reads facts in any form of mal_facts_load(), of which prompt and target count;
 * {"prompt","target"?,"join"?}, as an array or one after another; an array of strings; or
 * lines of plain text. The target only says how long the answer is that is compared (8
 * tokens without one; a classifier's is a class). At least one prompt; errors name file
 * and record. */
bool mal_probes_load(struct mal_probes *out, const char *path,
                     struct mal_error *err) MAL_CHECK;
/* That the model can be asked each of them; touches no device. */
bool mal_probes_check(const struct mal_probes *probes, const struct mal_model *model,
                      const struct mal_tokenizer *tok, struct mal_error *err) MAL_CHECK;
void mal_probes_finish(struct mal_probes *probes); /* takes a zeroed one */

/* The prompts that a batch is checked on, and what the base model says to them. */
struct mal_agreement {
    struct mal_asked own;     /* of the batch's facts, strings borrowed from them */
    struct mal_asked *common; /* of the file, borrowed; NULL: there is none */
};

/* The base weights are in use: answers what has no answer yet, the file's prompts only
 * once in their life. `probes` may be NULL. */
bool mal_agreement_open(struct mal_agreement *out, struct mal_probes *probes,
                        struct mal_model *model, const struct mal_tokenizer *tok,
                        const struct mal_fact *facts, size_t n_facts,
                        bool (*tick)(void *), void *tick_arg,
                        struct mal_error *err) MAL_CHECK;
/* *out: the share of all those prompts answered the same on the weights in use, NaN
 * where there are none. May be called for several changes of the same batch. */
bool mal_agreement_measure(const struct mal_agreement *agreement, struct mal_model *model,
                           const struct mal_tokenizer *tok, bool (*tick)(void *),
                           void *tick_arg, double *out, struct mal_error *err) MAL_CHECK;

/* The same a slice at a time: the prompts are chosen, then asked on the base weights,
 * then compared. *out_n: how many prompts the slice had; 0: there is none left. */
bool mal_agreement_begin(struct mal_agreement *out, struct mal_probes *probes,
                         const struct mal_fact *facts, size_t n_facts,
                         struct mal_error *err) MAL_CHECK;
bool mal_agreement_ask(struct mal_agreement *agreement, struct mal_model *model,
                       const struct mal_tokenizer *tok, bool (*tick)(void *),
                       void *tick_arg, size_t *out_n, struct mal_error *err) MAL_CHECK;

/* Begins zeroed. */
struct mal_comparison {
    size_t n, n_same; /* prompts so far */
    bool common;      /* those of the file are next: the slice from prompt `first` on */
    size_t slice, first;
};

bool mal_agreement_compare(const struct mal_agreement *agreement, struct mal_model *model,
                           const struct mal_tokenizer *tok, bool (*tick)(void *),
                           void *tick_arg, struct mal_comparison *comparison,
                           size_t *out_n, struct mal_error *err) MAL_CHECK;
double mal_comparison_share(const struct mal_comparison *comparison); /* NaN of none */

void mal_agreement_finish(struct mal_agreement *agreement); /* takes a zeroed one */

#endif
