/* score.c - what the model thinks of given targets, and the keys and value gradients an
 * editor works on. */
#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/model/rows.h"

static int64_t min_of(int64_t a, int64_t b) {
    return a < b ? a : b;
}

bool mal_need_head(const struct mal_model *model, struct mal_error *err) {
    return model->head.w ||
           mal_fail(err, MAL_INVALID,
                    "%s has no head: tensor 'classifier.weight' is missing",
                    mal_checkpoint_dir(model->ckpt));
}

static void download_scores(const struct mal_pass *pass,
                            const struct mal_head_buffers *head,
                            const struct mal_row_scores *out) {
    size_t n = (size_t)pass->n_head;
    if (out->logprob) {
        mal_backend_download(pass->be, out->logprob, head->logprob, n * sizeof(float));
    }
    if (out->rank)
        mal_backend_download(pass->be, out->rank, head->rank, n * sizeof(int32_t));
    if (out->argmax) {
        mal_backend_download(pass->be, out->argmax, head->argmax, n * sizeof(int32_t));
    }
}

bool mal_model_score(struct mal_model *model, const struct mal_batch *batch,
                     const struct mal_row_scores *out, struct mal_error *err) {
    struct mal_rows rows = {0};
    struct mal_pass pass = {.lower = batch->trunk, .resume = batch->trunk_known};
    struct mal_head_buffers head;
    bool ok = mal_need_head(model, err) &&
              mal_rows_of_batch(&rows, model, batch, MAL_KEPT_LABELS, err) &&
              mal_pass_prepare(model, &rows, &pass, &head, err);
    mal_rows_finish(&rows);
    if (!ok) return false;

    mal_model_forward(model, &pass);
    int64_t v = model->info.n_outputs;
    for (int64_t i = 0; i < pass.n_head; i += head.slice) {
        int64_t n = min_of(head.slice, pass.n_head - i);
        mal_pass_logits(model, &pass, &head, i, n);
        if (out->logits) {
            mal_backend_download(pass.be, out->logits + i * v, head.logits,
                                 (size_t)(n * v) * sizeof(float));
        }
        mal_xent_fwd(pass.be, n, v, head.logits, pass.labels + i, head.logprob + i,
                     head.rank + i, head.argmax + i);
    }
    download_scores(&pass, &head, out);
    return mal_backend_sync(model->be, err);
}

bool mal_model_measure(struct mal_model *model, const struct mal_batch *batch,
                       struct mal_measure *measure, struct mal_error *err) {
    struct mal_rows rows = {0};
    struct mal_pass pass = {.lower = batch->trunk,
                            .resume = batch->trunk_known,
                            .backward = true,
                            .u = measure->u,
                            .g = measure->g,
                            .left = model->n_edits};
    enum mal_kept_rows kept = measure->all_tokens ? MAL_KEPT_ALL : MAL_KEPT_LABELS;
    struct mal_head_buffers head;
    bool ok = mal_need_head(model, err) &&
              mal_rows_of_batch(&rows, model, batch, kept, err) &&
              mal_pass_prepare(model, &rows, &pass, &head, err);
    mal_rows_finish(&rows);
    if (!ok) return false;

    float *host = mal_malloc((size_t)pass.n_head * sizeof *host);
    if (!host) return mal_fail(err, MAL_NO_MEMORY, "scores");
    for (int64_t i = 0; i < pass.n_head; i++)
        host[i] = measure->loss_scale;
    mal_backend_upload(pass.be, head.scale, host, (size_t)pass.n_head * sizeof *host);

    double begin = mal_clock_seconds();
    mal_model_forward(model, &pass);
    if (!mal_backend_sync(model->be, err)) goto out;
    double middle = mal_clock_seconds();
    mal_head_bwd(model, &pass, &head, NULL);
    mal_model_backward(model, &pass);
    if (measure->loss) {
        mal_backend_download(pass.be, host, head.logprob,
                             (size_t)pass.n_head * sizeof *host);
    }
    if (!mal_backend_sync(model->be, err)) goto out;
    measure->seconds[0] = middle - begin;
    measure->seconds[1] = mal_clock_seconds() - middle;
    if (measure->loss) {
        *measure->loss = 0;
        for (int64_t i = 0; i < pass.n_head; i++)
            *measure->loss -= (double)host[i];
    }
    mal_free(host);
    return true;

out:
    mal_free(host);
    return false;
}

bool mal_model_keys(struct mal_model *model, const struct mal_batch *batch,
                    float *const *u, struct mal_error *err) {
    struct mal_pass pass = {.lower = batch->trunk, .resume = batch->trunk_known, .u = u};
    return mal_pass_over(model, batch, MAL_KEPT_LABELS, &pass, err) &&
           mal_backend_sync(model->be, err);
}

/* One sequence of which every row has a label row, none with a label. */
static bool open_unlabelled(struct mal_batch *out, int32_t start[2], int32_t *from,
                            const int32_t *ids, size_t n, struct mal_error *err) {
    int32_t *labels = mal_malloc(n * sizeof *labels);
    if (!labels) return mal_fail(err, MAL_NO_MEMORY, "labels");
    memset(labels, 0xff, n * sizeof *labels);
    start[0] = *from = 0;
    start[1] = (int32_t)n;
    *out = (struct mal_batch){
        .n_seqs = 1, .start = start, .ids = ids, .from = from, .labels = labels};
    return true;
}

bool mal_model_logits(struct mal_model *model, const int32_t *source, size_t n_source,
                      const int32_t *ids, size_t n, float *out, struct mal_error *err) {
    int32_t start[2], from, source_start[] = {0, (int32_t)n_source};
    struct mal_batch batch;
    if (!open_unlabelled(&batch, start, &from, ids, n, err)) return false;
    batch.source_start = source_start;
    batch.source_ids = source;
    bool ok =
        mal_model_score(model, &batch, &(struct mal_row_scores){.logits = out}, err);
    mal_free((int32_t *)batch.labels);
    return ok;
}

bool mal_model_hidden(struct mal_model *model, const int32_t *ids, size_t n, float *out,
                      struct mal_error *err) {
    int32_t start[2], from;
    struct mal_batch batch;
    struct mal_pass pass = {0};
    if (model->info.kind == MAL_MODEL_SEQ2SEQ)
        return mal_fail(err, MAL_INVALID, "hidden states of an encoder-decoder");
    if (!open_unlabelled(&batch, start, &from, ids, n, err)) return false;
    bool ok = mal_pass_over(model, &batch, MAL_KEPT_ALL, &pass, err);
    mal_free((int32_t *)batch.labels);
    if (!ok) return false;
    const float *y = pass.pooled ? pass.main.buf.x : pass.main.y;
    mal_backend_download(pass.be, out, y,
                         n * (size_t)model->info.n_channels * sizeof *out);
    return mal_backend_sync(model->be, err);
}

size_t mal_model_scratch_bytes(const struct mal_model *model, int64_t n_seqs,
                               int64_t n_tokens, int64_t max_tokens, int64_t n_rows,
                               bool measure) {
    struct mal_rows rows =
        mal_rows_of_size(model, n_seqs, n_tokens, max_tokens, n_rows, MAL_KEPT_LABELS);
    return mal_pass_bytes(model, &rows, &(struct mal_pass){.backward = measure});
}
