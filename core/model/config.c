/* config.c - config.json's members that several architectures have. */
#include "core/model/config.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"

static const int64_t most = 1 << 24;

static const json_t *config_of(const struct mal_model *model) {
    return mal_checkpoint_config(model->ckpt);
}

static const char *path_of(const struct mal_model *model) {
    return mal_checkpoint_config_path(model->ckpt);
}

bool mal_config_size(const struct mal_model *model, const char *key, int64_t *out,
                     struct mal_error *err) {
    return mal_json_int(config_of(model), key, 1, most, out, path_of(model), err);
}

bool mal_config_size_opt(const struct mal_model *model, const char *key, int64_t *out,
                         struct mal_error *err) {
    return mal_json_int_opt(config_of(model), key, 1, most, out, path_of(model), err);
}

bool mal_config_size_or(const struct mal_model *model, const char *key, int64_t absent,
                        int64_t null, int64_t *out, struct mal_error *err) {
    *out = json_object_get(config_of(model), key) ? null : absent;
    return mal_config_size_opt(model, key, out, err);
}

bool mal_config_real_opt(const struct mal_model *model, const char *key, double *out,
                         struct mal_error *err) {
    return mal_json_real_opt(config_of(model), key, out, path_of(model), err);
}

bool mal_config_bool_opt(const struct mal_model *model, const char *key, bool *out,
                         struct mal_error *err) {
    return mal_json_bool_opt(config_of(model), key, out, path_of(model), err);
}

bool mal_config_string_opt(const struct mal_model *model, const char *key,
                           const char **out, struct mal_error *err) {
    return mal_json_string_opt(config_of(model), key, out, path_of(model), err);
}

bool mal_config_object(const struct mal_model *model, const char *key, const json_t **out,
                       struct mal_error *err) {
    const json_t *value = json_object_get(config_of(model), key);
    *out = json_object_size(value) > 0 ? value : NULL;
    return !value || json_is_null(value) || json_is_object(value) ||
           mal_fail(err, MAL_INVALID, "%s: %s is %s, not an object", path_of(model), key,
                    mal_json_type(value));
}

bool mal_config_refuse(const struct mal_model *model, const char *key,
                       struct mal_error *err) {
    bool set = false;
    if (!mal_config_bool_opt(model, key, &set, err)) return false;
    return !set ||
           mal_fail(err, MAL_INVALID, "%s: %s is not supported", path_of(model), key);
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
    return mal_fail(err, MAL_INVALID, "%s: %s \"%s\" is not supported", path_of(model),
                    key, name);
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
           mal_fail(err, MAL_INVALID, "%s: %s is below 0", path_of(model), key);
}

bool mal_config_head_size(struct mal_model *model, const char *width_key,
                          const char *heads_key, struct mal_error *err) {
    int64_t width = model->info.n_channels;
    if (width % model->n_heads != 0) {
        return mal_fail(err, MAL_INVALID, "%s: %s %lld is not a multiple of %s %lld",
                        path_of(model), width_key, (long long)width, heads_key,
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
    if (!read_ends(model, config_of(model), path_of(model), err)) return false;
    model->info.eos = model->n_ends > 0 ? model->ends[0] : -1;
    char *path = mal_file_join(mal_checkpoint_dir(model->ckpt), "generation_config.json");
    if (!path) return mal_fail(err, MAL_NO_MEMORY, "%s", path_of(model));
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
    return mal_config_size(model, "num_hidden_layers", &info->n_layers, err) &&
           mal_config_size(model, "hidden_size", &info->n_channels, err) &&
           mal_config_size(model, "intermediate_size", &model->n_inner, err) &&
           mal_config_size(model, "num_attention_heads", &model->n_heads, err) &&
           mal_config_size(model, "vocab_size", &info->n_vocab, err) &&
           mal_config_size(model, "max_position_embeddings", &info->n_context, err);
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
