/* bpe_files.c - byte-level BPE in the two files it was published in: a JSON object of
 * tokens and a text file of merges. */
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"
#include "core/utf8.h"

static const size_t MAX_MERGES_BYTES = (size_t)256 << 20;
static const char END_OF_TEXT[] = "<|endoftext|>";

/* The line at `from` without its end ("\n" or "\r\n"); returns where the next one begins.
 */
static size_t next_line(const char *text, size_t bytes, size_t from, size_t *out_bytes) {
    const char *end = memchr(text + from, '\n', bytes - from);
    size_t n = end ? (size_t)(end - text) - from : bytes - from;
    size_t next = from + n + (end ? 1 : 0);
    if (end && n > 0 && text[from + n - 1] == '\r') n--;
    *out_bytes = n;
    return next;
}

static bool is_comment(const char *line, size_t bytes) {
    static const char mark[] = "#version";
    return bytes >= sizeof mark - 1 && memcmp(line, mark, sizeof mark - 1) == 0;
}

static bool read_merges(struct mal_tokenizer *tok, const char *text, size_t bytes,
                        const char *path, struct mal_error *err) {
    size_t n_lines = 0, n, rank = 0;
    for (size_t at = 0; at < bytes; n_lines++)
        at = next_line(text, bytes, at, &n);
    struct mal_bpe *bpe;
    if (!mal_bpe_create(&bpe, &tok->vocab, n_lines, &(struct mal_bpe_options){0}, path,
                        err))
        return false;
    tok->model = mal_bpe_model(bpe);
    for (size_t at = 0, next; at < bytes; at = next) {
        next = next_line(text, bytes, at, &n);
        if (is_comment(text + at, n)) continue;
        if (!mal_bpe_add_line(bpe, text + at, n, rank++, path, err)) return false;
    }
    return true;
}

/* GPT2Tokenizer's own special token, where the vocabulary has it. */
static bool add_end_of_text(struct mal_tokenizer *tok, const char *where,
                            struct mal_error *err) {
    char content[sizeof END_OF_TEXT];
    memcpy(content, END_OF_TEXT, sizeof content);
    int32_t id = mal_vocab_find(&tok->vocab, content, sizeof content - 1);
    if (id < 0) return true;
    struct mal_added_token token = {
        .id = id, .content = content, .bytes = sizeof content - 1, .special = true};
    return mal_added_add(&tok->added, &tok->vocab, &token, where, err);
}

bool mal_tokenizer_read_bpe_files(struct mal_tokenizer *tok, const char *vocab_path,
                                  const char *merges_path, struct mal_error *err) {
    json_t *object = NULL;
    char *merges = NULL;
    size_t bytes;
    bool ok = false;
    if (!mal_json_load(&object, vocab_path, err)) goto out;
    if (!mal_vocab_read(&tok->vocab, object, vocab_path, err)) goto out;
    if (!mal_file_read(&merges, &bytes, merges_path, MAX_MERGES_BYTES, err)) goto out;
    if (!mal_utf8_valid(merges, bytes)) {
        mal_fail(err, MAL_INVALID, "%s: not UTF-8", mal_file_shown(merges_path));
        goto out;
    }
    if (!read_merges(tok, merges, bytes, merges_path, err)) goto out;
    if (!add_end_of_text(tok, vocab_path, err)) goto out;
    if (!mal_tokenizer_set_byte_level(tok, false, true, vocab_path, err)) goto out;
    ok = mal_decoder_add_byte_level(tok, vocab_path, err);
out:
    json_decref(object);
    mal_free(merges);
    return ok;
}
