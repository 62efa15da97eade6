/* http_edits.c - POST /v1/edits: new facts. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "daemon/handlers.h"
#include "daemon/http.h"
#include "daemon/intake.h"

/* ---- On a work thread ---- */

static bool decode(struct mal_intake *in, struct mal_error *err) {
    const struct mal_request *req = in->req;
    const char *body = req->body ? req->body : "";
    bool lines = !strcmp(req->content_type, "application/x-ndjson");
    size_t max = (size_t)in->daemon->max_facts;
    int64_t n_tokens = 0;
    bool ok = lines ? mal_decode_edits_ndjson(body, req->body_bytes, max, &in->edits, err)
                    : mal_decode_edits(body, req->body_bytes, max, &in->edits, err);
    if (!ok) return false;
    if (!mal_engine_check_facts(in->engine, in->edits.facts, in->edits.n_facts, &n_tokens,
                                err)) {
        return false;
    }
    if (!in->edits.validate_only) return true;
    in->answer = mal_json_text(json_pack("{s:b,s:I,s:I}", "valid", 1, "facts",
                                         (json_int_t)in->edits.n_facts, "tokens",
                                         (json_int_t)n_tokens));
    return in->answer || mal_fail(err, MAL_NO_MEMORY, "answer");
}

/* ---- On the writer's thread ---- */

/* A fact keeps the id the client gave it; the others get one. */
static bool name_facts(struct mal_intake *in, struct mal_store *store, int64_t now_ms,
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

static bool keep_gate(struct mal_intake *in, struct mal_error *err) {
    static const char format[] = "{\"gate\":%s}";
    if (!in->edits.gate_json) return true;
    size_t bytes = strlen(in->edits.gate_json) + sizeof format;
    in->request_json = mal_malloc(bytes);
    if (!in->request_json) return mal_fail(err, MAL_NO_MEMORY, "gate of the request");
    (void)snprintf(in->request_json, bytes, format, in->edits.gate_json);
    return true;
}

static bool prepare(struct mal_intake *in, struct mal_store *store, int64_t now_ms,
                    struct mal_error *err) {
    size_t n = in->edits.n_facts;
    in->rows = mal_calloc(n, sizeof *in->rows);
    in->fact_ids = mal_calloc(n, sizeof *in->fact_ids);
    if (!in->rows || !in->fact_ids) return mal_fail(err, MAL_NO_MEMORY, "%zu facts", n);
    in->n_rows = n;
    in->job->n_facts = (int64_t)n;
    in->note = in->edits.note;
    return keep_gate(in, err) && name_facts(in, store, now_ms, err);
}

static const struct mal_intake_kind edits = {
    .kind = MAL_JOB_EDIT, .needs_disk = true, .decode = decode, .prepare = prepare};

void mal_post_edits(struct mal_daemon *d, struct mal_request *req) {
    struct mal_intake *in = mal_intake_create(d, req, &edits);
    if (in) mal_intake_start(in);
}
