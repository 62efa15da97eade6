/* state.c - writes and reads the state of a run. Its tensors are those of the editor's
 * file, and "adam.m.<name>" and "adam.v.<name>" beside each that is trained. */
#include "core/train/state.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/editor_impl.h"
#include "core/file.h"
#include "core/safetensors.h"
#include "core/text.h"
#include "core/train/trainer_impl.h"

static const char FORMAT[] = "malmend-train-1";

enum { NAME = 112, NUMBER = 40 };

static const long long MOST = 1LL << 40; /* no run counts further */

/* One tensor of the file, and where its data is. */
struct item {
    char name[NAME];
    float *host;   /* the editor's or the trainer's array, or a copy, owned */
    float *device; /* NULL: host is the place itself */
    int64_t n;
    bool owned;
    bool not_negative; /* what square roots are taken of, and counts */
};

struct items {
    struct mal_backend *be;
    struct item *list;
    size_t n;
};

static void items_finish(struct items *items) {
    for (size_t i = 0; items->list && i < items->n; i++) {
        if (items->list[i].owned) mal_free(items->list[i].host);
    }
    mal_free(items->list);
}

/* An array of the device: itself where that is the host, else a copy. */
static bool add_device(struct items *items, const char *kind, const char *name,
                       float *device, int64_t n, struct mal_error *err) {
    struct item *item = &items->list[items->n];
    bool squares = strcmp(kind, "adam.v.") == 0;
    *item = (struct item){.host = device, .n = n, .not_negative = squares};
    snprintf(item->name, sizeof item->name, "%s%s", kind, name);
    if (!mal_backend_on_host(items->be)) {
        item->device = device;
        item->owned = true;
        item->host = mal_malloc((size_t)n * sizeof(float));
        if (!item->host) return mal_fail(err, MAL_NO_MEMORY, "state of the training");
    }
    items->n++;
    return true;
}

static void add_host(struct items *items, const char *name, float *host, int64_t n,
                     bool not_negative) {
    struct item *item = &items->list[items->n++];
    *item = (struct item){.host = host, .n = n, .not_negative = not_negative};
    snprintf(item->name, sizeof item->name, "%s", name);
}

static bool list_items(struct mal_trainer *t, struct items *items,
                       struct mal_error *err) {
    size_t n_norms = t->editor->n_shapes * MAL_N_NORM;
    *items = (struct items){.be = t->be};
    items->list = mal_calloc(n_norms + 3 * t->params.n, sizeof *items->list);
    if (!items->list) return mal_fail(err, MAL_NO_MEMORY, "state of the training");
    for (size_t s = 0; s < t->editor->n_shapes; s++) {
        struct mal_editor_shape shape = t->editor->shapes[s];
        for (size_t i = 0; i < MAL_N_NORM; i++) {
            struct mal_editor_tensor tensor;
            mal_editor_tensor_at(t->editor, &shape, i, &tensor);
            struct mal_normalizer *norm = &t->norms[s];
            float *const data[MAL_N_NORM] = {&norm->n, norm->mean, norm->var, norm->std};
            add_host(items, tensor.name, data[i], tensor.dims[0], data[i] != norm->mean);
        }
    }
    for (size_t i = 0; i < t->params.n; i++) {
        const struct mal_train_param *p = &t->params.list[i];
        if (!add_device(items, "", p->name, p->p, p->n, err) ||
            !add_device(items, "adam.m.", p->name, p->m, p->n, err) ||
            !add_device(items, "adam.v.", p->name, p->v, p->n, err)) {
            return false;
        }
    }
    return true;
}

/* ---- Writing ---- */

enum { N_COUNTS = 6, N_META = N_COUNTS + 4 };

static const char *const count_names[N_COUNTS] = {"step",      "epoch",  "at",
                                                  "best_step", "waited", "t"};

struct metadata {
    char text[N_COUNTS + 2][NUMBER];
    struct mal_st_meta entries[N_META];
};

