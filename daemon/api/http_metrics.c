/* http_metrics.c - GET /metrics: the status, the database's counts and the live version's
 * row; what was counted on the way is in metrics_expose.c. Everything is in memory, an
 * index or one row, so that it is answered at once on the loop. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "daemon/api/daemon.h"
#include "daemon/api/downloads.h"
#include "daemon/api/exposition.h"
#include "daemon/api/handlers.h"
#include "daemon/api/http_counts.h"
#include "daemon/api/metrics_expose.h"
#include "daemon/base/process.h"
#include "daemon/http/http.h"
#include "mal_config.h"

/* What a scrape is made of. */
struct scrape {
    struct mal_daemon *d;
    struct mal_exposition *out;
    struct mal_status_view status;
    struct mal_store_counts counts;
    struct mal_queue_view queue;
};

static void gauge(const struct scrape *s, const char *name, const char *help,
                  double value) {
    mal_expose(s->out, MAL_GAUGE, name, help);
    if (!isnan(value)) mal_expose_value(s->out, value, NULL);
}

static void counter(const struct scrape *s, const char *name, const char *help,
                    double value) {
    mal_expose(s->out, MAL_COUNTER, name, help);
    mal_expose_value(s->out, value, NULL);
}

/* ---- The service ---- */

static void expose_build(const struct scrape *s) {
    const struct mal_engine *engine = s->d->engine;
    const struct mal_model_info *info = engine ? mal_engine_model_info(engine) : NULL;
    mal_expose(s->out, MAL_GAUGE, "malmend_build_info",
               "Always 1: software, model and editor; labels are empty while it loads.");
    mal_expose_value(s->out, 1, "version", MAL_VERSION, "device",
                     engine ? mal_engine_device(engine) : NULL, "model",
                     engine ? mal_engine_model_name(engine) : NULL, "architecture",
                     info ? info->architecture : NULL, "editor", s->status.editor_method,
                     "update", engine ? s->d->update : NULL, NULL);
    if (info) {
        gauge(s, "malmend_model_parameters", "Parameters of the base model.",
              (double)info->n_parameters);
    }
}

static void expose_service(const struct scrape *s) {
    const struct mal_status_view *status = &s->status;
    expose_build(s);
    mal_expose(s->out, MAL_GAUGE, "malmend_state", "1 for the state the daemon is in.");
    for (int i = MAL_LOADING; i <= MAL_FAILED; i++) {
        const char *name = mal_daemon_state_name((enum mal_daemon_state)i);
        mal_expose_value(s->out, status->state == (enum mal_daemon_state)i, "state", name,
                         NULL);
    }
    gauge(s, "malmend_start_time_seconds", "When the daemon was started, since 1970.",
          (double)s->d->started_ms / 1000);
    gauge(s, "malmend_http_connections", "Connections that are open.",
          (double)mal_server_connections(s->d->server));
    gauge(s, "malmend_http_connections_limit", "Connections that may be open at a time.",
          (double)s->d->max_connections);
    counter(s, "malmend_http_connections_accepted_total", "Connections accepted.",
            (double)mal_server_accepted(s->d->server));
    gauge(s, "malmend_http_requests_in_flight",
          "Requests begun and not answered to the end, this one among them.",
          (double)mal_server_requests(s->d->server));
    mal_http_counts_expose(s->d->http_counts, s->out);
}

/* ---- Queue and batch ---- */

static void expose_queue(const struct scrape *s) {
    const struct mal_queue_view *queue = &s->queue;
    const struct mal_status_batch *batch = &s->status.batch;
    gauge(s, "malmend_queue_jobs", "Jobs that wait.", (double)queue->jobs);
    gauge(s, "malmend_queue_facts", "Facts that wait.", (double)queue->facts);
    gauge(s, "malmend_queue_capacity_facts", "Facts that may wait; more are refused.",
          (double)queue->capacity);
    gauge(s, "malmend_queue_oldest_seconds", "How long the oldest job has waited.",
          queue->oldest_seconds);
    gauge(s, "malmend_batch_running", "1 while jobs are being run.", batch->jobs != NULL);
    gauge(s, "malmend_batch_facts", "Facts being edited now.",
          batch->jobs ? (double)batch->n_facts : 0);
    double age = (double)(mal_clock_unix_ms() - batch->started_ms) / 1000;
    gauge(s, "malmend_batch_age_seconds", "How long the running jobs have run; 0: none.",
          batch->jobs ? fmax(age, 0) : 0);
    gauge(s, "malmend_reads_waiting", "Completions and scores that wait or are computed.",
          (double)queue->reads);
    mal_expose(s->out, MAL_GAUGE, "malmend_jobs", "Jobs in the database by state.");
    for (int i = 0; i < MAL_N_JOB_STATES; i++) {
        mal_expose_value(s->out, (double)s->counts.jobs[i], "state",
                         mal_job_state_name((enum mal_job_state)i), NULL);
    }
}

