/* serve.c - puts loop, server, writer and worker together, and takes them apart. */
#include "daemon/serve.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/file.h"
#include "core/json.h"
#include "daemon/api/daemon.h"
#include "daemon/api/downloads.h"
#include "daemon/api/events.h"
#include "daemon/api/http_counts.h"
#include "daemon/api/router.h"
#include "daemon/base/disk.h"
#include "daemon/base/log.h"
#include "daemon/base/notify.h"
#include "daemon/http/auth.h"
#include "daemon/http/http.h"
#include "daemon/http/inherit.h"
#include "daemon/http/listen.h"
#include "daemon/supervise.h"
#include "daemon/worker/retention.h"
#include "proto/wire.h"

enum { TICK_MS = 100, STOP_MS = 3000, CONNECTIONS_PER_ADDRESS = 64 };

struct life {
    struct mal_daemon d;
    const struct mal_serve_options *o;
    struct mal_store *store; /* the writing handle, lent to the writer */
    struct mal_retention *retention;
    struct mal_disk *disk;
    struct mal_suites suites;
    char *cache;  /* where an editor made on the spot is kept, owned */
    char *resume; /* where a batch that takes long is saved, owned */
    char address[MAL_ADDRESS_BYTES];
    bool own_address; /* bound here, not inherited */
    int socket;       /* that listens, -1: none, or it is the server's */
    struct mal_notify *notify;
    double ticked;           /* when on_tick() ran last; 0: not yet */
    struct mal_error broken; /* why the database failed */
};

/* ---- Stopping ---- */

static void leave(struct life *life) {
    if (life->own_address) mal_listen_forget(life->address);
    mal_log_flush();
    _exit(life->d.exit_code); /* whatever matters is in the database */
}

static void begin_stop(struct life *life, int exit_code) {
    struct mal_daemon *d = &life->d;
    if (exit_code) d->exit_code = exit_code;
    if (d->stopping) return;
    d->stopping = true;
    d->stop_by_ms = mal_monotonic_ms() + STOP_MS;
    mal_status_set_state(d->status, exit_code ? MAL_FAILED : MAL_DRAINING);
    mal_server_quiesce(d->server);
    mal_worker_stop(d->worker);
    mal_events_stop(d->events);
    mal_jobs_wake(d, true);
    mal_supervise(d, life->notify);
}

static void check_stopped(struct life *life) {
    struct mal_daemon *d = &life->d;
    if (!d->stopping) return;
    if (d->worker_ended && !mal_server_requests(d->server)) {
        mal_loop_stop(d->loop);
    } else if (mal_monotonic_ms() > d->stop_by_ms) {
        leave(life); /* a slice that takes long, or a client that does not read */
    }
}

static void on_signal(void *arg) {
    struct life *life = arg;
    if (life->d.stopping) leave(life);
    mal_log("info", "stopping", NULL);
    begin_stop(life, 0);
}

static void on_hangup(void *arg) {
    struct life *life = arg;
    mal_auth_reload(life->d.auth, life->d.loop);
}

/* ---- What the threads report ---- */

static void on_ready(void *arg, struct mal_engine *engine) {
    struct life *life = arg;
    life->d.update = mal_engine_is_joint(engine) ? "joint" : "sequential";
    life->d.engine = engine;
}

static void on_changed(void *arg) {
    struct life *life = arg;
    mal_jobs_wake(&life->d, life->d.stopping);
}

static void on_ended(void *arg, const struct mal_error *err) {
    struct life *life = arg;
    life->d.worker_ended = true;
    if (err->status != MAL_OK) {
        mal_log("error", "worker failed", "{s:s,s:s}", "title",
                mal_status_title(err->status), "detail", err->text);
        mal_status_set_error(life->d.status,
                             mal_encode_problem(err, mal_status_http(err->status)));
        begin_stop(life, 1);
    }
    check_stopped(life);
}

static void log_broken(const struct mal_error *err) {
    mal_log("error", "database failed", "{s:s}", "detail", err->text);
}

static void report_broken(void *arg) {
    struct life *life = arg;
    log_broken(&life->broken);
    begin_stop(life, 1);
}

