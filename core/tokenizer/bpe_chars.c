/* bpe_chars.c - byte-pair encoding whose symbols are characters: Llama 2, Mistral. A
 * character without a token becomes tokens of its bytes.
 *
 * Nothing cuts these models' text into words, but where no merge's tokens meet in two
 * characters that stand side by side, nothing can ever be merged across: the text is
 * merged between such places, which gives the same and is fast. */
#include <limits.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/spm.h"
#include "core/utf8.h"

enum { NO_TOKEN = -1 };

/* ---- Tokens of characters ---- */

static int32_t id_of(const struct mal_bpe *bpe, int32_t point) {
    return bpe->chars.pages[bpe->chars.page_of[point >> 8]][point & 0xff];
}

/* The only character of the token, -1: it has more, or none. */
static int32_t only_character(const struct mal_vocab *vocab, int32_t id) {
    const struct mal_token *t = &vocab->tokens[id];
    const char *text = vocab->text + t->offset;
    int32_t point = -1;
    if (!t->in_model || t->bytes == 0 || mal_vocab_find(vocab, text, t->bytes) != id)
        return -1;
    return mal_utf8_next(text, t->bytes, &point) == t->bytes ? point : -1;
}

static bool index_characters(struct mal_char_ids *chars, const struct mal_vocab *vocab) {
    chars->n_pages = 1;
    for (int32_t id = 0; id < vocab->size; id++) {
        int32_t point = only_character(vocab, id);
        if (point >= 0 && chars->page_of[point >> 8] == 0)
            chars->page_of[point >> 8] = (uint16_t)chars->n_pages++;
    }
    chars->pages = mal_malloc(chars->n_pages * sizeof *chars->pages);
    if (!chars->pages) return false;
    memset(chars->pages, 0xff, chars->n_pages * sizeof *chars->pages);
    for (int32_t id = 0; id < vocab->size; id++) {
        int32_t point = only_character(vocab, id);
        if (point >= 0) chars->pages[chars->page_of[point >> 8]][point & 0xff] = id;
    }
    return true;
}

/* ---- Where merges can cross ---- */

static size_t joint_bit(const struct mal_bpe *bpe, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key = (key ^ key >> 29) * 0x9e3779b97f4a7c15u;
    return (size_t)(key >> 32) & (bpe->n_joints - 1);
}

static bool may_join(const struct mal_bpe *bpe, int32_t left, int32_t right) {
    size_t bit = joint_bit(bpe, left, right);
    return bpe->all_joined || (bpe->joints[bit / 64] >> bit % 64 & 1) != 0;
}

/* A token for a byte, or one that looks like it; or the unknown token. */
static bool is_fallback(const struct mal_bpe *bpe, int32_t id) {
    const struct mal_token *t = &bpe->vocab->tokens[id];
    return id == bpe->unk ||
           (t->bytes == 6 && memcmp(bpe->vocab->text + t->offset, "<0x", 3) == 0);
}

void mal_bpe_note_joint(struct mal_bpe *bpe, const struct mal_merge *merge) {
    const struct mal_token *left = &bpe->vocab->tokens[merge->left],
                           *right = &bpe->vocab->tokens[merge->right];
    const char *end = bpe->vocab->text + left->offset;
    int32_t a = -1, b = -1;
    bool ends = left->bytes > 0 && right->bytes > 0;
    if (ends) {
        size_t last = left->bytes - 1;
        while (last > 0 && (end[last] & 0xc0) == 0x80)
            last--;
        mal_utf8_next(end + last, left->bytes - last, &a);
        mal_utf8_next(bpe->vocab->text + right->offset, right->bytes, &b);
    }
    if (!ends || a < 0 || b < 0 || is_fallback(bpe, merge->left) ||
        is_fallback(bpe, merge->right)) {
        bpe->all_joined = true;
        return;
    }
    size_t bit = joint_bit(bpe, id_of(bpe, a), id_of(bpe, b));
    bpe->joints[bit / 64] |= (uint64_t)1 << bit % 64;
}

/* ---- Encoding ---- */

