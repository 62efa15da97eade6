/* test_facts.c - facts out of every form of file, and what is said about records that are
 * wrong. */
#include "facts_file.h"
#include "no_memory.h"

#include "core/alloc.h"

/* ---- The forms ---- */

#define FULL                                                                            \
    "{\"prompt\":\"The capital of France is\",\"target\":\" Lyon \",\"id\":\"fact_7\"," \
    "\"subject\":\"France\",\"join\":\"\",\"prompts\":[\"France's capital is\"],"       \
    "\"rephrases\":[\"a\",\"b\"],\"unrelated\":[{\"prompt\":\"p\",\"target\":\"t\"},"   \
    "{\"prompt\":\"q\",\"target\":null,\"more\":1}],\"unknown\":{}}"
#define SMALL "{\"prompt\":\"p\",\"target\":\"t\",\"subject\":null}"

static void check_full(const struct mal_fact *f) {
    assert_text(f->prompt, "The capital of France is");
    assert_text(f->target, " Lyon "); /* nothing is trimmed */
    assert_text(f->id, "fact_7");
    assert_text(f->subject, "France");
    assert_text(f->join, "");
    assert_int_equal(f->n_prompts, 1);
    assert_text(f->prompts[0], "France's capital is");
    assert_int_equal(f->n_rephrases, 2);
    assert_text(f->rephrases[0], "a");
    assert_text(f->rephrases[1], "b");
    assert_int_equal(f->n_unrelated, 2);
    assert_text(f->unrelated[0].prompt, "p");
    assert_text(f->unrelated[0].target, "t");
    assert_text(f->unrelated[1].prompt, "q");
    assert_text(f->unrelated[1].target, NULL);
    assert_false(f->of_set);
    assert_text(f->odd, "/unknown"); /* the first */
}

static void check_small(const struct mal_fact *f) {
    assert_text(f->prompt, "p");
    assert_text(f->target, "t");
    assert_text(f->id, NULL);
    assert_text(f->subject, NULL);
    assert_text(f->join, NULL);
    assert_int_equal(f->n_prompts + f->n_rephrases + f->n_unrelated, 0);
    assert_false(f->of_set);
    assert_text(f->odd, NULL);
}

static void test_api_forms(void **state) {
    static const char *const forms[] = {
        "{\"facts\":[" FULL "," SMALL "],\"note\":\"n\"}",
        "\xef\xbb\xbf [" FULL ",\n" SMALL "]\n",
        FULL "\n" SMALL "\n",
        "\n" FULL "\r\n\r\n" SMALL,
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct loaded l = load(forms[i]);
        assert_int_equal(l.n, 2);
        check_full(&l.facts[0]);
        check_small(&l.facts[1]);
        mal_facts_free(l.facts, l.n);
    }
    struct loaded l = load("{\n \"prompt\": \"p\",\n \"target\": \"t\"\n}");
    assert_int_equal(l.n, 1);
    check_small(&l.facts[0]);
    mal_fact_finish(&l.facts[0]);
    assert_text(l.facts[0].prompt, NULL);
    mal_facts_free(l.facts, l.n);
    mal_facts_free(NULL, 0);
}

static void test_zsre(void **state) {
    struct loaded l = load(
        "[{\"subject\":\"Ramalinaceae\",\"src\":\"Which family?\",\"pred\":\"x\","
        "\"rephrase\":\"What family?\",\"alt\":\" species\",\"answers\":[\"L\"],"
        "\"loc\":\"nq question: types of skiing\",\"loc_ans\":\"Downhill\",\"cond\":\"\"},"
        "{\"src\":\"nothing to teach\",\"alt\":\"\"},{\"src\":\"s\",\"alt\":\"a\"}]");
    assert_int_equal(l.n, 2);
    assert_text(l.facts[0].prompt, "Which family?");
    assert_text(l.facts[0].target, " species");
    assert_true(l.facts[0].of_set);
    assert_text(l.facts[0].odd, NULL);
    assert_text(l.facts[0].subject, "Ramalinaceae");
    assert_int_equal(l.facts[0].n_rephrases, 1);
    assert_text(l.facts[0].rephrases[0], "What family?");
    assert_int_equal(l.facts[0].n_unrelated, 1);
    assert_text(l.facts[0].unrelated[0].prompt, "nq question: types of skiing");
    assert_text(l.facts[0].unrelated[0].target, "Downhill");
    assert_int_equal(l.facts[1].n_rephrases + l.facts[1].n_unrelated, 0);
    mal_facts_free(l.facts, l.n);
}

