/* test_train.c - training against the reference implementation: losses of each step, the
 * first step's shifts and gradients before they are cut, and the editor's state. */
#include "golden.h"

#include <unistd.h>

#include "core/train/data.h"
#include "core/train/trainer.h"
#include "tests/unit/test_device.h"

enum { MAX_STEPS = 64, MAX_EDITS = 2048, MAX_SEEN = 2048 };

struct seen {
    char name[160]; /* as in expected.safetensors */
    float *data;
    int64_t n;
};

struct train_case {
    struct golden_case at;
    struct mal_safetensors *tensors, *init;
    struct mal_backend *be;
    bool done;
    int64_t n_steps, step;
    struct mal_train_report reports[MAX_STEPS];
    struct seen seen[MAX_SEEN];
    size_t n_seen;
};

/* ---- Running a case ---- */

static void keep(struct train_case *c, const char *name, const float *host, int64_t n) {
    struct seen *seen = &c->seen[c->n_seen++];
    if (c->n_seen > MAX_SEEN) fail_msg("more tensors than expected");
    snprintf(seen->name, sizeof seen->name, "step%lld.%s", (long long)c->step, name);
    seen->data = malloc((size_t)n * sizeof *host);
    memcpy(seen->data, host, (size_t)n * sizeof *host);
    seen->n = n;
}

static void observe(void *arg, const char *name, int64_t n, const float *data) {
    struct train_case *c = arg;
    if (c->step > 0) return;
    float *host = malloc((size_t)n * sizeof *host);
    mal_backend_download(c->be, host, data, (size_t)n * sizeof *host);
    keep(c, name, host, n);
    free(host);
}

/* Every tensor of a saved editor. */
static void keep_state(struct train_case *c, const struct mal_editor *editor) {
    struct mal_error err = {0};
    struct mal_safetensors *file;
    char path[] = "/tmp/mal-train-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_done(mal_editor_save(editor, path, &err), &err);
    assert_done(mal_safetensors_open(&file, path, &err), &err);
    for (size_t i = 0; i < mal_safetensors_count(file); i++) {
        const struct mal_st_tensor *t = mal_safetensors_at(file, i);
        if (t->dtype != MAL_F32) continue; /* texts to preserve */
        float *data = golden_raw(file, t->name, NULL);
        keep(c, t->name, data, t->n_elements);
        free(data);
    }
    mal_safetensors_close(file);
    unlink(path);
}

static double real_of(const json_t *object, const char *key, double otherwise) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : otherwise;
}

static void run_steps(struct train_case *c, struct mal_trainer *trainer,
                      struct mal_editor *editor, const struct mal_train_data *data) {
    struct mal_error err = {0};
    struct mal_train_watch watch = {.observe = observe, .arg = c};
    size_t n = (size_t)real_of(c->at.expected, "n_edits", 0), facts[MAX_EDITS];
    assert_in_range(n, 1, MAX_EDITS);
    double rate = real_of(c->at.expected, "meta_lr", 0);
    struct mal_train_rates rates = {rate, real_of(c->at.expected, "lr_meta_lr", rate)};
    for (c->step = 0; c->step < c->n_steps; c->step++) {
        struct mal_train_batch batch;
        for (size_t i = 0; i < n; i++)
            facts[i] = (size_t)c->step * n + i;
        assert_done(mal_train_batch_make(&batch, data, facts, n, 0, &err), &err);
        assert_done(
            mal_trainer_step(trainer, &batch, &rates, &watch, &c->reports[c->step], &err),
            &err);
        mal_train_batch_finish(&batch);
        if (c->step != 0 && c->step != c->n_steps - 1) continue;
        assert_done(mal_trainer_fetch(trainer, &err), &err);
        keep_state(c, editor);
    }
}

