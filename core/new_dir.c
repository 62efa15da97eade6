/* new_dir.c - a directory takes its place only when all of it is on disk. */
#include "core/new_dir.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/new_file.h"

static bool fail_errno(struct mal_error *err, const char *path) {
    return mal_fail(err, mal_status_of_errno(errno), "%s: %s", mal_file_shown(path),
                    strerror(errno));
}

bool mal_new_dir_check(const char *path, struct mal_error *err) {
    DIR *dir = opendir(path);
    if (!dir && errno == ENOENT) return mal_new_file_check_place(path, err);
    if (!dir) return fail_errno(err, path);
    bool empty = true;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            empty = false;
    }
    closedir(dir);
    return empty || mal_fail(err, MAL_CONFLICT, "%s: there is something in it already",
                             mal_file_shown(path));
}

/* Files, no folders. */
static void remove_dir(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
    (void)rmdir(path);
}

bool mal_new_dir_open(struct mal_new_dir *out, const char *path, struct mal_error *err) {
    static const char suffix[] = ".partial";
    size_t n = strlen(path);
    *out = (struct mal_new_dir){0};
    if (!mal_new_dir_check(path, err)) return false;
    while (n > 1 && path[n - 1] == '/')
        n--;
    char *partial = mal_malloc(n + sizeof suffix);
    if (!partial) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
    memcpy(partial, path, n);
    memcpy(partial + n, suffix, sizeof suffix);
    remove_dir(partial);
    if (mkdir(partial, 0755) != 0) {
        fail_errno(err, partial);
        mal_free(partial);
        return false;
    }
    *out = (struct mal_new_dir){.path = path, .partial = partial};
    return true;
}

bool mal_new_dir_commit(struct mal_new_dir *dir, struct mal_error *err) {
    char *inside = mal_file_join(dir->partial, "."); /* its own entries */
    bool ok = (inside || mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(dir->path))) &&
              mal_sync_directory(inside, err);
    mal_free(inside);
    if (ok && rename(dir->partial, dir->path) != 0) /* an empty one is replaced */
        ok = fail_errno(err, dir->path);
    if (!ok) {
        mal_new_dir_abandon(dir);
        return false;
    }
    mal_free(dir->partial);
    dir->partial = NULL;
    return mal_sync_directory(dir->path, err);
}

void mal_new_dir_abandon(struct mal_new_dir *dir) {
    if (!dir->partial) return;
    remove_dir(dir->partial);
    mal_free(dir->partial);
    dir->partial = NULL;
}
