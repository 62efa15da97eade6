/* test_joint_change.c - the life of texts in a joint system: taught, repaired, pinned,
 * dropped, given up; on models of every kind, with many changes one after the other. */
#include "joint_world.h"

/* ---- Lives ---- */

static void check_removal(const char *name) {
    open_world(name, 0);
    teach(0, 1);
    expect_weights("one text");
    teach(1, 3);
    teach(4, w.n - 4);
    expect_weights("all texts");
    take_away(1, 2, true);
    expect_weights("two pinned");
    take_away(3, 1, false);
    expect_weights("another dropped");
    take_away(1, 1, false); /* its key alone leaves */
    expect_weights("a pinned one dropped");
    take_away(5, w.n - 5, false);
    expect_weights("most of them dropped");
    teach(5, 2);
    expect_weights("some back");
    assert_true(w.n_factors > 0);
    if (strcmp(name, "bert-malmen") != 0) assert_true(w.n_dense > 0);
    close_world();
}

/* Everything in one change, each kind a group of its own. */
static void check_mixed(const char *name) {
    open_world(name, 0);
    teach(0, w.n - 2);
    struct mal_joint_change *change = begin();
    teach_in(change, w.n - 2, 1);
    remove_in(change, 0, 1, true);
    remove_in(change, 1, 2, false);
    teach_in(change, w.n - 1, 1);
    publish(change);
    expect_weights(name);
    close_world();
}

static const char *const names[] = {"gpt2-malmen-token-sum", "gpt2-malmen-mixed-shapes",
                                    "llama-malmen", "t5-malmen", "bert-malmen"};

enum { N_NAMES = sizeof names / sizeof *names };

static void test_removal(void **state) {
    for (size_t i = 0; i < N_NAMES; i++)
        check_removal(names[i]);
}

static void test_mixed(void **state) {
    for (size_t i = 0; i < N_NAMES; i++)
        check_mixed(names[i]);
}

/* A step at which improvements are about as large as the values. */
static double step_for(size_t i) {
    double norm = 0, fixed = 0;
    mal_weights_use(w.ws, 0);
    struct measured x = measure_alone(i);
    fix_alone(&x, 1);
    for (size_t m = 0; m < lab.n_modules; m++) {
        for (size_t k = 0; k < floats_of(m, x.rows[m], false); k++) {
            fixed += (double)x.g[m][k] * (double)x.g[m][k];
            norm += (double)w.entries[i].d[m][k] * (double)w.entries[i].d[m][k];
        }
        mal_free(x.u[m]);
        mal_free(x.g[m]);
    }
    return sqrt(norm / fixed);
}

static void improve(struct mal_joint_change *change, struct mal_edit_diffs *diffs,
                    double step, const size_t *numbers, const size_t *texts, size_t n) {
    struct mal_error err = {0};
    try_weights(change);
    for (size_t k = 0; k < n; k++)
        enter_better(texts[k], step);
    assert_ok(mal_joint_improve(change, diffs, numbers, n, &err), &err);
    for (size_t k = 0; k < n; k++) {
        keep_values(change, texts[k], numbers[k]);
        expect_values(texts[k]);
    }
}

/* Values that grow at each step by more than the last, until it is said that they
 * diverge; and back from each. */
static void go_too_far(struct mal_joint_change *change, const size_t *numbers, size_t n) {
    float *values[2];
    bool far = false, too_far = false;
    assert_true(n <= 2);
    for (size_t k = 0; k < n; k++) {
        size_t floats = mal_joint_n_values(w.joint, &w.texts[5 + numbers[k]]);
        values[k] = mal_malloc(floats * sizeof(float));
        memcpy(values[k], mal_joint_values(change, numbers[k]), floats * sizeof(float));
    }
    for (int e = 8; e < 120; e += 4) {
        struct mal_error err = {0};
        struct mal_edit_diffs *diffs = NULL;
        assert_ok(mal_edit_diffs_create_untrained(&diffs, lab.editor, NULL,
                                                  same_steps(ldexp(1, e)), lab.be, &err),
                  &err);
        try_weights(change);
        bool went = mal_joint_improve(change, diffs, numbers, n, &err);
        if (!went) assert_error(&err, MAL_NUMERIC, "differences diverge");
        far = far || went;
        too_far = too_far || !went;
        for (size_t k = 0; k < n; k++)
            assert_ok(mal_joint_set_values(change, numbers[k], values[k], &err), &err);
        mal_edit_diffs_destroy(diffs);
    }
    assert_true(far && too_far);
    for (size_t k = 0; k < n; k++)
        mal_free(values[k]);
}

