/* test_untrained.c - an editor's untrained form, which repair works with, and the steps
 * of it; the identity network over deviations that are 0. */
#include "demo_editor.h"

#include <math.h>

#include "core/alloc.h"
#include "core/editor/untrained_step.h"

enum { N_FACTS = 32, MOST_MODULES = 8 };

static const float ones[MOST_MODULES] = {1, 1, 1, 1, 1, 1, 1, 1};

static int open_all(void **state) {
    int code = open_demo_editor(state, N_FACTS);
    assert_true(editor->n_modules <= MOST_MODULES);
    return code;
}

/* Where there is no gradient there is no difference, whatever the key: what is nearly
 * right is hardly moved. The editor's own form, which centres gradients, moves it. */
static void test_vanishes(void **state) {
    struct mal_error err = {0};
    struct mal_edit_report report = {0};
    for (int form = 0; form < 2; form++) {
        struct mal_edit_rows rows;
        struct mal_edit_diffs *diffs = NULL;
        assert_ok(mal_edit_rows_of_examples(&rows, model, editor, texts, 2, NULL, &report,
                                            &err),
                  &err);
        assert_ok(mal_edit_rows_measure(&rows, &err), &err);
        assert_ok(form == 0 ? mal_edit_diffs_create_untrained(&diffs, editor, NULL, ones,
                                                              be, &err)
                            : mal_edit_diffs_create(&diffs, editor, NULL, be, &err),
                  &err);
        for (size_t m = 0; m < editor->n_modules; m++) {
            int64_t n = mal_edit_rows_n(&rows, m) * mal_model_edit(model, m)->d_out;
            mal_backend_zero(be, rows.g[m], (size_t)n * sizeof(float));
            assert_ok(mal_edit_diffs_run(diffs, &rows, m, &err), &err);
            float *d = mal_malloc((size_t)n * sizeof *d);
            mal_backend_download(be, d, rows.g[m], (size_t)n * sizeof *d);
            assert_ok(mal_backend_sync(be, &err), &err);
            size_t moved = 0;
            for (int64_t i = 0; i < n; i++)
                moved += d[i] != 0;
            if (form == 0) assert_int_equal(moved, 0);
            if (form == 1) assert_true(moved > 0);
            mal_free(d);
        }
        mal_edit_diffs_destroy(diffs);
        mal_edit_rows_finish(&rows);
    }
}

static struct mal_editor *untrained(const struct mal_method *method, double lr) {
    struct mal_error err = {0};
    struct mal_editor *made = NULL;
    const char *names[MOST_MODULES];
    for (size_t m = 0; m < editor->n_modules; m++)
        names[m] = editor->modules[m].name;
    assert_ok(mal_editor_create(&made, method, model, names, editor->n_modules, 1, 0, lr,
                                1, &err),
              &err);
    assert_ok(mal_editor_bind(made, model, &err), &err);
    return made;
}

enum form { OWN, UNTRAINED };

static float step_of_last = 1; /* of the untrained form; the others' are 1 */

/* The norm of what a form makes of the last module of two texts. */
static double differences(const struct mal_editor *which, enum form form) {
    size_t last = which->n_modules - 1;
    float steps[MOST_MODULES];
    memcpy(steps, ones, sizeof steps);
    steps[last] = step_of_last;
    struct mal_error err = {0};
    struct mal_edit_report report = {0};
    struct mal_edit_rows rows;
    struct mal_edit_diffs *diffs = NULL;
    assert_ok(
        mal_edit_rows_of_examples(&rows, model, which, texts, 2, NULL, &report, &err),
        &err);
    assert_ok(mal_edit_rows_measure(&rows, &err), &err);
    assert_ok(form == OWN
                  ? mal_edit_diffs_create(&diffs, which, NULL, be, &err)
                  : mal_edit_diffs_create_untrained(&diffs, which, NULL, steps, be, &err),
              &err);
    assert_ok(mal_edit_diffs_run(diffs, &rows, last, &err), &err);
    size_t n =
        (size_t)(mal_edit_rows_n(&rows, last) * mal_model_edit(model, last)->d_out);
    float *d = mal_malloc(n * sizeof *d);
    double sum = 0;
    mal_backend_download(be, d, rows.g[last], n * sizeof *d);
    assert_ok(mal_backend_sync(be, &err), &err);
    for (size_t i = 0; i < n; i++)
        sum += (double)d[i] * (double)d[i];
    mal_free(d);
    mal_edit_diffs_destroy(diffs);
    mal_edit_rows_finish(&rows);
    return sqrt(sum);
}

