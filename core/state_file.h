/* state_file.h - a run that can go on where it stopped, in one safetensors file: its
 * arrays by name in F32, counters and numbers as metadata, and "run", a text that says
 * what it depends on. Written whole or not at all. What is read is checked: names and
 * sizes, and that every number is finite. */
#ifndef MAL_STATE_FILE_H
#define MAL_STATE_FILE_H

#include "core/backend.h"
#include "core/safetensors.h"

/* What a file of it says it is, and how errors call that. */
struct mal_state_kind {
    const char *format, *what; /* "malmend-train-1", "a training" */
};

/* The arrays; zero-initialise, with `be`. */
struct mal_state {
    struct mal_backend *be; /* borrowed, as the arrays */
    struct mal_state_item *items;
    size_t n, room;
};

/* An array named `prefix` and `name`; not_negative: what square roots are taken of, and
 * counts. */
bool mal_state_add(struct mal_state *state, const char *prefix, const char *name,
                   float *data, int64_t n, bool not_negative,
                   struct mal_error *err) MAL_CHECK;
/* The same in memory of the device. */
bool mal_state_add_device(struct mal_state *state, const char *prefix, const char *name,
                          float *data, int64_t n, bool not_negative,
                          struct mal_error *err) MAL_CHECK;
void mal_state_finish(struct mal_state *state);

/* `metadata` (n) beside the format and `run`. */
bool mal_state_write(struct mal_state *state, const char *path,
                     const struct mal_state_kind *kind, const char *run,
                     const struct mal_st_meta *metadata, size_t n,
                     struct mal_error *err) MAL_CHECK;

/* MAL_NOT_FOUND: there is no file; MAL_CORRUPT: it is another. */
bool mal_state_open(struct mal_safetensors **out, const char *path,
                    const struct mal_state_kind *kind, struct mal_error *err) MAL_CHECK;
/* Into the arrays, of which some may have changed on an error. MAL_CONFLICT: the file's
 * tensors are not those. */
bool mal_state_read(struct mal_state *state, const struct mal_safetensors *file,
                    struct mal_error *err) MAL_CHECK;
/* Metadata; MAL_CORRUPT where there is none such. The text is borrowed from the file. */
bool mal_state_text(const struct mal_safetensors *file, const char *key, const char **out,
                    struct mal_error *err) MAL_CHECK;
bool mal_state_count(const struct mal_safetensors *file, const char *key, int64_t most,
                     int64_t *out, struct mal_error *err) MAL_CHECK;
bool mal_state_real(const struct mal_safetensors *file, const char *key, double *out,
                    struct mal_error *err) MAL_CHECK;
/* The "run" of a file; owned: mal_free(). */
bool mal_state_run(const char *path, const struct mal_state_kind *kind, char **out,
                   struct mal_error *err) MAL_CHECK;

#endif
