/* spm_model.c - a tokenizer from a SentencePiece model file: what Hugging Face's
 * converters make of it, for Unigram that of T5, for BPE that of Llama 2. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "core/tokenizer/spm_file.h"

/* T5 has as many tokens for gaps behind its pieces. */
enum { EXTRA_IDS = 100 };

/* Parts as they stand in a tokenizer.json. */
static const char ONE_BLANK[] =
    "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\A +| +\\\\z\"},\"content\":\"\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" \"}]}}";
static const char MARK_BEFORE[] =
    "{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\u2581\"}}";
static const char MARKS[] =
    "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
    "\"content\":\"\u2581\"},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":["
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\u2581\"},\"content\":\" \"},"
    "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}}";
static const char NO_BLANK_BEFORE[] =
    "{\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}}";
static const char WORDS[] =
    "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
    "{\"type\":\"WhitespaceSplit\"},"
    "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"always\"}]},"
    "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\","
    "\"prepend_scheme\":\"always\"}}";
static const char WORDS_ALONE[] =
    "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
    "{\"type\":\"WhitespaceSplit\"},"
    "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"never\"}]},"
    "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\","
    "\"prepend_scheme\":\"never\"}}";

static bool add_parts(struct mal_tokenizer *tok, const char *json, const char *path,
                      struct mal_error *err) {
    json_error_t problem;
    json_t *root = mal_json_parse(json, strlen(json), 0, &problem);
    if (!root) return mal_json_fail(&problem, MAL_INVALID, path, err);
    bool ok = mal_tokenizer_read_parts(tok, root, path, err);
    json_decref(root);
    return ok;
}

static bool add_charsmap(struct mal_tokenizer *tok, const struct mal_spm_file *file,
                         const char *path, struct mal_error *err) {
    struct mal_normalizer step;
    if (file->n_charsmap == 0) return true;
    return mal_charsmap_create(&step, file->charsmap, file->n_charsmap, path, err) &&
           mal_normalizer_add(&tok->normalizers, step, path, err);
}

/* ---- Pieces that are looked for in the text as it is ---- */

static bool add_token(struct mal_tokenizer *tok, const char *text, size_t bytes,
                      int64_t id, bool special, const char *path, struct mal_error *err) {
    char content[MAL_MAX_PIECE_BYTES + 1];
    memcpy(content, text, bytes);
    content[bytes] = 0;
    struct mal_added_token token = {
        .id = id, .content = content, .bytes = bytes, .special = special};
    return mal_added_add(&tok->added, &tok->vocab, &token, path, err);
}

static bool add_tokens(struct mal_tokenizer *tok, const struct mal_spm_file *file,
                       const char *path, struct mal_error *err) {
    for (size_t i = 0; i < file->n; i++) {
        int64_t type = file->types[i];
        if (type != MAL_SPM_UNKNOWN && type != MAL_SPM_CONTROL &&
            type != MAL_SPM_USER_DEFINED)
            continue;
        if (!add_token(tok, file->pieces[i].text, file->pieces[i].bytes, (int64_t)i,
                       type != MAL_SPM_USER_DEFINED, path, err))
            return false;
    }
    return true;
}

static bool check_twice(const struct mal_vocab *vocab, const struct mal_spm_file *file,
                        const char *path, struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN], text[MAL_MAX_PIECE_BYTES + 1];
    for (size_t i = 0; i < file->n; i++) {
        const struct mal_piece *piece = &file->pieces[i];
        if (mal_vocab_find(vocab, piece->text, piece->bytes) == (int32_t)i) continue;
        memcpy(text, piece->text, piece->bytes);
        text[piece->bytes] = 0;
        return mal_fail(err, MAL_INVALID, "%s: piece %zu ('%s') is there twice",
                        mal_file_shown(path), i, mal_text_shown(shown, text));
    }
    return true;
}

/* ---- T5 ---- */

/* <extra_id_99> down to <extra_id_0>, with the score 0. */
static bool add_extra_pieces(struct mal_spm_file *file, char (*names)[16]) {
    struct mal_piece *pieces =
        mal_realloc(file->pieces, (file->n + EXTRA_IDS) * sizeof *pieces);
    if (!pieces) return false;
    file->pieces = pieces;
    for (size_t i = 0; i < EXTRA_IDS; i++) {
        int n = snprintf(names[i], sizeof names[i], "<extra_id_%zu>", EXTRA_IDS - 1 - i);
        pieces[file->n + i] = (struct mal_piece){names[i], (size_t)n, 0};
    }
    return true;
}

