/* tune.h - fine-tuning of a model's edited weights on facts, a mini-batch at a time: what
 * the methods have in common that do so.
 *
 * The weights are a draft (draft.h): between the slices of a mini-batch, at ticks,
 * readers see what was in use. */
#ifndef MAL_TUNE_H
#define MAL_TUNE_H

#include "core/editor/draft.h"
#include "core/editor/edit.h"
#include "core/editor/progress.h"
#include "core/example.h"
#include "core/trunk.h"

/* What a mini-batch's loss is: the mean over texts of the mean of -log p over a text's
 * target tokens, */
enum mal_tune_loss {
    MAL_TUNE_TEXTS,  /* each after those before it */
    MAL_TUNE_PROMPTS /* all of them at the prompt's last row; causal models only */
};

struct mal_tune_way {
    enum mal_tune_loss loss;
    bool ends;        /* causal models: a text's last target is the end of text */
    int64_t n_passes; /* over the texts, at most: for ticks */
    size_t batch;     /* texts of a mini-batch */
    double lr, decay; /* Adam's other numbers are 0.9, 0.999 and 1e-8 */
    double bound;     /* how far an element may come from where it began; 0: no bound */
    double close_enough; /* a mini-batch's loss below makes no step */
};

struct mal_tune {
    const struct mal_edit_task *task; /* borrowed */
    struct mal_tune_way way;
    struct mal_example *texts; /* (n_texts), owned: what the facts teach */
    size_t n_texts;
    size_t *order; /* (n_texts), owned: as they came, to be shuffled */
    struct mal_draft draft;
    struct mal_trunk *trunk;        /* of the texts, owned */
    float **grad, **mean, **square; /* per tensor of the draft, as it is stored; device */
    int64_t n_steps;                /* of Adam, made */
    int64_t done, total;            /* mini-batches, for ticks */
};

/* Tokenises the facts, and is at 0 steps. On an error, too, mal_tune_finish(). */
bool mal_tune_begin(struct mal_tune *tune, const struct mal_edit_task *task,
                    const struct mal_tune_way *way, struct mal_error *err) MAL_CHECK;
/* One pass over the texts in their order, a step after each mini-batch. *loss: their
 * mean, each as its mini-batch was met. A loss that is not finite is MAL_NUMERIC. */
bool mal_tune_pass(struct mal_tune *tune, double *loss, struct mal_error *err) MAL_CHECK;
void mal_tune_finish(struct mal_tune *tune); /* takes a zeroed one */

#endif
