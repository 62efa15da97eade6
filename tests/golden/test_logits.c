/* test_logits.c - logits of whole sequences against transformers', case by case. */
#include "golden.h"

#include "core/model/model.h"

struct logit_case {
    char name[GOLDEN_PATH], root[GOLDEN_PATH], base[GOLDEN_PATH];
};

static void check_against(const char *what, const struct mal_safetensors *file, size_t k,
                          const float *values, int64_t n, double tolerance) {
    char name[64];
    int64_t n_expected = 0;
    snprintf(name, sizeof name, "%s.%zu", what, k);
    float *expected = golden_raw(file, name, &n_expected);
    assert_int_equal(n_expected, n);
    double error = golden_logit_error(values, expected, n);
    if (!(error <= tolerance)) fail_msg("%s: error %g above %g", name, error, tolerance);
    free(expected);
}

static void check_hidden(struct mal_model *model, const struct mal_safetensors *file,
                         size_t k, const int32_t *ids, int64_t n, double tolerance) {
    struct mal_error err = {0};
    int64_t c = mal_model_info(model)->n_channels;
    float *hidden = malloc((size_t)(n * c) * sizeof *hidden);
    assert_done(mal_model_hidden(model, ids, (size_t)n, hidden, &err), &err);
    check_against("hidden", file, k, hidden, n * c, tolerance);
    free(hidden);
}

static void check_sequence(struct mal_model *model, const struct mal_safetensors *file,
                           size_t k, double tolerance) {
    const struct mal_model_info *info = mal_model_info(model);
    bool classifier = info->kind == MAL_MODEL_CLASSIFIER;
    bool seq2seq = info->kind == MAL_MODEL_SEQ2SEQ;
    char name[64];
    int64_t n = 0, n_source = 0;
    struct mal_error err = {0};
    snprintf(name, sizeof name, "ids.%zu", k);
    int32_t *ids = golden_raw(file, name, &n), *source = NULL;
    if (seq2seq) {
        source = ids;
        n_source = n;
        snprintf(name, sizeof name, "decoder_ids.%zu", k);
        ids = golden_raw(file, name, &n);
    }
    int64_t n_logits = (classifier ? 1 : n) * info->n_outputs;
    float *logits = malloc((size_t)n_logits * sizeof *logits);
    assert_done(
        mal_model_logits(model, source, (size_t)n_source, ids, (size_t)n, logits, &err),
        &err);
    if (classifier) {
        logits[0] = logits[1] - logits[0]; /* of "supported" */
        n_logits = 1;
    }
    check_against("logits", file, k, logits, n_logits, tolerance);
    if (classifier) check_hidden(model, file, k, ids, n, tolerance);
    free(ids);
    free(source);
    free(logits);
}

static void test_case(void **state) {
    const struct logit_case *c = *state;
    char path[3 * GOLDEN_PATH];
    struct mal_error err = {0};
    struct mal_backend *be = NULL;
    struct mal_model *model = NULL;
    struct mal_safetensors *file = NULL;

    snprintf(path, sizeof path, "%s.json", c->base);
    json_t *json = golden_json(path);
    snprintf(path, sizeof path, "%s/%s", c->root, golden_text(json, "model"));
    assert_done(mal_backend_create(&be, "cpu", &err), &err);
    assert_done(mal_model_open(&model, path, be, &err), &err);
    snprintf(path, sizeof path, "%s.safetensors", c->base);
    assert_done(mal_safetensors_open(&file, path, &err), &err);
    size_t n = (size_t)json_integer_value(json_object_get(json, "sequences"));
    assert_true(n > 0);
    for (size_t k = 0; k < n; k++) {
        check_sequence(model, file, k,
                       json_number_value(json_object_get(json, "tolerance")));
    }
    mal_safetensors_close(file);
    mal_model_close(model);
    mal_backend_destroy(be);
    json_decref(json);
}

static size_t find_cases(struct CMUnitTest *tests, size_t max) {
    size_t n = 0;
    for (int which = 0; which < 2; which++) {
        char root[GOLDEN_PATH], dir[2 * GOLDEN_PATH], path[3 * GOLDEN_PATH];
        char **names;
        golden_root(which, root);
        snprintf(dir, sizeof dir, "%s/logits", root);
        size_t n_names = golden_list(dir, &names);
        for (size_t i = 0; i < n_names && n < max; i++) {
            char *dot = strstr(names[i], ".json");
            snprintf(path, sizeof path, "%s/%s", dir, names[i]);
            json_t *json = dot ? json_load_file(path, 0, NULL) : NULL;
            if (json && golden_knows(golden_text(json, "kind"))) {
                struct logit_case *c = calloc(1, sizeof *c);
                *dot = 0;
                snprintf(c->name, sizeof c->name, "%s", names[i]);
                snprintf(c->root, sizeof c->root, "%s", root);
                snprintf(c->base, sizeof c->base, "%.250s/logits/%.250s", root, names[i]);
                tests[n++] = (struct CMUnitTest){
                    .name = c->name, .test_func = test_case, .initial_state = c};
            }
            json_decref(json);
            free(names[i]);
        }
        free(names);
    }
    return n;
}

int main(void) {
    struct CMUnitTest tests[64];
    size_t n = find_cases(tests, 64);
    if (n == 0) {
        fprintf(stderr, "no logit cases found\n");
        return 1;
    }
    int failed = _cmocka_run_group_tests("logits", tests, n, NULL, NULL);
    for (size_t i = 0; i < n; i++)
        free(tests[i].initial_state);
    return failed;
}
