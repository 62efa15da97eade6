/* test_facts_sets.c - facts out of the research data sets' less common forms, and out of
 * whole data sets where they are there. */
#include "facts_file.h"
#include "no_memory.h"

/* ---- zsRE and FEVER as the reference's own files have them ---- */

static void test_zsre_ans(void **state) {
    struct loaded l = load(
        "[{\"src\":\"Who?\",\"ans\":\"Ann\",\"alt\":\"not this\",\"answers\":[\"Bob\"],"
        "\"rephrase\":\"Which one?\",\"loc\":\"who sang it\",\"loc_ans\":\"Eve\"},"
        "{\"src\":\"nothing to teach\",\"ans\":\"\"},{\"src\":\"s\",\"ans\":\"a\"}]");
    assert_int_equal(l.n, 2);
    assert_text(l.facts[0].prompt, "Who?");
    assert_text(l.facts[0].target, "Ann");
    assert_text(l.facts[0].rephrases[0], "Which one?");
    assert_text(l.facts[0].unrelated[0].prompt, "who sang it?");
    assert_text(l.facts[0].unrelated[0].target, "Eve");
    assert_text(l.facts[1].target, "a");
    assert_int_equal(l.facts[1].n_unrelated, 0);
    mal_facts_free(l.facts, l.n);
}

#define FEVER(alt, other)                                                                 \
    "{\"prompt\":\"Ann is a miller.\",\"equiv_prompt\":[\"Ann mills.\",\"Ann grinds.\"]," \
    "\"alt\":\"" alt "\",\"unrel_prompt\":\"Bob is tall.\",\"unrel_ans\":\"" other "\"}"

static void test_fever(void **state) {
    static const char *const forms[] = {
        "[" FEVER("REFUTES", "SUPPORTS") ",{\"prompt\":\"p\",\"alt\":\"SUPPORTS\"}]",
        FEVER("REFUTES", "SUPPORTS") "\n{\"prompt\":\"p\",\"alt\":\"SUPPORTS\"}\n",
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct loaded l = load(forms[i]);
        assert_int_equal(l.n, 2);
        assert_text(l.facts[0].prompt, "Ann is a miller.");
        assert_text(l.facts[0].target, "REFUTES");
        assert_int_equal(l.facts[0].n_prompts, 0);
        assert_int_equal(l.facts[0].n_rephrases, 2);
        assert_text(l.facts[0].rephrases[0], "Ann mills.");
        assert_text(l.facts[0].rephrases[1], "Ann grinds.");
        assert_int_equal(l.facts[0].n_unrelated, 1);
        assert_text(l.facts[0].unrelated[0].prompt, "Bob is tall.");
        assert_text(l.facts[0].unrelated[0].target, "SUPPORTS");
        assert_text(l.facts[1].target, "SUPPORTS");
        assert_int_equal(l.facts[1].n_rephrases + l.facts[1].n_unrelated, 0);
        mal_facts_free(l.facts, l.n);
    }
}

/* ---- FEVER's own form and KILT's ---- */

static void test_claims(void **state) {
    struct loaded l = load(
        "{\"id\":1,\"verifiable\":\"VERIFIABLE\",\"label\":\"SUPPORTS\",\"claim\":\"a b.\","
        "\"evidence\":[[[1,2,\"A\",0]]]}\n"
        "{\"id\":2,\"label\":\"NOT ENOUGH INFO\",\"claim\":\"c.\"}\n"
        "{\"id\":3,\"label\":\"REFUTES\",\"claim\":\"d.\"}\n");
    assert_int_equal(l.n, 2);
    assert_text(l.facts[0].id, NULL); /* a number of the data set's, not one of ours */
    assert_text(l.facts[0].prompt, "a b.");
    assert_text(l.facts[0].target, "SUPPORTS");
    assert_text(l.facts[1].prompt, "d.");
    assert_text(l.facts[1].target, "REFUTES");
    assert_int_equal(l.facts[1].n_rephrases + l.facts[1].n_unrelated, 0);
    mal_facts_free(l.facts, l.n);
}

#define KILT                                                                              \
    "{\"id\":\"7\",\"input\":\"Ann is tall.\",\"output\":[{\"answer\":\"SUPPORTS\"}],"    \
    "\"prediction\":\"SUPPORTS\",\"alternatives\":[\"REFUTES\",\"other\"],\"logit\":1.5," \
    "\"filtered_rephrases\":[\"Tall is Ann.\",\"Ann, tall.\"]}"

