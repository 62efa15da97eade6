/* tune_impl.h - a fine-tuning while it runs, for its own files. */
#ifndef MAL_TUNE_IMPL_H
#define MAL_TUNE_IMPL_H

#include "core/editor/draft.h"
#include "core/editor/tune.h"
#include "core/example.h"
#include "core/hash.h"

/* Before which mini-batch it is, and what the passes came to so far. */
struct mal_tune_position {
    int64_t pass;
    size_t at;     /* of the pass's order, a multiple of way->batch */
    double sum;    /* of this pass's losses, by text */
    double first;  /* mean loss of the first pass, once there is one */
    int64_t steps; /* of Adam, made */
};

struct mal_tune {
    const struct mal_edit_task *task; /* borrowed, as the next */
    const struct mal_tune_way *way;
    struct mal_example *texts; /* (n_texts), owned: what the facts teach */
    size_t n_texts;
    size_t *order; /* (n_texts), owned */
    struct mal_draft draft;
    struct mal_trunk *trunk;        /* of the texts, owned */
    float **grad, **mean, **square; /* per tensor of the draft, as it is stored; device */
    struct mal_tune_position now;
    int64_t total;           /* mini-batches, for ticks */
    char work[MAL_HASH_HEX]; /* which tuning it is; with task->resume */
    int64_t saved;           /* mini-batches made when it was saved last */
    double saved_at;         /* when that was, or the tuning began */
    double save_seconds;     /* that it took */
};

static inline size_t mal_tune_elements(const struct mal_tune *tune, size_t i) {
    const struct mal_linear *lin = tune->draft.tensors[i].lin;
    return (size_t)(lin->d_in * lin->d_out);
}

/* Mini-batches made, for ticks. */
static inline int64_t mal_tune_done(const struct mal_tune *tune) {
    int64_t batch = (int64_t)tune->way->batch, n = (int64_t)tune->n_texts;
    return tune->now.pass * ((n + batch - 1) / batch) + (int64_t)tune->now.at / batch;
}

/* ---- In a file (tune_state.c); without task->resume neither does anything ---- */

/* Goes on where the file has this tuning, which has just begun; else it stays there. */
bool mal_tune_resume(struct mal_tune *tune, struct mal_error *err) MAL_CHECK;
/* Saves it before a mini-batch, if it is time, or `now`. */
void mal_tune_save(struct mal_tune *tune, bool now);

#endif
