/* edit.c - a batch of facts to a delta: keys and value gradients of every edit token,
 * value differences from the editor's network, one solve per module (core/README.md
 * section 3). */
#include "core/editor/edit.h"

#include <math.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/edit_diffs.h"
#include "core/editor/editor_impl.h"
#include "core/editor/solve.h"

struct run {
    struct mal_model *model;
    struct mal_backend *be;
    const struct mal_editor *editor;
    const struct mal_preserve *preserve;
    const struct mal_progress *progress;
    struct mal_edit_report *report;
    struct mal_edit_rows rows;
    struct mal_edit_diffs *diffs;
    struct mal_arena systems; /* of the solves, kept from module to module */
    int64_t done;             /* modules solved */
};

static bool tick(void *arg) {
    struct run *run = arg;
    if (!run->progress || !run->progress->tick) return true;
    return run->progress->tick(run->progress->arg, MAL_STAGE_SOLVE, run->done,
                               (int64_t)run->rows.n_modules);
}

static bool shift_of(struct run *run, size_t m, struct mal_delta_part *out,
                     struct mal_error *err) {
    const struct mal_editor *editor = run->editor;
    const struct mal_editor_module *module = &editor->modules[m];
    const struct mal_editor_shape *shape = &editor->shapes[module->shape];
    double begin = mal_clock_seconds(), seconds[2] = {0};
    run->done = (int64_t)m;
    const struct mal_linear *lin = mal_model_edit(run->model, m);
    struct mal_solve solve = {.module = lin->name,
                              .n = mal_edit_rows_n(&run->rows, m),
                              .d_in = shape->d_in,
                              .d_out = shape->d_out,
                              .dtype = lin->dtype,
                              .u = run->rows.u[m],
                              .d = run->rows.g[m],
                              .ridge = 1,
                              .preserve_gram = mal_preserve_gram(run->preserve, m),
                              .preserve_weight = mal_preserve_weight(run->preserve, m),
                              .scratch = &run->systems,
                              .tick = tick,
                              .tick_arg = run,
                              .seconds = seconds};
    bool ok;
    if (editor->method->solves) {
        if (shape->lamda) solve.ridge = exp((double)shape->lamda[module->row]);
        ok = mal_solve(run->be, &solve, out, err);
    } else {
        ok = mal_outer_shift(run->be, &solve, -(double)shape->lr[module->row], out, err);
    }
    run->report->seconds[MAL_STAGE_GRAM] += seconds[0];
    run->report->seconds[MAL_STAGE_SOLVE] += mal_clock_seconds() - begin - seconds[0];
    return ok;
}

static bool make_delta(struct run *run, struct mal_delta *out, struct mal_error *err) {
    struct mal_delta delta = {.parts =
                                  mal_calloc(run->rows.n_modules, sizeof *delta.parts)};
    if (!delta.parts) return mal_fail(err, MAL_NO_MEMORY, "delta");
    for (size_t m = 0; m < run->rows.n_modules; m++) {
        if (!mal_edit_diffs_run(run->diffs, &run->rows, m, err) ||
            !shift_of(run, m, &delta.parts[m], err)) {
            mal_delta_finish(&delta);
            return false;
        }
        delta.n_parts++;
        mal_edit_rows_drop(&run->rows, m);
    }
    mal_delta_sort(&delta);
    *out = delta;
    return true;
}

bool mal_keyed_edit(const struct mal_edit_task *task, struct mal_delta *out,
                    struct mal_error *err) {
    struct mal_model *model = task->model;
    struct run run = {.model = model,
                      .be = mal_model_backend(model),
                      .editor = task->editor,
                      .preserve = task->preserve,
                      .progress = task->progress,
                      .report = task->report,
                      .systems = {.be = mal_model_backend(model)}};
    struct mal_normalizer *norms = task->norms;
    bool ok =
        mal_edit_rows_of_facts(&run.rows, model, task->tok, task->editor, task->facts,
                               task->n_facts, task->progress, task->report, err) &&
        mal_edit_rows_measure(&run.rows, err);
    mal_model_drop_scratch(model); /* room for the solves */
    if (ok && norms) ok = mal_edit_rows_take_in(&run.rows, norms, err);
    ok = ok && mal_edit_diffs_create(&run.diffs, task->editor, norms, run.be, err) &&
         make_delta(&run, out, err);
    mal_edit_diffs_destroy(run.diffs);
    mal_arena_finish(&run.systems);
    mal_edit_rows_finish(&run.rows);
    return ok;
}

bool mal_edit_run(const struct mal_edit_task *task, struct mal_delta *out,
                  struct mal_error *err) {
    *task->report = (struct mal_edit_report){.n_facts = task->n_facts};
    return task->editor->method->edit(task, out, err);
}
