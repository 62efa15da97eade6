/* http_status.c - GET /v1/status, /livez, /readyz, /openapi.json. */
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"
#include "daemon/api/daemon.h"
#include "daemon/api/events.h"
#include "daemon/api/handlers.h"
#include "daemon/api/http_counts.h"
#include "daemon/base/log.h"
#include "daemon/base/process.h"
#include "daemon/http/http.h"
#include "mal_config.h"
#include "proto/wire.h"

enum { PAGE_MS = 100 }; /* how old what flows may be */

/* ---- Status ---- */

static json_t *parse(const char *text) {
    json_error_t problem;
    json_t *value = text ? mal_json_parse(text, strlen(text), 0, &problem) : NULL;
    return value ? value : json_null();
}

static json_t *render_model(const struct mal_daemon *d) {
    if (!d->engine) return json_null();
    const struct mal_model_info *info = mal_engine_model_info(d->engine);
    return json_pack("{s:s,s:s,s:I,s:s,s:s}", "name", mal_engine_model_name(d->engine),
                     "architecture", info->architecture, "parameters",
                     (json_int_t)info->n_parameters, "dtype", mal_dtype_name(info->dtype),
                     "device", mal_engine_device(d->engine));
}

static json_t *render_editor(const struct mal_daemon *d, const char *method) {
    if (!d->engine) return json_null();
    return json_pack("{s:s?,s:o,s:s}", "method", method, "modules",
                     parse(mal_engine_modules(d->engine)), "update", d->update);
}

static json_t *render_batch(const struct mal_status_batch *batch) {
    if (!batch->jobs) return json_null();
    json_t *jobs = json_array();
    for (size_t i = 0; i < batch->n_jobs; i++) {
        json_array_append_new(jobs, json_string(batch->jobs[i]));
    }
    char started[32];
    mal_format_time(batch->started_ms, started);
    return json_pack("{s:o,s:I,s:s,s:I,s:I,s:s}", "jobs", jobs, "facts",
                     (json_int_t)batch->n_facts, "stage", mal_stage_name(batch->stage),
                     "done", (json_int_t)batch->done, "total", (json_int_t)batch->total,
                     "started_at", started);
}

static json_t *render_evaluation(const struct mal_status_evaluation *evaluation) {
    if (!evaluation->job[0]) return json_null();
    char started[32];
    mal_format_time(evaluation->started_ms, started);
    return json_pack(
        "{s:s,s:I,s:I,s:s,s:I,s:I,s:s}", "job", evaluation->job, "version",
        (json_int_t)evaluation->version, "facts", (json_int_t)evaluation->n_facts,
        "stage", mal_stage_name(evaluation->stage), "done", (json_int_t)evaluation->done,
        "total", (json_int_t)evaluation->total, "started_at", started);
}

static json_t *render_suites(const struct mal_suites *suites) {
    json_t *list = json_array();
    for (size_t i = 0; i < suites->n; i++) {
        json_array_append_new(list,
                              json_pack("{s:s,s:I}", "name", suites->list[i].name,
                                        "facts", (json_int_t)suites->list[i].n_facts));
    }
    return list;
}

void mal_hide_durable(struct mal_store_counts *counts, int64_t live) {
    if (live >= 0 && counts->versions > live) counts->versions = live + 1;
}

static json_t *render_counts(const struct mal_store_counts *counts) {
    json_t *states = json_object();
    for (int i = 0; i < MAL_N_JOB_STATES; i++) {
        json_object_set_new(states, mal_job_state_name((enum mal_job_state)i),
                            json_integer(counts->jobs[i]));
    }
    return json_pack("{s:I,s:I,s:o}", "live_facts", (json_int_t)counts->live_facts,
                     "versions", (json_int_t)counts->versions, "jobs_by_state", states);
}

static json_t *render_scrub(const struct mal_status_scrub *scrub) {
    return json_pack("{s:b,s:I,s:I,s:I,s:I,s:I}", "enabled", scrub->enabled, "position",
                     (json_int_t)scrub->position, "total", (json_int_t)scrub->total,
                     "wrong", (json_int_t)scrub->wrong, "failing",
                     (json_int_t)scrub->failing, "passes", (json_int_t)scrub->passes);
}

