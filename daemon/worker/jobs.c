/* jobs.c - what each kind of job does, from what the database holds of it to the version
 * it makes, or to the gate's refusal. */
#include <math.h>
#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"
#include "daemon/base/log.h"
#include "daemon/engine/probes.h"
#include "daemon/worker/bisect.h"
#include "daemon/worker/worker_impl.h"
#include "proto/wire.h"

enum {
    SLICE_TOKENS = 512, /* times the device's breadth: a reader waits for so many */
    MOST_TRIES = 64     /* of parts of a refused batch */
};

/* ---- Ticks ---- */

static bool tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct mal_run *run = arg;
    mal_status_progress(run->worker->o.status, stage, done, total);
    (void)mal_worker_turn(run->worker, MAL_WORK_CHANGES); /* so far */
    if (!mal_worker_share(run->worker, &run->read_err)) return false;
    return !mal_worker_stopping(run->worker);
}

struct mal_progress mal_run_progress(struct mal_run *run) {
    return (struct mal_progress){.tick = tick, .arg = run, .slice_tokens = SLICE_TOKENS};
}

/* ---- Durable, then live ---- */

void mal_worker_count_change(struct mal_worker *worker, const struct mal_change *change) {
    mal_count_stages(worker->o.metrics, change->report.seconds);
    mal_count(&worker->o.metrics->repair_rounds, (uint64_t)change->n_rounds);
}

/* A published change and its jobs. */
static void count_applied(struct mal_worker *worker, const struct mal_change *change,
                          size_t n_jobs, double seconds) {
    static const enum mal_job_kind kinds[MAL_N_VERSION_KINDS] = {
        [MAL_VERSION_BASE] = MAL_JOB_EDIT,
        [MAL_VERSION_EDIT] = MAL_JOB_EDIT,
        [MAL_VERSION_ROLLBACK] = MAL_JOB_ROLLBACK,
        [MAL_VERSION_RETRACTION] = MAL_JOB_RETRACTION,
        [MAL_VERSION_CONSOLIDATION] = MAL_JOB_CONSOLIDATION,
        [MAL_VERSION_REPAIR] = MAL_JOB_REPAIR};
    struct mal_metrics *m = worker->o.metrics;
    mal_count_seconds(&m->stage_ns[MAL_STAGE_PERSIST], seconds);
    mal_count(&m->jobs[kinds[change->row.kind]][MAL_JOB_APPLIED], n_jobs);
    if (change->row.kind != MAL_VERSION_EDIT) return;
    mal_count(&m->facts_edited, (uint64_t)change->row.n_facts);
    mal_count(&m->facts_rejected, change->n_rejected);
    mal_count(&m->facts_wrong, change->n_wrong);
}

/* With what it taught wrong, and how much else stayed as it was. */
static void tell_published(const struct mal_worker *worker,
                           const struct mal_change *change, size_t n_jobs,
                           double seconds) {
    bool edit = change->row.kind == MAL_VERSION_EDIT;
    double agreement = change->measures.agreement;
    mal_log(edit && change->n_wrong ? "warning" : "info", "version published",
            "{s:I,s:s,s:I,s:I,s:o*,s:o*,s:f}", "version",
            (json_int_t)mal_engine_live(worker->engine), "kind",
            mal_version_kind_name(change->row.kind), "jobs", (json_int_t)n_jobs, "facts",
            (json_int_t)change->row.n_facts, "wrong",
            edit ? json_integer((json_int_t)change->n_wrong) : NULL, "agreement",
            edit && isfinite(agreement) ? json_real(agreement) : NULL, "persist_seconds",
            seconds);
}

void mal_worker_tell_joint(struct mal_worker *worker) {
    size_t bytes = 0, n = 0;
    bool in_step = false;
    mal_engine_joint_size(worker->engine, &bytes, &n, &in_step);
    mal_status_set_joint(worker->o.status,
                         &(struct mal_status_joint){.bytes = (int64_t)bytes,
                                                    .facts = (int64_t)n,
                                                    .stale = !in_step});
}

