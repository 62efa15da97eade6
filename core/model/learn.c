/* learn.c - the gradient of a training loss at the weights of the edit modules: all rows
 * below the last block take part in it, as values at the prompts' rows move the answers
 * through attention. */
#include <assert.h>

#include "core/alloc.h"
#include "core/model/rows.h"

/* Lets the passes read the base weights where they read those in use, or back. */
static void swap_weights(struct mal_model *model) {
    for (size_t m = 0; m < model->n_edited; m++) {
        struct mal_linear *lin = model->edits[m];
        const void *w = lin->w;
        mal_linear_use(lin, lin->w0);
        lin->w0 = w;
    }
}

/* Leaves pass->lower and pass->y0. */
static void base_forward(struct mal_model *model, const struct mal_pass *pass) {
    struct mal_pass base = *pass;
    base.backward = false;
    base.main.y = pass->y0;
    swap_weights(model);
    mal_model_forward(model, &base);
    swap_weights(model);
}

/* What each head row's loss counts, host. */
static bool count_rows(const struct mal_rows *rows, const float *counts, float *out,
                       struct mal_error *err) {
    const struct mal_lane_rows *lane = &rows->main;
    float *of_top = mal_malloc((size_t)lane->n_top * sizeof *of_top);
    if (!of_top) return mal_fail(err, MAL_NO_MEMORY, "losses");
    for (int64_t s = 0; s < lane->n_seqs; s++) {
        for (int32_t i = lane->top_start[s]; i < lane->top_start[s + 1]; i++)
            of_top[i] = counts ? counts[s] : 1;
    }
    for (int64_t i = 0; i < rows->n_head; i++)
        out[i] = of_top[rows->head_rows[i]];
    mal_free(of_top);
    return true;
}

static void set_scale(const struct mal_pass *pass, const struct mal_head_buffers *head,
                      float scale, const float *counts, float *host) {
    for (int64_t i = 0; i < pass->n_head; i++)
        host[i] = scale * counts[i];
    mal_backend_upload(pass->be, head->scale, host, (size_t)pass->n_head * sizeof *host);
}

/* What the bias gradients are summed with, where there are any. */
static bool set_ones(const struct mal_pass *pass, struct mal_error *err) {
    if (!pass->ones) return true;
    int64_t n = mal_pass_rows(pass);
    float *ones = mal_malloc((size_t)n * sizeof *ones);
    if (!ones) return mal_fail(err, MAL_NO_MEMORY, "bias gradients");
    for (int64_t i = 0; i < n; i++)
        ones[i] = 1;
    mal_backend_upload(pass->be, (float *)pass->ones, ones, (size_t)n * sizeof *ones);
    mal_free(ones);
    return true;
}

static bool run(struct mal_model *model, const struct mal_learn *learn,
                const struct mal_rows *rows, struct mal_pass *pass,
                const struct mal_head_buffers *head, struct mal_error *err) {
    size_t n = (size_t)pass->n_head;
    float *counts = mal_malloc(n * sizeof *counts), *host = mal_malloc(n * sizeof *host);
    bool ok = (counts && host) || mal_fail(err, MAL_NO_MEMORY, "losses");
    ok = ok && count_rows(rows, learn->counts, counts, err) && set_ones(pass, err);
    if (ok) {
        set_scale(pass, head, learn->loss_scale, counts, host);
        if (learn->keep) base_forward(model, pass);
        pass->resume = pass->resume || learn->keep;
        mal_model_forward(model, pass);
        mal_head_bwd(model, pass, head, learn->keep ? pass->y0 : NULL);
        mal_model_backward(model, pass);
        mal_backend_download(pass->be, host, head->logprob, n * sizeof *host);
        ok = mal_backend_sync(model->be, err);
    }
    if (ok && learn->loss) {
        *learn->loss = 0;
        for (size_t i = 0; i < n; i++)
            *learn->loss += (double)counts[i] * (learn->keep ? 1 : -1) * (double)host[i];
    }
    mal_free(counts);
    mal_free(host);
    return ok;
}

bool mal_model_learn(struct mal_model *model, const struct mal_batch *batch,
                     const struct mal_learn *learn, struct mal_error *err) {
    struct mal_rows rows = {0};
    struct mal_pass pass = {.lower = batch->trunk,
                            .resume = batch->trunk_known,
                            .backward = true,
                            .compare = learn->keep,
                            .dw = learn->dw,
                            .dw_as_stored = learn->as_stored,
                            .left = model->n_edits};
    struct mal_head_buffers head;
    assert(model->n_edits > 0);
    bool ok = mal_need_head(model, err) &&
              mal_rows_of_batch(&rows, model, batch, MAL_KEPT_BELOW, err);
    pass.rounds = rows.rounds;
    pass.n_rounds = rows.n_rounds;
    ok = ok && mal_pass_prepare(model, &rows, &pass, &head, err) &&
         run(model, learn, &rows, &pass, &head, err);
    mal_rows_finish(&rows);
    return ok;
}

size_t mal_model_learn_bytes(const struct mal_model *model, int64_t n_seqs,
                             int64_t n_tokens, int64_t max_tokens, int64_t n_rows) {
    struct mal_rows rows =
        mal_rows_of_size(model, n_seqs, n_tokens, max_tokens, n_rows, MAL_KEPT_BELOW);
    return mal_pass_bytes(model, &rows,
                          &(struct mal_pass){.backward = true, .compare = true});
}
