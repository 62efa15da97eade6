/* joint.c - the systems of all live facts, and their Cholesky factors. */
#include "core/editor/joint.h"

#include <math.h>

#include "core/alloc.h"
#include "core/editor/joint_impl.h"

enum { MIN_DEPTH = 512 /* rows a slice of a system takes in at least */ };

/* ---- Ticks ---- */

static bool tick(void *arg) {
    const struct mal_joint_ticker *t = arg;
    if (!t->progress || !t->progress->tick) return true;
    return t->progress->tick(t->progress->arg, t->stage, t->done, t->total);
}

struct mal_joint_ticker mal_joint_ticker(const struct mal_joint *joint,
                                         const struct mal_progress *progress,
                                         enum mal_stage stage) {
    return (struct mal_joint_ticker){
        .progress = progress, .stage = stage, .total = (int64_t)joint->n_modules};
}

struct mal_pace mal_joint_pace(const struct mal_joint *joint,
                               struct mal_joint_ticker *ticker) {
    return (struct mal_pace){.be = joint->be, .tick = tick, .arg = ticker};
}

/* ---- Beginning ---- */

static size_t square_bytes(int64_t n) {
    return (size_t)(n * n) * sizeof(double);
}

double mal_joint_ridge(const struct mal_editor *editor, size_t m) {
    const struct mal_editor_module *module = &editor->modules[m];
    if (!editor->method->net) return 1;
    return exp((double)editor->shapes[module->shape].lamda[module->row]);
}

/* a := w K0'K0 + ridge I */
static bool begin_system(struct mal_joint *joint, size_t m,
                         const struct mal_preserve *preserve, struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(joint->model, m);
    const double *gram = mal_preserve_gram(preserve, m);
    double w = mal_preserve_weight(preserve, m),
           ridge = mal_joint_ridge(joint->editor, m);
    if (!isfinite(ridge) || !(ridge > 0) || !isfinite(w)) {
        return mal_fail(err, MAL_NUMERIC,
                        "module '%s': the ridge e^lamda is %g, the weight of the "
                        "preservation keys %g",
                        lin->name, ridge, w);
    }
    if (gram) {
        mal_axpby64(joint->be, &(struct mal_axpby64){.n = lin->d_in,
                                                     .c = lin->d_in,
                                                     .alpha = w,
                                                     .x = gram,
                                                     .x_dtype = MAL_F64,
                                                     .y = joint->a[m]});
    } else {
        mal_backend_zero(joint->be, joint->a[m], square_bytes(lin->d_in));
    }
    mal_add_ridge(joint->be, lin->d_in, ridge, joint->a[m]);
    return mal_backend_sync(joint->be, err);
}

static bool begin_systems(struct mal_joint *joint, const struct mal_preserve *preserve,
                          struct mal_error *err) {
    joint->a = mal_calloc(joint->n_modules, sizeof *joint->a);
    if (!joint->a) return mal_fail(err, MAL_NO_MEMORY, "joint system");
    for (size_t m = 0; m < joint->n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(joint->model, m);
        joint->a[m] = mal_backend_alloc(joint->be, square_bytes(lin->d_in));
        if (!joint->a[m]) {
            return mal_fail(err, MAL_NO_MEMORY, "joint system: %s needs %zu bytes",
                            lin->name, square_bytes(lin->d_in));
        }
        if (!begin_system(joint, m, preserve, err)) return false;
    }
    return true;
}

static bool begin_small(struct mal_joint *joint, struct mal_error *err) {
    joint->info = mal_backend_alloc(joint->be, 4 * sizeof *joint->info);
    return joint->info || mal_fail(err, MAL_NO_MEMORY, "joint system");
}

static int64_t widest(const struct mal_model *model) {
    int64_t most = 0;
    for (size_t m = 0; m < mal_model_n_edits(model); m++) {
        int64_t n = mal_model_edit(model, m)->d_in;
        if (n > most) most = n;
    }
    return most;
}

size_t mal_joint_bytes(const struct mal_model *model) {
    size_t bytes = mal_joint_factor_bytes(mal_model_backend(model), widest(model));
    for (size_t m = 0; m < mal_model_n_edits(model); m++)
        bytes += square_bytes(mal_model_edit(model, m)->d_in);
    return bytes;
}

