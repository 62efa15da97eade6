/* auth.h - who asks, and whether they may: decided once a request, at its headers.
 *
 * With tokens, a token says who somebody is, and a Unix socket's peer that shows none is
 * who the kernel says it is. Without tokens the callers of a loopback address are taken
 * for the daemon's own user, called "local". The daemon's own user and root may
 * everything, all others nothing. */
#ifndef MAL_AUTH_H
#define MAL_AUTH_H

#include "core/error.h"
#include "daemon/http/role.h"

struct mal_auth;
struct mal_loop;
struct mal_request;

/* `path`: of the file of tokens, borrowed; NULL: without. */
bool mal_auth_create(struct mal_auth **out, const char *path,
                     struct mal_error *err) MAL_CHECK;
void mal_auth_destroy(struct mal_auth *auth); /* takes NULL */

/* What the daemon listens on, as mal_listen() says it; borrowed. */
void mal_auth_listens(struct mal_auth *auth, const char *address);
bool mal_auth_has_tokens(const struct mal_auth *auth);

/* Fills in who asks. False: the request has been answered 401 or 403. */
bool mal_auth_check(const struct mal_auth *auth, struct mal_request *req,
                    enum mal_role needed) MAL_CHECK;

/* Whether one who was let in would still be, the tokens having been read again since. */
bool mal_auth_lasts(const struct mal_auth *auth, struct mal_request *req) MAL_CHECK;
/* The same; false: the request has been answered 401 or 403. */
bool mal_auth_holds(const struct mal_auth *auth, struct mal_request *req) MAL_CHECK;

/* Reads the file again, beside the loop. What cannot be read leaves the tokens as they
 * are, and is logged. */
void mal_auth_reload(struct mal_auth *auth, struct mal_loop *loop);

#endif
