/* joint_world.h - a joint system with its texts and weights, and beside it what should be
 * in it: keys and differences of each text, measured one by one. After a change the
 * weights are compared with a solve of those in long double. */
#ifndef MAL_TEST_JOINT_WORLD_H
#define MAL_TEST_JOINT_WORLD_H

#include "joint_lab.h"

#include <float.h>

enum { MAX_TEXTS = 20 };

/* A text as the reference has it. */
struct entry {
    bool member;
    int64_t rows[MAX_MODULES];
    float *u[MAX_MODULES]; /* (rows, d_in) on the base weights */
    float *d[MAX_MODULES]; /* (rows, d_out), as it should be */
};

/* A system with its weights, and what should be in it. */
struct world {
    struct mal_example texts[MAX_TEXTS];
    size_t n;
    struct entry entries[MAX_TEXTS];
    float
        *values[MAX_TEXTS]; /* as the last change that taught or improved it left them */
    struct mal_joint *joint;
    struct mal_weights_state *ws;
    struct mal_edit_report report;
    int n_factors, n_dense; /* parts published */
};

static struct world w;

/* The next worlds' weights are bf16, and so are values. */
static bool coarse;

/* Passes of few tokens, so that rows come in several slices. */
static const struct mal_progress in_slices = {.slice_tokens = 12};

static inline size_t floats_of(size_t m, int64_t rows, bool keys) {
    const struct mal_linear *lin = mal_model_edit(lab.model, m);
    return (size_t)(rows * (keys ? lin->d_in : lin->d_out));
}

/* ---- Texts ---- */

static inline void add_text(const char *prompt, const char *target) {
    struct mal_error err = {0};
    assert_true(w.n < MAX_TEXTS);
    assert_ok(
        mal_example_init(&w.texts[w.n++], lab.model, lab.tok, prompt, target, NULL, &err),
        &err);
}

/* Every prompt of the case that has a target. */
static inline void open_world(const char *name, size_t max_bytes) {
    struct mal_error err = {0};
    open_lab(name);
    w = (struct world){0};
    for (size_t m = 0; m < lab.n_modules && coarse; m++)
        mal_model_edit(lab.model, m)->dtype = MAL_BF16;
    for (size_t i = 0; i < lab.n_facts; i++) {
        const struct mal_fact *fact = &lab.facts[i];
        add_text(fact->prompt, fact->target);
        for (size_t j = 0; j < fact->n_rephrases; j++)
            add_text(fact->rephrases[j], fact->target);
        for (size_t j = 0; j < fact->n_unrelated; j++)
            if (fact->unrelated[j].target)
                add_text(fact->unrelated[j].prompt, fact->unrelated[j].target);
    }
    assert_true(w.n >= 8);
    assert_ok(mal_weights_create(&w.ws, lab.model, 0, &err), &err);
    assert_ok(mal_joint_create(&w.joint, lab.model, lab.editor, NULL, max_bytes, &err),
              &err);
}

static inline void close_world(void) {
    for (size_t i = 0; i < w.n; i++) {
        for (size_t m = 0; m < lab.n_modules; m++) {
            mal_free(w.entries[i].u[m]);
            mal_free(w.entries[i].d[m]);
        }
        mal_free(w.values[i]);
        mal_example_finish(&w.texts[i]);
    }
    mal_joint_destroy(w.joint);
    mal_weights_destroy(w.ws);
    close_lab();
}

/* ---- The reference ---- */

struct measured {
    int64_t rows[MAX_MODULES];
    float *u[MAX_MODULES], *g[MAX_MODULES];
};

/* One text alone through the model, on the weights in use. */
static inline struct measured measure_alone(size_t i) {
    struct mal_error err = {0};
    struct mal_edit_rows rows;
    struct mal_edit_report report = {0};
    struct measured out = {{0}};
    assert_ok(mal_edit_rows_of_examples(&rows, lab.model, lab.editor, &w.texts[i], 1,
                                        NULL, &report, &err),
              &err);
    assert_ok(mal_edit_rows_measure(&rows, &err), &err);
    for (size_t m = 0; m < lab.n_modules; m++) {
        int64_t n = out.rows[m] = mal_edit_rows_n(&rows, m);
        out.u[m] = to_host(rows.u[m], floats_of(m, n, true));
        out.g[m] = to_host(rows.g[m], floats_of(m, n, false));
    }
    mal_edit_rows_finish(&rows);
    return out;
}

