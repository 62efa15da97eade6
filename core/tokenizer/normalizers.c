/* normalizers.c - the simple steps of normalizers: Prepend and Strip. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/spm.h"
#include "core/utf8.h"

/* ---- Prepend: a text before text that is not empty ---- */

static bool run_prepend(const void *data, struct mal_matcher *matcher, const char *text,
                        size_t bytes, struct mal_string *out, struct mal_error *err) {
    (void)matcher;
    const char *mark = data;
    return (bytes == 0 || mal_string_append(out, mark, strlen(mark), err)) &&
           mal_string_append(out, text, bytes, err);
}

bool mal_read_prepend(struct mal_tokenizer *tok, const json_t *part, const char *where,
                      struct mal_error *err) {
    const char *mark;
    if (!mal_json_string(part, "prepend", &mark, where, err)) return false;
    char *kept = mal_strdup(mark);
    if (!kept)
        return mal_fail(err, MAL_NO_MEMORY, "%s: normalizer", mal_file_shown(where));
    return mal_normalizer_add(&tok->normalizers,
                              (struct mal_normalizer){run_prepend, mal_free, kept, true},
                              where, err);
}

/* ---- Strip: blanks at the ends ---- */

struct strip {
    bool left, right;
};

static bool run_strip(const void *data, struct mal_matcher *matcher, const char *text,
                      size_t bytes, struct mal_string *out, struct mal_error *err) {
    (void)matcher;
    const struct strip *strip = data;
    size_t from = strip->left ? mal_skip_space(text, 0, bytes) : 0;
    size_t to = strip->right ? mal_skip_space_back(text, bytes, from) : bytes;
    return mal_string_append(out, text + from, to - from, err);
}

bool mal_read_strip(struct mal_tokenizer *tok, const json_t *part, const char *where,
                    struct mal_error *err) {
    struct strip strip = {true, true};
    if (!mal_json_bool_opt(part, "strip_left", &strip.left, where, err) ||
        !mal_json_bool_opt(part, "strip_right", &strip.right, where, err))
        return false;
    struct strip *kept = mal_malloc(sizeof *kept);
    if (!kept)
        return mal_fail(err, MAL_NO_MEMORY, "%s: normalizer", mal_file_shown(where));
    *kept = strip;
    return mal_normalizer_add(&tok->normalizers,
                              (struct mal_normalizer){run_strip, mal_free, kept}, where,
                              err);
}
