/* test_logits.c - logits of whole sequences against transformers', case by case. */
#include "logit_cases.h"

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
    struct logit_files files;
    logit_case_open(*state, &files);
    size_t n = (size_t)json_integer_value(json_object_get(files.json, "sequences"));
    assert_true(n > 0);
    for (size_t k = 0; k < n; k++) {
        check_sequence(files.model, files.tensors, k,
                       json_number_value(json_object_get(files.json, "tolerance")));
    }
    logit_case_close(&files);
}

int main(void) {
    return logit_cases_run("logits", "sequences", test_case);
}
