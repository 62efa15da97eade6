/* http_jobs.c - GET /v1/jobs, /v1/jobs/{id} with its long poll, POST
 * /v1/jobs/{id}/cancel. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/hash.h"
#include "daemon/api/audit.h"
#include "daemon/api/daemon.h"
#include "daemon/api/events.h"
#include "daemon/api/handlers.h"
#include "daemon/api/render.h"
#include "daemon/http/auth.h"
#include "daemon/http/http.h"

enum { MAX_WAIT_S = 30, ETAG_DIGITS = 32, ETAG_BYTES = ETAG_DIGITS + 5 };

struct mal_waiter {
    struct mal_waiter *next;
    struct mal_request *req;
    enum mal_job_state state; /* when it was asked */
    int64_t until_ms;
};

/* ---- One job ---- */

/* A version is durable a moment before it is live. Told as done is what is live: who sees
 * the job applied finds it in the status and in every answer. */
static void hold_back(struct mal_job_row *row, struct mal_daemon *d) {
    if (row->version <= mal_status_live(d->status)) return;
    row->state = MAL_JOB_RUNNING;
    row->version = -1;
    row->finished_ms = 0;
    mal_free(row->result_json);
    row->result_json = NULL;
}

/* A tag over all that is shown but for its progress, which would end every wait that
 * knows a tag. It is weak: bytes may differ under it. */
static bool tag_job(const struct mal_job_row *row, const char *text,
                    char etag[ETAG_BYTES]) {
    char hex[MAL_HASH_HEX], *still = NULL;
    if (row->state == MAL_JOB_RUNNING) {
        still = mal_render_job_text(row, NULL);
        if (!still) return false;
        text = still;
    }
    struct mal_hash hash = mal_hash_of(text, strlen(text));
    mal_hash_hex(&hash, hex);
    snprintf(etag, ETAG_BYTES, "W/\"%.*s\"", ETAG_DIGITS, hex);
    mal_free(still);
    return true;
}

static bool read_job(struct mal_daemon *d, const char *id, char **out,
                     char etag[ETAG_BYTES], enum mal_job_state *state,
                     struct mal_error *err) {
    struct mal_job_row row = {0};
    if (!mal_store_get_job(d->reader, id, &row, err)) return false;
    hold_back(&row, d);
    char *text = mal_render_job_text(&row, d->status);
    bool ok = text && tag_job(&row, text, etag);
    *state = row.state;
    mal_job_row_finish(&row);
    if (!ok) {
        mal_free(text);
        return mal_fail(err, MAL_NO_MEMORY, "job %s", id);
    }
    *out = text;
    return true;
}

static void answer_job(struct mal_request *req, char *text, const char *etag) {
    mal_request_set(req, "ETag", etag);
    mal_http_text(req, mal_http_is_known(req, etag) ? 304 : 200, text);
}

static bool start_waiting(struct mal_daemon *d, struct mal_request *req,
                          enum mal_job_state state, int64_t wait_s) {
    struct mal_waiter *w = mal_calloc(1, sizeof *w);
    if (!w) return false;
    *w = (struct mal_waiter){.next = d->waiters,
                             .req = req,
                             .state = state,
                             .until_ms = mal_monotonic_ms() + wait_s * 1000};
    d->waiters = w;
    req->waits = true;
    return true;
}

void mal_get_job(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    int64_t wait_s = 0;
    char *text = NULL, etag[ETAG_BYTES];
    enum mal_job_state state;
    if (!mal_query_int(req, "wait", 0, INT64_MAX, &wait_s, &err) ||
        !read_job(d, req->param[0], &text, etag, &state, &err)) {
        mal_http_fail(req, &err);
        return;
    }
    if (wait_s > MAX_WAIT_S) wait_s = MAX_WAIT_S;
    bool news = mal_request_header(req, "If-None-Match") && !mal_http_is_known(req, etag);
    if (wait_s && !news && !d->stopping && !mal_job_state_ended(state) &&
        start_waiting(d, req, state, wait_s)) {
        mal_free(text);
        return;
    }
    answer_job(req, text, etag);
}

/* False: goes on waiting. */
static bool end_wait(struct mal_daemon *d, const struct mal_waiter *w, bool all,
                     int64_t now) {
    struct mal_error err = {0};
    char *text = NULL, etag[ETAG_BYTES];
    enum mal_job_state state;
    if (!mal_auth_holds(d->auth, w->req)) return true;
    if (!read_job(d, w->req->param[0], &text, etag, &state, &err)) {
        mal_http_fail(w->req, &err);
        return true;
    }
    if (!all && state == w->state && now < w->until_ms) {
        mal_free(text);
        return false;
    }
    answer_job(w->req, text, etag);
    return true;
}

