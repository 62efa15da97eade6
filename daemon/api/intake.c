/* intake.c - from a request to a durable job. */
#include "daemon/api/intake.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"
#include "daemon/api/audit.h"
#include "daemon/api/bulk.h"
#include "daemon/api/events.h"
#include "daemon/api/render.h"
#include "daemon/engine/engine.h"
#include "daemon/http/http.h"

enum {
    MAX_KEY_BYTES = 255,
    FEW_FACTS = 64 /* of a job that does not keep its neighbours waiting */
};

static void intake_free(struct mal_intake *in) {
    mal_edits_request_finish(&in->edits);
    mal_rollback_request_finish(&in->rollback);
    mal_retraction_request_finish(&in->retraction);
    mal_evaluation_request_finish(&in->evaluation);
    mal_free(in->consolidation);
    mal_free(in->job);
    mal_free(in->request_json);
    mal_bulk_destroy(in->bulk);
    mal_hasher_destroy(in->hasher);
    mal_free(in->answer);
    mal_free(in);
}

void mal_intake_refuse(struct mal_intake *in, const struct mal_error *err) {
    mal_http_fail(in->req, err);
    intake_free(in);
}

/* ---- On a work thread ---- */

/* Two requests are the same if path, parameters and body are, byte for byte. */
static void hash_rest(struct mal_intake *in) {
    const struct mal_request *req = in->req;
    mal_hasher_add(in->hasher, req->body, req->body_bytes);
    if (req->param[0]) {
        const struct mal_retraction_request *asked = &in->retraction;
        mal_hasher_add_text(in->hasher, req->param[0]);
        mal_hasher_add_text(in->hasher, asked->drop ? "drop" : "pin");
        mal_hasher_add_text(in->hasher, asked->reason ? asked->reason : "");
    }
    struct mal_hash hash = mal_hasher_end(in->hasher);
    mal_hash_hex(&hash, in->hash);
}

static void decode(void *arg) {
    struct mal_intake *in = arg;
    hash_rest(in);
    in->decoded = !in->kind->decode || in->kind->decode(in, &in->err);
}

static void decode_piece(void *arg) {
    struct mal_intake *in = arg;
    mal_hasher_add(in->hasher, in->req->body, in->req->body_bytes);
    in->decoded = in->kind->piece(in, &in->err);
}

/* ---- On the writer's thread ---- */

/* The job of an answer that was given before. */
static bool read_id(const char *answer, char out[MAL_ID_BYTES], struct mal_error *err) {
    json_t *job = NULL;
    if (!mal_json_read(&job, answer, "the stored answer", err)) return false;
    const char *id = json_string_value(json_object_get(job, "id"));
    bool ok = (id && strlen(id) < MAL_ID_BYTES) ||
              mal_fail(err, MAL_CORRUPT, "the stored answer names no job");
    if (ok) strcpy(out, id);
    json_decref(job);
    return ok;
}

static bool find_repeat(struct mal_intake *in, struct mal_store *store,
                        struct mal_error *err) {
    char *hash = NULL, *answer = NULL;
    in->repeat = false;
    if (!in->key) return true;
    if (!mal_store_find_idempotency(store, in->key, &hash, &answer, err)) return false;
    bool ok = true;
    if (answer && hash && strcmp(hash, in->hash)) {
        ok = mal_fail(err, MAL_INVALID,
                      "this Idempotency-Key was used for another request");
    } else if (answer && (ok = read_id(answer, in->job_id, err))) {
        in->repeat = true;
        in->answer = answer;
        answer = NULL;
    }
    mal_free(hash);
    mal_free(answer);
    return ok;
}

bool mal_intake_check_version(struct mal_store *store, int64_t version,
                              const char *pointer, struct mal_error *err) {
    struct mal_version_row row = {0};
    struct mal_error none = {0};
    if (mal_store_get_version(store, version, &row, &none)) {
        bool pruned = row.pruned;
        mal_version_row_finish(&row);
        return !pruned || mal_fail_at(err, MAL_CONFLICT, pointer,
                                      "version %lld was pruned: its weights are no "
                                      "longer stored",
                                      (long long)version);
    }
    if (none.status != MAL_NOT_FOUND) {
        *err = none;
        return false;
    }
    return mal_fail_at(err, MAL_INVALID, pointer, "there is no version %lld",
                       (long long)version);
}

