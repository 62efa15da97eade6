/* edit.c - a batch of facts to a delta: keys and value gradients of every edit token,
 * value differences from the editor's network, one solve per module (core/README.md
 * section 3). */
#include "core/editor/edit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/hypernet.h"
#include "core/editor/solve.h"
#include "core/example.h"

enum {
    SLICE_TOKENS = 2048, /* of one pass through the model where nobody waits */
    NET_ROWS = 1024      /* of one slice of the network */
};

struct run {
    struct mal_model *model;
    struct mal_backend *be;
    const struct mal_editor *editor;
    struct mal_normalizer *norms; /* running statistics, or NULL */
    const struct mal_progress *progress;
    struct mal_edit_report *report;
    enum mal_stage stage; /* for ticks from below */
    int64_t done, total;

    struct mal_example *examples;
    size_t n_examples;
    size_t *order; /* longest first, stable: as the reference cuts micro-batches */
    size_t n_micro;
    int64_t *micro_rows; /* (n_micro + 1) first row of each micro-batch */
    int64_t n_rows;

    size_t n_modules;
    float **u, **g;             /* per module (n_rows, d_in), (n_rows, d_out), device */
    struct mal_hypernet **nets; /* per shape */
    struct mal_arena scratch;   /* of the networks */
    struct mal_arena systems;   /* of the solves, kept from module to module */
    int32_t *iota;              /* (NET_ROWS) 0, 1, ... device */
};

const char *mal_stage_name(enum mal_stage stage) {
    static const char *const names[] = {"tokenize", "forward", "backward", "hypernet",
                                        "gram",     "solve",   "apply",    "hash",
                                        "verify",   "persist", "search"};
    return names[stage];
}

static bool tick(void *arg) {
    struct run *run = arg;
    if (!run->progress || !run->progress->tick) return true;
    return run->progress->tick(run->progress->arg, run->stage, run->done, run->total);
}

static bool advance(struct run *run, enum mal_stage stage, int64_t done, int64_t total,
                    struct mal_error *err) {
    run->stage = stage;
    run->done = done;
    run->total = total;
    return tick(run) || mal_fail(err, MAL_CANCELLED, "cancelled");
}

/* ---- Text to rows ---- */

static bool add_example(struct run *run, const struct mal_tokenizer *tok,
                        const struct mal_fact *fact, size_t i, const char *prompt,
                        const char *field, struct mal_error *err) {
    struct mal_error own = {0};
    struct mal_example *e = &run->examples[run->n_examples];
    if (mal_example_init(e, tok, prompt, fact->target, fact->join,
                         mal_model_info(run->model)->n_context, &own)) {
        e->source = i;
        run->n_examples++;
        return true;
    }
    char pointer[96];
    snprintf(pointer, sizeof pointer, "/facts/%zu/%s", i, field);
    return mal_fail_at(err, own.status, pointer, "fact %zu: %s", i, own.text);
}

static bool tokenize(struct run *run, const struct mal_tokenizer *tok,
                     const struct mal_fact *facts, size_t n_facts,
                     struct mal_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < n_facts; i++)
        n += 1 + facts[i].n_prompts;
    run->examples = mal_calloc(n, sizeof *run->examples);
    run->order = mal_calloc(n, sizeof *run->order);
    if (!run->examples || !run->order) return mal_fail(err, MAL_NO_MEMORY, "facts");
    for (size_t i = 0; i < n_facts; i++) {
        if (!add_example(run, tok, &facts[i], i, facts[i].prompt, "prompt", err))
            return false;
        for (size_t j = 0; j < facts[i].n_prompts; j++) {
            char field[64];
            snprintf(field, sizeof field, "prompts/%zu", j);
            if (!add_example(run, tok, &facts[i], i, facts[i].prompts[j], field, err)) {
                return false;
            }
        }
    }
    return true;
}

