/* weights.c - the tensors an architecture asks for: found in the checkpoint, then all
 * loaded at once, slice by slice, so that nothing is ever there twice. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/model/model_impl.h"
#include "core/text.h"

enum { NAME_ROOM = 192 };

/* ---- Binding ---- */

static bool bind_source(struct mal_model *model, struct mal_checkpoint_tensor source,
                        enum mal_dtype dtype, const void **dst, struct mal_error *err) {
    if (model->n_bindings == model->bindings_capacity) {
        size_t capacity = model->bindings_capacity ? 2 * model->bindings_capacity : 64;
        void *grown = mal_realloc(model->bindings, capacity * sizeof *model->bindings);
        if (!grown) return mal_fail(err, MAL_NO_MEMORY, "bindings");
        model->bindings = grown;
        model->bindings_capacity = capacity;
    }
    model->bindings[model->n_bindings++] = (struct mal_binding){source, dst, dtype, 0};
    return true;
}

/* The name in the checkpoint: the head's tensors stand outside of the backbone. */
static void full_name(const struct mal_model *model, const char *name, const char *suffix,
                      char *out, size_t size) {
    bool outside =
        strncmp(name, "lm_head.", 8) == 0 || strncmp(name, "classifier.", 11) == 0;
    snprintf(out, size, "%s%s%s", outside ? model->prefix.head : model->prefix.backbone,
             name, suffix);
}

static struct mal_checkpoint_tensor find(const struct mal_model *model,
                                         const char *name) {
    char full[NAME_ROOM];
    full_name(model, name, "", full, sizeof full);
    return mal_checkpoint_find(model->ckpt, full);
}

bool mal_has_tensor(const struct mal_model *model, const char *name) {
    return find(model, name).tensor != NULL;
}

bool mal_bind_tensor(struct mal_model *model, const char *name, int n_dims,
                     const int64_t *shape, const float **dst, struct mal_error *err) {
    char full[NAME_ROOM];
    full_name(model, name, "", full, sizeof full);
    struct mal_checkpoint_tensor source;
    return mal_checkpoint_need(model->ckpt, full, n_dims, shape, &source, err) &&
           bind_source(model, source, MAL_F32, (const void **)dst, err);
}

static enum mal_dtype kept_as(enum mal_dtype stored) {
    return stored == MAL_F64 ? MAL_F32 : stored;
}

bool mal_bind_matrix(struct mal_model *model, const char *name, int64_t rows,
                     int64_t columns, struct mal_matrix *dst, struct mal_error *err) {
    char full[NAME_ROOM];
    full_name(model, name, "", full, sizeof full);
    struct mal_checkpoint_tensor source;
    int64_t shape[] = {rows, columns};
    if (!mal_checkpoint_need(model->ckpt, full, 2, shape, &source, err)) return false;
    dst->dtype = kept_as(source.tensor->dtype);
    return bind_source(model, source, dst->dtype, &dst->w, err);
}

/* Whether two tensors are the same in every byte. */
static bool same_data(const struct mal_checkpoint_tensor *a,
                      const struct mal_checkpoint_tensor *b, bool *out,
                      struct mal_error *err) {
    enum { PIECE = 1 << 18 };
    const struct mal_st_tensor *s = a->tensor, *t = b->tensor;
    size_t shape = (size_t)s->n_dims * sizeof *s->shape;
    *out = s->dtype == t->dtype && s->n_dims == t->n_dims &&
           memcmp(s->shape, t->shape, shape) == 0;
    char *piece = mal_malloc(2 * (size_t)PIECE);
    bool ok = piece || mal_fail(err, MAL_NO_MEMORY, "comparing tensors");
    for (uint64_t at = 0; ok && *out && at < s->bytes; at += PIECE) {
        size_t n = s->bytes - at < PIECE ? (size_t)(s->bytes - at) : PIECE;
        ok = mal_safetensors_read(a->file, s, at, piece, n, err) &&
             mal_safetensors_read(b->file, t, at, piece + PIECE, n, err);
        *out = ok && memcmp(piece, piece + PIECE, n) == 0;
    }
    mal_free(piece);
    return ok;
}

bool mal_bind_head(struct mal_model *model, const char *embeddings, bool tied,
                   struct mal_error *err) {
    static const char own[] = "lm_head.weight";
    const char *name = own;
    if (tied && !mal_has_tensor(model, own)) name = embeddings;
    if (tied && name == own) {
        bool same;
        struct mal_checkpoint_tensor a = find(model, embeddings), b = find(model, own);
        if (!same_data(&a, &b, &same, err)) return false;
        if (same) name = embeddings;
    }
    return mal_bind_matrix(model, name, model->info.n_vocab, model->info.n_channels,
                           &model->head, err);
}

