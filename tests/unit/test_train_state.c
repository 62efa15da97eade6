/* test_train_state.c - the state of a training in a file: what goes on from it is to the
 * bit what would have gone on, and a file that is not such a state is refused by name. */
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

static const struct made_training kinds[] = {
    {.method = &mal_method_malmen},
    {.method = &mal_method_malmen, .preserve = true, .loss = MAL_LOSS_MICROBATCH_MEAN},
    {.method = &mal_method_mend},
};

enum { N_KINDS = sizeof kinds / sizeof *kinds };

static const struct mal_train_position somewhere = {.step = 7,
                                                    .epoch = 2,
                                                    .at = 5,
                                                    .best = 1.0 / 3,
                                                    .best_step = 6,
                                                    .waited = 1,
                                                    .validated = 6,
                                                    .lr_rate = 1e-3 / 3};

static void expect_position(const struct mal_train_position *got,
                            const struct mal_train_position *want) {
    assert_int_equal(got->step, want->step);
    assert_int_equal(got->epoch, want->epoch);
    assert_int_equal(got->at, want->at);
    assert_int_equal(got->best_step, want->best_step);
    assert_int_equal(got->waited, want->waited);
    assert_int_equal(got->validated, want->validated);
    assert_true(got->best == want->best || (isnan(got->best) && isnan(want->best)));
    assert_true(got->lr_rate == want->lr_rate);
}

/* ---- Going on ---- */

/* `apart`: device memory is not the host's, so that all is copied. */
static void check_resumed(const struct made_training *how, bool apart) {
    struct mal_error err = {0};
    struct mal_train_data data = made_data(12, true);
    struct mal_train_position position;
    const char *path = scratch_path("state");
    struct training whole = made_training(model, how);
    for (size_t k = 0; k < 2; k++)
        made_step(&whole, &data, 3 * k, 3, &made_rates, NULL);
    assert_ok(mal_train_state_save(whole.trainer, path, &somewhere, "{\"a\":1}", &err),
              &err);
    for (size_t k = 2; k < 4; k++)
        made_step(&whole, &data, 3 * k, 3, &made_rates, NULL);
    struct bytes want = state_of(&whole);
    assert_ok(mal_trainer_fetch(whole.trainer, &err), &err);

    say_apart(model, apart);
    struct training rest = made_training(model, how);
    assert_ok(mal_train_state_load(rest.trainer, path, &position, &err), &err);
    expect_position(&position, &somewhere);
    assert_int_equal(mal_trainer_steps(rest.trainer), 2);
    for (size_t k = 2; k < 4; k++)
        made_step(&rest, &data, 3 * k, 3, &made_rates, NULL);
    expect_state(&rest, &want);
    assert_int_equal(mal_trainer_steps(rest.trainer), 4);
    assert_ok(mal_trainer_fetch(rest.trainer, &err), &err);
    expect_same_editor(rest.editor, whole.editor);
    mal_free(want.data);
    training_finish(&rest);
    say_apart(model, false);
    training_finish(&whole);
    mal_train_data_finish(&data);
}

static void test_resumed(void **state) {
    for (size_t i = 0; i < N_KINDS; i++) {
        check_resumed(&kinds[i], false);
        check_resumed(&kinds[i], true);
    }
}

/* What is loaded is at once the editor's, too, but for the statistics: they are fetched.
 */
static void test_editor_of_a_state(void **state) {
    struct mal_error err = {0};
    struct mal_train_data data = made_data(6, true);
    struct mal_train_position position;
    const char *path = scratch_path("state");
    struct training a = made_training(model, &kinds[0]), b;
    made_step(&a, &data, 0, 6, &made_rates, NULL);
    assert_ok(mal_train_state_save(a.trainer, path, &somewhere, "", &err), &err);
    assert_ok(mal_trainer_fetch(a.trainer, &err), &err);
    b = made_training(model, &kinds[0]);
    assert_ok(mal_train_state_load(b.trainer, path, &position, &err), &err);
    assert_ok(mal_trainer_fetch(b.trainer, &err), &err);
    expect_same_editor(a.editor, b.editor);
    training_finish(&a);
    training_finish(&b);
    mal_train_data_finish(&data);
}

