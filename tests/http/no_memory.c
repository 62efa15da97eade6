/* no_memory.c - preloaded into a daemon: its n-th allocation fails, n from
 * MALMEND_NO_MEMORY_AT, counted from SIGUSR2 on or, with MALMEND_NO_MEMORY_ARMED, from
 * main() on: before it CUDA's run time, which is linked in, registers its kernels. The
 * file MALMEND_NO_MEMORY_TOLD then holds where it was asked for; with n 0 none fails, and
 * at the end the file holds how many there were.
 *
 * Not counted is what two libraries ask for, also through the C library, as they leave no
 * way to be told. OpenBLAS's small products write to no memory, its larger ones exit with
 * 1 and say so, as libgomp does at each of thousands of parallel regions. */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS /* names are as they are linked */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *mem, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

enum { FRAMES = 24 };

static atomic_bool armed;
static atomic_long asked;
static long at;
static const char *told;
static _Thread_local bool inside;

/* ---- Who asks ---- */

enum owner { COUNTED, C_LIBRARY, NOT_COUNTED };

static struct range {
    uintptr_t begin, end;
    enum owner owner;
} ranges[8];

static size_t n_ranges;

static int note_range(struct dl_phdr_info *info, size_t bytes, void *arg) {
    static const char *const names[] = {"/libc.so", "/ld-linux", "/libopenblas",
                                        "/libblas", "/libgomp"};
    (void)bytes, (void)arg;
    size_t i = 0;
    while (i < sizeof names / sizeof *names && !strstr(info->dlpi_name, names[i]))
        i++;
    if (i == sizeof names / sizeof *names || n_ranges == sizeof ranges / sizeof *ranges)
        return 0;
    struct range *r = &ranges[n_ranges++];
    *r = (struct range){UINTPTR_MAX, 0, i < 2 ? C_LIBRARY : NOT_COUNTED};
    for (size_t j = 0; j < info->dlpi_phnum; j++) {
        if (info->dlpi_phdr[j].p_type != PT_LOAD) continue;
        uintptr_t begin = info->dlpi_addr + info->dlpi_phdr[j].p_vaddr;
        uintptr_t end = begin + info->dlpi_phdr[j].p_memsz;
        if (begin < r->begin) r->begin = begin;
        if (end > r->end) r->end = end;
    }
    return 0;
}

static enum owner owner_of(const void *address) {
    uintptr_t at_address = (uintptr_t)address;
    for (size_t i = 0; i < n_ranges; i++) {
        if (at_address >= ranges[i].begin && at_address < ranges[i].end)
            return ranges[i].owner;
    }
    return COUNTED;
}

static void tell(void *const *frames, int n) {
    int fd = told ? open(told, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    for (int i = 0; i < n && fd >= 0; i++) {
        Dl_info info = {0};
        char line[512];
        dladdr(frames[i], &info);
        const char *file = info.dli_fname ? info.dli_fname : "?";
        const char *name = info.dli_sname ? info.dli_sname : "";
        int m = snprintf(line, sizeof line, "%s+0x%jx %s\n", file,
                         (uintmax_t)((char *)frames[i] - (char *)info.dli_fbase), name);
        if (write(fd, line, (size_t)m) != m) break;
    }
    if (fd >= 0) close(fd);
}

/* Whether this allocation is the one that fails. */
static bool fails(const void *caller) {
    if (!atomic_load(&armed) || inside) return false;
    if (at && atomic_load(&asked) >= at) return false; /* it has had its turn */
    void *frames[FRAMES];
    int n = 0, i = 0;
    inside = true;
    enum owner owner = owner_of(caller);
    if (owner == C_LIBRARY) {
        n = backtrace(frames, FRAMES);
        while (i < n && frames[i] != caller)
            i++;
        while (i < n && (owner = owner_of(frames[i])) == C_LIBRARY)
            i++;
    }
    bool fails = owner != NOT_COUNTED && atomic_fetch_add(&asked, 1) + 1 == at;
    if (fails) tell(frames, backtrace(frames, FRAMES));
    inside = false;
    if (fails) errno = ENOMEM;
    return fails;
}

__attribute__((destructor)) static void tell_count(void) {
    FILE *file = at == 0 && told ? fopen(told, "w") : NULL;
    if (!file) return;
    (void)fprintf(file, "%ld\n", atomic_load(&asked));
    (void)fclose(file);
}

/* ---- In the way ---- */

#define FAILS() fails(__builtin_return_address(0))

void *malloc(size_t bytes) {
    return FAILS() ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t n, size_t size) {
    return FAILS() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *mem, size_t bytes) {
    return FAILS() ? NULL : __libc_realloc(mem, bytes);
}

void *reallocarray(void *mem, size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return FAILS() ? NULL : __libc_realloc(mem, bytes);
}

void *memalign(size_t alignment, size_t bytes) {
    return FAILS() ? NULL : __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes) {
    return FAILS() ? NULL : __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes) {
    void *mem = FAILS() ? NULL : __libc_memalign(alignment, bytes);
    if (!mem) return ENOMEM;
    *out = mem;
    return 0;
}

void *mmap(void *where, size_t bytes, int protection, int flags, int fd, off_t offset) {
    if (FAILS()) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, where, bytes, protection, flags, fd, offset);
}

void *mmap64(void *where, size_t bytes, int protection, int flags, int fd,
             off64_t offset) {
    if (FAILS()) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, where, bytes, protection, flags, fd, offset);
}

/* ---- Start ---- */

static void arm(int number) {
    (void)number;
    atomic_store(&armed, true);
}

__attribute__((constructor)) static void prepare(void) {
    void *frames[FRAMES];
    const char *n = getenv("MALMEND_NO_MEMORY_AT");
    told = getenv("MALMEND_NO_MEMORY_TOLD");
    at = n ? atol(n) : 0;
    (void)backtrace(frames, FRAMES); /* loads what it needs */
    dl_iterate_phdr(note_range, NULL);
    (void)signal(SIGUSR2, arm);
}

static int (*real_main)(int argc, char **argv, char **environment);

static int armed_main(int argc, char **argv, char **environment) {
    if (getenv("MALMEND_NO_MEMORY_ARMED")) arm(0);
    return real_main(argc, argv, environment);
}

int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv,
                      void (*init)(void), void (*fini)(void), void (*rtld_fini)(void),
                      void *stack_end);

/* What the program's first instructions call; it runs constructors, then main(). */
int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv,
                      void (*init)(void), void (*fini)(void), void (*rtld_fini)(void),
                      void *stack_end) {
    int (*next)(int (*)(int, char **, char **), int, char **, void (*)(void),
                void (*)(void), void (*)(void), void *);
    *(void **)&next = dlsym(RTLD_NEXT, "__libc_start_main");
    real_main = main;
    return next(armed_main, argc, argv, init, fini, rtld_fini, stack_end);
}