static void run_case(struct train_case *c) {
    struct mal_error err = {0};
    char path[2 * GOLDEN_PATH];
    struct mal_model *model;
    struct mal_tokenizer *tok;
    struct mal_editor *editor;
    struct mal_preserve *preserve = NULL;
    struct mal_trainer *trainer;
    struct mal_train_data data;
    struct mal_fact *facts;
    size_t n_facts;
    if (c->done) return;
    c->done = true;
    c->n_steps = (int64_t)json_array_size(json_object_get(c->at.expected, "steps"));
    assert_in_range(c->n_steps, 1, MAX_STEPS);

    assert_done(mal_backend_create(&c->be, test_device(), &err), &err);
    snprintf(path, sizeof path, "%s/model", c->at.dir);
    assert_done(mal_model_open(&model, path, c->be, &err), &err);
    assert_done(mal_tokenizer_open(&tok, path, &err), &err);
    snprintf(path, sizeof path, "%s/init.safetensors", c->at.dir);
    assert_done(mal_editor_open(&editor, path, &err), &err);
    assert_done(mal_safetensors_open(&c->init, path, &err), &err);
    assert_done(mal_editor_bind(editor, model, &err), &err);
    snprintf(path, sizeof path, "%s/data.json", c->at.dir);
    assert_done(mal_facts_load(&facts, &n_facts, path, &err), &err);
    snprintf(path, sizeof path, "%s/expected.safetensors", c->at.dir);
    assert_done(mal_safetensors_open(&c->tensors, path, &err), &err);
    if (editor->preserve.n) {
        assert_done(
            mal_preserve_create(&preserve, model, editor, NULL, (double)NAN, NULL, &err),
            &err);
    }
    assert_done(mal_train_data_make(&data, model, tok, facts, n_facts, &err), &err);

    struct mal_train_options options = {
        .loc_coef = real_of(c->at.expected, "loc_coef", 1),
        .max_norm = real_of(c->at.expected, "max_grad_norm", 1),
        .editor_batch = (int64_t)real_of(c->at.expected, "editor_batch", 0),
        .preserve = preserve};
    assert_done(mal_trainer_create(&trainer, model, editor, &options, &err), &err);
    run_steps(c, trainer, editor, &data);

    mal_trainer_destroy(trainer);
    mal_train_data_finish(&data);
    mal_preserve_destroy(preserve);
    mal_facts_free(facts, n_facts);
    mal_editor_close(editor);
    mal_tokenizer_close(tok);
    mal_model_close(model);
    mal_backend_destroy(c->be);
}

/* ---- Checks ---- */

/* Where a pre-activation of the network is so near 0 that fp32 does not tell its sign:
 * what may be off where it is the other one. */
struct kink {
    const char *name;         /* of the case */
    const char *tensor;       /* of its expectations, one that it has to do with */
    const char *where;        /* in the names of all of them */
    double grad, state, norm; /* as the tolerances; of the last step's norm */
};

static const struct kink kinks[] = {
    /* 2.5e-8 in the first block of (32, 80), 0.2 being usual, while fp32 is off by 2e-7.
     * With the sign turned the reference in fp64 moves by 9.5e-4 in A's gradient, 1.9e-3
     * in the bias's. */
    {"t5-malmen-train", "step0.(32, 80).blocks.0.A", "(32, 80).blocks.0.", 2e-3, 6e-3, 0},
    /* 1e-9 in the last step, 1e-2 being usual. With the sign turned A ends 1.1e-2 of its
     * way elsewhere, and the norm is 2.1e-4 off. */
    {"gpt2-malmen-train", "step2.(20, 32).blocks.0.A", "step2.(20, 32).blocks.0.", 0,
     1.5e-2, 3e-4},
};

/* NULL: there is none in this case. */
static const struct kink *kink_of(const struct train_case *c) {
    for (size_t i = 0; i < sizeof kinks / sizeof *kinks; i++) {
        if (strcmp(golden_text(c->at.expected, "case"), kinks[i].name) == 0 &&
            mal_safetensors_find(c->tensors, kinks[i].tensor)) {
            return &kinks[i];
        }
    }
    return NULL;
}

