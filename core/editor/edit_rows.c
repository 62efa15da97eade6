/* edit_rows.c - facts to the rows an editor works on: text to tokenised examples, those
 * through the model, and what they do to running statistics. */
#include "core/editor/edit_rows.h"

#include <math.h>
#include <stdio.h>

#include "core/alloc.h"
#include "core/clock.h"

/* Of one pass through the model where nobody waits, times the device's breadth. */
enum { SLICE_TOKENS = 2048 };

/* ---- Text to rows ---- */

struct texts {
    struct mal_example *examples;
    size_t n;
};

static bool add_example(struct texts *texts, const struct mal_model *model,
                        const struct mal_tokenizer *tok, const struct mal_fact *fact,
                        size_t i, const char *prompt, const char *field,
                        struct mal_error *err) {
    struct mal_error own = {0};
    struct mal_example *e = &texts->examples[texts->n];
    if (mal_example_init(e, model, tok, prompt, fact->target, fact->join, &own)) {
        e->source = i;
        texts->n++;
        return true;
    }
    char pointer[96];
    snprintf(pointer, sizeof pointer, "/facts/%zu/%s", i, field);
    return mal_fail_at(err, own.status, pointer, "fact %zu: %s", i, own.text);
}

static bool add_fact(struct texts *texts, const struct mal_model *model,
                     const struct mal_tokenizer *tok, const struct mal_fact *fact,
                     size_t i, struct mal_error *err) {
    if (!add_example(texts, model, tok, fact, i, fact->prompt, "prompt", err))
        return false;
    for (size_t j = 0; j < fact->n_prompts; j++) {
        char field[64];
        snprintf(field, sizeof field, "prompts/%zu", j);
        if (!add_example(texts, model, tok, fact, i, fact->prompts[j], field, err))
            return false;
    }
    return true;
}

bool mal_examples_of_facts(const struct mal_model *model, const struct mal_tokenizer *tok,
                           const struct mal_fact *facts, size_t n_facts,
                           struct mal_example **out, size_t *out_n,
                           struct mal_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < n_facts; i++)
        n += 1 + facts[i].n_prompts;
    struct texts texts = {.examples = mal_calloc(n, sizeof *texts.examples)};
    if (!texts.examples) return mal_fail(err, MAL_NO_MEMORY, "facts");
    for (size_t i = 0; i < n_facts; i++) {
        if (add_fact(&texts, model, tok, &facts[i], i, err)) continue;
        mal_examples_free(texts.examples, texts.n);
        return false;
    }
    *out = texts.examples;
    *out_n = texts.n;
    return true;
}

static bool sort_by_length(struct mal_edit_rows *rows, struct mal_error *err) {
    rows->order = mal_calloc(rows->n_examples, sizeof *rows->order);
    if (!rows->order) return mal_fail(err, MAL_NO_MEMORY, "facts");
    return mal_examples_longest_first(rows->examples, rows->n_examples, rows->order, err);
}

int64_t mal_example_rows(const struct mal_editor *editor, const struct mal_example *e,
                         bool of_source) {
    bool all = of_source || (editor->tokens == MAL_TOKENS_ALL && !e->has_decoder);
    return all ? e->n : e->n_target;
}

static bool cut_micro_batches(struct mal_edit_rows *rows, struct mal_error *err) {
    size_t size = (size_t)rows->editor->micro_batch;
    rows->n_micro = (rows->n_examples + size - 1) / size;
    for (int side = 0; side < 2; side++) {
        rows->micro_rows[side] =
            mal_calloc(rows->n_micro + 1, sizeof *rows->micro_rows[side]);
        rows->first_row[side] =
            mal_calloc(rows->n_examples, sizeof *rows->first_row[side]);
        if (!rows->micro_rows[side] || !rows->first_row[side])
            return mal_fail(err, MAL_NO_MEMORY, "facts");
    }
    for (size_t i = 0; i < rows->n_examples; i++) {
        const struct mal_example *e = &rows->examples[rows->order[i]];
        for (int side = 0; side < 2; side++) {
            rows->first_row[side][rows->order[i]] = rows->n_rows[side];
            rows->n_rows[side] += mal_example_rows(rows->editor, e, side);
            rows->micro_rows[side][i / size + 1] = rows->n_rows[side];
        }
        rows->report->n_input_tokens += e->n;
    }
    rows->report->n_tokens += rows->n_rows[0];
    return true;
}