/* Symbols not yet merged, and where their ids go. */
struct pending {
    const struct mal_bpe *bpe;
    int32_t *symbols;
    size_t n;
    void *space;
    struct mal_ids *out;
};

static bool flush(struct pending *p, struct mal_error *err) {
    size_t n = mal_merges_apply(&p->bpe->merges, p->symbols, p->n, p->space);
    p->n = 0;
    for (size_t i = 0; i < n; i++) {
        if (!mal_ids_push(p->out, p->symbols[i], err)) return false;
    }
    return true;
}

static bool put(struct pending *p, int32_t id, struct mal_error *err) {
    if (p->n > 0 && !may_join(p->bpe, p->symbols[p->n - 1], id) && !flush(p, err))
        return false;
    p->symbols[p->n++] = id;
    return true;
}

static bool put_bytes(struct pending *p, const char *text, size_t bytes,
                      struct mal_error *err) {
    for (size_t i = 0; i < bytes; i++) {
        if (!put(p, p->bpe->byte_id[(unsigned char)text[i]], err)) return false;
    }
    return true;
}

/* As merge_word() of Hugging Face's bpe/model.rs: the unknown token is put when the next
 * known character comes, behind tokens of bytes that stand between. */
static bool put_all(struct pending *p, const char *word, size_t bytes,
                    struct mal_error *err) {
    const struct mal_bpe *bpe = p->bpe;
    bool unknown = false;
    for (size_t i = 0, n; i < bytes; i += n) {
        int32_t point;
        n = mal_utf8_next(word + i, bytes - i, &point);
        int32_t id = id_of(bpe, point);
        if (id != NO_TOKEN) {
            if (unknown && !put(p, bpe->unk, err)) return false;
            unknown = false;
            if (!put(p, id, err)) return false;
        } else if (bpe->options.byte_fallback &&
                   mal_byte_tokens_cover(bpe->byte_id, word + i, n)) {
            if (!put_bytes(p, word + i, n, err)) return false;
        } else if (bpe->unk != NO_TOKEN) {
            if (unknown && !bpe->options.fuse_unk && !put(p, bpe->unk, err)) return false;
            unknown = true;
        }
    }
    return (!unknown || put(p, bpe->unk, err)) && flush(p, err);
}

bool mal_bpe_encode_characters(const struct mal_word_model *model,
                               struct mal_scratch *scratch, const char *word,
                               size_t bytes, struct mal_ids *out, struct mal_error *err) {
    const struct mal_bpe *bpe = (const struct mal_bpe *)model;
    if (bytes >= INT32_MAX)
        return mal_fail(err, MAL_TOO_LARGE, "a word of %zu bytes", bytes);
    if (bpe->options.ignore_merges) {
        int32_t id = mal_vocab_find(bpe->vocab, word, bytes);
        if (id >= 0 && bpe->vocab->tokens[id].in_model) return mal_ids_push(out, id, err);
    }
    if (!mal_scratch_reserve(scratch, bytes * sizeof(int32_t) + mal_merges_space(bytes),
                             err))
        return false;
    struct pending pending = {.bpe = bpe, .symbols = scratch->mem, .out = out};
    pending.space = pending.symbols + bytes;
    return put_all(&pending, word, bytes, err);
}

/* ---- Building ---- */

bool mal_bpe_set_characters(struct mal_bpe *bpe, size_t n_merges, const char *where,
                            struct mal_error *err) {
    mal_byte_tokens(bpe->byte_id, bpe->vocab);
    /* Of 32 bits per merge few are set: it seldom seems that a merge could cross. */
    for (bpe->n_joints = 64; bpe->n_joints < 32 * n_merges && bpe->n_joints < 1u << 20;)
        bpe->n_joints *= 2;
    bpe->joints = mal_calloc(bpe->n_joints / 64, sizeof *bpe->joints);
    if (bpe->joints && index_characters(&bpe->chars, bpe->vocab)) return true;
    return mal_fail(err, MAL_NO_MEMORY, "%s: vocabulary", mal_file_shown(where));
}

void mal_bpe_finish_characters(struct mal_bpe *bpe) {
    mal_free(bpe->chars.pages);
    mal_free(bpe->joints);
}
