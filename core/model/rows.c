/* rows.c - packing: from sequences to rows, from rows to the buffers of a pass. */
#include "core/model/rows.h"

#include <assert.h>
#include <string.h>

#include "core/alloc.h"

/* ---- On the host ---- */

static size_t lane_ints(const struct mal_lane_rows *lane) {
    size_t b = (size_t)lane->n_seqs;
    return 5 * b + 3 + 2 * (size_t)lane->n_tokens + (size_t)lane->n_kept +
           (size_t)lane->n_top;
}

static int32_t *place_lane(struct mal_lane_rows *lane, int32_t *p) {
    size_t b = (size_t)lane->n_seqs, n = (size_t)lane->n_tokens;
    lane->ids = p;
    lane->pos = p += n;
    lane->q_start = p += n;
    lane->k_start = p += b + 1;
    lane->k_len = p += b;
    lane->kept_start = p += b;
    lane->top_start = p += b + 1;
    lane->kept = p += b + 1;
    lane->top = p += lane->n_kept;
    return p + lane->n_top;
}

bool mal_rows_alloc(struct mal_rows *rows, bool cached, struct mal_error *err) {
    size_t h = (size_t)rows->n_head;
    size_t n = lane_ints(&rows->main) + lane_ints(&rows->source) + 2 * h +
               (cached ? (size_t)rows->main.n_tokens : 0);
    int32_t *p = mal_calloc(n, sizeof *p);
    if (!p) return mal_fail(err, MAL_NO_MEMORY, "rows of a pass");
    rows->block = p;
    p = place_lane(&rows->main, p);
    p = place_lane(&rows->source, p);
    rows->head_rows = p;
    rows->labels = p + h;
    rows->cache_rows = cached ? p + 2 * h : NULL;
    return true;
}

void mal_rows_finish(struct mal_rows *rows) {
    mal_free(rows->block);
    mal_free(rows->rounds);
    rows->block = NULL;
    rows->rounds = NULL;
}

static bool check_tokens(const struct mal_model *model, size_t s, const int32_t *ids,
                         int64_t n, const char *what, struct mal_error *err) {
    int64_t context = model->info.n_context;
    if (n < 1) return mal_fail(err, MAL_INVALID, "sequence %zu has no %stokens", s, what);
    if (context && n > context) {
        return mal_fail(err, MAL_INVALID,
                        "sequence %zu: %lld %stokens, the model's context is %lld", s,
                        (long long)n, what, (long long)context);
    }
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] >= 0 && ids[i] < model->info.n_vocab) continue;
        return mal_fail(err, MAL_INVALID,
                        "sequence %zu: %stoken id %d, the model has %lld", s, what,
                        ids[i], (long long)model->info.n_vocab);
    }
    return true;
}

static bool check_label(const struct mal_model *model, size_t s, int32_t label,
                        struct mal_error *err) {
    return label < model->info.n_outputs ||
           mal_fail(err, MAL_INVALID, "sequence %zu: label %d, the model has %lld", s,
                    label, (long long)model->info.n_outputs);
}

static bool check_targets(const struct mal_model *model, const struct mal_batch *batch,
                          size_t s, struct mal_error *err) {
    assert(batch->from[s] == batch->start[s + 1] - batch->start[s] - 1 &&
           batch->target_start[s] < batch->target_start[s + 1]);
    for (int32_t i = batch->target_start[s]; i < batch->target_start[s + 1]; i++) {
        if (!check_label(model, s, batch->targets[i], err)) return false;
    }
    return true;
}

static bool check_sequence(const struct mal_model *model, const struct mal_batch *batch,
                           size_t s, struct mal_error *err) {
    int32_t start = batch->start[s], n = batch->start[s + 1] - start;
    if (!check_tokens(model, s, batch->ids + start, n, "", err)) return false;
    if (batch->from[s] < 0 || batch->from[s] >= n) {
        return mal_fail(err, MAL_INVALID, "sequence %zu: %d tokens, labels from %d", s, n,
                        batch->from[s]);
    }
    if (batch->targets) return check_targets(model, batch, s, err);
    for (int32_t i = start; i < start + n; i++) {
        if (!check_label(model, s, batch->labels[i], err)) return false;
    }
    if (model->encoder.n == 0) return true;
    start = batch->source_start[s];
    n = batch->source_start[s + 1] - start;
    return check_tokens(model, s, batch->source_ids + start, n, "source ", err);
}

