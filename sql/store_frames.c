/* store_frames.c - SQLite's files, but that frames of a log are written many at a time.
 *
 * SQLite writes a log frame by frame, each a header of 24 bytes and a page. As no page of
 * the file is filled by one such write the system clears and fills it piece by piece,
 * which takes longer than all the rest. Here frames are gathered up to the one that ends
 * its transaction: a header says so by the size of the database after it, which in all
 * others is 0 (sqlite.org/fileformat2.html, section 4.1). Until then nobody needs them,
 * and a process that ends before it leaves what one that had written them would: a
 * transaction without an end. Whatever is not such a frame in its place is written as it
 * comes, with what was gathered before it; and so are all where memory is out. */
#include <pthread.h>
#include <string.h>

#include "sql/store_impl.h"

/* SQLite's own file takes no write longer than that. */
enum { GATHERED = (1 << 17) - 1 };

enum { FRAME_HEADER = 24, SIZE_AT = 4, SIZE_BYTES = 4 };

/* A log; the system's own file lies behind it. */
struct frames {
    sqlite3_file base;
    char *gathered; /* (GATHERED), owned; NULL: none yet */
    int n;
    sqlite3_int64 at; /* where they belong in the file, and the next one behind them */
    bool in_frame;    /* the last write was a header of one that does not end */
};

static sqlite3_vfs *system_vfs, own_vfs;

static sqlite3_file *inner(sqlite3_file *file) {
    return (sqlite3_file *)(void *)((struct frames *)file + 1);
}

/* ---- Writing ---- */

static int flush(struct frames *log) {
    sqlite3_file *file = inner(&log->base);
    sqlite3_int64 at = log->at;
    int n = log->n;
    log->at += n;
    log->n = 0; /* after a failure its transaction is rolled back */
    return n ? file->pMethods->xWrite(file, log->gathered, n, at) : SQLITE_OK;
}

static bool ends(const char *header) {
    static const char zero[SIZE_BYTES];
    return memcmp(header + SIZE_AT, zero, SIZE_BYTES) != 0;
}

static int write_frame(sqlite3_file *file, const void *data, int n, sqlite3_int64 at) {
    struct frames *log = (struct frames *)file;
    sqlite3_file *to = inner(file);
    bool follows = at == log->at + log->n;
    bool page = follows && log->in_frame && n != FRAME_HEADER;
    bool header = n == FRAME_HEADER && !ends(data);
    log->in_frame = header;
    if (!follows || n > GATHERED - log->n) {
        int rc = flush(log);
        if (rc != SQLITE_OK) return rc;
        log->at = at;
    }
    if (!log->gathered) log->gathered = sqlite3_malloc(GATHERED);
    if (!log->gathered || n > GATHERED) {
        log->at = at + n;
        return to->pMethods->xWrite(to, data, n, at);
    }
    memcpy(log->gathered + log->n, data, (size_t)n);
    log->n += n;
    return header || page ? SQLITE_OK : flush(log);
}

/* ---- All the rest, after what was gathered ---- */

static int close_file(sqlite3_file *file) {
    struct frames *log = (struct frames *)file;
    int rc = flush(log), closed = inner(file)->pMethods->xClose(inner(file));
    sqlite3_free(log->gathered);
    log->gathered = NULL;
    return rc == SQLITE_OK ? closed : rc;
}

static int read_file(sqlite3_file *file, void *data, int n, sqlite3_int64 at) {
    int rc = flush((struct frames *)file);
    return rc == SQLITE_OK ? inner(file)->pMethods->xRead(inner(file), data, n, at) : rc;
}

static int truncate_file(sqlite3_file *file, sqlite3_int64 size) {
    int rc = flush((struct frames *)file);
    return rc == SQLITE_OK ? inner(file)->pMethods->xTruncate(inner(file), size) : rc;
}

static int sync_file(sqlite3_file *file, int flags) {
    int rc = flush((struct frames *)file);
    return rc == SQLITE_OK ? inner(file)->pMethods->xSync(inner(file), flags) : rc;
}

static int file_size(sqlite3_file *file, sqlite3_int64 *size) {
    int rc = flush((struct frames *)file);
    return rc == SQLITE_OK ? inner(file)->pMethods->xFileSize(inner(file), size) : rc;
}

static int lock_file(sqlite3_file *file, int level) {
    return inner(file)->pMethods->xLock(inner(file), level);
}

static int unlock_file(sqlite3_file *file, int level) {
    return inner(file)->pMethods->xUnlock(inner(file), level);
}

static int is_reserved(sqlite3_file *file, int *out) {
    return inner(file)->pMethods->xCheckReservedLock(inner(file), out);
}

static int control_file(sqlite3_file *file, int what, void *arg) {
    int rc = flush((struct frames *)file);
    return rc == SQLITE_OK ? inner(file)->pMethods->xFileControl(inner(file), what, arg)
                           : rc;
}

static int sector_size(sqlite3_file *file) {
    return inner(file)->pMethods->xSectorSize(inner(file));
}

static int characteristics(sqlite3_file *file) {
    return inner(file)->pMethods->xDeviceCharacteristics(inner(file));
}

static const sqlite3_io_methods methods = {
    .iVersion = 1, /* what is shared between connections is the database's */
    .xClose = close_file,
    .xRead = read_file,
    .xWrite = write_frame,
    .xTruncate = truncate_file,
    .xSync = sync_file,
    .xFileSize = file_size,
    .xLock = lock_file,
    .xUnlock = unlock_file,
    .xCheckReservedLock = is_reserved,
    .xFileControl = control_file,
    .xSectorSize = sector_size,
    .xDeviceCharacteristics = characteristics,
};

/* ---- Opening ---- */

static int open_file(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                     int *out_flags) {
    if (!(flags & SQLITE_OPEN_WAL))
        return system_vfs->xOpen(system_vfs, name, file, flags, out_flags);
    struct frames *log = (struct frames *)file;
    *log = (struct frames){0};
    int rc = system_vfs->xOpen(system_vfs, name, inner(file), flags, out_flags);
    if (inner(file)->pMethods) log->base.pMethods = &methods;
    return rc;
}

static void make_vfs(void) {
    system_vfs = sqlite3_vfs_find(NULL);
    if (!system_vfs) return;
    own_vfs = *system_vfs;
    own_vfs.zName = "malmend";
    own_vfs.pNext = NULL;
    own_vfs.szOsFile += (int)sizeof(struct frames);
    own_vfs.xOpen = open_file;
    if (sqlite3_vfs_register(&own_vfs, 0) != SQLITE_OK) system_vfs = NULL;
}

const char *mal_store_vfs(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_vfs);
    return system_vfs ? own_vfs.zName : NULL;
}
