/* trainer.c - one training step: rows, shifts, losses on the edited weights, gradients,
 * the optimiser. */
#include "core/train/trainer_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/resident.h"
#include "core/editor/solve_grad.h"

/* ---- Creating ---- */

static size_t weight_bytes(const struct mal_linear *lin) {
    return (size_t)(lin->d_in * lin->d_out) * mal_dtype_size(lin->w_dtype);
}

static void place_modules(struct mal_trainer *t, struct mal_arena *arena) {
    int64_t largest = 0;
    bool turns = false;
    for (size_t m = 0; m < t->n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(t->model, m);
        int64_t n = lin->d_in * lin->d_out;
        t->w[m] = mal_arena_alloc(arena, weight_bytes(lin));
        t->dw[m] = mal_arena_floats(arena, n);
        if (n > largest) largest = n;
        turns = turns || lin->transposed;
    }
    t->shift = mal_arena_floats(arena, largest);
    t->turned = turns ? mal_arena_floats(arena, largest) : NULL;
    t->dlr = mal_arena_alloc(arena, sizeof *t->dlr);
}

static bool make_modules(struct mal_trainer *t, struct mal_error *err) {
    t->n_modules = mal_model_n_edits(t->model);
    t->w = mal_calloc(t->n_modules, sizeof *t->w);
    t->dw = mal_calloc(t->n_modules, sizeof *t->dw);
    if (!t->w || !t->dw) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    struct mal_arena counting;
    mal_arena_init_counting(&counting);
    place_modules(t, &counting);
    if (!mal_arena_init(&t->module_memory, t->be, counting.peak, err))
        return mal_fail_wrap(err, "edited weights and their gradients");
    place_modules(t, &t->module_memory);
    return true;
}

/* Whether the networks read other statistics than those on the host. */
static bool has_own_statistics(const struct mal_trainer *t) {
    return !mal_backend_on_host(t->be) || t->editor->n_blocks == 0;
}

/* A shape whose statistics and blocks are where the device reads them. */
static bool make_view(struct mal_trainer *t, size_t s, struct mal_error *err) {
    struct mal_editor_shape *view = &t->views[s], *shape = &t->editor->shapes[s];
    int64_t n_blocks = t->editor->n_blocks;
    mal_resident_blocks_destroy(shape->resident); /* which would stay as they were */
    shape->resident = NULL;
    *view = *shape;
    view->norm = t->norms[s];
    if (has_own_statistics(t)) {
        view->norm.mean = mal_arena_floats(&t->statistics, view->size);
        view->norm.std = mal_arena_floats(&t->statistics, view->size);
    }
    view->blocks = mal_calloc((size_t)n_blocks, sizeof *view->blocks);
    t->grads[s] = mal_calloc((size_t)n_blocks, sizeof *t->grads[s]);
    if (!view->blocks || !t->grads[s]) return mal_fail(err, MAL_NO_MEMORY, "networks");
    for (int64_t i = 0; i < n_blocks; i++) {
        const struct mal_block *host = &shape->blocks[i];
        float *const from[] = {host->a, host->b, host->bias, host->scale, host->shift};
        struct mal_block *p = &view->blocks[i], *g = &t->grads[s][i];
        float **to_p[] = {&p->a, &p->b, &p->bias, &p->scale, &p->shift};
        float **to_g[] = {&g->a, &g->b, &g->bias, &g->scale, &g->shift};
        for (size_t k = 0; k < sizeof from / sizeof *from; k++) {
            const struct mal_train_param *param = mal_train_param_of(&t->params, from[k]);
            *to_p[k] = param->p;
            *to_g[k] = param->g;
        }
    }
    return true;
}

static bool make_networks(struct mal_trainer *t, struct mal_error *err) {
    const struct mal_editor *editor = t->editor;
    size_t n = editor->n_shapes, bytes = 0;
    t->views = mal_calloc(n, sizeof *t->views);
    t->grads = mal_calloc(n, sizeof *t->grads);
    t->nets = mal_calloc(n, sizeof *t->nets);
    if (!t->views || !t->grads || !t->nets)
        return mal_fail(err, MAL_NO_MEMORY, "networks");
    for (size_t s = 0; s < n; s++)
        bytes += 2 * ((size_t)editor->shapes[s].size + 16) * sizeof(float);
    if (has_own_statistics(t) && !mal_arena_init(&t->statistics, t->be, bytes, err))
        return false;
    for (size_t s = 0; s < n; s++) {
        if (!make_view(t, s, err)) return false;
        if (!mal_hypernet_borrow(&t->nets[s], &t->views[s], editor->rank,
                                 editor->n_blocks, t->be, err)) {
            return false;
        }
    }
    return true;
}

