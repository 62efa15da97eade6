/* joint.c - the sums over all facts, and the shift that follows from them. */
#include "core/editor/joint.h"

#include <math.h>

#include "core/alloc.h"
#include "core/arena.h"
#include "core/clock.h"
#include "core/editor/cholesky.h"
#include "core/editor/edit_diffs.h"
#include "core/editor/factors.h"

enum { MIN_DEPTH = 512 /* rows a slice of the sums takes in at least */ };

struct mal_joint {
    struct mal_model *model;
    struct mal_backend *be;
    const struct mal_editor *editor;
    size_t n_modules;
    double **a; /* per module (d_in, d_in), lower triangle, device; MEND: NULL */
    double **v; /* per module (d_in, d_out), device */
    struct mal_arena scratch;
};

struct ticker {
    const struct mal_progress *progress;
    enum mal_stage stage;
    int64_t done, total;
};

static bool tick(void *arg) {
    const struct ticker *t = arg;
    if (!t->progress || !t->progress->tick) return true;
    return t->progress->tick(t->progress->arg, t->stage, t->done, t->total);
}

/* ---- Beginning ---- */

static double ridge_of(const struct mal_editor *editor, size_t m) {
    const struct mal_editor_module *module = &editor->modules[m];
    if (editor->method != MAL_MALMEN) return 1;
    return exp((double)editor->shapes[module->shape].lamda[module->row]);
}

/* a := w K0'K0 + ridge I, a row at a time through the host: it is done once. */
static bool begin_system(struct mal_joint *joint, size_t m,
                         const struct mal_preserve *preserve, struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(joint->model, m);
    const double *gram = mal_preserve_gram(preserve, m);
    double w = mal_preserve_weight(preserve, m), ridge = ridge_of(joint->editor, m);
    if (!isfinite(ridge) || !(ridge > 0) || !isfinite(w)) {
        return mal_fail(err, MAL_NUMERIC,
                        "module '%s': the ridge e^lamda is %g, the weight of the "
                        "preservation keys %g",
                        lin->name, ridge, w);
    }
    size_t bytes = (size_t)lin->d_in * sizeof(double);
    double *row = mal_calloc((size_t)lin->d_in, sizeof *row);
    bool ok = row || mal_fail(err, MAL_NO_MEMORY, "joint system");
    for (int64_t i = 0; ok && i < lin->d_in; i++) {
        if (gram) mal_backend_download(joint->be, row, gram + i * lin->d_in, bytes);
        ok = mal_backend_sync(joint->be, err);
        for (int64_t j = 0; j < lin->d_in; j++)
            row[j] = (gram && j <= i ? w * row[j] : 0) + (i == j ? ridge : 0);
        mal_backend_upload(joint->be, joint->a[m] + i * lin->d_in, row, bytes);
        ok = ok && mal_backend_sync(joint->be, err);
    }
    mal_free(row);
    return ok;
}

static bool begin(struct mal_joint *joint, const struct mal_preserve *preserve,
                  struct mal_error *err) {
    bool system = joint->editor->method != MAL_MEND;
    joint->a = mal_calloc(joint->n_modules, sizeof *joint->a);
    joint->v = mal_calloc(joint->n_modules, sizeof *joint->v);
    if (!joint->a || !joint->v) return mal_fail(err, MAL_NO_MEMORY, "joint system");
    for (size_t m = 0; m < joint->n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(joint->model, m);
        size_t a_bytes = (size_t)(lin->d_in * lin->d_in) * sizeof(double);
        size_t v_bytes = (size_t)(lin->d_in * lin->d_out) * sizeof(double);
        joint->v[m] = mal_backend_alloc(joint->be, v_bytes);
        if (system) joint->a[m] = mal_backend_alloc(joint->be, a_bytes);
        if (!joint->v[m] || (system && !joint->a[m])) {
            return mal_fail(err, MAL_NO_MEMORY, "joint system: %s needs %zu bytes",
                            lin->name, a_bytes + v_bytes);
        }
        mal_backend_zero(joint->be, joint->v[m], v_bytes);
        if (system && !begin_system(joint, m, preserve, err)) return false;
    }
    return mal_backend_sync(joint->be, err);
}

