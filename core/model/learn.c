/* learn.c - the gradient of a training loss at the weights of the edit modules: all rows
 * below the last block take part in it, as values at the prompts' rows move the answers
 * through attention. */
#include <assert.h>

#include "core/alloc.h"
#include "core/model/rows.h"

/* Lets the passes read the base weights where they read those in use, or back. */
static void swap_weights(struct mal_model *model) {
    for (size_t m = 0; m < model->n_edits; m++) {
        struct mal_linear *lin = model->edits[m];
        const void *w = lin->w;
        lin->w = lin->w0;
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

static void set_scale(const struct mal_pass *pass, const struct mal_head_buffers *head,
                      float scale, float *host) {
    for (int64_t i = 0; i < pass->n_head; i++)
        host[i] = scale;
    mal_backend_upload(pass->be, head->scale, host, (size_t)pass->n_head * sizeof *host);
}

bool mal_model_learn(struct mal_model *model, const struct mal_batch *batch,
                     const struct mal_learn *learn, struct mal_error *err) {
    struct mal_rows rows = {0};
    struct mal_pass pass = {.backward = true,
                            .compare = learn->keep,
                            .dw = learn->dw,
                            .left = model->n_edits};
    struct mal_head_buffers head;
    assert(model->n_edits > 0);
    bool ok = mal_need_head(model, err) &&
              mal_rows_of_batch(&rows, model, batch, MAL_KEPT_BELOW, err) &&
              mal_pass_prepare(model, &rows, &pass, &head, err);
    mal_rows_finish(&rows);
    if (!ok) return false;
    float *host = mal_malloc((size_t)pass.n_head * sizeof *host);
    if (!host) return mal_fail(err, MAL_NO_MEMORY, "losses");

    set_scale(&pass, &head, learn->loss_scale, host);
    if (learn->keep) base_forward(model, &pass);
    pass.resume = learn->keep;
    mal_model_forward(model, &pass);
    mal_head_bwd(model, &pass, &head, learn->keep ? pass.y0 : NULL);
    mal_model_backward(model, &pass);
    mal_backend_download(pass.be, host, head.logprob, (size_t)pass.n_head * sizeof *host);
    ok = mal_backend_sync(model->be, err);
    if (ok && learn->loss) {
        *learn->loss = 0;
        for (int64_t i = 0; i < pass.n_head; i++)
            *learn->loss += learn->keep ? (double)host[i] : -(double)host[i];
    }
    mal_free(host);
    return ok;
}

size_t mal_model_learn_bytes(const struct mal_model *model, int64_t n_seqs,
                             int64_t n_tokens, int64_t max_tokens, int64_t n_rows) {
    struct mal_rows rows =
        mal_rows_of_size(model, n_seqs, n_tokens, max_tokens, n_rows, MAL_KEPT_BELOW);
    return mal_pass_bytes(model, &rows,
                          &(struct mal_pass){.backward = true, .compare = true});
}