static void test_kilt(void **state) {
    struct loaded l = load(
        KILT "\n{\"input\":\"nothing to teach\",\"alternatives\":[]}\n"
             "{\"input\":\"i\",\"alternatives\":[\"a\"],\"filtered_rephrases\":[]}\n");
    assert_int_equal(l.n, 2);
    assert_text(l.facts[0].id, NULL);
    assert_text(l.facts[0].prompt, "Ann is tall.");
    assert_text(l.facts[0].target, "REFUTES");
    assert_int_equal(l.facts[0].n_rephrases, 2);
    assert_text(l.facts[0].rephrases[1], "Ann, tall.");
    assert_int_equal(l.facts[0].n_unrelated, 0);
    assert_text(l.facts[1].target, "a");
    assert_int_equal(l.facts[1].n_rephrases, 0);
    mal_facts_free(l.facts, l.n);
}

/* Fields of other forms beside prompt and target mean nothing. */
static void test_api_first(void **state) {
    struct loaded l =
        load("[{\"prompt\":\"p\",\"target\":\"t\",\"src\":\"s\",\"claim\":1,"
             "\"input\":2,\"alt\":3,\"target_new\":4}]");
    assert_text(l.facts[0].prompt, "p");
    assert_text(l.facts[0].target, "t");
    mal_facts_free(l.facts, l.n);
}

/* ---- What is wrong ---- */

static const struct {
    const char *text, *words;
} broken[] = {
    {"[{\"src\":\"s\",\"ans\":7}]", "record 0: 'ans' must be a string, it is an integer"},
    {"[" FEVER("TRUE", "SUPPORTS") "]",
     "broken: record 0: 'alt' must be SUPPORTS or REFUTES"},
    {FEVER("SUPPORTS", "SUPPORTS") "\n" FEVER("SUPPORTS", ""),
     "broken: line 2: 'unrel_ans' is empty"},
    {"[" FEVER("SUPPORTS", "no") "]", "'unrel_ans' must be SUPPORTS or REFUTES"},
    {"[{\"prompt\":\"p\",\"alt\":\"SUPPORTS\",\"unrel_prompt\":\"u\"}]",
     "record 0: 'unrel_ans' is missing"},
    {"[{\"prompt\":\"p\",\"alt\":\"SUPPORTS\",\"equiv_prompt\":\"e\"}]",
     "'equiv_prompt' must be an array, it is a string"},
    {"[{\"alt\":\"SUPPORTS\"}]", "record 0: 'prompt' is missing"},
    {"[{\"claim\":\"c\"}]", "record 0: 'label' is missing"},
    {"[{\"claim\":\"c\",\"label\":\"MAYBE\"}]",
     "record 0: 'label' must be SUPPORTS or REFUTES"},
    {"[{\"claim\":\"\",\"label\":\"SUPPORTS\"}]", "record 0: 'claim' is empty"},
    {"[{\"claim\":\"c\",\"label\":\"NOT ENOUGH INFO\"}]", "broken: no facts in it"},
    {"[{\"input\":\"i\"}]", "record 0: 'alternatives' is missing"},
    {"[{\"input\":\"i\",\"alternatives\":[\"a\",\"\"]}]",
     "'alternatives' 1 must be a string that is not empty"},
    {"[{\"input\":\"i\",\"alternatives\":[\"a\"],\"filtered_rephrases\":7}]",
     "'filtered_rephrases' must be an array, it is an integer"},
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
        assert_error(&err, MAL_INVALID, broken[i].words);
    }
}

static bool load_and_free(const char *path, struct mal_error *err) {
    struct mal_fact *facts;
    size_t n;
    if (!mal_facts_load(&facts, &n, path, err)) return false;
    mal_facts_free(facts, n);
    return true;
}

static void test_no_memory(void **state) {
    char path[512];
    strcpy(path, scratch_path("memory"));
    scratch_text(
        "memory",
        "[" FEVER(
            "REFUTES",
            "SUPPORTS") "," KILT ",{\"claim\":\"c\",\"label\":\"SUPPORTS\"},"
                        "{\"src\":\"s\",\"ans\":\"a\",\"loc\":\"l\",\"loc_ans\":\"m\"}]");
    fail_each_allocation(load_and_free, path, 60);
}

