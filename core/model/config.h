/* config.h - config.json's members that several architectures have, in both of its
 * dialects. */
#ifndef MAL_CONFIG_H
#define MAL_CONFIG_H

#include "core/model/model_impl.h"

/* model->config and ->where, and the model's type: of a model that a text model is part
 * of it is the text model's. */
bool mal_config_open(struct mal_model *model, const char **type,
                     struct mal_error *err) MAL_CHECK;

/* Typed members of the model's config.json, named in errors; see core/json.h. */
bool mal_config_size(const struct mal_model *model, const char *key, int64_t *out,
                     struct mal_error *err) MAL_CHECK; /* 1 or more; must be there */
bool mal_config_size_opt(const struct mal_model *model, const char *key, int64_t *out,
                         struct mal_error *err) MAL_CHECK;
/* `absent` where there is no such member, `null` where it is null. */
bool mal_config_size_or(const struct mal_model *model, const char *key, int64_t absent,
                        int64_t null, int64_t *out, struct mal_error *err) MAL_CHECK;
bool mal_config_real_opt(const struct mal_model *model, const char *key, double *out,
                         struct mal_error *err) MAL_CHECK;
bool mal_config_bool_opt(const struct mal_model *model, const char *key, bool *out,
                         struct mal_error *err) MAL_CHECK;
bool mal_config_string_opt(const struct mal_model *model, const char *key,
                           const char **out, struct mal_error *err) MAL_CHECK;

/* *out is NULL where there is none, or an empty one. */
bool mal_config_object(const struct mal_model *model, const char *key, const json_t **out,
                       struct mal_error *err) MAL_CHECK;

/* Layers, channels, heads, vocabulary and context as most models have them
 * ("num_hidden_layers", "hidden_size", ...). Those that are not 0 are what holds where
 * nothing is said of them; the others must be there. */
bool mal_config_sizes(struct mal_model *model, struct mal_error *err) MAL_CHECK;
/* As GPT-2 and GPT-J have them ("n_layer", "n_embd", ...), with head_size, n_kv_heads,
 * norm_eps and act. */
bool mal_config_sizes_gpt(struct mal_model *model, struct mal_error *err) MAL_CHECK;

/* A setting of transformers that is not here: an error if the member is there and true.
 */
bool mal_config_refuse(const struct mal_model *model, const char *key,
                       struct mal_error *err) MAL_CHECK;

/* model->act from the name in `key`; `name` is its default. */
bool mal_config_act(struct mal_model *model, const char *key, const char *name,
                    struct mal_error *err) MAL_CHECK;
/* The activation of that name; `key` is for errors. */
bool mal_config_act_named(struct mal_model *model, const char *key, const char *name,
                          struct mal_error *err) MAL_CHECK;
/* model->norm_eps from `key`. */
bool mal_config_eps(struct mal_model *model, const char *key, double value,
                    struct mal_error *err) MAL_CHECK;
/* model->head_size = `width` / model->n_heads, which must come out even. */
bool mal_config_head_size(struct mal_model *model, const char *width_key,
                          const char *heads_key, struct mal_error *err) MAL_CHECK;

/* model->info.eos and model->ends, from "eos_token_id": an id or a list of them. What is
 * generated ends as generation_config.json says, where it says something. */
bool mal_config_eos(struct mal_model *model, struct mal_error *err) MAL_CHECK;

#endif
