/* test_train_need.c - what a trainer takes of device memory, by a tap on its allocations,
 * against what was said beforehand: never more, and not far less. */
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

static struct {
    const struct mal_backend_ops *real;
    size_t peak;
} tap;

static void *tapped_alloc(struct mal_backend *be, size_t bytes) {
    void *mem = tap.real->alloc(be, bytes);
    if (be->bytes > tap.peak) tap.peak = be->bytes;
    return mem;
}

/* The most a trainer's life takes beside what is there already. */
static size_t measured_peak(const struct made_training *how,
                            const struct mal_train_data *data, size_t n,
                            const struct mal_train_watch *watch,
                            struct mal_train_need *need) {
    struct training t = made_training(model, how);
    struct mal_error err = {0};
    struct mal_backend *be = model->be;
    struct mal_backend_ops ops = *be->ops;
    assert_ok(mal_trainer_need(model, t.editor, &t.options, data, (int64_t)n, need, &err),
              &err);
    mal_trainer_destroy(t.trainer);
    mal_model_drop_scratch(model);
    size_t before = mal_backend_bytes(be);
    tap.real = be->ops;
    tap.peak = before;
    ops.alloc = tapped_alloc;
    be->ops = &ops;
    assert_ok(mal_trainer_create(&t.trainer, model, t.editor, &t.options, &err), &err);
    for (size_t first = 0; first < data->n_facts; first += n)
        made_step(&t, data, first, n, &made_rates, watch);
    be->ops = tap.real;
    training_finish(&t);
    return tap.peak - before;
}

static bool go_on(void *arg) {
    return true;
}

struct need_case {
    struct made_training how;
    size_t n_facts, n;
    bool apart; /* device memory is not the host's */
};

static void check_needs(const struct need_case *cases, size_t n_cases) {
    for (size_t i = 0; i < n_cases; i++) {
        struct mal_train_data data = made_data(cases[i].n_facts, true);
        for (int watched = 0; watched < 2; watched++) {
            struct mal_train_watch watch = {.tick = go_on};
            struct mal_train_need need;
            say_apart(model, cases[i].apart);
            size_t peak = measured_peak(&cases[i].how, &data, cases[i].n,
                                        watched ? &watch : NULL, &need);
            say_apart(model, false);
            /* These facts do not fill the passes of a wide device. */
            bool wide = mal_backend_breadth(model->be) > 1;
            if (peak <= need.total && (wide || need.total <= 2 * peak)) continue;
            fail_msg("case %zu, %s: took %zu bytes, said %zu", i,
                     watched ? "watched" : "not watched", peak, need.total);
        }
        mal_train_data_finish(&data);
    }
}

static void test_need(void **state) {
    static const struct need_case cases[] = {
        {{.method = &mal_method_malmen},
         12,
         4,
         false}, /* far less than a pass may hold */
        {{.method = &mal_method_malmen}, 12, 4, true},
        {{.method = &mal_method_malmen,
          .loss = MAL_LOSS_MICROBATCH_MEAN,
          .micro_batch = 32},
         12,
         4,
         true},
        {{.method = &mal_method_malmen}, 300, 150},
        {{.method = &mal_method_malmen, .editor_batch = 1024}, 300, 300},
        {{.method = &mal_method_malmen, .preserve = true}, 300, 150},
        {{.method = &mal_method_mend, .editor_batch = 100}, 300, 150},
        {{.method = &mal_method_malmen,
          .loss = MAL_LOSS_MICROBATCH_MEAN,
          .micro_batch = 32},
         96,
         48},
        {{.method = &mal_method_mend, .loss = MAL_LOSS_MICROBATCH_MEAN, .micro_batch = 8},
         40,
         10},
    };

    check_needs(cases, sizeof cases / sizeof *cases);
}

/* A module's rows may be those of the encoder, or one for each claim. */
static void check_needs_of(const struct random_model *made, const char *dir,
                           enum mal_model_kind kind, const char *const *modules) {
    const struct need_case cases[] = {
        {{.method = &mal_method_malmen, .modules = modules}, 12, 4, true},
        {{.method = &mal_method_malmen, .modules = modules}, 300, 150},
        {{.method = &mal_method_mend, .modules = modules, .editor_batch = 100}, 300, 150},
        {{.method = &mal_method_malmen,
          .modules = modules,
          .loss = MAL_LOSS_MICROBATCH_MEAN,
          .micro_batch = 32},
         96,
         48},
    };
    struct mal_model *before = model;
    model = random_model_open(made, dir);
    made_kind = kind;
    check_needs(cases, sizeof cases / sizeof *cases);
    made_kind = MAL_MODEL_CAUSAL;
    mal_model_close(model);
    model = before;
}

static void test_need_of_encoder_decoders(void **state) {
    static const char *const both[] = {"encoder.block.1.layer.1.DenseReluDense.wo",
                                       "decoder.block.1.layer.1.EncDecAttention.k",
                                       "decoder.block.2.layer.2.DenseReluDense.wi_0"};
    static const char *const decoder[] = {"decoder.block.1.layer.2.DenseReluDense.wo",
                                          "decoder.block.2.layer.1.EncDecAttention.q",
                                          "decoder.block.2.layer.2.DenseReluDense.wi_0"};
    check_needs_of(&random_models[RANDOM_T5], "both", MAL_MODEL_SEQ2SEQ, both);
    check_needs_of(&random_models[RANDOM_T5], "decoder", MAL_MODEL_SEQ2SEQ, decoder);
}

static void test_need_of_classifiers(void **state) {
    static const char *const modules[] = {"encoder.layer.1.output.dense",
                                          "encoder.layer.2.attention.self.value",
                                          "encoder.layer.2.intermediate.dense"};
    check_needs_of(&random_models[RANDOM_BERT], "bert", MAL_MODEL_CLASSIFIER, modules);
}

/* All sequences of `n` tokens that predict one, and as many of every fact. */
static void check_alike(const struct made_training *how, int32_t n) {
    enum { N = 1500 };
    struct mal_train_data data = made_data(N, true);
    struct mal_train_need need;
    for (size_t i = 0; i < N; i++)
        data.facts[i].n_edits = 1;
    for (size_t i = 0; i < data.n_examples; i++) {
        struct mal_example *e = &data.examples[i];
        e->n = n;
        e->n_target = 1;
        e->from = n - 1;
    }
    size_t peak = measured_peak(how, &data, N / 2, NULL, &need);
    if (peak > need.total) fail_msg("took %zu bytes, said %zu", peak, need.total);
    mal_train_data_finish(&data);
}

/* Of one token each: more of them than of any others fit in a pass. */
static void test_need_of_the_shortest(void **state) {
    check_alike(&(struct made_training){.method = &mal_method_malmen}, 1);
}

/* MEND takes all tokens of the edits, however few of them predict a target. */
static void test_need_of_all_tokens(void **state) {
    check_alike(&(struct made_training){.method = &mal_method_mend}, 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_need),
        cmocka_unit_test(test_need_of_encoder_decoders),
        cmocka_unit_test(test_need_of_classifiers),
        cmocka_unit_test(test_need_of_the_shortest),
        cmocka_unit_test(test_need_of_all_tokens),
    };
    return cmocka_run_group_tests_name("train_need", tests, open_model, close_model);
}
