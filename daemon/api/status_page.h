/* status_page.h - the last answer of GET /v1/status, which is given again while all that
 * a client could know better is as it was. Loop thread only. */
#ifndef MAL_STATUS_PAGE_H
#define MAL_STATUS_PAGE_H

#include <stddef.h>
#include <stdint.h>

struct mal_engine;

/* What shows in the answer and does not merely flow, as times, rates and sizes do. */
struct mal_status_mark {
    uint64_t commits, changes; /* of the writer, of the status */
    int64_t jobs, facts;       /* in the queue */
    size_t streams;
    const struct mal_engine *engine;
};

/* Starts zeroed. */
struct mal_status_page {
    char *text; /* owned; NULL: none yet */
    struct mal_status_mark mark;
    int64_t made_ms; /* monotonic */
};

#endif
