/* bpe.c - byte-level byte-pair encoding: the bytes of a word are merged pair by pair, the
 * pair that comes first in the file first, the leftmost of equal ones first.
 *
 * The symbols are a linked list and the candidate pairs a heap, so that a word of n bytes
 * takes n log n steps: a text without a space is one word. */
#include <limits.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/text.h"
#include "core/tokenizer/parts.h"

enum { NO_TOKEN = -1 };

struct merge {
    int32_t left, right, id; /* left is NO_TOKEN: a free slot */
    uint32_t rank;
};

struct mal_bpe {
    struct mal_word_model model; /* first: the model is the BPE */
    const struct mal_vocab *vocab;
    int32_t byte_id[256]; /* NO_TOKEN where the vocabulary lacks the byte */
    int32_t unk;          /* NO_TOKEN: such bytes are dropped */
    bool fuse_unk, ignore_merges;
    struct merge *merges; /* hash table */
    size_t n_slots;
};

static const uint32_t END = UINT32_MAX;

struct symbol {
    int32_t id; /* NO_TOKEN: merged into the one before */
    uint32_t prev, next;
};

struct candidate {
    uint32_t rank, pos;
    int32_t id;
};

struct heap {
    struct candidate *items;
    size_t n;
};

/* ---- Merges ---- */

static struct merge *find_merge(const struct mal_bpe *bpe, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key = (key ^ key >> 31) * 0x9e3779b97f4a7c15u;
    size_t mask = bpe->n_slots - 1;
    size_t i = (size_t)(key >> 32) & mask;
    while (bpe->merges[i].left != NO_TOKEN &&
           (bpe->merges[i].left != left || bpe->merges[i].right != right))
        i = (i + 1) & mask;
    return &bpe->merges[i];
}

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
    *find_merge(bpe, a, b) = (struct merge){a, b, id, (uint32_t)i};
    return true;
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

static bool before(const struct candidate *a, const struct candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->pos < b->pos;
}

static void heap_push(struct heap *heap, struct candidate item) {
    size_t i = heap->n++;
    for (; i > 0 && before(&item, &heap->items[(i - 1) / 2]); i = (i - 1) / 2)
        heap->items[i] = heap->items[(i - 1) / 2];
    heap->items[i] = item;
}

static struct candidate heap_pop(struct heap *heap) {
    struct candidate top = heap->items[0], last = heap->items[--heap->n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < heap->n; i = child) {
        if (child + 1 < heap->n && before(&heap->items[child + 1], &heap->items[child]))
            child++;
        if (!before(&heap->items[child], &last)) break;
        heap->items[i] = heap->items[child];
    }
    heap->items[i] = last;
    return top;
}

static void consider(const struct mal_bpe *bpe, const struct symbol *symbols,
                     uint32_t pos, struct heap *heap) {
    if (pos == END || symbols[pos].next == END) return;
    const struct merge *m =
        find_merge(bpe, symbols[pos].id, symbols[symbols[pos].next].id);
    if (m->left != NO_TOKEN) heap_push(heap, (struct candidate){m->rank, pos, m->id});
}

/* Every merge takes one candidate away and adds at most two: 2 n are enough for n
 * symbols. */
static void merge_all(const struct mal_bpe *bpe, struct symbol *symbols, size_t n,
                      struct heap *heap) {
    for (size_t i = 0; i + 1 < n; i++)
        consider(bpe, symbols, (uint32_t)i, heap);
    while (heap->n > 0) {
        struct candidate top = heap_pop(heap);
        struct symbol *left = &symbols[top.pos];
        if (left->id == NO_TOKEN || left->next == END) continue;
        struct symbol *right = &symbols[left->next];
        const struct merge *m = find_merge(bpe, left->id, right->id);
        if (m->left == NO_TOKEN || m->id != top.id) continue; /* the pair is gone */
        left->id = top.id;
        right->id = NO_TOKEN;
        left->next = right->next;
        if (left->next != END) symbols[left->next].prev = top.pos;
        consider(bpe, symbols, left->prev, heap);
        consider(bpe, symbols, top.pos, heap);
    }
}

