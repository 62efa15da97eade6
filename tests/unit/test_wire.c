/* test_wire.c - requests become structs or errors with a status, a pointer and words;
 * answers become JSON. The cases of proto/example are part of the table. */
#include "fact_lines.h"

#include <dirent.h>
#include <jansson.h>

enum kind {
    EDITS,
    EDIT_LINES,
    ROLLBACK,
    RETRACTION,
    CONSOLIDATION,
    EVALUATION,
    COMPLETION,
    SCORES
};

/* Decodes and forgets. */
static bool decode(enum kind kind, const char *body, size_t bytes,
                   struct mal_error *err) {
    struct mal_edits_request edits = {0};
    struct mal_rollback_request rollback = {0};
    struct mal_completion_request completion = {0};
    struct mal_scores_request scores = {0};
    struct mal_retraction_request retraction = {0};
    struct mal_evaluation_request evaluation = {0};
    char *reason = NULL;
    bool ok = false;
    switch (kind) {
    case EDITS: ok = mal_decode_edits(body, bytes, MAX_FACTS, &edits, err); break;
    case EDIT_LINES: ok = decode_lines(body, bytes, bytes ? bytes : 1, err); break;
    case ROLLBACK: ok = mal_decode_rollback(body, bytes, &rollback, err); break;
    case RETRACTION:
        ok = mal_decode_retraction(body, bytes, MAX_FACTS, &retraction, err);
        break;
    case CONSOLIDATION: ok = mal_decode_consolidation(body, bytes, &reason, err); break;
    case EVALUATION:
        ok = mal_decode_evaluation(body, bytes, MAX_FACTS, &evaluation, err);
        break;
    case COMPLETION: ok = mal_decode_completion(body, bytes, &completion, err); break;
    case SCORES: ok = mal_decode_scores(body, bytes, &scores, err); break;
    }
    mal_edits_request_finish(&edits);
    mal_rollback_request_finish(&rollback);
    mal_retraction_request_finish(&retraction);
    mal_evaluation_request_finish(&evaluation);
    mal_free(reason);
    mal_completion_request_finish(&completion);
    mal_scores_request_finish(&scores);
    return ok;
}

static void check(const char *name, enum kind kind, const char *body, size_t bytes,
                  int status, const char *pointer, const char *says) {
    struct mal_error err = {0};
    /* Exactly as long as it says, so that a sanitizer sees a read past its end. */
    char *copy = malloc(bytes ? bytes : 1);
    assert_non_null(copy);
    memcpy(copy, body, bytes);
    bool ok = decode(kind, copy, bytes, &err);
    free(copy);
    int got = ok ? 200 : mal_status_http(err.status);
    if (got != status || (!ok && strcmp(err.pointer, pointer) != 0) ||
        (!ok && !strstr(err.text, says))) {
        fail_msg("%s: %d '%s' \"%s\", expected %d '%s' \"...%s...\"", name, got,
                 err.pointer, err.text, status, pointer, says);
    }
}

/* ---- Table ---- */

#define FACT "{\"prompt\":\"a\",\"target\":\"b\"}"
#define DEEP "[[[[[[[[[[[[[[[[[[[["

