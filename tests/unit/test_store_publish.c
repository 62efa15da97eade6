/* test_store_publish.c - versions: publishing, superseding, rolling back, blobs; all or
 * nothing. */
#include "store_fixture.h"

/* ---- Publishing ---- */

static void version_comes_back_as_published(void **state) {
    struct mal_store *store = open_store(path_of(state));
    char weights[] = "w", chain[] = "c", delta[] = "d", encoding[] = "factors";
    char method[] = "m", editor[] = "e", update[] = "sequential", modules[] = "[1]";
    char measures[] = "{\"es\":1}", values[] = "v";
    struct mal_fact_values fact = {1, "x", 1, "ff"};
    assert_done(add_job(store, "a", 1, (const char *[]){"p"}, &err));
    assert_done(publish(store, 0, -1, NULL, &err));
    struct mal_version_row row = {.version = 1,
                                  .kind = MAL_VERSION_EDIT,
                                  .created_ms = 2999,
                                  .to_version = -1,
                                  .n_facts = 5,
                                  .weights_hash = weights,
                                  .chain_hash = chain,
                                  .delta_hash = delta,
                                  .encoding = encoding,
                                  .delta_bytes = 1234,
                                  .editor_method = method,
                                  .editor_hash = editor,
                                  .update = update,
                                  .modules_json = modules,
                                  .measures_json = measures,
                                  .keyframe = true,
                                  .values_hash = values,
                                  .basis = chain};
    struct mal_publish p = {.row = &row, .now_ms = 3000};
    assert_done(mal_store_stage_values(store, 1, &fact, 1, &err));
    assert_done(mal_store_publish(store, &p, &err));

    struct mal_version_row got;
    assert_done(mal_store_get_version(store, 1, &got, &err));
    assert_int_equal(got.version, 1);
    assert_int_equal(got.parent, 0);
    assert_int_equal(got.kind, MAL_VERSION_EDIT);
    assert_int_equal(got.created_ms, 2999);
    assert_int_equal(got.to_version, -1);
    assert_int_equal(got.n_facts, 5);
    assert_int_equal(got.live_facts, 0);
    assert_string_equal(got.weights_hash, weights);
    assert_string_equal(got.chain_hash, chain);
    assert_string_equal(got.delta_hash, delta);
    assert_string_equal(got.encoding, encoding);
    assert_int_equal(got.delta_bytes, 1234);
    assert_string_equal(got.editor_method, method);
    assert_string_equal(got.editor_hash, editor);
    assert_string_equal(got.update, update);
    assert_string_equal(got.modules_json, modules);
    assert_string_equal(got.measures_json, measures);
    assert_false(got.pruned);
    assert_true(got.keyframe);
    assert_string_equal(got.values_hash, values);
    assert_string_equal(got.basis, chain);
    mal_version_row_finish(&got);
    assert_done(mal_store_get_version(store, 0, &got, &err));
    assert_false(got.keyframe);
    assert_string_equal(got.values_hash, "");
    assert_string_equal(got.basis, "");
    mal_version_row_finish(&got);
    mal_store_close(store);
}

