/* http_dashboard.c - GET / and what its page loads. */
#include <string.h>

#include "core/alloc.h"
#include "daemon/api/dashboard.h"
#include "daemon/api/handlers.h"
#include "daemon/http/http.h"

static void answer(struct mal_request *req, const struct mal_resource *file) {
    mal_request_set(req, "Content-Security-Policy",
                    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'");
    mal_request_set(req, "X-Content-Type-Options", "nosniff");
    mal_request_set(req, "Referrer-Policy", "no-referrer");
    /* Asked for each time: after an update no old script meets a new page. */
    mal_request_set(req, "Cache-Control", "no-cache");
    mal_request_set(req, "ETag", file->etag);
    char *body = mal_malloc(file->bytes);
    if (!body) {
        mal_http_no_memory(req);
        return;
    }
    memcpy(body, file->data, file->bytes);
    int status = mal_http_is_known(req, file->etag) ? 304 : 200;
    mal_request_answer(req, status, file->type, body, file->bytes);
}

void mal_get_dashboard(struct mal_daemon *d, struct mal_request *req) {
    answer(req, &mal_dashboard[0]);
}

void mal_get_dashboard_file(struct mal_daemon *d, struct mal_request *req) {
    for (const struct mal_resource *file = &mal_dashboard[1]; file->name; file++) {
        if (!strcmp(file->name, req->param[0])) {
            answer(req, file);
            return;
        }
    }
    mal_http_refuse(req, 404, "the dashboard has no file '%.64s'", req->param[0]);
}
