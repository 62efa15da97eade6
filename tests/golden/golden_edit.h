/* golden_edit.h - a golden case of an edit: the model, editor and facts of its folder,
 * and what the model says before and after. */
#ifndef MAL_TEST_GOLDEN_EDIT_H
#define MAL_TEST_GOLDEN_EDIT_H

#include "golden.h"

#include "core/editor/edit.h"
#include "core/eval.h"
#include "core/weights_state.h"
#include "tests/unit/test_device.h"

enum { MAX_MODULES = 64 };

struct golden_edit {
    struct golden_case at;
    struct mal_safetensors *tensors; /* what is expected */
    struct mal_backend *be;
    struct mal_model *model;
    struct mal_tokenizer *tok;
    struct mal_editor *editor;
    struct mal_weights_state *ws;
    struct mal_fact *facts;
    size_t n_facts;
    float *logits[2][2]; /* edit, unrelated; base, edited */
    struct mal_measures before, after;
};

static struct mal_backend *golden_backend; /* of all cases, which stay open together */

/* `keep`: versions of the weights. */
static inline void golden_edit_open(struct golden_edit *e, int keep) {
    char path[2 * GOLDEN_PATH];
    struct mal_error err = {0};
    snprintf(path, sizeof path, "%s/model", e->at.dir);
    if (!golden_backend)
        assert_done(mal_backend_create(&golden_backend, test_device(), &err), &err);
    e->be = golden_backend;
    assert_done(mal_model_open(&e->model, path, e->be, &err), &err);
    assert_done(mal_tokenizer_open(&e->tok, path, &err), &err);
    snprintf(path, sizeof path, "%s/editor.safetensors", e->at.dir);
    assert_done(mal_editor_open(&e->editor, path, &err), &err);
    assert_done(mal_editor_bind(e->editor, e->model, &err), &err);
    snprintf(path, sizeof path, "%s/facts.json", e->at.dir);
    assert_done(mal_facts_load(&e->facts, &e->n_facts, path, &err), &err);
    snprintf(path, sizeof path, "%s/expected.safetensors", e->at.dir);
    assert_done(mal_safetensors_open(&e->tensors, path, &err), &err);
    assert_done(mal_weights_create(&e->ws, e->model, keep, &err), &err);
    assert_in_range(mal_model_n_edited(e->model), 1, MAX_MODULES);
}

static inline void golden_edit_close(struct golden_edit *e) {
    for (int i = 0; i < 4; i++)
        free(e->logits[i / 2][i % 2]);
    mal_facts_free(e->facts, e->n_facts);
    mal_weights_destroy(e->ws);
    mal_editor_close(e->editor);
    mal_tokenizer_close(e->tok);
    mal_model_close(e->model);
    mal_safetensors_close(e->tensors);
    json_decref(e->at.expected);
}

/* A task for `n` of the facts from `first` on. */
static inline struct mal_edit_task golden_edit_task(const struct golden_edit *e,
                                                    size_t first, size_t n,
                                                    struct mal_edit_report *report) {
    return (struct mal_edit_task){.model = e->model,
                                  .tok = e->tok,
                                  .editor = e->editor,
                                  .facts = e->facts + first,
                                  .n_facts = n,
                                  .report = report};
}

/* ---- What the model says ---- */

static inline void golden_edit_example(const struct golden_edit *e, size_t fact,
                                       bool unrelated, struct mal_example *out) {
    struct mal_error err = {0};
    const struct mal_fact *f = &e->facts[fact];
    assert_done(mal_example_init(
                    out, e->model, e->tok, unrelated ? f->unrelated[0].prompt : f->prompt,
                    unrelated ? f->unrelated[0].target : f->target, f->join, &err),
                &err);
}

