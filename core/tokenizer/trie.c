/* trie.c - the tokens that a text begins with, found byte by byte: a double array.
 *
 * The child of a node for byte c is the unit at base ^ c, if that unit's label is c. No
 * two nodes have the same base, so the label is all there is to check. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/tokenizer/spm.h"

enum { BLOCK = 256, MAX_TRIES = 32 };

static const uint32_t NONE = UINT32_MAX;

struct key {
    const char *text;
    uint32_t bytes;
    int32_t id;
};

/* The node at `unit` of keys [from, to), which are alike in their first `depth` bytes. */
struct node {
    uint32_t unit, from, to, depth;
};

/* The free units are a list. */
struct link {
    uint32_t next, prev;
    bool is_base;
};

struct builder {
    struct mal_trie *trie;
    struct key *keys;
    struct node *queue;
    size_t n_queue, queue_capacity;
    struct link *links; /* one per unit */
    size_t capacity;
    uint32_t first; /* free unit */
};

static int by_text(const void *a, const void *b) {
    const struct key *x = a, *y = b;
    size_t n = x->bytes < y->bytes ? x->bytes : y->bytes;
    int order = memcmp(x->text, y->text, n);
    return order ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* ---- Units ---- */

static bool grow(struct builder *b, size_t capacity) {
    struct mal_trie_unit *units =
        mal_realloc(b->trie->units, capacity * sizeof *b->trie->units);
    if (units) b->trie->units = units;
    struct link *links = mal_realloc(b->links, capacity * sizeof *links);
    if (links) b->links = links;
    if (!units || !links) return false;
    b->capacity = capacity;
    return true;
}

/* A block of free units, put before the others. */
static bool add_block(struct builder *b) {
    size_t n = b->trie->n_units;
    if ((!b->links || n + BLOCK > b->capacity) && !grow(b, 2 * n + BLOCK)) return false;
    for (size_t i = n; i < n + BLOCK; i++) {
        b->trie->units[i] = (struct mal_trie_unit){0, -1, MAL_TRIE_FREE};
        b->links[i] =
            (struct link){(uint32_t)i + 1, i == n ? NONE : (uint32_t)i - 1, false};
    }
    b->links[n + BLOCK - 1].next = b->first;
    if (b->first != NONE) b->links[b->first].prev = (uint32_t)n + BLOCK - 1;
    b->first = (uint32_t)n;
    b->trie->n_units = n + BLOCK;
    return true;
}

static void take(struct builder *b, uint32_t unit) {
    uint32_t next = b->links[unit].next, prev = b->links[unit].prev;
    if (next != NONE) b->links[next].prev = prev;
    if (prev != NONE) b->links[prev].next = next;
    if (b->first == unit) b->first = next;
}

static bool fits(const struct builder *b, uint32_t base, const unsigned char *labels,
                 size_t n) {
    /* Block 0 stays empty: base 0 is that of a node without children. */
    if (base < BLOCK || b->links[base].is_base) return false;
    for (size_t i = 0; i < n; i++) {
        if (b->trie->units[base ^ labels[i]].label != MAL_TRIE_FREE) return false;
    }
    return true;
}

static bool find_base(struct builder *b, const unsigned char *labels, size_t n,
                      uint32_t *out) {
    uint32_t unit = b->first;
    for (int i = 0; unit != NONE && i < MAX_TRIES; i++, unit = b->links[unit].next) {
        *out = unit ^ labels[0];
        if (fits(b, *out, labels, n)) return true;
    }
    if (!add_block(b)) return false;
    *out = b->first;
    return true;
}

/* ---- Nodes ---- */

static bool push(struct builder *b, struct node node) {
    if (b->n_queue == b->queue_capacity) {
        size_t capacity = 2 * b->queue_capacity + 64;
        struct node *queue = mal_realloc(b->queue, capacity * sizeof *queue);
        if (!queue) return false;
        b->queue = queue;
        b->queue_capacity = capacity;
    }
    b->queue[b->n_queue++] = node;
    return true;
}

/* Where the keys after `from` stop to have its byte at `depth`. */
static uint32_t same_label(const struct builder *b, uint32_t from, uint32_t to,
                           uint32_t depth) {
    char c = b->keys[from].text[depth];
    while (from < to && b->keys[from].text[depth] == c)
        from++;
    return from;
}

static bool add_children(struct builder *b, struct node node) {
    unsigned char labels[256];
    size_t n = 0;
    uint32_t base;
    if (b->keys[node.from].bytes == node.depth)
        b->trie->units[node.unit].id = b->keys[node.from++].id;
    for (uint32_t i = node.from; i < node.to; i = same_label(b, i, node.to, node.depth))
        labels[n++] = (unsigned char)b->keys[i].text[node.depth];
    if (n == 0) return true;
    if (!find_base(b, labels, n, &base)) return false;
    b->links[base].is_base = true;
    b->trie->units[node.unit].base = base;
    uint32_t from = node.from;
    for (size_t i = 0; i < n; i++) {
        uint32_t unit = base ^ labels[i], to = same_label(b, from, node.to, node.depth);
        take(b, unit);
        b->trie->units[unit].label = labels[i];
        if (!push(b, (struct node){unit, from, to, node.depth + 1})) return false;
        from = to;
    }
    return true;
}

/* A token that is there twice has the id that the vocabulary finds. */
static size_t sort_keys(struct key *keys, const struct mal_vocab *vocab) {
    size_t n = 0;
    for (int32_t id = 0; id < vocab->size; id++) {
        const struct mal_token *t = &vocab->tokens[id];
        const char *text = vocab->text + t->offset;
        if (t->in_model && t->bytes > 0 && mal_vocab_find(vocab, text, t->bytes) == id)
            keys[n++] = (struct key){text, t->bytes, id};
    }
    qsort(keys, n, sizeof *keys, by_text);
    return n;
}

static bool build(struct builder *b, const struct mal_vocab *vocab) {
    b->keys = mal_malloc(((size_t)vocab->size + 1) * sizeof *b->keys);
    if (!b->keys || !add_block(b)) return false;
    uint32_t n = (uint32_t)sort_keys(b->keys, vocab);
    /* The root is unit 0, and its block has no other unit. */
    b->first = NONE;
    if (n > 0 && !push(b, (struct node){0, 0, n, 0})) return false;
    for (size_t i = 0; i < b->n_queue; i++) {
        if (!add_children(b, b->queue[i])) return false;
    }
    return true;
}

bool mal_trie_create(struct mal_trie *out, const struct mal_vocab *vocab,
                     const char *where, struct mal_error *err) {
    struct builder b = {.trie = out, .first = NONE};
    *out = (struct mal_trie){0};
    bool ok = build(&b, vocab);
    mal_free(b.keys);
    mal_free(b.queue);
    mal_free(b.links);
    if (ok) return true;
    mal_trie_finish(out);
    return mal_fail(err, MAL_NO_MEMORY, "%s: vocabulary", mal_file_shown(where));
}

void mal_trie_finish(struct mal_trie *trie) {
    mal_free(trie->units);
    *trie = (struct mal_trie){0};
}
