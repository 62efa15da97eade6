/* keyed_file.c - the editor file of a keyed method: for each shape the tensors of the
 * reference's state dict (core/README.md section 7). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/editor_impl.h"
#include "core/safetensors.h"
#include "core/text.h"

enum { MAX_RANK = 1 << 20, MAX_BLOCKS = 64, MAX_MICRO_BATCH = 1 << 20 };

/* ---- Metadata ---- */

static bool read_choice(const struct mal_safetensors *file, const char *key,
                        const char *const *names, int *out, struct mal_error *err) {
    const char *text;
    char shown[MAL_TEXT_SHOWN];
    if (!mal_editor_text(file, key, &text, err)) return false;
    for (int i = 0; i < 2; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *out = i;
        return true;
    }
    return mal_fail(err, MAL_CORRUPT, "metadata '%s' is '%s', not '%s' or '%s'", key,
                    mal_text_shown(shown, text), names[0], names[1]);
}

static bool read_int(const struct mal_safetensors *file, const char *key, int64_t min,
                     int64_t max, int64_t *out, struct mal_error *err) {
    const char *text;
    char shown[MAL_TEXT_SHOWN];
    if (!mal_editor_text(file, key, &text, err)) return false;
    size_t digits = strspn(text, "0123456789");
    int64_t value = digits > 0 && digits < 18 ? strtoll(text, NULL, 10) : -1;
    if (text[digits] != 0 || value < min || value > max) {
        return mal_fail(err, MAL_CORRUPT,
                        "metadata '%s' is '%s', not a whole number from %lld to %lld",
                        key, mal_text_shown(shown, text), (long long)min, (long long)max);
    }
    *out = value;
    return true;
}

static bool read_step(const struct mal_safetensors *file, double *out,
                      struct mal_error *err) {
    const char *text;
    char shown[MAL_TEXT_SHOWN];
    if (!mal_editor_text(file, "lr", &text, err)) return false;
    char *stop;
    double value = strtod(text, &stop);
    if (stop == text || *stop != 0 || !isfinite(value)) {
        return mal_fail(err, MAL_CORRUPT, "metadata 'lr' is '%s', not a number",
                        mal_text_shown(shown, text));
    }
    *out = value;
    return true;
}

static bool read_metadata(const struct mal_safetensors *file, struct mal_editor *editor,
                          struct mal_error *err) {
    int tokens, loss;
    if (!read_choice(file, "tokens", mal_tokens_names, &tokens, err) ||
        !read_choice(file, "loss", mal_loss_names, &loss, err) ||
        !read_int(file, "micro_batch", 1, MAX_MICRO_BATCH, &editor->micro_batch, err))
        return false;
    editor->tokens = (enum mal_edit_tokens)tokens;
    editor->loss = (enum mal_loss)loss;
    if (mal_safetensors_metadata(file, "n_edits") &&
        !read_int(file, "n_edits", 0, INT32_MAX, &editor->n_edits, err))
        return false;
    if (!editor->method->net) return read_step(file, &editor->lr, err);
    return read_int(file, "rank", 1, MAX_RANK, &editor->rank, err) &&
           read_int(file, "blocks", 0, MAX_BLOCKS, &editor->n_blocks, err);
}

/* ---- Shapes ---- */

/* "(64, 32).…": false when the name does not begin so. */
static bool parse_shape(const char *name, int64_t *d_in, int64_t *d_out) {
    long long a = 0, b = 0;
    if (sscanf(name, "(%9lld, %9lld).", &a, &b) != 2 || a <= 0 || b <= 0) return false;
    char canonical[MAL_SHAPE_NAME];
    mal_shape_name(canonical, a, b);
    size_t n = strlen(canonical);
    if (strncmp(name, canonical, n) != 0 || name[n] != '.') return false;
    *d_in = a;
    *d_out = b;
    return true;
}

