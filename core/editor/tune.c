/* tune.c - gradients of a mini-batch in slices, and the steps they make. */
#include <math.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/edit_rows.h"
#include "core/editor/tune_impl.h"
#include "core/random.h"

enum { SLICE_TOKENS = 1024 }; /* of a pass, times the device's breadth */

static const double CLOSE = 1e-2; /* a loss below gives no step; a pass below ends it */

/* ---- Its life ---- */

static float *zeros(const struct mal_tune *tune, size_t i) {
    size_t bytes = mal_tune_elements(tune, i) * sizeof(float);
    float *mem = mal_backend_alloc(tune->draft.be, bytes);
    if (mem) mal_backend_zero(tune->draft.be, mem, bytes);
    return mem;
}

static bool open_state(struct mal_tune *tune, struct mal_error *err) {
    size_t n = tune->draft.n;
    tune->grad = mal_calloc(n, sizeof *tune->grad);
    tune->mean = mal_calloc(n, sizeof *tune->mean);
    tune->square = mal_calloc(n, sizeof *tune->square);
    if (!tune->grad || !tune->mean || !tune->square)
        return mal_fail(err, MAL_NO_MEMORY, "gradients");
    for (size_t i = 0; i < n; i++) {
        tune->grad[i] = zeros(tune, i);
        tune->mean[i] = zeros(tune, i);
        tune->square[i] = zeros(tune, i);
        if (tune->grad[i] && tune->mean[i] && tune->square[i]) continue;
        return mal_fail(err, MAL_NO_MEMORY,
                        "module '%s': its gradient and Adam's moments (%zu bytes)",
                        tune->draft.tensors[i].lin->name,
                        3 * mal_tune_elements(tune, i) * sizeof(float));
    }
    return true;
}

/* A text that fills the model's context already goes without. */
static bool end_texts(struct mal_tune *tune, struct mal_error *err) {
    const struct mal_model_info *info = mal_model_info(tune->task->model);
    if (info->kind != MAL_MODEL_CAUSAL || info->eos < 0) return true;
    for (size_t i = 0; i < tune->n_texts; i++) {
        if (tune->texts[i].n < mal_longest_text(info) &&
            !mal_example_end(&tune->texts[i], info->eos, err))
            return false;
    }
    return true;
}

/* On an error, too, finish(). */
static bool begin(struct mal_tune *tune, struct mal_error *err) {
    const struct mal_edit_task *task = tune->task;
    const struct mal_tune_way *way = tune->way;
    double start = mal_clock_seconds();
    if (!mal_examples_of_facts(task->model, task->tok, task->facts, task->n_facts,
                               &tune->texts, &tune->n_texts, err) ||
        (way->ends && !end_texts(tune, err)))
        return false;
    task->report->seconds[MAL_STAGE_TOKENIZE] += mal_clock_seconds() - start;
    tune->total =
        way->n_passes * (int64_t)((tune->n_texts + way->batch - 1) / way->batch);
    tune->order = mal_calloc(tune->n_texts, sizeof *tune->order);
    if (!tune->order) return mal_fail(err, MAL_NO_MEMORY, "order of the facts");
    for (size_t i = 0; i < tune->n_texts; i++) {
        tune->order[i] = i;
        task->report->n_tokens += tune->texts[i].n_target;
        task->report->n_input_tokens += tune->texts[i].n;
    }
    return mal_trunk_create(&tune->trunk, task->model, err) &&
           mal_draft_begin(&tune->draft, task->model, err) && open_state(tune, err);
}

static void free_all(const struct mal_tune *tune, float **mem) {
    for (size_t i = 0; mem && i < tune->draft.n; i++)
        mal_backend_free(tune->draft.be, mem[i]);
    mal_free(mem);
}

static void finish(struct mal_tune *tune) {
    free_all(tune, tune->grad);
    free_all(tune, tune->mean);
    free_all(tune, tune->square);
    mal_draft_finish(&tune->draft);
    mal_trunk_destroy(tune->trunk);
    mal_examples_free(tune->texts, tune->n_texts);
    mal_free(tune->order);
}

/* ---- Gradients ---- */

struct minibatch {
    const size_t *order; /* (n) */
    size_t n;
    double loss;
};

