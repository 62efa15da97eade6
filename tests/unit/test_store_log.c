/* test_store_log.c - the log is copied into the database beside its writer: when, by
 * whom, and never so that SQLite's WAL-reset bug could meet it. */
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE /* RTLD_NEXT */
#endif
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "store_copier.h"
#include "store_faults.h"

enum { BLOB_BYTES = 6 << 20 };

static char data[80 << 20], hash[65];

static bool stage(struct mal_store *store, int64_t version, size_t bytes,
                  struct mal_error *err) {
    struct mal_blob blob = {"delta/x", "{}", data, bytes, hash};
    return mal_store_stage_blob(store, version, &blob, err);
}

static void add(struct mal_store *store, const char *id) {
    assert_done(add_job(store, id, 1, (const char *[]){"p"}, &err));
}

/* ---- What a checkpoint of the other connection finds ---- */

static struct {
    const char *path; /* NULL: not looked at */
    int n, n_empty;   /* calls, and those that found nothing left to copy */
    int n_commits;
    int n_anew, pages; /* how often the log was begun anew; its length before */
    _Atomic bool slow; /* the copier looks, too */
    int bad_sync;      /* with which the next sync fails; 0: it does not */
} seen;

static _Atomic int sync_errno;

int fdatasync(int fd) {
    if (!sync_errno) return (int)syscall(SYS_fdatasync, fd);
    errno = sync_errno;
    return -1;
}

/* The log's index begins with its length in frames, at 16, and how many are copied is at
 * 96 (SQLite's file format, "WAL-Index File Format"). */
static void look_at_index(void) {
    char name[128];
    uint32_t index[32];
    snprintf(name, sizeof name, "%s-shm", seen.path);
    int fd = open(name, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, index, sizeof index, 0), sizeof index);
    close(fd);
    seen.n++;
    seen.n_empty += index[4] == index[24];
}

int sqlite3_wal_checkpoint_v2(sqlite3 *db, const char *name, int mode, int *pages,
                              int *copied) {
    int (*real)(sqlite3 *, const char *, int, int *, int *);
    void *symbol = dlsym(RTLD_NEXT, "sqlite3_wal_checkpoint_v2");
    memcpy(&real, &symbol, sizeof real);
    if (seen.path) look_at_index();
    if (seen.slow) usleep(2000); /* for the writer to come in between */
    int rc = real(db, name, mode, pages, copied);
    if (seen.slow) usleep(8000);
    sync_errno = seen.bad_sync;
    return rc;
}

/* What the store does after a commit, later than it might: the commit is there. */
static int (*real_hook)(void *, sqlite3 *, const char *, int);

static int slow_hook(void *arg, sqlite3 *db, const char *name, int pages) {
    if (seen.slow) usleep(++seen.n_commits % 8 ? 500 : 30000);
    int rc = real_hook(arg, db, name, pages);
    seen.n_anew += pages < seen.pages;
    seen.pages = pages;
    return rc;
}

void *sqlite3_wal_hook(sqlite3 *db, int (*hook)(void *, sqlite3 *, const char *, int),
                       void *arg) {
    void *(*real)(sqlite3 *, int (*)(void *, sqlite3 *, const char *, int), void *);
    void *symbol = dlsym(RTLD_NEXT, "sqlite3_wal_hook");
    memcpy(&real, &symbol, sizeof real);
    if ((uintptr_t)arg <= 1000)
        return real(db, hook, arg); /* SQLite's own, with a limit */
    real_hook = hook;
    return real(db, slow_hook, arg);
}

static uint64_t room = UINT64_MAX;

int statvfs(const char *path, struct statvfs *out) {
    *out = (struct statvfs){.f_frsize = 1, .f_bavail = room};
    return 0;
}

static off_t file_bytes(const char *path) {
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_size;
}

/* ---- Beside a writer ---- */

