/* test_store_life.c - what becomes of facts after they are taught: retracted, pinned,
 * rejected, measured again. */
#include "store_fixture.h"

static bool retract(struct mal_store *store, int64_t version,
                    const struct mal_retraction *retracted, size_t n,
                    struct mal_error *err) {
    struct mal_version_row row = version_row(version, -1);
    row.kind = MAL_VERSION_RETRACTION;
    struct mal_publish p = {
        .row = &row, .retracted = retracted, .n_retracted = n, .now_ms = 3000};
    return mal_store_publish(store, &p, err);
}

static int64_t live_facts(struct mal_store *store, int64_t version) {
    struct mal_version_row row;
    assert_done(mal_store_get_version(store, version, &row, &err));
    int64_t n = row.live_facts;
    mal_version_row_finish(&row);
    return n;
}

/* ---- Retraction ---- */

static void retracted_facts_end(void **state) {
    struct mal_store *store = taught(state);
    const struct mal_retraction two[] = {{"a.0", true}, {"a.2", false}};
    assert_done(retract(store, 2, two, 2, &err));
    assert_string_equal(fact_states(store, -1),
                        "a.0 pinned retracted, a.1 live, a.2 retracted");
    assert_string_equal(fact_states(store, 1),
                        "a.0 pinned retracted, a.1 live, a.2 retracted");
    assert_string_equal(fact_states(store, 2), "a.1 live");
    assert_int_equal(live_facts(store, 2), 1);
    mal_store_close(store);
}

static void only_live_facts_are_retracted(void **state) {
    struct mal_store *store = taught(state);
    assert_done(add_job(store, "b", 1, (const char *[]){"p"}, &err));
    assert_done(retract(store, 2, &(struct mal_retraction){"a.1", true}, 1, &err));
    assert_done(publish(store, 3, -1, "b", &err));
    assert_done(add_job(store, "c", 1, (const char *[]){"s"}, &err));

    static const struct {
        struct mal_retraction last;
        enum mal_status status;
        const char *part;
    } cases[] = {
        {{"a.0", true}, MAL_CONFLICT, "fact 'a.0' is superseded"},
        {{"a.1", true}, MAL_CONFLICT, "fact 'a.1' is retracted"}, /* pinned already */
        {{"c.0", false}, MAL_CONFLICT, "fact 'c.0' is queued"},
        {{"a.2", true}, MAL_CONFLICT, "fact 'a.2'"}, /* twice in one list */
        {{"z.0", true}, MAL_NOT_FOUND, "no fact 'z.0'"},
    };

    char *before = dump_all(store->db);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct mal_retraction list[] = {{"a.2", true}, cases[i].last};
        assert_fails(cases[i].status, cases[i].part, retract(store, 4, list, 2, &err));
        char *after = dump_all(store->db);
        assert_string_equal(before, after);
        free(after);
    }
    free(before);
    mal_store_close(store);
}

static void one_version_does_not_retract_what_it_replaces(void **state) {
    struct mal_store *store = taught(state);
    assert_done(add_job(store, "b", 1, (const char *[]){"p"}, &err));
    const struct mal_retraction retracted = {"a.0", true};
    const char *job = "b";
    struct mal_version_row row = version_row(2, -1);
    struct mal_publish p = {.row = &row,
                            .jobs = &job,
                            .n_jobs = 1,
                            .retracted = &retracted,
                            .n_retracted = 1};
    assert_fails(MAL_CONFLICT, "fact 'a.0'", mal_store_publish(store, &p, &err));
    assert_string_equal(fact_states(store, -1),
                        "a.0 live, a.1 live, a.2 live, b.0 queued");
    mal_store_close(store);
}

