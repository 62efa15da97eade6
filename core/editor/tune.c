/* tune.c - gradients of a mini-batch in slices, and the steps they make. */
#include "core/editor/tune.h"

#include <math.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/draft.h"
#include "core/editor/edit_rows.h"
#include "core/random.h"

enum { SLICE_TOKENS = 1024 }; /* of a pass, times the device's breadth */

static const double CLOSE = 1e-2; /* a loss below gives no step; a pass below ends it */

struct tune {
    const struct mal_edit_task *task; /* borrowed, as the next */
    const struct mal_tune_way *way;
    struct mal_example *texts; /* (n_texts), owned: what the facts teach */
    size_t n_texts;
    size_t *order; /* (n_texts), owned */
    struct mal_draft draft;
    struct mal_trunk *trunk;        /* of the texts, owned */
    float **grad, **mean, **square; /* per tensor of the draft, as it is stored; device */
    int64_t n_steps;                /* of Adam, made */
    int64_t done, total;            /* mini-batches, for ticks */
};

/* ---- Its life ---- */

static size_t n_elements(const struct tune *tune, size_t i) {
    const struct mal_linear *lin = tune->draft.tensors[i].lin;
    return (size_t)(lin->d_in * lin->d_out);
}

static float *zeros(const struct tune *tune, size_t i) {
    size_t bytes = n_elements(tune, i) * sizeof(float);
    float *mem = mal_backend_alloc(tune->draft.be, bytes);
    if (mem) mal_backend_zero(tune->draft.be, mem, bytes);
    return mem;
}

static bool open_state(struct tune *tune, struct mal_error *err) {
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
                        3 * n_elements(tune, i) * sizeof(float));
    }
    return true;
}

/* A text that fills the model's context already goes without. */
static bool end_texts(struct tune *tune, struct mal_error *err) {
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
static bool begin(struct tune *tune, struct mal_error *err) {
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

static void free_all(const struct tune *tune, float **mem) {
    for (size_t i = 0; mem && i < tune->draft.n; i++)
        mal_backend_free(tune->draft.be, mem[i]);
    mal_free(mem);
}

static void finish(struct tune *tune) {
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

static const struct mal_example *text_at(const struct tune *tune,
                                         const struct minibatch *batch, size_t i) {
    return &tune->texts[batch->order[i]];
}

/* How many of the mini-batch's texts from the i-th on make one pass. */
static size_t slice_length(const struct tune *tune, const struct minibatch *batch,
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

/* Texts [i, i + n) of the mini-batch: their part of its loss, and of the gradient. */
static bool learn_slice(struct tune *tune, struct minibatch *batch, size_t i, size_t n,
                        struct mal_error *err) {
    bool prompts = tune->way->loss == MAL_TUNE_PROMPTS;
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
    bool ok = (prompts ? mal_examples_pack_prompts(tune->texts, order, n, &packed, err)
                       : mal_examples_pack(tune->texts, order, n, &packed, err));
    if (ok) mal_trunk_begin(tune->trunk, tune->texts, order, n, &packed.batch);
    ok = ok && mal_model_learn(tune->task->model, &packed.batch, &what, err);
    if (ok) mal_trunk_end(tune->trunk, tune->texts, order, &packed.batch);
    mal_packed_finish(&packed);
    mal_free(counts);
    batch->loss += loss / over;
    return ok;
}

/* The loss of the mini-batch and its gradient. */
static bool measure(struct tune *tune, struct minibatch *batch, struct mal_error *err) {
    const struct mal_edit_task *task = tune->task;
    double begin = mal_clock_seconds();
    for (size_t i = 0; i < tune->draft.n; i++) {
        mal_backend_zero(tune->draft.be, tune->grad[i],
                         n_elements(tune, i) * sizeof(float));
    }
    for (size_t i = 0, k; i < batch->n; i += k) {
        k = slice_length(tune, batch, i);
        if (!learn_slice(tune, batch, i, k, err) ||
            !mal_progress_step(task->progress, MAL_STAGE_FORWARD, tune->done, tune->total,
                               err))
            return false;
        mal_draft_use(&tune->draft);
    }
    if (!isfinite(batch->loss)) {
        return mal_fail(err, MAL_NUMERIC,
                        "the loss is %g after %lld steps: a smaller lr may help",
                        batch->loss, (long long)tune->n_steps);
    }
    tune->done++;
    task->report->seconds[MAL_STAGE_FORWARD] += mal_clock_seconds() - begin;
    if (task->progress && task->progress->observe_loss)
        task->progress->observe_loss(task->progress->arg, batch->loss);
    return true;
}

/* ---- Steps ---- */

static bool step(struct tune *tune, struct mal_error *err) {
    tune->n_steps++;
    for (size_t i = 0; i < tune->draft.n; i++) {
        const struct mal_draft_tensor *t = &tune->draft.tensors[i];
        mal_adam_step(tune->draft.be,
                      &(struct mal_adam){.n = (int64_t)n_elements(tune, i),
                                         .p = t->shift,
                                         .m = tune->mean[i],
                                         .v = tune->square[i],
                                         .g = tune->grad[i],
                                         .lr = tune->way->lr,
                                         .beta1 = 0.9,
                                         .beta2 = 0.999,
                                         .eps = 1e-8,
                                         .grad_scale = 1,
                                         .t = tune->n_steps,
                                         .decay = tune->way->decay,
                                         .bound = tune->way->bound,
                                         .w = t->before,
                                         .w_dtype = t->lin->w_dtype});
        mal_draft_round(&tune->draft, i);
    }
    return mal_backend_sync(tune->draft.be, err);
}

/* ---- Passes ---- */

static void shuffle(struct tune *tune, uint64_t *random) {
    for (size_t i = tune->n_texts; i > 1; i--) { /* Fisher and Yates */
        size_t j = mal_random_below(random, i), text = tune->order[j];
        tune->order[j] = tune->order[i - 1];
        tune->order[i - 1] = text;
    }
}

/* *loss: the texts' mean, each as its mini-batch was met. */
static bool pass(struct tune *tune, double *loss, struct mal_error *err) {
    double sum = 0;
    for (size_t i = 0, n; i < tune->n_texts; i += n) {
        size_t left = tune->n_texts - i;
        n = left < tune->way->batch ? left : tune->way->batch;
        struct minibatch batch = {.order = tune->order + i, .n = n};
        if (!measure(tune, &batch, err)) return false;
        if (!(batch.loss < CLOSE) && !step(tune, err)) return false;
        sum += batch.loss * (double)n;
    }
    *loss = sum / (double)tune->n_texts;
    return true;
}

bool mal_tune_edit(const struct mal_edit_task *task, const struct mal_tune_way *way,
                   struct mal_delta *out, struct mal_error *err) {
    struct tune tune = {.task = task, .way = way};
    uint64_t random = way->seed;
    double loss = 1;
    bool ok = begin(&tune, err);
    for (int64_t i = 0; ok && i < way->n_passes && !(loss < CLOSE); i++) {
        if (way->shuffled) shuffle(&tune, &random);
        ok = pass(&tune, &loss, err);
        if (ok && i == 0) task->report->loss = loss;
    }
    ok = ok && mal_draft_delta(&tune.draft, out, err);
    finish(&tune);
    return ok;
}
