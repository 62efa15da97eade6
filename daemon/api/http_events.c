/* http_events.c - GET /v1/events. */
#include <string.h>

#include "daemon/api/daemon.h"
#include "daemon/api/events.h"
#include "daemon/api/handlers.h"
#include "daemon/http/http.h"

static bool read_kind(const struct mal_request *req, const char **out,
                      struct mal_error *err) {
    static const char *const kinds[] = {"job", "version"};
    const char *text = mal_request_query(req, "kind");
    *out = NULL;
    for (size_t i = 0; text && i < sizeof kinds / sizeof *kinds; i++) {
        if (!strcmp(text, kinds[i])) *out = kinds[i];
    }
    return !text || *out ||
           mal_fail(err, MAL_INVALID,
                    "query parameter 'kind': '%.64s' is neither job nor version", text);
}

/* A client that comes back by itself sends the header, beside the address it was given
 * first: the header is newer. */
static bool read_query(const struct mal_request *req, struct mal_events_query *out,
                       struct mal_error *err) {
    *out = (struct mal_events_query){.after = -1};
    return read_kind(req, &out->kind, err) &&
           mal_query_int(req, "last_event_id", 0, INT64_MAX, &out->after, err) &&
           mal_header_int(req, "Last-Event-ID", 0, INT64_MAX, &out->after, err);
}

/* Also while the daemon loads: browsers do not come back after a 503. */
void mal_get_events(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct mal_events_query query;
    if (d->stopping) {
        mal_fail(&err, MAL_NOT_READY, "the daemon is stopping");
        mal_http_fail(req, &err);
        return;
    }
    if (!read_query(req, &query, &err) ||
        !mal_events_follow(d->events, req, &query, &err))
        mal_http_fail(req, &err);
}
