/* test_store.c - jobs, facts, versions and blobs through the store's interface. */
#include "store_fixture.h"

/* ---- Words and meta ---- */

static void words_go_both_ways(void **state) {
    for (int i = 0; i < MAL_N_JOB_KINDS; i++) {
        assert_int_equal(mal_job_kind_from_name(mal_job_kind_name((enum mal_job_kind)i)),
                         i);
    }
    for (int i = 0; i < MAL_N_JOB_STATES; i++) {
        assert_int_equal(
            mal_job_state_from_name(mal_job_state_name((enum mal_job_state)i)), i);
    }
    for (int i = 0; i < MAL_N_FACT_STATES; i++) {
        enum mal_fact_state fact_state = (enum mal_fact_state)i;
        assert_int_equal(mal_fact_state_from_name(mal_fact_state_name(fact_state)), i);
    }
    for (int i = 0; i < MAL_N_VERSION_KINDS; i++) {
        enum mal_version_kind kind = (enum mal_version_kind)i;
        assert_int_equal(mal_version_kind_from_name(mal_version_kind_name(kind)), i);
    }
    assert_int_equal(mal_job_kind_from_name("Edit"), -1);
    assert_string_equal(mal_fact_state_name(MAL_FACT_ROLLED_BACK), "rolled_back");
    assert_false(mal_job_state_ended(MAL_JOB_RUNNING));
    assert_true(mal_job_state_ended(MAL_JOB_CANCELLED));
}

static void meta_is_set_once(void **state) {
    struct mal_store *store = open_store(path_of(state));
    char *value = (char *)1;
    assert_done(mal_store_get_meta(store, "base_model", &value, &err));
    assert_null(value);
    assert_done(mal_store_set_meta(store, "base_model", "abc", &err));
    assert_done(mal_store_set_meta(store, "base_model", "abc", &err));
    assert_fails(MAL_CONFLICT, "base_model is 'abc', not 'abd'",
                 mal_store_set_meta(store, "base_model", "abd", &err));
    mal_store_close(store);

    store = open_store(path_of(state));
    assert_done(mal_store_get_meta(store, "base_model", &value, &err));
    assert_string_equal(value, "abc");
    mal_free(value);
    assert_done(mal_store_check(store, &err));
    mal_store_close(store);
}

/* ---- Jobs ---- */

static void job_comes_back_as_given(void **state) {
    struct mal_store *store = open_store(path_of(state));
    char id[] = "job_1", note[] = "why \"so\"\n", request[] = "{}", fact_id[] = "fact_1";
    char prompt[] = "Wo liegt Zürich?", target[] = "hier", json[] = "{\"prompt\":1}";
    struct mal_job_row job = {.id = id,
                              .kind = MAL_JOB_EDIT,
                              .created_ms = 1700000000123,
                              .to_version = -1,
                              .note = note,
                              .request_json = request};
    struct mal_fact_row fact = {
        .id = fact_id, .prompt = prompt, .target = target, .fact_json = json};
    struct mal_fact_source source = {.n = 1, .get = get_fact_row, .arg = &fact};
    assert_done(mal_store_add_job(store, &job, &source, NULL, NULL, NULL, asked(), &err));

    struct mal_job_row row;
    assert_done(mal_store_get_job(store, id, &row, &err));
    assert_string_equal(row.id, id);
    assert_int_equal(row.kind, MAL_JOB_EDIT);
    assert_int_equal(row.state, MAL_JOB_QUEUED);
    assert_int_equal(row.created_ms, job.created_ms);
    assert_int_equal(row.started_ms, 0);
    assert_int_equal(row.finished_ms, 0);
    assert_int_equal(row.n_facts, 1);
    assert_int_equal(row.version, -1);
    assert_int_equal(row.to_version, -1);
    assert_string_equal(row.note, note);
    assert_string_equal(row.request_json, request);
    assert_null(row.result_json);
    assert_null(row.error_json);
    mal_job_row_finish(&row);

    struct mal_fact_row got;
    assert_done(mal_store_get_fact(store, fact_id, &got, &err));
    assert_int_equal(got.seq, 1);
    assert_string_equal(got.job, id);
    assert_int_equal(got.index, 0);
    assert_int_equal(got.state, MAL_FACT_QUEUED);
    assert_int_equal(got.version, -1);
    assert_string_equal(got.prompt, prompt);
    assert_string_equal(got.target, target);
    assert_string_equal(got.fact_json, json);
    assert_null(got.verified_json);
    assert_null(got.superseded_by);
    mal_fact_row_finish(&got);

    assert_fails(MAL_NOT_FOUND, "'job_2'", mal_store_get_job(store, "job_2", &row, &err));
    assert_fails(MAL_NOT_FOUND, "'fact_2'",
                 mal_store_get_fact(store, "fact_2", &got, &err));
    mal_store_close(store);
}

