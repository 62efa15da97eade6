/* events.h - GET /v1/events: those who follow what happens to jobs and versions.
 *
 * Each has a place in the store's table of events and reads on from there when its client
 * has taken all before: nothing is kept for it in memory, however far behind it is. While
 * a version is durable and not live yet, nothing from then on is told, so that who is
 * told of a version finds it everywhere. Loop thread only. */
#ifndef MAL_EVENTS_H
#define MAL_EVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

struct mal_auth;
struct mal_daemon_status;
struct mal_events;
struct mal_request;
struct mal_store;

/* `reader` is the loop's own, `status` says which version is live, `auth` who may go on
 * following. */
bool mal_events_create(struct mal_events **out, struct mal_store *reader,
                       struct mal_daemon_status *status, const struct mal_auth *auth,
                       int64_t max_streams, struct mal_error *err) MAL_CHECK;
/* Takes NULL; all streams must have ended. */
void mal_events_destroy(struct mal_events *events);

struct mal_events_query {
    int64_t after;    /* the last event the client has; -1: it begins with what comes */
    const char *kind; /* "job", "version", a constant; NULL: both */
};

/* Answers the request with a stream. MAL_NOT_READY: there are as many as there may be. */
bool mal_events_follow(struct mal_events *events, struct mal_request *req,
                       const struct mal_events_query *query,
                       struct mal_error *err) MAL_CHECK;

/* There may be new events, or time has passed: to be called whenever something was
 * committed, and a few times a second. */
void mal_events_wake(struct mal_events *events);
/* Ends all streams. */
void mal_events_stop(struct mal_events *events);

size_t mal_events_streams(const struct mal_events *events);

struct mal_events_view {
    size_t streams, max_streams;
    int64_t last; /* id of the last event that may be told; 0: there is none yet */
};

bool mal_events_view(struct mal_events *events, struct mal_events_view *out,
                     struct mal_error *err) MAL_CHECK;

#endif