/* What the daemon cannot do now, whatever the request says. */
static bool check_able(const struct mal_intake *in, struct mal_error *err) {
    if (in->kind->needs_joint && !mal_engine_need_joint(in->joint, err)) return false;
    struct mal_status_disk disk = mal_status_disk(in->daemon->status);
    if (in->kind->needs_disk && disk.low) {
        return mal_fail(err, MAL_NO_SPACE,
                        "the disk of the database has %lld bytes left, too few for "
                        "another version",
                        (long long)disk.free_bytes);
    }
    return true;
}

/* What the audit says beside the call and the job. */
static json_t *describe(const struct mal_intake *in) {
    json_t *detail = json_object();
    bool retraction = in->kind->kind == MAL_JOB_RETRACTION;
    if (retraction || in->kind->kind == MAL_JOB_EDIT) {
        json_object_set_new(detail, "facts", json_integer(in->job->n_facts));
    }
    if (retraction) {
        json_object_set_new(detail, "mode",
                            json_string(in->retraction.drop ? "drop" : "pin"));
    }
    if (in->req->param[0]) {
        json_object_set_new(detail, "id", json_string(in->req->param[0]));
    }
    if (in->job->to_version >= 0) {
        json_object_set_new(detail, "to_version", json_integer(in->job->to_version));
    }
    return detail;
}

static bool add_job(struct mal_intake *in, struct mal_store *store,
                    struct mal_error *err) {
    struct mal_job_row row = {.id = in->job->id,
                              .kind = in->kind->kind,
                              .state = MAL_JOB_QUEUED,
                              .created_ms = in->now_ms,
                              .n_facts = in->job->n_facts,
                              .version = -1,
                              .to_version = in->job->to_version,
                              .note = (char *)in->note,
                              .request_json = in->request_json};
    in->answer = mal_json_text(mal_render_job(&row, NULL));
    if (!in->answer) return mal_fail(err, MAL_NO_MEMORY, "job");
    struct mal_audit audit = {0};
    bool ok = mal_audit_init(&audit, in->req, describe(in), err) &&
              mal_store_add_job(store, &row, in->facts.n ? &in->facts : NULL, in->key,
                                in->key ? in->hash : NULL, in->key ? in->answer : NULL,
                                &audit.row, err);
    mal_audit_finish(&audit);
    return ok;
}

static void undo(struct mal_write *write) {
    struct mal_intake *in = (struct mal_intake *)write;
    if (in->reserved) mal_worker_release(in->daemon->worker, in->job->n_facts);
    in->reserved = false;
    mal_free(in->job);
    mal_free(in->request_json);
    mal_free(in->answer);
    in->job = NULL;
    in->request_json = in->answer = NULL;
}

static bool make_job(struct mal_intake *in, struct mal_store *store,
                     struct mal_error *err) {
    in->now_ms = mal_clock_unix_ms();
    in->job = mal_calloc(1, sizeof *in->job);
    if (!in->job) return mal_fail(err, MAL_NO_MEMORY, "job");
    in->job->kind = in->kind->kind;
    in->job->to_version = -1;
    mal_id_make(&in->daemon->ids, "job_", in->now_ms, in->job->id);
    memcpy(in->job_id, in->job->id, sizeof in->job_id);
    if (!in->kind->prepare(in, store, err)) return false;
    in->reserved = mal_worker_reserve(in->daemon->worker, in->job->n_facts, err);
    return in->reserved && add_job(in, store, err);
}

static bool commit(struct mal_store *store, void *arg, struct mal_error *err) {
    struct mal_intake *in = arg;
    if (in->answer) return in->kind->check(in, store, err);
    if (!find_repeat(in, store, err)) return false;
    if (in->repeat) return true;
    if (!in->decoded) {
        *err = in->err;
        return false;
    }
    if (check_able(in, err) && make_job(in, store, err)) return true;
    undo(&in->write);
    return false;
}

static void submit(struct mal_write *write) {
    struct mal_intake *in = (struct mal_intake *)write;
    if (!in->job) return; /* a repeat */
    mal_worker_submit(in->daemon->worker, in->job);
    in->job = NULL;
}

/* ---- On the loop ---- */

static void set_location(struct mal_intake *in) {
    char location[64];
    snprintf(location, sizeof location, "/v1/jobs/%s", in->job_id);
    mal_request_set(in->req, "Location", location);
}

