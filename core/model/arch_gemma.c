/* arch_gemma.c - Gemma 1, 2 and 3 (its text model): built like Llama, with gains of norms
 * stored as differences from 1, scaled embeddings and a head that is the embeddings.
 * Gemma 2 and 3 norm what attention and MLP give, too, and have windows in some blocks;
 * Gemma 2 caps scores and logits, Gemma 3 norms heads and rotates blocks with a window in
 * another way. Follows transformers' modeling_gemma.py, modeling_gemma2.py,
 * modeling_gemma3.py. */
#include <math.h>
#include <string.h>

#include "core/json.h"
#include "core/model/llama.h"

/* Full attention, and that within a window. */
static const struct mal_rope_kind gemma3_ropes[] = {
    {"full_attention", "rope_theta", 1000000, true},
    {"sliding_attention", "rope_local_base_freq", 10000, false}};

static bool configure(struct mal_model *model, int64_t kv_heads, struct mal_error *err) {
    model->head_size = 256; /* where nothing is said of it */
    model->gain_base = 1;
    return mal_config_refuse(model, "use_bidirectional_attention", err) &&
           mal_llama_sizes(model, kv_heads, 1e-6, err);
}

static bool configure_rotary(struct mal_model *model, struct mal_error *err) {
    return mal_config_rotary(model, "head_dim", model->head_size, false, err);
}

/* The first files say "gelu" of what always was its approximation. */
static bool gemma_configure(struct mal_model *model, struct mal_error *err) {
    if (!configure(model, 16, err) || !configure_rotary(model, err) ||
        !mal_config_act(model, "hidden_act", "gelu_pytorch_tanh", err))
        return false;
    if (model->act == MAL_GELU_ERF) model->act = MAL_GELU_TANH;
    return mal_llama_stack(model, 1 / sqrtf((float)model->head_size), err);
}

/* *out is 0 where there is none: where null is, or `absent` says so. */
static bool read_cap(const struct mal_model *model, const char *key, double absent,
                     float *out, struct mal_error *err) {
    const json_t *value = json_object_get(model->config, key);
    double cap = value ? 0 : absent;
    if (!mal_config_real_opt(model, key, &cap, err)) return false;
    *out = (float)cap;
    return !json_is_number(value) || (*out > 0 && isfinite(*out)) ||
           mal_fail(err, MAL_INVALID, "%s: %s %g is not supported", model->where, key,
                    cap);
}

/* What Gemma 2 and 3 have in common. */
static bool configure_both(struct mal_model *model, int64_t period,
                           struct mal_error *err) {
    double scalar = 256;
    struct mal_sliding sliding = {.period = period};
    if (!mal_config_act(model, "hidden_activation", "gelu_pytorch_tanh", err) ||
        !mal_config_real_opt(model, "query_pre_attn_scalar", &scalar, err) ||
        !mal_config_size_or(model, "sliding_window", 4096, 0, &sliding.window, err))
        return false;
    if (!(scalar > 0))
        return mal_fail(err, MAL_INVALID, "%s: query_pre_attn_scalar is not above 0",
                        model->where);
    model->decoder.norms = MAL_NORM_BOTH;
    return mal_llama_stack(model, (float)(1 / sqrt(scalar)), err) &&
           mal_llama_windows(model, &sliding, err);
}

static bool gemma2_configure(struct mal_model *model, struct mal_error *err) {
    return configure(model, 4, err) && configure_rotary(model, err) &&
           read_cap(model, "attn_logit_softcapping", 50, &model->score_cap, err) &&
           read_cap(model, "final_logit_softcapping", 30, &model->logit_cap, err) &&
           configure_both(model, 2, err);
}

/* Where nothing is said of them, as of most in files of the models that see images. */
static void set_gemma3_sizes(struct mal_model *model) {
    model->info.n_layers = 26;
    model->info.n_channels = 2304;
    model->n_inner = 9216;
    model->n_heads = 8;
    model->info.n_vocab = 262208;
    model->info.n_context = 131072;
}

/* transformers reads no cap of scores here, others do. */
static bool gemma3_configure(struct mal_model *model, struct mal_error *err) {
    int64_t period = 6;
    float cap;
    set_gemma3_sizes(model);
    if (!configure(model, 4, err) ||
        !mal_config_rotary_kinds(model, gemma3_ropes, 2, err) ||
        !read_cap(model, "attn_logit_softcapping", 0, &cap, err) ||
        !read_cap(model, "final_logit_softcapping", 0, &model->logit_cap, err) ||
        !mal_config_size_opt(model, "sliding_window_pattern", &period, err))
        return false;
    if (cap > 0)
        return mal_fail(err, MAL_INVALID, "%s: attn_logit_softcapping is not supported",
                        model->where);
    return configure_both(model, period, err);
}

/* ---- Binding ---- */

/* As a number of that type. */
static float rounded(float x, enum mal_dtype dtype) {
    double room;
    mal_from_f32(&room, &x, dtype, 1);
    mal_to_f32(&x, &room, dtype, 1);
    return x;
}

static bool bind(struct mal_model *model, bool head_norms, struct mal_error *err) {
    bool bias = false;
    if (!mal_config_bool_opt(model, "attention_bias", &bias, err) ||
        !mal_llama_bind(
            model,
            &(struct mal_llama_extras){
                .qkv_bias = bias, .o_bias = bias, .head_norms = head_norms, .tied = true},
            err))
        return false;
    float scale = sqrtf((float)model->info.n_channels);
    model->tokens_scale = rounded(scale, model->tokens.dtype);
    return true;
}

static bool gemma_bind(struct mal_model *model, struct mal_error *err) {
    return bind(model, false, err);
}

static bool gemma3_bind(struct mal_model *model, struct mal_error *err) {
    return bind(model, true, err);
}

const struct mal_arch mal_arch_gemma =
    MAL_LLAMA_LIKE("gemma", gemma_configure, gemma_bind);
const struct mal_arch mal_arch_gemma2 =
    MAL_LLAMA_LIKE("gemma2", gemma2_configure, gemma_bind);
const struct mal_arch mal_arch_gemma3 =
    MAL_LLAMA_LIKE("gemma3_text", gemma3_configure, gemma3_bind);
