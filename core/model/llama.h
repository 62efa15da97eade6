/* llama.h - what models that are built like Llama have in common: arch_llama.c. */
#ifndef MAL_LLAMA_H
#define MAL_LLAMA_H

#include "core/model/config.h"

/* Sizes and norms. Heads of keys are kv_heads where nothing is said of them, all where
 * null is or kv_heads is 0; model->head_size may be set to what heads have where nothing
 * is said of that. */
bool mal_llama_sizes(struct mal_model *model, int64_t kv_heads, double eps,
                     struct mal_error *err) MAL_CHECK;
/* Opens the stack. */
bool mal_llama_stack(struct mal_model *model, float scale,
                     struct mal_error *err) MAL_CHECK;

/* Which blocks have the window: as "layer_types" says; without that those from `first`
 * on, but not every one of `period` (0: no such), with `unrotated` of those that do not
 * rotate. They have the second of the model's rotations, if there are two and they have
 * one. */
struct mal_sliding {
    int64_t window, first, period;
    bool unrotated;
};

bool mal_llama_windows(struct mal_model *model, const struct mal_sliding *sliding,
                       struct mal_error *err) MAL_CHECK;

/* What a model has beside norms and weights; `heads_at_once`: queries and keys are normed
 * over all heads, not each of them; `fused`: queries, keys and values are one layer, gate
 * and up another. */
struct mal_llama_extras {
    bool qkv_bias, o_bias, mlp_bias, head_norms, heads_at_once, fused;
    bool tied; /* where nothing is said of it */
};

bool mal_llama_bind(struct mal_model *model, const struct mal_llama_extras *has,
                    struct mal_error *err) MAL_CHECK;

extern const struct mal_prefix mal_llama_prefixes[];

/* What their entries in model.c's table share. */
#define MAL_LLAMA_LIKE(type, own_configure, own_bind)                              \
    {                                                                              \
        .model_type = type, .prefixes = mal_llama_prefixes,                        \
        .edits = {.names = {"mlp.down_proj"}, .share = 6.0 / 28},                  \
        .configure = own_configure, .bind = own_bind, .derive = mal_derive_rotary, \
    }

#endif