static const struct {
    enum kind kind;
    const char *body;
    int status;
    const char *pointer, *says;
} cases[] = {
    {EDITS, "{\"facts\":[" FACT "," FACT "," FACT "," FACT "]}", 200, "", ""},
    {EDITS, "{\"facts\":[" FACT "," FACT "," FACT "," FACT "," FACT "]}", 413, "/facts",
     "at most 4"},
    {EDITS, "{\"facts\":[" FACT "]} x", 400, "", "end of file expected"},
    {EDITS, "\xef\xbb\xbf{\"facts\":[" FACT "]}", 400, "", "is not JSON"},
    {EDITS, "{\"facts\":[{\"prompt\":\"\xff\",\"target\":\"b\"}]}", 400, "",
     "is not JSON"},
    {EDITS, "{\"facts\":[{\"prompt\":\"\\ud800\",\"target\":\"b\"}]}", 400, "",
     "is not JSON"},
    {EDITS, "{\"facts\":[{\"a\\u0000\":1}]}", 400, "", "U+0000"},
    {EDITS, "{'facts':[]}", 400, "", "is not JSON"},
    {EDITS, "{\"facts\":NaN}", 400, "", "is not JSON"},
    {EDITS, "null", 400, "", "it is null"},
    {EDITS, "{\"facts\":[" FACT "],\"facts\":[]}", 400, "", "twice"},
    {EDITS, "{\"facts\":[" FACT "],\"note\":7}", 400, "/note", "must be a string"},
    {EDITS, "{\"facts\":[" FACT "],\"validate_only\":1}", 400, "/validate_only",
     "true or false"},
    {EDITS, "{\"facts\":[" FACT "],\"gate\":[]}", 400, "/gate", "must be an object"},
    {EDITS, "{\"facts\":[" FACT "],\"gate\":{\"max_norm_growth\":-1}}", 422,
     "/gate/max_norm_growth", "expected"},
    {EDITS, "{\"facts\":[" FACT "],\"gate\":{\"max_perplexity_growth\":-0.5}}", 422,
     "/gate/max_perplexity_growth", "expected"},
    {EDITS, "{\"facts\":[" FACT "],\"gate\":{\"bisect\":1}}", 400, "/gate/bisect",
     "true or false"},
    {EDITS, "{\"facts\":[{\"prompt\":\"a\",\"target\":\"b\",\"unrelated\":[7]}]}", 400,
     "/facts/0/unrelated/0", "must be an object"},
    {EDITS,
     "{\"facts\":[{\"prompt\":\"a\",\"target\":\"b\",\"unrelated\":[{\"prompt\":\"c\","
     "\"target\":\"  \"}]}]}",
     422, "/facts/0/unrelated/0/target", "only spaces"},
    {EDITS, "{\"facts\":[{\"prompt\":\"a\",\"target\":\"b\",\"rephrases\":[\"c\",[]]}]}",
     400, "/facts/0/rephrases/1", "must be a string, it is an array"},
    {EDITS, "{\"facts\":[{\"prompt\":\"a\",\"target\":\"\\n\"}]}", 200, "", ""},
    {EDITS,
     "{\"facts\":[{\"prompt\":\"a\",\"target\":\"b\",\"prompts\":[\"c\",\"  \"]}]}", 422,
     "/facts/0/prompts/1", "only spaces"},
    {COMPLETION, "{\"prompt\":\" \",\"stop\":\" \"}", 200, "", ""},
    {EDITS, "{\"facts\":[{\"id\":\"\",\"prompt\":\"a\",\"target\":\"b\"}]}", 422,
     "/facts/0/id", "1 to 64"},
    {EDITS,
     "{\"facts\":[{\"prompt\":\"a\",\"target\":\" b\"},{\"prompt\":\"a  \",\"target\":"
     "\"b\"}]}",
     200, "", ""},
    {EDITS,
     "{\"facts\":[{\"prompt\":\"aa\",\"target\":\"b\"},{\"prompt\":\"a\",\"target\":"
     "\"c\"},{\"prompt\":\"aa\",\"target\":\"d\"},{\"prompt\":\"a\",\"target\":\"d\"}]}",
     422, "/facts/2/target", "contradicts /facts/0"},
    {EDITS,
     "{\"facts\":[{\"prompt\":\"a\",\"target\":\"b\",\"prompts\":[\"c\",\"d \"]},"
     "{\"prompt\":\"e\",\"target\":\" b\",\"prompts\":[\"a\"]},"
     "{\"prompt\":\"d\",\"target\":\"e\"}]}",
     422, "/facts/2/target", "contradicts /facts/0"},
    {EDITS,
     "{\"facts\":[{\"prompt\":\"a\",\"target\":\"b\",\"prompts\":[\"c\",\"c\"]},"
     "{\"prompt\":\"c\",\"target\":\"b\",\"prompts\":[\"a\"]}]}",
     200, "", ""},
    {EDITS, "{\"facts\":" DEEP DEEP DEEP, 400, "", "is not JSON"},
    {ROLLBACK, "{\"to_version\":3.0}", 200, "", ""},
    {ROLLBACK, "{\"to_version\":1e300}", 400, "/to_version", "must be an integer"},
    {ROLLBACK, "{\"to_version\":9223372036854775807}", 200, "", ""},
    {ROLLBACK, "{\"to_version\":9223372036854775808}", 422, "", "a number is too large"},
    {ROLLBACK, "{\"to_version\":null}", 400, "/to_version", "it is null"},
    {ROLLBACK, "{\"to_version\":true}", 400, "/to_version", "it is a boolean"},
    {RETRACTION, "{\"facts\":[\"a\",\"b\",\"c\",\"d\"],\"job\":null}", 200, "", ""},
    {RETRACTION, "{\"facts\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", 413, "/facts",
     "at most 4"},
    {RETRACTION, "{\"facts\":[1,2,3,4,5]}", 413, "/facts", "at most 4"},
    {RETRACTION, "{\"facts\":\"a\"}", 400, "/facts", "must be an array, it is a string"},
    {RETRACTION, "{\"facts\":null}", 400, "/facts", "it is null"},
    {RETRACTION, "{\"facts\":[\"a\",{}]}", 400, "/facts/1", "must be a string"},
    {RETRACTION, "{\"facts\":[\"a\",\"\"]}", 422, "/facts/1", "1 to 64"},
    {RETRACTION, "{\"facts\":[\"a\",\"b c\"]}", 422, "/facts/1", "1 to 64"},
    {RETRACTION, "{\"facts\":[\"b\",\"a\",\"a\",\"b\"]}", 422, "/facts/2",
     "/facts/1 is the same fact"},
    {RETRACTION, "{\"facts\":[\"a\",\"a\",\"a\"]}", 422, "/facts/1",
     "/facts/0 is the same"},
    {RETRACTION, "{\"job\":\"job_1\",\"mode\":null,\"reason\":null}", 200, "", ""},
    {RETRACTION, "{\"job\":7}", 400, "/job", "must be a string"},
    {RETRACTION, "{\"job\":\"\"}", 422, "/job", "1 to 64"},
    {RETRACTION, "{\"job\":\"a\",\"facts\":[]}", 422, "/job", "expected one of them"},
    {RETRACTION, "{\"job\":null}", 422, "/facts", "is missing"},
    {RETRACTION, "{\"facts\":[\"a\"],\"mode\":\"\"}", 422, "/mode",
     "\"pin\" or \"drop\""},
    {RETRACTION, "{\"facts\":[\"a\"],\"mode\":true}", 400, "/mode", "must be a string"},
    {RETRACTION, "{\"facts\":[\"a\"],\"reason\":[]}", 400, "/reason", "must be a string"},
    {CONSOLIDATION, "{}", 200, "", ""},
    {CONSOLIDATION, "{\"reason\":null}", 200, "", ""},
    {CONSOLIDATION, "{\"reason\":7}", 400, "/reason", "must be a string"},
    {CONSOLIDATION, "", 400, "", "is empty"},
    {COMPLETION, "{\"prompt\":\"\"}", 200, "", ""},
    {COMPLETION, "{\"prompt\":7}", 400, "/prompt", "a string or an array of strings"},
    {COMPLETION, "{\"prompt\":\"a\",\"max_tokens\":-1}", 422, "/max_tokens",
     "0 to 1000000"},
    {COMPLETION, "{\"prompt\":\"a\",\"max_tokens\":\"8\"}", 400, "/max_tokens",
     "an integer"},
    {COMPLETION, "{\"prompt\":\"a\",\"temperature\":-0.1}", 422, "/temperature",
     "0 to 2"},
    {COMPLETION, "{\"prompt\":\"a\",\"stop\":[\"x\",null]}", 400, "/stop/1", "a string"},
    {COMPLETION, "{\"prompt\":\"a\",\"echo\":\"yes\"}", 400, "/echo", "true or false"},
    {COMPLETION, "{\"prompt\":\"a\",\"logprobs\":5}", 422, "/logprobs", "not supported"},
    {COMPLETION, "{\"prompt\":\"a\",\"presence_penalty\":1}", 422, "/presence_penalty",
     "only 0"},
    {COMPLETION, "{\"prompt\":\"a\",\"presence_penalty\":0.0,\"n\":1,\"suffix\":null}",
     200, "", ""},
    {COMPLETION, "{\"prompt\":\"a\",\"user\":7}", 400, "/user", "a string"},
    {SCORES, "{\"items\":[{\"prompt\":\"a\",\"target\":\"b\",\"join\":\"\"}]}", 200, "",
     ""},
    {SCORES, "{\"items\":[{\"prompt\":\"a\",\"target\":\"b\",\"joint\":\"\"}]}", 422,
     "/items/0/joint", "no such member"},
    {SCORES, "{\"items\":{}}", 400, "/items", "must be an array"},
    {SCORES, "{\"items\":[{\"prompt\":\"a\",\"target\":\"b\"}],\"model\":3}", 400,
     "/model", "a string"},
};