bool mal_worker_apply(struct mal_worker *worker, struct mal_change *change,
                      const char *const *jobs, size_t n_jobs,
                      const struct mal_progress *progress, struct mal_error *err) {
    double begin = mal_clock_seconds();
    bool keyframe = false;
    bool ok =
        mal_retention_wants_keyframe(worker->o.retention, worker->store, &change->row,
                                     mal_clock_unix_ms(), &keyframe, err) &&
        (!(keyframe || change->row.keyframe) ||
         mal_engine_add_keyframe(worker->engine, change, progress, err));
    mal_status_progress(worker->o.status, MAL_STAGE_PERSIST, 0, 1);
    if (!ok || !mal_worker_persist(worker, change, jobs, n_jobs, err)) {
        mal_engine_abandon(worker->engine);
        return false;
    }
    mal_worker_publish(worker, change);
    count_applied(worker, change, n_jobs, mal_clock_seconds() - begin);
    tell_published(worker, change, n_jobs, mal_clock_seconds() - begin);
    mal_worker_prune(worker);
    return true;
}

/* A change that is not to be published. */
static void abandon(struct mal_worker *worker) {
    mal_engine_abandon(worker->engine);
    mal_stager_drop(worker->stager);
}

/* What was solved with other settings is solved anew, be it measured worse: on a system
 * of these settings no change of it could be right. */
bool mal_worker_solve_anew(struct mal_worker *worker, const struct mal_progress *progress,
                           struct mal_error *err) {
    bool otherwise;
    struct mal_change change = {0};
    if (!mal_engine_solved_otherwise(worker->engine, worker->store, &otherwise, err))
        return false;
    if (!otherwise) return true;
    mal_log("warning", "live facts are solved anew", "{s:I,s:s}", "version",
            (json_int_t)mal_engine_live(worker->engine), "detail",
            "they were solved with another ridge, preservation or tokenizer");
    bool ok = mal_engine_consolidate(worker->engine, worker->store, mal_clock_unix_ms(),
                                     progress, &change, err);
    mal_worker_count_change(worker, &change);
    ok = ok && mal_worker_apply(worker, &change, NULL, 0, progress, err);
    mal_change_finish(&change);
    return ok || mal_fail_wrap(err, "the live facts could not be solved anew");
}

/* ---- Edits ---- */

/* Above that number an editor's step costs what should stay as it was. */
static void warn_of_size(struct mal_worker *worker, size_t n_facts) {
    const struct mal_editor *editor = mal_engine_editor(worker->engine);
    if (editor->n_edits == 0 || n_facts <= (size_t)editor->n_edits) return;
    mal_log("warning", "batch above the editor's", "{s:I,s:I}", "facts",
            (json_int_t)n_facts, "editor_facts", (json_int_t)editor->n_edits);
}

/* An edit job, or several, and parts of it. */
struct editing {
    struct mal_worker *worker;
    const char *const *ids;
    struct mal_batch_edit whole;
    struct mal_gate gate, *own; /* of all; (n_jobs) of each request, owned */
    struct mal_agreement agreement;
    const struct mal_progress *progress;
};

/* The strictest of the daemon's gate and the jobs' own; and those by themselves. */
static bool read_gates(struct editing *e, struct mal_error *err) {
    e->gate = *mal_engine_gate(e->worker->engine);
    e->own = mal_calloc(e->whole.n_jobs, sizeof *e->own);
    if (!e->own) return mal_fail(err, MAL_NO_MEMORY, "gates");
    e->whole.gate = &e->gate;
    e->whole.own = e->own;
    for (size_t i = 0; i < e->whole.n_jobs; i++) {
        struct mal_job_row row = {0};
        mal_gate_init_request(&e->own[i], &e->gate);
        bool ok = mal_store_get_job(e->worker->store, e->ids[i], &row, err) &&
                  mal_gate_add_request(&e->gate, row.request_json, err) &&
                  mal_gate_add_request(&e->own[i], row.request_json, err);
        mal_job_row_finish(&row);
        if (!ok) return false;
    }
    return true;
}

