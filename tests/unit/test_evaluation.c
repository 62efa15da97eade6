/* test_evaluation.c - facts measured on a version by slices: the same as at once,
 * whatever is edited in between, also when memory runs out. */
#include "engine_job.h"
#include "no_memory.h"

#include <math.h>

#include "daemon/engine/probes.h"

static struct mal_engine *engine;
static struct mal_store *store;
static struct mal_fact *facts;
static size_t n_facts;

/* ---- Measures of scores ---- */

enum { N_MADE = 50, MOST = 4 };

static double mean_of(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    return n ? sum / (double)n : (double)NAN;
}

static void assert_same(double a, double b) {
    if (isnan(a) ? !isnan(b) : a != b) fail_msg("%a is not %a", a, b);
}

/* Of made-up scores, by the words of eval.h: each fact counts once in each kind. */
static void test_measuring(void **state) {
    static char text[] = "x";
    static struct mal_probe probes[N_MADE][MOST];
    struct mal_fact made[N_MADE] = {{0}};
    struct mal_score scores[N_MADE * (1 + 2 * MOST)] = {{0}};
    double tf[3][N_MADE], dec[3][N_MADE];
    size_t n = 0, n_of[3] = {0};
    unsigned seed = 7;
    for (size_t i = 0; i < N_MADE; i++) {
        seed = seed * 1103515245 + 12345;
        size_t counts[3] = {1, (seed >> 16) % MOST, 0};
        made[i] = (struct mal_fact){.n_rephrases = counts[1],
                                    .unrelated = probes[i],
                                    .n_unrelated = (seed >> 20) % MOST};
        for (size_t j = 0; j < made[i].n_unrelated; j++) {
            probes[i][j].target = (seed >> (8 + j)) % 2 ? text : NULL;
            counts[2] += probes[i][j].target != NULL;
        }
        for (int kind = 0; kind < 3; kind++) {
            double shares[2 * MOST], exact[2 * MOST];
            for (size_t j = 0; j < counts[kind]; j++, n++) {
                seed = seed * 1103515245 + 12345;
                scores[n].share = (double)(seed >> 16) / 65536;
                scores[n].correct = (seed >> 12) % 2;
                shares[j] = scores[n].share;
                exact[j] = scores[n].correct;
            }
            if (counts[kind] == 0) continue;
            tf[kind][n_of[kind]] = mean_of(shares, counts[kind]);
            dec[kind][n_of[kind]++] = mean_of(exact, counts[kind]);
        }
    }
    struct mal_measuring measuring = {.facts = made, .n_facts = N_MADE};
    for (size_t at = 0, step; at < n; at += step) { /* in any portions */
        step = at % 5;
        if (step > n - at || step == 0) step = 1;
        mal_measuring_add(&measuring, scores + at, step);
    }
    struct mal_measures got, whole;
    mal_measuring_end(&measuring, &got);
    mal_measures_of(made, N_MADE, scores, &whole);
    const struct mal_measures *both[] = {&got, &whole};
    assert_true(n_of[1] > 0 && n_of[1] < N_MADE && n_of[2] > 0 && n_of[2] < N_MADE);
    for (int i = 0; i < 2; i++) {
        const struct mal_measures *m = both[i];
        const double found[] = {m->tf_es,  m->tf_gs,  m->tf_ls,
                                m->dec_es, m->dec_gs, m->dec_ls};
        assert_int_equal(m->n_facts, N_MADE);
        assert_true(isnan(m->agreement));
        for (int kind = 0; kind < 3; kind++) {
            assert_same(found[kind], mean_of(tf[kind], n_of[kind]));
            assert_same(found[3 + kind], mean_of(dec[kind], n_of[kind]));
        }
    }
}

/* ---- An engine and its versions ---- */

/* A job that is in the database, as far as publishing needs it. */
static void add_job(const char *id, struct mal_fact *of, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%zu", id, i);
        mal_free(of[i].id);
        of[i].id = mal_strdup(name);
    }
    engine_job_add(store, id, of, n);
}

