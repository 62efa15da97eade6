/* test_gemma_config.c - config.json of Gemma 1, 2 and 3, as in test_model_config.c. */
#include "config_cases.h"

#define NEW "\"rope_scaling\":\"absent\",\"rope_theta\":\"absent\","

static const struct pair same[] = {
    {RANDOM_GEMMA, "{}", "{\"hidden_act\":\"gelu\",\"tie_word_embeddings\":true}"},
    {RANDOM_GEMMA, "{}", "{\"hidden_act\":\"gelu_pytorch_tanh\",\"rms_norm_eps\":1e-6}"},
    {RANDOM_GEMMA, "{}", "{\"use_bidirectional_attention\":false}"},
    {RANDOM_GEMMA, "{}", "{\"use_bidirectional_attention\":null}"},
    {RANDOM_GEMMA2, "{}", "{\"sliding_window_pattern\":3}"},
    {RANDOM_GEMMA2, "{\"attn_logit_softcapping\":\"absent\"}",
     "{\"attn_logit_softcapping\":50}"},
    {RANDOM_GEMMA2, "{\"final_logit_softcapping\":\"absent\"}",
     "{\"final_logit_softcapping\":30}"},
    {RANDOM_GEMMA2, "{\"query_pre_attn_scalar\":\"absent\"}",
     "{\"query_pre_attn_scalar\":256}"},
    {RANDOM_GEMMA2, "{\"sliding_window\":\"absent\"}", "{\"sliding_window\":4096}"},
    {RANDOM_GEMMA2, "{}",
     "{\"layer_types\":[\"sliding_attention\",\"full_attention\","
     "\"sliding_attention\"]}"},
    {RANDOM_GEMMA3, "{\"sliding_window_pattern\":\"absent\"}",
     "{\"sliding_window_pattern\":6}"},
    {RANDOM_GEMMA3, "{\"sliding_window_pattern\":\"absent\"}",
     "{\"layer_types\":[\"sliding_attention\",\"sliding_attention\","
     "\"sliding_attention\"]}"},
    {RANDOM_GEMMA3, "{\"rope_theta\":\"absent\",\"rope_local_base_freq\":\"absent\"}",
     "{\"rope_theta\":1000000,\"rope_local_base_freq\":10000}"},
    {RANDOM_GEMMA3, "{}",
     "{\"attn_logit_softcapping\":null,\"final_logit_softcapping\":null}"},
    {RANDOM_GEMMA3, "{}",
     "{" NEW "\"rope_local_base_freq\":\"absent\",\"rope_parameters\":{"
     "\"full_attention\":{\"rope_type\":\"linear\",\"factor\":4,\"rope_theta\":100},"
     "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":20}}}"},
    {RANDOM_GEMMA3, "{}",
     "{\"rope_theta\":\"absent\",\"rope_parameters\":{\"full_attention\":"
     "{\"rope_theta\":100,\"rope_type\":\"default\"},\"sliding_attention\":null}}"},
};

static void test_same(void **state) {
    check_same(same, sizeof same / sizeof *same);
}

static const struct pair different[] = {
    {RANDOM_GEMMA, "{}", "{\"rope_theta\":30}"},
    {RANDOM_GEMMA2, "{}", "{\"attn_logit_softcapping\":null}"},
    {RANDOM_GEMMA2, "{}", "{\"final_logit_softcapping\":null}"},
    {RANDOM_GEMMA2, "{}", "{\"query_pre_attn_scalar\":6}"},
    {RANDOM_GEMMA2, "{}", "{\"sliding_window\":4}"},
    {RANDOM_GEMMA2, "{}",
     "{\"layer_types\":[\"sliding_attention\",\"full_attention\","
     "\"full_attention\"]}"},
    {RANDOM_GEMMA2, "{}", "{\"hidden_activation\":\"silu\"}"},
    {RANDOM_GEMMA3, "{}", "{\"final_logit_softcapping\":2}"},
    {RANDOM_GEMMA3, "{}", "{\"rope_local_base_freq\":10}"},
    {RANDOM_GEMMA3, "{}", "{\"rope_theta\":10}"},
    {RANDOM_GEMMA3, "{}", "{\"rope_scaling\":null}"},
    {RANDOM_GEMMA3, "{}", "{\"sliding_window_pattern\":3}"},
    {RANDOM_GEMMA3, "{}", "{\"sliding_window\":5}"},
};

