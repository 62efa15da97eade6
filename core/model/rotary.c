/* rotary.c - rotary positions as config.json has them: "rope_theta", "rope_scaling" and
 * "partial_rotary_factor" as in most files on the hub, or "rope_parameters", which is
 * what transformers 5 writes. Follows its modeling_rope_utils.py, in fp32 where that is.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "core/model/config.h"

/* What a file says; a number that it says nothing of is 0. */
struct rope {
    const char *type;
    double theta;
    double share;              /* of a head's channels, is rotated */
    double factor;             /* by which the context was stretched */
    double original;           /* context before that */
    double attention;          /* what cosines and sines are multiplied with */
    double low, high;          /* llama3: low_freq_factor, high_freq_factor */
    double fast, slow;         /* yarn: beta_fast, beta_slow */
    double mscale, mscale_all; /* yarn */
    bool truncate;             /* yarn */
    const json_t *short_factor;
};

/* ---- Reading ---- */

static bool is(const struct rope *rope, const char *type) {
    return strcmp(rope->type, type) == 0;
}

static bool read_type(const json_t *from, struct rope *out, const char *path,
                      struct mal_error *err) {
    if (!mal_json_string_opt(from, "type", &out->type, path,
                             err) || /* as it was called */
        !mal_json_string_opt(from, "rope_type", &out->type, path, err)) {
        return false;
    }
    out->short_factor = json_object_get(from, "short_factor");
    /* LongRoPE under the names that Phi-3's first files have for it. */
    if (is(out, "su") || (is(out, "yarn") && out->short_factor)) out->type = "longrope";
    /* Within the context, which no text here leaves, that is what dynamic ones are. */
    if (is(out, "dynamic")) out->type = "default";
    return true;
}

static bool read_numbers(const json_t *from, struct rope *out, const char *path,
                         struct mal_error *err) {
    const struct {
        const char *key;
        double *out;
    } numbers[] = {{"rope_theta", &out->theta},
                   {"partial_rotary_factor", &out->share},
                   {"factor", &out->factor},
                   {"original_max_position_embeddings", &out->original},
                   {"attention_factor", &out->attention},
                   {"low_freq_factor", &out->low},
                   {"high_freq_factor", &out->high},
                   {"beta_fast", &out->fast},
                   {"beta_slow", &out->slow},
                   {"mscale", &out->mscale},
                   {"mscale_all_dim", &out->mscale_all}};

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (!mal_json_real_opt(from, numbers[i].key, numbers[i].out, path, err))
            return false;
    }
    return mal_json_bool_opt(from, "truncate", &out->truncate, path, err);
}

static bool read_parameters(const json_t *from, struct rope *out, const char *path,
                            struct mal_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach ((json_t *)from, key, value) {
        if (json_is_object(value))
            return mal_fail(err, MAL_INVALID,
                            "%s: rotary positions of \"%s\" alone are not supported",
                            path, key);
    }
    return read_type(from, out, path, err) && read_numbers(from, out, path, err);
}

/* A list of a number above 0 for each angle. */
static bool is_factors(const json_t *list, int64_t half) {
    if (json_array_size(list) != (size_t)half) return false;
    for (size_t i = 0; i < (size_t)half; i++) {
        if (!(json_number_value(json_array_get(list, i)) > 0)) return false;
    }
    return true;
}

/* What the type needs, put into words where it is not there. */
static const char *lacks(const struct rope *rope, int64_t half) {
    if (is(rope, "default")) return NULL;
    if (is(rope, "linear")) return rope->factor > 0 ? NULL : "factor, above 0";
    if (is(rope, "llama3")) {
        bool right = rope->factor > 0 && rope->low > 0 && rope->high > rope->low &&
                     rope->original > 0;
        return right ? NULL
                     : "factor, low_freq_factor below high_freq_factor and "
                       "original_max_position_embeddings, each above 0";
    }
    if (is(rope, "yarn")) {
        bool right = rope->factor > 0 && rope->original > 0 && rope->theta > 1 &&
                     rope->fast > 0 && rope->slow > 0 && rope->attention >= 0;
        return right ? NULL
                     : "factor, original_max_position_embeddings, beta_fast and "
                       "beta_slow above 0, and rope_theta above 1";
    }
    bool right = rope->factor > 0 && rope->original > 1 && rope->attention >= 0 &&
                 is_factors(rope->short_factor, half);
    return right ? NULL
                 : "original_max_position_embeddings above 1, and in short_factor a "
                   "number above 0 for every two channels that are rotated";
}

static bool check(const struct mal_model *model, const struct mal_rope_kind *kind,
                  const struct rope *rope, int64_t half, struct mal_error *err) {
    static const char *const types[] = {"default", "linear", "llama3", "yarn",
                                        "longrope"};
    bool known = false;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        known = known || is(rope, types[i]);
    if (!known)
        return mal_fail(err, MAL_INVALID, "%s: rope_type \"%s\" is not supported",
                        model->where, rope->type);
    if (!(rope->theta > 0))
        return mal_fail(err, MAL_INVALID, "%s: %s is not above 0", model->where,
                        kind->theta_key);
    const char *lacking = lacks(rope, half);
    return !lacking || mal_fail(err, MAL_INVALID, "%s: rope_type \"%s\" needs %s",
                                model->where, rope->type, lacking);
}

