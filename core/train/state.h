/* state.h - a run of training in one safetensors file, so that it can go on where it
 * stopped: parameters, statistics, Adam's moments, counters. Written whole or not at all.
 */
#ifndef MAL_TRAIN_STATE_H
#define MAL_TRAIN_STATE_H

#include "core/train/trainer.h"

/* Beside the trainer's own. */
struct mal_train_position {
    int64_t step, epoch, at; /* of the order of the facts */
    double best;             /* lowest validation loss so far, NaN: none yet */
    int64_t best_step;
    int64_t waited;    /* validations since then */
    int64_t validated; /* the step of the last validation */
    double lr_rate;    /* of the editor's steps */
};

/* `run` is a text that says what the run depends on; it is stored as it is. */
bool mal_train_state_save(struct mal_trainer *trainer, const char *path,
                          const struct mal_train_position *position, const char *run,
                          struct mal_error *err) MAL_CHECK;

/* What a file says of its run, owned by the caller: mal_free(). */
bool mal_train_state_run(const char *path, char **out, struct mal_error *err) MAL_CHECK;

/* Into a trainer whose editor has the same shapes; on an error it is not to be used. */
bool mal_train_state_load(struct mal_trainer *trainer, const char *path,
                          struct mal_train_position *out,
                          struct mal_error *err) MAL_CHECK;

#endif
