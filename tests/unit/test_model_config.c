/* test_model_config.c - config.json: two ways of saying the same give the same model, and
 * what is wrong is named. */
#include "config_cases.h"

/* ---- The same, said otherwise ---- */

#define LLAMA3                                                   \
    "\"factor\":4,\"low_freq_factor\":1,\"high_freq_factor\":4," \
    "\"original_max_position_embeddings\":64"
#define LONGROPE "\"type\":\"longrope\",\"short_factor\":[1.5]"
#define YARN     "\"type\":\"yarn\",\"factor\":4"
#define OLD      "\"rope_parameters\":\"absent\","
#define NEW      "\"rope_scaling\":\"absent\",\"rope_theta\":\"absent\","

static const struct pair same[] = {
    /* the two dialects */
    {RANDOM_MISTRAL, "{}", "{" OLD "\"rope_theta\":50,\"torch_dtype\":\"bfloat16\"}"},
    {RANDOM_MISTRAL, "{}", "{" OLD "\"rope_theta\":50,\"rope_scaling\":null}"},
    {RANDOM_LLAMA, "{}",
     "{" NEW "\"rope_parameters\":{\"rope_theta\":100,"
     "\"rope_type\":\"default\"},\"dtype\":\"float32\"}"},
    {RANDOM_LLAMA3, "{}",
     "{" NEW "\"rope_parameters\":{\"rope_type\":\"llama3\","
     "\"rope_theta\":100," LLAMA3 "}}"},
    {RANDOM_LLAMA3, "{}", "{\"rope_scaling\":{\"type\":\"llama3\"," LLAMA3 "}}"},
    {RANDOM_LLAMA3, "{}",
     "{\"rope_scaling\":{\"type\":\"linear\","
     "\"rope_type\":\"llama3\"," LLAMA3 "}}"},
    {RANDOM_LLAMA3, "{}",
     "{\"rope_theta\":1,\"rope_scaling\":{\"rope_theta\":100,"
     "\"rope_type\":\"llama3\"," LLAMA3 "}}"},
    {RANDOM_LLAMA3, "{}", "{\"rope_parameters\":{\"rope_theta\":3}}"},
    {RANDOM_LLAMA3, "{}",
     "{\"original_max_position_embeddings\":64,\"rope_scaling\":"
     "{\"rope_type\":\"llama3\",\"factor\":4,\"low_freq_factor\":1,"
     "\"high_freq_factor\":4}}"},
    {RANDOM_LLAMA3,
     "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":4,\"low_freq_factor\":1,"
     "\"high_freq_factor\":4}}",
     "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":4,\"low_freq_factor\":1,"
     "\"high_freq_factor\":4,\"original_max_position_embeddings\":16}}"},
    {RANDOM_LLAMA3, "{}",
     "{\"original_max_position_embeddings\":64,\"rope_scaling\":{\"rope_type\":"
     "\"llama3\",\"factor\":4,\"low_freq_factor\":1,\"high_freq_factor\":4,"
     "\"original_max_position_embeddings\":9}}"},
    {RANDOM_LLAMA, "{\"rope_theta\":\"absent\"}", "{\"rope_theta\":10000}"},
    {RANDOM_LLAMA, "{}", "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":1}}"},
    {RANDOM_LLAMA, "{}", "{\"partial_rotary_factor\":1.0,\"pretraining_tp\":1}"},
    {RANDOM_LLAMA, "{}", "{\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":8}}"},
    {RANDOM_LLAMA, "{}",
     "{" NEW "\"rope_parameters\":{\"rope_theta\":100,\"rope_type\":\"dynamic\","
     "\"factor\":8}}"},
    {RANDOM_GPTJ, "{}", "{\"activation_function\":\"gelu_python_tanh\"}"},
    {RANDOM_GPTJ, "{}", "{\"activation_function\":\"gelu_accurate\"}"},
    /* defaults */
    {RANDOM_LLAMA, "{}", "{\"rms_norm_eps\":1e-6,\"hidden_act\":\"silu\"}"},
    {RANDOM_LLAMA, "{}", "{\"hidden_act\":\"swish\",\"tie_word_embeddings\":false}"},
    {RANDOM_LLAMA3, "{\"attention_bias\":false}", "{\"mlp_bias\":false}"},
    {RANDOM_GPT2, "{}",
     "{\"layer_norm_epsilon\":1e-5,\"scale_attn_weights\":true,"
     "\"scale_attn_by_inverse_layer_idx\":false,"
     "\"activation_function\":\"gelu_new\","
     "\"tie_word_embeddings\":true,\"eos_token_id\":null}"},
    {RANDOM_GPTJ, "{}",
     "{\"layer_norm_epsilon\":1e-5,"
     "\"activation_function\":\"gelu_pytorch_tanh\"}"},
    {RANDOM_BERT, "{}",
     "{\"layer_norm_eps\":1e-12,\"hidden_act\":\"gelu\","
     "\"type_vocab_size\":2,\"position_embedding_type\":\"absolute\","
     "\"is_decoder\":false,\"head_dim\":\"absent\"}"},
    {RANDOM_T5_ORIGINAL, "{}",
     "{\"feed_forward_proj\":\"relu\",\"is_gated_act\":false,"
     "\"layer_norm_epsilon\":1e-6,"
     "\"tie_word_embeddings\":true}"},
    {RANDOM_T5_ORIGINAL, "{}",
     "{\"scale_decoder_outputs\":true,"
     "\"tie_word_embeddings\":false}"},
    {RANDOM_T5, "{}", "{\"feed_forward_proj\":\"gated-gelu_new\"}"},
    {RANDOM_T5, "{}", "{\"decoder_start_token_id\":0,\"pad_token_id\":0}"},
    {RANDOM_T5_ORIGINAL, "{}", "{\"pad_token_id\":5}"},
    /* windows */
    {RANDOM_MISTRAL, "{\"sliding_window\":null}", "{\"sliding_window\":\"absent\"}"},
    {RANDOM_MISTRAL, "{\"sliding_window\":null}", "{\"sliding_window\":16}"},
    {RANDOM_MISTRAL, "{}",
     "{\"layer_types\":[\"sliding_attention\","
     "\"sliding_attention\",\"sliding_attention\"]}"},
    {RANDOM_MISTRAL, "{}", "{\"model_type\":\"ministral\"}"},
    {RANDOM_MISTRAL,
     "{\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\"]}",
     "{\"model_type\":\"ministral\",\"layer_types\":[\"full_attention\","
     "\"sliding_attention\",\"full_attention\"]}"},
    {RANDOM_MISTRAL, "{\"sliding_window\":null}",
     "{\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\"]}"},
    {RANDOM_QWEN2, "{\"use_sliding_window\":false}", "{\"sliding_window\":null}"},
    {RANDOM_QWEN2, "{\"use_sliding_window\":\"absent\"}", "{\"max_window_layers\":3}"},
    {RANDOM_QWEN2, "{\"sliding_window\":\"absent\"}", "{\"sliding_window\":4096}"},
    {RANDOM_QWEN2, "{\"max_window_layers\":\"absent\"}", "{\"max_window_layers\":28}"},
    {RANDOM_QWEN2, "{}",
     "{\"max_window_layers\":0,\"layer_types\":[\"full_attention\","
     "\"sliding_attention\",\"sliding_attention\"]}"},
    {RANDOM_QWEN2, "{\"use_sliding_window\":false}",
     "{\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\"]}"},
    /* stretched contexts */
    {RANDOM_PHI3, "{}", "{\"rms_norm_eps\":1e-5,\"sliding_window\":null}"},
    {RANDOM_PHI3, "{}",
     "{\"rope_scaling\":{\"type\":\"su\",\"short_factor\":[1.5],\"factor\":4}}"},
    {RANDOM_PHI3, "{}",
     "{\"rope_scaling\":{\"type\":\"yarn\",\"short_factor\":[1.5],\"factor\":4}}"},
    {RANDOM_PHI3, "{}",
     "{\"rope_scaling\":{" LONGROPE
     ",\"factor\":4,\"attention_factor\":1.224744871391589}}"},
    {RANDOM_PHI3, "{}",
     "{" NEW "\"partial_rotary_factor\":\"absent\",\"rope_parameters\":{"
     "\"rope_type\":\"longrope\",\"short_factor\":[1.5],\"factor\":4,"
     "\"rope_theta\":100,\"partial_rotary_factor\":0.5}}"},
    {RANDOM_PHI3,
     "{\"rope_scaling\":{" LONGROPE ",\"factor\":4},"
     "\"original_max_position_embeddings\":14}",
     "{\"rope_scaling\":{" LONGROPE ","
     "\"original_max_position_embeddings\":14},\"max_position_embeddings\":56}"},
    {RANDOM_LLAMA, "{\"rope_scaling\":{" YARN "}}",
     "{\"rope_scaling\":{" YARN ",\"attention_factor\":1.138629436111989,"
     "\"beta_fast\":32,\"beta_slow\":null,\"truncate\":true,"
     "\"original_max_position_embeddings\":16}}"},
    {RANDOM_LLAMA, "{\"rope_scaling\":{" YARN "}}",
     "{\"rope_scaling\":{" YARN ",\"mscale\":1}}"},
    {RANDOM_SMOLLM3, "{}",
     "{\"no_rope_layers\":[1,0,1,0,0],\"no_rope_layer_interval\":3,"
     "\"tie_word_embeddings\":true,\"rms_norm_eps\":1e-6}"},
    {RANDOM_SMOLLM3, "{}", "{\"no_rope_layers\":null,\"no_rope_layer_interval\":2}"},
    {RANDOM_SMOLLM3, "{}",
     "{\"layer_types\":[\"full_attention\",\"sliding_attention\","
     "\"full_attention\"]}"},
    {RANDOM_SMOLLM3, "{\"no_rope_layers\":\"absent\"}",
     "{\"no_rope_layers\":[1,1,1],\"use_sliding_window\":false}"},
    {RANDOM_SMOLLM3, "{\"use_sliding_window\":\"absent\"}", "{\"sliding_window\":null}"},
    {RANDOM_SMOLLM3, "{\"rope_theta\":\"absent\"}", "{\"rope_theta\":2000000}"},
    {RANDOM_LLAMA,
     "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2},"
     "\"original_max_position_embeddings\":14}",
     "{\"rope_scaling\":{\"type\":\"yarn\"},\"original_max_position_embeddings\":14,"
     "\"max_position_embeddings\":28}"},
};

