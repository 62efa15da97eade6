/* learning.h - losses as tests compute them, and gradients as mal_model_learn() does. */
#ifndef MAL_TEST_LEARNING_H
#define MAL_TEST_LEARNING_H

#include "each_model.h"

/* ---- Losses ---- */

static inline double answer_loss(const struct made_batch *b) {
    float logprob[MAX_IDS];
    double sum = 0;
    struct mal_error err = {0};
    struct mal_row_scores out = {.logprob = logprob};
    assert_ok(mal_model_score(model, &b->batch, &out, &err), &err);
    for (int64_t i = 0; i < b->rows; i++)
        sum -= (double)logprob[i];
    return sum;
}

/* Logits of the label rows on the base weights, or on those in use. */
static inline float *row_logits(const struct made_batch *b, bool base) {
    const void *kept[MAX_EDITS];
    float *logits =
        mal_malloc((size_t)(b->rows * model->info.n_outputs) * sizeof *logits);
    struct mal_row_scores out = {.logits = logits};
    struct mal_error err = {0};
    assert_non_null(logits);
    for (size_t m = 0; m < model->n_edits; m++) {
        kept[m] = model->edits[m]->w;
        if (base) model->edits[m]->w = model->edits[m]->w0;
    }
    assert_ok(mal_model_score(model, &b->batch, &out, &err), &err);
    for (size_t m = 0; m < model->n_edits; m++)
        model->edits[m]->w = kept[m];
    return logits;
}

static inline double log_sum_exp(const float *x, int64_t v) {
    double sum = 0;
    for (int64_t j = 0; j < v; j++)
        sum += exp((double)x[j]);
    return log(sum);
}

static inline double row_divergence(const float *base, const float *now, int64_t v) {
    double from = log_sum_exp(base, v), to = log_sum_exp(now, v), sum = 0;
    for (int64_t j = 0; j < v; j++) {
        double log_p = (double)base[j] - from;
        sum += exp(log_p) * (log_p - ((double)now[j] - to));
    }
    return sum;
}

/* KL(base || in use) over the label rows, with or without a label. */
static inline double keep_loss(const struct made_batch *b) {
    float *base = row_logits(b, true), *now = row_logits(b, false);
    int64_t v = model->info.n_outputs;
    double sum = 0;
    for (int64_t i = 0; i < b->rows; i++)
        sum += row_divergence(base + i * v, now + i * v, v);
    mal_free(base);
    mal_free(now);
    return sum;
}

/* ---- Gradients ---- */

/* dw as it is after learning, from what `before` holds (NULL: zeros). */
static inline struct values learn_from(const struct made_batch *b, bool keep, float scale,
                                       const struct values *before, double *loss) {
    float *dw[MAX_EDITS];
    struct values out = values_of(0, 0);
    struct mal_error err = {0};
    for (size_t m = 0; m < out.n; m++)
        dw[m] = on_device(before ? before->at[m] : out.at[m], size_of(m));
    const struct mal_learn wanted = {
        .keep = keep, .loss_scale = scale, .dw = dw, .loss = loss};
    assert_ok(mal_model_learn(model, &b->batch, &wanted, &err), &err);
    for (size_t m = 0; m < out.n; m++) {
        from_device(out.at[m], dw[m], size_of(m));
        free_device(dw[m]);
    }
    return out;
}

static inline struct values learn(const struct made_batch *b, bool keep, double *loss) {
    return learn_from(b, keep, 1, NULL, loss);
}

static inline void check_equal(const char *what, size_t m, const float *got,
                               const float *want, double tolerance) {
    double off = relative_error_f32(got, want, size_of(m));
    if (!(off <= tolerance)) {
        fail_msg("%s, %s: off by %.3g of its norm, allowed %.3g", what,
                 model->edits[m]->name, off, tolerance);
    }
}

#endif
