/* test_store_backup.c - copies made while another process writes, and copies that fail:
 * what is there afterwards is whole or nothing. */
#include "store_faults.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

struct copy {
    struct place place;
    char out[112];
};

static int set_up(void **state) {
    struct copy *copy = calloc(1, sizeof *copy);
    place_make(&copy->place);
    snprintf(copy->out, sizeof copy->out, "%s.bak", copy->place.path);
    *state = copy;
    return 0;
}

static int tear_down(void **state) {
    struct copy *copy = *state;
    place_remove(&copy->place);
    free(copy);
    return 0;
}

/* Files of the directory whose names go on after ".bak". */
static int leftovers(const struct copy *copy) {
    int n = 0;
    DIR *dir = opendir(copy->place.dir);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        n += strncmp(entry->d_name, "facts.db.bak", 12) == 0 && entry->d_name[12];
    closedir(dir);
    return n;
}

static void assert_nothing(const struct copy *copy) {
    assert_int_equal(leftovers(copy), 0);
    assert_int_equal(access(copy->out, F_OK), -1);
}

static bool stage(struct mal_store *store, int64_t version, struct mal_error *err) {
    static char data[3 << 20];
    struct mal_blob blob = {"delta/x", "{}", data, sizeof data, "ff"};
    return mal_store_stage_blob(store, version, &blob, err);
}

/* Several steps long. */
static void furnish(const char *path) {
    struct mal_store *store = open_store(path);
    assert_done(publish(store, 0, -1, NULL, &err));
    for (int v = 1; v < 8; v++) {
        assert_done(stage(store, v, &err));
        assert_done(publish(store, v, -1, NULL, &err));
    }
    assert_done(add_job(store, "a", 2, (const char *[]){"p", "q"}, &err));
    mal_store_close(store);
}

static int64_t last_version(const char *path) {
    struct mal_store *store = open_reader(path);
    int64_t last;
    assert_done(mal_store_check(store, &err));
    assert_done(mal_store_last_version(store, &last, &err));
    mal_store_close(store);
    return last;
}

/* ---- Whole copies ---- */

struct ticks {
    int n;
    uint64_t done, total;
};

static bool count_ticks(void *arg, uint64_t done, uint64_t total) {
    struct ticks *ticks = arg;
    ticks->n++;
    assert_true(done > ticks->done && done <= total);
    ticks->done = done;
    ticks->total = total;
    return true;
}

static void copy_is_the_database_in_one_file(void **state) {
    struct copy *copy = *state;
    struct ticks ticks = {0};
    struct stat info;
    furnish(copy->place.path);
    assert_done(mal_store_backup(copy->place.path, copy->out, count_ticks, &ticks, &err));
    assert_int_equal(leftovers(copy), 0);
    assert_int_equal(stat(copy->out, &info), 0);
    assert_int_equal(ticks.done, ticks.total);
    assert_int_equal(info.st_size, ticks.total);
    assert_in_range(ticks.n, 3, 10);

    sqlite3 *db;
    assert_int_equal(sqlite3_open(copy->out, &db), SQLITE_OK);
    char *copied = dump_all(db);
    struct dump mode = {0};
    sqlite3_exec(db, "PRAGMA journal_mode", dump_row, &mode, NULL);
    assert_string_equal(mode.text, "delete\n");
    free(mode.text);
    sqlite3_close(db);
    struct mal_store *store = open_reader(copy->place.path);
    char *original = dump_all(store->db);
    assert_string_equal(copied, original);
    free(copied);
    free(original);
    mal_store_close(store);

    /* It is served like any other. */
    assert_int_equal(rename(copy->out, copy->place.path), 0);
    store = open_store(copy->place.path);
    assert_done(publish(store, 8, -1, "a", &err));
    mal_store_close(store);
    assert_int_equal(last_version(copy->place.path), 8);
}

static void older_schema_is_copied_as_it_is(void **state) {
    struct copy *copy = *state;
    sqlite3 *db;
    char sql[96];
    assert_int_equal(sqlite3_open(copy->place.path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, mal_sql_migrations[0], NULL, NULL, NULL), 0);
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = 1",
             MAL_STORE_APPLICATION_ID);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    char *original = dump_schema(db);
    sqlite3_close(db);
    assert_done(mal_store_backup(copy->place.path, copy->out, NULL, NULL, &err));
    assert_int_equal(sqlite3_open(copy->out, &db), SQLITE_OK);
    char *copied = dump_schema(db);
    sqlite3_close(db);
    assert_string_equal(copied, original);
    free(copied);
    free(original);
}