static void test_same(void **state) {
    check_same(same, sizeof same / sizeof *same);
}

/* Each of these has its effect. */
static const struct pair different[] = {
    {RANDOM_LLAMA, "{}", "{\"rope_theta\":30}"},
    {RANDOM_LLAMA, "{}", "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}"},
    {RANDOM_LLAMA, "{}", "{\"rms_norm_eps\":0.1}"},
    {RANDOM_LLAMA, "{}", "{\"hidden_act\":\"gelu\"}"},
    {RANDOM_LLAMA, "{}", "{\"attention_bias\":false}"},
    {RANDOM_LLAMA, "{}", "{\"mlp_bias\":false}"},
    {RANDOM_LLAMA3, "{}", "{\"rope_scaling\":null}"},
    {RANDOM_LLAMA3, "{}", "{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4}}"},
    {RANDOM_MISTRAL, "{}", "{\"sliding_window\":4}"},
    {RANDOM_MISTRAL, "{}", "{\"sliding_window\":null}"},
    {RANDOM_MISTRAL, "{}",
     "{\"layer_types\":[\"sliding_attention\","
     "\"full_attention\",\"sliding_attention\"]}"},
    {RANDOM_QWEN2, "{}", "{\"use_sliding_window\":false}"},
    {RANDOM_QWEN2, "{}", "{\"sliding_window\":5}"},
    {RANDOM_QWEN2, "{}", "{\"max_window_layers\":2}"},
    {RANDOM_QWEN3, "{}", "{\"rms_norm_eps\":0.1}"},
    {RANDOM_QWEN3, "{}",
     "{\"use_sliding_window\":true,\"sliding_window\":3,\"max_window_layers\":1}"},
    {RANDOM_PHI3, "{}",
     "{\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[3],\"factor\":4}}"},
    {RANDOM_PHI3, "{}",
     "{\"rope_scaling\":{" LONGROPE ",\"factor\":4,\"attention_factor\":1}}"},
    {RANDOM_PHI3, "{}", "{\"rope_scaling\":null}"},
    {RANDOM_PHI3, "{}", "{\"sliding_window\":3}"},
    {RANDOM_PHI3, "{}",
     "{\"partial_rotary_factor\":1,"
     "\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1.5,1],"
     "\"factor\":4}}"},
    {RANDOM_LLAMA, "{}", "{\"rope_scaling\":{" YARN "}}"},
    {RANDOM_LLAMA, "{}", "{\"rope_scaling\":{" YARN ",\"attention_factor\":1}}"},
    {RANDOM_LLAMA, "{\"rope_scaling\":{" YARN "}}",
     "{\"rope_scaling\":{" YARN ",\"mscale\":3,\"mscale_all_dim\":1}}"},
    {RANDOM_LLAMA, "{\"rope_scaling\":{" YARN ",\"beta_fast\":2,\"beta_slow\":0.1}}",
     "{\"rope_scaling\":{" YARN
     ",\"beta_fast\":2,\"beta_slow\":0.1,\"truncate\":false}}"},
    {RANDOM_LLAMA, "{\"rope_scaling\":{" YARN ",\"beta_fast\":2,\"beta_slow\":0.1}}",
     "{\"rope_scaling\":{" YARN ",\"beta_fast\":0.3,\"beta_slow\":0.1}}"},
    {RANDOM_SMOLLM3, "{}", "{\"no_rope_layers\":[0,1,1]}"},
    {RANDOM_SMOLLM3, "{\"sliding_window\":null}",
     "{\"sliding_window\":null,\"no_rope_layers\":[1,1,1]}"},
    {RANDOM_SMOLLM3, "{}", "{\"sliding_window\":null}"},
    {RANDOM_SMOLLM3, "{}",
     "{\"layer_types\":[\"sliding_attention\",\"full_attention\","
     "\"full_attention\"]}"},
    {RANDOM_SMOLLM3, "{}", "{\"rope_theta\":30}"},
    {RANDOM_GPT2, "{}", "{\"scale_attn_weights\":false}"},
    {RANDOM_GPT2, "{}", "{\"scale_attn_by_inverse_layer_idx\":true}"},
    {RANDOM_GPT2, "{}", "{\"layer_norm_epsilon\":0.1}"},
    {RANDOM_GPT2, "{}", "{\"activation_function\":\"relu\"}"},
    {RANDOM_GPTJ, "{}", "{\"rotary_dim\":6}"},
    {RANDOM_BERT, "{}", "{\"hidden_act\":\"relu\"}"},
    {RANDOM_BERT, "{}", "{\"layer_norm_eps\":0.1}"},
    {RANDOM_T5, "{}", "{\"scale_decoder_outputs\":true}"},
    {RANDOM_T5, "{}", "{\"feed_forward_proj\":\"gated-silu\"}"},
    {RANDOM_T5, "{}", "{\"relative_attention_max_distance\":30}"},
    {RANDOM_T5_ORIGINAL, "{}", "{\"tie_word_embeddings\":false}"},
    {RANDOM_T5_ORIGINAL, "{}", "{\"feed_forward_proj\":\"gelu\"}"},
};