/* Longest first by counting, so that the order is stable. */
static bool sort_by_length(struct run *run, struct mal_error *err) {
    int32_t longest = 0;
    for (size_t i = 0; i < run->n_examples; i++) {
        if (run->examples[i].n > longest) longest = run->examples[i].n;
    }
    size_t *next = mal_calloc((size_t)longest + 2, sizeof *next);
    if (!next) return mal_fail(err, MAL_NO_MEMORY, "facts");
    for (size_t i = 0; i < run->n_examples; i++)
        next[longest - run->examples[i].n + 1]++;
    for (int32_t k = 0; k < longest; k++)
        next[k + 1] += next[k];
    for (size_t i = 0; i < run->n_examples; i++) {
        run->order[next[longest - run->examples[i].n]++] = i;
    }
    mal_free(next);
    return true;
}

static bool cut_micro_batches(struct run *run, struct mal_error *err) {
    size_t size = (size_t)run->editor->micro_batch;
    run->n_micro = (run->n_examples + size - 1) / size;
    run->micro_rows = mal_calloc(run->n_micro + 1, sizeof *run->micro_rows);
    if (!run->micro_rows) return mal_fail(err, MAL_NO_MEMORY, "facts");
    for (size_t i = 0; i < run->n_examples; i++) {
        const struct mal_example *e = &run->examples[run->order[i]];
        bool all = run->editor->tokens == MAL_TOKENS_ALL;
        run->n_rows += all ? e->n : e->n_target;
        run->micro_rows[i / size + 1] = run->n_rows;
        run->report->n_input_tokens += e->n;
    }
    run->report->n_tokens = run->n_rows;
    return true;
}

/* ---- Rows to keys and value gradients ---- */

static bool alloc_rows(struct run *run, struct mal_error *err) {
    run->n_modules = run->editor->n_modules;
    run->u = mal_calloc(run->n_modules, sizeof *run->u);
    run->g = mal_calloc(run->n_modules, sizeof *run->g);
    if (!run->u || !run->g) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    for (size_t m = 0; m < run->n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(run->model, m);
        size_t u_bytes = (size_t)(run->n_rows * lin->d_in) * sizeof(float);
        size_t g_bytes = (size_t)(run->n_rows * lin->d_out) * sizeof(float);
        run->u[m] = mal_backend_alloc(run->be, u_bytes);
        run->g[m] = mal_backend_alloc(run->be, g_bytes);
        if (run->u[m] && run->g[m]) continue;
        return mal_fail(
            err, MAL_NO_MEMORY,
            "keys and gradients of %lld edit tokens in %zu modules: %s needs %zu bytes",
            (long long)run->n_rows, run->n_modules, lin->name, u_bytes + g_bytes);
    }
    return true;
}

/* How many examples from `first` on go through the model together: where the loss is a
 * micro-batch's mean, that micro-batch; else as many as a slice may hold. */
static size_t slice_length(const struct run *run, size_t first) {
    size_t left = run->n_examples - first, size = (size_t)run->editor->micro_batch;
    if (run->editor->loss == MAL_LOSS_MICROBATCH_MEAN) return left < size ? left : size;
    int64_t tokens = 0, most = run->progress ? run->progress->slice_tokens : 0;
    if (most <= 0) most = SLICE_TOKENS;
    size_t n = 0;
    while (n < left &&
           (n == 0 || tokens + run->examples[run->order[first + n]].n <= most)) {
        tokens += run->examples[run->order[first + n++]].n;
    }
    return n;
}

/* Examples [first, first + n) of the order, whose rows begin at *row; u and g (n_modules)
 * are room for pointers. */
