/* editor_file.c - reads an editor from its safetensors file (core/README.md section 7):
 * what all methods' files have; the rest is the method's. The file is hostile input: what
 * it claims is checked against what it holds before memory is taken.
 */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/editor_impl.h"
#include "core/file.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "core/text.h"

/* ---- Metadata ---- */

bool mal_editor_text(const struct mal_safetensors *file, const char *key,
                     const char **out, struct mal_error *err) {
    *out = mal_safetensors_metadata(file, key);
    return *out || mal_fail(err, MAL_CORRUPT, "metadata '%s' is missing", key);
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
    if (!mal_editor_text(file, "modules", &text, err)) return false;
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
    if (!mal_editor_text(file, "format", &format, err)) return false;
    if (strcmp(format, MAL_EDITOR_FORMAT) != 0) {
        return mal_fail(err, MAL_CORRUPT, "metadata 'format' is '%s', not '%s'",
                        mal_text_shown(shown, format), MAL_EDITOR_FORMAT);
    }
    if (!mal_editor_text(file, "method", &method, err)) return false;
    editor->method = mal_method_find(method);
    if (!editor->method) {
        return mal_fail(err, MAL_CORRUPT, "metadata 'method' is '%s', none of %s",
                        mal_text_shown(shown, method), MAL_METHOD_CHOICES);
    }
    return read_fingerprint(file, editor, err) && read_modules(file, editor, err);
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

bool mal_editor_open(struct mal_editor **out, const char *path, struct mal_error *err) {
    struct mal_safetensors *file;
    if (!mal_safetensors_open(&file, path, err)) return mal_fail_wrap(err, "editor");
    struct mal_editor *editor = mal_calloc(1, sizeof *editor);
    if (!editor) {
        mal_fail(err, MAL_NO_MEMORY, "editor");
        goto fail;
    }
    if (!read_metadata(file, editor, err)) goto fail;
    if (!editor->method->read(editor, file, err)) goto fail;
    if (!hash_file(path, &editor->hash, err)) goto fail;
    mal_safetensors_close(file);
    *out = editor;
    return true;

fail:
    mal_editor_close(editor);
    mal_safetensors_close(file);
    return mal_fail_wrap(err, "editor '%s'", mal_file_shown(path));
}
