/* test_eval.c - scores of the demo's facts: those that are known already go over as they
 * are, and the others are the same as without them. */
#include "demo_model.h"

#include <math.h>

#include "core/alloc.h"
#include "core/eval.h"

static struct mal_fact *facts;
static size_t n_facts;

static int open_facts(void **state) {
    struct mal_error err = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/tests/demo/facts/demo-edit.json",
             getenv("MAL_SOURCE_ROOT"));
    int code = demo_open(state);
    assert_ok(mal_facts_load(&facts, &n_facts, path, &err), &err);
    return code;
}

static int close_facts(void **state) {
    mal_facts_free(facts, n_facts);
    return demo_close(state);
}

static struct mal_score *score(struct mal_score *known, size_t *n) {
    struct mal_error err = {0};
    struct mal_score *scores = NULL;
    assert_ok(
        mal_score_facts(model, tok, facts, n_facts, known, NULL, NULL, &scores, n, &err),
        &err);
    return scores;
}

/* Every third fact's prompt, marked so that it is told apart. */
static struct mal_score *make_known(void) {
    struct mal_score *known = mal_calloc(n_facts, sizeof *known);
    assert_non_null(known);
    for (size_t i = 0; i < n_facts; i += 3) {
        known[i] = (struct mal_score){.tokens = mal_calloc(2, sizeof *known[i].tokens),
                                      .n_tokens = 2,
                                      .logprob = -(double)i - 1000};
        assert_non_null(known[i].tokens);
    }
    return known;
}

static void test_known(void **state) {
    size_t n = 0, n_again = 0, at = 0;
    struct mal_score *known = make_known();
    struct mal_score *all = score(NULL, &n), *rest = score(known, &n_again);
    assert_int_equal(n, n_again);
    for (size_t i = 0; i < n_facts; i++) {
        assert_true(mal_fact_n_items(&facts[i]) > 1);
        for (size_t k = 0; k < mal_fact_n_items(&facts[i]); k++, at++) {
            if (k == 0 && i % 3 == 0) {
                assert_true(rest[at].logprob == -(double)i - 1000);
                continue;
            }
            assert_int_equal(rest[at].n_tokens, all[at].n_tokens);
            assert_true(fabs(rest[at].logprob - all[at].logprob) <= 1e-5);
            assert_int_equal(rest[at].tokens[0].id, all[at].tokens[0].id);
        }
        assert_null(known[i].tokens);
    }
    assert_int_equal(at, n);
    mal_scores_free(all, n);
    mal_scores_free(rest, n);
    mal_free(known);
}

static bool give_up(void *arg) {
    return false;
}

/* Whatever goes wrong, what was known is gone, and once. */
static void test_failing(void **state) {
    for (long at = 0; at < 12; at++) {
        struct mal_error err = {0};
        struct mal_score *known = make_known(), *scores = NULL;
        size_t n = 0;
        mal_alloc_fail_at(at);
        assert_false(mal_score_facts(model, tok, facts, n_facts, known, give_up, NULL,
                                     &scores, &n, &err));
        mal_alloc_fail_at(0);
        assert_int_equal(err.status, at ? MAL_NO_MEMORY : MAL_CANCELLED);
        for (size_t i = 0; i < n_facts; i++)
            assert_null(known[i].tokens);
        mal_free(known);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_known),
                                       cmocka_unit_test(test_failing)};
    return cmocka_run_group_tests(tests, open_facts, close_facts);
}