static void batch_is_applied(void **state) {
    struct mal_store *store = open_store(path_of(state));
    const char *prompts[] = {"p", "q", "r"}, *jobs[] = {"b", "a"};
    const char *results[] = {"{\"r\":1}", NULL};
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(add_job(store, "a", 2, prompts, &err));
    assert_done(add_job(store, "b", 1, prompts + 2, &err));
    assert_done(mal_store_start_jobs(store, jobs, 1, 2500, &err));
    struct mal_version_row row = version_row(1, -1);
    struct mal_fact_result facts[] = {{"a.1", "{\"rank\":1}"}, {"b.0", NULL}};
    struct mal_publish p = {.row = &row,
                            .jobs = jobs,
                            .job_results = results,
                            .n_jobs = 2,
                            .facts = facts,
                            .n_facts = 2,
                            .now_ms = 3000};
    assert_done(mal_store_publish(store, &p, &err));
    assert_int_equal(row.live_facts, 3);

    struct mal_job_row job;
    assert_done(mal_store_get_job(store, "b", &job, &err));
    assert_int_equal(job.state, MAL_JOB_APPLIED);
    assert_int_equal(job.version, 1);
    assert_int_equal(job.started_ms, 2500);
    assert_int_equal(job.finished_ms, 3000);
    assert_string_equal(job.result_json, results[0]);
    mal_job_row_finish(&job);

    char **ids;
    size_t n;
    assert_done(mal_store_version_jobs(store, 1, &ids, &n, &err));
    assert_int_equal(n, 2);
    assert_string_equal(ids[0], "b");
    assert_string_equal(ids[1], "a");
    mal_store_strings_free(ids, n);

    struct mal_fact_row fact;
    assert_done(mal_store_get_fact(store, "a.1", &fact, &err));
    assert_int_equal(fact.state, MAL_FACT_LIVE);
    assert_int_equal(fact.version, 1);
    assert_string_equal(fact.verified_json, "{\"rank\":1}");
    mal_fact_row_finish(&fact);
    assert_string_equal(fact_states(store, -1), "a.0 live, a.1 live, b.0 live");

    struct mal_store_counts counts;
    assert_done(mal_store_counts(store, &counts, &err));
    assert_int_equal(counts.versions, 2);
    assert_int_equal(counts.live_facts, 3);
    assert_int_equal(counts.jobs[MAL_JOB_APPLIED], 2);
    assert_done(mal_store_check(store, &err));
    mal_store_close(store);
}

static void versions_page_through_newest_first(void **state) {
    struct mal_store *store = open_store(path_of(state));
    struct mal_version_row *rows, row;
    int64_t last;
    size_t n;
    bool more;
    assert_done(mal_store_last_version(store, &last, &err));
    assert_int_equal(last, -1);
    assert_done(mal_store_list_versions(store, -1, 3, &rows, &n, &more, &err));
    assert_int_equal(n, 0);
    assert_false(more);
    for (int i = 0; i < 5; i++)
        assert_done(publish(store, i, -1, NULL, &err));
    assert_done(mal_store_last_version(store, &last, &err));
    assert_int_equal(last, 4);
    assert_done(mal_store_list_versions(store, -1, 3, &rows, &n, &more, &err));
    assert_int_equal(n, 3);
    assert_true(more);
    assert_int_equal(rows[2].version, 2);
    mal_version_rows_free(rows, n);
    assert_done(mal_store_list_versions(store, 2, 3, &rows, &n, &more, &err));
    assert_int_equal(n, 2);
    assert_false(more);
    assert_int_equal(rows[1].version, 0);
    assert_int_equal(rows[1].parent, -1);
    mal_version_rows_free(rows, n);
    assert_fails(MAL_NOT_FOUND, "version 5", mal_store_get_version(store, 5, &row, &err));
    mal_store_close(store);
}

/* A batch that is published twice, or whose jobs are not its own, must change nothing. */
static void wrong_batches_change_nothing(void **state) {
    struct mal_store *store = open_store(path_of(state));
    const char *prompts[] = {"p"};
    const char *ids = "a\0b\0c\0d\0";
    for (const char *id = ids; *id; id += 2) {
        assert_done(add_job(store, id, 1, prompts, &err));
    }
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(publish(store, 1, -1, "a", &err));
    assert_done(mal_store_cancel_job(store, "d", 9, asked(), &err));

    static const struct {
        int64_t version, parent, to_version;
        const char *jobs[2], *fact;
        enum mal_status status;
        const char *part;
    } cases[] = {
        {3, 1, -1, {"b", "c"}, "b.0", MAL_CONFLICT, "the next version is 2"},
        {1, 0, -1, {"b", "c"}, "b.0", MAL_CONFLICT, "the next version is 2"},
        {2, 0, -1, {"b", "c"}, "b.0", MAL_CONFLICT, "its parent must be 1"},
        {2, 1, 2, {"b", "c"}, "b.0", MAL_INVALID, "no version 2 to return to"},
        {2, 1, -1, {"b", "a"}, "b.0", MAL_CONFLICT, "job 'a' is applied"},
        {2, 1, -1, {"b", "d"}, "b.0", MAL_CONFLICT, "job 'd' is cancelled"},
        {2, 1, -1, {"b", "b"}, "b.0", MAL_CONFLICT, "job 'b' is applied"},
        {2, 1, -1, {"b", "z"}, "b.0", MAL_NOT_FOUND, "no job 'z'"},
        {2, 1, -1, {"b", "c"}, "d.0", MAL_CONFLICT, "fact 'd.0' is neither live"},
        {2, 1, -1, {"b", "c"}, "z.0", MAL_CONFLICT, "fact 'z.0' is neither live"},
    };

    char *before = dump_all(store->db);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mal_version_row row = version_row(cases[i].version, cases[i].to_version);
        row.parent = cases[i].parent;
        row.live_facts = 99;
        struct mal_fact_result fact = {cases[i].fact, "{}"};
        struct mal_publish p = {.row = &row,
                                .jobs = cases[i].jobs,
                                .n_jobs = 2,
                                .facts = &fact,
                                .n_facts = 1};
        assert_fails(cases[i].status, cases[i].part, mal_store_publish(store, &p, &err));
        assert_int_equal(row.live_facts, 99);
        char *after = dump_all(store->db);
        assert_string_equal(before, after);
        free(after);
    }
    free(before);
    mal_store_close(store);
}

