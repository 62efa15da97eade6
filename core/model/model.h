/* model.h - a base language model: opened from a checkpoint, run over packed batches.
 *
 * Passes are written once over core/backend.h. What is never computed: padding (sequences
 * are packed), logits at rows nobody asks for, the backward pass below the lowest edit
 * module and before the first row that matters, gradients of weights that are not edited
 * (core/README.md section 5). */
#ifndef MAL_MODEL_H
#define MAL_MODEL_H

#include "core/arena.h"
#include "core/backend.h"
#include "core/checkpoint.h"

struct mal_model;
struct mal_tokenizer;

/* A linear layer y = x W + b. `w` is what the passes read; edits swap it. Its bias, where
 * that can be edited, is a layer itself, of the constant input 1: its name ends in
 * ".bias", W is (1, d_out), and no pass runs it. */
struct mal_linear {
    char *name; /* in the checkpoint, without ".weight", owned */
    int64_t d_in, d_out;
    bool transposed;             /* stored (d_out, d_in) in the checkpoint and here */
    enum mal_dtype dtype;        /* of the checkpoint */
    enum mal_dtype w_dtype;      /* of w and w0 on this device */
    const void *w;               /* in use */
    const void *w0;              /* base; w == w0 until edited */
    const float *bias;           /* in use; NULL: none */
    struct mal_linear *own_bias; /* `bias` as a layer, owned; NULL: there is none */
    struct mal_linear *bias_of;  /* of such a bias: the layer; else NULL */
    int64_t block;               /* index of the block it is in, the encoder's first */
    bool of_source;              /* its rows are those of an encoder-decoder's encoder */
    int edit;                    /* index among what is edited, -1: not */
};

enum mal_model_kind {
    MAL_MODEL_CAUSAL,    /* continues a text */
    MAL_MODEL_SEQ2SEQ,   /* an encoder reads a text, a decoder answers */
    MAL_MODEL_CLASSIFIER /* says whether a claim is supported */
};

struct mal_model_info {
    const char *architecture; /* "gpt2" */
    enum mal_model_kind kind;
    int64_t n_layers; /* blocks, of both stacks */
    int64_t n_channels, n_vocab;
    int64_t n_context; /* 0: no maximum */
    int64_t n_outputs; /* of the head: n_vocab, or a classifier's classes, of which 1 is
                          "supported"; 0: there is no head */
    int64_t n_parameters;
    enum mal_dtype dtype;  /* most common in the checkpoint */
    int32_t eos;           /* the first token that ends a text, -1: none */
    int32_t decoder_start; /* what an encoder-decoder's answer begins with */
};

/* `be` is borrowed and must outlive the model. */
bool mal_model_open(struct mal_model **out, const char *dir, struct mal_backend *be,
                    struct mal_error *err) MAL_CHECK;
/* Everything that mal_model_open() would refuse but for the device: config.json and every
 * tensor's name and shape. The result has sizes, linear layers and their names, and no
 * weights: no pass may be asked of it. */
bool mal_model_look(struct mal_model **out, const char *dir,
                    struct mal_error *err) MAL_CHECK;
/* The same model for the passes of another thread, on a queue beside the model's: it has
 * the weights in common and scratch of its own, and reads the base until its linear
 * layers are told otherwise. Its edit modules are those that `of`, which must outlive it,
 * has now. */
bool mal_model_share(struct mal_model **out, const struct mal_model *of,
                     struct mal_backend *be, struct mal_error *err) MAL_CHECK;
void mal_model_close(struct mal_model *model); /* takes NULL */

const struct mal_model_info *mal_model_info(const struct mal_model *model);
/* Whether the token ends what is generated: there may be several such. */
bool mal_model_ends(const struct mal_model *model, int32_t id);
struct mal_backend *mal_model_backend(const struct mal_model *model);
const struct mal_checkpoint *mal_model_checkpoint(const struct mal_model *model);

/* The checkpoint's fingerprint, computed when it is first asked for: it reads every byte.
 */
bool mal_model_fingerprint(struct mal_model *model, struct mal_hash *out,
                           struct mal_error *err) MAL_CHECK;

/* All linear layers that may be edited, in the order of their blocks. */
size_t mal_model_n_linears(const struct mal_model *model);
struct mal_linear *mal_model_linear(struct mal_model *model, size_t i);
struct mal_linear *mal_model_find_linear(struct mal_model *model, const char *name);

