/* test_store_faults.c - memory, disk and interruptions fail at every n-th point: each
 * operation is done wholly or not at all, and nothing leaks. */
#include "store_faults.h"

/* ---- One of everything ---- */

static bool stage_values(struct mal_store *store, int64_t version,
                         struct mal_error *err) {
    static char data[5000]; /* more than a page */
    struct mal_fact_values values[] = {{1, data, sizeof data, "ff"}, {3, "x", 1, "ff"}};
    return mal_store_stage_values(store, version, values, 2, err);
}

/* Versions 0 to 3: a taught, its last fact pinned, a keyframe. Jobs b, c and back are
 * queued. */
static void furnish(struct mal_store *store) {
    static char hash[] = "h";
    struct mal_retraction pin = {"a.2", true};
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(add_job(store, "a", 3, (const char *[]){"p", "q", "r"}, &err));
    for (int64_t version = 1; version <= 3; version++) {
        const char *job = "a";
        struct mal_version_row row = version_row(version, -1);
        struct mal_blob blob = {"delta/x", "{}", "data", 4, "ff"};
        struct mal_publish p = {.row = &row,
                                .jobs = &job,
                                .n_jobs = version == 1,
                                .retracted = &pin,
                                .n_retracted = version == 2};
        row.keyframe = version == 3;
        row.values_hash = hash;
        assert_done(stage_values(store, version, &err));
        assert_done(mal_store_stage_blob(store, version, &blob, &err));
        assert_done(mal_store_publish(store, &p, &err));
    }
    assert_done(add_job(store, "b", 2, (const char *[]){"p", "s"}, &err));
    assert_done(add_job(store, "c", 2, (const char *[]){"q", "t"}, &err));
    assert_done(add_job(store, "back", 0, NULL, &err));
    assert_done(mal_store_set_meta(store, "k", "v", &err));
}

static bool do_publish(struct mal_store *store, struct mal_error *err) {
    const char *jobs[] = {"b", "c"}, *results[] = {"{}", "{}"};
    const char *rejected[] = {"b.1"};
    struct mal_fact_result facts[] = {{"b.0", "{}"}, {"c.1", "{}"}, {"a.0", "{}"}};
    struct mal_version_row row = version_row(4, -1);
    struct mal_publish p = {.row = &row,
                            .jobs = jobs,
                            .job_results = results,
                            .n_jobs = 2,
                            .facts = facts,
                            .n_facts = 3,
                            .now_ms = 1,
                            .rejected = rejected,
                            .n_rejected = 1};
    return mal_store_publish(store, &p, err);
}

static bool do_rollback(struct mal_store *store, struct mal_error *err) {
    return publish(store, 4, 1, "back", err);
}

static bool do_retract(struct mal_store *store, struct mal_error *err) {
    struct mal_retraction retracted[] = {{"a.0", true}, {"a.1", false}};
    struct mal_version_row row = version_row(4, -1);
    struct mal_publish p = {.row = &row, .retracted = retracted, .n_retracted = 2};
    return mal_store_publish(store, &p, err);
}

static bool do_together(struct mal_store *store, struct mal_error *err) {
    if (!mal_store_begin_together(store, err)) return false;
    bool done = add_job(store, "d", 1, (const char *[]){"p"}, err) &&
                add_job(store, "e", 1, (const char *[]){"u"}, err);
    return mal_store_end_together(store, done, err);
}

static bool do_stage(struct mal_store *store, struct mal_error *err) {
    return stage_values(store, 4, err);
}

static bool do_prune(struct mal_store *store, struct mal_error *err) {
    return mal_store_prune(store, 3, err);
}

static bool do_add(struct mal_store *store, struct mal_error *err) {
    return add_job(store, "d", 3, (const char *[]){"p", "q", "r"}, err);
}

static bool do_end(struct mal_store *store, struct mal_error *err) {
    const char *jobs[] = {"b", "c"};
    return mal_store_end_jobs(store, jobs, 2, MAL_JOB_FAILED, 5, "{}", "{}", err);
}

static bool do_cancel(struct mal_store *store, struct mal_error *err) {
    return mal_store_cancel_job(store, "b", 5, asked(), err);
}

static bool do_start(struct mal_store *store, struct mal_error *err) {
    const char *jobs[] = {"b", "c"};
    return mal_store_start_jobs(store, jobs, 2, 5, err);
}

static bool (*const operations[])(struct mal_store *, struct mal_error *) = {
    do_publish, do_rollback, do_retract, do_prune,    do_add,
    do_end,     do_start,    do_cancel,  do_together, do_stage};

enum {
    N_OPERATIONS = sizeof operations / sizeof operations[0],
    N_LASTING = N_OPERATIONS - 1, /* what is staged is swept by the next writer */
};