/* ---- What becomes of facts ---- */

static void newer_facts_supersede_older_ones(void **state) {
    struct mal_store *store = open_store(path_of(state));
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(add_job(store, "a", 3, (const char *[]){"p", "q", "r"}, &err));
    assert_done(add_job(store, "b", 1, (const char *[]){"p"}, &err));
    assert_done(add_job(store, "c", 2, (const char *[]){"q", "p"}, &err));
    assert_done(publish(store, 1, -1, "a", &err));
    assert_string_equal(fact_states(store, -1),
                        "a.0 live, a.1 live, a.2 live, b.0 queued, "
                        "c.0 queued, c.1 queued");
    /* Two jobs in one batch end as they would one after the other. */
    const char *jobs[] = {"b", "c"};
    struct mal_version_row row = version_row(2, -1);
    struct mal_publish p = {.row = &row, .jobs = jobs, .n_jobs = 2, .now_ms = 1};
    assert_done(mal_store_publish(store, &p, &err));
    assert_string_equal(fact_states(store, -1),
                        "a.0 superseded by c.1, a.1 superseded by c.0, a.2 live, "
                        "b.0 superseded by c.1, c.0 live, c.1 live");
    assert_int_equal(row.live_facts, 3);
    assert_string_equal(
        fact_states(store, 1),
        "a.0 superseded by c.1, a.1 superseded by c.0, a.2 live"); /* live in 1, state now
                                                                    */
    struct mal_fact_row fact;
    assert_done(mal_store_get_fact(store, "b.0", &fact, &err));
    assert_int_equal(fact.version, 2);
    mal_fact_row_finish(&fact);
    mal_store_close(store);
}

/* The facts listed as live in each version, and the number its row states. */
static void assert_live_facts(struct mal_store *store, const int *wanted,
                              int n_versions) {
    for (int version = 0; version < n_versions; version++) {
        struct mal_fact_row *rows;
        struct mal_version_row row;
        size_t n;
        bool more;
        struct mal_fact_query query = {.state = -1, .version = version, .limit = 100};
        assert_done(mal_store_list_facts(store, &query, &rows, &n, &more, &err));
        assert_int_equal(n, wanted[version]);
        mal_fact_rows_free(rows, n);
        assert_done(mal_store_get_version(store, version, &row, &err));
        assert_int_equal(row.live_facts, wanted[version]);
        mal_version_row_finish(&row);
    }
}

/* Edit, edit, back to 1, edit, back to 2, forward to 4, back to the base: at each step
 * the states are those of the version returned to. */