static void test_different(void **state) {
    check_different(different, sizeof different / sizeof *different);
}

/* What follows from other members where it is not said. */
static void test_sizes(void **state) {
    static const struct sized_pair cases[] = {
        {{"", RANDOM_LLAMA, 0, 2, 12, 2, 2, 6, 14, 23, 16},
         "{\"head_dim\":null,\"num_key_value_heads\":null}",
         "{\"head_dim\":\"absent\",\"num_key_value_heads\":\"absent\"}"},
        {{"", RANDOM_MISTRAL, 0, 1, 32, 16, 8, 2, 14, 23, 16},
         "{}",
         "{\"head_dim\":null,\"num_key_value_heads\":\"absent\"}"},
        {{"", RANDOM_MISTRAL, 0, 1, 8, 2, 2, 4, 14, 23, 16},
         "{}",
         "{\"num_key_value_heads\":null}"},
        {{"", RANDOM_QWEN2, 0, 1, 128, 64, 32, 2, 14, 23, 16},
         "{}",
         "{\"num_key_value_heads\":\"absent\"}"},
        {{"", RANDOM_QWEN3, 0, 1, 16, 32, 32, 128, 14, 23, 16},
         "{}",
         "{\"head_dim\":\"absent\",\"num_key_value_heads\":\"absent\"}"},
        {{"", RANDOM_GPT2, 0, 2, 8, 2, 2, 4, 32, 23, 16}, "{}", "{\"n_inner\":null}"},
        {{"", RANDOM_GPTJ, 0, 1, 64, 1, 1, 64, 256, 23, 16},
         "{\"rotary_dim\":64}",
         "{\"n_inner\":\"absent\",\"rotary_dim\":\"absent\"}"},
        {{"", RANDOM_T5, 2, 2, 10, 3, 3, 4, 14, 23, 0},
         "{}",
         "{\"num_decoder_layers\":null}"},
    };

    check_sizes(cases, sizeof cases / sizeof *cases);
}

