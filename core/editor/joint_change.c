/* joint_change.c - changed rows and their residuals.
 *
 * Texts come in groups, each measured in one go; a group's keys U and residuals R are
 * device memory, per module. */
#include "core/editor/joint_change_impl.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/round.h"

enum {
    KEEP_TEXTS = 256,     /* whose values are fetched at a time */
    ROUND_SLICE = 1 << 22 /* differences rounded at a time */
};

static const struct mal_linear *module_at(const struct mal_joint *joint, size_t m) {
    return mal_model_edit(joint->model, m);
}

/* ---- Their life ---- */

bool mal_joint_change_create(struct mal_joint_change **out, struct mal_joint *joint,
                             const struct mal_weights_state *shifts,
                             const struct mal_progress *progress,
                             struct mal_edit_report *report, struct mal_error *err) {
    struct mal_joint_change *change = mal_calloc(1, sizeof *change);
    if (!change) return mal_fail(err, MAL_NO_MEMORY, "change");
    *change = (struct mal_joint_change){.joint = joint,
                                        .shifts = shifts,
                                        .progress = progress,
                                        .report = report,
                                        .last = &change->groups,
                                        .scratch = {.be = joint->be}};
    if (!mal_trunk_create(&change->trunk, joint->model, err)) {
        mal_free(change);
        return false;
    }
    *out = change;
    return true;
}

static void free_group(struct mal_joint *joint, struct mal_joint_group *group) {
    for (size_t m = 0; group->r && m < joint->n_modules; m++)
        mal_backend_free(joint->be, group->r[m]);
    mal_free(group->r);
    mal_free(group->joined);
    mal_free(group->values);
    mal_edit_rows_finish(&group->rows);
    mal_free(group);
}

void mal_joint_change_destroy(struct mal_joint_change *change) {
    if (!change) return;
    while (change->groups) {
        struct mal_joint_group *next = change->groups->next;
        free_group(change->joint, change->groups);
        change->groups = next;
    }
    mal_trunk_destroy(change->trunk);
    mal_free(change->texts);
    mal_arena_finish(&change->scratch);
    mal_free(change);
}

/* ---- Values ---- */

static int64_t rows_of(const struct mal_joint *joint, const struct mal_example *text,
                       size_t m) {
    return mal_example_rows(joint->editor, text, module_at(joint, m)->of_source);
}

/* Where a module's part begins in a text's values. */
static size_t values_at(const struct mal_joint *joint, const struct mal_example *text,
                        size_t m) {
    int64_t n = 0;
    for (size_t i = 0; i < m; i++)
        n += rows_of(joint, text, i) * module_at(joint, i)->d_out;
    return (size_t)n;
}

size_t mal_joint_n_values(const struct mal_joint *joint, const struct mal_example *text) {
    return values_at(joint, text, joint->n_modules);
}

const float *mal_joint_values(const struct mal_joint_change *change, size_t text) {
    assert(text < change->n_texts && change->texts[text].values);
    return change->texts[text].values;
}

struct mal_joint *mal_joint_change_system(const struct mal_joint_change *change) {
    return change->joint;
}

struct mal_trunk *mal_joint_change_trunk(const struct mal_joint_change *change) {
    return change->trunk;
}

size_t mal_joint_n_texts(const struct mal_joint_change *change) {
    return change->n_texts;
}

/* The first of a text's rows in its group, of a module. */
static int64_t first_row(const struct mal_joint *joint, const struct mal_joint_text *text,
                         size_t m) {
    return text->group->rows.first_row[module_at(joint, m)->of_source][text->index];
}

/* ---- Groups ---- */

static bool add_texts(struct mal_joint_change *change, struct mal_joint_group *group,
                      const struct mal_example *texts, size_t n, bool values,
                      struct mal_error *err) {
    struct mal_joint_text *all =
        mal_realloc(change->texts, (change->n_texts + n) * sizeof *all);
    if (!all) return mal_fail(err, MAL_NO_MEMORY, "%zu texts", n);
    change->texts = all;
    size_t n_values = 0;
    for (size_t i = 0; values && i < n; i++)
        n_values += mal_joint_n_values(change->joint, &texts[i]);
    if (values) group->values = mal_calloc(n_values, sizeof *group->values);
    if (values && !group->values)
        return mal_fail(err, MAL_NO_MEMORY, "values of %zu texts", n);
    float *next = group->values;
    for (size_t i = 0; i < n; i++) {
        struct mal_joint_text *text = &all[change->n_texts++];
        *text = (struct mal_joint_text){.example = texts[i], .group = group, .index = i};
        if (!values) continue;
        text->values = next;
        next += mal_joint_n_values(change->joint, &texts[i]);
    }
    return true;
}