static void test_no_best_yet(void **state) {
    struct mal_error err = {0};
    struct mal_train_position position, none = {.best = (double)NAN};
    struct training t = made_training(model, &kinds[0]);
    const char *path = scratch_path("state");
    char *run = NULL;
    assert_ok(mal_train_state_save(t.trainer, path, &none, "what \"it\" was\n", &err),
              &err);
    assert_ok(mal_train_state_load(t.trainer, path, &position, &err), &err);
    expect_position(&position, &none);
    assert_ok(mal_train_state_run(path, &run, &err), &err);
    assert_string_equal(run, "what \"it\" was\n");
    mal_free(run);
    training_finish(&t);
}

/* ---- Other files ---- */

/* What is changed of a good state: a tensor, by its name, or an entry of the metadata. */
struct change {
    const char *tensor;

    enum { DROP, SHORTEN, HALVE, SET, ADD } what;

    float value;
    const char *key, *text; /* text NULL: the entry is left out */
    enum mal_status status;
    const char *words;
};

static const char *const keys[] = {"step",   "epoch",     "at",  "best_step",
                                   "waited", "validated", "t",   "lr_rate",
                                   "format", "run",       "best"};

enum { N_KEYS = sizeof keys / sizeof *keys, MAX_TENSORS = 128 };

static size_t change_tensor(struct mal_st_entry *entry, const struct change *change) {
    float *data = (float *)(uintptr_t)entry->data;
    switch (change->what) {
    case DROP: return 0;
    case SHORTEN: entry->shape[0]--; break;
    case HALVE:
        entry->dtype = MAL_F16;
        mal_from_f32(data, data, MAL_F16, (size_t)entry->shape[0]);
        break;
    case SET: data[entry->shape[0] - 1] = change->value; break;
    case ADD:
        entry[1] = entry[0];
        entry[1].name = "one.more";
        return 2;
    }
    return 1;
}

/* Writes `to` as `from` is but for the change. */
static void rewrite(const char *from, const char *to, const struct change *change) {
    struct mal_error err = {0};
    struct mal_safetensors *file;
    struct mal_st_entry entries[MAX_TENSORS];
    struct mal_st_meta meta[N_KEYS];
    float *owned[MAX_TENSORS];
    size_t n = 0, n_meta = 0;
    assert_ok(mal_safetensors_open(&file, from, &err), &err);
    size_t n_tensors = mal_safetensors_count(file);
    assert_true(n_tensors < MAX_TENSORS);
    bool found = false;
    for (size_t i = 0; i < n_tensors; i++) {
        const struct mal_st_tensor *t = mal_safetensors_at(file, i);
        owned[i] = mal_malloc((size_t)t->n_elements * sizeof(float));
        assert_ok(mal_safetensors_read_f32(file, t, owned[i], &err), &err);
        entries[n] = (struct mal_st_entry){.name = t->name,
                                           .dtype = MAL_F32,
                                           .n_dims = 1,
                                           .shape = {t->n_elements},
                                           .data = owned[i]};
        bool this = change->tensor && strcmp(change->tensor, t->name) == 0;
        found = found || this;
        n += this ? change_tensor(&entries[n], change) : 1;
    }
    for (size_t k = 0; k < N_KEYS; k++) {
        bool this = change->key && strcmp(change->key, keys[k]) == 0;
        const char *text = this ? change->text : mal_safetensors_metadata(file, keys[k]);
        found = found || this;
        if (text) meta[n_meta++] = (struct mal_st_meta){keys[k], text};
    }
    assert_true(found || (!change->tensor && !change->key));
    assert_ok(mal_safetensors_write(to, entries, n, meta, n_meta, &err), &err);
    for (size_t i = 0; i < n_tensors; i++)
        mal_free(owned[i]);
    mal_safetensors_close(file);
}

static const char *good_state(struct training *t) {
    struct mal_error err = {0};
    struct mal_train_data data = made_data(3, true);
    const char *path = scratch_path("good");
    made_step(t, &data, 0, 3, &made_rates, NULL);
    assert_ok(mal_train_state_save(t->trainer, path, &somewhere, "{}", &err), &err);
    mal_train_data_finish(&data);
    return path;
}

#define LAMDA "(8, 12).lamda.weight"