/* LongRoPE's short factors hold for the context before it was stretched. */
static void test_context(void **state) {
    static const char *const changes[] = {
        "{}", "{\"original_max_position_embeddings\":12}",
        "{\"original_max_position_embeddings\":12,\"rope_scaling\":null}"};
    static const int64_t want[] = {16, 12, 16};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct mal_model *one = open_made(&random_models[RANDOM_PHI3], changes[i]);
        assert_int_equal(one->info.n_context, want[i]);
        mal_model_close(one);
    }
}

/* ---- Wrong ---- */

#define SHORT_FACTOR(value) \
    "{\"rope_scaling\":{\"type\":\"longrope\",\"factor\":4,\"short_factor\":" value "}}"

static const struct wrong_config wrong[] = {
    {RANDOM_GPTJ, "{\"rotary_dim\":3}", {"rotary_dim", "3"}},
    {RANDOM_GPTJ, "{\"rotary_dim\":8}", {"rotary_dim", "8"}},
    {RANDOM_GPTJ, "{\"rotary_dim\":\"absent\"}", {"rotary_dim", "64"}},
    {RANDOM_GPTJ, "{\"rotary_dim\":-4}", {"rotary_dim", "-4"}},
    {RANDOM_GPTJ, "{\"n_head\":5}", {"n_head", "5"}},
    {RANDOM_GPTJ, "{\"activation_function\":\"mish\"}", {"activation_function", "mish"}},
    {RANDOM_LLAMA, "{\"num_key_value_heads\":3}", {"num_key_value_heads", "3"}},
    {RANDOM_LLAMA, "{\"num_key_value_heads\":0}", {"num_key_value_heads", "0"}},
    {RANDOM_LLAMA, "{\"num_key_value_heads\":\"2\"}", {"num_key_value_heads", "string"}},
    {RANDOM_LLAMA, "{\"head_dim\":5}", {"head_dim", "5"}},
    {RANDOM_LLAMA, "{\"head_dim\":null}", {"num_attention_heads", "hidden_size"}},
    {RANDOM_LLAMA, "{\"rms_norm_eps\":-1}", {"rms_norm_eps", "below 0"}},
    {RANDOM_LLAMA, "{\"rope_theta\":0}", {"rope_theta", "above 0"}},
    {RANDOM_LLAMA, "{\"rope_theta\":\"1e6\"}", {"rope_theta", "string"}},
    {RANDOM_LLAMA, "{\"rope_scaling\":\"linear\"}", {"rope_scaling", "string"}},
    {RANDOM_LLAMA, "{\"rope_parameters\":[1]}", {"rope_parameters", "array"}},
    {RANDOM_LLAMA,
     "{\"rope_scaling\":{\"type\":\"ntk\",\"factor\":2}}",
     {"rope_type", "ntk"}},
    {RANDOM_LLAMA,
     "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":-2}}",
     {"factor", "yarn"}},
    {RANDOM_LLAMA,
     "{\"rope_theta\":1,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}}",
     {"rope_theta", "yarn"}},
    {RANDOM_LLAMA,
     "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"truncate\":1}}",
     {"truncate", "integer"}},
    {RANDOM_PHI3, SHORT_FACTOR("[1,2]"), {"short_factor", "longrope"}},
    {RANDOM_PHI3, SHORT_FACTOR("[0]"), {"short_factor", "longrope"}},
    {RANDOM_PHI3, SHORT_FACTOR("[\"1\"]"), {"short_factor", "longrope"}},
    {RANDOM_PHI3, SHORT_FACTOR("null"), {"short_factor", "longrope"}},
    {RANDOM_PHI3,
     "{\"original_max_position_embeddings\":1}",
     {"original_max_position_embeddings", "longrope"}},
    {RANDOM_PHI3,
     "{\"partial_rotary_factor\":0.25}",
     {"partial_rotary_factor", "4 channels"}},
    {RANDOM_PHI3,
     "{\"partial_rotary_factor\":0}",
     {"partial_rotary_factor", "4 channels"}},
    {RANDOM_PHI3,
     "{\"partial_rotary_factor\":1.5}",
     {"partial_rotary_factor", "4 channels"}},
    {RANDOM_PHI3,
     "{\"partial_rotary_factor\":-1}",
     {"partial_rotary_factor", "4 channels"}},
    {RANDOM_PHI3, "{\"num_key_value_heads\":2}", {"num_key_value_heads", "2"}},
    {RANDOM_PHI3,
     "{\"head_dim\":8,\"rope_scaling\":null}",
     {"self_attn.qkv_proj", "(40, 12)"}},
    {RANDOM_LLAMA, "{\"rope_scaling\":{\"rope_type\":7}}", {"rope_type", "integer"}},
    {RANDOM_LLAMA, "{\"rope_scaling\":{\"type\":\"linear\"}}", {"factor", "linear"}},
    {RANDOM_LLAMA,
     "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}",
     {"factor", "linear"}},
    {RANDOM_LLAMA,
     "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}",
     {"low_freq_factor", "llama3"}},
    {RANDOM_LLAMA,
     "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
     "\"high_freq_factor\":4}}",
     {"high_freq_factor", "llama3"}},
    {RANDOM_LLAMA, "{\"partial_rotary_factor\":0.5}", {"partial_rotary_factor", "0.5"}},
    {RANDOM_LLAMA,
     "{\"rope_parameters\":{\"partial_rotary_factor\":0.5}}",
     {"partial_rotary_factor", "0.5"}},
    {RANDOM_QWEN2,
     "{\"rope_parameters\":{\"full_attention\":{\"rope_theta\":5}}}",
     {"full_attention", "not supported"}},
    {RANDOM_LLAMA, "{\"attention_bias\":1}", {"attention_bias", "integer"}},
    {RANDOM_LLAMA, "{\"hidden_act\":\"relu2\"}", {"hidden_act", "relu2"}},
    {RANDOM_LLAMA, "{\"max_position_embeddings\":0}", {"max_position_embeddings", "0"}},
    {RANDOM_LLAMA, "{\"hidden_size\":\"absent\"}", {"hidden_size", "missing"}},
    {RANDOM_LLAMA, "{\"tie_word_embeddings\":\"no\"}", {"tie_word_embeddings", "string"}},
    {RANDOM_SMOLLM3, "{\"no_rope_layers\":[1,1]}", {"no_rope_layers", "3"}},
    {RANDOM_SMOLLM3, "{\"no_rope_layers\":[1,1,\"no\"]}", {"no_rope_layers", "3"}},
    {RANDOM_SMOLLM3, "{\"no_rope_layers\":7}", {"no_rope_layers", "3"}},
    {RANDOM_SMOLLM3, "{\"no_rope_layer_interval\":0}", {"no_rope_layer_interval", "0"}},
    {RANDOM_QWEN3, "{\"head_dim\":4}", {"self_attn.q_norm.weight", "(4)"}},
    {RANDOM_MISTRAL, "{\"sliding_window\":0}", {"sliding_window", "0"}},
    {RANDOM_MISTRAL, "{\"sliding_window\":-1}", {"sliding_window", "-1"}},
    {RANDOM_MISTRAL, "{\"layer_types\":[\"full_attention\"]}", {"layer_types", "3"}},
    {RANDOM_QWEN2, "{\"max_window_layers\":-1}", {"max_window_layers", "-1"}},
    {RANDOM_QWEN2, "{\"use_sliding_window\":\"yes\"}", {"use_sliding_window", "string"}},
    {RANDOM_QWEN2, "{\"layer_types\":[\"full_attention\"]}", {"layer_types", "3"}},
    {RANDOM_QWEN2,
     "{\"layer_types\":[\"full_attention\",\"full_attention\",\"odd\"]}",
     {"layer_types", "3"}},
    {RANDOM_QWEN2, "{\"layer_types\":3}", {"layer_types", "3"}},
    {RANDOM_T5, "{\"feed_forward_proj\":\"gated-mish\"}", {"feed_forward_proj", "mish"}},
    {RANDOM_T5, "{\"feed_forward_proj\":\"odd-gelu\"}", {"feed_forward_proj", "odd"}},
    {RANDOM_T5, "{\"d_kv\":\"absent\"}", {"d_kv", "missing"}},
    {RANDOM_T5, "{\"num_decoder_layers\":0}", {"num_decoder_layers", "0"}},
    {RANDOM_T5, "{\"decoder_start_token_id\":23}", {"decoder_start_token_id", "23"}},
    {RANDOM_T5,
     "{\"relative_attention_num_buckets\":3}",
     {"relative_attention_num_buckets", "3"}},
    {RANDOM_T5,
     "{\"relative_attention_max_distance\":4}",
     {"relative_attention_max_distance", "4"}},
    {RANDOM_T5, "{\"scale_decoder_outputs\":1}", {"scale_decoder_outputs", "integer"}},
    {RANDOM_BERT,
     "{\"position_embedding_type\":\"relative_key\"}",
     {"position_embedding_type", "relative_key"}},
    {RANDOM_BERT, "{\"is_decoder\":true}", {"is_decoder", "not supported"}},
    {RANDOM_BERT, "{\"num_attention_heads\":5}", {"num_attention_heads", "5"}},
    {RANDOM_BERT, "{\"type_vocab_size\":0}", {"type_vocab_size", "0"}},
    {RANDOM_BERT, "{\"type_vocab_size\":3}", {"token_type_embeddings", "(3, 12)"}},
    {RANDOM_BERT_LABELS, "{\"id2label\":[\"SUPPORTS\"]}", {"id2label", "array"}},
    {RANDOM_BERT_LABELS, "{\"id2label\":{\"0\":7}}", {"'0'", "integer"}},
    {RANDOM_GPT2, "{\"add_cross_attention\":true}", {"add_cross_attention", "not"}},
    {RANDOM_GPT2, "{\"n_layer\":7777771}", {"7777771 blocks", "tensors"}},
    {RANDOM_T5, "{\"num_decoder_layers\":1234567}", {"1234567 blocks", "tensors"}},
    {RANDOM_GPT2, "{\"eos_token_id\":-1}", {"config.json", "eos_token_id"}},
    {RANDOM_GPT2, "{\"eos_token_id\":[1,-2]}", {"config.json", "eos_token_id"}},
    {RANDOM_GPT2, "{\"eos_token_id\":\"</s>\"}", {"config.json", "eos_token_id"}},
};