bool mal_trainer_create(struct mal_trainer **out, struct mal_model *model,
                        struct mal_editor *editor,
                        const struct mal_train_options *options, struct mal_error *err) {
    if (!editor->method->net)
        return mal_fail(err, MAL_INVALID, "an editor of %s has nothing to train",
                        editor->method->title);
    struct mal_trainer *t = mal_calloc(1, sizeof *t);
    if (!t) return mal_fail(err, MAL_NO_MEMORY, "trainer");
    t->model = model;
    t->be = mal_model_backend(model);
    t->editor = editor;
    t->o = *options;
    t->net_scratch.be = t->diffs.be = t->be;
    t->norms = mal_editor_norms(editor, err);
    if (!t->norms || !mal_train_params_init(&t->params, editor, t->be, err) ||
        !make_modules(t, err) || !make_networks(t, err)) {
        mal_trainer_destroy(t);
        return false;
    }
    *out = t;
    return true;
}

void mal_trainer_destroy(struct mal_trainer *t) {
    if (!t) return;
    for (size_t s = 0; s < t->editor->n_shapes; s++) {
        if (t->nets) mal_hypernet_destroy(t->nets[s]);
        if (t->views) mal_free(t->views[s].blocks);
        if (t->grads) mal_free(t->grads[s]);
    }
    mal_free(t->nets);
    mal_free(t->views);
    mal_free(t->grads);
    mal_norms_free(t->norms, t->editor->n_shapes);
    mal_train_params_finish(&t->params);
    mal_arena_finish(&t->statistics);
    mal_arena_finish(&t->module_memory);
    mal_arena_finish(&t->net_scratch);
    mal_arena_finish(&t->diffs);
    mal_free(t->w);
    mal_free(t->dw);
    mal_free(t);
}

int64_t mal_trainer_steps(const struct mal_trainer *trainer) {
    return trainer->steps;
}

bool mal_trainer_fetch(struct mal_trainer *t, struct mal_error *err) {
    struct mal_normalizer *norms = mal_norms_copy(t->norms, t->editor->n_shapes, err);
    if (!norms) return false;
    for (size_t s = 0; s < t->editor->n_shapes; s++) {
        struct mal_normalizer old = t->editor->shapes[s].norm;
        t->editor->shapes[s].norm = norms[s];
        norms[s] = old;
    }
    mal_norms_free(norms, t->editor->n_shapes);
    return mal_train_params_fetch(&t->params, err);
}

/* ---- A step ---- */

bool mal_train_tick(const struct mal_train_run *run, struct mal_error *err) {
    const struct mal_train_watch *watch = run->watch;
    if (!watch || !watch->tick || watch->tick(watch->arg)) return true;
    return mal_fail(err, MAL_CANCELLED, "cancelled");
}

static bool tick_of_rows(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    const struct mal_train_watch *watch = arg;
    (void)stage;
    (void)done;
    (void)total;
    return !watch || !watch->tick || watch->tick(watch->arg);
}

static void observe(const struct mal_train_run *run, const char *kind, const char *name,
                    int64_t n, const float *data) {
    char full[256];
    if (!run->watch || !run->watch->observe) return;
    snprintf(full, sizeof full, "%s.%s", kind, name);
    run->watch->observe(run->watch->arg, full, n, data);
}

