/* rates.c - a ring of samples. */
#include "daemon/base/rates.h"

enum { ROOM = MAL_RATE_SECONDS + 1 };

void mal_rates_take(struct mal_rates *rates, const struct mal_rate_sample *now) {
    if (rates->n && now->at - rates->samples[(rates->n - 1) % ROOM].at < 1) return;
    rates->samples[rates->n++ % ROOM] = *now;
}

void mal_rates_per_second(const struct mal_rates *rates,
                          const struct mal_rate_sample *now, double out[MAL_N_RATES]) {
    const struct mal_rate_sample *first =
        &rates->samples[rates->n > ROOM ? rates->n % ROOM : 0];
    double seconds = rates->n ? now->at - first->at : 0;
    for (int i = 0; i < MAL_N_RATES; i++)
        out[i] = seconds > 0 ? (double)(now->n[i] - first->n[i]) / seconds : 0;
}
