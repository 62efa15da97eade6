/* tokenizer_json.c - a tokenizer.json: which parts a tokenizer is made of.
 *
 * Every part has a type; what is not in the tables below is an error that names file and
 * type. Truncation and padding are not read: they are settings of a caller, not of the
 * model. */
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "core/tokenizer/parts.h"
#include "core/utf8.h"

struct part_type {
    const char *name;
    bool (*read)(struct mal_tokenizer *tok, const json_t *part, const char *where,
                 struct mal_error *err);
};

struct part_kind {
    const char *key, *what; /* in the file; in errors */
    const char *list;       /* where a Sequence has its parts, NULL: there is none */
    const struct part_type *types; /* ends with a NULL name */
};

/* What only moves offsets, which are not kept here. */
static bool read_nothing(struct mal_tokenizer *tok, const json_t *part, const char *where,
                         struct mal_error *err) {
    (void)tok, (void)part, (void)where, (void)err;
    return true;
}

static const struct part_type normalizer_types[] = {
    {"BertNormalizer", mal_read_bert_normalizer},
    {"Lowercase", mal_read_lowercase},
    {"NFC", mal_read_nfc},
    {"NFD", mal_read_nfd},
    {"NFKC", mal_read_nfkc},
    {"NFKD", mal_read_nfkd},
    {"Precompiled", mal_read_precompiled},
    {"Prepend", mal_read_prepend},
    {"Replace", mal_read_replace},
    {"Strip", mal_read_strip},
    {"StripAccents", mal_read_strip_accents},
    {NULL, NULL}};

static const struct part_type pre_tokenizer_types[] = {
    {"BertPreTokenizer", mal_read_bert_words},
    {"ByteLevel", mal_read_byte_level_words},
    {"Digits", mal_read_digits},
    {"Metaspace", mal_read_metaspace_words},
    {"Split", mal_read_split},
    {"WhitespaceSplit", mal_read_whitespace_split},
    {NULL, NULL}};

static const struct part_type model_types[] = {{"BPE", mal_read_bpe_model},
                                               {"Unigram", mal_read_unigram_model},
                                               {"WordPiece", mal_read_wordpiece_model},
                                               {NULL, NULL}};

static const struct part_type post_processor_types[] = {
    {"BertProcessing", mal_read_bert_processing},
    {"ByteLevel", read_nothing},
    {"TemplateProcessing", mal_read_template},
    {NULL, NULL}};

static const struct part_type decoder_types[] = {
    {"ByteFallback", mal_read_byte_fallback_decoder},
    {"ByteLevel", mal_read_byte_level_decoder},
    {"Fuse", mal_read_fuse_decoder},
    {"Metaspace", mal_read_metaspace_decoder},
    {"Replace", mal_read_replace_decoder},
    {"Strip", mal_read_strip_decoder},
    {"WordPiece", mal_read_wordpiece_decoder},
    {NULL, NULL}};

static const struct part_kind normalizer = {"normalizer", "normalizer", "normalizers",
                                            normalizer_types},
                              pre_tokenizer = {"pre_tokenizer", "pre-tokenizer",
                                               "pretokenizers", pre_tokenizer_types},
                              model = {"model", "model", NULL, model_types},
                              post_processor = {"post_processor", "post-processor",
                                                "processors", post_processor_types},
                              decoder = {"decoder", "decoder", "decoders", decoder_types};

/* ---- For the readers ---- */

bool mal_part_unsupported(const char *what, const char *type, const char *where,
                          struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN];
    return mal_fail(err, MAL_INVALID, "%s: %s '%s' is not supported",
                    mal_file_shown(where), what, mal_text_shown(shown, type));
}

bool mal_part_must_be(const char *what, const char *kind, const char *where,
                      struct mal_error *err) {
    return mal_fail(err, MAL_INVALID, "%s: %s must be %s", mal_file_shown(where), what,
                    kind);
}

bool mal_part_array(const json_t *object, const char *key, const json_t **out,
                    const char *where, struct mal_error *err) {
    *out = json_object_get(object, key);
    return json_is_array(*out) || mal_part_must_be(key, "an array", where, err);
}

bool mal_part_character(const json_t *part, const char *key, char out[4],
                        size_t *out_bytes, const char *where, struct mal_error *err) {
    const char *text;
    int32_t point;
    if (!mal_json_string(part, key, &text, where, err)) return false;
    size_t bytes = strlen(text);
    if (bytes == 0 || mal_utf8_next(text, bytes, &point) != bytes || point < 0)
        return mal_part_must_be(key, "one character", where, err);
    *out_bytes = mal_utf8_put(point, out);
    return true;
}

