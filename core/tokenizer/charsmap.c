/* charsmap.c - the normalization rules inside a SentencePiece model: a double array of
 * the texts that are replaced (Darts), and their replacements.
 *
 * A grapheme cluster of less than 6 bytes is replaced whole by the rule of its shortest
 * beginning that has one; longer ones, and those without, are looked up character by
 * character. This is what Hugging Face's precompiled.rs does, which models converted by
 * it have always been used with; SentencePiece itself takes the longest match. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/spm.h"
#include "core/utf8.h"

enum { WHOLE_CLUSTER_BYTES = 6 };

struct charsmap {
    uint32_t *units;
    size_t n_units;
    char *replacements; /* each ends with a zero byte or the last one */
    size_t n_replacements;
    bool plain[256]; /* ASCII that no rule begins with, and that joins nothing of ASCII */
};

/* ---- Units: bit 31 a value; else label, whether a value is below, offset ---- */

static uint32_t label(uint32_t unit) {
    return unit & (0x80000000u | 0xff);
}

static bool is_value(uint32_t unit) {
    return unit >> 31 != 0;
}

static bool has_value(uint32_t unit) {
    return (unit >> 8 & 1) != 0;
}

static size_t offset(uint32_t unit) {
    return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
}

/* The replacement of the shortest beginning of `text` that has one, NULL: none. */
static const char *find(const struct charsmap *map, const char *text, size_t bytes,
                        size_t *out_bytes) {
    size_t at = offset(map->units[0]);
    for (size_t i = 0; i < bytes && text[i] != 0; i++) {
        unsigned char byte = (unsigned char)text[i];
        at ^= byte;
        uint32_t unit = map->units[at];
        if (label(unit) != byte) return NULL;
        at ^= offset(unit);
        if (!has_value(unit)) continue;
        size_t from = map->units[at] & 0x7fffffffu;
        const char *start = map->replacements + from;
        const char *end = memchr(start, 0, map->n_replacements - from);
        *out_bytes = end ? (size_t)(end - start) : map->n_replacements - from;
        return start;
    }
    return NULL;
}

/* ---- Normalizing ---- */

static bool put(const struct charsmap *map, const char *text, size_t bytes,
                struct mal_string *out, bool *out_replaced, struct mal_error *err) {
    size_t n = 0;
    const char *replacement = find(map, text, bytes, &n);
    *out_replaced = replacement != NULL;
    return !replacement || mal_string_append(out, replacement, n, err);
}

static bool put_cluster(const struct charsmap *map, const char *text, size_t bytes,
                        struct mal_string *out, struct mal_error *err) {
    bool replaced = false;
    if (bytes < WHOLE_CLUSTER_BYTES && !put(map, text, bytes, out, &replaced, err))
        return false;
    for (size_t i = 0, n; !replaced && i < bytes; i += n) {
        int32_t point;
        n = mal_utf8_next(text + i, bytes - i, &point);
        bool one;
        if (!put(map, text + i, n, out, &one, err) ||
            (!one && !mal_string_append(out, text + i, n, err)))
            return false;
    }
    return true;
}

/* How many characters of plain ASCII stand here, each of which is a cluster. */
static size_t plain_run(const struct charsmap *map, const char *text, size_t bytes) {
    size_t n = 0;
    while (n < bytes && map->plain[(unsigned char)text[n]])
        n++;
    /* A mark may join the last one. */
    return n > 0 && n < bytes && (unsigned char)text[n] >= 0x80 ? n - 1 : n;
}

static bool run(const void *data, struct mal_matcher *matcher, const char *text,
                size_t bytes, struct mal_string *out, struct mal_error *err) {
    (void)matcher;
    const struct charsmap *map = data;
    for (size_t i = 0; i < bytes;) {
        size_t n = plain_run(map, text + i, bytes - i);
        if (!mal_string_append(out, text + i, n, err)) return false;
        i += n;
        if (i == bytes) break;
        n = mal_grapheme_next(text + i, bytes - i);
        if (!put_cluster(map, text + i, n, out, err)) return false;
        i += n;
    }
    return true;
}

/* ---- Building ---- */

static void destroy(void *data) {
    struct charsmap *map = data;
    mal_free(map->units);
    mal_free(map->replacements);
    mal_free(map);
}