/* A group of texts whose rows have memory but are not measured yet. */
static struct mal_joint_group *add_group(struct mal_joint_change *change,
                                         const struct mal_example *texts, size_t n,
                                         bool values, struct mal_edit_report *report,
                                         struct mal_error *err) {
    struct mal_joint *joint = change->joint;
    struct mal_joint_group *group = mal_calloc(1, sizeof *group);
    if (!group) {
        mal_fail(err, MAL_NO_MEMORY, "change");
        return NULL;
    }
    *change->last = group;
    change->last = &group->next;
    if (!mal_edit_rows_of_examples(&group->rows, joint->model, joint->editor, texts, n,
                                   change->progress, report, err) ||
        !add_texts(change, group, texts, n, values, err))
        return NULL;
    group->rows.trunk = change->trunk;
    group->rows.full_means = true; /* a fact alone is what it is among others */
    group->r = mal_calloc(joint->n_modules, sizeof *group->r);
    group->joined = mal_calloc(joint->n_modules, sizeof *group->joined);
    if (!group->r || !group->joined) {
        mal_fail(err, MAL_NO_MEMORY, "change");
        return NULL;
    }
    for (size_t m = 0; m < joint->n_modules; m++) {
        int64_t rows = mal_edit_rows_n(&group->rows, m);
        size_t bytes = (size_t)(rows * module_at(joint, m)->d_out) * sizeof(double);
        group->r[m] = mal_backend_alloc(joint->be, bytes);
        if (!group->r[m]) {
            mal_fail(err, MAL_NO_MEMORY, "residuals of %lld edit tokens",
                     (long long)rows);
            return NULL;
        }
        mal_backend_zero(joint->be, group->r[m], bytes);
    }
    return group;
}

static void add_seconds(struct mal_edit_report *to, const struct mal_edit_report *from) {
    for (int s = 0; s < MAL_N_STAGES; s++)
        to->seconds[s] += from->seconds[s];
}

/* r += alpha x, rows of fp32 differences. */
static void add_values(struct mal_joint *joint, double alpha, const float *x, int64_t n,
                       int64_t d_out, double *r) {
    mal_axpby64(joint->be, &(struct mal_axpby64){.n = n,
                                                 .c = d_out,
                                                 .alpha = alpha,
                                                 .beta = 1,
                                                 .x = x,
                                                 .x_dtype = MAL_F32,
                                                 .y = r});
}

/* r += alpha values of a text, module m's. Not waited for: a device is asked often. */
static bool add_text_values(struct mal_joint_change *change,
                            const struct mal_joint_text *text, size_t m, double alpha,
                            const float *values, struct mal_error *err) {
    struct mal_joint *joint = change->joint;
    int64_t rows = rows_of(joint, &text->example, m), d_out = module_at(joint, m)->d_out;
    size_t bytes = (size_t)(rows * d_out) * sizeof(float);
    float *d = mal_backend_alloc(joint->be, bytes);
    if (!d) return mal_fail(err, MAL_NO_MEMORY, "values of a text");
    mal_backend_upload(joint->be, d, values + values_at(joint, &text->example, m), bytes);
    add_values(joint, alpha, d, rows, d_out,
               text->group->r[m] + first_row(joint, text, m) * d_out);
    mal_backend_free(joint->be, d);
    return true;
}

/* r += alpha U S, S being the live shift. */
static bool add_fitted(const struct mal_joint_change *change,
                       const struct mal_joint_group *group, size_t m, double alpha,
                       const struct mal_pace *pace, struct mal_error *err) {
    const struct mal_linear *lin = module_at(change->joint, m);
    const float *shift = change->shifts ? mal_weights_shift(change->shifts, m) : NULL;
    if (!shift) return true;
    struct mal_gemm64 product = {.m = mal_edit_rows_n(&group->rows, m),
                                 .n = lin->d_out,
                                 .k = lin->d_in,
                                 .a = group->rows.u[m],
                                 .a_dtype = MAL_F32,
                                 .b = shift,
                                 .b_dtype = MAL_F32,
                                 .trans_b = lin->transposed,
                                 .c = group->r[m],
                                 .alpha = alpha,
                                 .beta = 1};
    return mal_pace_gemm64(pace, &product, err);
}