static void on_fatal_write(void *arg, const struct mal_error *err) {
    struct life *life = arg;
    life->broken = *err;
    life->d.fatal_task = (struct mal_task){.run = report_broken, .arg = life};
    mal_loop_post(life->d.loop, &life->d.fatal_task);
}

static void measure_delay(struct life *life) {
    double now = mal_clock_seconds();
    double late = life->ticked > 0 ? now - life->ticked - TICK_MS / 1e3 : 0;
    mal_histogram_add(&life->d.metrics->loop_delay, late > 0 ? late : 0);
    life->ticked = now;
}

static void on_tick(void *arg) {
    struct life *life = arg;
    struct mal_rate_sample sample;
    measure_delay(life);
    mal_sample_rates(&life->d, &sample);
    mal_rates_take(&life->d.rates, &sample);
    mal_server_sweep(life->d.server);
    (void)mal_disk_low(life->disk); /* the status is to know */
    mal_downloads_sweep(life->d.downloads);
    mal_jobs_wake(&life->d, life->d.stopping);
    mal_supervise(&life->d, life->notify);
    check_stopped(life);
}

/* ---- What the server reports ---- */

static void on_begin(void *arg, struct mal_request *req) {
    struct life *life = arg;
    mal_router_begin(&life->d, req);
}

static void on_handle(void *arg, struct mal_request *req) {
    struct life *life = arg;
    mal_router_handle(&life->d, req);
}

static void on_refuse(void *arg, struct mal_request *req, int status,
                      const char *detail) {
    mal_http_refuse(req, status, "%s", detail);
}

/* All are counted; logged is what changes something, what failed here, and who was sent
 * away, for good or (503) for now. */
static void on_answered(void *arg, const struct mal_request *req, int status) {
    const struct life *life = arg;
    bool denied = status == 401 || status == 403;
    char path[MAL_LOG_TEXT_BYTES];
    mal_http_counts_add(life->d.http_counts, req, status);
    if (!*req->method) return; /* it never came that far */
    if (status < 500 && !denied && !strcmp(req->method, "GET")) return;
    if (!strcmp(req->path, "/readyz")) return;
    mal_log_text(req->path, path);
    mal_log(denied || status == 503 ? "warning"
            : status >= 500         ? "error"
                                    : "info",
            "request", "{s:s,s:s,s:i,s:f,s:s,s:s*,s:s*,s:s}", "method", req->method,
            "path", path, "status", status, "seconds", mal_clock_seconds() - req->began,
            "request_id", req->id, "trace_id", *req->trace_id ? req->trace_id : NULL,
            "who", *req->who ? req->who : NULL, "origin", req->peer->origin);
}

/* ---- Starting ---- */

/* An inherited socket goes before --listen. */
static bool open_socket(struct life *life, struct mal_error *err) {
    bool has_tokens = mal_auth_has_tokens(life->d.auth);
    if (!mal_inherit(has_tokens, &life->socket, life->address, err)) return false;
    if (life->socket < 0) {
        life->own_address =
            mal_listen(life->o->listen, has_tokens, &life->socket, life->address, err);
        if (!life->own_address) return false;
    }
    mal_auth_listens(life->d.auth, life->address);
    return true;
}

static bool start_server(struct life *life, struct mal_error *err) {
    const struct mal_serve_options *o = life->o;
    int64_t per_address = o->max_per_address;
    if (per_address < 0) {
        per_address = mal_listen_is_local(life->address) ? 0 : CONNECTIONS_PER_ADDRESS;
    }
    struct mal_server_options options = {.listen_fd = life->socket,
                                         .max_body = (size_t)o->max_body,
                                         .timeout_ms =
                                             (int64_t)(o->request_timeout * 1000),
                                         .max_connections = (unsigned)o->max_connections,
                                         .max_per_address = (unsigned)per_address,
                                         .arg = life,
                                         .begin = on_begin,
                                         .handle = on_handle,
                                         .refuse = on_refuse,
                                         .answered = on_answered};
    if (!mal_server_start(&life->d.server, life->d.loop, &options, err)) return false;
    life->socket = -1;
    return true;
}

