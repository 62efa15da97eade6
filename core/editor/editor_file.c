/* editor_file.c - reads an editor from its safetensors file (core/README.md section 7):
 * metadata, then for each shape the tensors of the reference's state dict. The file is
 * hostile input: what it claims is checked against what it holds before memory is taken.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/editor_impl.h"
#include "core/file.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "core/text.h"

enum { MAX_RANK = 1 << 20, MAX_BLOCKS = 64, MAX_MICRO_BATCH = 1 << 20 };

/* ---- Metadata ---- */

static bool need_text(const struct mal_safetensors *file, const char *key,
                      const char **out, struct mal_error *err) {
    *out = mal_safetensors_metadata(file, key);
    return *out || mal_fail(err, MAL_CORRUPT, "metadata '%s' is missing", key);
}

static bool read_choice(const struct mal_safetensors *file, const char *key,
                        const char *const *names, int *out, struct mal_error *err) {
    const char *text;
    char shown[MAL_TEXT_SHOWN];
    if (!need_text(file, key, &text, err)) return false;
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
    if (!need_text(file, key, &text, err)) return false;
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
    if (!need_text(file, "lr", &text, err)) return false;
    char *stop;
    double value = strtod(text, &stop);
    if (stop == text || *stop != 0 || !isfinite(value)) {
        return mal_fail(err, MAL_CORRUPT, "metadata 'lr' is '%s', not a number",
                        mal_text_shown(shown, text));
    }
    *out = value;
    return true;
}

static bool read_fingerprint(const struct mal_safetensors *file,
                             struct mal_editor *editor, struct mal_error *err) {
    const char *text = mal_safetensors_metadata(file, "base_model");
    char shown[MAL_TEXT_SHOWN];
    struct mal_hash hash;
    if (!text) return true;
    if (!mal_hash_from_hex(&hash, text)) {
        return mal_fail(err, MAL_CORRUPT, "metadata 'base_model' is '%s', not a SHA-256",
                        mal_text_shown(shown, text));
    }
    mal_hash_hex(&hash, editor->base_model);
    return true;
}

static bool add_module(struct mal_editor *editor, const json_t *name,
                       struct mal_error *err) {
    if (!json_is_string(name) || json_string_length(name) == 0) {
        return mal_fail(err, MAL_CORRUPT, "metadata 'modules': entry %zu is not a name",
                        editor->n_modules);
    }
    const char *text = json_string_value(name);
    char shown[MAL_TEXT_SHOWN];
    for (size_t i = 0; i < editor->n_modules; i++) {
        if (strcmp(editor->modules[i].name, text) == 0) {
            return mal_fail(err, MAL_CORRUPT, "metadata 'modules' has '%s' twice",
                            mal_text_shown(shown, text));
        }
    }
    char *copy = mal_strdup(text);
    if (!copy) return mal_fail(err, MAL_NO_MEMORY, "editor modules");
    editor->modules[editor->n_modules++] =
        (struct mal_editor_module){.name = copy, .shape = SIZE_MAX};
    return true;
}

static bool read_modules(const struct mal_safetensors *file, struct mal_editor *editor,
                         struct mal_error *err) {
    const char *text;
    if (!need_text(file, "modules", &text, err)) return false;
    json_error_t problem;
    json_t *list = mal_json_parse(text, strlen(text), JSON_REJECT_DUPLICATES, &problem);
    if (!list) return mal_json_fail(&problem, MAL_CORRUPT, "metadata 'modules'", err);
    bool ok = json_is_array(list) && json_array_size(list) > 0;
    if (!ok) mal_fail(err, MAL_CORRUPT, "metadata 'modules' is not a list of names");
    if (ok) editor->modules = mal_calloc(json_array_size(list), sizeof *editor->modules);
    if (ok && !editor->modules) {
        mal_fail(err, MAL_NO_MEMORY, "editor modules");
        ok = false;
    }
    for (size_t i = 0; ok && i < json_array_size(list); i++)
        ok = add_module(editor, json_array_get(list, i), err);
    json_decref(list);
    return ok;
}

