/* golden.h - finds golden cases: folders of tests/golden/cases, and of ../shared/golden
 * (or $MAL_GOLDEN) where that is there; its absence is no failure. */
#ifndef MAL_TEST_GOLDEN_H
#define MAL_TEST_GOLDEN_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <jansson.h>

#include "core/alloc.h"
#include "core/error.h"
#include "core/safetensors.h"

enum { GOLDEN_PATH = 512, GOLDEN_MAX_CASES = 256, GOLDEN_MAX_CHECKS = 10 };

#define assert_done(call, err)                    \
    do {                                          \
        if (!(call)) fail_msg("%s", (err)->text); \
    } while (0)

static inline void golden_root(int which, char out[GOLDEN_PATH]) {
    const char *root = getenv("MAL_SOURCE_ROOT"), *other = getenv("MAL_GOLDEN");
    if (which == 1 && other) {
        snprintf(out, GOLDEN_PATH, "%s", other);
    } else {
        snprintf(out, GOLDEN_PATH, "%s/%s", root ? root : ".",
                 which == 0 ? "tests/golden/cases" : "../shared/golden");
    }
}

/* Architectures the project has; cases of others are passed over. */
static inline bool golden_knows(const char *kind) {
    static const char *const kinds[] = {
        "bert",  "gemma", "gemma2", "gemma3",  "gemma3_text", "gpt2",
        "gptj",  "llama", "llama3", "mistral", "mistral3",    "olmo2",
        "olmo3", "phi3",  "qwen2",  "qwen3",   "smollm3",     "t5"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kind, kinds[i]) == 0) return true;
    }
    return false;
}

static inline json_t *golden_json(const char *path) {
    json_error_t error;
    json_t *json = json_load_file(path, 0, &error);
    if (!json) fail_msg("%s:%d: %s", path, error.line, error.text);
    return json;
}

static inline const char *golden_text(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static inline bool golden_exists(const char *path) {
    FILE *file = fopen(path, "r");
    if (file) fclose(file);
    return file != NULL;
}

static inline int golden_by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names in `dir`, sorted; 0 when there is no such folder. Caller frees each and the
 * array. */
static inline size_t golden_list(const char *dir, char ***out) {
    DIR *d = opendir(dir);
    size_t n = 0;
    *out = NULL;
    for (struct dirent *entry; d && (entry = readdir(d));) {
        if (entry->d_name[0] == '.') continue;
        *out = realloc(*out, (n + 1) * sizeof **out);
        (*out)[n++] = strdup(entry->d_name);
    }
    if (d) closedir(d);
    if (n) qsort(*out, n, sizeof **out, golden_by_name);
    return n;
}

/* A tensor as doubles (from F64) or floats; fails the test when it is not there. */
static inline const struct mal_st_tensor *
golden_tensor(const struct mal_safetensors *file, const char *name) {
    const struct mal_st_tensor *t = mal_safetensors_find(file, name);
    if (!t) fail_msg("%s: no tensor %s", mal_safetensors_path(file), name);
    return t;
}

static inline void *golden_raw(const struct mal_safetensors *file, const char *name,
                               int64_t *out_n) {
    struct mal_error err = {0};
    const struct mal_st_tensor *t = golden_tensor(file, name);
    void *data = malloc(t->bytes + 1);
    assert_done(mal_safetensors_read(file, t, 0, data, t->bytes, &err), &err);
    if (out_n) *out_n = t->n_elements;
    return data;
}

/* ||a - b||_F / ||b||_F */
static inline double golden_distance(const float *a, const float *b, int64_t n) {
    double sum = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        sum += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(sum / (norm > 0 ? norm : 1));
}

/* max |a - b| / (1 + |b|) */
static inline double golden_logit_error(const float *a, const float *b, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]) / (1 + fabs((double)b[i]));
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

/* None may be passed over because there is no room for it. */
static inline void golden_check_room(size_t n, size_t max) {
    if (n < max) return;
    fprintf(stderr, "more than %zu cases\n", max);
    exit(1);
}

/* Where a case is and what is expected of it; the cases' own structs begin with this. */
struct golden_case {
    char dir[GOLDEN_PATH];
    json_t *expected;
};

/* Makes a zeroed struct of `size` bytes for every case of both roots that is `wanted`, by
 * its folder's name and what it expects, at most `max`; how many. Each is the caller's.
 */
static inline size_t golden_find(bool (*wanted)(const json_t *expected, const char *name),
                                 size_t size, void **cases, size_t max) {
    size_t n = 0;
    for (int which = 0; which < 2; which++) {
        char root[GOLDEN_PATH], path[3 * GOLDEN_PATH];
        char **names;
        golden_root(which, root);
        size_t n_names = golden_list(root, &names);
        for (size_t i = 0; i < n_names; i++) {
            snprintf(path, sizeof path, "%s/%s/expected.json", root, names[i]);
            json_t *expected = json_load_file(path, 0, NULL);
            if (expected && wanted(expected, names[i])) {
                golden_check_room(n, max);
                struct golden_case *c = calloc(1, size);
                c->expected = json_incref(expected);
                snprintf(c->dir, sizeof c->dir, "%.300s/%.200s", root, names[i]);
                cases[n++] = c;
            }
            json_decref(expected);
            free(names[i]);
        }
        free(names);
    }
    return n;
}

/* One check of every case, by a name of its own. */
struct golden_check {
    const char *name;
    CMUnitTestFunction run;
};

/* Runs all checks on all cases, each of which then goes to `close`; the exit code. With
 * MAL_GOLDEN_LIST set it only says which cases there are. */
static inline int golden_run(const char *group, void **cases, size_t n_cases,
                             const struct golden_check *checks, size_t n_checks,
                             void (*close_case)(void *)) {
    static struct CMUnitTest tests[GOLDEN_MAX_CASES * GOLDEN_MAX_CHECKS];
    static char names[GOLDEN_MAX_CASES * GOLDEN_MAX_CHECKS][128];
    if (n_cases == 0) {
        fprintf(stderr, "no cases of %s found\n", group);
        return 1;
    }
    for (size_t i = 0; getenv("MAL_GOLDEN_LIST") && i < n_cases; i++)
        puts(((const struct golden_case *)cases[i])->dir);
    if (getenv("MAL_GOLDEN_LIST")) return 0;
    for (size_t i = 0; i < n_cases * n_checks; i++) {
        const struct golden_case *c = cases[i / n_checks];
        snprintf(names[i], sizeof names[i], "%.80s: %s", golden_text(c->expected, "case"),
                 checks[i % n_checks].name);
        tests[i] = (struct CMUnitTest){.name = names[i],
                                       .test_func = checks[i % n_checks].run,
                                       .initial_state = cases[i / n_checks]};
    }
    int failed = _cmocka_run_group_tests(group, tests, n_cases * n_checks, NULL, NULL);
    for (size_t i = 0; i < n_cases; i++)
        close_case(cases[i]);
    return failed;
}

#endif
