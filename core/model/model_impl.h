/* model_impl.h - the inside of a model, for the architectures and passes in this folder
 * only. */
#ifndef MAL_MODEL_IMPL_H
#define MAL_MODEL_IMPL_H

#include "core/model/model.h"
#include "core/model/pass.h"

struct mal_model;

/* One architecture: sizes from config.json, names to weights, one pass forward and back.
 */
struct mal_arch {
    const char *model_type; /* "model_type" in config.json, also the API's architecture */
    const char *prefix; /* of the backbone's tensor names, absent in some checkpoints */
    const char *default_edit; /* suffix of the linears edited by default */

    /* Fills model->info and model->sizes; creates model->blocks. */
    bool (*configure)(struct mal_model *model, struct mal_error *err);
    /* Calls mal_bind_*() for every tensor. */
    bool (*bind)(struct mal_model *model, struct mal_error *err);
    /* Takes the buffers of a pass from pass->arena, which may only be counting. */
    void (*layout)(const struct mal_model *model, struct mal_pass *pass);
    /* Leaves the final hidden state of the top rows, ready for the head, in pass->y. */
    void (*forward)(struct mal_model *model, struct mal_pass *pass);
    /* From pass->dy, the gradient at pass->y, down to the lowest edit module. */
    void (*backward)(struct mal_model *model, struct mal_pass *pass);
    void (*finish)(struct mal_model *model); /* frees model->blocks */
};

extern const struct mal_arch mal_arch_gpt2;

struct mal_norm_weights {
    const float *gain, *bias; /* (C) */
};

/* A tensor the architecture asked for; loaded after all are known. */
struct mal_binding {
    struct mal_checkpoint_tensor source;
    const float **dst;
};

struct mal_model {
    const struct mal_arch *arch;
    struct mal_model_info info;
    struct mal_backend *be;
    struct mal_checkpoint *ckpt;
    struct mal_hash fingerprint; /* once has_fingerprint */
    bool has_fingerprint;
    bool prefixed; /* the checkpoint's names carry arch->prefix */

    int64_t n_heads, n_kv_heads, head_size, n_inner;
    enum mal_act act;
    float norm_eps;

    const float *tokens;    /* (V, C) */
    const float *positions; /* (T, C); NULL: none */
    const float *head;      /* (V, C) */
    struct mal_norm_weights final_norm;
    void *blocks; /* (n_layers) of the architecture's own struct */

    struct mal_linear *
        *linears; /* in the order of their blocks; they live inside blocks */
    size_t n_linears, linears_capacity;
    struct mal_linear **edits;
    size_t n_edits;
    int64_t lowest_edit_block; /* n_layers when there is none */

    struct mal_binding *bindings;
    size_t n_bindings, bindings_capacity;
    struct mal_arena weights;    /* every tensor of the base model */
    int64_t head_bytes;          /* logits of one slice of the head at most */
    struct mal_arena scratch;    /* buffers of the running pass */
    struct mal_tape_block *tape; /* (n_layers) */
};

/* ---- For arch->bind ---- */

/* Asks for "<prefix><name>" with this shape; *dst is set when all tensors are loaded. */
bool mal_bind_tensor(struct mal_model *model, const char *name, int n_dims,
                     const int64_t *shape, const float **dst,
                     struct mal_error *err) MAL_CHECK;
/* The same for a tensor already found. */
bool mal_bind_source(struct mal_model *model, struct mal_checkpoint_tensor source,
                     const float **dst, struct mal_error *err) MAL_CHECK;
/* "<name>.weight" and "<name>.bias". */
bool mal_bind_norm(struct mal_model *model, const char *name,
                   struct mal_norm_weights *dst, struct mal_error *err) MAL_CHECK;
/* "<name>.weight", (d_in, d_out) or, `transposed`, (d_out, d_in), and "<name>.bias" if
 * `bias`; registered as a linear of block `block`. */
bool mal_bind_linear(struct mal_model *model, const char *name, int64_t d_in,
                     int64_t d_out, bool transposed, bool bias, int64_t block,
                     struct mal_linear *dst, struct mal_error *err) MAL_CHECK;
void mal_linear_finish(struct mal_linear *lin);

#endif
