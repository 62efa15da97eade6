/* added_tokens.c - tokens that are recognised as a whole before the text is cut into
 * words.
 *
 * Leftmost, then longest, without overlaps: as added_vocabulary.rs of Hugging Face's
 * tokenizers, which this follows in every corner (a match refused by single_word is still
 * consumed). */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/text.h"
#include "core/tokenizer/parts.h"
#include "core/tokenizer/unicode.h"
#include "core/utf8.h"

/* Where the character that ends at `end` begins. */
static size_t char_before(const char *text, size_t end) {
    size_t start = end - 1;
    while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80)
        start--;
    return start;
}

size_t mal_skip_space_back(const char *text, size_t end, size_t stop) {
    while (end > stop) {
        size_t start = char_before(text, end);
        int32_t point;
        mal_utf8_next(text + start, end - start, &point);
        if (!mal_is_space(point)) break;
        end = start;
    }
    return end < stop ? stop : end;
}

size_t mal_skip_space(const char *text, size_t from, size_t bytes) {
    while (from < bytes) {
        int32_t point;
        size_t n = mal_utf8_next(text + from, bytes - from, &point);
        if (!mal_is_space(point)) break;
        from += n;
    }
    return from;
}

/* ---- Building ---- */

static bool keep(struct mal_added_set *set, const struct mal_added_token *token) {
    if (set->n == set->capacity) {
        size_t capacity = 2 * set->capacity + 16;
        struct mal_added_token *tokens =
            mal_realloc(set->tokens, capacity * sizeof *tokens);
        if (!tokens) return false;
        set->tokens = tokens;
        set->capacity = capacity;
    }
    char *content = mal_strdup(token->content);
    if (!content) return false;
    set->tokens[set->n] = *token;
    set->tokens[set->n++].content = content;
    return true;
}

bool mal_added_add(struct mal_added_tokens *added, struct mal_vocab *vocab,
                   const struct mal_added_token *token, const char *where,
                   struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN];
    if (token->bytes == 0) return true;
    if (token->bytes > MAL_MAX_ADDED_BYTES) {
        return mal_fail(err, MAL_INVALID, "%s: added token '%s' is longer than %d bytes",
                        mal_file_shown(where), mal_text_shown(shown, token->content),
                        MAL_MAX_ADDED_BYTES);
    }
    int32_t there = mal_vocab_find(vocab, token->content, token->bytes);
    if (there >= 0 && vocab->tokens[there].is_added) {
        return mal_fail(err, MAL_INVALID, "%s: added token '%s' is there twice",
                        mal_file_shown(where), mal_text_shown(shown, token->content));
    }
    if (there >= 0 && there != token->id) {
        return mal_fail(err, MAL_INVALID,
                        "%s: added token '%s' has another id than in the vocabulary (%d)",
                        mal_file_shown(where), mal_text_shown(shown, token->content),
                        there);
    }
    if (there < 0) {
        if (!mal_vocab_add(vocab, token->content, token->bytes, token->id, where, err))
            return false;
        vocab->tokens[token->id].in_model = false;
    }
    vocab->tokens[token->id].is_added = true;
    vocab->tokens[token->id].is_special = token->special;
    if (!keep(token->normalized ? &added->normalized : &added->raw, token))
        return mal_fail(err, MAL_NO_MEMORY, "%s: added tokens", mal_file_shown(where));
    return true;
}

static bool set_content(struct mal_added_token *token, const char *text, size_t bytes) {
    char *content = mal_malloc(bytes + 1);
    if (!content) return false;
    if (bytes > 0) memcpy(content, text, bytes);
    content[bytes] = 0;
    mal_free(token->content);
    token->content = content;
    token->bytes = bytes;
    return true;
}

/* What the tokens look like in normalized text. */
static bool normalize_set(struct mal_added_set *set, struct mal_vocab *vocab,
                          const struct mal_normalizers *list, const char *where,
                          struct mal_error *err) {
    struct mal_string work[2] = {{0}};
    struct mal_matcher *matcher = NULL;
    if (set->n == 0 || list->n == 0) return true;
    bool cut, ok = mal_matcher_create(&matcher, err);
    for (size_t i = 0; ok && i < set->n; i++) {
        struct mal_added_token *token = &set->tokens[i];
        const char *text = token->content;
        size_t bytes = token->bytes;
        ok = mal_normalize(list, matcher, false, work, &text, &bytes, &cut, err) &&
             mal_vocab_decode_as(vocab, (int32_t)token->id, text, bytes, where, err);
        if (ok && !set_content(token, text, bytes))
            ok = mal_fail(err, MAL_NO_MEMORY, "%s: added tokens", mal_file_shown(where));
    }
    mal_matcher_destroy(matcher);
    mal_string_finish(&work[0]);
    mal_string_finish(&work[1]);
    return ok;
}

/* Of tokens that are alike once they are normalized the first here is found, in the
 * package any. */
static int by_content(const void *a, const void *b) {
    const struct mal_added_token *x = a, *y = b;
    int order = strcmp(x->content, y->content);
    if (order == 0) order = (int)y->special - (int)x->special;
    return order ? order : x->id < y->id ? -1 : 1;
}

static bool index_set(struct mal_added_set *set) {
    if (set->n == 0) return false;
    qsort(set->tokens, set->n, sizeof *set->tokens, by_content);
    bool single_word = false;
    size_t i = 0;
    while (i < set->n && set->tokens[i].bytes == 0)
        i++; /* nothing is left of it in normalized text: it matches nothing */
    for (size_t b = 0; b < 256; b++) {
        set->first[b] = i;
        for (; i < set->n && (unsigned char)set->tokens[i].content[0] == b; i++)
            single_word |= set->tokens[i].single_word;
    }
    set->first[256] = i;
    return single_word;
}