/* Teach, pin, teach the prompt again, and back to each of the versions. */
static void newer_facts_unpin_and_rollbacks_pin_again(void **state) {
    struct mal_store *store = taught(state);
    assert_done(retract(store, 2, &(struct mal_retraction){"a.0", true}, 1, &err));
    assert_done(add_job(store, "b", 1, (const char *[]){"p"}, &err));
    assert_done(publish(store, 3, -1, "b", &err));
    const char *at_1 = "a.0 live, a.1 live, a.2 live, b.0 rolled_back",
               *at_2 = "a.0 pinned retracted, a.1 live, a.2 live, b.0 rolled_back",
               *at_3 = "a.0 retracted, a.1 live, a.2 live, b.0 live";
    assert_string_equal(fact_states(store, -1), at_3);

    assert_done(publish(store, 4, 2, NULL, &err));
    assert_string_equal(fact_states(store, -1), at_2);
    assert_done(publish(store, 5, 3, NULL, &err));
    assert_string_equal(fact_states(store, -1), at_3);
    assert_done(publish(store, 6, 1, NULL, &err));
    assert_string_equal(fact_states(store, -1), at_1);
    assert_done(publish(store, 7, 4, NULL, &err));
    assert_string_equal(fact_states(store, -1), at_2);
    assert_done(publish(store, 8, 0, NULL, &err));
    assert_string_equal(
        fact_states(store, -1),
        "a.0 rolled_back, a.1 rolled_back, a.2 rolled_back, b.0 rolled_back");
    assert_done(publish(store, 9, 7, NULL, &err));
    assert_string_equal(fact_states(store, -1), at_2);
    assert_int_equal(live_facts(store, 9), 2);
    mal_store_close(store);
}

static void repairs_and_consolidations_change_no_states(void **state) {
    struct mal_store *store = taught(state);
    assert_done(retract(store, 2, &(struct mal_retraction){"a.0", true}, 1, &err));
    char *before = strdup(fact_states(store, -1));
    struct mal_fact_result result = {"a.1", "{\"rank\":1}"};
    for (int i = 0; i < 2; i++) {
        struct mal_version_row row = version_row(3 + i, -1);
        row.kind = i ? MAL_VERSION_CONSOLIDATION : MAL_VERSION_REPAIR;
        struct mal_publish p = {.row = &row, .facts = &result, .n_facts = 1};
        assert_done(mal_store_publish(store, &p, &err));
        assert_string_equal(fact_states(store, -1), before);
        assert_int_equal(row.live_facts, 2);
    }
    free(before);
    mal_store_close(store);
}

/* ---- Members ---- */

/* "seq" or "seq!" for pinned ones, of both lists, which must agree. */
static void assert_members(struct mal_store *store, const char *wanted) {
    struct mal_member *list;
    size_t n, n_rows;
    char text[64] = "";
    assert_done(mal_store_member_list(store, &list, &n, &err));
    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(text);
        struct mal_fact_row *rows;
        snprintf(text + used, sizeof text - used, "%d%s ", (int)list[i].seq,
                 list[i].pinned ? "!" : "");
        assert_done(mal_store_members(store, list[i].seq - 1, 1, &rows, &n_rows, &err));
        assert_int_equal(n_rows, 1);
        assert_int_equal(rows[0].seq, list[i].seq);
        assert_int_equal(rows[0].pinned, list[i].pinned);
        mal_fact_rows_free(rows, n_rows);
    }
    struct mal_fact_row *rows;
    assert_done(mal_store_members(store, 0, 100, &rows, &n_rows, &err));
    assert_int_equal(n_rows, n);
    mal_fact_rows_free(rows, n_rows);
    assert_string_equal(text, wanted);
    mal_free(list);
}

/* "id id " of those that leave when a fact is taught. */
static const char *members_against(struct mal_store *store, int64_t seq) {
    static char ids[64];
    struct mal_fact_row *rows;
    size_t n;
    assert_done(mal_store_members_against(store, seq, &rows, &n, &err));
    *ids = '\0';
    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(ids);
        snprintf(ids + used, sizeof ids - used, "%s ", rows[i].id);
    }
    mal_fact_rows_free(rows, n);
    return ids;
}

/* One job of facts {prompt, further phrasing or NULL, target}. */
static void add_phrased(struct mal_store *store, const char *id,
                        const char *const (*facts)[3], size_t n) {
    struct mal_job_row job = {.id = (char *)(uintptr_t)id,
                              .kind = MAL_JOB_EDIT,
                              .created_ms = 1000,
                              .to_version = -1};
    struct mal_fact_row rows[4] = {0};
    char ids[4][16], json[4][128];
    for (size_t i = 0; i < n; i++) {
        snprintf(ids[i], sizeof ids[i], "%s.%zu", id, i);
        snprintf(json[i], sizeof json[i], "{\"prompts\":[%s%s%s]}",
                 facts[i][1] ? "\"" : "", facts[i][1] ? facts[i][1] : "",
                 facts[i][1] ? "\"" : "");
        rows[i] = (struct mal_fact_row){.id = ids[i],
                                        .prompt = (char *)(uintptr_t)facts[i][0],
                                        .target = (char *)(uintptr_t)facts[i][2],
                                        .fact_json = json[i]};
    }
    struct mal_fact_source source = {.n = n, .get = get_fact_row, .arg = rows};
    assert_done(mal_store_add_job(store, &job, &source, NULL, NULL, NULL, asked(), &err));
}

