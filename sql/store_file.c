/* store_file.c - the database as a file: its one writer's lock, its creation, and
 * refusing what is not ours.
 *
 * The database file itself is opened by SQLite only: closing any other descriptor of it
 * would drop the POSIX locks of every connection in the process. */
#include "sql/store_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"

static char *concat(const char *a, const char *b, const char *c) {
    size_t bytes = strlen(a) + strlen(b) + strlen(c) + 1;
    char *text = mal_malloc(bytes);
    if (text) snprintf(text, bytes, "%s%s%s", a, b, c);
    return text;
}

char *mal_store_beside(const char *path, const char *suffix) {
    return concat(path, suffix, "");
}

/* ---- Path and lock ---- */

bool mal_store_resolve(struct mal_store *store, const char *path, struct mal_error *err) {
    char buffer[PATH_MAX];
    if (path[0] == '\0') return mal_fail(err, MAL_INVALID, "database: the path is empty");
    if (realpath(path, buffer)) {
        store->path = mal_strdup(buffer);
        return store->path || mal_fail(err, MAL_NO_MEMORY, "database '%s'", path);
    }
    if (errno != ENOENT) return mal_store_fail_errno(path, errno, err);
    if (path[strlen(path) - 1] == '/') {
        return mal_fail(err, MAL_INVALID,
                        "database '%s': the name of a directory, not of a file", path);
    }

    char *for_dir = mal_strdup(path), *for_base = mal_strdup(path);
    if (!for_dir || !for_base) {
        mal_fail(err, MAL_NO_MEMORY, "database '%s'", path);
    } else if (!realpath(dirname(for_dir), buffer)) {
        mal_store_fail_errno(for_dir, errno, err);
        (void)mal_fail_wrap(err, "database '%s'", path);
    } else {
        const char *slash = strcmp(buffer, "/") == 0 ? "" : "/";
        store->path = concat(buffer, slash, basename(for_base));
        if (!store->path) mal_fail(err, MAL_NO_MEMORY, "database '%s'", path);
    }
    mal_free(for_dir);
    mal_free(for_base);
    return store->path != NULL;
}

bool mal_store_check_file(const struct mal_store *store, const struct stat *info,
                          struct mal_error *err) {
    return S_ISREG(info->st_mode) ||
           mal_fail(err, MAL_CORRUPT, "database '%s' is not a regular file", store->path);
}

/* SQLite's log and the lock lie beside a name, not the file: by another name of it (a
 * hard link) both would be missed, and what the log holds overwritten. The name that it
 * was served by has a lock. Of readers it is not asked: copies that nobody writes may
 * have many names. */
bool mal_store_check_name(const struct mal_store *store, struct mal_error *err) {
    struct stat info, lock_info;
    if (stat(store->path, &info) != 0) return true;
    if (!mal_store_check_file(store, &info, err)) return false;
    if (info.st_nlink < 2) return true;
    char *lock = mal_store_beside(store->path, ".lock");
    if (!lock) return mal_fail(err, MAL_NO_MEMORY, "database '%s'", store->path);
    bool served = stat(lock, &lock_info) == 0 && lock_info.st_size > 0;
    mal_free(lock);
    return served || mal_fail(err, MAL_CONFLICT,
                              "database '%s' is one of %ju hard links to its file, and "
                              "not the one that it was served by: use that, or a copy "
                              "that 'malmend backup' made",
                              store->path, (uintmax_t)info.st_nlink);
}

