/* http_counts.h - requests by route, method and status. Loop thread only. */
#ifndef MAL_HTTP_COUNTS_H
#define MAL_HTTP_COUNTS_H

#include <stdint.h>

#include "core/error.h"

struct mal_exposition;
struct mal_http_counts;
struct mal_request;

bool mal_http_counts_create(struct mal_http_counts **out,
                            struct mal_error *err) MAL_CHECK;
void mal_http_counts_destroy(struct mal_http_counts *counts); /* takes NULL */

/* An answer goes out. Labels are the patterns of the router's table, never paths: however
 * odd the requests, there are no more series than routes, methods and statuses. */
void mal_http_counts_add(struct mal_http_counts *counts, const struct mal_request *req,
                         int status);
uint64_t mal_http_counts_total(const struct mal_http_counts *counts);
void mal_http_counts_expose(const struct mal_http_counts *counts,
                            struct mal_exposition *out);

#endif
