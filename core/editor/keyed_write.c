/* keyed_write.c - writes what the editor file of a keyed method has of its own. */
#include <stdio.h>

#include "core/editor/editor_impl.h"
#include "core/safetensors.h"

static bool add_metadata(const struct mal_editor *editor, struct mal_editor_parts *out,
                         struct mal_error *err) {
    char lr[32];
    if (!mal_parts_text(out, "tokens", mal_tokens_names[editor->tokens], err) ||
        !mal_parts_text(out, "loss", mal_loss_names[editor->loss], err) ||
        !mal_parts_int(out, "micro_batch", editor->micro_batch, err) ||
        (editor->n_edits > 0 && !mal_parts_int(out, "n_edits", editor->n_edits, err)))
        return false;
    (void)snprintf(lr, sizeof lr, "%.17g", editor->lr);
    if (!editor->method->net) return mal_parts_text(out, "lr", lr, err);
    return mal_parts_int(out, "rank", editor->rank, err) &&
           mal_parts_int(out, "blocks", editor->n_blocks, err);
}

static bool add_shapes(const struct mal_editor *editor, struct mal_editor_parts *out,
                       struct mal_error *err) {
    size_t n = mal_editor_n_tensors(editor);
    for (size_t i = 0; i < n * editor->n_shapes; i++) {
        struct mal_editor_tensor t;
        mal_editor_tensor_at(editor, &editor->shapes[i / n], i % n, &t);
        if (!mal_parts_tensor(out,
                              &(struct mal_st_entry){.name = t.name,
                                                     .dtype = MAL_F32,
                                                     .n_dims = t.n_dims,
                                                     .shape = {t.dims[0], t.dims[1]},
                                                     .data = t.data},
                              err))
            return false;
    }
    return true;
}

static bool add_preserve(const struct mal_preserve_texts *texts,
                         struct mal_editor_parts *out, struct mal_error *err) {
    if (texts->n == 0) return true;
    int64_t n = (int64_t)texts->n;
    const int32_t *data[] = {texts->ids, texts->start, texts->from};
    const int64_t sizes[] = {texts->start[n], n + 1, n};
    for (size_t i = 0; i < MAL_N_PRESERVE; i++) {
        if (!mal_parts_tensor(out,
                              &(struct mal_st_entry){.name = mal_preserve_names[i],
                                                     .dtype = MAL_I32,
                                                     .n_dims = 1,
                                                     .shape = {sizes[i]},
                                                     .data = data[i]},
                              err))
            return false;
    }
    return true;
}

bool mal_keyed_write(const struct mal_editor *editor, struct mal_editor_parts *out,
                     struct mal_error *err) {
    return add_metadata(editor, out, err) && add_shapes(editor, out, err) &&
           add_preserve(&editor->preserve, out, err);
}
