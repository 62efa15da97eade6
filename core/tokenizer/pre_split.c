/* pre_split.c - pre-tokenizers by a pattern: Split, Digits, and ByteLevel, which is
 * GPT-2's. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"

/* What becomes of a match: a piece of its own, none, or a part of the piece beside it.
 * CONTIGUOUS: matches side by side are one piece. */
enum behavior { ISOLATED, REMOVED, WITH_PREVIOUS, WITH_NEXT, CONTIGUOUS };

struct split {
    struct mal_pattern *pattern;
    enum behavior behavior;
    bool invert; /* what is between matches is taken for them */
};

static void destroy(void *data) {
    struct split *split = data;
    mal_pattern_destroy(split->pattern);
    mal_free(split);
}

/* The piece that may still grow. */
struct growing {
    size_t start, end;
    bool any, match; /* match: of what came to it last */
};

static bool joins(enum behavior behavior, bool last, bool match) {
    switch (behavior) {
    case WITH_PREVIOUS: return match && !last;
    case WITH_NEXT: return last && !match;
    case CONTIGUOUS: return last == match;
    default: return false;
    }
}

static bool pass(const struct split *split, struct mal_encode_run *run, size_t i_step,
                 const char *text, const struct growing *piece, struct mal_error *err) {
    bool drop = split->behavior == REMOVED && piece->match;
    return !piece->any || drop ||
           mal_pre_pass(run, i_step, text + piece->start, piece->end - piece->start, err);
}

/* What goes on to `end`. */
static bool put(const struct split *split, struct mal_encode_run *run, size_t i_step,
                const char *text, size_t end, bool match, struct growing *piece,
                struct mal_error *err) {
    match = match != split->invert;
    if (!piece->any || !joins(split->behavior, piece->match, match)) {
        if (!pass(split, run, i_step, text, piece, err)) return false;
        piece->start = piece->end;
    }
    piece->end = end;
    piece->any = true;
    piece->match = match;
    return true;
}

static bool run_split(const void *data, struct mal_encode_run *run, size_t i_step,
                      const char *text, size_t bytes, struct mal_error *err) {
    const struct split *split = data;
    struct mal_match_walk walk = {
        .pattern = split->pattern, .matcher = run->matcher, .text = text, .bytes = bytes};
    struct growing piece = {0};
    size_t start, end;
    for (;;) {
        bool found;
        if (!mal_match_next(&walk, &start, &end, &found, err)) return false;
        if (!found) start = bytes;
        if (start > piece.end &&
            !put(split, run, i_step, text, start, false, &piece, err))
            return false;
        if (!found) return pass(split, run, i_step, text, &piece, err);
        if (!put(split, run, i_step, text, end, true, &piece, err)) return false;
    }
}

/* Owns `pattern`, also on failure. */
static bool add_split(struct mal_tokenizer *tok, struct mal_pattern *pattern,
                      enum behavior behavior, bool invert, const char *where,
                      struct mal_error *err) {
    struct split *split = mal_malloc(sizeof *split);
    if (!split) {
        mal_pattern_destroy(pattern);
        return mal_fail(err, MAL_NO_MEMORY, "%s: pattern", mal_file_shown(where));
    }
    *split = (struct split){pattern, behavior, invert};
    return mal_pre_add(tok, (struct mal_pre_step){run_split, destroy, split}, where, err);
}

bool mal_pre_add_pattern(struct mal_tokenizer *tok, const char *regex, const char *where,
                         struct mal_error *err) {
    struct mal_pattern *pattern;
    return mal_pattern_create(&pattern, regex, where, err) &&
           add_split(tok, pattern, ISOLATED, false, where, err);
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

static bool read_behavior(const json_t *part, enum behavior *out, const char *where,
                          struct mal_error *err) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = NULL;
    if (!mal_json_string(part, "behavior", &name, where, err)) return false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (enum behavior)i;
        return true;
    }
    return mal_part_unsupported("the behavior of a Split,", name, where, err);
}

bool mal_read_split(struct mal_tokenizer *tok, const json_t *part, const char *where,
                    struct mal_error *err) {
    enum behavior behavior = ISOLATED;
    bool invert = false;
    struct mal_pattern *pattern = NULL;
    return read_behavior(part, &behavior, where, err) &&
           mal_json_bool_opt(part, "invert", &invert, where, err) &&
           mal_pattern_read(part, "Split", &pattern, where, err) &&
           add_split(tok, pattern, behavior, invert, where, err);
}

/* ---- Digits ---- */

/* Rust's is_numeric(), which knows numbers of Unicode 17 that PCRE2 may not know yet. */
static const char number[] = "[\\p{N}\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]";

bool mal_read_digits(struct mal_tokenizer *tok, const json_t *part, const char *where,
                     struct mal_error *err) {
    bool each = false;
    struct mal_pattern *pattern = NULL;
    return mal_json_bool_opt(part, "individual_digits", &each, where, err) &&
           mal_pattern_create(&pattern, number, where, err) &&
           add_split(tok, pattern, each ? ISOLATED : CONTIGUOUS, false, where, err);
}
