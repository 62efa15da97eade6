/* solve_grad.h - the solve as training needs it: the shift in device memory, and its
 * backward pass (core/README.md section 8). */
#ifndef MAL_SOLVE_GRAD_H
#define MAL_SOLVE_GRAD_H

#include "core/editor/solve.h"

/* shift (d_in, d_out) fp32 on the device := (U'U + e^lamda I + w K0'K0)^-1 U'D. */
bool mal_solve_shift(struct mal_backend *be, const struct mal_solve *solve, float *shift,
                     struct mal_error *err) MAL_CHECK;

/* Given m = dL/dS (d_in, d_out) fp32 on the device: dd (n, d_out) fp32 := dL/dD = U A^-1
 * m; *d_lamda := dL/dlamda = -e^lamda <A^-1 m, S>; *d_preserve (may be NULL) := dL/d log
 * w = -w <A^-1 m, K0'K0 S>. dd may be the `d` of `solve`. */
bool mal_solve_bwd(struct mal_backend *be, const struct mal_solve *solve, const float *m,
                   float *dd, double *d_lamda, double *d_preserve,
                   struct mal_error *err) MAL_CHECK;

/* Device bytes either takes from `solve->scratch` or for itself. */
size_t mal_solve_grad_bytes(const struct mal_solve *solve);

#endif
