/* store_backup.c - a copy of a database that may be in use.
 *
 * One read transaction is held from the first page to the last: the copy is what was
 * committed when it began, and a busy writer never makes it start again. Meanwhile the
 * writer's log grows, as what the copy still reads is not checkpointed. */
#include "sql/store_impl.h"

#include <errno.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/new_file.h"

struct backup {
    struct mal_store source, copy;
    struct mal_new_file file; /* the copy's */
    const char *out;
    bool (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
};

static bool check_absent(const char *out, struct mal_error *err) {
    struct stat info;
    if (lstat(out, &info) == 0) {
        return mal_fail(err, MAL_CONFLICT, "'%s' is there already", out);
    }
    return errno == ENOENT || mal_store_fail_errno(out, errno, err);
}

static bool open_source(struct mal_store *source, const char *db, struct mal_error *err) {
    struct stat info;
    int64_t schema;
    if (!mal_store_resolve(source, db, err)) return false;
    if (stat(source->path, &info) != 0) {
        return mal_store_fail_errno(source->path, errno, err);
    }
    if (!mal_store_check_file(source, &info, err)) return false;
    /* Looking at it begins the read transaction. An older schema is fine: a backup is
     * what one makes before it is migrated. */
    return mal_store_connect(source, SQLITE_OPEN_READONLY, err) &&
           mal_store_exec(source, "BEGIN", err) &&
           mal_store_inspect(source, &schema, err);
}

/* Without journal and syncs: what fails is removed, what is done is synced as a whole.
 * For its owner alone, as the source may be. */
static bool open_copy(struct backup *b, struct mal_error *err) {
    if (!mal_new_file_open(&b->file, b->out, err)) return false;
    b->copy.path = b->file.name;
    if (fchmod(b->file.fd, 0600) != 0)
        return mal_store_fail_errno(b->copy.path, errno, err);
    return mal_store_connect(&b->copy, SQLITE_OPEN_READWRITE, err) &&
           mal_store_exec(&b->copy, "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF",
                          err);
}

static bool tell(const struct backup *b, sqlite3_backup *pages, int64_t page_bytes,
                 struct mal_error *err) {
    int64_t total = sqlite3_backup_pagecount(pages);
    int64_t done = total - sqlite3_backup_remaining(pages);
    if (!b->progress || b->progress(b->arg, (uint64_t)(done * page_bytes),
                                    (uint64_t)(total * page_bytes))) {
        return true;
    }
    return mal_fail(err, MAL_CANCELLED, "given up");
}

static bool copy_pages(struct backup *b, struct mal_error *err) {
    int64_t page_bytes;
    if (!mal_store_ask(&b->source, "PRAGMA page_size", &page_bytes, err)) return false;
    sqlite3_backup *pages = sqlite3_backup_init(b->copy.db, "main", b->source.db, "main");
    if (!pages) return mal_store_fail(&b->copy, sqlite3_errcode(b->copy.db), err);
    int per_step = (int)(MAL_STORE_CHUNK_BYTES / page_bytes), rc = SQLITE_OK;
    bool go_on = true;
    while (rc == SQLITE_OK && go_on) {
        rc = sqlite3_backup_step(pages, per_step);
        if (rc == SQLITE_OK || rc == SQLITE_DONE) go_on = tell(b, pages, page_bytes, err);
    }
    int finished =
        sqlite3_backup_finish(pages); /* the copy's handle now holds the error */
    if (!go_on) return false;
    return finished == SQLITE_OK || mal_store_fail(&b->copy, finished, err);
}

/* Out of the mode of the write-ahead log, so that the copy is one file. */
static bool check_copy(struct mal_store *copy, struct mal_error *err) {
    bool done = mal_store_exec(copy, "PRAGMA journal_mode = DELETE", err) &&
                mal_store_prepare(copy, MAL_SQL_INTEGRITY, MAL_SQL_FOREIGN_KEYS, err) &&
                mal_store_check(copy, err);
    mal_store_disconnect(copy);
    return done;
}

static bool run(struct backup *b, const char *db, struct mal_error *err) {
    return check_absent(b->out, err) && open_source(&b->source, db, err) &&
           open_copy(b, err) && copy_pages(b, err) && check_copy(&b->copy, err) &&
           check_absent(b->out, err) && mal_new_file_commit(&b->file, err);
}

bool mal_store_backup(const char *db, const char *out,
                      bool (*progress)(void *arg, uint64_t done, uint64_t total),
                      void *arg, struct mal_error *err) {
    struct backup b = {.source = {.lock_fd = -1, .reader = true},
                       .copy = {.lock_fd = -1},
                       .out = out,
                       .progress = progress,
                       .arg = arg};
    bool done = run(&b, db, err);
    mal_store_disconnect(&b.copy);
    mal_store_disconnect(&b.source);
    if (b.file.name) {
        struct mal_error ignored = {0};
        (void)!mal_store_remove_logs(b.file.name, &ignored);
    }
    mal_new_file_abandon(&b.file);
    mal_free(b.source.path);
    return done || mal_fail_wrap(err, "backup of '%s'", db);
}
