/* test_keyframe.c - random histories in a database: from wherever its replay begins, a
 * version's weights and shift come back bit for bit. */
#include "delta_part.h"
#include "made_model.h"
#include "store_fixture.h"

#include "core/random.h"
#include "daemon/engine/history.h"

enum { N_MODULES = 4, N_VERSIONS = 50, MAX_FLOATS = 64 };

/* Both orientations, every dtype; in the order of names. */
static const struct module {
    const char *name;
    int64_t d_in, d_out;
    bool transposed;
    enum mal_dtype dtype;
} modules[N_MODULES] = {{"a", 5, 9, false, MAL_F32},
                        {"b", 7, 4, true, MAL_F32},
                        {"c", 6, 8, true, MAL_F16},
                        {"d", 4, 6, false, MAL_BF16}};

static struct mal_weights_state *make_state(struct made_model *made, int keep) {
    struct mal_error err = {0};
    struct mal_weights_state *ws = NULL;
    const char *names[N_MODULES];
    made_init(made);
    for (size_t m = 0; m < N_MODULES; m++) {
        const struct module *module = &modules[m];
        names[m] = module->name;
        made_add(made, module->name, module->d_in, module->d_out, module->transposed,
                 module->dtype);
    }
    made_edit(made, names, N_MODULES);
    assert_ok(mal_weights_create(&ws, &made->model, keep, &err), &err);
    return ws;
}

/* ---- A history ---- */

struct seen {
    int64_t to_version, parent;
    enum mal_version_kind kind;
    bool keyframe;
    struct mal_hash hash;
    struct mal_delta shift; /* T of every module that is not the base's */
};

struct history {
    uint64_t rng;
    struct mal_store *store;
    struct made_model made;
    struct mal_weights_state *ws;
    struct seen seen[N_VERSIONS];
};

/* Factors so small that their product is -0, zeros, and ordinary numbers. */
static struct mal_delta_part make_part(const struct module *module, uint64_t *rng) {
    bool dense = mal_random_below(rng, 3) == 0;
    struct mal_delta_part part = {.module = mal_strdup(module->name),
                                  .d_in = module->d_in,
                                  .d_out = module->d_out,
                                  .rank = dense ? 0 : 2,
                                  .encoding =
                                      dense ? MAL_ENCODING_DENSE : MAL_ENCODING_FACTORS,
                                  .dtype = mal_random_below(rng, 2) ? MAL_BF16 : MAL_F32};
    static const float scales[] = {0.3f, 0.3f, 1e-30f, 0};
    float *data = random_floats((int64_t)mal_delta_part_elements(&part),
                                scales[mal_random_below(rng, 4)], mal_random_next(rng));
    part_set(&part, data);
    mal_free(data);
    return part;
}

static struct mal_delta make_delta(uint64_t *rng) {
    struct mal_delta delta = {.parts = mal_calloc(N_MODULES, sizeof *delta.parts)};
    for (size_t m = 0; m < N_MODULES; m++) {
        if (mal_random_below(rng, 2))
            delta.parts[delta.n_parts++] = make_part(&modules[m], rng);
    }
    return delta;
}

static bool give(void *arg, size_t i, struct mal_delta *out, struct mal_error *err) {
    struct mal_delta *delta = arg;
    out->parts = mal_calloc(delta->n_parts, sizeof *out->parts);
    out->n_parts = delta->n_parts;
    for (size_t p = 0; p < delta->n_parts; p++) {
        out->parts[p] = delta->parts[p];
        out->parts[p].module = mal_strdup(delta->parts[p].module);
        size_t bytes = mal_delta_part_bytes(&delta->parts[p]);
        out->parts[p].data = mal_malloc(bytes);
        memcpy(out->parts[p].data, delta->parts[p].data, bytes);
    }
    return true;
}

