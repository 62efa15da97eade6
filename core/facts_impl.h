/* facts_impl.h - one record of a file as a fact, between facts_load.c and facts_forms.c.
 */
#ifndef MAL_FACTS_IMPL_H
#define MAL_FACTS_IMPL_H

#include <jansson.h>

#include "core/facts.h"

/* What errors name. */
struct mal_fact_place {
    const char *path; /* borrowed */
    char where[40];   /* "record 3" or "line 4" */
    char member[40];  /* of the record, ends in ": "; empty: the record itself */
};

/* Always false. */
bool mal_fact_fail(const struct mal_fact_place *at, struct mal_error *err,
                   const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Fills a zeroed fact, which owns what it got whatever becomes of it. *taught stays false
 * where the record is whole, but has nothing to teach. */
bool mal_fact_read(struct mal_fact *fact, bool *taught, struct mal_fact_place *at,
                   const json_t *record, struct mal_error *err) MAL_CHECK;

#endif