static bool has_kind(const struct mal_rotary *rotary, const char *type) {
    for (int k = 0; k < rotary->n_kinds; k++) {
        if (strcmp(rotary->kinds[k].type, type) == 0) return true;
    }
    return false;
}

/* What "rope_parameters" says of the kind; *out is NULL where that is nothing. */
static bool find_parameters(const struct mal_model *model,
                            const struct mal_rope_kind *kind, const json_t **out,
                            struct mal_error *err) {
    const char *key;
    json_t *value;
    if (!mal_config_object(model, "rope_parameters", out, err)) return false;
    if (!kind->type || !*out) return true;
    json_object_foreach ((json_t *)*out, key, value) {
        bool right = json_is_object(value) || json_is_null(value);
        if (!right || !has_kind(&model->rotary, key))
            return mal_fail(err, MAL_INVALID,
                            "%s: rope_parameters: \"%s\" is not supported", model->where,
                            key);
    }
    const json_t *own = json_object_get(*out, kind->type);
    *out = json_is_object(own) ? own : NULL;
    return true;
}

/* "rope_scaling" stands for all parameters; of one kind among others it adds to them. */
static bool read_rope(const struct mal_model *model, const struct mal_rope_kind *kind,
                      struct rope *out, struct mal_error *err) {
    const json_t *config = model->config, *parameters, *scaling = NULL;
    double context = (double)model->info.n_context;
    *out = (struct rope){.type = "default",
                         .theta = kind->theta,
                         .share = 1,
                         .original = context,
                         .truncate = true};
    if (!mal_json_real_opt(config, kind->theta_key, &out->theta, model->where, err) ||
        !mal_json_real_opt(config, "partial_rotary_factor", &out->share, model->where,
                           err) ||
        !find_parameters(model, kind, &parameters, err) ||
        (kind->scales && !mal_config_object(model, "rope_scaling", &scaling, err))) {
        return false;
    }
    if (scaling && !kind->type) parameters = NULL;
    if ((parameters && !read_parameters(parameters, out, model->where, err)) ||
        (scaling && !read_parameters(scaling, out, model->where, err)))
        return false;
    /* may stand outside */
    if (!mal_config_real_opt(model, "original_max_position_embeddings", &out->original,
                             err)) {
        return false;
    }
    bool ratio = is(out, "yarn") || is(out, "longrope");
    if (ratio && out->factor == 0 && out->original > 0)
        out->factor = context / out->original;
    if (out->fast == 0) out->fast = 32;
    if (out->slow == 0) out->slow = 1;
    return true;
}

/* ---- Angles ---- */

static float attention_factor(const struct rope *rope) {
    bool yarn = is(rope, "yarn");
    if (!yarn && !is(rope, "longrope")) return 1;
    if (rope->attention > 0) return (float)rope->attention;
    if (rope->factor <= 1) return 1;
    double stretched = log(rope->factor);
    if (!yarn) return (float)sqrt(1 + stretched / log(rope->original));
    if (rope->mscale == 0 || rope->mscale_all == 0) return (float)(0.1 * stretched + 1);
    return (float)((0.1 * rope->mscale * stretched + 1) /
                   (0.1 * rope->mscale_all * stretched + 1));
}

/* Low frequencies are slowed down, high ones kept, those between interpolated. */
static float slow_llama3(const struct rope *rope, float freq) {
    const float two_pi = 6.283185307179586F;
    float original = (float)rope->original, wavelength = two_pi / freq;
    if (wavelength < original / (float)rope->high) return freq;
    if (wavelength > original / (float)rope->low) return freq / (float)rope->factor;
    float smooth =
        (original / wavelength - (float)rope->low) / (float)(rope->high - rope->low);
    return (1 - smooth) * (freq / (float)rope->factor) + smooth * freq;
}

/* The channel whose angle makes `turns` in the original context. */
static double channel_of(const struct rope *rope, int64_t size, double turns) {
    return (double)size * log(rope->original / (turns * 2 * M_PI)) /
           (2 * log(rope->theta));
}

/* Likewise, between channels that make beta_fast and beta_slow turns. */
static float slow_yarn(const struct rope *rope, int64_t i, int64_t half, float wave) {
    double low = channel_of(rope, 2 * half, rope->fast);
    double high = channel_of(rope, 2 * half, rope->slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)(2 * half - 1));
    if (low == high) high += 0.001;
    float ramp = ((float)i - (float)low) / (float)(high - low);
    float kept = 1 - fminf(fmaxf(ramp, 0), 1);
    return 1 / ((float)rope->factor * wave) * (1 - kept) + 1 / wave * kept;
}

