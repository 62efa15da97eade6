/* safetensors.c - reads safetensors files.
 *
 * The format: 8 bytes little-endian header length, a JSON object, the data. The rules
 * checked here are those of the reference reader (huggingface/safetensors, tensor.rs),
 * whose point is that the tensors cover the data exactly, so that a file can hide nothing
 * and two readers see the same. */
#include "core/safetensors.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "core/utf8.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the data is used as it is stored");

enum { LENGTH_BYTES = 8, MAX_HEADER = 100000000, SLICE_BYTES = 1 << 20 };

static const char METADATA[] = "__metadata__";

struct mal_safetensors {
    int fd;
    char *path;
    uint64_t file_bytes;
    uint64_t data_start;           /* of the data in the file */
    json_t *header;                /* owns the names */
    struct mal_st_tensor *tensors; /* by name */
    size_t n_tensors;
};

/* ---- Errors ---- */

__attribute__((format(printf, 3, 4))) static bool
fail_file(const struct mal_safetensors *f, struct mal_error *err, const char *format,
          ...) {
    char what[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return mal_fail(err, MAL_CORRUPT, "%s: %s", mal_file_shown(f->path), what);
}

__attribute__((format(printf, 4, 5))) static bool
fail_tensor(const struct mal_safetensors *f, const char *name, struct mal_error *err,
            const char *format, ...) {
    char what[200], shown[MAL_TEXT_SHOWN];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return mal_fail(err, MAL_CORRUPT, "%s: tensor '%s': %s", mal_file_shown(f->path),
                    mal_text_shown(shown, name), what);
}

/* ---- Reading bytes ---- */

/* 1: all read, 0: the file ended before, -1: errno. */
static int read_at(int fd, void *dst, size_t bytes, uint64_t offset) {
    char *p = dst;
    while (bytes > 0) {
        ssize_t n = pread(fd, p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return (int)n;
        p += n;
        bytes -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 1;
}

static bool read_text(const struct mal_safetensors *f, void *dst, size_t bytes,
                      uint64_t offset, struct mal_error *err) {
    int got = read_at(f->fd, dst, bytes, offset);
    if (got > 0) return true;
    return mal_fail(err, MAL_IO, "%s: reading the header: %s", mal_file_shown(f->path),
                    got < 0 ? strerror(errno) : "the file has become shorter");
}

bool mal_safetensors_read(const struct mal_safetensors *file,
                          const struct mal_st_tensor *t, uint64_t offset, void *dst,
                          size_t bytes, struct mal_error *err) {
    assert(offset <= t->bytes && bytes <= t->bytes - offset);
    int got = read_at(file->fd, dst, bytes, t->offset + offset);
    if (got > 0) return true;
    char shown[MAL_TEXT_SHOWN];
    return mal_fail(err, MAL_IO, "%s: reading tensor '%s': %s",
                    mal_file_shown(file->path), mal_text_shown(shown, t->name),
                    got < 0 ? strerror(errno) : "the file has become shorter");
}

bool mal_safetensors_read_f32(const struct mal_safetensors *file,
                              const struct mal_st_tensor *t, float *dst,
                              struct mal_error *err) {
    if (t->dtype == MAL_F32)
        return mal_safetensors_read(file, t, 0, dst, (size_t)t->bytes, err);
    if (t->dtype != MAL_F64 && t->dtype != MAL_F16 && t->dtype != MAL_BF16)
        return fail_tensor(file, t->name, err, "dtype %s where a floating one is needed",
                           mal_dtype_name(t->dtype));

    size_t room = t->bytes < SLICE_BYTES ? (size_t)t->bytes : SLICE_BYTES;
    void *slice = mal_malloc(room);
    if (!slice) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(file->path));
    bool ok = true;
    for (uint64_t done = 0; ok && done < t->bytes;) {
        size_t bytes = t->bytes - done < room ? (size_t)(t->bytes - done) : room;
        size_t n = bytes / mal_dtype_size(t->dtype);
        ok = mal_safetensors_read(file, t, done, slice, bytes, err);
        if (ok) mal_to_f32(dst, slice, t->dtype, n);
        dst += n;
        done += bytes;
    }
    mal_free(slice);
    return ok;
}

/* ---- The header ---- */

static bool parse_dtype(const struct mal_safetensors *f, const json_t *value,
                        struct mal_st_tensor *t, struct mal_error *err) {
    if (!json_is_string(value))
        return fail_tensor(f, t->name, err, "dtype is not a string");
    const char *name = json_string_value(value);
    if (mal_dtype_from_name(name, &t->dtype)) return true;
    char shown[MAL_TEXT_SHOWN];
    return fail_tensor(f, t->name, err, "dtype '%s' is not supported",
                       mal_text_shown(shown, name));
}

/* Sizes with n_elements and bytes, neither of which may overflow. */
static bool parse_shape(const struct mal_safetensors *f, const json_t *value,
                        struct mal_st_tensor *t, struct mal_error *err) {
    if (!json_is_array(value))
        return fail_tensor(f, t->name, err, "shape is not an array");
    if (json_array_size(value) > MAL_MAX_DIMS)
        return fail_tensor(f, t->name, err, "%zu dimensions, more than %d",
                           json_array_size(value), MAL_MAX_DIMS);
    t->n_dims = (int)json_array_size(value);
    t->n_elements = 1;
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *dim = json_array_get(value, (size_t)i);
        if (!json_is_integer(dim))
            return fail_tensor(f, t->name, err, "dimension %d is not an integer", i);
        int64_t n = json_integer_value(dim);
        if (n < 0)
            return fail_tensor(f, t->name, err, "dimension %d is negative (%" PRId64 ")",
                               i, n);
        t->shape[i] = n;
        if (__builtin_mul_overflow(t->n_elements, n, &t->n_elements))
            return fail_tensor(f, t->name, err, "too many elements for 64 bits");
    }
    if (__builtin_mul_overflow((uint64_t)t->n_elements,
                               (uint64_t)mal_dtype_size(t->dtype), &t->bytes))
        return fail_tensor(f, t->name, err, "too many bytes for 64 bits");
    return true;
}

static bool parse_offsets(const struct mal_safetensors *f, const json_t *value,
                          struct mal_st_tensor *t, struct mal_error *err) {
    const json_t *first = json_array_get(value, 0), *second = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(first) ||
        !json_is_integer(second))
        return fail_tensor(f, t->name, err,
                           "data_offsets is not an array of two integers");
    int64_t begin = json_integer_value(first), end = json_integer_value(second);
    if (begin < 0 || end < 0)
        return fail_tensor(f, t->name, err, "data_offsets are negative");
    if (begin > end)
        return fail_tensor(f, t->name, err,
                           "data_offsets begin at %" PRId64 ", after their end %" PRId64,
                           begin, end);
    uint64_t available = f->file_bytes - f->data_start;
    if ((uint64_t)end > available)
        return fail_tensor(f, t->name, err,
                           "data_offsets end at %" PRId64 ", beyond the file's %" PRIu64
                           " bytes of data",
                           end, available);
    if ((uint64_t)(end - begin) != t->bytes)
        return fail_tensor(f, t->name, err,
                           "data_offsets hold %" PRId64
                           " bytes, shape and dtype need %" PRIu64,
                           end - begin, t->bytes);
    t->offset = f->data_start + (uint64_t)begin;
    return true;
}

