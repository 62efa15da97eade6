/* memit_values.c - v* of many facts at once: a difference from the state at each fact's
 * subject, found by descent with all its texts above the last edited block. Facts go in
 * groups whose memory is bounded; one that has come to its end leaves its group. */
#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/memit_impl.h"
#include "core/model/cut.h"

/* Of what is kept of a group and its pass, where free memory is not known. */
static const size_t most_bytes = (size_t)1 << 30;

static const double low_enough = 0.05; /* a loss that ends a fact's descent */

/* The descent of one fact. */
struct descent {
    double *delta, *m, *v; /* (C) each, of one allocation, owned */
    double z0_norm;
    struct mal_memit_terms terms;
    double *grad; /* (C) */
    bool done;
};

struct group {
    const struct mal_memit_values *values;
    size_t first, n; /* facts */
    struct mal_cut_text *texts;
    size_t n_texts;
    size_t *start; /* (n + 1) each fact's first text; its last is the one to stay */
    struct mal_cut *cut;
    struct descent *descents; /* (n) */
    int64_t done;             /* steps of all facts, those left out included */

    size_t *which;         /* (n_texts) texts of facts not at their end */
    float *states, *grads; /* (n_texts, C) theirs */
    double *losses;        /* (n_texts) */
};

static int64_t channels(const struct group *g) {
    return mal_model_info(g->values->model)->n_channels;
}

static int64_t n_steps(const struct mal_memit_values *values) {
    return (int64_t)values->hyper[MAL_MEMIT_V_STEPS];
}

/* ---- Texts of a group ---- */

static void fill_texts(const struct mal_memit_values *values,
                       const struct mal_memit_fact *fact, struct mal_cut_text *out) {
    for (size_t i = 0; i < fact->n; i++) {
        const struct mal_example *e = &fact->texts[i];
        *out++ =
            (struct mal_cut_text){.ids = e->ids,
                                  .n = e->n,
                                  .at = fact->at[i],
                                  .from = e->from,
                                  .labels = e->target,
                                  .scale = 1 / ((float)fact->n * (float)e->n_target)};
    }
    int32_t n = (int32_t)fact->about.n;
    *out = (struct mal_cut_text){.ids = fact->about.ids,
                                 .n = n,
                                 .at = n - 1,
                                 .from = n - 1,
                                 .scale = (float)values->hyper[MAL_MEMIT_KL_FACTOR]};
}

static int64_t most_rows(const struct mal_memit_values *values) {
    return mal_memit_most_rows(values->progress, mal_model_backend(values->model));
}

/* As many facts from g->first on as fill a pass and find room, one at least. */
static bool take_facts(struct group *g, struct mal_error *err) {
    const struct mal_memit_values *values = g->values;
    size_t left = values->n - g->first, most = values->most_facts, n_texts = 0;
    int64_t rows = 0;
    mal_model_drop_scratch(values->model); /* of the group before */
    size_t room = mal_backend_available(mal_model_backend(values->model)) / 2;
    if (room == 0) room = most_bytes;
    if (most > 0 && most < left) left = most;
    for (size_t i = 0; i < left; i++)
        n_texts += values->facts[g->first + i].n + 1;
    g->texts = mal_calloc(n_texts, sizeof *g->texts);
    g->start = mal_calloc(left + 1, sizeof *g->start);
    if (!g->texts || !g->start) return mal_fail(err, MAL_NO_MEMORY, "facts");
    for (g->n = 0; g->n < left && rows < most_rows(values); g->n++) {
        const struct mal_memit_fact *fact = &values->facts[g->first + g->n];
        size_t end = g->n_texts + fact->n + 1;
        fill_texts(values, fact, g->texts + g->n_texts);
        for (size_t i = g->n_texts; i < end; i++)
            rows += g->texts[i].n - g->texts[i].at;
        struct mal_cut_bytes need =
            mal_cut_bytes(values->model, values->block, g->texts, end);
        if (g->n > 0 && need.kept + need.pass > room) break;
        g->start[g->n + 1] = g->n_texts = end;
    }
    return true;
}

/* ---- Its memory ---- */

static void group_finish(struct group *g) {
    for (size_t i = 0; g->descents && i < g->n; i++)
        mal_free(g->descents[i].delta);
    mal_free(g->descents);
    mal_cut_destroy(g->cut);
    mal_free(g->texts);
    mal_free(g->start);
    mal_free(g->which);
    mal_free(g->states);
    mal_free(g->grads);
    mal_free(g->losses);
}

