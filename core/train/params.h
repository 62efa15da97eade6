/* params.h - the parameters of an editor in training, with their gradients and Adam's
 * moments in device memory. Where that is host memory the parameters are the editor's own
 * arrays; elsewhere they are copies until mal_train_params_fetch(). */
#ifndef MAL_TRAIN_PARAMS_H
#define MAL_TRAIN_PARAMS_H

#include "core/arena.h"
#include "core/editor/editor.h"

struct mal_train_param {
    char name[96]; /* as in the editor's file */
    float *host;   /* the editor's array */
    int64_t n;
    float *p, *g, *m, *v; /* (n) device */
    bool is_lr;           /* has a rate of its own */
};

struct mal_train_params {
    struct mal_backend *be;
    struct mal_train_param *list;
    size_t n;
    struct mal_arena arena;
    double *sums; /* (n) device */
};

bool mal_train_params_init(struct mal_train_params *params, struct mal_editor *editor,
                           struct mal_backend *be, struct mal_error *err) MAL_CHECK;
void mal_train_params_finish(struct mal_train_params *params); /* takes a zeroed one */

/* Device bytes of init for an editor of this size. */
size_t mal_train_params_bytes(const struct mal_editor *editor,
                              const struct mal_backend *be);

/* By the editor's array; never NULL. */
struct mal_train_param *mal_train_param_of(const struct mal_train_params *params,
                                           const float *host);

void mal_train_params_zero_grads(struct mal_train_params *params);
/* The norm of all gradients together. */
bool mal_train_params_norm(struct mal_train_params *params, double *out,
                           struct mal_error *err) MAL_CHECK;
/* One step of Adam for all, `t` counting from 1. */
void mal_train_params_step(struct mal_train_params *params, double rate, double lr_rate,
                           double grad_scale, int64_t t);
/* The parameters back into the editor. */
bool mal_train_params_fetch(struct mal_train_params *params,
                            struct mal_error *err) MAL_CHECK;
/* And from it. */
void mal_train_params_push(struct mal_train_params *params);

#endif