/* Whether it is the last layer of a block's MLP, whose output joins the block's as it is.
 */
bool mal_model_ends_block(const struct mal_model *model, const struct mal_linear *lin);

/* A layer or, by a name that ends in ".bias", a layer's bias; NULL: there is none. */
struct mal_linear *mal_model_find_editable(struct mal_model *model, const char *name);

/* Lets the passes read `w`. */
static inline void mal_linear_use(struct mal_linear *lin, const void *w) {
    lin->w = w;
    if (lin->bias_of) lin->bias_of->bias = w;
}

/* Declares what is edited: layers, the edit modules, and biases; replaces what was
 * declared before. An unknown name is an error that lists what there is of its kind, and
 * what the checkpoint has in F64 is not edited. */
bool mal_model_set_edits(struct mal_model *model, const char *const *names, size_t n,
                         struct mal_error *err) MAL_CHECK;
/* The edit modules, and what is edited: those, then the biases, each in the order in
 * which they were named. */
size_t mal_model_n_edits(const struct mal_model *model);
size_t mal_model_n_edited(const struct mal_model *model);
struct mal_linear *mal_model_edit(const struct mal_model *model, size_t i);
/* The paper's choice for this architecture, scaled to the model's depth (core/README.md
 * section 9). Names are borrowed from the model; *out is freed with mal_free(). */
bool mal_model_default_edits(const struct mal_model *model, const char ***out,
                             size_t *out_n, struct mal_error *err) MAL_CHECK;
/* The MLPs' last layers of `n` blocks from `first` on, of the mal_model_n_blocks() of the
 * stack that the head sits on; the rest as above. */
int64_t mal_model_n_blocks(const struct mal_model *model);
bool mal_model_mlp_outputs(const struct mal_model *model, int64_t first, int64_t n,
                           const char ***out, size_t *out_n,
                           struct mal_error *err) MAL_CHECK;
/* Declares the default ones. */
bool mal_model_set_default_edits(struct mal_model *model,
                                 struct mal_error *err) MAL_CHECK;

/* ---- Batches ---- */

/* Packed sequences in host memory, owned by the caller. Sequence s is ids[start[s] ..
 * start[s+1]). Its label rows are [from[s], length): labels[start[s] + t] is what
 * position t must predict, -1 where nothing (always -1 before from[s]). A classifier has
 * one label row, from[s], whose label is the class. With an encoder-decoder all this is
 * what its decoder reads, and source_ids[source_start[s] .. source_start[s+1]) what its
 * encoder does. */
struct mal_batch {
    size_t n_seqs;
    const int32_t *start;                     /* (n_seqs + 1) */
    const int32_t *ids;                       /* (start[n_seqs]) */
    const int32_t *from;                      /* (n_seqs); from[s] < length */
    const int32_t *labels;                    /* (start[n_seqs]) */
    const int32_t *source_start, *source_ids; /* (n_seqs + 1), (source_start[n_seqs]) */
    /* NULL, or tokens that are all to be predicted at one row, instead of `labels`: of
     * sequence s targets[target_start[s] .. target_start[s+1]), one or more, at from[s],
     * its last row. For mal_model_learn() alone. */
    const int32_t *target_start, *targets;
    /* NULL, or the states that the lowest edited block reads, (rows, C) device memory for
     * the rows of mal_model_trunk_start(): a pass leaves them there or, where they are
     * known, begins with them. Not for mal_model_inside(). */
    float *trunk;
    bool trunk_known;
};

/* Where the sequences begin (n_seqs + 1) among the rows that the lowest edited block
 * reads, in the encoder or the decoder. NULL: there is no block below, or more than its
 * states would have to be known. */
const int32_t *mal_model_trunk_start(const struct mal_model *model,
                                     const struct mal_batch *batch);

/* Per label row, in packed order (sequence by sequence, positions ascending); host memory
 * of the caller, each may be NULL. */
struct mal_row_scores {
    float *logprob; /* of the label */
    int32_t *rank;  /* 1 = most probable */
    int32_t *argmax;
    float *logits; /* (rows, n_outputs): only for small things */
};

/* Forward to the label rows, on the weights in use. */
bool mal_model_score(struct mal_model *model, const struct mal_batch *batch,
                     const struct mal_row_scores *out, struct mal_error *err) MAL_CHECK;

