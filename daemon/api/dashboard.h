/* dashboard.h - the page made of daemon/dashboard, as it is in the binary. */
#ifndef MAL_DASHBOARD_H
#define MAL_DASHBOARD_H

#include <stddef.h>

struct mal_dashboard {
    const unsigned char *page;
    size_t bytes;
    const char *etag; /* quoted; of the page */
    const char
        *policy; /* Content-Security-Policy: the page's own style and script only */
};

extern const struct mal_dashboard mal_dashboard;

#endif
