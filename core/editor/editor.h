/* editor.h - an editor: what turns keys and value gradients into weight shifts
 * (core/README.md section 3), read from and written to one safetensors file (section 7).
 */
#ifndef MAL_EDITOR_H
#define MAL_EDITOR_H

#include "core/editor/method.h"
#include "core/editor/normalizer.h"
#include "core/editor/preserve_texts.h"
#include "core/hash.h"
#include "core/model/model.h"

enum mal_edit_tokens { MAL_TOKENS_ANSWER, MAL_TOKENS_ALL };

enum mal_loss { MAL_LOSS_TOKEN_SUM, MAL_LOSS_MICROBATCH_MEAN };

/* One residual block of a hyper-network; host memory, owned. */
struct mal_block {
    float *a;     /* (size, rank) */
    float *b;     /* (rank, size) */
    float *bias;  /* (size) */
    float *scale; /* (n_modules, size) */
    float *shift; /* (n_modules, size) */
};

/* What the modules of one distinct (d_in, d_out) share. */
struct mal_editor_shape {
    int64_t d_in, d_out, size; /* size = d_in + d_out */
    int64_t n_modules;
    struct mal_normalizer norm;
    struct mal_block *blocks;             /* (n_blocks), owned */
    struct mal_resident_blocks *resident; /* the same on a device, owned; resident.h */
    float *lr;                            /* (n_modules); NULL: one step for all */
    float *lamda;                         /* (n_modules); likewise */
    float *preserve; /* (n_modules) log of the weight; NULL: no texts */
};

/* The file has the modules' names only. Where it has several shapes, the model must say
 * which module has which: shape and row stand from mal_editor_bind() on (with one shape,
 * at once). */
struct mal_editor_module {
    char *name;   /* as in the checkpoint, owned */
    size_t shape; /* index in shapes */
    size_t row;   /* index among the modules of that shape */
};

struct mal_editor {
    const struct mal_method *method;
    enum mal_edit_tokens tokens;
    enum mal_loss loss;
    int64_t micro_batch;             /* facts per micro-batch */
    int64_t rank, n_blocks;          /* 0 without a network */
    int64_t n_edits;                 /* facts per step it was trained for; 0: not said */
    double lr;                       /* the step of all modules, without a network */
    char base_model[MAL_HASH_HEX];   /* fingerprint, empty: not said */
    struct mal_editor_shape *shapes; /* in the order of their names "(d_in, d_out)" */
    size_t n_shapes;                 /* 0 of a method that is not keyed */
    struct mal_editor_module *modules; /* in the order of the file */
    size_t n_modules;
    double *hyper; /* (method->n_hyper), owned; NULL of a keyed method */
    void *own;     /* what the method keeps for itself, see its close() */
    struct mal_preserve_texts preserve; /* n 0: it carries none */
    struct mal_hash hash; /* SHA-256 of the file's bytes; zero when made in memory */
};

/* Every tensor's shape is checked against the metadata, every value for being finite. */
bool mal_editor_open(struct mal_editor **out, const char *path,
                     struct mal_error *err) MAL_CHECK;
bool mal_editor_save(const struct mal_editor *editor, const char *path,
                     struct mal_error *err) MAL_CHECK;
void mal_editor_close(struct mal_editor *editor); /* takes NULL */

/* An untrained one of a keyed method for modules of `model`: identity network (A ~ N(0,1)
 * from `seed`, the rest 0 or 1), empty statistics, the given step. rank and n_blocks are
 * ignored without a network. */
bool mal_editor_create(struct mal_editor **out, const struct mal_method *method,
                       struct mal_model *model, const char *const *modules,
                       size_t n_modules, int64_t rank, int64_t n_blocks, double lr,
                       uint64_t seed, struct mal_error *err) MAL_CHECK;

/* One of a method that is not keyed, with the numbers it begins with but for those that
 * `hyper` gives, the text of a JSON object; NULL: none. */
bool mal_editor_create_direct(struct mal_editor **out, const struct mal_method *method,
                              struct mal_model *model, const char *const *modules,
                              size_t n_modules, const char *hyper,
                              struct mal_error *err) MAL_CHECK;

/* Declares the editor's modules as the model's edit modules, after checking names and
 * shapes and, where the file has one, the base model's fingerprint; gives each module its
 * shape. On an error the model is as it was. */
bool mal_editor_bind(struct mal_editor *editor, struct mal_model *model,
                     struct mal_error *err) MAL_CHECK;

/* The step of a module; of a keyed method, bound to a model. */
float mal_editor_step(const struct mal_editor *editor, size_t module);

/* Gives it texts to preserve, which it takes over (zeroing *texts) whether it succeeds or
 * not, in place of any it carries, and weights for them: n_keys w = share d_in. It
 * is bound to `model`. A share of 0, of which there is no logarithm, is MAL_INVALID;
 * after an error the editor is only to be closed. */
bool mal_editor_set_preserve(struct mal_editor *editor, struct mal_model *model,
                             struct mal_preserve_texts *texts, double share,
                             struct mal_error *err) MAL_CHECK;

/* ---- The statistics of all shapes together, (n_shapes) ---- */

/* Whether it can edit: MAL_INVALID if nothing was measured for it, and nothing will be
 * with each batch. */
bool mal_editor_check_statistics(const struct mal_editor *editor,
                                 struct mal_error *err) MAL_CHECK;

/* NULL with an error when memory is out. */
struct mal_normalizer *mal_norms_copy(const struct mal_normalizer *norms, size_t n,
                                      struct mal_error *err);
struct mal_normalizer *mal_editor_norms(const struct mal_editor *editor,
                                        struct mal_error *err);
void mal_norms_free(struct mal_normalizer *norms, size_t n); /* takes NULL */

#endif
