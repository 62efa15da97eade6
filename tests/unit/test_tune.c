/* test_tune.c - fine-tuning as a batch of facts: readers and cancellations between its
 * slices, slices of any size, memory that is out. What it computes is tests/golden's. */
#include "tune_lab.h"

/* ---- Tests ---- */

static void test_readers(void **state) {
    for (size_t c = 0; c < N_CASES; c++) {
        struct mal_error err = {0};
        struct mal_delta delta = {0};
        struct watch alone = {0}, read = {.reads = true};
        open_case(c);
        assert_ok(run_tune(&alone, 0, &delta, &err), &err);
        struct mal_hash want = hash_of(&delta);
        assert_ok(run_tune(&read, 0, &delta, &err), &err);
        assert_same(hash_of(&delta), want);
        assert_int_equal(alone.ticks, read.ticks);
        assert_true(read.ticks > 2);
        close_case();
    }
}

static void test_cancelled(void **state) {
    for (size_t c = 0; c < N_CASES; c++) {
        struct mal_error none = {0};
        struct mal_delta delta = {0};
        struct watch all = {0};
        open_case(c);
        assert_ok(run_tune(&all, 0, &delta, &none), &none);
        struct mal_hash want = hash_of(&delta);
        for (int64_t at = 1; at <= all.ticks; at = at < 4 ? at + 1 : at * 2) {
            struct mal_error err = {0};
            assert_false(run_tune(&(struct watch){.cancel_at = at}, 0, &delta, &err));
            assert_int_equal(err.status, MAL_CANCELLED);
        }
        assert_ok(run_tune(&(struct watch){0}, 0, &delta, &none), &none);
        assert_same(hash_of(&delta), want);
        close_case();
    }
}

/* A text at a time, and all at once: the same sums in another order. */
static void test_slices(void **state) {
    for (size_t c = 0; c < N_CASES; c++) {
        struct mal_error err = {0};
        struct mal_delta fine = {0}, whole = {0};
        struct watch small = {0}, large = {0};
        open_case(c);
        assert_ok(run_tune(&small, 1, &fine, &err), &err);
        assert_ok(run_tune(&large, 1 << 20, &whole, &err), &err);
        assert_true(small.ticks > large.ticks);
        assert_int_equal(fine.n_parts, mal_model_n_edited(lab.model));
        assert_int_equal(fine.n_parts, whole.n_parts);
        for (size_t i = 0; i < fine.n_parts; i++) {
            double sum = 0;
            const float *x = fine.parts[i].data, *y = whole.parts[i].data;
            assert_string_equal(fine.parts[i].module, whole.parts[i].module);
            for (size_t k = 0; k < mal_delta_part_elements(&fine.parts[i]); k++) {
                double d = (double)x[k] - (double)y[k];
                sum += d * d;
            }
            assert_true(sqrt(sum) < 1e-3 * whole.parts[i].norm);
        }
        mal_delta_finish(&fine);
        mal_delta_finish(&whole);
        close_case();
    }
}

/* Weights that stay where they are: nothing changes, not even a sign. */
static void test_nothing(void **state) {
    struct mal_error err = {0};
    struct mal_delta delta = {0};
    open_case(0);
    set_hyper("lr", 0);
    assert_ok(run_tune(&(struct watch){0}, 0, &delta, &err), &err);
    assert_int_equal(delta.n_parts, 0);
    mal_delta_finish(&delta);
    close_case();
}

static void test_not_finite(void **state) {
    for (size_t c = 0; c < N_CASES; c++) {
        struct mal_error err = {0};
        struct mal_delta delta = {0};
        open_case(c);
        set_hyper("lr", (double)INFINITY);
        set_hyper("norm_constraint", 0);
        assert_false(run_tune(&(struct watch){0}, 0, &delta, &err));
        assert_int_equal(err.status, MAL_NUMERIC);
        assert_non_null(strstr(err.text, "after 1 steps"));
        close_case();
    }
}

/* The last step has no loss to show what it did. */
static void test_last_step(void **state) {
    struct mal_error err = {0};
    struct mal_delta delta = {0};
    open_case(1);
    set_hyper("lr", (double)INFINITY);
    set_hyper("norm_constraint", 0);
    set_hyper("steps", 1);
    assert_ok(run_tune(&(struct watch){0}, 0, &delta, &err), &err);
    assert_false(mal_weights_prepare(ws, &delta, NULL, NULL, &err));
    assert_int_equal(err.status, MAL_NUMERIC);
    mal_delta_finish(&delta);
    close_case();
}

/* The target's tokens of one fact, the end of text among them where it is taught. */
static int64_t targets_of(char *prompt, int64_t *out_n, struct mal_error *err) {
    static char target[] = "x";
    struct mal_fact fact = {.prompt = prompt, .target = target};
    struct mal_fact *facts = lab.facts;
    size_t n_facts = lab.n_facts;
    struct mal_example text;
    struct mal_delta delta = {0};
    struct watch watch = {0};
    if (!mal_example_init(&text, lab.model, lab.tok, prompt, target, NULL, err))
        return -1;
    *out_n = text.n;
    mal_example_finish(&text);
    lab.facts = &fact;
    lab.n_facts = 1;
    assert_ok(run_tune(&watch, 0, &delta, err), err);
    lab.facts = facts;
    lab.n_facts = n_facts;
    mal_delta_finish(&delta);
    return watch.n_tokens;
}

/* A text that fills the context has no room for its end. */
static void test_end_of_text(void **state) {
    struct mal_error err = {0};
    char prompt[4096] = "a"; /* a byte is a token */
    int64_t n = 0, targets, before = 0;
    open_case(2);
    set_hyper("epochs", 1);
    while ((targets = targets_of(prompt, &n, &err)) >= 0) {
        bool fills = n == mal_longest_text(mal_model_info(lab.model));
        assert_true(before == 0 || targets == before - fills);
        before = targets;
        strcat(prompt, "a");
    }
    assert_int_equal(err.status, MAL_INVALID);
    assert_int_equal(n, mal_longest_text(mal_model_info(lab.model)));
    assert_true(before > 0);
    close_case();
}

/* Of two blocks: Llama 3's 22 of 32, Qwen2.5's 6 of 28. */
static void test_block(void **state) {
    static const struct {
        const char *model, *block;
    } are[] = {{"llama-malmen", "layers.1."}, {"qwen2-malmen", "layers.0."}};

    for (size_t i = 0; i < sizeof are / sizeof *are; i++) {
        struct mal_error err = {0};
        const char **names;
        size_t n;
        open_lab(are[i].model);
        assert_ok(mal_method_find("locft-bf")->choose(lab.model, &names, &n, &err), &err);
        assert_int_equal(n, 1);
        assert_non_null(strstr(names[0], are[i].block));
        mal_free(names);
        close_lab();
    }
}

static bool run_once(const char *path, struct mal_error *err) {
    struct mal_delta delta = {0};
    bool ok = run_tune(&(struct watch){0}, 0, &delta, err);
    mal_delta_finish(&delta);
    return ok;
}

static void test_no_memory(void **state) {
    for (size_t c = 0; c < N_CASES; c++) {
        open_case(c);
        set_hyper("steps", 1);
        set_hyper("epochs", 1);
        fail_each_allocation(run_once, NULL, 20);
        close_case();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_readers),     cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_slices),      cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_not_finite),  cmocka_unit_test(test_last_step),
        cmocka_unit_test(test_end_of_text), cmocka_unit_test(test_block),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("tune", tests, NULL, NULL);
}
