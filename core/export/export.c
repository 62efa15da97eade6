/* export.c - what is exported, and the two formats that are one tensor a module. */
#include "core/export/export.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/export/export_impl.h"
#include "core/new_file.h"

/* ---- What is exported ---- */

bool mal_export_add(struct mal_export *ex, const struct mal_linear *lin,
                    struct mal_error *err) {
    struct mal_export_module module = {.name = mal_strdup(lin->name),
                                       .d_in = lin->d_in,
                                       .d_out = lin->d_out,
                                       .transposed = lin->transposed,
                                       .dtype = lin->dtype,
                                       .bias = lin->bias_of != NULL};
    if (!module.name) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    ex->modules[ex->n_modules++] = module;
    return true;
}

void mal_export_finish(struct mal_export *ex) {
    for (size_t m = 0; m < ex->n_modules; m++)
        mal_free(ex->modules[m].name);
    mal_free(ex->modules);
    *ex = (struct mal_export){0};
}

void mal_export_tensor(const struct mal_export_module *module, char *out, size_t size) {
    (void)snprintf(out, size, "%s%s", module->name, module->bias ? "" : ".weight");
}

size_t mal_export_about(const struct mal_export *ex, const char *format,
                        struct mal_export_text *text,
                        struct mal_st_meta meta[MAL_EXPORT_META]) {
    size_t n = 0;
    meta[n++] = (struct mal_st_meta){"format", format};
    meta[n++] = (struct mal_st_meta){"base_model", ex->base_model};
    if (ex->version < 0) return n;
    snprintf(text->version, sizeof text->version, "%" PRId64, ex->version);
    meta[n++] = (struct mal_st_meta){"version", text->version};
    meta[n++] = (struct mal_st_meta){"weights_hash", ex->weights_hash};
    return n;
}

void mal_export_tick(const struct mal_export *ex, size_t done) {
    if (ex->tick) ex->tick(ex->arg, done);
}

/* ---- One tensor a module ---- */

struct tensors {
    const struct mal_export *ex;
    struct mal_st_entry *entries;
    char (*names)[256];
    size_t done;
};

static bool tensors_init(struct tensors *t, const struct mal_export *ex,
                         struct mal_error *err) {
    *t = (struct tensors){.ex = ex};
    t->entries = mal_calloc(ex->n_modules, sizeof *t->entries);
    t->names = mal_calloc(ex->n_modules, sizeof *t->names);
    return (t->entries && t->names) || mal_fail(err, MAL_NO_MEMORY, "export");
}

static void tensors_finish(struct tensors *t) {
    mal_free(t->names);
    mal_free(t->entries);
}

static void set_entry(struct tensors *t, size_t i, const struct mal_export_module *module,
                      enum mal_dtype dtype) {
    mal_export_tensor(module, t->names[i], sizeof t->names[i]);
    struct mal_st_entry entry = {
        .name = t->names[i],
        .dtype = dtype,
        .n_dims = 2,
        .shape = {module->transposed ? module->d_out : module->d_in,
                  module->transposed ? module->d_in : module->d_out}};
    if (module->bias) {
        entry.n_dims = 1;
        entry.shape[0] = module->d_out;
    }
    t->entries[i] = entry;
}

static bool stream(struct tensors *t, size_t n, const char *format,
                   bool (*put)(void *arg, size_t entry, struct mal_new_file *file,
                               struct mal_error *err),
                   struct mal_new_file *file, struct mal_error *err) {
    struct mal_export_text text;
    struct mal_st_meta meta[MAL_EXPORT_META];
    struct mal_st_stream what = {.entries = t->entries,
                                 .n_entries = n,
                                 .metadata = meta,
                                 .n_metadata =
                                     mal_export_about(t->ex, format, &text, meta),
                                 .put = put,
                                 .arg = t};
    return mal_safetensors_stream(file, &what, err);
}

/* ---- The difference ---- */

enum { TURNED = 64 }; /* rows of a turned matrix made at a time */

/* The transpose of x (rows, cols). */
static bool put_turned(const float *x, int64_t rows, int64_t cols,
                       struct mal_new_file *file, struct mal_error *err) {
    int64_t most = cols < TURNED ? cols : TURNED;
    float *turned = mal_malloc((size_t)(rows * most) * sizeof *turned);
    bool ok = turned || mal_fail(err, MAL_NO_MEMORY, "export");
    for (int64_t j0 = 0; ok && j0 < cols; j0 += most) {
        int64_t n = cols - j0 < most ? cols - j0 : most;
        for (int64_t i = 0; i < rows; i++) {
            for (int64_t j = 0; j < n; j++)
                turned[j * rows + i] = x[i * cols + j0 + j];
        }
        ok = mal_new_file_write(file, turned, (size_t)(n * rows) * sizeof *turned, err);
    }
    mal_free(turned);
    return ok;
}

static bool put_shift(void *arg, size_t entry, struct mal_new_file *file,
                      struct mal_error *err) {
    struct tensors *t = arg;
    const struct mal_export_module *module = &t->ex->modules[entry];
    size_t bytes = (size_t)(module->d_in * module->d_out) * sizeof(float);
    float *shift = mal_malloc(bytes);
    bool ok = shift || mal_fail(err, MAL_NO_MEMORY, "module '%s'", module->name);
    ok = ok && t->ex->shift(t->ex->arg, entry, shift, err);
    ok = ok &&
         (module->transposed ? put_turned(shift, module->d_in, module->d_out, file, err)
                             : mal_new_file_write(file, shift, bytes, err));
    mal_free(shift);
    mal_export_tick(t->ex, ++t->done);
    return ok;
}

bool mal_export_delta(const struct mal_export *ex, struct mal_new_file *file,
                      struct mal_error *err) {
    struct tensors t;
    bool ok = tensors_init(&t, ex, err);
    for (size_t m = 0; ok && m < ex->n_modules; m++)
        set_entry(&t, m, &ex->modules[m], MAL_F32);
    ok = ok && stream(&t, ex->n_modules, MAL_DELTA_FORMAT, put_shift, file, err);
    tensors_finish(&t);
    return ok;
}

/* ---- The weights ---- */

static bool put_weight(void *arg, size_t entry, struct mal_new_file *file,
                       struct mal_error *err) {
    struct tensors *t = arg;
    const struct mal_export_module *module = &t->ex->modules[entry];
    size_t bytes = (size_t)(module->d_in * module->d_out) * mal_dtype_size(module->dtype);
    char *weight = mal_malloc(bytes);
    bool ok = weight || mal_fail(err, MAL_NO_MEMORY, "module '%s'", module->name);
    ok = ok && t->ex->weight(t->ex->arg, entry, weight, err) &&
         mal_new_file_write(file, weight, bytes, err);
    mal_free(weight);
    mal_export_tick(t->ex, ++t->done);
    return ok;
}

bool mal_export_weights(const struct mal_export *ex, struct mal_new_file *file,
                        struct mal_error *err) {
    struct tensors t;
    bool ok = tensors_init(&t, ex, err);
    for (size_t m = 0; ok && m < ex->n_modules; m++)
        set_entry(&t, m, &ex->modules[m], ex->modules[m].dtype);
    ok = ok && stream(&t, ex->n_modules, "pt", put_weight, file, err);
    tensors_finish(&t);
    return ok;
}
