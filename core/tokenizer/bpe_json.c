/* bpe_json.c - the BPE model of a tokenizer.json. */
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"

/* null, "", false and 0 say that something is not used. */
static bool must_be_unused(const json_t *model, const char *key, const char *where,
                           struct mal_error *err) {
    const json_t *value = json_object_get(model, key);
    if (!value || json_is_null(value) || json_is_false(value)) return true;
    if (json_is_string(value) && json_string_length(value) == 0) return true;
    if (json_is_number(value) && json_number_value(value) == 0) return true;
    return mal_fail(err, MAL_INVALID, "%s: %s is not supported in a BPE model",
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

bool mal_read_bpe_model(struct mal_tokenizer *tok, const json_t *model, const char *where,
                        struct mal_error *err) {
    static const char *const unused[] = {"dropout", "continuing_subword_prefix",
                                         "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) {
        if (!must_be_unused(model, unused[i], where, err)) return false;
    }
    if (tok->byte_level_words && !must_be_unused(model, "byte_fallback", where, err))
        return false;
    struct mal_bpe_options options = {.characters = !tok->byte_level_words};
    const json_t *merges;
    if (!mal_json_string_opt(model, "unk_token", &options.unk_token, where, err) ||
        !mal_json_bool_opt(model, "fuse_unk", &options.fuse_unk, where, err) ||
        !mal_json_bool_opt(model, "ignore_merges", &options.ignore_merges, where, err) ||
        !mal_json_bool_opt(model, "byte_fallback", &options.byte_fallback, where, err) ||
        !mal_vocab_read(&tok->vocab, json_object_get(model, "vocab"), where, err) ||
        !mal_part_array(model, "merges", &merges, where, err))
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
