/* test_store_values.c - the value differences of facts: staged, swept, found on a path.
 */
#include "store_fixture.h"

static void assert_values(struct mal_store *store, int64_t fact, const int64_t *path,
                          size_t n_path, const char *wanted) {
    void *data = (void *)1;
    char *sha256 = (char *)1;
    uint64_t bytes = 99;
    assert_done(
        mal_store_read_values(store, fact, path, n_path, &data, &bytes, &sha256, &err));
    if (wanted) {
        assert_int_equal(bytes, strlen(wanted));
        assert_memory_equal(data, wanted, bytes);
        assert_memory_equal(sha256, "of ", 3);
        assert_string_equal(sha256 + 3, wanted);
    } else {
        assert_null(data);
        assert_null(sha256);
        assert_int_equal(bytes, 0);
    }
    mal_free(data);
    mal_free(sha256);
}

/* Publishes an edit with the values "x<fact>.<version>" of the facts given. */
static void publish_values(struct mal_store *store, int64_t version, const int64_t *facts,
                           size_t n) {
    char texts[4][32], hashes[4][64], hash[] = "h";
    struct mal_fact_values values[4];
    for (size_t i = 0; i < n; i++) {
        snprintf(texts[i], sizeof texts[i], "x%d.%d", (int)facts[i], (int)version);
        snprintf(hashes[i], sizeof hashes[i], "of %.32s", texts[i]);
        values[i] =
            (struct mal_fact_values){facts[i], texts[i], strlen(texts[i]), hashes[i]};
    }
    struct mal_version_row row = version_row(version, -1);
    row.values_hash = hash;
    struct mal_publish p = {.row = &row};
    assert_done(mal_store_stage_values(store, version, values, n, &err));
    assert_done(mal_store_publish(store, &p, &err));
}

static void values_in_force_are_the_newest_on_the_path(void **state) {
    struct mal_store *store = taught(state);
    publish_values(store, 2, (const int64_t[]){1, 2}, 2);
    publish_values(store, 3, (const int64_t[]){1}, 1);
    publish_values(store, 4, (const int64_t[]){2, 1}, 2);
    mal_store_close(store);

    store = open_reader(path_of(state));
    const int64_t path[] = {1, 2, 3, 4}, other[] = {1, 2, 4}, gap[] = {1, 3};
    assert_values(store, 1, path, 4, "x1.4");
    assert_values(store, 1, path, 3, "x1.3");
    assert_values(store, 1, path, 2, "x1.2");
    assert_values(store, 1, path, 1, NULL);
    assert_values(store, 1, NULL, 0, NULL);
    assert_values(store, 2, path, 3, "x2.2");
    assert_values(store, 2, gap, 2, NULL);
    assert_values(store, 1, gap, 2, "x1.3");
    assert_values(store, 1, other, 3, "x1.4");
    assert_values(store, 3, path, 4, NULL);
    assert_values(store, 9, path, 4, NULL);

    struct mal_value_row *rows;
    size_t n;
    assert_done(mal_store_values(store, 4, &rows, &n, &err));
    assert_int_equal(n, 2);
    assert_int_equal(rows[0].fact, 1);
    assert_string_equal(rows[0].id, "a.0");
    assert_string_equal(rows[0].sha256, "of x1.4");
    assert_int_equal(rows[0].bytes, 4);
    assert_string_equal(rows[1].id, "a.1");
    mal_value_rows_free(rows, n);
    assert_done(mal_store_values(store, 1, &rows, &n, &err));
    assert_int_equal(n, 0);
    mal_value_rows_free(rows, n);
    mal_store_close(store);
}

