/* spm_model.c - a tokenizer from a SentencePiece model file: what Hugging Face's
 * converters make of it, for Unigram that of T5, for BPE that of Llama 2. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "core/tokenizer/spm_file.h"

/* Parts as they stand in a tokenizer.json. */
static const char ONE_BLANK[] =
    "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\A +| +\\\\z\"},\"content\":\"\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" \"}]}}";
static const char MARK_BEFORE[] =
    "{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\u2581\"}}";
static const char MARKS[] =
    "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
    "\"content\":\"\u2581\"},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":["
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\u2581\"},\"content\":\" \"},"
    "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}}";
static const char NO_BLANK_BEFORE[] =
    "{\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}}";
static const char WORDS[] =
    "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
    "{\"type\":\"WhitespaceSplit\"},"
    "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"always\"}]},"
    "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\","
    "\"prepend_scheme\":\"always\"}}";
static const char WORDS_ALONE[] =
    "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
    "{\"type\":\"WhitespaceSplit\"},"
    "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"never\"}]},"
    "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\","
    "\"prepend_scheme\":\"never\"}}";

static bool add_parts(struct mal_tokenizer *tok, const char *json, const char *path,
                      struct mal_error *err) {
    json_error_t problem;
    json_t *root = mal_json_parse(json, strlen(json), 0, &problem);
    if (!root) return mal_json_fail(&problem, MAL_INVALID, path, err);
    bool ok = mal_tokenizer_read_parts(tok, root, path, err);
    json_decref(root);
    return ok;
}

static bool add_charsmap(struct mal_tokenizer *tok, const struct mal_spm_file *file,
                         const char *path, struct mal_error *err) {
    struct mal_normalizer step;
    if (file->n_charsmap == 0) return true;
    return mal_charsmap_create(&step, file->charsmap, file->n_charsmap, path, err) &&
           mal_normalizer_add(&tok->normalizers, step, path, err);
}

/* ---- Pieces that are looked for in the text as it is ---- */

static bool add_token(struct mal_tokenizer *tok, const struct mal_piece *piece, size_t id,
                      bool special, const char *path, struct mal_error *err) {
    char content[MAL_MAX_PIECE_BYTES + 1];
    struct mal_added_token token = {
        .id = (int64_t)id, .content = content, .bytes = piece->bytes, .special = special};
    if (tok->vocab.tokens[id].is_added) return true;
    memcpy(content, piece->text, piece->bytes);
    content[piece->bytes] = 0;
    return mal_added_add(&tok->added, &tok->vocab, &token, path, err);
}

/* What tokenizer_config.json says of a token comes first. */
static bool add_tokens(struct mal_tokenizer *tok, const struct mal_spm_file *file,
                       const struct mal_beside *config, const char *path,
                       struct mal_error *err) {
    if (!mal_add_listed_tokens(tok, config, err)) return false;
    for (size_t i = 0; i < file->n; i++) {
        int64_t type = file->types[i];
        if (type != MAL_SPM_UNKNOWN && type != MAL_SPM_CONTROL &&
            type != MAL_SPM_USER_DEFINED)
            continue;
        if (!add_token(tok, &file->pieces[i], i, type != MAL_SPM_USER_DEFINED, path, err))
            return false;
    }
    return true;
}

static bool check_twice(const struct mal_vocab *vocab, const struct mal_spm_file *file,
                        const char *path, struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN], text[MAL_MAX_PIECE_BYTES + 1];
    for (size_t i = 0; i < file->n; i++) {
        const struct mal_piece *piece = &file->pieces[i];
        if (mal_vocab_find(vocab, piece->text, piece->bytes) == (int32_t)i) continue;
        memcpy(text, piece->text, piece->bytes);
        text[piece->bytes] = 0;
        return mal_fail(err, MAL_INVALID, "%s: piece %zu ('%s') is there twice",
                        mal_file_shown(path), i, mal_text_shown(shown, text));
    }
    return true;
}

/* ---- T5 ---- */

/* Tokens for gaps in a text stand behind the pieces: <extra_id_99> down to <extra_id_0>,
 * with the score 0. */
enum { EXTRA_IDS = 100, EXTRA_BYTES = 24 };

static bool count_extra(const struct mal_spm_file *file, const struct mal_beside *config,
                        int64_t *out, struct mal_error *err) {
    static const char first[] = "<extra_id_0>";
    *out = EXTRA_IDS;
    for (size_t i = 0; i < file->n; i++) {
        if (file->pieces[i].bytes == sizeof first - 1 &&
            memcmp(file->pieces[i].text, first, sizeof first - 1) == 0)
            *out = 0;
    }
    return mal_json_int_opt(config->object, "extra_ids", 0, MAL_MAX_TOKEN_ID, out,
                            config->path, err);
}

