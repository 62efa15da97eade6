/* test_joint.c - the joint update against a solve of its own in long double: a stream of
 * batches, in any order and however cut, gives what one batch of the same facts gives. */
#include "no_memory.h"

#include <math.h>

#include "core/editor/edit.h"
#include "core/editor/joint_change.h"

enum { MAX_MODULES = 8, MAX_BATCHES = 4 };

struct lab {
    struct mal_backend *be;
    struct mal_model *model;
    struct mal_tokenizer *tok;
    struct mal_editor *editor;
    struct mal_fact *facts;
    size_t n_facts, n_modules;
    /* the sums of what was observed, in long double, per module */
    long double *a[MAX_MODULES], *v[MAX_MODULES];
    float *u[MAX_MODULES]; /* keys of the batch being run */
};

static struct lab lab;

static const char *case_path(const char *name, const char *file) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/tests/golden/cases/%s/%s", getenv("MAL_SOURCE_ROOT"),
             name, file);
    return path;
}

static void open_lab(const char *name) {
    struct mal_error err = {0};
    lab = (struct lab){0};
    assert_ok(mal_backend_create(&lab.be, "cpu", &err), &err);
    assert_ok(mal_model_open(&lab.model, case_path(name, "model"), lab.be, &err), &err);
    assert_ok(mal_tokenizer_open(&lab.tok, case_path(name, "model"), &err), &err);
    assert_ok(mal_editor_open(&lab.editor, case_path(name, "editor.safetensors"), &err),
              &err);
    assert_ok(mal_editor_bind(lab.editor, lab.model, &err), &err);
    assert_ok(
        mal_facts_load(&lab.facts, &lab.n_facts, case_path(name, "facts.json"), &err),
        &err);
    lab.editor->loss = MAL_LOSS_TOKEN_SUM;
    lab.n_modules = mal_model_n_edits(lab.model);
    assert_in_range(lab.n_modules, 1, MAX_MODULES);
    assert_true(lab.n_facts >= 2);
}

static void forget_sums(void) {
    for (size_t m = 0; m < MAX_MODULES; m++) {
        mal_free(lab.a[m]);
        mal_free(lab.v[m]);
        lab.a[m] = lab.v[m] = NULL;
    }
}

static void close_lab(void) {
    forget_sums();
    mal_facts_free(lab.facts, lab.n_facts);
    mal_editor_close(lab.editor);
    mal_tokenizer_close(lab.tok);
    mal_model_close(lab.model);
    mal_backend_destroy(lab.be);
}

/* ---- The reference ---- */

static void observe(void *arg, enum mal_observed what, size_t m, int64_t rows,
                    const float *data) {
    const struct mal_linear *lin = mal_model_edit(lab.model, m);
    int64_t n = lin->d_in, k = lin->d_out;
    (void)arg;
    if (what == MAL_OBSERVED_KEYS) {
        lab.u[m] = mal_malloc((size_t)(rows * n) * sizeof(float));
        memcpy(lab.u[m], data, (size_t)(rows * n) * sizeof(float));
    }
    if (what != MAL_OBSERVED_DIFFERENCES) return;
    if (!lab.a[m]) lab.a[m] = mal_calloc((size_t)(n * n), sizeof(long double));
    if (!lab.v[m]) lab.v[m] = mal_calloc((size_t)(n * k), sizeof(long double));
    for (int64_t r = 0; r < rows; r++) {
        const float *u = lab.u[m] + r * n, *d = data + r * k;
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = 0; j < n; j++)
                lab.a[m][i * n + j] += (long double)u[i] * (long double)u[j];
            for (int64_t j = 0; j < k; j++)
                lab.v[m][i * k + j] += (long double)u[i] * (long double)d[j];
        }
    }
    mal_free(lab.u[m]);
    lab.u[m] = NULL;
}

static const struct mal_progress observing = {.observe = observe};

/* Gauss and Jordan without pivoting, which a positive definite system does not need. */
static double *reference_shift(size_t m, double ridge, const double *gram, double w) {
    const struct mal_linear *lin = mal_model_edit(lab.model, m);
    int64_t n = lin->d_in, k = lin->d_out;
    long double *a = lab.a[m], *v = lab.v[m];
    for (int64_t i = 0; i < n; i++) {
        a[i * n + i] += (long double)ridge;
        for (int64_t j = 0; gram && j < n; j++)
            a[i * n + j] +=
                (long double)w * (long double)gram[i > j ? i * n + j : j * n + i];
    }
    for (int64_t p = 0; p < n; p++) {
        for (int64_t i = 0; i < n; i++) {
            if (i == p) continue;
            long double f = a[i * n + p] / a[p * n + p];
            for (int64_t j = p; j < n; j++)
                a[i * n + j] -= f * a[p * n + j];
            for (int64_t j = 0; j < k; j++)
                v[i * k + j] -= f * v[p * k + j];
        }
    }
    double *s = mal_malloc((size_t)(n * k) * sizeof *s);
    for (int64_t i = 0; i < n * k; i++)
        s[i] = (double)(v[i] / a[i / k * n + i / k]);
    return s;
}

static const struct mal_delta_part *part_of(const struct mal_delta *delta, size_t m) {
    const char *name = mal_model_edit(lab.model, m)->name;
    for (size_t i = 0; i < delta->n_parts; i++) {
        if (strcmp(delta->parts[i].module, name) == 0) return &delta->parts[i];
    }
    fail_msg("no part for %s", name);
    return NULL;
}

