/* wordpiece.c - WordPiece: the longest token that begins a word, then again and again the
 * longest that goes on with it; a word that cannot be covered so is unknown as a whole.
 *
 * Tokens that begin a word and those that go on (written with a prefix) are two sets in
 * one hash table. The hashes of all beginnings of what is left of a word come from one
 * walk, so that a word takes as many steps as it has bytes times those of the longest
 * token. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "core/tokenizer/parts.h"

struct slot {
    uint32_t hash;
    int32_t id; /* -1: free */
};

struct wordpiece {
    struct mal_word_model model; /* first: the model is the WordPiece */
    const struct mal_vocab *vocab;
    struct slot *slots;
    size_t n_slots;
    size_t prefix_bytes; /* of tokens that go on */
    size_t longest;      /* bytes of a token, prefix not counted */
    size_t most_chars;   /* longer words are unknown */
    int32_t unk;
};

/* ---- The table ---- */

static const uint32_t START = 0x811c9dc5u, GO_ON = 0x5bd1e995u;

static uint32_t step(uint32_t hash, char c) {
    return (hash ^ (unsigned char)c) * 0x01000193u;
}

static size_t first_slot(const struct wordpiece *wp, uint32_t hash) {
    return (hash ^ hash >> 15) & (wp->n_slots - 1);
}

static int32_t find(const struct wordpiece *wp, uint32_t hash, bool go_on,
                    const char *text, size_t bytes) {
    size_t skip = go_on ? wp->prefix_bytes : 0;
    for (size_t i = first_slot(wp, hash);; i = (i + 1) & (wp->n_slots - 1)) {
        const struct slot *slot = &wp->slots[i];
        if (slot->id < 0) return -1;
        if (slot->hash != hash) continue;
        const struct mal_token *token = &wp->vocab->tokens[slot->id];
        if (token->bytes == bytes + skip &&
            memcmp(wp->vocab->text + token->offset + skip, text, bytes) == 0)
            return slot->id;
    }
}

static void put(struct wordpiece *wp, int32_t id, bool go_on) {
    const struct mal_token *token = &wp->vocab->tokens[id];
    size_t skip = go_on ? wp->prefix_bytes : 0;
    const char *text = wp->vocab->text + token->offset + skip;
    size_t bytes = token->bytes - skip;
    uint32_t hash = go_on ? GO_ON : START;
    for (size_t i = 0; i < bytes; i++)
        hash = step(hash, text[i]);
    size_t i = first_slot(wp, hash);
    while (wp->slots[i].id >= 0)
        i = (i + 1) & (wp->n_slots - 1);
    wp->slots[i] = (struct slot){hash, id};
    if (bytes > wp->longest) wp->longest = bytes;
}

/* ---- Encoding ---- */

static bool too_long(const struct wordpiece *wp, const char *word, size_t bytes) {
    if (bytes <= wp->most_chars) return false;
    size_t chars = 0;
    for (size_t i = 0; i < bytes && chars <= wp->most_chars; i++)
        chars += ((unsigned char)word[i] & 0xc0) != 0x80;
    return chars > wp->most_chars;
}

/* The longest token at the start of what is left of a word, -1: none. */
static int32_t longest(const struct wordpiece *wp, uint32_t *hashes, bool go_on,
                       const char *text, size_t bytes, size_t *out_bytes) {
    size_t n = bytes < wp->longest ? bytes : wp->longest;
    uint32_t hash = go_on ? GO_ON : START;
    for (size_t i = 0; i < n; i++)
        hashes[i] = hash = step(hash, text[i]);
    for (; n > 0; n--) {
        if (n < bytes && ((unsigned char)text[n] & 0xc0) == 0x80) continue;
        int32_t id = find(wp, hashes[n - 1], go_on, text, n);
        if (id < 0) continue;
        *out_bytes = n;
        return id;
    }
    return -1;
}

