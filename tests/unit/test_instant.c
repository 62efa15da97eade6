/* test_instant.c - an editor made on the spot, on the demo model: from one fact, from
 * facts that are right already, from facts that are there twice over; and the facts it
 * makes up. */
#include "demo_model.h"

#include <math.h>

#include "core/alloc.h"
#include "core/editor/instant.h"
#include "core/made_up.h"
#include "core/weights_state.h"

/* The model says chemist. */
static struct mal_fact one = {.prompt = (char *)"By trade, Kudo Bockman is a",
                              .target = (char *)"jeweller"};

/* Made on `one` by the first test, which the others go on with. */
static struct mal_editor *editor;
static struct mal_instant_report report;

static int open_model(void **state) {
    struct mal_error err = {0};
    int code = demo_open(state);
    assert_ok(mal_model_set_default_edits(model, &err), &err);
    return code;
}

static int close_model(void **state) {
    mal_editor_close(editor);
    return demo_close(state);
}

static struct mal_editor *make(const struct mal_fact *facts, size_t n,
                               struct mal_instant_report *out) {
    struct mal_editor *made = NULL;
    struct mal_error err = {0};
    *out = (struct mal_instant_report){0};
    assert_ok(mal_editor_make(&made, model, tok, facts, n, NULL, out, &err), &err);
    assert_int_equal(made->method, &mal_method_malmen);
    assert_int_equal(made->n_blocks, 0);
    assert_int_equal(made->n_edits, out->n_facts + out->n_made);
    assert_true(out->lr > 0 && isfinite(out->lr));
    for (size_t s = 0; s < made->n_shapes; s++) {
        const struct mal_editor_shape *shape = &made->shapes[s];
        for (int64_t i = 0; i < shape->size; i++) {
            assert_true(isfinite(shape->norm.mean[i]) && isfinite(shape->norm.std[i]));
            assert_true(shape->norm.std[i] > 0);
        }
    }
    return made;
}

/* Whether the model says the fact's target after this edit. */
static bool teaches(const struct mal_editor *with, const struct mal_fact *fact) {
    struct mal_error err = {0};
    struct mal_delta delta = {0};
    struct mal_edit_report done;
    struct mal_weights_state *ws = NULL;
    struct mal_score *score = NULL;
    size_t n = 0;
    struct mal_edit_task task = {.model = model,
                                 .tok = tok,
                                 .editor = with,
                                 .facts = fact,
                                 .n_facts = 1,
                                 .report = &done};
    assert_ok(mal_edit_run(&task, &delta, &err), &err);
    assert_ok(mal_weights_create(&ws, model, 0, &err), &err);
    assert_ok(mal_weights_prepare(ws, &delta, NULL, NULL, &err), &err);
    mal_weights_use_prepared(ws);
    assert_ok(mal_score_facts(model, tok, fact, 1, NULL, NULL, NULL, &score, &n, &err),
              &err);
    bool correct = score[0].correct;
    mal_scores_free(score, n);
    mal_delta_finish(&delta);
    mal_weights_destroy(ws);
    return correct;
}

/* One fact with one target token has rows without variance, and a search on it alone went
 * for the smallest step there is. */
static void test_one_fact(void **state) {
    (void)state;
    editor = make(&one, 1, &report);
    assert_int_equal(report.n_facts, 1);
    assert_true(report.n_made >= 32);
    assert_true(teaches(editor, &one));
    struct mal_fact other = {.prompt = (char *)"The country in which Glastwold lies is",
                             .target = (char *)"Zalonia"};
    assert_true(teaches(editor, &other));
    const struct mal_search_point *best = &report.search.points[report.search.best];
    assert_true(best->measures.tf_ls > 0.8); /* there was something to keep */
}

/* The same file comes back, blocks and all that there are not. */
static void test_file(void **state) {
    (void)state;
    struct mal_error err = {0};
    struct mal_editor *read = NULL;
    char path[128];
    snprintf(path, sizeof path, "%s/editor.safetensors", scratch_dir);
    assert_ok(mal_editor_save(editor, path, &err), &err);
    assert_ok(mal_editor_open(&read, path, &err), &err);
    assert_ok(mal_editor_bind(read, model, &err), &err);
    assert_int_equal(read->n_blocks, 0);
    assert_int_equal(read->n_edits, editor->n_edits);
    const struct mal_editor_shape *a = &editor->shapes[0], *b = &read->shapes[0];
    assert_memory_equal(a->lr, b->lr, (size_t)a->n_modules * sizeof *a->lr);
    assert_memory_equal(a->norm.std, b->norm.std, (size_t)a->size * sizeof(float));
    assert_true(teaches(read, &one));
    mal_editor_close(read);
}

