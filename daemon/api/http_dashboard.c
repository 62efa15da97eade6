/* http_dashboard.c - GET /. */
#include <string.h>

#include "core/alloc.h"
#include "daemon/api/dashboard.h"
#include "daemon/api/handlers.h"
#include "daemon/http/http.h"

void mal_get_dashboard(struct mal_daemon *d, struct mal_request *req) {
    const struct mal_dashboard *it = &mal_dashboard;
    mal_request_set(req, "Content-Security-Policy", it->policy);
    mal_request_set(req, "X-Content-Type-Options", "nosniff");
    mal_request_set(req, "Referrer-Policy", "no-referrer");
    /* Asked for each time: after an update no old page meets a new daemon. */
    mal_request_set(req, "Cache-Control", "no-cache");
    mal_request_set(req, "ETag", it->etag);
    char *body = mal_malloc(it->bytes);
    if (body) memcpy(body, it->page, it->bytes);
    int status = mal_http_is_known(req, it->etag) ? 304 : 200;
    mal_request_answer(req, status, "text/html; charset=utf-8", body, it->bytes);
}
