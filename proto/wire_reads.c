/* wire_reads.c - POST /v1/completions and /v1/scores. */
#include <string.h>

#include "core/alloc.h"
#include "proto/wire_impl.h"

enum { MAX_PROMPTS = 1000, MAX_ITEMS = 1000, MAX_STOP = 4, MAX_TOKENS = 1000000 };

/* ---- Completions ---- */

void mal_completion_request_finish(struct mal_completion_request *request) {
    mal_free(request->model);
    mal_wire_texts_free(request->prompts, request->n_prompts);
    mal_wire_texts_free(request->stop, request->n_stop);
    *request = (struct mal_completion_request){0};
}

static bool read_model(const json_t *root, char **out, struct mal_error *err) {
    if (!mal_wire_text(root, "", "model", out, err)) return false;
    if (*out) return true;
    *out = mal_strdup("live");
    return *out || mal_fail(err, MAL_NO_MEMORY, "model of the request");
}

/* OpenAI's further members are taken where they ask for what happens anyway, so that its
 * clients can send them; asking for more than that is refused. */
static bool read_neutral(const json_t *root, struct mal_error *err) {
    static const struct {
        const char *key, *pointer;
        double value;
    } numbers[] = {
        {"n", "/n", 1},
        {"best_of", "/best_of", 1},
        {"presence_penalty", "/presence_penalty", 0},
        {"frequency_penalty", "/frequency_penalty", 0},
    };

    static const struct {
        const char *key, *pointer;
    } absent[] = {
        {"logprobs", "/logprobs"}, {"suffix", "/suffix"}, {"logit_bias", "/logit_bias"}};

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        double value = numbers[i].value;
        if (!mal_wire_real(root, "", numbers[i].key, -1e9, 1e9, &value, err))
            return false;
        if (value != numbers[i].value) {
            return mal_fail_at(err, MAL_INVALID, numbers[i].pointer,
                               "%s is %g; only %g is supported", numbers[i].pointer,
                               value, numbers[i].value);
        }
    }
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        const json_t *value = json_object_get(root, absent[i].key);
        if (value && !json_is_null(value)) {
            return mal_fail_at(err, MAL_INVALID, absent[i].pointer, "%s is not supported",
                               absent[i].pointer);
        }
    }
    return true;
}

static bool read_sampling(const json_t *root, struct mal_completion_request *request,
                          struct mal_error *err) {
    const json_t *seed = json_object_get(root, "seed");
    request->max_tokens = 16;
    request->top_p = 1;
    request->has_seed = seed && !json_is_null(seed);
    if (!mal_wire_int(root, "", "max_tokens", 0, MAX_TOKENS, &request->max_tokens, err) ||
        !mal_wire_real(root, "", "temperature", 0, 2, &request->temperature, err) ||
        !mal_wire_real(root, "", "top_p", 0, 1, &request->top_p, err) ||
        !mal_wire_int(root, "", "seed", INT64_MIN, INT64_MAX, &request->seed, err)) {
        return false;
    }
    return request->top_p > 0 || mal_fail_at(err, MAL_INVALID, "/top_p",
                                             "/top_p is 0; expected above 0, at most 1");
}

static bool read_stream(const json_t *root, struct mal_completion_request *request,
                        struct mal_error *err) {
    static const char *const known[] = {"include_usage", NULL};
    const json_t *options = json_object_get(root, "stream_options");
    if (!mal_wire_bool(root, "", "stream", &request->stream, err)) return false;
    if (!options || json_is_null(options)) return true;
    if (!json_is_object(options))
        return mal_wire_wrong_type(options, "/stream_options", "an object", err);
    if (!request->stream) {
        return mal_fail_at(err, MAL_INVALID, "/stream_options",
                           "/stream_options is only for an answer with stream true");
    }
    return mal_wire_only(options, "/stream_options", known, err) &&
           mal_wire_bool(options, "/stream_options", "include_usage",
                         &request->include_usage, err);
}