static bool find_shapes(const struct mal_safetensors *file, struct mal_editor *editor,
                        struct mal_error *err) {
    size_t n = mal_safetensors_count(file);
    editor->shapes = mal_calloc(n, sizeof *editor->shapes);
    if (!editor->shapes) return mal_fail(err, MAL_NO_MEMORY, "editor shapes");
    for (size_t i = 0; i < n; i++) {
        const struct mal_st_tensor *t = mal_safetensors_at(file, i);
        char shown[MAL_TEXT_SHOWN];
        int64_t d_in = 0, d_out = 0;
        if (mal_preserve_is_name(t->name)) continue;
        if (!parse_shape(t->name, &d_in, &d_out)) {
            return mal_fail(err, MAL_CORRUPT, "tensor '%s' is not part of an editor",
                            mal_text_shown(shown, t->name));
        }
        size_t s = 0;
        while (s < editor->n_shapes &&
               (editor->shapes[s].d_in != d_in || editor->shapes[s].d_out != d_out))
            s++;
        if (s < editor->n_shapes) continue;
        editor->shapes[editor->n_shapes++] =
            (struct mal_editor_shape){.d_in = d_in, .d_out = d_out, .size = d_in + d_out};
    }
    return editor->n_shapes > 0 || mal_fail(err, MAL_CORRUPT, "there are no tensors");
}

/* How many modules each shape has: rows of its lr, or without a network of its
 * preservation weight; else it has nothing per module. */
static bool count_modules(const struct mal_safetensors *file, struct mal_editor *editor,
                          struct mal_error *err) {
    int64_t total = 0;
    if (!editor->method->net && editor->preserve.n == 0) {
        if (editor->n_shapes == 1)
            editor->shapes[0].n_modules = (int64_t)editor->n_modules;
        return true;
    }
    for (size_t s = 0; s < editor->n_shapes; s++) {
        struct mal_editor_shape *shape = &editor->shapes[s];
        struct mal_editor_tensor first; /* that has a row for each */
        mal_editor_tensor_at(editor, shape, MAL_N_NORM, &first);
        const struct mal_st_tensor *t = mal_safetensors_find(file, first.name);
        if (!t) return mal_fail(err, MAL_CORRUPT, "tensor '%s' is missing", first.name);
        shape->n_modules = t->n_dims > 0 ? t->shape[0] : 0;
        if (shape->n_modules < 1 || shape->n_modules > (int64_t)editor->n_modules) {
            return mal_fail(err, MAL_CORRUPT, "tensor '%s' has %lld rows for %zu modules",
                            first.name, (long long)shape->n_modules, editor->n_modules);
        }
        total += shape->n_modules;
    }
    if (total == (int64_t)editor->n_modules) return true;
    return mal_fail(err, MAL_CORRUPT,
                    "the tensors are for %lld modules, the metadata names %zu",
                    (long long)total, editor->n_modules);
}

/* ---- Tensors ---- */

static void dims_text(char *out, size_t room, int n_dims, const int64_t *dims) {
    size_t used = (size_t)snprintf(out, room, "(");
    for (int i = 0; i < n_dims && used < room; i++) {
        used += (size_t)snprintf(out + used, room - used, "%s%" PRId64, i ? ", " : "",
                                 dims[i]);
    }
    if (used < room) (void)snprintf(out + used, room - used, ")");
}

static bool check_tensor(const struct mal_safetensors *file,
                         const struct mal_editor_tensor *want, struct mal_error *err) {
    const struct mal_st_tensor *t = mal_safetensors_find(file, want->name);
    if (!t) return mal_fail(err, MAL_CORRUPT, "tensor '%s' is missing", want->name);
    bool same = t->n_dims == want->n_dims;
    for (int i = 0; same && i < want->n_dims; i++)
        same = t->shape[i] == want->dims[i];
    if (same && t->dtype == MAL_F32) return true;
    char has[96], wants[96];
    dims_text(has, sizeof has, t->n_dims, t->shape);
    dims_text(wants, sizeof wants, want->n_dims, want->dims);
    return mal_fail(err, MAL_CORRUPT, "tensor '%s' is %s %s, not F32 %s", want->name,
                    mal_dtype_name(t->dtype), has, wants);
}