/* ---- While another process writes ---- */

static void write_versions(const char *path, int fd) {
    struct mal_store *store = NULL;
    struct mal_error err = {0};
    int64_t last = 0;
    bool done =
        mal_store_open(&store, path, &err) && mal_store_last_version(store, &last, &err);
    while (done && write(fd, &last, sizeof last) == (ssize_t)sizeof last) {
        last++;
        done = stage(store, last, &err) && publish(store, last, -1, NULL, &err);
    }
    fprintf(stderr, "writer: %s\n", err.text);
    _exit(1);
}

struct race {
    int fd;
    int64_t first, last; /* versions published by the first call and now */
    int n;
};

static int64_t wait_for_version(int fd) {
    int64_t version = -1;
    assert_int_equal(read(fd, &version, sizeof version), sizeof version);
    return version;
}

/* Does not go on before the writer has committed something new; a copy that starts again
 * for it would never end. */
static bool wait_for_writer(void *arg, uint64_t done, uint64_t total) {
    struct race *race = arg;
    race->last = wait_for_version(race->fd);
    if (race->first < 0) race->first = race->last;
    return ++race->n < 20;
}

static void writer_does_not_disturb_the_copy(void **state) {
    struct copy *copy = *state;
    int ends[2];
    furnish(copy->place.path);
    assert_int_equal(pipe(ends), 0);
    /* One version at a time goes through the pipe, so that the writer keeps pace. */
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        write_versions(copy->place.path, ends[1]);
    }
    close(ends[1]);
    struct race race = {ends[0], -1, -1, 0};
    int64_t before = wait_for_version(ends[0]);
    assert_done(
        mal_store_backup(copy->place.path, copy->out, wait_for_writer, &race, &err));
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(ends[0]);
    int64_t copied = last_version(copy->out);
    assert_true(copied >= before);
    assert_true(race.last > race.first + 1);
    assert_true(last_version(copy->place.path) > copied);
    assert_int_equal(leftovers(copy), 0);
}

/* ---- Copies that fail ---- */

static void existing_file_is_refused(void **state) {
    struct copy *copy = *state;
    furnish(copy->place.path);
    FILE *file = fopen(copy->out, "wb");
    assert_non_null(file);
    fclose(file);
    assert_fails(MAL_CONFLICT, "is there already",
                 mal_store_backup(copy->place.path, copy->out, NULL, NULL, &err));
    unlink(copy->out);
    assert_int_equal(symlink("nowhere", copy->out), 0);
    assert_fails(MAL_CONFLICT, "is there already",
                 mal_store_backup(copy->place.path, copy->out, NULL, NULL, &err));
    unlink(copy->out);
    assert_fails(MAL_CONFLICT, "is there already",
                 mal_store_backup(copy->place.path, copy->place.path, NULL, NULL, &err));
    assert_nothing(copy);
}

static bool make_the_file(void *arg, uint64_t done, uint64_t total) {
    return access(arg, F_OK) == 0 || symlink("nowhere", arg) == 0 || errno == EEXIST;
}

static void file_that_comes_meanwhile_is_kept(void **state) {
    struct copy *copy = *state;
    furnish(copy->place.path);
    assert_fails(
        MAL_CONFLICT, "is there already",
        mal_store_backup(copy->place.path, copy->out, make_the_file, copy->out, &err));
    assert_int_equal(leftovers(copy), 0);
    assert_int_equal(unlink(copy->out), 0);
}

static bool give_up(void *arg, uint64_t done, uint64_t total) {
    return --*(int *)arg > 0;
}

static void given_up_copy_leaves_nothing(void **state) {
    struct copy *copy = *state;
    furnish(copy->place.path);
    for (int n = 1; n <= 3; n++) {
        int left = n;
        assert_fails(MAL_CANCELLED, "given up",
                     mal_store_backup(copy->place.path, copy->out, give_up, &left, &err));
        assert_nothing(copy);
    }
}

/* A file and a log of it, not what the next copy is made of or leaves there. */
static void what_a_killed_one_left_goes(void **state) {
    struct copy *copy = *state;
    char left[128], log[136];
    snprintf(left, sizeof left, "%s.tmp-0", copy->out);
    snprintf(log, sizeof log, "%s.tmp-0-wal", copy->out);
    furnish(copy->place.path);
    struct mal_store *store = open_store(copy->place.path);
    assert_done(publish(store, 8, -1, "a", &err));
    char of_8[128];
    snprintf(of_8, sizeof of_8, "%s-wal", copy->place.path);
    assert_true(copy_file(of_8, log));
    assert_true(copy_file(copy->place.path, left));
    assert_done(publish(store, 9, 3, NULL, &err));
    mal_store_close(store);
    assert_done(mal_store_backup(copy->place.path, copy->out, NULL, NULL, &err));
    assert_int_equal(leftovers(copy), 0);
    assert_int_equal(last_version(copy->out), 9);
}

