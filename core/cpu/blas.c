/* blas.c - calls into OpenBLAS that its C header does not cover, how its threads wait,
 * and which of its kernels are used. */
#include "core/cpu/blas.h"

#include <assert.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void dpotrf_(const char *uplo, const blasint *n, double *a, const blasint *lda,
             blasint *info);
void dgeqrf_(const blasint *m, const blasint *n, double *a, const blasint *lda,
             double *tau, double *work, const blasint *n_work, blasint *info);
void dorgqr_(const blasint *m, const blasint *n, const blasint *k, double *a,
             const blasint *lda, const double *tau, double *work, const blasint *n_work,
             blasint *info);
void dsyevd_(const char *jobz, const char *uplo, const blasint *n, double *a,
             const blasint *lda, double *w, double *work, const blasint *n_work,
             blasint *iwork, const blasint *n_iwork, blasint *info);

/* ---- Kernels ---- */

/* Of an OpenBLAS that has kernels for several processors. */
void gotoblas_dynamic_init(void) __attribute__((weak));
void gotoblas_dynamic_quit(void) __attribute__((weak));

/* A processor newer than the library is "Prescott" to it, which had no AVX. */
static const char *better_kernels(void) {
    if (strcmp(openblas_get_corename(), "Prescott") != 0) return NULL;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return "SKYLAKEX";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "HASWELL";
#endif
    return NULL;
}

static void choose(void) {
    static const char variable[] = "OPENBLAS_CORETYPE";
    if (getenv(variable) || !gotoblas_dynamic_init || !gotoblas_dynamic_quit) return;
    const char *kernels = better_kernels();
    if (!kernels || setenv(variable, kernels, 1) != 0) return;
    gotoblas_dynamic_quit();
    gotoblas_dynamic_init();
    unsetenv(variable);
}

void mal_cpu_choose_kernels(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
}

/* ---- How threads wait ---- */

void mal_cpu_prepare(char **argv) {
    static const char variable[] = "OMP_WAIT_POLICY";
    mal_cpu_choose_kernels();
    if (getenv(variable) || setenv(variable, "passive", 1) != 0) return;
    execv("/proc/self/exe", argv);
}

/* The processor's name as the system gives it. */
static void cpu_model(char *text, size_t bytes) {
    snprintf(text, bytes, "unknown processor");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file) return;
    char line[256];
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        colon[strcspn(colon, "\n")] = '\0';
        snprintf(text, bytes, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    fclose(file);
}

void mal_cpu_describe(char *text, size_t bytes) {
    char model[96];
    cpu_model(model, sizeof model);
    const char *config =
        openblas_get_config(); /* "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ..." */
    const char *name_end = strchr(config, ' ');
    int n = name_end ? (int)(name_end + 1 - config) : 0;
    n += (int)strcspn(config + n, " ");
    snprintf(text, bytes, "%s; %.*s, %s kernels, %d threads", model, n, config,
             openblas_get_corename(), openblas_get_num_threads());
}

/* ---- LAPACK ---- */

blasint mal_blas_int(int64_t n) {
    assert(n >= 0 && n <= INT_MAX);
    return (blasint)n;
}

int mal_lapack_potrf_upper(int64_t n, double *a, int64_t lda) {
    blasint size = mal_blas_int(n), stride = mal_blas_int(lda), info = 0;
    dpotrf_("U", &size, a, &stride, &info);
    return (int)info;
}

void mal_lapack_qr_factor(int64_t m, int64_t n, double *a, double *tau, double *work,
                          int64_t n_work) {
    blasint rows = mal_blas_int(m), cols = mal_blas_int(n), size = mal_blas_int(n_work),
            info;
    dgeqrf_(&rows, &cols, a, &rows, tau, work, &size, &info);
    assert(info == 0);
}

void mal_lapack_qr_form(int64_t m, int64_t n, double *a, const double *tau, double *work,
                        int64_t n_work) {
    blasint rows = mal_blas_int(m), cols = mal_blas_int(n), size = mal_blas_int(n_work),
            info;
    dorgqr_(&rows, &cols, &cols, a, &rows, tau, work, &size, &info);
    assert(info == 0);
}

void mal_lapack_eigen_work(int64_t n, int64_t *n_work, int64_t *n_iwork) {
    blasint size = mal_blas_int(n), ask = -1, ints = 0, info = 0;
    double doubles = 0, nothing = 0;
    dsyevd_("V", "U", &size, &nothing, &size, &nothing, &doubles, &ask, &ints, &ask,
            &info);
    assert(info == 0);
    *n_work = (int64_t)doubles;
    *n_iwork = ints;
}

int mal_lapack_eigen_upper(int64_t n, double *a, double *values, double *work,
                           int64_t n_work, blasint *iwork, int64_t n_iwork) {
    blasint size = mal_blas_int(n), n_doubles = mal_blas_int(n_work),
            n_ints = mal_blas_int(n_iwork), info = 0;
    dsyevd_("V", "U", &size, a, &size, values, work, &n_doubles, iwork, &n_ints, &info);
    return (int)info;
}