static bool parse_tensor(const struct mal_safetensors *f, const char *name,
                         const json_t *value, struct mal_st_tensor *t,
                         struct mal_error *err) {
    *t = (struct mal_st_tensor){.name = name};
    if (!json_is_object(value))
        return fail_tensor(f, name, err, "described by %s, not an object",
                           mal_json_type(value));
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!json_object_get(value, keys[i]))
            return fail_tensor(f, name, err, "%s is missing", keys[i]);
    }
    return parse_dtype(f, json_object_get(value, "dtype"), t, err) &&
           parse_shape(f, json_object_get(value, "shape"), t, err) &&
           parse_offsets(f, json_object_get(value, "data_offsets"), t, err);
}

static bool check_metadata(const struct mal_safetensors *f, struct mal_error *err) {
    json_t *metadata = json_object_get(f->header, METADATA);
    if (!metadata) return true;
    if (!json_is_object(metadata))
        return fail_file(f, err, "%s is not an object", METADATA);
    const char *key;
    json_t *value;
    json_object_foreach (metadata, key, value) {
        char shown[MAL_TEXT_SHOWN];
        if (!json_is_string(value))
            return fail_file(f, err, "%s '%s' is %s, not a string", METADATA,
                             mal_text_shown(shown, key), mal_json_type(value));
    }
    return true;
}

static int by_name(const void *a, const void *b) {
    const struct mal_st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int by_place(const void *a, const void *b) {
    const struct mal_st_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Every byte of the data belongs to exactly one tensor. */
static bool check_coverage(struct mal_safetensors *f, struct mal_error *err) {
    qsort(f->tensors, f->n_tensors, sizeof *f->tensors, by_place);
    uint64_t end = f->data_start;
    const char *previous = "";
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct mal_st_tensor *t = &f->tensors[i];
        char shown[MAL_TEXT_SHOWN];
        if (t->offset < end)
            return fail_tensor(f, t->name, err, "overlaps tensor '%s'",
                               mal_text_shown(shown, previous));
        if (t->offset > end)
            return fail_tensor(f, t->name, err,
                               "%" PRIu64 " bytes before it belong to no tensor",
                               t->offset - end);
        end = t->offset + t->bytes;
        previous = t->name;
    }
    if (end != f->file_bytes)
        return fail_file(f, err, "%" PRIu64 " bytes at the end belong to no tensor",
                         f->file_bytes - end);
    return true;
}

static bool parse_header(struct mal_safetensors *f, struct mal_error *err) {
    if (!check_metadata(f, err)) return false;
    f->tensors = mal_calloc(json_object_size(f->header), sizeof *f->tensors);
    if (!f->tensors) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(f->path));
    const char *name;
    json_t *value;
    json_object_foreach (f->header, name, value) {
        if (strcmp(name, METADATA) == 0) continue;
        if (!parse_tensor(f, name, value, &f->tensors[f->n_tensors], err)) return false;
        f->n_tensors++;
    }
    if (!check_coverage(f, err)) return false;
    qsort(f->tensors, f->n_tensors, sizeof *f->tensors, by_name);
    return true;
}