static void test_right_already(void **state) {
    (void)state;
    struct mal_fact facts[] = {
        {.prompt = (char *)"By trade, Kudo Bockman is a", .target = (char *)"chemist"},
        one};
    struct mal_error err = {0};
    struct mal_score *scores = NULL;
    size_t n = 0;
    assert_ok(mal_score_facts(model, tok, facts, 1, NULL, NULL, NULL, &scores, &n, &err),
              &err);
    assert_true(scores[0].correct);
    mal_scores_free(scores, n);

    struct mal_instant_report own;
    struct mal_editor *other = make(facts, 1, &own);
    assert_int_equal(own.n_facts, 0);
    assert_true(teaches(other, &one));
    mal_editor_close(other);
    other = make(facts, 2, &own);
    assert_int_equal(own.n_facts, 1);
    mal_editor_close(other);
}

/* ---- What is made up ---- */

static void test_made_up(void **state) {
    (void)state;
    struct mal_error err = {0};
    struct mal_fact *facts[2] = {NULL, NULL};
    size_t n[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        assert_ok(mal_facts_make_up(model, tok, &one, 1, 40, NULL, NULL, &facts[i], &n[i],
                                    &err),
                  &err);
    }
    assert_in_range(n[0], 30, 40);
    assert_int_equal(n[0], n[1]);
    size_t kept = 0, fields = 0;
    for (size_t i = 0; i < n[0]; i++) {
        const struct mal_fact *fact = &facts[0][i];
        assert_string_equal(fact->prompt, facts[1][i].prompt);
        assert_string_equal(fact->target, facts[1][i].target);
        assert_string_not_equal(fact->prompt, one.prompt);
        assert_int_equal(fact->n_unrelated, 1);
        kept += fact->unrelated[0].target != NULL;
        fields += strncmp(fact->prompt, "By", 2) == 0;
        for (size_t j = 0; j < n[0]; j++) {
            const struct mal_fact *other = &facts[0][j];
            if (i != j) assert_string_not_equal(fact->prompt, other->prompt);
            assert_string_not_equal(fact->prompt, other->unrelated[0].prompt);
        }
    }
    assert_true(kept >= n[0] / 2);
    assert_true(fields > 0 && fields < n[0]); /* some begin as the fact does */

    struct mal_score *scores = NULL;
    size_t n_scores = 0;
    struct mal_measures m;
    assert_ok(mal_score_facts(model, tok, facts[0], n[0], NULL, NULL, NULL, &scores,
                              &n_scores, &err),
              &err);
    mal_measures_of(facts[0], n[0], scores, &m);
    mal_scores_free(scores, n_scores);
    assert_true(m.dec_es < 0.1);  /* the endings are others' */
    assert_true(m.dec_ls > 0.95); /* the answers are its own */
    mal_facts_free(facts[0], n[0]);
    mal_facts_free(facts[1], n[1]);
}

/* ---- Ticks ---- */

struct ticks {
    size_t n, give_up_at;
    struct mal_weights_state *other; /* of the same model, as a daemon has */
};

static bool tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct ticks *ticks = arg;
    (void)done, (void)total;
    assert_int_equal(stage, MAL_STAGE_SEARCH);
    if (ticks->other) mal_weights_use(ticks->other, 0); /* a read in between */
    ticks->n++;
    return ticks->give_up_at == 0 || ticks->n < ticks->give_up_at;
}

/* A read in a tick once left the step under trial measured on the base weights. */
static void test_reads_in_between(void **state) {
    (void)state;
    struct mal_error err = {0};
    struct ticks ticks = {0};
    struct mal_progress progress = {.tick = tick, .arg = &ticks};
    struct mal_instant_report own = {0};
    struct mal_editor *read_from = NULL;
    assert_ok(mal_weights_create(&ticks.other, model, 0, &err), &err);
    assert_ok(mal_editor_make(&read_from, model, tok, &one, 1, &progress, &own, &err),
              &err);
    assert_true(ticks.n > 50);
    assert_int_equal(own.search.n_points, report.search.n_points);
    for (size_t i = 0; i < own.search.n_points; i++)
        assert_true(own.search.points[i].score == report.search.points[i].score);
    mal_weights_destroy(ticks.other);
    mal_editor_close(read_from);
}

static void test_giving_up(void **state) {
    (void)state;
    const size_t at[] = {1, 10, 25, 40}; /* scoring, making up, measuring, trying */
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        struct mal_error err = {0};
        struct ticks ticks = {.give_up_at = at[i]};
        struct mal_progress progress = {.tick = tick, .arg = &ticks};
        struct mal_instant_report own = {0};
        struct mal_editor *none = NULL;
        assert_false(mal_editor_make(&none, model, tok, &one, 1, &progress, &own, &err));
        assert_int_equal(err.status, MAL_CANCELLED);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_fact),         cmocka_unit_test(test_file),
        cmocka_unit_test(test_right_already),    cmocka_unit_test(test_made_up),
        cmocka_unit_test(test_reads_in_between), cmocka_unit_test(test_giving_up),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
