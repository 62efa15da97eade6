/* editor.c - an editor in memory: its shapes, their tensors by name, and its ties to a
 * model. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/editor_impl.h"
#include "core/editor/resident.h"

/* ---- Names ---- */

const char *const mal_tokens_names[2] = {
    [MAL_TOKENS_ANSWER] = "answer", [MAL_TOKENS_ALL] = "all"};
const char *const mal_loss_names[2] = {
    [MAL_LOSS_TOKEN_SUM] = "token_sum", [MAL_LOSS_MICROBATCH_MEAN] = "microbatch_mean"};

void mal_shape_name(char out[MAL_SHAPE_NAME], int64_t d_in, int64_t d_out) {
    (void)snprintf(out, MAL_SHAPE_NAME, "(%" PRId64 ", %" PRId64 ")", d_in, d_out);
}

/* ---- Memory ---- */

static float *floats(int64_t n) {
    return mal_calloc((size_t)n, sizeof(float));
}

bool mal_editor_shape_init(struct mal_editor_shape *shape, int64_t d_in, int64_t d_out,
                           int64_t n_modules, const struct mal_editor *editor,
                           struct mal_error *err) {
    int64_t size = d_in + d_out, rank = editor->rank;
    *shape = (struct mal_editor_shape){
        .d_in = d_in, .d_out = d_out, .size = size, .n_modules = n_modules};
    if (!mal_normalizer_init(&shape->norm, size, err)) return false;
    bool preserve = editor->preserve.n > 0;
    if (preserve && !(shape->preserve = floats(n_modules)))
        return mal_fail(err, MAL_NO_MEMORY, "preservation weights");
    if (!editor->method->net) return true;

    shape->lr = floats(n_modules);
    shape->lamda = floats(n_modules);
    shape->blocks = mal_calloc((size_t)editor->n_blocks, sizeof *shape->blocks);
    bool ok = shape->lr && shape->lamda && shape->blocks;
    for (int64_t i = 0; ok && i < editor->n_blocks; i++) {
        struct mal_block *block = &shape->blocks[i];
        block->a = floats(size * rank);
        block->b = floats(rank * size);
        block->bias = floats(size);
        block->scale = floats(n_modules * size);
        block->shift = floats(n_modules * size);
        ok = block->a && block->b && block->bias && block->scale && block->shift;
    }
    return ok || mal_fail(err, MAL_NO_MEMORY, "editor of shape (%lld, %lld)",
                          (long long)d_in, (long long)d_out);
}

static void shape_finish(struct mal_editor_shape *shape, int64_t n_blocks) {
    mal_normalizer_finish(&shape->norm);
    mal_resident_blocks_destroy(shape->resident);
    for (int64_t i = 0; shape->blocks && i < n_blocks; i++) {
        struct mal_block *block = &shape->blocks[i];
        mal_free(block->a);
        mal_free(block->b);
        mal_free(block->bias);
        mal_free(block->scale);
        mal_free(block->shift);
    }
    mal_free(shape->blocks);
    mal_free(shape->lr);
    mal_free(shape->lamda);
    mal_free(shape->preserve);
}

void mal_editor_close(struct mal_editor *editor) {
    if (!editor) return;
    for (size_t i = 0; editor->shapes && i < editor->n_shapes; i++)
        shape_finish(&editor->shapes[i], editor->n_blocks);
    for (size_t i = 0; editor->modules && i < editor->n_modules; i++)
        mal_free(editor->modules[i].name);
    mal_preserve_texts_finish(&editor->preserve);
    mal_free(editor->shapes);
    mal_free(editor->modules);
    mal_free(editor->hyper);
    if (editor->method && editor->method->close) editor->method->close(editor);
    mal_free(editor);
}

bool mal_editor_set_preserve(struct mal_editor *editor, struct mal_model *model,
                             struct mal_preserve_texts *texts, double share,
                             struct mal_error *err) {
    mal_preserve_texts_finish(&editor->preserve);
    editor->preserve = *texts;
    *texts = (struct mal_preserve_texts){0};
    if (editor->preserve.n > 0 && !(share > 0)) {
        return mal_fail(err, MAL_INVALID,
                        "a preservation weight of %g: what is trained must be above 0",
                        share);
    }
    for (size_t s = 0; s < editor->n_shapes; s++) {
        struct mal_editor_shape *shape = &editor->shapes[s];
        mal_free(shape->preserve);
        shape->preserve = NULL;
        if (editor->preserve.n == 0) continue;
        shape->preserve = floats(shape->n_modules);
        if (!shape->preserve) return mal_fail(err, MAL_NO_MEMORY, "preservation weights");
    }
    for (size_t m = 0; editor->preserve.n > 0 && m < editor->n_modules; m++) {
        struct mal_editor_shape *shape = &editor->shapes[editor->modules[m].shape];
        bool of_source = mal_model_edit(model, m)->of_source;
        int64_t n_keys = mal_preserve_texts_n_keys(&editor->preserve, model, of_source);
        shape->preserve[editor->modules[m].row] =
            (float)log(share * (double)shape->d_in / (double)n_keys);
    }
    return true;
}

