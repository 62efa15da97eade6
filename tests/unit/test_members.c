/* test_members.c - the system of all live facts holds the keys of all of them, each once,
 * whatever change was given up, and where. */
#include "engine_job.h"
#include "no_memory.h"

#include <math.h>

#include "core/editor/joint_impl.h"
#include "daemon/engine/engine_impl.h"

/* The first one is pinned, the next two are live; the last two wait, with the prompts of
 * the first two. */
enum { N_FACTS = 5, N_TAUGHT = 3 };

static struct mal_engine *engine;
static struct mal_store *store;
static struct mal_fact *facts;
static size_t n_facts;
static int64_t seqs[N_FACTS];
static struct mal_progress progress;

/* ---- Versions ---- */

static void add_job(const char *id, size_t first, size_t n) {
    struct mal_error err = {0};
    engine_job_add(store, id, facts + first, n);
    for (size_t i = first; i < first + n; i++) {
        struct mal_fact_row row = {0};
        assert_ok(mal_store_get_fact(store, facts[i].id, &row, &err), &err);
        seqs[i] = row.seq;
        mal_fact_row_finish(&row);
    }
}

static void publish(struct mal_change *change, const char *job) {
    struct mal_error err = {0};
    assert_ok(mal_change_persist(change, store, &job, job != NULL, &err), &err);
    mal_engine_publish(engine, change);
    mal_change_finish(change);
}

static bool edit(size_t first, size_t n, struct mal_change *out, struct mal_error *err) {
    struct mal_agreement agreement = {0};
    size_t begins[] = {0, n};
    struct mal_batch_edit batch = {.facts = facts + first,
                                   .seqs = seqs + first,
                                   .n = n,
                                   .first = begins,
                                   .n_jobs = 1,
                                   .gate = mal_engine_gate(engine)};
    bool ok = mal_engine_ask(engine, batch.facts, n, &progress, &agreement, err) &&
              mal_engine_edit(engine, store, &batch, &agreement, 1, &progress, out, err);
    mal_agreement_finish(&agreement);
    return ok;
}

static bool retract(size_t i, bool pin, struct mal_change *out, struct mal_error *err) {
    static struct mal_retraction fact;
    fact = (struct mal_retraction){.id = facts[i].id, .pin = pin};
    return mal_engine_retract(engine, store, &fact, 1, 1, &progress, out, err);
}

static int open_all(void **state) {
    static char model[600], editor[600], path[600];
    struct mal_error err = {0};
    struct mal_change change = {0};
    if (scratch_make(state)) return -1;
    snprintf(model, sizeof model, "%s/gpt2-malmen/model", golden_dir());
    snprintf(editor, sizeof editor, "%s/gpt2-malmen/editor.safetensors", golden_dir());
    snprintf(path, sizeof path, "%s/gpt2-malmen/facts.json", golden_dir());
    struct mal_engine_options options = {.model_dir = model,
                                         .read_stream = "off",
                                         .editor_path = editor,
                                         .cache_path = "",
                                         .keep_versions = 2,
                                         .device = "cpu",
                                         .update = "joint",
                                         .repair_rounds = 1,
                                         .repair_tau = 0.5,
                                         .verify_limit = 100};
    const double no = (double)NAN;
    mal_gate_init(&options.gate,
                  &(struct mal_gate_limits){no, no, no, no, no, no, NULL, false});
    assert_ok(mal_facts_load(&facts, &n_facts, path, &err), &err);
    assert_true(n_facts >= N_FACTS);
    for (size_t i = 0; i < N_FACTS; i++) {
        char id[16];
        snprintf(id, sizeof id, "fact-%zu", i);
        mal_free(facts[i].id);
        facts[i].id = mal_strdup(id);
        if (i < N_TAUGHT) continue;
        mal_free(facts[i].prompt);
        facts[i].prompt = mal_strdup(facts[i - N_TAUGHT].prompt);
    }
    assert_ok(mal_engine_open(&engine, &options, &err), &err);
    assert_ok(mal_store_open(&store, scratch_path("db"), &err), &err);
    assert_ok(mal_engine_base_change(engine, 1, &change, &err), &err);
    publish(&change, NULL);
    add_job("edit", 0, N_TAUGHT);
    assert_ok(edit(0, N_TAUGHT, &change, &err), &err);
    publish(&change, "edit");
    add_job("pin", 0, 0);
    assert_ok(retract(0, true, &change, &err), &err);
    publish(&change, "pin");
    add_job("waits", N_TAUGHT, N_FACTS - N_TAUGHT);
    return 0;
}

static int close_all(void **state) {
    mal_engine_close(engine);
    mal_store_close(store);
    mal_facts_free(facts, n_facts);
    return scratch_remove(state);
}

/* ---- Their system ---- */

/* A of a module, with the rows that its factor still keeps from it. */
static double *system_of(const struct mal_joint *joint, size_t m) {
    int64_t n = mal_model_edit(engine->model, m)->d_in;
    double *a = mal_calloc((size_t)(n * n), sizeof *a);
    assert_non_null(a);
    for (int64_t i = 0; i < n; i++)
        memcpy(a + i * n, joint->a[m] + i * n, (size_t)(i + 1) * sizeof *a);
    const struct mal_joint_factor *factor = &joint->factors[m % joint->n_factors];
    if (factor->module != (int64_t)m) return a;
    const double *w = factor->l + n * n + mal_inverses64(joint->be, n);
    const float *u = (const float *)(w + mal_joint_room(n) * n);
    for (int64_t r = 0; r < factor->pending; r++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j <= i; j++)
                a[i * n + j] += (double)u[r * n + i] * (double)u[r * n + j];
    return a;
}

