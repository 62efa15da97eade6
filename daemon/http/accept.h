/* accept.h - what a request's Accept header lets an answer be (RFC 9110, 12.5.1). */
#ifndef MAL_ACCEPT_H
#define MAL_ACCEPT_H

#include <stdbool.h>

/* Whether one of `types`, "text/plain" or "text/css, image/png", may be sent. Of several
 * ranges that fit a type the most precise one counts. Without a header (NULL), or where
 * no range in it is well formed, everything may. */
bool mal_accepts(const char *accept, const char *types);

#endif
