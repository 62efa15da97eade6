/* wordpiece_files.c - BERT's tokenizer from vocab.txt, a token a line, and what
 * tokenizer_config.json says beside it. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "core/tokenizer/parts.h"
#include "core/utf8.h"

static const size_t MAX_VOCAB_BYTES = (size_t)256 << 20;

/* [UNK], [SEP], ... or what they are called. */
struct names {
    const char *unk, *sep, *pad, *cls, *mask;
};

static bool read_names(const struct mal_beside *config, struct names *out,
                       struct mal_error *err) {
    *out = (struct names){"[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"};
    return mal_special_name(config, "unk_token", &out->unk, err) &&
           mal_special_name(config, "sep_token", &out->sep, err) &&
           mal_special_name(config, "pad_token", &out->pad, err) &&
           mal_special_name(config, "cls_token", &out->cls, err) &&
           mal_special_name(config, "mask_token", &out->mask, err);
}

/* Of lines that are alike the last counts, as a reader into a dictionary has it: the
 * lines are taken from the end. */
static bool read_lines(struct mal_vocab *vocab, const char *text, size_t bytes,
                       const char *path, struct mal_error *err) {
    int64_t n_lines = 0;
    for (size_t i = 0; i < bytes; i++)
        n_lines += text[i] == '\n';
    if (bytes > 0 && text[bytes - 1] != '\n') n_lines++;
    size_t end = bytes > 0 && text[bytes - 1] == '\n' ? bytes - 1 : bytes;
    for (int64_t id = n_lines - 1; id >= 0; id--) {
        size_t start = end;
        while (start > 0 && text[start - 1] != '\n')
            start--;
        size_t n = end - start;
        if (n > 0 && text[start + n - 1] == '\r') n--;
        if (mal_vocab_find(vocab, text + start, n) < 0 &&
            !mal_vocab_add(vocab, text + start, n, id, path, err))
            return false;
        end = start > 0 ? start - 1 : 0;
    }
    return true;
}

static bool read_vocab(struct mal_vocab *vocab, const char *path, struct mal_error *err) {
    char *text;
    size_t bytes;
    if (!mal_file_read(&text, &bytes, path, MAX_VOCAB_BYTES, err)) return false;
    bool ok = mal_utf8_valid(text, bytes) && memchr(text, 0, bytes) == NULL;
    if (!ok) mal_fail(err, MAL_INVALID, "%s: not UTF-8 text", mal_file_shown(path));
    ok = ok && read_lines(vocab, text, bytes, path, err);
    mal_free(text);
    return ok;
}

static bool read_words(struct mal_tokenizer *tok, const struct mal_beside *config,
                       struct mal_error *err) {
    const json_t *object = config->object;
    const char *where = config->path;
    struct mal_bert_options options = {true, true, false, true};
    bool cleanup = false;
    if (!mal_json_bool_opt(object, "do_lower_case", &options.lowercase, where, err) ||
        !mal_json_bool_opt(object, "tokenize_chinese_chars",
                           &options.handle_chinese_chars, where, err))
        return false;
    options.strip_accents = options.lowercase;
    return mal_json_bool_opt(object, "strip_accents", &options.strip_accents, where,
                             err) &&
           mal_json_bool_opt(object, "clean_up_tokenization_spaces", &cleanup, where,
                             err) &&
           mal_bert_normalizer_add(tok, &options, where, err) &&
           mal_bert_words_add(tok, where, err) &&
           mal_wordpiece_decoder_add(tok, "##", cleanup, where, err);
}

static bool push_token(const struct mal_tokenizer *tok, const char *name,
                       struct mal_ids *out, const char *where, struct mal_error *err) {
    int32_t id = mal_vocab_find(&tok->vocab, name, strlen(name));
    if (id < 0) {
        char shown[MAL_TEXT_SHOWN];
        return mal_fail(err, MAL_INVALID, "%s: '%s' is not in the vocabulary",
                        mal_file_shown(where), mal_text_shown(shown, name));
    }
    return mal_ids_push(out, id, err);
}

static bool read_all(struct mal_tokenizer *tok, const struct mal_beside *config,
                     const char *path, struct mal_error *err) {
    struct names names;
    if (!read_names(config, &names, err) || !read_vocab(&tok->vocab, path, err))
        return false;
    struct mal_wordpiece_options options = {names.unk, "##", 100};
    return mal_wordpiece_create(&tok->model, &tok->vocab, &options, path, err) &&
           read_words(tok, config, err) && mal_add_listed_tokens(tok, config, err) &&
           mal_add_special_token(tok, names.unk, path, err) &&
           mal_add_special_token(tok, names.sep, path, err) &&
           mal_add_special_token(tok, names.pad, path, err) &&
           mal_add_special_token(tok, names.cls, path, err) &&
           mal_add_special_token(tok, names.mask, path, err) &&
           push_token(tok, names.cls, &tok->before, path, err) &&
           push_token(tok, names.sep, &tok->after, path, err);
}

bool mal_tokenizer_read_wordpiece_files(struct mal_tokenizer *tok, const char *path,
                                        size_t stem, struct mal_error *err) {
    (void)stem;
    struct mal_beside config;
    bool ok = mal_beside_open(&config, path, "tokenizer_config.json", err) &&
              read_all(tok, &config, path, err);
    mal_beside_close(&config);
    return ok;
}
