/* test_joint_ends.c - what limits and ends a change in a joint system: little memory,
 * none at all, being cancelled, values that are no numbers; and what it reports. */
#include "joint_world.h"

/* ---- Memory ---- */

/* Three modules of two widths, with one, two and three buffers for their factors. */
static void test_few_factors(void **state) {
    open_lab("gpt2-malmen-mixed-shapes");
    size_t least = mal_joint_bytes(lab.model),
           wide = 32 * 32 * sizeof(double) + 2 * 32 * (sizeof(double) + sizeof(float)) +
                  (size_t)mal_inverses64(lab.be, 32) * sizeof(double);
    assert_int_equal(lab.n_modules, 3);
    close_lab();

    const struct {
        size_t max, held;
    } cases[] = {{least, least},
                 {least + wide - 1, least},
                 {least + wide, least + wide},
                 {least + 2 * wide, least + 2 * wide},
                 {least + 9 * wide, least + 2 * wide},
                 {0, least + 2 * wide}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        open_world("gpt2-malmen-mixed-shapes", cases[i].max);
        assert_int_equal(mal_joint_held_bytes(w.joint), cases[i].held);
        teach(0, 3);
        teach(3, 3);
        expect_weights("taught");
        take_away(1, 1, false);
        struct mal_joint_change *change = begin();
        remove_in(change, 0, 1, true);
        try_weights(change); /* the factors as they are now ... */
        teach_in(change, 6, 1);
        publish(change); /* ... are out of date here */
        expect_weights("changed");
        close_world();
    }
}

/* ---- What ends it ---- */

struct stop {
    enum mal_stage stage;
    int after; /* ticks of that stage */
};

static bool stop(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct stop *s = arg;
    return stage != s->stage || s->after-- > 0;
}

enum what { TEACH, PIN, DROP, REOPEN, KEYS };

static bool attempt(enum what what, const struct mal_progress *progress,
                    struct mal_error *err) {
    struct mal_joint_change *change = NULL;
    struct mal_delta delta = {0};
    const float *const *values = (const float *const *)w.values;
    mal_weights_use(w.ws, 0);
    if (what == KEYS)
        return mal_joint_add_keys(w.joint, w.texts, 2, NULL, 0, 1, progress, err);
    bool ok =
        mal_joint_change_create(&change, w.joint, w.ws, progress, &w.report, err) &&
        (what != TEACH || mal_joint_teach(change, NULL, w.texts + 4, 2, err)) &&
        (what != REOPEN || mal_joint_reopen(change, w.texts, values, 2, err)) &&
        (what != PIN && what != DROP
             ? true
             : mal_joint_remove(change, w.texts, values, 2, NULL, 0, what == PIN, err)) &&
        mal_joint_delta(change, &delta, err);
    mal_delta_finish(&delta);
    mal_joint_change_destroy(change);
    return ok;
}

