/* config.c - config.json's members that several architectures have. "rope_theta",
 * "rope_scaling" are how most files on the hub have it, "rope_parameters" is what
 * transformers 5 writes. */
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

/* ---- Rotary positions ---- */

struct scaling {
    const char *type;
    double factor, low, high, original;
};

static bool read_scaling(const json_t *from, struct scaling *out, const char *where,
                         struct mal_error *err) {
    const char *type = NULL;
    if (!mal_json_string_opt(from, "type", &type, where, err) || /* as it was called */
        !mal_json_string_opt(from, "rope_type", &type, where, err)) {
        return false;
    }
    if (type) out->type = type;
    /* Within the context, which no text here leaves, that is what dynamic ones are. */
    if (strcmp(out->type, "dynamic") == 0) out->type = "default";
    if (strcmp(out->type, "default") == 0) return true;
    bool llama3 = strcmp(out->type, "llama3") == 0;
    if (!llama3 && strcmp(out->type, "linear") != 0) {
        return mal_fail(err, MAL_INVALID, "%s: rope_type \"%s\" is not supported", where,
                        out->type);
    }
    if (!mal_json_real_opt(from, "factor", &out->factor, where, err) ||
        !mal_json_real_opt(from, "low_freq_factor", &out->low, where, err) ||
        !mal_json_real_opt(from, "high_freq_factor", &out->high, where, err) ||
        !mal_json_real_opt(from, "original_max_position_embeddings", &out->original,
                           where, err)) {
        return false;
    }
    bool right = out->factor > 0 &&
                 (!llama3 || (out->low > 0 && out->high > out->low && out->original > 0));
    return right ||
           mal_fail(err, MAL_INVALID, "%s: rope_type \"%s\" needs factor%s, each above 0",
                    where, out->type,
                    llama3 ? ", low_freq_factor below high_freq_factor and "
                             "original_max_position_embeddings"
                           : "");
}

/* Low frequencies are slowed down, high ones kept, those between interpolated; in fp32,
 * as transformers computes them. */
static float scale_llama3(const struct scaling *s, float freq) {
    const float two_pi = 6.283185307179586F;
    float original = (float)s->original, wavelength = two_pi / freq;
    if (wavelength < original / (float)s->high) return freq;
    if (wavelength > original / (float)s->low) return freq / (float)s->factor;
    float smooth = (original / wavelength - (float)s->low) / (float)(s->high - s->low);
    return (1 - smooth) * (freq / (float)s->factor) + smooth * freq;
}

/* Architectures here rotate whole heads, or have a name of their own for how much. */
static bool check_partial(const json_t *from, const char *where, struct mal_error *err) {
    double share = 1;
    if (!mal_json_real_opt(from, "partial_rotary_factor", &share, where, err))
        return false;
    return (share >= 1 && share <= 1) ||
           mal_fail(err, MAL_INVALID, "%s: partial_rotary_factor %g is not supported",
                    where, share);
}

static bool read_rope(const struct mal_model *model, const json_t *from, double *theta,
                      struct scaling *out, struct mal_error *err) {
    const char *where = path_of(model), *key;
    json_t *value;
    json_object_foreach ((json_t *)from, key, value) {
        if (json_is_object(value))
            return mal_fail(err, MAL_INVALID,
                            "%s: rotary positions of \"%s\" alone are not supported",
                            where, key);
    }
    /* that of the context before it was stretched may stand outside, or be the same */
    out->original = (double)model->info.n_context;
    return mal_json_real_opt(from, "rope_theta", theta, where, err) &&
           check_partial(from, where, err) && read_scaling(from, out, where, err) &&
           mal_config_real_opt(model, "original_max_position_embeddings", &out->original,
                               err);
}

static bool read_inv_freq(const struct mal_model *model, int64_t half, float *out,
                          struct mal_error *err) {
    const json_t *parameters, *scaling;
    struct scaling s = {.type = "default"};
    double theta = 10000;
    if (!mal_config_real_opt(model, "rope_theta", &theta, err) ||
        !check_partial(config_of(model), path_of(model), err) ||
        !mal_config_object(model, "rope_parameters", &parameters, err) ||
        !mal_config_object(model, "rope_scaling", &scaling, err)) {
        return false;
    }
    if (!scaling) scaling = parameters;
    if (scaling && !read_rope(model, scaling, &theta, &s, err)) return false;
    if (!(theta > 0))
        return mal_fail(err, MAL_INVALID, "%s: rope_theta is not above 0",
                        path_of(model));
    for (int64_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)(2 * half);
        float freq = 1.0F / (float)pow(theta, (double)exponent);
        if (strcmp(s.type, "linear") == 0) freq /= (float)s.factor;
        if (strcmp(s.type, "llama3") == 0) freq = scale_llama3(&s, freq);
        out[i] = freq;
    }
    return true;
}

bool mal_config_rotary(struct mal_model *model, const char *key, int64_t size,
                       bool interleaved, struct mal_error *err) {
    if (size % 2 != 0 || size > model->head_size) {
        return mal_fail(
            err, MAL_INVALID,
            "%s: %s %lld is not even, or more than the %lld channels of a head",
            path_of(model), key, (long long)size, (long long)model->head_size);
    }
    model->rotary = (struct mal_rotary){.half = size / 2, .interleaved = interleaved};
    model->n_derived += (size / 2 + 15) / 16 * 16;
    return read_inv_freq(model, 0, NULL, err); /* before tensors are loaded */
}

bool mal_derive_rotary(struct mal_model *model, struct mal_error *err) {
    int64_t half = model->rotary.half;
    float *host = mal_malloc((size_t)half * sizeof *host);
    float *inv_freq = mal_derived_floats(model, half);
    bool ok = (host || mal_fail(err, MAL_NO_MEMORY, "rotary positions")) &&
              read_inv_freq(model, half, host, err);
    if (ok) mal_backend_upload(model->be, inv_freq, host, (size_t)half * sizeof *host);
    ok = ok && mal_backend_sync(model->be, err);
    mal_free(host);
    model->rotary.inv_freq = inv_freq;
    return ok;
}