/* And what was dropped is retracted no more. */
static void pinned_facts_are_dropped(void **state) {
    struct mal_store *store = taught(state);
    const struct mal_retraction pin = {"a.0", true},
                                drop[] = {{"a.0", false}, {"a.1", false}};
    assert_done(retract(store, 2, &pin, 1, &err));
    assert_done(retract(store, 3, drop, 2, &err));
    const char *at_2 = "a.0 pinned retracted, a.1 live, a.2 live",
               *at_3 = "a.0 retracted, a.1 retracted, a.2 live";
    assert_string_equal(fact_states(store, -1), at_3);
    assert_int_equal(live_facts(store, 3), 1);
    assert_members(store, "3 ");
    assert_fails(MAL_CONFLICT, "fact 'a.0' is retracted",
                 retract(store, 4, drop, 1, &err));
    assert_fails(MAL_CONFLICT, "fact 'a.0' is retracted",
                 retract(store, 4, &pin, 1, &err));

    assert_done(publish(store, 4, 2, NULL, &err));
    assert_string_equal(fact_states(store, -1), at_2);
    assert_members(store, "1! 2 3 ");
    assert_done(publish(store, 5, 3, NULL, &err));
    assert_string_equal(fact_states(store, -1), at_3);
    assert_members(store, "3 ");
    mal_store_close(store);
}

/* Two facts that share a text and not the target are never live together, whichever of
 * their texts it is. */
static void phrasings_supersede(void **state) {
    static const char *const old[][3] = {
        {"p", "p2", "x"}, {"q", "q2", "x"}, {"r", "r2", "x"}, {"s", "s2", "x"}};
    static const char *const new[][3] = {
        {"p2", NULL, "y"},   /* a phrasing is a prompt */
        {"t", "q", "y"},     /* a prompt is a phrasing */
        {"u", "r2  ", "y"},  /* one phrasing, spaces at its end aside */
        {"s2", "v", "  x"}}; /* the same target: both stay */
    struct mal_store *store = open_store(path_of(state));
    assert_done(publish(store, 0, -1, NULL, &err));
    add_phrased(store, "a", old, 4);
    assert_done(publish(store, 1, -1, "a", &err));
    add_phrased(store, "b", new, 4);
    assert_string_equal(members_against(store, 5), "a.0 ");
    assert_string_equal(members_against(store, 6), "a.1 ");
    assert_string_equal(members_against(store, 7), "a.2 ");
    assert_string_equal(members_against(store, 8), "");
    assert_done(publish(store, 2, -1, "b", &err));
    assert_string_equal(fact_states(store, -1),
                        "a.0 superseded by b.0, a.1 superseded by b.1, "
                        "a.2 superseded by b.2, a.3 live, "
                        "b.0 live, b.1 live, b.2 live, b.3 live");
    assert_members(store, "4 5 6 7 8 ");

    const struct mal_retraction pin[] = {{"b.3", true}};
    assert_done(retract(store, 3, pin, 1, &err));
    add_phrased(store, "c", (const char *const[][3]){{"w", "v", "x"}}, 1);
    assert_string_equal(members_against(store, 9), "b.3 "); /* pinned: any target */
    assert_done(publish(store, 4, -1, "c", &err));
    assert_members(store, "4 5 6 7 9 ");

    add_phrased(store, "d", (const char *const[][3]){{"p", "p2", "z"}, {"t", "w", "z"}},
                2);
    assert_string_equal(members_against(store, 10), "b.0 ");
    assert_string_equal(members_against(store, 11), "b.1 c.0 ");
    mal_store_close(store);
}

