/* model.c - opening a checkpoint as a model, its linear layers and which of them are
 * edited. */
#include "core/model/model_impl.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"

static const struct mal_arch *const architectures[] = {&mal_arch_gpt2};

enum { N_ARCHITECTURES = sizeof architectures / sizeof *architectures };

/* ---- Binding ---- */

bool mal_bind_source(struct mal_model *model, struct mal_checkpoint_tensor source,
                     const float **dst, struct mal_error *err) {
    if (model->n_bindings == model->bindings_capacity) {
        size_t capacity = model->bindings_capacity ? 2 * model->bindings_capacity : 64;
        void *grown = mal_realloc(model->bindings, capacity * sizeof *model->bindings);
        if (!grown) return mal_fail(err, MAL_NO_MEMORY, "bindings");
        model->bindings = grown;
        model->bindings_capacity = capacity;
    }
    model->bindings[model->n_bindings++] = (struct mal_binding){source, dst};
    return true;
}

static void full_name(const struct mal_model *model, const char *name, const char *suffix,
                      char *out, size_t size) {
    snprintf(out, size, "%s%s%s", model->prefixed ? model->arch->prefix : "", name,
             suffix);
}

bool mal_bind_tensor(struct mal_model *model, const char *name, int n_dims,
                     const int64_t *shape, const float **dst, struct mal_error *err) {
    char full[192];
    full_name(model, name, "", full, sizeof full);
    struct mal_checkpoint_tensor source;
    if (!mal_checkpoint_need(model->ckpt, full, n_dims, shape, &source, err))
        return false;
    return mal_bind_source(model, source, dst, err);
}

bool mal_bind_norm(struct mal_model *model, const char *name,
                   struct mal_norm_weights *dst, struct mal_error *err) {
    char part[160];
    snprintf(part, sizeof part, "%s.weight", name);
    if (!mal_bind_tensor(model, part, 1, &model->info.n_channels, &dst->gain, err))
        return false;
    snprintf(part, sizeof part, "%s.bias", name);
    return mal_bind_tensor(model, part, 1, &model->info.n_channels, &dst->bias, err);
}

static bool register_linear(struct mal_model *model, struct mal_linear *lin,
                            struct mal_error *err) {
    if (model->n_linears == model->linears_capacity) {
        size_t capacity = model->linears_capacity ? 2 * model->linears_capacity : 64;
        void *grown = mal_realloc(model->linears, capacity * sizeof *model->linears);
        if (!grown) return mal_fail(err, MAL_NO_MEMORY, "linear layers");
        model->linears = grown;
        model->linears_capacity = capacity;
    }
    model->linears[model->n_linears++] = lin;
    return true;
}

bool mal_bind_linear(struct mal_model *model, const char *name, int64_t d_in,
                     int64_t d_out, bool transposed, bool bias, int64_t block,
                     struct mal_linear *dst, struct mal_error *err) {
    char full[192];
    full_name(model, name, "", full, sizeof full);
    *dst = (struct mal_linear){.d_in = d_in,
                               .d_out = d_out,
                               .transposed = transposed,
                               .w_dtype = MAL_F32,
                               .block = block,
                               .edit = -1};
    dst->name = mal_strdup(full);
    if (!dst->name) return mal_fail(err, MAL_NO_MEMORY, "linear layers");

    char part[160];
    struct mal_checkpoint_tensor source;
    int64_t shape[] = {transposed ? d_out : d_in, transposed ? d_in : d_out};
    full_name(model, name, ".weight", full, sizeof full);
    if (!mal_checkpoint_need(model->ckpt, full, 2, shape, &source, err)) return false;
    dst->dtype = source.tensor->dtype;
    if (!mal_bind_source(model, source, (const float **)&dst->w0, err)) return false;
    if (bias) {
        snprintf(part, sizeof part, "%s.bias", name);
        if (!mal_bind_tensor(model, part, 1, &dst->d_out, &dst->bias, err)) return false;
    }
    return register_linear(model, dst, err);
}

void mal_linear_finish(struct mal_linear *lin) {
    mal_free(lin->name);
}

/* ---- Loading ---- */

enum { SLICE = 1 << 19 }; /* elements read at a time: the buffers stay in the cache */

