/* random.h - the same numbers from the same seed everywhere: splitmix64 (Steele, Lea,
 * Flood).
 */
#ifndef MAL_RANDOM_H
#define MAL_RANDOM_H

#include <stdint.h>

static inline uint64_t mal_random_next(uint64_t *state) {
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline double mal_random_unit(uint64_t *state) {
    return (double)(mal_random_next(state) >> 11) * 0x1p-53; /* in [0, 1) */
}

static inline double mal_random_uniform(uint64_t *state) {
    return ((double)(mal_random_next(state) >> 11) + 0.5) * 0x1p-53; /* in (0, 1) */
}

/* 0 .. n - 1, n > 0 */
static inline uint64_t mal_random_below(uint64_t *state, uint64_t n) {
    return (uint64_t)(mal_random_unit(state) * (double)n);
}

#endif
