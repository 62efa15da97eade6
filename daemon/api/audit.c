/* audit.c - requests as rows of the audit. */
#include "daemon/api/audit.h"

#include <stdint.h>
#include <stdio.h>

#include "core/alloc.h"
#include "daemon/api/router.h"
#include "daemon/http/http.h"

bool mal_audit_init(struct mal_audit *out, const struct mal_request *req, json_t *detail,
                    struct mal_error *err) {
    const struct mal_route *route = req->route;
    *out = (struct mal_audit){.detail = mal_json_text(detail)};
    if (!out->detail) return mal_fail(err, MAL_NO_MEMORY, "audit");
    (void)snprintf(out->action, sizeof out->action, "%s %s", route->method,
                   route->pattern);
    /* The row does not own them: the store only reads it. */
    out->row = (struct mal_audit_row){
        .who = (char *)(uintptr_t)req->who,
        .role = (char *)(uintptr_t)mal_role_name(req->role),
        .origin = (char *)(uintptr_t)req->peer->origin,
        .action = out->action,
        .request_id = (char *)(uintptr_t)req->id,
        .detail_json = out->detail,
    };
    return true;
}

void mal_audit_finish(struct mal_audit *audit) {
    mal_free(audit->detail);
    *audit = (struct mal_audit){0};
}