static void make_metadata(const struct mal_trainer *t, const struct mal_train_position *p,
                          const char *run, struct metadata *out) {
    const int64_t counts[N_COUNTS] = {p->step,      p->epoch,  p->at,
                                      p->best_step, p->waited, t->steps};
    for (size_t i = 0; i < N_COUNTS; i++) {
        snprintf(out->text[i], NUMBER, "%" PRId64, counts[i]);
        out->entries[i] = (struct mal_st_meta){count_names[i], out->text[i]};
    }
    snprintf(out->text[N_COUNTS], NUMBER, "%a", p->best);
    snprintf(out->text[N_COUNTS + 1], NUMBER, "%a", p->lr_rate);
    out->entries[N_COUNTS] = (struct mal_st_meta){"best", out->text[N_COUNTS]};
    out->entries[N_COUNTS + 1] = (struct mal_st_meta){"lr_rate", out->text[N_COUNTS + 1]};
    out->entries[N_COUNTS + 2] = (struct mal_st_meta){"format", FORMAT};
    out->entries[N_COUNTS + 3] = (struct mal_st_meta){"run", run};
}

bool mal_train_state_save(struct mal_trainer *t, const char *path,
                          const struct mal_train_position *position, const char *run,
                          struct mal_error *err) {
    struct items items;
    struct metadata metadata;
    bool ok = list_items(t, &items, err);
    struct mal_st_entry *entries = ok ? mal_calloc(items.n, sizeof *entries) : NULL;
    if (ok && !entries) ok = mal_fail(err, MAL_NO_MEMORY, "state of the training");
    for (size_t i = 0; ok && i < items.n; i++) {
        struct item *item = &items.list[i];
        if (item->device) {
            mal_backend_download(t->be, item->host, item->device,
                                 (size_t)item->n * sizeof(float));
        }
        entries[i] = (struct mal_st_entry){.name = item->name,
                                           .dtype = MAL_F32,
                                           .n_dims = 1,
                                           .shape = {item->n},
                                           .data = item->host};
    }
    ok = ok && mal_backend_sync(t->be, err);
    make_metadata(t, position, run, &metadata);
    ok = ok &&
         mal_safetensors_write(path, entries, items.n, metadata.entries, N_META, err);
    mal_free(entries);
    items_finish(&items);
    return ok;
}

/* ---- Reading ---- */

static bool open_state(struct mal_safetensors **out, const char *path,
                       struct mal_error *err) {
    struct mal_safetensors *file = NULL;
    if (!mal_safetensors_open(&file, path, err)) return false;
    const char *format = mal_safetensors_metadata(file, "format");
    if (format && strcmp(format, FORMAT) == 0) {
        *out = file;
        return true;
    }
    mal_safetensors_close(file);
    return mal_fail(err, MAL_CORRUPT, "%s: not the state of a training (format %s)",
                    mal_file_shown(path), FORMAT);
}

bool mal_train_state_run(const char *path, char **out, struct mal_error *err) {
    struct mal_safetensors *file;
    if (!open_state(&file, path, err)) return false;
    const char *run = mal_safetensors_metadata(file, "run");
    char *copy = run ? mal_strdup(run) : NULL;
    mal_safetensors_close(file);
    if (!copy) return mal_fail(err, MAL_CORRUPT, "%s: 'run' is missing", path);
    *out = copy;
    return true;
}

static bool read_int(const struct mal_safetensors *file, const char *key, int64_t *out,
                     struct mal_error *err) {
    const char *text = mal_safetensors_metadata(file, key);
    char *stop = NULL;
    long long value = text ? strtoll(text, &stop, 10) : -1;
    if (!text || stop == text || *stop || value < 0 || value > MOST) {
        return mal_fail(err, MAL_CORRUPT, "%s: metadata '%s' is not a count",
                        mal_safetensors_path(file), key);
    }
    *out = value;
    return true;
}

