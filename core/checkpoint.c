/* checkpoint.c - finds a model's tensors: one file, or shards behind an index.
 *
 * As in transformers a single model.safetensors comes before an index, and of shards only
 * the tensors count that the index lists. Pickled checkpoints are never read: they can
 * run code. */
#include "core/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"

static const char CONFIG[] = "config.json";
static const char SINGLE[] = "model.safetensors";
static const char INDEX[] = "model.safetensors.index.json";
static const char PICKLE[] = "pytorch_model.bin";

struct mal_checkpoint {
    char *dir;
    char *config_path;
    json_t *config;
    struct mal_safetensors **files; /* owned */
    char **file_names;              /* within dir, owned */
    size_t n_files;
    struct mal_checkpoint_tensor *tensors; /* by name */
    size_t n_tensors;
};

static bool fail_memory(const struct mal_checkpoint *c, struct mal_error *err) {
    return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(c->dir));
}

/* ---- Opening ---- */

static bool load_object(json_t **out, const char *path, struct mal_error *err) {
    json_t *root;
    if (!mal_json_load(&root, path, err)) return false;
    if (!json_is_object(root)) {
        mal_fail(err, MAL_CORRUPT, "%s: %s, not an object", mal_file_shown(path),
                 mal_json_type(root));
        json_decref(root);
        return false;
    }
    *out = root;
    return true;
}

/* Opens the file as files[n_files]; the arrays have room for it. */
static bool open_file(struct mal_checkpoint *c, const char *name, struct mal_error *err) {
    char *path = mal_file_join(c->dir, name);
    if (!path) return fail_memory(c, err);
    bool ok = mal_safetensors_open(&c->files[c->n_files], path, err);
    mal_free(path);
    if (!ok) return false;
    c->n_files++;
    c->file_names[c->n_files - 1] = mal_strdup(name);
    return c->file_names[c->n_files - 1] || fail_memory(c, err);
}

static bool make_room(struct mal_checkpoint *c, size_t n_files, size_t n_tensors,
                      struct mal_error *err) {
    if (n_files > 0) {
        c->files = mal_calloc(n_files, sizeof *c->files);
        c->file_names = mal_calloc(n_files, sizeof *c->file_names);
        if (!c->files || !c->file_names) return fail_memory(c, err);
    }
    if (n_tensors > 0) {
        c->tensors = mal_calloc(n_tensors, sizeof *c->tensors);
        if (!c->tensors) return fail_memory(c, err);
    }
    return true;
}

static bool open_single(struct mal_checkpoint *c, struct mal_error *err) {
    if (!make_room(c, 1, 0, err) || !open_file(c, SINGLE, err)) return false;
    size_t n = mal_safetensors_count(c->files[0]);
    if (!make_room(c, 0, n, err)) return false;
    for (size_t i = 0; i < n; i++)
        c->tensors[i] = (struct mal_checkpoint_tensor){
            c->files[0], mal_safetensors_at(c->files[0], i)};
    c->n_tensors = n;
    return true;
}

/* The shard's index among the files; opened when it is new. */
static bool find_shard(struct mal_checkpoint *c, const char *name, size_t *out,
                       struct mal_error *err) {
    size_t i = 0;
    while (i < c->n_files && strcmp(c->file_names[i], name) != 0)
        i++;
    *out = i;
    return i < c->n_files || open_file(c, name, err);
}

static bool add_listed(struct mal_checkpoint *c, const char *index_path, const char *name,
                       const json_t *value, struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN], shown_shard[MAL_TEXT_SHOWN];
    mal_text_shown(shown, name);
    const char *shard = json_string_value(value);
    if (!shard)
        return mal_fail(err, MAL_CORRUPT,
                        "%s: tensor '%s': its shard is %s, not a string",
                        mal_file_shown(index_path), shown, mal_json_type(value));
    mal_text_shown(shown_shard, shard);
    if (shard[0] == '\0' || strchr(shard, '/') || strstr(shard, ".."))
        return mal_fail(err, MAL_CORRUPT,
                        "%s: tensor '%s': shard '%s' is not a plain file name",
                        mal_file_shown(index_path), shown, shown_shard);
    size_t i;
    if (!find_shard(c, shard, &i, err))
        return mal_fail_wrap(err, "tensor '%s', listed in %s", shown, INDEX);
    const struct mal_st_tensor *tensor = mal_safetensors_find(c->files[i], name);
    if (!tensor)
        return mal_fail(err, MAL_CORRUPT, "%s: tensor '%s', listed in %s, is not in it",
                        mal_file_shown(mal_safetensors_path(c->files[i])), shown, INDEX);
    c->tensors[c->n_tensors++] = (struct mal_checkpoint_tensor){c->files[i], tensor};
    return true;
}

static int by_name(const void *a, const void *b) {
    const struct mal_checkpoint_tensor *x = a, *y = b;
    return strcmp(x->tensor->name, y->tensor->name);
}

static bool open_shards(struct mal_checkpoint *c, const char *index_path,
                        struct mal_error *err) {
    json_t *index;
    if (!load_object(&index, index_path, err)) return false;
    json_t *map = json_object_get(index, "weight_map");
    bool ok = json_is_object(map);
    if (!ok)
        mal_fail(err, MAL_CORRUPT, "%s: 'weight_map' is not an object",
                 mal_file_shown(index_path));
    ok = ok && make_room(c, json_object_size(map), json_object_size(map), err);
    const char *name;
    json_t *value;
    json_object_foreach (map, name, value) {
        ok = ok && add_listed(c, index_path, name, value, err);
    }
    json_decref(index);
    if (ok && c->n_tensors > 0)
        qsort(c->tensors, c->n_tensors, sizeof *c->tensors, by_name);
    return ok;
}