bool mal_joint_create(struct mal_joint **out, struct mal_model *model,
                      const struct mal_editor *editor,
                      const struct mal_preserve *preserve, struct mal_error *err) {
    struct mal_joint *joint = mal_calloc(1, sizeof *joint);
    if (!joint) return mal_fail(err, MAL_NO_MEMORY, "joint system");
    *joint = (struct mal_joint){.model = model,
                                .be = mal_model_backend(model),
                                .editor = editor,
                                .n_modules = editor->n_modules,
                                .scratch = {.be = mal_model_backend(model)}};
    if (!begin(joint, preserve, err)) {
        mal_joint_destroy(joint);
        return false;
    }
    *out = joint;
    return true;
}

void mal_joint_destroy(struct mal_joint *joint) {
    if (!joint) return;
    for (size_t m = 0; m < joint->n_modules; m++) {
        if (joint->a) mal_backend_free(joint->be, joint->a[m]);
        if (joint->v) mal_backend_free(joint->be, joint->v[m]);
    }
    mal_arena_finish(&joint->scratch);
    mal_free(joint->a);
    mal_free(joint->v);
    mal_free(joint);
}

/* ---- Taking facts in ---- */

/* v += alpha u'd and, but for MEND, a += u'u, over all rows. */
static bool add_rows(struct mal_joint *joint, const struct mal_edit_rows *rows, size_t m,
                     const struct mal_pace *pace, struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(joint->model, m);
    const struct mal_editor_module *module = &joint->editor->modules[m];
    bool mend = joint->editor->method == MAL_MEND;
    const float *lr = joint->editor->shapes[module->shape].lr;
    int64_t depth = MAL_SLICE_FMA / (lin->d_in * (lin->d_in / 2 + lin->d_out) + 1);
    if (depth < MIN_DEPTH) depth = MIN_DEPTH;
    int64_t total = mal_edit_rows_n(rows, m);
    for (int64_t i = 0; i < total; i += depth) {
        int64_t n = total - i < depth ? total - i : depth;
        const float *u = rows->u[m] + i * lin->d_in, *d = rows->g[m] + i * lin->d_out;
        if (!mend) {
            mal_syrk64(joint->be, lin->d_in, n, 1, u, lin->d_in, true, 1, joint->a[m],
                       lin->d_in);
        }
        mal_gemm64(joint->be,
                   &(struct mal_gemm64){.m = lin->d_in,
                                        .n = lin->d_out,
                                        .k = n,
                                        .a = u,
                                        .a_dtype = MAL_F32,
                                        .trans_a = true,
                                        .b = d,
                                        .b_dtype = MAL_F32,
                                        .c = joint->v[m],
                                        .alpha = mend ? -(double)lr[module->row] : 1,
                                        .beta = 1});
        if (!mal_pace_step(pace, err)) return false;
    }
    return mal_backend_sync(joint->be, err);
}

static bool add_modules(struct mal_joint *joint, struct mal_edit_rows *rows,
                        struct mal_edit_diffs *diffs, struct mal_error *err) {
    struct ticker ticker = {.progress = rows->progress,
                            .stage = MAL_STAGE_GRAM,
                            .total = (int64_t)joint->n_modules};
    struct mal_pace pace = {.be = joint->be, .tick = tick, .arg = &ticker};
    for (size_t m = 0; m < joint->n_modules; m++) {
        if (!mal_edit_diffs_run(diffs, rows, m, err)) return false;
        double start = mal_clock_seconds();
        ticker.done = (int64_t)m;
        if (!add_rows(joint, rows, m, &pace, err)) return false;
        mal_edit_rows_drop(rows, m);
        rows->report->seconds[MAL_STAGE_GRAM] += mal_clock_seconds() - start;
    }
    return true;
}

