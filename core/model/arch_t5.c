/* arch_t5.c - T5: an encoder and a decoder that looks at its output, RMS norms, relative
 * positions added to the scores, attention without scale. v1.1 has a gated MLP and a head
 * of its own; the original one a ReLU and the token embeddings as its head, scaled.
 * Follows transformers' modeling_t5.py. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "core/model/config.h"

struct t5 {
    bool gated;
    int64_t n_buckets, max_distance; /* of relative positions */
    const float *encoder, *decoder;  /* (n_buckets, n_heads) what each adds */
};

/* ---- Configuration ---- */

static bool read_feed_forward(struct mal_model *model, bool *out_gated,
                              struct mal_error *err) {
    static const char key[] = "feed_forward_proj", gated[] = "gated-";
    const char *name = "relu";
    if (!mal_config_string_opt(model, key, &name, err)) return false;
    *out_gated = strncmp(name, gated, sizeof gated - 1) == 0;
    if (*out_gated) name += sizeof gated - 1;
    if (*out_gated && strcmp(name, "gelu") == 0) name = "gelu_new";
    return mal_config_act_named(model, key, name, err);
}

static bool read_decoder_start(struct mal_model *model, struct mal_error *err) {
    int64_t start = 0;
    const json_t *config = model->config;
    const char *where = model->where;
    int64_t last = model->info.n_vocab - 1;
    if (!mal_json_int_opt(config, "pad_token_id", 0, last, &start, where, err) ||
        !mal_json_int_opt(config, "decoder_start_token_id", 0, last, &start, where, err))
        return false;
    model->info.decoder_start = (int32_t)start;
    return true;
}

/* Far positions share a bucket from "relative_attention_max_distance" on. */
static bool read_buckets(struct mal_model *model, struct mal_error *err) {
    struct t5 *t5 = model->own;
    t5->n_buckets = 32;
    t5->max_distance = 128;
    if (!mal_config_size_opt(model, "relative_attention_num_buckets", &t5->n_buckets,
                             err) ||
        !mal_config_size_opt(model, "relative_attention_max_distance", &t5->max_distance,
                             err)) {
        return false;
    }
    if (t5->n_buckets < 4 || t5->max_distance <= t5->n_buckets / 2) {
        return mal_fail(err, MAL_INVALID,
                        "%s: relative_attention_num_buckets %lld with "
                        "relative_attention_max_distance %lld",
                        model->where, (long long)t5->n_buckets,
                        (long long)t5->max_distance);
    }
    int64_t row = 2 * t5->max_distance + 1;
    model->n_derived += 2 * ((model->n_heads * row + 15) / 16 * 16);
    return true;
}

static bool open_stacks(struct mal_model *model, int64_t n_encoder, int64_t n_decoder,
                        struct mal_error *err) {
    model->decoder.causal = true;
    return mal_open_stack(model, &model->encoder, n_encoder, 1, err) &&
           mal_open_stack(model, &model->decoder, n_decoder, 1, err);
}

static bool t5_configure(struct mal_model *model, struct mal_error *err) {
    struct mal_model_info *info = &model->info;
    int64_t n_encoder, n_decoder;
    info->kind = MAL_MODEL_SEQ2SEQ;
    struct t5 *t5 = model->own = mal_calloc(1, sizeof *t5);
    if (!t5) return mal_fail(err, MAL_NO_MEMORY, "model");
    if (!mal_config_size(model, "num_layers", &n_encoder, err)) return false;
    n_decoder = n_encoder;
    if (!mal_config_size_opt(model, "num_decoder_layers", &n_decoder, err)) return false;
    info->n_layers = n_encoder + n_decoder;
    if (!mal_config_size(model, "d_model", &info->n_channels, err)) return false;
    if (!mal_config_size(model, "d_kv", &model->head_size, err)) return false;
    if (!mal_config_size(model, "d_ff", &model->n_inner, err)) return false;
    if (!mal_config_size(model, "num_heads", &model->n_heads, err)) return false;
    if (!mal_config_size(model, "vocab_size", &info->n_vocab, err)) return false;
    model->n_kv_heads = model->n_heads;
    model->rms = true;
    return mal_config_eps(model, "layer_norm_epsilon", 1e-6, err) &&
           read_feed_forward(model, &t5->gated, err) && read_decoder_start(model, err) &&
           read_buckets(model, err) && open_stacks(model, n_encoder, n_decoder, err);
}