static void staged_values_are_swept_and_forgotten(void **state) {
    static char data[3 << 20];
    struct mal_store *store = taught(state);
    struct mal_fact_values values[8];
    char hash[] = "h";
    assert_done(add_job(store, "b", 8,
                        (const char *[]){"1", "2", "3", "4", "5", "6", "7", "8"}, &err));
    for (int i = 0; i < 8; i++)
        values[i] = (struct mal_fact_values){4 + i, data, sizeof data, "ff"};
    const char *all = "SELECT count(*) FROM fact_values";
    assert_done(mal_store_stage_values(store, 2, values, 8, &err));
    assert_int_equal(number_of(store, all), 8);
    assert_done(mal_store_unstage(store, 2, &err));
    assert_int_equal(number_of(store, all), 0);

    /* Some are to come again. */
    assert_done(mal_store_stage_values(store, 2, values, 8, &err));
    assert_done(mal_store_unstage_values(store, 2, (int64_t[]){5, 11, 99}, 3, &err));
    assert_int_equal(number_of(store, all), 6);
    assert_done(mal_store_stage_values(store, 2, values + 7, 1, &err));
    assert_fails(MAL_CONFLICT, "published already",
                 mal_store_unstage_values(store, 1, (int64_t[]){1}, 1, &err));
    assert_done(mal_store_unstage(store, 2, &err));

    /* The second commit is refused; the first is forgotten with the rest. */
    values[5].fact = 4;
    assert_fails(MAL_CONFLICT, "version 2: values of fact 4",
                 mal_store_stage_values(store, 2, values, 8, &err));
    assert_int_equal(number_of(store, all), 3);
    values[0].fact = 99;
    assert_fails(MAL_CONFLICT, "version 3",
                 mal_store_stage_values(store, 3, values, 1, &err));
    mal_store_close(store);
    store = open_store(path_of(state));
    assert_int_equal(number_of(store, all), 0);

    uint64_t bytes;
    struct mal_blob blob = {"a", "{}", data, 100, "ff"};
    assert_done(mal_store_stage_values(store, 2, values + 1, 4, &err));
    assert_done(mal_store_stage_blob(store, 2, &blob, &err));
    assert_fails(MAL_CONFLICT, "without their hash", publish(store, 2, -1, "b", &err));
    struct mal_version_row row = version_row(2, -1);
    struct mal_publish p = {.row = &row};
    row.values_hash = hash;
    assert_done(mal_store_publish(store, &p, &err));
    assert_done(mal_store_bytes(store, 2, &bytes, &err));
    assert_int_equal(bytes, 4 * sizeof data + 100);
    assert_done(mal_store_bytes(store, 1, &bytes, &err));
    assert_int_equal(bytes, 0);
    row = version_row(3, -1);
    row.values_hash = hash;
    assert_fails(MAL_CONFLICT, "hashed but not staged",
                 mal_store_publish(store, &p, &err));
    assert_done(mal_store_stage_values(store, 3, values + 1, 1, &err));
    row.to_version = 1;
    assert_fails(MAL_INVALID, "a rollback has no values",
                 mal_store_publish(store, &p, &err));
    mal_store_close(store);
    store = open_store(path_of(state));
    assert_int_equal(number_of(store, all), 4);
    mal_store_close(store);
}

static void stored_values_stay_as_they_are(void **state) {
    struct mal_store *store = taught(state);
    publish_values(store, 2, (const int64_t[]){1, 2}, 2);
    struct mal_fact_values late = {3, "x", 1, "ff"};
    assert_fails(MAL_CONFLICT, "published already",
                 mal_store_stage_values(store, 2, &late, 1, &err));
    assert_fails(MAL_CONFLICT, "never changed",
                 mal_store_exec(store, "UPDATE fact_values SET data = x'00'", &err));
    assert_fails(MAL_CONFLICT, "never changed",
                 mal_store_exec(store, "UPDATE fact_values SET version = 3", &err));
    assert_done(mal_store_check(store, &err));
    mal_store_close(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACE_TEST(values_in_force_are_the_newest_on_the_path),
        PLACE_TEST(staged_values_are_swept_and_forgotten),
        PLACE_TEST(stored_values_stay_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