struct mal_engine_options mal_serve_engine_options(const struct mal_serve_options *o,
                                                   const char *cache) {
    return (struct mal_engine_options){.model_dir = o->model,
                                       .editor_path = o->editor,
                                       .cache_path = cache,
                                       .device = o->device,
                                       .read_stream = o->read_stream,
                                       .keep_versions = (int)o->keep_versions,
                                       .update = o->update,
                                       .preserve = o->preserve,
                                       .preserve_weight = o->preserve_weight,
                                       .repair_rounds = o->repair_rounds,
                                       .repair_tau = o->repair_tau,
                                       .verify_limit = o->verify_limit,
                                       .joint_memory = (size_t)o->joint_memory,
                                       .probes = o->probes,
                                       .gate = o->gate};
}

static bool start_worker(struct life *life, struct mal_error *err) {
    const struct mal_serve_options *o = life->o;
    struct mal_worker_options options = {
        .engine = mal_serve_engine_options(o, life->cache),
        .db = o->db,
        .resume_path = life->resume,
        .save_every = o->save_every,
        .data = o->data,
        .max_queue = o->max_queue,
        .max_batch_facts = o->max_batch_facts,
        .batch_window_ms = o->batch_window_ms,
        .read_timeout_ms = (int64_t)(o->request_timeout * 1000),
        .scrub = !o->no_scrub,
        .consolidate_after = o->consolidate_after,
        .loop = life->d.loop,
        .writer = life->d.writer,
        .status = life->d.status,
        .retention = life->retention,
        .disk = life->disk,
        .suites = &life->suites,
        .metrics = life->d.metrics,
        .arg = life,
        .ready = on_ready,
        .changed = on_changed,
        .ended = on_ended};
    return mal_worker_start(&life->d.worker, &options, err);
}

static void see_disk(void *arg, int64_t free_bytes, bool low) {
    struct mal_status_disk disk = {.free_bytes = free_bytes, .low = low};
    mal_status_set_disk(arg, &disk);
}

static bool make_keepers(struct life *life, struct mal_error *err) {
    const struct mal_serve_options *o = life->o;
    struct mal_retention_options retention = {.keyframe_every = o->keyframe_every,
                                              .retain_bytes = o->retain_bytes,
                                              .retain_ms =
                                                  (int64_t)(o->retain_age * 1000),
                                              .keep_versions = o->keep_versions,
                                              .metrics = life->d.metrics};
    struct mal_disk_options disk = {.path = o->db,
                                    .min_free = o->min_free_disk,
                                    .seen = see_disk,
                                    .arg = life->d.status};
    if (!mal_retention_create(&life->retention, &retention, err)) return false;
    if (!mal_disk_create(&life->disk, &disk, err)) return false;
    (void)mal_disk_low(life->disk); /* before the first request */
    return true;
}

char *mal_serve_editor_path(const char *db, struct mal_error *err) {
    char *path = mal_file_beside(db, ".editor.safetensors");
    if (!path) (void)mal_fail(err, MAL_NO_MEMORY, "editor");
    return path;
}

/* What can be said before a database is made. */
static bool look(struct life *life, struct mal_error *err) {
    const struct mal_serve_options *o = life->o;
    life->cache = mal_serve_editor_path(o->db, err);
    if (!life->cache) return false;
    life->resume = mal_file_beside(o->db, ".state");
    if (!life->resume) return mal_fail(err, MAL_NO_MEMORY, "options");
    if (!getenv("LISTEN_FDS") && !mal_listen_check(o->listen, o->tokens != NULL, err))
        return false;
    struct mal_engine_options engine = mal_serve_engine_options(o, life->cache);
    if (!mal_engine_look(&engine, err)) return false;
    if (!mal_suites_load(&life->suites, o->suites, (size_t)o->max_queue, err))
        return false;
    if (!o->data || mal_engine_editor_path(&engine)) return true;
    struct mal_fact *facts = NULL;
    size_t n = 0;
    if (!mal_facts_load(&facts, &n, o->data, err)) return false;
    mal_facts_free(facts, n);
    return true;
}

/* What takes time once a handle: before anybody waits for it. */
static bool count_ahead(struct mal_daemon *d, struct mal_error *err) {
    struct mal_store_counts counts;
    return mal_store_counts(d->reader, &counts, err);
}