static bool read_real(const struct mal_safetensors *file, const char *key, double *out,
                      struct mal_error *err) {
    const char *text = mal_safetensors_metadata(file, key);
    char *stop = NULL;
    if (text) *out = strtod(text, &stop);
    if (text && stop != text && !*stop) return true;
    return mal_fail(err, MAL_CORRUPT, "%s: metadata '%s' is not a number",
                    mal_safetensors_path(file), key);
}

static bool read_position(const struct mal_safetensors *file, struct mal_trainer *t,
                          struct mal_train_position *out, struct mal_error *err) {
    struct mal_train_position p = {0};
    int64_t *const counts[N_COUNTS] = {&p.step,      &p.epoch,  &p.at,
                                       &p.best_step, &p.waited, &t->steps};
    for (size_t i = 0; i < N_COUNTS; i++) {
        if (!read_int(file, count_names[i], counts[i], err)) return false;
    }
    if (!read_real(file, "best", &p.best, err) ||
        !read_real(file, "lr_rate", &p.lr_rate, err)) {
        return false;
    }
    if (!isfinite(p.lr_rate) || p.lr_rate < 0) {
        return mal_fail(err, MAL_CORRUPT, "%s: metadata 'lr_rate' is not a rate",
                        mal_safetensors_path(file));
    }
    *out = p;
    return true;
}

static bool check_item(const struct mal_safetensors *file,
                       const struct mal_st_tensor *tensor, const struct item *item,
                       struct mal_error *err) {
    const char *path = mal_file_shown(mal_safetensors_path(file));
    if (!tensor) {
        return mal_fail(err, MAL_CONFLICT, "%s: tensor '%s' is missing: another network",
                        path, item->name);
    }
    if (tensor->dtype != MAL_F32) {
        return mal_fail(err, MAL_CORRUPT, "%s: tensor '%s' is %s, not F32", path,
                        item->name, mal_dtype_name(tensor->dtype));
    }
    if (tensor->n_elements == item->n) return true;
    return mal_fail(err, MAL_CONFLICT,
                    "%s: tensor '%s' is of another size: another network", path,
                    item->name);
}

static bool read_item(const struct mal_safetensors *file, struct items *items, size_t i,
                      struct mal_error *err) {
    struct item *item = &items->list[i];
    const struct mal_st_tensor *tensor = mal_safetensors_find(file, item->name);
    if (!check_item(file, tensor, item, err) ||
        !mal_safetensors_read_f32(file, tensor, item->host, err)) {
        return false;
    }
    for (int64_t k = 0; k < item->n; k++) {
        float x = item->host[k];
        if (isfinite(x) && !(item->not_negative && x < 0)) continue;
        return mal_fail(err, MAL_CORRUPT, "%s: tensor '%s': element %lld is %g",
                        mal_file_shown(mal_safetensors_path(file)), item->name,
                        (long long)k, (double)x);
    }
    if (item->device) {
        mal_backend_upload(items->be, item->device, item->host,
                           (size_t)item->n * sizeof(float));
    }
    return true;
}

bool mal_train_state_load(struct mal_trainer *t, const char *path,
                          struct mal_train_position *out, struct mal_error *err) {
    struct mal_safetensors *file;
    struct items items;
    if (!open_state(&file, path, err)) return false;
    bool ok = list_items(t, &items, err) && read_position(file, t, out, err);
    for (size_t i = 0; ok && i < items.n; i++)
        ok = read_item(file, &items, i, err);
    if (ok && mal_safetensors_count(file) != items.n) {
        ok = mal_fail(err, MAL_CONFLICT,
                      "%s: %zu tensors, %zu are to be read: another network",
                      mal_file_shown(path), mal_safetensors_count(file), items.n);
    }
    ok = ok && mal_backend_sync(t->be, err) && mal_train_params_fetch(&t->params, err);
    items_finish(&items);
    mal_safetensors_close(file);
    return ok;
}
