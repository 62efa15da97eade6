/* rows.c - packing: from sequences to rows, from rows to the buffers of a pass. */
#include "core/model/rows.h"

#include <string.h>

#include "core/alloc.h"

/* ---- On the host ---- */

bool mal_rows_alloc(struct mal_rows *rows, bool cached, struct mal_error *err) {
    size_t b = (size_t)rows->n_seqs, n = (size_t)rows->n_tokens;
    size_t m = (size_t)rows->n_kept, t = (size_t)rows->n_top, h = (size_t)rows->n_head;
    int32_t *p = mal_calloc(5 * b + 3 + 3 * n + m + t + 2 * h, sizeof *p);
    if (!p) return mal_fail(err, MAL_NO_MEMORY, "rows of a pass");
    rows->block = p;
    rows->ids = p;
    rows->pos = p += n;
    rows->q_start = p += n;
    rows->k_start = p += b + 1;
    rows->k_len = p += b;
    rows->kept_start = p += b;
    rows->top_start = p += b + 1;
    rows->kept = p += b + 1;
    rows->top = p += m;
    rows->head_rows = p += t;
    rows->labels = p += h;
    rows->cache_rows = cached ? p + h : NULL;
    return true;
}

void mal_rows_finish(struct mal_rows *rows) {
    mal_free(rows->block);
    rows->block = NULL;
}

static bool check_sequence(const struct mal_model *model, const struct mal_batch *batch,
                           size_t s, struct mal_error *err) {
    int64_t length = batch->start[s + 1] - batch->start[s];
    if (length < 1 || batch->from[s] < 0 || batch->from[s] >= length) {
        return mal_fail(err, MAL_INVALID, "sequence %zu: %lld tokens, labels from %d", s,
                        (long long)length, batch->from[s]);
    }
    if (model->info.n_context && length > model->info.n_context) {
        return mal_fail(err, MAL_INVALID,
                        "sequence %zu: %lld tokens, the model's context is %lld", s,
                        (long long)length, (long long)model->info.n_context);
    }
    for (int32_t i = batch->start[s]; i < batch->start[s + 1]; i++) {
        if (batch->ids[i] >= 0 && batch->ids[i] < model->info.n_vocab &&
            batch->labels[i] < model->info.n_vocab) {
            continue;
        }
        return mal_fail(err, MAL_INVALID,
                        "sequence %zu: token id %d or label %d, the model has %lld", s,
                        batch->ids[i], batch->labels[i], (long long)model->info.n_vocab);
    }
    return true;
}

