/* kill_at.c - preloaded into a daemon: it kills itself before its n-th change of a file,
 * n from MALMEND_KILL_AT, counted from SIGUSR2 on or, with MALMEND_KILL_ARMED, from the
 * start. A timer seldom falls between two of them. */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS /* names are as they are linked */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_bool armed;
static atomic_long left;

static void arm(int number) {
    (void)number;
    atomic_store(&armed, true);
}

__attribute__((constructor)) static void prepare(void) {
    const char *n = getenv("MALMEND_KILL_AT");
    atomic_store(&left, n ? atol(n) : 0);
    atomic_store(&armed, getenv("MALMEND_KILL_ARMED") != NULL);
    (void)signal(SIGUSR2, arm);
}

static void count(void) {
    if (atomic_load(&armed) && atomic_fetch_sub(&left, 1) == 1)
        (void)kill(getpid(), SIGKILL);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    count();
    return syscall(SYS_pwrite64, fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    count();
    return syscall(SYS_pwrite64, fd, data, n, at);
}

int ftruncate(int fd, off_t bytes) {
    count();
    return (int)syscall(SYS_ftruncate, fd, bytes);
}

int ftruncate64(int fd, off64_t bytes) {
    count();
    return (int)syscall(SYS_ftruncate, fd, bytes);
}

int fsync(int fd) {
    count();
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    count();
    return (int)syscall(SYS_fdatasync, fd);
}

int rename(const char *from, const char *to) {
    count();
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int unlink(const char *path) {
    count();
    return unlinkat(AT_FDCWD, path, 0);
}