/* D of every module but for MEND, and E of one. */
static bool take_diffs(struct mal_train_run *run, struct mal_error *err) {
    struct mal_trainer *t = run->t;
    int64_t most = 0, floats = 0;
    bool mend = !t->editor->method->solves;
    run->d = mal_calloc(t->n_modules, sizeof *run->d);
    if (!run->d) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    for (size_t m = 0; m < t->n_modules; m++) {
        int64_t size =
            mal_edit_rows_n(&run->rows, m) * mal_model_edit(t->model, m)->d_out;
        if (size > most) most = size;
        if (!mend) floats += size + 16;
    }
    floats += most + 16;
    if (!mal_arena_reserve(&t->diffs, (size_t)floats * sizeof(float), err))
        return mal_fail_wrap(err, "value differences");
    mal_arena_reset(&t->diffs, 0);
    for (size_t m = 0; !mend && m < t->n_modules; m++)
        run->d[m] = mal_arena_floats(&t->diffs, mal_edit_rows_n(&run->rows, m) *
                                                    mal_model_edit(t->model, m)->d_out);
    run->e = mal_arena_floats(&t->diffs, most);
    return true;
}

static bool take_scratch(struct mal_train_run *run, struct mal_error *err) {
    struct mal_trainer *t = run->t;
    int64_t rows = 0, most = t->o.editor_batch, size = 0;
    for (size_t m = 0; m < t->n_modules; m++) {
        if (mal_edit_rows_n(&run->rows, m) > rows) rows = mal_edit_rows_n(&run->rows, m);
    }
    size_t bytes = mal_train_tape_bytes(t->editor, rows, most, &run->keeps);
    for (size_t s = 0; s < t->editor->n_shapes; s++) {
        if (t->editor->shapes[s].size > size) size = t->editor->shapes[s].size;
    }
    if (!mal_arena_reserve(&t->net_scratch, bytes, err))
        return mal_fail_wrap(err, "the hyper-network's activations");
    mal_arena_reset(&t->net_scratch, 0);
    run->dh = mal_arena_floats(&t->net_scratch, (rows < most ? rows : most) * size);
    run->net_mark = mal_arena_mark(&t->net_scratch);
    run->tapes = mal_calloc(t->n_modules, sizeof *run->tapes);
    return run->tapes || mal_fail(err, MAL_NO_MEMORY, "edit modules");
}

/* The identity network's are lifted, as in an edit. */
static bool update_view(struct mal_trainer *t, size_t s, struct mal_error *err) {
    const struct mal_editor_shape *view = &t->views[s];
    struct mal_normalizer norm;
    size_t bytes = (size_t)view->size * sizeof *norm.mean;
    if (!mal_normalizer_copy(&norm, &t->norms[s], err)) return false;
    if (t->editor->n_blocks == 0) mal_normalizer_lift(&norm, view->d_in);
    mal_backend_upload(t->be, view->norm.mean, norm.mean, bytes);
    mal_backend_upload(t->be, view->norm.std, norm.std, bytes);
    bool ok = mal_backend_sync(t->be, err);
    mal_normalizer_finish(&norm);
    return ok;
}

static bool update_views(struct mal_trainer *t, struct mal_error *err) {
    for (size_t s = 0; has_own_statistics(t) && s < t->editor->n_shapes; s++)
        if (!update_view(t, s, err)) return false;
    return true;
}

/* Step 1: keys and value gradients on the base weights, into the statistics. */
static bool make_rows(struct mal_train_run *run, const struct mal_train_batch *batch,
                      bool learn, struct mal_error *err) {
    struct mal_trainer *t = run->t;
    struct mal_progress progress = {tick_of_rows, (void *)run->watch, MAL_LEARN_TOKENS,
                                    NULL};
    if (!mal_edit_rows_of_examples(&run->rows, t->model, t->editor, batch->edits,
                                   batch->n_edits, &progress, &run->edit, err) ||
        !mal_edit_rows_measure(&run->rows, err)) {
        return false;
    }
    if (learn && !mal_edit_rows_take_in(&run->rows, t->norms, err)) return false;
    return update_views(t, err) && take_diffs(run, err) && take_scratch(run, err);
}

/* Step 2: every module's shift; the model reads the edited weights from here on. */
static bool edit_weights(struct mal_train_run *run, struct mal_error *err) {
    struct mal_trainer *t = run->t;
    for (size_t m = 0; m < t->n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(t->model, m);
        int64_t n = lin->d_in * lin->d_out;
        if (!mal_train_shift(run, m, err)) return false;
        observe(run, "shift", lin->name, n, t->shift);
        const float *added = t->shift;
        if (lin->transposed) {
            mal_backend_zero(t->be, t->turned, (size_t)n * sizeof(float));
            mal_apply_dense(t->be, lin->d_in, lin->d_out, t->shift, true, t->turned);
            added = t->turned;
        }
        mal_round_weight(t->be, n, lin->w0, added, lin->dtype, t->w[m], lin->w_dtype);
        mal_backend_zero(t->be, t->dw[m], (size_t)n * sizeof(float));
    }
    for (size_t m = 0; m < t->n_modules; m++)
        mal_model_edit(t->model, m)->w = t->w[m];
    bool ok = mal_backend_sync(t->be, err);
    return ok;
}

