/* bad_disk.c - preloaded into a daemon: what it asks of the files of one directory fails,
 * from the n-th time on, counted from SIGUSR2 on or, with MALMEND_DISK_ARMED, from the
 * start.
 *
 * MALMEND_DISK_UNDER is the directory, MALMEND_DISK_OF letters of what counts and fails
 * (w: writes and changes of size, s: syncs, r: reads, l: reads by the loop's thread,
 * which is the first, n: new names), MALMEND_DISK_AT is n, MALMEND_DISK_TIMES how often,
 * MALMEND_DISK_ERRNO with which number. The file MALMEND_DISK_TOLD then holds what failed
 * first; with n 0 nothing fails, and at the end the file holds how many there were. */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS /* names are as they are linked */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_bool armed;
static atomic_long asked;
static long at, times;
static int number;
static const char *under, *of, *told;

static void tell(const char *what, const char *path) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, told, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    char line[4200];
    int n = snprintf(line, sizeof line, "%s %s\n", what, path);
    if (fd >= 0 && syscall(SYS_write, fd, line, n) != n) n = 0;
    if (fd >= 0) syscall(SYS_close, fd);
}

static bool fails_at(char kind, const char *what, const char *path) {
    if (!strchr(of, kind) || strncmp(path, under, strlen(under)) != 0) return false;
    long n = atomic_fetch_add(&asked, 1) + 1;
    if (at == 0 || n < at || n - at >= times) return false;
    if (n == at && told) tell(what, path);
    errno = number;
    return true;
}

static bool fails(char kind, const char *what, int fd) {
    char link[40], path[4096];
    if (!atomic_load(&armed)) return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return false;
    path[n] = '\0';
    return fails_at(kind, what, path);
}

static bool name_fails(const char *what, const char *path) {
    return atomic_load(&armed) && fails_at('n', what, path);
}

/* ---- In the way ---- */

ssize_t pwrite(int fd, const void *data, size_t n, off_t offset) {
    return fails('w', "pwrite", fd) ? -1 : syscall(SYS_pwrite64, fd, data, n, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t offset) {
    return fails('w', "pwrite", fd) ? -1 : syscall(SYS_pwrite64, fd, data, n, offset);
}

ssize_t write(int fd, const void *data, size_t n) {
    return fails('w', "write", fd) ? -1 : syscall(SYS_write, fd, data, n);
}

int ftruncate(int fd, off_t bytes) {
    return fails('w', "ftruncate", fd) ? -1 : (int)syscall(SYS_ftruncate, fd, bytes);
}

int ftruncate64(int fd, off64_t bytes) {
    return fails('w', "ftruncate", fd) ? -1 : (int)syscall(SYS_ftruncate, fd, bytes);
}

int fsync(int fd) {
    return fails('s', "fsync", fd) ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    return fails('s', "fdatasync", fd) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

static bool read_fails(int fd) {
    bool loops = of && strchr(of, 'l') && gettid() == getpid();
    return fails(loops ? 'l' : 'r', "pread", fd);
}

ssize_t pread(int fd, void *data, size_t n, off_t offset) {
    return read_fails(fd) ? -1 : syscall(SYS_pread64, fd, data, n, offset);
}

ssize_t pread64(int fd, void *data, size_t n, off64_t offset) {
    return read_fails(fd) ? -1 : syscall(SYS_pread64, fd, data, n, offset);
}

int rename(const char *from, const char *to) {
    return name_fails("rename", from) ? -1 : renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int unlink(const char *path) {
    return name_fails("unlink", path) ? -1 : unlinkat(AT_FDCWD, path, 0);
}

static int open_file(const char *path, int flags, mode_t mode) {
    if (flags & O_CREAT && name_fails("open", path)) return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_file(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_file(path, flags, mode);
}

/* ---- Start and end ---- */

static void arm(int signal_number) {
    (void)signal_number;
    atomic_store(&armed, true);
}

static long number_of(const char *name, long fallback) {
    const char *text = getenv(name);
    return text ? atol(text) : fallback;
}

__attribute__((constructor)) static void prepare(void) {
    under = getenv("MALMEND_DISK_UNDER");
    of = getenv("MALMEND_DISK_OF");
    told = getenv("MALMEND_DISK_TOLD");
    at = number_of("MALMEND_DISK_AT", 0);
    times = number_of("MALMEND_DISK_TIMES", 1);
    number = (int)number_of("MALMEND_DISK_ERRNO", EIO);
    if (!under || !of) return;
    (void)signal(SIGUSR2, arm);
    if (getenv("MALMEND_DISK_ARMED")) arm(0);
}

__attribute__((destructor)) static void tell_count(void) {
    FILE *file = under && at == 0 && told ? fopen(told, "w") : NULL;
    if (!file) return;
    (void)fprintf(file, "%ld\n", atomic_load(&asked));
    (void)fclose(file);
}
