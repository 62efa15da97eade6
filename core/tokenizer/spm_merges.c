/* spm_merges.c - the merges that the pieces of a SentencePiece model stand for: every
 * piece that is two others side by side, by the piece's score. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/tokenizer/spm_file.h"

struct found_merge {
    struct mal_merge merge;
    size_t left_characters, right_characters, i;
    double score;
};

struct found_merges {
    struct found_merge *items;
    size_t n, capacity;
};

static bool keep_merge(struct found_merges *found, struct found_merge merge) {
    if (found->n == found->capacity) {
        size_t capacity = 2 * found->capacity + 1024;
        struct found_merge *items = mal_realloc(found->items, capacity * sizeof *items);
        if (!items) return false;
        found->items = items;
        found->capacity = capacity;
    }
    merge.i = found->n;
    found->items[found->n++] = merge;
    return true;
}

static bool begins_character(char c) {
    return (c & 0xc0) != 0x80;
}

/* All ways to make a piece of two others. */
static bool find_ways(struct found_merges *found, const struct mal_vocab *vocab,
                      const struct mal_piece *piece, int32_t id) {
    size_t n_characters = 0, left = 0;
    for (size_t k = 0; k < piece->bytes; k++)
        n_characters += begins_character(piece->text[k]);
    for (size_t k = 1; k < piece->bytes; k++) {
        if (!begins_character(piece->text[k])) continue;
        left++;
        int32_t a = mal_vocab_find(vocab, piece->text, k);
        int32_t b = a < 0 ? -1 : mal_vocab_find(vocab, piece->text + k, piece->bytes - k);
        if (b >= 0 && !keep_merge(found, (struct found_merge){.merge = {a, b, id, 0},
                                                              .left_characters = left,
                                                              .right_characters =
                                                                  n_characters - left,
                                                              .score = piece->score}))
            return false;
    }
    return true;
}

/* generate_merges() of transformers: by score, then the longer left side first, then in
 * the order they were found. */
static int by_score(const void *a, const void *b) {
    const struct found_merge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left_characters != y->left_characters)
        return x->left_characters > y->left_characters ? -1 : 1;
    if (x->right_characters != y->right_characters)
        return x->right_characters > y->right_characters ? -1 : 1;
    return x->i < y->i ? -1 : 1;
}

static bool find_merges(struct found_merges *found, const struct mal_vocab *vocab,
                        const struct mal_spm_file *file) {
    for (size_t i = 0; i < file->n; i++) {
        if (!find_ways(found, vocab, &file->pieces[i], (int32_t)i)) return false;
    }
    if (found->n > 0) qsort(found->items, found->n, sizeof *found->items, by_score);
    return true;
}

static bool create(struct mal_tokenizer *tok, const struct mal_spm_file *file,
                   const struct found_merges *found, const char *path,
                   struct mal_error *err) {
    struct mal_bpe *bpe;
    char unk[MAL_MAX_PIECE_BYTES + 1];
    const struct mal_piece *piece = &file->pieces[file->unk];
    memcpy(unk, piece->text, piece->bytes);
    unk[piece->bytes] = 0;
    struct mal_bpe_options options = {.unk_token = unk,
                                      .fuse_unk = true,
                                      .characters = true,
                                      .byte_fallback = file->byte_fallback};
    if (!mal_bpe_create(&bpe, &tok->vocab, found->n, &options, path, err)) return false;
    tok->model = mal_bpe_model(bpe);
    for (size_t i = 0; i < found->n; i++) {
        struct mal_merge merge = found->items[i].merge;
        merge.rank = (uint32_t)i;
        mal_bpe_put_merge(bpe, merge);
    }
    return true;
}

bool mal_spm_create_bpe(struct mal_tokenizer *tok, const struct mal_spm_file *file,
                        const char *path, struct mal_error *err) {
    struct found_merges found = {0};
    bool ok = find_merges(&found, &tok->vocab, file) ||
              mal_fail(err, MAL_NO_MEMORY, "%s: merges", mal_file_shown(path));
    ok = ok && create(tok, file, &found, path, err);
    mal_free(found.items);
    return ok;
}
