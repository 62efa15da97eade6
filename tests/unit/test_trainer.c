/* test_trainer.c - a training step from end to end on a small GPT-2: what it changes, and
 * what one that fails leaves behind. Its gradients: test_train_gradients.c. */
#include "made_training.h"

#include "core/editor/resident.h"

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

/* ---- What a step changes ---- */

static const struct made_training malmen = {.method = &mal_method_malmen};

/* MEND's shift knows no ridge. */
static void test_mend_leaves_lamda(void **state) {
    struct training t =
        made_training(model, &(struct made_training){.method = &mal_method_mend});
    struct mal_train_data data = made_data(8, true);
    struct grads grads = {0};
    struct mal_train_watch watch = {.observe = keep_grads, .arg = &grads};
    float before[2][2], *lr = t.editor->shapes[0].lr, first = lr[0];
    assert_int_equal(t.editor->n_shapes, 2);
    for (size_t s = 0; s < 2; s++) {
        memcpy(before[s], t.editor->shapes[s].lamda,
               (size_t)t.editor->shapes[s].n_modules * sizeof(float));
    }
    made_step(&t, &data, 0, 4, &made_rates, &watch);
    made_step(&t, &data, 4, 4, &made_rates, NULL);
    for (size_t i = 0; i < grads.n; i++) {
        for (int64_t k = 0; strstr(grads.names[i], "lamda") && k < grads.sizes[i]; k++)
            assert_true(grads.at[i][k] == 0);
    }
    for (size_t s = 0; s < 2; s++) {
        assert_memory_equal(before[s], t.editor->shapes[s].lamda,
                            (size_t)t.editor->shapes[s].n_modules * sizeof(float));
    }
    assert_true(lr[0] != first);
    grads_free(&grads);
    mal_train_data_finish(&data);
    training_finish(&t);
}

/* Owned by the caller. */
static float *values_of_param(const struct mal_train_param *p) {
    float *values = mal_malloc((size_t)p->n * sizeof *values);
    from_device(values, p->p, p->n);
    return values;
}

/* Adam in double, from the gradients as they are seen, cut to the norm; the editor's
 * steps at a rate of their own. */
static void check_adam(double max_norm, const struct mal_train_rates *rates) {
    enum { STEPS = 3, PARAMS = 1000 };
    struct training t = made_training(model, &malmen);
    struct mal_train_data data = made_data(6, true);
    double m[PARAMS] = {0}, v[PARAMS] = {0};
    t.trainer->o.max_norm = max_norm;
    for (int step = 1; step <= STEPS; step++) {
        struct grads grads = {0};
        struct mal_train_watch watch = {.observe = keep_grads, .arg = &grads};
        float *before[MAX_GRADS];
        for (size_t i = 0; i < t.trainer->params.n; i++)
            before[i] = values_of_param(&t.trainer->params.list[i]);
        struct mal_train_report r = made_step(&t, &data, 0, 6, rates, &watch);
        double cut = fmin(1, max_norm / r.grad_norm);
        size_t at = 0;
        for (size_t i = 0; i < grads.n; i++) {
            const struct mal_train_param *p = &t.trainer->params.list[i];
            bool lr = strstr(p->name, ").lr.weight");
            float *after = values_of_param(p);
            assert_string_equal(p->name, grads.names[i]);
            for (int64_t k = 0; k < p->n && at < PARAMS; k++, at++) {
                double g = cut * (double)grads.at[i][k];
                m[at] = 0.9 * m[at] + 0.1 * g;
                v[at] = 0.999 * v[at] + 0.001 * g * g;
                double moves = (lr ? rates->lr : rates->meta) * m[at] /
                               (1 - pow(0.9, step)) /
                               (sqrt(v[at] / (1 - pow(0.999, step))) + 1e-8);
                double want = (double)before[i][k] - moves;
                double off = fabs((double)after[k] - want);
                if (off <= 1e-3 * fabs(moves) + 2e-7 * fabs(want)) continue;
                fail_msg("step %d: %s is %.9g, must be %.9g", step, p->name,
                         (double)after[k], want);
            }
            mal_free(after);
        }
        for (size_t i = 0; i < grads.n; i++)
            mal_free(before[i]);
        grads_free(&grads);
    }
    mal_train_data_finish(&data);
    training_finish(&t);
}