static bool make(struct editing *e, const struct mal_batch_edit *batch,
                 struct mal_change *out, struct mal_error *err) {
    bool ok = mal_engine_edit(e->worker->engine, e->worker->store, batch, &e->agreement,
                              mal_clock_unix_ms(), e->progress, out, err);
    mal_worker_count_change(e->worker, out);
    return ok;
}

/* Facts of the whole, by index; arrays owned. */
struct part {
    struct mal_fact *facts;
    int64_t *seqs;
    size_t first[2];
    struct mal_batch_edit batch;
};

static void part_finish(struct part *part) {
    mal_free(part->facts); /* shallow */
    mal_free(part->seqs);
}

static bool part_of(const struct editing *e, const size_t *indices, size_t n,
                    struct part *out, struct mal_error *err) {
    *out = (struct part){.facts = mal_calloc(n + 1, sizeof *out->facts),
                         .seqs = mal_calloc(n + 1, sizeof *out->seqs),
                         .first = {0, n}};
    if (!out->facts || !out->seqs) {
        part_finish(out);
        return mal_fail(err, MAL_NO_MEMORY, "facts");
    }
    for (size_t i = 0; i < n; i++) {
        out->facts[i] = e->whole.facts[indices[i]];
        out->seqs[i] = e->whole.seqs[indices[i]];
    }
    out->batch = (struct mal_batch_edit){.facts = out->facts,
                                         .seqs = out->seqs,
                                         .n = n,
                                         .first = out->first,
                                         .n_jobs = 1,
                                         .gate = &e->gate,
                                         .resume = e->whole.resume};
    return true;
}

static bool try_part(void *arg, const size_t *indices, size_t n, bool *passes,
                     struct mal_error *err) {
    struct editing *e = arg;
    struct part part;
    struct mal_change change = {0};
    struct mal_error own = {0};
    if (!part_of(e, indices, n, &part, err)) return false;
    bool ok = make(e, &part.batch, &change, &own);
    *passes = ok && change.passes;
    if (ok) abandon(e->worker);
    mal_change_finish(&change);
    part_finish(&part);
    if (ok || own.status == MAL_NUMERIC) return true;
    *err = own;
    return false;
}

/* What passed when it was tried is made once more, and may be measured otherwise to
 * rounding: *out false, it is not published then. */
static bool publish_kept(struct editing *e, const struct mal_batch_edit *kept,
                         struct mal_change *change, bool *out, struct mal_error *err) {
    if (!make(e, kept, change, err)) return false;
    *out = change->passes;
    if (*out) return mal_worker_apply(e->worker, change, e->ids, 1, e->progress, err);
    abandon(e->worker);
    return true;
}

/* Publishes what passes of a refused job. *out_left false: nothing does. */
static bool keep_what_passes(struct editing *e, bool *out_left, struct mal_error *err) {
    struct mal_bisect found = {0};
    struct part part = {0};
    struct mal_change change = {0};
    bool ok = mal_bisect_run(&found, e->whole.n, MOST_TRIES, try_part, e, err);
    const char **rejected = mal_calloc(found.n_rejected + 1, sizeof *rejected);
    if (ok && !rejected) ok = mal_fail(err, MAL_NO_MEMORY, "facts");
    for (size_t i = 0; ok && i < found.n_rejected; i++)
        rejected[i] = e->whole.facts[found.rejected[i]].id;
    *out_left = ok && found.n_kept > 0;
    if (*out_left) {
        ok = part_of(e, found.kept, found.n_kept, &part, err);
        part.batch.rejected = rejected;
        part.batch.n_rejected = found.n_rejected;
        part.batch.stager = e->whole.stager;
        ok = ok && publish_kept(e, &part.batch, &change, out_left, err);
    }
    mal_change_finish(&change);
    part_finish(&part);
    mal_free(rejected);
    mal_bisect_finish(&found);
    return ok;
}

