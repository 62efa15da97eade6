/* new_file.c - a file takes its place only when all of it is on disk. */
#include "core/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"

static bool fail_errno(const char *path, const char *doing, struct mal_error *err) {
    return mal_fail(err, mal_status_of_errno(errno), "%s: %s: %s", mal_file_shown(path),
                    doing, strerror(errno));
}

bool mal_new_file_check_place(const char *path, struct mal_error *err) {
    char *copy = mal_strdup(path);
    if (!copy) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
    struct stat info;
    const char *dir = dirname(copy);
    bool ok = stat(dir, &info) == 0;
    if (ok && !S_ISDIR(info.st_mode)) {
        errno = ENOTDIR;
        ok = false;
    }
    ok = ok && access(dir, W_OK | X_OK) == 0;
    if (!ok) fail_errno(path, "its directory", err);
    mal_free(copy);
    return ok;
}

/* ---- The temporary name ----
 *
 * Who writes one holds a lock on it, so that what a killed process has left can be told
 * from what is being written: by name, process id or age it cannot. */

enum { NAMES = 100 /* writers of one path at a time */, ROOM = sizeof ".tmp-99" };

/* Room for the names of a path, owned. */
static char *name_room(const char *path, struct mal_error *err) {
    char *name = mal_malloc(strlen(path) + ROOM);
    if (!name) mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
    return name;
}

static void name_it(char *name, const char *path, int i) {
    snprintf(name, strlen(path) + ROOM, "%s.tmp-%d", path, i);
}

/* Between opening a file and locking it, another may have removed or renamed it. */
static bool still_there(const char *name, int fd) {
    struct stat named, opened;
    return lstat(name, &named) == 0 && fstat(fd, &opened) == 0 &&
           named.st_dev == opened.st_dev && named.st_ino == opened.st_ino;
}

/* File systems without locks leave what is left where it is. */
static void sweep_name(const char *name) {
    struct stat info;
    if (lstat(name, &info) != 0 || !S_ISREG(info.st_mode)) return;
    int fd = open(name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && still_there(name, fd)) unlink(name);
    close(fd);
}

static void sweep(const char *path, char *name) {
    for (int i = 0; i < NAMES; i++) {
        name_it(name, path, i);
        sweep_name(name);
    }
}

/* -1: errno is EEXIST where somebody else has the name. */
static int create(const char *name, int access) {
    int fd = open(name, access | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return -1;
    bool swept = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (!swept && still_there(name, fd)) return fd;
    close(fd);
    errno = EEXIST;
    return -1;
}

static bool open_beside(struct mal_new_file *out, const char *path, int access,
                        struct mal_error *err) {
    char *name = name_room(path, err);
    *out = (struct mal_new_file){.fd = -1};
    if (!name) return false;
    sweep(path, name);
    int fd = -1;
    for (int i = 0; i < NAMES; i++) {
        name_it(name, path, i);
        fd = create(name, access);
        if (fd >= 0 || errno != EEXIST) break;
    }
    if (fd < 0) {
        fail_errno(name, "creating it", err);
        mal_free(name);
        return false;
    }
    *out = (struct mal_new_file){.path = path, .name = name, .fd = fd};
    return true;
}

/* ---- Writing ---- */

bool mal_new_file_open(struct mal_new_file *out, const char *path,
                       struct mal_error *err) {
    return open_beside(out, path, O_WRONLY, err);
}

bool mal_new_file_unnamed(struct mal_new_file *out, const char *path,
                          struct mal_error *err) {
    if (!open_beside(out, path, O_RDWR, err)) return false;
    unlink(out->name);
    mal_free(out->name);
    out->name = NULL;
    return true;
}

bool mal_new_file_write(struct mal_new_file *file, const void *data, size_t bytes,
                        struct mal_error *err) {
    const char *p = data;
    while (bytes > 0) {
        ssize_t n = write(file->fd, p, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno(file->path, "writing", err);
        p += n;
        bytes -= (size_t)n;
    }
    return true;
}

/* Without it the new name may be gone after a power failure. */
bool mal_sync_directory(const char *path, struct mal_error *err) {
    char *copy = mal_strdup(path);
    if (!copy) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    mal_free(copy);
    if (fd < 0) return fail_errno(path, "syncing its directory", err);
    bool ok =
        fsync(fd) == 0 || errno == EINVAL; /* EINVAL: no such thing on this file system */
    if (!ok) fail_errno(path, "syncing its directory", err);
    close(fd);
    return ok;
}

bool mal_new_file_commit(struct mal_new_file *file, struct mal_error *err) {
    bool ok = fsync(file->fd) == 0 || fail_errno(file->path, "writing", err);
    if (ok && rename(file->name, file->path) != 0)
        ok = fail_errno(file->path, "renaming into place", err);
    if (!ok) {
        mal_new_file_abandon(file);
        return false;
    }
    close(file->fd); /* not before: the lock goes with it */
    mal_free(file->name);
    file->name = NULL;
    return mal_sync_directory(file->path, err);
}

void mal_new_file_abandon(struct mal_new_file *file) {
    if (!file->name) return;
    unlink(file->name);
    close(file->fd);
    mal_free(file->name);
    file->name = NULL;
}

bool mal_new_file_sweep(const char *path, struct mal_error *err) {
    char *name = name_room(path, err);
    if (!name) return false;
    sweep(path, name);
    mal_free(name);
    return true;
}

bool mal_new_file_remove(const char *path, struct mal_error *err) {
    if (!mal_new_file_sweep(path, err)) return false;
    return unlink(path) == 0 || errno == ENOENT || fail_errno(path, "removing", err);
}