static bool measure_slice(struct run *run, size_t first, size_t n, int64_t *row,
                          float **u, float **g, double *loss, struct mal_error *err) {
    struct mal_packed packed = {0};
    if (!mal_examples_pack(run->examples, run->order + first, n, &packed, err))
        return false;
    for (size_t m = 0; m < run->n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(run->model, m);
        u[m] = run->u[m] + *row * lin->d_in;
        g[m] = run->g[m] + *row * lin->d_out;
    }
    bool mean = run->editor->loss == MAL_LOSS_MICROBATCH_MEAN;
    bool all = run->editor->tokens == MAL_TOKENS_ALL;
    struct mal_measure measure = {.loss_scale =
                                      mean ? 1.0F / (float)packed.n_labels : 1.0F,
                                  .all_tokens = all,
                                  .u = u,
                                  .g = g,
                                  .loss = loss};
    bool ok = mal_model_measure(run->model, &packed.batch, &measure, err);
    *row += all ? packed.batch.start[n] : packed.n_labels;
    mal_packed_finish(&packed);
    run->report->seconds[MAL_STAGE_FORWARD] += measure.seconds[0];
    run->report->seconds[MAL_STAGE_BACKWARD] += measure.seconds[1];
    return ok;
}

static bool measure_all(struct run *run, struct mal_error *err) {
    float **u = mal_calloc(2 * run->n_modules, sizeof *u);
    if (!u) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    double sum = 0;
    int64_t n_targets = 0, row = 0, total = (int64_t)run->n_examples;
    bool ok = true;
    for (size_t first = 0; ok && first < run->n_examples;) {
        double loss = 0;
        size_t n = slice_length(run, first);
        ok = measure_slice(run, first, n, &row, u, u + run->n_modules, &loss, err);
        first += n;
        ok = ok && advance(run, MAL_STAGE_FORWARD, (int64_t)first, total, err);
        sum += loss;
    }
    mal_free(u);
    mal_model_drop_scratch(run->model); /* room for the solves */
    for (size_t i = 0; i < run->n_examples; i++)
        n_targets += run->examples[i].n_target;
    run->report->loss = sum / (double)n_targets;
    if (ok && !isfinite(sum))
        return mal_fail(err, MAL_NUMERIC, "the model's loss is not finite");
    return ok;
}

/* ---- Running statistics ---- */

static bool take_in(struct run *run, size_t m, int64_t row, int64_t rows, double *device,
                    double *host, struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(run->model, m);
    int64_t size = lin->d_in + lin->d_out;
    mal_column_stats(run->be, rows, lin->d_in, lin->d_out, run->u[m] + row * lin->d_in,
                     lin->d_in, run->g[m] + row * lin->d_out, lin->d_out, device,
                     device + size);
    mal_backend_download(run->be, host, device, (size_t)(2 * size) * sizeof *host);
    if (!mal_backend_sync(run->be, err)) return false;
    mal_normalizer_update(&run->norms[run->editor->modules[m].shape], rows, host,
                          host + size);
    return true;
}

/* Micro-batches outside, modules of the same shape inside (core/README.md "Numerics"). */
static bool update_statistics(struct run *run, struct mal_error *err) {
    int64_t widest = 0;
    for (size_t s = 0; s < run->editor->n_shapes; s++) {
        if (run->editor->shapes[s].size > widest) widest = run->editor->shapes[s].size;
    }
    size_t bytes = (size_t)(2 * widest) * sizeof(double);
    double *device = mal_backend_alloc(run->be, bytes), *host = mal_malloc(bytes);
    bool ok = (device && host) || mal_fail(err, MAL_NO_MEMORY, "statistics");
    for (size_t k = 0; ok && k < run->n_micro; k++) {
        int64_t row = run->micro_rows[k], rows = run->micro_rows[k + 1] - row;
        for (size_t m = 0; ok && m < run->n_modules; m++) {
            ok = take_in(run, m, row, rows, device, host, err);
        }
    }
    mal_backend_free(run->be, device);
    mal_free(host);
    return ok;
}

/* ---- Value differences ---- */