static bool encode(const struct mal_word_model *model, struct mal_scratch *scratch,
                   const char *word, size_t bytes, struct mal_ids *out,
                   struct mal_error *err) {
    const struct wordpiece *wp = (const struct wordpiece *)model;
    size_t n_before = out->n;
    if (too_long(wp, word, bytes)) return mal_ids_push(out, wp->unk, err);
    if (!mal_scratch_reserve(scratch, wp->longest * sizeof(uint32_t), err)) return false;
    for (size_t i = 0, n; i < bytes; i += n) {
        int32_t id = longest(wp, scratch->mem, i > 0, word + i, bytes - i, &n);
        if (id < 0) {
            out->n = n_before;
            return mal_ids_push(out, wp->unk, err);
        }
        if (!mal_ids_push(out, id, err)) return false;
    }
    return true;
}

/* ---- Building ---- */

static void destroy(struct mal_word_model *model) {
    struct wordpiece *wp = (struct wordpiece *)model;
    mal_free(wp->slots);
    mal_free(wp);
}

static bool fill(struct wordpiece *wp, const char *prefix) {
    const struct mal_vocab *vocab = wp->vocab;
    size_t need = 1;
    for (int32_t id = 0; id < vocab->size; id++)
        need += vocab->tokens[id].in_model;
    for (wp->n_slots = 16; wp->n_slots < 4 * need; wp->n_slots *= 2)
        continue;
    wp->slots = mal_malloc(wp->n_slots * sizeof *wp->slots);
    if (!wp->slots) return false;
    for (size_t i = 0; i < wp->n_slots; i++)
        wp->slots[i].id = -1;
    wp->prefix_bytes = strlen(prefix);
    for (int32_t id = 0; id < vocab->size; id++) {
        const struct mal_token *token = &vocab->tokens[id];
        if (!token->in_model) continue;
        put(wp, id, false);
        if (token->bytes >= wp->prefix_bytes &&
            memcmp(vocab->text + token->offset, prefix, wp->prefix_bytes) == 0)
            put(wp, id, true);
    }
    return true;
}

bool mal_wordpiece_create(struct mal_word_model **out, const struct mal_vocab *vocab,
                          const struct mal_wordpiece_options *options, const char *where,
                          struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN];
    int32_t unk = mal_vocab_find(vocab, options->unk_token, strlen(options->unk_token));
    if (unk < 0) {
        return mal_fail(err, MAL_INVALID, "%s: unk_token '%s' is not in the vocabulary",
                        mal_file_shown(where), mal_text_shown(shown, options->unk_token));
    }
    struct wordpiece *wp = mal_calloc(1, sizeof *wp);
    if (!wp) goto no_memory;
    wp->model = (struct mal_word_model){encode, destroy};
    wp->vocab = vocab;
    wp->unk = unk;
    wp->most_chars = options->max_input_chars_per_word;
    if (!fill(wp, options->continuing_subword_prefix)) goto no_memory;
    *out = &wp->model;
    return true;

no_memory:
    if (wp) destroy(&wp->model);
    return mal_fail(err, MAL_NO_MEMORY, "%s: WordPiece", mal_file_shown(where));
}

bool mal_read_wordpiece_model(struct mal_tokenizer *tok, const json_t *model,
                              const char *where, struct mal_error *err) {
    struct mal_wordpiece_options options = {"[UNK]", "##", 100};
    int64_t most = 100;
    if (tok->byte_level_words) {
        return mal_part_unsupported("model after a ByteLevel pre-tokenizer,", "WordPiece",
                                    where, err);
    }
    if (!mal_json_string_opt(model, "unk_token", &options.unk_token, where, err) ||
        !mal_json_string_opt(model, "continuing_subword_prefix",
                             &options.continuing_subword_prefix, where, err) ||
        !mal_json_int_opt(model, "max_input_chars_per_word", 0, INT64_MAX, &most, where,
                          err) ||
        !mal_vocab_read(&tok->vocab, json_object_get(model, "vocab"), where, err))
        return false;
    options.max_input_chars_per_word = (size_t)most;
    return mal_wordpiece_create(&tok->model, &tok->vocab, &options, where, err);
}