static bool open_group(struct group *g, struct mal_error *err) {
    const struct mal_memit_values *values = g->values;
    if (!take_facts(g, err)) return false;
    size_t c = (size_t)channels(g);
    g->descents = mal_calloc(g->n, sizeof *g->descents);
    g->which = mal_calloc(g->n_texts, sizeof *g->which);
    g->states = mal_calloc(g->n_texts * c, sizeof *g->states);
    g->grads = mal_calloc(g->n_texts * c, sizeof *g->grads);
    g->losses = mal_calloc(g->n_texts, sizeof *g->losses);
    bool ok = g->descents && g->which && g->states && g->grads && g->losses;
    for (size_t i = 0; ok && i < g->n; i++) {
        struct descent *d = &g->descents[i];
        d->delta = mal_calloc(4 * c, sizeof *d->delta);
        ok = d->delta;
        if (!ok) break;
        d->m = d->delta + c;
        d->v = d->m + c;
        d->grad = d->v + c;
    }
    if (!ok) return mal_fail(err, MAL_NO_MEMORY, "values of %zu facts", g->n);
    return mal_cut_create(&g->cut, values->model, values->block, g->texts, g->n_texts,
                          err);
}

static bool step_progress(const struct group *g, enum mal_stage stage,
                          struct mal_error *err) {
    const struct mal_memit_values *values = g->values;
    return mal_progress_step(values->progress, stage, g->done,
                             (int64_t)values->n * n_steps(values), err);
}

/* ---- Below the block, once ---- */