/* An evaluation's facts are only for who asks for them, and gone when it has ended. */
static void evaluation_keeps_its_facts_apart(void **state) {
    struct mal_store *store = open_store(path_of(state));
    char id[] = "job_1", suite[] = "s", facts[] = "[{},\n{}]";
    const char *ids[] = {id};
    struct mal_job_row job = {.id = id,
                              .kind = MAL_JOB_EVALUATION,
                              .created_ms = 5,
                              .n_facts = 2,
                              .to_version = 3,
                              .note = suite,
                              .request_json = facts};
    assert_done(mal_store_add_job(store, &job, NULL, NULL, NULL, NULL, asked(), &err));
    assert_done(mal_store_start_jobs(store, ids, 1, 6, &err));
    struct mal_job_row row;
    char *text = NULL;
    for (int ended = 0; ended < 2; ended++) {
        assert_done(mal_store_get_job(store, id, &row, &err));
        assert_int_equal(row.n_facts, 2);
        assert_int_equal(row.to_version, 3);
        assert_string_equal(row.note, suite);
        assert_null(row.request_json);
        mal_job_row_finish(&row);
        assert_done(mal_store_job_request(store, id, &text, &err));
        if (ended) break;
        assert_string_equal(text, facts);
        mal_free(text);
        assert_done(
            mal_store_end_jobs(store, ids, 1, MAL_JOB_DONE, 7, "{\"r\":1}", NULL, &err));
    }
    assert_null(text);
    assert_fails(MAL_NOT_FOUND, "'job_2'",
                 mal_store_job_request(store, "job_2", &text, &err));

    char other[] = "job_2", gate[] = "{\"gate\":{}}";
    struct mal_job_row edit = {.id = other, .to_version = -1, .request_json = gate};
    const char *others[] = {other};
    assert_done(mal_store_add_job(store, &edit, NULL, NULL, NULL, NULL, asked(), &err));
    assert_done(
        mal_store_end_jobs(store, others, 1, MAL_JOB_REJECTED, 8, NULL, NULL, &err));
    assert_done(mal_store_get_job(store, other, &row, &err));
    assert_string_equal(row.request_json, gate);
    mal_job_row_finish(&row);
    mal_store_close(store);
}

static void taken_ids_insert_nothing(void **state) {
    struct mal_store *store = open_store(path_of(state));
    const char *prompts[] = {"p", "q"};
    assert_done(add_job(store, "a", 2, prompts, &err));
    char *before = dump_all(store->db);
    assert_fails(MAL_CONFLICT, "job 'a'", add_job(store, "a", 1, prompts, &err));

    char id[] = "b", fresh[] = "b.0", taken[] = "a.1";
    struct mal_job_row job = {.id = id, .to_version = -1};
    struct mal_fact_row facts[2] = {
        {.id = fresh, .prompt = id, .target = id, .fact_json = id},
        {.id = taken, .prompt = id, .target = id, .fact_json = id},
    };
    struct mal_fact_source source = {.n = 2, .get = get_fact_row, .arg = facts};
    assert_fails(
        MAL_CONFLICT, "fact 1, 'a.1'",
        mal_store_add_job(store, &job, &source, NULL, NULL, NULL, asked(), &err));
    char *after = dump_all(store->db);
    assert_string_equal(before, after);
    free(before);
    free(after);
    mal_store_close(store);
}

