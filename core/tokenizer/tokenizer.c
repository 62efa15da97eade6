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

/* What the names of files end with that are no tokenizer.json. */
static const struct {
    const char *name;
    bool (*read)(struct mal_tokenizer *tok, const char *path, size_t stem,
                 struct mal_error *err);
} original_files[] = {{"vocab.json", mal_tokenizer_read_bpe_files},
                      {"encoder.json", mal_tokenizer_read_bpe_files},
                      {"vocab.txt", mal_tokenizer_read_wordpiece_files},
                      {"spiece.model", mal_tokenizer_read_spm},
                      {"tokenizer.model", mal_tokenizer_read_spm}};

enum { N_ORIGINAL_FILES = sizeof original_files / sizeof *original_files };

static bool has_ending(const char *path, const char *ending) {
    size_t n = strlen(path), n_ending = strlen(ending);
    return n >= n_ending && strcmp(path + n - n_ending, ending) == 0;
}

static bool read_file(struct mal_tokenizer *tok, const char *path,
                      struct mal_error *err) {
    for (size_t i = 0; i < N_ORIGINAL_FILES; i++) {
        const char *name = original_files[i].name;
        if (has_ending(path, name))
            return original_files[i].read(tok, path, strlen(path) - strlen(name), err);
    }
    return has_ending(path, ".model") ? mal_tokenizer_read_spm(tok, path, 0, err)
                                      : mal_tokenizer_read_json(tok, path, err);
}

bool mal_tokenizer_open_file(struct mal_tokenizer **out, const char *path,
                             struct mal_error *err) {
    struct mal_tokenizer *tok = mal_calloc(1, sizeof *tok);
    if (!tok) return mal_fail(err, MAL_NO_MEMORY, "tokenizer");
    if (!read_file(tok, path, err)) goto fail;
    if (!mal_added_ready(&tok->added, &tok->vocab, &tok->normalizers, path, err))
        goto fail;
    *out = tok;
    return true;

fail:
    mal_tokenizer_close(tok);
    return false;
}

bool mal_tokenizer_open(struct mal_tokenizer **out, const char *dir,
                        struct mal_error *err) {
    for (size_t i = 0; i <= N_ORIGINAL_FILES; i++) {
        char *path =
            mal_file_join(dir, i == 0 ? "tokenizer.json" : original_files[i - 1].name);
        if (!path) return mal_fail(err, MAL_NO_MEMORY, "tokenizer");
        bool there = access(path, F_OK) == 0;
        bool ok = there && mal_tokenizer_open_file(out, path, err);
        mal_free(path);
        if (there) return ok;
    }
    return mal_fail(err, MAL_NOT_FOUND,
                    "%s: no tokenizer here: neither tokenizer.json, nor vocab.json with "
                    "merges.txt, nor encoder.json with vocab.bpe, nor vocab.txt, nor "
                    "spiece.model, nor tokenizer.model",
                    mal_file_shown(dir));
}

void mal_tokenizer_close(struct mal_tokenizer *tok) {
    if (!tok) return;
    if (tok->model) tok->model->destroy(tok->model);
    mal_normalizers_finish(&tok->normalizers);
    mal_pre_finish(&tok->pretokenizer);
    mal_decoders_finish(&tok->decoders);
    mal_added_finish(&tok->added);
    mal_vocab_finish(&tok->vocab);
    mal_ids_finish(&tok->before);
    mal_ids_finish(&tok->after);
    mal_free(tok);
}

int32_t mal_tokenizer_size(const struct mal_tokenizer *tok) {
    return tok->vocab.size;
}