static int64_t max_of(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Counts of all sequences, before there is room for the rows. */
static bool count_rows(struct mal_rows *rows, const struct mal_model *model,
                       const struct mal_batch *batch, enum mal_kept_rows kept,
                       struct mal_error *err) {
    for (size_t s = 0; s < batch->n_seqs; s++) {
        if (!check_sequence(model, batch, s, err)) return false;
        int64_t length = batch->start[s + 1] - batch->start[s];
        int64_t labelled = length - batch->from[s];
        int64_t top = kept == MAL_KEPT_ALL ? length : labelled;
        int64_t below = kept == MAL_KEPT_LABELS ? labelled : length;
        rows->n_top += top;
        rows->n_kept += below;
        rows->n_head += labelled;
        rows->max_top = max_of(rows->max_top, top);
        rows->max_kept = max_of(rows->max_kept, below);
        rows->max_queries = max_of(rows->max_queries, length);
    }
    rows->max_keys = rows->max_queries;
    return true;
}

static void fill_rows(struct mal_rows *rows, const struct mal_batch *batch,
                      enum mal_kept_rows which) {
    int32_t kept = 0, top = 0, head = 0;
    for (size_t s = 0; s < batch->n_seqs; s++) {
        int32_t start = batch->start[s], length = batch->start[s + 1] - start;
        rows->q_start[s] = rows->k_start[s] = start;
        rows->k_len[s] = length;
        rows->kept_start[s] = kept;
        rows->top_start[s] = top;
        for (int32_t t = 0; t < length; t++) {
            rows->pos[start + t] = t;
            bool labelled = t >= batch->from[s];
            if (labelled) {
                rows->head_rows[head] = top;
                rows->labels[head++] = batch->labels[start + t];
            }
            if (labelled || which == MAL_KEPT_ALL) rows->top[top++] = start + t;
            if (labelled || which != MAL_KEPT_LABELS) rows->kept[kept++] = start + t;
        }
    }
    rows->q_start[batch->n_seqs] = (int32_t)rows->n_tokens;
    rows->kept_start[batch->n_seqs] = kept;
    rows->top_start[batch->n_seqs] = top;
}

bool mal_rows_of_batch(struct mal_rows *out, const struct mal_model *model,
                       const struct mal_batch *batch, enum mal_kept_rows kept,
                       struct mal_error *err) {
    struct mal_rows rows = {.n_seqs = (int64_t)batch->n_seqs,
                            .n_tokens = batch->start[batch->n_seqs]};
    if (!count_rows(&rows, model, batch, kept, err) || !mal_rows_alloc(&rows, false, err))
        return false;
    memcpy(rows.ids, batch->ids, (size_t)rows.n_tokens * sizeof *rows.ids);
    fill_rows(&rows, batch, kept);
    *out = rows;
    return true;
}

/* ---- On the device ---- */

static int64_t head_slice(const struct mal_model *model, int64_t n_head) {
    int64_t slice = model->head_bytes / ((int64_t)sizeof(float) * model->info.n_vocab);
    if (slice < 1) slice = 1;
    return slice < n_head ? slice : n_head;
}

static struct mal_row_set place_set(struct mal_arena *arena, int64_t n_seqs, int64_t n,
                                    int64_t max) {
    return (struct mal_row_set){.n = n,
                                .max = max,
                                .rows = mal_arena_ints(arena, n),
                                .start = mal_arena_ints(arena, n_seqs + 1)};
}

void mal_pass_layout(const struct mal_model *model, const struct mal_rows *rows,
                     struct mal_pass *pass, struct mal_head_buffers *head) {
    struct mal_arena *arena = pass->arena;
    pass->be = model->be;
    pass->n_seqs = rows->n_seqs;
    pass->n_tokens = rows->n_tokens;
    pass->max_queries = rows->max_queries;
    pass->max_keys = rows->max_keys;
    pass->n_head = rows->n_head;

    pass->ids = mal_arena_ints(arena, rows->n_tokens);
    pass->pos = mal_arena_ints(arena, rows->n_tokens);
    pass->q_start = mal_arena_ints(arena, rows->n_seqs + 1);
    pass->k_start = mal_arena_ints(arena, rows->n_seqs);
    pass->k_len = mal_arena_ints(arena, rows->n_seqs);
    pass->kept = place_set(arena, rows->n_seqs, rows->n_kept, rows->max_kept);
    pass->top = place_set(arena, rows->n_seqs, rows->n_top, rows->max_top);
    pass->head_rows = mal_arena_ints(arena, rows->n_head);
    pass->labels = mal_arena_ints(arena, rows->n_head);
    pass->cache_rows = mal_arena_ints(arena, rows->n_tokens);
    if (pass->compare) {
        pass->lower = mal_arena_floats(arena, rows->n_tokens * model->info.n_channels);
        pass->y0 = mal_arena_floats(arena, rows->n_top * model->info.n_channels);
    }
    model->arch->layout(model, pass);

    head->slice = head_slice(model, rows->n_head);
    head->rows = mal_arena_floats(arena, head->slice * model->info.n_channels);
    head->logits = mal_arena_floats(arena, head->slice * model->info.n_vocab);
    if (pass->compare)
        head->base = mal_arena_floats(arena, head->slice * model->info.n_vocab);
    head->logprob = mal_arena_floats(arena, rows->n_head);
    head->scale = mal_arena_floats(arena, rows->n_head);
    head->rank = mal_arena_ints(arena, rows->n_head);
    head->argmax = mal_arena_ints(arena, rows->n_head);
}

size_t mal_pass_bytes(const struct mal_model *model, const struct mal_rows *rows,
                      const struct mal_pass *pass) {
    struct mal_arena counting;
    struct mal_pass dry = *pass;
    struct mal_head_buffers head;
    mal_arena_init_counting(&counting);
    dry.arena = &counting;
    mal_pass_layout(model, rows, &dry, &head);
    return counting.peak;
}

struct mal_rows mal_rows_of_size(int64_t n_seqs, int64_t n_tokens, int64_t max_tokens,
                                 int64_t n_kept, int64_t n_head) {
    return (struct mal_rows){.n_seqs = n_seqs,
                             .n_tokens = n_tokens,
                             .n_kept = n_kept,
                             .n_top = n_head,
                             .n_head = n_head,
                             .max_queries = max_tokens,
                             .max_keys = max_tokens,
                             .max_kept = max_tokens,
                             .max_top = max_tokens};
}

static void upload_ints(struct mal_backend *be, const int32_t *dst, const int32_t *src,
                        int64_t n) {
    mal_backend_upload(be, (int32_t *)dst, src, (size_t)n * sizeof *src);
}

bool mal_pass_prepare(struct mal_model *model, const struct mal_rows *rows,
                      struct mal_pass *pass, struct mal_head_buffers *head,
                      struct mal_error *err) {
    size_t bytes = mal_pass_bytes(model, rows, pass);
    if (!mal_arena_reserve(&model->scratch, bytes, err)) return false;

    mal_arena_reset(&model->scratch, 0);
    pass->arena = &model->scratch;
    mal_pass_layout(model, rows, pass, head);
    struct mal_backend *be = model->be;
    upload_ints(be, pass->ids, rows->ids, rows->n_tokens);
    upload_ints(be, pass->pos, rows->pos, rows->n_tokens);
    upload_ints(be, pass->q_start, rows->q_start, rows->n_seqs + 1);
    upload_ints(be, pass->k_start, rows->k_start, rows->n_seqs);
    upload_ints(be, pass->k_len, rows->k_len, rows->n_seqs);
    upload_ints(be, pass->kept.rows, rows->kept, rows->n_kept);
    upload_ints(be, pass->kept.start, rows->kept_start, rows->n_seqs + 1);
    upload_ints(be, pass->top.rows, rows->top, rows->n_top);
    upload_ints(be, pass->top.start, rows->top_start, rows->n_seqs + 1);
    upload_ints(be, pass->head_rows, rows->head_rows, rows->n_head);
    upload_ints(be, pass->labels, rows->labels, rows->n_head);
    if (rows->cache_rows)
        upload_ints(be, pass->cache_rows, rows->cache_rows, rows->n_tokens);
    return true;
}

/* logits (n, V) of head rows [row0, row0 + n), their final hidden states being y. */
static void logits_of(const struct mal_model *model, const struct mal_pass *pass,
                      const float *y, float *rows, float *logits, int64_t row0,
                      int64_t n) {
    int64_t c = model->info.n_channels;
    mal_gather_rows(pass->be, n, c, pass->head_rows + row0, y, c, rows, c);
    mal_gemm(pass->be, &(struct mal_gemm){.m = n,
                                          .n = model->info.n_vocab,
                                          .k = c,
                                          .a = rows,
                                          .b = model->head,
                                          .b_dtype = MAL_F32,
                                          .trans_b = true,
                                          .c = logits,
                                          .alpha = 1});
}

void mal_pass_logits(const struct mal_model *model, const struct mal_pass *pass,
                     const struct mal_head_buffers *head, int64_t row0, int64_t n) {
    logits_of(model, pass, pass->y, head->rows, head->logits, row0, n);
}

/* head->logits := the gradient at the logits of head rows [row0, row0 + n). */
static void loss_bwd(const struct mal_model *model, const struct mal_pass *pass,
                     const struct mal_head_buffers *head, const float *y0, int64_t row0,
                     int64_t n) {
    int64_t v = model->info.n_vocab;
    const float *scale = head->scale + row0;
    const int32_t *labels = pass->labels + row0;
    float *logprob = head->logprob + row0;
    mal_pass_logits(model, pass, head, row0, n);
    if (y0) {
        logits_of(model, pass, y0, head->rows, head->base, row0, n);
        mal_kl(pass->be, n, v, head->base, head->logits, scale, logprob);
    } else {
        mal_xent_fwd(pass->be, n, v, head->logits, labels, logprob, head->rank + row0,
                     head->argmax + row0);
        mal_xent_bwd(pass->be, n, v, head->logits, labels, scale);
    }
}

void mal_head_bwd(const struct mal_model *model, const struct mal_pass *pass,
                  const struct mal_head_buffers *head, const float *y0) {
    int64_t v = model->info.n_vocab, c = model->info.n_channels;
    mal_backend_zero(pass->be, pass->dy, (size_t)(pass->top.n * c) * sizeof(float));
    for (int64_t i = 0; i < pass->n_head; i += head->slice) {
        int64_t n = pass->n_head - i < head->slice ? pass->n_head - i : head->slice;
        loss_bwd(model, pass, head, y0, i, n);
        mal_gemm(pass->be, &(struct mal_gemm){.m = n,
                                              .n = c,
                                              .k = v,
                                              .a = head->logits,
                                              .b = model->head,
                                              .b_dtype = MAL_F32,
                                              .c = head->rows,
                                              .alpha = 1});
        mal_scatter_rows(pass->be, n, c, pass->head_rows + i, head->rows, c, pass->dy, c);
    }
}
