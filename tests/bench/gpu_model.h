/* gpu_model.h - a GPT-J of random weights with a tokenizer of single bytes, as a
 * directory, and facts to teach it: what a device is measured on, of any size, made where
 * it is measured. */
#ifndef MAL_GPU_MODEL_H
#define MAL_GPU_MODEL_H

#include <stdint.h>

#include "core/facts.h"
#include "core/model/model.h"

struct gpu_model_shape {
    int64_t layers, channels, inner, heads, vocab;
};

/* Writes config.json, vocab.json, merges.txt and model.safetensors (bf16) into a
 * directory that is there; the weights of linear layers are zeros, which take no room. */
bool gpu_model_write(const char *dir, const struct gpu_model_shape *shape,
                     struct mal_error *err) MAL_CHECK;
/* Gives these random values, in the memory of the model's device: one block of numbers
 * over and over, each layer from another place in it. */
bool gpu_model_fill(struct mal_model *model, struct mal_error *err) MAL_CHECK;

/* n facts whose texts have `tokens` tokens on average, 3 or 4 of the answer, with a
 * subject, a rephrase and an unrelated prompt each. *out: mal_facts_free(). */
bool gpu_model_facts(struct mal_fact **out, size_t n, int tokens,
                     struct mal_error *err) MAL_CHECK;

#endif
