/* intake.h - the way of every request that makes a job, from its body to the 202.
 *
 * Decoding and checking happen on a work thread, of a large body while it arrives;
 * everything that must be decided in one order (repeats of a key, what is live, room in
 * the queue, ids) on the writer's thread, beside the commit, which small edits that wait
 * together share. The answer is 202 only after that. */
#ifndef MAL_INTAKE_H
#define MAL_INTAKE_H

#include "core/hash.h"
#include "daemon/api/daemon.h"
#include "proto/wire.h"

struct mal_bulk;
struct mal_intake;

struct mal_intake_kind {
    enum mal_job_kind kind;
    bool needs_joint; /* refused where facts are added up */
    bool needs_disk;  /* refused when the disk is nearly full */
    /* On a work thread: takes the piece of the body that is in the request; after
     * mal_intake_receive(). */
    bool (*piece)(struct mal_intake *in, struct mal_error *err);
    /* On a work thread, with the body or its last piece. NULL: the request is decoded
     * already. May fill `answer`: then the request is answered 200 with it and makes no
     * job. */
    bool (*decode)(struct mal_intake *in, struct mal_error *err);
    /* On the writer's thread: fills in what the job is made of. */
    bool (*prepare)(struct mal_intake *in, struct mal_store *store,
                    struct mal_error *err);
    /* On the writer's thread, of a request that is answered 200: NULL, or what is to be
     * looked up before. */
    bool (*check)(struct mal_intake *in, struct mal_store *store, struct mal_error *err);
    /* Of mal_fact_source, for the `facts.n` that there are after decode(). */
    bool (*get_fact)(void *in, struct mal_store *store, size_t i,
                     struct mal_fact_row *out, struct mal_error *err);
};

struct mal_intake {
    struct mal_write write; /* first */
    struct mal_daemon *daemon;
    struct mal_request *req;
    const struct mal_intake_kind *kind;
    const struct mal_engine *engine;
    bool joint;
    const char *key;           /* Idempotency-Key, borrowed from the request; NULL */
    struct mal_hasher *hasher; /* of what is asked for */
    char hash[MAL_HASH_HEX];

    /* What was asked for; owned, the kind's own is filled. */
    struct mal_edits_request edits;
    struct mal_rollback_request rollback;
    struct mal_retraction_request retraction;
    struct mal_evaluation_request evaluation;
    const struct mal_suite *suite; /* that it asks for, borrowed; NULL */
    char *consolidation;           /* its reason; NULL */
    struct mal_bulk *bulk;         /* facts as lines */

    /* What the job is made of. */
    struct mal_queued_job *job; /* id is there; until it is submitted */
    bool reserved;              /* its room in the queue */
    char job_id[MAL_ID_BYTES];  /* and after that; of a repeat, the first's */
    const char *note;           /* borrowed from the request; NULL */
    char *request_json;         /* owned; NULL */
    int64_t now_ms;
    struct mal_fact_source facts; /* new ones */
    char fact_id[MAL_ID_BYTES];   /* of the one that was got last */

    char *answer;
    bool decoded, repeat;
    struct mal_error err;
};

/* For `prepare`: that there is such a version (MAL_INVALID at the pointer), and that its
 * weights are still stored (MAL_CONFLICT). */
bool mal_intake_check_version(struct mal_store *store, int64_t version,
                              const char *pointer, struct mal_error *err) MAL_CHECK;

/* NULL: the request has been refused. */
struct mal_intake *mal_intake_create(struct mal_daemon *d, struct mal_request *req,
                                     const struct mal_intake_kind *kind);
/* Has the body, of at most max_bytes, handed over in pieces while it arrives; `in` is the
 * request's owner until it is handled. Takes over `in`. */
void mal_intake_receive(struct mal_intake *in, uint64_t max_bytes);
/* Goes on; the request will be answered. Takes over `in`. */
void mal_intake_start(struct mal_intake *in);
/* Answers with the error instead. Takes over `in`. */
void mal_intake_refuse(struct mal_intake *in, const struct mal_error *err);

#endif