static void idempotency_keys_are_remembered(void **state) {
    struct mal_store *store = open_store(path_of(state));
    char id[] = "a", other[] = "b", *hash = (char *)1, *answer = (char *)1;
    struct mal_job_row job = {.id = id, .to_version = -1};
    assert_done(mal_store_find_idempotency(store, "k", &hash, &answer, &err));
    assert_null(hash);
    assert_null(answer);
    assert_done(
        mal_store_add_job(store, &job, NULL, "k", "h1", "{\"id\":\"a\"}", asked(), &err));
    job.id = other;
    assert_fails(MAL_CONFLICT, "idempotency key 'k'",
                 mal_store_add_job(store, &job, NULL, "k", "h2", "{}", asked(), &err));
    assert_fails(MAL_NOT_FOUND, "'b'", mal_store_get_job(store, other, &job, &err));
    mal_store_close(store);

    store = open_store(path_of(state));
    assert_done(mal_store_find_idempotency(store, "k", &hash, &answer, &err));
    assert_string_equal(hash, "h1");
    assert_string_equal(answer, "{\"id\":\"a\"}");
    mal_free(hash);
    mal_free(answer);
    mal_store_close(store);
}

static void jobs_page_through_newest_first(void **state) {
    struct mal_store *store = open_store(path_of(state));
    const char *prompts[] = {"p"};
    for (int i = 0; i < 45; i++) {
        char id[16];
        snprintf(id, sizeof id, "job_%02d", i);
        assert_done(add_job(store, id, i % 3 == 0 ? 0 : 1, prompts, &err));
        const char *ids[] = {id};
        if (i % 5 == 0) assert_done(mal_store_start_jobs(store, ids, 1, 5, &err));
    }
    for (int kind = -1; kind <= MAL_JOB_ROLLBACK; kind++) {
        for (int job_state = -1; job_state <= MAL_JOB_RUNNING; job_state++) {
            struct mal_job_query query = {.kind = kind, .state = job_state, .limit = 4};
            char after[16];
            bool more = true;
            int next = 44;
            while (more) {
                struct mal_job_row *rows;
                size_t n;
                assert_done(mal_store_list_jobs(store, &query, &rows, &n, &more, &err));
                assert_true(n == 4 || !more);
                for (size_t i = 0; i < n; i++, next--) {
                    while ((kind >= 0 && (next % 3 == 0) != (kind == MAL_JOB_ROLLBACK)) ||
                           (job_state >= 0 &&
                            (next % 5 == 0) != (job_state == MAL_JOB_RUNNING))) {
                        next--;
                    }
                    assert_int_equal(atoi(rows[i].id + 4), next);
                    snprintf(after, sizeof after, "%s", rows[i].id);
                }
                query.after = after;
                mal_job_rows_free(rows, n);
            }
            assert_true(next < 5);
        }
    }
    struct mal_job_row *rows;
    size_t n;
    bool more;
    struct mal_job_query unknown = {
        .kind = -1, .state = -1, .after = "job_99", .limit = 4};
    assert_fails(MAL_NOT_FOUND, "'job_99'",
                 mal_store_list_jobs(store, &unknown, &rows, &n, &more, &err));
    mal_store_close(store);
}

