/* config.c - config.json's members that several architectures have. */
#include "core/model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"

static const int64_t most = 1 << 24;

/* ---- Whose it is ---- */

/* Models that a text model is part of, which "text_config" is about; the first type is
 * that of a text model which names none. */
static const struct composite {
    const char *type, *text_types[2]; /* NULL ends the list */
} composites[] = {{"gemma3", {"gemma3_text"}}, {"mistral3", {"mistral"}}};

enum { N_COMPOSITES = sizeof composites / sizeof *composites };

/* What transformers asks the whole model for. */
static bool take_from_whole(json_t *text, const json_t *whole) {
    json_t *tied = json_object_get(whole, "tie_word_embeddings"),
           *eos = json_object_get(whole, "eos_token_id");
    tied = tied ? json_incref(tied) : json_true();
    return json_object_set_new(text, "tie_word_embeddings", tied) == 0 &&
           (!eos || json_is_null(eos) || json_object_set(text, "eos_token_id", eos) == 0);
}

static bool check_text_type(const struct mal_model *model,
                            const struct composite *composite, const char **type,
                            struct mal_error *err) {
    *type = composite->text_types[0];
    if (!mal_config_string_opt(model, "model_type", type, err)) return false;
    for (const char *const *known = composite->text_types; *known; known++) {
        if (strcmp(*type, *known) == 0) return true;
    }
    return mal_fail(err, MAL_INVALID,
                    "%s: model_type \"%s\" is not supported within \"%s\"", model->where,
                    *type, composite->type);
}

static bool open_text(struct mal_model *model, const struct composite *composite,
                      const char **type, struct mal_error *err) {
    static const char key[] = "text_config";
    const json_t *found;
    if (!mal_config_object(model, key, &found, err)) return false;
    if (!found)
        return mal_fail(err, MAL_CORRUPT, "%s: '%s' is missing", model->where, key);
    size_t size = strlen(model->where) + sizeof key + 2;
    json_t *whole = model->config, *text = json_copy((json_t *)found);
    char *where = mal_malloc(size);
    bool ok = (where && text && take_from_whole(text, whole)) ||
              mal_fail(err, MAL_NO_MEMORY, "%s", model->where);
    if (where) snprintf(where, size, "%s: %s", model->where, key);
    mal_free(model->where);
    model->where = where;
    model->config = text;
    json_decref(whole);
    return ok && check_text_type(model, composite, type, err);
}

bool mal_config_open(struct mal_model *model, const char **type, struct mal_error *err) {
    model->config = json_incref((json_t *)mal_checkpoint_config(model->ckpt));
    model->where = mal_strdup(mal_checkpoint_config_path(model->ckpt));
    if (!model->where)
        return mal_fail(err, MAL_NO_MEMORY, "%s", mal_checkpoint_dir(model->ckpt));
    if (!mal_json_string(model->config, "model_type", type, model->where, err))
        return false;
    for (size_t i = 0; i < N_COMPOSITES; i++) {
        if (strcmp(*type, composites[i].type) == 0)
            return open_text(model, &composites[i], type, err);
    }
    return true;
}

/* ---- Members ---- */

bool mal_config_size(const struct mal_model *model, const char *key, int64_t *out,
                     struct mal_error *err) {
    return mal_json_int(model->config, key, 1, most, out, model->where, err);
}

bool mal_config_size_opt(const struct mal_model *model, const char *key, int64_t *out,
                         struct mal_error *err) {
    return mal_json_int_opt(model->config, key, 1, most, out, model->where, err);
}

bool mal_config_size_or(const struct mal_model *model, const char *key, int64_t absent,
                        int64_t null, int64_t *out, struct mal_error *err) {
    *out = json_object_get(model->config, key) ? null : absent;
    return mal_config_size_opt(model, key, out, err);
}

bool mal_config_real_opt(const struct mal_model *model, const char *key, double *out,
                         struct mal_error *err) {
    return mal_json_real_opt(model->config, key, out, model->where, err);
}

bool mal_config_bool_opt(const struct mal_model *model, const char *key, bool *out,
                         struct mal_error *err) {
    return mal_json_bool_opt(model->config, key, out, model->where, err);
}

bool mal_config_string_opt(const struct mal_model *model, const char *key,
                           const char **out, struct mal_error *err) {
    return mal_json_string_opt(model->config, key, out, model->where, err);
}

bool mal_config_object(const struct mal_model *model, const char *key, const json_t **out,
                       struct mal_error *err) {
    const json_t *value = json_object_get(model->config, key);
    *out = json_object_size(value) > 0 ? value : NULL;
    return !value || json_is_null(value) || json_is_object(value) ||
           mal_fail(err, MAL_INVALID, "%s: %s is %s, not an object", model->where, key,
                    mal_json_type(value));
}

bool mal_config_refuse(const struct mal_model *model, const char *key,
                       struct mal_error *err) {
    bool set = false;
    if (!mal_config_bool_opt(model, key, &set, err)) return false;
    return !set ||
           mal_fail(err, MAL_INVALID, "%s: %s is not supported", model->where, key);
}