bool mal_pattern_read(const json_t *part, const char *what, struct mal_pattern **out,
                      const char *where, struct mal_error *err) {
    const json_t *pattern = json_object_get(part, "pattern");
    const char *regex = NULL, *text = NULL;
    if (!mal_json_string_opt(pattern, "Regex", &regex, where, err) ||
        !mal_json_string_opt(pattern, "String", &text, where, err))
        return false;
    if (!regex == !text) {
        return mal_fail(err, MAL_INVALID,
                        "%s: the pattern of a %s must be {\"Regex\"} or {\"String\"}",
                        mal_file_shown(where), what);
    }
    return regex ? mal_pattern_create(out, regex, where, err)
                 : mal_pattern_create_literal(out, text, where, err);
}

/* ---- A part by its type ---- */

static bool read_part(struct mal_tokenizer *tok, const json_t *part,
                      const struct part_kind *kind, const char *where,
                      struct mal_error *err);

static bool read_sequence(struct mal_tokenizer *tok, const json_t *part,
                          const struct part_kind *kind, const char *where,
                          struct mal_error *err) {
    const json_t *items, *item;
    size_t i;
    if (!mal_part_array(part, kind->list, &items, where, err)) return false;
    json_array_foreach (items, i, item) {
        if (!read_part(tok, item, kind, where, err)) return false;
    }
    return true;
}

static bool read_part(struct mal_tokenizer *tok, const json_t *part,
                      const struct part_kind *kind, const char *where,
                      struct mal_error *err) {
    const char *name;
    if (!json_is_object(part))
        return mal_part_must_be(kind->what, "an object", where, err);
    if (!mal_json_string(part, "type", &name, where, err)) return false;
    if (kind->list && strcmp(name, "Sequence") == 0)
        return read_sequence(tok, part, kind, where, err);
    for (const struct part_type *type = kind->types; type->name; type++) {
        if (strcmp(name, type->name) == 0) return type->read(tok, part, where, err);
    }
    return mal_part_unsupported(kind->what, name, where, err);
}

static bool read_optional(struct mal_tokenizer *tok, const json_t *root,
                          const struct part_kind *kind, const char *where,
                          struct mal_error *err) {
    const json_t *part = json_object_get(root, kind->key);
    if (!part || json_is_null(part)) return true;
    return read_part(tok, part, kind, where, err);
}

/* ---- Added tokens ---- */

bool mal_read_added_token(struct mal_tokenizer *tok, const json_t *object, int64_t id,
                          const char *where, struct mal_error *err) {
    struct mal_added_token token = {.id = id};
    const char *content;
    if (!json_is_object(object))
        return mal_part_must_be("an added token", "an object", where, err);
    if (!mal_json_string(object, "content", &content, where, err) ||
        (id < 0 &&
         !mal_json_int(object, "id", 0, MAL_MAX_TOKEN_ID - 1, &token.id, where, err)) ||
        !mal_json_bool_opt(object, "special", &token.special, where, err))
        return false;
    token.content = (char *)content;
    token.bytes = strlen(content);
    token.normalized = !token.special;
    if (!mal_json_bool_opt(object, "single_word", &token.single_word, where, err) ||
        !mal_json_bool_opt(object, "lstrip", &token.lstrip, where, err) ||
        !mal_json_bool_opt(object, "rstrip", &token.rstrip, where, err) ||
        !mal_json_bool_opt(object, "normalized", &token.normalized, where, err))
        return false;
    return mal_added_add(&tok->added, &tok->vocab, &token, where, err);
}

static bool read_added_tokens(struct mal_tokenizer *tok, const json_t *array,
                              const char *where, struct mal_error *err) {
    size_t i;
    json_t *token;
    if (!array || json_is_null(array)) return true;
    if (!json_is_array(array))
        return mal_part_must_be("added_tokens", "an array", where, err);
    json_array_foreach (array, i, token) {
        if (!mal_read_added_token(tok, token, -1, where, err)) return false;
    }
    return true;
}

/* ---- The whole ---- */

bool mal_tokenizer_read_parts(struct mal_tokenizer *tok, const json_t *root,
                              const char *where, struct mal_error *err) {
    return read_optional(tok, root, &normalizer, where, err) &&
           read_optional(tok, root, &pre_tokenizer, where, err) &&
           read_optional(tok, root, &decoder, where, err);
}

static bool read_root(struct mal_tokenizer *tok, const json_t *root, const char *where,
                      struct mal_error *err) {
    if (!json_is_object(root))
        return mal_part_must_be("the file", "an object", where, err);
    return mal_tokenizer_read_parts(tok, root, where, err) &&
           read_part(tok, json_object_get(root, model.key), &model, where, err) &&
           read_added_tokens(tok, json_object_get(root, "added_tokens"), where, err) &&
           read_optional(tok, root, &post_processor, where, err);
}

bool mal_tokenizer_read_json(struct mal_tokenizer *tok, const char *path,
                             struct mal_error *err) {
    json_t *root;
    if (!mal_json_load(&root, path, err)) return false;
    bool ok = read_root(tok, root, path, err);
    json_decref(root);
    return ok;
}
