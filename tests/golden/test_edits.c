/* test_edits.c - edits against the reference implementation, each intermediate by itself
 * so that a failure says where: ids, keys, value gradients, value differences,
 * statistics, shifts, logits before and after, measures. */
#include "golden_edit.h"

enum { MAX_BATCHES = 64 };

/* Everything one run of a case gave; filled by the first test of the case. */
struct edit_case {
    struct golden_edit edit;
    size_t n_batches;
    bool sequential;

    size_t batch; /* being run */
    float *seen[3][MAX_BATCHES][MAX_MODULES];
    int64_t rows[MAX_BATCHES][MAX_MODULES];
    float *norm_mean[MAX_BATCHES][MAX_MODULES], *norm_std[MAX_BATCHES][MAX_MODULES];
    float *shift[MAX_BATCHES][MAX_MODULES]; /* T after the batch */
    double *losses; /* (n_losses) of the mini-batches of a method that trains */
    size_t n_losses;
};

/* ---- Running a case ---- */

static void observe(void *arg, enum mal_observed what, size_t module, int64_t rows,
                    const float *data) {
    struct edit_case *c = arg;
    const struct mal_linear *lin = mal_model_edit(c->edit.model, module);
    size_t width = (size_t)(what == MAL_OBSERVED_KEYS ? lin->d_in : lin->d_out);
    float *copy = malloc((size_t)rows * width * sizeof *copy);
    mal_backend_download(c->edit.be, copy, data, (size_t)rows * width * sizeof *copy);
    c->seen[what][c->batch][module] = copy;
    c->rows[c->batch][module] = rows;
}

static void observe_loss(void *arg, double loss) {
    struct edit_case *c = arg;
    c->losses = realloc(c->losses, (c->n_losses + 1) * sizeof *c->losses);
    c->losses[c->n_losses++] = loss;
}

static float *copy_floats(const float *x, int64_t n) {
    float *copy = malloc((size_t)n * sizeof *copy);
    memcpy(copy, x, (size_t)n * sizeof *copy);
    return copy;
}

static void run_batch(struct edit_case *c, struct mal_normalizer *norms, size_t first,
                      size_t n) {
    struct mal_error err = {0};
    struct mal_progress progress = {
        .arg = c, .observe = observe, .observe_loss = observe_loss};
    struct mal_delta delta = {0};
    struct mal_edit_report report;
    struct mal_edit_task task = golden_edit_task(&c->edit, first, n, &report);
    task.norms = norms;
    task.progress = &progress;
    assert_done(mal_edit_run(&task, &delta, &err), &err);
    assert_done(mal_weights_prepare(c->edit.ws, &delta, NULL, NULL, &err), &err);
    mal_weights_publish(c->edit.ws, (int64_t)c->batch + 1);
    mal_weights_use(c->edit.ws, (int64_t)c->batch + 1);
    for (size_t m = 0; m < mal_model_n_edited(c->edit.model); m++) {
        const struct mal_linear *lin = mal_model_edit(c->edit.model, m);
        float *t = malloc((size_t)(lin->d_in * lin->d_out) * sizeof *t);
        assert_done(mal_weights_read_shift(c->edit.ws, m, t, &err), &err);
        c->shift[c->batch][m] = t;
    }
    for (size_t s = 0; norms && s < c->edit.editor->n_shapes; s++) {
        c->norm_mean[c->batch][s] = copy_floats(norms[s].mean, norms[s].size);
        c->norm_std[c->batch][s] = copy_floats(norms[s].std, norms[s].size);
    }
    mal_delta_finish(&delta);
}

static void run_case(struct edit_case *c) {
    if (c->edit.model) return;
    golden_edit_open(&c->edit, MAX_BATCHES);
    struct mal_error err = {0};
    const json_t *batches = json_object_get(c->edit.at.expected, "batches");
    c->n_batches = json_array_size(batches);
    c->sequential =
        strstr(golden_text(c->edit.at.expected, "case"), "sequential") != NULL;
    assert_in_range(c->n_batches, 1, MAX_BATCHES);
    golden_edit_listen(&c->edit, false);
    struct mal_normalizer *norms = NULL;
    if (c->edit.editor->method->running) {
        norms = mal_editor_norms(c->edit.editor, &err);
        assert_non_null(norms);
    }
    size_t at = 0;
    for (c->batch = 0; c->batch < c->n_batches; c->batch++) {
        size_t n = (size_t)json_integer_value(json_array_get(batches, c->batch));
        run_batch(c, norms, at, n);
        at += n;
    }
    assert_int_equal(at, c->edit.n_facts);
    mal_norms_free(norms, c->edit.editor->n_shapes);
    golden_edit_listen(&c->edit, true);
}

/* ---- Checks ---- */

