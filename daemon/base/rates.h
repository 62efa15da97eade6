/* rates.h - running figures over the last minute. Loop thread only. */
#ifndef MAL_RATES_H
#define MAL_RATES_H

#include <stddef.h>
#include <stdint.h>

enum mal_rate {
    MAL_RATE_FACTS,
    MAL_RATE_JOBS,
    MAL_RATE_REQUESTS,
    MAL_RATE_READS,
    MAL_RATE_TOKENS,
    MAL_N_RATES
};

enum { MAL_RATE_SECONDS = 60 };

struct mal_rate_sample {
    double at; /* seconds of a clock that only goes forward */
    uint64_t n[MAL_N_RATES];
};

/* Starts zeroed. */
struct mal_rates {
    struct mal_rate_sample samples[MAL_RATE_SECONDS + 1]; /* a ring, a second apart */
    size_t n;                                             /* ever taken */
};

/* To be called a few times a second with what has been counted so far. */
void mal_rates_take(struct mal_rates *rates, const struct mal_rate_sample *now);
/* Per second, over the last minute or the life so far; zeros at the beginning. */
void mal_rates_per_second(const struct mal_rates *rates,
                          const struct mal_rate_sample *now, double out[MAL_N_RATES]);

#endif