static int64_t max_of(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* A classifier reads its answer off the first row, other models from `from` on. */
static bool is_labelled(const struct mal_model *model, const struct mal_batch *batch,
                        size_t s, int64_t t) {
    bool only = model->info.kind == MAL_MODEL_CLASSIFIER;
    return only ? t == batch->from[s] : t >= batch->from[s];
}

/* Gradients reach an encoder from every row of its decoder. */
static enum mal_kept_rows widened(const struct mal_model *model,
                                  enum mal_kept_rows kept) {
    bool few_suffice = model->decoder.causal && model->encoder.n == 0;
    return kept == MAL_KEPT_LABELS && !few_suffice ? MAL_KEPT_BELOW : kept;
}

static void count_sequence(struct mal_lane_rows *lane, int64_t length, int64_t kept,
                           int64_t top) {
    lane->n_seqs++;
    lane->n_tokens += length;
    lane->n_kept += kept;
    lane->n_top += top;
    lane->max_kept = max_of(lane->max_kept, kept);
    lane->max_top = max_of(lane->max_top, top);
    lane->max_queries = lane->max_keys = max_of(lane->max_keys, length);
}

/* Counts of all sequences, before there is room for the rows. */
static bool count_rows(struct mal_rows *rows, const struct mal_model *model,
                       const struct mal_batch *batch, enum mal_kept_rows kept,
                       struct mal_error *err) {
    for (size_t s = 0; s < batch->n_seqs; s++) {
        if (!check_sequence(model, batch, s, err)) return false;
        int64_t length = batch->start[s + 1] - batch->start[s], labelled = 0;
        for (int64_t t = batch->from[s]; t < length; t++)
            labelled += is_labelled(model, batch, s, t);
        rows->n_head += batch->targets
                            ? batch->target_start[s + 1] - batch->target_start[s]
                            : labelled;
        count_sequence(&rows->main, length, kept == MAL_KEPT_LABELS ? labelled : length,
                       kept == MAL_KEPT_ALL ? length : labelled);
        if (model->encoder.n == 0) continue;
        length = batch->source_start[s + 1] - batch->source_start[s];
        count_sequence(&rows->source, length, length, length);
    }
    return true;
}

static void fill_main(struct mal_rows *rows, const struct mal_model *model,
                      const struct mal_batch *batch, enum mal_kept_rows which) {
    struct mal_lane_rows *lane = &rows->main;
    int32_t kept = 0, top = 0, head = 0;
    for (size_t s = 0; s < batch->n_seqs; s++) {
        int32_t start = batch->start[s], length = batch->start[s + 1] - start;
        lane->q_start[s] = lane->k_start[s] = start;
        lane->k_len[s] = length;
        lane->kept_start[s] = kept;
        lane->top_start[s] = top;
        for (int32_t t = 0; t < length; t++) {
            lane->pos[start + t] = t;
            bool labelled = is_labelled(model, batch, s, t);
            if (labelled && !batch->targets) {
                rows->head_rows[head] = top;
                rows->labels[head++] = batch->labels[start + t];
            }
            if (labelled || which == MAL_KEPT_ALL) lane->top[top++] = start + t;
            if (labelled || which != MAL_KEPT_LABELS) lane->kept[kept++] = start + t;
        }
    }
    lane->q_start[batch->n_seqs] = (int32_t)lane->n_tokens;
    lane->kept_start[batch->n_seqs] = kept;
    lane->top_start[batch->n_seqs] = top;
    memcpy(lane->ids, batch->ids, (size_t)lane->n_tokens * sizeof *lane->ids);
}

/* The head's rows where several tokens are predicted at one: the first of each sequence,
 * then the second of those that have one, and so on. */
static bool fill_rounds(struct mal_rows *rows, const struct mal_batch *batch,
                        struct mal_error *err) {
    size_t most = 0;
    int64_t head = 0;
    for (size_t s = 0; s < batch->n_seqs; s++) {
        size_t n = (size_t)(batch->target_start[s + 1] - batch->target_start[s]);
        if (n > most) most = n;
    }
    rows->rounds = mal_calloc(most + 1, sizeof *rows->rounds);
    if (!rows->rounds) return mal_fail(err, MAL_NO_MEMORY, "rows of a pass");
    rows->n_rounds = most;
    for (size_t round = 0; round < most; round++) {
        for (size_t s = 0; s < batch->n_seqs; s++) {
            int32_t at = batch->target_start[s] + (int32_t)round;
            if (at >= batch->target_start[s + 1]) continue;
            rows->head_rows[head] = rows->main.top_start[s];
            rows->labels[head++] = batch->targets[at];
        }
        rows->rounds[round + 1] = head;
    }
    return true;
}

/* All rows are kept, and all are top. */
static void fill_source(struct mal_lane_rows *lane, const int32_t *start,
                        const int32_t *ids) {
    size_t n = (size_t)lane->n_seqs;
    for (size_t s = 0; s < n; s++) {
        lane->k_start[s] = start[s];
        lane->k_len[s] = start[s + 1] - start[s];
        for (int32_t t = 0; t < lane->k_len[s]; t++) {
            int32_t row = start[s] + t;
            lane->pos[row] = t;
            lane->kept[row] = lane->top[row] = row;
        }
    }
    memcpy(lane->q_start, start, (n + 1) * sizeof *start);
    memcpy(lane->kept_start, start, (n + 1) * sizeof *start);
    memcpy(lane->top_start, start, (n + 1) * sizeof *start);
    memcpy(lane->ids, ids, (size_t)lane->n_tokens * sizeof *ids);
}

bool mal_rows_of_batch(struct mal_rows *out, const struct mal_model *model,
                       const struct mal_batch *batch, enum mal_kept_rows kept,
                       struct mal_error *err) {
    struct mal_rows rows = {0};
    kept = widened(model, kept);
    if (!count_rows(&rows, model, batch, kept, err) || !mal_rows_alloc(&rows, false, err))
        return false;
    fill_main(&rows, model, batch, kept);
    if (model->encoder.n > 0)
        fill_source(&rows.source, batch->source_start, batch->source_ids);
    if (batch->targets && !fill_rounds(&rows, batch, err)) {
        mal_rows_finish(&rows);
        return false;
    }
    *out = rows;
    return true;
}

/* ---- On the device ---- */

static int64_t head_slice(const struct mal_model *model, int64_t n_head) {
    int64_t row = (int64_t)sizeof(float) * max_of(model->info.n_outputs, 1);
    int64_t slice = max_of(model->head_bytes / row, 1);
    return slice < n_head ? slice : n_head;
}

static struct mal_row_set place_set(struct mal_arena *arena, int64_t n_seqs, int64_t n,
                                    int64_t max) {
    return (struct mal_row_set){.n = n,
                                .max = max,
                                .rows = mal_arena_ints(arena, n),
                                .start = mal_arena_ints(arena, n_seqs + 1)};
}

static struct mal_lane layout_rows(struct mal_arena *arena,
                                   const struct mal_lane_rows *rows) {
    int64_t b = rows->n_seqs, n = rows->n_tokens;
    return (struct mal_lane){.n_seqs = b,
                             .n_tokens = n,
                             .max_queries = rows->max_queries,
                             .max_keys = rows->max_keys,
                             .ids = mal_arena_ints(arena, n),
                             .pos = mal_arena_ints(arena, n),
                             .q_start = mal_arena_ints(arena, b + 1),
                             .k_start = mal_arena_ints(arena, b),
                             .k_len = mal_arena_ints(arena, b),
                             .kept = place_set(arena, b, rows->n_kept, rows->max_kept),
                             .top = place_set(arena, b, rows->n_top, rows->max_top)};
}

void mal_pass_layout(const struct mal_model *model, const struct mal_rows *rows,
                     struct mal_pass *pass, struct mal_head_buffers *head) {
    struct mal_arena *arena = pass->arena;
    int64_t n_head = rows->n_head, c = model->info.n_channels, v = model->info.n_outputs;
    pass->be = model->be;
    pass->main = layout_rows(arena, &rows->main);
    if (model->encoder.n > 0) pass->source = layout_rows(arena, &rows->source);
    pass->n_head = n_head;
    pass->head_rows = mal_arena_ints(arena, n_head);
    pass->labels = mal_arena_ints(arena, n_head);
    pass->cache_rows = mal_arena_ints(arena, rows->main.n_tokens);
    mal_stacks_layout(model, pass);

    head->slice = head_slice(model, n_head);
    head->rows = mal_arena_floats(arena, head->slice * c);
    head->logits = mal_arena_floats(arena, head->slice * v);
    if (pass->compare || pass->against)
        head->base = mal_arena_floats(arena, head->slice * v);
    if (pass->backward && model->logit_cap > 0)
        head->capped = mal_arena_floats(arena, head->slice * v);
    if (pass->rounds) head->sum = mal_arena_floats(arena, head->slice * c);
    head->logprob = mal_arena_floats(arena, n_head);
    head->scale = mal_arena_floats(arena, n_head);
    head->rank = mal_arena_ints(arena, n_head);
    head->argmax = mal_arena_ints(arena, n_head);
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

/* The tokens of an encoder-decoder's batch are its encoder's; its decoder has a row for
 * each label. */
struct mal_rows mal_rows_of_size(const struct mal_model *model, int64_t n_seqs,
                                 int64_t n_tokens, int64_t max_tokens, int64_t n_head,
                                 enum mal_kept_rows kept) {
    struct mal_lane_rows all = {.n_seqs = n_seqs,
                                .n_tokens = n_tokens,
                                .n_kept = n_tokens,
                                .n_top = n_tokens,
                                .max_queries = max_tokens,
                                .max_keys = max_tokens,
                                .max_kept = max_tokens,
                                .max_top = max_tokens};
    struct mal_rows rows = {.main = all, .n_head = n_head};
    if (model->encoder.n > 0) {
        rows.source = all;
        rows.main.n_tokens = n_head;
    }
    kept = widened(model, kept);
    rows.main.n_kept = kept == MAL_KEPT_LABELS ? n_head : rows.main.n_tokens;
    rows.main.n_top = kept == MAL_KEPT_ALL ? rows.main.n_tokens : n_head;
    return rows;
}

static void upload_ints(struct mal_backend *be, const int32_t *dst, const int32_t *src,
                        int64_t n) {
    mal_backend_upload(be, (int32_t *)dst, src, (size_t)n * sizeof *src);
}

static void upload_rows(struct mal_backend *be, const struct mal_lane *lane,
                        const struct mal_lane_rows *rows) {
    upload_ints(be, lane->ids, rows->ids, rows->n_tokens);
    upload_ints(be, lane->pos, rows->pos, rows->n_tokens);
    upload_ints(be, lane->q_start, rows->q_start, rows->n_seqs + 1);
    upload_ints(be, lane->k_start, rows->k_start, rows->n_seqs);
    upload_ints(be, lane->k_len, rows->k_len, rows->n_seqs);
    upload_ints(be, lane->kept.rows, rows->kept, rows->n_kept);
    upload_ints(be, lane->kept.start, rows->kept_start, rows->n_seqs + 1);
    upload_ints(be, lane->top.rows, rows->top, rows->n_top);
    upload_ints(be, lane->top.start, rows->top_start, rows->n_seqs + 1);
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
    upload_rows(be, &pass->main, &rows->main);
    if (model->encoder.n > 0) upload_rows(be, &pass->source, &rows->source);
    upload_ints(be, pass->head_rows, rows->head_rows, rows->n_head);
    upload_ints(be, pass->labels, rows->labels, rows->n_head);
    if (rows->cache_rows)
        upload_ints(be, pass->cache_rows, rows->cache_rows, rows->main.n_tokens);
    return true;
}

/* logits (n, V) of head rows [row0, row0 + n), their final hidden states being y. */
static void logits_of(const struct mal_model *model, const struct mal_pass *pass,
                      const float *y, float *rows, float *logits, int64_t row0,
                      int64_t n) {
    int64_t c = model->info.n_channels;
    mal_gather_rows(pass->be, n, c, pass->head_rows + row0, y, c, rows, c);
    mal_gemm(pass->be, &(struct mal_gemm){.m = n,
                                          .n = model->info.n_outputs,
                                          .k = c,
                                          .a = rows,
                                          .b = model->head.w,
                                          .b_dtype = model->head.dtype,
                                          .trans_b = true,
                                          .c = logits,
                                          .alpha = model->head_scale,
                                          .bias = model->head_bias});
    if (model->logit_cap > 0)
        mal_cap_fwd(pass->be, n * model->info.n_outputs, model->logit_cap, logits);
}

void mal_pass_logits(const struct mal_model *model, const struct mal_pass *pass,
                     const struct mal_head_buffers *head, int64_t row0, int64_t n) {
    logits_of(model, pass, pass->main.y, head->rows, head->logits, row0, n);
}

/* head->logits := the gradient at the logits of head rows [row0, row0 + n). */
static void loss_bwd(const struct mal_model *model, const struct mal_pass *pass,
                     const struct mal_head_buffers *head,
                     const struct mal_head_part *part, int64_t row0, int64_t n) {
    int64_t v = model->info.n_outputs;
    const float *scale = head->scale + row0;
    const int32_t *labels = pass->labels + row0;
    float *logprob = head->logprob + row0;
    mal_pass_logits(model, pass, head, row0, n);
    if (model->logit_cap > 0)
        mal_backend_copy(pass->be, head->capped, head->logits,
                         (size_t)(n * v) * sizeof *head->logits);
    if (part->loss != MAL_HEAD_LABELS) {
        logits_of(model, pass, part->y0, head->rows, head->base, row0, n);
        (part->loss == MAL_HEAD_KL ? mal_kl : mal_kl_now)(pass->be, n, v, head->base,
                                                          head->logits, scale, logprob);
    } else {
        mal_xent_fwd(pass->be, n, v, head->logits, labels, logprob, head->rank + row0,
                     head->argmax + row0);
        mal_xent_bwd(pass->be, n, v, head->logits, labels, scale);
    }
    if (model->logit_cap > 0)
        mal_cap_bwd(pass->be, n * v, model->logit_cap, head->capped, head->logits);
}

void mal_head_bwd_begin(const struct mal_model *model, const struct mal_pass *pass) {
    int64_t n = pass->main.top.n * model->info.n_channels;
    mal_backend_zero(pass->be, pass->main.dy, (size_t)n * sizeof(float));
}

void mal_head_bwd_part(const struct mal_model *model, const struct mal_pass *pass,
                       const struct mal_head_buffers *head,
                       const struct mal_head_part *part) {
    int64_t v = model->info.n_outputs, c = model->info.n_channels;
    for (int64_t i = part->first; i < part->end; i += head->slice) {
        int64_t n = part->end - i < head->slice ? part->end - i : head->slice;
        loss_bwd(model, pass, head, part, i, n);
        mal_gemm(pass->be, &(struct mal_gemm){.m = n,
                                              .n = c,
                                              .k = v,
                                              .a = head->logits,
                                              .b = model->head.w,
                                              .b_dtype = model->head.dtype,
                                              .c = head->rows,
                                              .alpha = model->head_scale});
        if (part->add) {
            mal_gather_rows(pass->be, n, c, pass->head_rows + i, pass->main.dy, c,
                            head->sum, c);
            mal_add(pass->be, n * c, head->sum, head->rows);
        }
        mal_scatter_rows(pass->be, n, c, pass->head_rows + i, head->rows, c,
                         pass->main.dy, c);
    }
}

void mal_head_bwd(const struct mal_model *model, const struct mal_pass *pass,
                  const struct mal_head_buffers *head, const float *y0) {
    struct mal_head_part part = {
        .loss = y0 ? MAL_HEAD_KL : MAL_HEAD_LABELS, .y0 = y0, .end = pass->n_head};
    mal_head_bwd_begin(model, pass);
    if (!pass->rounds) mal_head_bwd_part(model, pass, head, &part);
    for (size_t r = 0; r < pass->n_rounds; r++) {
        part.first = pass->rounds[r];
        part.end = pass->rounds[r + 1];
        part.add = r > 0;
        mal_head_bwd_part(model, pass, head, &part);
    }
}

bool mal_pass_over(struct mal_model *model, const struct mal_batch *batch,
                   enum mal_kept_rows kept, struct mal_pass *pass,
                   struct mal_error *err) {
    struct mal_rows rows = {0};
    struct mal_head_buffers head;
    bool ok = mal_rows_of_batch(&rows, model, batch, kept, err) &&
              mal_pass_prepare(model, &rows, pass, &head, err);
    mal_rows_finish(&rows);
    if (ok) mal_model_forward(model, pass);
    return ok;
}