/* A unit that never fired where the statistics were taken made the values' differences
 * 1e6 times too long when it did later: they are about as long as with its deviation. */
static void check_never_fired(struct mal_editor *which, enum form form, bool lifted) {
    struct mal_normalizer *norm = &which->shapes[0].norm;
    int64_t places[] = {3, which->shapes[0].d_in + 2}; /* a key's, a gradient's */
    double before = differences(which, form);
    for (size_t i = 0; i < 2; i++) {
        float std = norm->std[places[i]];
        norm->std[places[i]] = 0;
        double after = differences(which, form);
        if ((after < 2 * before) != lifted)
            fail_msg("%g with a deviation of 0, else %g", after, before);
        norm->std[places[i]] = std;
    }
}

static void test_never_fired(void **state) {
    struct mal_error err = {0};
    struct mal_editor *made = untrained(&mal_method_malmen, 1);
    struct mal_normalizer own = made->shapes[0].norm;
    assert_true(made->n_shapes == 1 && editor->n_shapes == 1);
    made->shapes[0].norm = editor->shapes[0].norm;
    check_never_fired(made, OWN, true);
    check_never_fired(made, UNTRAINED, true);
    made->shapes[0].norm = own;
    mal_editor_close(made);
    assert_ok(mal_editor_bind(editor, model, &err), &err);
    check_never_fired(editor, UNTRAINED, true);
    check_never_fired(editor, OWN, false); /* a trained network keeps the formula */
}

static void steps_of(const struct mal_editor *which, size_t n, float *steps) {
    struct mal_error err = {0};
    assert_ok(mal_untrained_steps(model, NULL, which, NULL, texts, n, NULL, steps, &err),
              &err);
}

/* One without a network has its steps, each module its own: all were the first one's. */
static void test_own_steps(void **state) {
    struct mal_error err = {0};
    float steps[MOST_MODULES];
    struct mal_editor *other = untrained(&mal_method_ultraedit, 0.0123);
    steps_of(other, 1, steps);
    for (size_t m = 0; m < other->n_modules; m++)
        assert_true(steps[m] == 0.0123f);
    mal_editor_close(other);
    other = untrained(&mal_method_malmen, 0.25);
    assert_true(other->n_modules > 1);
    for (size_t m = 0; m < other->n_modules; m++)
        other->shapes[other->modules[m].shape].lr[other->modules[m].row] = (float)(m + 1);
    steps_of(other, 1, steps);
    for (size_t m = 0; m < other->n_modules; m++)
        assert_true(steps[m] == (float)(m + 1));
    mal_editor_close(other);
    assert_ok(mal_editor_bind(editor, model, &err), &err);
}

/* A trained one's is about what 'malmend init-editor' finds for an untrained one on
 * train.ndjson, which takes too long here. */
static void test_step(void **state) {
    const float searched = 1.0f / 256;
    float found[MOST_MODULES];
    assert_true(editor->n_blocks > 0);
    steps_of(editor, N_FACTS, found);
    for (size_t m = 0; m < editor->n_modules; m++) {
        if (!(found[m] > searched / 2 && found[m] < searched * 2))
            fail_msg("step %g, searched %g", (double)found[m], (double)searched);
        assert_true(found[m] == found[0]);
    }
}

/* Differences are as long as their module's step. */
static void test_steps(void **state) {
    double one = differences(editor, UNTRAINED);
    step_of_last = 3;
    assert_float_equal(differences(editor, UNTRAINED) / one, 3, 1e-5);
    step_of_last = 1;
}

/* An editor that makes nothing of anything has no step. */
static void test_no_step(void **state) {
    struct mal_error err = {0};
    struct mal_editor_shape *shape = &editor->shapes[0];
    float *lr = shape->lr, none[MOST_MODULES] = {0}, steps[MOST_MODULES];
    assert_true(editor->n_shapes == 1);
    shape->lr = none;
    assert_false(
        mal_untrained_steps(model, NULL, editor, NULL, texts, 1, NULL, steps, &err));
    assert_error(&err, MAL_NUMERIC, "no differences to repair with");
    shape->lr = lr;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vanishes),  cmocka_unit_test(test_never_fired),
        cmocka_unit_test(test_own_steps), cmocka_unit_test(test_step),
        cmocka_unit_test(test_steps),     cmocka_unit_test(test_no_step),
    };
    return cmocka_run_group_tests_name("untrained", tests, open_all, close_demo_editor);
}
