/* http_facts.c - GET /v1/facts, /v1/facts/{id}, /v1/versions/{n}/facts. */
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"
#include "daemon/handlers.h"
#include "daemon/http.h"
#include "daemon/http_version.h"
#include "daemon/render.h"

void mal_get_fact(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct mal_fact_row row = {0};
    if (!mal_store_get_fact(d->reader, req->param[0], &row, &err)) {
        mal_http_fail(req, &err);
        return;
    }
    json_t *fact = mal_render_fact(&row);
    mal_fact_row_finish(&row);
    mal_http_json(req, 200, fact);
}

static void answer_facts(struct mal_daemon *d, struct mal_request *req,
                         struct mal_fact_query *query) {
    struct mal_error err = {0};
    struct mal_page page = {0};
    struct mal_fact_row *rows = NULL;
    size_t n = 0;
    bool has_more = false;
    bool ok = mal_query_page(req, &page, &err);
    query->limit = page.limit;
    query->after = page.after;
    if (!ok || !mal_store_list_facts(d->reader, query, &rows, &n, &has_more, &err)) {
        mal_page_blame(&page, &err);
        mal_http_fail(req, &err);
        return;
    }
    json_t *data = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(data, mal_render_fact(&rows[i]));
    mal_fact_rows_free(rows, n);
    mal_http_json(req, 200, mal_page_json(data, "id", has_more));
}

static bool query_facts(struct mal_daemon *d, const struct mal_request *req,
                        struct mal_fact_query *query, struct mal_error *err) {
    const char *state = mal_request_query(req, "state");
    if (state) {
        query->state = mal_fact_state_from_name(state);
        if (query->state < 0) {
            return mal_fail(err, MAL_INVALID,
                            "query parameter 'state': there is no '%.64s'", state);
        }
    }
    query->prompt = mal_request_query(req, "prompt");
    query->job = mal_request_query(req, "job");
    if (!mal_query_int(req, "version", 0, INT64_MAX, &query->version, err)) return false;
    int64_t last;
    if (!mal_store_last_version(d->reader, &last, err)) return false;
    if (query->version > last) {
        return mal_fail(err, MAL_INVALID,
                        "query parameter 'version': there is no version %lld",
                        (long long)query->version);
    }
    return true;
}

void mal_list_facts(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct mal_fact_query query = {.state = -1, .version = -1};
    if (!query_facts(d, req, &query, &err)) {
        mal_http_fail(req, &err);
        return;
    }
    answer_facts(d, req, &query);
}

void mal_get_version_facts(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct mal_version_row row = {0};
    if (!mal_read_version(d, req->param[0], &row, &err)) {
        mal_http_fail(req, &err);
        return;
    }
    struct mal_fact_query query = {.state = -1, .version = row.version};
    mal_version_row_finish(&row);
    answer_facts(d, req, &query);
}
