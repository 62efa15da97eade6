/* backend.c - the one place where a device is chosen, and its memory. */
#include "core/backend_impl.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cpu/blas.h"
#include "cuda/cuda.h"
#include "mal_config.h"

/* ---- Choosing a device ---- */

static bool create_cpu(struct mal_backend **out, int index, int bf16,
                       struct mal_error *err) {
    return mal_cpu_create(out, bf16, err);
}

static bool no_cuda(struct mal_backend **out, int index, enum mal_cuda_kind kind,
                    struct mal_error *err) {
    return mal_fail(err, MAL_DEVICE, "cuda:%d: malmend was built without CUDA", index);
}

static mal_cuda_create_fn cuda_create = MAL_HAVE_CUDA ? mal_cuda_create : no_cuda;

void mal_backend_use_cuda(mal_cuda_create_fn create) {
    cuda_create = create;
}

static bool create_cuda(struct mal_backend **out, int index, int kind,
                        struct mal_error *err) {
    return cuda_create(out, index, (enum mal_cuda_kind)kind, err);
}

/* The first CUDA device that works, else the CPU, which then tells why. */
static bool create_auto(struct mal_backend **out, int index, int kind,
                        struct mal_error *err) {
    struct mal_error why = {0};
    if (create_cuda(out, 0, MAL_CUDA_ROUNDED, &why)) return true;
    if (!mal_cpu_create(out, false, err)) return false;
    if (cuda_create == no_cuda) return true;
    struct mal_backend *cpu = *out;
    size_t n = strlen(cpu->description);
    snprintf(cpu->description + n, sizeof cpu->description - n, "; %s", why.text);
    return true;
}

static const struct constructor {
    const char *name; /* N: an index */
    bool (*create)(struct mal_backend **out, int index, int kind, struct mal_error *err);
    int kind;
} constructors[] = {
    {"auto", create_auto, 0},
    {"cpu", create_cpu, false},
    {"cpu:bf16", create_cpu, true},
    {"cuda:N", create_cuda, MAL_CUDA_ROUNDED},
    {"cuda:N:fp32", create_cuda, MAL_CUDA_FP32},
    {"cuda:N:emulated", create_cuda, MAL_CUDA_EMULATED},
};

/* Whether `device` is `name` with a number of up to four digits for its N. */
static bool matches(const char *device, const char *name, int *index) {
    *index = 0;
    size_t before = strcspn(name, "N");
    if (name[before] == '\0') return strcmp(device, name) == 0;
    if (strncmp(device, name, before) != 0) return false;
    const char *digits = device + before;
    size_t n_digits = strspn(digits, "0123456789");
    if (n_digits == 0 || n_digits > 4) return false;
    *index = (int)strtol(digits, NULL, 10);
    return strcmp(digits + n_digits, name + before + 1) == 0;
}

static const struct constructor *find(const char *device, int *index,
                                      struct mal_error *err) {
    for (size_t i = 0; i < sizeof constructors / sizeof constructors[0]; i++)
        if (matches(device, constructors[i].name, index)) return &constructors[i];
    (void)mal_fail(err, MAL_INVALID,
                   "device '%.64s': must be auto, cpu, cpu:bf16, cuda:N, cuda:N:fp32 or "
                   "cuda:N:emulated",
                   device);
    return NULL;
}

bool mal_backend_check_name(const char *device, struct mal_error *err) {
    int index;
    return find(device, &index, err) != NULL;
}

bool mal_backend_create(struct mal_backend **out, const char *device,
                        struct mal_error *err) {
    mal_cpu_choose_kernels(); /* some of a GPU's factorisations are the host's, too */
    int index;
    const struct constructor *found = find(device, &index, err);
    return found && found->create(out, index, found->kind, err);
}

void mal_backend_init(struct mal_backend *be, const struct mal_backend_ops *ops,
                      const char *name) {
    void (*member[sizeof *ops / sizeof(void (*)(void))])(void);
    _Static_assert(sizeof member == sizeof *ops, "ops are function pointers only");
    memcpy(member, ops, sizeof member);
    for (size_t i = 0; i < sizeof member / sizeof member[0]; i++)
        assert(member[i]);

    *be = (struct mal_backend){.ops = ops};
    snprintf(be->name, sizeof be->name, "%s", name);
}

bool mal_backend_create_beside(struct mal_backend **out, struct mal_backend *first,
                               struct mal_error *err) {
    return first->ops->create_beside(out, first, err);
}

void mal_backend_destroy(struct mal_backend *be) {
    if (be) be->ops->destroy(be);
}

const char *mal_backend_name(const struct mal_backend *be) {
    return be->name;
}

const char *mal_backend_describe(const struct mal_backend *be) {
    return be->description;
}

/* ---- Memory ---- */

void *mal_backend_alloc(struct mal_backend *be, size_t bytes) {
    if (!mal_backend_runs(be)) return NULL;
    void *mem = be->ops->alloc(be, bytes);
    if (!mem && be->release && be->release(be->release_arg))
        mem = be->ops->alloc(be, bytes);
    return mem;
}

void mal_backend_free(struct mal_backend *be, void *mem) {
    if (mem) be->ops->free(be, mem);
}

bool mal_backend_on_shortage(struct mal_backend *be, bool (*release)(void *arg),
                             void *arg) {
    if (release && be->release) return false;
    be->release = release;
    be->release_arg = arg;
    return true;
}

void *mal_backend_alloc_host(struct mal_backend *be, size_t bytes) {
    return mal_backend_runs(be) ? be->ops->alloc_host(be, bytes) : NULL;
}

void mal_backend_free_host(struct mal_backend *be, void *mem) {
    if (mem) be->ops->free_host(be, mem);
}

void mal_backend_upload(struct mal_backend *be, void *dst, const void *host,
                        size_t bytes) {
    if (bytes == 0 || !mal_backend_runs(be)) return;
    assert(dst && host);
    be->ops->upload(be, dst, host, bytes);
}

void mal_backend_download(struct mal_backend *be, void *host, const void *src,
                          size_t bytes) {
    if (bytes == 0 || !mal_backend_runs(be)) return;
    assert(host && src);
    be->ops->download(be, host, src, bytes);
}

void mal_backend_copy(struct mal_backend *be, void *dst, const void *src, size_t bytes) {
    if (bytes == 0 || !mal_backend_runs(be)) return;
    assert(dst && src);
    be->ops->copy(be, dst, src, bytes);
}

void mal_backend_zero(struct mal_backend *be, void *dst, size_t bytes) {
    if (bytes == 0 || !mal_backend_runs(be)) return;
    assert(dst);
    be->ops->zero(be, dst, bytes);
}

bool mal_backend_sync(struct mal_backend *be, struct mal_error *err) {
    if (mal_backend_runs(be)) be->ops->sync(be);
    if (mal_backend_runs(be)) return true;
    return mal_fail(err, be->error.status, "%s", be->error.text);
}

void mal_backend_name_failure(const struct mal_backend *be, struct mal_error *err) {
    if (err->status == MAL_NO_MEMORY && !mal_backend_runs(be)) *err = be->error;
}

size_t mal_backend_bytes(const struct mal_backend *be) {
    return __atomic_load_n(&be->bytes, __ATOMIC_RELAXED);
}

size_t mal_backend_available(struct mal_backend *be) {
    return be->ops->available(be);
}

bool mal_backend_on_host(const struct mal_backend *be) {
    return be->on_host;
}

int64_t mal_backend_slice_fma(const struct mal_backend *be) {
    return be->slice_fma;
}

int64_t mal_backend_breadth(const struct mal_backend *be) {
    return be->breadth;
}