bool mal_added_ready(struct mal_added_tokens *added, struct mal_vocab *vocab,
                     const struct mal_normalizers *normalizers, const char *where,
                     struct mal_error *err) {
    if (!normalize_set(&added->normalized, vocab, normalizers, where, err)) return false;
    bool raw = index_set(&added->raw), normalized = index_set(&added->normalized);
    if (!raw && !normalized) return true;
    return mal_pattern_create(&added->word, mal_word_pattern, where, err);
}

static void finish_set(struct mal_added_set *set) {
    for (size_t i = 0; i < set->n; i++)
        mal_free(set->tokens[i].content);
    mal_free(set->tokens);
}

void mal_added_finish(struct mal_added_tokens *added) {
    finish_set(&added->raw);
    finish_set(&added->normalized);
    mal_pattern_destroy(added->word);
    *added = (struct mal_added_tokens){0};
}

const struct mal_added_token *mal_added_find(const struct mal_added_set *set,
                                             int32_t id) {
    for (size_t i = 0; i < set->n; i++) {
        if (set->tokens[i].id == id) return &set->tokens[i];
    }
    return NULL;
}

/* ---- Matching ---- */

/* Narrows tokens [*lo, *hi), alike in their first `depth` bytes, to those that go on with
 * c. */
static void narrow(const struct mal_added_set *set, size_t depth, unsigned char c,
                   size_t *lo, size_t *hi) {
    size_t bound[2];
    for (int i = 0; i < 2; i++) {
        size_t a = *lo, b = *hi;
        while (a < b) {
            size_t mid = a + (b - a) / 2;
            unsigned char x = (unsigned char)set->tokens[mid].content[depth];
            if (x < c || (i == 1 && x == c)) {
                a = mid + 1;
            } else {
                b = mid;
            }
        }
        bound[i] = a;
    }
    *lo = bound[0];
    *hi = bound[1];
}

/* The longest token at `at`, NULL: none. */
static const struct mal_added_token *longest(const struct mal_added_set *set,
                                             const char *text, size_t bytes, size_t at) {
    size_t lo = set->first[(unsigned char)text[at]];
    size_t hi = set->first[(unsigned char)text[at] + 1];
    const struct mal_added_token *best = NULL;
    for (size_t depth = 1; lo < hi; depth++) {
        /* The shortest of tokens with the same beginning come first; the first of those
         * that are alike counts. */
        if (set->tokens[lo].bytes == depth) best = &set->tokens[lo];
        while (lo < hi && set->tokens[lo].bytes == depth)
            lo++;
        if (at + depth == bytes) break;
        narrow(set, depth, (unsigned char)text[at + depth], &lo, &hi);
    }
    return best;
}

static bool is_word_at(const struct mal_added_walk *walk, size_t start, size_t end,
                       bool *out, struct mal_error *err) {
    struct mal_match_walk match = {.pattern = walk->added->word,
                                   .matcher = walk->matcher,
                                   .text = walk->text + start,
                                   .bytes = end - start};
    size_t from, to;
    return mal_match_next(&match, &from, &to, out, err);
}

/* Neither the character before nor the one behind is part of a word. */
static bool stands_alone(const struct mal_added_walk *walk, size_t start, size_t end,
                         bool *out, struct mal_error *err) {
    bool before = false, behind = false;
    if (start > 0 &&
        !is_word_at(walk, char_before(walk->text, start), start, &before, err))
        return false;
    if (end < walk->bytes) {
        int32_t point;
        size_t n = mal_utf8_next(walk->text + end, walk->bytes - end, &point);
        if (!is_word_at(walk, end, end + n, &behind, err)) return false;
    }
    *out = !before && !behind;
    return true;
}

/* The next token with what it strips; *out_found: there is one. */
static bool next_token(struct mal_added_walk *walk, struct mal_added_piece *out,
                       bool *out_found, struct mal_error *err) {
    *out_found = false;
    if (walk->set->n == 0) return true;
    for (size_t at = walk->searched; at < walk->bytes; at++) {
        const struct mal_added_token *token =
            longest(walk->set, walk->text, walk->bytes, at);
        if (!token) continue;
        size_t start = at, end = at + token->bytes;
        walk->searched = end;
        bool take = true;
        if (token->single_word && !stands_alone(walk, start, end, &take, err))
            return false;
        if (!take) {
            at = end - 1;
            continue;
        }
        if (token->lstrip) {
            start = mal_skip_space_back(walk->text, start, walk->emitted);
        }
        if (token->rstrip) end = mal_skip_space(walk->text, end, walk->bytes);
        *out = (struct mal_added_piece){start, end, (int32_t)token->id};
        *out_found = true;
        return true;
    }
    return true;
}

bool mal_added_next(struct mal_added_walk *walk, struct mal_added_piece *out,
                    bool *out_found, struct mal_error *err) {
    *out_found = true;
    if (walk->pending) {
        *out = *walk->pending;
        walk->pending = NULL;
        return true;
    }
    struct mal_added_piece piece;
    bool found = false;
    if (!walk->done && !next_token(walk, &piece, &found, err)) return false;
    size_t from = walk->emitted;
    if (!found) {
        *out_found = !walk->done && from < walk->bytes;
        walk->done = true;
        *out = (struct mal_added_piece){from, walk->bytes, -1};
        return true;
    }
    walk->emitted = piece.end;
    if (from < piece.start) {
        walk->held = piece;
        walk->pending = &walk->held;
        *out = (struct mal_added_piece){from, piece.start, -1};
    } else {
        *out = piece;
    }
    return true;
}