static void test_adam(void **state) {
    check_adam(1e6, &made_rates);
    check_adam(0.05, &made_rates);
    check_adam(1, &(struct mal_train_rates){.meta = 0, .lr = 1e-3});
}

static void test_measure_changes_nothing(void **state) {
    struct training t = made_training(model, &malmen);
    struct mal_train_data data = made_data(6, true);
    struct mal_train_batch batch = made_batch(&data, 0, 6);
    struct mal_train_report step = made_step(&t, &data, 0, 6, &no_rates, NULL), measure;
    struct mal_error err = {0};
    struct bytes before = state_of(&t);
    assert_ok(mal_trainer_measure(t.trainer, &batch, NULL, &measure, &err), &err);
    expect_state(&t, &before);
    assert_true(measure.gen_loss == step.gen_loss && measure.loc_loss == step.loc_loss);
    assert_true(measure.edit_loss == step.edit_loss);
    assert_int_equal(measure.rows, step.rows);
    assert_int_equal(mal_trainer_steps(t.trainer), 1);
    mal_free(before.data);
    mal_train_batch_finish(&batch);
    mal_train_data_finish(&data);
    training_finish(&t);
}

/* Facts enough that the slices of the passes matter; nobody watching is no other way to
 * the same. */
static void test_watch_changes_nothing(void **state) {
    enum { N = 150 };
    struct mal_train_data data = made_data(N, true);
    struct grads grads = {0};
    struct mal_train_watch watch = {.observe = keep_grads, .arg = &grads};
    struct bytes states[2];
    for (int i = 0; i < 2; i++) {
        struct training t =
            made_training(model, &(struct made_training){.method = &mal_method_malmen,
                                                         .editor_batch = 64});
        made_step(&t, &data, 0, N, &made_rates, i ? &watch : NULL);
        states[i] = state_of(&t);
        training_finish(&t);
    }
    assert_true(same_bytes(&states[0], &states[1]));
    mal_free(states[0].data);
    mal_free(states[1].data);
    grads_free(&grads);
    mal_train_data_finish(&data);
}

static void test_editor_batch(void **state) {
    static const int64_t sizes[] = {1000, 1, 5};
    struct mal_train_data data = made_data(9, true);
    for (int mend = 0; mend < 2; mend++) {
        struct grads grads[3] = {0};
        struct mal_train_report reports[3];
        for (size_t i = 0; i < 3; i++) {
            struct mal_train_watch watch = {.observe = keep_grads, .arg = &grads[i]};
            struct training t = made_training(
                model, &(struct made_training){.method = mend ? &mal_method_mend
                                                              : &mal_method_malmen,
                                               .editor_batch = sizes[i]});
            reports[i] = made_step(&t, &data, 0, 9, &made_rates, &watch);
            training_finish(&t);
            assert_true(fabs(reports[i].gen_loss - reports[0].gen_loss) < 1e-5);
            assert_true(fabs(reports[i].loc_loss - reports[0].loc_loss) < 1e-5);
            assert_int_equal(reports[i].rows, reports[0].rows);
            double norm = grads_norm(&grads[0]);
            for (size_t p = 0; p < grads[0].n; p++) {
                for (int64_t k = 0; k < grads[0].sizes[p]; k++) {
                    double off = (double)grads[i].at[p][k] - (double)grads[0].at[p][k];
                    assert_true(fabs(off) <= 1e-5 * norm);
                }
            }
        }
        for (size_t i = 0; i < 3; i++)
            grads_free(&grads[i]);
    }
    mal_train_data_finish(&data);
}

