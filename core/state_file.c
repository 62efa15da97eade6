/* state_file.c - the state of a run, written and read. */
#include "core/state_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"

/* One array of the file, and where its data is. */
struct mal_state_item {
    char *name;    /* owned */
    float *host;   /* the array itself, or a copy, owned */
    float *device; /* NULL: host is the place itself */
    int64_t n;
    bool not_negative;
};

static size_t bytes_of(const struct mal_state_item *item) {
    return (size_t)item->n * sizeof(float);
}

/* ---- Arrays ---- */

static bool add(struct mal_state *state, const char *prefix, const char *name,
                struct mal_state_item item, struct mal_error *err) {
    size_t bytes = strlen(prefix) + strlen(name) + 1;
    if (state->n == state->room) {
        size_t room = 2 * state->room + 16;
        struct mal_state_item *items = mal_realloc(state->items, room * sizeof *items);
        if (!items) return mal_fail(err, MAL_NO_MEMORY, "state of the run");
        state->items = items;
        state->room = room;
    }
    item.name = mal_malloc(bytes);
    if (item.device) item.host = mal_malloc(bytes_of(&item));
    state->items[state->n++] = item;
    if (!item.name || !item.host) return mal_fail(err, MAL_NO_MEMORY, "state of the run");
    snprintf(item.name, bytes, "%s%s", prefix, name);
    return true;
}

bool mal_state_add(struct mal_state *state, const char *prefix, const char *name,
                   float *data, int64_t n, bool not_negative, struct mal_error *err) {
    struct mal_state_item item = {.host = data, .n = n, .not_negative = not_negative};
    return add(state, prefix, name, item, err);
}

bool mal_state_add_device(struct mal_state *state, const char *prefix, const char *name,
                          float *data, int64_t n, bool not_negative,
                          struct mal_error *err) {
    struct mal_state_item item = {.device = data, .n = n, .not_negative = not_negative};
    if (mal_backend_on_host(state->be))
        return mal_state_add(state, prefix, name, data, n, not_negative, err);
    return add(state, prefix, name, item, err);
}

void mal_state_finish(struct mal_state *state) {
    for (size_t i = 0; i < state->n; i++) {
        if (state->items[i].device) mal_free(state->items[i].host);
        mal_free(state->items[i].name);
    }
    mal_free(state->items);
    *state = (struct mal_state){0};
}

/* ---- Writing ---- */

static bool write_items(const struct mal_state *state, const char *path,
                        const struct mal_st_meta *metadata, size_t n,
                        struct mal_error *err) {
    struct mal_st_entry *entries = mal_calloc(state->n + 1, sizeof *entries);
    if (!entries) return mal_fail(err, MAL_NO_MEMORY, "state of the run");
    for (size_t i = 0; i < state->n; i++)
        entries[i] = (struct mal_st_entry){.name = state->items[i].name,
                                           .dtype = MAL_F32,
                                           .n_dims = 1,
                                           .shape = {state->items[i].n},
                                           .data = state->items[i].host};
    bool ok = mal_safetensors_write(path, entries, state->n, metadata, n, err);
    mal_free(entries);
    return ok;
}

bool mal_state_write(struct mal_state *state, const char *path,
                     const struct mal_state_kind *kind, const char *run,
                     const struct mal_st_meta *metadata, size_t n,
                     struct mal_error *err) {
    struct mal_st_meta *all = mal_calloc(n + 2, sizeof *all);
    if (!all) return mal_fail(err, MAL_NO_MEMORY, "state of the run");
    if (n > 0) memcpy(all, metadata, n * sizeof *all);
    all[n] = (struct mal_st_meta){"format", kind->format};
    all[n + 1] = (struct mal_st_meta){"run", run};
    for (size_t i = 0; i < state->n; i++) {
        const struct mal_state_item *item = &state->items[i];
        if (item->device)
            mal_backend_download(state->be, item->host, item->device, bytes_of(item));
    }
    bool ok =
        mal_backend_sync(state->be, err) && write_items(state, path, all, n + 2, err);
    mal_free(all);
    return ok;
}

/* ---- Reading ---- */

bool mal_state_open(struct mal_safetensors **out, const char *path,
                    const struct mal_state_kind *kind, struct mal_error *err) {
    struct mal_safetensors *file;
    if (!mal_safetensors_open(&file, path, err)) return false;
    const char *format = mal_safetensors_metadata(file, "format");
    *out = file;
    if (format && strcmp(format, kind->format) == 0) return true;
    mal_safetensors_close(file);
    return mal_fail(err, MAL_CORRUPT, "%s: not the state of %s (format %s)",
                    mal_file_shown(path), kind->what, kind->format);
}

static bool check_item(const struct mal_safetensors *file,
                       const struct mal_st_tensor *tensor,
                       const struct mal_state_item *item, struct mal_error *err) {
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

static bool read_item(const struct mal_state *state, const struct mal_safetensors *file,
                      const struct mal_state_item *item, struct mal_error *err) {
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
    if (item->device)
        mal_backend_upload(state->be, item->device, item->host, bytes_of(item));
    return true;
}

bool mal_state_read(struct mal_state *state, const struct mal_safetensors *file,
                    struct mal_error *err) {
    bool ok = true;
    for (size_t i = 0; ok && i < state->n; i++)
        ok = read_item(state, file, &state->items[i], err);
    if (ok && mal_safetensors_count(file) != state->n) {
        ok = mal_fail(err, MAL_CONFLICT,
                      "%s: %zu tensors, %zu are to be read: another network",
                      mal_file_shown(mal_safetensors_path(file)),
                      mal_safetensors_count(file), state->n);
    }
    return ok && mal_backend_sync(state->be, err);
}

bool mal_state_text(const struct mal_safetensors *file, const char *key, const char **out,
                    struct mal_error *err) {
    *out = mal_safetensors_metadata(file, key);
    return *out || mal_fail(err, MAL_CORRUPT, "%s: metadata '%s' is missing",
                            mal_file_shown(mal_safetensors_path(file)), key);
}

bool mal_state_count(const struct mal_safetensors *file, const char *key, int64_t most,
                     int64_t *out, struct mal_error *err) {
    const char *text = mal_safetensors_metadata(file, key);
    char *stop = NULL;
    long long value = text ? strtoll(text, &stop, 10) : -1;
    *out = value;
    return (text && stop != text && !*stop && value >= 0 && value <= most) ||
           mal_fail(err, MAL_CORRUPT, "%s: metadata '%s' is not a count up to %lld",
                    mal_file_shown(mal_safetensors_path(file)), key, (long long)most);
}

bool mal_state_real(const struct mal_safetensors *file, const char *key, double *out,
                    struct mal_error *err) {
    const char *text = mal_safetensors_metadata(file, key);
    char *stop = NULL;
    *out = text ? strtod(text, &stop) : NAN;
    return (text && stop != text && !*stop) ||
           mal_fail(err, MAL_CORRUPT, "%s: metadata '%s' is not a number",
                    mal_file_shown(mal_safetensors_path(file)), key);
}

bool mal_state_run(const char *path, const struct mal_state_kind *kind, char **out,
                   struct mal_error *err) {
    struct mal_safetensors *file;
    const char *run;
    if (!mal_state_open(&file, path, kind, err)) return false;
    bool ok = mal_state_text(file, "run", &run, err);
    *out = ok ? mal_strdup(run) : NULL;
    mal_safetensors_close(file);
    return *out || (ok && mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path)));
}
