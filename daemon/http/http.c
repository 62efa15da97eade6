/* http.c - answers and parameters. */
#include "daemon/http/http.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "proto/wire.h"

enum { DEFAULT_LIMIT = 20, MAX_LIMIT = 100 };

static void answer_problem(struct mal_request *req, const struct mal_error *err,
                           int status) {
    if (status == 429 || status == 503) mal_request_set(req, "Retry-After", "1");
    char *body = mal_encode_problem(err, status);
    mal_request_answer(req, status, "application/problem+json", body,
                       body ? strlen(body) : 0);
}

void mal_http_fail(struct mal_request *req, const struct mal_error *err) {
    answer_problem(req, err, mal_status_http(err->status));
}

void mal_http_refuse(struct mal_request *req, int status, const char *format, ...) {
    struct mal_error err = {.status = status >= 500 ? MAL_NOT_READY : MAL_MALFORMED};
    va_list args;
    va_start(args, format);
    vsnprintf(err.text, sizeof err.text, format, args);
    va_end(args);
    answer_problem(req, &err, status);
}

void mal_http_no_memory(struct mal_request *req) {
    struct mal_error err = {.status = MAL_NO_MEMORY, .text = "out of memory"};
    mal_http_fail(req, &err);
}

char *mal_json_text(json_t *root) {
    char *text = mal_json_dump(root, MAL_JSON_TOLD);
    json_decref(root);
    return text;
}

void mal_http_text(struct mal_request *req, int status, char *json) {
    if (!json) {
        mal_http_no_memory(req);
        return;
    }
    mal_request_answer(req, status, "application/json", json, strlen(json));
}

void mal_http_json(struct mal_request *req, int status, json_t *root) {
    mal_http_text(req, status, mal_json_text(root));
}

/* Neither a cache nor a proxy is to hold it back. */
void mal_http_event_stream(struct mal_request *req, const struct mal_stream *stream) {
    mal_request_set(req, "Cache-Control", "no-store");
    mal_request_set(req, "X-Accel-Buffering", "no");
    mal_request_stream(req, 200, "text/event-stream", stream);
}

bool mal_http_is_known(const struct mal_request *req, const char *etag) {
    const char *known = mal_request_header(req, "If-None-Match");
    const char *tag = strchr(etag, '"'); /* without its weak mark */
    return known && (!strcmp(known, "*") || strstr(known, tag));
}

/* `what` says where the text was. A number that int64_t cannot hold counts as the largest
 * or smallest that it can. */
static bool read_int(const char *text, const char *what, const char *name, int64_t min,
                     int64_t max, int64_t *out, struct mal_error *err) {
    if (!text) return true;
    char *end;
    long long value = strtoll(text, &end, 10);
    if (!*text || *end || !strchr("-0123456789", *text)) {
        return mal_fail(err, MAL_MALFORMED, "%s '%s': '%.64s' is no whole number", what,
                        name, text);
    }
    if (value < min || value > max) {
        return mal_fail(err, MAL_INVALID, "%s '%s': %.32s is not in %lld..%lld", what,
                        name, text, (long long)min, (long long)max);
    }
    *out = value;
    return true;
}

bool mal_query_int(const struct mal_request *req, const char *name, int64_t min,
                   int64_t max, int64_t *out, struct mal_error *err) {
    return read_int(mal_request_query(req, name), "query parameter", name, min, max, out,
                    err);
}

bool mal_header_int(const struct mal_request *req, const char *name, int64_t min,
                    int64_t max, int64_t *out, struct mal_error *err) {
    return read_int(mal_request_header(req, name), "header", name, min, max, out, err);
}

bool mal_query_page(const struct mal_request *req, struct mal_page *out,
                    struct mal_error *err) {
    int64_t limit = DEFAULT_LIMIT;
    if (!mal_query_int(req, "limit", 1, MAX_LIMIT, &limit, err)) return false;
    out->limit = (size_t)limit;
    out->after = mal_request_query(req, "after");
    if (out->after && !*out->after) {
        return mal_fail(err, MAL_INVALID, "query parameter 'after' is empty");
    }
    return true;
}

void mal_page_blame(const struct mal_page *page, struct mal_error *err) {
    if (err->status != MAL_NOT_FOUND || !page->after) return;
    *err = (struct mal_error){0};
    mal_fail(err, MAL_INVALID, "query parameter 'after': there is no '%.64s'",
             page->after);
}

static json_t *end_id(const json_t *data, const char *key, size_t i) {
    json_t *id = json_object_get(json_array_get(data, i), key);
    return id ? json_incref(id) : json_null();
}

json_t *mal_page_json(json_t *data, const char *key, bool has_more) {
    size_t n = json_array_size(data);
    return json_pack("{s:s,s:o,s:o,s:o,s:b}", "object", "list", "data", data, "first_id",
                     end_id(data, key, 0), "last_id", end_id(data, key, n ? n - 1 : 0),
                     "has_more", has_more);
}
