/* eval.c - the batches of an evaluation and their measures. Facts are scored and answers
 * to unrelated prompts generated a slice of facts at a time; slices never cross batches,
 * so that the base model's answers of each are made once and compared with ever after. */
#include "daemon/command/eval.h"

#include <string.h>

#include "core/alloc.h"
#include "core/answers.h"
#include "core/clock.h"
#include "daemon/base/report.h"
#include "daemon/command/teacher.h"

enum {
    SLICE_FACTS = 64,
    SLICE_PROBES = 128 /* answers generated together */
};

struct slice {
    size_t first, n; /* facts */
    size_t batch;
    struct mal_answers base; /* the base model's own */
    size_t n_same;           /* when last measured */
    size_t n_same_then;      /* right after its batch */
};

struct run {
    struct mal_workbench *wb;
    const struct mal_eval_plan *plan;
    struct mal_eval *out;
    struct slice *slices;
    size_t n_slices;
    struct mal_score *now; /* (n_items) what was measured last */
    struct mal_teacher *teacher;
    struct mal_bar bar; /* in facts edited or scored */
    int64_t done;
};

/* ---- Preparing ---- */

static size_t n_batches(const struct mal_eval_plan *plan) {
    return (plan->n_facts + plan->n_edits - 1) / plan->n_edits;
}

static bool lay_out(struct run *run, struct mal_error *err) {
    const struct mal_eval_plan *plan = run->plan;
    struct mal_eval *out = run->out;
    out->n_batches = n_batches(plan);
    out->batches = mal_calloc(out->n_batches, sizeof *out->batches);
    out->first_item = mal_calloc(plan->n_facts + 1, sizeof *out->first_item);
    if (!out->batches || !out->first_item) return mal_fail(err, MAL_NO_MEMORY, "batches");
    for (size_t b = 0; b < out->n_batches; b++) {
        size_t first = b * plan->n_edits, left = plan->n_facts - first;
        out->batches[b].first = first;
        out->batches[b].n_facts = left < plan->n_edits ? left : plan->n_edits;
    }
    for (size_t i = 0; i < plan->n_facts; i++) {
        out->n_items += mal_fact_n_items(&plan->facts[i]);
        out->first_item[i + 1] = out->n_items;
    }
    out->before_scores = mal_calloc(out->n_items, sizeof *out->before_scores);
    out->after_scores = mal_calloc(out->n_items, sizeof *out->after_scores);
    run->now = mal_calloc(out->n_items, sizeof *run->now);
    run->slices = mal_calloc(plan->n_facts, sizeof *run->slices);
    return (out->before_scores && out->after_scores && run->now && run->slices) ||
           mal_fail(err, MAL_NO_MEMORY, "scores");
}

static void cut_slices(struct run *run) {
    const struct mal_eval_plan *plan = run->plan;
    size_t probes = 0;
    for (size_t i = 0; i < plan->n_facts; i++) {
        struct slice *last = run->n_slices ? &run->slices[run->n_slices - 1] : NULL;
        size_t own = plan->facts[i].n_unrelated;
        if (!last || i % plan->n_edits == 0 || last->n == SLICE_FACTS ||
            probes + own > SLICE_PROBES) {
            last = &run->slices[run->n_slices++];
            *last = (struct slice){.first = i, .batch = i / plan->n_edits};
            probes = 0;
        }
        last->n++;
        probes += own;
    }
}

/* ---- Measuring ---- */

static void clear_scores(struct mal_score *scores, size_t n) {
    for (size_t i = 0; i < n; i++) {
        mal_free(scores[i].tokens);
        scores[i] = (struct mal_score){0};
    }
}

static bool score_slice(struct run *run, const struct slice *slice,
                        struct mal_score *scores, struct mal_error *err) {
    struct mal_score *items = NULL;
    size_t n = 0;
    if (!mal_score_facts(run->wb->model, run->wb->tok, run->plan->facts + slice->first,
                         slice->n, NULL, NULL, NULL, &items, &n, err))
        return false;
    struct mal_score *to = scores + run->out->first_item[slice->first];
    clear_scores(to, n);
    for (size_t i = 0; i < n; i++)
        to[i] = items[i];
    mal_free(items);
    return true;
}

static bool answer_slice(struct run *run, const struct slice *slice,
                         struct mal_answers *out, struct mal_error *err) {
    return mal_answers_make(run->wb->model, run->wb->tok, run->plan->facts + slice->first,
                            slice->n, SIZE_MAX, NULL, NULL, out, err);
}

static bool measure_slice(struct run *run, struct slice *slice, struct mal_error *err) {
    struct mal_answers edited = {0};
    if (!score_slice(run, slice, run->now, err) ||
        !answer_slice(run, slice, &edited, err))
        return false;
    slice->n_same = mal_answers_same(&slice->base, &edited);
    mal_answers_finish(&edited);
    return true;
}

static void step(struct run *run, size_t facts) {
    run->done += (int64_t)facts;
    mal_bar_update(&run->bar, run->done);
}

static bool measure_before(struct run *run, struct mal_error *err) {
    size_t n_answers = 0;
    for (size_t s = 0; s < run->n_slices; s++) {
        struct slice *slice = &run->slices[s];
        if (!score_slice(run, slice, run->out->before_scores, err) ||
            !answer_slice(run, slice, &slice->base, err))
            return false;
        n_answers += slice->base.n;
        step(run, slice->n);
    }
    mal_measures_of(run->plan->facts, run->plan->n_facts, run->out->before_scores,
                    &run->out->before);
    if (n_answers > 0) run->out->before.agreement = 1; /* with itself */
    return true;
}

