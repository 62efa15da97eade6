/* test_version_diff.c - how far versions are apart, from what a database holds of them.
 */
#include <math.h>

#include "daemon/engine/history.h"
#include "daemon/engine/version_diff.h"
#include "delta_part.h"
#include "store_fixture.h"

enum { D_IN = 7, D_OUT = 5, N = D_IN * D_OUT, RANK = 2, LAST = 5 };

/* T of both modules in each version. */
static double shifts[LAST + 1][2][N];

static const char *const names[] = {"a", "b"};
static uint32_t seed = 1;

static float draw(void) {
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / (1 << 23) - 1;
}

static void draw_part(struct mal_delta_part *part, size_t module, bool dense,
                      bool narrow) {
    size_t n = dense ? N : RANK * (D_IN + D_OUT);
    *part = (struct mal_delta_part){.module = mal_strdup(names[module]),
                                    .d_in = D_IN,
                                    .d_out = D_OUT,
                                    .rank = dense ? 0 : RANK,
                                    .encoding =
                                        dense ? MAL_ENCODING_DENSE : MAL_ENCODING_FACTORS,
                                    .dtype = narrow ? MAL_BF16 : MAL_F32};
    float *data = mal_calloc(n, sizeof *data);
    for (size_t i = 0; i < n; i++)
        data[i] = draw();
    part_set(part, data);
    mal_free(data);
}

static void add(const struct mal_delta_part *part, double *shift) {
    double *s = part_shift(part);
    for (int i = 0; i < N; i++)
        shift[i] += s[i];
    mal_free(s);
}

static void stage(struct mal_store *store, int64_t version,
                  const struct mal_delta_part *part) {
    char name[16], header[160], hex[MAL_HASH_HEX];
    size_t bytes = mal_delta_part_bytes(part);
    struct mal_hash hash = mal_hash_of(part->data, bytes);
    mal_hash_hex(&hash, hex);
    snprintf(name, sizeof name, "delta/%s", part->module);
    const char *dtype = part->dtype == MAL_F32 ? "" : "\"dtype\":\"BF16\",";
    snprintf(header, sizeof header,
             "{\"encoding\":\"%s\",%s\"d_in\":%d,\"d_out\":%d,\"rank\":%d,\"norm\":1.0,"
             "\"rounding_error\":0.0}",
             mal_encoding_name(part->encoding), dtype, D_IN, D_OUT, (int)part->rank);
    struct mal_blob blob = {name, header, part->data, bytes, hex};
    assert_done(mal_store_stage_blob(store, version, &blob, &err));
}

/* The parts change T of the version before; `to` >= 0: T of that version comes back. */
static void make(struct mal_store *store, int64_t version, int64_t to,
                 struct mal_delta *delta) {
    static char modules[] = "[{\"name\":\"a\"},{\"name\":\"b\"}]";
    char hex[MAL_HASH_HEX];
    struct mal_hash hash;
    struct mal_version_row row = version_row(version, to);
    for (size_t i = 0; i < delta->n_parts; i++)
        stage(store, version, &delta->parts[i]);
    assert_done(mal_delta_hash(delta, &hash, &err));
    mal_hash_hex(&hash, hex);
    row.delta_hash = hex;
    row.modules_json = modules;
    struct mal_publish publish = {.row = &row, .now_ms = 3000};
    assert_done(mal_store_publish(store, &publish, &err));
    if (version == 0) return;
    memcpy(shifts[version], shifts[to >= 0 ? to : version - 1], sizeof shifts[0]);
    for (size_t i = 0; i < delta->n_parts; i++) {
        const struct mal_delta_part *part = &delta->parts[i];
        add(part, shifts[version][strcmp(part->module, "a") != 0]);
    }
}