/* A job whose change the gate refused, with the refused change's result. */
static bool refuse(struct editing *e, const char *result, const char *problem,
                   struct mal_error *err) {
    bool left = false;
    if (e->gate.bisect && e->whole.n > 1 && !keep_what_passes(e, &left, err))
        return false;
    mal_count_rejection(e->worker->o.metrics, result);
    if (left) return true;
    mal_count(&e->worker->o.metrics->facts_rejected, e->whole.n);
    return mal_worker_reject(e->worker, MAL_JOB_EDIT, e->ids[0], result, problem, err);
}

/* Weights or outputs that are not finite, and a solve that fails, no gate lets through.
 */
static bool refuse_not_finite(struct editing *e, const struct mal_error *why,
                              struct mal_error *err) {
    json_t *result = json_pack("{s:o}", "gate", mal_gate_json_not_finite(why->text));
    char *text = mal_json_dump(result, MAL_JSON_TOLD);
    char *problem = mal_encode_problem(why, mal_status_http(why->status));
    json_decref(result);
    /* first: who sees the job rejected finds the error in the status, too */
    mal_worker_tell_error(e->worker, why);
    bool ok = refuse(e, text, problem, err);
    mal_free(problem);
    mal_free(text);
    return ok;
}

static bool edit(struct editing *e, struct mal_error *err) {
    struct mal_change change = {0};
    struct mal_error why = {0};
    bool made = make(e, &e->whole, &change, &why), ok;
    if (made && change.passes) {
        ok = mal_worker_apply(e->worker, &change, e->ids, e->whole.n_jobs, e->progress,
                              err);
    } else if (made) {
        abandon(e->worker);
        ok = e->whole.n_jobs == 1
                 ? refuse(e, change.results[0], NULL, err)
                 : mal_fail(err, MAL_NUMERIC, "the gate refuses the jobs together");
    } else if (why.status == MAL_NUMERIC && e->whole.n_jobs == 1) {
        ok = refuse_not_finite(e, &why, err);
    } else {
        *err = why;
        ok = false;
    }
    mal_change_finish(&change);
    return ok;
}

static bool run_edit(struct mal_worker *worker, const struct mal_job_batch *batch,
                     struct mal_error *err) {
    struct mal_run run = {.worker = worker};
    struct mal_progress progress = mal_run_progress(&run);
    struct editing e = {.worker = worker,
                        .ids = batch->ids,
                        .whole = {.facts = batch->facts,
                                  .seqs = batch->seqs,
                                  .n = batch->n_facts,
                                  .first = batch->first,
                                  .n_jobs = batch->n_jobs,
                                  .stager = worker->stager},
                        .progress = &progress};
    size_t n = batch->n_facts;
    struct mal_resume resume = {0};
    e.whole.resume = &resume;
    bool ok = mal_worker_resume_init(worker, batch, &resume, err) &&
              mal_worker_need_editor(worker, e.whole.facts, n, &progress, err) &&
              mal_worker_solve_anew(worker, &progress, err);
    if (ok) warn_of_size(worker, n);
    ok = ok && read_gates(&e, err) &&
         mal_engine_ask(worker->engine, e.whole.facts, n, &progress, &e.agreement, err) &&
         edit(&e, err);
    if (!ok && run.read_err.status != MAL_OK) *err = run.read_err;
    mal_agreement_finish(&e.agreement);
    mal_worker_resume_finish(&resume);
    mal_free(e.own);
    return ok;
}

/* ---- Others ---- */

