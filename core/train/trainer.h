/* trainer.h - training an editor: one step of the paper's meta-learning (core/README.md
 * section 8) for MALMEN and MEND.
 *
 * A step edits some facts on the base weights, then asks of the edited weights that the
 * facts' rephrases come out right (cross-entropy) and that unrelated prompts are answered
 * as before (KL from the base model), and changes the editor by the gradient of that. The
 * language model's activations are gone before the hyper-network is worked backwards. */
#ifndef MAL_TRAINER_H
#define MAL_TRAINER_H

#include "core/editor/preserve.h"
#include "core/train/data.h"

struct mal_trainer;

struct mal_train_options {
    double loc_coef;      /* weight of the locality loss */
    double max_norm;      /* of the gradient: what is longer is scaled down */
    int64_t editor_batch; /* rows of a slice of the hyper-network; no influence on results
                             but rounding */
    const struct mal_preserve *preserve; /* keys in the solve, NULL: none; borrowed */
};

/* `editor` is bound to `model` and, like it, borrowed: its parameters and statistics
 * change with each step. The model must read its base weights, and does so between steps.
 */
bool mal_trainer_create(struct mal_trainer **out, struct mal_model *model,
                        struct mal_editor *editor,
                        const struct mal_train_options *options,
                        struct mal_error *err) MAL_CHECK;
void mal_trainer_destroy(struct mal_trainer *trainer); /* takes NULL */

/* Of Adam, in one step. */
struct mal_train_rates {
    double meta; /* of all parameters */
    double lr;   /* but the editor's steps, in a group of their own */
};

enum mal_train_part {
    MAL_TRAIN_ROWS,     /* keys and gradients */
    MAL_TRAIN_SHIFTS,   /* network and solves */
    MAL_TRAIN_LOSSES,   /* on the edited weights, forward and backward */
    MAL_TRAIN_BACKWARD, /* of solves and network */
    MAL_TRAIN_UPDATE,
    MAL_N_TRAIN_PARTS
};

struct mal_train_report {
    double gen_loss, loc_loss; /* loc_loss NaN where there is no probe */
    double grad_norm;          /* before it is cut */
    double edit_loss;          /* mean of -log p of the targets before the edit */
    int64_t rows;              /* edit tokens */
    double seconds;
    double parts[MAL_N_TRAIN_PARTS]; /* seconds of each */
};

/* What a step must be told between slices of its work (may be NULL; false: it ends with
 * MAL_CANCELLED and all is as it was), and what tests want to see: "shift.<module>" and
 * "grad.<parameter>", before the gradient is cut, in device memory. */
struct mal_train_watch {
    bool (*tick)(void *arg);
    void (*observe)(void *arg, const char *name, int64_t n, const float *data);
    void *arg;
};

/* A loss or gradient that is not finite is MAL_NUMERIC. A step that fails has changed
 * neither parameters nor statistics. */
bool mal_trainer_step(struct mal_trainer *trainer, const struct mal_train_batch *batch,
                      const struct mal_train_rates *rates,
                      const struct mal_train_watch *watch,
                      struct mal_train_report *report, struct mal_error *err) MAL_CHECK;
/* The losses of a step without its changes. */
bool mal_trainer_measure(struct mal_trainer *trainer, const struct mal_train_batch *batch,
                         const struct mal_train_watch *watch,
                         struct mal_train_report *report,
                         struct mal_error *err) MAL_CHECK;

/* Parameters and statistics into the editor, which may then be saved. */
bool mal_trainer_fetch(struct mal_trainer *trainer, struct mal_error *err) MAL_CHECK;

int64_t mal_trainer_steps(const struct mal_trainer *trainer); /* taken so far */

/* ---- Sizes known beforehand ---- */

/* Device bytes any step over `n_edits` facts takes at most, beside the model. */
struct mal_train_need {
    size_t weights; /* edited weights and their gradients */
    size_t network; /* gradients, moments and activations of the hyper-network */
    size_t rows;    /* keys, gradients and differences of the edit tokens */
    size_t passes;  /* of one pass through the model */
    size_t solves;  /* of one module's system */
    size_t total;   /* passes and solves do not stand at the same time */
};

bool mal_trainer_need(struct mal_model *model, const struct mal_editor *editor,
                      const struct mal_train_options *options,
                      const struct mal_train_data *data, int64_t n_edits,
                      struct mal_train_need *out, struct mal_error *err) MAL_CHECK;

#endif