static bool open_nets(struct run *run, struct mal_error *err) {
    const struct mal_editor *editor = run->editor;
    size_t scratch = 0;
    run->nets = mal_calloc(editor->n_shapes, sizeof *run->nets);
    if (!run->nets) return mal_fail(err, MAL_NO_MEMORY, "networks");
    for (size_t s = 0; s < editor->n_shapes; s++) {
        struct mal_editor_shape shape = editor->shapes[s];
        if (run->norms) shape.norm = run->norms[s];
        if (!mal_hypernet_create(&run->nets[s], &shape, editor->rank, editor->n_blocks,
                                 run->be, err)) {
            return false;
        }
        size_t bytes = mal_hypernet_scratch_bytes(run->nets[s], NET_ROWS);
        if (bytes > scratch) scratch = bytes;
    }
    if (!mal_arena_init(&run->scratch, run->be, scratch, err)) return false;

    int32_t iota[NET_ROWS];
    for (int32_t i = 0; i < NET_ROWS; i++)
        iota[i] = i;
    run->iota = mal_backend_alloc(run->be, sizeof iota);
    if (!run->iota) return mal_fail(err, MAL_NO_MEMORY, "networks");
    mal_backend_upload(run->be, run->iota, iota, sizeof iota);
    return mal_backend_sync(run->be, err);
}

/* Rows [row, row + rows) of a module: g becomes the value difference d; for MEND u and g
 * become the network's u_hat and g_hat. */
static void net_slice(struct run *run, size_t m, int64_t row, int64_t rows) {
    const struct mal_editor *editor = run->editor;
    const struct mal_editor_module *module = &editor->modules[m];
    const struct mal_editor_shape *shape = &editor->shapes[module->shape];
    int64_t d_in = shape->d_in, d_out = shape->d_out, size = shape->size;
    float *u = run->u[m] + row * d_in, *g = run->g[m] + row * d_out;

    mal_arena_reset(&run->scratch, 0);
    const float *h = mal_hypernet_fwd(run->nets[module->shape], module->row, rows, u, g,
                                      &run->scratch);
    if (editor->method == MAL_MEND) {
        mal_gather_rows(run->be, rows, d_in, run->iota, h, size, u, d_in);
        mal_gather_rows(run->be, rows, d_out, run->iota, h + d_in, size, g, d_out);
        return;
    }
    bool ultra =
        editor->method == MAL_ULTRAEDIT; /* <u_hat, u_hat> instead of <u, u_hat> */
    float lr = ultra ? (float)editor->lr : shape->lr[module->row];
    mal_edit_diffs(run->be, rows, d_in, d_out, lr, ultra ? h : u, ultra ? size : d_in, h,
                   size, h + d_in, size, g, d_out);
}

static void observe(const struct run *run, enum mal_observed what, size_t m,
                    const float *data) {
    if (!run->progress || !run->progress->observe) return;
    run->progress->observe(run->progress->arg, what, m, run->n_rows, data);
}

static bool run_net(struct run *run, size_t m, struct mal_error *err) {
    double begin = mal_clock_seconds();
    observe(run, MAL_OBSERVED_KEYS, m, run->u[m]);
    observe(run, MAL_OBSERVED_GRADIENTS, m, run->g[m]);
    for (int64_t row = 0; row < run->n_rows; row += NET_ROWS) {
        int64_t rows = run->n_rows - row < NET_ROWS ? run->n_rows - row : NET_ROWS;
        net_slice(run, m, row, rows);
        if (!mal_backend_sync(run->be, err)) return false;
        int64_t total = run->n_rows * (int64_t)run->n_modules;
        if (!advance(run, MAL_STAGE_HYPERNET, run->n_rows * (int64_t)m + row + rows,
                     total, err)) {
            return false;
        }
    }
    if (run->editor->method != MAL_MEND) {
        observe(run, MAL_OBSERVED_DIFFERENCES, m, run->g[m]);
    }
    run->report->seconds[MAL_STAGE_HYPERNET] += mal_clock_seconds() - begin;
    return true;
}

/* ---- Shifts ---- */