/* What an edit, a consolidation or a rollback would prepare. */
static void prepare(struct history *h, const struct mal_version_row *row,
                    struct mal_delta *delta) {
    struct mal_error err = {0};
    struct mal_replay whole = {.n = 1, .next = give, .arg = delta};
    if (row->kind == MAL_VERSION_ROLLBACK) {
        assert_ok(mal_weights_prepare_return(h->ws, row->to_version, &err), &err);
    } else if (row->kind == MAL_VERSION_CONSOLIDATION) {
        assert_ok(mal_weights_prepare_replay(h->ws, &whole, NULL, NULL, &err), &err);
    } else {
        assert_ok(mal_weights_prepare(h->ws, delta, NULL, NULL, &err), &err);
    }
}

static void store_version(struct history *h, struct mal_version_row *row,
                          struct mal_delta *delta, struct mal_delta *keyframe) {
    char weights[MAL_HASH_HEX], hex[MAL_HASH_HEX];
    struct mal_hash hash, of_weights = mal_weights_prepared_hash(h->ws);
    assert_done(mal_delta_hash(delta, &hash, &err));
    mal_hash_hex(&hash, hex);
    mal_hash_hex(&of_weights, weights);
    row->delta_hash = hex;
    row->weights_hash = row->chain_hash = weights;
    row->encoding = (char *)(uintptr_t) "dense";
    struct mal_history_parts parts = {.delta = delta,
                                      .keyframe = row->keyframe ? keyframe : NULL};
    struct mal_publish publish = {.row = row};
    assert_done(mal_history_stage(h->store, row->version, &parts, &err));
    assert_done(mal_store_publish(h->store, &publish, &err));
}

static void add_version(struct history *h, int64_t version) {
    struct mal_error err = {0};
    uint64_t dice = mal_random_below(&h->rng, 10);
    struct seen *seen = &h->seen[version];
    struct mal_version_row row = {.version = version,
                                  .parent = version - 1,
                                  .kind = MAL_VERSION_EDIT,
                                  .to_version = -1,
                                  .keyframe = mal_random_below(&h->rng, 4) == 0};
    if (dice < 3) {
        row.kind = MAL_VERSION_ROLLBACK;
        row.to_version = (int64_t)mal_random_below(&h->rng, (uint64_t)version);
    } else if (dice == 3) {
        row.kind = MAL_VERSION_CONSOLIDATION;
    }
    struct mal_delta delta = {0};
    if (row.kind != MAL_VERSION_ROLLBACK) delta = make_delta(&h->rng);
    prepare(h, &row, &delta);
    assert_ok(mal_weights_read_keyframe(h->ws, NULL, NULL, &seen->shift, &err), &err);
    store_version(h, &row, &delta, &seen->shift);
    seen->to_version = row.to_version;
    seen->parent = row.parent;
    seen->kind = row.kind;
    seen->keyframe = row.keyframe;
    seen->hash = mal_weights_prepared_hash(h->ws);
    mal_weights_publish(h->ws, version);
    mal_delta_finish(&delta);
}

static void run_sql(struct history *h, const char *text) {
    assert_int_equal(sqlite3_exec(h->store->db, text, NULL, NULL, NULL), SQLITE_OK);
}

static struct history *make_history(const char *path, uint64_t seed) {
    struct history *h = mal_calloc(1, sizeof *h);
    assert_non_null(h);
    h->rng = seed;
    h->store = open_store(path);
    run_sql(h, "PRAGMA synchronous = OFF"); /* or the test waits for the disk */
    h->ws = make_state(&h->made, N_VERSIONS);
    assert_done(publish(h->store, 0, -1, NULL, &err));
    h->seen[0] = (struct seen){.hash = mal_weights_hash(h->ws, 0), .to_version = -1};
    for (int64_t v = 1; v < N_VERSIONS; v++)
        add_version(h, v);
    return h;
}

static void free_history(struct history *h) {
    for (size_t v = 0; v < N_VERSIONS; v++)
        mal_delta_finish(&h->seen[v].shift);
    mal_weights_destroy(h->ws);
    made_finish(&h->made);
    mal_store_close(h->store);
    mal_free(h);
}

/* ---- What must come of it ---- */