static void members_are_live_or_pinned(void **state) {
    struct mal_store *store = open_store(path_of(state));
    assert_members(store, "");
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(add_job(store, "a", 3, (const char *[]){"p", "q", "r"}, &err));
    assert_members(store, "");
    assert_done(publish(store, 1, -1, "a", &err));
    assert_members(store, "1 2 3 ");
    const struct mal_retraction two[] = {{"a.0", true}, {"a.2", false}};
    assert_done(retract(store, 2, two, 2, &err));
    assert_members(store, "1! 2 ");
    assert_done(add_job(store, "b", 3, (const char *[]){"p", "r", "q"}, &err));
    assert_string_equal(members_against(store, 4), "a.0 ");
    assert_string_equal(members_against(store, 5), "");
    assert_string_equal(members_against(store, 6), "a.1 ");
    assert_done(publish(store, 3, -1, "b", &err));
    assert_members(store, "4 5 6 ");
    assert_done(publish(store, 4, 2, NULL, &err));
    assert_members(store, "1! 2 ");

    struct mal_fact_row row;
    assert_done(mal_store_get_fact_seq(store, 1, &row, &err));
    assert_string_equal(row.id, "a.0");
    assert_true(row.pinned);
    mal_fact_row_finish(&row);
    assert_fails(MAL_NOT_FOUND, "no fact 7",
                 mal_store_get_fact_seq(store, 7, &row, &err));
    mal_store_close(store);
}

/* The rows of facts are long: comparing members must not read them. */
static void member_list_reads_an_index_only(void **state) {
    struct mal_store *store = open_store(path_of(state));
    char sql[512];
    struct dump plan = {0};
    snprintf(sql, sizeof sql, "EXPLAIN QUERY PLAN %s",
             mal_sql_texts[MAL_SQL_MEMBER_LIST]);
    assert_int_equal(sqlite3_exec(store->db, sql, dump_row, &plan, NULL), SQLITE_OK);
    assert_non_null(strstr(plan.text, "COVERING INDEX facts_members"));
    assert_null(strstr(plan.text, "TEMP B-TREE"));
    free(plan.text);
    mal_store_close(store);
}

/* ---- Rejected facts and results ---- */

static void rejected_facts_are_not_taught(void **state) {
    struct mal_store *store = taught(state);
    assert_done(add_job(store, "b", 3, (const char *[]){"p", "q", "s"}, &err));
    assert_done(add_job(store, "c", 1, (const char *[]){"s"}, &err));
    const char *jobs[] = {"b", "c"}, *rejected[] = {"b.0", "c.0"};
    const char *wrong[] = {"a.0", "z.0", "b.0"};
    struct mal_version_row row = version_row(2, -1);
    struct mal_fact_result result = {"b.0", "{\"rank\":9}"};
    struct mal_publish p = {.row = &row,
                            .jobs = jobs,
                            .n_jobs = 2,
                            .facts = &result,
                            .n_facts = 1,
                            .rejected = rejected,
                            .n_rejected = 2};
    for (size_t i = 0; i < 3; i++) {
        const char *list[] = {"b.0", wrong[i]};
        struct mal_publish bad = p;
        bad.rejected = list;
        assert_fails(MAL_CONFLICT, wrong[i], mal_store_publish(store, &bad, &err));
    }
    assert_done(mal_store_publish(store, &p, &err));
    assert_string_equal(fact_states(store, -1),
                        "a.0 live, a.1 superseded by b.1, a.2 live, b.0 rejected, "
                        "b.1 live, b.2 live, c.0 rejected");
    assert_int_equal(row.live_facts, 4);
    struct mal_fact_row fact;
    assert_done(mal_store_get_fact(store, "b.0", &fact, &err));
    assert_int_equal(fact.version, -1);
    assert_string_equal(fact.verified_json, "{\"rank\":9}");
    mal_fact_row_finish(&fact);
    assert_done(publish(store, 3, 1, NULL, &err)); /* and stay so */
    assert_string_equal(fact_states(store, -1),
                        "a.0 live, a.1 live, a.2 live, b.0 rejected, b.1 rolled_back, "
                        "b.2 rolled_back, c.0 rejected");
    mal_store_close(store);
}

