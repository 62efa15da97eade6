/* test_store_audit.c - who asked for what is written with it or not at all, is listed,
 * and is never changed. */
#include "store_fixture.h"

/* "id who action job detail" of each, separated by commas, into a static buffer. */
static const char *rows_of(struct mal_store *store, const struct mal_audit_query *query,
                           bool *out_more) {
    static char text[4096];
    struct mal_audit_row *rows = NULL;
    size_t n = 0;
    assert_done(mal_store_list_audit(store, query, &rows, &n, out_more, &err));
    text[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s%d %s %s %s %s", i ? ", " : "",
                 (int)rows[i].id, rows[i].who, rows[i].action, rows[i].job,
                 rows[i].detail_json);
    }
    mal_audit_rows_free(rows, n);
    return text;
}

static void assert_rows(struct mal_store *store, struct mal_audit_query query,
                        bool more_expected, const char *expected) {
    bool more = !more_expected;
    if (!query.before) query.before = INT64_MAX;
    if (!query.limit) query.limit = 100;
    assert_string_equal(rows_of(store, &query, &more), expected);
    assert_int_equal(more, more_expected);
}

static struct mal_audit_row row_of(const char *who, const char *action,
                                   const char *detail) {
    struct mal_audit_row row = *asked();
    row.who = (char *)(uintptr_t)who;
    row.action = (char *)(uintptr_t)action;
    row.detail_json = (char *)(uintptr_t)detail;
    return row;
}

static bool add(struct mal_store *store, const char *id,
                const struct mal_audit_row *audit, struct mal_error *err) {
    struct mal_job_row job = {
        .id = (char *)(uintptr_t)id, .created_ms = 1700000000123, .to_version = -1};
    return mal_store_add_job(store, &job, NULL, NULL, NULL, NULL, audit, err);
}

/* Rows 1 to 4. */
static void furnish(struct mal_store *store) {
    struct mal_audit_row edit = row_of("ci", "POST /v1/edits", "{\"facts\":2}");
    struct mal_audit_row back = row_of("ops", "POST /v1/rollbacks", "{\"to_version\":1}");
    struct mal_audit_row cancel = row_of("ci", "POST /v1/jobs/{id}/cancel", "{}");
    assert_done(add(store, "a", &edit, &err));
    assert_done(add(store, "b", &back, &err));
    assert_done(add(store, "c", &edit, &err));
    assert_done(mal_store_cancel_job(store, "b", 1700000000456, &cancel, &err));
}

static void rows_come_back_as_given(void **state) {
    struct mal_store *store = open_store(path_of(state));
    furnish(store);
    struct mal_audit_query query = {.job = "b", .before = INT64_MAX, .limit = 5};
    struct mal_audit_row *rows;
    size_t n;
    bool more;
    assert_done(mal_store_list_audit(store, &query, &rows, &n, &more, &err));
    assert_int_equal(n, 2);
    assert_int_equal(rows[0].id, 4);
    assert_int_equal(rows[0].created_ms, 1700000000456);
    assert_int_equal(rows[1].created_ms, 1700000000123);
    assert_string_equal(rows[1].who, "ops");
    assert_string_equal(rows[1].role, "edit");
    assert_string_equal(rows[1].origin, "192.0.2.7");
    assert_string_equal(rows[1].action, "POST /v1/rollbacks");
    assert_string_equal(rows[1].request_id, "req_1");
    assert_string_equal(rows[1].job, "b");
    assert_string_equal(rows[1].detail_json, "{\"to_version\":1}");
    mal_audit_rows_free(rows, n);
    mal_store_close(store);

    store = open_reader(path_of(state));
    assert_rows(store, (struct mal_audit_query){.job = "a"}, false,
                "1 ci POST /v1/edits a {\"facts\":2}");
    mal_store_close(store);
}