/* Whatever text is looked up, no unit and no replacement is read that is not there. */
static bool check_units(const struct charsmap *map) {
    for (size_t i = 0; i < map->n_units; i++) {
        uint32_t unit = map->units[i];
        if (is_value(unit)) continue;
        size_t below = i ^ offset(unit);
        if ((below | 0xff) >= map->n_units) return false;
        if (!has_value(unit)) continue;
        size_t from = map->units[below] & 0x7fffffffu;
        if (from > map->n_replacements) return false;
        if (from < map->n_replacements && (map->replacements[from] & 0xc0) == 0x80)
            return false;
    }
    return map->n_units > 0 && !is_value(map->units[0]);
}

static bool fill(struct charsmap *map, const unsigned char *bytes, size_t n,
                 const char **out_problem) {
    for (size_t i = 0; i < map->n_units; i++) {
        const unsigned char *b = bytes + 4 * i;
        map->units[i] = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 |
                        (uint32_t)b[3] << 24;
    }
    map->n_replacements = n - 4 * map->n_units;
    memcpy(map->replacements, bytes + 4 * map->n_units, map->n_replacements);
    *out_problem = "has replacements that are not UTF-8";
    if (!mal_utf8_valid(map->replacements, map->n_replacements)) return false;
    *out_problem = "points outside of itself";
    if (!check_units(map)) return false;
    for (int c = 0; c < 0x80; c++) {
        size_t unused;
        char text = (char)c;
        map->plain[c] = c != '\r' && !find(map, &text, 1, &unused);
    }
    return true;
}

bool mal_charsmap_create(struct mal_normalizer *out, const void *bytes, size_t n,
                         const char *where, struct mal_error *err) {
    const unsigned char *b = bytes;
    const char *problem = "is cut short";
    size_t trie = n < 4 ? 0
                        : (size_t)b[0] | (size_t)b[1] << 8 | (size_t)b[2] << 16 |
                              (size_t)b[3] << 24;
    struct charsmap *map = NULL;
    if (n < 4 || trie > n - 4) goto bad;
    map = mal_calloc(1, sizeof *map);
    if (!map) goto no_memory;
    map->n_units = trie / 4;
    map->units = mal_malloc(trie + 4);
    map->replacements = mal_malloc(n);
    if (!map->units || !map->replacements) goto no_memory;
    if (!fill(map, b + 4, n - 4, &problem)) goto bad;
    *out = (struct mal_normalizer){run, destroy, map};
    return true;

no_memory:
    if (map) destroy(map);
    return mal_fail(err, MAL_NO_MEMORY, "%s: precompiled_charsmap",
                    mal_file_shown(where));
bad:
    if (map) destroy(map);
    return mal_fail(err, MAL_INVALID, "%s: precompiled_charsmap %s",
                    mal_file_shown(where), problem);
}

/* ---- tokenizer.json ---- */

static int base64_digit(char c) {
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Into `out`, of 3 bytes for every 4 characters; false: not base64. */
static bool decode_base64(const char *text, size_t n, unsigned char *out, size_t *out_n) {
    size_t used = 0, pad = 0;
    if (n % 4 != 0) return false;
    while (pad < 2 && pad < n && text[n - 1 - pad] == '=')
        pad++;
    for (size_t i = 0; i < n; i += 4) {
        uint32_t bits = 0;
        for (size_t k = 0; k < 4; k++) {
            int digit = i + k >= n - pad ? 0 : base64_digit(text[i + k]);
            if (digit < 0) return false;
            bits = bits << 6 | (uint32_t)digit;
        }
        out[used++] = (unsigned char)(bits >> 16);
        out[used++] = (unsigned char)(bits >> 8);
        out[used++] = (unsigned char)bits;
    }
    *out_n = used - pad;
    return true;
}

bool mal_read_precompiled(struct mal_tokenizer *tok, const json_t *part,
                          const char *where, struct mal_error *err) {
    const char *text;
    struct mal_normalizer step = {0};
    if (!mal_json_string(part, "precompiled_charsmap", &text, where, err)) return false;
    size_t n = strlen(text), n_map = 0;
    unsigned char *map = mal_malloc(n + 1);
    if (!map) {
        return mal_fail(err, MAL_NO_MEMORY, "%s: precompiled_charsmap",
                        mal_file_shown(where));
    }
    bool ok = decode_base64(text, n, map, &n_map) ||
              mal_part_must_be("precompiled_charsmap", "base64", where, err);
    ok = ok && mal_charsmap_create(&step, map, n_map, where, err) &&
         mal_normalizer_add(&tok->normalizers, step, where, err);
    mal_free(map);
    return ok;
}
