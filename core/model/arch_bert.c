/* arch_bert.c - BERT as a fact checker: bidirectional blocks whose norms come after, a
 * classifier on the first position. Follows transformers' modeling_bert.py.
 *
 * In three forms: "backbone.*" with classifier (1, C) on the last hidden state, as MALMEN
 * trains it; BertForSequenceClassification with one or two labels, through the pooler;
 * the bare model, for its hidden states. One label z is the two classes (0, z): their
 * softmax is the logistic function, their cross-entropy the binary one. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "core/model/config.h"

struct bert {
    const float *token_types; /* (types, C) */
    const float *classifier;  /* (labels, C) */
    int64_t n_labels;         /* 0: no classifier */
};

static bool bert_configure(struct mal_model *model, struct mal_error *err) {
    model->info.kind = MAL_MODEL_CLASSIFIER;
    model->own = mal_calloc(1, sizeof(struct bert));
    if (!model->own) return mal_fail(err, MAL_NO_MEMORY, "model");
    if (!mal_config_sizes(model, err)) return false;
    if (!mal_config_head_size(model, "hidden_size", "num_attention_heads", err))
        return false;
    model->n_kv_heads = model->n_heads;
    if (!mal_config_eps(model, "layer_norm_eps", 1e-12, err)) return false;
    if (!mal_config_act(model, "hidden_act", "gelu", err)) return false;
    if (!mal_config_refuse(model, "is_decoder", err)) return false;
    const char *positions = "absolute";
    if (!mal_config_string_opt(model, "position_embedding_type", &positions, err))
        return false;
    if (strcmp(positions, "absolute") != 0) {
        return mal_fail(err, MAL_INVALID,
                        "%s: position_embedding_type \"%s\" is not supported",
                        mal_checkpoint_config_path(model->ckpt), positions);
    }
    if (!mal_open_stack(model, &model->decoder, model->info.n_layers,
                        1.0F / sqrtf((float)model->head_size), err))
        return false;
    model->decoder.norms = MAL_NORM_AFTER;
    return true;
}

/* ---- Binding ---- */

static bool bind_block(struct mal_model *model, int64_t l, struct mal_error *err) {
    struct mal_transformer_block *block = &model->decoder.blocks[l];
    int64_t c = model->info.n_channels, f = model->n_inner;
    char where[40], name[96];
    snprintf(where, sizeof where, "encoder.layer.%lld.", (long long)l);
    snprintf(name, sizeof name, "%sattention.output.LayerNorm", where);
    if (!mal_bind_norm(model, name, &block->self.norm, err)) return false;
    snprintf(name, sizeof name, "%soutput.LayerNorm", where);
    if (!mal_bind_norm(model, name, &block->mlp.norm, err)) return false;
    const struct mal_linear_spec linears[] = {
        {"attention.self.query", c, c, true, true, &block->self.q},
        {"attention.self.key", c, c, true, true, &block->self.k},
        {"attention.self.value", c, c, true, true, &block->self.v},
        {"attention.output.dense", c, c, true, true, &block->self.o},
        {"intermediate.dense", c, f, true, true, &block->mlp.up},
        {"output.dense", f, c, true, true, &block->mlp.down}};
    return mal_bind_linears(model, where, linears, sizeof linears / sizeof *linears, l,
                            err);
}

static bool bind_embeddings(struct mal_model *model, struct mal_error *err) {
    struct bert *bert = model->own;
    int64_t c = model->info.n_channels, types = 2;
    if (!mal_config_size_opt(model, "type_vocab_size", &types, err)) return false;
    int64_t positions[] = {model->info.n_context, c}, of_types[] = {types, c};
    return mal_bind_matrix(model, "embeddings.word_embeddings.weight",
                           model->info.n_vocab, c, &model->tokens, err) &&
           mal_bind_tensor(model, "embeddings.position_embeddings.weight", 2, positions,
                           &model->positions, err) &&
           mal_bind_tensor(model, "embeddings.token_type_embeddings.weight", 2, of_types,
                           &bert->token_types, err) &&
           mal_bind_norm(model, "embeddings.LayerNorm", &model->embed_norm, err);
}