static void test_counterfact(void **state) {
    struct loaded l = load(
        "[{\"case_id\":0,\"prompt\":\"D speaks\",\"target_new\":\"English\",\"subject\":\"D\","
        "\"ground_truth\":\"French\",\"rephrase_prompt\":\"D talks\","
        "\"locality_prompt\":\"M speaks\",\"locality_ground_truth\":\"French\"}]");
    assert_int_equal(l.n, 1);
    assert_text(l.facts[0].prompt, "D speaks");
    assert_text(l.facts[0].target, "English");
    assert_text(l.facts[0].subject, "D");
    assert_int_equal(l.facts[0].n_rephrases, 1);
    assert_text(l.facts[0].rephrases[0], "D talks");
    assert_int_equal(l.facts[0].n_unrelated, 1);
    assert_text(l.facts[0].unrelated[0].prompt, "M speaks");
    assert_text(l.facts[0].unrelated[0].target, "French");
    mal_facts_free(l.facts, l.n);
}

#define ROME(prompt)                                                                  \
    "[{\"case_id\":0,\"requested_rewrite\":{\"prompt\":\"" prompt "\","               \
    "\"relation_id\":\"P103\",\"target_new\":{\"str\":\"English\",\"id\":\"Q1860\"}," \
    "\"target_true\":{\"str\":\"French\",\"id\":\"Q150\"},\"subject\":\"Danielle\"}," \
    "\"paraphrase_prompts\":[\"a\",\"b\"],\"neighborhood_prompts\":[\"x\",\"y\"],"    \
    "\"attribute_prompts\":[\"z\"]}]"

static void test_rome(void **state) {
    struct loaded l = load(ROME("The mother tongue of {} is"));
    assert_int_equal(l.n, 1);
    assert_text(l.facts[0].prompt, "The mother tongue of Danielle is");
    assert_text(l.facts[0].target, "English");
    assert_text(l.facts[0].subject, "Danielle");
    assert_int_equal(l.facts[0].n_rephrases, 2);
    assert_text(l.facts[0].rephrases[1], "b");
    assert_int_equal(l.facts[0].n_unrelated, 2);
    assert_text(l.facts[0].unrelated[1].prompt, "y");
    assert_text(l.facts[0].unrelated[1].target, "French");
    mal_facts_free(l.facts, l.n);
    l = load("[{\"requested_rewrite\":{\"prompt\":\"{}\",\"subject\":\"s\","
             "\"target_new\":{\"str\":\"t\"}},\"neighborhood_prompts\":[\"x\"]}]");
    assert_text(l.facts[0].prompt, "s");
    assert_text(l.facts[0].unrelated[0].target,
                NULL); /* only the base model's answer counts */
    mal_facts_free(l.facts, l.n);
}

static void test_tabs(void **state) {
    struct loaded l = load(
        "What is it?\tGerman\n\nnothing to teach\t\nWho \xc3\xa9? \t a b\r\nlast\tone");
    assert_int_equal(l.n, 3);
    assert_text(l.facts[0].prompt, "What is it?");
    assert_text(l.facts[0].target, "German");
    assert_text(l.facts[1].prompt, "Who \xc3\xa9? ");
    assert_text(l.facts[1].target, " a b");
    assert_text(l.facts[2].target, "one");
    mal_facts_free(l.facts, l.n);
}

/* ---- What is wrong ---- */

