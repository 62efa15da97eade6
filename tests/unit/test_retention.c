/* test_retention.c - what is pruned and where keyframes go, against a model that looks at
 * every possibility; and the same with a database, where whatever stays must replay. */
#include "store_fixture.h"

#include "core/random.h"
#include "daemon/engine/history.h"
#include "daemon/worker/retention.h"

enum { MAX_VERSIONS = 40, N_LISTS = 300, N_HISTORIES = 12, BLOB_BYTES = 10 };

/* ---- The model ---- */

struct list {
    size_t n;
    struct mal_version_row rows[MAX_VERSIONS];
    struct mal_retained versions[MAX_VERSIONS];
};

/* Whether the replay of `version` reads nothing of versions 1 .. below - 1. */
static bool replays(const struct list *list, int64_t version, int64_t below) {
    while (version > 0) {
        const struct mal_version_row *row = &list->rows[version];
        bool reads = row->keyframe || row->to_version < 0;
        if (reads && version < below) return false;
        if (row->keyframe || row->kind == MAL_VERSION_CONSOLIDATION) break;
        version = row->to_version >= 0 ? row->to_version : row->parent;
    }
    return true;
}

static bool may_go(const struct list *list, int64_t below, int64_t keep) {
    int64_t last = (int64_t)list->n - 1;
    if (below < 1 || below > last - keep) return false;
    for (int64_t v = below; v <= last; v++)
        if (!replays(list, v, below)) return false;
    return true;
}

static uint64_t left(const struct list *list, int64_t below) {
    uint64_t bytes = 0;
    for (int64_t v = 0; v < (int64_t)list->n; v++) {
        bool goes = v > 0 && v < below && !list->versions[v].pruned;
        if (!goes) bytes += list->versions[v].bytes;
    }
    return bytes;
}

static bool all_older(const struct list *list, int64_t below, int64_t than) {
    for (int64_t v = 1; v < below; v++)
        if (list->versions[v].created_ms >= than) return false;
    return true;
}

/* The words of retention.h, one `below` after the other. */
static struct mal_retention_choice
choose(const struct list *list, const struct mal_retention_options *o, int64_t now_ms) {
    struct mal_retention_choice choice = {0};
    uint64_t limit = o->retain_bytes ? (uint64_t)o->retain_bytes : UINT64_MAX;
    int64_t any = 0, age = 0, bytes = 0;
    for (int64_t b = 1; b < (int64_t)list->n; b++) {
        if (!may_go(list, b, o->keep_versions)) continue;
        any = b;
        if (o->retain_ms && all_older(list, b, now_ms - o->retain_ms)) age = b;
        if (bytes == 0 && left(list, b) <= limit) bytes = b;
    }
    choice.below = age;
    if (left(list, 0) > limit) {
        choice.over = bytes == 0;
        if (choice.over) bytes = any;
        if (bytes > choice.below) choice.below = bytes;
    }
    if (choice.below > 0 && choice.below < (int64_t)list->n &&
        (choice.below == 1 || list->versions[choice.below - 1].pruned)) {
        choice.below = 0; /* they are gone already */
    }
    return choice;
}

static void add_row(struct list *list, uint64_t *rng) {
    int64_t version = (int64_t)list->n, dice = (int64_t)mal_random_below(rng, 10);
    struct mal_version_row *row = &list->rows[version];
    *row = (struct mal_version_row){
        .version = version,
        .parent = version - 1,
        .kind = version == 0 ? MAL_VERSION_BASE
                : dice < 3   ? MAL_VERSION_ROLLBACK
                : dice == 3  ? MAL_VERSION_CONSOLIDATION
                             : MAL_VERSION_EDIT,
        .keyframe = version > 0 && mal_random_below(rng, 4) == 0,
        .to_version = -1,
    };
    if (row->kind == MAL_VERSION_ROLLBACK)
        row->to_version = (int64_t)mal_random_below(rng, (uint64_t)version);
    list->versions[version] = (struct mal_retained){
        .created_ms = 1000 * version,
        .need = mal_retention_need(list->versions, list->n, row),
        .bytes = mal_random_below(rng, 20),
    };
    list->n++;
}

