/* pattern.c - regular expressions over UTF-8, the one file that knows PCRE2.
 *
 * Subjects are checked to be UTF-8 before they come here: PCRE2 would check the rest of
 * the text again at every match, which is quadratic. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/text.h"
#include "core/tokenizer/parts.h"
#include "core/utf8.h"

struct mal_pattern {
    pcre2_code *code;
};

struct mal_matcher {
    pcre2_match_data *data;
    pcre2_match_context *limits;
};

static void *allocate(size_t bytes, void *unused) {
    (void)unused;
    return mal_malloc(bytes);
}

static void release(void *mem, void *unused) {
    (void)unused;
    mal_free(mem);
}

static bool fail_compile(int code, size_t offset, const char *where,
                         struct mal_error *err) {
    if (code == PCRE2_ERROR_NOMEMORY || code == PCRE2_ERROR_HEAP_FAILED)
        return mal_fail(err, MAL_NO_MEMORY, "%s: pattern", mal_file_shown(where));
    PCRE2_UCHAR text[128];
    char shown[MAL_TEXT_SHOWN];
    pcre2_get_error_message(code, text, sizeof text);
    return mal_fail(err, MAL_INVALID, "%s: the pattern is refused at byte %zu: %s",
                    mal_file_shown(where), offset, mal_text_shown(shown, (char *)text));
}

static bool compile(struct mal_pattern **out, const char *regex, uint32_t options,
                    const char *where, struct mal_error *err) {
    struct mal_pattern *pattern = mal_calloc(1, sizeof *pattern);
    pcre2_general_context *memory = pcre2_general_context_create(allocate, release, NULL);
    pcre2_compile_context *context = memory ? pcre2_compile_context_create(memory) : NULL;
    int code = PCRE2_ERROR_NOMEMORY;
    PCRE2_SIZE offset = 0;
    if (pattern && context) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        pcre2_set_bsr(context, PCRE2_BSR_UNICODE);
        pattern->code = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED,
                                      PCRE2_UTF | options, &code, &offset, context);
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(memory);
    if (!pattern || !pattern->code) {
        mal_free(pattern);
        return fail_compile(code, offset, where, err);
    }
    /* Where memory may not be made executable, or there is no compiler for this
     * processor, the pattern is interpreted. */
    (void)pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
    *out = pattern;
    return true;
}

bool mal_pattern_create(struct mal_pattern **out, const char *regex, const char *where,
                        struct mal_error *err) {
    char *translated;
    if (!mal_regex_translate(&translated, regex, where, err)) return false;
    /* MULTILINE: ^ and $ of Oniguruma are those of a line. */
    bool ok = compile(out, translated,
                      PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, where, err);
    mal_free(translated);
    return ok;
}

bool mal_pattern_create_literal(struct mal_pattern **out, const char *text,
                                const char *where, struct mal_error *err) {
    return compile(out, text, PCRE2_LITERAL, where, err);
}

void mal_pattern_destroy(struct mal_pattern *pattern) {
    if (!pattern) return;
    pcre2_code_free(pattern->code);
    mal_free(pattern);
}

bool mal_matcher_create(struct mal_matcher **out, struct mal_error *err) {
    struct mal_matcher *matcher = mal_calloc(1, sizeof *matcher);
    pcre2_general_context *memory = pcre2_general_context_create(allocate, release, NULL);
    if (matcher && memory) {
        matcher->data = pcre2_match_data_create(1, memory);
        matcher->limits = pcre2_match_context_create(memory);
    }
    pcre2_general_context_free(memory);
    if (!matcher || !matcher->data || !matcher->limits) {
        mal_matcher_destroy(matcher);
        return mal_fail(err, MAL_NO_MEMORY, "matching a pattern");
    }
    *out = matcher;
    return true;
}

void mal_matcher_destroy(struct mal_matcher *matcher) {
    if (!matcher) return;
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->limits);
    mal_free(matcher);
}

/* The backtracking a pattern may do grows with the text, not with its square. */
static int match_at(struct mal_match_walk *walk, uint32_t options) {
    size_t most = (size_t)10000000 + 8 * walk->bytes;
    pcre2_set_match_limit(walk->matcher->limits,
                          most > UINT32_MAX ? UINT32_MAX : (uint32_t)most);
    return pcre2_match(walk->pattern->code, (PCRE2_SPTR)walk->text, walk->bytes,
                       walk->next, options | PCRE2_NO_UTF_CHECK, walk->matcher->data,
                       walk->matcher->limits);
}

bool mal_match_next(struct mal_match_walk *walk, size_t *out_start, size_t *out_end,
                    bool *out_found, struct mal_error *err) {
    *out_found = false;
    while (walk->next <= walk->bytes) {
        int rc = match_at(walk, 0);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = match_at(walk, PCRE2_NO_JIT);
        if (rc == PCRE2_ERROR_NOMATCH) return true;
        if (rc == PCRE2_ERROR_NOMEMORY)
            return mal_fail(err, MAL_NO_MEMORY, "matching the tokenizer's pattern");
        if (rc < 0) {
            return mal_fail(err, MAL_INVALID,
                            "the tokenizer's pattern takes too long on this text");
        }
        const PCRE2_SIZE *found = pcre2_get_ovector_pointer(walk->matcher->data);
        size_t start = found[0], end = found[1];
        /* As Hugging Face's walk: no empty match right behind a match. */
        if (end <= start && walk->any && walk->last_end == end) {
            int32_t point;
            walk->next += walk->next < walk->bytes
                              ? mal_utf8_next(walk->text + walk->next,
                                              walk->bytes - walk->next, &point)
                              : 1;
            continue;
        }
        walk->next = walk->last_end = end;
        walk->any = true;
        *out_start = start;
        *out_end = end;
        *out_found = true;
        return true;
    }
    return true;
}

bool mal_pattern_replace(const struct mal_pattern *pattern, struct mal_matcher *matcher,
                         const char *text, size_t bytes, const char *content,
                         struct mal_string *out, struct mal_error *err) {
    struct mal_match_walk walk = {
        .pattern = pattern, .matcher = matcher, .text = text, .bytes = bytes};
    size_t from = 0, n_content = strlen(content);
    for (;;) {
        size_t start, end;
        bool found;
        if (!mal_match_next(&walk, &start, &end, &found, err)) return false;
        if (!found) return mal_string_append(out, text + from, bytes - from, err);
        if (!mal_string_append(out, text + from, start - from, err) ||
            !mal_string_append(out, content, n_content, err))
            return false;
        from = end;
    }
}
