/* http_reads.c - POST /v1/completions and /v1/scores.
 *
 * Decoded and tokenized on a work thread, answered by the worker, rendered on the loop.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/example.h"
#include "daemon/api/handlers.h"
#include "daemon/api/http_reads_impl.h"
#include "daemon/base/check.h"
#include "daemon/http/http.h"

void mal_inquiry_free(struct mal_inquiry *q) {
    for (size_t i = 0; i < q->completion.n_prompts; i++) {
        if (q->prompts) mal_ids_finish(&q->prompts[i]);
        if (q->gens) mal_generation_finish(&q->gens[i]);
    }
    mal_scores_free(q->read.scores, q->scores.n_items);
    mal_streaming_free(q->streaming);
    mal_free(q->prompts);
    mal_free(q->gens);
    mal_free(q->items);
    mal_completion_request_finish(&q->completion);
    mal_scores_request_finish(&q->scores);
    mal_free(q);
}

static void fail(struct mal_inquiry *q, const struct mal_error *err) {
    mal_http_fail(q->req, err);
    mal_inquiry_free(q);
}

/* ---- On a work thread ---- */

static bool tokenize_prompt(struct mal_inquiry *q, size_t i, struct mal_error *err) {
    const char *prompt = q->completion.prompts[i];
    struct mal_ids *ids = &q->prompts[i];
    const struct mal_model_info *info = mal_engine_model_info(q->engine);
    char pointer[48] = "/prompt";
    if (q->completion.n_prompts > 1) snprintf(pointer, sizeof pointer, "/prompt/%zu", i);
    if (!mal_text_tokens(info, mal_engine_tokenizer(q->engine), prompt, strlen(prompt),
                         pointer, ids, err))
        return false;
    if (!ids->n && info->eos >= 0 && !mal_ids_push(ids, info->eos, err)) return false;
    if (!ids->n) return mal_fail_at(err, MAL_INVALID, pointer, "the prompt is empty");
    bool causal = info->kind == MAL_MODEL_CAUSAL;
    size_t most = (size_t)mal_longest_text(info);
    if (ids->n < most + !causal) return true;
    return mal_fail_at(err, MAL_INVALID, pointer,
                       causal ? "the prompt has %zu tokens, the context holds %zu and "
                                "must leave room for an answer"
                              : "the prompt has %zu tokens, the most are %zu",
                       ids->n, most);
}

static bool prepare_completion(struct mal_inquiry *q, struct mal_error *err) {
    const struct mal_completion_request *c = &q->completion;
    const struct mal_model_info *info = mal_engine_model_info(q->engine);
    int64_t most = mal_longest_text(info);
    if (!mal_check_completes(info, err)) return false;
    q->prompts = mal_calloc(c->n_prompts, sizeof *q->prompts);
    q->gens = mal_calloc(c->n_prompts, sizeof *q->gens);
    if (!q->prompts || !q->gens) return mal_fail(err, MAL_NO_MEMORY, "completion");
    uint64_t seed = (uint64_t)c->seed;
    if (!c->has_seed && getrandom(&seed, sizeof seed, GRND_NONBLOCK) < 0) seed = 0;
    for (size_t i = 0; i < c->n_prompts; i++) {
        if (!tokenize_prompt(q, i, err)) return false;
        q->gens[i] = (struct mal_generation){
            .prompt = q->prompts[i].ids,
            .n_prompt = q->prompts[i].n,
            .max_tokens = c->max_tokens < most ? c->max_tokens : most,
            .temperature = (float)c->temperature,
            .top_p = (float)c->top_p,
            .seed = seed + i,
            .stop = (const char *const *)c->stop,
            .n_stop = c->n_stop,
            .follow = c->stream};
    }
    q->read.gens = q->gens;
    q->read.n = c->n_prompts;
    return !c->stream || mal_streaming_create(q, err);
}

