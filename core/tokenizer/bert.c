/* bert.c - BertNormalizer, BertPreTokenizer and BertProcessing.
 *
 * Text is cleaned (control characters dropped, white space made blank), Chinese
 * characters stand alone, accents are stripped, then all is lower case. ASCII takes a
 * table; what stands between takes the way of Unicode. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"
#include "core/tokenizer/unicode.h"
#include "core/utf8.h"

struct bert {
    bool clean, chinese, strip_accents, lower;
    char ascii[128]; /* what a character becomes, DROPPED */
};

static const char DROPPED = '\x7f'; /* or itself, where nothing is cleaned */

/* ---- Normalizer ---- */

static bool is_chinese(int32_t c) {
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b81f) ||
           (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) ||
           (c >= 0x2f800 && c <= 0x2fa1f);
}

static bool is_dropped(int32_t c) {
    if (c == '\t' || c == '\n' || c == '\r') return false;
    return c == 0 || c == 0xfffd || mal_in_table(&mal_control_table, c);
}

/* Appends ASCII up to what is none, or is dropped. */
static size_t put_ascii(const struct bert *bert, const char *text, size_t bytes,
                        struct mal_string *out) {
    char *to = out->text + out->bytes;
    size_t n = 0;
    for (; n < bytes && (unsigned char)text[n] < 0x80; n++) {
        char c = bert->ascii[(unsigned char)text[n]];
        if (c == DROPPED && bert->clean) break;
        to[n] = c;
    }
    out->bytes += n;
    return n;
}

/* How far the text goes on without ASCII that stays: marks on the two sides of a dropped
 * character come together. */
static size_t other_bytes(const struct bert *bert, const char *text, size_t bytes) {
    size_t n = 0;
    while (n < bytes && ((unsigned char)text[n] >= 0x80 ||
                         (bert->clean && bert->ascii[(unsigned char)text[n]] == DROPPED)))
        n++;
    return n;
}

static bool put_clean(const struct bert *bert, const char *text, size_t bytes,
                      struct mal_string *out, struct mal_error *err) {
    if (!mal_string_reserve(out, 2 * bytes, err)) return false;
    for (size_t i = 0; i < bytes;) {
        int32_t point;
        size_t n = mal_utf8_next(text + i, bytes - i, &point);
        bool space = bert->clean && mal_is_space(point);
        bool alone = bert->chinese && is_chinese(point);
        i += n;
        if (bert->clean && is_dropped(point)) continue;
        if (space) point = ' ';
        if (alone) out->text[out->bytes++] = ' ';
        out->bytes += mal_utf8_put(point, out->text + out->bytes);
        if (alone) out->text[out->bytes++] = ' ';
    }
    return true;
}

static bool drop_accents(struct mal_string *text, struct mal_string *work,
                         struct mal_error *err) {
    if (!mal_append_form(work, MAL_NFD, text->text, text->bytes, err)) return false;
    text->bytes = 0;
    if (!mal_string_reserve(text, work->bytes, err)) return false;
    for (size_t i = 0; i < work->bytes;) {
        int32_t point;
        size_t n = mal_utf8_next(work->text + i, work->bytes - i, &point);
        if (point < 0x300 || !mal_in_table(&mal_nonspacing_table, point)) {
            memcpy(text->text + text->bytes, work->text + i, n);
            text->bytes += n;
        }
        i += n;
    }
    return true;
}

/* Appends what text without ASCII (but dropped one) becomes. */
static bool put_other(const struct bert *bert, const char *text, size_t bytes,
                      struct mal_string work[2], struct mal_string *out,
                      struct mal_error *err) {
    work[0].bytes = work[1].bytes = 0;
    if (!put_clean(bert, text, bytes, &work[0], err)) return false;
    if (bert->strip_accents && !drop_accents(&work[0], &work[1], err)) return false;
    return bert->lower ? mal_append_lower(out, work[0].text, work[0].bytes, err)
                       : mal_string_append(out, work[0].text, work[0].bytes, err);
}

static bool normalize(const void *data, struct mal_matcher *matcher, const char *text,
                      size_t bytes, struct mal_string *out, struct mal_error *err) {
    (void)matcher;
    const struct bert *bert = data;
    struct mal_string work[2] = {{0}};
    bool ok = true;
    for (size_t i = 0; ok && i < bytes;) {
        ok = mal_string_reserve(out, bytes - i, err);
        if (!ok) break;
        i += put_ascii(bert, text + i, bytes - i, out);
        size_t n = other_bytes(bert, text + i, bytes - i);
        ok = n == 0 || put_other(bert, text + i, n, work, out, err);
        i += n;
    }
    mal_string_finish(&work[0]);
    mal_string_finish(&work[1]);
    return ok;
}

static bool drops_first(const void *data, struct mal_matcher *matcher, const char *text,
                        size_t bytes, bool *out, struct mal_error *err) {
    (void)matcher, (void)err;
    const struct bert *bert = data;
    int32_t point;
    (void)mal_utf8_next(text, bytes, &point);
    *out = (bert->clean && is_dropped(point)) ||
           (bert->strip_accents && point >= 0x300 &&
            mal_in_table(&mal_nonspacing_table, point));
    return true;
}