/* ---- Files that are not part of the project ---- */

static const char *shared(const char *name) {
    static char path[1024];
    const char *root = getenv("MAL_SOURCE_ROOT");
    snprintf(path, sizeof path, "%s/../shared/%s", root ? root : ".", name);
    return path;
}

static struct loaded load_shared(const char *name) {
    struct mal_error err = {0};
    struct loaded l = {0};
    const char *path = shared(name);
    assert_ok(mal_facts_load(&l.facts, &l.n, path, &err), &err);
    return l;
}

static void test_data_sets(void **state) {
    static const struct {
        const char *name;
        size_t n;
    } sets[] = {
        {"data/zsre/zsre_mend_eval_portability_1037.json", 1037},
        {"data/zsre/zsre_mend_train-1k.json", 998},
        {"data/zsre/zsre_mend_train_en_10000.txt", 9965},
        {"data/counterfact/counterfact-edit.json", 10000},
        {"data/counterfact/counterfact-train.json", 10000},
        {"data/fever/fever_labelled_dev.json", 13332},
    };

    return_if_absent(shared("data"));
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        struct loaded l = load_shared(sets[i].name);
        assert_int_equal(l.n, sets[i].n);
        bool pairs = strstr(sets[i].name, ".txt") || strstr(sets[i].name, "fever");
        for (size_t k = 0; k < l.n; k++) {
            assert_int_equal(l.facts[k].n_rephrases, pairs ? 0 : 1);
            assert_int_equal(l.facts[k].n_unrelated, pairs ? 0 : 1);
        }
        mal_facts_free(l.facts, l.n);
    }
}

static const struct mal_fact *find(const struct loaded *l, const struct mal_fact *fact) {
    for (size_t i = 0; i < l->n; i++) {
        const struct mal_fact *f = &l->facts[i];
        if (strcmp(f->prompt, fact->prompt) == 0 && strcmp(f->target, fact->target) == 0)
            return f;
    }
    return NULL;
}

/* The golden cases' facts were made from the zsRE and CounterFact files by another
 * program: each must come out of the file it was made from with the same fields. */
static void test_same_as_golden(void **state) {
    static const char *const golden_files[] = {"golden/gpt2-malmen/facts.json",
                                               "golden/gpt2-malmen-train/data.json",
                                               "golden/gpt2-memit/facts.json"};
    return_if_absent(shared("data"));
    struct loaded zsre = load_shared("data/zsre/zsre_mend_eval_portability_1037.json");
    struct loaded train = load_shared("data/zsre/zsre_mend_train-1k.json");
    struct loaded counterfact = load_shared("data/counterfact/counterfact-edit.json");
    for (size_t i = 0; i < sizeof golden_files / sizeof *golden_files; i++) {
        struct loaded golden = load_shared(golden_files[i]);
        for (size_t k = 0; k < golden.n; k++) {
            const struct mal_fact *g = &golden.facts[k], *f = find(&zsre, g);
            if (!f) f = find(&train, g);
            if (!f) f = find(&counterfact, g);
            if (!f) fail_msg("%s: '%s' is in no data set", golden_files[i], g->prompt);
            assert_text(f->subject, g->subject);
            assert_int_equal(f->n_rephrases, g->n_rephrases);
            assert_text(f->rephrases[0], g->rephrases[0]);
            assert_int_equal(f->n_unrelated, g->n_unrelated);
            assert_text(f->unrelated[0].prompt, g->unrelated[0].prompt);
            assert_text(f->unrelated[0].target, g->unrelated[0].target);
        }
        mal_facts_free(golden.facts, golden.n);
    }
    mal_facts_free(zsre.facts, zsre.n);
    mal_facts_free(train.facts, train.n);
    mal_facts_free(counterfact.facts, counterfact.n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zsre_ans),       cmocka_unit_test(test_fever),
        cmocka_unit_test(test_claims),         cmocka_unit_test(test_kilt),
        cmocka_unit_test(test_api_first),      cmocka_unit_test(test_broken),
        cmocka_unit_test(test_no_memory),      cmocka_unit_test(test_data_sets),
        cmocka_unit_test(test_same_as_golden),
    };
    return cmocka_run_group_tests_name("facts_sets", tests, scratch_make, scratch_remove);
}
