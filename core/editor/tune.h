/* tune.h - fine-tuning of a model's edited weights on facts, a mini-batch at a time: what
 * the methods have in common that do so.
 *
 * The weights are a draft (draft.h): between the slices of a mini-batch, at ticks,
 * readers see what was in use. */
#ifndef MAL_TUNE_H
#define MAL_TUNE_H

#include "core/editor/edit.h"

/* What a mini-batch's loss is: the mean over texts of the mean of -log p over a text's
 * target tokens, */
enum mal_tune_loss {
    MAL_TUNE_TEXTS,  /* each after those before it */
    MAL_TUNE_PROMPTS /* all of them at the prompt's last row; causal models only */
};

struct mal_tune_way {
    enum mal_tune_loss loss;
    bool ends;     /* causal models: a text's last target is the end of text */
    bool shuffled; /* texts in another order each pass, from `seed`; else as they came */
    uint64_t seed;
    int64_t n_passes; /* over the texts, at most */
    size_t batch;     /* texts of a mini-batch */
    double lr, decay; /* Adam's other numbers are 0.9, 0.999 and 1e-8 */
    double bound;     /* how far an element may come from where it began; 0: no bound */
};

/* As mal_edit_run(): passes over the facts' texts, an Adam step after each mini-batch. A
 * mini-batch whose loss is below 0.01 makes none, and a pass whose mean is ends them. A
 * loss that is not finite is MAL_NUMERIC. */
bool mal_tune_edit(const struct mal_edit_task *task, const struct mal_tune_way *way,
                   struct mal_delta *out, struct mal_error *err) MAL_CHECK;

#endif