static const struct change changes[] = {
    {.tensor = LAMDA,
     .what = DROP,
     .status = MAL_CONFLICT,
     .words = LAMDA "' is missing"},
    {.tensor = "adam.m.(12, 8).blocks.1.B",
     .what = DROP,
     .status = MAL_CONFLICT,
     .words = "adam.m.(12, 8).blocks.1.B' is missing"},
    {.tensor = "adam.v.(12, 8).lr.weight",
     .what = SHORTEN,
     .status = MAL_CONFLICT,
     .words = "adam.v.(12, 8).lr.weight' is of another size"},
    {.tensor = "(12, 8).normalizer.mean",
     .what = SHORTEN,
     .status = MAL_CONFLICT,
     .words = "(12, 8).normalizer.mean' is of another size"},
    {.tensor = "(12, 8).blocks.0.A",
     .what = HALVE,
     .status = MAL_CORRUPT,
     .words = "(12, 8).blocks.0.A' is F16"},
    {.tensor = LAMDA, .what = ADD, .status = MAL_CONFLICT, .words = "another network"},
    {.tensor = "(12, 8).blocks.1.bias",
     .what = SET,
     .value = (float)NAN,
     .status = MAL_CORRUPT,
     .words = "(12, 8).blocks.1.bias'"},
    {.tensor = "adam.m.(8, 12).blocks.0.A",
     .what = SET,
     .value = (float)-INFINITY,
     .status = MAL_CORRUPT,
     .words = "adam.m.(8, 12).blocks.0.A'"},
    /* Square roots are taken of these. */
    {.tensor = "adam.v.(8, 12).blocks.0.A",
     .what = SET,
     .value = -1,
     .status = MAL_CORRUPT,
     .words = "adam.v.(8, 12).blocks.0.A'"},
    {.tensor = "(8, 12).normalizer.var",
     .what = SET,
     .value = -1,
     .status = MAL_CORRUPT,
     .words = "(8, 12).normalizer.var'"},
    {.tensor = "(8, 12).normalizer.n",
     .what = SET,
     .value = -1,
     .status = MAL_CORRUPT,
     .words = "(8, 12).normalizer.n'"},
    {.key = "format", .status = MAL_CORRUPT, .words = "not the state of a training"},
    {.key = "format",
     .text = "malmend-editor-1",
     .status = MAL_CORRUPT,
     .words = "not the state of a training"},
    {.key = "step", .status = MAL_CORRUPT, .words = "'step' is not a count"},
    {.key = "t", .text = "-1", .status = MAL_CORRUPT, .words = "'t' is not a count"},
    {.key = "t", .text = "", .status = MAL_CORRUPT, .words = "'t' is not a count"},
    {.key = "at", .text = "3x", .status = MAL_CORRUPT, .words = "'at' is not a count"},
    {.key = "epoch", .text = "1.5", .status = MAL_CORRUPT, .words = "'epoch' is not a"},
    {.key = "t",
     .text = "9223372036854775807", /* there is no step after it */
     .status = MAL_CORRUPT,
     .words = "'t' is not a count"},
    {.key = "waited",
     .text = "99999999999999999999",
     .status = MAL_CORRUPT,
     .words = "'waited' is not a count"},
    {.key = "validated",
     .text = "x",
     .status = MAL_CORRUPT,
     .words = "'validated' is not a count"},
    {.key = "best", .status = MAL_CORRUPT, .words = "'best' is not a number"},
    {.key = "best", .text = "low", .status = MAL_CORRUPT, .words = "'best' is not a"},
    {.key = "lr_rate", .text = "nan", .status = MAL_CORRUPT, .words = "'lr_rate' is not"},
    {.key = "lr_rate", .text = "inf", .status = MAL_CORRUPT, .words = "'lr_rate' is not"},
    {.key = "lr_rate", .text = "-1", .status = MAL_CORRUPT, .words = "'lr_rate' is not"},
};

static void test_refused(void **state) {
    struct training t = made_training(model, &kinds[0]);
    struct mal_train_position position;
    const char *good = good_state(&t), *bad = scratch_path("bad");
    struct bytes before = state_of(&t);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct training other = made_training(model, &kinds[0]);
        struct mal_error err = {0};
        rewrite(good, bad, &changes[i]);
        if (mal_train_state_load(other.trainer, bad, &position, &err)) {
            fail_msg("%s was taken where '%s' is wrong",
                     changes[i].key ? changes[i].key : changes[i].tensor,
                     changes[i].words);
        }
        assert_non_null(strstr(err.text, "bad"));
        assert_error(&err, changes[i].status, changes[i].words);
        training_finish(&other);
    }
    struct mal_error err = {0};
    rewrite(good, bad, &(struct change){0}); /* and with none it is taken */
    assert_ok(mal_train_state_load(t.trainer, bad, &position, &err), &err);
    expect_state(&t, &before);
    mal_free(before.data);
    training_finish(&t);
}

