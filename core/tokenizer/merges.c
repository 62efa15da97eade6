/* merges.c - pairs of tokens that become one, and their use: of all pairs in a word the
 * one that comes first in the file is merged first, the leftmost of equal ones first.
 *
 * In a long word the symbols are a linked list and the candidate pairs a heap, so that n
 * symbols take n log n steps: a text without a space is one word. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/tokenizer/parts.h"

enum { NO_TOKEN = -1, SHORT_WORD = 24 };

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

/* ---- The table ---- */

static struct mal_merge *find(const struct mal_merges *merges, int32_t left,
                              int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key = (key ^ key >> 31) * 0x9e3779b97f4a7c15u;
    size_t mask = merges->n_slots - 1;
    size_t i = (size_t)(key >> 32) & mask;
    while (merges->slots[i].left != NO_TOKEN &&
           (merges->slots[i].left != left || merges->slots[i].right != right))
        i = (i + 1) & mask;
    return &merges->slots[i];
}

bool mal_merges_init(struct mal_merges *merges, size_t n, const char *where,
                     struct mal_error *err) {
    *merges = (struct mal_merges){.n_slots = 16};
    if (n >= UINT32_MAX)
        return mal_fail(err, MAL_TOO_LARGE, "%s: %zu merges", mal_file_shown(where), n);
    while (merges->n_slots < 2 * n)
        merges->n_slots *= 2;
    merges->slots = mal_malloc(merges->n_slots * sizeof *merges->slots);
    if (!merges->slots)
        return mal_fail(err, MAL_NO_MEMORY, "%s: merges", mal_file_shown(where));
    for (size_t i = 0; i < merges->n_slots; i++)
        merges->slots[i].left = NO_TOKEN;
    return true;
}

void mal_merges_put(struct mal_merges *merges, struct mal_merge merge) {
    *find(merges, merge.left, merge.right) = merge;
}

void mal_merges_finish(struct mal_merges *merges) {
    mal_free(merges->slots);
    *merges = (struct mal_merges){0};
}

/* ---- Short words ---- */

static void look_up(const struct mal_merges *merges, const int32_t *ids, size_t n,
                    size_t i, struct mal_merge *pairs) {
    pairs[i].rank = END;
    if (i + 1 >= n) return;
    const struct mal_merge *m = find(merges, ids[i], ids[i + 1]);
    if (m->left != NO_TOKEN) pairs[i] = *m;
}

static size_t apply_short(const struct mal_merges *merges, int32_t *ids, size_t n) {
    struct mal_merge pairs[SHORT_WORD];
    for (size_t i = 0; i < n; i++)
        look_up(merges, ids, n, i, pairs);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (pairs[i].rank < pairs[best].rank) best = i;
        }
        if (pairs[best].rank == END) break;
        ids[best] = pairs[best].id;
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        memmove(pairs + best + 1, pairs + best + 2, (n - best - 1) * sizeof *pairs);
        look_up(merges, ids, n, best, pairs);
        if (best > 0) look_up(merges, ids, n, best - 1, pairs);
    }
    return n;
}

/* ---- Long words ---- */

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

static void consider(const struct mal_merges *merges, const struct symbol *symbols,
                     uint32_t pos, struct heap *heap) {
    if (pos == END || symbols[pos].next == END) return;
    const struct mal_merge *m =
        find(merges, symbols[pos].id, symbols[symbols[pos].next].id);
    if (m->left != NO_TOKEN) heap_push(heap, (struct candidate){m->rank, pos, m->id});
}

/* Every merge takes one candidate away and adds at most two: 2 n are enough for n
 * symbols. */
static void merge_all(const struct mal_merges *merges, struct symbol *symbols, size_t n,
                      struct heap *heap) {
    for (size_t i = 0; i + 1 < n; i++)
        consider(merges, symbols, (uint32_t)i, heap);
    while (heap->n > 0) {
        struct candidate top = heap_pop(heap);
        struct symbol *left = &symbols[top.pos];
        if (left->id == NO_TOKEN || left->next == END) continue;
        struct symbol *right = &symbols[left->next];
        const struct mal_merge *m = find(merges, left->id, right->id);
        if (m->left == NO_TOKEN || m->id != top.id) continue; /* the pair is gone */
        left->id = top.id;
        right->id = NO_TOKEN;
        left->next = right->next;
        if (left->next != END) symbols[left->next].prev = top.pos;
        consider(merges, symbols, left->prev, heap);
        consider(merges, symbols, top.pos, heap);
    }
}

size_t mal_merges_space(size_t n) {
    return n <= SHORT_WORD ? 0
                           : n * (sizeof(struct symbol) + 2 * sizeof(struct candidate));
}

size_t mal_merges_apply(const struct mal_merges *merges, int32_t *ids, size_t n,
                        void *space) {
    if (n <= SHORT_WORD) return apply_short(merges, ids, n);
    struct symbol *symbols = space;
    struct heap heap = {.items = (struct candidate *)(symbols + n)};
    for (size_t i = 0; i < n; i++)
        symbols[i] = (struct symbol){ids[i], i ? (uint32_t)i - 1 : END, (uint32_t)i + 1};
    symbols[n - 1].next = END;
    merge_all(merges, symbols, n, &heap);
    size_t left = 0;
    for (size_t i = 0; i < n; i++) {
        if (symbols[i].id != NO_TOKEN) ids[left++] = symbols[i].id;
    }
    return left;
}
