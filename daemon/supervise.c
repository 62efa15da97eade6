/* supervise.c - the daemon's state in one line. */
#include "daemon/supervise.h"

#include <stdio.h>

#include "daemon/api/daemon.h"
#include "daemon/base/notify.h"

static void describe(struct mal_daemon *d, const struct mal_status_view *view, char *text,
                     size_t bytes) {
    struct mal_queue_view queue = {0};
    mal_worker_queue(d->worker, &queue);
    if (view->state != MAL_READY) {
        snprintf(text, bytes, "%s", mal_daemon_state_name(view->state));
    } else if (view->batch.jobs) {
        snprintf(text, bytes, "version %lld; editing %lld facts: %s; %lld jobs queued",
                 (long long)view->live_version, (long long)view->batch.n_facts,
                 mal_stage_name(view->batch.stage), (long long)queue.jobs);
    } else {
        snprintf(text, bytes, "version %lld; %lld jobs queued",
                 (long long)view->live_version, (long long)queue.jobs);
    }
}

void mal_supervise(struct mal_daemon *d, struct mal_notify *notify) {
    struct mal_status_view view = {0};
    struct mal_error err = {0};
    char text[256];
    if (!notify) return;
    int64_t watchdog = mal_notify_watchdog_ms(notify);
    bool alive = !watchdog || mal_worker_silence_ms(d->worker) < watchdog;
    if (mal_status_view(d->status, &view, &err)) { /* no memory: the rest must be told */
        describe(d, &view, text, sizeof text);
        mal_notify_status(notify, text);
        mal_status_view_finish(&view);
    }
    if (d->engine) mal_notify_ready(notify);
    if (d->stopping) mal_notify_stopping(notify);
    mal_notify_send(notify, alive);
}
