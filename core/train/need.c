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
            rows[i] += all_tokens && e->n > e->n_target ? e->n : e->n_target;
        }
    }
    qsort(rows, data->n_facts, sizeof *rows, descending);
    *out = 0;
    for (int64_t i = 0; i < n_edits && i < (int64_t)data->n_facts; i++)
        *out += rows[i];
    mal_free(rows);
    return true;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The most there is of any sequence, and the fewest tokens; edits of one fact. */
struct lengths {
    int64_t longest, shortest, targets, edits;
};

static struct lengths measure_lengths(const struct mal_train_data *data) {
    struct lengths l = {.longest = 1, .shortest = INT64_MAX, .targets = 1, .edits = 1};
    for (size_t i = 0; i < data->n_examples; i++) {
        const struct mal_example *e = &data->examples[i];
        if (e->n > l.longest) l.longest = e->n;
        if (e->n < l.shortest) l.shortest = e->n;
        if (e->n_target > l.targets) l.targets = e->n_target;
    }
    for (size_t i = 0; i < data->n_facts; i++) {
        if ((int64_t)data->facts[i].n_edits > l.edits)
            l.edits = (int64_t)data->facts[i].n_edits;
    }
    return l;
}

struct pass_size {
    int64_t seqs, tokens, rows;
};

/* The largest pass over `n` sequences: a micro-batch, or as many as one may hold. */
static struct pass_size largest_pass(const struct mal_model *model,
                                     const struct mal_editor *editor,
                                     const struct lengths *l, int64_t n) {
    bool means = editor->loss == MAL_LOSS_MICROBATCH_MEAN;
    int64_t most = MAL_LEARN_TOKENS * mal_backend_breadth(mal_model_backend(model));
    if (most < l->longest) most = l->longest;
    int64_t seqs = means ? editor->micro_batch : most / smaller(l->shortest, most);
    seqs = smaller(seqs, n);
    int64_t tokens = means ? seqs * l->longest : smaller(most, seqs * l->longest);
    return (struct pass_size){seqs, tokens, seqs * l->targets};
}

/* Of the passes that measure edits and those that learn from rephrases and probes. */
static size_t pass_bytes(const struct mal_model *model, const struct mal_editor *editor,
                         const struct mal_train_data *data, int64_t n_edits) {
    bool causal = mal_model_info(model)->kind == MAL_MODEL_CAUSAL;
    bool all = editor->tokens == MAL_TOKENS_ALL && causal;
    struct lengths l = measure_lengths(data);
    int64_t n = smaller(n_edits, (int64_t)data->n_facts);
    struct pass_size edits = largest_pass(model, editor, &l, n * l.edits),
                     learns = largest_pass(model, editor, &l, n);
    if (causal) { /* label rows are among the tokens */
        edits.rows = smaller(edits.rows, edits.tokens);
        learns.rows = smaller(learns.rows, learns.tokens);
    }
    return larger(
        mal_model_scratch_bytes(model, edits.seqs, edits.tokens, l.longest,
                                all ? edits.tokens : edits.rows, true),
        mal_model_learn_bytes(model, learns.seqs, learns.tokens, l.longest, learns.rows));
}

enum { KEPT_BYTES = 192 << 20 }; /* activations of more are made again */

static size_t tape_bytes(const struct mal_editor *editor,
                         const struct mal_editor_shape *shape, int64_t rows) {
    int64_t n = editor->n_blocks;
    size_t floats = (size_t)(rows * ((2 * n + 1) * shape->size + n * editor->rank));
    return (floats + 3 * 16) * sizeof(float);
}

size_t mal_train_tape_bytes(const struct mal_editor *editor, int64_t rows,
                            int64_t editor_batch, bool *keeps) {
    int64_t slice = smaller(rows, editor_batch), size = 0;
    size_t one = 0, all = 0;
    for (size_t s = 0; s < editor->n_shapes; s++) {
        const struct mal_editor_shape *shape = &editor->shapes[s];
        size_t bytes = tape_bytes(editor, shape, slice);
        all += (size_t)shape->n_modules * bytes;
        one = larger(one, bytes);
        if (shape->size > size) size = shape->size;
    }
    *keeps = rows <= editor_batch && all <= KEPT_BYTES;
    return (*keeps ? all : one) + (size_t)(slice * size + 16) * sizeof(float);
}

bool mal_trainer_need(struct mal_model *model, const struct mal_editor *editor,
                      const struct mal_train_options *options,
                      const struct mal_train_data *data, int64_t n_edits,
                      struct mal_train_need *out, struct mal_error *err) {
    const struct mal_backend *be = mal_model_backend(model);
    struct mal_train_need need = {.network = mal_train_params_bytes(editor, be)};
    bool mend = !editor->method->solves;
    bool all = editor->tokens == MAL_TOKENS_ALL ||
               mal_model_info(model)->kind == MAL_MODEL_SEQ2SEQ;
    int64_t rows = 0, widest = 0, largest = 0;
    if (!most_rows(data, all, n_edits, &rows, err)) return false;
    for (size_t m = 0; m < editor->n_modules; m++) {
        const struct mal_editor_shape *shape = &editor->shapes[editor->modules[m].shape];
        int64_t n = shape->d_in * shape->d_out;
        int64_t row = shape->size + (mend ? 0 : shape->d_out);
        need.rows += (size_t)(rows * row) * sizeof(float);
        need.weights += 2 * (size_t)n * sizeof(float);
        if (shape->d_out > widest) widest = shape->d_out;
        if (n > largest) largest = n;
    }
    need.rows += (size_t)(rows * widest) * sizeof(float);
    need.weights += 2 * (size_t)largest * sizeof(float);
    for (size_t s = 0; s < editor->n_shapes; s++) {
        const struct mal_editor_shape *shape = &editor->shapes[s];
        struct mal_solve solve = {.n = rows > 0 ? rows : 1,
                                  .d_in = shape->d_in,
                                  .d_out = shape->d_out,
                                  .preserve_gram =
                                      mal_preserve_gram(options->preserve, 0)};
        size_t solves =
            mend ? (size_t)largest * sizeof(double) : mal_solve_grad_bytes(&solve);
        need.solves = larger(need.solves, solves);
        need.network += 2 * ((size_t)shape->size + 16) * sizeof(float); /* statistics */
    }
    bool keeps, fewer_keep;
    int64_t batch = options->editor_batch;
    size_t tapes = mal_train_tape_bytes(editor, rows, batch, &keeps);
    size_t fewer = mal_train_tape_bytes(editor, smaller(rows, batch), batch, &fewer_keep);
    /* a step of fewer rows may keep what this one makes again */
    need.network += larger(tapes, fewer_keep ? fewer : KEPT_BYTES);
    size_t micro = (size_t)editor->micro_batch, n = (size_t)n_edits;
    need.passes = pass_bytes(model, editor, data, n_edits) +
                  mal_edit_rows_taken_bytes(model, (n + micro - 1) / micro);
    need.total =
        need.weights + need.network + need.rows + larger(need.passes, need.solves);
    *out = need;
    return true;
}