static void test_table(void **state) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check(cases[i].body, cases[i].kind, cases[i].body, strlen(cases[i].body),
              cases[i].status, cases[i].pointer, cases[i].says);
    }
}

static void test_too_many_items(void **state) {
    static const char item[] = "{\"prompt\":\"a\",\"target\":\"b\"},";
    char *body = malloc(64 + 1001 * sizeof item);
    assert_non_null(body);
    for (int n = 1000; n <= 1001; n++) {
        char *at = body + sprintf(body, "{\"items\":[");
        for (int i = 0; i < n; i++)
            at += sprintf(at, "%s", item);
        sprintf(at - 1, "]}"); /* over the last comma */
        check("items", SCORES, body, strlen(body), n == 1000 ? 200 : 422, "/items",
              "1 to 1000");
    }
    free(body);
}

/* A pointer that does not fit is cut, not written past its end. */
static void test_long_member(void **state) {
    char body[1024];
    snprintf(body, sizeof body, "{\"%0600d\":1}", 7);
    struct mal_error err = {0};
    assert_false(decode(EDITS, body, strlen(body), &err));
    assert_int_equal(err.status, MAL_INVALID);
    assert_true(strlen(err.pointer) > 100 && strlen(err.pointer) < sizeof err.pointer);
}

/* ---- Examples ---- */