static void fill_ascii(struct bert *bert) {
    for (int c = 0; c < 128; c++) {
        char to = (char)c;
        if (bert->clean && is_dropped(c)) to = DROPPED;
        if (bert->clean && (c == '\t' || c == '\n' || c == '\r')) to = ' ';
        if (bert->lower && c >= 'A' && c <= 'Z') to = (char)(c + 32);
        bert->ascii[c] = to;
    }
}

bool mal_bert_normalizer_add(struct mal_tokenizer *tok,
                             const struct mal_bert_options *options, const char *where,
                             struct mal_error *err) {
    struct bert *bert = mal_malloc(sizeof *bert);
    if (!bert)
        return mal_fail(err, MAL_NO_MEMORY, "%s: BertNormalizer", mal_file_shown(where));
    *bert = (struct bert){.clean = options->clean_text,
                          .chinese = options->handle_chinese_chars,
                          .strip_accents = options->strip_accents,
                          .lower = options->lowercase};
    fill_ascii(bert);
    return mal_normalizer_add(&tok->normalizers,
                              (struct mal_normalizer){.run = normalize,
                                                      .destroy = mal_free,
                                                      .data = bert,
                                                      .drops_first = drops_first},
                              where, err);
}

bool mal_read_bert_normalizer(struct mal_tokenizer *tok, const json_t *part,
                              const char *where, struct mal_error *err) {
    struct mal_bert_options options = {true, true, false, true};
    if (!mal_json_bool_opt(part, "clean_text", &options.clean_text, where, err) ||
        !mal_json_bool_opt(part, "handle_chinese_chars", &options.handle_chinese_chars,
                           where, err) ||
        !mal_json_bool_opt(part, "lowercase", &options.lowercase, where, err))
        return false;
    options.strip_accents = options.lowercase; /* unless the file says */
    if (!mal_json_bool_opt(part, "strip_accents", &options.strip_accents, where, err))
        return false;
    return mal_bert_normalizer_add(tok, &options, where, err);
}

/* ---- Pre-tokenizer ---- */

enum kind { LETTER, SPACE, PUNCTUATION };

static enum kind kind_of(int32_t point) {
    if (mal_is_space(point)) return SPACE;
    return mal_in_table(&mal_punctuation_table, point) ? PUNCTUATION : LETTER;
}

static enum kind ascii_kind(unsigned char c) {
    if (c == ' ' || (c >= 9 && c <= 13)) return SPACE;
    if (c < 0x21 || c == 0x7f) return LETTER;
    bool letter =
        (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return letter ? LETTER : PUNCTUATION;
}

static bool cut(const void *data, struct mal_encode_run *run, size_t i_step,
                const char *text, size_t bytes, struct mal_error *err) {
    (void)data;
    size_t from = 0;
    for (size_t i = 0, n; i < bytes; i += n) {
        unsigned char c = (unsigned char)text[i];
        int32_t point;
        enum kind kind;
        if (c < 0x80) {
            n = 1;
            kind = ascii_kind(c);
        } else {
            n = mal_utf8_next(text + i, bytes - i, &point);
            kind = kind_of(point);
        }
        if (kind == LETTER) continue;
        if (!mal_pre_pass(run, i_step, text + from, i - from, err)) return false;
        from = i + n;
        if (kind == PUNCTUATION && !mal_pre_pass(run, i_step, text + i, n, err))
            return false;
    }
    return mal_pre_pass(run, i_step, text + from, bytes - from, err);
}

bool mal_bert_words_add(struct mal_tokenizer *tok, const char *where,
                        struct mal_error *err) {
    return mal_pre_add(tok, (struct mal_pre_step){cut, NULL, NULL}, where, err);
}

bool mal_read_bert_words(struct mal_tokenizer *tok, const json_t *part, const char *where,
                         struct mal_error *err) {
    (void)part;
    return mal_bert_words_add(tok, where, err);
}

/* ---- Post-processor ---- */

static bool read_pair(const struct mal_tokenizer *tok, const json_t *part,
                      const char *key, struct mal_ids *out, const char *where,
                      struct mal_error *err) {
    const json_t *id = json_array_get(json_object_get(part, key), 1);
    json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
    if (value < 0 || value >= tok->vocab.size)
        return mal_part_must_be(key, "[token, id of a token]", where, err);
    return mal_ids_push(out, (int32_t)value, err);
}

bool mal_read_bert_processing(struct mal_tokenizer *tok, const json_t *part,
                              const char *where, struct mal_error *err) {
    struct mal_ids before = {0}, after = {0};
    if (read_pair(tok, part, "cls", &before, where, err) &&
        read_pair(tok, part, "sep", &after, where, err))
        return mal_put_around(tok, &before, &after, err);
    mal_ids_finish(&before);
    mal_ids_finish(&after);
    return false;
}
