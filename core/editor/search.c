/* search.c - the line search for an editor's step. */
#include "core/editor/search.h"

#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/weights_state.h"

enum { FIRST = -16, LAST = 0, STRIDE = 2, LOWEST = -48, HIGHEST = 24 };

struct search {
    struct mal_editor *editor;
    struct mal_model *model;
    const struct mal_tokenizer *tok;
    const struct mal_fact *facts;
    size_t n_facts;
    const struct mal_progress *progress;
    struct mal_preserve *preserve; /* what the editor carries */
    struct mal_weights_state *ws;
    struct mal_delta unit;   /* for a step of 1, fp32 */
    struct mal_delta scaled; /* the same shapes */
    bool trying;             /* the model is to read the prepared weights of ws */
    struct mal_search_report *report;
};

void mal_editor_set_lr(struct mal_editor *editor, double lr) {
    editor->lr = lr;
    for (size_t s = 0; s < editor->n_shapes; s++) {
        struct mal_editor_shape *shape = &editor->shapes[s];
        for (int64_t m = 0; shape->lr && m < shape->n_modules; m++)
            shape->lr[m] = (float)lr;
    }
}

/* Whoever reads in a tick may have let the model use other weights. */
static bool tick(void *arg) {
    const struct search *search = arg;
    const struct mal_progress *progress = search->progress;
    if (!progress || !progress->tick) return true;
    bool go_on = progress->tick(progress->arg, MAL_STAGE_SEARCH,
                                (int64_t)search->report->n_points, 0);
    if (search->trying) mal_weights_use_prepared(search->ws);
    return go_on;
}

static bool edit_tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    (void)stage, (void)done, (void)total;
    return tick(arg);
}

static void prepare_tick(void *arg) {
    (void)tick(arg); /* to give up can wait for the next */
}

static bool widen_delta(struct mal_delta *delta, struct mal_error *err) {
    for (size_t i = 0; i < delta->n_parts; i++)
        if (!mal_delta_part_widen(&delta->parts[i], err)) return false;
    return true;
}

static bool copy_delta(const struct mal_delta *from, struct mal_delta *to,
                       struct mal_error *err) {
    to->parts = mal_calloc(from->n_parts, sizeof *to->parts);
    if (!to->parts) return mal_fail(err, MAL_NO_MEMORY, "delta");
    for (size_t i = 0; i < from->n_parts; i++) {
        struct mal_delta_part *part = &to->parts[to->n_parts++];
        *part = from->parts[i];
        part->module = mal_strdup(from->parts[i].module);
        part->data = mal_malloc(mal_delta_part_bytes(&from->parts[i]));
        if (!part->module || !part->data) return mal_fail(err, MAL_NO_MEMORY, "delta");
    }
    return true;
}

/* Of factors, the right one carries the scale. */
static void scale_delta(struct search *search, float scale) {
    for (size_t i = 0; i < search->unit.n_parts; i++) {
        const struct mal_delta_part *from = &search->unit.parts[i];
        struct mal_delta_part *to = &search->scaled.parts[i];
        size_t left = (size_t)(from->d_in * from->rank),
               n = mal_delta_part_elements(from);
        const float *x = from->data;
        float *y = to->data;
        memcpy(y, x, left * sizeof *y);
        for (size_t k = left; k < n; k++)
            y[k] = scale * x[k];
    }
}

static double total(const struct mal_measures *m) {
    double gs = isnan(m->tf_gs) ? 0 : m->tf_gs, ls = isnan(m->tf_ls) ? 0 : m->tf_ls;
    return m->tf_es + gs + ls;
}

static bool measure(struct search *search, struct mal_measures *out,
                    struct mal_error *err) {
    struct mal_score *scores = NULL;
    size_t n = 0;
    if (!mal_score_facts(search->model, search->tok, search->facts, search->n_facts, NULL,
                         tick, search, &scores, &n, err)) {
        return false;
    }
    mal_measures_of(search->facts, search->n_facts, scores, out);
    mal_scores_free(scores, n);
    return true;
}

/* Scores a step unless it was before; -1 for one that breaks the weights. */
static bool try_step(struct search *search, double exponent, struct mal_error *err) {
    struct mal_search_report *report = search->report;
    for (size_t i = 0; i < report->n_points; i++) {
        if (report->points[i].exponent == exponent) return true;
    }
    struct mal_search_point point = {.exponent = exponent, .score = -1};
    struct mal_error own = {0};
    scale_delta(search, (float)exp2(exponent));
    if (mal_weights_prepare(search->ws, &search->scaled, prepare_tick, search, &own)) {
        mal_weights_use_prepared(search->ws);
        search->trying = true;
        bool ok = measure(search, &point.measures, err);
        search->trying = false;
        mal_weights_discard(search->ws);
        mal_weights_use(search->ws, 0);
        if (!ok) return false;
        point.score = total(&point.measures);
    } else if (own.status != MAL_NUMERIC) {
        return mal_fail(err, own.status, "%s", own.text);
    }
    const struct mal_search_point *best = &report->points[report->best];
    if (point.score > best->score || /* of equals the smaller step */
        (point.score == best->score && exponent < best->exponent)) {
        report->best = report->n_points;
    }
    report->points[report->n_points++] = point;
    return true;
}