static bool read_all(struct mal_store *store, struct mal_error *err) {
    struct mal_job_row *jobs = NULL, job = {0};
    struct mal_fact_row *facts = NULL, fact = {0};
    struct mal_version_row *versions = NULL;
    struct mal_blob_row *blobs = NULL;
    char **ids = NULL, *value = NULL, *hash = NULL, *answer = NULL;
    struct mal_fact_row *members = NULL, *same = NULL;
    struct mal_member *list = NULL;
    struct mal_value_row *values = NULL;
    struct mal_audit_row *audit = NULL;
    struct mal_event_row *events = NULL;
    void *data = NULL;
    size_t n_jobs = 0, n_facts = 0, n_versions = 0, n_blobs = 0, n_ids = 0, n_audit = 0;
    size_t n_members = 0, n_same = 0, n_list = 0, n_values = 0, n_events = 0;
    const int64_t path[] = {1, 2};
    int64_t below, first, last;
    uint64_t bytes;
    bool more;
    struct mal_job_query any_job = {.kind = -1, .state = -1, .limit = 20};
    struct mal_audit_query of_job = {.job = "b", .before = INT64_MAX, .limit = 2};
    struct mal_fact_query live = {.state = -1, .version = 1, .limit = 2};
    bool done =
        mal_store_list_jobs(store, &any_job, &jobs, &n_jobs, &more, err) &&
        mal_store_get_job(store, "a", &job, err) &&
        mal_store_list_facts(store, &live, &facts, &n_facts, &more, err) &&
        mal_store_get_fact(store, "a.0", &fact, err) &&
        mal_store_list_versions(store, -1, 1, &versions, &n_versions, &more, err) &&
        mal_store_version_jobs(store, 1, &ids, &n_ids, err) &&
        mal_store_blobs(store, 1, &blobs, &n_blobs, err) &&
        mal_store_get_meta(store, "k", &value, err) &&
        mal_store_find_idempotency(store, "none", &hash, &answer, err) &&
        mal_store_members(store, 0, 2, &members, &n_members, err) &&
        mal_store_members_against(store, 3, &same, &n_same, err) &&
        mal_store_member_list(store, &list, &n_list, err) &&
        mal_store_values(store, 1, &values, &n_values, err) &&
        mal_store_read_values(store, 1, path, 2, &data, &bytes, &hash, err) &&
        mal_store_list_audit(store, &of_job, &audit, &n_audit, &more, err) &&
        mal_store_events(store, 0, 5, &events, &n_events, err) &&
        mal_store_event_range(store, &first, &last, err) &&
        mal_store_prunable(store, 3, &below, err);
    if (done) assert_string_equal(value, "v");
    mal_job_rows_free(jobs, n_jobs);
    mal_job_row_finish(&job);
    mal_fact_rows_free(facts, n_facts);
    mal_fact_row_finish(&fact);
    mal_version_rows_free(versions, n_versions);
    mal_store_strings_free(ids, n_ids);
    mal_blob_rows_free(blobs, n_blobs);
    mal_free(value);
    mal_fact_rows_free(members, n_members);
    mal_fact_rows_free(same, n_same);
    mal_free(list);
    mal_event_rows_free(events, n_events);
    mal_value_rows_free(values, n_values);
    mal_audit_rows_free(audit, n_audit);
    mal_free(data);
    mal_free(hash);
    return done;
}

/* ---- The tests ---- */

/* SQLite does without some allocations, so a success does not end the series; this many
 * do. Of its thousands a growing stride is tried. */
enum { QUIET = 12 };

static long next(long n, bool with_sqlite) {
    return with_sqlite ? n + 1 + n / 20 : n + 1;
}

static void fail_at(long n, bool with_sqlite) {
    through_tap = with_sqlite;
    mal_alloc_fail_at(n);
}

/* Lets the n-th allocation of opening and reading fail for n = 1, 2, ... */
static void memory_runs_out(void **state) {
    struct mal_store *store = open_store(path_of(state));
    furnish(store);
    mal_store_close(store);
    for (int with_sqlite = 0; with_sqlite <= 1; with_sqlite++) {
        int quiet = 0;
        long n;
        for (n = 1; quiet < QUIET; n = next(n, with_sqlite)) {
            struct mal_error err = {0};
            store = NULL;
            fail_at(n, with_sqlite);
            bool done =
                mal_store_open(&store, path_of(state), &err) && read_all(store, &err);
            fail_at(0, false);
            mal_store_close(store);
            if (!done && err.status != MAL_NO_MEMORY) fail_msg("%ld: %s", n, err.text);
            quiet = done ? quiet + 1 : 0;
        }
        assert_in_range(n, with_sqlite ? 5000 : 30, 100000);
    }
}

static void memory_runs_out_while_creating(void **state) {
    for (int with_sqlite = 0; with_sqlite <= 1; with_sqlite++) {
        int quiet = 0;
        for (long n = 1; quiet < QUIET / 3; n += with_sqlite ? 1 + n / 6 : 1) {
            struct mal_store *store = NULL;
            struct mal_error err = {0};
            place_remove(*state);
            place_make(*state);
            fail_at(n, with_sqlite);
            bool done = mal_store_open(&store, path_of(state), &err);
            fail_at(0, false);
            mal_store_close(store);
            if (!done && err.status != MAL_NO_MEMORY) fail_msg("%ld: %s", n, err.text);
            quiet = done ? quiet + 1 : 0;
            mal_store_close(open_store(path_of(state)));
        }
    }
}

