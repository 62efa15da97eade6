/* generate.c - continues many prompts together: one pass over all prompts, then one token
 * of every unfinished sequence a pass, over a KV cache. An encoder-decoder's encoder
 * reads the prompts in the first pass; the decoder continues the token that answers begin
 * with.
 */
#include "core/model/generate.h"

#include <string.h>

#include "core/alloc.h"
#include "core/model/rows.h"
#include "core/model/sample.h"
#include "core/model/stop_text.h"

/* One sequence under way. */
struct stream {
    struct mal_generation *gen;
    uint64_t random;
    const int32_t *prefix; /* what is continued: the prompt, or a start token */
    int64_t n_prefix;
    int64_t max_tokens; /* that the context leaves */
    int64_t source_row; /* the prompt's first row among those the encoder reads */
    int64_t cache_row;  /* its first row in the cache */
    int64_t n_cached;   /* positions whose keys and values are in the cache */
    bool done;
};

struct group {
    struct mal_model *model;
    const struct mal_tokenizer *tok;
    struct stream *streams;
    size_t n;
    struct mal_kv_cache cache;
    struct mal_arena arena; /* of the cache */
    bool source_ready;      /* the encoder has read the prompts */
    int32_t *argmax;        /* (n) */
    float *logits;          /* (V), NULL: all are greedy */
    struct mal_candidate *candidates;
};

/* ---- The cache ---- */

/* Room for all keys and values: per block of the decoder `rows` rows, and of the
 * encoder's output source_rows. */
static bool place_cache(struct group *group, int64_t rows, int64_t source_rows,
                        struct mal_error *err) {
    const struct mal_model *model = group->model;
    int64_t n = model->decoder.n, width = 2 * mal_kv_width(model);
    size_t bytes = (size_t)(n * ((rows + source_rows) * width + 2 * 16)) * sizeof(float);
    if (!mal_arena_init(&group->arena, model->be, bytes, err)) return false;
    group->cache = (struct mal_kv_cache){.kv = mal_calloc((size_t)n, sizeof(float *)),
                                         .cross = mal_calloc((size_t)n, sizeof(float *)),
                                         .n_blocks = n,
                                         .rows = rows,
                                         .source_rows = source_rows};
    if (!group->cache.kv || !group->cache.cross)
        return mal_fail(err, MAL_NO_MEMORY, "key-value cache");
    for (int64_t l = 0; l < n; l++) {
        group->cache.kv[l] = mal_arena_floats(&group->arena, rows * width);
        group->cache.cross[l] = mal_arena_floats(&group->arena, source_rows * width);
    }
    return true;
}

static bool open_cache(struct group *group, struct mal_error *err) {
    int64_t rows = 0, source_rows = 0;
    for (size_t i = 0; i < group->n; i++) {
        struct stream *s = &group->streams[i];
        s->cache_row = rows;
        s->source_row = source_rows;
        rows += s->n_prefix + s->max_tokens;
        if (group->model->encoder.n > 0 && !s->done)
            source_rows += (int64_t)s->gen->n_prompt;
    }
    return place_cache(group, rows, source_rows, err);
}

/* ---- One step ---- */

/* The tokens not yet in the cache: the prompt at first, then the one generated last. */
static int64_t n_new(const struct stream *s) {
    return s->n_prefix + (int64_t)s->gen->n_ids - s->n_cached;
}

static int32_t token_at(const struct stream *s, int64_t pos) {
    return pos < s->n_prefix ? s->prefix[pos] : s->gen->ids[pos - s->n_prefix];
}

