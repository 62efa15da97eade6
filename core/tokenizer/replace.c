/* replace.c - Replace, a pattern's matches by a text, as a step of a normalizer or of a
 * decoder. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"

struct replace {
    struct mal_pattern *pattern;
    char *content;
};

static void destroy(void *data) {
    struct replace *replace = data;
    mal_pattern_destroy(replace->pattern);
    mal_free(replace->content);
    mal_free(replace);
}

static bool normalize(const void *data, struct mal_matcher *matcher, const char *text,
                      size_t bytes, struct mal_string *out, struct mal_error *err) {
    const struct replace *replace = data;
    return mal_pattern_replace(replace->pattern, matcher, text, bytes, replace->content,
                               out, err);
}

static bool drops_first(const void *data, struct mal_matcher *matcher, const char *text,
                        size_t bytes, bool *out, struct mal_error *err) {
    const struct replace *replace = data;
    struct mal_match_walk walk = {
        .pattern = replace->pattern, .matcher = matcher, .text = text, .bytes = bytes};
    size_t start, end;
    bool found = false;
    if (*replace->content == 0 && !mal_match_next(&walk, &start, &end, &found, err))
        return false;
    *out = found && start == 0 && end > 0;
    return true;
}

static bool decode(const void *data, const struct mal_pieces *in, bool raw,
                   struct mal_pieces *out, struct mal_error *err) {
    (void)raw;
    const struct replace *replace = data;
    struct mal_matcher *matcher;
    out->open |= in->joined;
    if (!mal_matcher_create(&matcher, err)) return false;
    bool ok = true;
    for (size_t i = 0, from = 0; ok && i < in->n; from = in->ends[i++]) {
        ok = mal_pattern_replace(replace->pattern, matcher, in->text.text + from,
                                 in->ends[i] - from, replace->content, &out->text, err) &&
             mal_pieces_end(out, err);
    }
    mal_matcher_destroy(matcher);
    return ok;
}

static bool read_replace(struct replace **out, const json_t *part, const char *where,
                         struct mal_error *err) {
    const char *content;
    if (!mal_json_string(part, "content", &content, where, err)) return false;
    struct replace *replace = mal_calloc(1, sizeof *replace);
    if (replace) replace->content = mal_strdup(content);
    if (!replace || !replace->content) {
        mal_free(replace);
        return mal_fail(err, MAL_NO_MEMORY, "%s: Replace", mal_file_shown(where));
    }
    if (!mal_pattern_read(part, "Replace", &replace->pattern, where, err)) {
        destroy(replace);
        return false;
    }
    *out = replace;
    return true;
}

bool mal_read_replace(struct mal_tokenizer *tok, const json_t *part, const char *where,
                      struct mal_error *err) {
    struct replace *replace = NULL;
    return read_replace(&replace, part, where, err) &&
           mal_normalizer_add(&tok->normalizers,
                              (struct mal_normalizer){.run = normalize,
                                                      .destroy = destroy,
                                                      .data = replace,
                                                      .drops_first = drops_first},
                              where, err);
}

bool mal_read_replace_decoder(struct mal_tokenizer *tok, const json_t *part,
                              const char *where, struct mal_error *err) {
    struct replace *replace = NULL;
    return read_replace(&replace, part, where, err) &&
           mal_decoder_add(&tok->decoders, (struct mal_decoder){decode, destroy, replace},
                           where, err);
}
