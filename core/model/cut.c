/* cut.c - the part of a model above a block's output, run again and again over rows that
 * change, beside the keys and values of those that do not. */
#include "core/model/cut.h"

#include <assert.h>
#include <string.h>

#include "core/alloc.h"
#include "core/model/rows.h"

struct mal_cut {
    struct mal_model *model;
    int64_t first; /* block above the cut */
    const struct mal_cut_text *texts;
    size_t n;
    int64_t *row;  /* (n + 1) each text's first row among all rows */
    int64_t *live; /* (n + 1) likewise among those from `at` on */
    int32_t *stay; /* (n + 1) likewise among the texts without labels */

    struct mal_arena arena; /* device memory of what follows */
    float **kv;             /* per block (rows, 2 KV); NULL below the cut */
    float *hidden;          /* (live rows, C) below the cut */
    float *y;               /* (texts without labels, C) final state, before */
    float *some;            /* (n, C) */
    int32_t *index;         /* (live rows) */

    float **view;   /* per block, of some texts' rows; host like what follows */
    float *states;  /* (n, C) */
    int32_t *which; /* (live rows) room for an index */
};

/* ---- Memory ---- */

static int64_t channels(const struct mal_cut *cut) {
    return cut->model->info.n_channels;
}

static int32_t n_live(const struct mal_cut_text *text) {
    return text->n - text->at;
}

static bool stays(const struct mal_cut_text *text) {
    return !text->labels;
}

static void count(struct mal_cut *cut) {
    for (size_t i = 0; i < cut->n; i++) {
        const struct mal_cut_text *text = &cut->texts[i];
        assert(text->at >= 0 && text->at <= text->from && text->from < text->n);
        assert(!stays(text) || (text->from == text->at && text->at == text->n - 1));
        cut->row[i + 1] = cut->row[i] + text->n;
        cut->live[i + 1] = cut->live[i] + n_live(text);
        cut->stay[i + 1] = cut->stay[i] + stays(text);
    }
}

/* Without an array of blocks their room is only counted. */
static void place(struct mal_cut *cut, struct mal_arena *arena, int64_t rows,
                  int64_t live, int64_t stay) {
    int64_t c = channels(cut), wide = 2 * mal_kv_width(cut->model);
    for (int64_t l = cut->first; l < cut->model->decoder.n; l++) {
        float *kv = mal_arena_floats(arena, rows * wide);
        if (cut->kv) cut->kv[l] = kv;
    }
    cut->hidden = mal_arena_floats(arena, live * c);
    cut->y = mal_arena_floats(arena, stay * c);
    cut->some = mal_arena_floats(arena, (int64_t)cut->n * c);
    cut->index = mal_arena_ints(arena, live);
}

static struct mal_rows rows_of(const struct mal_cut_text *texts, const size_t *which,
                               size_t n) {
    struct mal_rows rows = {0};
    struct mal_lane_rows *lane = &rows.main;
    for (size_t i = 0; i < n; i++) {
        const struct mal_cut_text *text = &texts[which ? which[i] : i];
        lane->n_seqs++;
        lane->n_tokens += n_live(text);
        rows.n_head += text->n - text->from;
        if (n_live(text) > lane->max_queries) lane->max_queries = n_live(text);
        if (text->n > lane->max_keys) lane->max_keys = text->n;
    }
    lane->n_kept = lane->n_top = lane->n_tokens;
    lane->max_kept = lane->max_top = lane->max_queries;
    return rows;
}

struct mal_cut_bytes mal_cut_bytes(const struct mal_model *model, int64_t block,
                                   const struct mal_cut_text *texts, size_t n) {
    struct mal_cut cut = {.model = (struct mal_model *)model, .first = block + 1, .n = n};
    struct mal_rows rows = rows_of(texts, NULL, n);
    int64_t all = 0, stay = 0;
    for (size_t i = 0; i < n; i++) {
        all += texts[i].n;
        stay += stays(&texts[i]);
    }
    struct mal_arena counting;
    struct mal_kv_cache cache = {0};
    struct mal_pass pass = {
        .backward = true, .cache = &cache, .first = cut.first, .against = true};
    mal_arena_init_counting(&counting);
    place(&cut, &counting, all, rows.main.n_tokens, stay);
    return (struct mal_cut_bytes){counting.peak, mal_pass_bytes(model, &rows, &pass)};
}

