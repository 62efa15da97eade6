/* model_impl.h - the inside of a model, for the architectures and passes in this folder
 * only. */
#ifndef MAL_MODEL_IMPL_H
#define MAL_MODEL_IMPL_H

#include "core/model/pass.h"

/* Which linears are edited by default: those of these names in the last blocks of each
 * stack, `share` of them, at least one and at most `most`. */
struct mal_default_edits {
    const char *names[4]; /* within the block; NULL ends the list */
    double share;
    int64_t most; /* 0: any number */
};

/* What stands before names in a checkpoint: of the backbone's tensors, of the head's. */
struct mal_prefix {
    const char *backbone, *head;
};

/* One architecture: config.json to sizes and stacks, tensor names to weights. */
struct mal_arch {
    const char *model_type; /* "model_type" in config.json, also the API's architecture */
    const struct mal_prefix *prefixes; /* of different checkpoints, the longest first,
                                          NULL ends the list; also none at all */
    struct mal_default_edits edits;

    /* Fills model->info and sizes, opens the stacks: mal_open_stack(). */
    bool (*configure)(struct mal_model *model, struct mal_error *err);
    /* Calls mal_bind_*() for every tensor. */
    bool (*bind)(struct mal_model *model, struct mal_error *err);
    /* When tensors are loaded: what is derived from them, in memory that configure()
     * asked for with model->n_derived. NULL: nothing. */
    bool (*derive)(struct mal_model *model, struct mal_error *err);
};

extern const struct mal_arch mal_arch_bert, mal_arch_gpt2, mal_arch_gptj, mal_arch_llama,
    mal_arch_mistral, mal_arch_ministral, mal_arch_phi3, mal_arch_qwen2, mal_arch_qwen3,
    mal_arch_t5, mal_arch_gemma, mal_arch_gemma2, mal_arch_gemma3, mal_arch_olmo2,
    mal_arch_olmo3, mal_arch_smollm3;

/* A matrix in the type it is kept in. */
struct mal_matrix {
    const void *w;
    enum mal_dtype dtype;
};

/* A tensor the architecture asked for; loaded after all are known. */
struct mal_binding {
    struct mal_checkpoint_tensor source;
    const void **dst;
    enum mal_dtype dtype; /* kept as */
    float added;          /* to what is stored; 0 unless kept as fp32 */
};

/* One of the ways in which the blocks of a model rotate, as config.json says it. */
struct mal_rope_kind {
    const char *type; /* what has it for its own in "rope_parameters"; NULL: all */
    const char *theta_key;
    double theta; /* where nothing is said of it */
    bool scales;  /* "rope_scaling" is about it */
};

/* Rotary positions: the first 2 * half channels of each head are rotated. */
struct mal_rotary {
    int64_t half; /* 0: none */
    bool interleaved;
    const struct mal_rope_kind *kinds; /* (n_kinds) */
    int n_kinds;
    const float *inv_freq[MAL_MOST_ROPES]; /* (half) each, device */
    float scale[MAL_MOST_ROPES];           /* of cosines and sines */
};

struct mal_model {
    const struct mal_model *of; /* whose weights and names these are; NULL: its own */
    const struct mal_arch *arch;
    struct mal_model_info info;
    struct mal_backend *be;
    struct mal_checkpoint *ckpt;
    struct mal_hash fingerprint; /* once has_fingerprint */
    bool has_fingerprint;
    json_t *config;           /* owned: its members of config.json */
    char *where;              /* owned: where those are, for errors */
    struct mal_prefix prefix; /* in this checkpoint */
    int32_t *ends;            /* (n_ends), owned: tokens that end what is generated */
    size_t n_ends;

    int64_t n_heads, n_kv_heads, head_size, n_inner;
    enum mal_act act;
    bool rms;
    float norm_eps;
    float score_cap, logit_cap; /* 0: none; see mal_attn and mal_cap_fwd() */
    float gain_base; /* what the gains of norms are stored as differences from */
    struct mal_rotary rotary;

    struct mal_matrix tokens;           /* (V, C) */
    float tokens_scale;                 /* what they are multiplied with */
    const float *positions;             /* (T, C); NULL: none */
    struct mal_norm_weights embed_norm; /* gain NULL: none */
    struct mal_matrix pooler;           /* (C, C) transposed; w NULL: none */
    const float *pooler_bias;
    struct mal_matrix head; /* (n_outputs, C); w NULL: none */
    const float *head_bias; /* NULL: none */
    float head_scale;

    void *own; /* what one architecture keeps for itself, freed with the model */

    struct mal_stack decoder; /* what the head sits on, whatever its attention sees */
    struct mal_stack encoder; /* n == 0: none */

    struct mal_linear **linears; /* in the order of their blocks; they live inside them */
    size_t n_linears, linears_capacity;
    struct mal_linear **edits; /* (n_edited): modules, then biases */
    size_t n_edits, n_edited;
    int64_t lowest_edit_block; /* n_layers when there is none */

    struct mal_binding *bindings;
    size_t n_bindings, bindings_capacity;
    struct mal_arena weights;    /* every tensor of the base model */
    int64_t n_derived;           /* floats besides */
    int64_t head_bytes;          /* logits of one slice of the head at most */
    struct mal_arena scratch;    /* buffers of the running pass */
    struct mal_tape_block *tape; /* (n_layers) */
};