static bool take_lock(struct mal_store *store, const char *lock, bool *out_used,
                      struct mal_error *err) {
    store->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (store->lock_fd < 0) return mal_store_fail_errno(lock, errno, err);

    char pid[32] = "";
    bool held = flock(store->lock_fd, LOCK_EX | LOCK_NB) != 0;
    if (held && errno != EWOULDBLOCK) return mal_store_fail_errno(lock, errno, err);
    ssize_t n = pread(store->lock_fd, pid, sizeof pid - 1, 0);
    if (held) {
        long holder = n > 0 ? strtol(pid, NULL, 10) : 0;
        return holder > 0
                   ? mal_fail(err, MAL_CONFLICT, "database '%s' is in use by process %ld",
                              store->path, holder)
                   : mal_fail(err, MAL_CONFLICT,
                              "database '%s' is in use by another process", store->path);
    }
    *out_used = n > 0;
    int length = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    if (ftruncate(store->lock_fd, 0) != 0 ||
        pwrite(store->lock_fd, pid, (size_t)length, 0) != length) {
        return mal_store_fail_errno(lock, errno, err);
    }
    return true;
}

bool mal_store_lock(struct mal_store *store, bool *out_used, struct mal_error *err) {
    char *lock = mal_store_beside(store->path, ".lock");
    if (!lock) return mal_fail(err, MAL_NO_MEMORY, "database '%s'", store->path);
    bool done = take_lock(store, lock, out_used, err);
    mal_free(lock);
    return done;
}

/* ---- Creation ---- */

bool mal_store_missing(const struct mal_store *store, bool used, bool *out_missing,
                       struct mal_error *err) {
    struct stat info, wal_info;
    bool absent = stat(store->path, &info) != 0;
    if (absent && errno != ENOENT) return mal_store_fail_errno(store->path, errno, err);
    if (!absent && !mal_store_check_file(store, &info, err)) return false;
    *out_missing = absent || info.st_size == 0;
    if (!*out_missing) return true;
    if (!absent && used) {
        return mal_fail(err, MAL_CORRUPT, "database '%s' was in use and is now empty",
                        store->path);
    }

    /* SQLite would delete it, and with it what may be the only copy of the last versions.
     */
    char *wal = mal_store_beside(store->path, "-wal");
    if (!wal) return mal_fail(err, MAL_NO_MEMORY, "database '%s'", store->path);
    bool orphan = stat(wal, &wal_info) == 0 && wal_info.st_size > 0;
    if (orphan) mal_fail(err, MAL_CORRUPT, "'%s' is there without its database", wal);
    mal_free(wal);
    return !orphan;
}