static bool alloc_host(struct mal_cut *cut, struct mal_error *err) {
    size_t n = cut->n, c = (size_t)channels(cut), blocks = (size_t)cut->model->decoder.n;
    cut->row = mal_calloc(n + 1, sizeof *cut->row);
    cut->live = mal_calloc(n + 1, sizeof *cut->live);
    cut->stay = mal_calloc(n + 1, sizeof *cut->stay);
    cut->kv = mal_calloc(blocks, sizeof *cut->kv);
    cut->view = mal_calloc(blocks, sizeof *cut->view);
    cut->states = mal_calloc(n * c, sizeof *cut->states);
    if (!cut->row || !cut->live || !cut->stay || !cut->kv || !cut->view || !cut->states)
        return mal_fail(err, MAL_NO_MEMORY, "%zu texts cut at a block", n);
    count(cut);
    cut->which = mal_calloc((size_t)cut->live[n] + 1, sizeof *cut->which);
    return cut->which || mal_fail(err, MAL_NO_MEMORY, "%zu texts cut at a block", n);
}

static bool alloc_device(struct mal_cut *cut, struct mal_error *err) {
    const struct mal_cut_bytes need =
        mal_cut_bytes(cut->model, cut->first - 1, cut->texts, cut->n);
    if (!mal_arena_init(&cut->arena, cut->model->be, need.kept, err))
        return mal_fail_wrap(err, "states of %zu texts", cut->n);
    place(cut, &cut->arena, cut->row[cut->n], cut->live[cut->n], cut->stay[cut->n]);
    return true;
}

bool mal_cut_create(struct mal_cut **out, struct mal_model *model, int64_t block,
                    const struct mal_cut_text *texts, size_t n, struct mal_error *err) {
    assert(model->info.kind == MAL_MODEL_CAUSAL && block >= 0 &&
           block + 1 < model->decoder.n);
    struct mal_cut *cut = mal_calloc(1, sizeof *cut);
    if (!cut) return mal_fail(err, MAL_NO_MEMORY, "%zu texts cut at a block", n);
    cut->model = model;
    cut->first = block + 1;
    cut->texts = texts;
    cut->n = n;
    if (!alloc_host(cut, err) || !alloc_device(cut, err)) {
        mal_cut_destroy(cut);
        return false;
    }
    *out = cut;
    return true;
}

void mal_cut_destroy(struct mal_cut *cut) {
    if (!cut) return;
    mal_arena_finish(&cut->arena);
    mal_free(cut->row);
    mal_free(cut->live);
    mal_free(cut->stay);
    mal_free(cut->kv);
    mal_free(cut->view);
    mal_free(cut->states);
    mal_free(cut->which);
    mal_free(cut);
}

const float *mal_cut_states(const struct mal_cut *cut) {
    return cut->states;
}

/* The first n of cut->which as an index on the device, until the next one. */
static const int32_t *upload_index(struct mal_cut *cut, int64_t n) {
    mal_backend_upload(cut->model->be, cut->index, cut->which,
                       (size_t)n * sizeof *cut->which);
    return cut->index;
}

/* ---- Below ---- */

/* Rows of whole texts, whose label rows are the top ones; their place in the cache is
 * that among themselves. */
static bool whole_rows(const struct mal_cut *cut, size_t first, size_t n,
                       struct mal_rows *out, struct mal_error *err) {
    size_t tokens = (size_t)(cut->row[first + n] - cut->row[first]);
    int32_t *start = mal_calloc(2 * n + 1 + 2 * tokens, sizeof *start);
    if (!start) return mal_fail(err, MAL_NO_MEMORY, "packed texts");
    int32_t *from = start + n + 1, *ids = from + n, *labels = ids + tokens;
    memset(labels, 0xff, tokens * sizeof *labels);
    for (size_t i = 0; i < n; i++) {
        const struct mal_cut_text *text = &cut->texts[first + i];
        from[i] = text->from;
        start[i + 1] = start[i] + text->n;
        memcpy(ids + start[i], text->ids, (size_t)text->n * sizeof *ids);
    }
    struct mal_batch batch = {
        .n_seqs = n, .start = start, .ids = ids, .from = from, .labels = labels};
    bool ok = mal_rows_of_batch(out, cut->model, &batch, MAL_KEPT_LABELS, err);
    mal_free(start);
    return ok;
}