static void test_without_probes(void **state) {
    struct training t = made_training(model, &malmen);
    struct mal_train_data data = made_data(6, false);
    struct bytes first = state_of(&t), last;
    for (int i = 0; i < 2; i++) {
        struct mal_train_report r = made_step(&t, &data, 0, 6, &made_rates, NULL);
        assert_true(isnan(r.loc_loss) && isfinite(r.gen_loss) && r.grad_norm > 0);
    }
    last = state_of(&t);
    assert_false(same_bytes(&first, &last));
    mal_free(first.data);
    mal_free(last.data);
    assert_int_equal(mal_trainer_steps(t.trainer), 2);
    mal_train_data_finish(&data);
    training_finish(&t);
}

/* Facts seen again and again are learnt. */
static void test_learns(void **state) {
    static const struct mal_train_rates rates = {1e-2, 2e-3};
    struct training t = made_training(model, &malmen);
    struct mal_train_data data = made_data(6, true);
    struct mal_train_report first = made_step(&t, &data, 0, 6, &rates, NULL), last;
    for (int i = 0; i < 30; i++)
        last = made_step(&t, &data, 0, 6, &rates, NULL);
    double before = first.gen_loss + t.options.loc_coef * first.loc_loss;
    double after = last.gen_loss + t.options.loc_coef * last.loc_loss;
    if (!(after < before - 0.05)) fail_msg("%g, and after training %g", before, after);
    mal_train_data_finish(&data);
    training_finish(&t);
}

/* The sum of a shift's squares. */
static void add_squares(void *arg, const char *name, int64_t n, const float *data) {
    if (strncmp(name, "shift.", 6) != 0) return;
    float *copy = mal_malloc((size_t)n * sizeof *copy);
    from_device(copy, data, n);
    for (int64_t i = 0; i < n; i++)
        *(double *)arg += (double)copy[i] * (double)copy[i];
    mal_free(copy);
}

static double shift_norm(struct training *t, const struct mal_train_batch *batch) {
    struct mal_error err = {0};
    struct mal_train_report report;
    double sum = 0;
    struct mal_train_watch watch = {.observe = add_squares, .arg = &sum};
    assert_ok(mal_trainer_measure(t->trainer, batch, &watch, &report, &err), &err);
    return sqrt(sum);
}

/* An editor without blocks is trained as it edits: what never varied in its statistics
 * does not make shifts 1e6 times too long. */
static void test_never_fired(void **state) {
    struct mal_train_data data = made_data(6, true);
    struct mal_train_batch batch = made_batch(&data, 0, 6);
    for (int apart = 0; apart < 2; apart++) {
        say_apart(model, apart);
        struct training t =
            made_training(model, &(struct made_training){.method = &mal_method_malmen,
                                                         .identity = true});
        made_step(&t, &data, 0, 6, &made_rates, NULL);
        double before = shift_norm(&t, &batch);
        t.trainer->norms[0].std[1] = 0;
        double after = shift_norm(&t, &batch);
        if (!(after > 0 && after < 2 * before))
            fail_msg("%g with a deviation of 0, else %g", after, before);
        assert_true(t.trainer->norms[0].std[1] == 0);
        training_finish(&t);
    }
    say_apart(model, false);
    mal_train_batch_finish(&batch);
    mal_train_data_finish(&data);
}

static void test_ultraedit(void **state) {
    struct mal_error err = {0};
    struct mal_editor *editor;
    struct mal_trainer *trainer;
    struct mal_train_options options = {.max_norm = 1, .editor_batch = 8};
    assert_ok(mal_editor_create(&editor, &mal_method_ultraedit, model, made_modules, 3, 0,
                                0, 1, 1, &err),
              &err);
    assert_ok(mal_editor_bind(editor, model, &err), &err);
    assert_false(mal_trainer_create(&trainer, model, editor, &options, &err));
    assert_error(&err, MAL_INVALID, "UltraEdit");
    mal_editor_close(editor);
}

/* ---- Steps that fail ---- */

/* Two trainers take the same steps; one of them fails in between, in every way there is.
 */
struct twins {
    struct training t, twin;
    struct mal_train_data data;
    struct mal_train_batch batch;
    struct bytes before;
};

