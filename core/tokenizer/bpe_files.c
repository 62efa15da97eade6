/* bpe_files.c - byte-level BPE in the two files it was published in: a JSON object of
 * tokens and a text file of merges; GPT-2's, or Qwen2's where the files beside say so. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"
#include "core/utf8.h"

static const size_t MAX_MERGES_BYTES = (size_t)256 << 20;

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

/* Of two files that may say so, as transformers asks them. */
static bool is_qwen2(const struct mal_beside *config, const struct mal_beside *model,
                     bool *out, struct mal_error *err) {
    const char *class = NULL, *type = "";
    if (!mal_json_string_opt(config->object, "tokenizer_class", &class, config->path,
                             err) ||
        !mal_json_string_opt(model->object, "model_type", &type, model->path, err))
        return false;
    *out = class ? strncmp(class, "Qwen2Tokenizer", 14) == 0
                 : strcmp(type, "qwen2") == 0 || strcmp(type, "qwen3") == 0;
    return true;
}

static bool set_words(struct mal_tokenizer *tok, const struct mal_beside *config,
                      bool qwen2, const char *where, struct mal_error *err) {
    bool prefix = false;
    if (!mal_json_bool_opt(config->object, "add_prefix_space", &prefix, config->path,
                           err))
        return false;
    if (qwen2 && (!mal_normalizer_add_nfc(tok, where, err) ||
                  !mal_pre_add_pattern(tok, mal_qwen2_pattern, where, err)))
        return false;
    return mal_tokenizer_set_byte_level(tok, prefix, !qwen2, where, err) &&
           mal_decoder_add_byte_level(tok, where, err);
}

/* <|endoftext|> is special in both families, wherever the vocabulary has it. */
static bool add_tokens(struct mal_tokenizer *tok, const struct mal_beside *config,
                       const char *where, struct mal_error *err) {
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token",
                                       "pad_token"};
    if (!mal_add_listed_tokens(tok, config, err)) return false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *name = "<|endoftext|>";
        if (!mal_special_name(config, keys[i], &name, err) ||
            !mal_add_special_token(tok, name, where, err))
            return false;
    }
    return true;
}

static bool read_pair(struct mal_tokenizer *tok, const char *vocab_path,
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
    ok = read_merges(tok, merges, bytes, merges_path, err);
out:
    json_decref(object);
    mal_free(merges);
    return ok;
}

bool mal_tokenizer_read_bpe_files(struct mal_tokenizer *tok, const char *path,
                                  size_t stem, struct mal_error *err) {
    struct mal_beside config = {0}, model = {0};
    char *merges = NULL;
    bool qwen2, encoder = strcmp(path + stem, "encoder.json") == 0;
    bool ok =
        mal_path_beside(&merges, path, stem, encoder ? "vocab.bpe" : "merges.txt", err) &&
        mal_beside_open(&config, path, "tokenizer_config.json", err) &&
        mal_beside_open(&model, path, "config.json", err) &&
        is_qwen2(&config, &model, &qwen2, err) && read_pair(tok, path, merges, err) &&
        add_tokens(tok, &config, path, err) && set_words(tok, &config, qwen2, path, err);
    mal_free(merges);
    mal_beside_close(&config);
    mal_beside_close(&model);
    return ok;
}
