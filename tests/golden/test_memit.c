/* test_memit.c - MEMIT against its authors' code, step by step: texts and where their
 * subjects end, each step's loss, values, keys, residuals, shifts, logits, measures. */
#include "golden_edit.h"

#include "core/editor/memit_impl.h"

enum { MAX_STEPS = 64, N_TERMS = 2 /* facts that have them */ };

struct memit_case {
    struct golden_edit edit;
    struct mal_memit_fact *texts; /* (n_facts) */

    float *z; /* (n_facts, C) */
    int64_t *steps;
    struct mal_memit_terms terms[N_TERMS][MAX_STEPS];
    float *keys[MAX_MODULES], *residuals[MAX_MODULES], *shift[MAX_MODULES];
};

/* ---- Running a case ---- */

static void open_case(struct memit_case *c) {
    struct mal_error err = {0};
    golden_edit_open(&c->edit, 1);
    c->texts = mal_calloc(c->edit.n_facts, sizeof *c->texts);
    for (size_t i = 0; i < c->edit.n_facts; i++) {
        assert_done(mal_memit_fact_init(&c->texts[i], c->edit.editor->own, c->edit.model,
                                        c->edit.tok, &c->edit.facts[i], &err),
                    &err);
    }
}

static void watch(void *arg, size_t fact, int64_t step, const struct mal_memit_terms *t) {
    struct memit_case *c = arg;
    assert_true(step < MAX_STEPS);
    c->steps[fact] = step + 1;
    if (fact < N_TERMS) c->terms[fact][step] = *t;
}

/* Of the first `n` facts, at most `most_facts` at once. */
static float *values_of(struct memit_case *c, size_t n, size_t most_facts,
                        void (*watched)(void *, size_t, int64_t,
                                        const struct mal_memit_terms *)) {
    struct mal_error err = {0};
    struct mal_edit_report report = {0};
    struct mal_memit_values values = {
        .model = c->edit.model,
        .block = mal_model_edit(c->edit.model, c->edit.editor->n_modules - 1)->block,
        .hyper = c->edit.editor->hyper,
        .facts = c->texts,
        .n = n,
        .most_facts = most_facts,
        .report = &report,
        .watch = watched,
        .watch_arg = c};
    size_t width = (size_t)mal_model_info(c->edit.model)->n_channels;
    float *z = malloc(n * width * sizeof *z);
    assert_done(mal_memit_find_values(&values, z, &err), &err);
    return z;
}

static void observe(void *arg, enum mal_observed what, size_t m, int64_t rows,
                    const float *data) {
    struct memit_case *c = arg;
    const struct mal_linear *lin = mal_model_edit(c->edit.model, m);
    bool keys = what == MAL_OBSERVED_KEYS;
    size_t n = (size_t)(rows * (keys ? lin->d_in : lin->d_out));
    float *copy = malloc(n * sizeof *copy);
    mal_backend_download(c->edit.be, copy, data, n * sizeof *copy);
    *(keys ? &c->keys[m] : &c->residuals[m]) = copy;
}

/* A reader, who leaves the model with the weights that are in use. */
static bool read_between(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct memit_case *c = arg;
    (void)stage, (void)done, (void)total;
    mal_weights_lend(c->edit.ws, 0);
    mal_weights_give_back(c->edit.ws);
    return true;
}

static void edit(struct memit_case *c) {
    struct mal_error err = {0};
    struct mal_progress progress = {
        .arg = c, .observe = observe, .tick = read_between, .slice_tokens = 40};
    struct mal_delta delta = {0};
    struct mal_edit_report report = {0};
    struct mal_edit_task task = golden_edit_task(&c->edit, 0, c->edit.n_facts, &report);
    task.progress = &progress;
    assert_done(mal_memit_edit_to(&task, c->texts, c->edit.n_facts, c->z, &delta, &err),
                &err);
    assert_done(mal_weights_prepare(c->edit.ws, &delta, NULL, NULL, &err), &err);
    mal_weights_publish(c->edit.ws, 1);
    mal_weights_use(c->edit.ws, 1);
    for (size_t m = 0; m < mal_model_n_edits(c->edit.model); m++) {
        const struct mal_linear *lin = mal_model_edit(c->edit.model, m);
        c->shift[m] = malloc((size_t)(lin->d_in * lin->d_out) * sizeof(float));
        assert_done(mal_weights_read_shift(c->edit.ws, m, c->shift[m], &err), &err);
    }
    mal_delta_finish(&delta);
}