/* A further factor may take a quarter of a device's memory that is left: passes and
 * solves need the rest. */
static bool leaves_room(struct mal_backend *be, size_t bytes) {
    return mal_backend_on_host(be) || bytes <= mal_backend_available(be) / 4;
}

/* One buffer at least, further ones while they fit; memory that is not there is not an
 * error then. */
static bool begin_factors(struct mal_joint *joint, struct mal_error *err) {
    size_t max_bytes = joint->max_bytes;
    size_t each = mal_joint_factor_bytes(joint->be, widest(joint->model)),
           held = mal_joint_bytes(joint->model);
    if (max_bytes && held > max_bytes) {
        return mal_fail(
            err, MAL_NO_MEMORY,
            "the joint system of %zu modules needs %zu bytes, %zu are allowed",
            joint->n_modules, held, max_bytes);
    }
    joint->factors = mal_calloc(joint->n_modules, sizeof *joint->factors);
    if (!joint->factors) return mal_fail(err, MAL_NO_MEMORY, "joint system");
    for (size_t i = 0; i < joint->n_modules; i++, held += each) {
        if (i > 0 && max_bytes && held > max_bytes) break;
        if (i > 0 && !leaves_room(joint->be, each)) break;
        double *mem = mal_backend_alloc(joint->be, each);
        if (!mem) break;
        joint->factors[joint->n_factors++] =
            (struct mal_joint_factor){.module = -1, .l = mem};
    }
    return joint->n_factors > 0 ||
           mal_fail(err, MAL_NO_MEMORY, "joint system: a factor needs %zu bytes", each);
}

static bool create(struct mal_joint **out, struct mal_model *model,
                   const struct mal_editor *editor, const struct mal_preserve *preserve,
                   size_t max_bytes, bool held, struct mal_error *err) {
    bool alone = !held && !preserve;
    if (!editor->method->solves) {
        return mal_fail(err, MAL_INVALID,
                        "%s solves no system: its facts cannot be held in one",
                        editor->method->title);
    }
    struct mal_joint *joint = mal_calloc(1, sizeof *joint);
    if (!joint) return mal_fail(err, MAL_NO_MEMORY, "joint system");
    *joint = (struct mal_joint){.model = model,
                                .be = mal_model_backend(model),
                                .editor = editor,
                                .n_modules = editor->n_modules,
                                .max_bytes = max_bytes,
                                .whole = true,
                                .held = held,
                                .alone = alone};
    if (!begin_small(joint, err) || (!alone && (!begin_systems(joint, preserve, err) ||
                                                !begin_factors(joint, err)))) {
        mal_joint_destroy(joint);
        return false;
    }
    *out = joint;
    return true;
}

bool mal_joint_create(struct mal_joint **out, struct mal_model *model,
                      const struct mal_editor *editor,
                      const struct mal_preserve *preserve, size_t max_bytes,
                      struct mal_error *err) {
    return create(out, model, editor, preserve, max_bytes, true, err);
}

bool mal_joint_create_alone(struct mal_joint **out, struct mal_model *model,
                            const struct mal_editor *editor,
                            const struct mal_preserve *preserve, size_t max_bytes,
                            struct mal_error *err) {
    return create(out, model, editor, preserve, max_bytes, false, err);
}

bool mal_joint_settle(struct mal_joint *joint, const struct mal_edit_rows *rows,
                      struct mal_error *err) {
    bool few = true;
    for (size_t m = 0; m < joint->n_modules; m++)
        few = few && mal_edit_rows_n(rows, m) < mal_model_edit(joint->model, m)->d_in;
    if (!joint->alone || few) return true;
    joint->alone = false;
    return begin_systems(joint, NULL, err) && begin_factors(joint, err);
}

void mal_joint_destroy(struct mal_joint *joint) {
    if (!joint) return;
    for (size_t m = 0; joint->a && m < joint->n_modules; m++)
        mal_backend_free(joint->be, joint->a[m]);
    for (size_t i = 0; i < joint->n_factors; i++)
        mal_backend_free(joint->be, joint->factors[i].l);
    mal_backend_free(joint->be, joint->info);
    mal_free(joint->a);
    mal_free(joint->factors);
    mal_free(joint);
}