void mal_jobs_wake(struct mal_daemon *d, bool all) {
    mal_events_wake(d->events);
    int64_t now = mal_monotonic_ms();
    struct mal_waiter **p = &d->waiters;
    while (*p) {
        struct mal_waiter *w = *p;
        if (end_wait(d, w, all, now)) {
            *p = w->next;
            mal_free(w);
        } else {
            p = &w->next;
        }
    }
}

/* ---- List ---- */

static bool query_word(const struct mal_request *req, const char *name,
                       int (*from_name)(const char *), int *out, struct mal_error *err) {
    const char *word = mal_request_query(req, name);
    *out = -1;
    if (!word) return true;
    *out = from_name(word);
    if (*out >= 0) return true;
    return mal_fail(err, MAL_INVALID, "query parameter '%s': there is no '%.64s'", name,
                    word);
}

/* A page's jobs as they are told of. What is not in the state asked for until its version
 * is live is left out; where that leaves none, the next page. */
static bool list_page(struct mal_daemon *d, struct mal_job_query *query, json_t **out,
                      bool *has_more, struct mal_error *err) {
    char last[MAL_ID_BYTES];
    for (;;) {
        struct mal_job_row *rows = NULL;
        size_t n = 0;
        if (!mal_store_list_jobs(d->reader, query, &rows, &n, has_more, err))
            return false;
        json_t *data = json_array();
        for (size_t i = 0; i < n; i++) {
            hold_back(&rows[i], d);
            if (query->state < 0 || (int)rows[i].state == query->state)
                json_array_append_new(data, mal_render_job(&rows[i], d->status));
        }
        if (n > 0) snprintf(last, sizeof last, "%s", rows[n - 1].id);
        mal_job_rows_free(rows, n);
        *out = data;
        if (!*has_more || json_array_size(data) > 0) return true;
        json_decref(data);
        query->after = last;
    }
}

void mal_list_jobs(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct mal_page page = {0};
    struct mal_job_query query = {0};
    bool has_more = false;
    json_t *data;
    bool ok = mal_query_page(req, &page, &err) &&
              query_word(req, "kind", mal_job_kind_from_name, &query.kind, &err) &&
              query_word(req, "state", mal_job_state_from_name, &query.state, &err);
    query.limit = page.limit;
    query.after = page.after;
    if (ok && list_page(d, &query, &data, &has_more, &err)) {
        mal_http_json(req, 200, mal_page_json(data, "id", has_more));
    } else {
        mal_page_blame(&page, &err);
        mal_http_fail(req, &err);
    }
}

/* ---- Cancelling ---- */

struct cancel {
    struct mal_write write; /* first */
    struct mal_daemon *daemon;
    struct mal_request *req;
    struct mal_audit audit;
};

/* Taken out of the queue here and not before, so that a job that is being added is in it.
 */
static bool write_cancelled(struct mal_store *store, void *arg, struct mal_error *err) {
    struct cancel *c = arg;
    const char *id = c->req->param[0];
    struct mal_job_row row = {0};
    if (!mal_store_get_job(store, id, &row, err)) return false;
    enum mal_job_state state = row.state;
    enum mal_job_kind kind = row.kind;
    mal_job_row_finish(&row);
    struct mal_queued_job *job = mal_worker_withdraw(c->daemon->worker, id);
    if (!job) {
        return mal_fail(err, MAL_CONFLICT, "job %s is %s", id,
                        state == MAL_JOB_QUEUED ? "about to run"
                                                : mal_job_state_name(state));
    }
    if (!mal_store_cancel_job(store, id, mal_clock_unix_ms(), &c->audit.row, err)) {
        mal_worker_restore(c->daemon->worker, job);
        return false;
    }
    mal_free(job);
    mal_count(&c->daemon->metrics->jobs[kind][MAL_JOB_CANCELLED], 1);
    return true;
}

static void cancelled(struct mal_write *write) {
    struct cancel *c = (struct cancel *)write;
    struct mal_error err = write->err;
    char *text = NULL, etag[ETAG_BYTES];
    enum mal_job_state state;
    if (write->ok && read_job(c->daemon, c->req->param[0], &text, etag, &state, &err)) {
        mal_http_text(c->req, 200, text);
        mal_jobs_wake(c->daemon, false);
    } else {
        mal_refuse_write(c->daemon, c->req, &err);
    }
    mal_audit_finish(&c->audit);
    mal_free(c);
}

void mal_cancel_job(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct cancel *c = mal_calloc(1, sizeof *c);
    if (!c || !mal_audit_init(&c->audit, req, json_object(), &err)) {
        mal_free(c);
        mal_http_no_memory(req);
        return;
    }
    c->daemon = d;
    c->req = req;
    c->write = (struct mal_write){.fn = write_cancelled, .arg = c, .done = cancelled};
    mal_writer_post(d->writer, d->loop, &c->write);
}
