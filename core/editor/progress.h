/* progress.h - what an edit tells while it runs, and what it took. */
#ifndef MAL_PROGRESS_H
#define MAL_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

enum mal_stage {
    MAL_STAGE_TOKENIZE,
    MAL_STAGE_FORWARD, /* forward and backward of the micro-batches */
    MAL_STAGE_BACKWARD,
    MAL_STAGE_HYPERNET,
    MAL_STAGE_GRAM,
    MAL_STAGE_SOLVE,
    MAL_STAGE_APPLY,
    MAL_STAGE_HASH,
    MAL_STAGE_VERIFY,
    MAL_STAGE_PERSIST,
    MAL_STAGE_SEARCH, /* of a step for an editor, before all the others */
    MAL_N_STAGES
};

const char *mal_stage_name(enum mal_stage stage);

enum mal_observed { MAL_OBSERVED_KEYS, MAL_OBSERVED_GRADIENTS, MAL_OBSERVED_DIFFERENCES };

/* Called between slices of device work (tens of milliseconds): the place where reads are
 * served. false: give up with MAL_CANCELLED. */
struct mal_progress {
    bool (*tick)(void *arg, enum mal_stage stage, int64_t done, int64_t total);
    void *arg;
    /* Tokens of a pass through the model between two ticks, times the device's breadth;
     * 0: as many as compute best, which is longer than a reader should wait. Only a loss
     * that is a token_sum can be cut freely. */
    int64_t slice_tokens;
    /* For tests and experiments, NULL otherwise: each edit module's rows as they come to
     * be, in device memory: keys (rows, d_in), value gradients and value differences
     * (rows, d_out). */
    void (*observe)(void *arg, enum mal_observed what, size_t module, int64_t rows,
                    const float *data);
    /* Likewise the loss of each mini-batch of a method that trains, as they come. */
    void (*observe_loss)(void *arg, double loss);
};

struct mal_edit_report {
    size_t n_facts;
    int64_t n_tokens;       /* rows per edit module */
    int64_t n_input_tokens; /* tokens run through the model */
    double loss; /* mean of -log p per target token before the edit; of a method
                  * that trains, in its first pass */
    double seconds[MAL_N_STAGES];
};

/* One tick, where somebody listens; `progress` may be NULL. */
bool mal_progress_step(const struct mal_progress *progress, enum mal_stage stage,
                       int64_t done, int64_t total, struct mal_error *err) MAL_CHECK;

/* Shows rows to the observer, where there is one. */
void mal_progress_observe(const struct mal_progress *progress, enum mal_observed what,
                          size_t module, int64_t rows, const float *data);

#endif
