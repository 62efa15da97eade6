/* test_learn.c - gradients of a training loss at the weights of the edit modules: by
 * differences of the loss, by keys and value gradients of all tokens, and whichever
 * others are declared. */
#include "learning.h"

/* A pass over a few rows takes a device much longer than it takes a CPU, and a device
 * that is played takes longer still; what tells them apart is tested operation by
 * operation elsewhere. So there only the n-th part of the cases is tried. */
static int64_t one_of(int64_t n) {
    return mal_backend_on_host(model->be) ? 1 : n;
}

/* ---- By differences ---- */

/* The error is of the fourth order in the step, and what the loss is off by is divided by
 * the step: a sum of twenty log-probabilities of fp32 logits is right to some 4e-6, a sum
 * of divergences, small and quadratic, to less. Steps are where both errors are small;
 * elements of the gradients are of order 1. */
static double stencil(const double at[4], double step) {
    return (8 * (at[2] - at[1]) - (at[3] - at[0])) / (12 * step);
}

static const double offsets[] = {-2, -1, 1, 2};

static void check_elements(const struct sequences *seqs, bool keep, double tolerance) {
    if (model->info.n_channels > 32 || model->act == MAL_RELU) return;
    struct made_batch *b = make_batch(seqs, true);
    struct values w = edit("", 0, 0.2f);
    struct values dw = learn(b, keep, NULL);
    const double step = 0x1p-7;
    const int64_t step_over = (model == each[0].model ? 1 : 17) * one_of(37);
    for (size_t m = 0; m < w.n; m += (size_t)one_of(9)) {
        for (int64_t i = 0; i < size_of(m); i += step_over) {
            double at[4], got = (double)dw.at[m][i];
            for (int o = 0; o < 4; o++) {
                move_one(&w, m, i, offsets[o] * step);
                at[o] = keep ? keep_loss(b) : answer_loss(b);
            }
            move_one(&w, m, i, 0);
            double want = stencil(at, step);
            if (!(fabs(got - want) <= tolerance * (1 + fabs(want)))) {
                fail_msg("%s element %lld: %g, by differences %g", model->edits[m]->name,
                         (long long)i, got, want);
            }
        }
    }
    values_free(&dw);
    no_edits(&w);
    mal_free(b);
}

static void test_every_element(void **state) {
    check_elements(&mixed, false, 1.5e-3);
}

static void test_every_element_of_keep(void **state) {
    check_elements(&mixed, true, 5e-4);
}

/* Along a direction all modules move together; it is of length 1. */
static void check_direction(const char *what, const struct made_batch *b, bool keep,
                            const struct values *w, const struct values *dw,
                            struct values *direction) {
    double at[4], length = sqrt(values_dot(direction, direction));
    double norm = sqrt(values_dot(dw, dw)), step = 0x1p-8;
    for (int o = 0; o < 4; o++) {
        move(w, direction, offsets[o] * step / length);
        at[o] = keep ? keep_loss(b) : answer_loss(b);
    }
    move(w, direction, 0);
    double want = stencil(at, step), got = values_dot(dw, direction) / length;
    double allowed = model->act == MAL_RELU ? 2e-2 : 2e-4; /* its slope jumps */
    if (!(fabs(got - want) <= 1e-3 + allowed * norm)) {
        fail_msg("%s: slope %g, by differences %g, norm %g", what, got, want, norm);
    }
}

/* On the edit modules as they stand, with the weights w. */
static void check_directions(const char *what, const struct made_batch *b,
                             const struct values *w, bool keep) {
    double loss, want = keep ? keep_loss(b) : answer_loss(b);
    struct values dw = learn(b, keep, &loss), direction = learn(b, keep, NULL);
    if (!(fabs(loss - want) <= 2e-6 * (double)b->rows + 1e-6 * want))
        fail_msg("%s: loss %.9g, must be %.9g", what, loss, want);
    check_direction(what, b, keep, w, &dw, &direction);
    values_free(&direction);
    if (one_of(2) == 1) {
        direction = values_of(99, 1);
        check_direction(what, b, keep, w, &dw, &direction);
        values_free(&direction);
    }
    values_free(&dw);
}

static void check_both_losses(const char *what, struct values w) {
    for (size_t i = 0; i < 3; i += (size_t)one_of(3)) {
        struct made_batch *b = make_batch(all_sequences[i], true);
        check_directions(what, b, &w, false);
        check_directions(what, b, &w, true);
        mal_free(b);
    }
    no_edits(&w);
}

