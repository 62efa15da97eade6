/* text.c - names made fit for messages.
 *
 * Names in model files are hostile: an escape sequence in one must not reach a terminal,
 * and a character cut in half must not reach a JSON answer. */
#include "core/text.h"

#include <stdbool.h>
#include <string.h>

#include "core/utf8.h"

const char *mal_text_shown(char out[MAL_TEXT_SHOWN], const char *text) {
    const size_t room = MAL_TEXT_SHOWN - 4;
    size_t left = strlen(text), used = 0;
    bool cut = false;
    while (left > 0) {
        int32_t point;
        size_t n = mal_utf8_next(text, left, &point);
        bool plain = point >= 0x20 && point != 0x7f && !(point >= 0x80 && point < 0xa0);
        size_t shown = plain ? n : 1;
        cut = used + shown > room;
        if (cut) break;
        if (plain)
            memcpy(out + used, text, n);
        else
            out[used] = '?';
        used += shown;
        text += n;
        left -= n;
    }
    memcpy(out + used, cut ? "..." : "", cut ? 4 : 1);
    return out;
}

char *mal_text_line(char *text) {
    for (char *p = text; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    }
    return text;
}
