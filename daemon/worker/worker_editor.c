/* worker_editor.c - an editor for a daemon that was given none: made from a file of facts
 * while it loads, or on the first batch. */
#include <jansson.h>

#include "core/clock.h"
#include "core/json.h"
#include "daemon/base/log.h"
#include "daemon/worker/worker_impl.h"

static void tell_editor(struct mal_worker *worker) {
    const struct mal_editor *editor = mal_engine_editor(worker->engine);
    if (!editor) return;
    mal_status_set_editor(worker->o.status, editor->method->name);
    const char *why = mal_engine_lacks_texts(worker->engine);
    if (why) mal_log("warning", "perplexity is not measured", "{s:s}", "detail", why);
}

bool mal_worker_need_editor(struct mal_worker *worker, const struct mal_fact *facts,
                            size_t n, const struct mal_progress *progress,
                            struct mal_error *err) {
    struct mal_instant_report report = {0};
    double begin = mal_clock_seconds();
    if (mal_engine_editor(worker->engine)) return true;
    if (!mal_engine_make_editor(worker->engine, facts, n, progress, &report, err))
        return false;
    const struct mal_editor *editor = mal_engine_editor(worker->engine);
    tell_editor(worker);
    mal_count_seconds(&worker->o.metrics->stage_ns[MAL_STAGE_SEARCH],
                      mal_clock_seconds() - begin);
    mal_log("info", "editor made", "{s:o,s:s,s:I,s:f,s:I,s:I,s:f}", "file",
            mal_json_fit(worker->o.engine.cache_path), "method", editor->method->name,
            "modules", (json_int_t)editor->n_modules, "lr", report.lr, "facts",
            (json_int_t)report.n_facts, "made_up_facts", (json_int_t)report.n_made,
            "seconds", mal_clock_seconds() - begin);
    return true;
}

static bool go_on(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    (void)stage, (void)done, (void)total;
    return !mal_worker_stopping(arg);
}

static bool make_from_data(struct mal_worker *worker, struct mal_error *err) {
    struct mal_fact *facts = NULL;
    size_t n = 0;
    int64_t tokens;
    struct mal_progress progress = {.tick = go_on, .arg = worker};
    if (!mal_facts_load(&facts, &n, worker->o.data, err)) return false;
    bool ok = mal_engine_check_facts(worker->engine, facts, n, 0, &tokens, err) ||
              mal_fail_wrap(err, "%s: %s", worker->o.data, err->pointer);
    ok = ok && mal_worker_need_editor(worker, facts, n, &progress, err);
    mal_facts_free(facts, n);
    return ok;
}

bool mal_worker_load_editor(struct mal_worker *worker, struct mal_error *err) {
    bool make = worker->o.data && !mal_engine_editor(worker->engine);
    if (make && !make_from_data(worker, err)) return false;
    tell_editor(worker);
    return true;
}
