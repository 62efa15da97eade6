/* workbench.c - opening and closing what the one-shot commands work on. */
#include "daemon/command/workbench.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/text.h"
#include "daemon/base/check.h"
#include "daemon/base/report.h"

/* ---- Weight differences ---- */

/* "<module>.weight" -> the module's name; a bias is called as its tensor. NULL: memory is
 * out. */
static char *name_of(const struct mal_st_tensor *t) {
    const char *suffix = ".weight";
    size_t bytes = strlen(t->name), cut = strlen(suffix);
    char *name = mal_strdup(t->name);
    if (name && bytes > cut && strcmp(name + bytes - cut, suffix) == 0)
        name[bytes - cut] = 0;
    return name;
}

/* The edit modules are those of the file. */
static bool set_edits_from(struct mal_workbench *wb, const struct mal_safetensors *file,
                           struct mal_error *err) {
    const char *path = mal_safetensors_path(file);
    size_t n = mal_safetensors_count(file);
    const char **names = mal_calloc(n, sizeof *names);
    if (!names) return mal_fail(err, MAL_NO_MEMORY, "delta");
    bool ok = n > 0 || mal_fail(err, MAL_INVALID, "%s: no tensors", path);
    for (size_t i = 0; ok && i < n; i++) {
        names[i] = name_of(mal_safetensors_at(file, i));
        ok = names[i] || mal_fail(err, MAL_NO_MEMORY, "delta");
    }
    ok = ok && mal_model_set_edits(wb->model, names, n, err);
    for (size_t i = 0; i < n; i++)
        mal_free((char *)names[i]);
    mal_free(names);
    return ok || mal_fail_wrap(err, "%s", path);
}

/* The tensor, in the checkpoint's orientation, as a dense part (d_in, d_out). */
static bool read_part(struct mal_model *model, const struct mal_safetensors *file,
                      const struct mal_st_tensor *t, struct mal_delta_part *part,
                      struct mal_error *err) {
    char *name = name_of(t);
    if (!name) return mal_fail(err, MAL_NO_MEMORY, "delta");
    *part = (struct mal_delta_part){
        .module = name, .encoding = MAL_ENCODING_DENSE, .dtype = MAL_F32};
    const struct mal_linear *lin = mal_model_find_editable(model, name);
    int64_t rows = lin->transposed ? lin->d_out : lin->d_in;
    int64_t cols = lin->transposed ? lin->d_in : lin->d_out;
    int n_dims = lin->bias_of ? 1 : 2;
    if (t->n_dims != n_dims || t->n_elements != rows * cols ||
        t->shape[n_dims - 1] != cols) {
        return mal_fail(err, MAL_INVALID, "%s: %s is not of shape (%lld, %lld)",
                        mal_safetensors_path(file), t->name, (long long)rows,
                        (long long)cols);
    }
    part->d_in = lin->d_in;
    part->d_out = lin->d_out;
    float *data = part->data = mal_malloc(mal_delta_part_bytes(part));
    float *stored = mal_malloc(mal_delta_part_bytes(part));
    bool ok = (data && stored) || mal_fail(err, MAL_NO_MEMORY, "delta");
    ok = ok && mal_safetensors_read_f32(file, t, stored, err);
    for (int64_t i = 0; ok && i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            int64_t at = lin->transposed ? j * rows + i : i * cols + j;
            data[at] = stored[i * cols + j];
        }
    }
    mal_free(stored);
    return ok;
}

/* Weights have the same tensors: names and shapes tell nothing. */
static bool check_format(const struct mal_safetensors *file, struct mal_error *err) {
    const char *format = mal_safetensors_metadata(file, "format");
    const char *path = mal_safetensors_path(file);
    char shown[MAL_TEXT_SHOWN];
    if (!format) {
        return mal_fail(err, MAL_INVALID,
                        "%s: not a weight difference: metadata 'format' is missing",
                        path);
    }
    if (strcmp(format, MAL_DELTA_FORMAT) == 0) return true;
    return mal_fail(err, MAL_INVALID,
                    "%s: not a weight difference%s: metadata 'format' is '%s', not '%s'",
                    path, strcmp(format, "pt") == 0 ? ", but weights or an adapter" : "",
                    mal_text_shown(shown, format), MAL_DELTA_FORMAT);
}

