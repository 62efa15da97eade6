/* blas.h - the BLAS and LAPACK behind the device "cpu". core/cpu/README.md says which and
 * why. */
#ifndef MAL_CPU_BLAS_H
#define MAL_CPU_BLAS_H

#include <stddef.h>
#include <stdint.h>

#include <cblas.h>

/* OpenBLAS takes a processor that is newer than itself for one without AVX (its 0.3.21 an Emerald
 * Rapids: a sixth of the speed). Chooses kernels by what the processor says it has, unless
 * OPENBLAS_CORETYPE does, and only once. Before any call into the library; changes the environment
 * for a moment, so that first call is for main(), or for a thread that is alone. */
void mal_cpu_choose_kernels(void);

/* First thing in main(): chooses the kernels. OpenMP reads its settings when it is loaded, so this
 * sets OMP_WAIT_POLICY=passive, unless it is set, and executes the program again (same process id).
 * Threads that spin while they wait take the processor from the HTTP threads and from whatever
 * else the machine runs. Goes on with what there is where that is not possible. */
void mal_cpu_prepare(char **argv);

/* One line: processor, library, kernels, threads. */
void mal_cpu_describe(char *text, size_t bytes);

/* A size as the library takes it. */
blasint mal_blas_int(int64_t n);

/* LAPACK; matrices are column-major. `info` as in LAPACK. */
int mal_lapack_potrf_upper(int64_t n, double *a, int64_t lda);
void mal_lapack_qr_factor(int64_t m, int64_t n, double *a, double *tau, double *work,
                          int64_t n_work);
void mal_lapack_qr_form(int64_t m, int64_t n, double *a, const double *tau, double *work,
                        int64_t n_work);

/* Eigenvalues, ascending, into `values` (n); the columns of a become the eigenvectors.
 * _work: the numbers of both workspaces. */
void mal_lapack_eigen_work(int64_t n, int64_t *n_work, int64_t *n_iwork);
int mal_lapack_eigen_upper(int64_t n, double *a, double *values, double *work,
                           int64_t n_work, blasint *iwork, int64_t n_iwork);

#endif
