/* memit_impl.h - the steps of a MEMIT edit, for its own files and their tests. */
#ifndef MAL_MEMIT_IMPL_H
#define MAL_MEMIT_IMPL_H

#include "core/delta.h"
#include "core/editor/cholesky.h"
#include "core/editor/editor_impl.h"
#include "core/editor/memit.h"
#include "core/editor/progress.h"
#include "core/example.h"

/* ---- The method (memit.c, memit_make.c) ---- */

bool mal_memit_edit(const struct mal_edit_task *task, struct mal_delta *out,
                    struct mal_error *err) MAL_CHECK;
void mal_memit_begin(const struct mal_model_info *info, double *hyper);
bool mal_memit_choose(const struct mal_model *model, const char ***out, size_t *out_n,
                      struct mal_error *err) MAL_CHECK;

/* Gives a new editor its second moments, measured over all tokens of the texts, each run
 * alone, and its contexts: the prompt alone, and sentences of ten tokens that the model
 * makes up from five first words in turn, as published. Fewer tokens than a module has
 * inputs are MAL_INVALID. Ticks are of MAL_STAGE_GRAM. */
bool mal_memit_measure(struct mal_editor *editor, struct mal_model *model,
                       const struct mal_method_sample *sample, int64_t *out_tokens,
                       struct mal_error *err) MAL_CHECK;

/* Rows of one pass through the model, of which progress->slice_tokens is the measure. */
int64_t mal_memit_most_rows(const struct mal_progress *progress,
                            const struct mal_backend *be);

/* ---- Texts (memit_texts.c) ---- */

struct mal_memit_fact {
    struct mal_example *texts; /* (n) of each prompt all contexts, in order; owned */
    int32_t *at;               /* (n) the subject's last token in each; owned */
    size_t n, n_prompts;
    struct mal_ids about; /* "<subject> is a" up to the subject's last token */
};

/* The token of `text` that ends at, or goes beyond, its byte `end` - 1: where a word
 * there is last read. `ids` (n) are the text's, special tokens included. */
bool mal_memit_last_token(const struct mal_tokenizer *tok, const char *text, size_t end,
                          const int32_t *ids, int32_t n, int32_t *out,
                          struct mal_error *err) MAL_CHECK;
/* Where the subject occurs more than once in a prompt, the last time counts. A prompt in
 * which it does not, or which is too long in a context, is MAL_INVALID with the pointer
 * within the fact: "/subject", "/prompt", "/prompts/0". */
bool mal_memit_fact_init(struct mal_memit_fact *out, const struct mal_memit *memit,
                         const struct mal_model *model, const struct mal_tokenizer *tok,
                         const struct mal_fact *fact, struct mal_error *err) MAL_CHECK;
void mal_memit_facts_free(struct mal_memit_fact *facts, size_t n); /* takes NULL */

/* ---- Values (memit_values.c) ---- */

/* A step of a fact: its loss, and of what that is the sum; the last three with their
 * factors. */
struct mal_memit_terms {
    double loss, nll, kl, weight_decay;
};

struct mal_memit_values {
    struct mal_model *model; /* on the weights that are edited */
    int64_t block;           /* of the last edited layer */
    const double *hyper;     /* (MAL_MEMIT_N_HYPER) */
    const struct mal_memit_fact *facts;
    size_t n;
    size_t most_facts;                   /* at once; 0: as many as pay */
    const struct mal_progress *progress; /* NULL: nobody listens */
    struct mal_edit_report *report;      /* is added to */
    /* Called for each step of each fact; NULL: not. */
    void (*watch)(void *arg, size_t fact, int64_t step, const struct mal_memit_terms *t);
    void *watch_arg;
};

/* v* of each fact, z (n, C) host memory. Many facts go together: as many as fill a pass
 * of progress->slice_tokens rows, and whose kept states and pass take half of the memory
 * that is free. */
bool mal_memit_find_values(const struct mal_memit_values *values, float *z,
                           struct mal_error *err) MAL_CHECK;

/* ---- Modules (memit.c) ---- */

/* The block whose output values are: the last module's. */
int64_t mal_memit_block(const struct mal_edit_task *task);
/* The shifts, module by module, that lead to values z (n, C) of facts. */
bool mal_memit_edit_to(const struct mal_edit_task *task,
                       const struct mal_memit_fact *facts, size_t n, const float *z,
                       struct mal_delta *out, struct mal_error *err) MAL_CHECK;

/* ---- Solving (memit_solve.c) ---- */

/* S of module m from keys k (n, d_in) and residuals r (n, d_out), device memory. Few
 * facts, whose shift is smaller as factors, are solved with the Cholesky factor of
 * mom2_weight C = L L', which is kept in device memory where a quarter of what is free
 * suffices: with W = K L'^-1, S = (W L^-1)' (I + W W')^-1 R. */
struct mal_memit_solve {
    struct mal_memit *memit;
    size_t m;
    double mom2_weight;
    const char *module;
    int64_t n, d_in, d_out;
    enum mal_dtype dtype; /* of the weight in the checkpoint: factors.h */
    const float *k, *r;
    struct mal_pace pace;
};

bool mal_memit_solve(const struct mal_memit_solve *solve, struct mal_delta_part *out,
                     struct mal_error *err) MAL_CHECK;
void mal_memit_factors_destroy(struct mal_memit_factors *factors, size_t n); /* or NULL */

#endif