bool mal_config_act_named(struct mal_model *model, const char *key, const char *name,
                          struct mal_error *err) {
    static const struct {
        const char *name;
        enum mal_act act;
    } known[] = {{"gelu_new", MAL_GELU_TANH},
                 {"gelu_pytorch_tanh", MAL_GELU_TANH},
                 {"gelu_fast", MAL_GELU_TANH},
                 {"gelu_python_tanh", MAL_GELU_TANH},
                 {"gelu_accurate", MAL_GELU_TANH},
                 {"gelu", MAL_GELU_ERF},
                 {"gelu_python", MAL_GELU_ERF},
                 {"relu", MAL_RELU},
                 {"silu", MAL_SILU},
                 {"swish", MAL_SILU},
                 {"tanh", MAL_TANH}};

    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            model->act = known[i].act;
            return true;
        }
    }
    return mal_fail(err, MAL_INVALID, "%s: %s \"%s\" is not supported", model->where, key,
                    name);
}

bool mal_config_act(struct mal_model *model, const char *key, const char *name,
                    struct mal_error *err) {
    return mal_config_string_opt(model, key, &name, err) &&
           mal_config_act_named(model, key, name, err);
}

bool mal_config_eps(struct mal_model *model, const char *key, double value,
                    struct mal_error *err) {
    if (!mal_config_real_opt(model, key, &value, err)) return false;
    model->norm_eps = (float)value;
    return value >= 0 ||
           mal_fail(err, MAL_INVALID, "%s: %s is below 0", model->where, key);
}

bool mal_config_head_size(struct mal_model *model, const char *width_key,
                          const char *heads_key, struct mal_error *err) {
    int64_t width = model->info.n_channels;
    if (width % model->n_heads != 0) {
        return mal_fail(err, MAL_INVALID, "%s: %s %lld is not a multiple of %s %lld",
                        model->where, width_key, (long long)width, heads_key,
                        (long long)model->n_heads);
    }
    model->head_size = width / model->n_heads;
    return true;
}

/* ---- Tokens that end a text ---- */

/* An id that the model does not have ends nothing: configurations of small GPT-2s often
 * have kept the 50256 of the large ones. */
static bool read_end(struct mal_model *model, const json_t *value, const char *where,
                     struct mal_error *err) {
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (id < 0)
        return mal_fail(err, MAL_INVALID, "%s: eos_token_id is not a token id", where);
    if (id < model->info.n_vocab) model->ends[model->n_ends++] = (int32_t)id;
    return true;
}

/* Replaces model->ends by those `config` has, if it has any. */
static bool read_ends(struct mal_model *model, const json_t *config, const char *where,
                      struct mal_error *err) {
    const json_t *value = json_object_get(config, "eos_token_id");
    bool list = json_is_array(value);
    size_t n = list ? json_array_size(value) : 1;
    if (!value || json_is_null(value) || n == 0) return true;
    int32_t *ends = mal_calloc(n, sizeof *ends);
    if (!ends) return mal_fail(err, MAL_NO_MEMORY, "%s", where);
    mal_free(model->ends);
    model->ends = ends;
    model->n_ends = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = list ? json_array_get(value, i) : value;
        if (!read_end(model, id, where, err)) return false;
    }
    return true;
}

bool mal_config_eos(struct mal_model *model, struct mal_error *err) {
    if (!read_ends(model, model->config, model->where, err)) return false;
    model->info.eos = model->n_ends > 0 ? model->ends[0] : -1;
    char *path = mal_file_join(mal_checkpoint_dir(model->ckpt), "generation_config.json");
    if (!path) return mal_fail(err, MAL_NO_MEMORY, "%s", model->where);
    json_t *config = NULL;
    bool ok = access(path, F_OK) != 0 || mal_json_load(&config, path, err);
    if (ok && config) {
        ok = json_is_object(config) || mal_fail(err, MAL_CORRUPT, "%s: %s, not an object",
                                                path, mal_json_type(config));
        ok = ok && read_ends(model, config, path, err);
    }
    json_decref(config);
    mal_free(path);
    if (ok && model->info.eos < 0 && model->n_ends > 0) model->info.eos = model->ends[0];
    return ok;
}

bool mal_config_sizes(struct mal_model *model, struct mal_error *err) {
    struct mal_model_info *info = &model->info;

    const struct {
        const char *key;
        int64_t *out;
    } sizes[] = {{"num_hidden_layers", &info->n_layers},
                 {"hidden_size", &info->n_channels},
                 {"intermediate_size", &model->n_inner},
                 {"num_attention_heads", &model->n_heads},
                 {"vocab_size", &info->n_vocab},
                 {"max_position_embeddings", &info->n_context}};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        bool must = *sizes[i].out == 0;
        if (!(must ? mal_config_size : mal_config_size_opt)(model, sizes[i].key,
                                                            sizes[i].out, err))
            return false;
    }
    return true;
}

bool mal_config_sizes_gpt(struct mal_model *model, struct mal_error *err) {
    struct mal_model_info *info = &model->info;
    if (!mal_config_size(model, "n_layer", &info->n_layers, err) ||
        !mal_config_size(model, "n_embd", &info->n_channels, err) ||
        !mal_config_size(model, "n_head", &model->n_heads, err) ||
        !mal_config_size(model, "vocab_size", &info->n_vocab, err) ||
        !mal_config_size(model, "n_positions", &info->n_context, err) ||
        !mal_config_head_size(model, "n_embd", "n_head", err)) {
        return false;
    }
    model->n_kv_heads = model->n_heads;
    model->n_inner = 4 * info->n_channels;
    return mal_config_size_opt(model, "n_inner", &model->n_inner, err) &&
           mal_config_eps(model, "layer_norm_epsilon", 1e-5, err) &&
           mal_config_act(model, "activation_function", "gelu_new", err);
}