static void assert_verified(struct mal_store *store, const char *id, const char *wanted) {
    struct mal_fact_row row;
    assert_done(mal_store_get_fact(store, id, &row, &err));
    if (wanted) {
        assert_string_equal(row.verified_json, wanted);
    } else {
        assert_null(row.verified_json);
    }
    mal_fact_row_finish(&row);
}

static void results_are_of_facts_live_before_or_after(void **state) {
    struct mal_store *store = taught(state);
    assert_done(add_job(store, "b", 1, (const char *[]){"p"}, &err));
    assert_done(add_job(store, "c", 1, (const char *[]){"s"}, &err));
    const char *job = "b";
    struct mal_fact_result results[] = {{"a.0", "0"}, {"a.1", "1"}, {"b.0", "2"}};
    struct mal_version_row row = version_row(2, -1);
    struct mal_publish p = {
        .row = &row, .jobs = &job, .n_jobs = 1, .facts = results, .n_facts = 3};
    assert_done(mal_store_publish(store, &p, &err));
    assert_verified(store, "a.0", "0");
    assert_verified(store, "a.1", "1");
    assert_verified(store, "a.2", NULL);
    assert_verified(store, "b.0", "2");

    struct mal_fact_result later[] = {{"a.1", "3"}, {"b.0", NULL}, {"a.2", "4"}};
    const struct mal_retraction retracted = {"a.2", true};
    row = version_row(3, -1);
    p = (struct mal_publish){.row = &row,
                             .facts = later,
                             .n_facts = 3,
                             .retracted = &retracted,
                             .n_retracted = 1};
    assert_done(mal_store_publish(store, &p, &err));
    assert_verified(store, "a.1", "3");
    assert_verified(store, "a.2", "4");
    assert_verified(store, "b.0", "2"); /* not measured: what was known stays */

    static const char *const others[] = {"a.0", "a.2", "c.0", "z.0"};
    for (size_t i = 0; i < 4; i++) {
        struct mal_fact_result result = {others[i], "5"};
        row = version_row(4, -1);
        p = (struct mal_publish){.row = &row, .facts = &result, .n_facts = 1};
        assert_fails(MAL_CONFLICT, others[i], mal_store_publish(store, &p, &err));
    }
    mal_store_close(store);
}

/* Once a fact is measured again there is no version to say so with. */
static void results_without_a_version(void **state) {
    struct mal_store *store = taught(state);
    const struct mal_fact_result both[] = {{"a.0", "0"}, {"a.1", "1"}};
    assert_done(mal_store_note_results(store, 1, both, 2, &err));
    assert_verified(store, "a.0", "0");
    assert_verified(store, "a.1", "1");
    assert_verified(store, "a.2", NULL);
    int64_t last;
    assert_done(mal_store_last_version(store, &last, &err));
    assert_int_equal(last, 1);

    assert_done(retract(store, 2, &(struct mal_retraction){"a.1", true}, 1, &err));
    const struct mal_fact_result later[] = {{"a.0", "7"}, {"a.2", "8"}};
    assert_fails(MAL_CONFLICT, "version 1 was measured, 2 is live",
                 mal_store_note_results(store, 1, later, 2, &err));
    static const char *const gone[] = {"a.1", "z.0"};
    for (size_t i = 0; i < 2; i++) {
        const struct mal_fact_result list[] = {{"a.0", "7"}, {gone[i], "9"}};
        assert_fails(MAL_CONFLICT, gone[i],
                     mal_store_note_results(store, 2, list, 2, &err));
    }
    assert_verified(store, "a.0", "0");
    assert_verified(store, "a.1", "1");
    mal_store_close(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACE_TEST(retracted_facts_end),
        PLACE_TEST(only_live_facts_are_retracted),
        PLACE_TEST(one_version_does_not_retract_what_it_replaces),
        PLACE_TEST(newer_facts_unpin_and_rollbacks_pin_again),
        PLACE_TEST(repairs_and_consolidations_change_no_states),
        PLACE_TEST(members_are_live_or_pinned),
        PLACE_TEST(pinned_facts_are_dropped),
        PLACE_TEST(phrasings_supersede),
        PLACE_TEST(phrasings_supersede),
        PLACE_TEST(member_list_reads_an_index_only),
        PLACE_TEST(rejected_facts_are_not_taught),
        PLACE_TEST(results_are_of_facts_live_before_or_after),
        PLACE_TEST(results_without_a_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
