/* tokenizer.c - opening a tokenizer, and the way of a text through its parts and back. */
#include "core/tokenizer/tokenizer.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/tokenizer/parts.h"
#include "core/utf8.h"

bool mal_ids_push(struct mal_ids *list, int32_t id, struct mal_error *err) {
    if (list->n == list->capacity) {
        size_t capacity = 2 * list->capacity + 16;
        int32_t *ids = mal_realloc(list->ids, capacity * sizeof *ids);
        if (!ids) return mal_fail(err, MAL_NO_MEMORY, "list of token ids");
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return true;
}

void mal_ids_finish(struct mal_ids *list) {
    mal_free(list->ids);
    *list = (struct mal_ids){0};
}

bool mal_scratch_reserve(struct mal_scratch *scratch, size_t bytes,
                         struct mal_error *err) {
    if (bytes <= scratch->capacity) return true;
    size_t capacity = bytes + bytes / 2 + 4096;
    mal_free(scratch->mem);
    scratch->mem = mal_malloc(capacity);
    scratch->capacity = scratch->mem ? capacity : 0;
    return scratch->mem || mal_fail(err, MAL_NO_MEMORY, "a word of the text");
}

/* ---- Opening ---- */

/* Where the original files are: the vocabulary's name and the merges' beside it. */
static const char *const file_pairs[][2] = {{"vocab.json", "merges.txt"},
                                            {"encoder.json", "vocab.bpe"}};

enum { N_FILE_PAIRS = 2 };

static bool read_pair(struct mal_tokenizer *tok, const char *vocab, size_t dir_bytes,
                      const char *merges_name, struct mal_error *err) {
    size_t n = strlen(merges_name) + 1;
    char *merges = mal_malloc(dir_bytes + n);
    if (!merges) return mal_fail(err, MAL_NO_MEMORY, "tokenizer");
    memcpy(merges, vocab, dir_bytes);
    memcpy(merges + dir_bytes, merges_name, n);
    bool ok = mal_tokenizer_read_bpe_files(tok, vocab, merges, err);
    mal_free(merges);
    return ok;
}

static bool read_file(struct mal_tokenizer *tok, const char *path,
                      struct mal_error *err) {
    const char *slash = strrchr(path, '/');
    size_t dir_bytes = slash ? (size_t)(slash - path) + 1 : 0;
    for (size_t i = 0; i < N_FILE_PAIRS; i++) {
        if (strcmp(path + dir_bytes, file_pairs[i][0]) == 0)
            return read_pair(tok, path, dir_bytes, file_pairs[i][1], err);
    }
    return mal_tokenizer_read_json(tok, path, err);
}

bool mal_tokenizer_open_file(struct mal_tokenizer **out, const char *path,
                             struct mal_error *err) {
    struct mal_tokenizer *tok = mal_calloc(1, sizeof *tok);
    if (!tok) return mal_fail(err, MAL_NO_MEMORY, "tokenizer");
    if (!read_file(tok, path, err)) goto fail;
    if (!mal_added_ready(&tok->added, path, err)) goto fail;
    *out = tok;
    return true;

fail:
    mal_tokenizer_close(tok);
    return false;
}

bool mal_tokenizer_open(struct mal_tokenizer **out, const char *dir,
                        struct mal_error *err) {
    static const char *const names[] = {"tokenizer.json", "vocab.json", "encoder.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = mal_file_join(dir, names[i]);
        if (!path) return mal_fail(err, MAL_NO_MEMORY, "tokenizer");
        bool there = access(path, F_OK) == 0;
        bool ok = there && mal_tokenizer_open_file(out, path, err);
        mal_free(path);
        if (there) return ok;
    }
    return mal_fail(err, MAL_NOT_FOUND,
                    "%s: no tokenizer here: neither tokenizer.json, nor vocab.json with "
                    "merges.txt, nor encoder.json with vocab.bpe",
                    mal_file_shown(dir));
}

void mal_tokenizer_close(struct mal_tokenizer *tok) {
    if (!tok) return;
    if (tok->model) tok->model->destroy(tok->model);
    mal_pre_finish(&tok->pretokenizer);
    mal_added_finish(&tok->added);
    mal_vocab_finish(&tok->vocab);
    mal_ids_finish(&tok->before);
    mal_ids_finish(&tok->after);
    mal_free(tok);
}

int32_t mal_tokenizer_size(const struct mal_tokenizer *tok) {
    return tok->vocab.size;
}

int32_t mal_tokenizer_id(const struct mal_tokenizer *tok, const char *token) {
    return mal_vocab_find(&tok->vocab, token, strlen(token));
}

bool mal_tokenizer_is_special(const struct mal_tokenizer *tok, int32_t id) {
    return id >= 0 && id < tok->vocab.size && tok->vocab.tokens[id].is_special;
}

/* ---- Encoding ---- */

static bool push_all(struct mal_ids *out, const struct mal_ids *ids,
                     struct mal_error *err) {
    for (size_t i = 0; i < ids->n; i++) {
        if (!mal_ids_push(out, ids->ids[i], err)) return false;
    }
    return true;
}

/* Added tokens that match the text as it is are cut out first, then, in what is left,
 * those that match normalized text; the rest is cut into words. */
static bool encode_text(const struct mal_tokenizer *tok, struct mal_encode_run *run,
                        const struct mal_added_set *set, const char *text, size_t bytes,
                        struct mal_error *err) {
    struct mal_added_walk walk = {.added = &tok->added,
                                  .set = set,
                                  .matcher = run->matcher,
                                  .text = text,
                                  .bytes = bytes};
    for (;;) {
        struct mal_added_piece piece;
        bool found, ok;
        if (!mal_added_next(&walk, &piece, &found, err)) return false;
        if (!found) return true;
        const char *start = text + piece.start;
        size_t n = piece.end - piece.start;
        if (piece.id >= 0) {
            ok = mal_ids_push(run->out, piece.id, err);
        } else if (set == &tok->added.raw) {
            ok = encode_text(tok, run, &tok->added.normalized, start, n, err);
        } else {
            ok = mal_pre_run(run, start, n, err);
        }
        if (!ok) return false;
    }
}

static bool check_utf8(const char *text, size_t bytes, struct mal_error *err) {
    int32_t point;
    for (size_t i = 0; i < bytes;) {
        size_t n = mal_utf8_next(text + i, bytes - i, &point);
        if (point < 0)
            return mal_fail(err, MAL_INVALID, "the text is not UTF-8 at byte %zu", i);
        i += n;
    }
    return true;
}

bool mal_tokenizer_encode(const struct mal_tokenizer *tok, const char *text, size_t bytes,
                          bool add_special, struct mal_ids *out, struct mal_error *err) {
    size_t n_before = out->n;
    struct mal_encode_run run = {
        .pretokenizer = &tok->pretokenizer, .model = tok->model, .out = out};
    bool ok = check_utf8(text, bytes, err) && mal_matcher_create(&run.matcher, err) &&
              (!add_special || push_all(out, &tok->before, err)) &&
              encode_text(tok, &run, &tok->added.raw, text, bytes, err) &&
              (!add_special || push_all(out, &tok->after, err));
    if (!ok) out->n = n_before;
    mal_matcher_destroy(run.matcher);
    mal_free(run.prefixed.mem);
    mal_free(run.scratch.mem);
    return ok;
}

/* ---- Decoding ---- */

/* Every longest start of a character that is none becomes one U+FFFD, as
 * from_utf8_lossy() of Rust does. */
static bool replace_invalid(char **text, size_t *bytes, struct mal_error *err) {
    static const char replacement[] = "\xef\xbf\xbd";
    if (mal_utf8_valid(*text, *bytes)) return true;
    char *out = mal_malloc(3 * *bytes + 1);
    if (!out) return mal_fail(err, MAL_NO_MEMORY, "decoding token ids");
    size_t used = 0;
    for (size_t i = 0; i < *bytes;) {
        int32_t point;
        size_t n = mal_utf8_next(*text + i, *bytes - i, &point);
        const char *from = point < 0 ? replacement : *text + i;
        size_t n_put = point < 0 ? sizeof replacement - 1 : n;
        memcpy(out + used, from, n_put);
        used += n_put;
        i += n;
    }
    out[used] = 0;
    mal_free(*text);
    *text = out;
    *bytes = used;
    return true;
}

static bool is_dropped(const struct mal_token *token, bool skip_special) {
    return (!token->in_model && !token->is_added) || (skip_special && token->is_special);
}

bool mal_tokenizer_decode(const struct mal_tokenizer *tok, const int32_t *ids, size_t n,
                          bool skip_special, bool raw, char **out, size_t *out_bytes,
                          struct mal_error *err) {
    const struct mal_token *tokens = tok->vocab.tokens;
    size_t most = 0, used = 0;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= tok->vocab.size) {
            return mal_fail(err, MAL_INVALID, "token id %d is not in 0..%d", ids[i],
                            tok->vocab.size - 1);
        }
        if (!is_dropped(&tokens[ids[i]], skip_special)) most += tokens[ids[i]].bytes;
    }
    char *text = mal_malloc(most + 1);
    if (!text) return mal_fail(err, MAL_NO_MEMORY, "decoding %zu token ids", n);
    for (size_t i = 0; i < n; i++) {
        const struct mal_token *token = &tokens[ids[i]];
        if (is_dropped(token, skip_special)) continue;
        used += mal_byte_level_decode(tok->vocab.text + token->offset, token->bytes,
                                      text + used);
    }
    text[used] = 0;
    if (!raw && !replace_invalid(&text, &used, err)) {
        mal_free(text);
        return false;
    }
    *out = text;
    *out_bytes = used;
    return true;
}
