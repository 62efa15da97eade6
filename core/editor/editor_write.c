/* editor_write.c - writes an editor in the form editor_file.c reads. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/editor_impl.h"
#include "core/file.h"
#include "core/json.h"
#include "core/safetensors.h"

/* ---- Parts of a file ---- */

static void parts_finish(struct mal_editor_parts *parts) {
    for (size_t i = 0; i < parts->n_meta; i++)
        mal_free((char *)parts->meta[i].value);
    for (size_t i = 0; i < parts->n_tensors; i++)
        mal_free((char *)parts->tensors[i].name);
    mal_free(parts->meta);
    mal_free(parts->tensors);
}

bool mal_parts_text(struct mal_editor_parts *parts, const char *key, const char *value,
                    struct mal_error *err) {
    struct mal_st_meta *all = mal_realloc(parts->meta, (parts->n_meta + 1) * sizeof *all);
    if (all) parts->meta = all;
    char *copy = all ? mal_strdup(value) : NULL;
    if (!copy) return mal_fail(err, MAL_NO_MEMORY, "metadata");
    all[parts->n_meta++] = (struct mal_st_meta){key, copy};
    return true;
}

bool mal_parts_int(struct mal_editor_parts *parts, const char *key, int64_t value,
                   struct mal_error *err) {
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRId64, value);
    return mal_parts_text(parts, key, text, err);
}

bool mal_parts_tensor(struct mal_editor_parts *parts, const struct mal_st_entry *tensor,
                      struct mal_error *err) {
    struct mal_st_entry *all =
        mal_realloc(parts->tensors, (parts->n_tensors + 1) * sizeof *all);
    if (all) parts->tensors = all;
    char *name = all ? mal_strdup(tensor->name) : NULL;
    if (!name) return mal_fail(err, MAL_NO_MEMORY, "tensors");
    all[parts->n_tensors] = *tensor;
    all[parts->n_tensors++].name = name;
    return true;
}

/* ---- What every method's file has ---- */

static char *modules_json(const struct mal_editor *editor) {
    mal_json_guard();
    json_t *list = json_array();
    bool ok = list;
    for (size_t i = 0; ok && i < editor->n_modules; i++)
        ok = json_array_append_new(list, json_string(editor->modules[i].name)) == 0;
    char *text = ok ? mal_json_dump(list, 0) : NULL;
    json_decref(list);
    return text;
}

static bool common(const struct mal_editor *editor, struct mal_editor_parts *parts,
                   struct mal_error *err) {
    char *modules = modules_json(editor);
    bool ok = (modules || mal_fail(err, MAL_NO_MEMORY, "metadata")) &&
              mal_parts_text(parts, "format", MAL_EDITOR_FORMAT, err) &&
              mal_parts_text(parts, "method", editor->method->name, err) &&
              mal_parts_text(parts, "modules", modules, err) &&
              (!editor->base_model[0] ||
               mal_parts_text(parts, "base_model", editor->base_model, err));
    mal_free(modules);
    return ok;
}

bool mal_editor_save(const struct mal_editor *editor, const char *path,
                     struct mal_error *err) {
    struct mal_editor_parts parts = {0};
    bool ok = common(editor, &parts, err) && editor->method->write(editor, &parts, err) &&
              mal_safetensors_write(path, parts.tensors, parts.n_tensors, parts.meta,
                                    parts.n_meta, err);
    parts_finish(&parts);
    return ok || mal_fail_wrap(err, "editor '%s'", mal_file_shown(path));
}
