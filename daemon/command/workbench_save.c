/* workbench_save.c - the edited weights of a workbench as files. */
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/new_dir.h"
#include "core/new_file.h"
#include "daemon/command/workbench.h"

/* ---- What is exported ---- */

static bool read_shift(void *arg, size_t module, float *out, struct mal_error *err) {
    const struct mal_workbench *wb = arg;
    return mal_weights_read_shift(wb->ws, module, out, err);
}

static bool read_weight(void *arg, size_t module, void *out, struct mal_error *err) {
    const struct mal_workbench *wb = arg;
    const struct mal_linear *lin = mal_model_edit(wb->model, module);
    size_t n = (size_t)(lin->d_in * lin->d_out);
    float *values = mal_malloc(n * sizeof *values);
    bool ok = values || mal_fail(err, MAL_NO_MEMORY, "module '%s'", lin->name);
    ok = ok && mal_weights_read(wb->ws, mal_weights_live(wb->ws), module, values, err);
    if (ok) mal_from_f32(out, values, lin->dtype, n);
    mal_free(values);
    return ok;
}

bool mal_workbench_export(struct mal_workbench *wb, struct mal_export *out,
                          struct mal_error *err) {
    size_t n = mal_model_n_edited(wb->model);
    struct mal_export ex = {.kind = mal_model_info(wb->model)->kind,
                            .base_model = wb->base_model,
                            .version = -1,
                            .shift = read_shift,
                            .weight = read_weight,
                            .arg = wb};
    ex.modules = mal_calloc(n, sizeof *ex.modules);
    bool ok = ex.modules || mal_fail(err, MAL_NO_MEMORY, "edit modules");
    ok = ok && mal_workbench_fingerprint(wb, err);
    for (size_t m = 0; ok && m < n; m++)
        ok = mal_export_add(&ex, mal_model_edit(wb->model, m), err);
    if (!ok) {
        mal_export_finish(&ex);
        return false;
    }
    *out = ex;
    return true;
}

bool mal_workbench_write_delta(struct mal_workbench *wb, const char *path,
                               struct mal_error *err) {
    struct mal_export ex = {0};
    struct mal_new_file file = {0};
    bool ok = mal_workbench_export(wb, &ex, err) && mal_new_file_open(&file, path, err) &&
              mal_export_delta(&ex, &file, err) && mal_new_file_commit(&file, err);
    mal_new_file_abandon(&file);
    mal_export_finish(&ex);
    return ok;
}

bool mal_workbench_save_model(struct mal_workbench *wb, const char *dir,
                              struct mal_error *err) {
    struct mal_export ex = {0};
    bool ok = mal_workbench_export(wb, &ex, err) &&
              mal_export_model(&ex, mal_model_checkpoint(wb->model), dir, err);
    mal_export_finish(&ex);
    return ok;
}

/* ---- Beforehand ---- */

bool mal_workbench_check_out(const char *path, struct mal_error *err) {
    struct stat st;
    if (path[strlen(path) - 1] == '/') {
        return mal_fail(err, MAL_INVALID, "%s: the name of a directory, not of a file",
                        mal_file_shown(path));
    }
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        return mal_fail(err, MAL_INVALID, "%s: not a regular file", path);
    }
    return mal_new_file_check_place(path, err);
}

bool mal_workbench_check_dir(const char *path, struct mal_error *err) {
    return mal_new_dir_check(path, err);
}
