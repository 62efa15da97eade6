/* export.h - edited weights as files for other programs (core/README.md section 7).
 *
 * What is written comes module by module from whoever holds the version, so that no more
 * than one of them is in memory at a time: T, what the deltas of the version add up to,
 * and W, the weight as it is served. */
#ifndef MAL_EXPORT_H
#define MAL_EXPORT_H

#include "core/backend.h"
#include "core/checkpoint.h"
#include "core/model/model.h"

struct mal_new_file;

struct mal_export_module {
    char *name; /* in the checkpoint, without ".weight", owned */
    int64_t d_in, d_out;
    bool transposed;      /* stored (d_out, d_in) in the checkpoint */
    enum mal_dtype dtype; /* of the checkpoint */
    bool bias;            /* of a layer, whose name this is with ".bias"; (1, d_out) */
};

/* T as left right, fp32 in host memory. */
struct mal_export_factors {
    int64_t rank; /* 0: it is not to be had so */
    float *left;  /* (rank, d_in): turned, owned */
    float *right; /* (rank, d_out), owned */
};

struct mal_export {
    struct mal_export_module *modules; /* (n_modules), owned */
    size_t n_modules;
    enum mal_model_kind kind;
    const char *model_name;   /* last part of its path, borrowed */
    const char *base_model;   /* fingerprint, borrowed */
    int64_t version;          /* -1: of no database */
    const char *weights_hash; /* borrowed; NULL: not said */

    /* T (d_in, d_out). */
    bool (*shift)(void *arg, size_t module, float *out, struct mal_error *err);
    /* *out zeroed. NULL: T is never to be had so. */
    bool (*factors)(void *arg, size_t module, struct mal_export_factors *out,
                    struct mal_error *err);
    /* W in the checkpoint's orientation and dtype. NULL: only T is known. */
    bool (*weight)(void *arg, size_t module, void *out, struct mal_error *err);
    void (*tick)(void *arg, size_t done); /* modules; may be NULL */
    void *arg;
};

/* Appends a module; the caller has made room. */
bool mal_export_add(struct mal_export *ex, const struct mal_linear *lin,
                    struct mal_error *err) MAL_CHECK;
void mal_export_finish(struct mal_export *ex); /* takes a zeroed one */

/* Metadata 'format' of a difference. */
#define MAL_DELTA_FORMAT "malmend-delta-1"

/* T of all modules: one fp32 tensor each, with the weight's name, shape and orientation
 * in the checkpoint. */
bool mal_export_delta(const struct mal_export *ex, struct mal_new_file *file,
                      struct mal_error *err) MAL_CHECK;
/* W of all modules, as the checkpoint has them: also of those that are the base's, which
 * replace another version's in an engine that has loaded one. */
bool mal_export_weights(const struct mal_export *ex, struct mal_new_file *file,
                        struct mal_error *err) MAL_CHECK;
/* A complete model directory: the files of `base` copied but for weights in files that
 * are not its own, edited weights in their place and dtype. `dir` must not exist or be
 * empty. All or nothing. */
bool mal_export_model(const struct mal_export *ex, const struct mal_checkpoint *base,
                      const char *dir, struct mal_error *err) MAL_CHECK;

#endif
