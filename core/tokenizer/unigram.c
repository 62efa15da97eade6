/* unigram.c - the model of T5: of all ways to cut a word into tokens the one with the
 * highest sum of scores, as unigram/model.rs of Hugging Face's tokenizers finds it. */
#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "core/tokenizer/spm.h"
#include "core/utf8.h"

static const double UNKNOWN_PENALTY = 10;
static const uint32_t NONE = UINT32_MAX;

struct unigram {
    struct mal_word_model model; /* first: the model is the Unigram */
    const struct mal_vocab *vocab;
    struct mal_trie trie;
    double *scores; /* (vocab->size) when it was made */
    double unknown_score;
    int32_t unk;        /* -1: none, and unknown text is an error */
    bool byte_fallback; /* there is a token for every byte, see mal_byte_tokens() */
    int32_t byte_id[256];
};

/* The best way from the start of the word to a byte of it. */
struct best {
    double score;
    int32_t id;
    uint32_t start; /* where its last token begins; NONE: there is no way yet */
};

static void offer(struct best *best, double score, int32_t id, uint32_t start) {
    if (best->start != NONE && !(score > best->score)) return;
    *best = (struct best){score, id, start};
}

/* All tokens that begin at `at`, and the unknown token where none is the character. */
static bool go_on_from(const struct unigram *u, const char *word, size_t bytes, size_t at,
                       size_t n_char, struct best *best, struct mal_error *err) {
    double so_far = best[at].score;
    uint32_t start = (uint32_t)at;
    bool found_char = false;
    const struct mal_trie_unit *unit = u->trie.units;
    for (size_t i = at; i < bytes; i++) {
        unit = mal_trie_next(&u->trie, unit, (unsigned char)word[i]);
        if (!unit) break;
        if (unit->id < 0) continue;
        offer(&best[i + 1], u->scores[unit->id] + so_far, unit->id, start);
        found_char |= i + 1 - at == n_char;
    }
    if (found_char) return true;
    if (u->unk < 0) {
        return mal_fail(err, MAL_INVALID,
                        "the tokenizer has no token for a character of the text, and no "
                        "unknown token");
    }
    offer(&best[at + n_char], u->unknown_score + so_far, u->unk, start);
    return true;
}

/* From now on `start` of a token's first byte is where it ends, 0 behind the last. */
static void turn_round(struct best *best, size_t bytes) {
    uint32_t after = 0;
    for (uint32_t end = (uint32_t)bytes; end > 0;) {
        uint32_t start = best[end].start;
        best[end].start = after;
        after = end;
        end = start;
    }
    best[0].start = after;
}

/* Unknown text in one piece, which may happen to be a token. */
static bool put_unknown(const struct unigram *u, const char *text, size_t bytes,
                        struct mal_ids *out, struct mal_error *err) {
    int32_t id = mal_vocab_find(u->vocab, text, bytes);
    if (id >= 0 && u->vocab->tokens[id].in_model) return mal_ids_push(out, id, err);
    if (!mal_byte_tokens_cover(u->byte_id, text, u->byte_fallback ? bytes : 0))
        return mal_ids_push(out, u->unk, err);
    for (size_t i = 0; i < bytes; i++) {
        if (!mal_ids_push(out, u->byte_id[(unsigned char)text[i]], err)) return false;
    }
    return true;
}

static bool put_tokens(const struct unigram *u, const char *word, const struct best *best,
                       struct mal_ids *out, struct mal_error *err) {
    uint32_t from = 0, end = best[0].start;
    while (end > 0) {
        int32_t id = best[end].id;
        uint32_t next = best[end].start;
        if (id == u->unk) {
            for (; next > 0 && best[next].id == id; next = best[next].start)
                end = next;
            if (!put_unknown(u, word + from, end - from, out, err)) return false;
        } else if (!mal_ids_push(out, id, err)) {
            return false;
        }
        from = end;
        end = next;
    }
    return true;
}

static bool encode(const struct mal_word_model *model, struct mal_scratch *scratch,
                   const char *word, size_t bytes, struct mal_ids *out,
                   struct mal_error *err) {
    const struct unigram *u = (const struct unigram *)model;
    if (bytes >= INT32_MAX)
        return mal_fail(err, MAL_TOO_LARGE, "a word of %zu bytes", bytes);
    if (!mal_scratch_reserve(scratch, (bytes + 1) * sizeof(struct best), err))
        return false;
    struct best *best = scratch->mem;
    best[0] = (struct best){0, -1, 0};
    for (size_t i = 1; i <= bytes; i++)
        best[i].start = NONE;
    for (size_t at = 0; at < bytes;) {
        int32_t point;
        size_t n = mal_utf8_next(word + at, bytes - at, &point);
        if (!go_on_from(u, word, bytes, at, n, best, err)) return false;
        at += n;
    }
    turn_round(best, bytes);
    return put_tokens(u, word, best, out, err);
}

