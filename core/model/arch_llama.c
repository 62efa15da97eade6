/* arch_llama.c - the Llama family: RMS norms, rotary positions, grouped keys and values,
 * a gated MLP. Llama 2 and 3, Mistral and Ministral (attention within a window), Qwen2
 * (biases of queries, keys and values, often a tied head), Qwen3 (norms of each head
 * of queries and keys instead), Phi-3 and 4 (fused projections, part of each head is
 * rotated) and SmolLM3 (blocks that do not rotate). Follows transformers'
 * modeling_llama.py, modeling_mistral.py, modeling_qwen2.py, modeling_qwen3.py,
 * modeling_phi3.py, modeling_smollm3.py. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "core/model/llama.h"

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
                        model->where, (long long)model->n_heads,
                        (long long)model->n_kv_heads);
    }
    if (!mal_config_size_opt(model, "head_dim", &model->head_size, err)) return false;
    return model->head_size > 0 ||
           mal_config_head_size(model, "hidden_size", "num_attention_heads", err);
}

bool mal_llama_sizes(struct mal_model *model, int64_t kv_heads, double eps,
                     struct mal_error *err) {
    if (!read_sizes(model, kv_heads, err)) return false;
    model->rms = true;
    return mal_config_eps(model, "rms_norm_eps", eps, err);
}

bool mal_llama_stack(struct mal_model *model, float scale, struct mal_error *err) {
    if (!mal_open_stack(model, &model->decoder, model->info.n_layers, scale, err))
        return false;
    model->decoder.causal = true;
    return true;
}

/* Sizes are read, positions are not. */
static bool configure_blocks(struct mal_model *model, struct mal_error *err) {
    return mal_config_act(model, "hidden_act", "silu", err) &&
           mal_llama_stack(model, 1.0F / sqrtf((float)model->head_size), err);
}

static bool configure(struct mal_model *model, int64_t kv_heads, struct mal_error *err) {
    return mal_llama_sizes(model, kv_heads, 1e-6, err) &&
           mal_config_rotary(model, "head_dim", model->head_size, false, err) &&
           configure_blocks(model, err);
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
                             model->where, n);
}

bool mal_llama_windows(struct mal_model *model, const struct mal_sliding *sliding,
                       struct mal_error *err) {
    const json_t *config = model->config;
    const json_t *types = json_object_get(config, "layer_types");
    int64_t n = model->decoder.n, period = sliding->period;
    bool *slides = mal_calloc((size_t)n, sizeof *slides);
    if (!slides) return mal_fail(err, MAL_NO_MEMORY, "%s", model->where);
    for (int64_t l = 0; l < n; l++)
        slides[l] = l >= sliding->first && (period == 0 || (l + 1) % period != 0) &&
                    (!sliding->unrotated || model->decoder.blocks[l].self.rope < 0);
    bool ok =
        !types || json_is_null(types) || read_layer_types(model, types, slides, err);
    for (int64_t l = 0; l < n; l++) {
        struct mal_attention *self = &model->decoder.blocks[l].self;
        self->window = slides[l] ? sliding->window : 0;
        if (self->rope >= 0) self->rope = slides[l] ? model->rotary.n_kinds - 1 : 0;
    }
    mal_free(slides);
    return ok;
}

/* With "layer_types" (Ministral's) not all of its blocks have the window. */
static bool mistral_configure(struct mal_model *model, struct mal_error *err) {
    int64_t window;
    return configure(model, 8, err) &&
           mal_config_size_or(model, "sliding_window", 4096, 0, &window, err) &&
           mal_llama_windows(model, &(struct mal_sliding){.window = window}, err);
}

static bool qwen_configure(struct mal_model *model, struct mal_error *err) {
    int64_t window, full = 28;
    bool used = false;
    return configure(model, 32, err) &&
           mal_config_bool_opt(model, "use_sliding_window", &used, err) &&
           mal_config_size_or(model, "sliding_window", 4096, 0, &window, err) &&
           mal_json_int_opt(model->config, "max_window_layers", 0, 1 << 24, &full,
                            model->where, err) &&
           mal_llama_windows(
               model, &(struct mal_sliding){.window = used ? window : 0, .first = full},
               err);
}