static bool prepare_scores(struct mal_inquiry *q, struct mal_error *err) {
    const struct mal_scores_request *s = &q->scores;
    bool classes = mal_engine_model_info(q->engine)->kind == MAL_MODEL_CLASSIFIER;
    char pointer[48];
    q->items = mal_calloc(s->n_items, sizeof *q->items);
    if (!q->items) return mal_fail(err, MAL_NO_MEMORY, "scores");
    for (size_t i = 0; i < s->n_items; i++) {
        if (!s->items[i].target && !classes) {
            snprintf(pointer, sizeof pointer, "/items/%zu/target", i);
            return mal_fail_at(err, MAL_INVALID, pointer,
                               "%s is missing; only a classifier needs none", pointer);
        }
        q->items[i] = (struct mal_score_item){.prompt = s->items[i].prompt,
                                              .target = s->items[i].target,
                                              .join = s->items[i].join};
    }
    q->read.items = q->items;
    q->read.n = s->n_items;
    q->read.score = true;
    return true;
}

static bool decode_inquiry(struct mal_inquiry *q, struct mal_error *err) {
    const char *body = q->req->body ? q->req->body : "";
    size_t bytes = q->req->body_bytes;
    bool ok = q->score ? mal_decode_scores(body, bytes, &q->scores, err)
                       : mal_decode_completion(body, bytes, &q->completion, err);
    if (!ok) return false;
    const char *model = q->score ? q->scores.model : q->completion.model;
    if (!mal_parse_model(model, &q->read.version)) {
        return mal_fail_at(err, MAL_NOT_FOUND, "/model",
                           "there is no model '%.64s' (there are live, base and v{n})",
                           model);
    }
    return q->score ? prepare_scores(q, err) : prepare_completion(q, err);
}

static void decode(void *arg) {
    struct mal_inquiry *q = arg;
    q->decoded = decode_inquiry(q, &q->err);
}

/* ---- Answers ---- */