static void nothing_is_lost(void **state) {
    struct mal_store *store = taught(state);
    struct copier copier;
    int64_t version = 1;
    char id[32];
    assert_done(copier_start(&copier, store, &err));
    seen.path = path_of(state);
    seen.slow = true;
    for (int i = 0; i < 600; i++) {
        snprintf(id, sizeof id, "job_%d", i);
        add(store, id);
        if (i % 20) continue;
        assert_done(stage(store, ++version, BLOB_BYTES, &err));
        assert_done(publish(store, version, -1, id, &err));
    }
    assert_true(seen.n_anew > 0);
    copier_stop(&copier);
    assert_int_equal(copier.err.status, MAL_OK);
    assert_true(seen.n > 10);
    assert_int_equal(seen.n_empty, 0);
    assert_done(mal_store_copy_log(store, &err));
    seen.path = NULL;
    seen.slow = false;

    /* All of it is copied, so the next write begins the log anew. */
    add(store, "last");
    assert_true(store->log.pages < 100);
    mal_store_close(store);
    store = open_store(path_of(state));
    assert_done(mal_store_check(store, &err));
    for (int64_t v = 2; v <= version; v++) {
        uint64_t bytes;
        assert_done(mal_store_bytes(store, v, &bytes, &err));
        assert_int_equal(bytes, BLOB_BYTES);
    }
    for (int i = 0; i < 600; i++) {
        struct mal_job_row row;
        snprintf(id, sizeof id, "job_%d", i);
        assert_done(mal_store_get_job(store, id, &row, &err));
        mal_job_row_finish(&row);
    }
    mal_store_close(store);
}

/* What is left when most of it is copied does not grow for ever while others write. */
static void copying_comes_to_an_end(void **state) {
    struct mal_store *store = taught(state);
    struct copier copier;
    char id[32];
    assert_done(copier_start(&copier, store, &err));
    assert_done(stage(store, 2, 2 * BLOB_BYTES, &err));
    assert_done(publish(store, 2, -1, NULL, &err));
    seen.slow = true;
    seen.n_anew = 0;
    for (int i = 0; i < 400 && seen.n_anew == 0; i++) {
        snprintf(id, sizeof id, "job_%d", i);
        seen.n_commits = 0;
        add(store, id);
    }
    seen.slow = false;
    assert_int_equal(seen.n_anew, 1);
    copier_stop(&copier);
    mal_store_close(store);
}

/* ---- When ---- */

static int n_wakes;

static void count_wake(void *arg) {
    n_wakes++;
}

static struct mal_store *shared(void **state) {
    struct mal_store *store = taught(state);
    assert_done(mal_store_share_log(store, count_wake, NULL, &err));
    n_wakes = 0;
    return store;
}

/* Version 2, with so much staged for it. */
static void publish_2(struct mal_store *store, size_t bytes) {
    assert_done(stage(store, 2, bytes, &err));
    add(store, "b");
    assert_done(publish(store, 2, -1, "b", &err));
}

static void version_is_copied_once_it_is_there(void **state) {
    struct mal_store *store = shared(state);
    seen.path = path_of(state);
    seen.n = seen.n_empty = 0;
    off_t before = file_bytes(path_of(state));
    assert_done(stage(store, 2, 4 * BLOB_BYTES, &err));
    add(store, "b");
    assert_int_equal(n_wakes, 0);
    assert_int_equal(seen.n, 0);
    assert_int_equal(file_bytes(path_of(state)), before);
    assert_done(publish(store, 2, -1, "b", &err));
    assert_int_equal(n_wakes, 1);
    assert_done(mal_store_copy_log(store, &err));
    assert_true(file_bytes(path_of(state)) > before + 4 * BLOB_BYTES);
    assert_true(seen.n > 0);

    /* Then there is nothing to do, and nothing is done. */
    int n = seen.n;
    assert_done(mal_store_copy_log(store, &err));
    assert_int_equal(seen.n, n);
    assert_int_equal(seen.n_empty, 0);
    seen.path = NULL;
    add(store, "c");
    assert_true(store->log.pages < 100);

    /* What was staged in vain is no reason to wait. */
    assert_done(stage(store, 3, 2 * BLOB_BYTES, &err));
    assert_int_equal(n_wakes, 1);
    assert_done(mal_store_unstage(store, 3, &err));
    assert_int_equal(n_wakes, 2);
    mal_store_close(store);
}

static void little_room_is_left(void **state) {
    struct mal_store *store = shared(state);
    room = 4U * (60 << 20);
    assert_done(stage(store, 2, 60 << 20, &err)); /* not long enough to ask for room */
    assert_int_equal(n_wakes, 0);
    assert_done(mal_store_unstage(store, 2, &err));
    assert_done(mal_store_copy_log(store, &err));
    n_wakes = 0;
    assert_done(stage(store, 2, 80 << 20, &err));
    room = UINT64_MAX;
    assert_in_range(n_wakes, 1, 3); /* for the chunks that are too much */
    mal_store_close(store);
}