/* The bytes as symbols; unknown ones as `unk`, one for several in a row if fused. */
static size_t split_bytes(const struct mal_bpe *bpe, const char *word, size_t bytes,
                          struct symbol *symbols) {
    size_t n = 0;
    bool unknown_before = false;
    for (size_t i = 0; i < bytes; i++) {
        int32_t id = bpe->byte_id[(unsigned char)word[i]];
        bool unknown = id == NO_TOKEN;
        if (unknown) id = bpe->unk;
        if (id == NO_TOKEN || (unknown && unknown_before && bpe->fuse_unk)) continue;
        symbols[n] = (struct symbol){id, n ? (uint32_t)n - 1 : END, (uint32_t)n + 1};
        n++;
        unknown_before = unknown;
    }
    if (n > 0) symbols[n - 1].next = END;
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
    size_t per_byte = sizeof(struct symbol) + 2 * sizeof(struct candidate);
    if (bytes >= INT32_MAX)
        return mal_fail(err, MAL_TOO_LARGE, "a word of %zu bytes", bytes);
    if (!mal_scratch_reserve(scratch, bytes * per_byte, err)) return false;
    if (bpe->ignore_merges) {
        int32_t id = whole_word(bpe, scratch, word, bytes);
        if (id != NO_TOKEN) return mal_ids_push(out, id, err);
    }
    struct symbol *symbols = scratch->mem;
    struct heap heap = {.items = (struct candidate *)(symbols + bytes)};
    size_t n = split_bytes(bpe, word, bytes, symbols);
    merge_all(bpe, symbols, n, &heap);
    for (size_t i = 0; i < n; i++) {
        if (symbols[i].id != NO_TOKEN && !mal_ids_push(out, symbols[i].id, err))
            return false;
    }
    return true;
}

/* ---- Building ---- */

static void destroy(struct mal_word_model *model) {
    struct mal_bpe *bpe = (struct mal_bpe *)model;
    mal_free(bpe->merges);
    mal_free(bpe);
}

static bool set_bytes(struct mal_bpe *bpe, const struct mal_bpe_options *options,
                      const char *where, struct mal_error *err) {
    bool complete = true;
    for (int b = 0; b < 256; b++) {
        char spelled[4];
        size_t n = mal_byte_level_put((unsigned char)b, spelled);
        bpe->byte_id[b] = mal_vocab_find(bpe->vocab, spelled, n);
        complete &= bpe->byte_id[b] >= 0;
    }
    bpe->unk = NO_TOKEN;
    if (complete || !options->unk_token) return true;
    bpe->unk = mal_vocab_find(bpe->vocab, options->unk_token, strlen(options->unk_token));
    if (bpe->unk >= 0) return true;
    char shown[MAL_TEXT_SHOWN];
    return mal_fail(err, MAL_INVALID, "%s: unk_token '%s' is not in the vocabulary",
                    mal_file_shown(where), mal_text_shown(shown, options->unk_token));
}

bool mal_bpe_create(struct mal_bpe **out, const struct mal_vocab *vocab, size_t n_merges,
                    const struct mal_bpe_options *options, const char *where,
                    struct mal_error *err) {
    if (n_merges >= UINT32_MAX) {
        return mal_fail(err, MAL_TOO_LARGE, "%s: %zu merges", mal_file_shown(where),
                        n_merges);
    }
    struct mal_bpe *bpe = mal_calloc(1, sizeof *bpe);
    if (!bpe) goto no_memory;
    bpe->model = (struct mal_word_model){encode, destroy};
    bpe->vocab = vocab;
    bpe->fuse_unk = options->fuse_unk;
    bpe->ignore_merges = options->ignore_merges;
    for (bpe->n_slots = 16; bpe->n_slots < 2 * n_merges; bpe->n_slots *= 2)
        continue;
    bpe->merges = mal_malloc(bpe->n_slots * sizeof *bpe->merges);
    if (!bpe->merges) goto no_memory;
    for (size_t i = 0; i < bpe->n_slots; i++)
        bpe->merges[i].left = NO_TOKEN;
    if (!set_bytes(bpe, options, where, err)) {
        destroy(&bpe->model);
        return false;
    }
    *out = bpe;
    return true;

no_memory:
    if (bpe) destroy(&bpe->model);
    return mal_fail(err, MAL_NO_MEMORY, "%s: merges", mal_file_shown(where));
}

struct mal_word_model *mal_bpe_model(struct mal_bpe *bpe) {
    return &bpe->model;
}
