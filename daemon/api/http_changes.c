/* http_changes.c - POST /v1/rollbacks and /v1/consolidations. */
#include "daemon/api/handlers.h"
#include "daemon/api/intake.h"

static const char *body_of(const struct mal_request *req) {
    return req->body ? req->body : "";
}

/* ---- Rollbacks ---- */

static bool decode_rollback(struct mal_intake *in, struct mal_error *err) {
    return mal_decode_rollback(body_of(in->req), in->req->body_bytes, &in->rollback, err);
}

static bool prepare_rollback(struct mal_intake *in, struct mal_store *store,
                             struct mal_error *err) {
    in->job->to_version = in->rollback.to_version;
    in->note = in->rollback.reason;
    return mal_intake_check_version(store, in->rollback.to_version, "/to_version", err);
}

static const struct mal_intake_kind rollbacks = {.kind = MAL_JOB_ROLLBACK,
                                                 .decode = decode_rollback,
                                                 .prepare = prepare_rollback};

void mal_post_rollbacks(struct mal_daemon *d, struct mal_request *req) {
    struct mal_intake *in = mal_intake_create(d, req, &rollbacks);
    if (in) mal_intake_start(in);
}

/* ---- Consolidations ---- */

static bool decode_consolidation(struct mal_intake *in, struct mal_error *err) {
    if (in->req->bodiless) return true;
    return mal_decode_consolidation(body_of(in->req), in->req->body_bytes,
                                    &in->consolidation, err);
}

static bool prepare_consolidation(struct mal_intake *in, struct mal_store *store,
                                  struct mal_error *err) {
    in->note = in->consolidation;
    return true;
}

static const struct mal_intake_kind consolidations = {.kind = MAL_JOB_CONSOLIDATION,
                                                      .needs_joint = true,
                                                      .needs_disk = true,
                                                      .decode = decode_consolidation,
                                                      .prepare = prepare_consolidation};

void mal_post_consolidations(struct mal_daemon *d, struct mal_request *req) {
    struct mal_intake *in = mal_intake_create(d, req, &consolidations);
    if (in) mal_intake_start(in);
}