/* The plan and the path by the words of history.h, from the tests' own notes. */
static void check_plan(const struct history *h, int64_t version) {
    int64_t *path = NULL, v = version;
    size_t n = 0;
    struct mal_history_plan plan;
    assert_done(mal_history_path(h->store, version, &path, &n, &err));
    assert_done(mal_history_plan(h->store, version, &plan, &err));
    bool planned = true;
    size_t left = plan.n;
    int64_t keyframe = -1;
    while (v > 0) {
        const struct seen *seen = &h->seen[v];
        if (planned && seen->keyframe) {
            keyframe = v;
            planned = false;
        }
        if (seen->kind == MAL_VERSION_ROLLBACK) {
            v = seen->to_version;
            continue;
        }
        assert_true(n > 0);
        assert_int_equal(path[--n], v);
        if (planned) {
            assert_true(left > 0);
            assert_int_equal(plan.deltas[--left], v);
        }
        if (seen->kind == MAL_VERSION_CONSOLIDATION) break;
        v = seen->parent;
    }
    assert_int_equal(n, 0);
    assert_int_equal(left, 0);
    assert_int_equal(plan.keyframe, keyframe);
    mal_history_plan_finish(&plan);
    mal_free(path);
}

static void check_same(const struct mal_delta *got, const struct mal_delta *want) {
    assert_int_equal(got->n_parts, want->n_parts);
    for (size_t p = 0; p < want->n_parts; p++) {
        assert_string_equal(got->parts[p].module, want->parts[p].module);
        assert_memory_equal(got->parts[p].data, want->parts[p].data,
                            mal_delta_part_bytes(&want->parts[p]));
    }
}

static void check_weights(const struct history *h, struct mal_weights_state *ws,
                          int64_t version) {
    struct mal_delta shift = {0};
    struct mal_hash hash = mal_weights_prepared_hash(ws);
    assert_memory_equal(hash.bytes, h->seen[version].hash.bytes, sizeof hash.bytes);
    assert_done(mal_weights_read_keyframe(ws, NULL, NULL, &shift, &err));
    check_same(&shift, &h->seen[version].shift);
    mal_delta_finish(&shift);
}

static void count(void *arg) {
    ++*(int *)arg;
}

/* Keyframes, or without them every delta of the path. */
static void test_replays(void **state) {
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct place place;
        place_make(&place);
        struct history *h = make_history(place.path, seed);
        struct made_model made;
        struct mal_weights_state *ws = make_state(&made, 0);
        int with = 0, without = 0;
        for (int pass = 0; pass < 2; pass++) {
            for (int64_t v = 0; v < N_VERSIONS; v++) {
                check_plan(h, v);
                assert_done(mal_history_replay(h->store, v, ws, count,
                                               pass ? &without : &with, &err));
                check_weights(h, ws, v);
                mal_weights_discard(ws);
            }
            assert_int_equal(sqlite3_exec(h->store->db,
                                          "DROP TRIGGER versions_fixed;"
                                          "UPDATE versions SET keyframe = 0",
                                          NULL, NULL, NULL),
                             pass == 0 ? SQLITE_OK : SQLITE_ERROR);
            for (size_t v = 0; v < N_VERSIONS; v++)
                h->seen[v].keyframe = false;
        }
        assert_true(with > 0 && without > with);
        mal_weights_destroy(ws);
        made_finish(&made);
        free_history(h);
        place_remove(&place);
    }
}