/* A group's keys of a module into the system, or out of it where `sign` is negative; the
 * residuals lose, or get back, what the live shift gives them. */
static bool add_keys(struct mal_joint_change *change, const struct mal_joint_group *group,
                     size_t m, int sign, const struct mal_pace *pace,
                     struct mal_error *err) {
    return add_fitted(change, group, m, -sign, pace, err) &&
           mal_joint_add_rows(change->joint, m, group->rows.u[m],
                              mal_edit_rows_n(&group->rows, m), sign, pace,
                              &group->joined[m], err);
}

/* ---- Teaching ---- */

/* Whether a module's differences are rounded to bf16: where its weights are, as coarsely.
 * What is stored of them is half as much then. */
static bool is_coarse(const struct mal_joint *joint, size_t m) {
    return module_at(joint, m)->dtype == MAL_BF16;
}

static bool round_values(struct mal_joint *joint, size_t m, int64_t n, float *d,
                         struct mal_error *err) {
    struct mal_backend *be = joint->be;
    int64_t slice = n < ROUND_SLICE ? n : ROUND_SLICE;
    if (n == 0 || !is_coarse(joint, m)) return true;
    void *coarse = mal_backend_alloc(be, (size_t)slice * sizeof(uint16_t));
    if (!coarse) return mal_fail(err, MAL_NO_MEMORY, "value differences");
    for (int64_t i = 0, k; i < n; i += k) {
        k = n - i < slice ? n - i : slice;
        mal_convert(be, k, coarse, MAL_BF16, d + i, MAL_F32);
        mal_convert(be, k, d + i, MAL_F32, coarse, MAL_BF16);
    }
    bool ok = mal_backend_sync(be, err);
    mal_backend_free(be, coarse);
    return ok;
}

/* Texts [k, k + n) of the group in the order of their rows, and d (rows, d_out) of those:
 * into their values. */
static void share_out(struct mal_joint_change *change,
                      const struct mal_joint_group *group, size_t first_text, size_t m,
                      size_t k, size_t n, const float *d) {
    const struct mal_joint *joint = change->joint;
    const struct mal_joint_text *texts = change->texts + first_text;
    const size_t *order = group->rows.order + k;
    int64_t d_out = module_at(joint, m)->d_out;
    int64_t row = first_row(joint, &texts[order[0]], m);
#pragma omp parallel for schedule(static) if (n >= KEEP_TEXTS)
    for (size_t i = 0; i < n; i++) {
        const struct mal_joint_text *text = &texts[order[i]];
        memcpy(text->values + values_at(joint, &text->example, m),
               d + (first_row(joint, text, m) - row) * d_out,
               (size_t)(rows_of(joint, &text->example, m) * d_out) * sizeof(float));
    }
}

/* Where the rows of the group's k-th text in that order begin, or all have ended. */
static int64_t row_at(const struct mal_joint *joint, const struct mal_joint_group *group,
                      size_t m, size_t k) {
    const struct mal_edit_rows *rows = &group->rows;
    if (k >= rows->n_examples) return mal_edit_rows_n(rows, m);
    return rows->first_row[module_at(joint, m)->of_source][rows->order[k]];
}

/* The differences d (n, d_out) of a module into the texts' values; from another device a
 * few texts' at a time: of a large batch they are a gigabyte. */
static bool keep_values(struct mal_joint_change *change,
                        const struct mal_joint_group *group, size_t first_text, size_t m,
                        const float *d, struct mal_error *err) {
    struct mal_joint *joint = change->joint;
    bool there = mal_backend_on_host(joint->be);
    size_t n = group->rows.n_examples, step = there ? n : KEEP_TEXTS;
    int64_t d_out = module_at(joint, m)->d_out, most = 0;
    for (size_t k = 0; k < n; k += step) {
        int64_t rows = row_at(joint, group, m, k + step) - row_at(joint, group, m, k);
        if (rows > most) most = rows;
    }
    float *own = there ? NULL : mal_malloc((size_t)(most * d_out) * sizeof *own);
    bool ok = there || own || mal_fail(err, MAL_NO_MEMORY, "values of %zu texts", n);
    for (size_t k = 0; ok && k < n; k += step) {
        int64_t row = row_at(joint, group, m, k),
                rows = row_at(joint, group, m, k + step) - row;
        const float *part = d + row * d_out;
        if (own)
            mal_backend_download(joint->be, own, part,
                                 (size_t)(rows * d_out) * sizeof *own);
        ok = mal_backend_sync(joint->be, err);
        if (ok)
            share_out(change, group, first_text, m, k, n - k < step ? n - k : step,
                      own ? own : part);
    }
    mal_free(own);
    return ok;
}

