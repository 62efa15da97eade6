/* editor_create.c - an untrained editor: the identity network over empty statistics
 * (core/README.md section 3, step 2: A is normal, B, bias and shift 0, scale 1). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/editor_impl.h"
#include "core/random.h"

enum { MICRO_BATCH = 32 }; /* the paper's */

/* ---- Normal numbers ---- */

static void fill_normal(float *dst, int64_t n, uint64_t *state) {
    const double two_pi = 6.283185307179586;
    for (int64_t i = 0; i < n; i += 2) { /* Box and Muller */
        double radius = sqrt(-2 * log(mal_random_uniform(state)));
        double angle = two_pi * mal_random_uniform(state);
        dst[i] = (float)(radius * cos(angle));
        if (i + 1 < n) dst[i + 1] = (float)(radius * sin(angle));
    }
}

/* ---- Modules and their shapes ---- */

bool mal_editor_take_modules(struct mal_editor *editor, struct mal_model *model,
                             const char *const *modules, size_t n,
                             struct mal_error *err) {
    if (n == 0) return mal_fail(err, MAL_INVALID, "an editor needs a module to edit");
    editor->modules = mal_calloc(n, sizeof *editor->modules);
    if (!editor->modules) return mal_fail(err, MAL_NO_MEMORY, "editor");
    for (size_t i = 0; i < n; i++) {
        const struct mal_linear *lin = mal_model_find_linear(model, modules[i]);
        if (!lin) {
            return mal_fail(err, MAL_NOT_FOUND, "the model has no linear layer '%s'",
                            modules[i]);
        }
        for (size_t j = 0; j < i; j++) {
            if (strcmp(editor->modules[j].name, lin->name) != 0) continue;
            return mal_fail(err, MAL_INVALID, "module '%s' is named twice", modules[i]);
        }
        editor->modules[i].name = mal_strdup(lin->name);
        if (!editor->modules[i].name) return mal_fail(err, MAL_NO_MEMORY, "editor");
        editor->n_modules = i + 1;
    }
    return true;
}

static bool count_shapes(struct mal_editor *editor, struct mal_model *model,
                         struct mal_error *err) {
    editor->shapes = mal_calloc(editor->n_modules, sizeof *editor->shapes);
    if (!editor->shapes) return mal_fail(err, MAL_NO_MEMORY, "editor");
    for (size_t i = 0; i < editor->n_modules; i++) {
        const struct mal_linear *lin =
            mal_model_find_linear(model, editor->modules[i].name);
        size_t s = 0;
        while (s < editor->n_shapes && (editor->shapes[s].d_in != lin->d_in ||
                                        editor->shapes[s].d_out != lin->d_out))
            s++;
        editor->shapes[s].d_in = lin->d_in;
        editor->shapes[s].d_out = lin->d_out;
        editor->shapes[s].n_modules++;
        if (s == editor->n_shapes) editor->n_shapes++;
    }
    return true;
}

static int by_name(const void *a, const void *b) {
    const struct mal_editor_shape *x = a, *y = b;
    char x_name[MAL_SHAPE_NAME], y_name[MAL_SHAPE_NAME];
    mal_shape_name(x_name, x->d_in, x->d_out);
    mal_shape_name(y_name, y->d_in, y->d_out);
    return strcmp(x_name, y_name);
}

bool mal_editor_take_base(struct mal_editor *editor, struct mal_model *model,
                          struct mal_error *err) {
    struct mal_hash fingerprint;
    if (!mal_model_fingerprint(model, &fingerprint, err)) return false;
    mal_hash_hex(&fingerprint, editor->base_model);
    return true;
}

/* ---- Identity network ---- */

static void fill(float *dst, int64_t n, float value) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = value;
}

static bool make_shapes(struct mal_editor *editor, float lr, uint64_t seed,
                        struct mal_error *err) {
    for (size_t s = 0; s < editor->n_shapes; s++) {
        struct mal_editor_shape *shape = &editor->shapes[s];
        if (!mal_editor_shape_init(shape, shape->d_in, shape->d_out, shape->n_modules,
                                   editor, err))
            return false;
        if (!editor->method->net) continue;
        fill(shape->lr, shape->n_modules, lr);
        for (int64_t i = 0; i < editor->n_blocks; i++) {
            fill_normal(shape->blocks[i].a, shape->size * editor->rank, &seed);
            fill(shape->blocks[i].scale, shape->n_modules * shape->size, 1);
        }
    }
    return true;
}

bool mal_editor_create(struct mal_editor **out, const struct mal_method *method,
                       struct mal_model *model, const char *const *modules,
                       size_t n_modules, int64_t rank, int64_t n_blocks, double lr,
                       uint64_t seed, struct mal_error *err) {
    bool net = method->net;
    if (net && (rank < 1 || n_blocks < 0))
        return mal_fail(err, MAL_INVALID, "rank must be 1 or more, blocks 0 or more");
    struct mal_editor *editor = mal_calloc(1, sizeof *editor);
    if (!editor) return mal_fail(err, MAL_NO_MEMORY, "editor");
    *editor = (struct mal_editor){.method = method,
                                  .tokens = method->all_tokens ? MAL_TOKENS_ALL
                                                               : MAL_TOKENS_ANSWER,
                                  .loss = MAL_LOSS_TOKEN_SUM,
                                  .micro_batch = MICRO_BATCH,
                                  .rank = net ? rank : 0,
                                  .n_blocks = net ? n_blocks : 0,
                                  .lr = net ? 0 : lr};
    if (!mal_editor_take_modules(editor, model, modules, n_modules, err)) goto fail;
    if (!count_shapes(editor, model, err)) goto fail;
    qsort(editor->shapes, editor->n_shapes, sizeof *editor->shapes, by_name);
    if (!make_shapes(editor, (float)lr, seed, err)) goto fail;
    if (!mal_editor_take_base(editor, model, err)) goto fail;
    if (!mal_editor_resolve(editor, model, err)) goto fail;
    *out = editor;
    return true;

fail:
    mal_editor_close(editor);
    return false;
}
