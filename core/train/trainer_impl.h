/* trainer_impl.h - the inside of a trainer, for the files of this folder. */
#ifndef MAL_TRAINER_IMPL_H
#define MAL_TRAINER_IMPL_H

#include "core/editor/edit_rows.h"
#include "core/editor/hypernet.h"
#include "core/train/params.h"
#include "core/train/trainer.h"

struct mal_trainer {
    struct mal_model *model;
    struct mal_backend *be;
    struct mal_editor *editor;
    struct mal_train_options o;
    struct mal_train_params params;
    int64_t steps;

    struct mal_normalizer *norms;   /* (n_shapes) in training, host */
    struct mal_editor_shape *views; /* (n_shapes): statistics and blocks on the device */
    struct mal_block **grads;       /* (n_shapes): gradients of the blocks */
    struct mal_hypernet **nets;     /* (n_shapes) over the views */
    struct mal_arena statistics;    /* of the views, where they are not `norms` */

    size_t n_modules;
    struct mal_arena module_memory;
    void **w;      /* per module: its edited weight, in the type the device keeps */
    float **dw;    /* per module (d_in, d_out): the loss's gradient there */
    float *shift;  /* (largest d_in x d_out): of one module at a time */
    float *turned; /* the same in the checkpoint's orientation, where it differs */

    struct mal_arena net_scratch; /* of a slice of the network, or of all: `keeps` */
    struct mal_arena diffs;       /* D of all modules, E of one; taken anew each step */
    double *dlr;                  /* (1) device */
};

/* Of one pass, times the device's breadth, where a micro-batch does not matter. */
enum { MAL_LEARN_TOKENS = 1024 };

/* One step's rows and what becomes of them. */
struct mal_train_run {
    struct mal_trainer *t;
    const struct mal_train_watch *watch;
    struct mal_edit_rows rows;
    struct mal_edit_report edit;
    float **d;  /* per module (its rows, d_out), in t->diffs; MEND: none */
    float *e;   /* (rows, d_out) of one module */
    bool keeps; /* the networks' activations, until the backward pass */
    struct mal_hypernet_tape *tapes; /* per module, when kept */
    float *dh;                       /* (rows of a slice, largest size) */
    size_t net_mark;                 /* what may be overwritten begins here */
    double part_began;
};

/* need.c: device bytes of the networks' activations in a step of so many rows, with one
 * slice's gradient beside them. *keeps: those of all modules stand together. */
size_t mal_train_tape_bytes(const struct mal_editor *editor, int64_t rows,
                            int64_t editor_batch, bool *keeps);

bool mal_train_tick(const struct mal_train_run *run, struct mal_error *err) MAL_CHECK;

/* shift.c: module m's shift into t->shift; its value differences are kept. */
bool mal_train_shift(struct mal_train_run *run, size_t m,
                     struct mal_error *err) MAL_CHECK;
/* From t->dw[m] to the gradients of the editor's parameters, which are added to. */
bool mal_train_shift_bwd(struct mal_train_run *run, size_t m,
                         struct mal_error *err) MAL_CHECK;

#endif