/* Every layer alone. */
static void test_layers(void **state) {
    char name[160];
    for (size_t i = 0; i < model->n_linears; i += (size_t)one_of(23)) {
        snprintf(name, sizeof name, "%s", model->linears[i]->name);
        check_both_losses(name, edit(name, 0, 0.2f));
    }
}

/* All of them from each block on, which in an encoder-decoder may be in either, and some
 * of them. */
static void test_sets(void **state) {
    for (int64_t first = 0; first < model->info.n_layers; first += one_of(8))
        check_both_losses("from a block on", edit("", first, 0.2f));
    for (uint64_t seed = 1; seed <= 4; seed += (uint64_t)one_of(4))
        check_both_losses("some", edit_some(seed, 0.2f));
}

/* ---- By other ways to the same ---- */

/* dW = U' G over all tokens, as the editor's own measurement has them. */
static void check_against_measure(struct values w) {
    struct made_batch *b = make_batch(&mixed, true);
    double loss, measured_loss;
    struct values dw = learn_from(b, false, 0.5f, NULL, &loss), want = values_of(0, 0);
    struct mal_error err = {0};
    float *u[MAX_EDITS], *g[MAX_EDITS];
    for (size_t m = 0; m < w.n; m++) {
        int64_t n = model->edits[m]->of_source ? b->sources : b->tokens;
        u[m] = on_device(NULL, n * model->edits[m]->d_in);
        g[m] = on_device(NULL, n * model->edits[m]->d_out);
    }
    struct mal_measure measure = {
        .loss_scale = 0.5f, .all_tokens = true, .u = u, .g = g, .loss = &measured_loss};
    assert_ok(mal_model_measure(model, &b->batch, &measure, &err), &err);
    assert_true(fabs(loss - measured_loss) <= 1e-6 * loss);
    for (size_t m = 0; m < w.n; m++) {
        int64_t d_in = model->edits[m]->d_in, d_out = model->edits[m]->d_out;
        int64_t n = model->edits[m]->of_source ? b->sources : b->tokens;
        float *hu = mal_malloc((size_t)(n * d_in) * sizeof *hu);
        float *hg = mal_malloc((size_t)(n * d_out) * sizeof *hg);
        from_device(hu, u[m], n * d_in);
        from_device(hg, g[m], n * d_out);
        for (int64_t i = 0; i < d_in * d_out; i++) {
            double sum = 0;
            for (int64_t t = 0; t < n; t++)
                sum +=
                    (double)hu[t * d_in + i / d_out] * (double)hg[t * d_out + i % d_out];
            want.at[m][i] = (float)sum;
        }
        check_equal("against keys and value gradients", m, dw.at[m], want.at[m], 3e-6);
        mal_free(hu);
        mal_free(hg);
        free_device(u[m]);
        free_device(g[m]);
    }
    values_free(&dw);
    values_free(&want);
    no_edits(&w);
    mal_free(b);
}

static void test_against_measure(void **state) {
    for (int64_t first = 0; first < model->info.n_layers; first++)
        check_against_measure(edit("", first, 0.2f));
    for (uint64_t seed = 1; seed <= 4; seed++)
        check_against_measure(edit_some(seed, 0.2f));
}

/* A module's gradient does not depend on which others are declared, though much less may
 * be computed for it. */
static void test_alone(void **state) {
    struct made_batch *b = make_batch(&mixed, true);
    struct values w = edit("", 0, 0);
    struct values all = learn(b, false, NULL);
    struct values copy = values_of(0, 0);
    size_t n = w.n;
    for (size_t m = 0; m < n; m++)
        memcpy(copy.at[m], all.at[m], (size_t)size_of(m) * sizeof(float));
    char names[MAX_EDITS][128];
    for (size_t m = 0; m < n; m++)
        snprintf(names[m], sizeof names[m], "%s", model->edits[m]->name);
    no_edits(&w);
    for (size_t m = 0; m < n; m++) {
        struct values one = edit(names[m], 0, 0);
        assert_int_equal(one.n, 1);
        struct values dw = learn(b, false, NULL);
        check_equal("alone", 0, dw.at[0], copy.at[m], 3e-6);
        values_free(&dw);
        no_edits(&one);
    }
    values_free(&all);
    values_free(&copy);
    mal_free(b);
}

int main(void) {
    const struct model_test tests[] = {
        {"every element", test_every_element},
        {"every element, KL", test_every_element_of_keep},
        {"layers", test_layers},
        {"sets", test_sets},
        {"against measure", test_against_measure},
        {"alone", test_alone},
    };
    return run_each("learn", tests, sizeof tests / sizeof *tests);
}