int64_t mal_edit_rows_n(const struct mal_edit_rows *rows, size_t m) {
    return rows->n_rows[mal_model_edit(rows->model, m)->of_source];
}

/* ---- Rows to keys and value gradients ---- */

static bool alloc_rows(struct mal_edit_rows *rows, struct mal_error *err) {
    rows->n_modules = rows->editor->n_modules;
    rows->u = mal_calloc(rows->n_modules, sizeof *rows->u);
    rows->g = mal_calloc(rows->n_modules, sizeof *rows->g);
    if (!rows->u || !rows->g) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    for (size_t m = 0; m < rows->n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(rows->model, m);
        int64_t n = mal_edit_rows_n(rows, m);
        size_t u_bytes = (size_t)(n * lin->d_in) * sizeof(float);
        size_t g_bytes = (size_t)(n * lin->d_out) * sizeof(float);
        rows->u[m] = mal_backend_alloc(rows->be, u_bytes);
        rows->g[m] = mal_backend_alloc(rows->be, g_bytes);
        if (rows->u[m] && rows->g[m]) continue;
        return mal_fail(
            err, MAL_NO_MEMORY,
            "keys and gradients of %lld edit tokens in %zu modules: %s needs %zu bytes",
            (long long)n, rows->n_modules, lin->name, u_bytes + g_bytes);
    }
    return true;
}

/* How many examples from `first` on go through the model together: where the loss is a
 * micro-batch's mean, that micro-batch; else as many as a slice may hold. */
static size_t slice_length(const struct mal_edit_rows *rows, size_t first) {
    size_t left = rows->n_examples - first, size = (size_t)rows->editor->micro_batch;
    if (rows->editor->loss == MAL_LOSS_MICROBATCH_MEAN) return left < size ? left : size;
    int64_t tokens = 0, most = rows->progress ? rows->progress->slice_tokens : 0;
    if (most <= 0) most = SLICE_TOKENS;
    most *= mal_backend_breadth(rows->be);
    size_t n = 0;
    while (n < left &&
           (n == 0 || tokens + rows->examples[rows->order[first + n]].n <= most)) {
        tokens += rows->examples[rows->order[first + n++]].n;
    }
    return n;
}

/* What the gradients of a slice of n examples are multiplied by. */
static float scale_of(const struct mal_edit_rows *rows, const struct mal_packed *packed,
                      size_t n) {
    if (rows->editor->loss != MAL_LOSS_MICROBATCH_MEAN) return 1;
    double labels = (double)packed->n_labels;
    if (rows->full_means) labels *= (double)rows->editor->micro_batch / (double)n;
    return 1.0F / (float)labels;
}

/* Forward and backward of a packed slice of n examples whose rows begin at u and g. */
static bool measure_packed(struct mal_edit_rows *rows, const struct mal_packed *packed,
                           size_t n, float *const *u, float *const *g, double *loss,
                           struct mal_error *err) {
    struct mal_measure measure = {.loss_scale = scale_of(rows, packed, n),
                                  .all_tokens = rows->editor->tokens == MAL_TOKENS_ALL,
                                  .u = u,
                                  .g = g,
                                  .loss = loss};
    bool ok = mal_model_measure(rows->model, &packed->batch, &measure, err);
    rows->report->seconds[MAL_STAGE_FORWARD] += measure.seconds[0];
    rows->report->seconds[MAL_STAGE_BACKWARD] += measure.seconds[1];
    return ok;
}

static bool keys_of_packed(struct mal_edit_rows *rows, const struct mal_packed *packed,
                           float *const *u, struct mal_error *err) {
    double begin = mal_clock_seconds();
    bool ok = mal_model_keys(rows->model, &packed->batch, u, err);
    rows->report->seconds[MAL_STAGE_FORWARD] += mal_clock_seconds() - begin;
    return ok;
}

/* Examples [first, first + n) of the order, whose rows begin at row[0], of source modules
 * at row[1]; u and g (n_modules) are room for pointers. `loss` NULL: keys only. */