static bool shift_of(struct run *run, size_t m, struct mal_delta_part *out,
                     struct mal_error *err) {
    const struct mal_editor *editor = run->editor;
    const struct mal_editor_module *module = &editor->modules[m];
    const struct mal_editor_shape *shape = &editor->shapes[module->shape];
    double begin = mal_clock_seconds(), seconds[2] = {0};
    run->stage = MAL_STAGE_SOLVE;
    run->done = (int64_t)m;
    run->total = (int64_t)run->n_modules;
    struct mal_solve solve = {.module = mal_model_edit(run->model, m)->name,
                              .n = run->n_rows,
                              .d_in = shape->d_in,
                              .d_out = shape->d_out,
                              .u = run->u[m],
                              .d = run->g[m],
                              .ridge = 1,
                              .scratch = &run->systems,
                              .tick = tick,
                              .tick_arg = run,
                              .seconds = seconds};
    bool ok;
    if (editor->method == MAL_MEND) {
        ok = mal_outer_shift(run->be, &solve, -(double)shape->lr[module->row], out, err);
    } else {
        if (editor->method == MAL_MALMEN)
            solve.ridge = exp((double)shape->lamda[module->row]);
        ok = mal_solve(run->be, &solve, out, err);
    }
    run->report->seconds[MAL_STAGE_GRAM] += seconds[0];
    run->report->seconds[MAL_STAGE_SOLVE] += mal_clock_seconds() - begin - seconds[0];
    return ok;
}

static int by_module(const void *a, const void *b) {
    return strcmp(((const struct mal_delta_part *)a)->module,
                  ((const struct mal_delta_part *)b)->module);
}

static bool make_delta(struct run *run, struct mal_delta *out, struct mal_error *err) {
    struct mal_delta delta = {.parts = mal_calloc(run->n_modules, sizeof *delta.parts)};
    if (!delta.parts) return mal_fail(err, MAL_NO_MEMORY, "delta");
    for (size_t m = 0; m < run->n_modules; m++) {
        if (!run_net(run, m, err) || !shift_of(run, m, &delta.parts[m], err)) {
            mal_delta_finish(&delta);
            return false;
        }
        delta.n_parts++;
        mal_backend_free(run->be, run->u[m]);
        mal_backend_free(run->be, run->g[m]);
        run->u[m] = run->g[m] = NULL;
    }
    qsort(delta.parts, delta.n_parts, sizeof *delta.parts, by_module);
    *out = delta;
    return true;
}

/* ---- The whole ---- */

static void close_run(struct run *run) {
    mal_backend_free(run->be, run->iota);
    mal_arena_finish(&run->scratch);
    mal_arena_finish(&run->systems);
    for (size_t s = 0; run->nets && s < run->editor->n_shapes; s++) {
        mal_hypernet_destroy(run->nets[s]);
    }
    for (size_t m = 0; m < run->n_modules; m++) {
        if (run->u) mal_backend_free(run->be, run->u[m]);
        if (run->g) mal_backend_free(run->be, run->g[m]);
    }
    mal_free(run->nets);
    mal_free(run->u);
    mal_free(run->g);
    mal_free(run->micro_rows);
    mal_free(run->order);
    mal_examples_free(run->examples, run->n_examples);
}

bool mal_edit_run(struct mal_model *model, const struct mal_tokenizer *tok,
                  const struct mal_editor *editor, struct mal_normalizer *norms,
                  const struct mal_fact *facts, size_t n_facts,
                  const struct mal_progress *progress, struct mal_delta *out,
                  struct mal_edit_report *report, struct mal_error *err) {
    *report = (struct mal_edit_report){.n_facts = n_facts};
    struct run run = {.model = model,
                      .be = mal_model_backend(model),
                      .editor = editor,
                      .norms = norms,
                      .progress = progress,
                      .report = report,
                      .systems = {.be = mal_model_backend(model)}};
    double begin = mal_clock_seconds();
    bool ok = tokenize(&run, tok, facts, n_facts, err) && sort_by_length(&run, err) &&
              cut_micro_batches(&run, err) && alloc_rows(&run, err);
    report->seconds[MAL_STAGE_TOKENIZE] = mal_clock_seconds() - begin;
    ok = ok && measure_all(&run, err);
    if (ok && run.norms) ok = update_statistics(&run, err);
    ok = ok && open_nets(&run, err) && make_delta(&run, out, err);
    close_run(&run);
    return ok;
}
