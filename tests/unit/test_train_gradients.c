/* test_train_gradients.c - the gradients of a training step on a small GPT-2 against
 * differences of its losses. */
#include "made_training.h"

static struct mal_model *model;

static int open_model(void **state) {
    if (scratch_make(state)) return -1;
    model = random_model_open(&made_sizes, "model");
    return 0;
}

static int close_model(void **state) {
    mal_model_close(model);
    return scratch_remove(state);
}

static const struct mal_train_rates no_rates = {0, 0};

/* What is differentiated: for a mean over micro-batches their sum. */
static double loss_of(const struct training *t, const struct mal_train_batch *batch) {
    struct mal_train_report r;
    struct mal_error err = {0};
    assert_ok(mal_trainer_measure(t->trainer, batch, NULL, &r, &err), &err);
    double gen = 1, loc = 1;
    if (t->editor->loss == MAL_LOSS_MICROBATCH_MEAN) {
        double micro = (double)t->editor->micro_batch;
        gen = ceil((double)batch->n_rephrases / micro);
        loc = ceil((double)batch->n_probes / micro);
    }
    return gen * r.gen_loss +
           (batch->n_probes ? t->options.loc_coef * loc * r.loc_loss : 0);
}

/* The loss with the editor's x (n) moved by step * direction. */
static double moved(const struct training *t, const struct mal_train_batch *batch,
                    float *x, int64_t n, const float *direction, double step) {
    float *at = mal_malloc((size_t)n * sizeof *at);
    memcpy(at, x, (size_t)n * sizeof *at);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)((double)at[i] + step * (double)direction[i]);
    mal_train_params_push(&t->trainer->params);
    double loss = loss_of(t, batch);
    memcpy(x, at, (size_t)n * sizeof *at);
    mal_train_params_push(&t->trainer->params);
    mal_free(at);
    return loss;
}

static float *array_of(const struct training *t, const char *name) {
    for (size_t i = 0; i < t->trainer->params.n; i++) {
        const struct mal_train_param *p = &t->trainer->params.list[i];
        if (strcmp(p->name, name) == 0) return p->host;
    }
    fail_msg("no parameter '%s'", name);
    return NULL;
}

/* Four points, so that h may be so large that the fp32 of the loss still tells. */
static void check_slope(const struct training *t, const struct mal_train_batch *batch,
                        const struct grads *grads, size_t i, const float *direction,
                        double h, double tolerance) {
    float *x = array_of(t, grads->names[i]);
    int64_t n = grads->sizes[i];
    double got = 0, f[4];
    for (int64_t k = 0; k < n; k++)
        got += (double)grads->at[i][k] * (double)direction[k];
    for (int k = 0; k < 4; k++)
        f[k] = moved(t, batch, x, n, direction, h * (k < 2 ? k - 2 : k - 1));
    double want = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h);
    double noise = 6e-7 / h; /* the loss is of order 1 and rounded to fp32 on its way */
    if (fabs(got - want) <= tolerance * fabs(want) + noise) return;
    fail_msg("%s: slope %.6g, must be %.6g", grads->names[i], got, want);
}

static void check_gradients(const struct made_training *how, bool probes) {
    struct training t = made_training(model, how);
    struct mal_train_data data = made_data(9, probes);
    struct mal_train_batch batch = made_batch(&data, 0, 9);
    struct grads grads = {0};
    struct mal_train_watch watch = {.observe = keep_grads, .arg = &grads};
    /* At a rate of 0 a step does nothing but take the facts into the statistics. */
    struct mal_train_report report = made_step(&t, &data, 0, 9, &no_rates, &watch);
    assert_int_equal(grads.n_shifts, 3);
    assert_int_equal(grads.n, t.trainer->params.n);
    assert_true(fabs(report.grad_norm / grads_norm(&grads) - 1) < 1e-6);
    for (size_t i = 0; i < grads.n; i++) {
        int64_t n = grads.sizes[i];
        const char *kind = strstr(grads.names[i], ").") + 2;
        bool lr = strcmp(kind, "lr.weight") == 0;
        float *direction = mal_calloc((size_t)n, sizeof *direction);
        uint64_t seed = 5 + i;
        for (int64_t k = 0; n <= 2 && k < n; k++) {
            memset(direction, 0, (size_t)n * sizeof *direction);
            direction[k] = 1;
            double h = lr ? 0.1 * (double)array_of(&t, grads.names[i])[k] : 0.1;
            check_slope(&t, &batch, &grads, i, direction, h, 2e-3);
        }
        for (int64_t k = 0; k < n; k++)
            direction[k] = next_float(&seed) < 0 ? -1 : 1;
        if (n > 2) check_slope(&t, &batch, &grads, i, direction, 0.02, 2e-3);
        mal_free(direction);
    }
    grads_free(&grads);
    mal_train_batch_finish(&batch);
    mal_train_data_finish(&data);
    training_finish(&t);
}

static void test_gradients(void **state) {
    check_gradients(&(struct made_training){.method = &mal_method_malmen}, true);
}

static void test_gradients_preserve(void **state) {
    check_gradients(
        &(struct made_training){.method = &mal_method_malmen, .preserve = true}, true);
}

static void test_gradients_mend(void **state) {
    check_gradients(&(struct made_training){.method = &mal_method_mend}, true);
}

static void test_gradients_of_means(void **state) {
    check_gradients(&(struct made_training){.method = &mal_method_malmen,
                                            .loss = MAL_LOSS_MICROBATCH_MEAN},
                    true);
}

static void test_gradients_without_probes(void **state) {
    check_gradients(&(struct made_training){.method = &mal_method_malmen}, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_gradients_preserve),
        cmocka_unit_test(test_gradients_mend),
        cmocka_unit_test(test_gradients_of_means),
        cmocka_unit_test(test_gradients_without_probes),
    };
    return cmocka_run_group_tests_name("train_gradients", tests, open_model, close_model);
}