/* Texts taught now and texts of an earlier change, improved over two rounds. */
static void check_repair(const char *name) {
    struct mal_error err = {0};
    struct mal_edit_diffs *diffs = NULL;
    open_world(name, 0);
    teach(0, 5);
    double step = step_for(0);
    assert_ok(mal_edit_diffs_create_untrained(&diffs, lab.editor, NULL, same_steps(step),
                                              lab.be, &err),
              &err);
    struct mal_joint_change *change = begin();
    teach_in(change, 5, 3);
    improve(change, diffs, step, (size_t[]){2, 0}, (size_t[]){7, 5}, 2);
    go_too_far(change, (size_t[]){1, 0}, 2);
    try_weights(change);
    mal_weights_use(w.ws, 0);
    assert_ok(mal_joint_reopen(change, w.texts + 1, (const float *const *)w.values + 1, 2,
                               &err),
              &err);
    assert_int_equal(mal_joint_n_texts(change), 5);
    for (size_t i = 1; i <= 2; i++) {
        assert_memory_equal(mal_joint_values(change, 2 + i), w.values[i],
                            mal_joint_n_values(w.joint, &w.texts[i]) * sizeof(float));
    }
    improve(change, diffs, step, (size_t[]){4, 1, 2}, (size_t[]){2, 6, 7}, 3);
    assert_memory_equal(mal_joint_values(change, 3), w.values[1],
                        mal_joint_n_values(w.joint, &w.texts[1]) * sizeof(float));
    publish(change);
    expect_weights(name);
    take_away(2, 1, true); /* with the values it has now */
    take_away(5, 1, false);
    expect_weights(name);
    mal_edit_diffs_destroy(diffs);
    close_world();
}

static void test_repair(void **state) {
    for (size_t i = 0; i < N_NAMES; i++)
        check_repair(names[i]);
}

/* So many texts that their values come over in several pieces; each has its own. */
static void test_many(void **state) {
    enum { MANY = 300 };
    struct mal_error err = {0};
    struct mal_example many[MANY];
    open_world(names[0], 0);
    for (size_t k = 0; k < MANY; k++)
        many[k] = w.texts[k % w.n];
    struct mal_joint_change *change = begin();
    mal_weights_use(w.ws, 0);
    assert_ok(mal_joint_teach_values(change, NULL, many, MANY, &err), &err);
    for (size_t k = 0; k < MANY; k++) {
        keep_values(change, k % w.n, k);
        if (k < w.n) enter(k);
        expect_values(k % w.n);
    }
    mal_joint_change_destroy(change);
    close_world();
}

/* ---- Keys that come and go ---- */

static void add_keys(size_t first, size_t n, int sign) {
    struct mal_error err = {0};
    mal_weights_use(w.ws, 0);
    assert_ok(
        mal_joint_add_keys(w.joint, w.texts + first, n, NULL, 0, sign, &in_slices, &err),
        &err);
    assert_true(mal_joint_is_whole(w.joint));
}

static void renew_joint(void) {
    struct mal_error err = {0};
    mal_joint_destroy(w.joint);
    w.joint = NULL;
    assert_ok(mal_joint_create(&w.joint, lab.model, lab.editor, NULL, 0, &err), &err);
}

/* A system built anew goes on as the one that lived; keys of a change that is given up
 * are taken back. */
static void check_keys(const char *name) {
    open_world(name, 0);
    teach(0, 5);
    take_away(0, 1, true);
    take_away(1, 1, false);
    renew_joint();
    add_keys(0, 1, 1);
    add_keys(2, 3, 1);
    teach(5, 1);
    expect_weights("rebuilt");

    struct mal_joint_change *change = begin();
    teach_in(change, 6, 2);
    remove_in(change, 2, 1, false);
    try_weights(change);
    mal_joint_change_destroy(change);
    mal_weights_discard(w.ws);
    assert_true(mal_joint_is_whole(w.joint));
    add_keys(6, 2, -1);
    add_keys(2, 1, 1);
    w.entries[6].member = w.entries[7].member = false;
    w.entries[2].member = true;
    teach(1, 1);
    expect_weights("given up");
    close_world();
}

static void test_keys(void **state) {
    for (size_t i = 0; i < N_NAMES; i++)
        check_keys(names[i]);
}

/* What is rounded is what the system holds, takes back and gives up. */
static void test_coarse(void **state) {
    static const char name[] = "gpt2-malmen-mixed-shapes";
    coarse = true;
    check_removal(name);
    check_mixed(name);
    check_repair(name);
    check_keys(name);
    coarse = false;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_coarse), cmocka_unit_test(test_removal),
        cmocka_unit_test(test_mixed),  cmocka_unit_test(test_repair),
        cmocka_unit_test(test_many),   cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests_name("joint_change", tests, NULL, NULL);
}
