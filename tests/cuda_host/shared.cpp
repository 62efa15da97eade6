/* shared.cpp - finds the variables that kernels have as __shared__: the thread-local ones
 * of functions in the namespace of cuda/, as the program's table of symbols has them. In
 * a program without one they are left as they are. */
#include "internal.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct variable {
    int64_t from_thread_idx; /* bytes, in every thread */
    size_t bytes;
};

static variable *variables;
static size_t n_variables;
static int64_t lowest, highest; /* where the first begins and the last ends */

static const char OURS[] = "_ZZN13mal_cuda_host", KNOWN[] = "threadIdx";

static void keep(const variable *v) {
    void *mem = realloc(variables, (n_variables + 1) * sizeof *variables);
    if (!mem) mal_host_stop("no memory for the names of shared memory");
    variables = (variable *)mem;
    variables[n_variables++] = *v;
    int64_t end = v->from_thread_idx + (int64_t)v->bytes;
    if (n_variables == 1 || v->from_thread_idx < lowest) lowest = v->from_thread_idx;
    if (n_variables == 1 || end > highest) highest = end;
}

static void read_symbols(const char *file, const ElfW(Shdr) * symbols,
                         const char *names) {
    const ElfW(Sym) *all = (const ElfW(Sym) *)(file + symbols->sh_offset);
    size_t n = symbols->sh_size / sizeof *all;
    int64_t known = -1;
    for (size_t i = 0; i < n; i++)
        if ((all[i].st_info & 15) == STT_TLS &&
            strcmp(names + all[i].st_name, KNOWN) == 0)
            known = (int64_t)all[i].st_value;
    for (size_t i = 0; known >= 0 && i < n; i++) {
        const char *name = names + all[i].st_name;
        variable v = {(int64_t)all[i].st_value - known, all[i].st_size};
        if ((all[i].st_info & 15) == STT_TLS && strncmp(name, OURS, sizeof OURS - 1) == 0)
            keep(&v);
    }
}

static void find_variables() {
    struct stat status;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void *mem = fstat(fd, &status) == 0 && status.st_size > 0
                    ? mmap(nullptr, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0)
                    : MAP_FAILED;
    close(fd);
    if (mem == MAP_FAILED) return;
    const char *file = (const char *)mem;
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)file;
    const ElfW(Shdr) *sections = (const ElfW(Shdr) *)(file + header->e_shoff);
    for (int i = 0; header->e_shoff && i < header->e_shnum; i++)
        if (sections[i].sh_type == SHT_SYMTAB)
            read_symbols(file, &sections[i],
                         file + sections[sections[i].sh_link].sh_offset);
    munmap(mem, (size_t)status.st_size);
}

static void need_variables() {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_variables);
}

void mal_host_spoil_shared() {
    need_variables();
    for (size_t i = 0; i < n_variables; i++)
        memset((char *)&threadIdx + variables[i].from_thread_idx, 0xff,
               variables[i].bytes);
}

/* Between them there may be others: of kernels none that they write. */
int64_t mal_host_shared_at(const void *p) {
    int64_t at = (const char *)p - (const char *)&threadIdx - lowest;
    return at >= 0 && at < highest - lowest ? at : -1;
}

int64_t mal_host_shared_bytes() {
    need_variables();
    return highest - lowest;
}