size_t mal_joint_held_bytes(const struct mal_joint *joint) {
    return mal_joint_bytes(joint->model) +
           (joint->n_factors - 1) *
               mal_joint_factor_bytes(joint->be, widest(joint->model));
}

bool mal_joint_is_whole(const struct mal_joint *joint) {
    return joint->whole;
}

/* ---- Keys ---- */

bool mal_joint_check_finite(struct mal_joint *joint, size_t m, const char *what,
                            int64_t n, const float *x, struct mal_error *err) {
    double sum = 0;
    mal_sum_squares(joint->be, n, x, joint->info + 2);
    mal_backend_download(joint->be, &sum, joint->info + 2, sizeof sum);
    if (!mal_backend_sync(joint->be, err)) return false;
    if (isfinite(sum)) return true;
    return mal_fail(err, MAL_NUMERIC, "module '%s': the %s have a NaN or infinite value",
                    mal_model_edit(joint->model, m)->name, what);
}

int64_t mal_joint_depth(const struct mal_joint *joint, int64_t d_in) {
    int64_t depth = mal_backend_slice_fma(joint->be) / (d_in * d_in / 2 + 1);
    return depth < MIN_DEPTH ? MIN_DEPTH : depth;
}

bool mal_joint_add_rows(struct mal_joint *joint, size_t m, const float *u, int64_t n,
                        int sign, const struct mal_pace *pace, struct mal_joined *out,
                        struct mal_error *err) {
    int64_t d_in = mal_model_edit(joint->model, m)->d_in;
    int64_t depth = mal_joint_depth(joint, d_in);
    struct mal_joined joined;
    bool held;
    if (!mal_joint_check_finite(joint, m, "keys", n * d_in, u, err)) return false;
    if (joint->alone) return true;
    if (!mal_joint_factor_add(joint, m, u, n, sign, pace, &joined, &held, err))
        return false;
    if (out) *out = joined;
    if (held) return mal_pace_step(pace, err) && mal_backend_sync(joint->be, err);
    for (int64_t i = 0; i < n; i += depth) {
        int64_t k = n - i < depth ? n - i : depth;
        mal_syrk64(joint->be, d_in, k, sign, u + i * d_in, d_in, true, 1, joint->a[m],
                   d_in);
        if (!mal_pace_step(pace, err)) return false;
    }
    return mal_backend_sync(joint->be, err);
}

static bool measure(struct mal_edit_rows *rows, const struct mal_joint *joint,
                    const struct mal_example *texts, size_t n,
                    const struct mal_progress *progress, struct mal_edit_report *report,
                    struct mal_error *err) {
    return mal_edit_rows_of_examples(rows, joint->model, joint->editor, texts, n,
                                     progress, report, err) &&
           mal_edit_rows_keys(rows, err);
}

bool mal_joint_add_keys(struct mal_joint *joint, const struct mal_example *texts,
                        size_t n, const struct mal_example *held, size_t n_held, int sign,
                        const struct mal_progress *progress, struct mal_error *err) {
    struct mal_edit_report report = {0};
    struct mal_edit_rows rows[2] = {{0}};
    struct mal_joint_ticker ticker = mal_joint_ticker(joint, progress, MAL_STAGE_GRAM);
    struct mal_pace pace = mal_joint_pace(joint, &ticker);
    size_t n_groups = n_held > 0 ? 2 : 1;
    if (n == 0) return true;
    bool ok =
        measure(&rows[0], joint, texts, n, progress, &report, err) &&
        (n_groups == 1 || measure(&rows[1], joint, held, n_held, progress, &report, err));
    if (ok) joint->whole = false;
    for (size_t i = 0; ok && i < n_groups * joint->n_modules; i++) {
        const struct mal_edit_rows *group = &rows[i / joint->n_modules];
        size_t m = i % joint->n_modules;
        ticker.done = (int64_t)m;
        ok = mal_joint_add_rows(joint, m, group->u[m], mal_edit_rows_n(group, m), sign,
                                &pace, NULL, err);
    }
    if (ok) joint->whole = true;
    for (size_t g = 0; g < n_groups; g++)
        mal_edit_rows_finish(&rows[g]);
    return ok;
}