static void run_case(struct memit_case *c) {
    if (c->edit.model) return;
    open_case(c);
    c->steps = calloc(c->edit.n_facts, sizeof *c->steps);
    c->z = values_of(c, c->edit.n_facts, 0, watch);
    golden_edit_listen(&c->edit, false);
    edit(c);
    golden_edit_listen(&c->edit, true);
}

/* ---- Texts ---- */

static void check_ids(const json_t *expected, const int32_t *ids, size_t n, size_t fact,
                      const char *what) {
    for (size_t i = 0; i < n; i++) {
        int64_t id = json_integer_value(json_array_get(expected, i));
        if (i < json_array_size(expected) && id == ids[i]) continue;
        fail_msg("fact %zu, %s: id %zu is %d", fact, what, i, ids[i]);
    }
}

static int64_t lookup_of(const json_t *text) {
    return json_integer_value(json_object_get(text, "lookup"));
}

static void check_rewrite(const json_t *expected, const struct mal_example *e, int32_t at,
                          size_t fact) {
    const json_t *ids = json_object_get(expected, "ids"),
                 *labels = json_object_get(expected, "labels");
    check_ids(ids, e->ids, (size_t)e->n, fact, "rewrite");
    assert_int_equal(json_array_size(ids), e->n);
    assert_int_equal(lookup_of(expected), at);
    for (int32_t t = 0; t < e->n; t++) {
        int64_t label = json_integer_value(json_array_get(labels, (size_t)t));
        assert_int_equal(label, t < e->from ? -100 : e->target[t - e->from]);
    }
}

static void test_texts(void **state) {
    struct memit_case *c = *state;
    run_case(c);
    for (size_t i = 0; i < c->edit.n_facts; i++) {
        const struct mal_memit_fact *fact = &c->texts[i];
        const json_t *tokens = json_object_get(
            json_array_get(json_object_get(c->edit.at.expected, "tokens"), i), "memit");
        const json_t *rewrites = json_object_get(tokens, "rewrite"),
                     *keys = json_object_get(tokens, "keys"),
                     *about = json_object_get(tokens, "kl");
        assert_int_equal(json_array_size(rewrites), fact->n);
        for (size_t t = 0; t < fact->n; t++) {
            const json_t *key = json_array_get(keys, t);
            check_rewrite(json_array_get(rewrites, t), &fact->texts[t], fact->at[t], i);
            check_ids(json_object_get(key, "ids"), fact->texts[t].ids,
                      (size_t)fact->at[t] + 1, i, "keys");
            assert_int_equal(lookup_of(key), fact->at[t]);
        }
        check_ids(json_object_get(about, "ids"), fact->about.ids, fact->about.n, i, "kl");
        assert_int_equal(lookup_of(about) + 1, fact->about.n);
    }
}

/* ---- Values ---- */

static void test_steps(void **state) {
    struct memit_case *c = *state;
    run_case(c);
    const json_t *steps = json_object_get(c->edit.at.expected, "steps");
    const json_t *terms = json_object_get(c->edit.at.expected, "terms");
    double limit = golden_edit_tolerance(&c->edit, "terms", NULL);
    for (size_t i = 0; i < c->edit.n_facts; i++)
        assert_int_equal(c->steps[i], json_integer_value(json_array_get(steps, i)));
    for (size_t i = 0; i < json_array_size(terms); i++) {
        const json_t *of_fact = json_array_get(terms, i);
        assert_int_equal(json_array_size(of_fact), c->steps[i]);
        for (size_t s = 0; s < json_array_size(of_fact); s++) {
            static const char *const names[] = {"loss", "nll", "kl", "weight_decay"};
            const struct mal_memit_terms *t = &c->terms[i][s];
            const double got[] = {t->loss, t->nll, t->kl, t->weight_decay};
            for (size_t k = 0; k < 4; k++) {
                double want = json_number_value(
                    json_object_get(json_array_get(of_fact, s), names[k]));
                if (fabs(got[k] - want) <= limit * (1e-3 + fabs(want))) continue;
                fail_msg("fact %zu, step %zu, %s: %.9g, expected %.9g", i, s, names[k],
                         got[k], want);
            }
        }
    }
}

