/* rows.h - which rows of which sequences a pass runs over, on the host and on the device.
 */
#ifndef MAL_ROWS_H
#define MAL_ROWS_H

#include "core/model/model_impl.h"

/* Of one lane; see struct mal_lane for the meanings. */
struct mal_lane_rows {
    int64_t n_seqs, n_tokens, n_kept, n_top;
    int64_t max_queries, max_keys, max_kept, max_top;
    int32_t *ids, *pos, *q_start, *k_start, *k_len;
    int32_t *kept, *kept_start, *top, *top_start;
};

/* Host memory, all from one block: mal_rows_finish(). */
struct mal_rows {
    struct mal_lane_rows main, source;
    int64_t n_head;
    int32_t *head_rows, *labels; /* (n_head) */
    int32_t *cache_rows;         /* (main.n_tokens); NULL: no cache */
    int64_t *rounds;             /* (n_rounds + 1) of head rows, see pass.h; NULL */
    size_t n_rounds;
    int32_t *block;
};

/* Which rows a pass is about. */
enum mal_kept_rows {
    MAL_KEPT_LABELS, /* top are the label rows; kept too, in a causal model */
    MAL_KEPT_ALL,    /* both are all rows */
    MAL_KEPT_BELOW   /* the label rows at the top, all rows below */
};

/* Room for the arrays of the sizes already set in `rows`. */
bool mal_rows_alloc(struct mal_rows *rows, bool cached, struct mal_error *err) MAL_CHECK;
void mal_rows_finish(struct mal_rows *rows);

bool mal_rows_of_batch(struct mal_rows *out, const struct mal_model *model,
                       const struct mal_batch *batch, enum mal_kept_rows kept,
                       struct mal_error *err) MAL_CHECK;

/* Buffers of the head, for slices of at most `slice` rows so that the logits of a large
 * vocabulary never stand for all tokens at once. */
struct mal_head_buffers {
    int64_t slice;
    float *rows;    /* (slice, C) */
    float *logits;  /* (slice, V) */
    float *base;    /* (slice, V) of the base model, where it is compared with */
    float *capped;  /* (slice, V) logits once more, where they are capped */
    float *sum;     /* (slice, C) gradients so far, where a row has several */
    float *logprob; /* (n_head) */
    float *scale;   /* (n_head) */
    int32_t *rank, *argmax;
};

/* Sizes -> buffers, from pass->arena, which may only be counting. */
void mal_pass_layout(const struct mal_model *model, const struct mal_rows *rows,
                     struct mal_pass *pass, struct mal_head_buffers *head);
/* The bytes that takes, for a pass whose rows and wishes are set. */
size_t mal_pass_bytes(const struct mal_model *model, const struct mal_rows *rows,
                      const struct mal_pass *pass);
/* The sizes of rows not yet known: n_seqs sequences of at most max_tokens tokens,
 * n_tokens in all, n_head labelled. */
struct mal_rows mal_rows_of_size(const struct mal_model *model, int64_t n_seqs,
                                 int64_t n_tokens, int64_t max_tokens, int64_t n_head,
                                 enum mal_kept_rows kept);
/* Reserves the model's scratch, lays the pass out in it and uploads the rows. */
bool mal_pass_prepare(struct mal_model *model, const struct mal_rows *rows,
                      struct mal_pass *pass, struct mal_head_buffers *head,
                      struct mal_error *err) MAL_CHECK;
/* An error where the model has no head. */
bool mal_need_head(const struct mal_model *model, struct mal_error *err) MAL_CHECK;
/* Logits of head rows [row0, row0 + n), n <= head->slice, from pass->main.y into
 * head->logits.
 */
void mal_pass_logits(const struct mal_model *model, const struct mal_pass *pass,
                     const struct mal_head_buffers *head, int64_t row0, int64_t n);

/* Head rows [first, end), of which no two are of one top row, and what their loss is:
 * -log p of the label; or, beside the final hidden states y0 (top, C) of the base model,
 * KL(base
 * || now), or KL(now || base). `add`: their top rows have other head rows before them. */
enum mal_head_loss { MAL_HEAD_LABELS, MAL_HEAD_KL, MAL_HEAD_KL_NOW };

struct mal_head_part {
    enum mal_head_loss loss;
    const float *y0;
    int64_t first, end;
    bool add;
};

/* What mal_head_bwd() does in parts: pass->main.dy := 0, then each part's losses and
 * gradients. */
void mal_head_bwd_begin(const struct mal_model *model, const struct mal_pass *pass);
void mal_head_bwd_part(const struct mal_model *model, const struct mal_pass *pass,
                       const struct mal_head_buffers *head,
                       const struct mal_head_part *part);
/* The loss of each head row into head->logprob, and the gradient of the sum of
 * head->scale times them at pass->main.y into pass->main.dy. The loss is -log p of the
 * label, kept as log p; or, with the final hidden states y0 (top, C) of the base model,
 * KL(base || now), kept so. */
void mal_head_bwd(const struct mal_model *model, const struct mal_pass *pass,
                  const struct mal_head_buffers *head, const float *y0);

/* A forward pass over the batch: its rows, memory for it, and the blocks. What it leaves
 * is the caller's to fetch and to wait for. */
bool mal_pass_over(struct mal_model *model, const struct mal_batch *batch,
                   enum mal_kept_rows kept, struct mal_pass *pass,
                   struct mal_error *err) MAL_CHECK;

#endif