static bool run_rollback(struct mal_worker *worker, const struct mal_job_batch *batch,
                         const struct mal_progress *progress, struct mal_change *change,
                         struct mal_error *err) {
    return mal_engine_rollback(worker->engine, worker->store, batch->jobs->to_version,
                               mal_clock_unix_ms(), progress, change, err) &&
           mal_worker_apply(worker, change, batch->ids, 1, progress, err);
}

static bool retract(struct mal_worker *worker, const struct mal_job_batch *batch,
                    const struct mal_retraction_request *request,
                    const struct mal_progress *progress, struct mal_change *change,
                    struct mal_error *err) {
    struct mal_retraction *facts = mal_calloc(request->n_facts + 1, sizeof *facts);
    if (!facts) return mal_fail(err, MAL_NO_MEMORY, "facts");
    for (size_t i = 0; i < request->n_facts; i++)
        facts[i] =
            (struct mal_retraction){.id = request->facts[i], .pin = !request->drop};
    bool ok = mal_engine_retract(worker->engine, worker->store, facts, request->n_facts,
                                 mal_clock_unix_ms(), progress, change, err) &&
              mal_worker_apply(worker, change, batch->ids, 1, progress, err);
    mal_free(facts);
    return ok;
}

static bool run_retraction(struct mal_worker *worker, const struct mal_job_batch *batch,
                           const struct mal_progress *progress, struct mal_change *change,
                           struct mal_error *err) {
    struct mal_retraction_request request = {0};
    struct mal_job_row row = {0};
    bool ok = mal_store_get_job(worker->store, batch->ids[0], &row, err);
    if (ok && !row.request_json)
        ok = mal_fail(err, MAL_CORRUPT, "job %s names no facts", batch->ids[0]);
    ok = ok &&
         mal_decode_retraction(row.request_json, strlen(row.request_json), SIZE_MAX,
                               &request, err) &&
         retract(worker, batch, &request, progress, change, err);
    mal_retraction_request_finish(&request);
    mal_job_row_finish(&row);
    return ok;
}

static bool run_consolidation(struct mal_worker *worker,
                              const struct mal_job_batch *batch,
                              const struct mal_progress *progress,
                              struct mal_change *change, struct mal_error *err) {
    if (!mal_engine_consolidate(worker->engine, worker->store, mal_clock_unix_ms(),
                                progress, change, err))
        return false;
    if (change->passes)
        return mal_worker_apply(worker, change, batch->ids, 1, progress, err);
    abandon(worker);
    mal_count_rejection(worker->o.metrics, change->results[0]);
    return mal_worker_reject(worker, MAL_JOB_CONSOLIDATION, batch->ids[0],
                             change->results[0], NULL, err);
}

static bool run_other(struct mal_worker *worker, const struct mal_job_batch *batch,
                      struct mal_error *err) {
    struct mal_run run = {.worker = worker};
    struct mal_progress progress = mal_run_progress(&run);
    struct mal_change change = {0};
    bool ok;
    switch (batch->jobs->kind) {
    case MAL_JOB_ROLLBACK:
        ok = run_rollback(worker, batch, &progress, &change, err);
        break;
    case MAL_JOB_RETRACTION:
        ok = mal_worker_solve_anew(worker, &progress, err) &&
             run_retraction(worker, batch, &progress, &change, err);
        break;
    case MAL_JOB_CONSOLIDATION:
        ok = run_consolidation(worker, batch, &progress, &change, err);
        break;
    default:
        ok = mal_fail(err, MAL_INVALID, "jobs of kind '%s' are not run by this version",
                      mal_job_kind_name(batch->jobs->kind));
    }
    if (!ok && run.read_err.status != MAL_OK) *err = run.read_err;
    mal_worker_count_change(worker, &change);
    mal_change_finish(&change);
    return ok;
}

bool mal_worker_run_jobs(struct mal_worker *worker, const struct mal_job_batch *batch,
                         struct mal_error *err) {
    return batch->jobs->kind == MAL_JOB_EDIT ? run_edit(worker, batch, err)
                                             : run_other(worker, batch, err);
}
