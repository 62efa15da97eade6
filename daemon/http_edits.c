/* http_edits.c - POST /v1/edits and /v1/rollbacks: what puts a job into the queue.
 *
 * Decoding and checking happen on a work thread; everything that must be decided in one
 * order (repeats of a key, room in the queue, ids) on the writer's thread, beside the
 * commit. The answer is 202 only after that. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/hash.h"
#include "daemon/daemon.h"
#include "daemon/handlers.h"
#include "daemon/http.h"
#include "daemon/render.h"
#include "proto/wire.h"

enum { MAX_KEY_BYTES = 255 };

struct intake {
    struct mal_write write; /* first */
    struct mal_daemon *daemon;
    struct mal_request *req;
    const struct mal_engine *engine;
    enum mal_job_kind kind;
    const char *key; /* Idempotency-Key, borrowed from the request; NULL */
    char body_hash[MAL_HASH_HEX];
    struct mal_edits_request edits;
    struct mal_rollback_request rollback;
    int64_t n_tokens;
    struct mal_fact_row *rows; /* (edits.n_facts), texts borrowed from edits */
    char (*fact_ids)[MAL_ID_BYTES];
    struct mal_queued_job *job; /* until it is submitted */
    char *answer;
    bool decoded;
    struct mal_error err;
};

static void intake_free(struct intake *in) {
    mal_edits_request_finish(&in->edits);
    mal_rollback_request_finish(&in->rollback);
    mal_free(in->rows);
    mal_free(in->fact_ids);
    mal_free(in->job);
    mal_free(in->answer);
    mal_free(in);
}

static void fail(struct intake *in, const struct mal_error *err) {
    mal_http_fail(in->req, err);
    intake_free(in);
}

/* ---- On a work thread ---- */

/* Two requests are the same if path and body are, byte for byte. */
static bool hash_body(struct intake *in, struct mal_error *err) {
    struct mal_hasher *hasher = NULL;
    if (!mal_hasher_create(&hasher, err)) return false;
    mal_hasher_add_text(hasher, in->kind == MAL_JOB_EDIT ? "edit" : "rollback");
    mal_hasher_add_text(hasher, in->req->content_type);
    mal_hasher_add(hasher, in->req->body, in->req->body_bytes);
    struct mal_hash hash = mal_hasher_end(hasher);
    mal_hasher_destroy(hasher);
    mal_hash_hex(&hash, in->body_hash);
    return true;
}

static bool decode_edits(struct intake *in, struct mal_error *err) {
    const struct mal_request *req = in->req;
    const char *body = req->body ? req->body : "";
    bool lines = !strcmp(req->content_type, "application/x-ndjson");
    size_t max = (size_t)in->daemon->max_facts;
    bool ok = lines ? mal_decode_edits_ndjson(body, req->body_bytes, max, &in->edits, err)
                    : mal_decode_edits(body, req->body_bytes, max, &in->edits, err);
    if (!ok) return false;
    if (in->edits.gate_json) {
        return mal_fail_at(err, MAL_INVALID, "/gate",
                           "quality gates are not available in this version");
    }
    return mal_engine_check_facts(in->engine, in->edits.facts, in->edits.n_facts,
                                  &in->n_tokens, err);
}

static void decode(void *arg) {
    struct intake *in = arg;
    const char *body = in->req->body ? in->req->body : "";
    if (!hash_body(in, &in->err)) return;
    in->decoded =
        in->kind == MAL_JOB_EDIT
            ? decode_edits(in, &in->err)
            : mal_decode_rollback(body, in->req->body_bytes, &in->rollback, &in->err);
}

/* ---- On the writer's thread ---- */

static bool find_repeat(struct intake *in, struct mal_store *store, bool *out_repeat,
                        struct mal_error *err) {
    char *hash = NULL, *answer = NULL;
    *out_repeat = false;
    if (!in->key) return true;
    if (!mal_store_find_idempotency(store, in->key, &hash, &answer, err)) return false;
    bool ok = true;
    if (answer && hash && strcmp(hash, in->body_hash)) {
        ok =
            mal_fail(err, MAL_INVALID, "this Idempotency-Key was used with another body");
    } else if (answer) {
        *out_repeat = true;
        in->answer = answer;
        answer = NULL;
    }
    mal_free(hash);
    mal_free(answer);
    return ok;
}

/* A fact keeps the id the client gave it; the others get one. */
static bool name_facts(struct intake *in, struct mal_store *store, int64_t now_ms,
                       struct mal_error *err) {
    for (size_t i = 0; i < in->edits.n_facts; i++) {
        const struct mal_fact *fact = &in->edits.facts[i];
        struct mal_fact_row *row = &in->rows[i];
        *row = (struct mal_fact_row){.index = (int64_t)i,
                                     .job = in->job->id,
                                     .version = -1,
                                     .prompt = fact->prompt,
                                     .target = fact->target,
                                     .fact_json = in->edits.facts_json[i]};
        if (!fact->id) {
            mal_id_make(&in->daemon->ids, "fact_", now_ms, in->fact_ids[i]);
            row->id = in->fact_ids[i];
            continue;
        }
        row->id = fact->id;
        struct mal_fact_row other = {0};
        struct mal_error none = {0};
        if (mal_store_get_fact(store, fact->id, &other, &none)) {
            mal_fact_row_finish(&other);
            char pointer[48];
            snprintf(pointer, sizeof pointer, "/facts/%zu/id", i);
            return mal_fail_at(err, MAL_CONFLICT, pointer,
                               "fact %zu: there is a fact '%s' already", i, fact->id);
        }
        if (none.status != MAL_NOT_FOUND) {
            *err = none;
            return false;
        }
    }
    return true;
}

