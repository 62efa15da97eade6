/* store_log.c - the write-ahead log, and copying it into the database (a checkpoint).
 *
 * A writer copies its log itself, after a commit that makes it long enough, until it is
 * told that another thread does: that one has a connection of its own, so that no
 * transaction waits for the disk. Chunks of a version only make the log grow until the
 * version is there, as each would be written twice before it is, and are on their way to
 * the disk from the beginning.
 *
 * In SQLite before 3.51.3 a checkpoint that starts when nothing is left to be copied may
 * spoil a log that a writer begins anew just then (the WAL-reset bug). A writer does that
 * only where nothing is left. So a checkpoint starts only while something is: what the
 * last commit has left and what was copied are compared while no transaction is under
 * way, and between then and its end nobody else copies. */
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE /* sync_file_range() */
#endif
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/alloc.h"
#include "sql/store_impl.h"

/* Of the log: when it is to be copied; of one that chunks go to, too, where its own
 * writer copies it: each checkpoint waits for the disk twice; and where it is copied
 * beside its writer, how much of the room that is left it may take. */
enum { COPY_PAGES = 1000, STAGING_PAGES = 16000, SHARE_OF_ROOM = 4 };

/* ---- Turns ---- */

void mal_log_init(struct mal_store_log *log) {
    *log = (struct mal_store_log){.fd = -1};
    pthread_mutex_init(&log->lock, NULL);
    pthread_cond_init(&log->changed, NULL);
}

void mal_log_finish(struct mal_store_log *log) {
    sqlite3_close(log->copier);
    if (log->fd >= 0) close(log->fd);
    pthread_cond_destroy(&log->changed);
    pthread_mutex_destroy(&log->lock);
}

static void take(struct mal_store_log *log, bool copies) {
    pthread_mutex_lock(&log->lock);
    if (copies) log->wanted = true;
    while (log->taken || (log->wanted && !copies))
        pthread_cond_wait(&log->changed, &log->lock);
    if (copies) log->wanted = false;
    log->taken = true;
    pthread_mutex_unlock(&log->lock);
}

static void give(struct mal_store_log *log) {
    pthread_mutex_lock(&log->lock);
    log->taken = false;
    pthread_cond_broadcast(&log->changed);
    pthread_mutex_unlock(&log->lock);
}

void mal_log_enter(struct mal_store *store) {
    if (store->log.copier) take(&store->log, false);
}

void mal_log_leave(struct mal_store *store) {
    if (store->log.copier) give(&store->log);
}

/* ---- Copying ---- */

static void note_broken(struct mal_store_log *log, const struct mal_error *err) {
    pthread_mutex_lock(&log->lock);
    if (log->broken.status == MAL_OK) log->broken = *err;
    pthread_mutex_unlock(&log->lock);
}

bool mal_store_sound(struct mal_store *store, struct mal_error *err) {
    struct mal_store_log *log = &store->log;
    pthread_mutex_lock(&log->lock);
    bool sound = log->broken.status == MAL_OK;
    if (!sound) *err = log->broken;
    pthread_mutex_unlock(&log->lock);
    return sound;
}

/* Pages that are not in the database yet. Where it is not 0 there are some; they may be
 * more, as a log that was begun anew with a long commit looks like one that goes on. */
static int left(const struct mal_store_log *log) {
    if (log->unsure) return 0;
    return log->pages >= log->copied ? log->pages - log->copied : log->pages;
}

/* What a checkpoint has done, in a turn. */
static void note_copied(struct mal_store_log *log, int rc, int copied) {
    log->unsure = rc != SQLITE_OK;
    if (rc == SQLITE_OK) log->copied = copied;
}

/* One that lacks room or memory, or waits for readers, is made later; another failure is
 * the disk's. */
static bool check_copied(struct mal_store *store, sqlite3 *db, int rc,
                         struct mal_error *err) {
    struct mal_store by = {.db = db, .path = store->path};
    if (rc == SQLITE_OK || mal_store_status(&by, rc) != MAL_IO) return true;
    mal_store_fail(&by, rc, err);
    note_broken(&store->log, err);
    return false;
}

/* Whether the log takes too much of the room on its disk. */
static bool too_long(const struct mal_store *store) {
    const struct mal_store_log *log = &store->log;
    struct statvfs disk;
    if (log->pages < STAGING_PAGES) return false;
    if (statvfs(store->path, &disk) != 0) return true;
    uint64_t room = (uint64_t)disk.f_bavail * disk.f_frsize;
    return (uint64_t)log->pages * (uint64_t)log->page_bytes > room / SHARE_OF_ROOM;
}

