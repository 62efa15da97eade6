/* test_text_config.c - text models that are a part of another model: "text_config", and
 * the names their tensors have there. */
#include "config_cases.h"

static const struct {
    const char *backbone, *head;
} prefixes[] = {{"language_model.model.", "language_model."},
                {"model.language_model.", ""}};

enum { N_PREFIXES = sizeof prefixes / sizeof *prefixes };

/* Its tensors under other names, beside such as are not the text model's. */
static void make_tensors(enum random_family family, size_t p) {
    char name[2 * RANDOM_NAME];
    random_tensors_free(&tensors);
    random_tensors_of(&tensors, &random_models[family]);
    for (size_t i = 0; i < tensors.n; i++) {
        const char *own = tensors.names[i], *rest = own;
        bool backbone = strncmp(own, "model.", 6) == 0;
        if (backbone) rest += 6;
        snprintf(name, sizeof name, "%s%s",
                 backbone ? prefixes[p].backbone : prefixes[p].head, rest);
        snprintf(tensors.names[i], RANDOM_NAME, "%.*s", RANDOM_NAME - 1, name);
    }
    random_tensor(&tensors, "model.vision_tower.layers.0.mlp.fc1.weight", 3, 5, 0, 1);
    random_tensor(&tensors, "vision_tower.layers.0.mlp.fc1.weight", 3, 5, 0, 1);
}

/* config.json of a model of `type` that the text model is a part of, with these members
 * of it and of the text model changed. */
static const char *save_within(enum random_family family, const char *type,
                               const char *outer, const char *text) {
    static char dir[64];
    static int n;
    json_error_t error;
    char *config = changed_config(&random_models[family], text);
    json_t *out = json_loads(outer, 0, &error), *inner = json_loads(config, 0, &error);
    if (!out || !inner) fail_msg("%s: %s", outer, error.text);
    json_object_set_new(out, "model_type", json_string(type));
    if (json_object_get(out, "text_config"))
        json_decref(inner);
    else
        json_object_set_new(out, "text_config", inner);
    char *dumped = json_dumps(out, 0);
    snprintf(dir, sizeof dir, "within-%d", n++);
    random_save(&tensors, dir, dumped);
    json_decref(out);
    free(dumped);
    free(config);
    return dir;
}

static const struct {
    enum random_family family;
    const char *type, *outer;
} kinds[] = {{RANDOM_GEMMA3, "gemma3", "{}"},
             {RANDOM_MISTRAL, "mistral3", "{\"tie_word_embeddings\":false}"}};

enum { N_KINDS = sizeof kinds / sizeof *kinds };

static struct mal_model *open_plain(enum random_family family) {
    random_tensors_free(&tensors);
    random_tensors_of(&tensors, &random_models[family]);
    return open_dir(save_variant(&random_models[family], "{}"));
}

/* Whatever tensors are called, and layers go by either name. */
static void test_names(void **state) {
    for (size_t i = 0; i < N_KINDS * N_PREFIXES; i++) {
        size_t k = i / N_PREFIXES, p = i % N_PREFIXES;
        struct mal_model *plain = open_plain(kinds[k].family);
        make_tensors(kinds[k].family, p);
        const char *dir =
            save_within(kinds[k].family, kinds[k].type, kinds[k].outer, "{}");
        expect_same(dir, plain, 0);
        struct mal_model *got = open_dir(dir);
        assert_string_equal(got->info.architecture, plain->info.architecture);
        assert_int_equal(got->info.n_parameters, plain->info.n_parameters);
        assert_int_equal(got->n_linears, plain->n_linears);
        for (size_t l = 0; l < plain->n_linears; l++) {
            const char *name = got->linears[l]->name, *other = plain->linears[l]->name;
            size_t n = strlen(prefixes[p].backbone);
            assert_int_equal(strncmp(name, prefixes[p].backbone, n), 0);
            assert_string_equal(name + n, other + 6);
            assert_ptr_equal(mal_model_find_linear(got, name), got->linears[l]);
            assert_ptr_equal(mal_model_find_linear(got, other), got->linears[l]);
            assert_ptr_equal(mal_model_find_linear(plain, name), plain->linears[l]);
        }
        mal_model_close(got);
        mal_model_close(plain);
    }
}

