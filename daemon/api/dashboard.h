/* dashboard.h - the files of daemon/dashboard, as they are in the binary. */
#ifndef MAL_DASHBOARD_H
#define MAL_DASHBOARD_H

#include <stddef.h>

struct mal_resource {
    const char *name; /* "events.js" */
    const char *type; /* for Content-Type */
    const char *etag; /* quoted; of the contents */
    const unsigned char *data;
    size_t bytes;
};

/* The page itself first; ends with a NULL name. */
extern const struct mal_resource mal_dashboard[];

#endif