/* By the writer's own connection. */
static bool copy_once(struct mal_store *store, struct mal_error *err) {
    int copied = 0, rc = sqlite3_wal_checkpoint_v2(
                        store->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, &copied);
    note_copied(&store->log, rc, copied);
    return check_copied(store, store->db, rc, err);
}

/* As SQLite's own hook is called, in the turn of the transaction. */
static int after_commit(void *arg, sqlite3 *db, const char *name, int pages) {
    struct mal_store *store = arg;
    struct mal_store_log *log = &store->log;
    int at_least = store->staging ? STAGING_PAGES : COPY_PAGES;
    if (pages < log->pages) log->copied = 0; /* it was begun anew */
    log->pages = pages;
    log->unsure = false;
    if (log->copier) {
        if (log->growing && log->fd >= 0)
            (void)!sync_file_range(log->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
        if (left(log) >= COPY_PAGES && (!log->growing || too_long(store)))
            log->wake(log->arg);
    } else if (pages >= at_least) {
        struct mal_error err = {0};
        (void)!copy_once(store, &err); /* the commit itself stands */
    }
    return SQLITE_OK;
}

void mal_log_hook(struct mal_store *store) {
    sqlite3_wal_hook(store->db, after_commit, store);
}

/* What a checkpoint leaves to the next one where the log has grown meanwhile. */
static int sync_database(sqlite3 *db) {
    sqlite3_file *file = NULL;
    int rc = sqlite3_file_control(db, NULL, SQLITE_FCNTL_FILE_POINTER, &file);
    if (rc != SQLITE_OK) return rc;
    return file->pMethods->xSync(file, SQLITE_SYNC_NORMAL | SQLITE_SYNC_DATAONLY);
}

/* The last pages in a turn of their own, so that there is an end to it: the next write
 * begins the log anew. */
bool mal_store_copy_log(struct mal_store *store, struct mal_error *err) {
    struct mal_store_log *log = &store->log;
    bool go_on = true, ok = true;
    while (ok && go_on) {
        take(log, true);
        int n = left(log), pages = 0, copied = 0;
        bool last = n <= COPY_PAGES;
        if (n == 0) {
            give(log);
            break;
        }
        if (!last) give(log);
        int rc = sqlite3_wal_checkpoint_v2(log->copier, NULL, SQLITE_CHECKPOINT_PASSIVE,
                                           &pages, &copied);
        if (!last && rc == SQLITE_OK) rc = sync_database(log->copier);
        if (!last) take(log, true);
        note_copied(log, rc, copied);
        give(log);
        ok = check_copied(store, log->copier, rc, err);
        go_on = !last && rc == SQLITE_OK && copied == pages; /* else readers need it */
    }
    return ok;
}

/* Not by the copier's connection, which may have been interrupted for good. */
bool mal_store_copy_rest(struct mal_store *store, struct mal_error *err) {
    struct mal_error known = {0};
    int n = left(&store->log);
    return n == 0 || n > STAGING_PAGES || !mal_store_sound(store, &known) ||
           copy_once(store, err);
}

void mal_store_stop_copying(struct mal_store *store) {
    if (store->log.copier) sqlite3_interrupt(store->log.copier);
}

/* ---- Sharing ---- */

/* Reads once: a connection that has read nothing does not know that there is a log. */
static bool connect(struct mal_store *store, sqlite3 **out, struct mal_error *err) {
    struct mal_store copier = {.path = store->path};
    int64_t id;
    if (mal_store_connect(&copier, SQLITE_OPEN_READWRITE, err) &&
        mal_store_exec(&copier, "PRAGMA wal_autocheckpoint = 0; PRAGMA busy_timeout = 0",
                       err) &&
        mal_store_ask(&copier, "PRAGMA application_id", &id, err)) {
        *out = copier.db;
        return true;
    }
    sqlite3_close(copier.db);
    return false;
}

static int open_log(const struct mal_store *store) {
    char *name = mal_store_beside(store->path, "-wal");
    if (!name) return -1;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    mal_free(name);
    return fd;
}

bool mal_store_share_log(struct mal_store *store, void (*wake)(void *arg), void *arg,
                         struct mal_error *err) {
    struct mal_store_log *log = &store->log;
    sqlite3 *copier = NULL;
    if (!mal_store_ask(store, "PRAGMA page_size", &log->page_bytes, err) ||
        !connect(store, &copier, err))
        return false;
    log->wake = wake;
    log->arg = arg;
    log->fd = open_log(store); /* without: it goes to the disk when it is synced */
    log->copier = copier;
    return true;
}

void mal_store_between(struct mal_store *store,
                       bool (*between)(void *arg, struct mal_error *err), void *arg) {
    store->between = between;
    store->between_arg = arg;
}
