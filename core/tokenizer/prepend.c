/* prepend.c - Prepend, the normalizer that puts a text before text that is not empty. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"

static bool run(const void *data, struct mal_matcher *matcher, const char *text,
                size_t bytes, struct mal_string *out, struct mal_error *err) {
    (void)matcher;
    const char *prefix = data;
    return (bytes == 0 || mal_string_append(out, prefix, strlen(prefix), err)) &&
           mal_string_append(out, text, bytes, err);
}

bool mal_read_prepend(struct mal_tokenizer *tok, const json_t *part, const char *where,
                      struct mal_error *err) {
    const char *prefix;
    if (!mal_json_string(part, "prepend", &prefix, where, err)) return false;
    char *kept = mal_strdup(prefix);
    if (!kept)
        return mal_fail(err, MAL_NO_MEMORY, "%s: normalizer", mal_file_shown(where));
    return mal_normalizer_add(&tok->normalizers,
                              (struct mal_normalizer){run, mal_free, kept, true}, where,
                              err);
}
