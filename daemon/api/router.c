/* router.c - method and path to handler. */
#include "daemon/api/router.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "daemon/api/handlers.h"
#include "daemon/http/auth.h"
#include "daemon/http/http.h"

const struct mal_route mal_routes[] = {
    {"POST", "/v1/edits", mal_post_edits, MAL_ROLE_EDIT, MAL_BODY_JSON_OR_LINES, false,
     mal_begin_edits},
    {"POST", "/v1/rollbacks", mal_post_rollbacks, MAL_ROLE_EDIT, MAL_BODY_JSON, false},
    {"POST", "/v1/retractions", mal_post_retractions, MAL_ROLE_EDIT, MAL_BODY_JSON,
     false},
    {"POST", "/v1/consolidations", mal_post_consolidations, MAL_ROLE_EDIT,
     MAL_BODY_JSON_OR_NONE, false},
    {"POST", "/v1/evaluations", mal_post_evaluations, MAL_ROLE_INFER, MAL_BODY_JSON,
     false},
    {"GET", "/v1/jobs", mal_list_jobs, MAL_ROLE_READ, MAL_BODY_NONE, false,
     .query = "kind, state, limit, after"},
    {"GET", "/v1/jobs/{id}", mal_get_job, MAL_ROLE_READ, MAL_BODY_NONE, false,
     .query = "wait"},
    {"POST", "/v1/jobs/{id}/cancel", mal_cancel_job, MAL_ROLE_EDIT, MAL_BODY_NONE, false},
    {"GET", "/v1/facts", mal_list_facts, MAL_ROLE_READ, MAL_BODY_NONE, false,
     .query = "state, version, prompt, job, search, order, limit, after"},
    {"GET", "/v1/facts/{id}", mal_get_fact, MAL_ROLE_READ, MAL_BODY_NONE, false},
    {"DELETE", "/v1/facts/{id}", mal_delete_fact, MAL_ROLE_EDIT, MAL_BODY_NONE, false,
     .query = "mode, reason"},
    {"GET", "/v1/versions", mal_list_versions, MAL_ROLE_READ, MAL_BODY_NONE, false,
     .query = "limit, after"},
    {"GET", "/v1/versions/{n}", mal_get_version, MAL_ROLE_READ, MAL_BODY_NONE, false},
    {"GET", "/v1/versions/{a}/diff/{b}", mal_get_version_diff, MAL_ROLE_READ,
     MAL_BODY_NONE, false},
    {"GET", "/v1/versions/{n}/facts", mal_get_version_facts, MAL_ROLE_READ, MAL_BODY_NONE,
     false, .query = "limit, after"},
    {"GET", "/v1/versions/{n}/delta", mal_get_version_delta, MAL_ROLE_READ, MAL_BODY_NONE,
     false, .answers = "application/octet-stream, application/x-tar", .query = "format"},
    {"POST", "/v1/completions", mal_post_completions, MAL_ROLE_INFER, MAL_BODY_JSON,
     false, .answers = "application/json, text/event-stream"},
    {"POST", "/v1/scores", mal_post_scores, MAL_ROLE_INFER, MAL_BODY_JSON, false},
    {"GET", "/v1/audit", mal_list_audit, MAL_ROLE_ADMIN, MAL_BODY_NONE, false,
     .query = "who, action, job, limit, after"},
    {"GET", "/v1/models", mal_list_models, MAL_ROLE_READ, MAL_BODY_NONE, false,
     .query = "limit, after"},
    {"GET", "/v1/models/{id}", mal_get_model, MAL_ROLE_READ, MAL_BODY_NONE, false},
    {"GET", "/v1/events", mal_get_events, MAL_ROLE_READ, MAL_BODY_NONE, true,
     .answers = "text/event-stream", .query = "kind, last_event_id"},
    {"GET", "/v1/status", mal_get_status, MAL_ROLE_READ, MAL_BODY_NONE, true},
    {"GET", "/metrics", mal_get_metrics, MAL_ROLE_READ, MAL_BODY_NONE, true,
     .answers = "text/plain", .query = "*"},
    {"GET", "/livez", mal_get_livez, MAL_ROLE_NONE, MAL_BODY_NONE, true, .answers = "",
     .query = "*"},
    {"GET", "/readyz", mal_get_readyz, MAL_ROLE_NONE, MAL_BODY_NONE, true, .answers = "",
     .query = "*"},
    {"GET", "/", mal_get_dashboard, MAL_ROLE_READ, MAL_BODY_NONE, true,
     .answers = "text/html", .query = "*"},
    {"GET", "/openapi.json", mal_get_openapi, MAL_ROLE_NONE, MAL_BODY_NONE, true,
     .answers = "", .query = "*"},
    {NULL, NULL, NULL, MAL_ROLE_NONE, MAL_BODY_NONE, false},
};