static void twins_init(struct twins *w, const struct made_training *how) {
    *w = (struct twins){.t = made_training(model, how),
                        .twin = made_training(model, how),
                        .data = made_data(10, true)};
    made_step(&w->t, &w->data, 0, 5, &made_rates, NULL);
    made_step(&w->twin, &w->data, 0, 5, &made_rates, NULL);
    w->batch = made_batch(&w->data, 5, 5);
    w->before = state_of(&w->t);
    expect_state(&w->twin, &w->before);
}

static void expect_failure(struct twins *w, const struct mal_train_watch *watch,
                           enum mal_status status, const char *words) {
    struct mal_train_report report;
    struct mal_error err = {0};
    assert_false(
        mal_trainer_step(w->t.trainer, &w->batch, &made_rates, watch, &report, &err));
    assert_error(&err, status, words);
    expect_state(&w->t, &w->before);
    assert_int_equal(mal_trainer_steps(w->t.trainer), 1);
}

/* The one that failed goes on as the other does. */
static void twins_finish(struct twins *w, bool stepped) {
    if (!stepped) made_step(&w->t, &w->data, 5, 5, &made_rates, NULL);
    made_step(&w->twin, &w->data, 5, 5, &made_rates, NULL);
    struct bytes after = state_of(&w->twin);
    assert_false(same_bytes(&after, &w->before));
    expect_state(&w->t, &after);
    mal_free(after.data);
    mal_free(w->before.data);
    mal_train_batch_finish(&w->batch);
    mal_train_data_finish(&w->data);
    training_finish(&w->t);
    training_finish(&w->twin);
}

struct countdown {
    long n;
};

static bool count_down(void *arg) {
    struct countdown *c = arg;
    return --c->n != 0;
}

static void check_cancelled(const struct made_training *how) {
    struct twins w;
    struct mal_train_report report;
    twins_init(&w, how);
    for (long k = 1;; k++) {
        struct countdown c = {k};
        struct mal_train_watch watch = {.tick = count_down, .arg = &c};
        struct mal_error err = {0};
        if (mal_trainer_step(w.t.trainer, &w.batch, &made_rates, &watch, &report, &err)) {
            assert_true(c.n == 1 && k > 8); /* it was never asked to stop */
            break;
        }
        assert_int_equal(err.status, MAL_CANCELLED);
        expect_state(&w.t, &w.before);
        assert_true(k < 200);
    }
    twins_finish(&w, true);
}

static void test_cancelled(void **state) {
    check_cancelled(&malmen);
    check_cancelled(&(struct made_training){.method = &mal_method_mend});
    check_cancelled(&(struct made_training){.method = &mal_method_malmen,
                                            .loss = MAL_LOSS_MICROBATCH_MEAN,
                                            .micro_batch = 2,
                                            .preserve = true});
}

static void test_no_memory(void **state) {
    struct twins w;
    struct mal_train_report report;
    twins_init(&w,
               &(struct made_training){.method = &mal_method_malmen, .preserve = true});
    for (long k = 1;; k++) {
        struct mal_error err = {0};
        mal_alloc_fail_at(k);
        bool ok =
            mal_trainer_step(w.t.trainer, &w.batch, &made_rates, NULL, &report, &err);
        mal_alloc_fail_at(0);
        if (ok) {
            assert_true(k > 20);
            break;
        }
        assert_int_equal(err.status, MAL_NO_MEMORY);
        expect_state(&w.t, &w.before);
        assert_true(k < 1000);
    }
    twins_finish(&w, true);
}

/* A number of the model, which is NaN for a while. */
static void with_nan(struct twins *w, const float *weight) {
    float *x = (float *)(uintptr_t)weight, kept, nan = NAN;
    from_device(&kept, x, 1);
    mal_backend_upload(model->be, x, &nan, sizeof nan);
    expect_failure(w, NULL, MAL_NUMERIC, "");
    mal_backend_upload(model->be, x, &kept, sizeof kept);
}