static void random_lists(void **state) {
    static struct list list;
    int n_age = 0, n_bytes = 0, n_over = 0, n_kept = 0;
    for (uint64_t seed = 1; seed <= N_LISTS; seed++) {
        uint64_t rng = seed;
        list.n = 0;
        size_t n = 1 + mal_random_below(&rng, MAX_VERSIONS);
        while (list.n < n)
            add_row(&list, &rng);
        for (int64_t b = (int64_t)mal_random_below(&rng, n); b > 1; b--) {
            if (!may_go(&list, b, 0)) continue;
            for (int64_t v = 1; v < b; v++) {
                list.versions[v].pruned = true;
                list.versions[v].bytes /= 4;
            }
            break;
        }
        struct mal_retention_options o = {.keep_versions =
                                              (int64_t)mal_random_below(&rng, 4)};
        if (mal_random_below(&rng, 3))
            o.retain_bytes = 1 + (int64_t)mal_random_below(&rng, 10 * n);
        if (mal_random_below(&rng, 3))
            o.retain_ms = 500 + 1000 * (int64_t)mal_random_below(&rng, n + 2);
        int64_t now_ms = 1000 * (int64_t)n;
        struct mal_retention_choice got, want = choose(&list, &o, now_ms);
        mal_retention_choose(&o, list.versions, list.n, now_ms, &got);
        assert_int_equal(got.below, want.below);
        assert_int_equal(got.over, want.over);
        n_age += got.below && !o.retain_bytes;
        n_bytes += got.below && !o.retain_ms;
        n_over += got.over;
        n_kept += !got.below;
    }
    assert_true(n_age > 5 && n_bytes > 5 && n_over > 5 && n_kept > 5);
}

/* ---- With a database ---- */

struct world {
    uint64_t rng;
    struct mal_store *store;
    struct mal_retention *retention;
    struct mal_retention_options o;
    int64_t last, oldest;
};

static bool is_pruned(struct mal_store *store, int64_t version) {
    struct mal_version_row row = {0};
    assert_done(mal_store_get_version(store, version, &row, &err));
    bool pruned = row.pruned;
    mal_version_row_finish(&row);
    return pruned;
}

static void stage_blob(struct mal_store *store, int64_t version, const char *name) {
    struct mal_blob blob = {name, "{}", "0123456789", BLOB_BYTES, "ff"};
    assert_done(mal_store_stage_blob(store, version, &blob, &err));
}

/* An edit, a consolidation or a rollback, with a keyframe where one is wanted. */
static void add_version(struct world *w) {
    int64_t version = ++w->last, dice = (int64_t)mal_random_below(&w->rng, 10);
    struct mal_version_row row = version_row(version, -1);
    row.created_ms = 1000 * version;
    if (dice < 3) {
        row.kind = MAL_VERSION_ROLLBACK;
        row.to_version = w->oldest + (int64_t)mal_random_below(
                                         &w->rng, (uint64_t)(version - w->oldest));
    } else if (dice == 3) {
        row.kind = MAL_VERSION_CONSOLIDATION;
    }
    assert_done(mal_retention_wants_keyframe(w->retention, w->store, &row, 1000 * version,
                                             &row.keyframe, &err));
    if (row.to_version < 0) stage_blob(w->store, version, "delta/x");
    if (row.keyframe) stage_blob(w->store, version, "keyframe/x");
    struct mal_publish p = {.row = &row};
    assert_done(mal_store_publish(w->store, &p, &err));
}

/* All that is not pruned has what its replay reads. */
static void check_stored(struct world *w) {
    uint64_t total = 0;
    for (int64_t v = 0; v <= w->last; v++) {
        uint64_t bytes = 0;
        struct mal_history_plan plan;
        assert_done(mal_store_bytes(w->store, v, &bytes, &err));
        total += bytes;
        if (is_pruned(w->store, v)) {
            assert_true(v <= w->last - 1 - w->o.keep_versions);
            assert_int_equal(bytes, 0);
            assert_fails(MAL_CONFLICT, "was pruned: its weights are no longer stored",
                         mal_history_plan(w->store, v, &plan, &err));
            w->oldest = v + 1;
            continue;
        }
        assert_done(mal_history_plan(w->store, v, &plan, &err));
        assert_true(!w->o.keyframe_every || plan.n <= 1 || /* a consolidation */
                    (int64_t)plan.n < w->o.keyframe_every);
        for (size_t i = 0; i < plan.n; i++)
            assert_false(is_pruned(w->store, plan.deltas[i]));
        mal_history_plan_finish(&plan);
    }
    /* Of the limit of bytes a replay's worth may be missed. */
    uint64_t most = (uint64_t)(2 * w->o.keyframe_every + w->o.keep_versions + 2);
    if (w->o.retain_bytes && w->o.keyframe_every)
        assert_true(total <= (uint64_t)w->o.retain_bytes + most * 2 * BLOB_BYTES);
}

