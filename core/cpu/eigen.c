/* eigen.c - eigenvalues through LAPACK: divide and conquer. */
#include "core/eigen.h"

#include "core/alloc.h"
#include "core/cpu/blas.h"

bool mal_eigen_symmetric(int64_t n, double *a, double *values, struct mal_error *err) {
    int64_t n_work = 0, n_iwork = 0;
    mal_lapack_eigen_work(n, &n_work, &n_iwork);
    double *work = mal_malloc((size_t)n_work * sizeof *work);
    blasint *iwork = mal_malloc((size_t)n_iwork * sizeof *iwork);
    bool ok =
        (work && iwork) || mal_fail(err, MAL_NO_MEMORY,
                                    "eigenvalues of a matrix of %lld rows", (long long)n);
    /* a row-major lower triangle is LAPACK's upper one, its columns are our rows */
    if (ok && mal_lapack_eigen_upper(n, a, values, work, n_work, iwork, n_iwork) != 0) {
        ok = mal_fail(err, MAL_NUMERIC,
                      "the eigenvalues of a matrix of %lld rows do not converge",
                      (long long)n);
    }
    mal_free(work);
    mal_free(iwork);
    return ok;
}
