/* vocab.c - the tokens of a model by id and by text, in one block of text and one hash
 * table. */
#include <inttypes.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/text.h"
#include "core/tokenizer/parts.h"

static size_t hash(const char *text, size_t bytes) {
    uint64_t h =
        0xcbf29ce484222325u; /* FNV-1a, mixed once more because slots are low bits */
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
    return (size_t)(h ^ h >> 32);
}

/* The slot of `token`, or the free one where it belongs. */
static size_t find_slot(const struct mal_vocab *vocab, const char *token, size_t bytes) {
    size_t mask = vocab->n_slots - 1;
    size_t i = hash(token, bytes) & mask;
    for (; vocab->slots[i] != 0; i = (i + 1) & mask) {
        const struct mal_token *t = &vocab->tokens[vocab->slots[i] - 1];
        if (t->bytes == bytes && memcmp(vocab->text + t->offset, token, bytes) == 0)
            break;
    }
    return i;
}

int32_t mal_vocab_find(const struct mal_vocab *vocab, const char *token, size_t bytes) {
    if (vocab->n_slots == 0) return -1;
    return vocab->slots[find_slot(vocab, token, bytes)] - 1;
}

static bool grow_slots(struct mal_vocab *vocab) {
    if (2 * (vocab->n_used + 1) <= vocab->n_slots) return true;
    size_t n = vocab->n_slots ? 2 * vocab->n_slots : 1024;
    int32_t *slots = mal_calloc(n, sizeof *slots);
    if (!slots) return false;
    int32_t *old = vocab->slots;
    size_t n_old = vocab->n_slots;
    vocab->slots = slots;
    vocab->n_slots = n;
    for (size_t i = 0; i < n_old; i++) {
        if (old[i] == 0) continue;
        const struct mal_token *t = &vocab->tokens[old[i] - 1];
        slots[find_slot(vocab, vocab->text + t->offset, t->bytes)] = old[i];
    }
    mal_free(old);
    return true;
}

static bool keep_text(struct mal_vocab *vocab, const char *text, size_t bytes,
                      uint32_t *out_offset, const char *where, struct mal_error *err) {
    if (bytes > UINT32_MAX || vocab->text_used > UINT32_MAX - bytes) {
        return mal_fail(err, MAL_TOO_LARGE, "%s: more than 4 GiB of tokens",
                        mal_file_shown(where));
    }
    if (!vocab->text || vocab->text_used + bytes > vocab->text_capacity) {
        size_t capacity = 2 * (vocab->text_used + bytes) + 4096;
        char *grown = mal_realloc(vocab->text, capacity);
        if (!grown)
            return mal_fail(err, MAL_NO_MEMORY, "%s: vocabulary", mal_file_shown(where));
        vocab->text = grown;
        vocab->text_capacity = capacity;
    }
    memcpy(vocab->text + vocab->text_used, text, bytes);
    *out_offset = (uint32_t)vocab->text_used;
    vocab->text_used += bytes;
    return true;
}

static bool grow_tokens(struct mal_vocab *vocab, int32_t id) {
    if ((size_t)id >= vocab->tokens_capacity) {
        size_t capacity = 2 * vocab->tokens_capacity;
        if ((size_t)id >= capacity) capacity = (size_t)id + 1;
        /* calloc: the gap below one huge id costs no memory as long as nobody looks. */
        struct mal_token *tokens = mal_calloc(capacity, sizeof *tokens);
        if (!tokens) return false;
        if (vocab->size > 0)
            memcpy(tokens, vocab->tokens, (size_t)vocab->size * sizeof *tokens);
        mal_free(vocab->tokens);
        vocab->tokens = tokens;
        vocab->tokens_capacity = capacity;
    }
    if (id >= vocab->size) vocab->size = id + 1;
    return true;
}

bool mal_vocab_add(struct mal_vocab *vocab, const char *token, size_t bytes, int64_t id,
                   const char *where, struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN];
    if (id < 0 || id >= MAL_MAX_TOKEN_ID) {
        return mal_fail(err, MAL_INVALID,
                        "%s: token '%s' has the id %" PRId64 ", not 0..%d",
                        mal_file_shown(where), mal_text_shown(shown, token), id,
                        MAL_MAX_TOKEN_ID - 1);
    }
    if (id < vocab->size && (vocab->tokens[id].in_model || vocab->tokens[id].is_added)) {
        return mal_fail(err, MAL_INVALID,
                        "%s: token '%s' has the id %" PRId64 " of another",
                        mal_file_shown(where), mal_text_shown(shown, token), id);
    }
    uint32_t offset;
    if (!keep_text(vocab, token, bytes, &offset, where, err)) return false;
    if (!grow_slots(vocab) || !grow_tokens(vocab, (int32_t)id))
        return mal_fail(err, MAL_NO_MEMORY, "%s: vocabulary", mal_file_shown(where));
    vocab->tokens[id] = (struct mal_token){.offset = offset,
                                           .bytes = (uint32_t)bytes,
                                           .out_offset = offset,
                                           .out_bytes = (uint32_t)bytes,
                                           .in_model = true};
    vocab->slots[find_slot(vocab, token, bytes)] = (int32_t)id + 1;
    vocab->n_used++;
    return true;
}

bool mal_vocab_decode_as(struct mal_vocab *vocab, int32_t id, const char *text,
                         size_t bytes, const char *where, struct mal_error *err) {
    struct mal_token *token = &vocab->tokens[id];
    if (!keep_text(vocab, text, bytes, &token->out_offset, where, err)) return false;
    token->out_bytes = (uint32_t)bytes;
    return true;
}

bool mal_vocab_read(struct mal_vocab *vocab, const json_t *object, const char *where,
                    struct mal_error *err) {
    if (!json_is_object(object) || json_object_size(object) == 0) {
        return mal_fail(err, MAL_INVALID,
                        "%s: the vocabulary must be an object with tokens",
                        mal_file_shown(where));
    }
    const char *token;
    json_t *id;
    json_object_foreach ((json_t *)object, token, id) {
        char shown[MAL_TEXT_SHOWN];
        if (!json_is_integer(id)) {
            return mal_fail(err, MAL_INVALID,
                            "%s: the id of token '%s' is not an integer",
                            mal_file_shown(where), mal_text_shown(shown, token));
        }
        if (!mal_vocab_add(vocab, token, strlen(token), json_integer_value(id), where,
                           err))
            return false;
    }
    return true;
}

void mal_vocab_finish(struct mal_vocab *vocab) {
    mal_free(vocab->text);
    mal_free(vocab->tokens);
    mal_free(vocab->slots);
    *vocab = (struct mal_vocab){0};
}
