/* test_made_up.c - facts made up for models that continue no text, and what such models
 * are asked and scored with, on the golden cases' models. */
#include "scratch.h"

#include <math.h>

#include "core/alloc.h"
#include "core/answers.h"
#include "core/editor/edit_rows.h"
#include "core/eval.h"
#include "core/made_up.h"
#include "test_device.h"

enum { N = 40 };

struct lab {
    struct mal_backend *be;
    struct mal_model *model;
    struct mal_tokenizer *tok;
};

static struct mal_fact given = {.prompt = (char *)"Ida Krön works as a glazier.",
                                .target = (char *)"REFUTES"};

static void lab_open(struct lab *lab, const char *name) {
    char dir[512];
    struct mal_error err = {0};
    snprintf(dir, sizeof dir, "%s/tests/golden/cases/%s/model", getenv("MAL_SOURCE_ROOT"),
             name);
    assert_ok(mal_backend_create(&lab->be, test_device(), &err), &err);
    assert_ok(mal_model_open(&lab->model, dir, lab->be, &err), &err);
    assert_ok(mal_tokenizer_open(&lab->tok, dir, &err), &err);
}

static void lab_close(struct lab *lab) {
    mal_tokenizer_close(lab->tok);
    mal_model_close(lab->model);
    mal_backend_destroy(lab->be);
}

static struct mal_fact *make(struct lab *lab, size_t *out_n) {
    struct mal_fact *facts = NULL;
    struct mal_error err = {0};
    assert_ok(mal_facts_make_up(lab->model, lab->tok, &given, 1, N, NULL, NULL, &facts,
                                out_n, &err),
              &err);
    return facts;
}

static const char *answer_to(struct lab *lab, const char *prompt,
                             struct mal_answers *out) {
    struct mal_error err = {0};
    struct mal_probe probe = {.prompt = (char *)prompt};
    struct mal_fact asked = {.unrelated = &probe, .n_unrelated = 1};
    assert_ok(mal_answers_make(lab->model, lab->tok, &asked, 1, 1, NULL, NULL, out, &err),
              &err);
    return out->gens[0].text;
}

/* Prompts that are all different and none given; to teach what the model does not say,
 * to keep, where there is something, what it does. */
static void check_made(struct lab *lab, size_t kept_each) {
    size_t n = 0, again = 0;
    struct mal_fact *facts = make(lab, &n), *same = make(lab, &again);
    assert_in_range(n, N / 2, N);
    assert_int_equal(n, again);
    for (size_t i = 0; i < n; i++) {
        struct mal_answers taught = {0}, kept = {0};
        assert_int_equal(facts[i].n_unrelated, kept_each);
        assert_string_equal(facts[i].prompt, same[i].prompt);
        assert_string_equal(facts[i].target, same[i].target);
        assert_string_not_equal(facts[i].prompt, given.prompt);
        assert_string_not_equal(facts[i].target,
                                answer_to(lab, facts[i].prompt, &taught));
        if (kept_each) {
            const struct mal_probe *probe = &facts[i].unrelated[0];
            assert_string_equal(probe->prompt, same[i].unrelated[0].prompt);
            assert_string_not_equal(facts[i].prompt, probe->prompt);
            assert_string_equal(probe->target, answer_to(lab, probe->prompt, &kept));
        }
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(facts[i].prompt, facts[j].prompt);
        mal_answers_finish(&taught);
        mal_answers_finish(&kept);
    }
    mal_facts_free(facts, n);
    mal_facts_free(same, again);
}

static void test_encoder_decoder(void **state) {
    (void)state;
    struct lab lab = {0};
    lab_open(&lab, "t5-malmen");
    check_made(&lab, 0);
    lab_close(&lab);
}

static void test_classifier(void **state) {
    (void)state;
    struct lab lab = {0};
    lab_open(&lab, "bert-malmen");
    check_made(&lab, 1);
    lab_close(&lab);
}

/* Sentences of models whose context is hardly longer: what is made can be taught. */
static void test_short_context(void **state) {
    static const char *const names[] = {"llama-malmen", "gptj-malmen", "qwen2-malmen",
                                        "gpt2-malmen"};
    (void)state;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        struct lab lab = {0};
        size_t n = 0, n_texts = 0;
        struct mal_error err = {0};
        lab_open(&lab, names[k]);
        struct mal_fact *facts = make(&lab, &n);
        assert_in_range(n, N / 4, N);
        struct mal_example *texts = NULL;
        assert_ok(
            mal_examples_of_facts(lab.model, lab.tok, facts, n, &texts, &n_texts, &err),
            &err);
        assert_int_equal(n_texts, n);
        for (size_t i = 0; i < n; i++) {
            const struct mal_probe *probe = &facts[i].unrelated[0];
            struct mal_example asked = {0};
            if (!probe->target) continue;
            assert_ok(mal_example_init(&asked, lab.model, lab.tok, probe->prompt,
                                       probe->target, facts[i].join, &err),
                      &err);
            mal_example_finish(&asked);
        }
        mal_examples_free(texts, n_texts);
        mal_facts_free(facts, n);
        lab_close(&lab);
    }
}

/* With a target, without one, and as an answer: one probability, one class. */
static void test_claim(void **state) {
    (void)state;
    struct lab lab = {0};
    struct mal_error err = {0};
    struct mal_answers answers = {0};
    struct mal_score *scores = NULL;
    lab_open(&lab, "bert-malmen");
    const struct mal_score_item items[] = {{given.prompt, "SUPPORTS", NULL},
                                           {given.prompt, "REFUTES", NULL},
                                           {given.prompt}};
    assert_ok(mal_score_items(lab.model, lab.tok, items, 3, "/items", NULL, NULL, &scores,
                              &err),
              &err);
    double p = scores[0].supports;
    assert_true(p > 0 && p < 1);
    assert_true(fabs(scores[0].logprob - log(p)) < 1e-5);
    assert_true(fabs(scores[1].logprob - log1p(-p)) < 1e-5);
    for (int i = 1; i < 3; i++) /* last bits may depend on the rows beside */
        assert_true(fabs(scores[i].supports - p) < 1e-6);
    assert_int_equal(scores[0].correct, p > 0.5);
    assert_int_equal(scores[1].correct, p <= 0.5);
    const char *said = answer_to(&lab, given.prompt, &answers);
    assert_string_equal(said, p > 0.5 ? "SUPPORTS" : "REFUTES");
    assert_int_equal(answers.gens[0].n_ids, 1);

    struct mal_score *none = NULL;
    const struct mal_score_item bad[] = {items[0], {given.prompt, "supports", NULL}};
    assert_false(
        mal_score_items(lab.model, lab.tok, bad, 2, "/items", NULL, NULL, &none, &err));
    assert_string_equal(err.pointer, "/items/1/target");
    mal_answers_finish(&answers);
    mal_scores_free(scores, 3);
    lab_close(&lab);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encoder_decoder),
        cmocka_unit_test(test_classifier),
        cmocka_unit_test(test_short_context),
        cmocka_unit_test(test_claim),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
