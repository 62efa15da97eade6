/* variants.h - random models whose checkpoint or config.json is another way of saying the
 * same, or wrong. */
#ifndef MAL_TEST_VARIANTS_H
#define MAL_TEST_VARIANTS_H

#include "edited_model.h"

/* ---- Checkpoints ---- */

static struct random_tensors tensors; /* of the model at hand */

static inline struct mal_st_entry *entry(const char *name) {
    return random_entry(&tensors, name);
}

static inline void rename_entry(const char *from, const char *to) {
    struct mal_st_entry *e = entry(from);
    snprintf((char *)(uintptr_t)e->name, RANDOM_NAME, "%s", to);
}

static inline void drop_entry(size_t i) {
    mal_free((void *)(uintptr_t)tensors.entries[i].data);
    for (size_t j = i; j + 1 < tensors.n; j++) {
        tensors.entries[j] = tensors.entries[j + 1];
        memcpy(tensors.names[j], tensors.names[j + 1], RANDOM_NAME);
        tensors.entries[j].name = tensors.names[j];
    }
    tensors.n--;
}

static inline void drop_named(const char *name) {
    drop_entry((size_t)(entry(name) - tensors.entries));
}

/* A copy under another name, its numbers moved by `by`. */
static inline void copy_entry(const char *from, const char *to, float by) {
    const struct mal_st_entry *e = entry(from);
    const float *x = e->data;
    int64_t rows = e->n_dims == 2 ? e->shape[0] : 0, columns = e->shape[e->n_dims - 1];
    random_tensor(&tensors, to, rows, columns, 0, 0);
    float *y = (float *)(uintptr_t)tensors.entries[tensors.n - 1].data;
    for (int64_t i = 0; i < (rows ? rows : 1) * columns; i++)
        y[i] = x[i] + by;
}

/* ---- Configurations ---- */

/* Its config.json with these members instead; those that are "absent" are left out. */
static inline char *changed_config(const struct random_model *m, const char *changes) {
    char config[1024];
    json_error_t error;
    const char *key;
    json_t *value;
    random_config(m, config, sizeof config);
    json_t *object = json_loads(config, 0, &error);
    json_t *others = json_loads(changes, 0, &error);
    if (!object || !others) fail_msg("%s: %s", changes, error.text);
    json_object_foreach (others, key, value) {
        const char *text = json_string_value(value);
        if (text && strcmp(text, "absent") == 0)
            json_object_del(object, key);
        else
            json_object_set(object, key, value);
    }
    char *out = json_dumps(object, 0);
    json_decref(object);
    json_decref(others);
    return out;
}

/* ---- Opening ---- */

/* Writes `tensors` and the changed configuration to a directory of its own. */
static inline const char *save_variant(const struct random_model *m,
                                       const char *changes) {
    static int n;
    static char dir[64];
    char *config = changed_config(m, changes);
    snprintf(dir, sizeof dir, "variant-%d", n++);
    random_save(&tensors, dir, config);
    free(config);
    return dir;
}

static inline struct mal_model *open_dir(const char *dir) {
    struct mal_error err = {0};
    struct mal_model *opened = NULL;
    assert_ok(mal_model_open(&opened, scratch_path(dir), test_backend(), &err), &err);
    return opened;
}

/* It does not open, and the error says so. */
static inline void expect_refused(const char *dir, const char *const *words, size_t n) {
    struct mal_error err = {0};
    struct mal_model *opened = NULL;
    bool ok = mal_model_open(&opened, scratch_path(dir), test_backend(), &err);
    if (ok) fail_msg("%s opens, though %s", dir, words[0]);
    assert_true(err.status == MAL_INVALID || err.status == MAL_CORRUPT);
    for (size_t i = 0; i < n; i++) {
        if (!strstr(err.text, words[i]))
            fail_msg("'%s' is not in the error '%s'", words[i], err.text);
    }
}

/* ---- Comparing ---- */

/* Logits of every position of a batch that has more tokens than any window; freed by the
 * caller. */
static inline float *logits_of(struct mal_model *opened, size_t *out_n) {
    struct mal_model *before = model;
    model = opened;
    struct made_batch *b = make_batch(&mixed, false);
    float *logits = logits_alone(b);
    *out_n = (size_t)(b->tokens * model->info.n_outputs);
    mal_free(b);
    model = before;
    return logits;
}

/* max |a - b| / (1 + |b|) over them. */
static inline double distance(struct mal_model *a, struct mal_model *b) {
    size_t n, m;
    float *x = logits_of(a, &n), *y = logits_of(b, &m);
    double worst = 0;
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)x[i] - (double)y[i]) / (1 + fabs((double)y[i]));
        if (!(off <= worst)) worst = off;
    }
    mal_free(x);
    mal_free(y);
    return worst;
}

/* The variant's logits are those of the model; it is closed. */
static inline void expect_same(const char *dir, struct mal_model *want,
                               double tolerance) {
    struct mal_model *got = open_dir(dir);
    double off = distance(got, want);
    if (!(off <= tolerance)) fail_msg("%s: off by %g", dir, off);
    mal_model_close(got);
}

static inline void expect_other(const char *dir, struct mal_model *other) {
    struct mal_model *got = open_dir(dir);
    double off = distance(got, other);
    if (!(off > 1e-3)) fail_msg("%s: off by %g only", dir, off);
    mal_model_close(got);
}

#endif