bool mal_joint_add(struct mal_joint *joint, const struct mal_tokenizer *tok,
                   struct mal_normalizer *norms, const struct mal_fact *facts,
                   size_t n_facts, const struct mal_progress *progress,
                   struct mal_edit_report *report, struct mal_error *err) {
    *report = (struct mal_edit_report){.n_facts = n_facts};
    struct mal_edit_rows rows;
    struct mal_edit_diffs *diffs = NULL;
    if (!mal_edit_rows_of_facts(&rows, joint->model, tok, joint->editor, facts, n_facts,
                                progress, report, err))
        return false;
    bool ok = mal_edit_rows_measure(&rows, err);
    mal_model_drop_scratch(joint->model);
    ok = ok && (!norms || mal_edit_rows_take_in(&rows, norms, err)) &&
         mal_edit_diffs_create(&diffs, joint->editor, norms, joint->be, err) &&
         add_modules(joint, &rows, diffs, err);
    mal_edit_diffs_destroy(diffs);
    mal_edit_rows_finish(&rows);
    return ok;
}

/* ---- Solving ---- */

struct buffers {
    double *info; /* (2) pivot report */
    double *a;    /* (d_in, d_in) */
    double *s;    /* (d_in, d_out) */
};

static struct buffers place(struct mal_arena *arena, const struct mal_linear *lin) {
    size_t n = (size_t)lin->d_in, k = (size_t)lin->d_out;
    return (struct buffers){.info = mal_arena_alloc(arena, 2 * sizeof(double)),
                            .a = mal_arena_alloc(arena, n * n * sizeof(double)),
                            .s = mal_arena_alloc(arena, n * k * sizeof(double))};
}

static bool solve_module(struct mal_joint *joint, size_t m, const struct mal_pace *pace,
                         struct mal_delta_part *out, struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(joint->model, m);
    int64_t n = lin->d_in, k = lin->d_out;
    if (!joint->a[m])
        return mal_part_from_dense(joint->be, lin->name, n, k, joint->v[m], out, err);
    struct mal_arena counting;
    mal_arena_init_counting(&counting);
    place(&counting, lin);
    if (!mal_arena_reserve(&joint->scratch, counting.peak, err))
        return mal_fail_wrap(err, "module '%s': the solve", lin->name);
    mal_arena_reset(&joint->scratch, 0);
    struct buffers b = place(&joint->scratch, lin);
    mal_backend_copy(joint->be, b.a, joint->a[m], (size_t)(n * n) * sizeof *b.a);
    mal_backend_copy(joint->be, b.s, joint->v[m], (size_t)(n * k) * sizeof *b.s);

    return mal_cholesky_check(pace, lin->name, "joint system", n, b.a, b.info, err) &&
           mal_cholesky_solve(pace, n, k, b.a, b.s, err) &&
           mal_part_from_dense(joint->be, lin->name, n, k, b.s, out, err);
}

bool mal_joint_solve(struct mal_joint *joint, const struct mal_progress *progress,
                     struct mal_delta *out, struct mal_edit_report *report,
                     struct mal_error *err) {
    double start = mal_clock_seconds();
    struct ticker ticker = {.progress = progress,
                            .stage = MAL_STAGE_SOLVE,
                            .total = (int64_t)joint->n_modules};
    struct mal_pace pace = {.be = joint->be, .tick = tick, .arg = &ticker};
    struct mal_delta delta = {.parts = mal_calloc(joint->n_modules, sizeof *delta.parts)};
    if (!delta.parts) return mal_fail(err, MAL_NO_MEMORY, "delta");
    for (size_t m = 0; m < joint->n_modules; m++) {
        ticker.done = (int64_t)m;
        if (!solve_module(joint, m, &pace, &delta.parts[m], err)) {
            mal_delta_finish(&delta);
            return false;
        }
        delta.n_parts++;
    }
    mal_delta_sort(&delta);
    *out = delta;
    report->seconds[MAL_STAGE_SOLVE] += mal_clock_seconds() - start;
    return true;
}