/* Their texts are owned by the caller. */
static bool add_extra_pieces(struct mal_spm_file *file, size_t n, char **out_texts) {
    struct mal_piece *pieces = mal_realloc(file->pieces, (file->n + n) * sizeof *pieces);
    if (pieces) file->pieces = pieces;
    char *text = *out_texts = mal_malloc(n * EXTRA_BYTES + 1);
    if (!pieces || !text) return false;
    for (size_t i = 0; i < n; i++, text += EXTRA_BYTES) {
        int bytes = snprintf(text, EXTRA_BYTES, "<extra_id_%zu>", n - 1 - i);
        pieces[file->n + i] = (struct mal_piece){text, (size_t)bytes, 0};
    }
    return true;
}

static bool fill_words(struct mal_tokenizer *tok, const struct mal_spm_file *file,
                       size_t n_extra, const struct mal_beside *config, const char *path,
                       struct mal_error *err) {
    struct mal_unigram_options options = {.pieces = file->pieces,
                                          .n = file->n + n_extra,
                                          .unk = file->unk,
                                          .byte_fallback = file->byte_fallback};
    if (!add_charsmap(tok, file, path, err) ||
        !add_parts(tok, file->add_dummy_prefix ? WORDS : WORDS_ALONE, path, err) ||
        !mal_unigram_create(&tok->model, &tok->vocab, &options, path, err) ||
        !check_twice(&tok->vocab, file, path, err) ||
        !add_tokens(tok, file, config, path, err))
        return false;
    for (size_t i = file->n; i < options.n; i++) {
        if (!add_token(tok, &file->pieces[i], i, true, path, err)) return false;
    }
    return file->eos < 0 || mal_ids_push(&tok->after, (int32_t)file->eos, err);
}

static bool fill_unigram(struct mal_tokenizer *tok, struct mal_spm_file *file,
                         const struct mal_beside *config, const char *path,
                         struct mal_error *err) {
    int64_t n_extra;
    char *texts = NULL;
    if (!count_extra(file, config, &n_extra, err)) return false;
    bool ok = add_extra_pieces(file, (size_t)n_extra, &texts) ||
              mal_fail(err, MAL_NO_MEMORY, "%s: pieces", mal_file_shown(path));
    ok = ok && fill_words(tok, file, (size_t)n_extra, config, path, err);
    mal_free(texts);
    return ok;
}

/* ---- Llama 2 ---- */

/* The token that begins a text, and none that ends it if not told otherwise. */
static bool add_ends(struct mal_tokenizer *tok, const struct mal_spm_file *file,
                     const struct mal_beside *config, struct mal_error *err) {
    bool bos = true, eos = false;
    return mal_json_bool_opt(config->object, "add_bos_token", &bos, config->path, err) &&
           mal_json_bool_opt(config->object, "add_eos_token", &eos, config->path, err) &&
           (!bos || file->bos < 0 ||
            mal_ids_push(&tok->before, (int32_t)file->bos, err)) &&
           (!eos || file->eos < 0 || mal_ids_push(&tok->after, (int32_t)file->eos, err));
}

static bool fill_bpe(struct mal_tokenizer *tok, struct mal_spm_file *file,
                     const struct mal_beside *config, const char *path,
                     struct mal_error *err) {
    for (size_t i = 0; i < file->n; i++) {
        if (!mal_vocab_add(&tok->vocab, file->pieces[i].text, file->pieces[i].bytes,
                           (int64_t)i, path, err))
            return false;
    }
    return check_twice(&tok->vocab, file, path, err) &&
           mal_spm_create_bpe(tok, file, path, err) &&
           add_tokens(tok, file, config, path, err) &&
           add_charsmap(tok, file, path, err) &&
           (!file->remove_extra_whitespaces || add_parts(tok, ONE_BLANK, path, err)) &&
           (!file->add_dummy_prefix || add_parts(tok, MARK_BEFORE, path, err)) &&
           add_parts(tok, MARKS, path, err) &&
           (!file->add_dummy_prefix || add_parts(tok, NO_BLANK_BEFORE, path, err)) &&
           add_ends(tok, file, config, err);
}

bool mal_tokenizer_read_spm(struct mal_tokenizer *tok, const char *path, size_t stem,
                            struct mal_error *err) {
    (void)stem;
    struct mal_spm_file file = {0};
    struct mal_beside config;
    bool ok = mal_beside_open(&config, path, "tokenizer_config.json", err) &&
              mal_spm_file_read(&file, path, err) &&
              (file.model_type == 1 ? fill_unigram(tok, &file, &config, path, err)
                                    : fill_bpe(tok, &file, &config, path, err));
    mal_spm_file_finish(&file);
    mal_beside_close(&config);
    return ok;
}
