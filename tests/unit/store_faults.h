/* store_faults.h - memory and disk that fail under SQLite at a chosen point. */
#ifndef MAL_STORE_FAULTS_H
#define MAL_STORE_FAULTS_H

#include <errno.h>
#include <malloc.h>

#include "store_fixture.h"

/* ---- SQLite's memory through mal_malloc, so that its allocations fail too ---- */

static bool through_tap = false;

static inline void *sqlite_malloc(int bytes) {
    return through_tap ? mal_malloc((size_t)bytes) : malloc((size_t)bytes);
}

static inline void *sqlite_realloc(void *mem, int bytes) {
    return through_tap ? mal_realloc(mem, (size_t)bytes) : realloc(mem, (size_t)bytes);
}

static inline int sqlite_size(void *mem) {
    return mem ? (int)malloc_usable_size(mem) : 0;
}

static inline int sqlite_roundup(int bytes) {
    return (bytes + 7) & ~7;
}

static inline int sqlite_init(void *arg) {
    return SQLITE_OK;
}

static inline void sqlite_shutdown(void *arg) {}

static inline void tap_sqlite(void) {
    static const sqlite3_mem_methods methods = {
        sqlite_malloc,  free,        sqlite_realloc,  sqlite_size,
        sqlite_roundup, sqlite_init, sqlite_shutdown, NULL};
    assert_int_equal(sqlite3_config(SQLITE_CONFIG_MALLOC, &methods), SQLITE_OK);
}

/* ---- The disk: the n-th write fails ---- */

static long writes_left;
static int write_errno;

static inline bool write_fails(void) {
    if (writes_left == 0 || --writes_left > 0) return false;
    writes_left = 1; /* and all later ones */
    errno = write_errno;
    return true;
}

static inline ssize_t failing_pwrite(int fd, const void *data, size_t bytes,
                                     off_t offset) {
    return write_fails() ? -1 : pwrite(fd, data, bytes, offset);
}

static inline ssize_t failing_write(int fd, const void *data, size_t bytes) {
    return write_fails() ? -1 : write(fd, data, bytes);
}

static inline void fail_writes(long n, int number) {
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    writes_left = n;
    write_errno = number;
    bool on = n > 0;
    const sqlite3_syscall_ptr to = (sqlite3_syscall_ptr)failing_pwrite;
    vfs->xSetSystemCall(vfs, "pwrite", on ? to : NULL);
    vfs->xSetSystemCall(vfs, "pwrite64", on ? to : NULL);
    vfs->xSetSystemCall(vfs, "write", on ? (sqlite3_syscall_ptr)failing_write : NULL);
}

#endif
