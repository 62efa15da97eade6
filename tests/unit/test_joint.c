/* test_joint.c - the joint update against a solve of its own in long double: a stream of
 * batches, in any order and however cut, gives what one batch of the same facts gives. */
#include "joint_lab.h"

#include "core/editor/edit.h"

enum { MAX_BATCHES = 4 };

/* Keys of the batch being run, per module. */
static float *keys[MAX_MODULES];

static void observe(void *arg, enum mal_observed what, size_t m, int64_t rows,
                    const float *data) {
    const struct mal_linear *lin = mal_model_edit(lab.model, m);
    (void)arg;
    if (what == MAL_OBSERVED_KEYS) keys[m] = to_host(data, (size_t)(rows * lin->d_in));
    if (what != MAL_OBSERVED_DIFFERENCES) return;
    float *d = to_host(data, (size_t)(rows * lin->d_out));
    sum_rows(m, rows, keys[m], d);
    mal_free(d);
    mal_free(keys[m]);
    keys[m] = NULL;
}

static const struct mal_progress observing = {.observe = observe};

/* ---- Streams ---- */

/* Batches as (first, count) pairs of the case's facts. */
struct stream {
    size_t n, first[MAX_BATCHES], count[MAX_BATCHES];
};

/* The live version's whole difference from the base, per module. */
static void read_shifts(struct mal_weights_state *ws, float *out[MAX_MODULES]) {
    for (size_t m = 0; m < lab.n_modules; m++)
        out[m] = shift_at(ws, m);
}

static void free_shifts(float *shifts[MAX_MODULES]) {
    for (size_t m = 0; m < lab.n_modules; m++)
        mal_free(shifts[m]);
}

static void expect_distance(const char *what, float *got[MAX_MODULES],
                            float *want[MAX_MODULES], double most) {
    for (size_t m = 0; m < lab.n_modules; m++) {
        double *x = in_fp64(m, want[m]), off = shift_distance(m, got[m], x);
        mal_free(x);
        if (!(off < most)) fail_msg("%s module %zu: off by %g", what, m, off);
    }
}

static double *gram_of(const struct mal_preserve *p, size_t m) {
    struct mal_error err = {0};
    int64_t n = mal_model_edit(lab.model, m)->d_in;
    size_t bytes = (size_t)(n * n) * sizeof(double);
    double *gram = mal_malloc(bytes);
    assert_non_null(gram);
    mal_backend_download(lab.be, gram, p->gram[m], bytes);
    assert_ok(mal_backend_sync(lab.be, &err), &err);
    return gram;
}

static void expect_reference(const char *what, float *got[MAX_MODULES],
                             const struct mal_preserve *p) {
    for (size_t m = 0; m < lab.n_modules; m++) {
        double *gram = p ? gram_of(p, m) : NULL;
        double *want = reference_shift(m, ridge_at(m), gram, p ? p->weight[m] : 0);
        double off = shift_distance(m, got[m], want);
        mal_free(gram);
        mal_free(want);
        if (!(off < 2e-7)) fail_msg("%s module %zu: off by %g", what, m, off);
    }
}

static void teach(struct mal_joint *joint, struct mal_weights_state *ws,
                  struct mal_normalizer *norms, const struct mal_fact *facts, size_t n,
                  const struct mal_progress *progress) {
    struct mal_error err = {0};
    struct mal_joint_change *change = NULL;
    struct mal_edit_report report = {0};
    struct mal_example *texts = NULL;
    struct mal_delta delta = {0};
    size_t n_texts = 0;
    assert_ok(mal_examples_of_facts(lab.model, lab.tok, facts, n, &texts, &n_texts, &err),
              &err);
    mal_weights_use(ws, 0);
    assert_ok(mal_joint_change_create(&change, joint, ws, progress, &report, &err), &err);
    assert_ok(mal_joint_teach(change, norms, texts, n_texts, &err), &err);
    assert_true(report.n_tokens >= (int64_t)n);
    assert_ok(mal_joint_delta(change, &delta, &err), &err);
    assert_ok(mal_weights_prepare(ws, &delta, NULL, NULL, &err), &err);
    mal_weights_publish(ws, mal_weights_live(ws) + 1);
    mal_delta_finish(&delta);
    mal_joint_change_destroy(change);
    mal_examples_free(texts, n_texts);
}

