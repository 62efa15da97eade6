/* joint_impl.h - the inside of a joint system, for its own files. */
#ifndef MAL_JOINT_IMPL_H
#define MAL_JOINT_IMPL_H

#include "core/arena.h"
#include "core/editor/cholesky.h"
#include "core/editor/edit_rows.h"
#include "core/editor/joint.h"

/* The Cholesky factor l (d_in, d_in) of a module's system A0, and rows u that joined it
 * since, as w (n, d_in) = u l'^-1 behind it: A = A0 + u'u, whose inverse is
 * l'^-1 (I - w' (I + w w')^-1 w) l^-1 (Woodbury). u'u is added to A when A is read next:
 * before it is factorised anew, or rows leave it. */
struct mal_joint_factor {
    int64_t module; /* -1: none */
    double *l; /* device, owned, with the inverses of its blocks on the diagonal and room
                * for w, and for u in fp32 */
    int64_t n; /* rows of w */
    int64_t pending; /* the first rows of u, that A lacks */
    int64_t made; /* how often: rows that joined one of before are not in this one's w */
};

/* Where rows of keys are in w: from `row` on, while the factor is the one made then. */
struct mal_joined {
    int64_t made; /* 0: nowhere */
    int64_t row;
};

struct mal_joint {
    struct mal_model *model;
    struct mal_backend *be;
    const struct mal_editor *editor;
    size_t n_modules, max_bytes;
    double **a; /* per module (d_in, d_in), lower triangle, device */
    /* As many as the memory allows: module m's is in factors[m % n_factors] while that
     * says so. */
    struct mal_joint_factor *factors;
    size_t n_factors;
    double *info; /* device: pivot report (2), sums of squares (2) */
    bool whole;
    bool held;  /* texts leave it, too */
    bool alone; /* one change only, in the dual form: there is no A */
};

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

/* A system that is alone gets its A where these rows, the first, are too many for the
 * dual form. */
bool mal_joint_settle(struct mal_joint *joint, const struct mal_edit_rows *rows,
                      struct mal_error *err) MAL_CHECK;
/* Rows of keys join the module's system, or leave it (sign -1). A key that is NaN or
 * infinite is MAL_NUMERIC, and nothing is added. *out (may be NULL): where they are in
 * the factor. */
bool mal_joint_add_rows(struct mal_joint *joint, size_t m, const float *u, int64_t n,
                        int sign, const struct mal_pace *pace, struct mal_joined *out,
                        struct mal_error *err) MAL_CHECK;

/* Rows whose products with all others are one slice of work. */
int64_t mal_joint_depth(const struct mal_joint *joint, int64_t d_in);

/* ---- Factors (joint_factor.c) ---- */

/* Rows that may join a system of order n before it is factorised anew: few enough for
 * their own small system to cost next to nothing. */
int64_t mal_joint_room(int64_t n);
/* Bytes of a factor of order n with all its rows; without a device (NULL): on the CPU. */
size_t mal_joint_factor_bytes(const struct mal_backend *be, int64_t n);
/* What rows of keys that join, or leave, do to the module's factor. *out_held: A need not
 * be told of them. */
bool mal_joint_factor_add(struct mal_joint *joint, size_t m, const float *u, int64_t n,
                          int sign, const struct mal_pace *pace, struct mal_joined *out,
                          bool *out_held, struct mal_error *err) MAL_CHECK;
/* The Cholesky factor of a module's system as it is, until the next call or change. */
bool mal_joint_factor(struct mal_joint *joint, size_t m, const struct mal_pace *pace,
                      const double **out, struct mal_error *err) MAL_CHECK;
/* u A^-1 of rows of keys, in two halves, with the factor that is there where only few
 * rows joined since; begin makes one where there is none. First: b (n, d_in) := u l'^-1,
 * which rows that joined the factor have in it already. */
bool mal_joint_begin_solve(struct mal_joint *joint, size_t m, const struct mal_pace *pace,
                           struct mal_error *err) MAL_CHECK;
bool mal_joint_first_half(struct mal_joint *joint, size_t m, const struct mal_pace *pace,
                          const struct mal_joined *joined, const float *u, int64_t n,
                          double *b, struct mal_error *err) MAL_CHECK;
/* Second: b (n, d_in) := (u l'^-1) -> u A^-1. Takes its scratch from the arena, which
 * must have mal_joint_solve_bytes() left. */
bool mal_joint_second_half(struct mal_joint *joint, size_t m, const struct mal_pace *pace,
                           int64_t n, double *b, struct mal_arena *scratch,
                           struct mal_error *err) MAL_CHECK;
size_t mal_joint_solve_bytes(int64_t d_in, int64_t n);

bool mal_joint_check_finite(struct mal_joint *joint, size_t m, const char *what,
                            int64_t n, const float *x, struct mal_error *err) MAL_CHECK;

#endif
