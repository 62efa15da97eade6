/* test_learn.c - gradients of a training loss at the weights of the edit modules: by
 * differences of the loss, by keys and value gradients of all tokens, and what must hold
 * of them however a batch is packed and cut. */
#include "edited_gpt2.h"

#include <omp.h>

static int threads; /* as many as there were */

/* By one thread: of thousands of passes over a few rows most of the time would go into
 * waking the others. */
static int open_model(void **state) {
    if (scratch_make(state)) return -1;
    threads = omp_get_max_threads();
    omp_set_num_threads(1);
    const struct random_gpt2 sizes = {
        .layers = 3, .channels = 8, .heads = 2, .inner = 12, .vocab = 23, .context = 16};
    model = random_gpt2_open(&sizes, "model");
    return 0;
}

static int close_model(void **state) {
    mal_model_close(model);
    return scratch_remove(state);
}

/* ---- Losses ---- */

static double answer_loss(const struct made_batch *b) {
    float logprob[MAX_IDS];
    double sum = 0;
    struct mal_error err = {0};
    struct mal_row_scores out = {.logprob = logprob};
    assert_ok(mal_model_score(model, &b->batch, &out, &err), &err);
    for (int64_t i = 0; i < b->rows; i++)
        sum -= (double)logprob[i];
    return sum;
}

/* Logits of every position on the base weights, or on those in use. */
static float *all_logits(const struct made_batch *b, bool base) {
    const void *kept[MAX_EDITS];
    struct mal_error err = {0};
    int64_t v = model->info.n_vocab, n = b->start[b->batch.n_seqs];
    float *logits = mal_malloc((size_t)(n * v) * sizeof *logits);
    for (size_t m = 0; m < model->n_edits; m++) {
        kept[m] = model->edits[m]->w;
        if (base) model->edits[m]->w = model->edits[m]->w0;
    }
    for (size_t s = 0; s < b->batch.n_seqs; s++) {
        size_t length = (size_t)(b->start[s + 1] - b->start[s]);
        assert_ok(mal_model_logits(model, NULL, 0, b->ids + b->start[s], length,
                                   logits + b->start[s] * v, &err),
                  &err);
    }
    for (size_t m = 0; m < model->n_edits; m++)
        model->edits[m]->w = kept[m];
    return logits;
}

static double log_sum_exp(const float *x, int64_t v) {
    double sum = 0;
    for (int64_t j = 0; j < v; j++)
        sum += exp((double)x[j]);
    return log(sum);
}

static double row_divergence(const float *base, const float *now, int64_t v) {
    double from = log_sum_exp(base, v), to = log_sum_exp(now, v), sum = 0;
    for (int64_t j = 0; j < v; j++) {
        double log_p = (double)base[j] - from;
        sum += exp(log_p) * (log_p - ((double)now[j] - to));
    }
    return sum;
}

/* KL(base || in use) over the label rows, with or without a label. */
static double keep_loss(const struct made_batch *b) {
    float *base = all_logits(b, true), *now = all_logits(b, false);
    int64_t v = model->info.n_vocab;
    double sum = 0;
    for (size_t s = 0; s < b->batch.n_seqs; s++) {
        for (int64_t i = b->start[s] + b->from[s]; i < b->start[s + 1]; i++)
            sum += row_divergence(base + i * v, now + i * v, v);
    }
    mal_free(base);
    mal_free(now);
    return sum;
}

/* ---- What is tested ---- */