/* What the editor's network makes of a text measured alone: in place of g. */
static inline void edit_alone(size_t i, struct measured *x) {
    struct mal_error err = {0};
    struct mal_edit_rows rows;
    struct mal_edit_report report = {0};
    struct mal_edit_diffs *diffs = NULL;
    assert_ok(mal_edit_rows_of_examples(&rows, lab.model, lab.editor, &w.texts[i], 1,
                                        NULL, &report, &err),
              &err);
    assert_ok(mal_edit_diffs_create(&diffs, lab.editor, NULL, lab.be, &err), &err);
    for (size_t m = 0; m < lab.n_modules; m++) {
        size_t u = floats_of(m, x->rows[m], true), g = floats_of(m, x->rows[m], false);
        to_device(rows.u[m], x->u[m], u);
        to_device(rows.g[m], x->g[m], g);
        assert_ok(mal_edit_diffs_run(diffs, &rows, m, &err), &err);
        mal_free(x->g[m]);
        x->g[m] = to_host(rows.g[m], g);
    }
    mal_edit_diffs_destroy(diffs);
    mal_edit_rows_finish(&rows);
}

/* Of all modules, until the next call. */
static inline const float *same_steps(double step) {
    static float steps[16];
    assert_true(lab.n_modules <= 16);
    for (size_t m = 0; m < lab.n_modules; m++)
        steps[m] = (float)step;
    return steps;
}

/* d = -step <u, u_hat> g_hat, the gradients not centred: in place of g. */
static inline void fix_alone(struct measured *x, double step) {
    for (size_t m = 0; m < lab.n_modules; m++) {
        const struct mal_editor_shape *shape =
            &lab.editor->shapes[lab.editor->modules[m].shape];
        const float *mean = shape->norm.mean, *std = shape->norm.std;
        for (int64_t r = 0; r < x->rows[m]; r++) {
            const float *u = x->u[m] + r * shape->d_in;
            float *g = x->g[m] + r * shape->d_out;
            double dot = 0;
            for (int64_t k = 0; k < shape->d_in; k++) {
                dot += (double)u[k] * ((double)u[k] - (double)mean[k]) /
                       ((double)std[k] + (double)FLT_EPSILON);
            }
            for (int64_t k = 0; k < shape->d_out; k++) {
                double hat =
                    (double)g[k] / ((double)std[shape->d_in + k] + (double)FLT_EPSILON);
                g[k] = (float)(-step * dot * hat);
            }
        }
    }
}

/* Text i is in the system with the differences of the editor. */
static inline void enter(size_t i) {
    struct entry *e = &w.entries[i];
    mal_weights_use(w.ws, 0);
    struct measured x = measure_alone(i);
    edit_alone(i, &x);
    e->member = true;
    for (size_t m = 0; m < lab.n_modules; m++) {
        mal_free(e->u[m]);
        mal_free(e->d[m]);
        e->rows[m] = x.rows[m];
        e->u[m] = x.u[m];
        e->d[m] = x.g[m];
    }
}

/* It is improved, as measured on the weights in use. */
static inline void enter_better(size_t i, double step) {
    struct measured x = measure_alone(i);
    fix_alone(&x, step);
    for (size_t m = 0; m < lab.n_modules; m++) {
        for (size_t k = 0; k < floats_of(m, x.rows[m], false); k++)
            w.entries[i].d[m][k] += x.g[m][k];
        mal_free(x.u[m]);
        mal_free(x.g[m]);
    }
}

static inline void enter_pinned(size_t i) {
    for (size_t m = 0; m < lab.n_modules; m++)
        memset(w.entries[i].d[m], 0,
               floats_of(m, w.entries[i].rows[m], false) * sizeof(float));
}

static inline double *reference(size_t m) {
    forget_sums();
    for (size_t i = 0; i < w.n; i++) {
        const struct entry *e = &w.entries[i];
        if (e->member) sum_rows(m, e->rows[m], e->u[m], e->d[m]);
    }
    return reference_shift(m, ridge_at(m), NULL, 0);
}

/* Keys and differences are fp32 and computed in other company. */
static inline void expect_weights(const char *when) {
    for (size_t m = 0; m < lab.n_modules; m++) {
        double *want = reference(m);
        float *got = shift_at(w.ws, m);
        double off = shift_distance(m, got, want);
        mal_free(want);
        mal_free(got);
        if (!(off < 2e-5)) fail_msg("%s, module %zu: off by %g", when, m, off);
    }
}

/* Rounded once; what the system has is what they are. */
static inline void expect_coarse_values(size_t i) {
    const float *got = w.values[i];
    for (size_t m = 0; m < lab.n_modules; m++) {
        struct entry *e = &w.entries[i];
        size_t n = floats_of(m, e->rows[m], false);
        double norm = 0;
        for (size_t k = 0; k < n; k++)
            norm += (double)e->d[m][k] * (double)e->d[m][k];
        for (size_t k = 0; k < n; k++) {
            double want = (double)e->d[m][k], off = fabs((double)got[k] - want);
            assert_true(mal_bf16_to_f32(mal_f32_to_bf16(got[k])) == got[k]);
            assert_true(off <= 0x1.01p-8 * fabs(want) + 1e-5 * sqrt(norm));
            e->d[m][k] = got[k];
        }
        got += n;
    }
}