/* Ids sort by time whatever the clock does meanwhile. */
static bool follow_ids(struct mal_daemon *d, struct mal_error *err) {
    struct mal_job_query newest = {.kind = -1, .state = -1, .limit = 1};
    struct mal_job_row *rows = NULL;
    size_t n = 0;
    bool more;
    if (!mal_store_list_jobs(d->reader, &newest, &rows, &n, &more, err)) return false;
    if (n) mal_id_follow(&d->ids, "job_", rows[0].id);
    mal_job_rows_free(rows, n);
    return true;
}

static bool start(struct life *life, struct mal_error *err) {
    const struct mal_serve_options *o = life->o;
    struct mal_daemon *d = &life->d;
    d->db = o->db;
    d->max_facts = o->max_queue;
    d->max_body = o->max_body;
    d->max_bulk = o->max_bulk;
    d->min_free_disk = o->min_free_disk;
    d->suites = &life->suites;
    if (!mal_notify_create(&life->notify, err)) return false;
    if (!mal_auth_create(&d->auth, o->tokens, err)) return false;
    d->max_connections = o->max_connections;
    d->started_ms = mal_clock_unix_ms();
    /* a database is made where the rest can be had */
    if (!look(life, err) || !open_socket(life, err)) return false;
    if (!mal_store_open(&life->store, o->db, err)) return false;
    if (!mal_store_open_reader(&d->reader, o->db, err)) return false;
    if (!count_ahead(d, err) || !follow_ids(d, err)) return false;
    if (!mal_status_create(&d->status, err)) return false;
    if (!mal_metrics_create(&d->metrics, err)) return false;
    if (!mal_http_counts_create(&d->http_counts, err)) return false;
    if (!make_keepers(life, err)) return false;
    if (!mal_downloads_create(&d->downloads, d, err)) return false;
    if (!mal_events_create(&d->events, d->reader, d->status, d->auth,
                           o->max_event_streams, err))
        return false;
    if (!mal_loop_create(&d->loop, err)) return false;
    if (!mal_loop_on_stop_signal(d->loop, on_signal, life, err)) return false;
    if (!mal_loop_on_hangup(d->loop, on_hangup, life, err)) return false;
    if (!start_server(life, err)) return false;
    if (!mal_loop_every(d->loop, TICK_MS, on_tick, life, err)) return false;
    if (!mal_writer_create(&d->writer, life->store, on_fatal_write, life, d->metrics,
                           err))
        return false;
    if (!start_worker(life, err)) return false;
    mal_log("info", "listening", "{s:o,s:b,s:i}", "address", mal_json_fit(life->address),
            "inherited", !life->own_address, "pid", (int)getpid());
    return true;
}

static void end_writing(struct life *life) {
    struct mal_error err = {0};
    if (mal_writer_destroy(life->d.writer, &err)) return;
    log_broken(&err);
    life->d.exit_code = 1;
}

static void finish(struct life *life) {
    struct mal_daemon *d = &life->d;
    mal_worker_destroy(d->worker);
    end_writing(life);
    mal_server_stop(d->server);
    mal_loop_destroy(d->loop);
    mal_auth_destroy(d->auth);
    mal_disk_destroy(life->disk);
    mal_retention_destroy(life->retention);
    mal_downloads_destroy(d->downloads);
    mal_events_destroy(d->events);
    mal_live_version_finish(&d->live);
    mal_free(d->status_page.text);
    mal_http_counts_destroy(d->http_counts);
    mal_metrics_destroy(d->metrics);
    mal_status_destroy(d->status);
    mal_store_close(d->reader);
    mal_store_close(life->store);
    mal_suites_finish(&life->suites);
    mal_free(life->cache);
    mal_free(life->resume);
    mal_notify_destroy(life->notify);
    if (life->socket >= 0) close(life->socket);
    if (life->own_address) mal_listen_forget(life->address);
}

bool mal_serve(const struct mal_serve_options *options, int *out_exit,
               struct mal_error *err) {
    struct life life = {.o = options, .socket = -1};
    mal_json_guard();
    bool ok = mal_log_start(err) && start(&life, err);
    if (ok) mal_loop_run(life.d.loop);
    finish(&life);
    mal_log_stop();
    if (ok) *out_exit = life.d.exit_code;
    return ok;
}
