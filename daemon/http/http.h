/* http.h - what handlers share: problems, JSON answers, query parameters, pages. */
#ifndef MAL_HTTP_H
#define MAL_HTTP_H

#include <jansson.h>

#include "daemon/http/server.h"

/* Answers with the problem of `err`, at its own status. All problems that pass, 429 and
 * 503, have Retry-After. */
void mal_http_fail(struct mal_request *req, const struct mal_error *err);
void mal_http_no_memory(struct mal_request *req);
/* Answers with a problem of a status that has no mal_status of its own. */
void mal_http_refuse(struct mal_request *req, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Answers with a JSON value, taken over; NULL: out of memory. */
void mal_http_json(struct mal_request *req, int status, json_t *root);
/* The same from text, taken over. */
void mal_http_text(struct mal_request *req, int status, char *json);
/* Answers 200 with a stream of server-sent events. */
void mal_http_event_stream(struct mal_request *req, const struct mal_stream *stream);
/* JSON as owned text, NULL when memory is out. Takes over `root`. */
char *mal_json_text(json_t *root);

/* If-None-Match is "*" or a list with this tag; a weak mark does not matter for GET. */
bool mal_http_is_known(const struct mal_request *req, const char *etag);

/* Query parameters. Absent: *out is left alone. No number: MAL_MALFORMED; out of range:
 * MAL_INVALID; both name the parameter. */
bool mal_query_int(const struct mal_request *req, const char *name, int64_t min,
                   int64_t max, int64_t *out, struct mal_error *err) MAL_CHECK;
/* A header likewise. */
bool mal_header_int(const struct mal_request *req, const char *name, int64_t min,
                    int64_t max, int64_t *out, struct mal_error *err) MAL_CHECK;

struct mal_page {
    size_t limit;
    const char *after; /* borrowed; NULL: from the beginning */
};

bool mal_query_page(const struct mal_request *req, struct mal_page *out,
                    struct mal_error *err) MAL_CHECK;
/* The store's MAL_NOT_FOUND for `after` is a fault of the request's content. */
void mal_page_blame(const struct mal_page *page, struct mal_error *err);
/* {"object":"list","data":...}: takes over `data`; ids are the `key` of its first and
 * last. */
json_t *mal_page_json(json_t *data, const char *key, bool has_more);

#endif