/* ---- Tensors of the file ---- */

static size_t n_core_tensors(const struct mal_editor *editor) {
    if (!editor->method->net) return MAL_N_NORM;
    return MAL_N_NORM + 2 + MAL_N_BLOCK * (size_t)editor->n_blocks;
}

size_t mal_editor_n_tensors(const struct mal_editor *editor) {
    return n_core_tensors(editor) + (editor->preserve.n > 0);
}

static void describe(struct mal_editor_tensor *out, int64_t rows, int64_t columns,
                     float *data) {
    out->n_dims = rows > 0 ? 2 : 1;
    out->dims[0] = rows > 0 ? rows : columns;
    out->dims[1] = columns;
    out->data = data;
}

/* `rows` 0: a vector. */
static void describe_block(struct mal_editor_tensor *out,
                           const struct mal_editor_shape *shape, int64_t rank,
                           const struct mal_block *block, size_t k) {
    switch (k) {
    case 0: describe(out, shape->size, rank, block->a); break;
    case 1: describe(out, rank, shape->size, block->b); break;
    case 2: describe(out, 0, shape->size, block->bias); break;
    case 3: describe(out, shape->n_modules, shape->size, block->scale); break;
    default: describe(out, shape->n_modules, shape->size, block->shift); break;
    }
}

void mal_editor_tensor_at(const struct mal_editor *editor, struct mal_editor_shape *shape,
                          size_t i, struct mal_editor_tensor *out) {
    static const char *const norm_names[MAL_N_NORM] = {"n", "mean", "var", "std"};
    static const char *const block_names[MAL_N_BLOCK] = {"A", "B", "bias", "scale.weight",
                                                         "shift.weight"};
    char name[MAL_SHAPE_NAME];
    mal_shape_name(name, shape->d_in, shape->d_out);
    struct mal_normalizer *norm = &shape->norm;
    if (i < MAL_N_NORM) {
        float *const data[MAL_N_NORM] = {&norm->n, norm->mean, norm->var, norm->std};
        (void)snprintf(out->name, sizeof out->name, "%s.normalizer.%s", name,
                       norm_names[i]);
        describe(out, 0, i == 0 ? 1 : shape->size, data[i]);
    } else if (i == n_core_tensors(editor)) {
        (void)snprintf(out->name, sizeof out->name, "%s.preserve.weight", name);
        describe(out, shape->n_modules, 1, shape->preserve);
    } else if (i < MAL_N_NORM + 2) {
        bool lr = i == MAL_N_NORM;
        (void)snprintf(out->name, sizeof out->name, "%s.%s.weight", name,
                       lr ? "lr" : "lamda");
        describe(out, shape->n_modules, 1, lr ? shape->lr : shape->lamda);
    } else {
        size_t block = (i - MAL_N_NORM - 2) / MAL_N_BLOCK,
               k = (i - MAL_N_NORM - 2) % MAL_N_BLOCK;
        (void)snprintf(out->name, sizeof out->name, "%s.blocks.%zu.%s", name, block,
                       block_names[k]);
        static const struct mal_block none; /* before the shape has its memory */
        describe_block(out, shape, editor->rank,
                       shape->blocks ? &shape->blocks[block] : &none, k);
    }
}

/* ---- Ties to a model ---- */

static bool check_base(const struct mal_editor *editor, struct mal_model *model,
                       struct mal_error *err) {
    if (editor->base_model[0] == 0) return true;
    struct mal_hash fingerprint;
    char hex[MAL_HASH_HEX];
    if (!mal_model_fingerprint(model, &fingerprint, err)) return false;
    mal_hash_hex(&fingerprint, hex);
    if (strcmp(hex, editor->base_model) == 0) return true;
    return mal_fail(
        err, MAL_CONFLICT,
        "the editor was made for another base model: fingerprint %s, this one is %s",
        editor->base_model, hex);
}