static bool kind_of(const json_t *example, enum kind *out) {
    static const struct {
        const char *call;
        enum kind kind;
    } calls[] = {
        {"POST /v1/edits", EDITS},
        {"POST /v1/rollbacks", ROLLBACK},
        {"POST /v1/retractions", RETRACTION},
        {"POST /v1/consolidations", CONSOLIDATION},
        {"POST /v1/evaluations", EVALUATION},
        {"POST /v1/completions", COMPLETION},
        {"POST /v1/scores", SCORES},
    };

    const char *call = json_string_value(json_object_get(example, "call"));
    const char *type = json_string_value(json_object_get(example, "media_type"));
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (strcmp(call, calls[i].call) != 0) continue;
        *out = type && strcmp(type, "application/x-ndjson") == 0 ? EDIT_LINES
                                                                 : calls[i].kind;
        return true;
    }
    return false;
}

/* Returns whether the example is a request that decoding alone settles. */
static bool play(const char *name, const json_t *example) {
    enum kind kind;
    if (!kind_of(example, &kind) ||
        json_is_true(json_object_get(example, "needs_daemon"))) {
        return false;
    }
    const json_t *request = json_object_get(example, "request");
    const char *body = json_string_value(json_object_get(example, "body"));
    char *text = request ? json_dumps(request, 0) : strdup(body);
    assert_non_null(text);
    const char *pointer = json_string_value(json_object_get(example, "pointer"));
    const char *says = json_string_value(json_object_get(example, "says"));
    int status = (int)json_integer_value(json_object_get(example, "status"));
    check(name, kind, text, strlen(text), status == 202 ? 200 : status,
          pointer ? pointer : "", says ? says : "");
    free(text);
    return true;
}

static void test_examples(void **state) {
    const char *root = getenv("MAL_SOURCE_ROOT");
    assert_non_null(root);
    char path[4096];
    snprintf(path, sizeof path, "%s/proto/example", root);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!strstr(entry->d_name, ".json")) continue;
        snprintf(path, sizeof path, "%s/proto/example/%s", root, entry->d_name);
        json_error_t problem;
        json_t *example = json_load_file(path, 0, &problem);
        if (!example) fail_msg("%s: %s", entry->d_name, problem.text);
        n += play(entry->d_name, example);
        json_decref(example);
    }
    closedir(folder);
    assert_true(n >= 40);
}

