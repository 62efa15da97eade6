/* unicode.c - lower case, normalization forms and classes of characters; the one file
 * that knows utf8proc.
 *
 * Of utf8proc are used the tables and the composition. Its own loop over a text sorts
 * marks by exchanging neighbours, which is quadratic in a text of marks. */
#include "core/tokenizer/unicode.h"

#include <string.h>
#include <utf8proc.h>

#include "core/alloc.h"
#include "core/tokenizer/parts.h"
#include "core/utf8.h"

bool mal_in_table(const struct mal_range_table *table, int32_t point) {
    size_t a = 0, b = table->n;
    while (a < b) {
        size_t mid = a + (b - a) / 2;
        if (table->ranges[mid].last < point) {
            a = mid + 1;
        } else {
            b = mid;
        }
    }
    return a < table->n && table->ranges[a].first <= point;
}

bool mal_is_space(int32_t c) {
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* ---- Lower case ---- */

/* Letters of Unicode 16 and 17, which utf8proc 2.8 does not know but the package does. */
static const struct {
    int32_t first, last, to;
} new_letters[] = {{0x1c89, 0x1c89, 0x1c8a},    {0xa7cb, 0xa7cb, 0x264},
                   {0xa7cc, 0xa7cc, 0xa7cd},    {0xa7ce, 0xa7ce, 0xa7cf},
                   {0xa7d2, 0xa7d2, 0xa7d3},    {0xa7d4, 0xa7d4, 0xa7d5},
                   {0xa7da, 0xa7da, 0xa7db},    {0xa7dc, 0xa7dc, 0x19b},
                   {0x10d50, 0x10d65, 0x10d70}, {0x16ea0, 0x16eb8, 0x16ebb}};

static int32_t lower(int32_t point) {
    int32_t to = utf8proc_tolower(point);
    if (to != point || point < new_letters[0].first) return to;
    for (size_t i = 0; i < sizeof new_letters / sizeof *new_letters; i++) {
        if (point >= new_letters[i].first && point <= new_letters[i].last)
            return new_letters[i].to + (point - new_letters[i].first);
    }
    return point;
}

bool mal_append_lower(struct mal_string *out, const char *text, size_t bytes,
                      struct mal_error *err) {
    /* The one character that becomes two, and some that become longer, take half as much
     * again. */
    if (!mal_string_reserve(out, bytes + bytes / 2 + 4, err)) return false;
    char *to = out->text + out->bytes;
    for (size_t i = 0; i < bytes;) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x80) {
            *to++ = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
            i++;
            continue;
        }
        int32_t point;
        i += mal_utf8_next(text + i, bytes - i, &point);
        if (point == 0x130) {
            *to++ = 'i';
            to += mal_utf8_put(0x307, to);
        } else {
            to += mal_utf8_put(lower(point), to);
        }
    }
    out->bytes = (size_t)(to - out->text);
    return true;
}

/* ---- Normalization forms ---- */

/* The characters in work, and room for as many more behind them. */
struct points {
    int32_t *points;
    size_t n, capacity;
};

enum { MOST_PARTS = 32 }; /* of one character; U+FDFA has 18 */

static bool reserve(struct points *p, struct mal_error *err) {
    if (p->n + MOST_PARTS <= p->capacity) return true;
    size_t capacity = 2 * p->capacity + 256;
    int32_t *points = mal_realloc(p->points, 2 * capacity * sizeof *points);
    if (!points) return mal_fail(err, MAL_NO_MEMORY, "normalizing a text");
    p->points = points;
    p->capacity = capacity;
    return true;
}

static unsigned class_of(int32_t point) {
    if (point < 0x300) return 0;
    return (unsigned)utf8proc_get_property(point)->combining_class;
}

/* Sorts the marks [from, to) by class, those of a class as they were. */
static void sort_marks(struct points *p, size_t from, size_t to) {
    int32_t *marks = p->points + from, *sorted = p->points + p->capacity;
    size_t start[257] = {0}, n = to - from;
    if (n < 16) {
        for (size_t i = 1; i < n; i++) {
            int32_t mark = marks[i];
            size_t k = i;
            for (; k > 0 && class_of(marks[k - 1]) > class_of(mark); k--)
                marks[k] = marks[k - 1];
            marks[k] = mark;
        }
        return;
    }
    for (size_t i = 0; i < n; i++)
        start[class_of(marks[i]) + 1]++;
    for (size_t c = 1; c < 256; c++)
        start[c] += start[c - 1];
    for (size_t i = 0; i < n; i++)
        sorted[start[class_of(marks[i])]++] = marks[i];
    memcpy(marks, sorted, n * sizeof *marks);
}

static void reorder(struct points *p) {
    size_t from = 0;
    for (size_t i = 0; i <= p->n; i++) {
        if (i < p->n && class_of(p->points[i]) != 0) continue;
        if (i - from > 1) sort_marks(p, from, i);
        from = i + 1;
    }
}

/* The points are decomposed: puts them in order, composes, appends. */
static bool flush(struct points *p, enum mal_form form, struct mal_string *out,
                  struct mal_error *err) {
    if (p->n == 0) return true;
    reorder(p);
    if (form == MAL_NFC || form == MAL_NFKC) {
        utf8proc_ssize_t n = utf8proc_normalize_utf32(p->points, (utf8proc_ssize_t)p->n,
                                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        p->n = n < 0 ? p->n : (size_t)n;
    }
    if (!mal_string_reserve(out, 4 * p->n, err)) return false;
    for (size_t i = 0; i < p->n; i++)
        out->bytes += mal_utf8_put(p->points[i], out->text + out->bytes);
    p->n = 0;
    return true;
}

static bool decompose(struct points *p, int32_t point, utf8proc_option_t options,
                      struct mal_error *err) {
    int last = 0;
    if (!reserve(p, err)) return false;
    utf8proc_ssize_t n =
        utf8proc_decompose_char(point, p->points + p->n, MOST_PARTS, options, &last);
    if (n < 0 || n > MOST_PARTS)
        return mal_fail(err, MAL_INVALID, "U+%04X cannot be decomposed", (unsigned)point);
    p->n += (size_t)n;
    return true;
}

/* Between ASCII, which stays as it is (but is what a mark behind it composes with), and
 * between characters that are not known, text is normalized by itself. */
bool mal_append_form(struct mal_string *out, enum mal_form form, const char *text,
                     size_t bytes, struct mal_error *err) {
    bool compat = form == MAL_NFKC || form == MAL_NFKD;
    utf8proc_option_t options =
        UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    struct points p = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < bytes;) {
        size_t ascii = 0;
        while (i + ascii < bytes && (unsigned char)text[i + ascii] < 0x80)
            ascii++;
        if (ascii > 0) {
            ok = flush(&p, form, out, err) &&
                 mal_string_append(out, text + i, ascii - 1, err) &&
                 decompose(&p, text[i + ascii - 1], options, err);
            i += ascii;
            continue;
        }
        int32_t point;
        size_t n = mal_utf8_next(text + i, bytes - i, &point);
        if (point >= 0x558 && mal_in_table(&mal_unknown_to_forms_table, point)) {
            ok = flush(&p, form, out, err) && mal_string_append(out, text + i, n, err);
        } else {
            ok = decompose(&p, point, options, err);
        }
        i += n;
    }
    ok = ok && flush(&p, form, out, err);
    mal_free(p.points);
    return ok;
}