/* Makes position `at` one that only this kind of sequence has. */
static void shorten(struct mal_example *examples, size_t n, int32_t most) {
    for (size_t i = 0; i < n; i++) {
        struct mal_example *e = &examples[i]; /* borrowed tokens: only the view ends */
        if (e->n <= most) continue;
        e->ids += e->n - most;
        e->from -= e->n - most;
        e->n = most;
    }
}

static void test_not_finite(void **state) {
    enum { LAST = 8 };
    struct twins w;
    twins_init(&w, &malmen);
    struct mal_train_batch all = w.batch;
    with_nan(&w, model->decoder.final_norm.gain); /* seen by every pass */
    with_nan(&w, model->edits[1]->w0);
    /* Only rephrases or only probes are so long that they read the last positions: the
     * step gets past its edits, and past the statistics. */
    for (int probes = 0; probes < 2; probes++) {
        struct mal_train_batch shared = w.batch = made_batch(&w.data, 5, 5);
        shorten(w.batch.edits, w.batch.n_edits, LAST);
        if (probes) {
            shorten(w.batch.rephrases, w.batch.n_rephrases, LAST);
        } else {
            shorten(w.batch.probes, w.batch.n_probes, LAST);
        }
        with_nan(&w, model->positions + LAST * made_sizes.channels);
        mal_train_batch_finish(&shared);
    }
    w.batch = all;
    twins_finish(&w, false);
}

/* ---- Where device memory is not the host's ---- */

/* All that is copied back and forth then, on a device where it need not be. */
static void test_other_memory(void **state) {
    static const struct mal_method *const methods[] = {&mal_method_malmen,
                                                       &mal_method_mend};
    struct mal_error err = {0};
    for (size_t i = 0; i < 2; i++) {
        struct made_training how = {.method = methods[i], .preserve = i == 0};
        struct mal_train_data data = made_data(9, true);
        struct training host = made_training(model, &how), other;
        say_apart(model, true);
        other = made_training(model, &how);
        for (size_t k = 0; k < 3; k++) {
            say_apart(model, true);
            made_step(&other, &data, 3 * k, 3, &made_rates, NULL);
            say_apart(model, false);
            made_step(&host, &data, 3 * k, 3, &made_rates, NULL);
        }
        struct bytes want = state_of(&host);
        say_apart(model, true);
        expect_state(&other, &want);
        assert_ok(mal_trainer_fetch(other.trainer, &err), &err);
        say_apart(model, false);
        assert_ok(mal_trainer_fetch(host.trainer, &err), &err);
        expect_same_editor(host.editor, other.editor);
        mal_free(want.data);
        mal_train_data_finish(&data);
        training_finish(&host);
        training_finish(&other);
    }
}

/* A trainer changes the blocks, so that no copy of what they were is left to edit with.
 */
static void test_ends_residence(void **state) {
    struct mal_error err = {0};
    struct mal_trainer *second = NULL;
    say_apart(model, true);
    struct training t = made_training(model, &malmen);
    size_t before = mal_backend_bytes(model->be);
    assert_ok(mal_editor_make_resident(t.editor, model->be, &err), &err);
    assert_true(mal_backend_bytes(model->be) > before && t.editor->shapes[1].resident);
    assert_ok(mal_trainer_create(&second, model, t.editor, &t.options, &err), &err);
    for (size_t s = 0; s < t.editor->n_shapes; s++)
        assert_null(t.editor->shapes[s].resident);
    mal_trainer_destroy(second);
    assert_int_equal(mal_backend_bytes(model->be), before);
    training_finish(&t);
    say_apart(model, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mend_leaves_lamda),
        cmocka_unit_test(test_adam),
        cmocka_unit_test(test_measure_changes_nothing),
        cmocka_unit_test(test_watch_changes_nothing),
        cmocka_unit_test(test_editor_batch),
        cmocka_unit_test(test_without_probes),
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_ultraedit),
        cmocka_unit_test(test_never_fired),
        cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_other_memory),
        cmocka_unit_test(test_ends_residence),
    };
    return cmocka_run_group_tests_name("trainer", tests, open_model, close_model);
}