/* Makes a rename of `path` durable. */
static bool sync_directory(const char *path, struct mal_error *err) {
    char *copy = mal_strdup(path);
    if (!copy) return mal_fail(err, MAL_NO_MEMORY, "database '%s'", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool done = fd >= 0 && fsync(fd) == 0;
    if (!done) mal_store_fail_errno(copy, errno, err);
    if (fd >= 0) close(fd);
    mal_free(copy);
    return done;
}

static bool remove_files(const char *path, bool itself, struct mal_error *err) {
    static const char *const suffixes[] = {"", "-journal", "-wal", "-shm"};
    for (size_t i = !itself; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        char *name = mal_store_beside(path, suffixes[i]);
        if (!name) return mal_fail(err, MAL_NO_MEMORY, "database '%s'", path);
        bool gone = unlink(name) == 0 || errno == ENOENT;
        if (!gone) mal_store_fail_errno(name, errno, err);
        mal_free(name);
        if (!gone) return false;
    }
    return true;
}

bool mal_store_remove(const char *path, struct mal_error *err) {
    return remove_files(path, true, err);
}

bool mal_store_remove_logs(const char *path, struct mal_error *err) {
    return remove_files(path, false, err);
}

/* With a rollback journal until the end, so that all of it is in the one file that is
 * renamed. */
static bool fill(struct mal_store *fresh, struct mal_error *err) {
    char mark[64];
    snprintf(mark, sizeof mark, "PRAGMA application_id = %d", MAL_STORE_APPLICATION_ID);
    if (!mal_store_connect(fresh, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, err)) {
        return false;
    }
    return mal_store_exec(fresh, "PRAGMA synchronous = FULL", err) &&
           mal_store_exec(fresh, mark, err) && mal_store_migrate(fresh, err) &&
           mal_store_exec(fresh, "PRAGMA journal_mode = WAL", err);
}

bool mal_store_create(const struct mal_store *store, struct mal_error *err) {
    struct mal_store fresh = {.lock_fd = -1,
                              .path = mal_store_beside(store->path, ".new")};
    if (!fresh.path) return mal_fail(err, MAL_NO_MEMORY, "database '%s'", store->path);
    bool done = mal_store_remove(fresh.path, err) && fill(&fresh, err);
    int rc = sqlite3_close(fresh.db);
    if (done && rc != SQLITE_OK) done = mal_store_fail(&fresh, rc, err);
    if (done && rename(fresh.path, store->path) != 0) {
        done = mal_store_fail_errno(fresh.path, errno, err);
    }
    if (done) {
        done = sync_directory(store->path, err);
    } else {
        struct mal_error ignored = {0};
        (void)!mal_store_remove(fresh.path, &ignored);
    }
    mal_free(fresh.path);
    return done;
}

/* ---- Whose files ---- */

static bool stat_file(const struct mal_store *store, size_t i, char name[PATH_MAX],
                      struct stat *out) {
    static const char *const suffixes[MAL_STORE_FILES] = {"", "-wal", "-shm"};
    int n = snprintf(name, PATH_MAX, "%s%s", store->path, suffixes[i]);
    return n < PATH_MAX && stat(name, out) == 0;
}

bool mal_store_note_files(struct mal_store *store, struct mal_error *err) {
    char name[PATH_MAX];
    struct stat info;
    for (size_t i = 0; i < MAL_STORE_FILES; i++) {
        if (!stat_file(store, i, name, &info))
            return mal_store_fail_errno(name, errno, err);
        store->files[i] =
            (struct mal_store_file){.device = info.st_dev, .node = info.st_ino};
    }
    return true;
}

bool mal_store_check_files(const struct mal_store *store, struct mal_error *err) {
    char name[PATH_MAX];
    struct stat info;
    for (size_t i = 0; i < MAL_STORE_FILES; i++) {
        const struct mal_store_file *file = &store->files[i];
        if (!stat_file(store, i, name, &info))
            return mal_fail(err, MAL_IO, "'%s' is gone while in use", name);
        if (info.st_dev != file->device || info.st_ino != file->node)
            return mal_fail(err, MAL_IO, "'%s' was replaced while in use", name);
    }
    return true;
}

/* ---- Opening ---- */

bool mal_store_connect(struct mal_store *store, int flags, struct mal_error *err) {
    const char *vfs = flags & SQLITE_OPEN_READWRITE ? mal_store_vfs() : NULL;
    int rc = sqlite3_open_v2(store->path, &store->db,
                             flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, vfs);
    if (rc == SQLITE_OK) rc = sqlite3_busy_timeout(store->db, 5000);
    if (rc == SQLITE_OK) {
        rc = sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1,
                               (int *)NULL);
    }
    return rc == SQLITE_OK || mal_store_fail(store, rc, err);
}

bool mal_store_inspect(struct mal_store *store, int64_t *out_schema,
                       struct mal_error *err) {
    int64_t id, schema;
    if (!mal_store_ask(store, "PRAGMA application_id", &id, err) ||
        !mal_store_ask(store, "PRAGMA user_version", &schema, err)) {
        return false;
    }
    if (id != MAL_STORE_APPLICATION_ID) {
        return mal_fail(err, MAL_CORRUPT,
                        "database '%s' was not made by malmend (application id %" PRId64
                        ")",
                        store->path, id);
    }
    if (schema < 0 || schema > mal_store_newest_schema()) {
        return mal_fail(err, MAL_CORRUPT,
                        "database '%s' has schema %" PRId64
                        ", this program knows schemas up to %" PRId64,
                        store->path, schema, mal_store_newest_schema());
    }
    *out_schema = schema;
    return true;
}
