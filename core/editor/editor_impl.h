/* editor_impl.h - what the files of the editor share: its memory. */
#ifndef MAL_EDITOR_IMPL_H
#define MAL_EDITOR_IMPL_H

#include "core/editor/edit.h"

struct mal_safetensors;

enum {
    MAL_SHAPE_NAME = 48,
    MAL_N_NORM = 4,
    MAL_N_BLOCK = 5,
    MAL_N_PRESERVE = 3,
    MAL_TENSOR_NAME = 96
};

#define MAL_EDITOR_FORMAT "malmend-editor-1"
extern const char
    *const mal_tokens_names[2];             /* by enum mal_edit_tokens, as in the file */
extern const char *const mal_loss_names[2]; /* by enum mal_loss */

/* ---- The file ---- */

/* The metadata's value, borrowed from the file; one that is not there is an error. */
bool mal_editor_text(const struct mal_safetensors *file, const char *key,
                     const char **out, struct mal_error *err) MAL_CHECK;

struct mal_st_entry;
struct mal_st_meta;

/* What is to be written. Values and names are copied, keys and data are borrowed. */
struct mal_editor_parts {
    struct mal_st_meta *meta;
    struct mal_st_entry *tensors;
    size_t n_meta, n_tensors;
};

bool mal_parts_text(struct mal_editor_parts *parts, const char *key, const char *value,
                    struct mal_error *err) MAL_CHECK;
bool mal_parts_int(struct mal_editor_parts *parts, const char *key, int64_t value,
                   struct mal_error *err) MAL_CHECK;
bool mal_parts_tensor(struct mal_editor_parts *parts, const struct mal_st_entry *tensor,
                      struct mal_error *err) MAL_CHECK;

/* ---- Keyed methods ---- */

bool mal_keyed_edit(const struct mal_edit_task *task, struct mal_delta *out,
                    struct mal_error *err) MAL_CHECK;
bool mal_keyed_read(struct mal_editor *editor, const struct mal_safetensors *file,
                    struct mal_error *err) MAL_CHECK;
bool mal_keyed_write(const struct mal_editor *editor, struct mal_editor_parts *out,
                     struct mal_error *err) MAL_CHECK;

/* ---- The others: modules, and numbers that are in the file as `hyper` ---- */

bool mal_direct_read_hyper(struct mal_editor *editor, const struct mal_safetensors *file,
                           struct mal_error *err) MAL_CHECK;
/* The same of a file without tensors. */
bool mal_direct_read(struct mal_editor *editor, const struct mal_safetensors *file,
                     struct mal_error *err) MAL_CHECK;
bool mal_direct_write(const struct mal_editor *editor, struct mal_editor_parts *out,
                      struct mal_error *err) MAL_CHECK;

/* ---- Making one ---- */

/* The model's names of them, each once. */
bool mal_editor_take_modules(struct mal_editor *editor, struct mal_model *model,
                             const char *const *modules, size_t n,
                             struct mal_error *err) MAL_CHECK;
bool mal_editor_take_base(struct mal_editor *editor, struct mal_model *model,
                          struct mal_error *err) MAL_CHECK;

/* ---- Shapes ---- */

/* "(64, 32)", as the reference's state dict writes it. */
void mal_shape_name(char out[MAL_SHAPE_NAME], int64_t d_in, int64_t d_out);

/* Allocates what a shape holds: statistics and, with a network, blocks, lr and lamda, all
 * zero. A half-built one is freed with its editor. */
bool mal_editor_shape_init(struct mal_editor_shape *shape, int64_t d_in, int64_t d_out,
                           int64_t n_modules, const struct mal_editor *editor,
                           struct mal_error *err) MAL_CHECK;

/* Gives each module its shape and row: the file names the modules only, the model knows
 * what they are. Shapes without anything per module learn here how many they have. */
bool mal_editor_resolve(struct mal_editor *editor, struct mal_model *model,
                        struct mal_error *err) MAL_CHECK;

/* One tensor of a shape as it stands in the file. */
struct mal_editor_tensor {
    char name[MAL_TENSOR_NAME]; /* "(64, 32).blocks.0.A" */
    int n_dims;
    int64_t dims[2];
    float *data; /* borrowed from the editor; NULL before it has memory */
};

size_t mal_editor_n_tensors(const struct mal_editor *editor); /* per shape */
/* The i-th tensor of a shape; the first is the count n, the last the preservation weight
 * where the editor carries texts. */
void mal_editor_tensor_at(const struct mal_editor *editor, struct mal_editor_shape *shape,
                          size_t i, struct mal_editor_tensor *out);

/* Tensors of the editor as a whole, int32: the texts it carries. */
extern const char *const mal_preserve_names[MAL_N_PRESERVE]; /* ids, start, from */
bool mal_preserve_is_name(const char *name);
/* *out stays as it is where the file has none of them. */
bool mal_preserve_texts_read(struct mal_preserve_texts *out,
                             const struct mal_safetensors *file,
                             struct mal_error *err) MAL_CHECK;

#endif