static void publish(struct mal_change *change, const char *const *jobs, size_t n_jobs) {
    struct mal_error err = {0};
    assert_ok(mal_change_persist(change, store, jobs, n_jobs, &err), &err);
    mal_engine_publish(engine, change);
}

/* Teaches facts; what the edit measured. */
static struct mal_measures teach(const char *job, struct mal_fact *of, size_t n) {
    struct mal_error err = {0};
    struct mal_change change = {0};
    struct mal_agreement agreement = {0};
    int64_t seqs[64] = {0};
    size_t first[] = {0, n};
    assert_true(n <= 64);
    struct mal_progress none = {0};
    add_job(job, of, n);
    struct mal_batch_edit batch = {.facts = of,
                                   .seqs = seqs,
                                   .n = n,
                                   .first = first,
                                   .n_jobs = 1,
                                   .gate = mal_engine_gate(engine)};
    assert_ok(mal_engine_ask(engine, of, n, &none, &agreement, &err), &err);
    assert_ok(mal_engine_edit(engine, store, &batch, &agreement, 1, &none, &change, &err),
              &err);
    struct mal_measures measures = change.measures;
    publish(&change, &job, 1);
    mal_change_finish(&change);
    mal_agreement_finish(&agreement);
    return measures;
}

static int open_all(void **state) {
    static char model[600], editor[600], path[600];
    struct mal_error err = {0};
    struct mal_change base = {0};
    if (scratch_make(state)) return -1;
    snprintf(model, sizeof model, "%s/gpt2-malmen/model", golden_dir());
    snprintf(editor, sizeof editor, "%s/gpt2-malmen/editor.safetensors", golden_dir());
    snprintf(path, sizeof path, "%s/gpt2-malmen/facts.json", golden_dir());
    struct mal_engine_options options = {.model_dir = model,
                                         .read_stream = "off",
                                         .editor_path = editor,
                                         .cache_path = "",
                                         .device = "cpu",
                                         .update = "sequential",
                                         .probes =
                                             scratch_text("probes", "a b\nc d e\n")};
    mal_gate_init(&options.gate,
                  &(struct mal_gate_limits){.min_es = (double)NAN,
                                            .min_gs = (double)NAN,
                                            .min_ls = (double)NAN,
                                            .min_agreement = (double)NAN,
                                            .max_norm_growth = (double)NAN,
                                            .max_perplexity_growth = (double)NAN});
    assert_ok(mal_facts_load(&facts, &n_facts, path, &err), &err);
    assert_true(n_facts >= 5);
    assert_ok(mal_engine_open(&engine, &options, &err), &err);
    assert_ok(mal_store_open(&store, scratch_path("db"), &err), &err);
    assert_ok(mal_engine_base_change(engine, 1, &base, &err), &err);
    publish(&base, NULL, 0);
    mal_change_finish(&base);
    return 0;
}

static int close_all(void **state) {
    mal_engine_close(engine);
    mal_store_close(store);
    mal_facts_free(facts, n_facts);
    return scratch_remove(state);
}

/* ---- Evaluations ---- */

static struct mal_evaluation *begin(int64_t version, const struct mal_fact *of,
                                    size_t n) {
    struct mal_evaluation *e = NULL;
    struct mal_error err = {0};
    assert_ok(mal_engine_evaluate(engine, store, version, of, n, NULL, NULL, &e, &err),
              &err);
    return e;
}

/* To its end, with `between` (may be NULL) after each slice. */
static struct mal_measures finish(struct mal_evaluation *e, void (*between)(int)) {
    struct mal_measures out = {0};
    struct mal_error err = {0};
    int64_t done, total, last = 0;
    bool over = false;
    for (int i = 0; !over; i++) {
        assert_ok(mal_evaluation_step(e, NULL, NULL, &over, &out, &err), &err);
        mal_evaluation_progress(e, &done, &total);
        assert_true(done >= last && done <= total);
        last = done;
        if (between) between(i);
    }
    assert_int_equal(done, total);
    mal_evaluation_close(e);
    return out;
}

