/* grapheme.c - where a grapheme cluster ends (UAX 29), for charsmap.c.
 *
 * Hangul, flags, emoji sequences and conjuncts are left out: what these rules join has 6
 * bytes or more, and such a cluster is looked up character by character, as the
 * characters alone are. */
#include "core/tokenizer/grapheme_table.h"
#include "core/tokenizer/spm.h"
#include "core/utf8.h"

#define N_RANGES(table) (sizeof(table) / sizeof *(table))

static bool is_in(const struct range *table, size_t n, int32_t point) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (point > table[mid].last) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < n && point >= table[lo].first;
}

static bool is_control(int32_t point) {
    return is_in(controls, N_RANGES(controls), point);
}

static bool joins(int32_t before, int32_t point) {
    /* Most text has neither marks nor what comes before U+0300 and joins. */
    if (point >= marks[0].first && is_in(marks, N_RANGES(marks), point)) return true;
    return before >= prepends[0].first && is_in(prepends, N_RANGES(prepends), before) &&
           !is_control(point);
}

size_t mal_grapheme_next(const char *text, size_t bytes) {
    int32_t before, point;
    size_t n = mal_utf8_next(text, bytes, &before);
    if (before == '\r' && n < bytes && text[n] == '\n') return 2;
    if (n == bytes || is_control(before)) return n;
    for (size_t more; n < bytes; n += more, before = point) {
        more = mal_utf8_next(text + n, bytes - n, &point);
        if (!joins(before, point)) break;
    }
    return n;
}