static bool run_slice(struct mal_edit_rows *rows, size_t first, size_t n, int64_t row[2],
                      float **u, float **g, double *loss, struct mal_error *err) {
    struct mal_packed packed = {0};
    const size_t *order = rows->order + first;
    if (!mal_examples_pack(rows->examples, order, n, &packed, err)) return false;
    mal_trunk_begin(rows->trunk, rows->examples, order, n, &packed.batch);
    for (size_t m = 0; m < rows->n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(rows->model, m);
        u[m] = rows->u[m] + row[lin->of_source] * lin->d_in;
        g[m] = rows->g[m] + row[lin->of_source] * lin->d_out;
    }
    bool ok = loss ? measure_packed(rows, &packed, n, u, g, loss, err)
                   : keys_of_packed(rows, &packed, u, err);
    if (ok) mal_trunk_end(rows->trunk, rows->examples, order, &packed.batch);
    bool all = rows->editor->tokens == MAL_TOKENS_ALL;
    row[0] += all ? packed.batch.start[n] : packed.n_labels;
    row[1] += packed.batch.source_start[n];
    mal_packed_finish(&packed);
    return ok;
}

/* All slices, with gradients and the sum of their losses, or (NULL) keys only. */
static bool run_slices(struct mal_edit_rows *rows, double *sum, struct mal_error *err) {
    float **u = mal_calloc(2 * rows->n_modules, sizeof *u);
    if (!u) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    int64_t row[2] = {0}, total = (int64_t)rows->n_examples;
    bool ok = true;
    for (size_t first = 0; ok && first < rows->n_examples;) {
        double loss = 0;
        size_t n = slice_length(rows, first);
        ok = run_slice(rows, first, n, row, u, u + rows->n_modules, sum ? &loss : NULL,
                       err);
        first += n;
        ok = ok && mal_progress_step(rows->progress, MAL_STAGE_FORWARD, (int64_t)first,
                                     total, err);
        if (sum) *sum += loss;
    }
    mal_free(u);
    return ok;
}

bool mal_edit_rows_measure(struct mal_edit_rows *rows, struct mal_error *err) {
    double sum = 0;
    int64_t n_targets = 0;
    bool ok = run_slices(rows, &sum, err);
    for (size_t i = 0; i < rows->n_examples; i++)
        n_targets += rows->examples[i].n_target;
    rows->report->loss = sum / (double)n_targets;
    if (ok && !isfinite(sum))
        return mal_fail(err, MAL_NUMERIC, "the model's loss is not finite");
    return ok;
}

/* Rows of all tokens go the way of the measurement. */
bool mal_edit_rows_keys(struct mal_edit_rows *rows, struct mal_error *err) {
    if (rows->editor->tokens == MAL_TOKENS_ALL) return mal_edit_rows_measure(rows, err);
    return run_slices(rows, NULL, err);
}

/* ---- Running statistics ---- */

enum { TAKEN_BYTES = 8 << 20 }; /* of statistics that are waited for together */

/* Statistics of micro-batches [first, end) into `device`, a part for each module of each.
 */
static void measure_micro(const struct mal_edit_rows *rows, size_t first, size_t end,
                          double *device) {
    for (size_t k = first; k < end; k++) {
        for (size_t m = 0; m < rows->n_modules; m++) {
            const struct mal_linear *lin = mal_model_edit(rows->model, m);
            const int64_t *row = rows->micro_rows[lin->of_source] + k;
            int64_t size = lin->d_in + lin->d_out;
            mal_column_stats(rows->be, row[1] - row[0], lin->d_in, lin->d_out,
                             rows->u[m] + row[0] * lin->d_in, lin->d_in,
                             rows->g[m] + row[0] * lin->d_out, lin->d_out, device,
                             device + size);
            device += 2 * size;
        }
    }
}

/* Micro-batches outside, modules of the same shape inside (core/README.md "Numerics"). */
static void take_in(const struct mal_edit_rows *rows, struct mal_normalizer *norms,
                    size_t first, size_t end, const double *host) {
    for (size_t k = first; k < end; k++) {
        for (size_t m = 0; m < rows->n_modules; m++) {
            const struct mal_linear *lin = mal_model_edit(rows->model, m);
            const int64_t *row = rows->micro_rows[lin->of_source] + k;
            int64_t size = lin->d_in + lin->d_out;
            mal_normalizer_update(&norms[rows->editor->modules[m].shape], row[1] - row[0],
                                  host, host + size);
            host += 2 * size;
        }
    }
}

/* Of a micro-batch. */
static size_t statistics_bytes(struct mal_model *model) {
    size_t bytes = 0;
    for (size_t m = 0; m < mal_model_n_edits(model); m++) {
        const struct mal_linear *lin = mal_model_edit(model, m);
        bytes += 2 * (size_t)(lin->d_in + lin->d_out) * sizeof(double);
    }
    return bytes;
}