static double worst_row(const float *a, const float *b, size_t rows, int64_t n) {
    double worst = 0;
    for (size_t i = 0; i < rows; i++) {
        double d = golden_distance(a + (int64_t)i * n, b + (int64_t)i * n, n);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

static void test_values(void **state) {
    struct memit_case *c = *state;
    run_case(c);
    int64_t n = 0, width = mal_model_info(c->edit.model)->n_channels;
    float *expected = golden_raw(c->edit.tensors, "z", &n);
    assert_int_equal(n, (int64_t)c->edit.n_facts * width);
    double distance = worst_row(c->z, expected, c->edit.n_facts, width);
    if (!(distance <= golden_edit_tolerance(&c->edit, "z", NULL)))
        fail_msg("z: distance %g", distance);
    free(expected);
}

/* The shifts of a whole edit: in slices of another size, and of sizes like these sums are
 * grouped otherwise, so the last bits may differ. */
static void check_again(struct memit_case *c, const struct mal_delta *t) {
    assert_int_equal(t->n_parts, mal_model_n_edits(c->edit.model));
    for (size_t m = 0; m < t->n_parts; m++) {
        const struct mal_linear *lin = mal_model_edit(c->edit.model, m);
        size_t i = 0;
        while (i < t->n_parts && strcmp(t->parts[i].module, lin->name) != 0)
            i++;
        assert_true(i < t->n_parts);
        double distance =
            golden_distance(t->parts[i].data, c->shift[m], lin->d_in * lin->d_out);
        double limit = golden_edit_tolerance(&c->edit, "shift", lin->name);
        if (!(distance <= limit)) fail_msg("%s: distance %g", lin->name, distance);
    }
}

/* One fact at a time the values are the same, and an edit is all of it. */
static void test_whole(void **state) {
    struct memit_case *c = *state;
    if (strcmp(test_device(), "cpu") != 0) return; /* which takes its time */
    run_case(c);
    mal_weights_use(c->edit.ws, 0);
    float *alone = values_of(c, c->edit.n_facts, 1, NULL);
    double distance = worst_row(alone, c->z, c->edit.n_facts,
                                mal_model_info(c->edit.model)->n_channels);
    if (!(distance <= 2e-5)) fail_msg("z of single facts: distance %g", distance);
    free(alone);

    struct mal_error err = {0};
    struct mal_delta delta = {0}, t = {0};
    struct mal_edit_report report;
    struct mal_edit_task task = golden_edit_task(&c->edit, 0, c->edit.n_facts, &report);
    assert_done(mal_edit_run(&task, &delta, &err), &err);
    assert_done(mal_weights_try(c->edit.ws, 0, &delta, NULL, NULL, &err), &err);
    assert_done(mal_weights_seal(c->edit.ws, NULL, NULL, &err), &err);
    assert_done(mal_weights_read_keyframe(c->edit.ws, NULL, NULL, &t, &err), &err);
    check_again(c, &t);
    mal_weights_discard(c->edit.ws);
    mal_delta_finish(&t);
    mal_delta_finish(&delta);
}

/* ---- Shifts ---- */

static void check_rows(struct memit_case *c, const char *letter, const char *what,
                       float *const *got) {
    run_case(c);
    for (size_t m = 0; m < mal_model_n_edits(c->edit.model); m++) {
        const char *module = mal_model_edit(c->edit.model, m)->name;
        char name[256];
        int64_t n = 0;
        snprintf(name, sizeof name, "%s.%s", letter, module);
        float *expected = golden_raw(c->edit.tensors, name, &n);
        double distance = golden_distance(got[m], expected, n);
        double limit = golden_edit_tolerance(&c->edit, what, module);
        free(expected);
        if (!(distance <= limit))
            fail_msg("%s: distance %g above %g", name, distance, limit);
    }
}

static void test_keys(void **state) {
    struct memit_case *c = *state;
    check_rows(c, "k", "k", c->keys);
}

static void test_residuals(void **state) {
    struct memit_case *c = *state;
    check_rows(c, "resid", "resid", c->residuals);
}

static void test_shifts(void **state) {
    struct memit_case *c = *state;
    run_case(c);
    for (size_t m = 0; m < mal_model_n_edits(c->edit.model); m++) {
        char name[256];
        snprintf(name, sizeof name, "shift64.%s", mal_model_edit(c->edit.model, m)->name);
        golden_edit_check_shift(&c->edit, name, c->shift[m], NULL);
    }
}

/* ---- An editor made anew ---- */

static void check_moments(const struct memit_case *c, const struct mal_memit *made) {
    const struct mal_memit *want = c->edit.editor->own;
    for (size_t m = 0; m < want->n_modules; m++) {
        int64_t d = want->d_in[m];
        double distance = golden_distance(made->mom2[m], want->mom2[m], d * d);
        if (!(distance <= 2e-6)) fail_msg("moments of module %zu: %g", m, distance);
    }
}

/* Of the same texts the second moments are the same; contexts come from the seed. */
static void test_making(void **state) {
    struct memit_case *c = *state;
    run_case(c);
    mal_weights_use(c->edit.ws, 0);
    const char *names[MAX_MODULES];
    char path[2 * GOLDEN_PATH];
    struct mal_error err = {0};
    struct mal_preserve_texts texts = {0};
    struct mal_memit *made[2];
    struct mal_editor *editors[2];
    for (size_t m = 0; m < c->edit.editor->n_modules; m++)
        names[m] = c->edit.editor->modules[m].name;
    snprintf(path, sizeof path, "%s/mom2_texts.json", c->edit.at.dir);
    assert_done(mal_preserve_texts_load(&texts, path, c->edit.model, c->edit.tok, &err),
                &err);
    for (size_t i = 0; i < 2; i++) {
        int64_t n_tokens = 0;
        assert_done(mal_editor_create_direct(&editors[i], c->edit.editor->method,
                                             c->edit.model, names,
                                             c->edit.editor->n_modules, NULL, &err),
                    &err);
        struct mal_method_sample sample = {
            .tok = c->edit.tok, .texts = &texts, .n_contexts = 7, .seed = 3 + i};
        assert_done(
            mal_memit_measure(editors[i], c->edit.model, &sample, &n_tokens, &err), &err);
        made[i] = editors[i]->own;
        check_moments(c, made[i]);
        assert_int_equal(
            n_tokens, json_integer_value(json_object_get(
                          json_object_get(c->edit.at.expected, "sizes"), "mom2_tokens")));
        assert_int_equal(made[i]->n_contexts, 8);
        assert_string_equal(made[i]->contexts[0], "{}");
    }
    size_t differ = 0;
    for (size_t k = 1; k < 8; k++)
        differ += strcmp(made[0]->contexts[k], made[1]->contexts[k]) != 0;
    assert_true(differ > 0);

    /* Fewer tokens than inputs. */
    struct mal_editor *poor;
    int64_t n_tokens = 0;
    texts.n = 1;
    assert_done(mal_editor_create_direct(&poor, c->edit.editor->method, c->edit.model,
                                         names, c->edit.editor->n_modules, NULL, &err),
                &err);
    struct mal_method_sample few = {.tok = c->edit.tok, .texts = &texts};
    if (mal_memit_measure(poor, c->edit.model, &few, &n_tokens, &err)) {
        const struct mal_memit *own = poor->own; /* a small model: one text is enough */
        for (size_t m = 0; m < own->n_modules; m++)
            assert_true(n_tokens >= own->d_in[m]);
    } else {
        assert_int_equal(err.status, MAL_INVALID);
        assert_non_null(strstr(err.text, "too few"));
    }
    mal_editor_close(poor);
    mal_editor_close(editors[0]);
    mal_editor_close(editors[1]);
    mal_preserve_texts_finish(&texts);
    mal_weights_use(c->edit.ws, 1);
}

/* ---- What the model says then ---- */

static void test_logits(void **state) {
    struct memit_case *c = *state;
    run_case(c);
    golden_edit_check_logits(&c->edit);
}

static void test_measures(void **state) {
    struct memit_case *c = *state;
    run_case(c);
    golden_edit_check_measures(&c->edit);
}

/* ---- Finding cases ---- */

static const struct golden_check checks[] = {
    {"texts", test_texts},      {"steps", test_steps},         {"values", test_values},
    {"keys", test_keys},        {"residuals", test_residuals}, {"shifts", test_shifts},
    {"whole", test_whole},      {"making", test_making},       {"logits", test_logits},
    {"measures", test_measures}};

enum { N_CHECKS = sizeof checks / sizeof *checks };

static void close_case(void *arg) {
    struct memit_case *c = arg;
    for (size_t m = 0; m < MAX_MODULES; m++) {
        free(c->keys[m]);
        free(c->residuals[m]);
        free(c->shift[m]);
    }
    free(c->z);
    free(c->steps);
    mal_memit_facts_free(c->texts, c->edit.n_facts);
    golden_edit_close(&c->edit);
    free(c);
}

static bool is_memit_case(const json_t *expected, const char *name) {
    return golden_knows(golden_text(expected, "kind")) &&
           strcmp(golden_text(expected, "method"), "memit") == 0;
}

int main(void) {
    static void *cases[GOLDEN_MAX_CASES];
    size_t n =
        golden_find(is_memit_case, sizeof(struct memit_case), cases, GOLDEN_MAX_CASES);
    int failed = golden_run("memit", cases, n, checks, N_CHECKS, close_case);
    mal_backend_destroy(golden_backend);
    return failed;
}
