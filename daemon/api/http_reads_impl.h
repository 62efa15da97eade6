/* http_reads_impl.h - a completion or scores from the request to the answer. */
#ifndef MAL_HTTP_READS_IMPL_H
#define MAL_HTTP_READS_IMPL_H

#include <jansson.h>

#include "daemon/api/daemon.h"
#include "proto/wire.h"

struct mal_streaming;

struct mal_inquiry {
    struct mal_read read; /* first */
    struct mal_daemon *daemon;
    struct mal_request *req;
    const struct mal_engine *engine;
    bool score;
    struct mal_completion_request completion;
    struct mal_scores_request scores;
    struct mal_ids *prompts;         /* (n_prompts) */
    struct mal_generation *gens;     /* (n_prompts) */
    struct mal_score_item *items;    /* (n_items) */
    struct mal_streaming *streaming; /* NULL: answered whole */
    bool decoded;
    struct mal_error err;

    char id[MAL_ID_BYTES]; /* of the answer */
    int64_t created_ms;
};

void mal_inquiry_free(struct mal_inquiry *q);

/* What every answer begins with: its id and time, and the header that names the version.
 */
void mal_inquiry_begin(struct mal_inquiry *q);

/* A choice, or a piece of one. `from_start`: nothing of it has been sent before, so that
 * the prompt comes first where it is to be echoed. */
json_t *mal_render_choice(const struct mal_inquiry *q, size_t i, bool from_start,
                          const char *text, size_t bytes, bool ended,
                          enum mal_finish finish);
json_t *mal_render_usage(const struct mal_inquiry *q); /* of gens that have ended */
/* Takes over both; usage NULL: without. */
json_t *mal_render_completion(const struct mal_inquiry *q, json_t *choices,
                              json_t *usage);

/* ---- Streamed (http_reads_stream.c) ---- */

/* The read's pieces will be sent as they come. `q->read` has its gens and waits to be
 * asked for; from then on the answer is nobody else's. */
bool mal_streaming_create(struct mal_inquiry *q, struct mal_error *err) MAL_CHECK;
void mal_streaming_free(struct mal_streaming *streaming); /* takes NULL */

#endif