static bool no_such_module(const struct mal_editor_module *module,
                           struct mal_error *err) {
    return mal_fail(err, MAL_CONFLICT,
                    "the model has no linear layer '%s', which the editor is for",
                    module->name);
}

static bool no_such_shape(const struct mal_editor *editor, const struct mal_linear *lin,
                          struct mal_error *err) {
    char has[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < editor->n_shapes && used < sizeof has; i++) {
        used += (size_t)snprintf(has + used, sizeof has - used, "%s(%lld, %lld)",
                                 i ? ", " : "", (long long)editor->shapes[i].d_in,
                                 (long long)editor->shapes[i].d_out);
    }
    return mal_fail(err, MAL_CONFLICT,
                    "module '%s' is (%lld, %lld) in the model, the editor has %s",
                    lin->name, (long long)lin->d_in, (long long)lin->d_out, has);
}

/* counts (n_shapes) is zero. */
static bool place_modules(struct mal_editor *editor, struct mal_model *model,
                          size_t *counts, struct mal_error *err) {
    for (size_t i = 0; i < editor->n_modules; i++) {
        struct mal_editor_module *module = &editor->modules[i];
        const struct mal_linear *lin = mal_model_find_linear(model, module->name);
        if (!lin) return no_such_module(module, err);
        size_t s = 0;
        while (s < editor->n_shapes && (editor->shapes[s].d_in != lin->d_in ||
                                        editor->shapes[s].d_out != lin->d_out))
            s++;
        if (s == editor->n_shapes) return no_such_shape(editor, lin, err);
        module->shape = s;
        module->row = counts[s]++;
    }
    for (size_t s = 0; s < editor->n_shapes; s++) {
        struct mal_editor_shape *shape = &editor->shapes[s];
        if (!shape->lr && !shape->preserve) shape->n_modules = (int64_t)counts[s];
        if (counts[s] > 0 && shape->n_modules == (int64_t)counts[s]) continue;
        return mal_fail(
            err, MAL_CONFLICT,
            "the editor has %lld modules of shape (%lld, %lld), the model %zu",
            (long long)shape->n_modules, (long long)shape->d_in, (long long)shape->d_out,
            counts[s]);
    }
    return true;
}

/* Where there are no shapes the names are all there is to check. */
static bool check_modules(const struct mal_editor *editor, struct mal_model *model,
                          struct mal_error *err) {
    const struct mal_method *method = editor->method;
    if (method->causal && mal_model_info(model)->kind != MAL_MODEL_CAUSAL) {
        return mal_fail(err, MAL_CONFLICT,
                        "%s edits models that continue a text, this one is a %s",
                        method->title, mal_model_info(model)->architecture);
    }
    for (size_t i = 0; i < editor->n_modules; i++) {
        if (!mal_model_find_linear(model, editor->modules[i].name))
            return no_such_module(&editor->modules[i], err);
    }
    return !method->bind || method->bind(editor, model, err);
}

bool mal_editor_resolve(struct mal_editor *editor, struct mal_model *model,
                        struct mal_error *err) {
    if (!editor->method->keyed) return check_modules(editor, model, err);
    size_t *counts = mal_calloc(editor->n_shapes, sizeof *counts);
    if (!counts) return mal_fail(err, MAL_NO_MEMORY, "editor modules");
    bool ok = place_modules(editor, model, counts, err);
    mal_free(counts);
    return ok;
}

float mal_editor_step(const struct mal_editor *editor, size_t module) {
    const struct mal_editor_module *m = &editor->modules[module];
    const float *lr = editor->shapes[m->shape].lr;
    return lr ? lr[m->row] : (float)editor->lr;
}

bool mal_editor_bind(struct mal_editor *editor, struct mal_model *model,
                     struct mal_error *err) {
    if (!mal_editor_resolve(editor, model, err) || !check_base(editor, model, err))
        return false;
    const char **names = mal_calloc(2 * editor->n_modules, sizeof *names);
    if (!names) return mal_fail(err, MAL_NO_MEMORY, "editor modules");
    size_t n = 0;
    for (size_t i = 0; i < editor->n_modules; i++) {
        const char *name = editor->modules[i].name;
        const struct mal_linear *bias = mal_model_find_linear(model, name)->own_bias;
        names[n++] = name;
        if (editor->method->biases && bias) names[n++] = bias->name;
    }
    bool ok = mal_model_set_edits(model, names, n, err);
    mal_free(names);
    return ok;
}
