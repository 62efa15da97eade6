/* http_versions.c - GET /v1/versions, /v1/versions/{n}, /v1/models, /v1/models/{id}. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/api/daemon.h"
#include "daemon/api/handlers.h"
#include "daemon/api/http_version.h"
#include "daemon/api/render.h"
#include "daemon/http/http.h"
#include "proto/wire.h"

/* Digits only, without leading zeros: a version has one address. */
static bool parse_version(const char *text, int64_t *out) {
    size_t n = strspn(text, "0123456789");
    if (!n || text[n] || n > 18 || (n > 1 && text[0] == '0')) return false;
    *out = strtoll(text, NULL, 10);
    return true;
}

/* A version is durable a moment before it is live, and shown from then on: none is newer
 * than the live one. */
bool mal_read_version(struct mal_daemon *d, const char *text, struct mal_version_row *out,
                      struct mal_error *err) {
    int64_t version;
    if (!parse_version(text, &version)) {
        return mal_fail(err, MAL_NOT_FOUND, "there is no version '%.64s'", text);
    }
    if (version > mal_status_live(d->status)) {
        return mal_fail(err, MAL_NOT_FOUND, "there is no version %" PRId64, version);
    }
    return mal_store_get_version(d->reader, version, out, err);
}

static json_t *render(struct mal_daemon *d, const struct mal_version_row *row,
                      struct mal_error *err) {
    struct mal_version_more more = {.in_memory =
                                        mal_status_in_memory(d->status, row->version)};
    if (!mal_store_bytes(d->reader, row->version, &more.bytes, err)) return NULL;
    if (!mal_store_version_jobs(d->reader, row->version, &more.jobs, &more.n_jobs, err)) {
        return NULL;
    }
    json_t *version = mal_render_version(row, &more);
    mal_store_strings_free(more.jobs, more.n_jobs);
    if (!version) mal_fail(err, MAL_NO_MEMORY, "version %lld", (long long)row->version);
    return version;
}

void mal_get_version(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct mal_version_row row = {0};
    json_t *version = NULL;
    if (mal_read_version(d, req->param[0], &row, &err)) version = render(d, &row, &err);
    mal_version_row_finish(&row);
    if (version) {
        mal_http_json(req, 200, version);
    } else {
        mal_http_fail(req, &err);
    }
}

static bool read_page(struct mal_daemon *d, struct mal_request *req, json_t *data,
                      bool *has_more, struct mal_error *err) {
    struct mal_page page = {0};
    int64_t live = mal_status_live(d->status), after = live + 1;
    if (!mal_query_page(req, &page, err)) return false;
    if (page.after && (!parse_version(page.after, &after) || after > live)) {
        return mal_fail(err, MAL_INVALID,
                        "query parameter 'after': there is no version '%.64s'",
                        page.after);
    }
    struct mal_version_row *rows = NULL;
    size_t n = 0;
    if (!mal_store_list_versions(d->reader, after, page.limit, &rows, &n, has_more,
                                 err)) {
        return false;
    }
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        json_t *version = render(d, &rows[i], err);
        ok = version && !json_array_append_new(data, version);
    }
    mal_version_rows_free(rows, n);
    return ok || mal_fail(err, MAL_NO_MEMORY, "list of versions");
}

void mal_list_versions(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    json_t *data = json_array();
    bool has_more = false;
    if (read_page(d, req, data, &has_more, &err)) {
        mal_http_json(req, 200, mal_page_json(data, "version", has_more));
    } else {
        json_decref(data);
        mal_http_fail(req, &err);
    }
}

/* ---- Models ---- */

static json_t *render_model(const char *id, int64_t version, int64_t created_ms) {
    return json_pack("{s:s,s:s,s:I,s:s,s:I}", "id", id, "object", "model", "created",
                     (json_int_t)(created_ms / 1000), "owned_by", "malmend", "version",
                     (json_int_t)version);
}

struct models {
    struct mal_page page;
    bool begun; /* what `after` names is behind us */
    bool has_more;
    json_t *data;
};

static void add_model(struct models *m, const char *id, int64_t version,
                      int64_t created_ms) {
    if (!m->begun) {
        m->begun = !strcmp(id, m->page.after);
    } else if (json_array_size(m->data) < m->page.limit) {
        json_array_append_new(m->data, render_model(id, version, created_ms));
    } else {
        m->has_more = true;
    }
}

static bool add_models(struct mal_daemon *d, const struct mal_status_view *view,
                       struct models *m, struct mal_error *err) {
    m->begun = !m->page.after;
    for (size_t i = 0; i < view->n_versions; i++) {
        struct mal_version_row row = {0};
        int64_t version = view->versions[i];
        if (!mal_store_get_version(d->reader, version, &row, err)) return false;
        char id[32];
        snprintf(id, sizeof id, "v%" PRId64, version);
        if (version == 0) add_model(m, "base", 0, row.created_ms);
        if (version == view->live_version) add_model(m, "live", version, row.created_ms);
        add_model(m, id, version, row.created_ms);
        mal_version_row_finish(&row);
    }
    return m->begun ||
           mal_fail(err, MAL_INVALID,
                    "query parameter 'after': there is no model '%.64s'", m->page.after);
}

void mal_list_models(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct mal_status_view view = {0};
    struct models m = {.data = json_array()};
    bool ok = mal_query_page(req, &m.page, &err) &&
              mal_status_view(d->status, &view, &err) && add_models(d, &view, &m, &err);
    mal_status_view_finish(&view);
    if (ok) {
        mal_http_json(req, 200, mal_page_json(m.data, "id", m.has_more));
    } else {
        json_decref(m.data);
        mal_http_fail(req, &err);
    }
}

void mal_get_model(struct mal_daemon *d, struct mal_request *req) {
    const char *id = req->param[0];
    struct mal_error err = {0};
    struct mal_version_row row = {0};
    int64_t version;
    bool known = mal_parse_model(id, &version);
    if (known && version < 0) version = mal_status_live(d->status);
    if (!known || !mal_status_in_memory(d->status, version)) {
        mal_fail(&err, MAL_NOT_FOUND, "there is no model '%.64s' in memory", id);
    } else if (mal_store_get_version(d->reader, version, &row, &err)) {
        mal_http_json(req, 200, render_model(id, version, row.created_ms));
        mal_version_row_finish(&row);
        return;
    }
    mal_http_fail(req, &err);
}