/* Measures of the facts of batches [from, to], from what was scored last. */
static void sum_up(const struct run *run, size_t from, size_t to,
                   struct mal_measures *out) {
    const struct mal_eval_batch *first = &run->out->batches[from],
                                *last = &run->out->batches[to];
    size_t n_answers = 0, n_same = 0;
    mal_measures_of(run->plan->facts + first->first,
                    last->first + last->n_facts - first->first,
                    run->now + run->out->first_item[first->first], out);
    for (size_t s = 0; s < run->n_slices; s++) {
        const struct slice *slice = &run->slices[s];
        if (slice->batch < from || slice->batch > to) continue;
        n_answers += slice->base.n;
        n_same += slice->n_same;
    }
    if (n_answers > 0) out->agreement = (double)n_same / (double)n_answers;
}

static bool measure_after(struct run *run, size_t b, struct mal_error *err) {
    struct mal_eval_batch *batch = &run->out->batches[b];
    double begin = mal_clock_seconds();
    for (size_t s = 0; s < run->n_slices; s++) {
        struct slice *slice = &run->slices[s];
        bool wanted = run->plan->reset ? slice->batch == b : slice->batch <= b;
        if (!wanted) continue;
        if (!measure_slice(run, slice, err)) return false;
        if (slice->batch == b) slice->n_same_then = slice->n_same;
        step(run, slice->n);
    }
    sum_up(run, b, b, &batch->measures);
    if (!run->plan->reset) sum_up(run, 0, b, &batch->retention);
    size_t from = run->out->first_item[batch->first],
           to = run->out->first_item[batch->first + batch->n_facts];
    for (size_t i = from; i < to; i++) {
        run->out->after_scores[i] = run->now[i];
        run->now[i] = (struct mal_score){0};
    }
    batch->seconds_measuring = mal_clock_seconds() - begin;
    return true;
}

/* ---- Editing ---- */

struct edit_tick {
    struct run *run;
    size_t n_facts;
};

static bool show_edit(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    const struct edit_tick *t = arg;
    if (stage == MAL_STAGE_FORWARD && total > 0) {
        int64_t facts = (int64_t)t->n_facts * done / total;
        mal_bar_update(&t->run->bar, t->run->done + facts);
    }
    return true;
}

static bool edit_batch(struct run *run, struct mal_eval_batch *batch,
                       struct mal_error *err) {
    struct edit_tick tick = {run, batch->n_facts};
    struct mal_progress progress = {.tick = show_edit, .arg = &tick};
    struct mal_taught taught;
    if (run->plan->reset && !mal_teacher_reset(run->teacher, err)) return false;
    if (!mal_teacher_teach(run->teacher, run->plan->facts + batch->first, batch->n_facts,
                           &progress, &taught, err))
        return false;
    memcpy(batch->seconds, taught.report.seconds, sizeof batch->seconds);
    batch->n_tokens = taught.report.n_tokens;
    batch->n_rounds = taught.n_rounds;
    step(run, batch->n_facts);
    return true;
}

/* ---- The whole ---- */

static int64_t total_work(const struct mal_eval *eval, const struct mal_eval_plan *plan) {
    size_t total = plan->n_facts;
    for (size_t b = 0; b < eval->n_batches; b++) {
        const struct mal_eval_batch *batch = &eval->batches[b];
        total += 2 * batch->n_facts + (plan->reset ? 0 : batch->first);
    }
    return (int64_t)total;
}

static bool run_batches(struct run *run, struct mal_error *err) {
    if (!measure_before(run, err) ||
        !mal_teacher_create(&run->teacher, run->wb, &run->plan->teacher, err))
        return false;
    for (size_t b = 0; b < run->out->n_batches; b++) {
        if (edit_batch(run, &run->out->batches[b], err) && measure_after(run, b, err))
            continue;
        return mal_fail_wrap(err, "batch %zu", b);
    }
    return true;
}

/* What each batch's facts were right after it, together. */
static void pool(struct run *run) {
    const struct mal_eval_plan *plan = run->plan;
    size_t n_answers = 0, n_same = 0;
    mal_measures_of(plan->facts, plan->n_facts, run->out->after_scores, &run->out->after);
    for (size_t s = 0; s < run->n_slices; s++) {
        n_answers += run->slices[s].base.n;
        n_same += run->slices[s].n_same_then;
    }
    if (n_answers > 0) run->out->after.agreement = (double)n_same / (double)n_answers;
}

bool mal_eval_run(struct mal_workbench *wb, const struct mal_eval_plan *plan,
                  struct mal_eval *out, struct mal_error *err) {
    struct run run = {.wb = wb, .plan = plan, .out = out};
    *out = (struct mal_eval){0};
    bool ok = lay_out(&run, err);
    if (ok) cut_slices(&run);
    mal_bar_start(&run.bar, "evaluate", total_work(out, plan), plan->silent);
    ok = ok && run_batches(&run, err);
    mal_bar_finish(&run.bar);
    if (ok) pool(&run);
    for (size_t s = 0; s < run.n_slices; s++)
        mal_answers_finish(&run.slices[s].base);
    mal_free(run.slices);
    if (run.now) mal_scores_free(run.now, out->n_items);
    mal_teacher_destroy(run.teacher);
    return ok;
}

void mal_eval_finish(struct mal_eval *eval) {
    mal_scores_free(eval->before_scores, eval->n_items);
    mal_scores_free(eval->after_scores, eval->n_items);
    mal_free(eval->first_item);
    mal_free(eval->batches);
    *eval = (struct mal_eval){0};
}