static bool has_extra_pieces(const struct mal_spm_file *file) {
    static const char first[] = "<extra_id_0>";
    for (size_t i = 0; i < file->n; i++) {
        if (file->pieces[i].bytes == sizeof first - 1 &&
            memcmp(file->pieces[i].text, first, sizeof first - 1) == 0)
            return true;
    }
    return false;
}

static bool fill_unigram(struct mal_tokenizer *tok, struct mal_spm_file *file,
                         const char *path, struct mal_error *err) {
    char names[EXTRA_IDS][16];
    size_t n_extra = has_extra_pieces(file) ? 0 : EXTRA_IDS;
    if (n_extra > 0 && !add_extra_pieces(file, names))
        return mal_fail(err, MAL_NO_MEMORY, "%s: pieces", mal_file_shown(path));
    struct mal_unigram_options options = {.pieces = file->pieces,
                                          .n = file->n + n_extra,
                                          .unk = file->unk,
                                          .byte_fallback = file->byte_fallback};
    if (!add_charsmap(tok, file, path, err) ||
        !add_parts(tok, file->add_dummy_prefix ? WORDS : WORDS_ALONE, path, err) ||
        !mal_unigram_create(&tok->model, &tok->vocab, &options, path, err) ||
        !check_twice(&tok->vocab, file, path, err) || !add_tokens(tok, file, path, err))
        return false;
    for (size_t i = 0; i < n_extra; i++) {
        const struct mal_piece *piece = &file->pieces[file->n + i];
        if (!add_token(tok, piece->text, piece->bytes, (int64_t)(file->n + i), true, path,
                       err))
            return false;
    }
    return file->eos < 0 || mal_ids_push(&tok->after, (int32_t)file->eos, err);
}

/* ---- Llama 2 ---- */

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
static bool find_merges(struct found_merges *found, const struct mal_vocab *vocab,
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

static bool create_bpe(struct mal_tokenizer *tok, const struct mal_spm_file *file,
                       struct found_merges *found, const char *path,
                       struct mal_error *err) {
    struct mal_bpe *bpe;
    char unk[MAL_MAX_PIECE_BYTES + 1];
    const struct mal_piece *piece = &file->pieces[file->unk];
    memcpy(unk, piece->text, piece->bytes);
    unk[piece->bytes] = 0;
    for (size_t i = 0; i < file->n; i++) {
        if (!find_merges(found, &tok->vocab, &file->pieces[i], (int32_t)i))
            return mal_fail(err, MAL_NO_MEMORY, "%s: merges", mal_file_shown(path));
    }
    if (found->n > 0) qsort(found->items, found->n, sizeof *found->items, by_score);
    if (!mal_bpe_create(&bpe, &tok->vocab, found->n,
                        &(struct mal_bpe_options){.unk_token = unk,
                                                  .fuse_unk = true,
                                                  .characters = true,
                                                  .byte_fallback = file->byte_fallback},
                        path, err))
        return false;
    tok->model = mal_bpe_model(bpe);
    for (size_t i = 0; i < found->n; i++) {
        found->items[i].merge.rank = (uint32_t)i;
        mal_bpe_put_merge(bpe, found->items[i].merge);
    }
    return true;
}

static bool fill_bpe(struct mal_tokenizer *tok, struct mal_spm_file *file,
                     const char *path, struct mal_error *err) {
    struct found_merges found = {0};
    for (size_t i = 0; i < file->n; i++) {
        if (!mal_vocab_add(&tok->vocab, file->pieces[i].text, file->pieces[i].bytes,
                           (int64_t)i, path, err))
            return false;
    }
    bool ok = check_twice(&tok->vocab, file, path, err) &&
              create_bpe(tok, file, &found, path, err);
    mal_free(found.items);
    return ok && add_tokens(tok, file, path, err) && add_charsmap(tok, file, path, err) &&
           (!file->remove_extra_whitespaces || add_parts(tok, ONE_BLANK, path, err)) &&
           (!file->add_dummy_prefix || add_parts(tok, MARK_BEFORE, path, err)) &&
           add_parts(tok, MARKS, path, err) &&
           (!file->add_dummy_prefix || add_parts(tok, NO_BLANK_BEFORE, path, err)) &&
           (file->bos < 0 || mal_ids_push(&tok->before, (int32_t)file->bos, err));
}

bool mal_tokenizer_read_spm(struct mal_tokenizer *tok, const char *path, size_t stem,
                            struct mal_error *err) {
    (void)stem;
    struct mal_spm_file file = {0};
    bool ok = mal_spm_file_read(&file, path, err) &&
              (file.model_type == 1 ? fill_unigram(tok, &file, path, err)
                                    : fill_bpe(tok, &file, path, err));
    mal_spm_file_finish(&file);
    return ok;
}
