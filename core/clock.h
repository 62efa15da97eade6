/* clock.h - time. */
#ifndef MAL_CLOCK_H
#define MAL_CLOCK_H

#include <stdint.h>

double mal_clock_seconds(void);  /* monotonic, for measuring durations */
int64_t mal_clock_unix_ms(void); /* UTC since 1970, for records */

#endif
