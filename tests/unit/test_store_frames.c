/* test_store_frames.c - a log whose frames are written many at a time is the log that
 * SQLite meant: at every commit another process finds what was committed, however a
 * transaction was spilled, rolled back in part or failed. */
#include "store_faults.h"

#include "core/random.h"

enum { ROWS = 400, BYTES = 900, ROUNDS = 60 };

/* ---- Two databases with the same rows, one of them through the store's files ---- */

static void run(sqlite3 *db, const char *sql) {
    char *why = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s: %s", sql, why);
}

static sqlite3 *open_raw(const char *path, int flags, const char *vfs) {
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open_v2(path, &db, flags, vfs), SQLITE_OK);
    return db;
}

/* So little memory that a transaction is written in parts, and commits that are not
 * synced: what is gathered must be written without that. */
static sqlite3 *open_tight(const char *path) {
    sqlite3 *db =
        open_raw(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, mal_store_vfs());
    run(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "PRAGMA wal_autocheckpoint = 200;"
            "PRAGMA cache_size = 12; CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)");
    return db;
}

static int add_text(void *arg, int n, char **values, char **names) {
    dump_add(arg, values[0]);
    return 0;
}

static char *rows_of(sqlite3 *db) {
    struct dump dump = {0};
    dump_add(&dump, "");
    assert_int_equal(
        sqlite3_exec(db, "SELECT id || x FROM t ORDER BY id; PRAGMA integrity_check",
                     add_text, &dump, NULL),
        SQLITE_OK);
    return dump.text;
}

static void expect_same(sqlite3 *db, sqlite3 *model) {
    char *rows = rows_of(db), *wanted = rows_of(model);
    assert_string_equal(rows, wanted);
    free(rows);
    free(wanted);
}

/* What the next start would find if the process were killed now. */
static void expect_after_kill(const char *path, sqlite3 *model) {
    struct place after;
    char log[128], its_log[128];
    place_make(&after);
    snprintf(log, sizeof log, "%s-wal", path);
    snprintf(its_log, sizeof its_log, "%s-wal", after.path);
    assert_true(copy_file(path, after.path) && copy_file(log, its_log));
    sqlite3 *db = open_raw(after.path, SQLITE_OPEN_READWRITE, NULL);
    expect_same(db, model);
    sqlite3_close(db);
    place_remove(&after);
}

/* Some rows anew, in both. */
static void change(sqlite3 *const *both, uint64_t *random) {
    char sql[128];
    for (int i = 0; i < 120; i++) {
        snprintf(
            sql, sizeof sql, "INSERT OR REPLACE INTO t VALUES (%d, printf('%%0%dd', %d))",
            (int)mal_random_below(random, ROWS), 1 + (int)mal_random_below(random, BYTES),
            (int)mal_random_below(random, 1 << 30));
        for (int k = 0; k < 2; k++)
            run(both[k], sql);
    }
}

static void run_both(sqlite3 *const *both, const char *sql) {
    for (int k = 0; k < 2; k++)
        run(both[k], sql);
}

static void others_find_what_was_committed(void **state) {
    uint64_t random = 7;
    sqlite3 *model = open_raw(":memory:", SQLITE_OPEN_READWRITE, NULL);
    run(model, "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)");
    sqlite3 *both[] = {open_tight(path_of(state)), model};
    sqlite3 *reader = open_raw(path_of(state), SQLITE_OPEN_READONLY, NULL);
    for (int round = 0; round < ROUNDS; round++) {
        run_both(both, "BEGIN");
        change(both, &random);
        if (round % 3 == 1) expect_same(both[0], model); /* its own, spilled */
        run_both(both, "SAVEPOINT s");
        change(both, &random);
        if (round % 4 == 2) run_both(both, "ROLLBACK TO s");
        change(both, &random);
        run_both(both, round % 5 == 3 ? "ROLLBACK" : "COMMIT");
        expect_same(reader, model);
        expect_after_kill(path_of(state), model);
    }
    sqlite3_close(reader);
    sqlite3_close(both[0]);
    sqlite3_close(model);
}

/* In the middle of a transaction there is nothing of it for others. */
static void nothing_before_the_end(void **state) {
    uint64_t random = 8;
    sqlite3 *model = open_raw(":memory:", SQLITE_OPEN_READWRITE, NULL);
    run(model, "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)");
    sqlite3 *scratch = open_raw(":memory:", SQLITE_OPEN_READWRITE, NULL);
    run(scratch, "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)");
    sqlite3 *both[] = {open_tight(path_of(state)), scratch};
    run(both[0], "BEGIN");
    change(both, &random);
    expect_after_kill(path_of(state), model);
    change(both, &random);
    expect_after_kill(path_of(state), model);
    run(both[0], "COMMIT");
    expect_after_kill(path_of(state), scratch);
    sqlite3_close(both[0]);
    sqlite3_close(scratch);
    sqlite3_close(model);
}

/* ---- Writes ---- */

static int n_writes;

static ssize_t counted(int fd, const void *data, size_t bytes, off_t offset) {
    n_writes++;
    return pwrite(fd, data, bytes, offset);
}

static void chunks_take_few_writes(void **state) {
    static char data[MAL_STORE_CHUNK_BYTES];
    struct mal_store *store = taught(state);
    struct mal_blob blob = {"delta/x", "{}", data, sizeof data, "ff"};
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    sqlite3_syscall_ptr real = vfs->xGetSystemCall(vfs, "pwrite64");
    const char *name = real ? "pwrite64" : "pwrite";
    vfs->xSetSystemCall(vfs, name, (sqlite3_syscall_ptr)counted);
    n_writes = 0;
    assert_done(mal_store_stage_blob(store, 2, &blob, &err));
    vfs->xSetSystemCall(vfs, name, NULL);
    assert_in_range(n_writes, 64, 80); /* else two for each of 2,000 pages */
    mal_store_close(store);
}

/* Whichever write fails, the transaction has not been, and the next one is. */
static void a_write_fails(void **state) {
    uint64_t random = 9;
    sqlite3 *model = open_raw(":memory:", SQLITE_OPEN_READWRITE, NULL);
    run(model, "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)");
    sqlite3 *both[] = {open_tight(path_of(state)), model};
    run(both[0], "PRAGMA wal_autocheckpoint = 0");
    const char *lost = "BEGIN; UPDATE t SET x = id || 'lost'; DELETE FROM t WHERE id % 2;"
                       "UPDATE t SET x = x || 'too'; COMMIT";
    int rc = SQLITE_FULL;
    for (long n = 1; rc != SQLITE_OK; n++) {
        run(both[0], "PRAGMA wal_checkpoint(TRUNCATE)"); /* it is copied each time */
        run_both(both, "BEGIN");
        change(both, &random);
        run_both(both, "COMMIT");
        fail_writes(n, ENOSPC);
        rc = sqlite3_exec(both[0], lost, NULL, NULL, NULL);
        fail_writes(0, 0);
        if (rc == SQLITE_OK) {
            assert_true(n > 3);
            run(model, lost);
        } else {
            assert_int_equal(rc, SQLITE_FULL);
            sqlite3_exec(both[0], "ROLLBACK", NULL, NULL, NULL); /* if it has not yet */
        }
        expect_same(both[0], model);
        expect_after_kill(path_of(state), model);
    }
    sqlite3_close(both[0]);
    sqlite3_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACE_TEST(others_find_what_was_committed),
        PLACE_TEST(nothing_before_the_end),
        PLACE_TEST(chunks_take_few_writes),
        PLACE_TEST(a_write_fails),
    };
    return cmocka_run_group_tests_name("store_frames", tests, NULL, NULL);
}