/* dw as it is after learning, from what `before` holds (NULL: zeros). */
static struct values learn_from(const struct made_batch *b, bool keep, float scale,
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

static struct values learn(const struct made_batch *b, bool keep, double *loss) {
    return learn_from(b, keep, 1, NULL, loss);
}

static void check_equal(const char *what, size_t m, const float *got, const float *want,
                        double tolerance) {
    double off = relative_error_f32(got, want, size_of(m));
    if (!(off <= tolerance)) {
        fail_msg("%s, %s: off by %.3g of its norm, allowed %.3g", what,
                 model->edits[m]->name, off, tolerance);
    }
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
    struct made_batch *b = make_batch(seqs, true);
    struct values w = edit("", 0, 0.2f);
    struct values dw = learn(b, keep, NULL);
    const double step = 0x1p-7;
    for (size_t m = 0; m < w.n; m++) {
        for (int64_t i = 0; i < size_of(m); i++) {
            double at[4], got = (double)dw.at[m][i];
            for (int o = 0; o < 4; o++) {
                move_one(&w, m, i, offsets[o] * step);
                at[o] = keep ? keep_loss(b) : answer_loss(b);
            }
            move_one(&w, m, i, 0);
            double want = stencil(at, step);
            if (!(fabs(got - want) <= tolerance)) {
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
    (void)state;
    check_elements(&mixed, false, 1.5e-3);
}

static void test_every_element_of_keep(void **state) {
    (void)state;
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
    if (!(fabs(got - want) <= 1e-3 + 1e-4 * norm)) {
        fail_msg("%s: slope %g, by differences %g, norm %g", what, got, want, norm);
    }
}

static void check_directions(const struct sequences *seqs, const char *part,
                             int64_t first, bool keep) {
    struct made_batch *b = make_batch(seqs, true);
    struct values w = edit(part, first, 0.2f);
    double loss, want = keep ? keep_loss(b) : answer_loss(b);
    struct values dw = learn(b, keep, &loss), direction = learn(b, keep, NULL);
    if (!(fabs(loss - want) <= 2e-6 * (double)b->rows + 1e-6 * want))
        fail_msg("loss %.9g, must be %.9g", loss, want);
    check_direction("along the gradient", b, keep, &w, &dw, &direction);
    values_free(&direction);
    direction = values_of(99, 1);
    check_direction("along some direction", b, keep, &w, &dw, &direction);
    values_free(&direction);
    values_free(&dw);
    no_edits(&w);
    mal_free(b);
}

static const char *const kinds[] = {"", "attn.c_attn", "attn.c_proj", "mlp.c_fc",
                                    "mlp.c_proj"};

enum { N_KINDS = sizeof kinds / sizeof *kinds };

static void test_directions(void **state) {
    (void)state;
    const struct sequences *const seqs[] = {&mixed, &whole, &last};
    for (size_t i = 0; i < 3; i++) {
        for (int64_t first = 0; first < model->info.n_layers; first++) {
            for (size_t k = 0; k < N_KINDS; k++) {
                check_directions(seqs[i], kinds[k], first, false);
                check_directions(seqs[i], kinds[k], first, true);
            }
        }
    }
}

/* ---- By other ways to the same ---- */

/* dW = U' G over all tokens, as the editor's own measurement has them. */
static void check_against_measure(const char *part, int64_t first) {
    struct made_batch *b = make_batch(&mixed, true);
    struct values w = edit(part, first, 0.2f);
    double loss, measured_loss;
    int64_t n = b->start[b->batch.n_seqs];
    struct values dw = learn_from(b, false, 0.5f, NULL, &loss), want = values_of(0, 0);
    struct mal_error err = {0};
    float *u[MAX_EDITS], *g[MAX_EDITS];
    for (size_t m = 0; m < w.n; m++) {
        u[m] = on_device(NULL, n * model->edits[m]->d_in);
        g[m] = on_device(NULL, n * model->edits[m]->d_out);
    }
    struct mal_measure measure = {
        .loss_scale = 0.5f, .all_tokens = true, .u = u, .g = g, .loss = &measured_loss};
    assert_ok(mal_model_measure(model, &b->batch, &measure, &err), &err);
    assert_true(fabs(loss - measured_loss) <= 1e-6 * loss);
    for (size_t m = 0; m < w.n; m++) {
        int64_t d_in = model->edits[m]->d_in, d_out = model->edits[m]->d_out;
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
    (void)state;
    for (int64_t first = 0; first < model->info.n_layers; first++) {
        for (size_t k = 0; k < N_KINDS; k++)
            check_against_measure(kinds[k], first);
    }
}

/* A module's gradient does not depend on which others are declared, though much less may
 * be computed for it. */
static void test_alone(void **state) {
    (void)state;
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

static void test_packing(void **state) {
    (void)state;
    struct made_batch *b = make_batch(&mixed, true);
    struct values w = edit("", 0, 0.2f);
    for (int keep = 0; keep < 2; keep++) {
        double loss, sum = 0;
        struct values together = learn(b, keep, &loss), added = values_of(0, 0);
        for (size_t s = 0; s < b->batch.n_seqs; s++) {
            double alone;
            struct made_batch *part = only(b, s);
            struct values dw = learn_from(part, keep, 1, &added, &alone);
            sum += alone;
            values_free(&added);
            added = dw;
            mal_free(part);
        }
        assert_true(fabs(loss - sum) <= 1e-6 * loss);
        for (size_t m = 0; m < w.n; m++)
            check_equal("one by one", m, added.at[m], together.at[m], 3e-6);
        values_free(&together);
        values_free(&added);
    }
    no_edits(&w);
    mal_free(b);
}

/* dw is added to, loss_scale scales what is added and not the loss; weights in use and
 * base weights are as before, bit for bit and where they were. */
static void test_what_is_left(void **state) {
    (void)state;
    struct made_batch *b = make_batch(&mixed, true);
    struct values w = edit("", 1, 0.2f), before = values_of(31, 1);
    const void *in_use[MAX_EDITS], *base[MAX_EDITS];
    struct values base_before = values_of(0, 0), after = values_of(0, 0);
    for (size_t m = 0; m < w.n; m++) {
        in_use[m] = model->edits[m]->w;
        base[m] = model->edits[m]->w0;
        from_device(base_before.at[m], base[m], size_of(m));
    }
    for (int keep = 0; keep < 2; keep++) {
        double loss, scaled_loss;
        struct values plain = learn(b, keep, &loss);
        struct values added = learn_from(b, keep, -2.5f, &before, &scaled_loss);
        assert_true(loss == scaled_loss && loss > 0);
        for (size_t m = 0; m < w.n; m++) {
            for (int64_t i = 0; i < size_of(m); i++)
                plain.at[m][i] = before.at[m][i] - 2.5f * plain.at[m][i];
            check_equal("scaled and added", m, added.at[m], plain.at[m], 1e-6);
            assert_ptr_equal(model->edits[m]->w, in_use[m]);
            assert_ptr_equal(model->edits[m]->w0, base[m]);
            size_t bytes = (size_t)size_of(m) * sizeof(float);
            from_device(after.at[m], in_use[m], size_of(m));
            assert_memory_equal(after.at[m], w.at[m], bytes);
            from_device(after.at[m], base[m], size_of(m));
            assert_memory_equal(after.at[m], base_before.at[m], bytes);
        }
        values_free(&plain);
        values_free(&added);
    }
    values_free(&before);
    values_free(&base_before);
    values_free(&after);
    no_edits(&w);
    mal_free(b);
}

/* Weights that are the base's diverge by nothing at all. */
static void test_keep_of_the_base(void **state) {
    (void)state;
    struct made_batch *b = make_batch(&mixed, true);
    for (int copied = 0; copied < 2; copied++) {
        struct values w = edit("", 0, 0);
        const void *in_use[MAX_EDITS];
        for (size_t m = 0; m < w.n; m++) {
            in_use[m] = model->edits[m]->w;
            if (!copied) model->edits[m]->w = model->edits[m]->w0;
        }
        double loss = -1;
        struct values dw = learn(b, true, &loss);
        assert_true(loss == 0);
        assert_true(values_dot(&dw, &dw) == 0);
        for (size_t m = 0; m < w.n; m++)
            model->edits[m]->w = in_use[m];
        values_free(&dw);
        no_edits(&w);
    }
    mal_free(b);
}

static void test_head_slices(void **state) {
    (void)state;
    struct made_batch *b = make_batch(&mixed, true);
    struct values w = edit("", 0, 0.2f);
    int64_t before = model->head_bytes,
            row = model->info.n_vocab * (int64_t)sizeof(float);
    const int64_t slices[] = {1, 2, 5, b->rows - 1};
    for (int keep = 0; keep < 2; keep++) {
        double loss, sliced_loss;
        struct values all = learn(b, keep, &loss);
        for (size_t i = 0; i < sizeof slices / sizeof *slices; i++) {
            model->head_bytes = slices[i] * row;
            struct values dw = learn(b, keep, &sliced_loss);
            model->head_bytes = before;
            assert_true(fabs(loss - sliced_loss) <= 1e-6 * loss);
            for (size_t m = 0; m < w.n; m++)
                check_equal("in slices", m, dw.at[m], all.at[m], 3e-6);
            values_free(&dw);
        }
        values_free(&all);
    }
    no_edits(&w);
    mal_free(b);
}

/* What is said beforehand is enough, and with `keep` not a byte too much. */
static void test_bytes(void **state) {
    (void)state;
    const struct sequences *const seqs[] = {&mixed, &whole, &last};
    for (size_t i = 0; i < 3; i++) {
        struct made_batch *b = make_batch(seqs[i], true);
        for (int64_t first = 0; first < model->info.n_layers; first++) {
            struct values w = edit("", first, 0.2f);
            size_t said =
                mal_model_learn_bytes(model, (int64_t)b->batch.n_seqs,
                                      b->start[b->batch.n_seqs], b->longest, b->rows);
            size_t taken[2], idle;
            for (int keep = 0; keep < 2; keep++) {
                mal_model_drop_scratch(model);
                idle = mal_backend_bytes(model->be);
                struct values dw = learn(b, keep, NULL);
                taken[keep] = mal_backend_bytes(model->be) - idle;
                values_free(&dw);
            }
            assert_true(taken[0] <= said);
            assert_int_equal(taken[1], said);
            no_edits(&w);
        }
        mal_free(b);
    }
}

/* Whatever allocation fails, the error says so and the weights in use stay. */
static void test_no_memory(void **state) {
    (void)state;
    struct made_batch *b = make_batch(&mixed, true);
    struct values w = edit("", 0, 0.2f);
    float *dw[MAX_EDITS];
    const void *in_use[MAX_EDITS];
    for (size_t m = 0; m < w.n; m++) {
        dw[m] = on_device(w.at[m], size_of(m));
        in_use[m] = model->edits[m]->w;
    }
    const struct mal_learn wanted = {.keep = true, .loss_scale = 1, .dw = dw};
    bool ok = false;
    long n = 0;
    while (!ok && n < 100) {
        struct mal_error err = {0};
        mal_model_drop_scratch(model);
        mal_alloc_fail_at(++n);
        ok = mal_model_learn(model, &b->batch, &wanted, &err);
        mal_alloc_fail_at(0);
        assert_int_equal(err.status, ok ? MAL_OK : MAL_NO_MEMORY);
        for (size_t m = 0; m < w.n; m++)
            assert_ptr_equal(model->edits[m]->w, in_use[m]);
    }
    assert_true(ok && n > 3);
    for (size_t m = 0; m < w.n; m++)
        free_device(dw[m]);
    no_edits(&w);
    mal_free(b);
}

/* A block that is the first and the last, of larger and odd sizes; some of it by all
 * threads. */
static void test_one_block(void **state) {
    struct mal_model *before = model;
    const struct random_gpt2 sizes = {.layers = 1,
                                      .channels = 66,
                                      .heads = 3,
                                      .inner = 101,
                                      .vocab = 501,
                                      .context = 16};
    model = random_gpt2_open(&sizes, "one-block");
    test_directions(state);
    omp_set_num_threads(threads);
    test_against_measure(state);
    test_packing(state);
    omp_set_num_threads(1);
    test_keep_of_the_base(state);
    test_head_slices(state);
    test_bytes(state);
    mal_model_close(model);
    model = before;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_element),
        cmocka_unit_test(test_every_element_of_keep),
        cmocka_unit_test(test_directions),
        cmocka_unit_test(test_against_measure),
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_packing),
        cmocka_unit_test(test_what_is_left),
        cmocka_unit_test(test_keep_of_the_base),
        cmocka_unit_test(test_head_slices),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_one_block),
    };
    return cmocka_run_group_tests_name("learn", tests, open_model, close_model);
}