/* A slice of a tensor on its way to the device. */
struct load_slice {
    const struct mal_checkpoint_tensor *source;
    size_t first, n; /* elements */
    float *dst;
};

/* As fp32: straight into place where the device is the host and nothing is to be
 * converted. */
static bool load_slice(struct mal_model *model, const struct load_slice *slice, void *raw,
                       float *wide, struct mal_error *err) {
    const struct mal_st_tensor *t = slice->source->tensor;
    size_t size = mal_dtype_size(t->dtype), bytes = slice->n * size;
    bool direct = t->dtype == MAL_F32 && mal_backend_on_host(model->be);
    void *stored = direct ? slice->dst : raw;
    if (!mal_safetensors_read(slice->source->file, t, slice->first * size, stored, bytes,
                              err)) {
        return false;
    }
    if (direct) return true;
    if (t->dtype != MAL_F32) mal_to_f32(wide, raw, t->dtype, slice->n);
    mal_backend_upload(model->be, slice->dst, t->dtype == MAL_F32 ? raw : wide,
                       slice->n * sizeof *wide);
    return true;
}

/* All slices, by several threads where the device is the host: most of the time goes into
 * memory touched for the first time. */
static bool load_slices(struct mal_model *model, const struct load_slice *slices,
                        size_t n, struct mal_error *err) {
    bool ok = true;
#pragma omp parallel if (mal_backend_on_host(model->be))
    {
        struct mal_error own = {0};
        void *raw = mal_malloc(SLICE * sizeof(double));
        float *wide = mal_malloc(SLICE * sizeof *wide);
        bool mine = (raw && wide) || mal_fail(&own, MAL_NO_MEMORY, "loading tensors");
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < n; i++) {
            if (mine) mine = load_slice(model, &slices[i], raw, wide, &own);
        }
#pragma omp critical(load_slices)
        {
            if (!mine && ok) *err = own;
            ok = ok && mine;
        }
        mal_free(raw);
        mal_free(wide);
    }
    return ok;
}

static int64_t aligned_floats(const struct mal_st_tensor *t) {
    return (t->n_elements + 15) / 16 * 16;
}

/* Tensors bound twice (a tied head) are loaded once. */
static const float **bound_before(const struct mal_model *model, size_t i) {
    for (size_t j = 0; j < i; j++) {
        if (model->bindings[j].source.tensor == model->bindings[i].source.tensor) {
            return model->bindings[j].dst;
        }
    }
    return NULL;
}

/* What is to be loaded: its size, and the kind of number most of it is. */
static int64_t count_weights(struct mal_model *model, size_t *out_slices) {
    int64_t total = 0, by_dtype[MAL_N_DTYPES] = {0};
    for (size_t i = 0; i < model->n_bindings; i++) {
        const struct mal_st_tensor *t = model->bindings[i].source.tensor;
        if (bound_before(model, i)) continue;
        total += aligned_floats(t);
        *out_slices += ((size_t)t->n_elements + SLICE - 1) / SLICE;
        model->info.n_parameters += t->n_elements;
        by_dtype[t->dtype] += t->n_elements;
    }
    for (int d = 0; d < MAL_N_DTYPES; d++) {
        if (by_dtype[d] > by_dtype[model->info.dtype])
            model->info.dtype = (enum mal_dtype)d;
    }
    return total;
}

/* Gives every binding its place, and says what goes there. */
static size_t place_weights(struct mal_model *model, struct load_slice *slices) {
    size_t n = 0;
    for (size_t i = 0; i < model->n_bindings; i++) {
        struct mal_binding *binding = &model->bindings[i];
        const struct mal_st_tensor *t = binding->source.tensor;
        const float **before = bound_before(model, i);
        if (before) {
            *binding->dst = *before;
            continue;
        }
        float *dst = mal_arena_floats(&model->weights, aligned_floats(t));
        *binding->dst = dst;
        for (size_t first = 0; first < (size_t)t->n_elements; first += SLICE) {
            size_t left = (size_t)t->n_elements - first;
            slices[n++] = (struct load_slice){.source = &binding->source,
                                              .first = first,
                                              .n = left < SLICE ? left : SLICE,
                                              .dst = dst + first};
        }
    }
    return n;
}

