/* http_audit.c - GET /v1/audit: who asked for which changes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "daemon/api/daemon.h"
#include "daemon/api/handlers.h"
#include "daemon/http/http.h"
#include "proto/wire.h"

static json_t *render(const struct mal_audit_row *row) {
    char time[32];
    mal_format_time(row->created_ms, time);
    json_error_t problem;
    json_t *detail =
        mal_json_parse(row->detail_json, strlen(row->detail_json), 0, &problem);
    return json_pack("{s:s,s:I,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:o}", "object", "audit", "id",
                     (json_int_t)row->id, "created_at", time, "who", row->who, "role",
                     row->role, "origin", row->origin, "action", row->action,
                     "request_id", row->request_id, "job", row->job, "detail",
                     detail ? detail : json_null());
}

static bool read_query(const struct mal_request *req, struct mal_audit_query *out,
                       struct mal_error *err) {
    struct mal_page page = {0};
    if (!mal_query_page(req, &page, err)) return false;
    *out = (struct mal_audit_query){.who = mal_request_query(req, "who"),
                                    .action = mal_request_query(req, "action"),
                                    .job = mal_request_query(req, "job"),
                                    .before = INT64_MAX,
                                    .limit = page.limit};
    if (!page.after) return true;
    size_t n = strspn(page.after, "0123456789");
    if (n > 0 && n <= 18 && !page.after[n]) {
        out->before = strtoll(page.after, NULL, 10);
        return true;
    }
    return mal_fail(err, MAL_INVALID, "query parameter 'after': there is no row '%.64s'",
                    page.after);
}

void mal_list_audit(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct mal_audit_query query;
    struct mal_audit_row *rows = NULL;
    size_t n = 0;
    bool has_more = false;
    if (!read_query(req, &query, &err) ||
        !mal_store_list_audit(d->reader, &query, &rows, &n, &has_more, &err)) {
        mal_http_fail(req, &err);
        return;
    }
    json_t *data = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(data, render(&rows[i]));
    mal_audit_rows_free(rows, n);
    mal_http_json(req, 200, mal_page_json(data, "id", has_more));
}
