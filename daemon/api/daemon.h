/* daemon.h - what the handlers of the loop thread work with. */
#ifndef MAL_DAEMON_H
#define MAL_DAEMON_H

#include "daemon/api/status_page.h"
#include "daemon/base/live_version.h"
#include "daemon/base/loop.h"
#include "daemon/base/metrics.h"
#include "daemon/base/rates.h"
#include "daemon/base/status.h"
#include "daemon/base/writer.h"
#include "daemon/engine/suites.h"
#include "daemon/http/server.h"
#include "daemon/worker/worker.h"
#include "sql/store.h"

struct mal_auth;
struct mal_downloads;
struct mal_events;
struct mal_http_counts;
struct mal_waiter;

struct mal_daemon {
    /* Settings; read-only. */
    const char *db;
    const char *update; /* "sequential" */
    int64_t max_facts;  /* of one request */
    int64_t max_body;   /* bytes; of facts as lines: of one line */
    int64_t max_bulk;   /* bytes of facts as lines */
    int64_t min_free_disk;
    const struct mal_suites *suites;
    int64_t max_connections;
    int64_t started_ms; /* since 1970 */

    struct mal_loop *loop;
    struct mal_server *server;
    struct mal_auth *auth;
    struct mal_writer *writer;
    struct mal_worker *worker;
    struct mal_daemon_status *status;
    struct mal_store *reader;  /* the loop's own */
    struct mal_engine *engine; /* NULL until it is ready: read-only calls from here */
    struct mal_waiter *waiters;
    struct mal_downloads *downloads;
    struct mal_events *events;
    struct mal_metrics *metrics;
    struct mal_http_counts *http_counts;
    struct mal_rates rates;
    struct mal_live_version live; /* for the metrics */
    struct mal_status_page status_page;
    struct mal_id_maker ids;      /* of jobs and facts; the writer's thread only */
    struct mal_id_maker read_ids; /* of completions; the loop only */
    struct mal_task fatal_task;
    int n_diffs;    /* comparisons of versions that run now; the loop only */
    int n_searches; /* lists of facts that run on a work thread now; the loop only */

    bool stopping, worker_ended;
    int exit_code;
    int64_t stop_by_ms;
};

/* A version that is durable and not live yet is not counted. `live` -1: none is live. */
void mal_hide_durable(struct mal_store_counts *counts, int64_t live);

/* What has been counted so far, for the running figures. */
void mal_sample_rates(const struct mal_daemon *d, struct mal_rate_sample *out);

/* Answers a request whose write failed. Of a full disk the status and the log tell, too.
 */
void mal_refuse_write(struct mal_daemon *d, struct mal_request *req,
                      const struct mal_error *err);

/* Wakes GET /v1/events and /v1/jobs/{id}?wait=: some job has changed, or time has passed.
 * `all`: the latter whatever the state. */
void mal_jobs_wake(struct mal_daemon *d, bool all);

#endif