/* ---- Binding ---- */

static bool bind_attention(struct mal_model *model, const char *where, int64_t block,
                           struct mal_attention *attention, struct mal_error *err) {
    int64_t c = model->info.n_channels, q = mal_q_width(model);
    const struct mal_linear_spec linears[] = {{"q", c, q, true, false, &attention->q},
                                              {"k", c, q, true, false, &attention->k},
                                              {"v", c, q, true, false, &attention->v},
                                              {"o", q, c, true, false, &attention->o}};
    return mal_bind_linears(model, where, linears, sizeof linears / sizeof *linears,
                            block, err);
}

static bool bind_mlp(struct mal_model *model, const char *where, int64_t block,
                     struct mal_mlp *mlp, struct mal_error *err) {
    const struct t5 *t5 = model->own;
    int64_t c = model->info.n_channels, f = model->n_inner;
    const struct mal_linear_spec gated[] = {{"wi_0", c, f, true, false, &mlp->gate},
                                            {"wi_1", c, f, true, false, &mlp->up},
                                            {"wo", f, c, true, false, &mlp->down}};
    const struct mal_linear_spec plain[] = {{"wi", c, f, true, false, &mlp->up},
                                            {"wo", f, c, true, false, &mlp->down}};
    return mal_bind_linears(model, where, t5->gated ? gated : plain, t5->gated ? 3 : 2,
                            block, err);
}

static bool bind_norm(struct mal_model *model, const char *block, int layer,
                      struct mal_norm_weights *dst, struct mal_error *err) {
    char name[96];
    snprintf(name, sizeof name, "%slayer.%d.layer_norm", block, layer);
    return mal_bind_norm(model, name, dst, err);
}

static bool bind_block(struct mal_model *model, const char *side, struct mal_stack *stack,
                       int64_t l, struct mal_error *err) {
    struct mal_transformer_block *block = &stack->blocks[l];
    bool decoder = stack == &model->decoder;
    int64_t index = decoder ? model->encoder.n + l : l;
    char where[48], name[96];
    int layer = 0;
    snprintf(where, sizeof where, "%s.block.%lld.", side, (long long)l);
    snprintf(name, sizeof name, "%slayer.0.SelfAttention.", where);
    if (!bind_attention(model, name, index, &block->self, err) ||
        !bind_norm(model, where, layer++, &block->self.norm, err)) {
        return false;
    }
    if (decoder) {
        snprintf(name, sizeof name, "%slayer.1.EncDecAttention.", where);
        if (!bind_attention(model, name, index, &block->cross, err) ||
            !bind_norm(model, where, layer++, &block->cross.norm, err)) {
            return false;
        }
        block->cross.k.of_source = block->cross.v.of_source = true;
    }
    snprintf(name, sizeof name, "%slayer.%d.DenseReluDense.", where, layer);
    return bind_mlp(model, name, index, &block->mlp, err) &&
           bind_norm(model, where, layer, &block->mlp.norm, err);
}

static bool bind_stack(struct mal_model *model, const char *side, struct mal_stack *stack,
                       const float **bias, struct mal_error *err) {
    const struct t5 *t5 = model->own;
    int64_t shape[] = {t5->n_buckets, model->n_heads};
    char name[96];
    for (int64_t l = 0; l < stack->n; l++) {
        if (!bind_block(model, side, stack, l, err)) return false;
    }
    snprintf(name, sizeof name,
             "%s.block.0.layer.0.SelfAttention.relative_attention_bias.weight", side);
    if (!mal_bind_tensor(model, name, 2, shape, bias, err)) return false;
    snprintf(name, sizeof name, "%s.final_layer_norm", side);
    return mal_bind_norm(model, name, &stack->final_norm, err);
}

