/* worker_resume.c - a batch that takes long goes on after a kill where it was saved:
 * which jobs it was, and the file beside the database. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/json.h"
#include "core/new_file.h"
#include "daemon/base/log.h"
#include "daemon/worker/worker_impl.h"

/* ---- What is saved of an edit ---- */

static void tell(void *arg, enum mal_resume_event what, int64_t done, int64_t total,
                 const struct mal_error *why) {
    (void)arg;
    switch (what) {
    case MAL_RESUMED:
        mal_log("info", "edit resumed", "{s:I,s:I}", "done", (json_int_t)done, "total",
                (json_int_t)total);
        break;
    case MAL_RESUME_SAVED:
        mal_log("info", "edit saved", "{s:I,s:I}", "done", (json_int_t)done, "total",
                (json_int_t)total);
        break;
    case MAL_RESUME_UNREAD:
        mal_log("warning", "edit not resumed", "{s:s}", "detail", why->text);
        break;
    case MAL_RESUME_UNSAVED:
        mal_log("warning", "edit not saved", "{s:s}", "detail", why->text);
        break;
    }
}

static char *run_text(struct mal_worker *worker, const struct mal_job_batch *batch) {
    char weights[MAL_HASH_HEX];
    json_t *jobs = json_array();
    mal_engine_live_hash(worker->engine, weights);
    for (size_t i = 0; i < batch->n_jobs; i++)
        json_array_append_new(jobs, json_string(batch->ids[i]));
    json_t *run =
        json_pack("{s:s,s:s,s:o}", "base_model", mal_engine_base_model(worker->engine),
                  "weights", weights, "jobs", jobs);
    char *text = mal_json_dump(run, JSON_COMPACT);
    json_decref(run);
    return text;
}

bool mal_worker_resume_init(struct mal_worker *worker, const struct mal_job_batch *batch,
                            struct mal_resume *out, struct mal_error *err) {
    *out = (struct mal_resume){.path = worker->o.resume_path,
                               .run = run_text(worker, batch),
                               .seconds = worker->o.save_every,
                               .tell = tell};
    return out->run || mal_fail(err, MAL_NO_MEMORY, "jobs");
}

void mal_worker_resume_finish(struct mal_resume *resume) {
    mal_free((char *)resume->run);
}

static void not_removed(const struct mal_worker *worker, const char *detail) {
    mal_log("warning", "file not removed", "{s:o,s:s}", "path",
            mal_json_fit(worker->o.resume_path), "detail", detail);
}

void mal_worker_resume_done(struct mal_worker *worker) {
    if (unlink(worker->o.resume_path) && errno != ENOENT)
        not_removed(worker, strerror(errno));
}

/* ---- Which jobs it was ---- */

static bool take_ids(struct mal_worker *worker, const json_t *run) {
    const json_t *jobs = json_object_get(run, "jobs");
    size_t n = json_array_size(jobs);
    char(*ids)[MAL_ID_BYTES] = mal_calloc(n + 1, sizeof *ids);
    bool ok = ids && n > 0;
    for (size_t i = 0; ok && i < n; i++) {
        const char *id = json_string_value(json_array_get(jobs, i));
        ok = id && strlen(id) < sizeof *ids;
        if (ok) strcpy(ids[i], id);
    }
    if (!ok) {
        mal_free(ids);
        return false;
    }
    worker->cut_off = ids;
    worker->n_cut_off = n;
    return true;
}

void mal_worker_resume_load(struct mal_worker *worker) {
    struct mal_error why = {0}, left = {0};
    const char *path = worker->o.resume_path;
    char *text = NULL;
    json_t *run = NULL;
    if (!mal_new_file_sweep(path, &left)) not_removed(worker, left.text);
    if (mal_resume_run(path, &text, &why) && mal_json_read(&run, text, path, &why) &&
        !take_ids(worker, run))
        (void)mal_fail(&why, MAL_CORRUPT, "%s: it names no jobs", path);
    json_decref(run);
    mal_free(text);
    if (why.status != MAL_OK && why.status != MAL_NOT_FOUND)
        tell(NULL, MAL_RESUME_UNREAD, 0, 0, &why);
}

size_t mal_worker_cut_off(const struct mal_worker *worker) {
    const struct mal_queued_job *job = worker->jobs;
    for (size_t i = 0; i < worker->n_cut_off; i++, job = job->next) {
        if (!job || strcmp(job->id, worker->cut_off[i])) return 0;
    }
    return worker->n_cut_off;
}

void mal_worker_cut_off_forget(struct mal_worker *worker) {
    mal_free(worker->cut_off);
    worker->cut_off = NULL;
    worker->n_cut_off = 0;
}
