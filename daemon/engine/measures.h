/* measures.h - how measures are shown: the API's JSON, and columns of a terminal's table.
 */
#ifndef MAL_MEASURES_H
#define MAL_MEASURES_H

#include <jansson.h>

#include "core/eval.h"

/* {"facts","teacher_forced":{...},"decoded":{...},"agreement"}; a share that is NaN is
 * left out. NULL: out of memory. */
json_t *mal_measures_json(const struct mal_measures *m);
/* {"es","gs","ls"} */
json_t *mal_shares_json(double es, double gs, double ls);
/* {stage: seconds} of the first n stages */
json_t *mal_seconds_json(const double *seconds, int n);

/* Three right-aligned columns of percent, "-" for a NaN. */
void mal_print_shares(double es, double gs, double ls);

#endif
