/* normalizers.c - normalization forms, Lowercase, Strip and StripAccents. */
#include "core/json.h"
#include "core/tokenizer/parts.h"
#include "core/tokenizer/unicode.h"
#include "core/utf8.h"

/* ---- NFC, NFD, NFKC, NFKD ---- */

static bool run_form(const void *data, struct mal_matcher *matcher, const char *text,
                     size_t bytes, struct mal_string *out, struct mal_error *err) {
    (void)matcher;
    const enum mal_form *form = data;
    return mal_append_form(out, *form, text, bytes, err);
}

static bool add_form(struct mal_tokenizer *tok, enum mal_form form, const char *where,
                     struct mal_error *err) {
    static enum mal_form forms[] = {MAL_NFC, MAL_NFD, MAL_NFKC, MAL_NFKD};

    return mal_normalizer_add(&tok->normalizers,
                              (struct mal_normalizer){run_form, NULL, &forms[form]},
                              where, err);
}

bool mal_normalizer_add_nfc(struct mal_tokenizer *tok, const char *where,
                            struct mal_error *err) {
    return add_form(tok, MAL_NFC, where, err);
}

bool mal_read_nfc(struct mal_tokenizer *tok, const json_t *part, const char *where,
                  struct mal_error *err) {
    (void)part;
    return add_form(tok, MAL_NFC, where, err);
}

bool mal_read_nfd(struct mal_tokenizer *tok, const json_t *part, const char *where,
                  struct mal_error *err) {
    (void)part;
    return add_form(tok, MAL_NFD, where, err);
}

bool mal_read_nfkc(struct mal_tokenizer *tok, const json_t *part, const char *where,
                   struct mal_error *err) {
    (void)part;
    return add_form(tok, MAL_NFKC, where, err);
}

bool mal_read_nfkd(struct mal_tokenizer *tok, const json_t *part, const char *where,
                   struct mal_error *err) {
    (void)part;
    return add_form(tok, MAL_NFKD, where, err);
}

/* ---- Lowercase ---- */

static bool run_lowercase(const void *data, struct mal_matcher *matcher, const char *text,
                          size_t bytes, struct mal_string *out, struct mal_error *err) {
    (void)data, (void)matcher;
    return mal_append_lower(out, text, bytes, err);
}

bool mal_read_lowercase(struct mal_tokenizer *tok, const json_t *part, const char *where,
                        struct mal_error *err) {
    (void)part;
    return mal_normalizer_add(&tok->normalizers, (struct mal_normalizer){run_lowercase},
                              where, err);
}

/* ---- StripAccents: marks are left out ---- */

static bool run_strip_accents(const void *data, struct mal_matcher *matcher,
                              const char *text, size_t bytes, struct mal_string *out,
                              struct mal_error *err) {
    (void)data, (void)matcher;
    for (size_t i = 0; i < bytes;) {
        int32_t point;
        size_t n = mal_utf8_next(text + i, bytes - i, &point);
        if ((point < 0x300 || !mal_in_table(&mal_mark_table, point)) &&
            !mal_string_append(out, text + i, n, err))
            return false;
        i += n;
    }
    return true;
}

static bool drops_accent(const void *data, struct mal_matcher *matcher, const char *text,
                         size_t bytes, bool *out, struct mal_error *err) {
    (void)data, (void)matcher, (void)err;
    int32_t point;
    (void)mal_utf8_next(text, bytes, &point);
    *out = point >= 0x300 && mal_in_table(&mal_mark_table, point);
    return true;
}

bool mal_read_strip_accents(struct mal_tokenizer *tok, const json_t *part,
                            const char *where, struct mal_error *err) {
    (void)part;
    return mal_normalizer_add(
        &tok->normalizers,
        (struct mal_normalizer){.run = run_strip_accents, .drops_first = drops_accent},
        where, err);
}

/* ---- Strip: white space at the ends ---- */

enum side { LEFT = 1, RIGHT = 2 };

static bool run_strip(const void *data, struct mal_matcher *matcher, const char *text,
                      size_t bytes, struct mal_string *out, struct mal_error *err) {
    (void)matcher;
    const int sides = *(const int *)data;
    size_t from = 0, to = bytes;
    if (sides & LEFT) from = mal_skip_space(text, 0, bytes);
    if (sides & RIGHT) to = mal_skip_space_back(text, bytes, from);
    return mal_string_append(out, text + from, to - from, err);
}

static bool drops_space(const void *data, struct mal_matcher *matcher, const char *text,
                        size_t bytes, bool *out, struct mal_error *err) {
    (void)matcher, (void)err;
    const int sides = *(const int *)data;
    *out = (sides & LEFT) && mal_skip_space(text, 0, bytes) > 0;
    return true;
}

bool mal_read_strip(struct mal_tokenizer *tok, const json_t *part, const char *where,
                    struct mal_error *err) {
    static int sides[] = {0, LEFT, RIGHT, LEFT | RIGHT};
    bool left = false, right = false;
    if (!mal_json_bool_opt(part, "strip_left", &left, where, err) ||
        !mal_json_bool_opt(part, "strip_right", &right, where, err))
        return false;
    int *data = &sides[(left ? LEFT : 0) | (right ? RIGHT : 0)];
    return mal_normalizer_add(&tok->normalizers,
                              (struct mal_normalizer){.run = run_strip,
                                                      .data = data,
                                                      .drops_first = drops_space},
                              where, err);
}
