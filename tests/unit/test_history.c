/* test_history.c - values of facts and statistics as they are stored with versions, and
 * the chain that covers them. */
#include "store_fixture.h"

#include <math.h>

#include "core/alloc.h"
#include "core/hash.h"
#include "daemon/engine/history.h"

enum { N_FACTS = 4 };

static struct mal_store *make(struct place *place) {
    static const char *const prompts[N_FACTS] = {"a", "b", "c", "d"};
    place_make(place);
    struct mal_store *store = open_store(place->path);
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(add_job(store, "job", N_FACTS, prompts, &err));
    return store;
}

static void finish(struct mal_store *store, struct place *place) {
    mal_store_close(store);
    place_remove(place);
}

static void run_sql(struct mal_store *store, const char *text) {
    assert_int_equal(sqlite3_exec(store->db, text, NULL, NULL, NULL), SQLITE_OK);
}

/* ---- Values ---- */

static void stage_and_publish(struct mal_store *store, struct mal_history_value *values,
                              size_t n, int64_t version, const char *job) {
    char hash[MAL_HASH_HEX];
    struct mal_delta none = {0};
    for (size_t i = 0; i < n; i++) {
        struct mal_hash one = mal_hash_of(values[i].data, values[i].bytes);
        mal_hash_hex(&one, values[i].sha256);
    }
    assert_done(mal_history_hash_values(values, n, hash, &err));
    struct mal_history_parts parts = {.delta = &none, .values = values, .n_values = n};
    assert_done(mal_history_stage(store, version, &parts, &err));
    struct mal_version_row row = version_row(version, -1);
    row.values_hash = hash;
    struct mal_publish p = {.row = &row, .jobs = &job, .n_jobs = job != NULL};
    assert_done(mal_store_publish(store, &p, &err));
}

static bool check(struct mal_store *store, int64_t version, size_t *n,
                  struct mal_error *err) {
    struct mal_version_row row;
    if (!mal_store_get_version(store, version, &row, err)) return false;
    bool ok = mal_history_check_values(store, &row, n, err);
    mal_version_row_finish(&row);
    return ok;
}

static void values_are_hashed(void **state) {
    struct place place;
    struct mal_store *store = make(&place);
    char hash[MAL_HASH_HEX], hex[MAL_HASH_HEX], xy[] = "xy", z[] = "z";
    struct mal_history_value values[] = {
        {.fact = 2, .id = "job.1", .data = xy, .bytes = 2},
        {.fact = 4, .id = "job.3", .data = z, .bytes = 1}};
    assert_done(mal_history_hash_values(values, 0, hash, &err));
    assert_string_equal(hash, "");
    stage_and_publish(store, values, 2, 1, "job");

    struct mal_hasher *hasher;
    assert_done(mal_hasher_create(&hasher, &err));
    for (size_t i = 0; i < 2; i++) {
        struct mal_hash one = mal_hash_of(values[i].data, values[i].bytes);
        mal_hash_hex(&one, hex);
        mal_hasher_add_text(hasher, values[i].id);
        mal_hasher_add_text(hasher, hex);
    }
    struct mal_hash all = mal_hasher_end(hasher);
    mal_hasher_destroy(hasher);
    mal_hash_hex(&all, hex);
    struct mal_version_row row;
    assert_done(mal_store_get_version(store, 1, &row, &err));
    assert_string_equal(row.values_hash, hex);
    mal_version_row_finish(&row);

    size_t n = 9;
    assert_done(check(store, 1, &n, &err));
    assert_int_equal(n, 2);
    assert_done(check(store, 0, &n, &err));
    assert_int_equal(n, 0);

    run_sql(store, "DROP TRIGGER fact_values_fixed;"
                   "UPDATE fact_values SET data = x'7879ff' WHERE fact = 2");
    assert_fails(MAL_CORRUPT, "version 1: the stored values of fact 'job.1'",
                 check(store, 1, &n, &err));
    run_sql(store, "DELETE FROM fact_values WHERE fact = 2");
    assert_fails(MAL_CORRUPT, "version 1: the values of its facts hash to",
                 check(store, 1, &n, &err));
    /* Of a pruned version only what later ones need is left. */
    run_sql(store, "UPDATE versions SET pruned = 1 WHERE version = 1");
    assert_done(check(store, 1, &n, &err));
    assert_int_equal(n, 1);
    finish(store, &place);
}

/* Two bytes each where that loses nothing, and the same numbers again. */
static void values_are_packed(void **state) {
    static const float numbers[] = {0,         -0.0F,       1,       -3.140625F,
                                    0x1p-133F, 0x1.fep127F, INFINITY};

    enum { N = sizeof numbers / sizeof *numbers };

    for (int fine = 0; fine < 2; fine++) {
        float want[N];
        char hex[MAL_HASH_HEX];
        struct mal_history_value value = {0};
        memcpy(want, numbers, sizeof want);
        if (fine) want[3] = 0x1.000002p0F;
        assert_true(mal_history_pack_values(&value, want, N));
        void *data = value.data;
        assert_int_equal(value.bytes, fine ? sizeof want : sizeof want / 2);
        struct mal_hash hash = mal_hash_of(data, value.bytes);
        mal_hash_hex(&hash, hex);
        assert_string_equal(value.sha256, hex);
        assert_done(mal_history_unpack_values(&data, value.bytes, N, &err));
        assert_memory_equal(data, want, sizeof want);
        assert_fails(MAL_CORRUPT, "bytes, not 7 values",
                     mal_history_unpack_values(&data, value.bytes + 1, N, &err));
        mal_free(data);
    }
}