/* The states below the cut, which are in buf.x. */
static void keep_states(struct mal_cut *cut, const struct mal_pass *pass, size_t first,
                        size_t n) {
    struct mal_backend *be = cut->model->be;
    int64_t c = channels(cut), live = cut->live[first], k = 0;
    const float *x = pass->main.buf.x;
    float *hidden = cut->hidden + live * c;
    for (size_t i = first; i < first + n; i++) {
        for (int32_t t = cut->texts[i].at; t < cut->texts[i].n; t++)
            cut->which[k++] = (int32_t)(cut->row[i] - cut->row[first]) + t;
    }
    mal_gather_rows(be, k, c, upload_index(cut, k), x, c, hidden, c);
    for (size_t i = 0; i < n; i++)
        cut->which[i] = (int32_t)(cut->live[first + i] - live);
    mal_gather_rows(be, (int64_t)n, c, upload_index(cut, (int64_t)n), hidden, c,
                    cut->some, c);
    mal_backend_download(be, cut->states + (int64_t)first * c, cut->some,
                         n * (size_t)c * sizeof(float));
}

/* The final states that are not to move. */
static void keep_final(struct mal_cut *cut, const struct mal_pass *pass, size_t first,
                       size_t n) {
    int64_t c = channels(cut), k = 0;
    int32_t top = 0;
    for (size_t i = first; i < first + n; i++) {
        top += cut->texts[i].n - cut->texts[i].from;
        if (stays(&cut->texts[i])) cut->which[k++] = top - 1;
    }
    mal_gather_rows(pass->be, k, c, upload_index(cut, k), pass->main.y, c,
                    cut->y + cut->stay[first] * c, c);
}

bool mal_cut_begin(struct mal_cut *cut, size_t first, size_t n, struct mal_error *err) {
    struct mal_model *model = cut->model;
    int64_t wide = 2 * mal_kv_width(model);
    struct mal_rows rows = {0};
    struct mal_kv_cache cache = {.kv = cut->view, .n_blocks = model->decoder.n};
    struct mal_pass pass = {.cache = &cache, .end = cut->first};
    struct mal_head_buffers head;
    for (int64_t l = cut->first; l < model->decoder.n; l++)
        cut->view[l] = cut->kv[l] + cut->row[first] * wide;
    bool ok = whole_rows(cut, first, n, &rows, err) &&
              mal_pass_prepare(model, &rows, &pass, &head, err);
    mal_rows_finish(&rows);
    if (!ok) return false;
    /* All rows are new to the cache, in their order. */
    int32_t *places = mal_malloc((size_t)pass.main.n_tokens * sizeof *places);
    if (!places) return mal_fail(err, MAL_NO_MEMORY, "rows of a pass");
    for (int64_t i = 0; i < pass.main.n_tokens; i++)
        places[i] = (int32_t)i;
    mal_backend_upload(model->be, (int32_t *)pass.cache_rows, places,
                       (size_t)pass.main.n_tokens * sizeof *places);
    mal_free(places);

    mal_model_forward(model, &pass);
    keep_states(cut, &pass, first, n);
    pass.first = cut->first;
    pass.end = 0;
    mal_model_forward(model, &pass);
    keep_final(cut, &pass, first, n);
    return mal_backend_sync(model->be, err);
}

/* ---- Above ---- */

/* Rows from `at` on, all of them kept and top; head rows with labels come first. */
static bool live_rows(struct mal_cut *cut, const size_t *which, size_t n,
                      struct mal_rows *out, int64_t *out_labels, struct mal_error *err) {
    struct mal_rows rows = rows_of(cut->texts, which, n);
    struct mal_lane_rows *lane = &rows.main;
    if (!mal_rows_alloc(&rows, true, err)) return false;
    int32_t row = 0, head = 0;
    for (size_t i = 0; i < n; i++) {
        const struct mal_cut_text *text = &cut->texts[which[i]];
        lane->q_start[i] = lane->kept_start[i] = lane->top_start[i] = row;
        lane->k_start[i] = (int32_t)cut->row[which[i]];
        lane->k_len[i] = text->n;
        for (int32_t t = text->at; t < text->n; t++, row++) {
            lane->pos[row] = t;
            lane->kept[row] = lane->top[row] = row;
            rows.cache_rows[row] = (int32_t)cut->row[which[i]] + t;
            cut->which[row] = (int32_t)cut->live[which[i]] + t - text->at;
            if (stays(text) || t < text->from) continue;
            rows.head_rows[head] = row;
            rows.labels[head++] = text->labels[t - text->from];
        }
    }
    lane->q_start[n] = lane->kept_start[n] = lane->top_start[n] = row;
    *out_labels = head;
    for (size_t i = 0; i < n; i++) {
        if (!stays(&cut->texts[which[i]])) continue;
        rows.head_rows[head] = lane->q_start[i];
        rows.labels[head++] = -1;
    }
    *out = rows;
    return true;
}