static bool load_tensors(struct mal_model *model, struct mal_error *err) {
    size_t n = 0;
    int64_t total = count_weights(model, &n);
    struct load_slice *slices = mal_calloc(n, sizeof *slices);
    if (!slices) return mal_fail(err, MAL_NO_MEMORY, "loading tensors");
    bool ok =
        mal_arena_init(&model->weights, model->be, (size_t)total * sizeof(float), err) &&
        load_slices(model, slices, place_weights(model, slices), err) &&
        mal_backend_sync(model->be, err);
    mal_free(slices);
    return ok;
}

/* ---- Opening ---- */

static bool find_arch(struct mal_model *model, struct mal_error *err) {
    const char *type = NULL, *where = mal_checkpoint_config_path(model->ckpt);
    if (!mal_json_string(mal_checkpoint_config(model->ckpt), "model_type", &type, where,
                         err)) {
        return false;
    }
    for (size_t i = 0; i < N_ARCHITECTURES; i++) {
        if (strcmp(type, architectures[i]->model_type) == 0)
            model->arch = architectures[i];
    }
    if (!model->arch) {
        return mal_fail(err, MAL_INVALID, "%s: model_type \"%s\" is not supported", where,
                        type);
    }
    model->info.architecture = model->arch->model_type;
    size_t n = strlen(model->arch->prefix);
    for (size_t i = 0; i < mal_checkpoint_count(model->ckpt); i++) {
        const char *name = mal_checkpoint_at(model->ckpt, i).tensor->name;
        if (strncmp(name, model->arch->prefix, n) == 0) model->prefixed = true;
    }
    return true;
}

static bool read_eos(struct mal_model *model, struct mal_error *err) {
    const json_t *config = mal_checkpoint_config(model->ckpt);
    const json_t *eos = json_object_get(config, "eos_token_id");
    if (json_is_array(eos)) eos = json_array_get(eos, 0);
    model->info.eos = -1;
    if (!eos || json_is_null(eos)) return true;
    json_int_t id = json_is_integer(eos) ? json_integer_value(eos) : -1;
    if (id < 0 || id >= model->info.n_vocab) {
        return mal_fail(err, MAL_INVALID, "%s: eos_token_id is not a token id below %lld",
                        mal_checkpoint_config_path(model->ckpt),
                        (long long)model->info.n_vocab);
    }
    model->info.eos = (int32_t)id;
    return true;
}

bool mal_model_open(struct mal_model **out, const char *dir, struct mal_backend *be,
                    struct mal_error *err) {
    struct mal_model *model = mal_calloc(1, sizeof *model);
    if (!model) return mal_fail(err, MAL_NO_MEMORY, "model");
    model->be = be;
    model->scratch.be = be;
    model->head_bytes = 64 << 20;
    if (!mal_checkpoint_open(&model->ckpt, dir, err)) goto fail;
    if (!find_arch(model, err)) goto fail;
    if (!model->arch->configure(model, err)) goto fail;
    if (!read_eos(model, err)) goto fail;
    model->lowest_edit_block = model->info.n_layers;
    model->tape = mal_calloc((size_t)model->info.n_layers, sizeof *model->tape);
    if (!model->tape) {
        mal_fail(err, MAL_NO_MEMORY, "model");
        goto fail;
    }
    if (!model->arch->bind(model, err)) goto fail;
    if (!load_tensors(model, err)) goto fail;
    for (size_t i = 0; i < model->n_linears; i++) {
        model->linears[i]->w = model->linears[i]->w0;
    }
    *out = model;
    return true;

fail:
    mal_model_close(model);
    return false;
}

void mal_model_close(struct mal_model *model) {
    if (!model) return;
    mal_arena_finish(&model->scratch);
    mal_arena_finish(&model->weights);
    if (model->arch) model->arch->finish(model);
    mal_free(model->tape);
    mal_free(model->bindings);
    mal_free(model->edits);
    mal_free(model->linears);
    mal_checkpoint_close(model->ckpt);
    mal_free(model);
}

const struct mal_model_info *mal_model_info(const struct mal_model *model) {
    return &model->info;
}

struct mal_backend *mal_model_backend(const struct mal_model *model) {
    return model->be;
}

const struct mal_checkpoint *mal_model_checkpoint(const struct mal_model *model) {
    return model->ckpt;
}