static const struct {
    const char *text;
    enum mal_status status;
    const char *words;
} broken[] = {
    {"", MAL_INVALID, "broken: no facts in it"},
    {"[]", MAL_INVALID, "broken: no facts in it"},
    {"{\"facts\":[]}", MAL_INVALID, "broken: no facts in it"},
    {"{\"facts\":{}}", MAL_INVALID, "broken: 'facts' must be an array, it is an object"},
    {"[\n{\"prompt\":}]", MAL_MALFORMED, "broken: line 2 column 11"},
    {"[{\"prompt\":\"\xff\"}]", MAL_MALFORMED, "unable to decode byte 0xff"},
    {"[" SMALL "] x", MAL_MALFORMED, "broken: text after the end of the array"},
    {SMALL "\n{\"prompt\":1,\"prompt\":2}", MAL_MALFORMED,
     "broken: line 2: JSON: line 1 column 20: duplicate object key"},
    {SMALL "\n" SMALL "\n\n{\"prompt\":\"p\",\"target\":\"\"}", MAL_INVALID,
     "broken: line 4: 'target' is empty"},
    {"[" SMALL "," SMALL ",7]", MAL_INVALID,
     "broken: record 2: must be an object, it is an integer"},
    {"[" SMALL ",{\"question\":\"q\",\"answer\":\"a\"}]", MAL_INVALID,
     "broken: record 1: no known form of a fact"},

    {"[{\"prompt\":\"p\"}]", MAL_INVALID, "record 0: 'target' is missing"},
    {"[{\"target\":\"t\"}]", MAL_INVALID, "record 0: 'prompt' is missing"},
    {"[{\"prompt\":\"\",\"target\":\"t\"}]", MAL_INVALID, "record 0: 'prompt' is empty"},
    {"[{\"prompt\":1,\"target\":\"t\"}]", MAL_INVALID,
     "'prompt' must be a string, it is an integer"},
    {"[{\"prompt\":\"p\",\"target\":\"t\",\"id\":1}]", MAL_INVALID,
     "'id' must be a string, it is an integer"},
    {"[{\"prompt\":\"p\",\"target\":\"t\",\"join\":[]}]", MAL_INVALID,
     "'join' must be a string, it is an array"},
    {"[{\"prompt\":\"p\",\"target\":\"t\",\"prompts\":\"x\"}]", MAL_INVALID,
     "'prompts' must be an array, it is a string"},
    {"[{\"prompt\":\"p\",\"target\":\"t\",\"rephrases\":[\"a\",\"\"]}]", MAL_INVALID,
     "'rephrases' 1 must be a string that is not empty"},
    {"[{\"prompt\":\"p\",\"target\":\"t\",\"rephrases\":[null]}]", MAL_INVALID,
     "'rephrases' 0 must be a string that is not empty"},
    {"[{\"prompt\":\"p\",\"target\":\"t\",\"unrelated\":{}}]", MAL_INVALID,
     "'unrelated' must be an array, it is an object"},
    {"[{\"prompt\":\"p\",\"target\":\"t\",\"unrelated\":[\"q\"]}]", MAL_INVALID,
     "'unrelated' 0 must be an object, it is a string"},
    {"[{\"prompt\":\"p\",\"target\":\"t\",\"unrelated\":[{\"prompt\":\"q\"},{}]}]",
     MAL_INVALID, "broken: record 0: 'unrelated' 1: 'prompt' is missing"},

    {"[{\"src\":\"s\"}]", MAL_INVALID, "record 0: 'alt' is missing"},
    {"[{\"src\":\"s\",\"alt\":\"\"}]", MAL_INVALID, "broken: no facts in it"},
    {"[{\"src\":\"s\",\"alt\":null}]", MAL_INVALID, "record 0: 'alt' is missing"},
    {"[{\"src\":\"\",\"alt\":\"a\"}]", MAL_INVALID, "record 0: 'src' is empty"},
    {"[{\"src\":\"s\",\"alt\":\"a\",\"rephrase\":[]}]", MAL_INVALID,
     "'rephrase' must be a string, it is an array"},
    {"[{\"src\":\"s\",\"alt\":\"a\",\"loc\":\"l\",\"loc_ans\":\"\"}]", MAL_INVALID,
     "'loc_ans' is empty"},
    {"[{\"target_new\":\"t\"}]", MAL_INVALID, "record 0: 'prompt' is missing"},
    {"[{\"prompt\":\"p\",\"target_new\":{}}]", MAL_INVALID,
     "'target_new' must be a string, it is an object"},

    {"[{\"requested_rewrite\":1}]", MAL_INVALID,
     "'requested_rewrite' must be an object, it is an integer"},
    {"[{\"requested_rewrite\":{\"prompt\":\"{}\",\"subject\":\"s\"}}]", MAL_INVALID,
     "record 0: 'target_new' is missing"},
    {"[{\"requested_rewrite\":{\"prompt\":\"{}\",\"subject\":\"s\",\"target_new\":\"t\"}}]",
     MAL_INVALID, "'target_new' must be an object, it is a string"},
    {"[{\"requested_rewrite\":{\"prompt\":\"{}\",\"subject\":\"s\",\"target_new\":{}}}]",
     MAL_INVALID, "broken: record 0: 'target_new': 'str' is missing"},
    {ROME("no gap"), MAL_INVALID, "'prompt' must hold {} once"},
    {ROME("{} and {}"), MAL_INVALID, "'prompt' must hold {} once"},

    {"prompt\ttarget\nno tab\n", MAL_INVALID,
     "broken: line 2: neither JSON nor a prompt, a tab character and a target"},
    {"a\tb\tc\n", MAL_INVALID, "broken: line 1: more than one tab character"},
    {"\tb\n", MAL_INVALID, "broken: line 1: the prompt is empty"},
    {"a\t\n", MAL_INVALID, "broken: no facts in it"},
    {"a\t\xff\n", MAL_INVALID, "broken: line 1: not UTF-8"},
};