static int64_t max_of(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* The prompts go through the encoder in the first step. Later only the cache is looked
 * at. */
static void count_source(const struct group *group, struct mal_lane_rows *lane) {
    for (size_t i = 0; i < group->n; i++) {
        const struct stream *s = &group->streams[i];
        if (s->done) continue;
        int64_t n = (int64_t)s->gen->n_prompt;
        lane->n_seqs++;
        if (!group->source_ready) lane->n_tokens += n;
        lane->max_keys = max_of(lane->max_keys, n);
    }
    lane->n_kept = lane->n_top = lane->n_tokens;
    lane->max_queries = lane->max_kept = lane->max_top = lane->max_keys;
}

static void count_step(const struct group *group, struct mal_rows *rows) {
    struct mal_lane_rows *lane = &rows->main;
    for (size_t i = 0; i < group->n; i++) {
        const struct stream *s = &group->streams[i];
        if (s->done) continue;
        lane->n_seqs++;
        lane->n_tokens += n_new(s);
        lane->max_queries = max_of(lane->max_queries, n_new(s));
        lane->max_keys = max_of(lane->max_keys, s->n_cached + n_new(s));
    }
    lane->n_top = rows->n_head = lane->n_seqs;
    lane->max_top = 1;
    if (group->model->encoder.n > 0) count_source(group, &rows->source);
}

static void fill_step(const struct group *group, struct mal_rows *rows) {
    struct mal_lane_rows *lane = &rows->main;
    int32_t row = 0, seq = 0;
    for (size_t i = 0; i < group->n; i++) {
        const struct stream *s = &group->streams[i];
        if (s->done) continue;
        lane->q_start[seq] = row;
        lane->k_start[seq] = (int32_t)s->cache_row;
        lane->k_len[seq] = (int32_t)(s->n_cached + n_new(s));
        for (int64_t pos = s->n_cached; pos < lane->k_len[seq]; pos++, row++) {
            lane->ids[row] = token_at(s, pos);
            lane->pos[row] = (int32_t)pos;
            rows->cache_rows[row] = (int32_t)(s->cache_row + pos);
        }
        lane->top_start[seq] = seq;
        lane->top[seq] = row - 1;
        rows->head_rows[seq] = seq;
        rows->labels[seq++] = -1;
    }
    lane->q_start[seq] = row;
    lane->top_start[seq] = seq;
}

static void fill_source(const struct group *group, struct mal_lane_rows *lane) {
    size_t seq = 0;
    int32_t row = 0;
    for (size_t i = 0; i < group->n; i++) {
        const struct stream *s = &group->streams[i];
        if (s->done) continue;
        int32_t n = (int32_t)s->gen->n_prompt;
        lane->k_start[seq] = (int32_t)s->source_row;
        lane->k_len[seq] = n;
        lane->q_start[seq] = lane->top_start[seq] = lane->kept_start[seq] = row;
        seq++;
        for (int32_t t = 0; t < n && !group->source_ready; t++, row++) {
            lane->ids[row] = s->gen->prompt[t];
            lane->pos[row] = t;
            lane->kept[row] = lane->top[row] = row;
        }
    }
    lane->q_start[seq] = lane->top_start[seq] = lane->kept_start[seq] = row;
}

static bool rows_of_step(const struct group *group, struct mal_rows *out,
                         struct mal_error *err) {
    struct mal_rows rows = {0};
    count_step(group, &rows);
    if (!mal_rows_alloc(&rows, true, err)) return false;
    fill_step(group, &rows);
    if (group->model->encoder.n > 0) fill_source(group, &rows.source);
    *out = rows;
    return true;
}

/* gen->text, of the tokens so far. A model's vocabulary is often rounded up: what the
 * tokenizer has no token for gives no text. */
static bool find_text(const struct group *group, struct mal_generation *gen,
                      bool *out_open, struct mal_error *err) {
    size_t n = 0;
    int32_t *known = mal_calloc(gen->n_ids + 1, sizeof *known);
    if (!known) return mal_fail(err, MAL_NO_MEMORY, "generated text");
    for (size_t i = 0; i < gen->n_ids; i++) {
        if (gen->ids[i] < mal_tokenizer_size(group->tok)) known[n++] = gen->ids[i];
    }
    mal_free(gen->text);
    gen->text = NULL;
    bool ok = mal_tokenizer_decode_so_far(group->tok, known, n, true, &gen->text,
                                          &gen->text_bytes, out_open, err);
    mal_free(known);
    return ok;
}

/* Ends the stream where a stop text begins. */
static void cut_at_stop(struct stream *s) {
    struct mal_generation *gen = s->gen;
    for (size_t i = 0; i < gen->n_stop; i++) {
        char *at = strstr(gen->text, gen->stop[i]);
        if (!at) continue;
        *at = 0;
        gen->text_bytes = (size_t)(at - gen->text);
        gen->finish = MAL_FINISH_STOP;
        s->done = true;
    }
}

/* The text, where somebody looks at it: stop texts, who follows, and all at the end. */
static bool take_text(const struct group *group, struct stream *s,
                      struct mal_error *err) {
    struct mal_generation *gen = s->gen;
    bool open;
    if (gen->n_stop == 0 && !gen->follow && !s->done) return true;
    if (!find_text(group, gen, &open, err)) return false;
    cut_at_stop(s);
    gen->ended = s->done;
    if (s->done) {
        gen->sure = gen->text_bytes;
    } else if (!open) {
        gen->sure = mal_before_stop(gen->text, gen->text_bytes, gen->stop, gen->n_stop);
    }
    return true;
}

static bool take_token(struct group *group, struct stream *s, int32_t id,
                       struct mal_error *err) {
    struct mal_generation *gen = s->gen;
    s->n_cached = s->n_prefix + (int64_t)gen->n_ids;
    if (id < 0) return mal_fail(err, MAL_NUMERIC, "the model's output is not a number");
    if (mal_model_ends(group->model, id)) {
        gen->finish = MAL_FINISH_STOP;
        s->done = true;
    } else {
        gen->ids[gen->n_ids++] = id;
        s->done = (int64_t)gen->n_ids == s->max_tokens;
    }
    return take_text(group, s, err);
}

static bool choose(struct group *group, struct stream *s, int64_t row,
                   const struct mal_head_buffers *head, int64_t row0,
                   struct mal_error *err) {
    int32_t id = group->argmax[row];
    int64_t v = group->model->info.n_vocab;
    if (s->gen->temperature > 0 && id >= 0) {
        mal_backend_download(group->model->be, group->logits,
                             head->logits + (row - row0) * v,
                             (size_t)v * sizeof *group->logits);
        if (!mal_backend_sync(group->model->be, err)) return false;
        id = mal_sample(group->logits, v, s->gen->temperature, s->gen->top_p, &s->random,
                        group->candidates);
    }
    return take_token(group, s, id, err);
}

static bool run_step(struct group *group, struct mal_error *err) {
    struct mal_model *model = group->model;
    struct mal_rows rows = {0};
    struct mal_pass pass = {.cache = &group->cache, .source_ready = group->source_ready};
    struct mal_head_buffers head;
    bool ok = rows_of_step(group, &rows, err) &&
              mal_pass_prepare(model, &rows, &pass, &head, err);
    mal_rows_finish(&rows);
    if (!ok) return false;

    mal_model_forward(model, &pass);
    group->source_ready = true;
    size_t next = 0;
    for (int64_t i = 0; i < pass.n_head; i += head.slice) {
        int64_t n = pass.n_head - i < head.slice ? pass.n_head - i : head.slice;
        mal_pass_logits(model, &pass, &head, i, n);
        mal_xent_fwd(pass.be, n, model->info.n_vocab, head.logits, NULL, NULL, NULL,
                     head.argmax + i);
        mal_backend_download(pass.be, group->argmax + i, head.argmax + i,
                             (size_t)n * sizeof *group->argmax);
        if (!mal_backend_sync(pass.be, err)) return false;
        for (int64_t row = i; row < i + n; next++) {
            if (group->streams[next].done) continue;
            if (!choose(group, &group->streams[next], row++, &head, i, err)) return false;
        }
    }
    return true;
}

static bool all_done(const struct group *group) {
    for (size_t i = 0; i < group->n; i++) {
        if (!group->streams[i].done) return false;
    }
    return true;
}

/* ---- The whole ---- */

static bool start_stream(const struct mal_model *model, struct mal_generation *gen,
                         struct stream *s, struct mal_error *err) {
    const struct mal_model_info *info = &model->info;
    *s = (struct stream){.gen = gen, .random = gen->seed, .max_tokens = gen->max_tokens};
    gen->finish = MAL_FINISH_LENGTH;
    gen->ended = false;
    gen->sure = 0;
    if (gen->n_prompt == 0) return mal_fail(err, MAL_INVALID, "the prompt has no tokens");
    if (info->n_context && (int64_t)gen->n_prompt > info->n_context) {
        return mal_fail(err, MAL_INVALID,
                        "the prompt has %zu tokens, the model's context is %lld",
                        gen->n_prompt, (long long)info->n_context);
    }
    for (size_t i = 0; i < gen->n_prompt; i++) {
        if (gen->prompt[i] < 0 || gen->prompt[i] >= info->n_vocab) {
            return mal_fail(err, MAL_INVALID, "prompt token %d is not below %lld",
                            gen->prompt[i], (long long)info->n_vocab);
        }
    }
    bool apart = info->kind == MAL_MODEL_SEQ2SEQ; /* the answer is a text of its own */
    s->prefix = apart ? &info->decoder_start : gen->prompt;
    s->n_prefix = apart ? 1 : (int64_t)gen->n_prompt;
    int64_t left = info->n_context - s->n_prefix;
    if (info->n_context && s->max_tokens > left) s->max_tokens = left;
    s->done = s->max_tokens < 1;
    gen->ids = mal_calloc((size_t)(s->done ? 1 : s->max_tokens), sizeof *gen->ids);
    return gen->ids || mal_fail(err, MAL_NO_MEMORY, "generated tokens");
}

/* Ends what is to have no tokens, or none any more. */
static bool end_some(struct group *group, struct mal_error *err) {
    for (size_t i = 0; i < group->n; i++) {
        struct stream *s = &group->streams[i];
        if (s->gen->ended || !(s->done || s->gen->given_up)) continue;
        s->done = true;
        if (!take_text(group, s, err)) return false;
    }
    return true;
}

static bool run_group(struct group *group, bool (*tick)(void *), void *tick_arg,
                      struct mal_error *err) {
    if (!end_some(group, err) || !open_cache(group, err)) return false;
    while (!all_done(group)) {
        if (!run_step(group, err)) return false;
        if (tick && !tick(tick_arg)) return mal_fail(err, MAL_CANCELLED, "cancelled");
        if (!end_some(group, err)) return false;
    }
    return true;
}

static bool open_group(struct group *group, bool *sampled, struct mal_generation *gens,
                       struct mal_error *err) {
    group->streams = mal_calloc(group->n, sizeof *group->streams);
    group->argmax = mal_calloc(group->n, sizeof *group->argmax);
    if (!group->streams || !group->argmax)
        return mal_fail(err, MAL_NO_MEMORY, "generation");
    for (size_t i = 0; i < group->n; i++) {
        if (!start_stream(group->model, &gens[i], &group->streams[i], err)) return false;
        if (gens[i].temperature > 0) *sampled = true;
    }
    if (!*sampled) return true;
    size_t v = (size_t)group->model->info.n_vocab;
    group->logits = mal_malloc(v * sizeof *group->logits);
    group->candidates = mal_malloc(v * sizeof *group->candidates);
    return (group->logits && group->candidates) ||
           mal_fail(err, MAL_NO_MEMORY, "generation");
}

static void close_group(struct group *group) {
    mal_arena_finish(&group->arena);
    mal_free(group->cache.kv);
    mal_free(group->cache.cross);
    mal_free(group->streams);
    mal_free(group->argmax);
    mal_free(group->logits);
    mal_free(group->candidates);
}

/* Bytes of keys and values that streams worked together may take: on a device with memory
 * of its own an eighth of what is left, as its steps take the same time for many. */
static int64_t cache_bound(struct mal_backend *be) {
    int64_t least = (int64_t)256 << 20;
    int64_t part = mal_backend_on_host(be) ? 0 : (int64_t)(mal_backend_available(be) / 8);
    return part > least ? part : least;
}

/* As many of `gens` as keep the cache within its bound, at least one. */
static size_t group_size(const struct mal_model *model, const struct mal_generation *gens,
                         size_t n) {
    int64_t bytes = 0, bound = cache_bound(model->be),
            per_row = 2 * mal_kv_width(model) * model->decoder.n * (int64_t)sizeof(float);
    for (size_t i = 0; i < n; i++) {
        int64_t rows = (int64_t)gens[i].n_prompt + gens[i].max_tokens;
        int64_t context = model->info.n_context;
        if (context && rows > context) rows = context;
        bytes += rows * per_row;
        if (bytes > bound && i > 0) return i;
    }
    return n;
}

bool mal_generate(struct mal_model *model, const struct mal_tokenizer *tok,
                  struct mal_generation *gens, size_t n, bool (*tick)(void *),
                  void *tick_arg, struct mal_error *err) {
    if (model->info.kind == MAL_MODEL_CLASSIFIER)
        return mal_fail(err, MAL_INVALID, "a classifier does not continue texts");
    for (size_t i = 0; i < n;) {
        struct group group = {
            .model = model, .tok = tok, .n = group_size(model, gens + i, n - i)};
        bool sampled = false;
        bool ok = open_group(&group, &sampled, gens + i, err) &&
                  run_group(&group, tick, tick_arg, err);
        close_group(&group);
        if (!ok) return false;
        i += group.n;
    }
    return true;
}

void mal_generation_finish(struct mal_generation *gen) {
    mal_free(gen->ids);
    mal_free(gen->text);
    gen->ids = NULL;
    gen->text = NULL;
    gen->n_ids = gen->text_bytes = gen->sure = 0;
    gen->ended = false;
}