/* ---- Opening ---- */

static bool open_file(struct mal_safetensors *f, struct mal_error *err) {
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (f->fd < 0 || fstat(f->fd, &st) != 0)
        return mal_fail(err, errno == ENOENT ? MAL_NOT_FOUND : MAL_IO, "%s: %s",
                        mal_file_shown(f->path), strerror(errno));
    if (!S_ISREG(st.st_mode))
        return mal_fail(err, MAL_IO, "%s: not a regular file", mal_file_shown(f->path));
    f->file_bytes = (uint64_t)st.st_size;
    return true;
}

/* The header's text, owned by the caller; sets data_start. */
static bool load_header(struct mal_safetensors *f, char **out, size_t *out_bytes,
                        struct mal_error *err) {
    uint8_t raw[LENGTH_BYTES];
    if (f->file_bytes < LENGTH_BYTES)
        return fail_file(f, err, "%" PRIu64 " bytes, shorter than the header's length",
                         f->file_bytes);
    if (!read_text(f, raw, sizeof raw, 0, err)) return false;
    uint64_t bytes = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        bytes = bytes << 8 | raw[i];
    if (bytes > MAX_HEADER)
        return fail_file(f, err,
                         "header of %" PRIu64 " bytes, more than %d allowed: this is no "
                         "safetensors file",
                         bytes, MAX_HEADER);
    if (bytes > f->file_bytes - LENGTH_BYTES)
        return fail_file(f, err,
                         "header of %" PRIu64 " bytes reaches beyond the file's %" PRIu64,
                         bytes, f->file_bytes);
    char *text = mal_malloc((size_t)bytes);
    if (!text) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(f->path));
    if (!read_text(f, text, (size_t)bytes, LENGTH_BYTES, err)) goto fail;
    if (bytes == 0 || text[0] != '{') {
        fail_file(f, err, "header does not start with '{'");
        goto fail;
    }
    if (!mal_utf8_valid(text, (size_t)bytes)) {
        fail_file(f, err, "header is not UTF-8");
        goto fail;
    }
    f->data_start = LENGTH_BYTES + bytes;
    *out = text;
    *out_bytes = (size_t)bytes;
    return true;

fail:
    mal_free(text);
    return false;
}

bool mal_safetensors_open(struct mal_safetensors **out, const char *path,
                          struct mal_error *err) {
    struct mal_safetensors *f = mal_calloc(1, sizeof *f);
    if (!f) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
    f->fd = -1;
    f->path = mal_strdup(path);
    if (!f->path) {
        mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
        goto fail;
    }
    if (!open_file(f, err)) goto fail;
    char *text = NULL;
    size_t bytes = 0;
    if (!load_header(f, &text, &bytes, err)) goto fail;
    json_error_t problem;
    f->header = mal_json_parse(text, bytes, JSON_REJECT_DUPLICATES, &problem);
    mal_free(text);
    if (!f->header) {
        mal_json_fail(&problem, MAL_CORRUPT, path, err);
        goto fail;
    }
    if (!parse_header(f, err)) goto fail;
    *out = f;
    return true;

fail:
    mal_safetensors_close(f);
    return false;
}

void mal_safetensors_close(struct mal_safetensors *file) {
    if (!file) return;
    if (file->fd >= 0) close(file->fd);
    json_decref(file->header);
    mal_free(file->tensors);
    mal_free(file->path);
    mal_free(file);
}

/* ---- Looking ---- */

const char *mal_safetensors_path(const struct mal_safetensors *file) {
    return file->path;
}

size_t mal_safetensors_count(const struct mal_safetensors *file) {
    return file->n_tensors;
}

const struct mal_st_tensor *mal_safetensors_at(const struct mal_safetensors *file,
                                               size_t i) {
    assert(i < file->n_tensors);
    return &file->tensors[i];
}

const struct mal_st_tensor *mal_safetensors_find(const struct mal_safetensors *file,
                                                 const char *name) {
    struct mal_st_tensor key = {.name = name};
    return bsearch(&key, file->tensors, file->n_tensors, sizeof key, by_name);
}

const char *mal_safetensors_metadata(const struct mal_safetensors *file,
                                     const char *key) {
    return json_string_value(
        json_object_get(json_object_get(file->header, METADATA), key));
}
