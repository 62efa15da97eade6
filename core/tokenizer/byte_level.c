/* byte_level.c - GPT-2's alphabet: bytes that print stand for themselves (as Latin-1),
 * the others for the characters from U+0100 on, in order. */
#include "core/tokenizer/parts.h"
#include "core/utf8.h"

/* The bytes 0x00-0x20, 0x7f-0xa0 and 0xad are the ones that move. */
static int32_t point_of(unsigned char byte) {
    if (byte <= 0x20) return 0x100 + byte;
    if (byte >= 0x7f && byte <= 0xa0) return 0x121 + (byte - 0x7f);
    return byte == 0xad ? 0x143 : byte;
}

static int byte_of(int32_t point) {
    if (point >= 0x100 && point <= 0x120) return point - 0x100;
    if (point >= 0x121 && point <= 0x142) return point - 0x121 + 0x7f;
    if (point == 0x143) return 0xad;
    return point < 0x100 && point_of((unsigned char)point) == point ? point : -1;
}

size_t mal_byte_level_put(unsigned char byte, char out[4]) {
    return mal_utf8_put(point_of(byte), out);
}

size_t mal_byte_level_decode(const char *token, size_t bytes, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < bytes;) {
        int32_t point;
        i += mal_utf8_next(token + i, bytes - i, &point);
        int byte = point < 0 ? -1 : byte_of(point);
        if (byte < 0) {
            for (size_t k = 0; k < bytes; k++)
                out[k] = token[k];
            return bytes;
        }
        out[n++] = (char)byte;
    }
    return n;
}
