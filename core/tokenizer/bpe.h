/* bpe.h - byte-pair encoding from within: bpe.c, bpe_chars.c. */
#ifndef MAL_BPE_H
#define MAL_BPE_H

#include "core/tokenizer/parts.h"

/* The tokens of single characters, in pages of 256; page 0 has none. */
struct mal_char_ids {
    uint16_t page_of[0x1100]; /* of the character's upper bits */
    int32_t (*pages)[256];    /* -1: no token */
    size_t n_pages;
};

struct mal_bpe {
    struct mal_word_model model; /* first: the model is the BPE */
    const struct mal_vocab *vocab;
    struct mal_merges merges;
    struct mal_bpe_options options; /* without unk_token */
    int32_t byte_id[256];           /* -1 where the vocabulary lacks the byte */
    int32_t unk;                    /* -1: such text is dropped */
    /* Characters only: */
    struct mal_char_ids chars;
    uint64_t *joints; /* bits, by a hash: pairs of characters that some merge joins */
    size_t n_joints;  /* bits, a power of two */
    bool all_joined;  /* a merge has a token for a byte, or the unknown token */
};

bool mal_bpe_encode_characters(const struct mal_word_model *model,
                               struct mal_scratch *scratch, const char *word,
                               size_t bytes, struct mal_ids *out,
                               struct mal_error *err) MAL_CHECK;
bool mal_bpe_set_characters(struct mal_bpe *bpe, size_t n_merges, const char *where,
                            struct mal_error *err) MAL_CHECK;
void mal_bpe_note_joint(struct mal_bpe *bpe, const struct mal_merge *merge);
void mal_bpe_finish_characters(struct mal_bpe *bpe);

#endif
