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

struct part_type {
    const char *name;
    bool (*read)(struct mal_tokenizer *tok, const json_t *part, const char *where,
                 struct mal_error *err);
};

static bool unsupported(const char *what, const char *type, const char *where,
                        struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN];
    return mal_fail(err, MAL_INVALID, "%s: %s '%s' is not supported",
                    mal_file_shown(where), what, mal_text_shown(shown, type));
}

static bool must_be(const char *what, const char *kind, const char *where,
                    struct mal_error *err) {
    return mal_fail(err, MAL_INVALID, "%s: %s must be %s", mal_file_shown(where), what,
                    kind);
}

/* Reads `part` by its "type" with the table, which ends with a NULL name. */
static bool read_by_type(struct mal_tokenizer *tok, const json_t *part, const char *what,
                         const struct part_type *types, const char *where,
                         struct mal_error *err) {
    const char *type;
    if (!json_is_object(part)) return must_be(what, "an object", where, err);
    if (!mal_json_string(part, "type", &type, where, err)) return false;
    for (; types->name; types++) {
        if (strcmp(type, types->name) == 0) return types->read(tok, part, where, err);
    }
    return unsupported(what, type, where, err);
}

static bool get_array(const json_t *object, const char *key, const json_t **out,
                      const char *where, struct mal_error *err) {
    *out = json_object_get(object, key);
    return json_is_array(*out) || must_be(key, "an array", where, err);
}

/* ---- Model ---- */

/* null, "", false and 0 say that something is not used. */
static bool must_be_unused(const json_t *model, const char *key, const char *where,
                           struct mal_error *err) {
    const json_t *value = json_object_get(model, key);
    if (!value || json_is_null(value) || json_is_false(value)) return true;
    if (json_is_string(value) && json_string_length(value) == 0) return true;
    if (json_is_number(value) && json_number_value(value) == 0) return true;
    return mal_fail(err, MAL_INVALID, "%s: %s is not supported in a byte-level BPE model",
                    mal_file_shown(where), key);
}

static bool read_merge(struct mal_bpe *bpe, const json_t *merge, size_t i,
                       const char *where, struct mal_error *err) {
    if (json_is_string(merge)) {
        return mal_bpe_add_line(bpe, json_string_value(merge), json_string_length(merge),
                                i, where, err);
    }
    const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(a) || !json_is_string(b)) {
        return mal_fail(err, MAL_INVALID,
                        "%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]",
                        mal_file_shown(where), i);
    }
    return mal_bpe_add_merge(bpe, json_string_value(a), json_string_length(a),
                             json_string_value(b), json_string_length(b), i, where, err);
}

static bool read_bpe(struct mal_tokenizer *tok, const json_t *model, const char *where,
                     struct mal_error *err) {
    static const char *const unused[] = {"dropout", "continuing_subword_prefix",
                                         "end_of_word_suffix", "byte_fallback"};
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) {
        if (!must_be_unused(model, unused[i], where, err)) return false;
    }
    struct mal_bpe_options options = {0};
    const json_t *merges;
    if (!mal_json_string_opt(model, "unk_token", &options.unk_token, where, err) ||
        !mal_json_bool_opt(model, "fuse_unk", &options.fuse_unk, where, err) ||
        !mal_json_bool_opt(model, "ignore_merges", &options.ignore_merges, where, err) ||
        !mal_vocab_read(&tok->vocab, json_object_get(model, "vocab"), where, err) ||
        !get_array(model, "merges", &merges, where, err))
        return false;
    struct mal_bpe *bpe;
    if (!mal_bpe_create(&bpe, &tok->vocab, json_array_size(merges), &options, where, err))
        return false;
    tok->model = mal_bpe_model(bpe);
    size_t i;
    json_t *merge;
    json_array_foreach (merges, i, merge) {
        if (!read_merge(bpe, merge, i, where, err)) return false;
    }
    return true;
}

static const struct part_type models[] = {{"BPE", read_bpe}, {NULL, NULL}};

/* ---- Normalizer ---- */

static const struct part_type normalizers[] = {{NULL, NULL}};

/* ---- Pre-tokenizer ---- */

