/* bpe.c - byte-pair encoding: a word is cut into symbols, which are merged pair by pair.
 * Here the byte-level kind, whose symbols are bytes; bpe_chars.c has the other. */
#include "core/tokenizer/bpe.h"

#include <limits.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/text.h"
#include "core/utf8.h"

enum { NO_TOKEN = -1 };

/* ---- Merges ---- */

static bool find_token(const struct mal_bpe *bpe, const char *token, size_t bytes,
                       size_t i, int32_t *out, const char *where, struct mal_error *err) {
    *out = mal_vocab_find(bpe->vocab, token, bytes);
    if (*out >= 0) return true;
    return mal_fail(err, MAL_INVALID,
                    "%s: merge %zu names a token that is not in the vocabulary",
                    mal_file_shown(where), i);
}

bool mal_bpe_add_merge(struct mal_bpe *bpe, const char *left, size_t left_bytes,
                       const char *right, size_t right_bytes, size_t i, const char *where,
                       struct mal_error *err) {
    int32_t a, b, id;
    if (!find_token(bpe, left, left_bytes, i, &a, where, err) ||
        !find_token(bpe, right, right_bytes, i, &b, where, err))
        return false;
    char *both = mal_malloc(left_bytes + right_bytes);
    if (!both) return mal_fail(err, MAL_NO_MEMORY, "%s: merges", mal_file_shown(where));
    memcpy(both, left, left_bytes);
    memcpy(both + left_bytes, right, right_bytes);
    bool ok = find_token(bpe, both, left_bytes + right_bytes, i, &id, where, err);
    mal_free(both);
    if (!ok) return false;
    mal_bpe_put_merge(bpe, (struct mal_merge){a, b, id, (uint32_t)i});
    return true;
}

void mal_bpe_put_merge(struct mal_bpe *bpe, struct mal_merge merge) {
    mal_merges_put(&bpe->merges, merge);
    if (bpe->options.characters) mal_bpe_note_joint(bpe, &merge);
}

bool mal_bpe_add_line(struct mal_bpe *bpe, const char *line, size_t bytes, size_t i,
                      const char *where, struct mal_error *err) {
    const char *blank = memchr(line, ' ', bytes);
    size_t left = blank ? (size_t)(blank - line) : 0;
    if (!blank || memchr(blank + 1, ' ', bytes - left - 1)) {
        return mal_fail(err, MAL_INVALID,
                        "%s: merge %zu is not two tokens with a blank between",
                        mal_file_shown(where), i);
    }
    return mal_bpe_add_merge(bpe, line, left, blank + 1, bytes - left - 1, i, where, err);
}

/* ---- Encoding ---- */

/* The bytes as symbols; unknown ones as `unk`, one for several in a row if fused. */
static size_t split_bytes(const struct mal_bpe *bpe, const char *word, size_t bytes,
                          int32_t *symbols) {
    size_t n = 0;
    bool unknown_before = false;
    for (size_t i = 0; i < bytes; i++) {
        int32_t id = bpe->byte_id[(unsigned char)word[i]];
        bool unknown = id == NO_TOKEN;
        if (unknown) id = bpe->unk;
        if (id == NO_TOKEN || (unknown && unknown_before && bpe->options.fuse_unk))
            continue;
        symbols[n++] = id;
        unknown_before = unknown;
    }
    return n;
}

static int32_t whole_word(const struct mal_bpe *bpe, struct mal_scratch *scratch,
                          const char *word, size_t bytes) {
    char *spelled = scratch->mem;
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        n += mal_byte_level_put((unsigned char)word[i], spelled + n);
    int32_t id = mal_vocab_find(bpe->vocab, spelled, n);
    return id >= 0 && bpe->vocab->tokens[id].in_model ? id : NO_TOKEN;
}

static bool encode(const struct mal_word_model *model, struct mal_scratch *scratch,
                   const char *word, size_t bytes, struct mal_ids *out,
                   struct mal_error *err) {
    const struct mal_bpe *bpe = (const struct mal_bpe *)model;
    if (bytes >= INT32_MAX)
        return mal_fail(err, MAL_TOO_LARGE, "a word of %zu bytes", bytes);
    if (!mal_scratch_reserve(scratch, bytes * sizeof(int32_t) + mal_merges_space(bytes),
                             err))
        return false;
    if (bpe->options.ignore_merges) {
        int32_t id = whole_word(bpe, scratch, word, bytes);
        if (id != NO_TOKEN) return mal_ids_push(out, id, err);
    }
    int32_t *symbols = scratch->mem;
    size_t n = split_bytes(bpe, word, bytes, symbols);
    n = mal_merges_apply(&bpe->merges, symbols, n, symbols + bytes);
    for (size_t i = 0; i < n; i++) {
        if (!mal_ids_push(out, symbols[i], err)) return false;
    }
    return true;
}

/* ---- Building ---- */

static void destroy(struct mal_word_model *model) {
    struct mal_bpe *bpe = (struct mal_bpe *)model;
    mal_merges_finish(&bpe->merges);
    mal_bpe_finish_characters(bpe);
    mal_free(bpe);
}

static bool set_unknown(struct mal_bpe *bpe, const char *unk_token, const char *where,
                        struct mal_error *err) {
    bpe->unk = mal_vocab_find(bpe->vocab, unk_token, strlen(unk_token));
    if (bpe->unk >= 0) return true;
    char shown[MAL_TEXT_SHOWN];
    return mal_fail(err, MAL_INVALID, "%s: unk_token '%s' is not in the vocabulary",
                    mal_file_shown(where), mal_text_shown(shown, unk_token));
}

/* Whether there is a token for every byte. */
static bool set_bytes(struct mal_bpe *bpe) {
    bool complete = true;
    for (int b = 0; b < 256; b++) {
        char spelled[4];
        size_t n = mal_byte_level_put((unsigned char)b, spelled);
        bpe->byte_id[b] = mal_vocab_find(bpe->vocab, spelled, n);
        complete &= bpe->byte_id[b] >= 0;
    }
    return complete;
}

bool mal_bpe_create(struct mal_bpe **out, const struct mal_vocab *vocab, size_t n_merges,
                    const struct mal_bpe_options *options, const char *where,
                    struct mal_error *err) {
    struct mal_bpe *bpe = mal_calloc(1, sizeof *bpe);
    if (!bpe) return mal_fail(err, MAL_NO_MEMORY, "%s: merges", mal_file_shown(where));
    bpe->model = (struct mal_word_model){
        options->characters ? mal_bpe_encode_characters : encode, destroy};
    bpe->vocab = vocab;
    bpe->options = *options;
    bpe->unk = NO_TOKEN;
    bool ok = mal_merges_init(&bpe->merges, n_merges, where, err);
    if (ok && options->characters) ok = mal_bpe_set_characters(bpe, n_merges, where, err);
    bool complete = !options->characters && set_bytes(bpe);
    ok = ok && (complete || !options->unk_token ||
                set_unknown(bpe, options->unk_token, where, err));
    if (!ok) {
        destroy(&bpe->model);
        return false;
    }
    bpe->options.unk_token = NULL; /* borrowed from the caller */
    *out = bpe;
    return true;
}

struct mal_word_model *mal_bpe_model(struct mal_bpe *bpe) {
    return &bpe->model;
}