static json_t *render_joint(const struct mal_daemon *d,
                            const struct mal_status_joint *joint) {
    if (!d->engine || strcmp(d->update, "joint") != 0) return json_null();
    return json_pack("{s:I,s:I,s:b}", "bytes", (json_int_t)joint->bytes, "facts",
                     (json_int_t)joint->facts, "stale", joint->stale);
}

static json_t *render_disk(const struct mal_status_disk *disk) {
    bool known = disk->free_bytes >= 0;
    return json_pack("{s:o,s:b}", "free_bytes",
                     known ? json_integer(disk->free_bytes) : json_null(), "low",
                     disk->low);
}

static json_t *render_events(const struct mal_events_view *events) {
    return json_pack("{s:I,s:I,s:I}", "streams", (json_int_t)events->streams,
                     "max_streams", (json_int_t)events->max_streams, "last_id",
                     (json_int_t)events->last);
}

void mal_sample_rates(const struct mal_daemon *d, struct mal_rate_sample *out) {
    const struct mal_metrics *m = d->metrics;
    *out = (struct mal_rate_sample){.at = mal_clock_seconds()};
    out->n[MAL_RATE_FACTS] = mal_counted(&m->facts_edited);
    for (int kind = 0; kind < MAL_N_JOB_KINDS; kind++) {
        for (int state = 0; state < MAL_N_JOB_STATES; state++)
            out->n[MAL_RATE_JOBS] += mal_counted(&m->jobs[kind][state]);
    }
    out->n[MAL_RATE_REQUESTS] = mal_http_counts_total(d->http_counts);
    for (int call = 0; call < MAL_N_READ_CALLS; call++)
        out->n[MAL_RATE_READS] += mal_counted(&m->read_outcomes[call][MAL_READ_ANSWERED]);
    out->n[MAL_RATE_TOKENS] = mal_counted(&m->tokens_generated);
}

static json_t *render_rates(const struct mal_daemon *d,
                            const struct mal_status_view *view) {
    double recent[MAL_N_RATES];
    struct mal_rate_sample now;
    mal_sample_rates(d, &now);
    mal_rates_per_second(&d->rates, &now, recent);
    return json_pack(
        "{s:f,s:f,s:{s:f,s:f,s:f,s:f,s:f}}", "facts_per_second", view->facts_per_second,
        "last_batch_seconds", view->last_batch_seconds, "last_minute", "facts_per_second",
        recent[MAL_RATE_FACTS], "jobs_per_second", recent[MAL_RATE_JOBS],
        "requests_per_second", recent[MAL_RATE_REQUESTS], "reads_per_second",
        recent[MAL_RATE_READS], "tokens_per_second", recent[MAL_RATE_TOKENS]);
}

static json_t *render_status(struct mal_daemon *d, const struct mal_status_view *view,
                             const struct mal_store_counts *counts,
                             const struct mal_events_view *events) {
    struct mal_queue_view queue = {0};
    mal_worker_queue(d->worker, &queue);
    bool known = view->live_version >= 0;
    return json_pack(
        "{s:o,s:o,s:s,s:o,s:o,s:{s:I,s:I,s:I,s:f},s:o,s:o,s:o,s:o,s:o,"
        "s:{s:I,s:I},s:o,s:o,s:o,s:o,s:o,s:f,s:s}",
        "live_version", known ? json_integer(view->live_version) : json_null(),
        "weights_hash", known ? json_string(view->weights_hash) : json_null(), "state",
        mal_daemon_state_name(view->state), "model", render_model(d), "editor",
        render_editor(d, view->editor_method), "queue", "jobs", (json_int_t)queue.jobs,
        "facts", (json_int_t)queue.facts, "capacity", (json_int_t)queue.capacity,
        "oldest_seconds", queue.oldest_seconds, "batch", render_batch(&view->batch),
        "evaluation", render_evaluation(&view->evaluation), "suites",
        render_suites(d->suites), "counts", render_counts(counts), "rates",
        render_rates(d, view), "memory", "device_bytes", (json_int_t)view->device_bytes,
        "host_bytes", (json_int_t)mal_process_resident_bytes(), "scrub",
        render_scrub(&view->scrub), "joint", render_joint(d, &view->joint), "disk",
        render_disk(&view->disk), "events", render_events(events), "last_error",
        parse(view->last_error), "uptime_seconds",
        (double)(mal_monotonic_ms() - view->started_ms) / 1000, "version", MAL_VERSION);
}