/* Old chains, without values, hold; with values, they are covered. */
static void chain_covers_values(void **state) {
    struct mal_version_row row = version_row(1, -1);
    static char editor[] = "", hash_a[] = "a", hash_b[] = "b";
    char plain[MAL_HASH_HEX], empty[MAL_HASH_HEX], a[MAL_HASH_HEX], b[MAL_HASH_HEX],
        keyframe[MAL_HASH_HEX];
    row.editor_method = row.editor_hash = row.update = editor;
    row.modules_json = row.measures_json = editor;
    assert_done(mal_history_chain(&row, "p", plain, &err));
    row.values_hash = editor;
    assert_done(mal_history_chain(&row, "p", empty, &err));
    assert_string_equal(empty, plain);
    row.values_hash = hash_a;
    assert_done(mal_history_chain(&row, "p", a, &err));
    row.keyframe = true;
    assert_done(mal_history_chain(&row, "p", keyframe, &err));
    assert_string_equal(keyframe, a);
    row.values_hash = hash_b;
    assert_done(mal_history_chain(&row, "p", b, &err));
    assert_string_not_equal(a, plain);
    assert_string_not_equal(a, b);
}

/* ---- Statistics ---- */

enum { D_IN = 2, D_OUT = 3, SIZE = D_IN + D_OUT };

static void publish_norms(struct mal_store *store, int64_t version, int64_t to_version,
                          enum mal_version_kind kind, float n) {
    struct mal_delta none = {0};
    struct mal_editor_shape shape = {.d_in = D_IN, .d_out = D_OUT, .size = SIZE};
    struct mal_editor editor = {.shapes = &shape, .n_shapes = 1};
    float zeros[SIZE] = {0};
    struct mal_normalizer norm = {
        .size = SIZE, .n = n, .mean = zeros, .var = zeros, .std = zeros};
    struct mal_history_parts parts = {
        .delta = &none, .editor = &editor, .norms = n > 0 ? &norm : NULL};
    assert_done(mal_history_stage(store, version, &parts, &err));
    struct mal_version_row row = version_row(version, to_version);
    if (to_version < 0) row.kind = kind;
    struct mal_publish p = {.row = &row};
    assert_done(mal_store_publish(store, &p, &err));
}

static float read_norms(struct mal_store *store, int64_t version) {
    struct mal_editor_shape shape = {.d_in = D_IN, .d_out = D_OUT, .size = SIZE};
    struct mal_editor editor = {.shapes = &shape, .n_shapes = 1};
    float mean[SIZE], var[SIZE], std[SIZE];
    struct mal_normalizer norm = {
        .size = SIZE, .n = -1, .mean = mean, .var = var, .std = std};
    assert_done(mal_history_norms(store, version, &editor, &norm, &err));
    return norm.n;
}

static void statistics_as_of_a_version(void **state) {
    static const struct {
        int64_t to_version;
        enum mal_version_kind kind;
        float stored, in_force; /* 0: none stored; -1: those it began with */
    } versions[] = {
        {-1, MAL_VERSION_BASE, 0, -1},
        {-1, MAL_VERSION_EDIT, 1, 1},
        {-1, MAL_VERSION_RETRACTION, 0, -1}, /* nothing is live: it begins anew */
        {-1, MAL_VERSION_EDIT, 3, 3},
        {1, MAL_VERSION_ROLLBACK, 0, 1},
        {-1, MAL_VERSION_REPAIR, 0, 1},
        {0, MAL_VERSION_ROLLBACK, 0, -1},
        {3, MAL_VERSION_ROLLBACK, 7, 7}, /* with a keyframe */
        {-1, MAL_VERSION_RETRACTION, 0, -1},
        {-1, MAL_VERSION_CONSOLIDATION, 0, -1}, /* the path begins here */
        {-1, MAL_VERSION_EDIT, 0, -1},
    };
    struct place place;
    place_make(&place);
    struct mal_store *store = open_store(place.path);
    size_t n = sizeof versions / sizeof versions[0];
    for (size_t v = 0; v < n; v++)
        publish_norms(store, (int64_t)v, versions[v].to_version, versions[v].kind,
                      versions[v].stored);
    for (size_t v = 0; v < n; v++)
        assert_true(read_norms(store, (int64_t)v) == versions[v].in_force);
    finish(store, &place);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_packed),
        cmocka_unit_test(values_are_hashed),
        cmocka_unit_test(chain_covers_values),
        cmocka_unit_test(statistics_as_of_a_version),
    };
    return cmocka_run_group_tests_name("history", tests, NULL, NULL);
}