static bool must_be_last(const struct mal_tokenizer *tok, const char *where,
                         struct mal_error *err) {
    if (!tok->byte_level_words) return true;
    return mal_fail(err, MAL_INVALID,
                    "%s: a pre-tokenizer after ByteLevel is not supported",
                    mal_file_shown(where));
}

static bool read_byte_level_words(struct mal_tokenizer *tok, const json_t *part,
                                  const char *where, struct mal_error *err) {
    bool prefix = true, split = true;
    if (!must_be_last(tok, where, err) ||
        !mal_json_bool_opt(part, "add_prefix_space", &prefix, where, err) ||
        !mal_json_bool_opt(part, "use_regex", &split, where, err))
        return false;
    return mal_tokenizer_set_byte_level(tok, prefix, split, where, err);
}

static bool read_split_pattern(const json_t *part, struct mal_pattern **out,
                               const char *where, struct mal_error *err) {
    const json_t *pattern = json_object_get(part, "pattern");
    const char *regex = NULL, *text = NULL;
    if (!mal_json_string_opt(pattern, "Regex", &regex, where, err) ||
        !mal_json_string_opt(pattern, "String", &text, where, err))
        return false;
    if (!regex == !text) {
        return must_be("the pattern of a Split", "{\"Regex\"} or {\"String\"}", where,
                       err);
    }
    return regex ? mal_pattern_create(out, regex, where, err)
                 : mal_pattern_create_literal(out, text, where, err);
}

static bool read_split(struct mal_tokenizer *tok, const json_t *part, const char *where,
                       struct mal_error *err) {
    const char *behavior = NULL;
    bool invert = false;
    struct mal_pattern *pattern = NULL;
    if (!must_be_last(tok, where, err) ||
        !mal_json_string(part, "behavior", &behavior, where, err) ||
        !mal_json_bool_opt(part, "invert", &invert, where, err))
        return false;
    bool removed = strcmp(behavior, "Removed") == 0;
    if (!removed && strcmp(behavior, "Isolated") != 0)
        return unsupported("the behavior of a Split,", behavior, where, err);
    if (!read_split_pattern(part, &pattern, where, err)) return false;
    return mal_pre_add_split(&tok->pretokenizer, pattern, removed && !invert,
                             removed && invert, where, err);
}

static const struct part_type simple_pre_tokenizers[] = {
    {"ByteLevel", read_byte_level_words}, {"Split", read_split}, {NULL, NULL}};

static bool read_pre_sequence(struct mal_tokenizer *tok, const json_t *part,
                              const char *where, struct mal_error *err) {
    const json_t *items, *item;
    size_t i;
    if (!get_array(part, "pretokenizers", &items, where, err)) return false;
    json_array_foreach (items, i, item) {
        if (!read_by_type(tok, item, "pre-tokenizer", simple_pre_tokenizers, where, err))
            return false;
    }
    return true;
}

static const struct part_type pre_tokenizers[] = {{"ByteLevel", read_byte_level_words},
                                                  {"Split", read_split},
                                                  {"Sequence", read_pre_sequence},
                                                  {NULL, NULL}};

/* ---- Post-processor ---- */

/* It only trims offsets, which are not kept here. */
static bool read_byte_level_post(struct mal_tokenizer *tok, const json_t *part,
                                 const char *where, struct mal_error *err) {
    (void)tok, (void)part, (void)where, (void)err;
    return true;
}

static bool push_special(struct mal_tokenizer *tok, const json_t *part, const char *name,
                         struct mal_ids *out, const char *where, struct mal_error *err) {
    const json_t *special =
        json_object_get(json_object_get(part, "special_tokens"), name);
    const json_t *ids = json_object_get(special, "ids"), *id;
    size_t i;
    if (!json_is_array(ids))
        return must_be("special_tokens", "{name: {\"ids\"}}", where, err);
    json_array_foreach (ids, i, id) {
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= tok->vocab.size)
            return must_be("ids of the post-processor", "ids of tokens", where, err);
        if (!mal_ids_push(out, (int32_t)value, err)) return false;
    }
    return true;
}

