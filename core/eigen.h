/* eigen.h - eigenvalues and eigenvectors of symmetric matrices, fp64, in host memory. */
#ifndef MAL_EIGEN_H
#define MAL_EIGEN_H

#include <stdint.h>

#include "core/error.h"

/* Of the lower triangle of a (n,n), row-major: `values` (n) ascending; row i of a becomes
 * the unit eigenvector of value i. MAL_NUMERIC where it does not converge (NaN). */
bool mal_eigen_symmetric(int64_t n, double *a, double *values,
                         struct mal_error *err) MAL_CHECK;

#endif