static struct mal_store *furnished(void **state, struct mal_store *before) {
    mal_store_close(before);
    place_remove(*state);
    place_make(*state);
    struct mal_store *store = open_store(path_of(state));
    furnish(store);
    return store;
}

static void memory_runs_out_in_a_transaction(void **state) {
    for (int i = 0; i < N_OPERATIONS; i++) {
        struct mal_store *store = furnished(state, NULL);
        char *before = dump_all(store->db);
        int quiet = 0;
        for (long n = 1; quiet < QUIET / 4; n = next(n, true)) {
            struct mal_error err = {0};
            fail_at(n, true);
            bool done = operations[i](store, &err);
            fail_at(0, false);
            char *after = dump_all(store->db);
            assert_int_equal(strcmp(before, after) != 0, done);
            if (!done && err.status != MAL_NO_MEMORY) fail_msg("%ld: %s", n, err.text);
            free(after);
            quiet = done ? quiet + 1 : 0;
            if (done) store = furnished(state, store);
        }
        free(before);
        mal_store_close(store);
    }
}

struct fuse {
    sqlite3 *db;
    long left;
};

/* Not outside of a transaction: an interrupt that comes after COMMIT's work is reported
 * too. */
static int interrupt(void *arg) {
    struct fuse *fuse = arg;
    return !sqlite3_get_autocommit(fuse->db) && --fuse->left == 0;
}

/* A failure after any number of steps of any statement of a transaction leaves no trace.
 */
static void transactions_are_all_or_nothing(void **state) {
    for (int i = 0; i < N_OPERATIONS; i++) {
        struct mal_store *store = furnished(state, NULL);
        char *before = dump_all(store->db);
        bool done = false;
        long n;
        for (n = 1; !done; n++) {
            struct mal_error err = {0};
            struct fuse fuse = {store->db, n};
            sqlite3_progress_handler(store->db, 1, interrupt, &fuse);
            done = operations[i](store, &err);
            sqlite3_progress_handler(store->db, 0, NULL, NULL);
            char *after = dump_all(store->db);
            assert_int_equal(strcmp(before, after) != 0, done);
            if (!done && err.status != MAL_CANCELLED) fail_msg("%s", err.text);
            free(after);
        }
        assert_in_range(n, 10, 100000);
        free(before);
        mal_store_close(store);
    }
}

static void full_database_is_no_space(void **state) {
    struct mal_store *store = open_store(path_of(state));
    furnish(store);
    static char data[100000];
    struct mal_blob blob = {"a", "{}", data, sizeof data, "ff"};
    char *before = dump_all(store->db);
    assert_done(
        mal_store_exec(store, "PRAGMA max_page_count = 1", &err)); /* as it is now */
    assert_fails(MAL_NO_SPACE, path_of(state),
                 mal_store_stage_blob(store, 4, &blob, &err));
    char *after = dump_all(store->db);
    assert_string_equal(before, after);
    assert_done(mal_store_exec(store, "PRAGMA max_page_count = 1000000", &err));
    assert_done(mal_store_stage_blob(store, 4, &blob, &err));
    free(before);
    free(after);
    mal_store_close(store);
}

/* After a failed write the handle is given up; what the next one finds is before or
 * after. */
static void disk_fails_at_each_write(void **state) {
    static const struct {
        int number;
        enum mal_status status;
    } kinds[] = {{ENOSPC, MAL_NO_SPACE}, {EIO, MAL_IO}};

    for (int i = 0; i < N_LASTING; i++) {
        struct mal_store *store = furnished(state, NULL);
        bool done = false;
        long n;
        char *before = dump_all(store->db);
        for (n = 1; !done; n++) {
            struct mal_error err = {0};
            fail_writes(n, kinds[n % 2].number);
            done = operations[i](store, &err);
            if (!done) {
                assert_int_equal(err.status, kinds[n % 2].status);
                assert_non_null(strstr(err.text, path_of(state)));
            }
            fail_writes(0, 0);
            mal_store_close(store);
            store = open_store(path_of(state));
            char *after = dump_all(store->db);
            assert_int_equal(strcmp(before, after) != 0, done);
            free(after);
        }
        assert_true(n > 2);
        assert_done(mal_store_check(store, &err));
        free(before);
        mal_store_close(store);
    }
}

int main(void) {
    tap_sqlite();
    /* Thousands of commits, and none of them is about the time a disk takes. */
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
    const struct CMUnitTest tests[] = {
        PLACE_TEST(memory_runs_out),
        PLACE_TEST(memory_runs_out_while_creating),
        PLACE_TEST(memory_runs_out_in_a_transaction),
        PLACE_TEST(transactions_are_all_or_nothing),
        PLACE_TEST(full_database_is_no_space),
        PLACE_TEST(disk_fails_at_each_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