bool mal_bind_gain(struct mal_model *model, const char *name, int64_t n,
                   const float **dst, struct mal_error *err) {
    if (!mal_bind_tensor(model, name, 1, &n, dst, err)) return false;
    model->bindings[model->n_bindings - 1].added = model->gain_base;
    return true;
}

/* "<name>.weight", or as it was called first. */
static void norm_part(const struct mal_model *model, const char *name, const char *part,
                      const char *old, char out[NAME_ROOM]) {
    snprintf(out, NAME_ROOM, "%s.%s", name, old);
    if (!mal_has_tensor(model, out)) snprintf(out, NAME_ROOM, "%s.%s", name, part);
}

bool mal_bind_norm(struct mal_model *model, const char *name,
                   struct mal_norm_weights *dst, struct mal_error *err) {
    char full[NAME_ROOM];
    int64_t c = model->info.n_channels;
    norm_part(model, name, "weight", "gamma", full);
    if (!mal_bind_gain(model, full, c, &dst->gain, err)) return false;
    if (model->rms) return true;
    norm_part(model, name, "bias", "beta", full);
    return mal_bind_tensor(model, full, 1, &c, &dst->bias, err);
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

/* Passes need biases in fp32. */
static bool bind_bias(struct mal_model *model, struct mal_linear *lin,
                      struct mal_error *err) {
    char name[NAME_ROOM];
    struct mal_checkpoint_tensor source;
    snprintf(name, sizeof name, "%s.bias", lin->name);
    struct mal_linear *bias = lin->own_bias = mal_calloc(1, sizeof *bias);
    if (!bias) return mal_fail(err, MAL_NO_MEMORY, "linear layers");
    *bias = (struct mal_linear){.name = mal_strdup(name),
                                .d_in = 1,
                                .d_out = lin->d_out,
                                .w_dtype = MAL_F32,
                                .bias_of = lin,
                                .block = lin->block,
                                .of_source = lin->of_source,
                                .edit = -1};
    if (!bias->name) return mal_fail(err, MAL_NO_MEMORY, "linear layers");
    if (!mal_checkpoint_need(model->ckpt, name, 1, &lin->d_out, &source, err))
        return false;
    bias->dtype = source.tensor->dtype;
    return bind_source(model, source, MAL_F32, &bias->w0, err);
}

static bool bind_linear(struct mal_model *model, const char *where,
                        const struct mal_linear_spec *spec, int64_t block,
                        struct mal_error *err) {
    char name[NAME_ROOM - 32], full[NAME_ROOM];
    snprintf(name, sizeof name, "%s%s", where, spec->name);
    full_name(model, name, "", full, sizeof full);
    struct mal_linear *lin = spec->dst;
    *lin = (struct mal_linear){.d_in = spec->d_in,
                               .d_out = spec->d_out,
                               .transposed = spec->transposed,
                               .of_source = block < model->encoder.n,
                               .block = block,
                               .edit = -1};
    if (!register_linear(model, lin, err)) return false;
    lin->name = mal_strdup(full); /* freed with those that are registered */
    if (!lin->name) return mal_fail(err, MAL_NO_MEMORY, "linear layers");

    struct mal_checkpoint_tensor source;
    int64_t in = spec->d_in, out = spec->d_out;
    int64_t shape[] = {spec->transposed ? out : in, spec->transposed ? in : out};
    full_name(model, name, ".weight", full, sizeof full);
    if (!mal_checkpoint_need(model->ckpt, full, 2, shape, &source, err)) return false;
    lin->dtype = source.tensor->dtype;
    lin->w_dtype = kept_as(lin->dtype);
    return bind_source(model, source, lin->w_dtype, &lin->w0, err);
}

bool mal_bind_linears(struct mal_model *model, const char *where,
                      const struct mal_linear_spec *specs, size_t n, int64_t block,
                      struct mal_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (!bind_linear(model, where, &specs[i], block, err)) return false;
    }
    for (size_t i = 0; i < n; i++) { /* nothing between the weights */
        if (specs[i].bias && !bind_bias(model, specs[i].dst, err)) return false;
    }
    return true;
}

/* ---- Loading ---- */

enum { SLICE = 1 << 19 }; /* elements read at a time: the buffers stay in the cache */

/* A slice of a tensor on its way to the device. */
struct load_slice {
    const struct mal_checkpoint_tensor *source;
    size_t first, n;      /* elements */
    enum mal_dtype dtype; /* kept as */
    float added;
    char *dst;
};

/* One weight that is no number makes all that the model says none. */
static bool check_finite(const struct load_slice *slice, const void *w,
                         struct mal_error *err) {
    size_t at = mal_find_not_finite(w, slice->dtype, slice->n);
    char shown[MAL_TEXT_SHOWN];
    return at == slice->n ||
           mal_fail(err, MAL_CORRUPT,
                    "%s: tensor '%s' has a NaN or infinite value, element %zu",
                    mal_file_shown(mal_safetensors_path(slice->source->file)),
                    mal_text_shown(shown, slice->source->tensor->name),
                    slice->first + at);
}