/* ---- What is read ---- */

static void test_edit_values(void **state) {
    static const char body[] =
        "{\"note\":\"n\\u00e4\",\"gate\":{\"min_es\":0.9,\"min_gs\":null},\"facts\":["
        "{\"join\":\"\",\"id\":\"x:1\",\"prompt\":\"p \",\"target\":\"t\",\"subject\":\"\","
        "\"prompts\":[\"q\",\"r\"],\"rephrases\":[],\"unrelated\":[{\"prompt\":\"u\"},"
        "{\"prompt\":\"v\",\"target\":\"w\"}]}," FACT "]}";
    struct mal_edits_request request = {0};
    struct mal_error err = {0};
    assert_true(mal_decode_edits(body, strlen(body), 2, &request, &err));
    assert_int_equal(request.n_facts, 2);
    assert_string_equal(request.note, "n\xc3\xa4");
    assert_string_equal(request.gate_json, "{\"min_es\":0.9}");
    assert_false(request.validate_only);
    const struct mal_fact *fact = &request.facts[0];
    assert_string_equal(fact->id, "x:1");
    assert_string_equal(fact->prompt, "p"); /* spaces at its end are no part of it */
    assert_string_equal(fact->subject, "");
    assert_string_equal(fact->join, "");
    assert_int_equal(fact->n_prompts, 2);
    assert_string_equal(fact->prompts[1], "r");
    assert_int_equal(fact->n_rephrases, 0);
    assert_int_equal(fact->n_unrelated, 2);
    assert_null(fact->unrelated[0].target);
    assert_string_equal(fact->unrelated[1].target, "w");
    assert_null(request.facts[1].id);
    assert_string_equal(request.facts_json[1], FACT);
    assert_string_equal(
        request.facts_json[0],
        "{\"id\":\"x:1\",\"prompt\":\"p\",\"target\":\"t\",\"subject\":\"\","
        "\"prompts\":[\"q\",\"r\"],\"unrelated\":[{\"prompt\":\"u\"},"
        "{\"prompt\":\"v\",\"target\":\"w\"}],\"join\":\"\"}");

    struct mal_fact stored = {0};
    assert_true(mal_decode_fact(request.facts_json[0], &stored, &err));
    char *again = mal_encode_fact(&stored);
    assert_string_equal(again, request.facts_json[0]);
    mal_free(again);
    mal_fact_finish(&stored);
    mal_edits_request_finish(&request);
    mal_edits_request_finish(&request);

    assert_false(mal_decode_fact("{\"prompt\":\"a\"}", &stored, &err));
    assert_int_equal(err.status, MAL_CORRUPT);
    assert_non_null(strstr(err.text, "/target is missing"));
}

/* What a job keeps of a retraction reads as a request. */
static void test_retraction_values(void **state) {
    static const char body[] =
        "{\"facts\":[\"x:1\",\"fact_2\"],\"mode\":\"drop\",\"reason\":\"r\"}";
    struct mal_retraction_request request = {0}, kept = {0};
    struct mal_error err = {0};
    assert_true(mal_decode_retraction(body, strlen(body), MAX_FACTS, &request, &err));
    assert_int_equal(request.n_facts, 2);
    assert_string_equal(request.facts[1], "fact_2");
    assert_null(request.job);
    assert_true(request.drop);
    assert_string_equal(request.reason, "r");
    char *text = mal_encode_retraction((const char *const *)request.facts, 2, true);
    assert_string_equal(text, "{\"facts\":[\"x:1\",\"fact_2\"],\"mode\":\"drop\"}");
    assert_true(mal_decode_retraction(text, strlen(text), SIZE_MAX, &kept, &err));
    assert_int_equal(kept.n_facts, 2);
    assert_true(kept.drop);
    assert_true(mal_retraction_drops(text));
    mal_free(text);
    text = mal_encode_retraction((const char *const *)request.facts, 2, false);
    assert_false(mal_retraction_drops(text));
    mal_free(text);
    mal_retraction_request_finish(&kept);
    mal_retraction_request_finish(&request);

    static const char job[] = "{\"job\":\"job_1\"}";
    assert_true(mal_decode_retraction(job, strlen(job), MAX_FACTS, &request, &err));
    assert_string_equal(request.job, "job_1");
    assert_int_equal(request.n_facts, 0);
    assert_false(request.drop);
    mal_retraction_request_finish(&request);
}

