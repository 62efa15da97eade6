/* training.h - a run of `malmend train`: what it works on, its options, and how it goes.
 */
#ifndef MAL_TRAINING_H
#define MAL_TRAINING_H

#include "core/editor/search.h"
#include "core/train/order.h"
#include "core/train/state.h"
#include "daemon/base/report.h"
#include "daemon/command/workbench.h"

/* The command line; texts are NULL, numbers MAL_OPTION_UNSET or NaN where nothing was
 * said. */
struct mal_training_options {
    char *model, *data, *valid, *out, *method, *modules, *init, *resume, *preserve, *log;
    char *loss, *schedule, *n_edits, *device;
    int64_t rank, blocks, micro_batch, editor_batch, epochs, steps, seed, save_every;
    int64_t valid_every, patience, warmup, max_memory;
    double meta_lr, lr_meta_lr, loc_coef, max_norm, lr, preserve_weight;
    bool no_shuffle, json;
};

struct mal_training {
    const struct mal_training_options *o;
    struct mal_workbench wb; /* its editor is the one in training */
    struct mal_preserve *preserve;
    struct mal_train_data data, valid; /* valid empty: none */
    struct mal_train_order order;
    struct mal_trainer *trainer;
    struct mal_train_position position; /* as of the last step taken */
    struct mal_search_report search;    /* n_points 0: no step was searched */
    struct mal_train_report last;       /* of the last step taken */
    double meta_rate, lr_rate;          /* before any schedule */
    char *run;   /* JSON text of what the result depends on, owned */
    char *state; /* path of the state, owned */
    void *log;   /* FILE *, NULL: none */
    struct mal_bar bar;
    char label[96];
};

/* ---- training_open.c ---- */

/* Whether it is a text for n_edits. */
bool mal_training_check_edits(const char *text, struct mal_error *err) MAL_CHECK;

/* Model, data, editor and trainer, from the command line or where --resume left off. */
bool mal_training_open(struct mal_training *training,
                       const struct mal_training_options *options,
                       struct mal_error *err) MAL_CHECK;
void mal_training_close(struct mal_training *training); /* takes a zeroed one */

/* ---- training_run.c ---- */

/* *out owned: mal_free(). */
bool mal_training_describe(const struct mal_training *training, char **out,
                           struct mal_error *err) MAL_CHECK;
/* Whether the state at `path` is of this run; an error names the option that differs. */
bool mal_training_check_state(const struct mal_training *training, const char *path,
                              struct mal_error *err) MAL_CHECK;

/* ---- training.c ---- */

/* Of the editor's step sizes, over all modules. */
double mal_training_mean_lr(const struct mal_training *training);

/* Runs to its end, or to an interruption (MAL_CANCELLED) after which it can be resumed.
 */
bool mal_training_go(struct mal_training *training, struct mal_error *err) MAL_CHECK;

#endif