size_t mal_edit_rows_taken_bytes(struct mal_model *model, size_t n_micro) {
    size_t bytes = statistics_bytes(model);
    size_t most = bytes < TAKEN_BYTES ? TAKEN_BYTES / bytes : 1;
    return bytes * (n_micro < most ? n_micro : most);
}

bool mal_edit_rows_take_in(struct mal_edit_rows *rows, struct mal_normalizer *norms,
                           struct mal_error *err) {
    size_t bytes = statistics_bytes(rows->model);
    size_t taken = mal_edit_rows_taken_bytes(rows->model, rows->n_micro);
    size_t together = taken / bytes;
    double *device = mal_backend_alloc(rows->be, taken),
           *host = mal_backend_alloc_host(rows->be, taken);
    bool ok = (device && host) || mal_fail(err, MAL_NO_MEMORY, "statistics");
    for (size_t k = 0; ok && k < rows->n_micro; k += together) {
        size_t end = k + together < rows->n_micro ? k + together : rows->n_micro;
        measure_micro(rows, k, end, device);
        mal_backend_download(rows->be, host, device, (end - k) * bytes);
        ok = mal_backend_sync(rows->be, err);
        if (ok) take_in(rows, norms, k, end, host);
    }
    mal_backend_free(rows->be, device);
    mal_backend_free_host(rows->be, host);
    return ok;
}

/* ---- Their life ---- */

static bool prepare(struct mal_edit_rows *rows, struct mal_error *err) {
    return sort_by_length(rows, err) && cut_micro_batches(rows, err) &&
           alloc_rows(rows, err);
}

static void open_rows(struct mal_edit_rows *rows, struct mal_model *model,
                      const struct mal_editor *editor,
                      const struct mal_progress *progress,
                      struct mal_edit_report *report) {
    *rows = (struct mal_edit_rows){.model = model,
                                   .be = mal_model_backend(model),
                                   .editor = editor,
                                   .progress = progress,
                                   .report = report};
}

bool mal_edit_rows_of_facts(struct mal_edit_rows *rows, struct mal_model *model,
                            const struct mal_tokenizer *tok,
                            const struct mal_editor *editor, const struct mal_fact *facts,
                            size_t n_facts, const struct mal_progress *progress,
                            struct mal_edit_report *report, struct mal_error *err) {
    double begin = mal_clock_seconds();
    open_rows(rows, model, editor, progress, report);
    bool ok = mal_examples_of_facts(model, tok, facts, n_facts, &rows->own,
                                    &rows->n_examples, err);
    rows->examples = rows->own;
    ok = ok && prepare(rows, err);
    report->seconds[MAL_STAGE_TOKENIZE] += mal_clock_seconds() - begin;
    if (!ok) mal_edit_rows_finish(rows);
    return ok;
}

bool mal_edit_rows_of_examples(struct mal_edit_rows *rows, struct mal_model *model,
                               const struct mal_editor *editor,
                               const struct mal_example *examples, size_t n_examples,
                               const struct mal_progress *progress,
                               struct mal_edit_report *report, struct mal_error *err) {
    open_rows(rows, model, editor, progress, report);
    rows->examples = examples;
    rows->n_examples = n_examples;
    bool ok = prepare(rows, err);
    if (!ok) mal_edit_rows_finish(rows);
    return ok;
}

void mal_edit_rows_drop(struct mal_edit_rows *rows, size_t m) {
    mal_backend_free(rows->be, rows->u[m]);
    mal_backend_free(rows->be, rows->g[m]);
    rows->u[m] = rows->g[m] = NULL;
}

void mal_edit_rows_finish(struct mal_edit_rows *rows) {
    for (size_t m = 0; m < rows->n_modules; m++) {
        if (rows->u) mal_backend_free(rows->be, rows->u[m]);
        if (rows->g) mal_backend_free(rows->be, rows->g[m]);
    }
    mal_free(rows->u);
    mal_free(rows->g);
    for (int side = 0; side < 2; side++) {
        mal_free(rows->micro_rows[side]);
        mal_free(rows->first_row[side]);
    }
    mal_free(rows->order);
    if (rows->own) mal_examples_free(rows->own, rows->n_examples);
    *rows = (struct mal_edit_rows){0};
}
