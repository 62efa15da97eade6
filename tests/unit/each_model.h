/* each_model.h - runs tests on each of the random models: `model` is the one a test is
 * on.
 */
#ifndef MAL_TEST_EACH_MODEL_H
#define MAL_TEST_EACH_MODEL_H

#include "edited_model.h"

#include <omp.h>

static struct {
    const struct random_model *made;
    struct mal_model *model;
} each[N_RANDOM_MODELS];

static int all_threads; /* as many as there were */

static inline int open_each(void **state) {
    if (scratch_make(state)) return -1;
    all_threads = omp_get_max_threads();
    for (size_t i = 0; i < N_RANDOM_MODELS; i++) {
        each[i].made = &random_models[i];
        each[i].model = random_model_open(&random_models[i], random_models[i].name);
    }
    return 0;
}

static inline int close_each(void **state) {
    for (size_t i = 0; i < N_RANDOM_MODELS; i++)
        mal_model_close(each[i].model);
    return scratch_remove(state);
}

/* Small ones by one thread: of thousands of passes over a few rows most of the time would
 * go into waking the others. */
static inline int choose_model(void **state) {
    size_t i = *(const size_t *)*state;
    model = each[i].model;
    omp_set_num_threads(each[i].made->channels < 32 ? 1 : all_threads);
    return 0;
}

struct model_test {
    const char *name;
    CMUnitTestFunction run;
};

enum { MAX_MODEL_TESTS = 16 };

/* Every test on every model; the exit code. */
static inline int run_each(const char *group, const struct model_test *list, size_t n) {
    static struct CMUnitTest tests[MAX_MODEL_TESTS * N_RANDOM_MODELS];
    static char names[MAX_MODEL_TESTS * N_RANDOM_MODELS][64];
    static size_t which[N_RANDOM_MODELS];
    assert_true(n <= MAX_MODEL_TESTS);
    for (size_t i = 0; i < n * N_RANDOM_MODELS; i++) {
        size_t m = which[i / n] = i / n;
        snprintf(names[i], sizeof names[i], "%s: %s", random_models[m].name,
                 list[i % n].name);
        tests[i] = (struct CMUnitTest){.name = names[i],
                                       .test_func = list[i % n].run,
                                       .setup_func = choose_model,
                                       .initial_state = &which[m]};
    }
    return _cmocka_run_group_tests(group, tests, n * N_RANDOM_MODELS, open_each,
                                   close_each);
}

#endif
