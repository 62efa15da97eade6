/* logit_cases.h - the cases of logits/ in both golden folders, each a test. */
#ifndef MAL_TEST_LOGIT_CASES_H
#define MAL_TEST_LOGIT_CASES_H

#include "golden.h"

#include "core/model/model.h"
#include "tests/unit/test_device.h"

struct logit_case {
    char name[GOLDEN_PATH], root[GOLDEN_PATH], base[GOLDEN_PATH];
};

/* A case's files, and its model. */
struct logit_files {
    json_t *json;
    struct mal_safetensors *tensors;
    struct mal_backend *be;
    struct mal_model *model;
    char model_dir[2 * GOLDEN_PATH];
};

static inline void logit_case_open(const struct logit_case *c, struct logit_files *out) {
    char path[2 * GOLDEN_PATH];
    struct mal_error err = {0};
    *out = (struct logit_files){0};
    snprintf(path, sizeof path, "%s.json", c->base);
    out->json = golden_json(path);
    snprintf(out->model_dir, sizeof out->model_dir, "%s/%s", c->root,
             golden_text(out->json, "model"));
    assert_done(mal_backend_create(&out->be, test_device(), &err), &err);
    assert_done(mal_model_open(&out->model, out->model_dir, out->be, &err), &err);
    snprintf(path, sizeof path, "%s.safetensors", c->base);
    assert_done(mal_safetensors_open(&out->tensors, path, &err), &err);
}

static inline void logit_case_close(struct logit_files *files) {
    mal_safetensors_close(files->tensors);
    mal_model_close(files->model);
    mal_backend_destroy(files->be);
    json_decref(files->json);
}

/* Makes a test of every case whose JSON has the member `key`, at most `max`. */
static inline size_t logit_cases_find(const char *key, CMUnitTestFunction run,
                                      struct CMUnitTest *tests, size_t max) {
    size_t n = 0;
    for (int which = 0; which < 2; which++) {
        char root[GOLDEN_PATH], dir[2 * GOLDEN_PATH], path[3 * GOLDEN_PATH];
        char **names;
        golden_root(which, root);
        snprintf(dir, sizeof dir, "%s/logits", root);
        size_t n_names = golden_list(dir, &names);
        for (size_t i = 0; i < n_names; i++) {
            char *dot = strstr(names[i], ".json");
            snprintf(path, sizeof path, "%s/%s", dir, names[i]);
            json_t *json = dot ? json_load_file(path, 0, NULL) : NULL;
            if (json && golden_knows(golden_text(json, "kind")) &&
                json_object_get(json, key)) {
                golden_check_room(n, max);
                struct logit_case *c = calloc(1, sizeof *c);
                *dot = 0;
                snprintf(c->name, sizeof c->name, "%s", names[i]);
                snprintf(c->root, sizeof c->root, "%s", root);
                snprintf(c->base, sizeof c->base, "%.250s/logits/%.250s", root, names[i]);
                tests[n++] = (struct CMUnitTest){
                    .name = c->name, .test_func = run, .initial_state = c};
            }
            json_decref(json);
            free(names[i]);
        }
        free(names);
    }
    return n;
}

/* Runs them; the exit code. */
static inline int logit_cases_run(const char *group, const char *key,
                                  CMUnitTestFunction run) {
    struct CMUnitTest tests[GOLDEN_MAX_CASES];
    size_t n = logit_cases_find(key, run, tests, GOLDEN_MAX_CASES);
    if (n == 0) {
        fprintf(stderr, "no logit cases found\n");
        return 1;
    }
    int failed = _cmocka_run_group_tests(group, tests, n, NULL, NULL);
    for (size_t i = 0; i < n; i++)
        free(tests[i].initial_state);
    return failed;
}

#endif
