/* checkpoint.h - a model directory as on the Hugging Face hub: config.json and the tensors, in
 * model.safetensors or in shards with model.safetensors.index.json. */
#ifndef MAL_CHECKPOINT_H
#define MAL_CHECKPOINT_H

#include <jansson.h>

#include "core/hash.h"
#include "core/safetensors.h"

struct mal_checkpoint;

/* A tensor and the file it is in. */
struct mal_checkpoint_tensor {
    const struct mal_safetensors *file;
    const struct mal_st_tensor *tensor;
};

bool mal_checkpoint_open(struct mal_checkpoint **out, const char *dir,
                         struct mal_error *err) MAL_CHECK;
void mal_checkpoint_close(struct mal_checkpoint *ckpt); /* takes NULL */

const char *mal_checkpoint_dir(const struct mal_checkpoint *ckpt);
const json_t *mal_checkpoint_config(const struct mal_checkpoint *ckpt); /* borrowed */
const char *mal_checkpoint_config_path(const struct mal_checkpoint *ckpt);

size_t mal_checkpoint_count(const struct mal_checkpoint *ckpt);
struct mal_checkpoint_tensor mal_checkpoint_at(const struct mal_checkpoint *ckpt, size_t i);
/* .tensor == NULL: not there */
struct mal_checkpoint_tensor mal_checkpoint_find(const struct mal_checkpoint *ckpt,
                                                 const char *name);

/* The tensor `name`, which must exist with exactly this shape and a floating dtype; the error
 * names file and tensor and both shapes. */
bool mal_checkpoint_need(const struct mal_checkpoint *ckpt, const char *name, int n_dims,
                         const int64_t *shape, struct mal_checkpoint_tensor *out,
                         struct mal_error *err) MAL_CHECK;

/* The base model's identity: SHA-256 over all tensors in name order of (name, dtype, shape,
 * SHA-256 of the bytes). Reads every byte, tensors in parallel; the same weights in other shards
 * have the same fingerprint. */
bool mal_checkpoint_fingerprint(const struct mal_checkpoint *ckpt, struct mal_hash *out,
                                struct mal_error *err) MAL_CHECK;

#endif
