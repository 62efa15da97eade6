/* http_facts.c - GET /v1/facts, /v1/facts/{id}, /v1/versions/{n}/facts. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "daemon/api/daemon.h"
#include "daemon/api/handlers.h"
#include "daemon/api/http_version.h"
#include "daemon/api/render.h"
#include "daemon/http/http.h"

enum { MAX_SEARCHES = 4 };

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

/* ---- Lists ---- */

struct listing {
    struct mal_daemon *daemon;
    struct mal_request *req;
    struct mal_fact_query query; /* borrows from the request */
    char *answer; /* made where its parts are: whether memory lacked is its thread's */
    struct mal_error err;
};

static void list(struct listing *l, struct mal_store *store) {
    struct mal_fact_row *rows = NULL;
    size_t n = 0;
    bool has_more = false;
    if (!mal_store_list_facts(store, &l->query, &rows, &n, &has_more, &l->err)) return;
    json_t *data = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(data, mal_render_fact(&rows[i]));
    mal_fact_rows_free(rows, n);
    l->answer = mal_json_text(mal_page_json(data, "id", has_more));
}

static void answer(struct listing *l) {
    if (l->err.status == MAL_OK) {
        mal_http_text(l->req, 200, l->answer);
        return;
    }
    struct mal_page page = {.after = l->query.after};
    mal_page_blame(&page, &l->err);
    mal_http_fail(l->req, &l->err);
}

static void work(void *arg) {
    struct listing *l = arg;
    struct mal_store *store = NULL;
    if (!mal_store_open_reader(&store, l->daemon->db, &l->err)) return;
    list(l, store);
    mal_store_close(store);
}

static void finish(void *arg) {
    struct listing *l = arg;
    l->daemon->n_searches--;
    answer(l);
    mal_free(l);
}

/* What may have to look at every fact does so on a work thread, with a handle of its own;
 * few at a time. */
static void search(const struct listing *asked) {
    struct mal_daemon *d = asked->daemon;
    struct mal_error err = {0};
    struct listing *l = mal_calloc(1, sizeof *l);
    if (!l) {
        mal_http_no_memory(asked->req);
        return;
    }
    *l = *asked;
    if (d->n_searches == MAX_SEARCHES) {
        mal_fail(&err, MAL_BUSY, "%d searches are running already", MAX_SEARCHES);
    } else if (mal_loop_work(d->loop, work, finish, l, &err)) {
        d->n_searches++;
        return;
    }
    mal_http_fail(l->req, &err);
    mal_free(l);
}

static void answer_facts(struct mal_daemon *d, struct mal_request *req,
                         const struct mal_fact_query *query) {
    struct listing l = {.daemon = d, .req = req, .query = *query};
    struct mal_page page = {0};
    if (!mal_query_page(req, &page, &l.err)) {
        mal_http_fail(req, &l.err);
        return;
    }
    l.query.limit = page.limit;
    l.query.after = page.after;
    if (l.query.version >= 0 || l.query.text) {
        search(&l);
        return;
    }
    list(&l, d->reader);
    answer(&l);
}

static bool query_order(const struct mal_request *req, bool *newest_first,
                        struct mal_error *err) {
    const char *order = mal_request_query(req, "order");
    *newest_first = order && !strcmp(order, "desc");
    if (!order || *newest_first || !strcmp(order, "asc")) return true;
    return mal_fail(err, MAL_INVALID,
                    "query parameter 'order': expected asc or desc, not '%.64s'", order);
}

static bool query_text(const struct mal_request *req, const char **out,
                       struct mal_error *err) {
    *out = mal_request_query(req, "search");
    return !*out || **out ||
           mal_fail(err, MAL_INVALID, "query parameter 'search' is empty");
}

static bool query_job(struct mal_daemon *d, const struct mal_request *req,
                      const char **out, struct mal_error *err) {
    struct mal_job_row row = {0};
    *out = mal_request_query(req, "job");
    bool ok = !*out || mal_store_get_job(d->reader, *out, &row, err);
    mal_job_row_finish(&row);
    if (ok || err->status != MAL_NOT_FOUND) return ok;
    err->status = MAL_INVALID;
    return mal_fail_wrap(err, "query parameter 'job'");
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
    if (!query_job(d, req, &query->job, err) || !query_text(req, &query->text, err) ||
        !query_order(req, &query->newest_first, err)) {
        return false;
    }
    if (!mal_query_int(req, "version", 0, INT64_MAX, &query->version, err)) return false;
    if (query->version > mal_status_live(d->status)) {
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