/* 1, 2: edits; 3: back to 1; 4: an edit after it; 5: one of one module. */
static struct mal_store *make_history(const char *path) {
    struct mal_store *store = open_store(path);
    for (int64_t v = 0; v <= LAST; v++) {
        struct mal_delta delta = {.parts = mal_calloc(2, sizeof *delta.parts)};
        bool edit = v > 0 && v != 3;
        for (size_t m = 0; edit && m < (v == 5 ? 1 : 2); m++)
            draw_part(&delta.parts[delta.n_parts++], m, (v + (int64_t)m) % 2, v > 2);
        make(store, v, v == 3 ? 1 : -1, &delta);
        mal_delta_finish(&delta);
    }
    return store;
}

static void compare(struct mal_store *store, int64_t from, int64_t to,
                    struct mal_diff *out) {
    struct mal_version_row a = {0}, b = {0};
    assert_done(mal_store_get_version(store, from, &a, &err));
    assert_done(mal_store_get_version(store, to, &b, &err));
    assert_done(mal_diff_versions(store, &a, &b, out, &err));
    mal_version_row_finish(&a);
    mal_version_row_finish(&b);
}

static void test_norms(void **state) {
    struct place place;
    place_make(&place);
    struct mal_store *store = make_history(place.path);
    for (int64_t a = 0; a <= LAST; a++) {
        for (int64_t b = 0; b <= LAST; b++) {
            struct mal_diff diff = {0};
            compare(store, a, b, &diff);
            assert_true(diff.stored);
            assert_int_equal(diff.n, 2);
            for (size_t m = 0; m < 2; m++) {
                double squares = 0;
                for (size_t i = 0; i < N; i++)
                    squares += pow(shifts[b][m][i] - shifts[a][m][i], 2);
                assert_string_equal(diff.modules[m].name, names[m]);
                if (fabs(diff.modules[m].norm - sqrt(squares)) > 1e-5) {
                    fail_msg("%d to %d, %s: %g, expected %g", (int)a, (int)b, names[m],
                             diff.modules[m].norm, sqrt(squares));
                }
            }
            mal_diff_finish(&diff);
        }
    }
    mal_store_close(store);
    place_remove(&place);
}

/* What was pruned is said to be gone, where it is needed. */
static void test_pruned(void **state) {
    struct place place;
    place_make(&place);
    struct mal_store *store = make_history(place.path);
    assert_int_equal(sqlite3_exec(store->db,
                                  "UPDATE versions SET pruned = 1 WHERE version = 1;"
                                  "DELETE FROM blobs WHERE version = 1",
                                  NULL, NULL, NULL),
                     SQLITE_OK);

    static const struct {
        int64_t a, b;
        bool stored;
    } cases[] = {{4, 5, true}, {3, 4, true}, {1, 2, false}, {0, 4, false}, {2, 4, true}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mal_diff diff = {0};
        compare(store, cases[i].a, cases[i].b, &diff);
        assert_int_equal(diff.stored, cases[i].stored);
        assert_int_equal(diff.n, cases[i].stored ? 2 : 0);
        mal_diff_finish(&diff);
    }
    mal_store_close(store);
    place_remove(&place);
}

/* A delta that was changed on disk is not added up. */
static void test_corrupt(void **state) {
    struct place place;
    place_make(&place);
    struct mal_store *store = make_history(place.path);
    struct mal_version_row a = version_row(1, -1), b = version_row(4, -1);
    assert_int_equal(
        sqlite3_exec(store->db,
                     "DROP TRIGGER blob_chunks_fixed; UPDATE blob_chunks SET data = "
                     "zeroblob(length(data)) WHERE blob IN (SELECT id FROM blobs WHERE "
                     "version = 4)",
                     NULL, NULL, NULL),
        SQLITE_OK);
    struct mal_diff diff = {0};
    assert_fails(MAL_CORRUPT, "version 4", mal_diff_versions(store, &a, &b, &diff, &err));
    assert_null(diff.modules);
    mal_store_close(store);
    place_remove(&place);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_pruned),
        cmocka_unit_test(test_corrupt),
    };
    return cmocka_run_group_tests_name("version_diff", tests, NULL, NULL);
}