static bool read_template(struct mal_tokenizer *tok, const json_t *part,
                          const char *where, struct mal_error *err) {
    const json_t *items, *item;
    size_t i, n_texts = 0;
    if (tok->before.n + tok->after.n > 0)
        return unsupported("post-processor", "several TemplateProcessing", where, err);
    if (!get_array(part, "single", &items, where, err)) return false;
    json_array_foreach (items, i, item) {
        const json_t *token = json_object_get(item, "SpecialToken");
        if (json_is_object(json_object_get(item, "Sequence"))) {
            n_texts++;
            continue;
        }
        const char *name;
        if (!json_is_object(token))
            return must_be("single", "a list of SpecialToken and Sequence", where, err);
        if (!mal_json_string(token, "id", &name, where, err) ||
            !push_special(tok, part, name, n_texts ? &tok->after : &tok->before, where,
                          err))
            return false;
    }
    return n_texts == 1 || must_be("single", "a template with one Sequence", where, err);
}

static const struct part_type simple_post_processors[] = {
    {"ByteLevel", read_byte_level_post},
    {"TemplateProcessing", read_template},
    {NULL, NULL}};

static bool read_post_sequence(struct mal_tokenizer *tok, const json_t *part,
                               const char *where, struct mal_error *err) {
    const json_t *items, *item;
    size_t i;
    if (!get_array(part, "processors", &items, where, err)) return false;
    json_array_foreach (items, i, item) {
        if (!read_by_type(tok, item, "post-processor", simple_post_processors, where,
                          err))
            return false;
    }
    return true;
}

static const struct part_type post_processors[] = {{"ByteLevel", read_byte_level_post},
                                                   {"TemplateProcessing", read_template},
                                                   {"Sequence", read_post_sequence},
                                                   {NULL, NULL}};

/* ---- Decoder ---- */

static bool read_byte_level_decoder(struct mal_tokenizer *tok, const json_t *part,
                                    const char *where, struct mal_error *err) {
    (void)part, (void)where, (void)err;
    tok->byte_level_decoder = true;
    return true;
}

static const struct part_type decoders[] = {{"ByteLevel", read_byte_level_decoder},
                                            {NULL, NULL}};

/* ---- Added tokens ---- */

static bool read_added_token(struct mal_tokenizer *tok, const json_t *object,
                             const char *where, struct mal_error *err) {
    struct mal_added_token token = {0};
    const char *content;
    if (!json_is_object(object))
        return must_be("an added token", "an object", where, err);
    if (!mal_json_string(object, "content", &content, where, err) ||
        !mal_json_int(object, "id", 0, MAL_MAX_TOKEN_ID - 1, &token.id, where, err) ||
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
    if (!json_is_array(array)) return must_be("added_tokens", "an array", where, err);
    json_array_foreach (array, i, token) {
        if (!read_added_token(tok, token, where, err)) return false;
    }
    return true;
}

/* ---- The whole ---- */

static bool read_optional(struct mal_tokenizer *tok, const json_t *root, const char *key,
                          const char *what, const struct part_type *types,
                          const char *where, struct mal_error *err) {
    const json_t *part = json_object_get(root, key);
    if (!part || json_is_null(part)) return true;
    return read_by_type(tok, part, what, types, where, err);
}

static bool read_root(struct mal_tokenizer *tok, const json_t *root, const char *where,
                      struct mal_error *err) {
    if (!json_is_object(root)) return must_be("the file", "an object", where, err);
    const json_t *added = json_object_get(root, "added_tokens");
    if (!read_by_type(tok, json_object_get(root, "model"), "model", models, where, err) ||
        !read_added_tokens(tok, added, where, err) ||
        !read_optional(tok, root, "normalizer", "normalizer", normalizers, where, err) ||
        !read_optional(tok, root, "pre_tokenizer", "pre-tokenizer", pre_tokenizers, where,
                       err) ||
        !read_optional(tok, root, "post_processor", "post-processor", post_processors,
                       where, err) ||
        !read_optional(tok, root, "decoder", "decoder", decoders, where, err))
        return false;
    if (!tok->byte_level_words || !tok->byte_level_decoder) {
        return unsupported("model", "BPE without ByteLevel pre-tokenizer and decoder",
                           where, err);
    }
    return true;
}

bool mal_tokenizer_read_json(struct mal_tokenizer *tok, const char *path,
                             struct mal_error *err) {
    json_t *root;
    if (!mal_json_load(&root, path, err)) return false;
    bool ok = read_root(tok, root, path, err);
    json_decref(root);
    return ok;
}
