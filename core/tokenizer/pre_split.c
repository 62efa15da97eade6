/* pre_split.c - pre-tokenizers by a pattern: Split, and ByteLevel, which is GPT-2's. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"

struct split {
    struct mal_pattern *pattern;
    bool drop_matches, drop_gaps;
};

static void destroy(void *data) {
    struct split *split = data;
    mal_pattern_destroy(split->pattern);
    mal_free(split);
}

static bool run_split(const void *data, struct mal_encode_run *run, size_t i_step,
                      const char *text, size_t bytes, struct mal_error *err) {
    const struct split *split = data;
    struct mal_match_walk walk = {
        .pattern = split->pattern, .matcher = run->matcher, .text = text, .bytes = bytes};
    size_t from = 0, start, end;
    for (;;) {
        bool found;
        if (!mal_match_next(&walk, &start, &end, &found, err)) return false;
        if (!found) start = end = bytes;
        if (!split->drop_gaps &&
            !mal_pre_pass(run, i_step, text + from, start - from, err))
            return false;
        if (!found) return true;
        if (!split->drop_matches &&
            !mal_pre_pass(run, i_step, text + start, end - start, err))
            return false;
        from = end;
    }
}

/* Owns `pattern`, also on failure. */
static bool add_split(struct mal_tokenizer *tok, struct mal_pattern *pattern,
                      bool drop_matches, bool drop_gaps, const char *where,
                      struct mal_error *err) {
    struct split *split = mal_malloc(sizeof *split);
    if (!split) {
        mal_pattern_destroy(pattern);
        return mal_fail(err, MAL_NO_MEMORY, "%s: pattern", mal_file_shown(where));
    }
    *split = (struct split){pattern, drop_matches, drop_gaps};
    return mal_pre_add(tok, (struct mal_pre_step){run_split, destroy, split}, where, err);
}

bool mal_pre_add_pattern(struct mal_tokenizer *tok, const char *regex, const char *where,
                         struct mal_error *err) {
    struct mal_pattern *pattern;
    return mal_pattern_create(&pattern, regex, where, err) &&
           add_split(tok, pattern, false, false, where, err);
}

/* ---- ByteLevel ---- */

static bool run_prefix(const void *data, struct mal_encode_run *run, size_t i_step,
                       const char *text, size_t bytes, struct mal_error *err) {
    (void)data;
    struct mal_string *made = &run->made[i_step];
    if (text[0] == ' ' || (run->goes_on && text == run->start))
        return mal_pre_pass(run, i_step, text, bytes, err);
    made->bytes = 0;
    return mal_string_append(made, " ", 1, err) &&
           mal_string_append(made, text, bytes, err) &&
           mal_pre_pass(run, i_step, made->text, made->bytes, err);
}

bool mal_tokenizer_set_byte_level(struct mal_tokenizer *tok, bool prefix, bool split,
                                  const char *where, struct mal_error *err) {
    if (prefix &&
        !mal_pre_add(tok, (struct mal_pre_step){run_prefix, NULL, NULL}, where, err))
        return false;
    if (split && !mal_pre_add_pattern(tok, mal_gpt2_pattern, where, err)) return false;
    tok->byte_level_words = true;
    return true;
}

bool mal_read_byte_level_words(struct mal_tokenizer *tok, const json_t *part,
                               const char *where, struct mal_error *err) {
    bool prefix = true, split = true;
    if (tok->byte_level_words) {
        return mal_part_unsupported("pre-tokenizer after ByteLevel,", "ByteLevel", where,
                                    err);
    }
    if (!mal_json_bool_opt(part, "add_prefix_space", &prefix, where, err) ||
        !mal_json_bool_opt(part, "use_regex", &split, where, err))
        return false;
    return mal_tokenizer_set_byte_level(tok, prefix, split, where, err);
}

/* ---- Split ---- */

bool mal_read_split(struct mal_tokenizer *tok, const json_t *part, const char *where,
                    struct mal_error *err) {
    const char *behavior = NULL;
    bool invert = false;
    struct mal_pattern *pattern = NULL;
    if (!mal_json_string(part, "behavior", &behavior, where, err) ||
        !mal_json_bool_opt(part, "invert", &invert, where, err))
        return false;
    bool removed = strcmp(behavior, "Removed") == 0;
    if (!removed && strcmp(behavior, "Isolated") != 0)
        return mal_part_unsupported("the behavior of a Split,", behavior, where, err);
    if (!mal_pattern_read(part, "Split", &pattern, where, err)) return false;
    return add_split(tok, pattern, removed && !invert, removed && invert, where, err);
}
