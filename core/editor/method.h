/* method.h - the methods of editing: what the rest of the program asks about one, and
 * what it does itself. A method is a file that defines its struct mal_method, and a line
 * of the table here; proto/openapi.yaml and the help of init-editor name them, too. */
#ifndef MAL_METHOD_H
#define MAL_METHOD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

struct mal_delta;
struct mal_editor;
struct mal_hyper;
struct mal_model;
struct mal_model_info;
struct mal_preserve_texts;
struct mal_progress;
struct mal_editor_parts;
struct mal_edit_task;
struct mal_fact;
struct mal_safetensors;
struct mal_tokenizer;

/* What a method measures for a new editor, all borrowed. */
struct mal_method_sample {
    const struct mal_tokenizer *tok;
    const struct mal_preserve_texts *texts; /* whose answers are to stay */
    int64_t n_contexts;                     /* sentences that the model makes up */
    uint64_t seed;                          /* from which */
    const struct mal_progress *progress;    /* NULL: nobody listens */
};

struct mal_method {
    const char *name;  /* in editor files, on the command line, in the API: "malmen" */
    const char *title; /* in messages: "MALMEN" */

    /* A keyed method makes differences of values from keys and value gradients of edit
     * tokens (core/README.md section 3); its editor has statistics of them for each shape
     * of its modules. The others work on the weights themselves. */
    bool keyed;
    bool all_tokens; /* keyed: edit tokens are all of the input unless the file differs */
    bool net;        /* keyed: a hyper-network, and a step and a ridge of each module,
                      * which can be trained; else one step for all */
    bool running;    /* keyed: statistics go on with each batch, as a version's state */
    bool normal_keys; /* keyed: d = -lr <u_hat, u_hat> g_hat; else -lr <u, u_hat> g_hat */
    bool solves;      /* keyed: values enter one ridge regression per module, in which
                       * texts can be preserved, facts repaired, held together and taken
                       * back; else shifts are added up and that is all */
    bool joint;       /* solves: `serve` holds all live facts together unless it is told
                       * otherwise */

    /* Not keyed: the numbers it works by, which the editor file has. */
    const struct mal_hyper *hyper; /* (n_hyper) */
    size_t n_hyper;
    /* Those it begins with on this kind of model. */
    void (*begin)(const struct mal_model_info *info, double *hyper);
    bool biases; /* edits the modules' biases, too */
    bool causal; /* only for models that continue a text */

    /* The modules edited when none are named; *out (*out_n) is the caller's, the names
     * are the model's. NULL: the architecture's. */
    bool (*choose)(const struct mal_model *model, const char ***out, size_t *out_n,
                   struct mal_error *err);

    /* A batch of facts to the delta that teaches them, see mal_edit_run(). */
    bool (*edit)(const struct mal_edit_task *task, struct mal_delta *out,
                 struct mal_error *err);
    /* What the editor file has beside format, method, base model and modules, which are
     * read already; every tensor must be one of the method's. */
    bool (*read)(struct mal_editor *editor, const struct mal_safetensors *file,
                 struct mal_error *err);
    bool (*write)(const struct mal_editor *editor, struct mal_editor_parts *out,
                  struct mal_error *err);

    /* ---- Each of these may be NULL ---- */

    /* What a new editor has of the model; it is bound then. *out_tokens: of how many
     * tokens. */
    bool (*measure)(struct mal_editor *editor, struct mal_model *model,
                    const struct mal_method_sample *sample, int64_t *out_tokens,
                    struct mal_error *err);
    /* What the editor asks of the model, which has its modules. */
    bool (*bind)(const struct mal_editor *editor, struct mal_model *model,
                 struct mal_error *err);
    /* Whether the editor can teach the fact, beyond what every fact must have: an error
     * with the pointer within the fact ("/subject"). Touches no device; for any thread.
     */
    bool (*check_fact)(const struct mal_editor *editor, const struct mal_model *model,
                       const struct mal_tokenizer *tok, const struct mal_fact *fact,
                       struct mal_error *err);
    void (*close)(struct mal_editor *editor); /* frees editor->own */
};

/* The table: the end of mal_method_..., and the name. */
#define MAL_METHODS(X)        \
    X(malmen, "malmen")       \
    X(mend, "mend")           \
    X(ultraedit, "ultraedit") \
    X(ft, "ft")               \
    X(locft_bf, "locft-bf")   \
    X(memit, "memit")

#define MAL_METHOD_EXTERN(id, text) extern const struct mal_method mal_method_##id;
MAL_METHODS(MAL_METHOD_EXTERN)
#undef MAL_METHOD_EXTERN

/* "malmen|mend|...", for the options of commands */
#define MAL_METHOD_CHOICE(id, text) "|" text
#define MAL_METHOD_CHOICES          (&(MAL_METHODS(MAL_METHOD_CHOICE))[1])

const struct mal_method *mal_method_find(const char *name); /* NULL: there is none */

#endif
