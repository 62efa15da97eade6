/* safetensors_write.c - writes safetensors files, whole or not at all.
 *
 * Tensors are laid out as the reference writer does, by dtype (widest first), then by
 * name, and the header is padded to 8 bytes: so every tensor starts at a multiple of its
 * element's size, and the same tensors give the same bytes as there. */
#include "core/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/new_file.h"
#include "core/text.h"
#include "core/utf8.h"

static const char METADATA[] = "__metadata__";

static bool fail_entry(const char *path, const char *name, const char *what,
                       struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN];
    return mal_fail(err, MAL_INVALID, "%s: '%s': %s", mal_file_shown(path),
                    mal_text_shown(shown, name), what);
}

static int64_t entry_bytes(const struct mal_st_entry *e) {
    int64_t n = (int64_t)mal_dtype_size(e->dtype);
    for (int i = 0; i < e->n_dims; i++)
        n *= e->shape[i];
    return n;
}

static int rank(enum mal_dtype dtype) {
    static const int ranks[MAL_N_DTYPES] = {
        [MAL_I64] = 0, [MAL_F64] = 1, [MAL_F32] = 2, [MAL_I32] = 3, [MAL_BF16] = 4,
        [MAL_F16] = 5, [MAL_I16] = 6, [MAL_I8] = 7,  [MAL_U8] = 8,  [MAL_BOOL] = 9};
    return ranks[dtype];
}

static int by_layout(const void *a, const void *b) {
    const struct mal_st_entry *const *x = a, *const *y = b;
    int i = rank((*x)->dtype), j = rank((*y)->dtype);
    return i != j ? i - j : strcmp((*x)->name, (*y)->name);
}

/* ---- The header ---- */

/* Adds a member, which is consumed. Names must be new to the object and UTF-8. */
static bool add(json_t *object, const char *name, json_t *value, const char *path,
                struct mal_error *err) {
    const char *what = NULL;
    if (!mal_utf8_valid(name, strlen(name))) what = "the name is not UTF-8";
    if (json_object_get(object, name)) what = "the name is there twice";
    if (what) {
        json_decref(value);
        return fail_entry(path, name, what, err);
    }
    if (json_object_set_new(object, name, value) == 0) return true;
    return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
}

static bool add_metadata(json_t *header, const struct mal_st_meta *metadata, size_t n,
                         const char *path, struct mal_error *err) {
    if (n == 0) return true;
    json_t *object = json_object();
    if (!add(header, METADATA, object, path, err)) return false;
    for (size_t i = 0; i < n; i++) {
        const char *value = metadata[i].value;
        if (!mal_utf8_valid(value, strlen(value)))
            return fail_entry(path, metadata[i].key, "the value is not UTF-8", err);
        if (!add(object, metadata[i].key, json_string(value), path, err)) return false;
    }
    return true;
}

static bool add_entry(json_t *header, const struct mal_st_entry *e, int64_t begin,
                      const char *path, struct mal_error *err) {
    if (strcmp(e->name, METADATA) == 0)
        return fail_entry(path, e->name, "not a name for a tensor", err);
    json_t *shape = json_array();
    for (int i = 0; shape && i < e->n_dims; i++) {
        if (json_array_append_new(shape, json_integer(e->shape[i])) != 0) {
            json_decref(shape);
            shape = NULL;
        }
    }
    /* a NULL member makes json_pack give up and release the rest */
    json_t *value = json_pack("{s:s, s:o, s:[I, I]}", "dtype", mal_dtype_name(e->dtype),
                              "shape", shape, "data_offsets", (json_int_t)begin,
                              (json_int_t)(begin + entry_bytes(e)));
    return add(header, e->name, value, path, err);
}

/* Length, JSON and padding, owned by the caller. */
static bool make_header(char **out, size_t *out_bytes, const struct mal_st_entry **order,
                        size_t n_entries, const struct mal_st_meta *metadata,
                        size_t n_metadata, const char *path, struct mal_error *err) {
    json_t *header = json_object();
    char *text = NULL;
    if (!header) goto no_memory;
    if (!add_metadata(header, metadata, n_metadata, path, err)) goto fail;
    int64_t offset = 0;
    for (size_t i = 0; i < n_entries; i++) {
        if (!add_entry(header, order[i], offset, path, err)) goto fail;
        offset += entry_bytes(order[i]);
    }
    size_t bytes = json_dumpb(header, NULL, 0, JSON_COMPACT);
    if (bytes == 0) goto no_memory;
    size_t padded = (bytes + 7) / 8 * 8;
    text = mal_malloc(8 + padded);
    if (!text || json_dumpb(header, text + 8, bytes, JSON_COMPACT) != bytes)
        goto no_memory;
    memset(text + 8 + bytes, ' ', padded - bytes);
    for (int i = 0; i < 8; i++)
        text[i] = (char)(padded >> (8 * i) & 0xff);
    json_decref(header);
    *out = text;
    *out_bytes = 8 + padded;
    return true;

no_memory:
    mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
fail:
    mal_free(text);
    json_decref(header);
    return false;
}

/* ---- The file ---- */

bool mal_safetensors_stream(struct mal_new_file *file, const struct mal_st_stream *stream,
                            struct mal_error *err) {
    size_t n = stream->n_entries, bytes = 0;
    const struct mal_st_entry **order = mal_calloc(n, sizeof *order);
    if (!order) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(file->path));
    for (size_t i = 0; i < n; i++)
        order[i] = &stream->entries[i];
    qsort(order, n, sizeof *order, by_layout);

    char *header = NULL;
    bool ok = make_header(&header, &bytes, order, n, stream->metadata, stream->n_metadata,
                          file->path, err) &&
              mal_new_file_write(file, header, bytes, err);
    for (size_t i = 0; ok && i < n; i++)
        ok = stream->put(stream->arg, (size_t)(order[i] - stream->entries), file, err);
    mal_free(header);
    mal_free(order);
    return ok;
}

static bool put_data(void *arg, size_t entry, struct mal_new_file *file,
                     struct mal_error *err) {
    const struct mal_st_entry *e = (const struct mal_st_entry *)arg + entry;
    return mal_new_file_write(file, e->data, (size_t)entry_bytes(e), err);
}

bool mal_safetensors_write(const char *path, const struct mal_st_entry *entries,
                           size_t n_entries, const struct mal_st_meta *metadata,
                           size_t n_metadata, struct mal_error *err) {
    struct mal_new_file file;
    struct mal_st_stream stream = {.entries = entries,
                                   .n_entries = n_entries,
                                   .metadata = metadata,
                                   .n_metadata = n_metadata,
                                   .put = put_data,
                                   .arg = (void *)entries};
    if (!mal_new_file_open(&file, path, err)) return false;
    bool ok =
        mal_safetensors_stream(&file, &stream, err) && mal_new_file_commit(&file, err);
    mal_new_file_abandon(&file);
    return ok;
}
