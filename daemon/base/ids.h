/* ids.h - ids that sort by time: a prefix, 48 bits of milliseconds, 20 of a counter and
 * 32 random ones, in Crockford's base32.
 *
 * One maker hands out strictly ascending ids, also when the clock is set back. It belongs
 * to the thread that commits, so that the order of ids is the order of commits. */
#ifndef MAL_IDS_H
#define MAL_IDS_H

#include <stddef.h>
#include <stdint.h>

enum {
    MAL_ID_BYTES = 32, /* longest id with its closing zero */
    MAL_ID_RANDOM = 16 /* random numbers got at a time */
};

/* Zero-initialise. */
struct mal_id_maker {
    int64_t last_ms;
    uint32_t counter; /* within last_ms, 20 bits */
    uint32_t random[MAL_ID_RANDOM];
    size_t n_random; /* not used yet */
};

/* The next ids come after `id`, which another maker made with that prefix: before a
 * restart, when the clock may have been ahead. Anything else is passed over. */
void mal_id_follow(struct mal_id_maker *maker, const char *prefix, const char *id);

/* `prefix` such as "job_", at most 8 bytes. */
void mal_id_make(struct mal_id_maker *maker, const char *prefix, int64_t now_ms,
                 char out[MAL_ID_BYTES]);

#endif
