/* render.h - rows of the store as the JSON objects of the API. NULL when memory is out.
 */
#ifndef MAL_RENDER_H
#define MAL_RENDER_H

#include <jansson.h>

#include "daemon/base/status.h"
#include "sql/store.h"

/* `status` adds the progress of a running job; NULL: leaves it out. */
json_t *mal_render_job(const struct mal_job_row *row, struct mal_daemon_status *status);
/* As text, from mal_malloc: what is stored as JSON is not read for it. */
char *mal_render_job_text(const struct mal_job_row *row,
                          struct mal_daemon_status *status);
json_t *mal_render_fact(const struct mal_fact_row *row);

/* What a version's row does not say. */
struct mal_version_more {
    char **jobs; /* (n_jobs) that made it, owned by the caller */
    size_t n_jobs;
    uint64_t bytes; /* stored with it */
    bool in_memory;
};

json_t *mal_render_version(const struct mal_version_row *row,
                           const struct mal_version_more *more);

#endif
