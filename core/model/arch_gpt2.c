/* arch_gpt2.c - GPT-2: learned positions, pre-norm blocks, one fused query-key-value
 * projection, Conv1D weights stored (d_in, d_out). Follows transformers'
 * modeling_gpt2.py. */
#include <math.h>
#include <stdio.h>

#include "core/model/config.h"

static bool read_scales(struct mal_model *model, struct mal_error *err) {
    bool scaled = true, by_layer = false;
    if (!mal_config_bool_opt(model, "scale_attn_weights", &scaled, err)) return false;
    if (!mal_config_bool_opt(model, "scale_attn_by_inverse_layer_idx", &by_layer, err))
        return false;
    for (int64_t l = 0; l < model->decoder.n; l++) {
        struct mal_attention *attention = &model->decoder.blocks[l].self;
        attention->scale = scaled ? 1.0F / sqrtf((float)model->head_size) : 1.0F;
        if (by_layer) attention->scale /= (float)(l + 1);
    }
    return true;
}

static bool gpt2_configure(struct mal_model *model, struct mal_error *err) {
    if (!mal_config_sizes_gpt(model, err)) return false;
    if (!mal_config_refuse(model, "add_cross_attention", err)) return false;
    if (!mal_open_stack(model, &model->decoder, model->info.n_layers,
                        1.0F / sqrtf((float)model->head_size), err))
        return false;
    model->decoder.causal = true;
    return read_scales(model, err);
}

static bool bind_block(struct mal_model *model, int64_t l, struct mal_error *err) {
    struct mal_transformer_block *block = &model->decoder.blocks[l];
    int64_t c = model->info.n_channels, f = model->n_inner;
    char where[32], name[64];
    snprintf(where, sizeof where, "h.%lld.", (long long)l);
    snprintf(name, sizeof name, "%sln_1", where);
    if (!mal_bind_norm(model, name, &block->self.norm, err)) return false;
    snprintf(name, sizeof name, "%sln_2", where);
    if (!mal_bind_norm(model, name, &block->mlp.norm, err)) return false;
    block->self.fused = true;
    const struct mal_linear_spec linears[] = {
        {"attn.c_attn", c, 3 * c, false, true, &block->self.q},
        {"attn.c_proj", c, c, false, true, &block->self.o},
        {"mlp.c_fc", c, f, false, true, &block->mlp.up},
        {"mlp.c_proj", f, c, false, true, &block->mlp.down}};
    return mal_bind_linears(model, where, linears, sizeof linears / sizeof *linears, l,
                            err);
}

static bool gpt2_bind(struct mal_model *model, struct mal_error *err) {
    int64_t c = model->info.n_channels, v = model->info.n_vocab;
    int64_t positions[] = {model->info.n_context, c};
    bool tied = true;
    if (!mal_bind_matrix(model, "wte.weight", v, c, &model->tokens, err)) return false;
    if (!mal_bind_tensor(model, "wpe.weight", 2, positions, &model->positions, err))
        return false;
    for (int64_t l = 0; l < model->decoder.n; l++) {
        if (!bind_block(model, l, err)) return false;
    }
    if (!mal_bind_norm(model, "ln_f", &model->decoder.final_norm, err)) return false;
    return mal_config_bool_opt(model, "tie_word_embeddings", &tied, err) &&
           mal_bind_head(model, "wte.weight", tied, err);
}

static const struct mal_prefix prefixes[] = {{"transformer.", ""}, {NULL, NULL}};

const struct mal_arch mal_arch_gpt2 = {
    .model_type = "gpt2",
    .prefixes = prefixes,
    .edits = {.names = {"mlp.c_proj"}, .share = 0.5},
    .configure = gpt2_configure,
    .bind = gpt2_bind,
};