bool mal_decode_completion(const char *body, size_t bytes,
                           struct mal_completion_request *out, struct mal_error *err) {
    static const char *const known[] = {"model",
                                        "prompt",
                                        "max_tokens",
                                        "temperature",
                                        "top_p",
                                        "seed",
                                        "stop",
                                        "echo",
                                        "stream",
                                        "stream_options",
                                        "user",
                                        "n",
                                        "best_of",
                                        "presence_penalty",
                                        "frequency_penalty",
                                        "logprobs",
                                        "suffix",
                                        "logit_bias",
                                        NULL};
    static const struct mal_wire_list prompt = {.key = "prompt",
                                                .min = 1,
                                                .max = MAX_PROMPTS,
                                                .single = true,
                                                .texts = MAL_WIRE_ANY};
    static const struct mal_wire_list stop = {
        .key = "stop", .max = MAX_STOP, .single = true, .texts = MAL_WIRE_NOT_EMPTY};
    struct mal_completion_request request = {0};
    const json_t *value;
    char *user = NULL;
    json_t *root = mal_wire_parse(body, bytes, 0, err);
    if (!root) return false;
    bool ok =
        mal_wire_only(root, "", known, err) && read_model(root, &request.model, err) &&
        mal_wire_need(root, "", "prompt", "a string or an array of strings", &value,
                      err) &&
        mal_wire_texts(root, "", &prompt, &request.prompts, &request.n_prompts, err) &&
        read_sampling(root, &request, err) &&
        mal_wire_texts(root, "", &stop, &request.stop, &request.n_stop, err) &&
        mal_wire_bool(root, "", "echo", &request.echo, err) &&
        read_stream(root, &request, err) && mal_wire_text(root, "", "user", &user, err) &&
        read_neutral(root, err);
    mal_free(user);
    json_decref(root);
    if (ok) {
        *out = request;
    } else {
        mal_completion_request_finish(&request);
    }
    return ok;
}

/* ---- Scores ---- */

void mal_scores_request_finish(struct mal_scores_request *request) {
    for (size_t i = 0; i < request->n_items; i++) {
        mal_free(request->items[i].prompt);
        mal_free(request->items[i].target);
        mal_free(request->items[i].join);
    }
    mal_free(request->items);
    mal_free(request->model);
    *request = (struct mal_scores_request){0};
}

static bool read_item(const json_t *value, const char *base,
                      struct mal_scores_request_item *out, struct mal_error *err) {
    static const char *const known[] = {"prompt", "target", "join", NULL};
    if (!json_is_object(value)) return mal_wire_wrong_type(value, base, "an object", err);
    const json_t *given = json_object_get(value, "target");
    bool without = !given || json_is_null(given);
    return mal_wire_only(value, base, known, err) &&
           mal_wire_text_filled(value, base, "prompt", &out->prompt, err) &&
           (without || mal_wire_text_filled(value, base, "target", &out->target, err)) &&
           mal_wire_text(value, base, "join", &out->join, err);
}

static bool read_items(const json_t *root, struct mal_scores_request *request,
                       struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES];
    const json_t *value;
    if (!mal_wire_need(root, "", "items", "an array", &value, err)) return false;
    if (!json_is_array(value))
        return mal_wire_wrong_type(value, "/items", "an array", err);
    size_t n = json_array_size(value);
    if (n < 1 || n > MAX_ITEMS) {
        return mal_fail_at(err, MAL_INVALID, "/items",
                           "/items has %zu items; expected 1 to %d", n, MAX_ITEMS);
    }
    request->items = mal_calloc(n, sizeof *request->items);
    if (!request->items) return mal_fail(err, MAL_NO_MEMORY, "%zu items", n);
    request->n_items = n;
    for (size_t i = 0; i < n; i++) {
        mal_wire_pointer_at(pointer, "/items", i);
        if (!read_item(json_array_get(value, i), pointer, &request->items[i], err))
            return false;
    }
    return true;
}

bool mal_decode_scores(const char *body, size_t bytes, struct mal_scores_request *out,
                       struct mal_error *err) {
    static const char *const known[] = {"items", "model", NULL};
    struct mal_scores_request request = {0};
    json_t *root = mal_wire_parse(body, bytes, 0, err);
    if (!root) return false;
    bool ok = mal_wire_only(root, "", known, err) &&
              read_model(root, &request.model, err) && read_items(root, &request, err);
    json_decref(root);
    if (ok) {
        *out = request;
    } else {
        mal_scores_request_finish(&request);
    }
    return ok;
}

bool mal_parse_model(const char *model, int64_t *out_version) {
    int64_t version = 0;
    if (strcmp(model, "live") == 0) {
        *out_version = -1;
        return true;
    }
    if (strcmp(model, "base") == 0) {
        *out_version = 0;
        return true;
    }
    const char *digits = model + 1;
    size_t n = model[0] == 'v' ? strspn(digits, "0123456789") : 0;
    if (n < 1 || n > 18 || digits[n] || (n > 1 && digits[0] == '0')) return false;
    for (size_t i = 0; i < n; i++)
        version = 10 * version + (digits[i] - '0');
    *out_version = version;
    return true;
}