/* ---- Versions and their quality ---- */

static void expose_share(const struct scrape *s, const char *mode,
                         const double shares[3]) {
    static const char *const names[] = {"es", "gs", "ls"};
    for (int i = 0; i < 3; i++) {
        if (!isnan(shares[i]))
            mal_expose_value(s->out, shares[i], "measure", names[i], "mode", mode, NULL);
    }
}

static void expose_live(const struct scrape *s) {
    const struct mal_live_version *live = &s->d->live;
    gauge(s, "malmend_live_version", "The version that is served.",
          (double)live->version);
    gauge(s, "malmend_live_version_timestamp_seconds",
          "When the live version was made, since 1970.", (double)live->created_ms / 1000);
    mal_expose(s->out, MAL_GAUGE, "malmend_quality_ratio",
               "Share right after the live version was made, of its facts (es), their "
               "rephrases (gs), their unrelated prompts (ls).");
    expose_share(s, "decoded", live->decoded);
    expose_share(s, "teacher_forced", live->forced);
    gauge(s, "malmend_agreement_ratio",
          "Share of unrelated prompts that the live version answers as the base does.",
          live->agreement);
    gauge(s, "malmend_quality_facts", "Facts that the live version was measured on.",
          live->n_facts ? (double)live->n_facts : (double)NAN);
    mal_expose(s->out, MAL_GAUGE, "malmend_module_shift_norm",
               "Norm of what the live version adds to a weight.");
    for (size_t i = 0; i < live->n_modules; i++) {
        const struct mal_live_module *module = &live->modules[i];
        mal_expose_value(s->out, module->shift_norm, "module", module->name, NULL);
    }
    mal_expose(s->out, MAL_GAUGE, "malmend_module_weight_norm",
               "Norm of an edited weight in the live version.");
    for (size_t i = 0; i < live->n_modules; i++) {
        const struct mal_live_module *module = &live->modules[i];
        mal_expose_value(s->out, module->weight_norm, "module", module->name, NULL);
    }
}

static void expose_versions(const struct scrape *s) {
    const struct mal_status_scrub *scrub = &s->status.scrub;
    if (s->d->live.known) expose_live(s);
    gauge(s, "malmend_versions", "Versions in the database.", (double)s->counts.versions);
    gauge(s, "malmend_versions_in_memory", "Versions that reads can be asked of.",
          (double)s->status.n_versions);
    gauge(s, "malmend_live_facts", "Facts that the live version holds.",
          (double)s->counts.live_facts);
    gauge(s, "malmend_scrub_enabled", "1: live facts are looked at while idle.",
          scrub->enabled);
    gauge(s, "malmend_scrub_position_facts", "Facts looked at in this walk.",
          (double)scrub->position);
    gauge(s, "malmend_scrub_facts", "Facts of this walk.", (double)scrub->total);
    gauge(s, "malmend_scrub_wrong_facts", "Facts found wrong in this walk.",
          (double)scrub->wrong);
    gauge(s, "malmend_scrub_failing_facts",
          "Those, and facts of which a further phrasing is wrong or a token improbable.",
          (double)scrub->failing);
    counter(s, "malmend_scrub_passes_total", "Walks that are over.",
            (double)scrub->passes);
}

/* ---- Storage and memory ---- */

static double file_bytes(const char *path, const char *suffix) {
    char name[4096];
    struct stat st;
    int n = snprintf(name, sizeof name, "%s%s", path, suffix);
    if (n < 0 || (size_t)n >= sizeof name) return (double)NAN;
    return stat(name, &st) == 0 ? (double)st.st_size : 0;
}

