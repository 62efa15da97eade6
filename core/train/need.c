/* need.c - what a training step takes at most, before it starts. */
#include <stdlib.h>

#include "core/alloc.h"
#include "core/editor/solve_grad.h"
#include "core/train/trainer_impl.h"

static int descending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* Edit tokens of the `n_edits` facts that have most. */
static bool most_rows(const struct mal_train_data *data, bool all_tokens, int64_t n_edits,
                      int64_t *out, struct mal_error *err) {
    int64_t *rows = mal_calloc(data->n_facts, sizeof *rows);
    if (!rows) return mal_fail(err, MAL_NO_MEMORY, "facts");
    for (size_t i = 0; i < data->n_facts; i++) {
        const struct mal_train_fact *fact = &data->facts[i];
        for (size_t k = 0; k < fact->n_edits; k++) {
            const struct mal_example *e = &data->examples[fact->edit + k];
            rows[i] += all_tokens ? e->n : e->n_target;
        }
    }
    qsort(rows, data->n_facts, sizeof *rows, descending);
    *out = 0;
    for (int64_t i = 0; i < n_edits && i < (int64_t)data->n_facts; i++)
        *out += rows[i];
    mal_free(rows);
    return true;
}

static size_t pass_bytes(const struct mal_model *model, const struct mal_editor *editor,
                         const struct mal_train_data *data) {
    int64_t longest = 1, targets = 1;
    for (size_t i = 0; i < data->n_examples; i++) {
        const struct mal_example *e = &data->examples[i];
        if (e->n > longest) longest = e->n;
        if (e->n_target > targets) targets = e->n_target;
    }
    int64_t tokens = longest > MAL_LEARN_TOKENS ? longest : MAL_LEARN_TOKENS;
    int64_t seqs = tokens / 2 + 1; /* those with few tokens have few rows each */
    if (editor->loss == MAL_LOSS_MICROBATCH_MEAN) {
        seqs = editor->micro_batch;
        tokens = seqs * longest;
    }
    int64_t rows = seqs * targets < tokens ? seqs * targets : tokens;
    return mal_model_learn_bytes(model, seqs, tokens, longest, rows);
}

static size_t tape_bytes(const struct mal_editor *editor,
                         const struct mal_editor_shape *shape, int64_t rows) {
    int64_t row =
        2 * (editor->n_blocks + 1) * shape->size + editor->n_blocks * editor->rank;
    return (size_t)(rows * row) * sizeof(float);
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

bool mal_trainer_need(struct mal_model *model, const struct mal_editor *editor,
                      const struct mal_train_options *options,
                      const struct mal_train_data *data, int64_t n_edits,
                      struct mal_train_need *out, struct mal_error *err) {
    struct mal_train_need need = {.network = mal_train_params_bytes(editor)};
    bool all = editor->tokens == MAL_TOKENS_ALL;
    int64_t rows = 0, widest = 0, largest = 0;
    if (!most_rows(data, all, n_edits, &rows, err)) return false;
    for (size_t m = 0; m < editor->n_modules; m++) {
        const struct mal_editor_shape *shape = &editor->shapes[editor->modules[m].shape];
        int64_t n = shape->d_in * shape->d_out;
        need.rows += (size_t)(rows * (shape->size + shape->d_out)) * sizeof(float);
        need.weights += 2 * (size_t)n * sizeof(float);
        if (shape->d_out > widest) widest = shape->d_out;
        if (n > largest) largest = n;
    }
    need.rows += (size_t)(rows * widest) * sizeof(float);
    need.weights += 2 * (size_t)largest * sizeof(float);
    int64_t slice = rows < options->editor_batch ? rows : options->editor_batch;
    size_t tape = 0;
    for (size_t s = 0; s < editor->n_shapes; s++) {
        const struct mal_editor_shape *shape = &editor->shapes[s];
        struct mal_solve solve = {.n = rows > 0 ? rows : 1,
                                  .d_in = shape->d_in,
                                  .d_out = shape->d_out,
                                  .preserve_gram =
                                      mal_preserve_gram(options->preserve, 0)};
        bool mend = editor->method == MAL_MEND;
        size_t solves =
            mend ? (size_t)largest * sizeof(double) : mal_solve_grad_bytes(&solve);
        need.solves = larger(need.solves, solves);
        tape = larger(tape, tape_bytes(editor, shape, slice));
    }
    need.network += tape;
    need.passes = pass_bytes(model, editor, data);
    need.total =
        need.weights + need.network + need.rows + larger(need.passes, need.solves);
    *out = need;
    return true;
}
