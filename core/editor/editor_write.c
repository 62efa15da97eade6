/* editor_write.c - writes an editor in the form editor_file.c reads. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/editor_impl.h"
#include "core/file.h"
#include "core/json.h"
#include "core/safetensors.h"

enum { MAX_META = 12, NUMBER = 32 };

struct metadata {
    struct mal_st_meta entries[MAX_META];
    size_t n;
    char *modules; /* JSON, owned */
    char micro_batch[NUMBER], rank[NUMBER], blocks[NUMBER], n_edits[NUMBER], lr[NUMBER];
};

static void add(struct metadata *meta, const char *key, const char *value) {
    meta->entries[meta->n++] = (struct mal_st_meta){key, value};
}

static void add_int(struct metadata *meta, const char *key, char text[NUMBER],
                    int64_t value) {
    (void)snprintf(text, NUMBER, "%" PRId64, value);
    add(meta, key, text);
}

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

static bool make_metadata(const struct mal_editor *editor, struct metadata *meta,
                          struct mal_error *err) {
    meta->modules = modules_json(editor);
    if (!meta->modules) return mal_fail(err, MAL_NO_MEMORY, "metadata");
    add(meta, "format", MAL_EDITOR_FORMAT);
    add(meta, "method", mal_method_name(editor->method));
    add(meta, "modules", meta->modules);
    add(meta, "tokens", mal_tokens_names[editor->tokens]);
    add(meta, "loss", mal_loss_names[editor->loss]);
    add_int(meta, "micro_batch", meta->micro_batch, editor->micro_batch);
    if (editor->method == MAL_ULTRAEDIT) {
        (void)snprintf(meta->lr, sizeof meta->lr, "%.17g", editor->lr);
        add(meta, "lr", meta->lr);
    } else {
        add_int(meta, "rank", meta->rank, editor->rank);
        add_int(meta, "blocks", meta->blocks, editor->n_blocks);
    }
    if (editor->n_edits > 0) add_int(meta, "n_edits", meta->n_edits, editor->n_edits);
    if (editor->base_model[0]) add(meta, "base_model", editor->base_model);
    return true;
}

static void make_entries(const struct mal_editor *editor,
                         struct mal_editor_tensor *tensors,
                         struct mal_st_entry *entries) {
    size_t n = mal_editor_n_tensors(editor);
    for (size_t i = 0; i < n * editor->n_shapes; i++) {
        mal_editor_tensor_at(editor, &editor->shapes[i / n], i % n, &tensors[i]);
        entries[i] =
            (struct mal_st_entry){.name = tensors[i].name,
                                  .dtype = MAL_F32,
                                  .n_dims = tensors[i].n_dims,
                                  .shape = {tensors[i].dims[0], tensors[i].dims[1]},
                                  .data = tensors[i].data};
    }
    if (editor->preserve.n == 0) return;
    const struct mal_preserve_texts *texts = &editor->preserve;
    int64_t n_texts = (int64_t)texts->n;
    const int32_t *data[] = {texts->ids, texts->start, texts->from};
    const int64_t sizes[] = {texts->start[n_texts], n_texts + 1, n_texts};
    for (size_t i = 0; i < MAL_N_PRESERVE; i++) {
        entries[n * editor->n_shapes + i] =
            (struct mal_st_entry){.name = mal_preserve_names[i],
                                  .dtype = MAL_I32,
                                  .n_dims = 1,
                                  .shape = {sizes[i]},
                                  .data = data[i]};
    }
}

bool mal_editor_save(const struct mal_editor *editor, const char *path,
                     struct mal_error *err) {
    size_t n = mal_editor_n_tensors(editor) * editor->n_shapes;
    struct metadata meta = {0};
    struct mal_editor_tensor *tensors = mal_calloc(n, sizeof *tensors);
    size_t n_all = n + (editor->preserve.n > 0 ? MAL_N_PRESERVE : 0);
    struct mal_st_entry *entries = mal_calloc(n_all, sizeof *entries);
    bool ok = false;
    if (!tensors || !entries) {
        mal_fail(err, MAL_NO_MEMORY, "tensors");
    } else if (make_metadata(editor, &meta, err)) {
        make_entries(editor, tensors, entries);
        ok = mal_safetensors_write(path, entries, n_all, meta.entries, meta.n, err);
    }
    mal_free(meta.modules);
    mal_free(tensors);
    mal_free(entries);
    return ok || mal_fail_wrap(err, "editor '%s'", mal_file_shown(path));
}