static void test_different(void **state) {
    check_different(different, sizeof different / sizeof *different);
}

static void test_sizes(void **state) {
    static const struct sized_pair cases[] = {
        {{"", RANDOM_GEMMA, 0, 1, 8, 32, 16, 256, 14, 23, 16},
         "{}",
         "{\"head_dim\":\"absent\",\"num_key_value_heads\":\"absent\"}"},
        {{"", RANDOM_GEMMA3, 0, 1, 8, 4, 4, 256, 14, 23, 16},
         "{}",
         "{\"head_dim\":\"absent\",\"num_key_value_heads\":\"absent\"}"},
    };

    check_sizes(cases, sizeof cases / sizeof *cases);
}

/* Embeddings are multiplied with the root of 10 as PyTorch rounds it to their type. */
static void test_scale_of_embeddings(void **state) {
    static const struct {
        const char *dir;
        enum mal_dtype dtype;
        float scale;
    } cases[] = {{"scale-f32", MAL_F32, 3.16227770F},
                 {"scale-f16", MAL_F16, 3.162109375F},
                 {"scale-bf16", MAL_BF16, 3.15625F}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mal_model *opened = random_model_open_as(&random_models[RANDOM_GEMMA],
                                                        cases[i].dir, cases[i].dtype);
        assert_int_equal(opened->info.n_channels, 10);
        assert_true(opened->tokens_scale == cases[i].scale);
        mal_model_close(opened);
    }
}

static const struct wrong_config wrong[] = {
    {RANDOM_GEMMA,
     "{\"use_bidirectional_attention\":true}",
     {"use_bidirectional_attention", "not supported"}},
    {RANDOM_GEMMA, "{\"hidden_act\":\"relu2\"}", {"hidden_act", "relu2"}},
    {RANDOM_GEMMA2,
     "{\"attn_logit_softcapping\":0}",
     {"attn_logit_softcapping 0", "not supported"}},
    {RANDOM_GEMMA2,
     "{\"final_logit_softcapping\":-1}",
     {"final_logit_softcapping -1", "not supported"}},
    {RANDOM_GEMMA2,
     "{\"query_pre_attn_scalar\":0}",
     {"query_pre_attn_scalar", "above 0"}},
    {RANDOM_GEMMA2, "{\"hidden_activation\":7}", {"hidden_activation", "integer"}},
    {RANDOM_GEMMA3,
     "{\"attn_logit_softcapping\":50}",
     {"attn_logit_softcapping", "not supported"}},
    {RANDOM_GEMMA3,
     "{\"use_bidirectional_attention\":true}",
     {"use_bidirectional_attention", "not supported"}},
    {RANDOM_GEMMA3, "{\"sliding_window_pattern\":0}", {"sliding_window_pattern", "0"}},
    {RANDOM_GEMMA3, "{\"rope_local_base_freq\":0}", {"rope_local_base_freq", "above 0"}},
    {RANDOM_GEMMA3,
     "{\"rope_scaling\":{\"rope_type\":\"ntk\",\"factor\":4}}",
     {"rope_type", "ntk"}},
    {RANDOM_GEMMA3,
     "{\"rope_parameters\":{\"rope_theta\":5,\"rope_type\":\"default\"}}",
     {"rope_parameters", "rope_theta"}},
    {RANDOM_GEMMA3,
     "{\"rope_parameters\":{\"chunked_attention\":{\"rope_theta\":5}}}",
     {"rope_parameters", "chunked_attention"}},
    {RANDOM_GEMMA3,
     "{\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"ntk\"}}}",
     {"rope_type", "ntk"}},
};

static void test_wrong(void **state) {
    check_wrong(wrong, sizeof wrong / sizeof *wrong);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same),  cmocka_unit_test(test_different),
        cmocka_unit_test(test_sizes), cmocka_unit_test(test_scale_of_embeddings),
        cmocka_unit_test(test_wrong),
    };
    return cmocka_run_group_tests_name("gemma_config", tests, make_directory,
                                       remove_directory);
}