static inline void expect_values(size_t i) {
    if (coarse) {
        expect_coarse_values(i);
        return;
    }
    const float *got = w.values[i];
    for (size_t m = 0; m < lab.n_modules; m++) {
        const struct entry *e = &w.entries[i];
        size_t n = floats_of(m, e->rows[m], false);
        double sum = 0, norm = 0;
        for (size_t k = 0; k < n; k++) {
            double x = (double)got[k] - (double)e->d[m][k];
            sum += x * x;
            norm += (double)e->d[m][k] * (double)e->d[m][k];
        }
        if (!(sqrt(sum / norm) < 1e-5))
            fail_msg("text %zu, module %zu: values off by %g", i, m, sqrt(sum / norm));
        got += n;
    }
}

/* ---- Changes ---- */

static inline struct mal_joint_change *begin(void) {
    struct mal_error err = {0};
    struct mal_joint_change *change = NULL;
    mal_weights_use(w.ws, 0);
    w.report = (struct mal_edit_report){0};
    assert_ok(
        mal_joint_change_create(&change, w.joint, w.ws, &in_slices, &w.report, &err),
        &err);
    return change;
}

static inline void keep_values(const struct mal_joint_change *change, size_t i,
                               size_t number) {
    size_t bytes = mal_joint_n_values(w.joint, &w.texts[i]) * sizeof(float);
    if (!w.values[i]) w.values[i] = mal_malloc(bytes);
    memcpy(w.values[i], mal_joint_values(change, number), bytes);
}

static inline void teach_in(struct mal_joint_change *change, size_t first, size_t n) {
    struct mal_error err = {0};
    size_t number = mal_joint_n_texts(change);
    mal_weights_use(w.ws, 0);
    assert_ok(mal_joint_teach(change, NULL, w.texts + first, n, &err), &err);
    assert_int_equal(mal_joint_n_texts(change), number + n);
    for (size_t i = first; i < first + n; i++) {
        keep_values(change, i, number + i - first);
        enter(i);
        expect_values(i);
    }
}

static inline void remove_in(struct mal_joint_change *change, size_t first, size_t n,
                             bool pin) {
    struct mal_error err = {0};
    mal_weights_use(w.ws, 0);
    assert_ok(mal_joint_remove(change, w.texts + first,
                               (const float *const *)w.values + first, n, NULL, 0, pin,
                               &err),
              &err);
    for (size_t i = first; i < first + n; i++) {
        size_t bytes = mal_joint_n_values(w.joint, &w.texts[i]) * sizeof(float);
        if (pin) enter_pinned(i);
        if (pin) memset(w.values[i], 0, bytes);
        w.entries[i].member = pin;
    }
}

/* The change so far as the weights in use, not published. */
static inline void try_weights(struct mal_joint_change *change) {
    struct mal_error err = {0};
    struct mal_delta delta = {0};
    assert_ok(mal_joint_delta(change, &delta, &err), &err);
    mal_weights_discard(w.ws);
    assert_ok(mal_weights_prepare(w.ws, &delta, NULL, NULL, &err), &err);
    mal_weights_use_prepared(w.ws);
    mal_delta_finish(&delta);
}

static inline void publish(struct mal_joint_change *change) {
    struct mal_error err = {0};
    struct mal_delta delta = {0};
    assert_ok(mal_joint_delta(change, &delta, &err), &err);
    assert_int_equal(delta.n_parts, lab.n_modules);
    for (size_t m = 0; m < delta.n_parts; m++) {
        const struct mal_delta_part *part = &delta.parts[m];
        bool factors = part->encoding == MAL_ENCODING_FACTORS;
        if (m > 0) assert_true(strcmp(part[-1].module, part->module) < 0);
        (*(factors ? &w.n_factors : &w.n_dense))++;
        assert_int_equal(part->dtype, MAL_F32); /* of weights in bf16, too */
        assert_true(part->norm > 0 && part->rounding_error < 1e-6);
    }
    mal_weights_discard(w.ws);
    assert_ok(mal_weights_prepare(w.ws, &delta, NULL, NULL, &err), &err);
    mal_weights_publish(w.ws, mal_weights_live(w.ws) + 1);
    mal_delta_finish(&delta);
    mal_joint_change_destroy(change);
}

static inline void teach(size_t first, size_t n) {
    struct mal_joint_change *change = begin();
    teach_in(change, first, n);
    publish(change);
}

static inline void take_away(size_t first, size_t n, bool pin) {
    struct mal_joint_change *change = begin();
    remove_in(change, first, n, pin);
    publish(change);
}

#endif