/* Widths of a row of queries, of keys, and of all three. */
static inline int64_t mal_q_width(const struct mal_model *model) {
    return model->n_heads * model->head_size;
}

static inline int64_t mal_kv_width(const struct mal_model *model) {
    return model->n_kv_heads * model->head_size;
}

static inline int64_t mal_qkv_width(const struct mal_model *model) {
    return mal_q_width(model) + 2 * mal_kv_width(model);
}

/* ---- For arch->configure ---- */

/* n blocks, zero but for the scale of their attention; as many as the checkpoint has
 * tensors at most. */
bool mal_open_stack(struct mal_model *model, struct mal_stack *stack, int64_t n,
                    float scale, struct mal_error *err) MAL_CHECK;

/* model->rotary, `size` channels of each head being rotated. Asks for the memory that
 * mal_derive_rotary() fills. */
bool mal_config_rotary(struct mal_model *model, const char *key, int64_t size,
                       bool interleaved, struct mal_error *err) MAL_CHECK;
/* Likewise, whole heads in n_kinds ways. */
bool mal_config_rotary_kinds(struct mal_model *model, const struct mal_rope_kind *kinds,
                             int n_kinds, struct mal_error *err) MAL_CHECK;
/* Likewise, as many channels as "partial_rotary_factor" says. */
bool mal_config_rotary_share(struct mal_model *model, struct mal_error *err) MAL_CHECK;
bool mal_derive_rotary(struct mal_model *model, struct mal_error *err) MAL_CHECK;

/* ---- For arch->bind: names are those within the backbone ---- */

/* Asks for a tensor with this shape, as fp32; *dst is set when all tensors are loaded. */
bool mal_bind_tensor(struct mal_model *model, const char *name, int n_dims,
                     const int64_t *shape, const float **dst,
                     struct mal_error *err) MAL_CHECK;
/* A matrix, kept as the checkpoint has it (fp64: as fp32). */
bool mal_bind_matrix(struct mal_model *model, const char *name, int64_t rows,
                     int64_t columns, struct mal_matrix *dst,
                     struct mal_error *err) MAL_CHECK;
/* model->head: "lm_head.weight". If `tied`, the token embeddings, which are bound
 * already, where that is missing or the same; as transformers 5 has it, another one
 * stands. */
bool mal_bind_head(struct mal_model *model, const char *embeddings, bool tied,
                   struct mal_error *err) MAL_CHECK;
/* Whether the checkpoint has the tensor. */
bool mal_has_tensor(const struct mal_model *model, const char *name);
/* A tensor (n) that a norm multiplies with, model->gain_base being added. */
bool mal_bind_gain(struct mal_model *model, const char *name, int64_t n,
                   const float **dst, struct mal_error *err) MAL_CHECK;
/* "<name>.weight" and, unless RMS, "<name>.bias"; or as they were called first, gamma and
 * beta. */
bool mal_bind_norm(struct mal_model *model, const char *name,
                   struct mal_norm_weights *dst, struct mal_error *err) MAL_CHECK;

/* A linear layer to be bound: "<name>.weight", (d_in, d_out) or, `transposed`, (d_out,
 * d_in), and "<name>.bias" if `bias`. */
struct mal_linear_spec {
    const char *name;
    int64_t d_in, d_out;
    bool transposed, bias;
    struct mal_linear *dst;
};

/* Binds them and registers them as linears of block `block`, each name after `where`. */
bool mal_bind_linears(struct mal_model *model, const char *where,
                      const struct mal_linear_spec *specs, size_t n, int64_t block,
                      struct mal_error *err) MAL_CHECK;

/* The bytes of every tensor that was asked for, and into model->info how many parameters
 * that is and the kind of number most of it is (weights.c). */
size_t mal_count_weights(struct mal_model *model);
/* All of them onto the device. */
bool mal_load_weights(struct mal_model *model, struct mal_error *err) MAL_CHECK;
/* Derived floats, of those that model->n_derived counts; each piece is rounded up to 16.
 */
float *mal_derived_floats(struct mal_model *model, int64_t n);

/* ---- For a block's two directions ---- */

static inline struct mal_norm mal_norm_of(const struct mal_model *model,
                                          const struct mal_norm_weights *w, int64_t n) {
    return (struct mal_norm){.n = n,
                             .c = model->info.n_channels,
                             .rms = model->rms,
                             .eps = model->norm_eps,
                             .gain = w->gain,
                             .bias = w->bias};
}

/* Of the queries' heads or the keys', whose gain that is. */
static inline struct mal_head_norm mal_head_norm_of(const struct mal_model *model,
                                                    const struct mal_attention *attention,
                                                    int64_t n, int64_t n_heads,
                                                    const float *gain) {
    int64_t at_once = attention->heads_at_once ? n_heads : 1;
    return (struct mal_head_norm){.n = n,
                                  .n_heads = n_heads / at_once,
                                  .head_size = model->head_size * at_once,
                                  .eps = model->norm_eps,
                                  .gain = gain};
}

/* Attention of all rows of the lane over the keys and values in qkv (N, W), or in the
 * cache; that of q (n, Q) over the encoder's output, kv (source rows, 2 KV). */
struct mal_attn mal_self_attn(const struct mal_step *step, const float *qkv);
struct mal_attn mal_cross_attn(const struct mal_step *step, const float *q,
                               const float *kv);
void mal_only_queries_of(struct mal_attn *attn, const struct mal_row_set *set,
                         const float *q, int64_t ld_q);

#endif