static bool qwen3_configure(struct mal_model *model, struct mal_error *err) {
    model->head_size = 128; /* where nothing is said of it */
    return qwen_configure(model, err);
}

static bool phi3_configure(struct mal_model *model, struct mal_error *err) {
    int64_t window;
    return mal_llama_sizes(model, 0, 1e-5, err) && mal_config_rotary_share(model, err) &&
           configure_blocks(model, err) &&
           mal_config_size_or(model, "sliding_window", 0, 0, &window, err) &&
           mal_llama_windows(model, &(struct mal_sliding){.window = window}, err);
}

/* "no_rope_layers" has a 0 for each block that does not rotate; without it that is every
 * one of "no_rope_layer_interval". */
static bool read_unrotated(struct mal_model *model, struct mal_error *err) {
    int64_t interval = 4, n = model->decoder.n;
    const json_t *list = json_object_get(model->config, "no_rope_layers");
    bool right = true, there = list && !json_is_null(list);
    if (!mal_config_size_opt(model, "no_rope_layer_interval", &interval, err))
        return false;
    for (int64_t l = 0; right && l < n; l++) {
        const json_t *value = json_array_get(list, (size_t)l);
        bool rotates = there ? json_integer_value(value) != 0 : (l + 1) % interval != 0;
        right = !there || json_is_integer(value);
        if (!rotates) model->decoder.blocks[l].self.rope = -1;
    }
    return right || mal_fail(err, MAL_INVALID,
                             "%s: no_rope_layers is not a list of 0 and 1 for each of "
                             "num_hidden_layers %lld",
                             model->where, (long long)n);
}

static bool smollm3_configure(struct mal_model *model, struct mal_error *err) {
    static const struct mal_rope_kind rope = {NULL, "rope_theta", 2000000, true};
    struct mal_sliding sliding = {.unrotated = true};
    bool used = false;
    if (!mal_llama_sizes(model, 4, 1e-6, err) ||
        !mal_config_rotary_kinds(model, &rope, 1, err) || !configure_blocks(model, err) ||
        !read_unrotated(model, err) ||
        !mal_config_bool_opt(model, "use_sliding_window", &used, err) ||
        !mal_config_size_or(model, "sliding_window", 0, 0, &sliding.window, err))
        return false;
    if (!used) sliding.first = model->decoder.n;
    return mal_llama_windows(model, &sliding, err);
}

/* ---- Binding ---- */

static bool bind_head_norms(struct mal_model *model, const char *where,
                            struct mal_attention *attention, struct mal_error *err) {
    char name[64];
    bool at_once = attention->heads_at_once;
    int64_t q = at_once ? mal_q_width(model) : model->head_size,
            k = at_once ? mal_kv_width(model) : model->head_size;
    snprintf(name, sizeof name, "%sself_attn.q_norm.weight", where);
    if (!mal_bind_gain(model, name, q, &attention->q_gain, err)) return false;
    snprintf(name, sizeof name, "%sself_attn.k_norm.weight", where);
    return mal_bind_gain(model, name, k, &attention->k_gain, err);
}

/* The second name is that of another norm where outputs are normed. */
static bool bind_norms(struct mal_model *model, const char *where,
                       struct mal_transformer_block *block, struct mal_error *err) {
    bool in = mal_norms_input(&model->decoder), out = mal_norms_output(&model->decoder);

    const struct {
        const char *name;
        struct mal_norm_weights *dst;
    } norms[] = {
        {"input_layernorm", in ? &block->self.norm : NULL},
        {"post_attention_layernorm", out ? &block->self.out_norm : &block->mlp.norm},
        {"pre_feedforward_layernorm", in && out ? &block->mlp.norm : NULL},
        {"post_feedforward_layernorm", out ? &block->mlp.out_norm : NULL}};

    char name[64];
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
        snprintf(name, sizeof name, "%s%s", where, norms[i].name);
        if (norms[i].dst && !mal_bind_norm(model, name, norms[i].dst, err)) return false;
    }
    return true;
}