static bool render(struct mal_daemon *d, char **out, struct mal_error *err) {
    struct mal_status_view view = {0};
    struct mal_store_counts counts = {0};
    struct mal_events_view events = {0};
    /* The last event first: what follows it may be counted, but none before is missing.
     */
    if (!mal_events_view(d->events, &events, err) ||
        !mal_store_counts(d->reader, &counts, err) ||
        !mal_status_view(d->status, &view, err))
        return false;
    mal_hide_durable(&counts, view.live_version);
    *out = mal_json_text(render_status(d, &view, &counts, &events));
    mal_status_view_finish(&view);
    return *out || mal_fail(err, MAL_NO_MEMORY, "status");
}

static struct mal_status_mark look(struct mal_daemon *d) {
    struct mal_queue_view queue = {0};
    mal_worker_queue(d->worker, &queue);
    return (struct mal_status_mark){.commits = mal_writer_commits(d->writer),
                                    .changes = mal_status_changes(d->status),
                                    .jobs = queue.jobs,
                                    .facts = queue.facts,
                                    .streams = mal_events_streams(d->events),
                                    .engine = d->engine};
}

static bool is_same(const struct mal_status_mark *a, const struct mal_status_mark *b) {
    return a->commits == b->commits && a->changes == b->changes && a->jobs == b->jobs &&
           a->facts == b->facts && a->streams == b->streams && a->engine == b->engine;
}

/* The mark is taken before what it stands for is read: a change between makes the page an
 * old one. */
static bool renew(struct mal_daemon *d, struct mal_status_page *page,
                  struct mal_error *err) {
    int64_t now = mal_monotonic_ms();
    struct mal_status_mark mark = look(d);
    if (page->text && now - page->made_ms < PAGE_MS && is_same(&mark, &page->mark))
        return true;
    char *text;
    if (!render(d, &text, err)) return false;
    mal_free(page->text);
    *page = (struct mal_status_page){.text = text, .mark = mark, .made_ms = now};
    return true;
}

void mal_get_status(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    if (renew(d, &d->status_page, &err)) {
        mal_http_text(req, 200, mal_strdup(d->status_page.text));
    } else {
        mal_http_fail(req, &err);
    }
}

void mal_refuse_write(struct mal_daemon *d, struct mal_request *req,
                      const struct mal_error *err) {
    if (err->status == MAL_NO_SPACE) {
        char *problem = mal_encode_problem(err, mal_status_http(err->status));
        if (problem) mal_status_set_error(d->status, problem);
        if (!mal_status_disk(d->status).low)
            mal_log("error", "database full", "{s:s}", "detail", err->text);
    }
    mal_http_fail(req, err);
}

/* ---- Health ---- */

void mal_get_livez(struct mal_daemon *d, struct mal_request *req) {
    mal_http_json(req, 200, json_pack("{s:s}", "status", "alive"));
}

void mal_get_readyz(struct mal_daemon *d, struct mal_request *req) {
    enum mal_daemon_state state = mal_status_state(d->status);
    if (d->engine && state == MAL_READY) {
        mal_http_json(req, 200, json_pack("{s:s}", "status", "ready"));
        return;
    }
    mal_http_refuse(req, 503, "the daemon is %s", mal_daemon_state_name(state));
}

void mal_get_openapi(struct mal_daemon *d, struct mal_request *req) {
    mal_http_text(req, 200, mal_strdup(mal_openapi_json));
}
