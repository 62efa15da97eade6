/* fuzz_wire.c - hostile request bodies. The first byte chooses the call, the rest is the
 * body.
 *
 * What is accepted must come back from storage as it went in; what is refused must say
 * why, in valid JSON. */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void must(bool ok) {
    if (!ok) abort();
}

static void check_refusal(const struct mal_error *err) {
    must(err->status == MAL_MALFORMED || err->status == MAL_INVALID ||
         err->status == MAL_TOO_LARGE);
    must(err->text[0] && (!err->pointer[0] || err->pointer[0] == '/'));
    char *problem = mal_encode_problem(err, mal_status_http(err->status));
    must(problem != NULL);
    json_t *root = json_loads(problem, JSON_REJECT_DUPLICATES, NULL);
    must(root != NULL);
    json_decref(root);
    mal_free(problem);
}

static void check_stored(const char *json) {
    struct mal_fact fact = {0};
    struct mal_error err = {0};
    must(mal_decode_fact(json, &fact, &err));
    char *again = mal_encode_fact(&fact);
    must(again && strcmp(again, json) == 0);
    mal_free(again);
    mal_fact_finish(&fact);
}

static void check_edits(const struct mal_edits_request *request) {
    must(request->n_facts >= 1);
    for (size_t i = 0; i < request->n_facts; i++)
        check_stored(request->facts_json[i]);
}

static bool take_line(void *arg, const struct mal_fact *fact, const char *json,
                      size_t index, struct mal_error *err) {
    must(index == (*(size_t *)arg)++);
    check_stored(json);
    return true;
}

/* In two pieces, the first of `first` bytes. */
static bool decode_lines(const char *body, size_t bytes, size_t first,
                         struct mal_error *err) {
    size_t n = 0;
    struct mal_fact_lines *lines = NULL;
    struct mal_fact_lines_options options = {
        .max_facts = 64, .max_line = 4096, .take = take_line, .arg = &n};
    must(mal_fact_lines_create(&lines, &options, err));
    if (first > bytes) first = bytes;
    bool ok = mal_fact_lines_add(lines, body, first, err) &&
              mal_fact_lines_add(lines, body + first, bytes - first, err) &&
              mal_fact_lines_end(lines, err);
    must(!ok || (n >= 1 && mal_fact_lines_count(lines) == n));
    mal_fact_lines_destroy(lines);
    return ok;
}

static void check_retraction(const struct mal_retraction_request *request) {
    must((request->n_facts > 0) != (request->job != NULL));
    if (request->job) return;
    struct mal_retraction_request again = {0};
    struct mal_error err = {0};
    char *text = mal_encode_retraction((const char *const *)request->facts,
                                       request->n_facts, request->drop);
    must(text && mal_decode_retraction(text, strlen(text), 64, &again, &err));
    must(again.n_facts == request->n_facts && again.drop == request->drop);
    mal_free(text);
    mal_retraction_request_finish(&again);
}

static void check_evaluation(const struct mal_evaluation_request *request) {
    must((request->n_facts > 0) != (request->suite != NULL) && request->version >= -1);
    char *text = mal_encode_facts(request->facts, request->n_facts);
    must(text != NULL);
    const char *at = text;
    struct mal_error err = {0};
    bool end = false;
    for (size_t i = 0; i < request->n_facts; i++) {
        struct mal_fact fact = {0};
        must(mal_decode_next_fact(&at, &fact, &end, &err) && !end);
        char *kept = mal_encode_fact(&fact), *given = mal_encode_fact(&request->facts[i]);
        must(kept && given && strcmp(kept, given) == 0);
        mal_free(kept);
        mal_free(given);
        mal_fact_finish(&fact);
    }
    struct mal_fact none = {0};
    must(mal_decode_next_fact(&at, &none, &end, &err) && end);
    mal_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct mal_edits_request edits = {0};
    struct mal_rollback_request rollback = {0};
    struct mal_completion_request completion = {0};
    struct mal_scores_request scores = {0};
    struct mal_retraction_request retraction = {0};
    struct mal_evaluation_request evaluation = {0};
    char *reason = NULL;
    struct mal_error err = {0};
    if (bytes < 1) return 0;
    const char *body = (const char *)data + 1;
    size_t n = bytes - 1;
    bool ok = false;
    switch (data[0] % 8) {
    case 0: ok = mal_decode_edits(body, n, 64, &edits, &err); break;
    case 1: ok = decode_lines(body, n, (data[0] / 8) * 8, &err); break;
    case 2: ok = mal_decode_rollback(body, n, &rollback, &err); break;
    case 3: ok = mal_decode_completion(body, n, &completion, &err); break;
    case 4: ok = mal_decode_retraction(body, n, 64, &retraction, &err); break;
    case 5: ok = mal_decode_consolidation(body, n, &reason, &err); break;
    case 6: ok = mal_decode_evaluation(body, n, 64, &evaluation, &err); break;
    default: ok = mal_decode_scores(body, n, &scores, &err); break;
    }
    if (!ok) check_refusal(&err);
    if (ok && data[0] % 8 == 0) check_edits(&edits);
    if (ok && data[0] % 8 == 4) check_retraction(&retraction);
    if (ok && data[0] % 8 == 6) check_evaluation(&evaluation);
    mal_edits_request_finish(&edits);
    mal_rollback_request_finish(&rollback);
    mal_retraction_request_finish(&retraction);
    mal_evaluation_request_finish(&evaluation);
    mal_free(reason);
    mal_completion_request_finish(&completion);
    mal_scores_request_finish(&scores);
    return 0;
}
