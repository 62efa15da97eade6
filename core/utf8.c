/* utf8.c - UTF-8 by the table of well-formed byte sequences (Unicode, table 3-7). */
#include "core/utf8.h"

#include <string.h>

#include "core/alloc.h"

/* Length by the lead byte, 0: none; and what the second byte may be. */
static size_t lead(unsigned char byte, unsigned char *low, unsigned char *high) {
    *low = 0x80;
    *high = 0xbf;
    if (byte < 0x80) return 1;
    if (byte < 0xc2 || byte > 0xf4) return 0;
    if (byte == 0xe0) *low = 0xa0;
    if (byte == 0xed) *high = 0x9f;
    if (byte == 0xf0) *low = 0x90;
    if (byte == 0xf4) *high = 0x8f;
    return byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

/* As mal_utf8_next(); *out_cut: the bytes end inside of a character that may still be
 * valid. */
static size_t step(const char *text, size_t bytes, int32_t *out_point, bool *out_cut) {
    const unsigned char *p = (const unsigned char *)text;
    unsigned char low, high;
    size_t n = lead(p[0], &low, &high);
    *out_point = -1;
    *out_cut = false;
    if (n == 0) return 1;
    int32_t point = n == 1 ? p[0] : p[0] & (0xff >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if (i == bytes) {
            *out_cut = true;
            return i;
        }
        if (p[i] < low || p[i] > high) return i;
        point = point << 6 | (p[i] & 0x3f);
        low = 0x80;
        high = 0xbf;
    }
    *out_point = point;
    return n;
}

size_t mal_utf8_next(const char *text, size_t bytes, int32_t *out_point) {
    bool cut;
    return step(text, bytes, out_point, &cut);
}

size_t mal_utf8_put(int32_t point, char out[4]) {
    uint32_t c = (uint32_t)point;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (c & 0x3f));
        c >>= 6;
    }
    out[0] = (char)(0xf00u >> n | c);
    return n;
}

bool mal_utf8_valid(const char *text, size_t bytes) {
    int32_t point;
    for (size_t i = 0; i < bytes;) {
        i += mal_utf8_next(text + i, bytes - i, &point);
        if (point < 0) return false;
    }
    return true;
}

size_t mal_utf8_complete_prefix(const char *text, size_t bytes) {
    for (size_t back = 1; back <= 3 && back <= bytes; back++) {
        unsigned char byte = (unsigned char)text[bytes - back];
        if ((byte & 0xc0) == 0x80) continue;
        int32_t point;
        bool cut;
        step(text + bytes - back, back, &point, &cut);
        return cut ? bytes - back : bytes;
    }
    return bytes;
}

char *mal_utf8_fit(const char *text) {
    size_t left = strlen(text), n = 0;
    char *fit = mal_malloc(3 * left + 1);
    while (fit && left > 0) {
        int32_t point;
        size_t bytes = mal_utf8_next(text, left, &point);
        n += mal_utf8_put(point < 0 ? 0xfffd : point, fit + n);
        text += bytes;
        left -= bytes;
    }
    if (fit) fit[n] = '\0';
    return fit;
}