static void random_histories(void **state) {
    int n_pruned = 0;
    for (uint64_t seed = 1; seed <= N_HISTORIES; seed++) {
        struct place place;
        place_make(&place);
        struct world w = {.rng = seed, .store = open_store(place.path)};
        assert_int_equal(
            sqlite3_exec(w.store->db, "PRAGMA synchronous = OFF", NULL, NULL, NULL), 0);
        assert_done(publish(w.store, 0, -1, NULL, &err));
        w.o = (struct mal_retention_options){
            .keyframe_every = (int64_t)mal_random_below(&w.rng, 6),
            .keep_versions = (int64_t)mal_random_below(&w.rng, 3),
            .retain_bytes = seed % 3 ? 100 : 0,
            .retain_ms = seed % 2 ? 7500 : 0};
        assert_done(mal_retention_create(&w.retention, &w.o, &err));
        for (int i = 0; i < MAX_VERSIONS; i++) {
            add_version(&w);
            assert_done(mal_retention_run(w.retention, w.store, 1000 * w.last, &err));
            check_stored(&w);
        }
        n_pruned += w.oldest > 1;
        mal_retention_destroy(w.retention);
        mal_store_close(w.store);
        place_remove(&place);
    }
    assert_true(n_pruned >= N_HISTORIES / 2);
}

/* ---- Keyframes ---- */

static bool wants(struct mal_retention *r, struct mal_store *store, int64_t version,
                  int64_t to_version, int64_t now_ms) {
    struct mal_version_row row = version_row(version, to_version);
    bool out = false;
    assert_done(mal_retention_wants_keyframe(r, store, &row, now_ms, &out, &err));
    return out;
}

/* Every third delta after the last keyframe or consolidation; never with 0. */
static void every_few_versions(void **state) {
    static const char expected[] = "0010010001001";
    struct place place;
    struct mal_retention *r, *never;
    struct mal_retention_options o = {.keyframe_every = 3}, none = {0};
    place_make(&place);
    struct mal_store *store = open_store(place.path);
    assert_done(mal_retention_create(&r, &o, &err));
    assert_done(mal_retention_create(&never, &none, &err));
    assert_done(publish(store, 0, -1, NULL, &err));
    for (int64_t v = 1; expected[v - 1]; v++) {
        struct mal_version_row row = version_row(v, -1);
        if (v == 8) row.kind = MAL_VERSION_CONSOLIDATION;
        assert_done(mal_retention_wants_keyframe(r, store, &row, 0, &row.keyframe, &err));
        assert_int_equal(row.keyframe, v != 8 && expected[v - 1] == '1');
        assert_false(wants(never, store, v, -1, 0));
        struct mal_publish p = {.row = &row};
        assert_done(mal_store_publish(store, &p, &err));
    }
    mal_retention_destroy(r);
    mal_retention_destroy(never);
    mal_store_close(store);
    place_remove(&place);
}

/* A rollback holds back what it returns to, unless it has a keyframe. */
static void rollback_to_what_goes(void **state) {
    struct place place;
    struct mal_retention *r;
    struct mal_retention_options o = {.keyframe_every = 4, .retain_ms = 5000};
    place_make(&place);
    struct mal_store *store = open_store(place.path);
    assert_done(mal_retention_create(&r, &o, &err));
    for (int64_t v = 0; v <= 5; v++) {
        struct mal_version_row row = version_row(v, -1); /* created at 2000 + v */
        row.keyframe = v == 4;
        struct mal_publish p = {.row = &row};
        assert_done(mal_store_publish(store, &p, &err));
    }
    assert_false(wants(r, store, 6, 2, 7000));
    assert_true(wants(r, store, 6, 2, 7002));
    assert_false(wants(r, store, 6, 4, 7004));
    assert_true(wants(r, store, 6, 5, 7005)); /* made from 4 */
    assert_false(wants(r, store, 6, 0, 99999));
    assert_done(mal_retention_run(r, store, 7004, &err));
    assert_true(is_pruned(store, 3));
    assert_false(is_pruned(store, 4));
    struct mal_version_row row = version_row(6, 2);
    bool out;
    assert_fails(MAL_CONFLICT, "version 2 was pruned",
                 mal_retention_wants_keyframe(r, store, &row, 7004, &out, &err));
    mal_retention_destroy(r);
    mal_store_close(store);
    place_remove(&place);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_lists),
        cmocka_unit_test(random_histories),
        cmocka_unit_test(every_few_versions),
        cmocka_unit_test(rollback_to_what_goes),
    };
    return cmocka_run_group_tests_name("retention", tests, NULL, NULL);
}