static void expose_storage(const struct scrape *s) {
    const struct mal_status_disk *disk = &s->status.disk;
    struct mal_downloads_view downloads;
    mal_downloads_look(s->d->downloads, &downloads);
    gauge(s, "malmend_database_bytes", "Size of the database's file.",
          file_bytes(s->d->db, ""));
    gauge(s, "malmend_database_wal_bytes", "Size of the database's write-ahead log.",
          file_bytes(s->d->db, "-wal"));
    gauge(s, "malmend_delta_bytes", "Deltas of the versions that are not pruned.",
          (double)s->status.delta_bytes);
    gauge(s, "malmend_disk_free_bytes", "Free bytes of the database's disk.",
          disk->free_bytes < 0 ? (double)NAN : (double)disk->free_bytes);
    gauge(s, "malmend_disk_min_free_bytes", "Below that edits are refused.",
          (double)s->d->min_free_disk);
    gauge(s, "malmend_disk_low", "1: too few bytes are free, edits are refused.",
          disk->low);
    gauge(s, "malmend_download_files", "Files made for downloads and kept.",
          (double)downloads.files);
    gauge(s, "malmend_download_file_bytes", "Size of the files kept for downloads.",
          (double)downloads.bytes);
    gauge(s, "malmend_writes_waiting", "Writes that wait for the database.",
          (double)mal_writer_waiting(s->d->writer));
}

static void expose_memory(const struct scrape *s) {
    const struct mal_status_joint *joint = &s->status.joint;
    gauge(s, "malmend_device_bytes", "Memory of the device in use.",
          (double)s->status.device_bytes);
    if (s->d->engine && !strcmp(s->d->update, "joint")) {
        gauge(s, "malmend_joint_bytes", "Memory of the system of all live facts.",
              (double)joint->bytes);
        gauge(s, "malmend_joint_facts", "Facts whose keys are in that system.",
              (double)joint->facts);
        gauge(s, "malmend_joint_stale", "1: that system is behind the live version.",
              joint->stale);
    }
}

/* Names and units as Prometheus' own client libraries have them. */
static void expose_process(const struct scrape *s) {
    struct mal_process process;
    mal_process_look(&process);
    counter(s, "process_cpu_seconds_total", "Processor time of the process.",
            process.cpu_seconds);
    gauge(s, "process_start_time_seconds", "When the process was started, since 1970.",
          process.started);
    gauge(s, "process_resident_memory_bytes", "Memory of the host in use.",
          (double)process.resident_bytes);
    gauge(s, "process_virtual_memory_bytes", "Address space of the process.",
          (double)process.virtual_bytes);
    gauge(s, "process_open_fds", "File descriptors that are open.",
          (double)process.open_files);
    gauge(s, "process_max_fds", "File descriptors that may be open.",
          (double)process.max_files);
}

/* ---- The answer ---- */

static bool look(struct scrape *s, struct mal_error *err) {
    struct mal_daemon *d = s->d;
    if (!mal_status_view(d->status, &s->status, err)) return false;
    mal_worker_queue(d->worker, &s->queue);
    if (!mal_store_counts(d->reader, &s->counts, err)) return false;
    mal_hide_durable(&s->counts, s->status.live_version);
    return mal_live_version_look(&d->live, d->reader, s->status.live_version, err);
}

void mal_get_metrics(struct mal_daemon *d, struct mal_request *req) {
    struct mal_exposition out = {0};
    struct mal_error err = {0};
    struct scrape s = {.d = d, .out = &out};
    bool ok = look(&s, &err);
    if (ok) {
        expose_service(&s);
        expose_queue(&s);
        expose_versions(&s);
        mal_metrics_expose(d->metrics, &out);
        expose_storage(&s);
        expose_memory(&s);
        expose_process(&s);
    }
    mal_status_view_finish(&s.status);
    if (ok && !out.failed) {
        mal_request_answer(req, 200, MAL_EXPOSITION_TYPE, out.text, out.bytes);
        return;
    }
    mal_free(out.text);
    if (ok) mal_fail(&err, MAL_NO_MEMORY, "metrics");
    mal_http_fail(req, &err);
}
