/* test_train_losses.c - the losses of a step in many passes through the model, put
 * together from parts that fit one pass each: with a step size of 0 the model stays as it
 * is, and a part's losses do not depend on what is edited beside it. */
#include "made_training.h"

#include "core/editor/search.h"

enum { PARTS = 4, PART = 60 };

struct totals {
    double gen, labels, tokens;
};

static void measure(struct training *t, const struct mal_train_data *data, size_t first,
                    size_t n, struct totals *out) {
    struct mal_train_report report;
    struct mal_error err = {0};
    struct mal_train_batch batch = made_batch(data, first, n);
    assert_ok(mal_trainer_measure(t->trainer, &batch, NULL, &report, &err), &err);
    *out = (struct totals){0};
    for (size_t i = 0; i < batch.n_rephrases; i++) {
        out->labels += batch.rephrases[i].n_target;
        out->tokens += batch.rephrases[i].n;
    }
    out->gen = report.gen_loss;
    assert_true(fabs(report.loc_loss) < 1e-6);
    mal_train_batch_finish(&batch);
}

static void test_mean_over_the_step(void **state) {
    struct mal_model *model = random_model_open(&made_sizes, "model");
    struct mal_train_data data = made_data(PARTS * PART, true);
    struct training t =
        made_training(model, &(struct made_training){.method = &mal_method_malmen,
                                                     .loss = MAL_LOSS_TOKEN_SUM});
    struct totals whole, part;
    double sum = 0, labels = 0;
    model->be->breadth = 1; /* what a pass may hold is the same everywhere */
    mal_editor_set_lr(t.editor, 0);
    for (size_t i = 0; i < PARTS; i++) {
        measure(&t, &data, i * PART, PART, &part);
        assert_true(part.tokens < MAL_LEARN_TOKENS);
        sum += part.labels * part.gen;
        labels += part.labels;
    }
    measure(&t, &data, 0, PARTS * PART, &whole);
    assert_true(whole.tokens > 2 * MAL_LEARN_TOKENS);
    assert_true(fabs(whole.gen - sum / labels) < 1e-5);
    training_finish(&t);
    mal_train_data_finish(&data);
    mal_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mean_over_the_step)};
    return cmocka_run_group_tests_name("train_losses", tests, scratch_make,
                                       scratch_remove);
}