static void test_completion_values(void **state) {
    struct mal_completion_request request = {0};
    struct mal_error err = {0};
    assert_true(mal_decode_completion("{\"prompt\":\"a\"}", 14, &request, &err));
    assert_string_equal(request.model, "live");
    assert_int_equal(request.n_prompts, 1);
    assert_int_equal(request.max_tokens, 16);
    assert_true(request.temperature == 0 && request.top_p == 1);
    assert_false(request.has_seed || request.echo || request.stream);
    assert_false(request.include_usage);
    assert_int_equal(request.n_stop, 0);
    mal_completion_request_finish(&request);

    static const char body[] =
        "{\"model\":\"v7\",\"prompt\":[\"a\",\"\"],\"max_tokens\":3,"
        "\"temperature\":1,\"top_p\":0.5,\"seed\":-9,\"stop\":\"\\n\","
        "\"echo\":true,\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true}}";
    assert_true(mal_decode_completion(body, strlen(body), &request, &err));
    assert_string_equal(request.model, "v7");
    assert_int_equal(request.n_prompts, 2);
    assert_int_equal(request.max_tokens, 3);
    assert_true(request.temperature == 1 && request.top_p == 0.5);
    assert_true(request.has_seed && request.seed == -9);
    assert_true(request.echo && request.stream && request.include_usage);
    assert_int_equal(request.n_stop, 1);
    assert_string_equal(request.stop[0], "\n");
    mal_completion_request_finish(&request);
}

static void test_models(void **state) {
    static const struct {
        const char *name;
        int64_t version; /* -2: none */
    } names[] = {
        {"live", -1},
        {"base", 0},
        {"v0", 0},
        {"v12", 12},
        {"v999999999999999999", 999999999999999999},
        {"", -2},
        {"v", -2},
        {"v-1", -2},
        {"v1 ", -2},
        {"v9999999999999999999", -2},
        {"V1", -2},
        {"1", -2},
        {"v01", -2},
        {"live ", -2},
        {"gpt2", -2},
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int64_t version = -2;
        bool ok = mal_parse_model(names[i].name, &version);
        assert_int_equal(ok, names[i].version != -2);
        assert_int_equal(version, names[i].version);
    }
}

/* ---- Answers ---- */

static json_t *problem_of(const struct mal_error *err, int status) {
    char *text = mal_encode_problem(err, status);
    assert_non_null(text);
    json_t *problem = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(problem);
    mal_free(text);
    return problem;
}

static const char *text_at(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static void test_problems(void **state) {
    struct mal_error err = {0};
    mal_fail_at(&err, MAL_INVALID, "/facts/3/target", "is \"empty\"");
    json_t *problem = problem_of(&err, 422);
    assert_string_equal(text_at(problem, "type"), "urn:malmend:problem:invalid");
    assert_string_equal(text_at(problem, "title"), "invalid content");
    assert_int_equal(json_integer_value(json_object_get(problem, "status")), 422);
    assert_string_equal(text_at(problem, "detail"), "is \"empty\"");
    const json_t *at = json_array_get(json_object_get(problem, "errors"), 0);
    assert_string_equal(text_at(at, "pointer"), "/facts/3/target");
    assert_string_equal(text_at(at, "detail"), "is \"empty\"");
    json_decref(problem);

    err = (struct mal_error){0};
    mal_fail_at(&err, MAL_NO_MEMORY, "/facts/3/target", "x");
    problem = problem_of(&err, 503);
    assert_string_equal(text_at(problem, "type"), "urn:malmend:problem:no-memory");
    assert_null(json_object_get(problem, "errors"));
    json_decref(problem);

    /* A status that HTTP has and we do not. */
    problem =
        problem_of(&(struct mal_error){.status = MAL_MALFORMED, .text = "no PUT"}, 405);
    assert_string_equal(text_at(problem, "type"), "about:blank");
    assert_string_equal(text_at(problem, "title"), "Method Not Allowed");
    json_decref(problem);

    /* A text cut in the middle of a character still is JSON. */
    problem = problem_of(&(struct mal_error){.status = MAL_IO, .text = "caf\xc3"}, 500);
    assert_string_equal(text_at(problem, "detail"), "caf\xef\xbf\xbd");
    json_decref(problem);
}

static void test_times(void **state) {
    static const struct {
        int64_t ms;
        const char *text;
    } times[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {1, "1970-01-01T00:00:00.001Z"},
        {-1, "1969-12-31T23:59:59.999Z"},
        {951826859999, "2000-02-29T12:20:59.999Z"},
        {1767323045678, "2026-01-02T03:04:05.678Z"},
        {INT64_MAX, "9999-12-31T23:59:59.999Z"},
    };

    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        char text[32];
        mal_format_time(times[i].ms, text);
        assert_string_equal(text, times[i].text);
    }
}