/* Relative distance of two shifts, b's in fp64. */
static double distance(const struct mal_delta_part *part, const double *b) {
    double sum = 0, norm = 0;
    const float *right = part->data + part->d_in * part->rank;
    for (int64_t i = 0; i < part->d_in; i++) {
        for (int64_t j = 0; j < part->d_out; j++) {
            double a = 0, want = b[i * part->d_out + j];
            if (part->encoding == MAL_ENCODING_DENSE)
                a = (double)part->data[i * part->d_out + j];
            for (int64_t r = 0; r < part->rank; r++)
                a += (double)part->data[i * part->rank + r] *
                     (double)right[r * part->d_out + j];
            sum += (a - want) * (a - want);
            norm += want * want;
        }
    }
    return sqrt(sum / norm);
}

static double *values(const struct mal_delta_part *part) {
    assert_int_equal(part->encoding, MAL_ENCODING_DENSE);
    double *x = mal_malloc((size_t)(part->d_in * part->d_out) * sizeof *x);
    for (int64_t i = 0; i < part->d_in * part->d_out; i++)
        x[i] = (double)part->data[i];
    return x;
}

/* ---- Streams ---- */

/* Batches as (first, count) pairs of the case's facts. */
struct stream {
    size_t n, first[MAX_BATCHES], count[MAX_BATCHES];
};

/* The whole difference from the base, fp32, as dense parts. */
static void read_shift(struct mal_weights_state *ws, struct mal_delta *out) {
    struct mal_error err = {0};
    *out = (struct mal_delta){.parts = mal_calloc(lab.n_modules, sizeof *out->parts)};
    for (size_t m = 0; m < lab.n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(lab.model, m);
        struct mal_delta_part *part = &out->parts[out->n_parts++];
        *part = (struct mal_delta_part){.module = mal_strdup(lin->name),
                                        .d_in = lin->d_in,
                                        .d_out = lin->d_out,
                                        .encoding = MAL_ENCODING_DENSE};
        part->data = mal_malloc(mal_delta_part_bytes(part));
        assert_ok(mal_weights_read_shift(ws, m, part->data, &err), &err);
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
                       const struct mal_progress *progress, struct mal_delta *out) {
    struct mal_error err = {0};
    struct mal_joint *joint = NULL;
    struct mal_weights_state *ws = NULL;
    assert_ok(mal_weights_create(&ws, lab.model, 0, &err), &err);
    assert_ok(mal_joint_create(&joint, lab.model, lab.editor, preserve, 0, &err), &err);
    for (size_t b = 0; b < s->n; b++)
        teach(joint, ws, norms, lab.facts + s->first[b], s->count[b], progress);
    read_shift(ws, out);
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
    struct mal_delta one = {0}, other = {0};
    run_stream(&streams[0], NULL, NULL, &observing, &one);
    for (size_t m = 0; m < lab.n_modules; m++) {
        const struct mal_editor_module *module = &lab.editor->modules[m];
        double lamda = (double)lab.editor->shapes[module->shape].lamda[module->row];
        double *want = reference_shift(m, exp(lamda), NULL, 0);
        double off = distance(part_of(&one, m), want);
        mal_free(want);
        if (!(off < 2e-7)) fail_msg("%s module %zu: off by %g", name, m, off);
    }
    for (size_t i = 1; i < (n > 2 ? 4 : 3); i++) {
        run_stream(&streams[i], NULL, NULL, NULL, &other);
        for (size_t m = 0; m < lab.n_modules; m++) {
            double *want = values(part_of(&one, m));
            double off = distance(part_of(&other, m), want);
            mal_free(want);
            /* keys and differences are fp32 and computed in other company */
            if (!(off < 1e-5)) fail_msg("%s stream %zu: off by %g", name, i, off);
        }
        mal_delta_finish(&other);
    }
    mal_delta_finish(&one);
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
    struct mal_delta delta = {0};
    run_stream(&(struct stream){2, {0, 2}, {2, lab.n_facts - 2}}, NULL, p, &observing,
               &delta);
    for (size_t m = 0; m < lab.n_modules; m++) {
        const struct mal_editor_module *module = &lab.editor->modules[m];
        double lamda = (double)lab.editor->shapes[module->shape].lamda[module->row];
        double *want = reference_shift(m, exp(lamda), p->gram[m], p->weight[m]);
        double off = distance(part_of(&delta, m), want);
        mal_free(want);
        if (!(off < 2e-7)) fail_msg("module %zu: off by %g", m, off);
    }
    mal_delta_finish(&delta);
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
    struct mal_delta joint = {0}, edit = {0};
    size_t n_shapes = lab.editor->n_shapes;
    for (int i = 0; i < 2 && lab.editor->method == MAL_ULTRAEDIT; i++)
        norms[i] = mal_editor_norms(lab.editor, &err);
    run_stream(&(struct stream){1, {0}, {lab.n_facts}}, norms[0], NULL, NULL, &joint);
    assert_ok(mal_edit_run(lab.model, lab.tok, lab.editor, norms[1], NULL, lab.facts,
                           lab.n_facts, NULL, &edit, &report, &err),
              &err);
    for (size_t m = 0; m < lab.n_modules; m++) {
        double *want = values(part_of(&joint, m));
        double off = distance(part_of(&edit, m), want);
        mal_free(want);
        if (!(off < 1e-6)) fail_msg("%s module %zu: off by %g", name, m, off);
    }
    for (size_t s = 0; norms[0] && s < n_shapes; s++) {
        assert_true(norms[0][s].n > 0);
        assert_memory_equal(norms[0][s].std, norms[1][s].std,
                            (size_t)norms[0][s].size * sizeof(float));
    }
    mal_delta_finish(&joint);
    mal_delta_finish(&edit);
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
    lab.editor->method = MAL_MEND;
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