static void assert_measures(struct mal_measures a, struct mal_measures b) {
    assert_int_equal(a.n_facts, b.n_facts);
    assert_same(a.tf_es, b.tf_es);
    assert_same(a.tf_gs, b.tf_gs);
    assert_same(a.tf_ls, b.tf_ls);
    assert_same(a.dec_es, b.dec_es);
    assert_same(a.dec_gs, b.dec_gs);
    assert_same(a.dec_ls, b.dec_ls);
    assert_same(a.agreement, b.agreement);
}

/* The daemon's probes have no answers yet when the first evaluation begins: what an edit
 * asks of them in between is not asked again. */
static struct mal_measures edited[4];

static struct mal_fact *batch(int64_t version) {
    return facts + 2 * (version - 1);
}

static void edit_between(int slice) {
    static const char *const jobs[] = {NULL, "one", "two", "three"};
    if (slice < 1 || slice > 3) return;
    edited[slice] = teach(jobs[slice], batch(slice), slice < 3 ? 2 : 1);
    assert_int_equal(mal_engine_live(engine), slice);
}

static void test_beside_edits(void **state) {
    struct mal_measures base = finish(begin(0, facts, n_facts), edit_between);
    assert_int_equal(mal_engine_live(engine), 3);
    assert_measures(base, finish(begin(0, facts, n_facts), NULL));
    assert_same(base.agreement, 1);
    for (int64_t v = 1; v <= 3; v++) {
        assert_int_equal(mal_engine_has(engine, v), v == 3);
        assert_measures(finish(begin(v, batch(v), v < 3 ? 2 : 1), NULL), edited[v]);
    }
    assert_true(edited[3].agreement < 1);
    assert_false(mal_engine_has(engine, 1)); /* it has left memory again */
}

static void test_refused(void **state) {
    struct mal_evaluation *e = NULL;
    struct mal_error err = {0};
    for (int64_t v = -1; v <= 99; v += 100) {
        assert_false(
            mal_engine_evaluate(engine, store, v, facts, 1, NULL, NULL, &e, &err));
        assert_error(&err, MAL_INVALID, "there is no version");
    }
    assert_null(e);
    mal_evaluation_close(NULL);
    size_t bytes = mal_engine_device_bytes(engine);
    e = begin(1, facts, n_facts);
    assert_true(mal_engine_device_bytes(engine) > bytes);
    mal_evaluation_close(e); /* before its end */
    assert_int_equal(mal_engine_device_bytes(engine), bytes);
}

static bool evaluate(int64_t version, struct mal_error *err) {
    struct mal_evaluation *e = NULL;
    struct mal_measures out;
    bool over = false;
    bool ok = mal_engine_evaluate(engine, store, version, facts, 2, NULL, NULL, &e, err);
    while (ok && !over)
        ok = mal_evaluation_step(e, NULL, NULL, &over, &out, err);
    mal_evaluation_close(e);
    return ok;
}

static bool evaluate_live(const char *path, struct mal_error *err) {
    return evaluate(3, err);
}

static void test_no_memory(void **state) {
    size_t bytes = mal_engine_device_bytes(engine);
    fail_each_allocation(evaluate_live, NULL, 50);
    /* In a replay it is an error, if not always of memory (jansson says not why). */
    bool ok = false;
    for (long n = 1; (!ok || n < 100) && n < 5000; n++) {
        struct mal_error err = {0};
        mal_alloc_fail_at(n);
        ok = evaluate(1, &err);
        mal_alloc_fail_at(0);
        assert_int_equal(ok, err.text[0] == '\0');
        assert_int_equal(mal_engine_device_bytes(engine), bytes);
    }
    assert_true(ok);
    assert_int_equal(mal_engine_live(engine), 3);
    assert_measures(finish(begin(2, batch(2), 2), NULL), edited[2]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measuring),
        cmocka_unit_test(test_beside_edits),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("evaluation", tests, open_all, close_all);
}
