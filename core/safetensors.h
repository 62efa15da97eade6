/* safetensors.h - reads and writes safetensors files.
 *
 * The header is hostile input: its length, UTF-8, duplicate keys, dtypes, shapes (overflow),
 * offsets (order, overlap, full coverage of the data) are all checked on opening. Tensor data is
 * read with pread on demand, never mapped, so a file that shrinks is an error and no signal. */
#ifndef MAL_SAFETENSORS_H
#define MAL_SAFETENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "core/tensor.h"

struct mal_new_file;
struct mal_safetensors;

struct mal_st_tensor {
    const char *name;             /* borrowed from the file object */
    enum mal_dtype dtype;
    int n_dims;
    int64_t shape[MAL_MAX_DIMS];
    int64_t n_elements;
    uint64_t offset;              /* of the data in the file, bytes */
    uint64_t bytes;
};

/* `path` is copied. Errors name the file and the tensor. */
bool mal_safetensors_open(struct mal_safetensors **out, const char *path,
                          struct mal_error *err) MAL_CHECK;
void mal_safetensors_close(struct mal_safetensors *file); /* takes NULL */

const char *mal_safetensors_path(const struct mal_safetensors *file);
size_t mal_safetensors_count(const struct mal_safetensors *file);
/* In the order of their names. */
const struct mal_st_tensor *mal_safetensors_at(const struct mal_safetensors *file, size_t i);
const struct mal_st_tensor *mal_safetensors_find(const struct mal_safetensors *file,
                                                 const char *name); /* NULL: not there */
const char *mal_safetensors_metadata(const struct mal_safetensors *file,
                                     const char *key); /* NULL: not there */

/* Bytes [offset, offset + bytes) of the tensor's data as stored. Safe from several threads. */
bool mal_safetensors_read(const struct mal_safetensors *file, const struct mal_st_tensor *t,
                          uint64_t offset, void *dst, size_t bytes,
                          struct mal_error *err) MAL_CHECK;
/* The whole tensor as fp32 (F64, F32, F16, BF16), through a buffer of bounded size. */
bool mal_safetensors_read_f32(const struct mal_safetensors *file,
                              const struct mal_st_tensor *t, float *dst,
                              struct mal_error *err) MAL_CHECK;

/* ---- Writing ---- */

struct mal_st_entry {
    const char *name;
    enum mal_dtype dtype;
    int n_dims;
    int64_t shape[MAL_MAX_DIMS];
    const void *data;              /* n_elements of dtype, little endian */
};

struct mal_st_meta {
    const char *key, *value;
};

/* Writes to a temporary file beside `path`, syncs, renames: either the whole new file is there
 * afterwards or the old one. */
bool mal_safetensors_write(const char *path, const struct mal_st_entry *entries,
                           size_t n_entries, const struct mal_st_meta *metadata,
                           size_t n_metadata, struct mal_error *err) MAL_CHECK;

/* The same into an open file, for more than memory holds at once: `put` writes all of an entry's
 * bytes, whose `data` is not looked at, when it is the entry's turn. */
struct mal_st_stream {
    const struct mal_st_entry *entries;
    size_t n_entries;
    const struct mal_st_meta *metadata;
    size_t n_metadata;
    bool (*put)(void *arg, size_t entry, struct mal_new_file *file, struct mal_error *err);
    void *arg;
};

bool mal_safetensors_stream(struct mal_new_file *file, const struct mal_st_stream *stream,
                            struct mal_error *err) MAL_CHECK;

#endif