/* The differences of a module in rows->g: into the texts' values and the residuals. */
static bool take_module(struct mal_joint_change *change, struct mal_joint_group *group,
                        size_t first_text, size_t m, struct mal_error *err) {
    struct mal_joint *joint = change->joint;
    int64_t n = mal_edit_rows_n(&group->rows, m), d_out = module_at(joint, m)->d_out;
    float *d = group->rows.g[m];
    double start = mal_clock_seconds();
    if (!round_values(joint, m, n * d_out, d, err) ||
        !mal_joint_check_finite(joint, m, "value differences", n * d_out, d, err) ||
        !keep_values(change, group, first_text, m, d, err))
        return false;
    mal_convert(joint->be, n * d_out, group->r[m], MAL_F64, d, MAL_F32);
    mal_backend_free(joint->be, d);
    group->rows.g[m] = NULL;
    change->report->seconds[MAL_STAGE_GRAM] += mal_clock_seconds() - start;
    return true;
}

static bool take_modules(struct mal_joint_change *change, struct mal_joint_group *group,
                         size_t first_text, struct mal_edit_diffs *diffs,
                         struct mal_error *err) {
    for (size_t m = 0; m < change->joint->n_modules; m++) {
        if (!mal_edit_diffs_run(diffs, &group->rows, m, err) ||
            !take_module(change, group, first_text, m, err))
            return false;
    }
    return true;
}

bool mal_joint_teach_values(struct mal_joint_change *change, struct mal_normalizer *norms,
                            const struct mal_example *texts, size_t n,
                            struct mal_error *err) {
    struct mal_joint *joint = change->joint;
    struct mal_edit_diffs *diffs = NULL;
    size_t first_text = change->n_texts;
    if (n == 0) return true;
    struct mal_joint_group *group =
        add_group(change, texts, n, true, change->report, err);
    bool ok = group && mal_joint_settle(joint, &group->rows, err) &&
              mal_edit_rows_measure(&group->rows, err);
    mal_model_drop_scratch(joint->model);
    ok = ok && (!norms || mal_edit_rows_take_in(&group->rows, norms, err)) &&
         mal_edit_diffs_create(&diffs, joint->editor, norms, joint->be, err) &&
         take_modules(change, group, first_text, diffs, err);
    mal_edit_diffs_destroy(diffs);
    if (ok) change->taught = group;
    return ok;
}

/* Less what the live shift gives already, the residuals; the keys into the system. */
bool mal_joint_teach_keys(struct mal_joint_change *change, struct mal_error *err) {
    struct mal_joint *joint = change->joint;
    struct mal_joint_ticker ticker =
        mal_joint_ticker(joint, change->progress, MAL_STAGE_GRAM);
    struct mal_pace pace = mal_joint_pace(joint, &ticker);
    double start = mal_clock_seconds();
    if (!change->taught) return true;
    joint->whole = false;
    for (size_t m = 0; m < joint->n_modules; m++) {
        ticker.done = (int64_t)m;
        if (!add_keys(change, change->taught, m, 1, &pace, err)) return false;
    }
    joint->whole = true;
    change->taught = NULL;
    change->report->seconds[MAL_STAGE_GRAM] += mal_clock_seconds() - start;
    return true;
}

bool mal_joint_teach(struct mal_joint_change *change, struct mal_normalizer *norms,
                     const struct mal_example *texts, size_t n, struct mal_error *err) {
    return mal_joint_teach_values(change, norms, texts, n, err) &&
           mal_joint_teach_keys(change, err);
}

/* ---- Texts that are there already ---- */

