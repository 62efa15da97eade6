/* http_edits.c - POST /v1/edits: new facts, as JSON in one piece or as NDJSON while they
 * arrive. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "daemon/api/bulk.h"
#include "daemon/api/handlers.h"
#include "daemon/api/intake.h"
#include "daemon/http/http.h"

/* ---- On the writer's thread ---- */

/* That no other fact has the id the client gave it, if it did. */
static bool check_id(struct mal_store *store, size_t i, const char *id,
                     struct mal_error *err) {
    struct mal_fact_row other = {0};
    struct mal_error none = {0};
    if (!id) return true;
    if (mal_store_get_fact(store, id, &other, &none)) {
        mal_fact_row_finish(&other);
        char pointer[48];
        snprintf(pointer, sizeof pointer, "/facts/%zu/id", i);
        return mal_fail_at(err, MAL_CONFLICT, pointer,
                           "fact %zu: there is a fact '%s' already", i, id);
    }
    if (none.status == MAL_NOT_FOUND) return true;
    *err = none;
    return false;
}

/* A fact keeps the id the client gave it; the others get one. */
static bool name_fact(struct mal_intake *in, struct mal_store *store, size_t i,
                      struct mal_fact_row *row, struct mal_error *err) {
    if (row->id) return check_id(store, i, row->id, err);
    mal_id_make(&in->daemon->ids, "fact_", in->now_ms, in->fact_id);
    row->id = in->fact_id;
    return true;
}

static bool keep_gate(struct mal_intake *in, struct mal_error *err) {
    static const char format[] = "{\"gate\":%s}";
    if (!in->edits.gate_json) return true;
    size_t bytes = strlen(in->edits.gate_json) + sizeof format;
    in->request_json = mal_malloc(bytes);
    if (!in->request_json) return mal_fail(err, MAL_NO_MEMORY, "gate of the request");
    (void)snprintf(in->request_json, bytes, format, in->edits.gate_json);
    return true;
}

static bool prepare(struct mal_intake *in, struct mal_store *store,
                    struct mal_error *err) {
    in->job->n_facts = (int64_t)in->facts.n;
    in->note = in->edits.note;
    return keep_gate(in, err);
}

/* ---- JSON ---- */

static bool decode(struct mal_intake *in, struct mal_error *err) {
    const struct mal_request *req = in->req;
    const char *body = req->body ? req->body : "";
    int64_t n_tokens = 0;
    if (!mal_decode_edits(body, req->body_bytes, (size_t)in->daemon->max_facts,
                          &in->edits, err) ||
        !mal_engine_check_taught(in->engine, in->edits.facts, in->edits.n_facts, 0,
                                 &n_tokens, err)) {
        return false;
    }
    in->facts.n = in->edits.n_facts;
    if (!in->edits.validate_only) return true;
    in->answer = mal_json_text(json_pack("{s:b,s:I,s:I}", "valid", 1, "facts",
                                         (json_int_t)in->edits.n_facts, "tokens",
                                         (json_int_t)n_tokens));
    return in->answer || mal_fail(err, MAL_NO_MEMORY, "answer");
}

static bool check(struct mal_intake *in, struct mal_store *store, struct mal_error *err) {
    for (size_t i = 0; i < in->edits.n_facts; i++) {
        if (!check_id(store, i, in->edits.facts[i].id, err)) return false;
    }
    return true;
}

static bool get_fact(void *arg, struct mal_store *store, size_t i,
                     struct mal_fact_row *out, struct mal_error *err) {
    struct mal_intake *in = arg;
    const struct mal_fact *fact = &in->edits.facts[i];
    *out = (struct mal_fact_row){.id = fact->id,
                                 .prompt = fact->prompt,
                                 .target = fact->target,
                                 .fact_json = in->edits.facts_json[i]};
    return name_fact(in, store, i, out, err);
}

static const struct mal_intake_kind edits = {.kind = MAL_JOB_EDIT,
                                             .needs_disk = true,
                                             .decode = decode,
                                             .prepare = prepare,
                                             .check = check,
                                             .get_fact = get_fact};

/* ---- NDJSON ---- */

static bool add_lines(struct mal_intake *in, struct mal_error *err) {
    return mal_bulk_add(in->bulk, in->req->body, in->req->body_bytes, err);
}

static bool end_lines(struct mal_intake *in, struct mal_error *err) {
    if (in->req->body_bytes > 0 && !add_lines(in, err)) return false;
    if (!mal_bulk_end(in->bulk, err)) return false;
    in->facts.n = mal_bulk_facts(in->bulk);
    return true;
}

static bool next_fact(void *arg, struct mal_store *store, size_t i,
                      struct mal_fact_row *out, struct mal_error *err) {
    struct mal_intake *in = arg;
    return mal_bulk_next(in->bulk, out, err) && name_fact(in, store, i, out, err);
}

static const struct mal_intake_kind edit_lines = {.kind = MAL_JOB_EDIT,
                                                  .needs_disk = true,
                                                  .piece = add_lines,
                                                  .decode = end_lines,
                                                  .prepare = prepare,
                                                  .get_fact = next_fact};

void mal_begin_edits(struct mal_daemon *d, struct mal_request *req) {
    if (strcmp(req->content_type, "application/x-ndjson")) return;
    struct mal_error err = {0};
    struct mal_bulk_options options = {.engine = d->engine,
                                       .db = d->db,
                                       .min_free = d->min_free_disk,
                                       .max_facts = (size_t)d->max_facts,
                                       .max_line = (size_t)d->max_body};
    struct mal_intake *in = mal_intake_create(d, req, &edit_lines);
    if (!in) return;
    if (mal_bulk_create(&in->bulk, &options, &err)) {
        mal_intake_receive(in, (uint64_t)d->max_bulk);
    } else {
        mal_intake_refuse(in, &err);
    }
}

void mal_post_edits(struct mal_daemon *d, struct mal_request *req) {
    struct mal_intake *in = req->owner;
    req->owner = NULL;
    if (!in) in = mal_intake_create(d, req, &edits);
    if (in) mal_intake_start(in);
}