static double norm_of(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

static const float *z0_of(const struct group *g, size_t i) {
    return mal_cut_states(g->cut) + (int64_t)g->start[i] * channels(g);
}

static bool run_below(struct group *g, struct mal_error *err) {
    double begin = mal_clock_seconds();
    int64_t most = most_rows(g->values), c = channels(g);
    for (size_t first = 0; first < g->n_texts;) {
        size_t n = 0;
        int64_t rows = 0;
        while (first + n < g->n_texts && (n == 0 || rows + g->texts[first + n].n <= most))
            rows += g->texts[first + n++].n;
        if (!mal_cut_begin(g->cut, first, n, err)) return false;
        g->values->report->n_input_tokens += rows;
        first += n;
        if (!step_progress(g, MAL_STAGE_FORWARD, err)) return false;
    }
    for (size_t i = 0; i < g->n; i++) {
        double sum = 0;
        for (int64_t k = 0; k < c; k++)
            sum += (double)z0_of(g, i)[k] * (double)z0_of(g, i)[k];
        g->descents[i].z0_norm = sqrt(sum);
    }
    g->values->report->seconds[MAL_STAGE_FORWARD] += mal_clock_seconds() - begin;
    return true;
}

/* ---- Above it, step by step ---- */

/* Texts of the facts that go on, and their states with delta. */
static size_t set_states(struct group *g) {
    size_t n = 0;
    int64_t c = channels(g);
    for (size_t i = 0; i < g->n; i++) {
        const struct descent *d = &g->descents[i];
        for (size_t t = g->start[i]; t < g->start[i + 1] && !d->done; t++, n++) {
            const float *own = mal_cut_states(g->cut) + (int64_t)t * c;
            float *state = g->states + (int64_t)n * c;
            g->which[n] = t;
            for (int64_t k = 0; k < c; k++)
                state[k] = own[k] + (float)d->delta[k];
        }
    }
    return n;
}

static bool run_above(struct group *g, size_t n_texts, struct mal_error *err) {
    int64_t most = most_rows(g->values), c = channels(g);
    for (size_t first = 0; first < n_texts;) {
        size_t n = 0;
        int64_t rows = 0;
        for (; first + n < n_texts; n++) {
            const struct mal_cut_text *text = &g->texts[g->which[first + n]];
            if (n > 0 && rows + text->n - text->at > most) break;
            rows += text->n - text->at;
        }
        if (!mal_cut_measure(g->cut, g->which + first, n, g->states + (int64_t)first * c,
                             g->losses + first, g->grads + (int64_t)first * c, err))
            return false;
        first += n;
        if (!step_progress(g, MAL_STAGE_BACKWARD, err)) return false;
    }
    return true;
}

/* The terms of fact i's loss and its gradient at delta, its texts' being those from
 * `first` on. */
static void put_together(const struct group *g, size_t i, size_t first) {
    struct descent *d = &g->descents[i];
    double weight_decay = g->values->hyper[MAL_MEMIT_V_WEIGHT_DECAY];
    size_t n = g->start[i + 1] - g->start[i];
    int64_t c = channels(g);
    double size = norm_of(d->delta, c), per = weight_decay / (d->z0_norm * d->z0_norm);
    struct mal_memit_terms terms = {.weight_decay = per * size};
    for (int64_t k = 0; k < c; k++)
        d->grad[k] = size > 0 ? per * d->delta[k] / size : 0;
    for (size_t t = 0; t < n; t++) {
        double loss = (double)g->texts[g->start[i] + t].scale * g->losses[first + t];
        const float *grad = g->grads + (int64_t)(first + t) * c;
        if (t + 1 < n)
            terms.nll += loss;
        else
            terms.kl = loss;
        for (int64_t k = 0; k < c; k++)
            d->grad[k] += (double)grad[k];
    }
    terms.loss = terms.nll + terms.kl + terms.weight_decay;
    d->terms = terms;
}

/* Adam's step `t`, the first being 1, and the cut. */
static void move(const struct group *g, struct descent *d, int64_t t) {
    const double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
    double lr = g->values->hyper[MAL_MEMIT_V_LR],
           most = g->values->hyper[MAL_MEMIT_CLAMP] * d->z0_norm;
    double one = 1 - pow(beta1, (double)t), two = 1 - pow(beta2, (double)t);
    int64_t c = channels(g);
    for (int64_t k = 0; k < c; k++) {
        d->m[k] = beta1 * d->m[k] + (1 - beta1) * d->grad[k];
        d->v[k] = beta2 * d->v[k] + (1 - beta2) * d->grad[k] * d->grad[k];
        d->delta[k] -= lr / one * d->m[k] / (sqrt(d->v[k] / two) + eps);
    }
    double size = norm_of(d->delta, c);
    for (int64_t k = 0; k < c && size > most; k++)
        d->delta[k] *= most / size;
}

/* Of the prompt alone, which is the first text. */
static void report_loss(const struct group *g, size_t first, size_t i) {
    const struct mal_memit_fact *fact = &g->values->facts[g->first + i];
    g->values->report->loss +=
        g->losses[first] / (double)fact->texts[0].n_target / (double)g->values->n;
}

/* *left: facts that go on. */
static bool take_step(struct group *g, int64_t step, size_t *left,
                      struct mal_error *err) {
    const struct mal_memit_values *values = g->values;
    int64_t last = n_steps(values) - 1;
    size_t first = 0;
    *left = 0;
    for (size_t i = 0; i < g->n; i++) {
        struct descent *d = &g->descents[i];
        if (d->done) continue;
        put_together(g, i, first);
        if (step == 0) report_loss(g, first, i);
        first += g->start[i + 1] - g->start[i];
        if (!isfinite(d->terms.loss)) {
            return mal_fail(err, MAL_NUMERIC, "fact %zu: the loss of its value is %g",
                            g->first + i, d->terms.loss);
        }
        if (values->watch)
            values->watch(values->watch_arg, g->first + i, step, &d->terms);
        d->done = d->terms.loss < low_enough || step == last;
        g->done += d->done ? last + 1 - step : 1;
        if (d->done) continue;
        move(g, d, step + 1);
        ++*left;
    }
    return true;
}

static bool descend(struct group *g, struct mal_error *err) {
    double begin = mal_clock_seconds();
    size_t left = g->n;
    for (int64_t step = 0; left > 0; step++) {
        if (!run_above(g, set_states(g), err) || !take_step(g, step, &left, err))
            return false;
    }
    g->values->report->seconds[MAL_STAGE_BACKWARD] += mal_clock_seconds() - begin;
    return true;
}

static void put_values(const struct group *g, float *z) {
    int64_t c = channels(g);
    for (size_t i = 0; i < g->n; i++) {
        for (int64_t k = 0; k < c; k++)
            z[(int64_t)(g->first + i) * c + k] =
                z0_of(g, i)[k] + (float)g->descents[i].delta[k];
    }
}

bool mal_memit_find_values(const struct mal_memit_values *values, float *z,
                           struct mal_error *err) {
    int64_t done = 0;
    for (size_t first = 0; first < values->n;) {
        struct group g = {.values = values, .first = first, .done = done};
        bool ok = open_group(&g, err) && run_below(&g, err) && descend(&g, err);
        if (ok) put_values(&g, z);
        first += g.n;
        done = g.done;
        group_finish(&g);
        if (!ok) return false;
    }
    return true;
}
