/* http_retractions.c - POST /v1/retractions and DELETE /v1/facts/{id}: facts taken back.
 *
 * What a retraction names must be live when it is accepted, or pinned where it is to be
 * dropped, and in no other retraction that still waits; the worker looks again when it
 * runs, since an edit or a rollback before it may have ended a fact. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/utf8.h"
#include "daemon/api/handlers.h"
#include "daemon/api/intake.h"

static bool decode_retraction(struct mal_intake *in, struct mal_error *err) {
    const struct mal_request *req = in->req;
    return mal_decode_retraction(req->body ? req->body : "", req->body_bytes,
                                 (size_t)in->daemon->max_facts, &in->retraction, err);
}

/* ---- What may be retracted ---- */

/* What of the request is at fault where its fact i is: nothing of a DELETE's. */
static const char *pointer_to(const struct mal_intake *in, size_t i, char out[32]) {
    out[0] = 0;
    if (in->retraction.job) {
        (void)snprintf(out, 32, "/job");
    } else if (!in->req->param[0]) {
        (void)snprintf(out, 32, "/facts/%zu", i);
    }
    return out;
}

static bool check_fact(const struct mal_intake *in, struct mal_store *store, size_t i,
                       struct mal_error *err) {
    char pointer[32];
    const char *id = in->retraction.facts[i];
    struct mal_fact_row row = {0};
    struct mal_error none = {0};
    pointer_to(in, i, pointer);
    if (mal_store_get_fact(store, id, &row, &none)) {
        enum mal_fact_state state = row.state;
        bool can = mal_fact_retractable(&row, !in->retraction.drop);
        mal_fact_row_finish(&row);
        return can || mal_fail_at(err, MAL_CONFLICT, pointer, "%s is not live: it is %s",
                                  id, mal_fact_state_name(state));
    }
    if (none.status == MAL_NOT_FOUND && *pointer) {
        return mal_fail_at(err, MAL_INVALID, pointer, "there is no fact '%s'", id);
    }
    *err = none;
    return false;
}

/* The job must have brought facts and be over. */
static bool check_job(const char *id, struct mal_store *store, struct mal_error *err) {
    struct mal_job_row row = {0};
    struct mal_error none = {0};
    if (!mal_store_get_job(store, id, &row, &none)) {
        if (none.status == MAL_NOT_FOUND) {
            return mal_fail_at(err, MAL_INVALID, "/job", "there is no job '%s'", id);
        }
        *err = none;
        return false;
    }
    enum mal_job_kind kind = row.kind;
    enum mal_job_state state = row.state;
    mal_job_row_finish(&row);
    if (kind != MAL_JOB_EDIT) {
        return mal_fail_at(err, MAL_INVALID, "/job",
                           "%s is of kind %s; only an edit has facts", id,
                           mal_job_kind_name(kind));
    }
    if (mal_job_state_ended(state)) return true;
    return mal_fail_at(err, MAL_CONFLICT, "/job", "%s is %s: its facts are not live yet",
                       id, mal_job_state_name(state));
}

/* What can be retracted of a job becomes the facts of the request. */
static bool take_facts(struct mal_retraction_request *asked, size_t max_facts,
                       struct mal_store *store, struct mal_error *err) {
    struct mal_fact_row *rows = NULL;
    size_t n = 0;
    if (!check_job(asked->job, store, err)) return false;
    if (!mal_store_job_facts(store, asked->job, &rows, &n, err)) return false;
    asked->facts = mal_calloc(n + 1, sizeof *asked->facts);
    bool ok = asked->facts || mal_fail(err, MAL_NO_MEMORY, "%zu facts", n);
    for (size_t i = 0; i < n && ok; i++) {
        if (!mal_fact_retractable(&rows[i], !asked->drop)) continue;
        asked->facts[asked->n_facts++] = rows[i].id;
        rows[i].id = NULL;
    }
    mal_fact_rows_free(rows, n);
    if (!ok) return false;
    if (asked->n_facts == 0) {
        return mal_fail_at(err, MAL_CONFLICT, "/job", "%s has no live%s facts",
                           asked->job, asked->drop ? " or pinned" : "");
    }
    if (asked->n_facts <= max_facts) return true;
    return mal_fail_at(err, MAL_TOO_LARGE, "/job",
                       "%s has %zu facts to retract; at most %zu are retracted at once",
                       asked->job, asked->n_facts, max_facts);
}

/* Adds the facts of a stored retraction: id to the job's id. */
static bool add_claims(json_t *claims, const struct mal_job_row *row,
                       struct mal_error *err) {
    struct mal_retraction_request other = {0};
    const char *text = row->request_json ? row->request_json : "";
    if (!mal_decode_retraction(text, strlen(text), SIZE_MAX, &other, err)) {
        return mal_fail_wrap(err, "stored job %s", row->id);
    }
    bool ok = true;
    for (size_t i = 0; i < other.n_facts && ok; i++)
        ok = !json_object_set_new(claims, other.facts[i], json_string(row->id));
    mal_retraction_request_finish(&other);
    return ok || mal_fail(err, MAL_NO_MEMORY, "facts of waiting retractions");
}