/* A shift of zeros, and one of negative zeros, is another thing than none. */
static void test_zeros(void **state) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_weights_state *ws = make_state(&made, 2);
    struct mal_hash base = mal_weights_hash(ws, 0);
    struct mal_delta none = {0}, zeros = {.n_parts = 1}, got;
    struct mal_delta_part part = {.module = mal_strdup("b"),
                                  .d_in = 7,
                                  .d_out = 4,
                                  .encoding = MAL_ENCODING_DENSE,
                                  .dtype = MAL_F32};
    float *data = part.data = mal_calloc(28, sizeof *data);
    zeros.parts = &part;
    struct mal_replay replay = {.n_set = 1, .n = 1, .next = give, .arg = &none};
    assert_ok(mal_weights_prepare_replay(ws, &replay, NULL, NULL, &err), &err);
    struct mal_hash hash = mal_weights_prepared_hash(ws);
    assert_memory_equal(hash.bytes, base.bytes, sizeof hash.bytes);
    assert_ok(mal_weights_read_keyframe(ws, NULL, NULL, &got, &err), &err);
    assert_int_equal(got.n_parts, 0);
    mal_delta_finish(&got);
    mal_weights_discard(ws);

    replay.arg = &zeros;
    for (int sign = 0; sign < 2; sign++) {
        for (size_t i = 0; i < 28; i++)
            data[i] = sign ? -0.0f : 0.0f;
        assert_ok(mal_weights_prepare_replay(ws, &replay, NULL, NULL, &err), &err);
        hash = mal_weights_prepared_hash(ws);
        /* -0 + -0 is -0, as W0 has it; -0 + 0 is 0. */
        assert_int_equal(memcmp(hash.bytes, base.bytes, sizeof hash.bytes) == 0, sign);
        assert_ok(mal_weights_read_keyframe(ws, NULL, NULL, &got, &err), &err);
        check_same(&got, &zeros);
        mal_delta_finish(&got);
        mal_weights_discard(ws);
    }
    mal_free(part.module);
    mal_free(part.data);
    mal_weights_destroy(ws);
    made_finish(&made);
}

/* ---- Refusals ---- */

static void refuse(struct history *h, int64_t version, enum mal_status status,
                   const char *words) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_weights_state *ws = make_state(&made, 0);
    assert_false(mal_history_replay(h->store, version, ws, NULL, NULL, &err));
    assert_error(&err, status, words);
    mal_weights_destroy(ws);
    made_finish(&made);
}

static void test_refusals(void **state) {
    struct place place;
    place_make(&place);
    struct history *h = make_history(place.path, 3);
    int64_t k = 1;
    while (!h->seen[k].keyframe || h->seen[k].shift.n_parts == 0)
        k++;
    char words[64];
    run_sql(h, "DROP TRIGGER blobs_fixed; DROP TRIGGER blob_chunks_fixed");
    run_sql(h, "UPDATE blobs SET header_json = '{\"d_in\":3,\"d_out\":3}'"
               " WHERE name LIKE 'keyframe/%'");
    snprintf(words, sizeof words, "version %d: the header of 'keyframe/", (int)k);
    refuse(h, k, MAL_CORRUPT, words);
    run_sql(h, "UPDATE blobs SET header_json = '{\"d_in\":5,\"d_out\":9}'"
               " WHERE name = 'keyframe/a'");
    run_sql(h, "UPDATE blobs SET header_json = '{\"d_in\":7,\"d_out\":4}'"
               " WHERE name = 'keyframe/b'");
    run_sql(h, "UPDATE blobs SET header_json = '{\"d_in\":6,\"d_out\":8}'"
               " WHERE name = 'keyframe/c'");
    run_sql(h, "UPDATE blobs SET header_json = '{\"d_in\":4,\"d_out\":6}'"
               " WHERE name = 'keyframe/d'");
    run_sql(h, "UPDATE blob_chunks SET data = randomblob(length(data))"
               " WHERE blob IN (SELECT id FROM blobs WHERE name LIKE 'keyframe/%')");
    snprintf(words, sizeof words, "version %d: the stored bytes of 'keyframe/", (int)k);
    refuse(h, k, MAL_CORRUPT, words);

    run_sql(h, "UPDATE versions SET pruned = 1 WHERE version = 3");
    refuse(h, 3, MAL_CONFLICT, "version 3 was pruned: its weights are no longer stored");
    run_sql(h, "DROP TRIGGER versions_fixed; UPDATE versions SET keyframe = 0,"
               " to_version = NULL, kind = 'edit'");
    refuse(h, 5, MAL_CORRUPT, "version 5 is made from version 3, which was pruned");
    free_history(h);
    place_remove(&place);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replays),
        cmocka_unit_test(test_zeros),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("keyframe", tests, NULL, NULL);
}