/* A parameter is one segment that is not empty. */
static bool matches(const char *pattern, const char *path, const char **starts,
                    size_t *lengths) {
    int n = 0;
    while (*pattern && *path) {
        if (*pattern == '{') {
            size_t length = strcspn(path, "/");
            if (!length) return false;
            starts[n] = path;
            lengths[n++] = length;
            path += length;
            pattern += strcspn(pattern, "}") + 1;
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return !*pattern && !*path;
}

/* The handler gets its parameters as texts of their own. */
static void bind_params(struct mal_request *req, const char **starts,
                        const size_t *lengths) {
    for (int i = 0; i < MAL_MAX_PARAMS; i++) {
        if (!starts[i]) continue;
        char *start = req->segments + (starts[i] - req->path);
        start[lengths[i]] = 0;
        req->param[i] = start;
    }
}

static bool announces_body(const struct mal_request *req) {
    const char *length = mal_request_header(req, "Content-Length");
    return mal_request_header(req, "Transfer-Encoding") ||
           (length && length[strspn(length, "0")]);
}

static bool comes_without_body(const struct mal_request *req, enum mal_body body) {
    if (body != MAL_BODY_JSON_OR_NONE) return body == MAL_BODY_NONE;
    return !*req->content_type && !announces_body(req);
}

static bool check_type(struct mal_request *req, enum mal_body body) {
    if (comes_without_body(req, body)) return true;
    if (!strcmp(req->content_type, "application/json")) return true;
    bool lines = body == MAL_BODY_JSON_OR_LINES;
    if (lines && !strcmp(req->content_type, "application/x-ndjson")) return true;
    mal_http_refuse(req, 415, "the Content-Type must be application/json%s, not '%.64s'",
                    lines ? " or application/x-ndjson" : "", req->content_type);
    return false;
}

static bool check_coding(struct mal_request *req, enum mal_body body) {
    const char *coding = mal_request_header(req, "Content-Encoding");
    if (body == MAL_BODY_NONE || !coding || !strcasecmp(coding, "identity")) return true;
    mal_http_refuse(
        req, 415, "the body must be as it is, without Content-Encoding '%.64s'", coding);
    return false;
}

static bool check_accept(struct mal_request *req, const char *answers) {
    if (!answers) answers = "application/json";
    if (!*answers || mal_request_accepts(req, answers)) return true;
    mal_http_refuse(req, 406, "the answer is %s, which Accept does not take", answers);
    return false;
}

/* A filter that is misspelt would let everything through. */
static bool check_query(struct mal_request *req, const char *known) {
    const char *odd =
        !known || strcmp(known, "*") ? mal_request_query_odd(req, known) : NULL;
    struct mal_error err = {0};
    if (!odd) return true;
    (void)mal_fail(
        &err, MAL_INVALID,
        known ? "query parameter '%.64s': known are %s, each once and with a value"
              : "query parameter '%.64s': there are none here",
        odd, known);
    mal_http_fail(req, &err);
    return false;
}

static bool check_ready(struct mal_daemon *d, struct mal_request *req,
                        const struct mal_route *route) {
    enum mal_daemon_state state = mal_status_state(d->status);
    if (route->when_loading || (d->engine && !d->stopping)) return true;
    mal_http_refuse(req, 503, "the daemon is %s", mal_daemon_state_name(state));
    return false;
}

/* What a path knows, and what of it is asked for. */
struct found {
    const struct mal_route *route; /* NULL: the path does not know this method */
    const char *starts[MAL_MAX_PARAMS];
    size_t lengths[MAL_MAX_PARAMS];
    char allow[64]; /* "": there is no such path */
};

static void find(const struct mal_request *req, struct found *out) {
    *out = (struct found){0};
    for (const struct mal_route *route = mal_routes; route->method; route++) {
        const char *starts[MAL_MAX_PARAMS] = {NULL};
        size_t lengths[MAL_MAX_PARAMS] = {0};
        bool all = !strcmp(req->path, "*");
        if (!all && !matches(route->pattern, req->path, starts, lengths)) continue;
        if (!strstr(out->allow, route->method)) {
            strcat(out->allow, route->method);
            strcat(out->allow, strcmp(route->method, "GET") ? ", " : ", HEAD, ");
        }
        if (all || strcmp(route->method, req->method)) continue;
        out->route = route;
        memcpy(out->starts, starts, sizeof starts);
        memcpy(out->lengths, lengths, sizeof lengths);
    }
    if (*out->allow) strcat(out->allow, "OPTIONS");
}

static void answer_without_route(struct mal_request *req, const struct found *found) {
    if (!*found->allow) {
        mal_http_refuse(req, 404, "there is nothing at %.128s", req->path);
        return;
    }
    mal_request_set(req, "Allow", found->allow);
    if (!strcmp(req->method, "OPTIONS")) {
        mal_request_answer(req, 204, NULL, NULL, 0);
    } else {
        mal_http_refuse(req, 405, "%.16s is not a method of %.128s", req->method,
                        req->path);
    }
}

/* Strangers do not learn which paths there are. */
void mal_router_begin(struct mal_daemon *d, struct mal_request *req) {
    struct found found;
    find(req, &found);
    const struct mal_route *route = found.route;
    req->route = route;
    if (!mal_auth_check(d->auth, req, route ? route->role : MAL_ROLE_READ)) return;
    if (!route) {
        answer_without_route(req, &found);
        return;
    }
    if (!check_ready(d, req, route) || !check_type(req, route->body) ||
        !check_coding(req, route->body) || !check_accept(req, route->answers) ||
        !check_query(req, route->query)) {
        return;
    }
    req->bodiless = comes_without_body(req, route->body);
    bind_params(req, found.starts, found.lengths);
    if (route->begin) route->begin(d, req);
}

void mal_router_handle(struct mal_daemon *d, struct mal_request *req) {
    const struct mal_route *route = req->route;
    if (mal_auth_holds(d->auth, req)) route->handle(d, req);
}
