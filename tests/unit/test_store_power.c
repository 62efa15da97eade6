/* test_store_power.c - the power fails: of each file what was synced last is there, or
 * all that was written. In each of these states the database opens, whatever was answered
 * for is there, and of what was only staged nothing. */
#include <sys/syscall.h>

#include "store_fixture.h"

enum { BLOB_BYTES = 72 << 20, N_FACTS = 3 };

/* ---- What the disk would have ---- */

static char watched[2][128], kept[2][128]; /* database and log, and as they were synced */
static long n_syncs;

static void (*at_sync)(void); /* before it */

static void note_sync(int fd) {
    void (*before)(void) = at_sync;
    at_sync = NULL;
    if (before) before();
    at_sync = before;
    char link[64], path[256];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    for (int i = 0; i < 2; i++) {
        if (strcmp(path, watched[i]) != 0) continue;
        copy_file(path, kept[i]);
        n_syncs++;
    }
}

/* SQLite's, by whichever name it was built to call. */
int fdatasync(int fd) {
    note_sync(fd);
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd) {
    note_sync(fd);
    return (int)syscall(SYS_fsync, fd);
}

static void watch(void **state) {
    const struct place *place = *state;
    for (int i = 0; i < 2; i++) {
        snprintf(watched[i], sizeof watched[i], "%s%s", place->path, i ? "-wal" : "");
        snprintf(kept[i], sizeof kept[i], "%s/kept%d", place->dir, i);
        copy_file(watched[i], kept[i]);
    }
}

static int forget(void **state) {
    for (int i = 0; i < 2; i++) {
        unlink(kept[i]);
        watched[i][0] = '\0';
    }
    return place_tear_down(state);
}

/* ---- What is found after it ---- */

static void check_blob(struct mal_store *store, const char *data) {
    struct mal_blob_row *rows;
    size_t n;
    char *found = malloc(BLOB_BYTES);
    assert_done(mal_store_blobs(store, 1, &rows, &n, &err));
    assert_int_equal(n, 1);
    assert_done(mal_store_read_blob(store, 1, &rows[0], found, &err));
    assert_memory_equal(found, data, BLOB_BYTES);
    mal_blob_rows_free(rows, n);
    free(found);
}

/* Each of the four: what is there of the files of `state` now. */
static void check_after(void **state, int64_t version, const char *data) {
    for (int which = 0; which < 4; which++) {
        struct place after;
        char log[128];
        int64_t last = -1;
        place_make(&after);
        snprintf(log, sizeof log, "%s-wal", after.path);
        copy_file(which & 1 ? kept[0] : watched[0], after.path);
        copy_file(which & 2 ? kept[1] : watched[1], log);
        struct mal_store *store = open_store(after.path);
        assert_done(mal_store_check(store, &err));
        assert_done(mal_store_last_version(store, &last, &err));
        assert_int_equal(last, version);
        if (version == 1) {
            check_blob(store, data);
        } else {
            uint64_t bytes = 1;
            assert_done(mal_store_bytes(store, 1, &bytes, &err));
            assert_int_equal(bytes, 0);
        }
        mal_store_close(store);
        place_remove(&after);
    }
}

static void never(void *arg) {}

/* In the middle of copying. */
static struct now {
    void **state;
    const char *data;
} now;

static void check_now(void) {
    check_after(now.state, 1, now.data);
}

static void stage_and_publish(void **state, bool shared) {
    struct mal_store *store = open_store(path_of(state));
    const char *prompts[N_FACTS] = {"p", "q", "r"};
    char *data = malloc(BLOB_BYTES), hash[65];
    uint64_t random = 1;
    for (size_t i = 0; i < BLOB_BYTES; i += 8) {
        random = random * 6364136223846793005U + 1442695040888963407U;
        memcpy(data + i, &random, 8);
    }
    memset(hash, 'a', 64);
    hash[64] = '\0';
    if (shared) assert_done(mal_store_share_log(store, never, NULL, &err));
    watch(state);
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(add_job(store, "a", N_FACTS, prompts, &err));
    check_after(state, 0, data);

    struct mal_blob blob = {"delta/m", "{}", data, BLOB_BYTES, hash};
    long before = n_syncs;
    assert_done(mal_store_stage_blob(store, 1, &blob, &err));
    if (shared) {
        assert_int_equal(n_syncs, before);
    } else {
        assert_in_range(n_syncs - before, 2, 8); /* checkpoints, not the dozen commits */
    }
    check_after(state, 0, data);

    struct mal_fact_values values[N_FACTS];
    for (int i = 0; i < N_FACTS; i++)
        values[i] = (struct mal_fact_values){i + 1, data, 1 << 20, hash};
    assert_done(mal_store_stage_values(store, 1, values, N_FACTS, &err));
    check_after(state, 0, data);

    struct mal_version_row row = version_row(1, -1);
    const char *job = "a";
    row.values_hash = hash;
    struct mal_publish p = {.row = &row, .jobs = &job, .n_jobs = 1, .now_ms = 3000};
    assert_done(mal_store_publish(store, &p, &err));
    check_after(state, 1, data);
    if (shared) {
        at_sync = check_now;
        now = (struct now){state, data};
        assert_done(mal_store_copy_log(store, &err));
        at_sync = NULL;
        check_after(state, 1, data);
    }

    /* and what is answered for after it */
    assert_done(add_job(store, "b", N_FACTS, prompts, &err));
    check_after(state, 1, data);
    mal_store_close(store);
    free(data);
}

static void staged_then_published(void **state) {
    stage_and_publish(state, false);
}

static void copied_by_another(void **state) {
    stage_and_publish(state, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(staged_then_published, place_set_up, forget),
        cmocka_unit_test_setup_teardown(copied_by_another, place_set_up, forget)};
    return cmocka_run_group_tests_name("power", tests, NULL, NULL);
}