static void what_cannot_be_copied(void **state) {
    struct copy *copy = *state;
    const char *db = copy->place.path;
    char out[128];
    assert_fails(MAL_NOT_FOUND, db, mal_store_backup(db, copy->out, NULL, NULL, &err));
    FILE *file = fopen(db, "wb");
    assert_non_null(file);
    fputs("not a database, whatever its name may say", file);
    fclose(file);
    assert_fails(MAL_CORRUPT, db, mal_store_backup(db, copy->out, NULL, NULL, &err));
    unlink(db);
    furnish(db);
    snprintf(out, sizeof out, "%s/none/x", copy->place.dir);
    assert_fails(MAL_IO, "none", mal_store_backup(db, out, NULL, NULL, &err));
    assert_nothing(copy);
}

/* Overwrites the root page of an index, which nothing but a check reads. */
static void damage_index(const char *path) {
    sqlite3 *db;
    struct dump root = {0};
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL);
    sqlite3_exec(db, "SELECT rootpage FROM sqlite_schema WHERE name = 'jobs_by_kind'",
                 dump_row, &root, NULL);
    sqlite3_close(db);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, (strtol(root.text, NULL, 10) - 1) * 4096, SEEK_SET), 0);
    fputs("noise noise noise", file);
    fclose(file);
    free(root.text);
}

/* Copied byte for byte such a database would pass for a backup. */
static void damaged_database_is_not_copied(void **state) {
    struct copy *copy = *state;
    furnish(copy->place.path);
    damage_index(copy->place.path);
    assert_fails(MAL_CORRUPT, "backup of",
                 mal_store_backup(copy->place.path, copy->out, NULL, NULL, &err));
    assert_nothing(copy);
}

static void full_disk_leaves_nothing(void **state) {
    static const struct {
        int number;
        enum mal_status status;
    } kinds[] = {{ENOSPC, MAL_NO_SPACE}, {EIO, MAL_IO}};
    struct copy *copy = *state;
    bool done = false;
    long n;
    furnish(copy->place.path);
    for (n = 1; !done; n += 1 + n / 4) {
        struct mal_error err = {0};
        fail_writes(n, kinds[n % 2].number);
        done = mal_store_backup(copy->place.path, copy->out, NULL, NULL, &err);
        fail_writes(0, 0);
        if (done) break;
        assert_int_equal(err.status, kinds[n % 2].status);
        assert_non_null(strstr(err.text, copy->place.path));
        assert_nothing(copy);
    }
    assert_true(n > 1000);
    assert_int_equal(last_version(copy->out), 7);
}

static void memory_runs_out(void **state) {
    struct copy *copy = *state;
    struct mal_store *store = open_store(copy->place.path);
    assert_done(publish(store, 0, -1, NULL, &err));
    mal_store_close(store);
    int quiet = 0;
    for (long n = 1; quiet < 3; n += 1 + n / 20) {
        struct mal_error err = {0};
        through_tap = true;
        mal_alloc_fail_at(n);
        bool done = mal_store_backup(copy->place.path, copy->out, NULL, NULL, &err);
        mal_alloc_fail_at(0);
        through_tap = false;
        if (done) {
            assert_int_equal(last_version(copy->out), 0);
            unlink(copy->out);
        } else if (err.status != MAL_NO_MEMORY) {
            fail_msg("%ld: %s", n, err.text);
        }
        assert_nothing(copy);
        quiet = done ? quiet + 1 : 0;
    }
}

int main(void) {
    tap_sqlite();
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(copy_is_the_database_in_one_file),
        CASE(older_schema_is_copied_as_it_is),
        CASE(writer_does_not_disturb_the_copy),
        CASE(existing_file_is_refused),
        CASE(file_that_comes_meanwhile_is_kept),
        CASE(given_up_copy_leaves_nothing),
        CASE(what_a_killed_one_left_goes),
        CASE(what_cannot_be_copied),
        CASE(damaged_database_is_not_copied),
        CASE(full_disk_leaves_nothing),
        CASE(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