static double best_exponent(const struct search *search) {
    return search->report->points[search->report->best].exponent;
}

static bool same(double a, double b) {
    return a == b || (isnan(a) && isnan(b));
}

/* The step tried last changed nothing that is measured, so a smaller one will not. */
static bool changed_nothing(const struct search *search) {
    const struct mal_search_report *report = search->report;
    const struct mal_measures *before = &report->before;
    const struct mal_measures *last = &report->points[report->n_points - 1].measures;
    return same(before->tf_es, last->tf_es) && same(before->tf_gs, last->tf_gs) &&
           same(before->tf_ls, last->tf_ls);
}

/* Coarse over the usual range, further where the best is at an end, then closer around
 * it. */
static bool find_best(struct search *search, struct mal_error *err) {
    double low = LAST, high = LAST;
    if (!try_step(search, low, err)) return false;
    while (low > FIRST || (best_exponent(search) == low && low > LOWEST)) {
        if (changed_nothing(search)) break;
        if (!try_step(search, low -= STRIDE, err)) return false;
    }
    while (best_exponent(search) == high && high < HIGHEST) {
        if (!try_step(search, high += STRIDE, err)) return false;
    }
    for (double stride = STRIDE / 2.0; stride >= 0.5; stride /= 2) {
        double best = best_exponent(search);
        if (!try_step(search, best - stride, err)) return false;
        if (!try_step(search, best + stride, err)) return false;
    }
    return true;
}

static bool run_search(struct search *search, struct mal_normalizer *norms,
                       struct mal_error *err) {
    struct mal_edit_report report;
    struct mal_progress progress = {.tick = edit_tick, .arg = search};
    if (search->progress) progress.slice_tokens = search->progress->slice_tokens;
    mal_editor_set_lr(search->editor, 1);
    if (!measure(search, &search->report->before, err)) return false;
    if (!mal_preserve_create(&search->preserve, search->model, search->editor, NULL,
                             (double)NAN, &progress, err))
        return false;
    struct mal_edit_task task = {.model = search->model,
                                 .tok = search->tok,
                                 .editor = search->editor,
                                 .norms = norms,
                                 .preserve = search->preserve,
                                 .facts = search->facts,
                                 .n_facts = search->n_facts,
                                 .progress = &progress,
                                 .report = &report};
    if (!mal_edit_run(&task, &search->unit, err)) return false;
    if (!widen_delta(&search->unit, err)) return false;
    if (!copy_delta(&search->unit, &search->scaled, err)) return false;
    if (!mal_weights_create(&search->ws, search->model, 0, err)) return false;
    return find_best(search, err);
}

bool mal_editor_search(struct mal_editor *editor, struct mal_model *model,
                       const struct mal_tokenizer *tok, const struct mal_fact *facts,
                       size_t n_facts, const struct mal_progress *progress,
                       struct mal_search_report *report, struct mal_error *err) {
    *report = (struct mal_search_report){.points = {{.score = -1}}};
    struct search search = {.editor = editor,
                            .model = model,
                            .tok = tok,
                            .facts = facts,
                            .n_facts = n_facts,
                            .progress = progress,
                            .report = report};
    struct mal_normalizer *norms = mal_editor_norms(editor, err);
    bool ok = norms && run_search(&search, norms, err);
    if (ok && report->points[report->best].score < 0) {
        ok = mal_fail(err, MAL_NUMERIC, "no step from 2^%d to 2^%d leaves finite weights",
                      LOWEST, LAST);
    }
    if (ok) {
        const struct mal_search_point *best = &report->points[report->best];
        mal_editor_set_lr(editor, exp2(best->exponent));
        editor->n_edits = (int64_t)n_facts;
    }
    if (ok && !editor->method->running) {
        for (size_t s = 0; s < editor->n_shapes; s++) {
            struct mal_normalizer old = editor->shapes[s].norm;
            editor->shapes[s].norm = norms[s];
            norms[s] = old;
        }
    }
    mal_norms_free(norms, editor->n_shapes);
    mal_preserve_destroy(search.preserve);
    mal_delta_finish(&search.unit);
    mal_delta_finish(&search.scaled);
    mal_weights_destroy(search.ws);
    return ok;
}