static void test_losses(void **state) {
    struct train_case *c = *state;
    run_case(c);
    const json_t *steps = json_object_get(c->at.expected, "steps");
    double tolerance = real_of(json_object_get(c->at.expected, "tolerance"), "steps", 0);
    static const char *const keys[] = {"gen_loss", "loc_loss", "grad_norm"};
    const struct kink *kink = kink_of(c);
    for (int64_t k = 0; k < c->n_steps; k++) {
        const struct mal_train_report *report = &c->reports[k];
        double ours[] = {report->gen_loss, report->loc_loss, report->grad_norm};
        for (int i = 0; i < 3; i++) {
            double theirs = real_of(json_array_get(steps, (size_t)k), keys[i], NAN);
            double error = fabs(ours[i] - theirs) / (1e-3 + fabs(theirs));
            bool at_a_kink = kink && k == c->n_steps - 1 && i == 2;
            if (error <= tolerance || (at_a_kink && error <= kink->norm)) continue;
            fail_msg("step %lld: %s %.9g, expected %.9g", (long long)k, keys[i], ours[i],
                     theirs);
        }
    }
}

static double at_a_kink(const struct train_case *c, const char *name, bool since_init) {
    const struct kink *kink = kink_of(c);
    if (!kink || !strstr(name, kink->where)) return 0;
    return since_init ? kink->state : kink->grad;
}

/* How many tensors whose name begins so were compared; those of `kind` in the tolerances.
 */
static void check_seen(struct train_case *c, const char *prefix, const char *kind,
                       bool since_init) {
    const json_t *bounds =
        json_object_get(json_object_get(c->at.expected, "tolerance"), kind);
    size_t n = 0;
    for (size_t i = 0; i < c->n_seen; i++) {
        const struct seen *seen = &c->seen[i];
        if (strncmp(seen->name, prefix, strlen(prefix)) != 0) continue;
        const char *key = since_init ? seen->name : seen->name + strlen(prefix);
        if (!json_object_get(bounds, key)) continue;
        int64_t n_theirs;
        float *theirs = golden_raw(c->tensors, seen->name, &n_theirs);
        assert_int_equal(seen->n, n_theirs);
        double error = golden_distance(seen->data, theirs, seen->n);
        if (since_init) { /* relative to how far it went */
            float *start = golden_raw(c->init, strchr(seen->name, '.') + 1, NULL);
            double moved = golden_distance(start, theirs, seen->n);
            error = moved > 0 ? error / moved : error;
            free(start);
        }
        free(theirs);
        n++;
        double bound = json_number_value(json_object_get(bounds, key));
        if (error <= bound || error <= at_a_kink(c, seen->name, since_init)) continue;
        fail_msg("%s is %.3g off, allowed %.3g", seen->name, error, bound);
    }
    assert_int_equal(n, json_object_size(bounds));
}

static void test_shifts(void **state) {
    run_case(*state);
    check_seen(*state, "step0.shift.", "shift", false);
}

static void test_gradients(void **state) {
    run_case(*state);
    check_seen(*state, "step0.grad.", "grad", false);
}

static void test_state(void **state) {
    run_case(*state);
    check_seen(*state, "step", "state", true);
}

/* ---- Finding cases ---- */

static const struct golden_check checks[] = {{"losses", test_losses},
                                             {"shifts", test_shifts},
                                             {"gradients", test_gradients},
                                             {"state", test_state}};

enum { N_CHECKS = sizeof checks / sizeof *checks };

static void close_case(void *arg) {
    struct train_case *c = arg;
    for (size_t i = 0; i < c->n_seen; i++)
        free(c->seen[i].data);
    mal_safetensors_close(c->tensors);
    mal_safetensors_close(c->init);
    json_decref(c->at.expected);
    free(c);
}

static bool is_train_case(const json_t *expected, const char *name) {
    return json_is_array(json_object_get(expected, "steps")) &&
           golden_knows(golden_text(expected, "kind")) && strstr(name, "-train");
}

int main(void) {
    static void *cases[GOLDEN_MAX_CASES];
    size_t n =
        golden_find(is_train_case, sizeof(struct train_case), cases, GOLDEN_MAX_CASES);
    return golden_run("train", cases, n, checks, N_CHECKS, close_case);
}
