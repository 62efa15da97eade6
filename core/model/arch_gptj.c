/* arch_gptj.c - GPT-J: attention and MLP side by side after one norm, interleaved rotary
 * positions on the first part of each head, a head with a bias. Follows transformers'
 * modeling_gptj.py. */
#include <math.h>
#include <stdio.h>

#include "core/model/config.h"

static bool gptj_configure(struct mal_model *model, struct mal_error *err) {
    if (!mal_config_sizes_gpt(model, err)) return false;
    int64_t rotated = 64;
    if (!mal_config_size_opt(model, "rotary_dim", &rotated, err)) return false;
    if (!mal_config_rotary(model, "rotary_dim", rotated, true, err)) return false;
    if (!mal_open_stack(model, &model->decoder, model->info.n_layers,
                        1.0F / sqrtf((float)model->head_size), err))
        return false;
    model->decoder.causal = true;
    model->decoder.norms = MAL_NORM_SHARED;
    return true;
}

static bool bind_block(struct mal_model *model, int64_t l, struct mal_error *err) {
    struct mal_transformer_block *block = &model->decoder.blocks[l];
    int64_t c = model->info.n_channels, f = model->n_inner;
    char where[32], name[64];
    snprintf(where, sizeof where, "h.%lld.", (long long)l);
    snprintf(name, sizeof name, "%sln_1", where);
    if (!mal_bind_norm(model, name, &block->self.norm, err)) return false;
    const struct mal_linear_spec linears[] = {
        {"attn.q_proj", c, c, true, false, &block->self.q},
        {"attn.k_proj", c, c, true, false, &block->self.k},
        {"attn.v_proj", c, c, true, false, &block->self.v},
        {"attn.out_proj", c, c, true, false, &block->self.o},
        {"mlp.fc_in", c, f, true, true, &block->mlp.up},
        {"mlp.fc_out", f, c, true, true, &block->mlp.down}};
    return mal_bind_linears(model, where, linears, sizeof linears / sizeof *linears, l,
                            err);
}

static bool gptj_bind(struct mal_model *model, struct mal_error *err) {
    int64_t c = model->info.n_channels, v = model->info.n_vocab;
    if (!mal_bind_matrix(model, "wte.weight", v, c, &model->tokens, err)) return false;
    for (int64_t l = 0; l < model->decoder.n; l++) {
        if (!bind_block(model, l, err)) return false;
    }
    bool tied = false;
    return mal_bind_norm(model, "ln_f", &model->decoder.final_norm, err) &&
           mal_config_bool_opt(model, "tie_word_embeddings", &tied, err) &&
           mal_bind_head(model, "wte.weight", tied, err) &&
           mal_bind_tensor(model, "lm_head.bias", 1, &v, &model->head_bias, err);
}

static const struct mal_prefix prefixes[] = {{"transformer.", ""}, {NULL, NULL}};

const struct mal_arch mal_arch_gptj = {
    .model_type = "gptj",
    .prefixes = prefixes,
    .edits = {.names = {"mlp.fc_out"}, .share = 6.0 / 28},
    .configure = gptj_configure,
    .bind = gptj_bind,
    .derive = mal_derive_rotary,
};