/* Tied as they all are, any of them stands for the others. */
static const char *find_embeddings(const struct mal_model *model) {
    static const char *const names[] = {"shared.weight", "encoder.embed_tokens.weight",
                                        "decoder.embed_tokens.weight", "lm_head.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (mal_has_tensor(model, names[i])) return names[i];
    }
    return names[0];
}

/* "tie_word_embeddings" has come to mean that the head's input is scaled. */
static bool read_head_scale(struct mal_model *model, struct mal_error *err) {
    bool scaled = true;
    if (!mal_config_bool_opt(model, "tie_word_embeddings", &scaled, err) ||
        !mal_config_bool_opt(model, "scale_decoder_outputs", &scaled, err)) {
        return false;
    }
    if (scaled) model->head_scale = 1.0F / sqrtf((float)model->info.n_channels);
    return true;
}

static bool t5_bind(struct mal_model *model, struct mal_error *err) {
    struct t5 *t5 = model->own;
    int64_t c = model->info.n_channels, v = model->info.n_vocab;
    const char *embeddings = find_embeddings(model);
    return read_head_scale(model, err) &&
           mal_bind_matrix(model, embeddings, v, c, &model->tokens, err) &&
           bind_stack(model, "encoder", &model->encoder, &t5->encoder, err) &&
           bind_stack(model, "decoder", &model->decoder, &t5->decoder, err) &&
           mal_bind_head(model, embeddings, true, err);
}

/* ---- Relative positions ---- */

/* Of the key's position less the query's; in fp32, as transformers computes it. */
static int64_t bucket_of(const struct t5 *t5, bool both_ways, int64_t distance) {
    int64_t n = t5->n_buckets, bucket = 0;
    if (both_ways) {
        n /= 2;
        if (distance > 0) bucket = n;
        distance = distance < 0 ? -distance : distance;
    } else {
        distance = distance < 0 ? -distance : 0;
    }
    int64_t exact = n / 2;
    if (distance < exact) return bucket + distance;
    float scaled = logf((float)distance / (float)exact) /
                   (float)log((double)t5->max_distance / (double)exact) *
                   (float)(n - exact);
    int64_t far = exact + (int64_t)scaled;
    return bucket + (far < n - 1 ? far : n - 1);
}

/* From a bias per bucket to one per distance, (n_heads, 2 max_distance + 1). */
static bool expand(struct mal_model *model, struct mal_stack *stack, const float *buckets,
                   struct mal_error *err) {
    const struct t5 *t5 = model->own;
    int64_t h = model->n_heads, span = t5->max_distance, row = 2 * span + 1;
    size_t n_in = (size_t)(t5->n_buckets * h), n_out = (size_t)(h * row);
    float *in = mal_malloc((n_in + n_out) * sizeof *in);
    if (!in) return mal_fail(err, MAL_NO_MEMORY, "relative positions");
    float *out = in + n_in;
    mal_backend_download(model->be, in, buckets, n_in * sizeof *in);
    bool ok = mal_backend_sync(model->be, err);
    for (int64_t d = -span; ok && d <= span; d++) {
        int64_t bucket = bucket_of(t5, !stack->causal, d);
        for (int64_t i = 0; i < h; i++)
            out[i * row + d + span] = in[bucket * h + i];
    }
    float *bias = mal_derived_floats(model, h * row);
    if (ok) mal_backend_upload(model->be, bias, out, n_out * sizeof *out);
    ok = ok && mal_backend_sync(model->be, err);
    stack->rel_bias = bias;
    stack->rel_span = span;
    mal_free(in);
    return ok;
}

static bool t5_derive(struct mal_model *model, struct mal_error *err) {
    const struct t5 *t5 = model->own;
    return expand(model, &model->encoder, t5->encoder, err) &&
           expand(model, &model->decoder, t5->decoder, err);
}

static const struct mal_prefix prefixes[] = {{NULL, NULL}};

const struct mal_arch mal_arch_t5 = {
    .model_type = "t5",
    .prefixes = prefixes,
    .edits = {.names = {"DenseReluDense.wi_0", "DenseReluDense.wi", "DenseReluDense.wo"},
              .share = 2.0 / 24},
    .configure = t5_configure,
    .bind = t5_bind,
    .derive = t5_derive,
};