static void base_weights(struct mal_trainer *t) {
    for (size_t m = 0; m < t->n_modules; m++) {
        struct mal_linear *lin = mal_model_edit(t->model, m);
        lin->w = lin->w0;
    }
}

/* How many examples from `first` on make one pass: a micro-batch where losses are means
 * over one, else what the pass may hold. */
static size_t pass_length(const struct mal_trainer *t, const struct mal_example *examples,
                          const size_t *order, size_t n, size_t first) {
    size_t left = n - first, micro = (size_t)t->editor->micro_batch, k = 0;
    if (t->editor->loss == MAL_LOSS_MICROBATCH_MEAN) return left < micro ? left : micro;
    int64_t tokens = 0, most = MAL_LEARN_TOKENS * mal_backend_breadth(t->be);
    while (k < left && (k == 0 || tokens + examples[order[first + k]].n <= most))
        tokens += examples[order[first + k++]].n;
    return k;
}

/* Step 3, one loss: its gradient at the weights is added to dw, *out is its mean over
 * label rows: over all of the step, or as the reference has it, the mean of the
 * micro-batches' means, whose sum is differentiated. */
static bool learn(struct mal_train_run *run, const struct mal_example *examples, size_t n,
                  bool keep, double weight, double *out, struct mal_error *err) {
    struct mal_trainer *t = run->t;
    bool means = t->editor->loss == MAL_LOSS_MICROBATCH_MEAN;
    size_t *order = mal_calloc(n, sizeof *order), passes = 0;
    if (!order) return mal_fail(err, MAL_NO_MEMORY, "order of the examples");
    bool ok = mal_examples_longest_first(examples, n, order, err);
    int64_t labels = 0;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        labels += examples[i].n_target;
    for (size_t first = 0, k; ok && first < n; first += k, passes++) {
        struct mal_packed packed = {0};
        double loss = 0;
        k = pass_length(t, examples, order, n, first);
        ok = mal_examples_pack(examples, order + first, k, &packed, err);
        int64_t over = means ? packed.n_labels : labels;
        struct mal_learn what = {.keep = keep,
                                 .loss_scale = (float)(weight / (double)over),
                                 .dw = t->dw,
                                 .loss = &loss};
        ok = ok && mal_model_learn(t->model, &packed.batch, &what, err) &&
             mal_train_tick(run, err);
        mal_packed_finish(&packed);
        if (ok) sum += loss / (double)over;
    }
    mal_free(order);
    *out = n == 0 ? (double)NAN : means ? sum / (double)passes : sum;
    return ok;
}

static bool learn_all(struct mal_train_run *run, const struct mal_train_batch *batch,
                      struct mal_train_report *report, struct mal_error *err) {
    struct mal_trainer *t = run->t;
    return learn(run, batch->rephrases, batch->n_rephrases, false, 1, &report->gen_loss,
                 err) &&
           learn(run, batch->probes, batch->n_probes, true, t->o.loc_coef,
                 &report->loc_loss, err);
}

/* Steps 4 and 5: from the gradient at the weights to that of the parameters. */
static bool backward(struct mal_train_run *run, struct mal_train_report *report,
                     struct mal_error *err) {
    struct mal_trainer *t = run->t;
    mal_train_params_zero_grads(&t->params);
    for (size_t m = 0; m < t->n_modules; m++) {
        if (!mal_train_shift_bwd(run, m, err)) return false;
    }
    for (size_t i = 0; i < t->params.n; i++) {
        const struct mal_train_param *param = &t->params.list[i];
        observe(run, "grad", param->name, param->n, param->g);
    }
    return mal_train_params_norm(&t->params, &report->grad_norm, err);
}