static void rollbacks_restore_the_states_of_a_version(void **state) {
    struct mal_store *store = open_store(path_of(state));
    struct mal_version_row row;
    const char *at_1 = "a.0 live, a.1 live", *v;
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(add_job(store, "a", 2, (const char *[]){"p", "q"}, &err));
    assert_done(publish(store, 1, -1, "a", &err));
    assert_done(add_job(store, "b", 2, (const char *[]){"p", "r"}, &err));
    assert_done(publish(store, 2, -1, "b", &err));
    char *at_2 = strdup(fact_states(store, -1));
    assert_string_equal(at_2, "a.0 superseded by b.0, a.1 live, b.0 live, b.1 live");

    assert_done(add_job(store, "back", 0, NULL, &err));
    assert_done(publish(store, 3, 1, "back", &err));
    v = fact_states(store, -1);
    assert_int_equal(strncmp(v, at_1, strlen(at_1)), 0);
    assert_string_equal(v + strlen(at_1), ", b.0 rolled_back, b.1 rolled_back");

    assert_done(add_job(store, "c", 2, (const char *[]){"q", "p"}, &err));
    assert_done(publish(store, 4, -1, "c", &err));
    char *at_4 = strdup(fact_states(store, -1));
    assert_string_equal(at_4, "a.0 superseded by c.1, a.1 superseded by c.0, "
                              "b.0 rolled_back, b.1 rolled_back, c.0 live, c.1 live");

    assert_done(publish(store, 5, 2, NULL, &err));
    v = fact_states(store, -1);
    assert_int_equal(strncmp(v, at_2, strlen(at_2)), 0);
    assert_string_equal(v + strlen(at_2), ", c.0 rolled_back, c.1 rolled_back");
    assert_done(mal_store_get_version(store, 5, &row, &err));
    assert_int_equal(row.live_facts, 3);
    assert_int_equal(row.to_version, 2);
    assert_int_equal(row.kind, MAL_VERSION_ROLLBACK);
    mal_version_row_finish(&row);

    assert_done(publish(store, 6, 4, NULL, &err));
    assert_string_equal(fact_states(store, -1), at_4);
    assert_done(publish(store, 7, 0, NULL, &err));
    assert_string_equal(fact_states(store, -1), "a.0 rolled_back, a.1 rolled_back, "
                                                "b.0 rolled_back, b.1 rolled_back, "
                                                "c.0 rolled_back, c.1 rolled_back");
    assert_done(publish(store, 8, 6, NULL, &err));
    assert_string_equal(fact_states(store, -1), at_4);
    assert_done(publish(store, 9, 8, NULL, &err)); /* to where one is */
    assert_string_equal(fact_states(store, -1), at_4);

    assert_live_facts(store, (const int[]){0, 2, 3, 2, 2, 3, 2, 0, 2, 2}, 10);
    struct mal_fact_row fact;
    assert_done(mal_store_get_fact(store, "a.0", &fact, &err));
    assert_int_equal(fact.version, 1); /* the first one */
    mal_fact_row_finish(&fact);
    free(at_2);
    free(at_4);
    mal_store_close(store);
}

/* ---- Blobs ---- */

static char *pattern(size_t bytes) {
    char *data = malloc(bytes);
    assert_non_null(data);
    uint32_t x = 12345;
    for (size_t i = 0; i < bytes; i++)
        data[i] = (char)((x = x * 1664525 + 1013904223) >> 24);
    return data;
}

static void blobs_come_back_byte_for_byte(void **state) {
    struct mal_store *store = open_store(path_of(state));
    size_t chunk = MAL_STORE_CHUNK_BYTES;
    const size_t sizes[] = {2 * chunk + 17, chunk, 1, 0};
    char *data = pattern(sizes[0]), *got = malloc(sizes[0]);
    for (int i = 0; i < 4; i++) {
        char name[16];
        snprintf(name, sizeof name, "delta/%d", i);
        struct mal_blob blob = {name, "{}", data, sizes[i], "ff"};
        assert_done(mal_store_stage_blob(store, 0, &blob, &err));
    }
    struct mal_blob_row *rows;
    size_t n;
    assert_fails(MAL_NOT_FOUND, "version 0", mal_store_blobs(store, 0, &rows, &n, &err));
    assert_done(publish(store, 0, -1, NULL, &err));
    mal_store_close(store);

    store = open_reader(path_of(state));
    assert_done(mal_store_blobs(store, 0, &rows, &n, &err));
    assert_int_equal(n, 4);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(rows[i].bytes, sizes[i]);
        assert_string_equal(rows[i].header_json, "{}");
        memset(got, 0, sizes[0]);
        assert_done(mal_store_read_blob(store, 0, &rows[i], got, &err));
        assert_memory_equal(got, data, sizes[i]);
    }
    rows[1].bytes--;
    assert_fails(MAL_CORRUPT, "'delta/1': chunk 0",
                 mal_store_read_blob(store, 0, &rows[1], got, &err));
    rows[0].bytes++;
    assert_fails(MAL_CORRUPT, "'delta/0': chunk 3",
                 mal_store_read_blob(store, 0, &rows[0], got, &err));
    mal_blob_rows_free(rows, n);
    mal_store_close(store);
    free(data);
    free(got);
}