static const struct mal_example *text_at(const struct mal_tune *tune,
                                         const struct minibatch *batch, size_t i) {
    return &tune->texts[batch->order[i]];
}

/* How many of the mini-batch's texts from the i-th on make one pass. */
static size_t slice_length(const struct mal_tune *tune, const struct minibatch *batch,
                           size_t i) {
    const struct mal_progress *progress = tune->task->progress;
    int64_t tokens = 0, most = progress ? progress->slice_tokens : 0;
    if (most <= 0) most = SLICE_TOKENS;
    most *= mal_backend_breadth(tune->draft.be);
    size_t n = 0;
    while (i + n < batch->n &&
           (n == 0 || tokens + text_at(tune, batch, i + n)->n <= most))
        tokens += text_at(tune, batch, i + n++)->n;
    return n;
}

static bool pack(const struct mal_tune *tune, const size_t *order, size_t n,
                 struct mal_packed *out, struct mal_error *err) {
    return tune->way->loss == MAL_TUNE_PROMPTS
               ? mal_examples_pack_prompts(tune->texts, order, n, out, err)
               : mal_examples_pack(tune->texts, order, n, out, err);
}

/* Before the first mini-batch the states of all texts, as far as there is memory: left by
 * the mini-batches, their last bits would depend on those that a tuning which goes on
 * begins with. */
static bool fill_trunk(struct mal_tune *tune, struct mal_error *err) {
    const struct minibatch all = {.order = tune->order, .n = tune->n_texts};
    bool ok = true, more = true;
    for (size_t i = 0, n; ok && more && i < all.n; i += n) {
        size_t before = mal_trunk_bytes(tune->trunk);
        struct mal_packed packed = {0};
        n = slice_length(tune, &all, i);
        ok = pack(tune, all.order + i, n, &packed, err);
        if (ok)
            mal_trunk_begin(tune->trunk, tune->texts, all.order + i, n, &packed.batch);
        if (ok && packed.batch.trunk && !packed.batch.trunk_known) {
            ok = mal_model_trunk(tune->task->model, &packed.batch, err);
            if (ok) mal_trunk_end(tune->trunk, tune->texts, all.order + i, &packed.batch);
        }
        more = mal_trunk_bytes(tune->trunk) > before;
        ok = ok && mal_progress_step(tune->task->progress, MAL_STAGE_FORWARD,
                                     mal_tune_done(tune), tune->total, err);
        mal_packed_finish(&packed);
    }
    mal_draft_use(&tune->draft);
    return ok;
}

/* Texts [i, i + n) of the mini-batch: their part of its loss, and of the gradient. */
static bool learn_slice(struct mal_tune *tune, struct minibatch *batch, size_t i,
                        size_t n, struct mal_error *err) {
    double over = (double)batch->n, loss = 0;
    struct mal_packed packed = {0};
    float *counts = mal_malloc(n * sizeof *counts);
    if (!counts) return mal_fail(err, MAL_NO_MEMORY, "texts");
    for (size_t k = 0; k < n; k++)
        counts[k] = 1 / (float)text_at(tune, batch, i + k)->n_target;
    struct mal_learn what = {.as_stored = true,
                             .loss_scale = (float)(1 / over),
                             .counts = counts,
                             .dw = tune->grad,
                             .loss = &loss};
    const size_t *order = batch->order + i;
    bool ok = pack(tune, order, n, &packed, err);
    if (ok) mal_trunk_begin(tune->trunk, tune->texts, order, n, &packed.batch);
    ok = ok && mal_model_learn(tune->task->model, &packed.batch, &what, err);
    if (ok) mal_trunk_end(tune->trunk, tune->texts, order, &packed.batch);
    mal_packed_finish(&packed);
    mal_free(counts);
    batch->loss += loss / over;
    return ok;
}