static void run_stream(const struct stream *s, struct mal_normalizer *norms,
                       const struct mal_preserve *preserve,
                       const struct mal_progress *progress, float *out[MAX_MODULES]) {
    struct mal_error err = {0};
    struct mal_joint *joint = NULL;
    struct mal_weights_state *ws = NULL;
    assert_ok(mal_weights_create(&ws, lab.model, 0, &err), &err);
    assert_ok(mal_joint_create(&joint, lab.model, lab.editor, preserve, 0, &err), &err);
    for (size_t b = 0; b < s->n; b++)
        teach(joint, ws, norms, lab.facts + s->first[b], s->count[b], progress);
    read_shifts(ws, out);
    mal_joint_destroy(joint);
    mal_weights_destroy(ws);
}

static void check_streams(const char *name) {
    open_lab(name);
    size_t n = lab.n_facts;
    const struct stream streams[] = {
        {1, {0}, {n}},
        {2, {0, 1}, {1, n - 1}},
        {2, {1, 0}, {n - 1, 1}},
        {3, {2, 0, 1}, {n - 2, 1, 1}},
    };
    float *one[MAX_MODULES], *other[MAX_MODULES];
    run_stream(&streams[0], NULL, NULL, &observing, one);
    expect_reference(name, one, NULL);
    for (size_t i = 1; i < (n > 2 ? 4 : 3); i++) {
        run_stream(&streams[i], NULL, NULL, NULL, other);
        /* keys and differences are fp32 and computed in other company */
        expect_distance(name, other, one, 1e-5);
        free_shifts(other);
    }
    free_shifts(one);
    close_lab();
}

static void test_streams(void **state) {
    check_streams("gpt2-malmen-token-sum");
    check_streams("gpt2-malmen-mixed-shapes");
}

/* With preserved keys, and with two batches, of which the second is not alone. */
static void test_preserve(void **state) {
    open_lab("gpt2-malmen-token-sum");
    struct mal_error err = {0};
    struct mal_preserve *p = NULL;
    struct mal_preserve_texts texts = {0};
    assert_ok(mal_preserve_texts_load(&texts,
                                      case_path("gpt2-malmen-token-sum", "facts.json"),
                                      lab.model, lab.tok, &err),
              &err);
    assert_ok(mal_preserve_create(&p, lab.model, lab.editor, &texts, 3, NULL, &err),
              &err);
    float *shifts[MAX_MODULES];
    run_stream(&(struct stream){2, {0, 2}, {2, lab.n_facts - 2}}, NULL, p, &observing,
               shifts);
    expect_reference("preserved", shifts, p);
    free_shifts(shifts);
    mal_preserve_texts_finish(&texts);
    mal_preserve_destroy(p);
    close_lab();
}

/* One batch alone is what mal_edit_run() makes of it, UltraEdit's statistics included. */
static void check_alone(const char *name) {
    open_lab(name);
    struct mal_error err = {0};
    struct mal_normalizer *norms[2] = {0};
    struct mal_edit_report report;
    struct mal_delta edit = {0};
    struct mal_weights_state *ws = NULL;
    float *joint[MAX_MODULES], *alone[MAX_MODULES];
    size_t n_shapes = lab.editor->n_shapes;
    for (int i = 0; i < 2 && lab.editor->method == &mal_method_ultraedit; i++)
        norms[i] = mal_editor_norms(lab.editor, &err);
    run_stream(&(struct stream){1, {0}, {lab.n_facts}}, norms[0], NULL, NULL, joint);
    struct mal_edit_task task = {.model = lab.model,
                                 .tok = lab.tok,
                                 .editor = lab.editor,
                                 .norms = norms[1],
                                 .facts = lab.facts,
                                 .n_facts = lab.n_facts,
                                 .report = &report};
    assert_ok(mal_edit_run(&task, &edit, &err), &err);
    assert_ok(mal_weights_create(&ws, lab.model, 0, &err), &err);
    assert_ok(mal_weights_prepare(ws, &edit, NULL, NULL, &err), &err);
    mal_weights_publish(ws, 1);
    read_shifts(ws, alone);
    expect_distance(name, alone, joint, 1e-6);
    for (size_t s = 0; norms[0] && s < n_shapes; s++) {
        assert_true(norms[0][s].n > 0);
        assert_memory_equal(norms[0][s].std, norms[1][s].std,
                            (size_t)norms[0][s].size * sizeof(float));
    }
    free_shifts(joint);
    free_shifts(alone);
    mal_delta_finish(&edit);
    mal_weights_destroy(ws);
    mal_norms_free(norms[0], n_shapes);
    mal_norms_free(norms[1], n_shapes);
    close_lab();
}