static bool check_base(struct mal_workbench *wb, const struct mal_safetensors *file,
                       struct mal_error *err) {
    const char *base = mal_safetensors_metadata(file, "base_model");
    if (!base) return true;
    if (!mal_workbench_fingerprint(wb, err)) return false;
    if (strcmp(base, wb->base_model) == 0) return true;
    return mal_fail(err, MAL_CONFLICT,
                    "%s: made with another base model: fingerprint %.64s, this "
                    "one is %s",
                    mal_safetensors_path(file), base, wb->base_model);
}

static bool apply_delta(struct mal_workbench *wb, const char *path,
                        struct mal_error *err) {
    struct mal_safetensors *file = NULL;
    struct mal_delta delta = {0};
    if (!mal_safetensors_open(&file, path, err)) return false;
    size_t n = mal_safetensors_count(file);
    bool ok = check_format(file, err) && check_base(wb, file, err) &&
              set_edits_from(wb, file, err);
    delta.parts = mal_calloc(n, sizeof *delta.parts);
    if (!delta.parts) ok = mal_fail(err, MAL_NO_MEMORY, "delta");
    for (size_t i = 0; ok && i < n; i++) {
        ok = read_part(wb->model, file, mal_safetensors_at(file, i),
                       &delta.parts[delta.n_parts++], err);
    }
    ok = ok && mal_weights_create(&wb->ws, wb->model, 0, err) &&
         mal_weights_prepare(wb->ws, &delta, NULL, NULL, err);
    if (ok) {
        mal_weights_publish(wb->ws, 1);
        mal_weights_use(wb->ws, 1);
    }
    mal_delta_finish(&delta);
    mal_safetensors_close(file);
    return ok;
}

/* ---- Opening ---- */

bool mal_workbench_open(struct mal_workbench *wb, const char *model_dir,
                        const char *device, const char *editor_path,
                        const char *delta_path, struct mal_error *err) {
    if (!mal_backend_create(&wb->be, device, err)) return false;
    if (!mal_model_open(&wb->model, model_dir, wb->be, err)) return false;
    if (!mal_tokenizer_open(&wb->tok, model_dir, err)) return false;
    if (!mal_check_model(wb->model, wb->tok, model_dir, err)) return false;
    if (editor_path) {
        if (!mal_editor_open(&wb->editor, editor_path, err)) return false;
        if (!mal_editor_bind(wb->editor, wb->model, err) ||
            !mal_editor_check_statistics(wb->editor, err)) {
            return mal_fail_wrap(err, "%s", editor_path);
        }
        return mal_weights_create(&wb->ws, wb->model, 0, err);
    }
    return !delta_path || apply_delta(wb, delta_path, err);
}

static bool show_preserve(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct mal_bar *bar = arg;
    (void)stage;
    bar->total = total;
    mal_bar_update(bar, done);
    return true;
}

bool mal_workbench_preserve(struct mal_workbench *wb, const char *path, double share,
                            bool json, struct mal_error *err) {
    struct mal_bar bar;
    struct mal_progress progress = {.tick = show_preserve, .arg = &bar};
    struct mal_preserve_texts texts = {0};
    bool ok = !path || mal_preserve_texts_load(&texts, path, wb->model, wb->tok, err);
    if (ok && !path && wb->editor->preserve.n == 0 && share > 0) {
        ok = mal_fail(err, MAL_INVALID,
                      "--preserve-weight needs --preserve FILE: the editor carries no "
                      "texts to preserve");
    }
    mal_bar_start(&bar, "preserve", 0, json);
    ok = ok && mal_preserve_create(&wb->preserve, wb->model, wb->editor, &texts, share,
                                   &progress, err);
    mal_bar_finish(&bar);
    mal_preserve_texts_finish(&texts);
    return ok;
}

void mal_workbench_close(struct mal_workbench *wb) {
    mal_preserve_destroy(wb->preserve);
    mal_weights_destroy(wb->ws);
    mal_editor_close(wb->editor);
    mal_tokenizer_close(wb->tok);
    mal_model_close(wb->model);
    mal_backend_destroy(wb->be);
    *wb = (struct mal_workbench){0};
}

bool mal_workbench_fingerprint(struct mal_workbench *wb, struct mal_error *err) {
    if (wb->base_model[0]) return true;
    struct mal_hash hash;
    if (!mal_model_fingerprint(wb->model, &hash, err)) return false;
    mal_hash_hex(&hash, wb->base_model);
    return true;
}
