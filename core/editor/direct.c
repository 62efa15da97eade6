/* direct.c - editors of methods that work on the weights themselves: modules and
 * numbers. */
#include <string.h>

#include "core/alloc.h"
#include "core/editor/editor_impl.h"
#include "core/editor/hyper.h"
#include "core/safetensors.h"
#include "core/text.h"

static bool alloc_hyper(struct mal_editor *editor, struct mal_error *err) {
    editor->hyper = mal_calloc(editor->method->n_hyper, sizeof *editor->hyper);
    return editor->hyper || mal_fail(err, MAL_NO_MEMORY, "editor");
}

/* ---- The file ---- */

bool mal_direct_read_hyper(struct mal_editor *editor, const struct mal_safetensors *file,
                           struct mal_error *err) {
    const struct mal_method *method = editor->method;
    const char *text;
    return alloc_hyper(editor, err) && mal_editor_text(file, "hyper", &text, err) &&
           mal_hyper_read(method->hyper, method->n_hyper, text, true, editor->hyper,
                          MAL_CORRUPT, "metadata 'hyper'", err);
}

bool mal_direct_read(struct mal_editor *editor, const struct mal_safetensors *file,
                     struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN];
    if (mal_safetensors_count(file) > 0) {
        return mal_fail(err, MAL_CORRUPT,
                        "tensor '%s' has no place in an editor of method %s",
                        mal_text_shown(shown, mal_safetensors_at(file, 0)->name),
                        editor->method->name);
    }
    return mal_direct_read_hyper(editor, file, err);
}

bool mal_direct_write(const struct mal_editor *editor, struct mal_editor_parts *out,
                      struct mal_error *err) {
    const struct mal_method *method = editor->method;
    char *text = mal_hyper_dump(method->hyper, method->n_hyper, editor->hyper);
    bool ok = (text || mal_fail(err, MAL_NO_MEMORY, "metadata")) &&
              mal_parts_text(out, "hyper", text, err);
    mal_free(text);
    return ok;
}

/* ---- Making one ---- */

bool mal_editor_create_direct(struct mal_editor **out, const struct mal_method *method,
                              struct mal_model *model, const char *const *modules,
                              size_t n_modules, const char *hyper,
                              struct mal_error *err) {
    struct mal_editor *editor = mal_calloc(1, sizeof *editor);
    if (!editor) return mal_fail(err, MAL_NO_MEMORY, "editor");
    editor->method = method;
    bool ok = mal_editor_take_modules(editor, model, modules, n_modules, err) &&
              mal_editor_take_base(editor, model, err) && alloc_hyper(editor, err);
    if (ok) method->begin(mal_model_info(model), editor->hyper);
    ok = ok && (!hyper || mal_hyper_read(method->hyper, method->n_hyper, hyper, false,
                                         editor->hyper, MAL_INVALID, "--hyper", err));
    if (!ok) {
        mal_editor_close(editor);
        return false;
    }
    *out = editor;
    return true;
}