static void destroy(struct mal_word_model *model) {
    struct unigram *u = (struct unigram *)model;
    mal_trie_finish(&u->trie);
    mal_free(u->scores);
    mal_free(u);
}

/* ---- Building ---- */

static bool take_pieces(struct unigram *u, struct mal_vocab *vocab,
                        const struct mal_unigram_options *options, const char *where,
                        struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN];
    u->scores = mal_malloc((options->n + 1) * sizeof *u->scores);
    if (!u->scores)
        return mal_fail(err, MAL_NO_MEMORY, "%s: scores", mal_file_shown(where));
    double least = INFINITY;
    for (size_t i = 0; i < options->n; i++) {
        const struct mal_piece *piece = &options->pieces[i];
        if (piece->bytes > MAL_MAX_PIECE_BYTES || !isfinite(piece->score)) {
            return mal_fail(err, MAL_INVALID, "%s: token %zu ('%s') %s",
                            mal_file_shown(where), i, mal_text_shown(shown, piece->text),
                            isfinite(piece->score) ? "is too long"
                                                   : "has a score that is not finite");
        }
        if (!mal_vocab_add(vocab, piece->text, piece->bytes, (int64_t)i, where, err))
            return false;
        u->scores[i] = piece->score;
        if (piece->score < least) least = piece->score;
    }
    u->unknown_score = least - UNKNOWN_PENALTY;
    return true;
}

bool mal_unigram_create(struct mal_word_model **out, struct mal_vocab *vocab,
                        const struct mal_unigram_options *options, const char *where,
                        struct mal_error *err) {
    if (options->n == 0 || options->unk >= (int64_t)options->n) {
        return mal_fail(err, MAL_INVALID, "%s: %s", mal_file_shown(where),
                        options->n ? "unk_id is not the id of a token"
                                   : "the vocabulary has no tokens");
    }
    struct unigram *u = mal_calloc(1, sizeof *u);
    if (!u) return mal_fail(err, MAL_NO_MEMORY, "%s: vocabulary", mal_file_shown(where));
    u->model = (struct mal_word_model){encode, destroy};
    u->vocab = vocab;
    u->unk = (int32_t)options->unk;
    u->byte_fallback = options->byte_fallback;
    if (!take_pieces(u, vocab, options, where, err) ||
        !mal_trie_create(&u->trie, vocab, where, err)) {
        destroy(&u->model);
        return false;
    }
    mal_byte_tokens(u->byte_id, vocab);
    *out = &u->model;
    return true;
}

/* ---- tokenizer.json ---- */

static bool read_pieces(const json_t *vocab, struct mal_piece *pieces, const char *where,
                        struct mal_error *err) {
    size_t i;
    json_t *entry;
    json_array_foreach (vocab, i, entry) {
        const json_t *text = json_array_get(entry, 0), *score = json_array_get(entry, 1);
        if (json_array_size(entry) != 2 || !json_is_string(text) ||
            !json_is_number(score)) {
            return mal_fail(err, MAL_INVALID,
                            "%s: entry %zu of the vocabulary is not [\"token\", score]",
                            mal_file_shown(where), i);
        }
        pieces[i] = (struct mal_piece){json_string_value(text), json_string_length(text),
                                       json_number_value(score)};
    }
    return true;
}

bool mal_read_unigram_model(struct mal_tokenizer *tok, const json_t *part,
                            const char *where, struct mal_error *err) {
    const json_t *vocab;
    struct mal_unigram_options options = {.unk = -1};
    if (tok->byte_level_words) {
        return mal_part_unsupported("model after a ByteLevel pre-tokenizer,", "Unigram",
                                    where, err);
    }
    if (!mal_part_array(part, "vocab", &vocab, where, err) ||
        !mal_json_int_opt(part, "unk_id", 0, MAL_MAX_TOKEN_ID - 1, &options.unk, where,
                          err) ||
        !mal_json_bool_opt(part, "byte_fallback", &options.byte_fallback, where, err))
        return false;
    struct mal_piece *pieces = mal_calloc(json_array_size(vocab) + 1, sizeof *pieces);
    if (!pieces)
        return mal_fail(err, MAL_NO_MEMORY, "%s: vocabulary", mal_file_shown(where));
    options.pieces = pieces;
    options.n = json_array_size(vocab);
    bool ok = read_pieces(vocab, pieces, where, err) &&
              mal_unigram_create(&tok->model, &tok->vocab, &options, where, err);
    mal_free(pieces);
    return ok;
}
