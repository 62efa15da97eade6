/* regex.c - rewrites a pattern of a tokenizer.json for PCRE2.
 *
 * Hugging Face reads patterns with Oniguruma (Ruby's syntax) and its newer Unicode
 * tables. The constructs that tokenizers use are rewritten where the two differ, and what
 * may mean something else is refused: wrong ids would be worse than no ids. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/tokenizer/parts.h"

/* Unicode's White_Space, for inside of brackets; PCRE2's \s also has U+180E. */
#define SPACE                                                                          \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
    "\\x{202f}\\x{205f}\\x{3000}"

/* Letters by kind, marks and numbers that came with Unicode 15 to 16, which PCRE2 before
 * 10.45 does not know. */
#define NEW_UPPER "\\x{1c89}\\x{a7cb}-\\x{a7cc}\\x{a7da}\\x{a7dc}\\x{10d50}-\\x{10d65}"
#define NEW_LOWER "\\x{1c8a}\\x{a7cd}\\x{a7db}\\x{10d70}-\\x{10d85}\\x{1df25}-\\x{1df2a}"
#define NEW_MODIFIERS                                                \
    "\\x{10d4e}\\x{10d6f}\\x{16d40}-\\x{16d42}\\x{16d6b}-\\x{16d6c}" \
    "\\x{1e030}-\\x{1e06d}\\x{1e4eb}"
#define NEW_OTHERS                                                              \
    "\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d4d}\\x{10d4f}\\x{10ec2}-\\x{10ec4}" \
    "\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}"            \
    "\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}"  \
    "\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}"            \
    "\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"           \
    "\\x{16d43}-\\x{16d6a}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1e4d0}-\\x{1e4ea}"  \
    "\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}"            \
    "\\x{31350}-\\x{323af}"
#define NEW_MARKS                                                                  \
    "\\x{897}\\x{cf3}\\x{ece}\\x{10d69}-\\x{10d6d}\\x{10efc}-\\x{10eff}\\x{11241}" \
    "\\x{113b8}-\\x{113c0}\\x{113c2}\\x{113c5}\\x{113c7}-\\x{113ca}"               \
    "\\x{113cc}-\\x{113d0}\\x{113d2}\\x{113e1}-\\x{113e2}\\x{11f00}-\\x{11f01}"    \
    "\\x{11f03}\\x{11f34}-\\x{11f3a}\\x{11f3e}-\\x{11f42}\\x{11f5a}\\x{13440}"     \
    "\\x{13447}-\\x{13455}\\x{1611e}-\\x{1612f}\\x{1e08f}\\x{1e4ec}-\\x{1e4ef}"    \
    "\\x{1e5ee}-\\x{1e5ef}"
#define NEW_NUMBERS                                                                        \
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}" \
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}" \
    "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"

/* The same for the marks and digits of words. */
#define NEW_WORD                                                                \
    "\\x{897}\\x{cf3}\\x{ece}\\x{10d40}-\\x{10d49}\\x{10d69}-\\x{10d6d}"        \
    "\\x{10efc}-\\x{10eff}\\x{11241}\\x{113b8}-\\x{113c0}\\x{113c2}\\x{113c5}"  \
    "\\x{113c7}-\\x{113ca}\\x{113cc}-\\x{113d0}\\x{113d2}\\x{113e1}-\\x{113e2}" \
    "\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f00}-\\x{11f01}\\x{11f03}" \
    "\\x{11f34}-\\x{11f3a}\\x{11f3e}-\\x{11f42}\\x{11f50}-\\x{11f5a}\\x{13440}" \
    "\\x{13447}-\\x{13455}\\x{1611e}-\\x{16139}\\x{16d70}-\\x{16d79}"           \
    "\\x{1ccf0}-\\x{1ccf9}\\x{1e08f}\\x{1e4ec}-\\x{1e4f9}\\x{1e5ee}-\\x{1e5ef}" \
    "\\x{1e5f1}-\\x{1e5fa}"

/* Properties whose new members are added to what PCRE2 knows. */
static const struct {
    const char *name, *set;
} properties[] = {{"L", "\\p{L}" NEW_UPPER NEW_LOWER NEW_MODIFIERS NEW_OTHERS},
                  {"Lu", "\\p{Lu}" NEW_UPPER},
                  {"Ll", "\\p{Ll}" NEW_LOWER},
                  {"Lm", "\\p{Lm}" NEW_MODIFIERS},
                  {"Lo", "\\p{Lo}" NEW_OTHERS},
                  {"M", "\\p{M}" NEW_MARKS},
                  {"N", "\\p{N}" NEW_NUMBERS}};

const char mal_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

const char mal_qwen2_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

const char mal_word_pattern[] =
    "\\A[\\p{L}\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}" NEW_WORD "]";

/* Written to only by the functions below; a failed allocation sticks. */
struct builder {
    char *out;
    size_t used, capacity;
    bool failed;
};

static void append(struct builder *b, const char *text, size_t bytes) {
    if (b->failed) return;
    if (b->used + bytes + 1 > b->capacity) {
        size_t capacity = 2 * (b->used + bytes) + 256;
        char *out = mal_realloc(b->out, capacity);
        if (!out) {
            b->failed = true;
            return;
        }
        b->out = out;
        b->capacity = capacity;
    }
    memcpy(b->out + b->used, text, bytes);
    b->used += bytes;
    b->out[b->used] = 0;
}

static void append_text(struct builder *b, const char *text) {
    append(b, text, strlen(text));
}