static void answer(struct mal_write *write) {
    struct mal_intake *in = (struct mal_intake *)write;
    if (!write->ok) {
        mal_refuse_write(in->daemon, in->req, &write->err);
        intake_free(in);
        return;
    }
    if (*in->job_id) set_location(in);
    if (in->repeat) mal_request_set(in->req, "Idempotent-Replayed", "true");
    mal_http_text(in->req, *in->job_id ? 202 : 200, in->answer);
    mal_events_wake(in->daemon->events);
    in->answer = NULL;
    intake_free(in);
}

/* Its commit may be one with its neighbours'. */
static bool is_small(const struct mal_intake *in) {
    return in->kind->kind == MAL_JOB_EDIT && !in->bulk && !in->answer &&
           in->facts.n <= FEW_FACTS;
}

static void decoded(void *arg) {
    struct mal_intake *in = arg;
    if (!in->decoded && !in->key) {
        mal_intake_refuse(in, &in->err);
    } else if (in->answer && !in->kind->check) {
        mal_http_text(in->req, 200, in->answer);
        in->answer = NULL;
        intake_free(in);
    } else { /* what is refused now may be the repeat of what was taken once */
        in->write = (struct mal_write){.fn = commit,
                                       .arg = in,
                                       .undo = is_small(in) ? undo : NULL,
                                       .committed = submit,
                                       .done = answer};
        mal_writer_post(in->daemon->writer, in->daemon->loop, &in->write);
    }
}

static bool check_key(const char *key, struct mal_error *err) {
    if (!key) return true;
    size_t n = strlen(key);
    bool ok = n >= 1 && n <= MAX_KEY_BYTES;
    for (size_t i = 0; i < n && ok; i++)
        ok = key[i] > 32 && key[i] < 127;
    if (ok) return true;
    return mal_fail(err, MAL_MALFORMED,
                    "the Idempotency-Key must have 1 to %d visible ASCII characters",
                    MAX_KEY_BYTES);
}

struct mal_intake *mal_intake_create(struct mal_daemon *d, struct mal_request *req,
                                     const struct mal_intake_kind *kind) {
    struct mal_error err = {0};
    const char *key = mal_request_header(req, "Idempotency-Key");
    struct mal_intake *in = NULL;
    if (check_key(key, &err)) {
        in = mal_calloc(1, sizeof *in);
        if (!in) mal_fail(&err, MAL_NO_MEMORY, "request");
    }
    if (!in) {
        mal_http_fail(req, &err);
        return NULL;
    }
    in->daemon = d;
    in->req = req;
    in->kind = kind;
    in->engine = d->engine;
    in->joint = !strcmp(d->update, "joint");
    in->key = key;
    in->facts = (struct mal_fact_source){.get = kind->get_fact, .arg = in};
    if (!mal_hasher_create(&in->hasher, &err)) {
        mal_intake_refuse(in, &err);
        return NULL;
    }
    mal_hasher_add_text(in->hasher, mal_job_kind_name(kind->kind));
    mal_hasher_add_text(in->hasher, req->content_type);
    return in;
}

static void piece_decoded(void *arg) {
    struct mal_intake *in = arg;
    if (in->decoded) {
        mal_request_more(in->req);
    } else {
        in->req->owner = NULL;
        mal_intake_refuse(in, &in->err);
    }
}

static void on_piece(struct mal_request *req) {
    struct mal_intake *in = req->owner;
    struct mal_error err = {0};
    if (!mal_loop_work(in->daemon->loop, decode_piece, piece_decoded, in, &err)) {
        in->req->owner = NULL;
        mal_intake_refuse(in, &err);
    }
}

static void on_gone(struct mal_request *req) {
    intake_free(req->owner);
}

void mal_intake_receive(struct mal_intake *in, uint64_t max_bytes) {
    in->req->owner = in;
    mal_request_receive(in->req, &(struct mal_receiver){.max_bytes = max_bytes,
                                                        .piece = on_piece,
                                                        .gone = on_gone});
}

void mal_intake_start(struct mal_intake *in) {
    struct mal_error err = {0};
    if (!mal_loop_work(in->daemon->loop, decode, decoded, in, &err)) {
        mal_intake_refuse(in, &err);
    }
}