/* buf.x and, of the rows that are to stay, y0. */
static void fill(struct mal_cut *cut, const struct mal_pass *pass, const size_t *which,
                 size_t n, const float *states, int64_t n_labels) {
    struct mal_backend *be = pass->be;
    int64_t c = channels(cut), k = 0, live = pass->main.n_tokens;
    mal_gather_rows(be, live, c, upload_index(cut, live), cut->hidden, c,
                    pass->main.buf.x, c);
    for (size_t i = 0; i < n; i++) {
        if (stays(&cut->texts[which[i]])) cut->which[k++] = cut->stay[which[i]];
    }
    mal_gather_rows(be, k, c, upload_index(cut, k), cut->y, c, cut->some, c);
    mal_scatter_rows(be, k, c, pass->head_rows + n_labels, cut->some, c, pass->y0, c);
    mal_backend_upload(be, cut->some, states, n * (size_t)c * sizeof *states);
    mal_scatter_rows(be, (int64_t)n, c, pass->main.q_start, cut->some, c,
                     pass->main.buf.x, c);
}

/* Of each head row, in their order: scales in, losses out. */
static void set_scales(const struct mal_cut *cut, const size_t *which, size_t n,
                       float *rows) {
    for (int stay = 0; stay < 2; stay++) {
        for (size_t i = 0; i < n; i++) {
            const struct mal_cut_text *text = &cut->texts[which[i]];
            if (stays(text) != (stay > 0)) continue;
            for (int32_t t = text->from; t < text->n; t++)
                *rows++ = text->scale;
        }
    }
}

static void take_losses(const struct mal_cut *cut, const size_t *which, size_t n,
                        const float *rows, double *losses) {
    for (int stay = 0; stay < 2; stay++) {
        for (size_t i = 0; i < n; i++) {
            const struct mal_cut_text *text = &cut->texts[which[i]];
            if (stays(text) != (stay > 0)) continue;
            losses[i] = 0;
            for (int32_t t = text->from; t < text->n; t++)
                losses[i] += stay ? (double)*rows++ : -(double)*rows++;
        }
    }
}

bool mal_cut_measure(struct mal_cut *cut, const size_t *which, size_t n,
                     const float *states, double *losses, float *grads,
                     struct mal_error *err) {
    struct mal_model *model = cut->model;
    int64_t c = channels(cut), n_labels = 0;
    struct mal_rows rows = {0};
    struct mal_kv_cache cache = {.kv = cut->kv, .n_blocks = model->decoder.n};
    struct mal_pass pass = {.backward = true,
                            .cache = &cache,
                            .first = cut->first,
                            .against = true,
                            .left = SIZE_MAX};
    struct mal_head_buffers head;
    bool ok = live_rows(cut, which, n, &rows, &n_labels, err) &&
              mal_pass_prepare(model, &rows, &pass, &head, err);
    mal_rows_finish(&rows);
    if (!ok) return false;
    float *host = mal_malloc((size_t)pass.n_head * sizeof *host);
    if (!host) return mal_fail(err, MAL_NO_MEMORY, "losses");

    fill(cut, &pass, which, n, states, n_labels);
    set_scales(cut, which, n, host);
    mal_backend_upload(pass.be, head.scale, host, (size_t)pass.n_head * sizeof *host);
    mal_model_forward(model, &pass);
    mal_head_bwd_begin(model, &pass);
    mal_head_bwd_part(model, &pass, &head, &(struct mal_head_part){.end = n_labels});
    mal_head_bwd_part(model, &pass, &head,
                      &(struct mal_head_part){.loss = MAL_HEAD_KL_NOW,
                                              .y0 = pass.y0,
                                              .first = n_labels,
                                              .end = pass.n_head});
    mal_model_backward(model, &pass);
    mal_gather_rows(pass.be, (int64_t)n, c, pass.main.q_start, pass.main.buf.dx, c,
                    cut->some, c);
    mal_backend_download(pass.be, grads, cut->some, n * (size_t)c * sizeof *grads);
    mal_backend_download(pass.be, host, head.logprob, (size_t)pass.n_head * sizeof *host);
    ok = mal_backend_sync(pass.be, err);
    if (ok) take_losses(cut, which, n, host, losses);
    mal_free(host);
    return ok;
}