bool mal_model_fingerprint(struct mal_model *model, struct mal_hash *out,
                           struct mal_error *err) {
    if (!model->has_fingerprint) {
        if (!mal_checkpoint_fingerprint(model->ckpt, &model->fingerprint, err))
            return false;
        model->has_fingerprint = true;
    }
    *out = model->fingerprint;
    return true;
}

void mal_model_drop_scratch(struct mal_model *model) {
    mal_arena_finish(&model->scratch);
    model->scratch = (struct mal_arena){.be = model->be};
}

struct mal_arena *mal_model_scratch(struct mal_model *model) {
    return &model->scratch;
}

/* ---- Linear layers and edit modules ---- */

size_t mal_model_n_linears(const struct mal_model *model) {
    return model->n_linears;
}

struct mal_linear *mal_model_linear(struct mal_model *model, size_t i) {
    return model->linears[i];
}

/* The backbone's prefix may be there or not: checkpoints of one model come in both forms.
 */
static const char *bare_name(const struct mal_model *model, const char *name) {
    size_t n = strlen(model->arch->prefix);
    return strncmp(name, model->arch->prefix, n) == 0 ? name + n : name;
}

struct mal_linear *mal_model_find_linear(struct mal_model *model, const char *name) {
    for (size_t i = 0; i < model->n_linears; i++) {
        const char *own = bare_name(model, model->linears[i]->name);
        if (strcmp(own, bare_name(model, name)) == 0) return model->linears[i];
    }
    return NULL;
}

static void forget_edits(struct mal_model *model) {
    for (size_t i = 0; i < model->n_linears; i++) {
        model->linears[i]->edit = -1;
        model->linears[i]->w = model->linears[i]->w0;
    }
    mal_free(model->edits);
    model->edits = NULL;
    model->n_edits = 0;
    model->lowest_edit_block = model->info.n_layers;
}

bool mal_model_set_edits(struct mal_model *model, const char *const *names, size_t n,
                         struct mal_error *err) {
    struct mal_linear **edits = mal_calloc(n, sizeof *edits);
    if (!edits) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    for (size_t i = 0; i < n; i++) {
        edits[i] = mal_model_find_linear(model, names[i]);
        bool twice = false;
        for (size_t j = 0; j < i; j++)
            twice = twice || edits[j] == edits[i];
        if (edits[i] && !twice) continue;
        mal_free(edits);
        if (twice)
            return mal_fail(err, MAL_INVALID, "edit module '%s' is named twice",
                            names[i]);
        return mal_fail(
            err, MAL_INVALID,
            "the model has no linear layer '%s'; it has %zu, from '%s' to '%s'", names[i],
            model->n_linears, model->linears[0]->name,
            model->linears[model->n_linears - 1]->name);
    }
    forget_edits(model);
    model->edits = edits;
    model->n_edits = n;
    for (size_t i = 0; i < n; i++) {
        edits[i]->edit = (int)i;
        if (edits[i]->block < model->lowest_edit_block) {
            model->lowest_edit_block = edits[i]->block;
        }
    }
    return true;
}

size_t mal_model_n_edits(const struct mal_model *model) {
    return model->n_edits;
}

struct mal_linear *mal_model_edit(const struct mal_model *model, size_t i) {
    return model->edits[i];
}

static bool ends_with(const char *text, const char *suffix) {
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

bool mal_model_default_edits(const struct mal_model *model, const char ***out,
                             size_t *out_n, struct mal_error *err) {
    const char **names = mal_calloc(model->n_linears, sizeof *names);
    if (!names) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    size_t n = 0;
    for (size_t i = 0; i < model->n_linears; i++) {
        const struct mal_linear *lin = model->linears[i];
        if (lin->block < model->info.n_layers / 2) continue;
        if (ends_with(lin->name, model->arch->default_edit)) names[n++] = lin->name;
    }
    *out = names;
    *out_n = n;
    return true;
}

bool mal_model_set_default_edits(struct mal_model *model, struct mal_error *err) {
    const char **names = NULL;
    size_t n = 0;
    bool ok = mal_model_default_edits(model, &names, &n, err) &&
              mal_model_set_edits(model, names, n, err);
    mal_free(names);
    return ok;
}
