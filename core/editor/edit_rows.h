/* edit_rows.h - the rows of a batch: per edit module the key u and the value gradient g
 * of every edit token, in device memory (core/README.md sections 2 and 3). */
#ifndef MAL_EDIT_ROWS_H
#define MAL_EDIT_ROWS_H

#include "core/editor/editor.h"
#include "core/editor/progress.h"
#include "core/example.h"
#include "core/facts.h"
#include "core/trunk.h"

struct mal_edit_rows {
    struct mal_model *model; /* this and the next four borrowed */
    struct mal_backend *be;
    const struct mal_editor *editor;
    const struct mal_progress *progress; /* NULL: nobody listens */
    struct mal_trunk *trunk;             /* borrowed, set once they are opened; or NULL */
    struct mal_edit_report *report;      /* is added to */
    /* Set once they are opened, where the loss is a micro-batch's mean: one with fewer
     * examples has the gradients it would have in a full one of such. The reference's
     * are then as many times larger. */
    bool full_means;

    const struct mal_example *examples; /* (n_examples), `own` or the caller's */
    struct mal_example *own;
    size_t n_examples;
    size_t *order; /* longest first, stable: as the reference cuts micro-batches */
    size_t n_micro;
    /* First row of each micro-batch (n_micro + 1), and their number: of modules whose
     * rows are the label rows or all tokens, and of those that have the source's. */
    int64_t *micro_rows[2];
    int64_t n_rows[2];
    int64_t *first_row[2]; /* (n_examples) of each example, as they came, not ordered */

    size_t n_modules;
    float **u, **g; /* per module (rows, d_in), (rows, d_out), device, owned; the rows
                       in the order of the examples in `order` */
};

/* The texts that facts teach, tokenised: each fact's prompt, then its further prompts,
 * `source` being the fact's index. *out is the caller's: mal_examples_free(). An error
 * points to "/facts/i/...". */
bool mal_examples_of_facts(const struct mal_model *model, const struct mal_tokenizer *tok,
                           const struct mal_fact *facts, size_t n_facts,
                           struct mal_example **out, size_t *out_n,
                           struct mal_error *err) MAL_CHECK;
/* Rows of an example in modules whose rows are the source's, or are not. */
int64_t mal_example_rows(const struct mal_editor *editor, const struct mal_example *e,
                         bool of_source);

/* Rows of module m. */
int64_t mal_edit_rows_n(const struct mal_edit_rows *rows, size_t m);

/* Tokenises the facts' texts, orders them and takes the memory of the rows, for an editor
 * bound to `model`. On an error there is nothing to finish. */
bool mal_edit_rows_of_facts(struct mal_edit_rows *rows, struct mal_model *model,
                            const struct mal_tokenizer *tok,
                            const struct mal_editor *editor, const struct mal_fact *facts,
                            size_t n_facts, const struct mal_progress *progress,
                            struct mal_edit_report *report,
                            struct mal_error *err) MAL_CHECK;
/* The same of at least one example, which are borrowed until finish. */
bool mal_edit_rows_of_examples(struct mal_edit_rows *rows, struct mal_model *model,
                               const struct mal_editor *editor,
                               const struct mal_example *examples, size_t n_examples,
                               const struct mal_progress *progress,
                               struct mal_edit_report *report,
                               struct mal_error *err) MAL_CHECK;

/* Fills u and g on the weights in use. */
bool mal_edit_rows_measure(struct mal_edit_rows *rows, struct mal_error *err) MAL_CHECK;

/* Fills u only, which takes a forward pass. */
bool mal_edit_rows_keys(struct mal_edit_rows *rows, struct mal_error *err) MAL_CHECK;

/* Takes measured rows into running statistics, norms (n_shapes of the editor). On an
 * error they may have changed. */
bool mal_edit_rows_take_in(struct mal_edit_rows *rows, struct mal_normalizer *norms,
                           struct mal_error *err) MAL_CHECK;
/* The memory of the device that this takes meanwhile. */
size_t mal_edit_rows_taken_bytes(struct mal_model *model, size_t n_micro);

/* Frees the rows of one module. */
void mal_edit_rows_drop(struct mal_edit_rows *rows, size_t module);
void mal_edit_rows_finish(struct mal_edit_rows *rows); /* takes a zeroed one */

#endif
