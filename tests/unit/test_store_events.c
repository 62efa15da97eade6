/* test_store_events.c - events of jobs and versions: all of them, once, in the order and
 * the transaction of what they tell. */
#include "store_fixture.h"

/* "id kind data" of each event after `after`, a line each, into a static buffer. */
static const char *events_after(struct mal_store *store, int64_t after) {
    static char text[4096];
    struct mal_event_row *rows;
    size_t n;
    assert_done(mal_store_events(store, after, 100, &rows, &n, &err));
    text[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%d %s %s\n", (int)rows[i].id,
                 rows[i].kind, rows[i].data_json);
    }
    mal_event_rows_free(rows, n);
    return text;
}

static void assert_range(struct mal_store *store, int64_t first, int64_t last) {
    int64_t is_first, is_last;
    assert_done(mal_store_event_range(store, &is_first, &is_last, &err));
    assert_int_equal(is_first, first);
    assert_int_equal(is_last, last);
}

#define JOB(id, state, kind, more) \
    " job {\"id\":\"" id "\",\"state\":\"" state "\",\"kind\":\"" kind "\"" more "}\n"
#define VERSION(n, kind) \
    " version {\"version\":" n ",\"kind\":\"" kind "\",\"weights_hash\":\"aa\"}\n"

static void a_new_database_has_none(void **state) {
    struct mal_store *store = open_store(path_of(state));
    assert_range(store, 1, 0);
    assert_string_equal(events_after(store, 0), "");
    mal_store_close(store);
}

static void each_change_is_an_event(void **state) {
    struct mal_store *store = open_store(path_of(state));
    struct mal_store *reader = open_reader(path_of(state));
    const char *prompt = "p", *a = "a", *b = "b", *both[] = {"a", "b"};
    int64_t n;
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(add_job(store, "a", 1, &prompt, &err));
    assert_done(add_job(store, "b", 1, &prompt, &err));
    assert_done(add_job(store, "back", 0, NULL, &err));
    assert_string_equal(
        events_after(reader, 0),
        "1" VERSION("0", "base") "2" JOB("a", "queued", "edit", "") "3" JOB(
            "b", "queued", "edit", "") "4" JOB("back", "queued", "rollback", ""));
    assert_done(mal_store_start_jobs(store, both, 2, 5, &err));
    assert_done(mal_store_requeue_running(store, &n, &err));
    assert_done(mal_store_start_jobs(store, &a, 1, 6, &err));
    assert_string_equal(
        events_after(reader, 4),
        "5" JOB("a", "running", "edit", "") "6" JOB("b", "running", "edit", "") "7" JOB(
            "a", "queued", "edit", "") "8" JOB("b", "queued", "edit",
                                               "") "9" JOB("a", "running", "edit", ""));
    assert_done(publish(store, 1, -1, "a", &err));
    assert_done(mal_store_cancel_job(store, b, 7, asked(), &err));
    assert_done(publish(store, 2, 0, "back", &err));
    assert_string_equal(
        events_after(reader, 9),
        "10" JOB("a", "applied", "edit", ",\"version\":1") "11" VERSION(
            "1",
            "edit") "12" JOB("b", "cancelled", "edit",
                             "") "13" JOB("back", "applied", "rollback",
                                          ",\"version\":2") "14" VERSION("2",
                                                                         "rollback"));
    assert_range(reader, 1, 14);
    mal_store_close(reader);
    mal_store_close(store);
}

/* What is undone has told nothing, and leaves no gap. */
static void what_fails_is_none(void **state) {
    struct mal_store *store = open_store(path_of(state));
    const char *jobs[] = {"a", "none"}, *prompt = "p";
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(add_job(store, "a", 1, &prompt, &err));
    assert_fails(MAL_CONFLICT, "UNIQUE", add_job(store, "a", 1, &prompt, &err));
    assert_fails(MAL_NOT_FOUND, "none", mal_store_start_jobs(store, jobs, 2, 5, &err));
    assert_fails(MAL_CONFLICT, "the next version", publish(store, 7, -1, "a", &err));
    assert_range(store, 1, 2);
    assert_done(mal_store_start_jobs(store, jobs, 1, 5, &err));
    assert_string_equal(events_after(store, 2), "3" JOB("a", "running", "edit", ""));
    mal_store_close(store);
}

static void are_read_a_few_at_a_time(void **state) {
    struct mal_store *store = taught(state);
    struct mal_event_row *rows;
    size_t n;
    assert_done(mal_store_events(store, 1, 2, &rows, &n, &err));
    assert_int_equal(n, 2);
    assert_int_equal(rows[0].id, 2);
    assert_int_equal(rows[1].id, 3);
    mal_event_rows_free(rows, n);
    assert_done(mal_store_events(store, 4, 2, &rows, &n, &err));
    assert_int_equal(n, 0);
    assert_null(rows);
    mal_store_close(store);
}

static void old_ones_go(void **state) {
    struct mal_store *store = taught(state);
    int64_t n;
    assert_done(mal_store_exec(
        store,
        "WITH RECURSIVE more (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM more"
        " WHERE i < 100000) INSERT INTO events (created_ms, kind, data_json)"
        " SELECT 1, 'job', '{}' FROM more",
        &err));
    assert_range(store, 5, 100004);
    assert_done(mal_store_ask(store, "SELECT count(*) FROM events", &n, &err));
    assert_int_equal(n, 100000);
    assert_done(add_job(store, "b", 0, NULL, &err));
    assert_range(store, 6, 100005);
    assert_done(mal_store_ask(store, "SELECT count(*) FROM events", &n, &err));
    assert_int_equal(n, 100000);
    mal_store_close(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACE_TEST(a_new_database_has_none),
        PLACE_TEST(each_change_is_an_event),
        PLACE_TEST(what_fails_is_none),
        PLACE_TEST(are_read_a_few_at_a_time),
        PLACE_TEST(old_ones_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