static struct mal_joint_group *measure_keys(struct mal_joint_change *change,
                                            const struct mal_example *texts, size_t n,
                                            bool values, struct mal_error *err) {
    struct mal_edit_report report = {0};
    struct mal_joint_group *group = add_group(change, texts, n, values, &report, err);
    if (!group || !mal_edit_rows_keys(&group->rows, err)) return NULL;
    for (size_t m = 0; m < change->joint->n_modules; m++) {
        mal_backend_free(change->joint->be, group->rows.g[m]);
        group->rows.g[m] = NULL;
    }
    add_seconds(change->report, &report);
    return group;
}

bool mal_joint_reopen(struct mal_joint_change *change, const struct mal_example *texts,
                      const float *const *values, size_t n, struct mal_error *err) {
    size_t first_text = change->n_texts;
    if (n == 0) return true;
    if (!measure_keys(change, texts, n, true, err)) return false;
    for (size_t i = 0; i < n; i++) {
        size_t n_values = mal_joint_n_values(change->joint, &texts[i]);
        memcpy(change->texts[first_text + i].values, values[i], n_values * sizeof(float));
    }
    return true;
}

bool mal_joint_remove(struct mal_joint_change *change, const struct mal_example *texts,
                      const float *const *values, size_t n,
                      const struct mal_example *held, size_t n_held, bool pin,
                      struct mal_error *err) {
    struct mal_joint *joint = change->joint;
    const struct mal_joint_group *groups[2] = {NULL, NULL};
    size_t first_text = change->n_texts;
    if (n == 0) return true;
    groups[0] = measure_keys(change, texts, n, false, err);
    if (!groups[0]) return false;
    if (n_held > 0) groups[1] = measure_keys(change, held, n_held, false, err);
    if (n_held > 0 && !groups[1]) return false;
    double start = mal_clock_seconds();
    struct mal_joint_ticker ticker =
        mal_joint_ticker(joint, change->progress, MAL_STAGE_GRAM);
    struct mal_pace pace = mal_joint_pace(joint, &ticker);
    joint->whole = pin;
    for (size_t m = 0; m < joint->n_modules; m++) {
        ticker.done = (int64_t)m;
        for (size_t i = 0; i < n; i++) {
            if (!add_text_values(change, &change->texts[first_text + i], m, -1, values[i],
                                 err))
                return false;
        }
        if (!mal_backend_sync(joint->be, err)) return false;
        for (int g = 0; !pin && g < 2 && groups[g]; g++)
            if (!add_keys(change, groups[g], m, -1, &pace, err)) return false;
    }
    joint->whole = true;
    change->report->seconds[MAL_STAGE_GRAM] += mal_clock_seconds() - start;
    return true;
}

bool mal_joint_hold(struct mal_joint_change *change, const struct mal_example *texts,
                    size_t n, struct mal_error *err) {
    if (n == 0) return true;
    change->taught = measure_keys(change, texts, n, false, err);
    return change->taught && mal_joint_teach_keys(change, err);
}

/* ---- Improving ---- */

/* Texts that are improved, in one module. */
struct improving {
    struct mal_joint_change *change;
    const struct mal_edit_rows *rows;
    const size_t *texts; /* (n) */
    size_t n, m;
};

/* A text's values of the module, from `row` on where they are with others. */
static float *values_of(const struct improving *im, size_t i, int64_t *row, int64_t *n) {
    const struct mal_joint *joint = im->change->joint;
    const struct mal_joint_text *text = &im->change->texts[im->texts[i]];
    const struct mal_linear *lin = module_at(joint, im->m);
    *row = im->rows->first_row[lin->of_source][i] * lin->d_out;
    *n = rows_of(joint, &text->example, im->m) * lin->d_out;
    return text->values + values_at(joint, &text->example, im->m);
}

/* d := values + d, rounded to what they are stored in; old := values. Both (rows, d_out)
 * on the host. What is so much larger that fp64 residuals could not take it back is
 * refused, as what is not finite. */
static bool move_values(const struct improving *im, float *d, float *old,
                        struct mal_error *err) {
    const double most = 0x1p40; /* in sums of squares */
    const struct mal_joint *joint = im->change->joint;
    bool coarse = is_coarse(joint, im->m);
    double before = 0, after = 0;
    int64_t row, n;
    for (size_t i = 0; i < im->n; i++) {
        const float *values = values_of(im, i, &row, &n);
        for (int64_t j = 0; j < n; j++) {
            float x = values[j] + d[row + j];
            old[row + j] = values[j];
            d[row + j] = coarse ? round_to_bf16(x) : x;
            before += (double)values[j] * values[j];
            after += (double)d[row + j] * d[row + j];
        }
    }
    if (isfinite(after) && (before == 0 || after <= most * before)) return true;
    return mal_fail(err, MAL_NUMERIC, "module '%s': the value differences diverge",
                    module_at(joint, im->m)->name);
}