/* A set of characters, which brings its own brackets unless it stands in some. */
static void append_set(struct builder *b, const char *set, bool negated, bool in_class) {
    if (!in_class) append_text(b, negated ? "[^" : "[");
    append_text(b, set);
    if (!in_class) append_text(b, "]");
}

static bool is_hex(char c) {
    return strchr("0123456789abcdefABCDEF", c) && c;
}

static bool is_alnum(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* \p{Name} or \P{Name} at p; returns what follows, NULL: refused. */
static const char *property(struct builder *b, const char *p, bool in_class) {
    bool negated = p[1] == 'P';
    if (p[2] != '{') return NULL;
    const char *name = p + 3;
    size_t n = 0;
    while (is_alnum(name[n]) || name[n] == '_')
        n++;
    if (n == 0 || name[n] != '}') return NULL;
    for (size_t i = 0; i < sizeof properties / sizeof *properties; i++) {
        const char *known = properties[i].name;
        if (strlen(known) != n || strncmp(name, known, n) != 0) continue;
        if (negated && in_class) return NULL;
        append_set(b, properties[i].set, negated, in_class);
        return name + n + 1;
    }
    append(b, p, n + 4);
    return name + n + 1;
}

/* \uHHHH, \xHH (ASCII only: above, it is a byte), \x{H...}; p points to the letter. */
static const char *code_point(struct builder *b, const char *p) {
    const char *digits = p + 1;
    bool braces = *p == 'x' && *digits == '{';
    if (braces) digits++;
    size_t n = 0, most = braces ? 6 : *p == 'u' ? 4 : 2;
    while (n < most && is_hex(digits[n]))
        n++;
    if (n == 0 || (!braces && n != most) || (braces && digits[n] != '}')) return NULL;
    if (*p == 'x' && !braces && digits[0] > '7') return NULL;
    append_text(b, "\\x{");
    append(b, digits, n);
    append_text(b, "}");
    return digits + n + (braces ? 1 : 0);
}

/* The escape at p, a backslash; returns what follows, NULL: refused. */
static const char *escape(struct builder *b, const char *p, bool in_class) {
    switch (p[1]) {
    case 's': append_set(b, SPACE, false, in_class); return p + 2;
    case 'S':
        append_set(b, in_class ? "\\S\\x{180e}" : SPACE, true, in_class);
        return p + 2;
    case 'p':
    case 'P': return property(b, p, in_class);
    case 'u':
    case 'x': return code_point(b, p + 1);
    case 'v': append_text(b, "\\x{b}"); return p + 2;
    case 'r':
    case 'n':
    case 't':
    case 'f':
    case 'd':
    case 'D': append(b, p, 2); return p + 2;
    case 'A':
    case 'z':
        if (in_class) return NULL;
        append(b, p, 2);
        return p + 2;
    default:
        if (p[1] < 0x21 || p[1] > 0x7e || is_alnum(p[1])) return NULL;
        append(b, p, 2);
        return p + 2;
    }
}

/* A class in brackets; Oniguruma's nested classes and intersections are refused. */
static const char *class(struct builder *b, const char *p) {
    append(b, p, 1);
    p++;
    if (*p == '^') append(b, p++, 1);
    if (*p == ']') return NULL;
    while (p && *p != ']') {
        if (*p == 0 || *p == '[' || (p[0] == '&' && p[1] == '&')) return NULL;
        if (*p == '\\') {
            p = escape(b, p, true);
        } else {
            append(b, p++, 1);
        }
    }
    if (!p) return NULL;
    append(b, p, 1);
    return p + 1;
}

static const char *group(struct builder *b, const char *p) {
    static const char *const kinds[] = {"(?:",  "(?i:", "(?=", "(?!",
                                        "(?<=", "(?<!", "(?>"};
    if (p[1] != '?') {
        append(b, p, 1);
        return p + 1;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t n = strlen(kinds[i]);
        if (strncmp(p, kinds[i], n) != 0) continue;
        append(b, p, n);
        return p + n;
    }
    return NULL;
}

/* {n}, {n,}, {n,m}. A '+' or '?' behind it is a second quantifier to Oniguruma. */
static const char *interval(struct builder *b, const char *p) {
    const char *q = p + 1;
    size_t digits = strspn(q, "0123456789");
    if (digits == 0) return NULL;
    q += digits;
    if (*q == ',') q += 1 + strspn(q + 1, "0123456789");
    if (*q != '}' || q[1] == '+' || q[1] == '?' || q[1] == '*') return NULL;
    append(b, p, (size_t)(q + 1 - p));
    return q + 1;
}

bool mal_regex_translate(char **out, const char *regex, const char *where,
                         struct mal_error *err) {
    struct builder b = {0};
    append(&b, "", 0);
    const char *p = regex;
    while (p && *p) {
        const char *here = p;
        switch (*p) {
        case '\\': p = escape(&b, p, false); break;
        case '[': p = class(&b, p); break;
        case '(': p = group(&b, p); break;
        case '{': p = interval(&b, p); break;
        default: append(&b, p++, 1); break;
        }
        if (p) continue;
        mal_free(b.out);
        return mal_fail(err, MAL_INVALID,
                        "%s: the pattern is not supported from its byte %zu on",
                        mal_file_shown(where), (size_t)(here - regex));
    }
    if (b.failed) {
        mal_free(b.out);
        return mal_fail(err, MAL_NO_MEMORY, "%s: pattern", mal_file_shown(where));
    }
    *out = b.out;
    return true;
}