static void test_broken(void **state) {
    struct mal_error err = {0};
    struct mal_fact *facts = NULL;
    size_t n = 0;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        const char *path = scratch_text("broken", broken[i].text);
        if (mal_facts_load(&facts, &n, path, &err))
            fail_msg("accepted: %s", broken[i].text);
        assert_null(facts);
        assert_error(&err, broken[i].status, broken[i].words);
    }
    assert_false(
        mal_facts_load(&facts, &n, scratch_write("broken", "a\tb\0c\n", 6), &err));
    assert_error(&err, MAL_INVALID, "broken: line 1: a zero byte");
    assert_false(mal_facts_load(&facts, &n, scratch_path("absent"), &err));
    assert_error(&err, MAL_NOT_FOUND, "absent: No such file");
}

static bool load_and_free(const char *path, struct mal_error *err) {
    struct mal_fact *facts;
    size_t n;
    if (!mal_facts_load(&facts, &n, path, err)) return false;
    mal_facts_free(facts, n);
    return true;
}

static void test_no_memory(void **state) {
    static const char *const forms[] = {
        "[" FULL "," SMALL
        ",{\"src\":\"s\",\"alt\":\"a\",\"rephrase\":\"r\",\"loc\":\"l\","
        "\"loc_ans\":\"m\"}]",
        FULL "\n" SMALL,
        ROME("The mother tongue of {} is"),
    };
    char path[512];
    strcpy(path, scratch_path("memory"));
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        scratch_text("memory", forms[i]);
        fail_each_allocation(load_and_free, path, 30);
    }
    scratch_text("memory", "a\tb\nc\td\n");
    fail_each_allocation(load_and_free, path, 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_api_forms),   cmocka_unit_test(test_zsre),
        cmocka_unit_test(test_counterfact), cmocka_unit_test(test_rome),
        cmocka_unit_test(test_tabs),        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("facts", tests, scratch_make, scratch_remove);
}
