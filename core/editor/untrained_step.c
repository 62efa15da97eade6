/* untrained_step.c - one measurement of some texts, and both forms' value differences. */
#include "core/editor/untrained_step.h"

#include <math.h>

#include "core/alloc.h"

static bool add_squares(struct mal_backend *be, const float *x, int64_t n, double *device,
                        double *sum, struct mal_error *err) {
    double value = 0;
    mal_sum_squares(be, n, x, device);
    mal_backend_download(be, &value, device, sizeof value);
    bool ok = mal_backend_sync(be, err);
    *sum += value;
    return ok;
}

/* Of module m: the gradients are copied, as making differences overwrites them. */
static bool compare(struct mal_edit_rows *rows, struct mal_edit_diffs *const forms[2],
                    size_t m, double *device, double sums[2], struct mal_error *err) {
    int64_t n = mal_edit_rows_n(rows, m) * mal_model_edit(rows->model, m)->d_out;
    size_t bytes = (size_t)n * sizeof(float);
    float *own = rows->g[m], *copy = mal_backend_alloc(rows->be, bytes);
    if (!copy) return mal_fail(err, MAL_NO_MEMORY, "value differences");
    mal_backend_copy(rows->be, copy, own, bytes);
    bool ok = mal_edit_diffs_run(forms[0], rows, m, err) &&
              add_squares(rows->be, rows->g[m], n, device, &sums[0], err);
    rows->g[m] = copy;
    ok = ok && mal_edit_diffs_run(forms[1], rows, m, err) &&
         add_squares(rows->be, rows->g[m], n, device, &sums[1], err);
    rows->g[m] = own;
    mal_backend_free(rows->be, copy);
    return ok;
}

static bool measure(struct mal_edit_rows *rows, struct mal_edit_diffs *const forms[2],
                    float *out, struct mal_error *err) {
    double sums[2] = {0}, *device = mal_backend_alloc(rows->be, sizeof *device);
    bool ok = device || mal_fail(err, MAL_NO_MEMORY, "value differences");
    ok = ok && mal_edit_rows_measure(rows, err);
    for (size_t m = 0; ok && m < rows->n_modules; m++)
        ok = compare(rows, forms, m, device, sums, err);
    mal_backend_free(rows->be, device);
    double step = sqrt(sums[0] / sums[1]);
    if (ok && !(isfinite(step) && step > 0))
        return mal_fail(err, MAL_NUMERIC,
                        "the editor makes no differences to repair with");
    *out = (float)step;
    return ok;
}

bool mal_untrained_steps(struct mal_model *model, struct mal_trunk *trunk,
                         const struct mal_editor *editor,
                         const struct mal_normalizer *norms,
                         const struct mal_example *texts, size_t n,
                         const struct mal_progress *progress, float *steps,
                         struct mal_error *err) {
    struct mal_edit_report report = {0};
    struct mal_edit_rows rows;
    struct mal_edit_diffs *forms[2] = {NULL};
    struct mal_backend *be = mal_model_backend(model);
    bool own = editor->n_blocks == 0;
    for (size_t m = 0; m < editor->n_modules; m++)
        steps[m] = own ? mal_editor_step(editor, m) : 1;
    if (own) return true;
    if (!mal_edit_rows_of_examples(&rows, model, editor, texts, n, progress, &report,
                                   err))
        return false;
    rows.trunk = trunk;
    rows.full_means = true; /* as in a repair */
    float step = 0;
    bool ok = mal_edit_diffs_create(&forms[0], editor, norms, be, err) &&
              mal_edit_diffs_create_untrained(&forms[1], editor, norms, steps, be, err) &&
              measure(&rows, forms, &step, err);
    for (size_t m = 0; m < editor->n_modules; m++)
        steps[m] = step;
    mal_edit_diffs_destroy(forms[0]);
    mal_edit_diffs_destroy(forms[1]);
    mal_edit_rows_finish(&rows);
    return ok;
}
