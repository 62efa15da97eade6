/* arch_bert.c - BERT as a fact checker: bidirectional blocks whose norms come after, a
 * classifier on the first position. Follows transformers' modeling_bert.py.
 *
 * In three forms: "backbone.*" with classifier (1, C) on the last hidden state, as MALMEN
 * trains it; BertForSequenceClassification with one or two labels, through the pooler;
 * the bare model, for its hidden states. One label z is the two classes (0, z): their
 * softmax is the logistic function, their cross-entropy the binary one. Outputs that
 * id2label names the other way about are put in the order of the classes. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/alloc.h"
#include "core/json.h"
#include "core/model/config.h"

static const char *const classes[2] = {"REFUTES", "SUPPORTS"};

struct bert {
    const float *token_types; /* (types, C) */
    const float *classifier;  /* (labels, C) */
    int64_t n_labels;         /* 0: no classifier */
    bool turned;              /* its outputs are (SUPPORTS, REFUTES) */
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
                        model->where, positions);
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

/* What config.json calls the outputs, NULL where it does not: transformers reads
 * id2label, label2id says the same. */
static bool name_outputs(const struct mal_model *model, const char *names[2],
                         size_t *out_n, struct mal_error *err) {
    const char *where = model->where, *key;
    const json_t *names_of, *ids_of;
    json_t *id;
    if (!mal_config_object(model, "id2label", &names_of, err) ||
        !mal_config_object(model, "label2id", &ids_of, err))
        return false;
    *out_n = json_object_size(names_of ? names_of : ids_of);
    if (names_of)
        return mal_json_string_opt(names_of, "0", &names[0], where, err) &&
               mal_json_string_opt(names_of, "1", &names[1], where, err);
    json_object_foreach ((json_t *)ids_of, key, id) {
        json_int_t i = json_is_integer(id) ? json_integer_value(id) : -1;
        if (i == 0 || i == 1) names[i] = key;
    }
    return true;
}

/* Names such as LABEL_0 say nothing, and names for another number of outputs are not
 * about these. */
static bool read_order(struct mal_model *model, struct mal_error *err) {
    struct bert *bert = model->own;
    const char *names[2] = {NULL, NULL};
    size_t n;
    if (!name_outputs(model, names, &n, err)) return false;
    bool right[2] = {false, false}, turned[2] = {false, false};
    for (size_t i = 0; i < 2; i++) {
        size_t class = bert->n_labels == 1 ? 1 : i;
        if (!names[i] || n != (size_t)bert->n_labels) continue;
        right[i] = strcasecmp(names[i], classes[class]) == 0;
        turned[i] = strcasecmp(names[i], classes[1 - class]) == 0;
    }
    bert->turned = (turned[0] || turned[1]) && !right[0] && !right[1];
    return true;
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
    bert->n_labels = labels;
    if (!read_order(model, err)) return false;
    if (labels == 1 || bert->turned) model->n_derived += 2 * c + 32;
    if (strcmp(model->prefix.backbone, "backbone.") == 0) return true;
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

/* Rows of REFUTES and SUPPORTS; where there is one output, the other class's is 0. */
static void order_head(struct mal_model *model) {
    struct bert *bert = model->own;
    int64_t c = model->info.n_channels, n = bert->n_labels;
    float *w = mal_derived_floats(model, 2 * c), *bias = mal_derived_floats(model, 2);
    mal_backend_zero(model->be, w, (size_t)(2 * c) * sizeof *w);
    mal_backend_zero(model->be, bias, 2 * sizeof *bias);
    for (int64_t i = 0; i < n; i++) {
        int64_t right = n == 1 ? 1 : i, class = bert->turned ? 1 - right : right;
        mal_backend_copy(model->be, w + class * c, bert->classifier + i * c,
                         (size_t)c * sizeof *w);
        mal_backend_copy(model->be, bias + class, model->head_bias + i, sizeof *bias);
    }
    bert->classifier = w;
    model->head_bias = bias;
}

static bool bert_derive(struct mal_model *model, struct mal_error *err) {
    const struct bert *bert = model->own;
    if (!add_token_type(model, err)) return false;
    if (bert->n_labels == 1 || bert->turned) order_head(model);
    if (bert->n_labels > 0) model->head = (struct mal_matrix){bert->classifier, MAL_F32};
    return mal_backend_sync(model->be, err);
}

static const struct mal_prefix prefixes[] = {
    {"backbone.", ""}, {"bert.", ""}, {NULL, NULL}};

const struct mal_arch mal_arch_bert = {
    .model_type = "bert",
    .prefixes = prefixes,
    .edits = {.names = {"output.dense"}, .share = 0.5, .most = 6},
    .configure = bert_configure,
    .bind = bert_bind,
    .derive = bert_derive,
};
