/* http_evaluations.c - POST /v1/evaluations: facts measured on a version, which changes
 * nothing. */
#include "core/alloc.h"
#include "daemon/api/handlers.h"
#include "daemon/api/intake.h"

/* On a work thread. */
static bool decode(struct mal_intake *in, struct mal_error *err) {
    const struct mal_request *req = in->req;
    const char *body = req->body ? req->body : "";
    struct mal_evaluation_request *asked = &in->evaluation;
    int64_t n_tokens;
    if (!mal_decode_evaluation(body, req->body_bytes, (size_t)in->daemon->max_facts,
                               asked, err))
        return false;
    if (asked->suite) {
        in->suite = mal_suites_find(in->daemon->suites, asked->suite, err);
        return in->suite != NULL;
    }
    if (!mal_engine_check_facts(in->engine, asked->facts, asked->n_facts, 0, &n_tokens,
                                err))
        return false;
    in->request_json = mal_encode_facts(asked->facts, asked->n_facts);
    return in->request_json || mal_fail(err, MAL_NO_MEMORY, "facts of the request");
}

/* On the writer's thread. */
static bool prepare(struct mal_intake *in, struct mal_store *store,
                    struct mal_error *err) {
    const struct mal_evaluation_request *asked = &in->evaluation;
    in->job->to_version = asked->version;
    in->job->n_facts = (int64_t)(in->suite ? in->suite->n_facts : asked->n_facts);
    in->note = asked->suite;
    return asked->version < 0 ||
           mal_intake_check_version(store, asked->version, "/version", err);
}

static const struct mal_intake_kind evaluations = {
    .kind = MAL_JOB_EVALUATION, .decode = decode, .prepare = prepare};

void mal_post_evaluations(struct mal_daemon *d, struct mal_request *req) {
    struct mal_intake *in = mal_intake_create(d, req, &evaluations);
    if (in) mal_intake_start(in);
}