static void jobs_change_state_in_order(void **state) {
    struct mal_store *store = open_store(path_of(state));
    const char *prompts[] = {"p", "q"}, *ab[] = {"a", "b"}, *ac[] = {"a", "c"};
    const char *unknown[] = {"c", "z"};
    for (const char *id = "a\0b\0c\0"; *id; id += 2) {
        assert_done(add_job(store, id, 2, prompts, &err));
    }
    assert_done(mal_store_start_jobs(store, ab, 2, 77, &err));
    assert_fails(MAL_CONFLICT, "job 'a' is running",
                 mal_store_start_jobs(store, ac, 2, 78, &err));
    assert_fails(MAL_NOT_FOUND, "'z'", mal_store_start_jobs(store, unknown, 2, 78, &err));

    struct mal_job_row *rows;
    size_t n;
    assert_done(mal_store_queued_jobs(store, &rows, &n, &err));
    assert_int_equal(n, 1);
    assert_string_equal(rows[0].id, "c");
    assert_int_equal(rows[0].n_facts, 2);
    mal_job_rows_free(rows, n);

    assert_done(mal_store_cancel_job(store, "c", 90, asked(), &err));
    assert_fails(MAL_CONFLICT, "job 'c' is cancelled",
                 mal_store_end_jobs(store, ac, 2, MAL_JOB_FAILED, 90, NULL, "{}", &err));
    assert_done(
        mal_store_end_jobs(store, ab, 1, MAL_JOB_FAILED, 91, NULL, "{\"e\":1}", &err));
    struct mal_job_row row;
    assert_done(mal_store_get_job(store, "a", &row, &err));
    assert_int_equal(row.state, MAL_JOB_FAILED);
    assert_int_equal(row.started_ms, 77);
    assert_int_equal(row.finished_ms, 91);
    assert_string_equal(row.error_json, "{\"e\":1}");
    assert_null(row.result_json);
    mal_job_row_finish(&row);
    assert_string_equal(fact_states(store, -1),
                        "a.0 failed, a.1 failed, b.0 queued, b.1 queued, c.0 rejected, "
                        "c.1 rejected");

    int64_t n_requeued;
    assert_done(mal_store_requeue_running(store, &n_requeued, &err));
    assert_int_equal(n_requeued, 1);
    assert_done(mal_store_get_job(store, "b", &row, &err));
    assert_int_equal(row.state, MAL_JOB_QUEUED);
    assert_int_equal(row.started_ms, 0);
    mal_job_row_finish(&row);

    struct mal_store_counts counts;
    assert_done(mal_store_counts(store, &counts, &err));
    assert_int_equal(counts.jobs[MAL_JOB_QUEUED], 1);
    assert_int_equal(counts.jobs[MAL_JOB_FAILED], 1);
    assert_int_equal(counts.jobs[MAL_JOB_CANCELLED], 1);
    assert_int_equal(counts.jobs[MAL_JOB_RUNNING], 0);
    assert_int_equal(counts.versions, 0);
    mal_store_close(store);
}

/* ---- Facts ---- */