static void test_wrong(void **state) {
    check_wrong(wrong, sizeof wrong / sizeof *wrong);
}

static void test_three_labels(void **state) {
    const struct random_model *m = &random_models[RANDOM_BERT_LABELS];
    const char *const words[] = {"classifier.weight", "3 labels"};
    random_tensors_free(&tensors);
    random_tensors_of(&tensors, m);
    drop_named("classifier.weight");
    drop_named("classifier.bias");
    random_tensor(&tensors, "classifier.weight", 3, m->channels, 0, 1);
    random_tensor(&tensors, "classifier.bias", 0, 3, 0, 1);
    expect_refused(save_variant(m, "{}"), words, 2);
}

/* ---- The classes by their names ---- */

/* A fact checker whose outputs stand, or are named, the other way about. */
static struct mal_model *open_classes(bool exchanged, int64_t labels,
                                      const char *config) {
    const struct random_model *m = &random_models[RANDOM_BERT_LABELS];
    random_tensors_free(&tensors);
    random_tensors_of(&tensors, m);
    for (int64_t i = 0; i < 2; i++) {
        const char *name = i ? "classifier.bias" : "classifier.weight";
        float *x = (float *)(uintptr_t)entry(name)->data;
        int64_t n = i ? 1 : m->channels;
        for (int64_t j = 0; exchanged && j < n; j++) {
            float kept = x[j];
            x[j] = x[n + j];
            x[n + j] = kept;
        }
        entry(name)->shape[0] = labels;
    }
    return open_dir(save_variant(m, config));
}