/* Whether dir/name is there; *out_path is owned by the caller, NULL: out of memory. */
static bool there(const struct mal_checkpoint *c, const char *name, char **out_path) {
    *out_path = mal_file_join(c->dir, name);
    return *out_path && access(*out_path, F_OK) == 0;
}

static bool open_tensors(struct mal_checkpoint *c, struct mal_error *err) {
    char *single = NULL, *index = NULL, *pickle = NULL;
    bool ok, has_single = there(c, SINGLE, &single), has_index = there(c, INDEX, &index),
             has_pickle = there(c, PICKLE, &pickle);
    if (!single || !index || !pickle)
        ok = fail_memory(c, err);
    else if (has_single)
        ok = open_single(c, err);
    else if (has_index)
        ok = open_shards(c, index, err);
    else
        ok = mal_fail(err, MAL_NOT_FOUND, "%s: neither %s nor %s%s%s%s",
                      mal_file_shown(c->dir), SINGLE, INDEX,
                      has_pickle ? "; there is " : "", has_pickle ? PICKLE : "",
                      has_pickle ? ", but pickle is never read" : "");
    mal_free(single);
    mal_free(index);
    mal_free(pickle);
    return ok;
}

bool mal_checkpoint_open(struct mal_checkpoint **out, const char *dir,
                         struct mal_error *err) {
    struct mal_checkpoint *c = mal_calloc(1, sizeof *c);
    if (!c) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(dir));
    c->dir = mal_strdup(dir);
    c->config_path = mal_file_join(dir, CONFIG);
    if (!c->dir || !c->config_path) {
        mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(dir));
        goto fail;
    }
    if (!load_object(&c->config, c->config_path, err)) goto fail;
    if (!open_tensors(c, err)) goto fail;
    *out = c;
    return true;

fail:
    mal_checkpoint_close(c);
    return false;
}

void mal_checkpoint_close(struct mal_checkpoint *ckpt) {
    if (!ckpt) return;
    for (size_t i = 0; i < ckpt->n_files; i++) {
        mal_safetensors_close(ckpt->files[i]);
        mal_free(ckpt->file_names[i]);
    }
    mal_free(ckpt->files);
    mal_free(ckpt->file_names);
    mal_free(ckpt->tensors);
    json_decref(ckpt->config);
    mal_free(ckpt->config_path);
    mal_free(ckpt->dir);
    mal_free(ckpt);
}

/* ---- Looking ---- */

const char *mal_checkpoint_dir(const struct mal_checkpoint *ckpt) {
    return ckpt->dir;
}

const json_t *mal_checkpoint_config(const struct mal_checkpoint *ckpt) {
    return ckpt->config;
}

const char *mal_checkpoint_config_path(const struct mal_checkpoint *ckpt) {
    return ckpt->config_path;
}

size_t mal_checkpoint_count(const struct mal_checkpoint *ckpt) {
    return ckpt->n_tensors;
}

struct mal_checkpoint_tensor mal_checkpoint_at(const struct mal_checkpoint *ckpt,
                                               size_t i) {
    return ckpt->tensors[i];
}

struct mal_checkpoint_tensor mal_checkpoint_find(const struct mal_checkpoint *ckpt,
                                                 const char *name) {
    size_t low = 0, high = ckpt->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, ckpt->tensors[middle].tensor->name);
        if (order == 0) return ckpt->tensors[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return (struct mal_checkpoint_tensor){0};
}

static const char *shape_text(char *out, size_t room, int n_dims, const int64_t *shape) {
    size_t n = (size_t)snprintf(out, room, "(");
    for (int i = 0; i < n_dims && n < room; i++)
        n += (size_t)snprintf(out + n, room - n, "%s%" PRId64, i ? ", " : "", shape[i]);
    if (n < room) snprintf(out + n, room - n, ")");
    return out;
}

bool mal_checkpoint_need(const struct mal_checkpoint *ckpt, const char *name, int n_dims,
                         const int64_t *shape, struct mal_checkpoint_tensor *out,
                         struct mal_error *err) {
    struct mal_checkpoint_tensor found = mal_checkpoint_find(ckpt, name);
    char shown[MAL_TEXT_SHOWN], needed[64], has[64];
    mal_text_shown(shown, name);
    shape_text(needed, sizeof needed, n_dims, shape);
    const struct mal_st_tensor *t = found.tensor;
    if (!t) {
        const char *where =
            ckpt->n_files == 1 ? mal_safetensors_path(ckpt->files[0]) : ckpt->dir;
        return mal_fail(err, MAL_CORRUPT, "%s: tensor '%s' %s is missing",
                        mal_file_shown(where), shown, needed);
    }
    const char *path = mal_file_shown(mal_safetensors_path(found.file));
    if (t->n_dims != n_dims ||
        memcmp(t->shape, shape, (size_t)n_dims * sizeof *shape) != 0)
        return mal_fail(err, MAL_CORRUPT,
                        "%s: tensor '%s' has shape %s, the model needs %s", path, shown,
                        shape_text(has, sizeof has, t->n_dims, t->shape), needed);
    if (t->dtype != MAL_F64 && t->dtype != MAL_F32 && t->dtype != MAL_F16 &&
        t->dtype != MAL_BF16)
        return mal_fail(err, MAL_CORRUPT, "%s: tensor '%s' is %s, the model needs floats",
                        path, shown, mal_dtype_name(t->dtype));
    *out = found;
    return true;
}
