/* request_id.h - the id by which a request is found again in answers, logs and the audit.
 */
#ifndef MAL_REQUEST_ID_H
#define MAL_REQUEST_ID_H

#include <stdbool.h>

enum {
    MAL_REQUEST_ID_BYTES =
        129, /* the longest that is taken over, with its closing zero */
    MAL_TRACE_ID_BYTES = 33
};

/* 1 to 128 of [A-Za-z0-9._-]. NULL is not. */
bool mal_request_id_valid(const char *text);

/* The trace id of a W3C traceparent ("00-<32 hex>-<16 hex>-<2 hex>", or a later
 * version's, which begins likewise); "" where it is not valid or NULL. */
void mal_trace_id(const char *traceparent, char out[MAL_TRACE_ID_BYTES]);

#endif