/* Forward and backward of sum over label rows of loss_scale * -log p. For each edit
 * module m: u[m] (rows, d_in), g[m] (rows, d_out), device memory of the caller, rows in
 * packed order: the label rows when `all_tokens` is false, all tokens otherwise (then
 * rows before the first label carry gradients too); of a module whose rows are the
 * source's, all of its tokens. `loss` (may be NULL): sum of -log p
 * over label rows, host. */
struct mal_measure {
    float loss_scale;
    bool all_tokens;
    float *const *u;
    float *const *g;
    double *loss;
    double seconds[2]; /* out: forward, backward, the heads included */
};

bool mal_model_measure(struct mal_model *model, const struct mal_batch *batch,
                       struct mal_measure *measure, struct mal_error *err) MAL_CHECK;

/* Forward and backward of a training loss on the weights in use, for its gradient at the
 * weights of the edit modules, with prompts' rows taking part (core/README.md section 8).
 * The loss is the sum over label rows of loss_scale * -log p; or, with `keep`, of
 * loss_scale * KL(base model || weights in use), whatever the labels. The losses of
 * sequence s count counts[s] times (NULL: once). dw[m] of each module, and of each bias
 * that is edited, fp32, device memory of the caller, is added to: (d_in, d_out) or, with
 * `as_stored`, oriented as the weight is. `loss` (may be NULL): the sum without
 * loss_scale, host. */
struct mal_learn {
    bool keep, as_stored;
    float loss_scale;
    const float *counts; /* (n_seqs), host */
    float *const *dw;
    double *loss;
};

bool mal_model_learn(struct mal_model *model, const struct mal_batch *batch,
                     const struct mal_learn *learn, struct mal_error *err) MAL_CHECK;

/* Forward only: of each edit module m the keys at the label rows, u[m] (rows, d_in),
 * device memory of the caller, rows in packed order. */
bool mal_model_keys(struct mal_model *model, const struct mal_batch *batch,
                    float *const *u, struct mal_error *err) MAL_CHECK;

/* Forward only, of a causal model, through the blocks up to `block`, which is not the
 * last one, on the weights in use. At the label rows, or all rows: of edit modules in
 * those blocks the keys u[m] (rows, d_in), NULL where not wanted, and the block's output
 * x (rows, C), likewise; device memory of the caller, rows in packed order. */
struct mal_inside {
    int64_t block;
    bool all_rows;
    float *const *u;
    float *x;
};

bool mal_model_inside(struct mal_model *model, const struct mal_batch *batch,
                      const struct mal_inside *inside, struct mal_error *err) MAL_CHECK;

/* Forward only, on the blocks below every edit alone: leaves batch->trunk. */
bool mal_model_trunk(struct mal_model *model, const struct mal_batch *batch,
                     struct mal_error *err) MAL_CHECK;

/* Logits of every position: out (n, V), host; of an encoder-decoder that reads `source`
 * the decoder's positions, of a classifier the first. */
bool mal_model_logits(struct mal_model *model, const int32_t *source, size_t n_source,
                      const int32_t *ids, size_t n, float *out,
                      struct mal_error *err) MAL_CHECK;
/* The last hidden state of every position, out (n, C), host: of what the head sits on,
 * after the final norm, before a pooler. Not for an encoder-decoder. */
bool mal_model_hidden(struct mal_model *model, const int32_t *ids, size_t n, float *out,
                      struct mal_error *err) MAL_CHECK;

/* ---- Sizes known beforehand ---- */

/* Device scratch bytes of a pass over n_tokens tokens (of an encoder-decoder: the
 * encoder's) in sequences of at most max_tokens, with n_rows label rows; `measure`: with
 * its backward pass. */
size_t mal_model_scratch_bytes(const struct mal_model *model, int64_t n_seqs,
                               int64_t n_tokens, int64_t max_tokens, int64_t n_rows,
                               bool measure);

/* The same of mal_model_learn() with `keep`, which takes the most. */
size_t mal_model_learn_bytes(const struct mal_model *model, int64_t n_seqs,
                             int64_t n_tokens, int64_t max_tokens, int64_t n_rows);

/* Gives the device memory of past passes back; the next pass takes what it needs. */
void mal_model_drop_scratch(struct mal_model *model);
/* That memory, for others to use where no pass runs meanwhile: what is in it is lost at
 * the next one. */
struct mal_arena *mal_model_scratch(struct mal_model *model);

#endif
