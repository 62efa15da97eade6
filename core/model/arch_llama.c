/* arch_llama.c - the Llama family: RMS norms, rotary positions, grouped keys and values,
 * a gated MLP. Llama 2 and 3, Mistral and Ministral (attention within a window), Qwen2
 * (biases of queries, keys and values, often a tied head), Qwen3 (norms of each head
 * of queries and keys instead) and Phi-3 and 4 (fused projections, part of each head is
 * rotated). Follows transformers' modeling_llama.py, modeling_mistral.py,
 * modeling_qwen2.py, modeling_qwen3.py, modeling_phi3.py. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "core/model/config.h"

/* Heads of keys are kv_heads where nothing is said of them, all where null is. */
static bool read_sizes(struct mal_model *model, int64_t kv_heads, struct mal_error *err) {
    if (!mal_config_sizes(model, err)) return false;
    if (!mal_config_size_or(model, "num_key_value_heads", kv_heads, model->n_heads,
                            &model->n_kv_heads, err)) {
        return false;
    }
    if (model->n_kv_heads == 0) model->n_kv_heads = model->n_heads;
    if (model->n_heads % model->n_kv_heads != 0) {
        return mal_fail(err, MAL_INVALID,
                        "%s: num_attention_heads %lld is not a multiple of "
                        "num_key_value_heads %lld",
                        mal_checkpoint_config_path(model->ckpt),
                        (long long)model->n_heads, (long long)model->n_kv_heads);
    }
    if (!mal_config_size_opt(model, "head_dim", &model->head_size, err)) return false;
    return model->head_size > 0 ||
           mal_config_head_size(model, "hidden_size", "num_attention_heads", err);
}

/* Sizes are read, positions are not. */
static bool configure_blocks(struct mal_model *model, double eps, struct mal_error *err) {
    model->rms = true;
    if (!mal_config_eps(model, "rms_norm_eps", eps, err)) return false;
    if (!mal_config_act(model, "hidden_act", "silu", err)) return false;
    if (!mal_open_stack(model, &model->decoder, model->info.n_layers,
                        1.0F / sqrtf((float)model->head_size), err))
        return false;
    model->decoder.causal = true;
    return true;
}

static bool configure(struct mal_model *model, int64_t kv_heads, struct mal_error *err) {
    return read_sizes(model, kv_heads, err) &&
           mal_config_rotary(model, "head_dim", model->head_size, false, err) &&
           configure_blocks(model, 1e-6, err);
}

static bool llama_configure(struct mal_model *model, struct mal_error *err) {
    return configure(model, 0, err);
}

/* "layer_types": which blocks have the window. */
static bool read_layer_types(const struct mal_model *model, const json_t *types,
                             bool *sliding, struct mal_error *err) {
    size_t n = (size_t)model->decoder.n;
    bool right = json_array_size(types) == n;
    for (size_t l = 0; right && l < n; l++) {
        const char *type = json_string_value(json_array_get(types, l));
        sliding[l] = type && strcmp(type, "sliding_attention") == 0;
        right = sliding[l] || (type && strcmp(type, "full_attention") == 0);
    }
    return right || mal_fail(err, MAL_INVALID,
                             "%s: layer_types is not a list of \"full_attention\" and "
                             "\"sliding_attention\" for each of num_hidden_layers %zu",
                             mal_checkpoint_config_path(model->ckpt), n);
}

/* Those "layer_types" says, or from block `full` on. */
static bool set_windows(struct mal_model *model, int64_t window, int64_t full,
                        struct mal_error *err) {
    const json_t *config = mal_checkpoint_config(model->ckpt);
    const json_t *types = json_object_get(config, "layer_types");
    int64_t n = model->decoder.n;
    bool *sliding = mal_calloc((size_t)n, sizeof *sliding);
    if (!sliding)
        return mal_fail(err, MAL_NO_MEMORY, "%s",
                        mal_checkpoint_config_path(model->ckpt));
    for (int64_t l = 0; l < n; l++)
        sliding[l] = l >= full;
    bool ok =
        !types || json_is_null(types) || read_layer_types(model, types, sliding, err);
    for (int64_t l = 0; l < n; l++)
        model->decoder.blocks[l].self.window = sliding[l] ? window : 0;
    mal_free(sliding);
    return ok;
}