/* Facts that retractions in this state name already. */
static bool collect_claims(json_t *claims, struct mal_store *store,
                           enum mal_job_state state, struct mal_error *err) {
    struct mal_job_query query = {
        .kind = MAL_JOB_RETRACTION, .state = (int)state, .limit = SIZE_MAX};
    struct mal_job_row *rows = NULL;
    size_t n = 0;
    bool has_more = false;
    if (!mal_store_list_jobs(store, &query, &rows, &n, &has_more, err)) return false;
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++)
        ok = add_claims(claims, &rows[i], err);
    mal_job_rows_free(rows, n);
    return ok;
}

static bool check_claims(const struct mal_intake *in, struct mal_store *store,
                         struct mal_error *err) {
    json_t *claims = json_object();
    bool ok = claims || mal_fail(err, MAL_NO_MEMORY, "facts of waiting retractions");
    ok = ok && collect_claims(claims, store, MAL_JOB_QUEUED, err) &&
         collect_claims(claims, store, MAL_JOB_RUNNING, err);
    for (size_t i = 0; ok && i < in->retraction.n_facts; i++) {
        const char *id = in->retraction.facts[i];
        const char *by = json_string_value(json_object_get(claims, id));
        char pointer[32];
        ok = !by || mal_fail_at(err, MAL_CONFLICT, pointer_to(in, i, pointer),
                                "%s is to be retracted by %s already", id, by);
    }
    json_decref(claims);
    return ok;
}

static bool prepare_retraction(struct mal_intake *in, struct mal_store *store,
                               struct mal_error *err) {
    struct mal_retraction_request *asked = &in->retraction;
    bool ok = true;
    if (asked->job) {
        ok = take_facts(asked, (size_t)in->daemon->max_facts, store, err);
    }
    for (size_t i = 0; i < asked->n_facts && ok && !asked->job; i++)
        ok = check_fact(in, store, i, err);
    if (!ok || !check_claims(in, store, err)) return false;
    in->note = asked->reason;
    in->job->n_facts = (int64_t)asked->n_facts;
    in->request_json = mal_encode_retraction((const char *const *)asked->facts,
                                             asked->n_facts, asked->drop);
    return in->request_json || mal_fail(err, MAL_NO_MEMORY, "retraction");
}

static const struct mal_intake_kind retractions = {.kind = MAL_JOB_RETRACTION,
                                                   .needs_joint = true,
                                                   .needs_disk = true,
                                                   .decode = decode_retraction,
                                                   .prepare = prepare_retraction};

void mal_post_retractions(struct mal_daemon *d, struct mal_request *req) {
    struct mal_intake *in = mal_intake_create(d, req, &retractions);
    if (in) mal_intake_start(in);
}

/* ---- One fact ---- */

static bool copy_text(const char *text, char **out, struct mal_error *err) {
    *out = text ? mal_strdup(text) : NULL;
    return *out || !text || mal_fail(err, MAL_NO_MEMORY, "request");
}

/* The path and the query say what a retraction's body would. */
static bool read_delete(const struct mal_request *req, struct mal_retraction_request *out,
                        struct mal_error *err) {
    const char *mode = mal_request_query(req, "mode");
    const char *reason = mal_request_query(req, "reason");
    if (req->body_bytes) {
        return mal_fail(err, MAL_MALFORMED,
                        "DELETE takes no body; 'mode' and 'reason' are query parameters");
    }
    if (mode && !mal_parse_mode(mode, &out->drop)) {
        return mal_fail(err, MAL_INVALID,
                        "query parameter 'mode': there is no '%.64s'; expected pin or "
                        "drop",
                        mode);
    }
    if (reason && !mal_utf8_valid(reason, strlen(reason))) {
        return mal_fail(err, MAL_MALFORMED, "query parameter 'reason' is not UTF-8");
    }
    if (reason && !mal_note_fits(reason)) {
        return mal_fail(err, MAL_INVALID,
                        "query parameter 'reason' has more than %d characters",
                        MAL_NOTE_CHARACTERS);
    }
    out->facts = mal_calloc(1, sizeof *out->facts);
    if (!out->facts) return mal_fail(err, MAL_NO_MEMORY, "request");
    out->n_facts = 1;
    return copy_text(req->param[0], &out->facts[0], err) &&
           copy_text(reason, &out->reason, err);
}

static const struct mal_intake_kind deletion = {.kind = MAL_JOB_RETRACTION,
                                                .needs_joint = true,
                                                .needs_disk = true,
                                                .prepare = prepare_retraction};

void mal_delete_fact(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct mal_intake *in = mal_intake_create(d, req, &deletion);
    if (!in) return;
    if (read_delete(req, &in->retraction, &err)) {
        mal_intake_start(in);
    } else {
        mal_intake_refuse(in, &err);
    }
}
