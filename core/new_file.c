/* new_file.c - a file takes its place only when all of it is on disk. */
#include "core/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"

static bool fail_errno(const char *path, const char *doing, struct mal_error *err) {
    bool full = errno == ENOSPC || errno == EDQUOT;
    return mal_fail(err, full ? MAL_NO_SPACE : MAL_IO, "%s: %s: %s", mal_file_shown(path),
                    doing, strerror(errno));
}

bool mal_new_file_check_place(const char *path, struct mal_error *err) {
    char *copy = mal_strdup(path);
    if (!copy) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
    bool ok = access(dirname(copy), W_OK | X_OK) == 0;
    if (!ok) fail_errno(path, "its directory", err);
    mal_free(copy);
    return ok;
}

static bool open_beside(struct mal_new_file *out, const char *path, int access,
                        struct mal_error *err) {
    size_t room = strlen(path) + 48;
    char *name = mal_malloc(room);
    *out = (struct mal_new_file){.fd = -1};
    if (!name) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
    int fd = -1;
    for (int i = 0; i < 100; i++) { /* what a killed process of the same id has left */
        snprintf(name, room, "%s.tmp-%ld-%d", path, (long)getpid(), i);
        fd = open(name, access | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
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
    if (close(file->fd) != 0 && ok) ok = fail_errno(file->path, "closing", err);
    if (ok && rename(file->name, file->path) != 0)
        ok = fail_errno(file->path, "renaming into place", err);
    if (!ok) unlink(file->name);
    mal_free(file->name);
    file->name = NULL;
    return ok && mal_sync_directory(file->path, err);
}

void mal_new_file_abandon(struct mal_new_file *file) {
    if (!file->name) return;
    close(file->fd);
    unlink(file->name);
    mal_free(file->name);
    file->name = NULL;
}