int32_t mal_tokenizer_size_of_model(const struct mal_tokenizer *tok) {
    int32_t size = tok->vocab.size;
    while (size > 0 && !tok->vocab.tokens[size - 1].in_model)
        size--;
    return size;
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

static bool encode_pieces(struct mal_encode_run *run, const struct mal_added_set *set,
                          const char *text, size_t bytes, struct mal_error *err);

/* Text between the added tokens of `set`. */
static bool encode_between(struct mal_encode_run *run, const struct mal_added_set *set,
                           const char *text, size_t bytes, struct mal_error *err) {
    const struct mal_tokenizer *tok = run->tok;
    if (set == &tok->added.normalized) return mal_pre_run(run, text, bytes, err);
    bool first = text == run->start;
    bool cut;
    if (!mal_normalize(&tok->normalizers, run->matcher, first && run->goes_on,
                       run->normalized, &text, &bytes, &cut, err))
        return false;
    run->start = first ? text : NULL;
    run->cut = cut;
    return encode_pieces(run, &tok->added.normalized, text, bytes, err);
}

/* Added tokens that match the text as it is are cut out first, then, in what is left and
 * normalized, those that match normalized text; the rest is cut into words. */
static bool encode_pieces(struct mal_encode_run *run, const struct mal_added_set *set,
                          const char *text, size_t bytes, struct mal_error *err) {
    struct mal_added_walk walk = {.added = &run->tok->added,
                                  .set = set,
                                  .matcher = run->matcher,
                                  .text = text,
                                  .bytes = bytes};
    for (;;) {
        struct mal_added_piece piece;
        bool found;
        if (!mal_added_next(&walk, &piece, &found, err)) return false;
        if (!found) return true;
        bool ok = piece.id >= 0 ? mal_ids_push(run->out, piece.id, err)
                                : encode_between(run, set, text + piece.start,
                                                 piece.end - piece.start, err);
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

static void finish_run(struct mal_encode_run *run) {
    mal_matcher_destroy(run->matcher);
    for (size_t i = 0; i < 2; i++)
        mal_string_finish(&run->normalized[i]);
    for (size_t i = 0; i < MAL_MAX_STEPS; i++)
        mal_string_finish(&run->made[i]);
    mal_free(run->scratch.mem);
}

static bool encode(struct mal_encode_run *run, const char *text, size_t bytes,
                   bool before, bool after, struct mal_error *err) {
    size_t n_before = run->out->n;
    bool ok = check_utf8(text, bytes, err) && mal_matcher_create(&run->matcher, err) &&
              (!before || push_all(run->out, &run->tok->before, err)) &&
              encode_pieces(run, &run->tok->added.raw, text, bytes, err) &&
              (!after || push_all(run->out, &run->tok->after, err));
    if (!ok) run->out->n = n_before;
    finish_run(run);
    return ok;
}

bool mal_tokenizer_encode(const struct mal_tokenizer *tok, const char *text, size_t bytes,
                          bool add_special, struct mal_ids *out, struct mal_error *err) {
    struct mal_encode_run run = {.tok = tok, .start = text, .out = out};
    return encode(&run, text, bytes, add_special, add_special, err);
}

bool mal_tokenizer_encode_before(const struct mal_tokenizer *tok, const char *text,
                                 size_t bytes, struct mal_ids *out,
                                 struct mal_error *err) {
    struct mal_encode_run run = {.tok = tok, .start = text, .out = out};
    return encode(&run, text, bytes, true, false, err);
}

/* Behind a special token text is normalized by itself. What byte-level models are given
 * is the text alone. */
bool mal_tokenizer_encode_after(const struct mal_tokenizer *tok, int32_t last,
                                const char *text, size_t bytes, struct mal_ids *out,
                                struct mal_error *err) {
    const struct mal_added_token *cut = mal_added_find(&tok->added.raw, last);
    if (tok->byte_level_words) cut = NULL;
    size_t blank = cut && cut->rstrip ? mal_skip_space(text, 0, bytes) : 0;
    text += blank;
    bytes -= blank;
    struct mal_encode_run run = {
        .tok = tok, .start = cut ? NULL : text, .goes_on = !cut, .out = out};
    return encode(&run, text, bytes, false, false, err);
}

/* ---- Decoding ---- */

static bool is_dropped(const struct mal_token *token, bool skip_special) {
    return (!token->in_model && !token->is_added) || (skip_special && token->is_special);
}

static bool put_tokens(const struct mal_tokenizer *tok, const int32_t *ids, size_t n,
                       bool skip_special, struct mal_pieces *out, struct mal_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= tok->vocab.size) {
            return mal_fail(err, MAL_INVALID, "token id %d is not in 0..%d", ids[i],
                            tok->vocab.size - 1);
        }
        const struct mal_token *token = &tok->vocab.tokens[ids[i]];
        if (is_dropped(token, skip_special)) continue;
        if (!mal_string_append(&out->text, tok->vocab.text + token->out_offset,
                               token->out_bytes, err) ||
            !mal_pieces_end(out, err))
            return false;
    }
    return true;
}

static bool decode(const struct mal_tokenizer *tok, const int32_t *ids, size_t n,
                   bool skip_special, bool raw, char **out, size_t *out_bytes,
                   bool *out_open, struct mal_error *err) {
    struct mal_pieces tokens = {0};
    struct mal_string text = {0};
    bool ok = put_tokens(tok, ids, n, skip_special, &tokens, err) &&
              mal_decode(&tok->decoders, &tokens, raw, &text, out_open, err) &&
              mal_string_append(&text, "", 1, err);
    mal_pieces_finish(&tokens);
    if (!ok) {
        mal_string_finish(&text);
        return false;
    }
    *out = text.text;
    *out_bytes = text.bytes - 1;
    return true;
}

bool mal_tokenizer_decode(const struct mal_tokenizer *tok, const int32_t *ids, size_t n,
                          bool skip_special, bool raw, char **out, size_t *out_bytes,
                          struct mal_error *err) {
    bool open;
    return decode(tok, ids, n, skip_special, raw, out, out_bytes, &open, err);
}

bool mal_tokenizer_decode_so_far(const struct mal_tokenizer *tok, const int32_t *ids,
                                 size_t n, bool skip_special, char **out,
                                 size_t *out_bytes, bool *out_open,
                                 struct mal_error *err) {
    return decode(tok, ids, n, skip_special, false, out, out_bytes, out_open, err);
}