/* What is said of the whole model holds, not what is said of the text model. */
static void test_whole(void **state) {
    struct mal_model *tied = open_plain(RANDOM_GEMMA3);
    make_tensors(RANDOM_GEMMA3, 0);
    const char *const text[] = {"{\"tie_word_embeddings\":false,\"eos_token_id\":2}",
                                "{\"model_type\":\"absent\",\"eos_token_id\":4}"};
    const char *const outer[] = {"{\"eos_token_id\":[3,1]}", "{\"eos_token_id\":null}"};
    const int32_t ends[] = {3, 4};
    for (size_t i = 0; i < 2; i++) {
        const char *dir = save_within(RANDOM_GEMMA3, "gemma3", outer[i], text[i]);
        expect_same(dir, tied, 0);
        struct mal_model *got = open_dir(dir);
        assert_int_equal(got->info.eos, ends[i]);
        assert_true(mal_model_ends(got, ends[i]));
        assert_int_equal(mal_model_ends(got, 1), i == 0);
        assert_false(mal_model_ends(got, 2));
        mal_model_close(got);
    }
    mal_model_close(tied);
}

/* A head that is not tied is missed where it must be: beside its backbone. */
static void test_head(void **state) {
    const char *const words[] = {"'language_model.lm_head.weight'", "missing"};
    make_tensors(RANDOM_MISTRAL, 0);
    rename_entry("language_model.lm_head.weight", "lm_head.weight");
    expect_refused(
        save_within(RANDOM_MISTRAL, "mistral3", "{\"tie_word_embeddings\":false}", "{}"),
        words, 2);
}

/* What Gemma 3's files leave out, as transformers' Gemma3TextConfig has it. */
static void test_sizes_left_out(void **state) {
    static const struct {
        const char *key, *says;
    } sizes[] = {{"hidden_size", "2304"},
                 {"intermediate_size", "9216"},
                 {"num_hidden_layers", "26 blocks"},
                 {"vocab_size", "262208"}};

    char changes[64];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const char *const words[] = {sizes[i].says};
        make_tensors(RANDOM_GEMMA3, 0);
        while (i == 2 && tensors.n > 20)
            drop_entry(tensors.n - 1);
        snprintf(changes, sizeof changes, "{\"%s\":\"absent\"}", sizes[i].key);
        expect_refused(save_within(RANDOM_GEMMA3, "gemma3", "{}", changes), words, 1);
    }
    make_tensors(RANDOM_GEMMA3, 0);
    struct mal_model *got = open_dir(save_within(
        RANDOM_GEMMA3, "gemma3", "{}", "{\"max_position_embeddings\":\"absent\"}"));
    assert_int_equal(got->info.n_context, 131072);
    mal_model_close(got);
}

static const struct {
    enum random_family family;
    const char *type, *outer, *text, *words[2];
} wrong[] = {
    {RANDOM_GEMMA3,
     "gemma3",
     "{}",
     "{\"head_dim\":true}",
     {"config.json: text_config", "'head_dim' must be"}},
    {RANDOM_MISTRAL,
     "mistral3",
     "{}",
     "{\"hidden_size\":\"absent\"}",
     {"config.json: text_config", "'hidden_size' is missing"}},
    {RANDOM_MISTRAL,
     "mistral3",
     "{\"tie_word_embeddings\":1}",
     "{}",
     {"config.json: text_config", "tie_word_embeddings"}},
    {RANDOM_MISTRAL,
     "mistral3",
     "{\"eos_token_id\":-1}",
     "{}",
     {"config.json: text_config", "eos_token_id"}},
    {RANDOM_GEMMA3,
     "gemma3",
     "{}",
     "{\"use_bidirectional_attention\":true}",
     {"config.json: text_config: use_bidirectional_attention", "not supported"}},
    {RANDOM_GEMMA3,
     "gemma3",
     "{}",
     "{\"model_type\":\"gemma2\"}",
     {"text_config: model_type \"gemma2\"", "\"gemma3\""}},
    {RANDOM_GEMMA3,
     "mistral3",
     "{}",
     "{}",
     {"text_config: model_type \"gemma3_text\"", "\"mistral3\""}},
    {RANDOM_GEMMA3,
     "gemma3",
     "{\"text_config\":null}",
     "{}",
     {"config.json: 'text_config'", "missing"}},
    {RANDOM_GEMMA3,
     "gemma3",
     "{\"text_config\":7}",
     "{}",
     {"config.json: text_config is", "not an object"}},
    {RANDOM_GEMMA3, "llava", "{}", "{}", {"model_type \"llava\"", "not supported"}},
};

static void test_wrong(void **state) {
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *const words[] = {wrong[i].words[0], wrong[i].words[1]};
        make_tensors(wrong[i].family, 0);
        expect_refused(
            save_within(wrong[i].family, wrong[i].type, wrong[i].outer, wrong[i].text),
            words, 2);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names), cmocka_unit_test(test_whole),
        cmocka_unit_test(test_head),  cmocka_unit_test(test_sizes_left_out),
        cmocka_unit_test(test_wrong),
    };
    return cmocka_run_group_tests_name("text_config", tests, make_directory,
                                       remove_directory);
}