static json_t *real(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *text_of(const char *text, size_t bytes) {
    json_t *value = json_stringn(text ? text : "", bytes);
    return value ? value : json_string("");
}

/* What stands between an echoed prompt and its answer. */
static const char *between(const struct mal_inquiry *q) {
    return mal_engine_model_info(q->engine)->kind == MAL_MODEL_SEQ2SEQ ? " " : "";
}

json_t *mal_render_choice(const struct mal_inquiry *q, size_t i, bool from_start,
                          const char *text, size_t bytes, bool ended,
                          enum mal_finish finish) {
    json_t *value = text_of(text, bytes);
    if (q->completion.echo && from_start) {
        json_t *whole = json_sprintf("%s%s%s", q->completion.prompts[i], between(q),
                                     json_string_value(value));
        json_decref(value);
        value = whole;
    }
    const char *reason = finish == MAL_FINISH_STOP ? "stop" : "length";
    return json_pack("{s:i,s:o,s:n,s:s?}", "index", (int)i, "text", value, "logprobs",
                     "finish_reason", ended ? reason : NULL);
}

json_t *mal_render_usage(const struct mal_inquiry *q) {
    json_int_t n_prompt = 0, n_answer = 0;
    for (size_t i = 0; i < q->read.n; i++) {
        n_prompt += (json_int_t)q->gens[i].n_prompt;
        n_answer += (json_int_t)q->gens[i].n_ids;
    }
    return json_pack("{s:I,s:I,s:I}", "prompt_tokens", n_prompt, "completion_tokens",
                     n_answer, "total_tokens", n_prompt + n_answer);
}

void mal_inquiry_begin(struct mal_inquiry *q) {
    char version[24];
    snprintf(version, sizeof version, "%" PRId64, q->read.version);
    mal_request_set(q->req, "Malmend-Version", version);
    q->created_ms = mal_clock_unix_ms();
    mal_id_make(&q->daemon->read_ids, "cmpl-", q->created_ms, q->id);
}

json_t *mal_render_completion(const struct mal_inquiry *q, json_t *choices,
                              json_t *usage) {
    return json_pack("{s:s,s:s,s:I,s:s,s:I,s:o,s:o*}", "id", q->id, "object",
                     "text_completion", "created", (json_int_t)(q->created_ms / 1000),
                     "model", q->completion.model, "version", (json_int_t)q->read.version,
                     "choices", choices, "usage", usage);
}

static json_t *render_whole(const struct mal_inquiry *q) {
    json_t *choices = json_array();
    for (size_t i = 0; i < q->read.n; i++) {
        const struct mal_generation *gen = &q->gens[i];
        json_array_append_new(
            choices,
            mal_render_choice(q, i, true, gen->text, gen->text_bytes, true, gen->finish));
    }
    return mal_render_completion(q, choices, mal_render_usage(q));
}

static json_t *render_token(const struct mal_inquiry *q,
                            const struct mal_token_score *token) {
    char *text = NULL;
    size_t bytes = 0;
    struct mal_error err = {0};
    if (!mal_tokenizer_decode(mal_engine_tokenizer(q->engine), &token->id, 1, false,
                              false, &text, &bytes, &err)) {
        bytes = 0;
    }
    json_t *value =
        json_pack("{s:i,s:o,s:o,s:i,s:b}", "id", (int)token->id, "token",
                  text_of(text, bytes), "logprob", real((double)token->logprob), "rank",
                  (int)token->rank, "correct", token->argmax == token->id);
    mal_free(text);
    return value;
}

static json_t *render_score(const struct mal_inquiry *q,
                            const struct mal_score_item *item,
                            const struct mal_score *score) {
    json_t *tokens = json_array();
    for (size_t t = 0; t < score->n_tokens; t++)
        json_array_append_new(tokens, render_token(q, &score->tokens[t]));
    return json_pack("{s:s,s:s,s:o,s:o,s:b}", "prompt", item->prompt, "target",
                     item->target, "logprob", real(score->logprob), "tokens", tokens,
                     "correct", score->correct);
}

/* Of a classifier, with or without a target to compare with. */
static json_t *render_probability(const struct mal_score_item *item,
                                  const struct mal_score *score) {
    json_t *value = json_pack("{s:s,s:{s:o}}", "prompt", item->prompt, "probability",
                              "SUPPORTS", real(score->supports));
    if (!item->target) return value;
    json_object_set_new(value, "target", json_string(item->target));
    json_object_set_new(value, "correct", json_boolean(score->correct));
    return value;
}

static json_t *render_scores(const struct mal_inquiry *q) {
    bool classes = mal_engine_model_info(q->engine)->kind == MAL_MODEL_CLASSIFIER;
    json_t *data = json_array();
    for (size_t i = 0; i < q->read.n; i++) {
        const struct mal_score_item *item = &q->items[i];
        const struct mal_score *score = &q->read.scores[i];
        json_array_append_new(data, classes ? render_probability(item, score)
                                            : render_score(q, item, score));
    }
    return json_pack("{s:s,s:s,s:I,s:o}", "object", "list", "model", q->scores.model,
                     "version", (json_int_t)q->read.version, "data", data);
}

static void answered(struct mal_read *read) {
    struct mal_inquiry *q = (struct mal_inquiry *)read;
    if (!read->ok) {
        fail(q, &read->err);
        return;
    }
    mal_inquiry_begin(q);
    mal_http_json(q->req, 200, q->score ? render_scores(q) : render_whole(q));
    mal_inquiry_free(q);
}

static void decoded(void *arg) {
    struct mal_inquiry *q = arg;
    struct mal_error err = {0};
    if (!q->decoded) {
        fail(q, &q->err);
        return;
    }
    if (!q->streaming) q->read.done = answered;
    if (!mal_worker_read(q->daemon->worker, &q->read, &err)) fail(q, &err);
}

static void inquire(struct mal_daemon *d, struct mal_request *req, bool score) {
    struct mal_error err = {0};
    struct mal_inquiry *q = mal_calloc(1, sizeof *q);
    if (!q) {
        mal_http_no_memory(req);
        return;
    }
    q->daemon = d;
    q->req = req;
    q->engine = d->engine;
    q->score = score;
    if (!mal_loop_work(d->loop, decode, decoded, q, &err)) fail(q, &err);
}

void mal_post_completions(struct mal_daemon *d, struct mal_request *req) {
    inquire(d, req, false);
}

void mal_post_scores(struct mal_daemon *d, struct mal_request *req) {
    inquire(d, req, true);
}