static float inverse_frequency(const struct rope *rope, int64_t i, int64_t half) {
    float exponent = (float)(2 * i) / (float)(2 * half);
    float wave = (float)pow(rope->theta, (double)exponent), freq = 1.0F / wave;
    if (is(rope, "linear")) return freq / (float)rope->factor;
    if (is(rope, "llama3")) return slow_llama3(rope, freq);
    if (is(rope, "yarn")) return slow_yarn(rope, i, half, wave);
    if (is(rope, "longrope")) {
        const json_t *factor = json_array_get(rope->short_factor, (size_t)i);
        return 1.0F / ((float)json_number_value(factor) * wave);
    }
    return freq;
}

/* ---- The model's ---- */

static const struct mal_rope_kind one_kind = {NULL, "rope_theta", 10000, true};

static bool is_whole(const struct mal_model *model, const struct mal_rope_kind *kind,
                     struct mal_error *err) {
    struct rope rope;
    if (!read_rope(model, kind, &rope, err)) return false;
    return (rope.share >= 1 && rope.share <= 1) ||
           mal_fail(err, MAL_INVALID, "%s: partial_rotary_factor %g is not supported",
                    model->where, rope.share);
}

static bool add_kind(struct mal_model *model, int k, struct mal_error *err) {
    struct mal_rotary *rotary = &model->rotary;
    struct rope rope;
    if (!read_rope(model, &rotary->kinds[k], &rope, err) ||
        !check(model, &rotary->kinds[k], &rope, rotary->half, err))
        return false;
    rotary->scale[k] = attention_factor(&rope);
    model->n_derived += (rotary->half + 15) / 16 * 16;
    /* a longer text would have other angles, from its first token on */
    if (is(&rope, "longrope") && rope.original < (double)model->info.n_context)
        model->info.n_context = (int64_t)rope.original;
    return true;
}

static bool set_rotary(struct mal_model *model, const char *key, int64_t size,
                       const struct mal_rotary *rotary, struct mal_error *err) {
    if (size < 2 || size % 2 != 0 || size > model->head_size) {
        return mal_fail(
            err, MAL_INVALID,
            "%s: %s: %lld of %lld channels of a head cannot be rotated, they are not "
            "pairs or more than there are",
            model->where, key, (long long)size, (long long)model->head_size);
    }
    model->rotary = *rotary;
    model->rotary.half = size / 2;
    for (int k = 0; k < rotary->n_kinds; k++) {
        if (!add_kind(model, k, err)) return false;
    }
    return true;
}

bool mal_config_rotary(struct mal_model *model, const char *key, int64_t size,
                       bool interleaved, struct mal_error *err) {
    return is_whole(model, &one_kind, err) &&
           set_rotary(model, key, size,
                      &(struct mal_rotary){
                          .interleaved = interleaved, .kinds = &one_kind, .n_kinds = 1},
                      err);
}

bool mal_config_rotary_share(struct mal_model *model, struct mal_error *err) {
    struct rope rope;
    if (!read_rope(model, &one_kind, &rope, err)) return false;
    bool right = rope.share > 0 && rope.share <= 1;
    int64_t size = right ? (int64_t)((double)model->head_size * rope.share) : 0;
    return set_rotary(model, "partial_rotary_factor", size,
                      &(struct mal_rotary){.kinds = &one_kind, .n_kinds = 1}, err);
}

bool mal_config_rotary_kinds(struct mal_model *model, const struct mal_rope_kind *kinds,
                             int n_kinds, struct mal_error *err) {
    assert(n_kinds <= MAL_MOST_ROPES);
    if (!set_rotary(model, "head_dim", model->head_size,
                    &(struct mal_rotary){.kinds = kinds, .n_kinds = n_kinds}, err))
        return false;
    for (int k = 0; k < n_kinds; k++) {
        if (!is_whole(model, &kinds[k], err)) return false;
    }
    return true;
}

static bool derive_kind(struct mal_model *model, int k, float *host,
                        struct mal_error *err) {
    struct mal_rotary *rotary = &model->rotary;
    struct rope rope;
    if (!read_rope(model, &rotary->kinds[k], &rope, err)) return false;
    for (int64_t i = 0; i < rotary->half; i++)
        host[i] = inverse_frequency(&rope, i, rotary->half);
    float *inv_freq = mal_derived_floats(model, rotary->half);
    mal_backend_upload(model->be, inv_freq, host, (size_t)rotary->half * sizeof *host);
    rotary->inv_freq[k] = inv_freq;
    return mal_backend_sync(model->be, err);
}

bool mal_derive_rotary(struct mal_model *model, struct mal_error *err) {
    float *host = mal_malloc((size_t)model->rotary.half * sizeof *host);
    bool ok = host || mal_fail(err, MAL_NO_MEMORY, "rotary positions");
    for (int k = 0; ok && k < model->rotary.n_kinds; k++)
        ok = derive_kind(model, k, host, err);
    mal_free(host);
    return ok;
}