/* Whether A is still what it says it is. */
static void test_whole(void **state) {
    const struct {
        enum what what;
        enum mal_stage stage;
        int after;
        bool whole;
    } cases[] = {
        {TEACH, MAL_STAGE_FORWARD, 0, true},  {TEACH, MAL_STAGE_HYPERNET, 0, true},
        {TEACH, MAL_STAGE_GRAM, 0, false},    {TEACH, MAL_STAGE_GRAM, 3, false},
        {TEACH, MAL_STAGE_HYPERNET, 1, true}, {TEACH, MAL_STAGE_SOLVE, 0, true},
        {PIN, MAL_STAGE_FORWARD, 0, true},    {PIN, MAL_STAGE_SOLVE, 0, true},
        {DROP, MAL_STAGE_FORWARD, 0, true},   {DROP, MAL_STAGE_GRAM, 0, false},
        {DROP, MAL_STAGE_GRAM, 3, false},     {DROP, MAL_STAGE_SOLVE, 0, true},
        {REOPEN, MAL_STAGE_FORWARD, 0, true}, {REOPEN, MAL_STAGE_SOLVE, 0, true},
        {KEYS, MAL_STAGE_FORWARD, 0, true},   {KEYS, MAL_STAGE_GRAM, 0, false},
        {KEYS, MAL_STAGE_GRAM, 2, false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mal_error err = {0};
        struct stop s = {cases[i].stage, cases[i].after};
        struct mal_progress progress = {.tick = stop, .arg = &s};
        open_world("gpt2-malmen-mixed-shapes", 0);
        teach(0, 4);
        int64_t live = mal_weights_live(w.ws);
        if (attempt(cases[i].what, &progress, &err)) fail_msg("case %zu went on", i);
        assert_error(&err, MAL_CANCELLED, "cancelled");
        if (mal_joint_is_whole(w.joint) != cases[i].whole)
            fail_msg("case %zu: %s", i, cases[i].whole ? "not whole" : "whole");
        assert_int_equal(mal_weights_live(w.ws), live);
        expect_weights("cancelled");
        close_world();
    }
}

/* A value that is no number names the module, and the live weights stay. */
static void test_not_finite(void **state) {
    struct mal_error err = {0};
    open_world("gpt2-malmen-token-sum", 0);
    teach(0, 4);
    for (int64_t i = 0; i < lab.editor->shapes[0].n_modules; i++)
        lab.editor->shapes[0].lr[i] = INFINITY;
    assert_false(attempt(TEACH, NULL, &err));
    assert_error(&err, MAL_NUMERIC, "transformer.h.1.mlp.c_proj");
    expect_weights("as before");
    close_world();
}

/* ---- Reports ---- */

static void test_report(void **state) {
    open_world("gpt2-malmen-token-sum", 0);
    struct mal_joint_change *change = begin();
    teach_in(change, 0, 2);
    struct mal_edit_report first = w.report;
    teach_in(change, 2, 1);
    int64_t tokens = 0, inputs = 0;
    for (size_t i = 0; i < 3; i++) {
        tokens += w.texts[i].n_target;
        inputs += w.texts[i].n;
    }
    assert_true(first.n_tokens > 0);
    assert_int_equal(w.report.n_tokens, tokens);
    assert_int_equal(w.report.n_input_tokens, inputs);
    publish(change);
    assert_true(w.report.seconds[MAL_STAGE_SOLVE] > 0);
    assert_true(w.report.seconds[MAL_STAGE_GRAM] > first.seconds[MAL_STAGE_GRAM]);
    take_away(0, 1, true);
    assert_int_equal(w.report.n_tokens, 0); /* nothing was taught */
    close_world();
}

/* ---- Every allocation ---- */

static bool live_once(const char *path, struct mal_error *err) {
    struct mal_joint *joint = NULL;
    struct mal_joint_change *change = NULL;
    struct mal_edit_diffs *diffs = NULL;
    struct mal_delta delta = {0};
    struct mal_edit_report report = {0};
    const float *const *values = (const float *const *)w.values;
    (void)path;
    mal_weights_use(w.ws, 0);
    bool ok = mal_joint_create(&joint, lab.model, lab.editor, NULL, 0, err) &&
              mal_joint_add_keys(joint, w.texts, 4, NULL, 0, 1, NULL, err) &&
              mal_joint_change_create(&change, joint, w.ws, NULL, &report, err) &&
              mal_joint_teach(change, NULL, w.texts + 4, 2, err) &&
              mal_joint_remove(change, w.texts, values, 1, NULL, 0, true, err) &&
              mal_joint_remove(change, w.texts + 1, values + 1, 1, NULL, 0, false, err) &&
              mal_joint_reopen(change, w.texts + 2, values + 2, 2, err) &&
              mal_edit_diffs_create_untrained(&diffs, lab.editor, NULL, same_steps(1),
                                              lab.be, err) &&
              mal_joint_improve(change, diffs, (size_t[]){0, 5}, 2, err) &&
              mal_joint_delta(change, &delta, err);
    mal_delta_finish(&delta);
    mal_edit_diffs_destroy(diffs);
    mal_joint_change_destroy(change);
    mal_joint_destroy(joint);
    return ok;
}

static void test_no_memory(void **state) {
    open_world("gpt2-malmen-mixed-shapes", 0);
    teach(0, 4);
    /* those of a device's own memory have no turn */
    fail_each_allocation(live_once, NULL, mal_backend_on_host(lab.be) ? 150 : 80);
    expect_weights("as before");
    close_world();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_few_factors), cmocka_unit_test(test_whole),
        cmocka_unit_test(test_not_finite),  cmocka_unit_test(test_report),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("joint_ends", tests, NULL, NULL);
}
