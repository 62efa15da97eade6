/* draft.c - weights that come to be, beside those they come from. */
#include "core/editor/draft.h"

#include <math.h>

#include "core/alloc.h"
#include "core/shift.h"

static size_t n_elements(const struct mal_linear *lin) {
    return (size_t)(lin->d_in * lin->d_out);
}

static bool begin(struct mal_draft *draft, struct mal_draft_tensor *t,
                  struct mal_linear *lin, struct mal_error *err) {
    size_t n = n_elements(lin), shift = n * sizeof(float),
           w = n * mal_dtype_size(lin->w_dtype);
    *t = (struct mal_draft_tensor){.lin = lin,
                                   .before = lin->w,
                                   .shift = mal_backend_alloc(draft->be, shift),
                                   .w = mal_backend_alloc(draft->be, w)};
    draft->n++;
    if (!t->shift || !t->w) {
        return mal_fail(err, MAL_NO_MEMORY, "module '%s': its weights (%zu bytes)",
                        lin->name, shift + w);
    }
    mal_backend_zero(draft->be, t->shift, shift);
    mal_backend_copy(draft->be, t->w, t->before, w);
    return true;
}

bool mal_draft_begin(struct mal_draft *draft, struct mal_model *model,
                     struct mal_error *err) {
    size_t n = mal_model_n_edited(model);
    *draft = (struct mal_draft){.be = mal_model_backend(model),
                                .tensors = mal_calloc(n, sizeof *draft->tensors)};
    if (!draft->tensors) return mal_fail(err, MAL_NO_MEMORY, "edited weights");
    for (size_t i = 0; i < n; i++) {
        if (!begin(draft, &draft->tensors[i], mal_model_edit(model, i), err))
            return false;
    }
    mal_draft_use(draft);
    return mal_backend_sync(draft->be, err);
}

void mal_draft_round(struct mal_draft *draft, size_t i) {
    const struct mal_draft_tensor *t = &draft->tensors[i];
    mal_round_weight(draft->be, (int64_t)n_elements(t->lin), t->before, t->shift,
                     t->lin->dtype, t->w, t->lin->w_dtype);
}

void mal_draft_use(const struct mal_draft *draft) {
    for (size_t i = 0; i < draft->n; i++)
        mal_linear_use(draft->tensors[i].lin, draft->tensors[i].w);
}

static double norm_of(const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

bool mal_draft_delta(const struct mal_draft *draft, struct mal_delta *out,
                     struct mal_error *err) {
    struct mal_delta delta = {.parts = mal_calloc(draft->n, sizeof *delta.parts)};
    bool ok = delta.parts || mal_fail(err, MAL_NO_MEMORY, "delta");
    for (size_t i = 0; ok && i < draft->n; i++) {
        struct mal_delta_part *part = &delta.parts[delta.n_parts];
        const struct mal_draft_tensor *t = &draft->tensors[i];
        ok = mal_shift_read_part(draft->be, t->lin, t->shift, part, err);
        if (ok) part->norm = norm_of(part->data, n_elements(t->lin));
        if (ok && part->norm != 0) { /* NaN, too: applying it fails and says so */
            delta.n_parts++;
        } else if (ok) {
            mal_free(part->module);
            mal_free(part->data);
        }
    }
    if (!ok) {
        mal_delta_finish(&delta);
        return false;
    }
    mal_delta_sort(&delta);
    *out = delta;
    return true;
}

void mal_draft_finish(struct mal_draft *draft) {
    for (size_t i = 0; i < draft->n; i++) {
        struct mal_draft_tensor *t = &draft->tensors[i];
        mal_linear_use(t->lin, t->before);
        mal_backend_free(draft->be, t->shift);
        mal_backend_free(draft->be, t->w);
    }
    mal_free(draft->tensors);
    *draft = (struct mal_draft){0};
}
