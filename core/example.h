/* example.h - a prompt with its target as the token sequence a model is run on
 * (core/README.md "Tokens and loss"), and many of them packed into a batch. */
#ifndef MAL_EXAMPLE_H
#define MAL_EXAMPLE_H

#include "core/model/model.h"
#include "core/tokenizer/tokenizer.h"

/* The most tokens of a prompt, and of an encoder-decoder's answer: the model's context;
 * where it has none, a bound on what one request may cost: T5, which has none, was
 * trained on 512. */
enum { MAL_LONGEST_TEXT = 4096 };

static inline int64_t mal_longest_text(const struct mal_model_info *info) {
    return info->n_context ? info->n_context : MAL_LONGEST_TEXT;
}

/* What the model reads, and what it is to answer.
 * Causal models: ids = tok(prompt) ++ tok(join target), without the last; the last prompt
 * token and the target tokens after it are the rows that predict the target.
 * Encoder-decoders: ids = tok(prompt), for the encoder; the decoder reads decoder_start
 * ++ tok(target) without the last, and each of its rows predicts. Classifiers: ids =
 * tok(prompt); the first row predicts the class. */
struct mal_example {
    int32_t *ids; /* (n), owned */
    int32_t n;
    int32_t from;    /* first row that predicts */
    int32_t *target; /* (n_target), owned; rows from `from` on */
    int32_t n_target;
    bool has_decoder; /* an encoder-decoder's, which begins with decoder_start */
    int32_t decoder_start;
    size_t source; /* of the caller: which fact or item it came from */
};

/* Appends the ids of `text` as the model reads it: with what the tokenizer puts before it
 * and, unless a causal model is to go on with it, behind it. A token that the model has
 * no embedding of, as an added one may be, is MAL_INVALID, with `pointer` if there is
 * one. */
bool mal_text_tokens(const struct mal_model_info *info, const struct mal_tokenizer *tok,
                     const char *text, size_t bytes, const char *pointer,
                     struct mal_ids *out, struct mal_error *err) MAL_CHECK;

/* Spaces at the seam are trimmed, then prompt and target are joined by `join` (NULL: one
 * space), which only causal models need. An empty prompt or target, one that is too long,
 * or a classifier's target that is not a class, is MAL_INVALID with the pointer "/prompt"
 * or "/target". */
bool mal_example_init(struct mal_example *out, const struct mal_model *model,
                      const struct mal_tokenizer *tok, const char *prompt,
                      const char *target, const char *join,
                      struct mal_error *err) MAL_CHECK;
/* A causal model's: one target more, after the others. */
bool mal_example_end(struct mal_example *example, int32_t eos,
                     struct mal_error *err) MAL_CHECK;
/* A prompt alone: the row that begins the answer is there, and predicts no particular
 * token. */
bool mal_example_open(struct mal_example *out, const struct mal_model *model,
                      const struct mal_tokenizer *tok, const char *prompt,
                      struct mal_error *err) MAL_CHECK;
/* The target's tokens alone, as they follow a prompt whose last is `last`; appended to
 * *out. */
bool mal_example_target(const struct mal_model *model, const struct mal_tokenizer *tok,
                        int32_t last, const char *target, const char *join,
                        struct mal_ids *out, struct mal_error *err) MAL_CHECK;

/* A classifier's targets: "REFUTES", "SUPPORTS". */
extern const char *const mal_class_names[2];

void mal_example_finish(struct mal_example *example);
void mal_examples_free(struct mal_example *examples, size_t n); /* takes NULL */

/* order (n) := the examples' indices, longest first, stable: as the reference cuts
 * micro-batches. */
bool mal_examples_longest_first(const struct mal_example *examples, size_t n,
                                size_t *order, struct mal_error *err) MAL_CHECK;

/* Packs examples[order[0..n)] (order NULL: as they come). *out's arrays are one
 * allocation: mal_packed_finish(). */
struct mal_packed {
    struct mal_batch batch;
    int64_t n_labels;
    int32_t *block;
};

bool mal_examples_pack(const struct mal_example *examples, const size_t *order, size_t n,
                       struct mal_packed *out, struct mal_error *err) MAL_CHECK;
/* The same of a causal model's prompts alone, without the target's tokens: all of these
 * are to be predicted at the prompt's last row (batch.targets). */
bool mal_examples_pack_prompts(const struct mal_example *examples, const size_t *order,
                               size_t n, struct mal_packed *out,
                               struct mal_error *err) MAL_CHECK;
void mal_packed_finish(struct mal_packed *packed);

#endif