static void keep_moved(const struct improving *im, const float *d) {
    int64_t row, n;
    for (size_t i = 0; i < im->n; i++) {
        float *values = values_of(im, i, &row, &n);
        memcpy(values, d + row, (size_t)n * sizeof *values);
    }
}

/* r += alpha x of all texts, x (rows, d_out) on the host. */
static bool add_all_values(const struct improving *im, double alpha, const float *x,
                           struct mal_error *err) {
    struct mal_joint *joint = im->change->joint;
    const struct mal_linear *lin = module_at(joint, im->m);
    float *d = im->rows->g[im->m];
    mal_backend_upload(joint->be, d, x,
                       (size_t)(mal_edit_rows_n(im->rows, im->m) * lin->d_out) *
                           sizeof *d);
    for (size_t i = 0; i < im->n; i++) {
        const struct mal_joint_text *text = &im->change->texts[im->texts[i]];
        int64_t row = im->rows->first_row[lin->of_source][i] * lin->d_out;
        add_values(joint, alpha, d + row, rows_of(joint, &text->example, im->m),
                   lin->d_out,
                   text->group->r[im->m] + first_row(joint, text, im->m) * lin->d_out);
    }
    return mal_backend_sync(joint->be, err);
}

/* The differences in rows->g of the module, into values and residuals. */
static bool improve_module(const struct improving *im, struct mal_error *err) {
    struct mal_joint *joint = im->change->joint;
    size_t n =
        (size_t)(mal_edit_rows_n(im->rows, im->m) * module_at(joint, im->m)->d_out);
    float *d = mal_malloc(2 * n * sizeof *d), *old = d + n;
    if (!d) return mal_fail(err, MAL_NO_MEMORY, "values of %zu texts", im->n);
    mal_backend_download(joint->be, d, im->rows->g[im->m], n * sizeof *d);
    bool ok = mal_backend_sync(joint->be, err) && move_values(im, d, old, err);
    if (ok) keep_moved(im, d);
    ok = ok && add_all_values(im, 1, d, err) && add_all_values(im, -1, old, err);
    mal_free(d);
    return ok;
}

bool mal_joint_improve(struct mal_joint_change *change, struct mal_edit_diffs *diffs,
                       const size_t *texts, size_t n, struct mal_error *err) {
    struct mal_joint *joint = change->joint;
    struct mal_edit_report report = {0};
    struct mal_edit_rows rows;
    if (n == 0) return true;
    struct mal_example *examples = mal_calloc(n, sizeof *examples);
    if (!examples) return mal_fail(err, MAL_NO_MEMORY, "%zu texts", n);
    for (size_t i = 0; i < n; i++)
        examples[i] = change->texts[texts[i]].example;
    bool ok = mal_edit_rows_of_examples(&rows, joint->model, joint->editor, examples, n,
                                        change->progress, &report, err);
    if (ok) {
        rows.trunk = change->trunk;
        rows.full_means = true; /* of those that fail, however few */
        ok = mal_edit_rows_measure(&rows, err);
        for (size_t m = 0; ok && m < joint->n_modules; m++) {
            ok = mal_edit_diffs_run(diffs, &rows, m, err) &&
                 improve_module(&(struct improving){change, &rows, texts, n, m}, err);
        }
        mal_edit_rows_finish(&rows);
    }
    add_seconds(change->report, &report);
    mal_free(examples);
    return ok;
}

bool mal_joint_set_values(struct mal_joint_change *change, size_t text,
                          const float *values, struct mal_error *err) {
    struct mal_joint_text *t = &change->texts[text];
    assert(text < change->n_texts && t->values);
    for (size_t m = 0; m < change->joint->n_modules; m++) {
        if (!add_text_values(change, t, m, -1, t->values, err) ||
            !add_text_values(change, t, m, 1, values, err))
            return false;
    }
    if (!mal_backend_sync(change->joint->be, err)) return false;
    memcpy(t->values, values,
           mal_joint_n_values(change->joint, &t->example) * sizeof *values);
    return true;
}