static inline float *golden_edit_logits(const struct golden_edit *e, bool unrelated) {
    struct mal_example *examples = mal_calloc(e->n_facts, sizeof *examples);
    struct mal_packed packed = {0};
    struct mal_error err = {0};
    for (size_t i = 0; i < e->n_facts; i++)
        golden_edit_example(e, i, unrelated, &examples[i]);
    assert_done(mal_examples_pack(examples, NULL, e->n_facts, &packed, &err), &err);
    const struct mal_model_info *info = mal_model_info(e->model);
    size_t n = (size_t)(packed.n_labels * info->n_outputs);
    float *logits = malloc(n * sizeof *logits);
    struct mal_row_scores out = {.logits = logits};
    assert_done(mal_model_score(e->model, &packed.batch, &out, &err), &err);
    for (size_t i = 0; info->kind == MAL_MODEL_CLASSIFIER && i < n / 2; i++)
        logits[i] = logits[2 * i + 1] - logits[2 * i]; /* of "supported" */
    mal_packed_finish(&packed);
    mal_examples_free(examples, e->n_facts);
    return logits;
}

/* Before the edit, or after it. */
static inline void golden_edit_listen(struct golden_edit *e, bool after) {
    struct mal_error err = {0};
    struct mal_score *scores = NULL;
    size_t n = 0;
    e->logits[0][after] = golden_edit_logits(e, false);
    e->logits[1][after] = golden_edit_logits(e, true);
    assert_done(mal_score_facts(e->model, e->tok, e->facts, e->n_facts, NULL, NULL, NULL,
                                &scores, &n, &err),
                &err);
    mal_measures_of(e->facts, e->n_facts, scores, after ? &e->after : &e->before);
    mal_scores_free(scores, n);
}

/* ---- Checks ---- */

/* What may be off, of all modules or of one. */
static inline double golden_edit_tolerance(const struct golden_edit *e, const char *what,
                                           const char *module) {
    const json_t *found =
        json_object_get(json_object_get(e->at.expected, "tolerance"), what);
    if (module) found = json_object_get(found, module);
    assert_true(json_is_number(found));
    return json_number_value(found);
}

/* The shift (n) of a module, from `before` (NULL: zeros) on. `name`: "shift64.<what>", of
 * which the tolerance is <what>'s. */
static inline void golden_edit_check_shift(const struct golden_edit *e, const char *name,
                                           const float *shift, const float *before) {
    int64_t n = 0;
    double *expected = golden_raw(e->tensors, name, &n), sum = 0, norm = 0;
    double limit = golden_edit_tolerance(e, "shift", name + strlen("shift64."));
    for (int64_t i = 0; i < n; i++) {
        double d = (double)shift[i] - (before ? (double)before[i] : 0) - expected[i];
        sum += d * d;
        norm += expected[i] * expected[i];
    }
    free(expected);
    if (!(sqrt(sum / norm) <= limit))
        fail_msg("%s: distance %g above %g", name, sqrt(sum / norm), limit);
}

static inline void golden_edit_check_logits(const struct golden_edit *e) {
    static const char *const names[2][2] = {
        {"logits.edit.base", "logits.edit.edited"},
        {"logits.unrelated.base", "logits.unrelated.edited"}};
    double limit = golden_edit_tolerance(e, "logits", NULL);
    for (int i = 0; i < 4; i++) {
        const char *name = names[i / 2][i % 2];
        int64_t n = 0;
        float *expected = golden_raw(e->tensors, name, &n);
        double error = golden_logit_error(e->logits[i / 2][i % 2], expected, n);
        free(expected);
        if (!(error <= limit)) fail_msg("%s: error %g above %g", name, error, limit);
    }
}

static inline void golden_edit_check_measures(const struct golden_edit *e) {
    static const char *const names[] = {"es", "gs", "ls"}, *const keys[] = {"before",
                                                                            "after"};
    for (int after = 0; after < 2; after++) {
        const struct mal_measures *m = after ? &e->after : &e->before;
        const json_t *expected = json_object_get(e->at.expected, keys[after]);
        const double ours[] = {m->tf_es, m->tf_gs, m->tf_ls};
        for (size_t i = 0; i < 3; i++) {
            double theirs = json_number_value(json_object_get(expected, names[i]));
            if (fabs(ours[i] - theirs) <= 1e-6) continue;
            fail_msg("%s %s: %g, expected %g", keys[after], names[i], ours[i], theirs);
        }
    }
}

#endif
