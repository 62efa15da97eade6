/* grapheme.c - where a grapheme cluster ends (UAX 29), for charsmap.c.
 *
 * Hangul, flags, emoji sequences and conjuncts are left out: what these rules join has 6
 * bytes or more, and such a cluster is looked up character by character, as the
 * characters alone are. */
#include "core/tokenizer/spm.h"
#include "core/tokenizer/unicode.h"
#include "core/utf8.h"

static bool is_control(int32_t point) {
    return mal_in_table(&mal_cluster_control_table, point);
}

static bool joins(int32_t before, int32_t point) {
    /* Nothing below U+0300 joins the character before, nothing below U+0600 the next. */
    if (point >= 0x300 && mal_in_table(&mal_cluster_mark_table, point)) return true;
    return before >= 0x600 && mal_in_table(&mal_cluster_prepend_table, before) &&
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
