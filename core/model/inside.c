/* inside.c - what goes on inside a model: keys and states up to a block, no further. */
#include <assert.h>

#include "core/model/rows.h"

bool mal_model_inside(struct mal_model *model, const struct mal_batch *batch,
                      const struct mal_inside *inside, struct mal_error *err) {
    struct mal_pass pass = {.u = inside->u, .end = inside->block + 1};
    enum mal_kept_rows kept = inside->all_rows ? MAL_KEPT_ALL : MAL_KEPT_LABELS;
    if (!mal_pass_over(model, batch, kept, &pass, err)) return false;
    if (inside->x) {
        int64_t c = model->info.n_channels;
        mal_top_rows(&pass, &pass.main, c, pass.main.buf.x, c, inside->x);
    }
    return mal_backend_sync(model->be, err);
}

bool mal_model_trunk(struct mal_model *model, const struct mal_batch *batch,
                     struct mal_error *err) {
    struct mal_pass pass = {.lower = batch->trunk, .end = model->lowest_edit_block};
    assert(batch->trunk && !batch->trunk_known && mal_model_trunk_start(model, batch));
    return mal_pass_over(model, batch, MAL_KEPT_LABELS, &pass, err) &&
           mal_backend_sync(model->be, err);
}