static bool read_tensor(const struct mal_safetensors *file,
                        const struct mal_editor_tensor *want, bool not_negative,
                        struct mal_error *err) {
    const struct mal_st_tensor *t = mal_safetensors_find(file, want->name);
    if (!mal_safetensors_read_f32(file, t, want->data, err)) return false;
    for (int64_t i = 0; i < t->n_elements; i++) {
        float x = want->data[i];
        if (isfinite(x) && !(not_negative && x < 0)) continue;
        return mal_fail(err, MAL_CORRUPT, "tensor '%s': element %lld is %g", want->name,
                        (long long)i, (double)x);
    }
    return true;
}

static bool is_expected(const struct mal_editor *editor, const char *name) {
    struct mal_editor_tensor want;
    if (editor->preserve.n > 0 && mal_preserve_is_name(name)) return true;
    for (size_t s = 0; s < editor->n_shapes; s++) {
        for (size_t i = 0; i < mal_editor_n_tensors(editor); i++) {
            mal_editor_tensor_at(editor, &editor->shapes[s], i, &want);
            if (strcmp(want.name, name) == 0) return true;
        }
    }
    return false;
}

static bool check_tensors(const struct mal_safetensors *file,
                          const struct mal_editor *editor, struct mal_error *err) {
    struct mal_editor_tensor want;
    size_t n = mal_editor_n_tensors(editor);
    for (size_t s = 0; s < editor->n_shapes; s++) {
        for (size_t i = 0; i < n; i++) {
            mal_editor_tensor_at(editor, &editor->shapes[s], i, &want);
            if (!check_tensor(file, &want, err)) return false;
        }
    }
    size_t of_texts = editor->preserve.n > 0 ? MAL_N_PRESERVE : 0;
    if (mal_safetensors_count(file) == n * editor->n_shapes + of_texts) return true;
    for (size_t i = 0; i < mal_safetensors_count(file); i++) {
        const char *name = mal_safetensors_at(file, i)->name;
        char shown[MAL_TEXT_SHOWN];
        if (is_expected(editor, name)) continue;
        return mal_fail(err, MAL_CORRUPT,
                        "tensor '%s' has no place in an editor of method %s",
                        mal_text_shown(shown, name), editor->method->name);
    }
    return true;
}

static bool read_tensors(const struct mal_safetensors *file, struct mal_editor *editor,
                         struct mal_error *err) {
    struct mal_editor_tensor want;
    for (size_t s = 0; s < editor->n_shapes; s++) {
        struct mal_editor_shape *shape = &editor->shapes[s];
        if (!mal_editor_shape_init(shape, shape->d_in, shape->d_out, shape->n_modules,
                                   editor, err))
            return false;
        for (size_t i = 0; i < mal_editor_n_tensors(editor); i++) {
            mal_editor_tensor_at(editor, shape, i, &want);
            bool not_negative = i < MAL_N_NORM && i != 1; /* all but the mean */
            if (!read_tensor(file, &want, not_negative, err)) return false;
        }
    }
    return true;
}

/* ---- The whole ---- */

static void resolve_single_shape(struct mal_editor *editor) {
    if (editor->n_shapes != 1) return;
    for (size_t i = 0; i < editor->n_modules; i++) {
        editor->modules[i].shape = 0;
        editor->modules[i].row = i;
    }
}

bool mal_keyed_read(struct mal_editor *editor, const struct mal_safetensors *file,
                    struct mal_error *err) {
    if (!read_metadata(file, editor, err) ||
        (editor->method->solves &&
         !mal_preserve_texts_read(&editor->preserve, file, err)) ||
        !find_shapes(file, editor, err) || !count_modules(file, editor, err) ||
        !check_tensors(file, editor, err) || !read_tensors(file, editor, err))
        return false;
    resolve_single_shape(editor);
    return true;
}
