/* audit.h - who asked for a change, as a row that is written in the change's transaction.
 */
#ifndef MAL_AUDIT_H
#define MAL_AUDIT_H

#include <jansson.h>

#include "daemon/http/server.h"
#include "sql/store.h"

struct mal_audit {
    struct mal_audit_row row; /* texts borrowed from the request and from here */
    char action[128];
    char *detail;
};

/* What the request is and who makes it; `detail` (taken over) says what there is to say
 * beside that. The request must have been checked and outlive *out. */
bool mal_audit_init(struct mal_audit *out, const struct mal_request *req, json_t *detail,
                    struct mal_error *err) MAL_CHECK;
void mal_audit_finish(struct mal_audit *audit); /* takes a zeroed one */

#endif