static void reader_keeps_a_part_back(void **state) {
    struct mal_store *store = shared(state);
    struct mal_store *reader = open_reader(path_of(state));
    assert_done(mal_store_exec(reader, "BEGIN; SELECT count(*) FROM jobs", &err));
    publish_2(store, BLOB_BYTES);
    seen.path = path_of(state);
    seen.n = 0;
    assert_done(mal_store_copy_log(store, &err));
    assert_int_equal(seen.n, 1); /* and not again before the next commit */
    seen.path = NULL;
    add(store, "c");
    assert_true(store->log.pages > 1000);
    assert_done(mal_store_exec(reader, "COMMIT", &err));
    add(store, "d");
    assert_done(mal_store_copy_log(store, &err));
    add(store, "e");
    assert_true(store->log.pages < 100);
    mal_store_close(reader);
    mal_store_close(store);
}

/* ---- What goes wrong ---- */

static void full_disk_is_tried_again(void **state) {
    struct mal_store *store = shared(state);
    publish_2(store, BLOB_BYTES);
    fail_writes(20, ENOSPC);
    assert_done(mal_store_copy_log(store, &err));
    assert_done(mal_store_sound(store, &err));
    fail_writes(0, 0);

    /* After the next commit, as before it nobody knows what is left. */
    n_wakes = 0;
    seen.path = path_of(state);
    seen.n = 0;
    assert_done(mal_store_copy_log(store, &err));
    assert_int_equal(seen.n, 0);
    add(store, "c");
    assert_int_equal(n_wakes, 1);
    assert_done(mal_store_copy_log(store, &err));
    assert_true(seen.n > 0);
    seen.path = NULL;
    add(store, "d");
    assert_true(store->log.pages < 100);
    mal_store_close(store);
}

static void bad_disk_is_told(void **state) {
    struct mal_store *store = shared(state);
    publish_2(store, BLOB_BYTES);
    fail_writes(20, EIO);
    assert_fails(MAL_IO, path_of(state), mal_store_copy_log(store, &err));
    fail_writes(0, 0);
    assert_fails(MAL_IO, path_of(state), mal_store_sound(store, &err));
    mal_store_close(store);

    /* It stands in the log. */
    store = open_store(path_of(state));
    int64_t last;
    assert_done(mal_store_check(store, &err));
    assert_done(mal_store_last_version(store, &last, &err));
    assert_int_equal(last, 2);
    mal_store_close(store);
}

/* Of which the connection knows nothing, but of what failed before. */
static void bad_sync_is_told(void **state) {
    struct mal_store *store = shared(state);
    publish_2(store, BLOB_BYTES);
    fail_writes(20, ENOSPC);
    assert_done(mal_store_copy_log(store, &err));
    fail_writes(0, 0);
    add(store, "c");
    seen.bad_sync = EIO;
    assert_fails(MAL_IO, "disk I/O error", mal_store_copy_log(store, &err));
    seen.bad_sync = sync_errno = 0;
    assert_fails(MAL_IO, "disk I/O error", mal_store_sound(store, &err));
    mal_store_close(store);
}

static void copying_is_given_up(void **state) {
    struct mal_store *store = shared(state);
    off_t before = file_bytes(path_of(state));
    publish_2(store, 4 * BLOB_BYTES);
    mal_store_stop_copying(store);
    assert_done(mal_store_copy_log(store, &err));
    assert_done(mal_store_sound(store, &err));
    assert_true(file_bytes(path_of(state)) < before + 4 * BLOB_BYTES);
    mal_store_close(store);
}

int main(void) {
    uint64_t random = 1;
    for (size_t i = 0; i < sizeof data; i += 8) {
        random = random * 6364136223846793005U + 1442695040888963407U;
        memcpy(data + i, &random, 8);
    }
    memset(hash, 'a', 64);
    const struct CMUnitTest tests[] = {
        PLACE_TEST(nothing_is_lost),
        PLACE_TEST(copying_comes_to_an_end),
        PLACE_TEST(version_is_copied_once_it_is_there),
        PLACE_TEST(little_room_is_left),
        PLACE_TEST(reader_keeps_a_part_back),
        PLACE_TEST(full_disk_is_tried_again),
        PLACE_TEST(bad_disk_is_told),
        PLACE_TEST(bad_sync_is_told),
        PLACE_TEST(copying_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