static bool bind_block(struct mal_model *model, int64_t l,
                       const struct mal_llama_extras *has, struct mal_error *err) {
    struct mal_transformer_block *block = &model->decoder.blocks[l];
    int64_t c = model->info.n_channels, f = model->n_inner, q = mal_q_width(model),
            kv = mal_kv_width(model);
    char where[32];
    snprintf(where, sizeof where, "layers.%lld.", (long long)l);
    if (!bind_norms(model, where, block, err)) return false;
    block->self.heads_at_once = has->heads_at_once;
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

bool mal_llama_bind(struct mal_model *model, const struct mal_llama_extras *has,
                    struct mal_error *err) {
    int64_t c = model->info.n_channels, v = model->info.n_vocab;
    bool tied = has->tied;
    if (!mal_bind_matrix(model, "embed_tokens.weight", v, c, &model->tokens, err))
        return false;
    for (int64_t l = 0; l < model->decoder.n; l++) {
        if (!bind_block(model, l, has, err)) return false;
    }
    if (!mal_bind_norm(model, "norm", &model->decoder.final_norm, err)) return false;
    return mal_config_bool_opt(model, "tie_word_embeddings", &tied, err) &&
           mal_bind_head(model, "embed_tokens.weight", tied, err);
}

static bool bind_biased(struct mal_model *model, bool tied, struct mal_error *err) {
    bool attention = false, mlp = false;
    return mal_config_bool_opt(model, "attention_bias", &attention, err) &&
           mal_config_bool_opt(model, "mlp_bias", &mlp, err) &&
           mal_llama_bind(
               model, &(struct mal_llama_extras){attention, attention, mlp, .tied = tied},
               err);
}

static bool llama_bind(struct mal_model *model, struct mal_error *err) {
    return bind_biased(model, false, err);
}

static bool smollm3_bind(struct mal_model *model, struct mal_error *err) {
    return bind_biased(model, true, err);
}

static bool mistral_bind(struct mal_model *model, struct mal_error *err) {
    return mal_llama_bind(model, &(struct mal_llama_extras){0}, err);
}

static bool qwen2_bind(struct mal_model *model, struct mal_error *err) {
    return mal_llama_bind(model, &(struct mal_llama_extras){.qkv_bias = true}, err);
}

static bool qwen3_bind(struct mal_model *model, struct mal_error *err) {
    bool attention = false;
    return mal_config_bool_opt(model, "attention_bias", &attention, err) &&
           mal_llama_bind(
               model,
               &(struct mal_llama_extras){attention, attention, .head_norms = true}, err);
}

static bool phi3_bind(struct mal_model *model, struct mal_error *err) {
    return mal_llama_bind(model, &(struct mal_llama_extras){.fused = true}, err);
}

/* The first two where it is a part of another model: as on the hub, and as transformers
 * names its modules. */
const struct mal_prefix mal_llama_prefixes[] = {
    {"language_model.model.", "language_model."},
    {"model.language_model.", ""},
    {"model.", ""},
    {NULL, NULL}};

const struct mal_arch mal_arch_llama =
    MAL_LLAMA_LIKE("llama", llama_configure, llama_bind);
const struct mal_arch mal_arch_mistral =
    MAL_LLAMA_LIKE("mistral", mistral_configure, mistral_bind);
const struct mal_arch mal_arch_ministral =
    MAL_LLAMA_LIKE("ministral", mistral_configure, mistral_bind);
const struct mal_arch mal_arch_qwen2 =
    MAL_LLAMA_LIKE("qwen2", qwen_configure, qwen2_bind);
const struct mal_arch mal_arch_qwen3 =
    MAL_LLAMA_LIKE("qwen3", qwen3_configure, qwen3_bind);
const struct mal_arch mal_arch_smollm3 =
    MAL_LLAMA_LIKE("smollm3", smollm3_configure, smollm3_bind);
const struct mal_arch mal_arch_phi3 = MAL_LLAMA_LIKE("phi3", phi3_configure, phi3_bind);
