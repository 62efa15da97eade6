/* whitespace_split.c - WhitespaceSplit, the pre-tokenizer that cuts text at white space. */
#include "core/tokenizer/parts.h"
#include "core/tokenizer/unicode.h"
#include "core/utf8.h"

static size_t skip_word(const char *text, size_t from, size_t bytes) {
    while (from < bytes) {
        int32_t point;
        size_t n = mal_utf8_next(text + from, bytes - from, &point);
        if (mal_is_space(point)) break;
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