static bool prepare_edit(struct intake *in, struct mal_store *store, int64_t now_ms,
                         struct mal_error *err) {
    size_t n = in->edits.n_facts;
    in->rows = mal_calloc(n, sizeof *in->rows);
    in->fact_ids = mal_calloc(n, sizeof *in->fact_ids);
    if (!in->rows || !in->fact_ids) return mal_fail(err, MAL_NO_MEMORY, "%zu facts", n);
    return name_facts(in, store, now_ms, err);
}

static bool prepare_rollback(struct intake *in, struct mal_store *store,
                             struct mal_error *err) {
    struct mal_version_row row = {0};
    struct mal_error none = {0};
    if (mal_store_get_version(store, in->rollback.to_version, &row, &none)) {
        mal_version_row_finish(&row);
        return true;
    }
    if (none.status != MAL_NOT_FOUND) {
        *err = none;
        return false;
    }
    return mal_fail_at(err, MAL_INVALID, "/to_version", "there is no version %lld",
                       (long long)in->rollback.to_version);
}

static bool add_job(struct intake *in, struct mal_store *store, int64_t now_ms,
                    struct mal_error *err) {
    bool edit = in->kind == MAL_JOB_EDIT;
    struct mal_job_row row = {.id = in->job->id,
                              .kind = in->kind,
                              .state = MAL_JOB_QUEUED,
                              .created_ms = now_ms,
                              .n_facts = in->job->n_facts,
                              .version = -1,
                              .to_version = in->job->to_version,
                              .note = edit ? in->edits.note : in->rollback.reason};
    in->answer = mal_json_text(mal_render_job(&row, NULL));
    if (!in->answer) return mal_fail(err, MAL_NO_MEMORY, "job");
    return mal_store_add_job(store, &row, in->rows, edit ? in->edits.n_facts : 0, in->key,
                             in->key ? in->body_hash : NULL, in->key ? in->answer : NULL,
                             err);
}

static bool commit(struct mal_store *store, void *arg, struct mal_error *err) {
    struct intake *in = arg;
    struct mal_worker *worker = in->daemon->worker;
    bool repeat;
    if (!find_repeat(in, store, &repeat, err)) return false;
    if (repeat) return true;
    int64_t now_ms = mal_clock_unix_ms();
    bool edit = in->kind == MAL_JOB_EDIT;
    in->job = mal_calloc(1, sizeof *in->job);
    if (!in->job) return mal_fail(err, MAL_NO_MEMORY, "job");
    in->job->kind = in->kind;
    in->job->n_facts = edit ? (int64_t)in->edits.n_facts : 0;
    in->job->to_version = edit ? -1 : in->rollback.to_version;
    mal_id_make(&in->daemon->ids, "job_", now_ms, in->job->id);
    if (!mal_worker_reserve(worker, in->job->n_facts, err)) return false;
    bool ok = (edit ? prepare_edit(in, store, now_ms, err)
                    : prepare_rollback(in, store, err)) &&
              add_job(in, store, now_ms, err);
    if (!ok) {
        mal_worker_release(worker, in->job->n_facts);
        return false;
    }
    mal_worker_submit(worker, in->job);
    in->job = NULL;
    return true;
}

/* ---- On the loop ---- */

static bool set_location(struct mal_request *req, const char *answer) {
    json_t *job = json_loads(answer, 0, NULL);
    const char *id = json_string_value(json_object_get(job, "id"));
    char location[64];
    if (id) {
        snprintf(location, sizeof location, "/v1/jobs/%s", id);
        mal_request_set(req, "Location", location);
    }
    json_decref(job);
    return id != NULL;
}

static void committed(struct mal_write *write) {
    struct intake *in = (struct intake *)write;
    if (write->ok && !set_location(in->req, in->answer)) {
        write->ok = mal_fail(&write->err, MAL_CORRUPT, "the stored answer is unreadable");
    }
    if (!write->ok) {
        fail(in, &write->err);
        return;
    }
    mal_http_text(in->req, 202, in->answer);
    in->answer = NULL;
    intake_free(in);
}

static void decoded(void *arg) {
    struct intake *in = arg;
    if (!in->decoded) {
        fail(in, &in->err);
    } else if (in->edits.validate_only) {
        mal_http_json(in->req, 200,
                      json_pack("{s:b,s:I,s:I}", "valid", 1, "facts",
                                (json_int_t)in->edits.n_facts, "tokens",
                                (json_int_t)in->n_tokens));
        intake_free(in);
    } else {
        in->write.fn = commit;
        in->write.arg = in;
        in->write.done = committed;
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

static void take_in(struct mal_daemon *d, struct mal_request *req,
                    enum mal_job_kind kind) {
    struct mal_error err = {0};
    const char *key = mal_request_header(req, "Idempotency-Key");
    if (!check_key(key, &err)) {
        mal_http_fail(req, &err);
        return;
    }
    struct intake *in = mal_calloc(1, sizeof *in);
    if (!in) {
        mal_http_refuse(req, 503, "out of memory");
        return;
    }
    in->daemon = d;
    in->req = req;
    in->engine = d->engine;
    in->kind = kind;
    in->key = key;
    if (!mal_loop_work(d->loop, decode, decoded, in, &err)) fail(in, &err);
}

void mal_post_edits(struct mal_daemon *d, struct mal_request *req) {
    take_in(d, req, MAL_JOB_EDIT);
}

void mal_post_rollbacks(struct mal_daemon *d, struct mal_request *req) {
    take_in(d, req, MAL_JOB_ROLLBACK);
}