static bool read_metadata(const struct mal_safetensors *file, struct mal_editor *editor,
                          struct mal_error *err) {
    const char *format, *method;
    char shown[MAL_TEXT_SHOWN];
    int tokens, loss;
    if (!need_text(file, "format", &format, err)) return false;
    if (strcmp(format, MAL_EDITOR_FORMAT) != 0) {
        return mal_fail(err, MAL_CORRUPT, "metadata 'format' is '%s', not '%s'",
                        mal_text_shown(shown, format), MAL_EDITOR_FORMAT);
    }
    if (!need_text(file, "method", &method, err)) return false;
    if (!mal_method_from_name(&editor->method, method)) {
        return mal_fail(err, MAL_CORRUPT,
                        "metadata 'method' is '%s', not 'malmen', 'mend' or 'ultraedit'",
                        mal_text_shown(shown, method));
    }
    if (!read_choice(file, "tokens", mal_tokens_names, &tokens, err) ||
        !read_choice(file, "loss", mal_loss_names, &loss, err) ||
        !read_int(file, "micro_batch", 1, MAX_MICRO_BATCH, &editor->micro_batch, err))
        return false;
    editor->tokens = (enum mal_edit_tokens)tokens;
    editor->loss = (enum mal_loss)loss;
    if (mal_safetensors_metadata(file, "n_edits") &&
        !read_int(file, "n_edits", 0, INT32_MAX, &editor->n_edits, err))
        return false;
    if (editor->method == MAL_ULTRAEDIT) {
        if (!read_step(file, &editor->lr, err)) return false;
    } else if (!read_int(file, "rank", 1, MAX_RANK, &editor->rank, err) ||
               !read_int(file, "blocks", 0, MAX_BLOCKS, &editor->n_blocks, err)) {
        return false;
    }
    return read_fingerprint(file, editor, err) && read_modules(file, editor, err);
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

/* How many modules each shape has: rows of its lr, or UltraEdit's of its preservation
 * weight, which else has nothing per module. */
static bool count_modules(const struct mal_safetensors *file, struct mal_editor *editor,
                          struct mal_error *err) {
    int64_t total = 0;
    if (editor->method == MAL_ULTRAEDIT && editor->preserve.n == 0) {
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
                        mal_text_shown(shown, name), mal_method_name(editor->method));
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

/* ---- Entries ---- */

static bool hash_file(const char *path, struct mal_hash *out, struct mal_error *err) {
    struct mal_hasher *hasher = NULL;
    unsigned char *buffer = NULL;
    bool ok = false;
    FILE *f = fopen(path, "rb");
    if (!f) return mal_fail(err, MAL_IO, "cannot be read again");

    enum { BUFFER = 1 << 18 };

    buffer = mal_malloc(BUFFER);
    if (!buffer) {
        mal_fail(err, MAL_NO_MEMORY, "file buffer");
        goto done;
    }
    if (!mal_hasher_create(&hasher, err)) goto done;
    for (size_t n; (n = fread(buffer, 1, BUFFER, f)) > 0;)
        mal_hasher_add(hasher, buffer, n);
    if (ferror(f)) {
        mal_fail(err, MAL_IO, "cannot be read to its end");
        goto done;
    }
    *out = mal_hasher_end(hasher);
    ok = true;

done:
    mal_hasher_destroy(hasher);
    mal_free(buffer);
    (void)fclose(f);
    return ok;
}

static void resolve_single_shape(struct mal_editor *editor) {
    if (editor->n_shapes != 1) return;
    for (size_t i = 0; i < editor->n_modules; i++) {
        editor->modules[i].shape = 0;
        editor->modules[i].row = i;
    }
}

bool mal_editor_open(struct mal_editor **out, const char *path, struct mal_error *err) {
    struct mal_safetensors *file;
    if (!mal_safetensors_open(&file, path, err)) return mal_fail_wrap(err, "editor");
    struct mal_editor *editor = mal_calloc(1, sizeof *editor);
    if (!editor) {
        mal_fail(err, MAL_NO_MEMORY, "editor");
        goto fail;
    }
    if (!read_metadata(file, editor, err)) goto fail;
    if (editor->method != MAL_MEND &&
        !mal_preserve_texts_read(&editor->preserve, file, err))
        goto fail;
    if (!find_shapes(file, editor, err)) goto fail;
    if (!count_modules(file, editor, err)) goto fail;
    if (!check_tensors(file, editor, err)) goto fail;
    if (!read_tensors(file, editor, err)) goto fail;
    if (!hash_file(path, &editor->hash, err)) goto fail;
    resolve_single_shape(editor);
    mal_safetensors_close(file);
    *out = editor;
    return true;

fail:
    mal_editor_close(editor);
    mal_safetensors_close(file);
    return mal_fail_wrap(err, "editor '%s'", mal_file_shown(path));
}
