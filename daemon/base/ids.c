/* ids.c - sortable ids. */
#include "daemon/base/ids.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum { COUNTER_BITS = 20, DIGITS = 20 };

static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";

void mal_id_follow(struct mal_id_maker *maker, const char *prefix, const char *id) {
    size_t n_prefix = strlen(prefix);
    uint64_t high = 0;
    if (strncmp(id, prefix, n_prefix) != 0 || strlen(id) != n_prefix + DIGITS) return;
    for (int i = 0; i < DIGITS / 2; i++) {
        const char *digit = strchr(alphabet, id[n_prefix + (size_t)i]);
        if (!digit) return;
        high = high << 5 | (uint64_t)(digit - alphabet);
    }
    int64_t ms = (int64_t)(high >> 2) + 1;
    if (ms > maker->last_ms) maker->last_ms = ms;
}

void mal_id_make(struct mal_id_maker *maker, const char *prefix, int64_t now_ms,
                 char out[MAL_ID_BYTES]) {
    if (now_ms > maker->last_ms) {
        maker->last_ms = now_ms;
        maker->counter = 0;
    } else if (++maker->counter >> COUNTER_BITS) {
        maker->last_ms++;
        maker->counter = 0;
    }
    if (!maker->n_random) {
        ssize_t got = getrandom(maker->random, sizeof maker->random, GRND_NONBLOCK);
        if (got != sizeof maker->random) memset(maker->random, 0, sizeof maker->random);
        maker->n_random = MAL_ID_RANDOM;
    }
    uint32_t random = maker->random[--maker->n_random];

    /* 100 bits: 48 time, 20 counter, 32 random. */
    uint64_t high =
        ((uint64_t)maker->last_ms & 0xffffffffffff) << 2 | maker->counter >> 18;
    uint64_t low = (uint64_t)(maker->counter & 0x3ffff) << 32 | random;
    char digits[DIGITS + 1];
    for (int i = 0; i < DIGITS / 2; i++) {
        digits[DIGITS / 2 - 1 - i] = alphabet[high >> (5 * i) & 31];
        digits[DIGITS - 1 - i] = alphabet[low >> (5 * i) & 31];
    }
    digits[DIGITS] = 0;
    snprintf(out, MAL_ID_BYTES, "%.8s%s", prefix, digits);
}