static void sync_members(struct mal_members *members) {
    struct mal_error err = {0};
    struct mal_members_of of = mal_engine_members_of(engine);
    mal_weights_use(engine->ws, 0);
    assert_ok(mal_members_sync(members, &of, store, &progress, &err), &err);
    mal_weights_use(engine->ws, mal_weights_live(engine->ws));
}

/* What keys of one fact are off by among others, again and again, is far less. */
static const double MOST_OFF = 1e-3;

/* Brought into step, the engine's is as one that is made anew. */
static void assert_system(const char *change, long at) {
    struct mal_members anew = {0};
    sync_members(&engine->members);
    sync_members(&anew);
    assert_int_equal(engine->members.n, anew.n);
    for (size_t m = 0; m < mal_model_n_edits(engine->model); m++) {
        int64_t n = mal_model_edit(engine->model, m)->d_in;
        double *got = system_of(engine->members.joint, m);
        double *want = system_of(anew.joint, m), off = 0, norm = 0;
        for (int64_t i = 0; i < n * n; i++) {
            off += (got[i] - want[i]) * (got[i] - want[i]);
            norm += want[i] * want[i];
        }
        mal_free(got);
        mal_free(want);
        if (sqrt(off / norm) > MOST_OFF)
            fail_msg("%s, given up at %ld: module %zu is off by %g", change, at, m,
                     sqrt(off / norm));
    }
    mal_members_drop(&anew);
}

/* ---- Changes ---- */

static bool teach(struct mal_change *out, struct mal_error *err) {
    return edit(N_TAUGHT, N_FACTS - N_TAUGHT, out, err);
}

static bool pin(struct mal_change *out, struct mal_error *err) {
    return retract(1, true, out, err);
}

static bool drop(struct mal_change *out, struct mal_error *err) {
    return retract(1, false, out, err);
}

static bool drop_pinned(struct mal_change *out, struct mal_error *err) {
    return retract(0, false, out, err);
}

static bool repair(struct mal_change *out, struct mal_error *err) {
    return mal_engine_repair(engine, store, seqs + 1, 2, 1, &progress, out, err);
}

static bool consolidate(struct mal_change *out, struct mal_error *err) {
    return mal_engine_consolidate(engine, store, 1, &progress, out, err);
}

static const struct change {
    const char *name;
    bool (*make)(struct mal_change *out, struct mal_error *err);
} changes[] = {{"teach", teach},   {"pin", pin},
               {"drop", drop},     {"drop pinned", drop_pinned},
               {"repair", repair}, {"consolidate", consolidate}};

enum { N_CHANGES = sizeof changes / sizeof *changes };

/* Prepared, and abandoned. */
static bool make(const struct change *change, char weights[MAL_HASH_HEX],
                 struct mal_error *err) {
    struct mal_change made = {0};
    bool ok = change->make(&made, err);
    if (ok) strcpy(weights, made.row.weights_hash);
    if (ok) mal_engine_abandon(engine);
    mal_change_finish(&made);
    return ok;
}

static void test_no_memory(void **state) {
    const long enough = 16; /* successes in a row: some of it can be done without */
    char weights[MAL_HASH_HEX];
    mal_json_guard();
    for (size_t i = 0; i < N_CHANGES; i++) {
        mal_members_drop(&engine->members);
        for (long n = 1, last = 1; n - last < enough; n++) {
            struct mal_error err = {0};
            mal_alloc_fail_at(n);
            bool ok = make(&changes[i], weights, &err);
            mal_alloc_fail_at(0);
            if (!ok) last = n;
            assert_system(changes[i].name, n);
        }
    }
}

/* Reads of another version in every tick, of which one gives up. */
struct ticking {
    int64_t version; /* -1: none is read */
    long n, last;
};

static bool read_and_tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct ticking *t = arg;
    struct mal_error err = {0};
    struct mal_score *scores = NULL;
    const struct mal_score_item item = {.prompt = "a b c", .target = "d e"};
    int64_t version = t->version;
    if (version >= 0) {
        assert_ok(mal_engine_begin_read(engine, &version, &err), &err);
        assert_ok(mal_engine_score(engine, &item, 1, "", NULL, NULL, &scores, &err),
                  &err);
        mal_engine_end_read(engine);
        mal_scores_free(scores, 1);
    }
    return ++t->n != t->last;
}

static void make_whole(const struct change *change, struct ticking *ticking,
                       char weights[MAL_HASH_HEX]) {
    struct mal_error err = {0};
    mal_members_drop(&engine->members);
    *ticking = (struct ticking){.version = ticking->version};
    assert_ok(make(change, weights, &err), &err);
}

static void test_given_up(void **state) {
    struct ticking ticking = {0};
    char weights[MAL_HASH_HEX], other[MAL_HASH_HEX];
    for (size_t i = 0; i < N_CHANGES; i++) {
        progress = (struct mal_progress){
            .tick = read_and_tick, .arg = &ticking, .slice_tokens = 4};
        ticking.version = -1;
        make_whole(&changes[i], &ticking, weights);
        for (ticking.version = 0; ticking.version <= 2; ticking.version++) {
            make_whole(&changes[i], &ticking, other);
            assert_string_equal(weights, other);
        }
        for (long last = 1, n = ticking.n; last <= n; last++) {
            struct mal_error err = {0};
            ticking = (struct ticking){.version = last % 3, .last = last};
            (void)make(&changes[i], other, &err);
            ticking.last = 0;
            assert_system(changes[i].name, last);
        }
        progress = (struct mal_progress){0};
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_given_up),
    };
    return cmocka_run_group_tests_name("members", tests, open_all, close_all);
}
