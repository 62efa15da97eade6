/* eval.h - how well a model gives the facts' targets (core/README.md "Measures"). */
#ifndef MAL_EVAL_H
#define MAL_EVAL_H

#include "core/example.h"
#include "core/facts.h"
#include "core/trunk.h"

/* One prompt and what should follow it. */
struct mal_score_item {
    const char *prompt, *target; /* borrowed; of a classifier the target may be NULL */
    const char *join;            /* NULL: one space */
};

struct mal_token_score {
    int32_t id;
    float logprob;
    int32_t rank;   /* 1 = most probable */
    int32_t argmax; /* what the model would say */
};

struct mal_score {
    struct mal_token_score *tokens; /* owned, one per target token */
    size_t n_tokens;
    double logprob;  /* sum */
    double share;    /* of target tokens that are the argmax (teacher-forced) */
    bool correct;    /* all are: greedy decoding gives the target */
    double supports; /* a classifier's probability of SUPPORTS */
};

void mal_scores_free(struct mal_score *scores, size_t n); /* takes NULL */

/* Scores items on the weights in use, in slices of bounded size, `tick` between them (may
 * be NULL; false: MAL_CANCELLED). *out (n) is owned by the caller. A prompt or target
 * that mal_example_init() refuses is MAL_INVALID, pointed to from `pointer` on
 * ("/items"). */
bool mal_score_items(struct mal_model *model, const struct mal_tokenizer *tok,
                     const struct mal_score_item *items, size_t n, const char *pointer,
                     bool (*tick)(void *), void *tick_arg, struct mal_score **out,
                     struct mal_error *err) MAL_CHECK;
/* The same of examples, whose states `trunk` keeps (NULL: none are kept): out (n) of the
 * caller, its tokens owned. */
bool mal_score_examples(struct mal_model *model, struct mal_trunk *trunk,
                        const struct mal_example *examples, size_t n,
                        bool (*tick)(void *), void *tick_arg, struct mal_score *out,
                        struct mal_error *err) MAL_CHECK;

/* Shares 0..1; NaN where nothing was there to measure. */
struct mal_measures {
    size_t n_facts;
    double tf_es, tf_gs, tf_ls;    /* teacher-forced: share of target tokens */
    double dec_es, dec_gs, dec_ls; /* decoded: share of exact targets */
    double agreement;              /* unrelated prompts answered as the base model does
                                    * (answers.h) */
};

/* A fact as items to score: itself, then its rephrases, then its unrelated prompts that
 * have a target. How many that is: */
size_t mal_fact_n_items(const struct mal_fact *fact);

/* The items of facts, fact by fact, scored a slice at a time on the weights in use; other
 * passes may be made in between. Begins zeroed but for the first two. */
struct mal_scoring {
    const struct mal_fact *facts; /* (n_facts), borrowed */
    size_t n_facts;
    const struct mal_score *known; /* as below; NULL: none is */
    size_t fact, item;             /* what is tokenized next */
    struct mal_example *examples;  /* (n) tokenized and not scored yet, owned */
    size_t n, room;
};

/* The next slice; *out (*out_n) is owned by the caller. *out_n 0: there is none left. */
bool mal_scoring_next(struct mal_scoring *scoring, struct mal_model *model,
                      const struct mal_tokenizer *tok, struct mal_score **out,
                      size_t *out_n, struct mal_error *err) MAL_CHECK;
void mal_scoring_finish(struct mal_scoring *scoring);

/* All slices. known (n_facts; NULL: none is): scores of the facts' own prompts on these
 * weights, which go over into *out or, on an error, are freed; where there are no tokens
 * it is not known. */
bool mal_score_facts(struct mal_model *model, const struct mal_tokenizer *tok,
                     const struct mal_fact *facts, size_t n_facts,
                     struct mal_score *known, bool (*tick)(void *), void *tick_arg,
                     struct mal_score **out, size_t *out_n,
                     struct mal_error *err) MAL_CHECK;

struct mal_mean {
    double sum;
    size_t n;
};

/* Measures from scores as they come, in the order of those items. Begins zeroed but for
 * the first two. */
struct mal_measuring {
    const struct mal_fact *facts; /* (n_facts), borrowed */
    size_t n_facts;
    size_t fact, item, n_items;   /* whose score is next, of how many of the fact */
    struct mal_mean share, exact; /* of the items of one kind and fact so far */
    struct mal_mean tf[3], decoded[3];
};

void mal_measuring_add(struct mal_measuring *measuring, const struct mal_score *scores,
                       size_t n);
/* All but the agreement, which is NaN. */
void mal_measuring_end(const struct mal_measuring *measuring, struct mal_measures *out);

/* From the scores of all items. */
void mal_measures_of(const struct mal_fact *facts, size_t n_facts,
                     const struct mal_score *scores, struct mal_measures *out);

#endif
