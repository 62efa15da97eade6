/* lora.h - a version's difference from the base as a PEFT adapter: for every edit module
 * whose T is not zero, lora_A (r, d_in) and lora_B (d_out, r), fp32, whose product is T.
 *
 * Every module has the rank of the largest one, the others padded with zeros, and
 * lora_alpha is r: engines that know one rank and one scale (vLLM, llama.cpp) then add
 * what PEFT adds. */
#ifndef MAL_LORA_H
#define MAL_LORA_H

#include "core/export/export.h"

enum { MAL_LORA_MAX_RANK = 256 }; /* unless said */

struct mal_lora {
    const struct mal_export *ex; /* borrowed */
    struct mal_lora_part *parts; /* (n_parts), owned */
    size_t n_parts;
    int64_t rank; /* of all */
    double error; /* ||T - product|| / ||T||, of the module where it is largest */
    bool exact;   /* no more is lost than adding T to fp32 weights loses */
};

/* `max_rank` of the modules' ranks; where that does not do the product is the nearest to
 * T there is. A version that is the base's has one part of zeros, as an adapter must have
 * one. */
bool mal_lora_create(struct mal_lora *out, const struct mal_export *ex, int64_t max_rank,
                     struct mal_error *err) MAL_CHECK;
void mal_lora_finish(struct mal_lora *lora); /* takes a zeroed one */

/* A new directory with adapter_config.json and adapter_model.safetensors. */
bool mal_lora_write_dir(const struct mal_lora *lora, const char *dir,
                        struct mal_error *err) MAL_CHECK;
/* The same two files as a tar. */
bool mal_lora_write_tar(const struct mal_lora *lora, struct mal_new_file *file,
                        struct mal_error *err) MAL_CHECK;

#endif
