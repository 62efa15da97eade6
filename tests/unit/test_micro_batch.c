/* test_micro_batch.c - an editor whose loss is a micro-batch's mean: the reference's
 * gradients of fewer facts, and those of a system, where a fact alone is what it is among
 * others. It was changed 32 times too far, with 6 % of unrelated answers left as they
 * were. */
#include "demo_editor.h"

#include <math.h>

#include "core/alloc.h"
#include "core/editor/joint_change.h"
#include "core/editor/untrained_step.h"

enum { N = 4, MOST_MODULES = 8 };

static int open_all(void **state) {
    int code = open_demo_editor(state, N);
    assert_true(editor->n_modules <= MOST_MODULES);
    editor->micro_batch = N;
    return code;
}

/* Of module 0, of the first n texts: the gradients (owned), or the value differences. */
static float *measured(enum mal_loss loss, bool full, bool differences, size_t n,
                       size_t *out_n) {
    struct mal_error err = {0};
    struct mal_edit_report report = {0};
    struct mal_edit_rows rows;
    struct mal_edit_diffs *diffs = NULL;
    editor->loss = loss;
    assert_ok(
        mal_edit_rows_of_examples(&rows, model, editor, texts, n, NULL, &report, &err),
        &err);
    rows.full_means = full;
    assert_ok(mal_edit_rows_measure(&rows, &err), &err);
    if (differences) {
        assert_ok(mal_edit_diffs_create(&diffs, editor, NULL, be, &err), &err);
        assert_ok(mal_edit_diffs_run(diffs, &rows, 0, &err), &err);
    }
    *out_n = (size_t)(mal_edit_rows_n(&rows, 0) * mal_model_edit(model, 0)->d_out);
    float *g = mal_malloc(*out_n * sizeof *g);
    mal_backend_download(be, g, rows.g[0], *out_n * sizeof *g);
    assert_ok(mal_backend_sync(be, &err), &err);
    mal_edit_diffs_destroy(diffs);
    mal_edit_rows_finish(&rows);
    return g;
}

static void check_scale(size_t n_examples, bool full, double divisor) {
    size_t n;
    float *sum = measured(MAL_LOSS_TOKEN_SUM, full, false, n_examples, &n);
    float *mean = measured(MAL_LOSS_MICROBATCH_MEAN, full, false, n_examples, &n);
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)sum[i]));
    assert_true(most > 0);
    for (size_t i = 0; i < n; i++)
        if (fabs((double)mean[i] * divisor - (double)sum[i]) > 1e-4 * most)
            fail_msg("%g is not %g over %g", (double)mean[i], (double)sum[i], divisor);
    mal_free(sum);
    mal_free(mean);
}

static void test_gradients(void **state) {
    double labels = (double)texts[0].n_target;
    check_scale(1, false, labels);
    check_scale(1, true, labels * N);
    for (size_t i = 1; i < N; i++)
        labels += (double)texts[i].n_target;
    check_scale(N, false, labels);
    check_scale(N, true, labels);
}

static void test_full_is_the_same(void **state) {
    size_t n;
    float *x = measured(MAL_LOSS_MICROBATCH_MEAN, false, false, N, &n);
    float *y = measured(MAL_LOSS_MICROBATCH_MEAN, true, false, N, &n);
    assert_memory_equal(x, y, n * sizeof *x);
    mal_free(x);
    mal_free(y);
}

/* A fact taught alone in a system. */
static void test_system(void **state) {
    struct mal_error err = {0};
    struct mal_edit_report report = {0};
    struct mal_weights_state *ws = NULL;
    struct mal_joint *joint = NULL;
    struct mal_joint_change *change = NULL;
    size_t n;
    float *want = measured(MAL_LOSS_MICROBATCH_MEAN, true, true, 1, &n);
    assert_ok(mal_weights_create(&ws, model, 0, &err), &err);
    assert_ok(mal_joint_create(&joint, model, editor, NULL, 0, &err), &err);
    assert_ok(mal_joint_change_create(&change, joint, ws, NULL, &report, &err), &err);
    assert_ok(mal_joint_teach(change, NULL, texts, 1, &err), &err);
    const float *values = mal_joint_values(change, 0);
    for (size_t i = 0; i < n; i++)
        assert_float_equal(values[i], want[i], 1e-5 * fabs((double)want[i]) + 1e-9);
    mal_joint_change_destroy(change);
    mal_joint_destroy(joint);
    mal_weights_destroy(ws);
    mal_free(want);
}

/* The step for repair is the same of one text as of that text four times. */
static void test_step(void **state) {
    struct mal_error err = {0};
    struct mal_example same[N];
    float steps[2][MOST_MODULES];
    editor->loss = MAL_LOSS_MICROBATCH_MEAN;
    for (size_t i = 0; i < N; i++)
        same[i] = texts[0];
    for (size_t k = 0; k < 2; k++)
        assert_ok(mal_untrained_steps(model, NULL, editor, NULL, same, k ? N : 1, NULL,
                                      steps[k], &err),
                  &err);
    assert_float_equal(steps[0][0], steps[1][0], 1e-4 * (double)steps[0][0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_full_is_the_same),
        cmocka_unit_test(test_system),
        cmocka_unit_test(test_step),
    };
    return cmocka_run_group_tests_name("micro_batch", tests, open_all, close_demo_editor);
}