/* With "layer_types" (Ministral's) not all of its blocks have the window. */
static bool mistral_configure(struct mal_model *model, struct mal_error *err) {
    int64_t window;
    return configure(model, 8, err) &&
           mal_config_size_or(model, "sliding_window", 4096, 0, &window, err) &&
           set_windows(model, window, 0, err);
}

static bool qwen_configure(struct mal_model *model, struct mal_error *err) {
    int64_t window, full = 28;
    bool used = false;
    return configure(model, 32, err) &&
           mal_config_bool_opt(model, "use_sliding_window", &used, err) &&
           mal_config_size_or(model, "sliding_window", 4096, 0, &window, err) &&
           mal_json_int_opt(mal_checkpoint_config(model->ckpt), "max_window_layers", 0,
                            1 << 24, &full, mal_checkpoint_config_path(model->ckpt),
                            err) &&
           set_windows(model, used ? window : 0, full, err);
}

static bool qwen3_configure(struct mal_model *model, struct mal_error *err) {
    model->head_size = 128; /* where nothing is said of it */
    return qwen_configure(model, err);
}

static bool phi3_configure(struct mal_model *model, struct mal_error *err) {
    int64_t window;
    return read_sizes(model, 0, err) && mal_config_rotary_share(model, err) &&
           configure_blocks(model, 1e-5, err) &&
           mal_config_size_or(model, "sliding_window", 0, 0, &window, err) &&
           set_windows(model, window, 0, err);
}

/* ---- Binding ---- */

/* What a block has beside norms and weights; `fused`: queries, keys and values are one
 * layer, gate and up another. */
struct extras {
    bool qkv_bias, o_bias, mlp_bias, head_norms, fused;
};

static bool bind_head_norms(struct mal_model *model, const char *where,
                            struct mal_attention *attention, struct mal_error *err) {
    char name[64];
    snprintf(name, sizeof name, "%sself_attn.q_norm.weight", where);
    if (!mal_bind_tensor(model, name, 1, &model->head_size, &attention->q_gain, err))
        return false;
    snprintf(name, sizeof name, "%sself_attn.k_norm.weight", where);
    return mal_bind_tensor(model, name, 1, &model->head_size, &attention->k_gain, err);
}

static bool bind_block(struct mal_model *model, int64_t l, const struct extras *has,
                       struct mal_error *err) {
    struct mal_transformer_block *block = &model->decoder.blocks[l];
    int64_t c = model->info.n_channels, f = model->n_inner, q = mal_q_width(model),
            kv = mal_kv_width(model);
    char where[32], name[64];
    snprintf(where, sizeof where, "layers.%lld.", (long long)l);
    snprintf(name, sizeof name, "%sinput_layernorm", where);
    if (!mal_bind_norm(model, name, &block->self.norm, err)) return false;
    snprintf(name, sizeof name, "%spost_attention_layernorm", where);
    if (!mal_bind_norm(model, name, &block->mlp.norm, err)) return false;
    if (has->head_norms && !bind_head_norms(model, where, &block->self, err))
        return false;
    const struct mal_linear_spec fused[] = {
        {"self_attn.qkv_proj", c, q + 2 * kv, true, false, &block->self.q},
        {"self_attn.o_proj", q, c, true, false, &block->self.o},
        {"mlp.gate_up_proj", c, 2 * f, true, false, &block->mlp.up},
        {"mlp.down_proj", f, c, true, false, &block->mlp.down}};
    const struct mal_linear_spec linears[] = {
        {"self_attn.q_proj", c, q, true, has->qkv_bias, &block->self.q},
        {"self_attn.k_proj", c, kv, true, has->qkv_bias, &block->self.k},
        {"self_attn.v_proj", c, kv, true, has->qkv_bias, &block->self.v},
        {"self_attn.o_proj", q, c, true, has->o_bias, &block->self.o},
        {"mlp.gate_proj", c, f, true, has->mlp_bias, &block->mlp.gate},
        {"mlp.up_proj", c, f, true, has->mlp_bias, &block->mlp.up},
        {"mlp.down_proj", f, c, true, has->mlp_bias, &block->mlp.down}};
    block->self.fused = block->mlp.fused = has->fused;
    return has->fused ? mal_bind_linears(model, where, fused,
                                         sizeof fused / sizeof *fused, l, err)
                      : mal_bind_linears(model, where, linears,
                                         sizeof linears / sizeof *linears, l, err);
}