static void test_description(void **state) {
    json_t *document = json_loads(mal_openapi_json, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(document);
    assert_string_equal(text_at(document, "openapi"), "3.1.0");
    const json_t *paths = json_object_get(document, "paths");
    assert_non_null(json_object_get(json_object_get(paths, "/v1/edits"), "post"));
    json_decref(document);
}

/* ---- Memory ---- */

static const struct {
    enum kind kind;
    const char *body;
} bodies[] = {
    {EDITS, "{\"note\":\"n\",\"gate\":{\"min_es\":1},\"facts\":[" FACT ",{\"id\":\"x\","
            "\"prompt\":\"p\",\"target\":\"t\",\"prompts\":[\"q\"],\"unrelated\":["
            "{\"prompt\":\"u\",\"target\":\"v\"}]}]}"},
    {EDIT_LINES, FACT "\n" FACT},
    {ROLLBACK, "{\"to_version\":1,\"reason\":\"r\"}"},
    {RETRACTION, "{\"facts\":[\"a\",\"b\"],\"mode\":\"drop\",\"reason\":\"r\"}"},
    {RETRACTION, "{\"job\":\"a\"}"},
    {CONSOLIDATION, "{\"reason\":\"r\"}"},
    {COMPLETION, "{\"prompt\":[\"a\",\"b\"],\"stop\":[\"c\"],\"model\":\"base\"}"},
    {SCORES, "{\"items\":[{\"prompt\":\"a\",\"target\":\"b\"}]}"},
};

/* Lets each allocation fail once, the first, the second, and so on, until none is left.
 */
static void exhaust(size_t i, bool ours_only) {
    bool ok = false;
    long n = 0;
    while (!ok && n < 1000) {
        struct mal_error err = {0};
        mal_alloc_fail_at(++n);
        ok = decode(bodies[i].kind, bodies[i].body, strlen(bodies[i].body), &err);
        mal_alloc_fail_at(0);
        if (ok || !ours_only || err.status == MAL_NO_MEMORY) continue;
        fail_msg("allocation %ld of %s: %s", n, bodies[i].body, err.text);
    }
    assert_true(ok);
    assert_true(n > 1);
}

/* jansson calls some of its failed allocations syntax errors, so of those only the clean
 * end counts. */
static void test_out_of_memory(void **state) {
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        exhaust(i, true);
    json_set_alloc_funcs(mal_malloc, mal_free);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        exhaust(i, false);

    struct mal_error err = {.status = MAL_INVALID, .text = "a\xff", .pointer = "/a"};
    char *text = NULL;
    for (long n = 1; !text && n < 100; n++) {
        mal_alloc_fail_at(n);
        text = mal_encode_problem(&err, 422);
        mal_alloc_fail_at(0);
    }
    assert_non_null(text);
    mal_free(text);
    json_set_alloc_funcs(malloc, free);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_too_many_items),
        cmocka_unit_test(test_long_member),
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_edit_values),
        cmocka_unit_test(test_retraction_values),
        cmocka_unit_test(test_completion_values),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_problems),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_description),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