static void staging_is_swept_and_forgotten(void **state) {
    struct mal_store *store = open_store(path_of(state));
    char *data = pattern(MAL_STORE_CHUNK_BYTES + 1);
    struct mal_blob blob = {"a", "{}", data, MAL_STORE_CHUNK_BYTES + 1, "ff"};
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(mal_store_stage_blob(store, 1, &blob, &err));
    assert_fails(MAL_CONFLICT, "version 1, blob 'a'",
                 mal_store_stage_blob(store, 1, &blob, &err));
    assert_done(mal_store_unstage(store, 1, &err));
    assert_int_equal(number_of(store, "SELECT count(*) FROM blob_chunks"), 0);
    assert_done(mal_store_stage_blob(store, 1, &blob, &err));
    mal_store_close(store);

    store = open_store(path_of(state));
    assert_int_equal(number_of(store, "SELECT count(*) FROM blobs"), 0);
    assert_int_equal(number_of(store, "SELECT count(*) FROM blob_chunks"), 0);
    assert_done(mal_store_stage_blob(store, 1, &blob, &err));
    assert_done(publish(store, 1, -1, NULL, &err));
    mal_store_close(store);

    store = open_store(path_of(state));
    assert_int_equal(number_of(store, "SELECT count(*) FROM blob_chunks"), 2);
    free(data);
    mal_store_close(store);
}

static void half_staged_blob_is_not_published(void **state) {
    struct mal_store *store = open_store(path_of(state));
    char *data = pattern(MAL_STORE_CHUNK_BYTES + 1);
    struct mal_blob blob = {"a", "{}", data, MAL_STORE_CHUNK_BYTES + 1, "ff"};
    assert_done(mal_store_stage_blob(store, 0, &blob, &err));
    assert_done(mal_store_exec(store, "DELETE FROM blob_chunks WHERE idx = 1", &err));
    assert_fails(MAL_CONFLICT, "blob 'a' is staged in part",
                 publish(store, 0, -1, NULL, &err));
    free(data);
    mal_store_close(store);
}

static void what_is_published_stays_as_it_is(void **state) {
    struct mal_store *store = open_store(path_of(state));
    struct mal_blob blob = {"a", "{}", "x", 1, "ff"}, later = {"b", "{}", "x", 1, "ff"};
    assert_done(mal_store_stage_blob(store, 0, &blob, &err));
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_fails(MAL_CONFLICT, "published already",
                 mal_store_stage_blob(store, 0, &later, &err));
    assert_fails(MAL_CONFLICT, "published already", mal_store_unstage(store, 0, &err));
    static const char *const refused[] = {
        "UPDATE versions SET weights_hash = 'zz'",
        "UPDATE versions SET live_facts = 9, pruned = 1",
        "UPDATE versions SET keyframe = 1",
        "UPDATE versions SET values_hash = ''",
        "UPDATE versions SET basis = 'zz'",
        "DELETE FROM versions",
        "UPDATE blobs SET sha256 = 'zz'",
        "UPDATE blob_chunks SET data = x'00'",
        "INSERT INTO blob_chunks (blob, idx, data) VALUES (1, 1, x'00')",
        "INSERT INTO version_jobs (version, idx, job) VALUES (0, 0, 12)",
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_fails(MAL_CONFLICT, "database", mal_store_exec(store, refused[i], &err));
    }
    assert_done(mal_store_exec(store, "UPDATE versions SET pruned = 1", &err));
    assert_fails(MAL_CONFLICT, "does not come back",
                 mal_store_exec(store, "UPDATE versions SET pruned = 0", &err));
    mal_store_close(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACE_TEST(version_comes_back_as_published),
        PLACE_TEST(batch_is_applied),
        PLACE_TEST(versions_page_through_newest_first),
        PLACE_TEST(wrong_batches_change_nothing),
        PLACE_TEST(newer_facts_supersede_older_ones),
        PLACE_TEST(rollbacks_restore_the_states_of_a_version),
        PLACE_TEST(blobs_come_back_byte_for_byte),
        PLACE_TEST(staging_is_swept_and_forgotten),
        PLACE_TEST(half_staged_blob_is_not_published),
        PLACE_TEST(what_is_published_stays_as_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