static void check_example(const json_t *tokens, const struct mal_example *e, size_t fact,
                          const char *what) {
    const json_t *ids = json_object_get(tokens, "ids"),
                 *labels = json_object_get(tokens, "labels");
    if (json_array_size(ids) != (size_t)e->n) {
        fail_msg("fact %zu %s: %d ids, expected %zu", fact, what, e->n,
                 json_array_size(ids));
    }
    for (int32_t i = 0; i < e->n; i++) {
        int64_t id = json_integer_value(json_array_get(ids, (size_t)i));
        if (id == e->ids[i]) continue;
        fail_msg("fact %zu %s, position %d: id %d, expected %lld", fact, what, i,
                 e->ids[i], (long long)id);
    }
    int32_t skip = (int32_t)json_array_size(labels) - e->n_target;
    assert_int_equal(skip, e->has_decoder ? 0 : e->from);
    for (int32_t i = 0; i < e->n_target; i++) {
        double label = json_number_value(json_array_get(labels, (size_t)(skip + i)));
        if (label == (double)e->target[i]) continue;
        fail_msg("fact %zu %s, label %d: %d, expected %g", fact, what, i, e->target[i],
                 label);
    }
    const json_t *decoder = json_object_get(tokens, "decoder_ids");
    assert_int_equal(json_array_size(decoder), e->has_decoder ? e->n_target : 0);
    for (int32_t i = 0; e->has_decoder && i < e->n_target; i++) {
        int64_t id = json_integer_value(json_array_get(decoder, (size_t)i));
        assert_int_equal(id, i > 0 ? e->target[i - 1] : e->decoder_start);
    }
}

static void check_ids(const json_t *want, const int32_t *ids, int32_t n, size_t fact,
                      const char *what) {
    bool same = json_array_size(want) == (size_t)n;
    for (int32_t i = 0; same && i < n; i++)
        same = json_integer_value(json_array_get(want, (size_t)i)) == ids[i];
    if (!same) fail_msg("fact %zu: %s differ", fact, what);
}

/* What FT reads: the prompt, and the targets at its last position. */
static void check_prompt(const json_t *tokens, const struct mal_example *e, size_t fact) {
    struct mal_error err = {0};
    struct mal_packed packed = {0};
    assert_done(mal_examples_pack_prompts(e, NULL, 1, &packed, &err), &err);
    const struct mal_batch *b = &packed.batch;
    assert_int_equal(b->from[0], b->start[1] - 1);
    check_ids(json_object_get(tokens, "ids"), b->ids, b->start[1], fact, "prompt's ids");
    check_ids(json_object_get(tokens, "targets"), b->targets, b->target_start[1], fact,
              "targets");
    mal_packed_finish(&packed);
}

static void test_ids(void **state) {
    struct edit_case *c = *state;
    run_case(c);
    const json_t *tokens = json_object_get(c->edit.at.expected, "tokens");
    for (size_t i = 0; i < c->edit.n_facts; i++) {
        const json_t *of_fact = json_array_get(tokens, i);
        struct mal_example e = {0};
        golden_edit_example(&c->edit, i, false, &e);
        check_example(json_object_get(of_fact, "edit"), &e, i, "edit");
        if (json_object_get(of_fact, "ft"))
            check_prompt(json_object_get(of_fact, "ft"), &e, i);
        mal_example_finish(&e);
        if (!json_object_get(of_fact, "unrelated")) continue;
        golden_edit_example(&c->edit, i, true, &e);
        check_example(json_object_get(of_fact, "unrelated"), &e, i, "unrelated");
        mal_example_finish(&e);
    }
}

/* "<what>.[<batch>.]<module>" */
static void tensor_name(const struct edit_case *c, const char *what, size_t batch,
                        size_t module, char out[256]) {
    const char *name = mal_model_edit(c->edit.model, module)->name;
    if (c->sequential) {
        snprintf(out, 256, "%s.%zu.%s", what, batch, name);
    } else {
        snprintf(out, 256, "%s.%s", what, name);
    }
}

/* `tolerance`: the relative Frobenius distance an fp32 pipeline of this size may have. */
static void check_rows(struct edit_case *c, enum mal_observed what, const char *letter,
                       double tolerance) {
    run_case(c);
    for (size_t b = 0; c->edit.editor->method->keyed && b < c->n_batches; b++) {
        for (size_t m = 0; m < mal_model_n_edits(c->edit.model); m++) {
            char name[256];
            int64_t n = 0;
            tensor_name(c, letter, b, m, name);
            float *expected = golden_raw(c->edit.tensors, name, &n);
            const struct mal_linear *lin = mal_model_edit(c->edit.model, m);
            int64_t width = what == MAL_OBSERVED_KEYS ? lin->d_in : lin->d_out;
            assert_int_equal(n, c->rows[b][m] * width);
            double distance = golden_distance(c->seen[what][b][m], expected, n);
            free(expected);
            if (!(distance <= tolerance)) {
                fail_msg("%s: distance %g above %g", name, distance, tolerance);
            }
        }
    }
}

static void test_keys(void **state) {
    check_rows(*state, MAL_OBSERVED_KEYS, "U", 1e-5);
}

