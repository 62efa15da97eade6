/* spm.h - what tokenizers of SentencePiece's kinds are made of; only for the files of
 * this folder. */
#ifndef MAL_SPM_H
#define MAL_SPM_H

#include "core/tokenizer/parts.h"

enum { MAL_MAX_PIECE_BYTES = 1024 };

/* ---- Tokens that a text begins with: trie.c ---- */

enum { MAL_TRIE_FREE = 256 };

struct mal_trie_unit {
    uint32_t base; /* the unit of the next byte c is base ^ c */
    int32_t id;    /* of the token that ends here, -1: none */
    uint32_t label;
};

struct mal_trie {
    struct mal_trie_unit *units; /* the first one is the root */
    size_t n_units;
};

/* Of the tokens of the model in `vocab`, whose text it does not keep. */
bool mal_trie_create(struct mal_trie *out, const struct mal_vocab *vocab,
                     const char *where, struct mal_error *err) MAL_CHECK;
void mal_trie_finish(struct mal_trie *trie);

static inline const struct mal_trie_unit *mal_trie_next(const struct mal_trie *trie,
                                                        const struct mal_trie_unit *unit,
                                                        unsigned char byte) {
    const struct mal_trie_unit *next = &trie->units[unit->base ^ byte];
    return next->label == byte ? next : NULL;
}

/* ---- Unigram: unigram.c ---- */

struct mal_piece {
    const char *text;
    size_t bytes;
    double score;
};

struct mal_unigram_options {
    const struct mal_piece *pieces; /* (n), by id */
    size_t n;
    int64_t unk; /* -1: none */
    bool byte_fallback;
};

/* Fills `vocab`, which is empty, and borrows it. */
bool mal_unigram_create(struct mal_word_model **out, struct mal_vocab *vocab,
                        const struct mal_unigram_options *options, const char *where,
                        struct mal_error *err) MAL_CHECK;

/* ---- Tokens for bytes, "<0x0A>": byte_tokens.c ---- */

/* The ids of the model's tokens for bytes, -1 where there is none. */
void mal_byte_tokens(int32_t out[256], const struct mal_vocab *vocab);
/* There is at least one byte, and a token for each of them. */
bool mal_byte_tokens_cover(const int32_t byte_id[256], const char *text, size_t bytes);

/* ---- Characters as a reader sees them: grapheme.c ---- */

/* The length of the grapheme cluster that `bytes` bytes of UTF-8, at least one, begin
 * with, see there. */
size_t mal_grapheme_next(const char *text, size_t bytes);

/* ---- Precompiled character maps: charsmap.c ---- */

/* A normalizer from the bytes of SentencePiece's precompiled_charsmap, which are copied.
 */
bool mal_charsmap_create(struct mal_normalizer *out, const void *map, size_t bytes,
                         const char *where, struct mal_error *err) MAL_CHECK;

#endif