static void facts_are_found_by_what_they_are(void **state) {
    struct mal_store *store = open_store(path_of(state));
    const char *one[] = {"p", "q", "r"}, *two[] = {"q", "s"};
    assert_done(add_job(store, "a", 3, one, &err));
    assert_done(add_job(store, "b", 2, two, &err));
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(publish(store, 1, -1, "a", &err));

    static const struct {
        struct mal_fact_query query;
        const char *ids;
        bool more;
    } cases[] = {
        {{-1, -1, NULL, NULL, NULL, 9}, "a.0 a.1 a.2 b.0 b.1 ", false},
        {{-1, -1, NULL, NULL, NULL, 2}, "a.0 a.1 ", true},
        {{-1, -1, NULL, NULL, "a.1", 3}, "a.2 b.0 b.1 ", false},
        {{-1, -1, NULL, NULL, "b.1", 3}, "", false},
        {{MAL_FACT_LIVE, -1, NULL, NULL, NULL, 9}, "a.0 a.1 a.2 ", false},
        {{MAL_FACT_QUEUED, -1, "q", NULL, NULL, 9}, "b.0 ", false},
        {{-1, -1, "q", NULL, NULL, 9}, "a.1 b.0 ", false},
        {{-1, -1, "q", NULL, "a.1", 9}, "b.0 ", false},
        {{-1, -1, "nothing", NULL, NULL, 9}, "", false},
        {{-1, -1, NULL, "b", NULL, 1}, "b.0 ", true},
        {{-1, -1, NULL, "b", "b.0", 1}, "b.1 ", false},
        {{-1, 0, NULL, NULL, NULL, 9}, "", false},
        {{-1, 1, NULL, NULL, NULL, 2}, "a.0 a.1 ", true},
        {{-1, 1, "r", "a", NULL, 2}, "a.2 ", false},
        {{-1, -1, NULL, NULL, NULL, 2, .newest_first = true}, "b.1 b.0 ", true},
        {{-1, -1, NULL, NULL, "b.0", 9, .newest_first = true}, "a.2 a.1 a.0 ", false},
        {{MAL_FACT_LIVE, -1, NULL, NULL, NULL, 1, .newest_first = true}, "a.2 ", true},
        {{-1, -1, "q", NULL, NULL, 9, .newest_first = true}, "b.0 a.1 ", false},
        {{-1, -1, NULL, "a", "a.1", 9, .newest_first = true}, "a.0 ", false},
        {{-1, -1, NULL, NULL, NULL, 9, .text = "Q"}, "a.1 b.0 ", false},
        {{-1, -1, NULL, NULL, NULL, 1, .text = "q", .newest_first = true}, "b.0 ", true},
        {{MAL_FACT_LIVE, -1, NULL, NULL, NULL, 9, .text = "q"}, "a.1 ", false},
        {{-1, -1, NULL, "b", NULL, 9, .text = "s"}, "b.1 ", false},
        {{-1, -1, NULL, NULL, NULL, 9, .text = "%"}, "", false},
        {{-1, -1, NULL, NULL, NULL, 9, .text = "_"}, "", false},
        {{-1, -1, NULL, NULL, NULL, 9, .text = "\\"}, "", false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mal_fact_row *rows;
        size_t n;
        bool more;
        char ids[64] = "";
        assert_done(mal_store_list_facts(store, &cases[i].query, &rows, &n, &more, &err));
        for (size_t j = 0; j < n; j++)
            strcat(strcat(ids, rows[j].id), " ");
        assert_string_equal(ids, cases[i].ids);
        assert_int_equal(more, cases[i].more);
        mal_fact_rows_free(rows, n);
    }
    static const struct mal_fact_query unknown[] = {{-1, -1, NULL, NULL, "z", 9},
                                                    {-1, 2, NULL, NULL, NULL, 9},
                                                    {-1, -1, NULL, "z", NULL, 9}};
    for (size_t i = 0; i < 3; i++) {
        struct mal_fact_row *rows;
        size_t n;
        bool more;
        assert_fails(MAL_NOT_FOUND, "there is no",
                     mal_store_list_facts(store, &unknown[i], &rows, &n, &more, &err));
    }
    struct mal_fact_row *rows;
    size_t n;
    assert_done(mal_store_job_facts(store, "a", &rows, &n, &err));
    assert_int_equal(n, 3);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(rows[i].index, i);
    mal_fact_rows_free(rows, n);
    mal_store_close(store);
}

/* ---- Readers ---- */

static void reader_sees_what_was_committed(void **state) {
    struct mal_store *writer = open_store(path_of(state));
    struct mal_store *reader = open_reader(path_of(state));
    const char *prompts[] = {"p"};
    struct mal_job_row row;
    int64_t last = 7;
    assert_done(mal_store_last_version(reader, &last, &err));
    assert_int_equal(last, -1);
    assert_done(add_job(writer, "a", 1, prompts, &err));
    assert_done(mal_store_get_job(reader, "a", &row, &err));
    mal_job_row_finish(&row);

    assert_done(mal_tx_begin(writer, &err));
    assert_int_equal(sqlite3_exec(writer->db, "DELETE FROM facts", NULL, NULL, NULL),
                     SQLITE_OK);
    assert_string_equal(fact_states(reader, -1), "a.0 queued");
    assert_fails(MAL_OK, "", mal_tx_end(writer, false, &err));
    mal_store_close(reader);
    mal_store_close(writer);
}

/* verify looks at a database nobody serves, and the daemon opens it after that. */
static void reader_works_without_a_writer(void **state) {
    struct mal_store *store = open_store(path_of(state));
    const char *prompts[] = {"p"};
    assert_done(add_job(store, "a", 1, prompts, &err));
    mal_store_close(store);
    for (int i = 0; i < 2; i++) {
        store = open_reader(path_of(state));
        assert_string_equal(fact_states(store, -1), "a.0 queued");
        assert_done(mal_store_check(store, &err));
        mal_store_close(store);
        store = open_store(path_of(state));
        mal_store_close(store);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACE_TEST(words_go_both_ways),
        PLACE_TEST(meta_is_set_once),
        PLACE_TEST(job_comes_back_as_given),
        PLACE_TEST(evaluation_keeps_its_facts_apart),
        PLACE_TEST(taken_ids_insert_nothing),
        PLACE_TEST(idempotency_keys_are_remembered),
        PLACE_TEST(jobs_page_through_newest_first),
        PLACE_TEST(jobs_change_state_in_order),
        PLACE_TEST(facts_are_found_by_what_they_are),
        PLACE_TEST(reader_sees_what_was_committed),
        PLACE_TEST(reader_works_without_a_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
