/* space.c - white space as Rust's char::is_whitespace() has it, and WhitespaceSplit, the
 * pre-tokenizer that cuts text there. */
#include "core/tokenizer/parts.h"
#include "core/utf8.h"

static bool is_space(int32_t c) {
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

size_t mal_char_before(const char *text, size_t end) {
    size_t start = end - 1;
    while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80)
        start--;
    return start;
}

size_t mal_skip_space_back(const char *text, size_t end, size_t stop) {
    while (end > stop) {
        size_t start = mal_char_before(text, end);
        int32_t point;
        mal_utf8_next(text + start, end - start, &point);
        if (!is_space(point)) break;
        end = start;
    }
    return end < stop ? stop : end;
}

size_t mal_skip_space(const char *text, size_t from, size_t bytes) {
    while (from < bytes) {
        int32_t point;
        size_t n = mal_utf8_next(text + from, bytes - from, &point);
        if (!is_space(point)) break;
        from += n;
    }
    return from;
}

static size_t skip_word(const char *text, size_t from, size_t bytes) {
    while (from < bytes) {
        int32_t point;
        size_t n = mal_utf8_next(text + from, bytes - from, &point);
        if (is_space(point)) break;
        from += n;
    }
    return from;
}

static bool run_split(const void *data, struct mal_encode_run *run, size_t i_step,
                      const char *text, size_t bytes, struct mal_error *err) {
    (void)data;
    for (size_t from = 0, to; from < bytes; from = to) {
        from = mal_skip_space(text, from, bytes);
        to = skip_word(text, from, bytes);
        if (!mal_pre_pass(run, i_step, text + from, to - from, err)) return false;
    }
    return true;
}

bool mal_read_whitespace_split(struct mal_tokenizer *tok, const json_t *part,
                               const char *where, struct mal_error *err) {
    (void)part;
    return mal_pre_add(tok, (struct mal_pre_step){run_split}, where, err);
}