static void test_alone(void **state) {
    check_alone("gpt2-malmen");
    check_alone("gpt2-ultraedit-sequential");
}

/* ---- What cannot be ---- */

static bool stop(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    return stage != *(enum mal_stage *)arg;
}

struct attempt {
    struct mal_example *texts;
    size_t n;
    const struct mal_progress *progress;
};

static struct attempt attempt;

static bool run_once(const char *path, struct mal_error *err) {
    struct mal_joint *joint = NULL;
    struct mal_joint_change *change = NULL;
    struct mal_edit_report report = {0};
    struct mal_delta delta = {0};
    (void)path;
    bool ok =
        mal_joint_create(&joint, lab.model, lab.editor, NULL, 0, err) &&
        mal_joint_change_create(&change, joint, NULL, attempt.progress, &report, err) &&
        mal_joint_teach(change, NULL, attempt.texts, attempt.n, err) &&
        mal_joint_delta(change, &delta, err);
    mal_delta_finish(&delta);
    mal_joint_change_destroy(change);
    mal_joint_destroy(joint);
    return ok;
}

static void test_errors(void **state) {
    open_lab("gpt2-malmen-token-sum");
    struct mal_error err = {0};
    struct mal_joint *joint = NULL;
    enum mal_stage stage = MAL_STAGE_GRAM;
    struct mal_progress progress = {.tick = stop, .arg = &stage};
    assert_ok(mal_examples_of_facts(lab.model, lab.tok, lab.facts, 2, &attempt.texts,
                                    &attempt.n, &err),
              &err);
    attempt.progress = &progress;
    assert_false(run_once(NULL, &err));
    assert_error(&err, MAL_CANCELLED, "cancelled");
    stage = MAL_STAGE_SOLVE;
    assert_false(run_once(NULL, &err));
    assert_error(&err, MAL_CANCELLED, "cancelled");
    attempt.progress = NULL;

    size_t needed = mal_joint_bytes(lab.model);
    assert_false(mal_joint_create(&joint, lab.model, lab.editor, NULL, needed - 1, &err));
    assert_error(&err, MAL_NO_MEMORY, "are allowed");
    assert_ok(mal_joint_create(&joint, lab.model, lab.editor, NULL, needed, &err), &err);
    assert_int_equal(mal_joint_held_bytes(joint), needed);
    mal_joint_destroy(joint);
    mal_joint_destroy(NULL);

    lab.editor->shapes[0].lamda[0] = 1e9f;
    assert_false(mal_joint_create(&joint, lab.model, lab.editor, NULL, 0, &err));
    assert_error(&err, MAL_NUMERIC, "the ridge e^lamda is inf");
    lab.editor->shapes[0].lamda[0] = 0;
    fail_each_allocation(run_once, NULL, 30);
    lab.editor->method = &mal_method_mend;
    assert_false(mal_joint_create(&joint, lab.model, lab.editor, NULL, 0, &err));
    assert_error(&err, MAL_INVALID, "MEND solves no system");
    mal_examples_free(attempt.texts, attempt.n);
    close_lab();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_preserve),
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests_name("joint", tests, NULL, NULL);
}
