/* draft.h - the edited weights of a model while a method works on them: what was in use,
 * and a shift from there that passes can read before it is a delta.
 *
 * Whoever reads in a tick lets the model use other weights: mal_draft_use() again after
 * each. */
#ifndef MAL_DRAFT_H
#define MAL_DRAFT_H

#include "core/delta.h"
#include "core/model/model.h"

struct mal_draft_tensor {
    struct mal_linear *lin; /* borrowed */
    const void *before;     /* what was in use, borrowed */
    float *shift;           /* oriented as the weight is stored; device, owned */
    void *w;                /* of lin->w_dtype, likewise */
};

struct mal_draft {
    struct mal_backend *be;           /* borrowed */
    struct mal_draft_tensor *tensors; /* of mal_model_edit(), biases included */
    size_t n;
};

/* Of all that is edited in `model`: shifts are 0, and in use is what was. On an error,
 * too, mal_draft_finish(). */
bool mal_draft_begin(struct mal_draft *draft, struct mal_model *model,
                     struct mal_error *err) MAL_CHECK;
/* w = round(before + shift) of a tensor. */
void mal_draft_round(struct mal_draft *draft, size_t i);
void mal_draft_use(const struct mal_draft *draft);
/* The shifts as they are now, dense parts; none where one is 0, as W + 0 is not always W
 * (-0). */
bool mal_draft_delta(const struct mal_draft *draft, struct mal_delta *out,
                     struct mal_error *err) MAL_CHECK;
/* What was in use is in use again. Takes a zeroed one. */
void mal_draft_finish(struct mal_draft *draft);

#endif