/* The loss of the mini-batch and its gradient. */
static bool measure(struct mal_tune *tune, struct minibatch *batch,
                    struct mal_error *err) {
    const struct mal_edit_task *task = tune->task;
    double begin = mal_clock_seconds();
    for (size_t i = 0; i < tune->draft.n; i++) {
        mal_backend_zero(tune->draft.be, tune->grad[i],
                         mal_tune_elements(tune, i) * sizeof(float));
    }
    for (size_t i = 0, k; i < batch->n; i += k) {
        k = slice_length(tune, batch, i);
        if (!learn_slice(tune, batch, i, k, err) ||
            !mal_progress_step(task->progress, MAL_STAGE_FORWARD, mal_tune_done(tune),
                               tune->total, err))
            return false;
        mal_draft_use(&tune->draft);
    }
    if (!isfinite(batch->loss)) {
        return mal_fail(err, MAL_NUMERIC,
                        "the loss is %g after %lld steps: a smaller lr may help",
                        batch->loss, (long long)tune->now.steps);
    }
    task->report->seconds[MAL_STAGE_FORWARD] += mal_clock_seconds() - begin;
    if (task->progress && task->progress->observe_loss)
        task->progress->observe_loss(task->progress->arg, batch->loss);
    return true;
}

/* ---- Steps ---- */

static bool step(struct mal_tune *tune, struct mal_error *err) {
    tune->now.steps++;
    for (size_t i = 0; i < tune->draft.n; i++) {
        const struct mal_draft_tensor *t = &tune->draft.tensors[i];
        mal_adam_step(tune->draft.be,
                      &(struct mal_adam){.n = (int64_t)mal_tune_elements(tune, i),
                                         .p = t->shift,
                                         .m = tune->mean[i],
                                         .v = tune->square[i],
                                         .g = tune->grad[i],
                                         .lr = tune->way->lr,
                                         .beta1 = 0.9,
                                         .beta2 = 0.999,
                                         .eps = 1e-8,
                                         .grad_scale = 1,
                                         .t = tune->now.steps,
                                         .decay = tune->way->decay,
                                         .bound = tune->way->bound,
                                         .w = t->before,
                                         .w_dtype = t->lin->w_dtype});
        mal_draft_round(&tune->draft, i);
    }
    return mal_backend_sync(tune->draft.be, err);
}

/* ---- Passes ---- */

static void shuffle(struct mal_tune *tune, uint64_t *random) {
    for (size_t i = tune->n_texts; i > 1; i--) { /* Fisher and Yates */
        size_t j = mal_random_below(random, i), text = tune->order[j];
        tune->order[j] = tune->order[i - 1];
        tune->order[i - 1] = text;
    }
}

/* The mini-batch that the position is before, and its step. */
static bool learn_next(struct mal_tune *tune, struct mal_error *err) {
    struct mal_tune_position *now = &tune->now;
    size_t left = tune->n_texts - now->at;
    struct minibatch batch = {.order = tune->order + now->at,
                              .n = left < tune->way->batch ? left : tune->way->batch};
    mal_tune_save(tune, false);
    if (!measure(tune, &batch, err)) {
        if (err->status == MAL_CANCELLED) mal_tune_save(tune, true);
        return false;
    }
    if (!(batch.loss < CLOSE) && !step(tune, err)) return false;
    now->at += batch.n;
    now->sum += batch.loss * (double)batch.n;
    return true;
}

static bool tune_texts(struct mal_tune *tune, struct mal_error *err) {
    struct mal_tune_position *now = &tune->now;
    uint64_t random = tune->way->seed;
    int64_t pass = 0;
    for (double loss = 1; now->pass < tune->way->n_passes && !(loss < CLOSE);) {
        for (; tune->way->shuffled && pass <= now->pass; pass++)
            shuffle(tune, &random);
        while (now->at < tune->n_texts) {
            if (!learn_next(tune, err)) return false;
        }
        loss = now->sum / (double)tune->n_texts;
        if (now->pass == 0) now->first = loss;
        now->pass++;
        now->at = 0;
        now->sum = 0;
    }
    return true;
}

bool mal_tune_edit(const struct mal_edit_task *task, const struct mal_tune_way *way,
                   struct mal_delta *out, struct mal_error *err) {
    struct mal_tune tune = {.task = task, .way = way};
    bool ok = begin(&tune, err) && mal_tune_resume(&tune, err) &&
              fill_trunk(&tune, err) && tune_texts(&tune, err) &&
              mal_draft_delta(&tune.draft, out, err);
    task->report->loss = tune.now.first;
    finish(&tune);
    return ok;
}
