/* test_example.c - texts as the tokens a model reads: what is put around them, and what
 * the model does not know. */
#include "variants.h"

#include "core/answers.h"
#include "core/example.h"
#include "tokenizer_cases.h"

/* Of 23 tokens, as the random models have them: <s> before a text, </s> behind it. [PAD]
 * was added, and the models were not made larger. */
static const char tokenizer_json[] =
    "{\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"},\"decoder\":null,"
    "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"?\",\"continuing_subword_prefix\":\"#\","
    "\"max_input_chars_per_word\":9,"
    "\"vocab\":{\"?\":0,\"<s>\":1,\"</s>\":2,\"a\":3,\"b\":4,\"c\":5,\"last\":22}},"
    "\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true},"
    "{\"id\":2,\"content\":\"</s>\",\"special\":true},"
    "{\"id\":23,\"content\":\"[PAD]\",\"special\":true}],"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
    "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\","
    "\"type_id\":0}},{\"SpecialToken\":{\"id\":\"</s>\",\"type_id\":0}}],\"pair\":[],"
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]},"
    "\"</s>\":{\"id\":\"</s>\",\"ids\":[2],\"tokens\":[\"</s>\"]}}}}";

static struct mal_tokenizer *tok;

static int make(void **state) {
    int rc = scratch_make(state);
    scratch_text("tokenizer.json", tokenizer_json);
    tok = open_file(scratch_path("tokenizer.json"));
    return rc;
}

static int discard(void **state) {
    mal_tokenizer_close(tok);
    random_tensors_free(&tensors);
    return scratch_remove(state);
}

static struct mal_model *open_family(enum random_family family) {
    const struct random_model *m = &random_models[family];
    random_tensors_free(&tensors);
    random_tensors_of(&tensors, m);
    return open_dir(save_variant(m, "{}"));
}

static void expect_ids(const int32_t *ids, size_t n, const int32_t *want, size_t n_want) {
    assert_int_equal(n, n_want);
    assert_memory_equal(ids, want, n * sizeof *ids);
}

static void check_example(const struct mal_model *opened, const int32_t *want, size_t n,
                          const char *target) {
    struct mal_error err = {0};
    struct mal_example e = {0};
    assert_ok(mal_example_init(&e, opened, tok, "a b", target, NULL, &err), &err);
    expect_ids(e.ids, (size_t)e.n, want, n);
    if (mal_model_info(opened)->kind == MAL_MODEL_CAUSAL) assert_int_equal(e.from, 2);
    mal_example_finish(&e);
    assert_ok(mal_example_open(&e, opened, tok, "a b ", &err), &err);
    expect_ids(e.ids, (size_t)e.n, want, n);
    mal_example_finish(&e);
}

/* What a template appends, as that of a checkpoint with add_eos_token, once stood between
 * prompt and target. */
static void test_around(void **state) {
    static const int32_t both[] = {1, 3, 4, 2};

    static const struct {
        enum random_family family;
        size_t n;
        const char *target;
    } cases[] = {{RANDOM_GPT2, 3, "c"},
                 {RANDOM_LLAMA, 3, "c"},
                 {RANDOM_T5, 4, "c"},
                 {RANDOM_BERT_LABELS, 4, "REFUTES"}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mal_model *opened = open_family(cases[i].family);
        check_example(opened, both, cases[i].n, cases[i].target);
        mal_model_close(opened);
    }
}

/* A target stands behind the prompt as Hugging Face has both in one text: also where the
 * prompt ends with a special token, behind which text begins anew. */
static void test_behind(void **state) {
    static const char as_is[] = "{\"normalizer\":null",
                      prepends[] = "{\"normalizer\":{\"type\":\"Prepend\","
                                   "\"prepend\":\"a \"}";
    static const int32_t behind_text[] = {1, 3, 4, 5},
                         behind_token[] = {1, 3, 4, 2, 3, 5};
    struct mal_error err = {0};
    struct mal_example e = {0};
    char text[sizeof tokenizer_json + sizeof prepends];
    snprintf(text, sizeof text, "%s%s", prepends, tokenizer_json + strlen(as_is));
    struct mal_tokenizer *own = open_file(scratch_text("prepends.json", text));
    struct mal_model *opened = open_family(RANDOM_GPT2);
    assert_ok(mal_example_init(&e, opened, own, "b", "c b", NULL, &err), &err);
    expect_ids(e.ids, (size_t)e.n, behind_text, 4);
    mal_example_finish(&e);
    assert_ok(mal_example_init(&e, opened, own, "b</s>", "c b", NULL, &err), &err);
    expect_ids(e.ids, (size_t)e.n, behind_token, 6);
    mal_example_finish(&e);
    mal_model_close(opened);
    mal_tokenizer_close(own);
}

static void test_answers(void **state) {
    static const int32_t begun[] = {1, 3, 4};
    struct mal_error err = {0};
    struct mal_model *opened = open_family(RANDOM_GPT2);
    struct mal_probe probe = {.prompt = (char *)"a b"};
    struct mal_fact fact = {.unrelated = &probe, .n_unrelated = 1};
    struct mal_answers answers = {0};
    assert_ok(mal_answers_make(opened, tok, &fact, 1, 1, NULL, NULL, &answers, &err),
              &err);
    expect_ids(answers.prompts[0].ids, answers.prompts[0].n, begun, 3);
    mal_answers_finish(&answers);
    mal_model_close(opened);
}

/* ---- A token behind the embeddings ---- */

static void expect_unknown(const struct mal_model *opened, const char *prompt,
                           const char *target, const char *pointer) {
    struct mal_error err = {0};
    struct mal_example e = {0};
    assert_false(mal_example_init(&e, opened, tok, prompt, target, NULL, &err));
    assert_int_equal(err.status, MAL_INVALID);
    assert_string_equal(err.pointer, pointer);
    assert_string_equal(
        err.text, "the token '[PAD]' has the id 23, the model knows those below 23");
}

static void test_unknown(void **state) {
    assert_int_equal(mal_tokenizer_size(tok), 24);
    assert_int_equal(mal_tokenizer_size_of_model(tok), 23);
    struct mal_model *opened = open_family(RANDOM_GPT2);
    expect_unknown(opened, "a [PAD]", "c", "/prompt");
    expect_unknown(opened, "a", "c [PAD]", "/target");
    mal_model_close(opened);
    opened = open_family(RANDOM_T5);
    expect_unknown(opened, "a [PAD]", "c", "/prompt");
    expect_unknown(opened, "a", "[PAD]", "/target");
    mal_model_close(opened);
    opened = open_family(RANDOM_BERT_LABELS);
    expect_unknown(opened, "[PAD]", "REFUTES", "/prompt");
    mal_model_close(opened);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_around),
        cmocka_unit_test(test_behind),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_unknown),
    };
    return cmocka_run_group_tests_name("example", tests, make, discard);
}