static bool bind(struct mal_model *model, const struct extras *has,
                 struct mal_error *err) {
    int64_t c = model->info.n_channels, v = model->info.n_vocab;
    bool tied = false;
    if (!mal_bind_matrix(model, "embed_tokens.weight", v, c, &model->tokens, err))
        return false;
    for (int64_t l = 0; l < model->decoder.n; l++) {
        if (!bind_block(model, l, has, err)) return false;
    }
    if (!mal_bind_norm(model, "norm", &model->decoder.final_norm, err)) return false;
    return mal_config_bool_opt(model, "tie_word_embeddings", &tied, err) &&
           mal_bind_head(model, "embed_tokens.weight", tied, err);
}

static bool llama_bind(struct mal_model *model, struct mal_error *err) {
    bool attention = false, mlp = false;
    return mal_config_bool_opt(model, "attention_bias", &attention, err) &&
           mal_config_bool_opt(model, "mlp_bias", &mlp, err) &&
           bind(model, &(struct extras){attention, attention, mlp}, err);
}

static bool mistral_bind(struct mal_model *model, struct mal_error *err) {
    return bind(model, &(struct extras){0}, err);
}

static bool qwen2_bind(struct mal_model *model, struct mal_error *err) {
    return bind(model, &(struct extras){.qkv_bias = true}, err);
}

static bool qwen3_bind(struct mal_model *model, struct mal_error *err) {
    bool attention = false;
    return mal_config_bool_opt(model, "attention_bias", &attention, err) &&
           bind(model, &(struct extras){attention, attention, .head_norms = true}, err);
}

static bool phi3_bind(struct mal_model *model, struct mal_error *err) {
    return bind(model, &(struct extras){.fused = true}, err);
}

static const char *const prefixes[] = {"model.", NULL};

/* What they share. */
#define LLAMA_LIKE(type, own_configure, own_bind)                                  \
    {                                                                              \
        .model_type = type, .prefixes = prefixes,                                  \
        .edits = {.names = {"mlp.down_proj"}, .share = 6.0 / 28},                  \
        .configure = own_configure, .bind = own_bind, .derive = mal_derive_rotary, \
    }

const struct mal_arch mal_arch_llama = LLAMA_LIKE("llama", llama_configure, llama_bind);
const struct mal_arch mal_arch_mistral =
    LLAMA_LIKE("mistral", mistral_configure, mistral_bind);
const struct mal_arch mal_arch_ministral =
    LLAMA_LIKE("ministral", mistral_configure, mistral_bind);
const struct mal_arch mal_arch_qwen2 = LLAMA_LIKE("qwen2", qwen_configure, qwen2_bind);
const struct mal_arch mal_arch_qwen3 = LLAMA_LIKE("qwen3", qwen3_configure, qwen3_bind);
const struct mal_arch mal_arch_phi3 = LLAMA_LIKE("phi3", phi3_configure, phi3_bind);