/* Step 6 */
static bool update(struct mal_trainer *t, const struct mal_train_rates *rates,
                   const struct mal_train_report *report, struct mal_error *err) {
    double losses = report->gen_loss + (isnan(report->loc_loss) ? 0 : report->loc_loss);
    if (!isfinite(losses) || !isfinite(report->grad_norm)) {
        return mal_fail(err, MAL_NUMERIC,
                        "step %lld: loss %g, norm of the gradient %g: the editor's step "
                        "or the rate of learning is too large",
                        (long long)t->steps + 1, losses, report->grad_norm);
    }
    double scale = t->o.max_norm / (report->grad_norm + 1e-6); /* as clip_grad_norm_() */
    t->steps++;
    mal_train_params_step(&t->params, rates->meta, rates->lr, scale < 1 ? scale : 1,
                          t->steps);
    for (size_t s = 0; s < t->editor->n_shapes; s++) { /* what the host computes with */
        float *const own[] = {t->editor->shapes[s].lr, t->editor->shapes[s].lamda,
                              t->editor->shapes[s].preserve};
        for (size_t k = 0; k < 3; k++) {
            if (!own[k]) continue;
            const struct mal_train_param *param = mal_train_param_of(&t->params, own[k]);
            if (param->p == own[k]) continue;
            mal_backend_download(t->be, own[k], param->p,
                                 (size_t)param->n * sizeof(float));
        }
    }
    return mal_backend_sync(t->be, err);
}

/* A step that fails leaves the statistics as they were. */
static void restore_statistics(struct mal_trainer *t, const struct mal_normalizer *old) {
    for (size_t s = 0; s < t->editor->n_shapes; s++) {
        struct mal_normalizer *norm = &t->norms[s];
        size_t bytes = (size_t)norm->size * sizeof *norm->mean;
        norm->n = old[s].n;
        memcpy(norm->mean, old[s].mean, bytes);
        memcpy(norm->var, old[s].var, bytes);
        memcpy(norm->std, old[s].std, bytes);
    }
}

/* Always true: to stand between the parts. */
static bool end_part(struct mal_train_run *run, struct mal_train_report *report,
                     enum mal_train_part part) {
    double now = mal_clock_seconds();
    report->parts[part] = now - run->part_began;
    run->part_began = now;
    return true;
}

/* `rates` NULL: nothing changes. */
static bool run_step(struct mal_trainer *t, const struct mal_train_batch *batch,
                     const struct mal_train_rates *rates,
                     const struct mal_train_watch *watch, struct mal_train_report *report,
                     struct mal_error *err) {
    double begin = mal_clock_seconds();
    struct mal_train_run run = {.t = t, .watch = watch, .part_began = begin};
    *report = (struct mal_train_report){0};
    struct mal_normalizer *old = mal_norms_copy(t->norms, t->editor->n_shapes, err);
    if (!old) return false;
    bool ok = make_rows(&run, batch, rates != NULL, err) &&
              end_part(&run, report, MAL_TRAIN_ROWS) && edit_weights(&run, err) &&
              end_part(&run, report, MAL_TRAIN_SHIFTS) &&
              learn_all(&run, batch, report, err) &&
              end_part(&run, report, MAL_TRAIN_LOSSES);
    base_weights(t);
    if (ok && rates) {
        ok = backward(&run, report, err) && end_part(&run, report, MAL_TRAIN_BACKWARD) &&
             update(t, rates, report, err) && end_part(&run, report, MAL_TRAIN_UPDATE);
    }
    report->edit_loss = run.edit.loss;
    report->rows = run.rows.n_rows[0];
    report->seconds = mal_clock_seconds() - begin;
    mal_edit_rows_finish(&run.rows);
    mal_free(run.d);
    mal_free(run.tapes);
    if (!ok) restore_statistics(t, old);
    mal_norms_free(old, t->editor->n_shapes);
    return ok;
}

bool mal_trainer_step(struct mal_trainer *trainer, const struct mal_train_batch *batch,
                      const struct mal_train_rates *rates,
                      const struct mal_train_watch *watch,
                      struct mal_train_report *report, struct mal_error *err) {
    return run_step(trainer, batch, rates, watch, report, err);
}

bool mal_trainer_measure(struct mal_trainer *trainer, const struct mal_train_batch *batch,
                         const struct mal_train_watch *watch,
                         struct mal_train_report *report, struct mal_error *err) {
    return run_step(trainer, batch, NULL, watch, report, err);
}