/* Labels were once taken by position: a model whose first output is SUPPORTS gave the
 * probability of the wrong class. */
static void test_named_classes(void **state) {
    static const struct {
        bool turned;
        const char *config;
    } cases[] = {
        {false, "{}"},
        {false, "{\"id2label\":null,\"label2id\":null}"},
        {false, "{\"id2label\":{\"0\":\"LABEL_0\",\"1\":\"LABEL_1\"}}"},
        {false, "{\"id2label\":{\"0\":\"REFUTES\",\"1\":\"SUPPORTS\"}}"},
        {false, "{\"id2label\":{\"0\":\"SUPPORTS\",\"1\":\"SUPPORTS\"}}"},
        {false, "{\"id2label\":{\"0\":\"SUPPORTS\",\"1\":\"REFUTES\",\"2\":\"x\"}}"},
        {true, "{\"id2label\":{\"0\":\"SUPPORTS\",\"1\":\"REFUTES\"}}"},
        {true, "{\"id2label\":{\"1\":\"refutes\",\"0\":\"Supports\"}}"},
        {true, "{\"id2label\":{\"0\":\"SUPPORTS\",\"1\":\"false\"}}"},
        {true, "{\"label2id\":{\"REFUTES\":1,\"SUPPORTS\":0}}"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mal_model *one = open_classes(cases[i].turned, 2, "{}"),
                         *other = open_classes(false, 2, cases[i].config);
        double off = distance(one, other);
        if (off > 0) fail_msg("%s: off by %g", cases[i].config, off);
        mal_model_close(one);
        mal_model_close(other);
    }
}

/* One output is that of SUPPORTS; named REFUTES, it stands for that class. */
static void test_named_class(void **state) {
    static const struct {
        size_t class;
        const char *config;
    } cases[] = {
        {1, "{}"},
        {1, "{\"id2label\":{\"0\":\"LABEL_0\"}}"},
        {1, "{\"id2label\":{\"0\":\"SUPPORTS\"}}"},
        {1, "{\"id2label\":{\"0\":\"SUPPORTS\",\"1\":\"REFUTES\"}}"},
        {0, "{\"id2label\":{\"0\":\"REFUTES\"}}"},
    };

    float first = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mal_model *opened = open_classes(false, 1, cases[i].config);
        size_t n;
        float *logits = logits_of(opened, &n);
        if (i == 0) first = logits[1];
        assert_true(fabsf(first) > 0);
        assert_true(logits[cases[i].class] >= first && logits[cases[i].class] <= first);
        assert_true(fabsf(logits[1 - cases[i].class]) <= 0);
        mal_free(logits);
        mal_model_close(opened);
    }
}