/* T5's own in fp32 are up to 8e-6 from fp64. */
static void test_gradients(void **state) {
    check_rows(*state, MAL_OBSERVED_GRADIENTS, "G", 3e-5);
}

static void test_differences(void **state) {
    struct edit_case *c = *state;
    run_case(c);
    if (!c->edit.editor->method->solves) return; /* has none */
    check_rows(c, MAL_OBSERVED_DIFFERENCES, "D", 1e-4);
}

static void check_norm(struct edit_case *c, size_t batch, size_t s, const char *part,
                       const float *ours) {
    char name[256];
    int64_t n = 0;
    const struct mal_editor_shape *shape = &c->edit.editor->shapes[s];
    snprintf(name, sizeof name, "normalizer.%zu.(%lld, %lld).%s", batch,
             (long long)shape->d_in, (long long)shape->d_out, part);
    float *expected = golden_raw(c->edit.tensors, name, &n);
    assert_int_equal(n, shape->size);
    double distance = golden_distance(ours, expected, n);
    free(expected);
    if (!(distance <= 1e-5)) fail_msg("%s: distance %g", name, distance);
}

/* Of every shape after every batch; a case of one batch has none. */
static void test_statistics(void **state) {
    struct edit_case *c = *state;
    run_case(c);
    for (size_t b = 0; c->sequential && b < c->n_batches; b++) {
        for (size_t s = 0; s < MAX_MODULES && c->norm_mean[b][s]; s++) {
            check_norm(c, b, s, "mean", c->norm_mean[b][s]);
            check_norm(c, b, s, "std", c->norm_std[b][s]);
        }
    }
}

static void test_shifts(void **state) {
    struct edit_case *c = *state;
    run_case(c);
    for (size_t b = 0; b < c->n_batches; b++) {
        for (size_t m = 0; m < mal_model_n_edited(c->edit.model); m++) {
            char name[256];
            tensor_name(c, "shift64", b, m, name);
            golden_edit_check_shift(&c->edit, name, c->shift[b][m],
                                    b > 0 ? c->shift[b - 1][m] : NULL);
        }
    }
}

static void test_logits(void **state) {
    struct edit_case *c = *state;
    run_case(c);
    golden_edit_check_logits(&c->edit);
}

static void test_measures(void **state) {
    struct edit_case *c = *state;
    run_case(c);
    golden_edit_check_measures(&c->edit);
}

/* Of methods that train: every mini-batch's, pass by pass. */
static void test_losses(void **state) {
    struct edit_case *c = *state;
    run_case(c);
    const json_t *expected = json_object_get(c->edit.at.expected, "losses"), *pass;
    size_t i, k, n = 0;
    if (c->edit.editor->method->keyed) return;
    double limit = golden_edit_tolerance(&c->edit, "losses", NULL);
    json_array_foreach (expected, i, pass) {
        const json_t *one;
        json_array_foreach (pass, k, one) {
            double theirs = json_number_value(one);
            if (n == c->n_losses) fail_msg("there are %zu losses only", n);
            double error = fabs(c->losses[n++] - theirs) / (1e-3 + fabs(theirs));
            if (!(error <= limit))
                fail_msg("pass %zu, batch %zu: error %g above %g", i, k, error, limit);
        }
    }
    assert_int_equal(n, c->n_losses);
    assert_true(n > 0 && limit > 0);
}

/* ---- Finding cases ---- */

static const struct golden_check checks[] = {{"ids", test_ids},
                                             {"keys", test_keys},
                                             {"value gradients", test_gradients},
                                             {"statistics", test_statistics},
                                             {"value differences", test_differences},
                                             {"shifts", test_shifts},
                                             {"logits", test_logits},
                                             {"measures", test_measures},
                                             {"losses", test_losses}};

enum { N_CHECKS = sizeof checks / sizeof *checks };

static void close_case(void *arg) {
    struct edit_case *c = arg;
    for (size_t b = 0; b < MAX_BATCHES; b++) {
        for (size_t m = 0; m < MAX_MODULES; m++) {
            for (int k = 0; k < 3; k++)
                free(c->seen[k][b][m]);
            free(c->shift[b][m]);
            free(c->norm_mean[b][m]);
            free(c->norm_std[b][m]);
        }
    }
    free(c->losses);
    golden_edit_close(&c->edit);
    free(c);
}

static bool is_edit_case(const json_t *expected, const char *name) {
    const char *method = golden_text(expected, "method");
    return golden_knows(golden_text(expected, "kind")) &&
           !json_object_get(expected, "steps") && mal_method_find(method) &&
           strcmp(method, "memit") != 0; /* test_memit.c */
}

int main(void) {
    static void *cases[GOLDEN_MAX_CASES];
    size_t n =
        golden_find(is_edit_case, sizeof(struct edit_case), cases, GOLDEN_MAX_CASES);
    int failed = golden_run("edits", cases, n, checks, N_CHECKS, close_case);
    mal_backend_destroy(golden_backend);
    return failed;
}
