/* metrics_expose.h - what metrics.h counts, as Prometheus reads it. */
#ifndef MAL_METRICS_EXPOSE_H
#define MAL_METRICS_EXPOSE_H

struct mal_exposition;
struct mal_metrics;

void mal_metrics_expose(const struct mal_metrics *metrics, struct mal_exposition *out);

#endif