/* ---- Tokens that end a text ---- */

static void check_ends(const char *changes, const char *generation, int32_t first,
                       uint32_t ends) {
    const struct random_model *m = &random_models[RANDOM_LLAMA3];
    char path[128];
    random_tensors_free(&tensors);
    random_tensors_of(&tensors, m);
    const char *dir = save_variant(m, changes);
    snprintf(path, sizeof path, "%s/generation_config.json", dir);
    if (generation) scratch_text(path, generation);
    struct mal_model *opened = open_dir(dir);
    assert_int_equal(mal_model_info(opened)->eos, first);
    for (int32_t id = 0; id < 23; id++)
        assert_int_equal(mal_model_ends(opened, id), ends >> id & 1);
    mal_model_close(opened);
}

static void test_ends(void **state) {
    check_ends("{}", NULL, -1, 0);
    check_ends("{\"eos_token_id\":null}", "{\"eos_token_id\":null}", -1, 0);
    check_ends("{\"eos_token_id\":3}", NULL, 3, 1 << 3);
    check_ends("{\"eos_token_id\":[5,3,0]}", NULL, 5, 1 << 5 | 1 << 3 | 1);
    check_ends("{\"eos_token_id\":[]}", NULL, -1, 0);
    check_ends("{\"eos_token_id\":3}", "{\"eos_token_id\":[7,8]}", 3, 1 << 7 | 1 << 8);
    check_ends("{\"eos_token_id\":3}", "{\"do_sample\":true}", 3, 1 << 3);
    check_ends("{}", "{\"eos_token_id\":[9,2]}", 9, 1 << 9 | 1 << 2);
    /* ids the model does not have were once errors */
    check_ends("{\"eos_token_id\":50256}", NULL, -1, 0);
    check_ends("{\"eos_token_id\":50256}", "{\"eos_token_id\":23}", -1, 0);
    check_ends("{\"eos_token_id\":[50256,4]}", NULL, 4, 1 << 4);
    check_ends("{\"eos_token_id\":50256}", "{\"eos_token_id\":[99,6]}", 6, 1 << 6);
}

static void test_bad_generation_config(void **state) {
    static const char *const texts[] = {"{\"eos_token_id\":[1,-9]}", "{\"eos", "[]"};
    const struct random_model *m = &random_models[RANDOM_LLAMA3];
    const char *const words[] = {"generation_config.json"};
    char path[128];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        random_tensors_free(&tensors);
        random_tensors_of(&tensors, m);
        const char *dir = save_variant(m, "{}");
        snprintf(path, sizeof path, "%s/generation_config.json", dir);
        scratch_text(path, texts[i]);
        expect_refused(dir, words, 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same),
        cmocka_unit_test(test_different),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_context),
        cmocka_unit_test(test_wrong),
        cmocka_unit_test(test_three_labels),
        cmocka_unit_test(test_named_classes),
        cmocka_unit_test(test_named_class),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_bad_generation_config),
    };
    return cmocka_run_group_tests_name("model_config", tests, make_directory,
                                       remove_directory);
}