/* Files from before that was kept. */
static void test_validated_not_said(void **state) {
    struct training t = made_training(model, &kinds[0]);
    struct mal_train_position position, want = somewhere;
    const char *good = good_state(&t), *old = scratch_path("old");
    struct mal_error err = {0};
    rewrite(good, old, &(struct change){.key = "validated"});
    assert_ok(mal_train_state_load(t.trainer, old, &position, &err), &err);
    want.validated = want.step;
    expect_position(&position, &want);
    training_finish(&t);
}

static void test_no_run(void **state) {
    struct training t = made_training(model, &kinds[0]);
    const char *good = good_state(&t), *bad = scratch_path("bad");
    struct mal_error err = {0};
    char *run = NULL;
    rewrite(good, bad, &(struct change){.key = "run"});
    assert_false(mal_train_state_run(bad, &run, &err));
    assert_error(&err, MAL_CORRUPT, "'run' is missing");
    rewrite(good, bad, &(struct change){.key = "format", .text = "x"});
    assert_false(mal_train_state_run(bad, &run, &err));
    assert_error(&err, MAL_CORRUPT, "not the state of a training");
    assert_false(mal_train_state_run(scratch_path("none"), &run, &err));
    assert_non_null(strstr(err.text, "none"));
    assert_null(run);
    training_finish(&t);
}

/* A state of another network, whether it is smaller or larger. */
static void test_another_network(void **state) {
    struct training plain = made_training(model, &kinds[0]);
    const char *path = good_state(&plain);
    for (int i = 0; i < 2; i++) {
        struct mal_error err = {0};
        struct mal_editor *editor;
        struct mal_trainer *trainer;
        struct mal_train_position position;
        assert_ok(mal_editor_create(&editor, &mal_method_malmen, model, made_modules, 3,
                                    i ? 4 : 3, i ? 1 : 2, 0.02, 5, &err),
                  &err);
        assert_ok(mal_editor_bind(editor, model, &err), &err);
        assert_ok(mal_trainer_create(&trainer, model, editor, &plain.options, &err),
                  &err);
        assert_false(mal_train_state_load(trainer, path, &position, &err));
        assert_error(&err, MAL_CONFLICT, "another network");
        mal_trainer_destroy(trainer);
        mal_editor_close(editor);
    }
    training_finish(&plain);
}

/* ---- Memory ---- */

static struct training small;

static bool save_and_load(const char *path, struct mal_error *err) {
    struct mal_train_position position;
    char *run = NULL;
    say_apart(model, true); /* as it is told of the trainer by its device */
    bool ok = mal_train_state_save(small.trainer, path, &somewhere, "{}", err) &&
              mal_train_state_load(small.trainer, path, &position, err) &&
              mal_train_state_run(path, &run, err);
    say_apart(model, false);
    mal_free(run);
    return ok;
}

/* The first allocations one by one, of the many of the file's header some. */
static void test_no_memory(void **state) {
    const char *path = scratch_path("state");
    bool ok = false;
    say_apart(model, true);
    small = made_training(model, &kinds[0]);
    say_apart(model, false);
    mal_json_guard();
    for (long k = 1; !ok && k < 100000; k += 1 + k / 16) {
        struct mal_error err = {0};
        mal_alloc_fail_at(k);
        ok = save_and_load(path, &err);
        mal_alloc_fail_at(0);
        assert_int_equal(err.status, ok ? MAL_OK : MAL_NO_MEMORY);
    }
    assert_true(ok);
    training_finish(&small);
}

/* The file there was stays where the new one cannot be written. */
static void test_cannot_write(void **state) {
    struct mal_error err = {0};
    struct training t = made_training(model, &kinds[0]);
    assert_false(mal_train_state_save(t.trainer, scratch_path("no/state"), &somewhere,
                                      "{}", &err));
    assert_non_null(strstr(err.text, "no/state"));
    training_finish(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resumed),
        cmocka_unit_test(test_editor_of_a_state),
        cmocka_unit_test(test_no_best_yet),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_validated_not_said),
        cmocka_unit_test(test_no_run),
        cmocka_unit_test(test_another_network),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_cannot_write),
    };
    return cmocka_run_group_tests_name("train_state", tests, open_model, close_model);
}
