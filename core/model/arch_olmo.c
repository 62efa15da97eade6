/* arch_olmo.c - OLMo 2 and 3: built like Llama, but norms stand behind attention and MLP
 * and not before them, and queries and keys are normed over all heads at once. OLMo 3 has
 * windows in some blocks, which stretched rotations leave alone. Follows transformers'
 * modeling_olmo2.py, modeling_olmo3.py. */
#include <math.h>

#include "core/model/llama.h"

/* Full attention, and that within a window. */
static const struct mal_rope_kind olmo3_ropes[] = {
    {"full_attention", "rope_theta", 500000, true},
    {"sliding_attention", "rope_theta", 500000, false}};

static bool configure_blocks(struct mal_model *model, struct mal_error *err) {
    model->decoder.norms = MAL_NORM_OUTPUT;
    return mal_config_act(model, "hidden_act", "silu", err) &&
           mal_llama_stack(model, 1.0F / sqrtf((float)model->head_size), err);
}

static bool olmo2_configure(struct mal_model *model, struct mal_error *err) {
    return mal_llama_sizes(model, 0, 1e-5, err) &&
           mal_config_rotary(model, "head_dim", model->head_size, false, err) &&
           configure_blocks(model, err);
}

static bool olmo3_configure(struct mal_model *model, struct mal_error *err) {
    struct mal_sliding sliding = {.period = 4};
    return mal_llama_sizes(model, 0, 1e-5, err) &&
           mal_config_rotary_kinds(model, olmo3_ropes, 2, err) &&
           configure_blocks(model, err) &&
           mal_config_size_or(model, "sliding_window", 4096, 0, &sliding.window, err) &&
           mal_llama_windows(model, &sliding, err);
}

static bool bind(struct mal_model *model, struct mal_error *err) {
    bool bias = false;
    return mal_config_bool_opt(model, "attention_bias", &bias, err) &&
           mal_llama_bind(model,
                          &(struct mal_llama_extras){.qkv_bias = bias,
                                                     .o_bias = bias,
                                                     .head_norms = true,
                                                     .heads_at_once = true},
                          err);
}

const struct mal_arch mal_arch_olmo2 = MAL_LLAMA_LIKE("olmo2", olmo2_configure, bind);
const struct mal_arch mal_arch_olmo3 = MAL_LLAMA_LIKE("olmo3", olmo3_configure, bind);
