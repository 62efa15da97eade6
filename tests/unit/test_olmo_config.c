/* test_olmo_config.c - config.json of OLMo 2 and 3, as in test_model_config.c. */
#include "config_cases.h"

#define OLMO3   "\"model_type\":\"olmo3\","
#define SLIDING "\"sliding_attention\""
#define FULL    "\"full_attention\""
#define YARN    "\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":8"

static const struct pair same[] = {
    {RANDOM_OLMO2, "{\"rms_norm_eps\":\"absent\"}", "{\"rms_norm_eps\":1e-5}"},
    {RANDOM_OLMO2, "{\"rope_theta\":\"absent\"}", "{\"rope_theta\":10000}"},
    {RANDOM_OLMO2, "{}",
     "{\"hidden_act\":\"silu\",\"attention_bias\":false,"
     "\"tie_word_embeddings\":false}"},
    /* without a window, and rotated in one way, they are the same */
    {RANDOM_OLMO2, "{}", "{" OLMO3 "\"sliding_window\":null}"},
    {RANDOM_OLMO2, "{" OLMO3 "\"sliding_window\":\"absent\"}",
     "{" OLMO3 "\"sliding_window\":4096}"},
    {RANDOM_OLMO2, "{" OLMO3 "\"rope_theta\":\"absent\"}",
     "{" OLMO3 "\"rope_theta\":500000}"},
    {RANDOM_OLMO2, "{" OLMO3 "\"sliding_window\":3}",
     "{" OLMO3 "\"sliding_window\":3,\"layer_types\":[" SLIDING "," SLIDING "," SLIDING
     "]}"},
    {RANDOM_OLMO2, "{" OLMO3 "\"sliding_window\":3,\"rope_scaling\":{" YARN "}}",
     "{" OLMO3 "\"sliding_window\":3}"},
    {RANDOM_OLMO2,
     "{" OLMO3 "\"sliding_window\":3,\"layer_types\":[" SLIDING "," FULL "," SLIDING
     "],\"rope_scaling\":{" YARN "}}",
     "{" OLMO3 "\"sliding_window\":3,\"layer_types\":[" SLIDING "," FULL "," SLIDING
     "],\"rope_theta\":\"absent\",\"rope_parameters\":{" FULL ":{\"rope_theta\":100," YARN
     "}," SLIDING ":{\"rope_type\":\"default\",\"rope_theta\":100}}}"},
};

static void test_same(void **state) {
    check_same(same, sizeof same / sizeof *same);
}

static const struct pair different[] = {
    {RANDOM_OLMO2, "{}", "{\"rms_norm_eps\":0.01}"},
    {RANDOM_OLMO2, "{}", "{\"rope_theta\":30}"},
    {RANDOM_OLMO2, "{}", "{\"rope_scaling\":{" YARN "}}"},
    {RANDOM_OLMO2, "{}", "{\"hidden_act\":\"gelu\"}"},
    {RANDOM_OLMO2, "{" OLMO3 "\"sliding_window\":null}",
     "{" OLMO3 "\"sliding_window\":3}"},
    {RANDOM_OLMO2, "{" OLMO3 "\"sliding_window\":3}",
     "{" OLMO3 "\"sliding_window\":3,\"layer_types\":[" SLIDING "," FULL "," SLIDING
     "]}"},
    {RANDOM_OLMO2,
     "{" OLMO3 "\"sliding_window\":3,\"layer_types\":[" SLIDING "," FULL "," SLIDING "]}",
     "{" OLMO3 "\"sliding_window\":3,\"layer_types\":[" SLIDING "," FULL "," SLIDING
     "],\"rope_scaling\":{" YARN "}}"},
};

static void test_different(void **state) {
    check_different(different, sizeof different / sizeof *different);
}

/* Every fourth block looks at all; heads are as many as of queries, of what channels
 * there are. */
static void test_sizes(void **state) {
    static const struct sized_pair cases[] = {
        {{"", RANDOM_OLMO2, 0, 4, 12, 3, 3, 4, 14, 23, 16},
         "{" OLMO3 "\"sliding_window\":3,\"layer_types\":[" SLIDING "," SLIDING
         "," SLIDING "," FULL "]}",
         "{" OLMO3 "\"sliding_window\":3,\"head_dim\":\"absent\","
         "\"num_key_value_heads\":null}"},
        {{"", RANDOM_OLMO2, 0, 1, 12, 3, 3, 4, 14, 23, 16},
         "{}",
         "{\"head_dim\":\"absent\",\"num_key_value_heads\":\"absent\"}"},
    };

    check_sizes(cases, sizeof cases / sizeof *cases);
}

static const struct wrong_config wrong[] = {
    {RANDOM_OLMO2, "{\"head_dim\":4}", {"self_attn.q_norm.weight", "(16)"}},
    {RANDOM_OLMO2, "{\"num_key_value_heads\":1}", {"self_attn.k_norm.weight", "(6)"}},
    {RANDOM_OLMO2, "{\"rope_scaling\":{\"rope_type\":\"ntk\"}}", {"rope_type", "ntk"}},
    {RANDOM_OLMO2,
     "{\"rope_parameters\":{" FULL ":{\"rope_theta\":5}}}",
     {"full_attention", "not supported"}},
    {RANDOM_OLMO2, "{" OLMO3 "\"sliding_window\":0}", {"sliding_window", "0"}},
    {RANDOM_OLMO2, "{" OLMO3 "\"layer_types\":[" FULL "]}", {"layer_types", "3"}},
    {RANDOM_OLMO2,
     "{" OLMO3 "\"rope_parameters\":{\"rope_theta\":5}}",
     {"rope_parameters", "rope_theta"}},
};

static void test_wrong(void **state) {
    check_wrong(wrong, sizeof wrong / sizeof *wrong);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same),
        cmocka_unit_test(test_different),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_wrong),
    };
    return cmocka_run_group_tests_name("olmo_config", tests, make_directory,
                                       remove_directory);
}