static void add_to_each(size_t n, float added, float *x) {
    for (size_t i = 0; i < n; i++)
        x[i] += added;
}

/* Straight into place where the device is the host and nothing is to be converted. */
static bool load_slice(struct mal_model *model, const struct load_slice *slice, void *raw,
                       float *wide, struct mal_error *err) {
    const struct mal_st_tensor *t = slice->source->tensor;
    size_t size = mal_dtype_size(t->dtype), bytes = slice->n * size;
    bool same = t->dtype == slice->dtype;
    bool direct = same && mal_backend_on_host(model->be);
    void *stored = direct ? slice->dst : raw;
    if (!mal_safetensors_read(slice->source->file, t, slice->first * size, stored, bytes,
                              err)) {
        return false;
    }
    if (!same) mal_to_f32(wide, raw, t->dtype, slice->n);
    void *w = same ? stored : wide;
    if (!check_finite(slice, w, err)) return false;
    if (slice->added != 0) add_to_each(slice->n, slice->added, w);
    if (direct) return true;
    mal_backend_upload(model->be, slice->dst, w, slice->n * mal_dtype_size(slice->dtype));
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

static size_t kept_bytes(const struct mal_binding *binding) {
    size_t bytes =
        (size_t)binding->source.tensor->n_elements * mal_dtype_size(binding->dtype);
    return (bytes + 63) / 64 * 64;
}

/* Tensors bound twice (a tied head) are loaded once. */
static const void **bound_before(const struct mal_model *model, size_t i) {
    for (size_t j = 0; j < i; j++) {
        if (model->bindings[j].source.tensor == model->bindings[i].source.tensor &&
            model->bindings[j].dtype == model->bindings[i].dtype) {
            return model->bindings[j].dst;
        }
    }
    return NULL;
}

size_t mal_count_weights(struct mal_model *model) {
    int64_t by_dtype[MAL_N_DTYPES] = {0};
    size_t total = 0;
    for (size_t i = 0; i < model->n_bindings; i++) {
        const struct mal_st_tensor *t = model->bindings[i].source.tensor;
        if (bound_before(model, i)) continue;
        total += kept_bytes(&model->bindings[i]);
        model->info.n_parameters += t->n_elements;
        by_dtype[t->dtype] += t->n_elements;
    }
    for (int d = 0; d < MAL_N_DTYPES; d++) {
        if (by_dtype[d] > by_dtype[model->info.dtype])
            model->info.dtype = (enum mal_dtype)d;
    }
    return total;
}

static size_t count_slices(const struct mal_model *model) {
    size_t n = 0;
    for (size_t i = 0; i < model->n_bindings; i++) {
        size_t elements = (size_t)model->bindings[i].source.tensor->n_elements;
        if (!bound_before(model, i)) n += (elements + SLICE - 1) / SLICE;
    }
    return n;
}

/* Gives every binding its place, and says what goes there. */
static size_t place_weights(struct mal_model *model, struct load_slice *slices) {
    size_t n = 0;
    for (size_t i = 0; i < model->n_bindings; i++) {
        struct mal_binding *binding = &model->bindings[i];
        const struct mal_st_tensor *t = binding->source.tensor;
        const void **before = bound_before(model, i);
        if (before) {
            *binding->dst = *before;
            continue;
        }
        char *dst = mal_arena_alloc(&model->weights, kept_bytes(binding));
        *binding->dst = dst;
        for (size_t first = 0; first < (size_t)t->n_elements; first += SLICE) {
            size_t left = (size_t)t->n_elements - first;
            slices[n++] =
                (struct load_slice){.source = &binding->source,
                                    .first = first,
                                    .n = left < SLICE ? left : SLICE,
                                    .dtype = binding->dtype,
                                    .added = binding->added,
                                    .dst = dst + first * mal_dtype_size(binding->dtype)};
        }
    }
    return n;
}

float *mal_derived_floats(struct mal_model *model, int64_t n) {
    return mal_arena_floats(&model->weights, (n + 15) / 16 * 16);
}

bool mal_load_weights(struct mal_model *model, struct mal_error *err) {
    size_t total = mal_count_weights(model);
    struct load_slice *slices = mal_calloc(count_slices(model), sizeof *slices);
    if (!slices) return mal_fail(err, MAL_NO_MEMORY, "loading tensors");
    total += (size_t)model->n_derived * sizeof(float);
    bool ok = mal_arena_init(&model->weights, model->be, total, err) &&
              load_slices(model, slices, place_weights(model, slices), err) &&
              mal_backend_sync(model->be, err);
    mal_free(slices);
    return ok;
}
