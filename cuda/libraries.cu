/* libraries.cu - the tables of cuBLAS' and cuSOLVER's functions. */
#include "cuda/libraries.h"

#include <stdio.h>

#ifndef MAL_CUDA_ON_HOST
#    include <dlfcn.h>
#endif

static struct mal_blas blas;
static struct mal_solver solver;

const struct mal_blas *mal_blas(void) {
    return &blas;
}

const struct mal_solver *mal_solver(void) {
    return &solver;
}

/* CUBLAS_FP64_EMULATED_FIXEDPOINT_MATH and CUBLAS_EMULATION_STRATEGY_EAGER, which older
 * headers do not have. */
enum { EMULATED_FP64 = 8, EAGER = 2 };

cublasStatus_t mal_cuda_emulate64(cublasHandle_t handle, bool all) {
    if (!blas.set_emulation) return CUBLAS_STATUS_SUCCESS;
    cublasStatus_t code = blas.set_math_mode(handle, EMULATED_FP64);
    return code == CUBLAS_STATUS_SUCCESS && all ? blas.set_emulation(handle, EAGER)
                                                : code;
}

#ifdef MAL_CUDA_ON_HOST

bool mal_cuda_load_libraries(struct mal_error *err) {
    (void)err;
#    define TAKE(member, function) &function,
    blas = {MAL_BLAS_MAP(TAKE) & cublasGemmEx};
    solver = {MAL_SOLVER_MAP(TAKE)};
#    undef TAKE
    return true;
}

#else

/* As the loader finds it, else where CUDA is installed by default. */
static void *load(const char *name, int version, struct mal_error *err) {
    char file[64], path[128];
    snprintf(file, sizeof file, "lib%s.so.%d", name, version);
    snprintf(path, sizeof path, "/usr/local/cuda/lib64/%s", file);
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) mal_fail(err, MAL_DEVICE, "%s cannot be loaded: %s", file, dlerror());
    return library;
}

template <typename F>
static bool find(void *library, const char *name, F *out, struct mal_error *err) {
    *out = (F)dlsym(library, name);
    return *out || mal_fail(err, MAL_DEVICE, "CUDA's libraries lack %s", name);
}

bool mal_cuda_load_libraries(struct mal_error *err) {
    static bool done;
    if (done) return true;
    void *of_blas = load("cublas", CUBLAS_VER_MAJOR, err);
    void *of_solver = of_blas ? load("cusolver", CUSOLVER_VER_MAJOR, err) : NULL;
    if (!of_solver) return false;
#    define TAKE_BLAS(member, function) &&find(of_blas, #    function, &blas.member, err)
#    define TAKE_SOLVER(member, function) \
        &&find(of_solver, #function, &solver.member, err)
    *(void **)&blas.set_math_mode = dlsym(of_blas, "cublasSetMathMode");
    *(void **)&blas.set_emulation = dlsym(of_blas, "cublasSetEmulationStrategy");
    done = find(of_blas, "cublasGemmEx", &blas.gemm_ex, err) MAL_BLAS_MAP(TAKE_BLAS)
        MAL_SOLVER_MAP(TAKE_SOLVER);
    return done;
}

#endif