static void rows_are_found(void **state) {
    struct mal_store *store = open_store(path_of(state));
    furnish(store);
    static const char one[] = "1 ci POST /v1/edits a {\"facts\":2}",
                      two[] = "2 ops POST /v1/rollbacks b {\"to_version\":1}",
                      three[] = "3 ci POST /v1/edits c {\"facts\":2}",
                      four[] = "4 ci POST /v1/jobs/{id}/cancel b {}";
    char both[256];
    snprintf(both, sizeof both, "%s, %s", four, three);
    assert_rows(store, (struct mal_audit_query){.limit = 2}, true, both);
    snprintf(both, sizeof both, "%s, %s", two, one);
    assert_rows(store, (struct mal_audit_query){.before = 3, .limit = 2}, false, both);
    assert_rows(store, (struct mal_audit_query){.before = 1}, false, "");
    snprintf(both, sizeof both, "%s, %s", three, one);
    assert_rows(store, (struct mal_audit_query){.action = "POST /v1/edits"}, false, both);
    struct mal_audit_query of_both = {
        .who = "ci", .action = "POST /v1/edits", .limit = 1};
    assert_rows(store, of_both, true, three);
    assert_rows(store, (struct mal_audit_query){.who = "ops"}, false, two);
    assert_rows(store, (struct mal_audit_query){.job = "b", .who = "ci"}, false, four);
    assert_rows(store, (struct mal_audit_query){.who = "nobody"}, false, "");
    assert_rows(store, (struct mal_audit_query){.job = "z"}, false, "");
    assert_rows(store, (struct mal_audit_query){.job = "a", .action = "x"}, false, "");
    mal_store_close(store);
}

/* What fails leaves no row, and what has no row does not happen. */
static void row_and_change_are_one(void **state) {
    struct mal_store *store = open_store(path_of(state));
    furnish(store);
    char *before = dump_all(store->db);
    struct mal_audit_row nobody = row_of(NULL, "POST /v1/edits", "{}");
    assert_fails(MAL_CONFLICT, "audit", add(store, "d", &nobody, &err));
    assert_fails(MAL_CONFLICT, "audit",
                 mal_store_cancel_job(store, "a", 9, &nobody, &err));
    assert_fails(MAL_CONFLICT, "job 'a'", add(store, "a", asked(), &err));
    assert_fails(MAL_CONFLICT, "job 'b' is cancelled",
                 mal_store_cancel_job(store, "b", 9, asked(), &err));
    assert_fails(MAL_NOT_FOUND, "'z'",
                 mal_store_cancel_job(store, "z", 9, asked(), &err));
    char *after = dump_all(store->db);
    assert_string_equal(before, after);
    free(before);
    free(after);
    mal_store_close(store);
}

static void rows_stay(void **state) {
    static const char *const statements[] = {
        "UPDATE audit SET who = 'me' WHERE id = 2",
        "UPDATE audit SET id = 9 WHERE id = 2",
        "DELETE FROM audit WHERE id = 2",
        "DELETE FROM audit",
        "REPLACE INTO audit SELECT id, created_ms, 'me', role, origin, action,"
        " request_id, job, detail FROM audit WHERE id = 2",
        "INSERT INTO audit SELECT id, created_ms, 'me', role, origin, action,"
        " request_id, job, detail FROM audit WHERE id = 2"
        " ON CONFLICT DO UPDATE SET who = 'me'",
        "DELETE FROM jobs WHERE id = 'a'",
    };
    struct mal_store *store = open_store(path_of(state));
    furnish(store);
    char *before = dump_all(store->db);
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        assert_fails(MAL_CONFLICT, "", mal_store_exec(store, statements[i], &err));
    }
    char *after = dump_all(store->db);
    assert_string_equal(before, after);
    free(before);
    free(after);
    mal_store_close(store);
}

/* Every list by an index that is in the order of its rows. */
static void lists_do_not_sort(void **state) {
    struct mal_store *store = open_store(path_of(state));
    for (int i = MAL_SQL_LIST_AUDIT; i <= MAL_SQL_LIST_AUDIT_OF_JOB; i++) {
        char sql[1024];
        struct dump dump = {0};
        snprintf(sql, sizeof sql, "EXPLAIN QUERY PLAN %s", mal_sql_texts[i]);
        assert_int_equal(sqlite3_exec(store->db, sql, dump_row, &dump, NULL), SQLITE_OK);
        if (strstr(dump.text, "TEMP B-TREE") || !strstr(dump.text, "SEARCH a"))
            fail_msg("%s", dump.text);
        free(dump.text);
    }
    mal_store_close(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACE_TEST(rows_come_back_as_given), PLACE_TEST(rows_are_found),
        PLACE_TEST(row_and_change_are_one),  PLACE_TEST(rows_stay),
        PLACE_TEST(lists_do_not_sort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