static bool count_labels(struct mal_model *model, int64_t *out, struct mal_error *err) {
    struct mal_checkpoint_tensor t =
        mal_checkpoint_find(model->ckpt, "classifier.weight");
    *out = t.tensor->n_dims > 0 ? t.tensor->shape[0] : 0;
    return *out == 1 || *out == 2 ||
           mal_fail(err, MAL_INVALID,
                    "%s: tensor 'classifier.weight' has %lld labels, a fact checker has "
                    "1 or 2",
                    mal_safetensors_path(t.file), (long long)*out);
}

static bool bind_head(struct mal_model *model, struct mal_error *err) {
    struct bert *bert = model->own;
    int64_t c = model->info.n_channels, labels;
    if (!mal_has_tensor(model, "classifier.weight")) return true;
    if (!count_labels(model, &labels, err)) return false;
    model->info.n_outputs = 2;
    int64_t weight[] = {labels, c};
    if (!mal_bind_tensor(model, "classifier.weight", 2, weight, &bert->classifier, err) ||
        !mal_bind_tensor(model, "classifier.bias", 1, &labels, &model->head_bias, err)) {
        return false;
    }
    if (labels == 1) model->n_derived += 2 * c + 32;
    bert->n_labels = labels;
    if (strcmp(model->prefix, "backbone.") == 0) return true;
    return mal_bind_matrix(model, "pooler.dense.weight", c, c, &model->pooler, err) &&
           mal_bind_tensor(model, "pooler.dense.bias", 1, &c, &model->pooler_bias, err);
}

static bool bert_bind(struct mal_model *model, struct mal_error *err) {
    if (!bind_embeddings(model, err)) return false;
    for (int64_t l = 0; l < model->decoder.n; l++) {
        if (!bind_block(model, l, err)) return false;
    }
    return bind_head(model, err);
}

/* ---- What is derived ---- */

/* Every token is of type 0, whose embedding goes into the positions'. */
static bool add_token_type(struct mal_model *model, struct mal_error *err) {
    const struct bert *bert = model->own;
    int64_t c = model->info.n_channels, n = model->info.n_context;
    float *host = mal_malloc((size_t)((n + 1) * c) * sizeof *host);
    if (!host) return mal_fail(err, MAL_NO_MEMORY, "position embeddings");
    float *type = host + n * c;
    size_t row = (size_t)c * sizeof *host;
    mal_backend_download(model->be, host, model->positions, (size_t)n * row);
    mal_backend_download(model->be, type, bert->token_types, row);
    bool ok = mal_backend_sync(model->be, err);
    for (int64_t i = 0; ok && i < n * c; i++)
        host[i] += type[i % c];
    if (ok)
        mal_backend_upload(model->be, (float *)model->positions, host, (size_t)n * row);
    ok = ok && mal_backend_sync(model->be, err);
    mal_free(host);
    return ok;
}

static void widen_head(struct mal_model *model) {
    struct bert *bert = model->own;
    int64_t c = model->info.n_channels;
    float *w = mal_derived_floats(model, 2 * c), *bias = mal_derived_floats(model, 2);
    mal_backend_zero(model->be, w, (size_t)(2 * c) * sizeof *w);
    mal_backend_zero(model->be, bias, 2 * sizeof *bias);
    mal_backend_copy(model->be, w + c, bert->classifier, (size_t)c * sizeof *w);
    mal_backend_copy(model->be, bias + 1, model->head_bias, sizeof *bias);
    bert->classifier = w;
    model->head_bias = bias;
}

static bool bert_derive(struct mal_model *model, struct mal_error *err) {
    const struct bert *bert = model->own;
    if (!add_token_type(model, err)) return false;
    if (bert->n_labels == 1) widen_head(model);
    if (bert->n_labels > 0) model->head = (struct mal_matrix){bert->classifier, MAL_F32};
    return mal_backend_sync(model->be, err);
}

static const char *const prefixes[] = {"backbone.", "bert.", NULL};

const struct mal_arch mal_arch_bert = {
    .model_type = "bert",
    .prefixes = prefixes,
    .edits = {.names = {"output.dense"}, .share = 0.5, .most = 6},
    .configure = bert_configure,
    .bind = bert_bind,
    .derive = bert_derive,
};
