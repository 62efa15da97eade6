/* router.h - the table of calls, and what is refused before a handler is asked. */
#ifndef MAL_ROUTER_H
#define MAL_ROUTER_H

#include "daemon/api/daemon.h"
#include "daemon/http/role.h"

enum mal_body {
    MAL_BODY_NONE,
    MAL_BODY_JSON,
    MAL_BODY_JSON_OR_NONE, /* none, and no Content-Type, stands for {} */
    MAL_BODY_JSON_OR_LINES
};

struct mal_route {
    const char *method;
    const char *pattern; /* "/v1/jobs/{id}" */
    void (*handle)(struct mal_daemon *d, struct mal_request *req);
    enum mal_role role; /* the least that may */
    enum mal_body body;
    bool when_loading; /* answered before the model is ready too */
    /* At the headers; may answer, or have the body come in pieces. NULL: nothing. */
    void (*begin)(struct mal_daemon *d, struct mal_request *req);
    /* Media types, as mal_accepts() has them. NULL: JSON; "": whatever is accepted. */
    const char *answers;
    /* Parameters, "limit, after". NULL: none; "*": any, which are not looked at. */
    const char *query;
};

/* The table ends with a NULL method. */
extern const struct mal_route mal_routes[];

/* At the headers: checks who asks and finds the route, or answers 401, 403, 404, 405,
 * 406, 415, 503. */
void mal_router_begin(struct mal_daemon *d, struct mal_request *req);
/* With the body: runs the handler. */
void mal_router_handle(struct mal_daemon *d, struct mal_request *req);

#endif
