/* joint_impl.h - the inside of a joint system, for its own files. */
#ifndef MAL_JOINT_IMPL_H
#define MAL_JOINT_IMPL_H

#include "core/arena.h"
#include "core/editor/cholesky.h"
#include "core/editor/edit_rows.h"
#include "core/editor/joint.h"

struct mal_joint {
    struct mal_model *model;
    struct mal_backend *be;
    const struct mal_editor *editor;
    size_t n_modules, max_bytes;
    double **a; /* per module (d_in, d_in), lower triangle, device */
    /* Cholesky factors, in as many buffers as the memory allows: module m's is in buffer
     * m % n_factors while holder[] says so. */
    double **factors;
    size_t n_factors;
    int64_t *holder; /* (n_factors) module, -1: none */
    double *info;    /* device: pivot report (2), sums of squares (2) */
    double *eye;     /* (EYE, EYE), device */
    bool whole;
    bool alone; /* one change only, in the dual form: there is no A */
};

enum { MAL_JOINT_EYE = 64 };

/* Ticks of one stage over the modules, and the pace of solvers that ticks so. */
struct mal_joint_ticker {
    const struct mal_progress *progress;
    enum mal_stage stage;
    int64_t done, total;
};

struct mal_joint_ticker mal_joint_ticker(const struct mal_joint *joint,
                                         const struct mal_progress *progress,
                                         enum mal_stage stage);
struct mal_pace mal_joint_pace(const struct mal_joint *joint,
                               struct mal_joint_ticker *ticker /* borrowed */);

double mal_joint_ridge(const struct mal_editor *editor, size_t m); /* e^lamda */
/* A system that is alone gets its A where these rows, the first, are too many for the
 * dual form. */
bool mal_joint_settle(struct mal_joint *joint, const struct mal_edit_rows *rows,
                      struct mal_error *err) MAL_CHECK;
/* a += sign u'u over rows of keys, in slices; the module's factor is out of date then. A
 * key that is NaN or infinite is MAL_NUMERIC, and nothing is added. */
bool mal_joint_add_rows(struct mal_joint *joint, size_t m, const float *u, int64_t n,
                        int sign, const struct mal_pace *pace,
                        struct mal_error *err) MAL_CHECK;
/* The Cholesky factor of a module's system, until the next call or change. */
bool mal_joint_factor(struct mal_joint *joint, size_t m, const struct mal_pace *pace,
                      const double **out, struct mal_error *err) MAL_CHECK;
bool mal_joint_check_finite(struct mal_joint *joint, size_t m, const char *what,
                            int64_t n, const float *x, struct mal_error *err) MAL_CHECK;

#endif
