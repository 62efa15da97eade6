/* token_ids.c - reads lines of token ids. */
#include "daemon/command/token_ids.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"

bool mal_token_ids_push(struct mal_ids *ids, int64_t id, struct mal_error *err) {
    if (id < 0 || id > INT32_MAX) {
        return mal_fail(err, MAL_INVALID, "%" PRId64 " is not a token id", id);
    }
    return mal_ids_push(ids, (int32_t)id, err);
}

bool mal_token_ids_parse(struct mal_ids *ids, const char *line, size_t bytes,
                         struct mal_error *err) {
    if (strlen(line) != bytes) return mal_fail(err, MAL_INVALID, "a zero byte");
    for (;;) {
        while (isspace((unsigned char)*line))
            line++;
        if (!*line) return true;
        char *end;
        errno = 0;
        long long id = strtoll(line, &end, 10);
        if (end == line || errno || (*end && !isspace((unsigned char)*end))) {
            char shown[MAL_TEXT_SHOWN];
            return mal_fail(err, MAL_INVALID, "not a token id: '%s'",
                            mal_text_shown(shown, line));
        }
        if (!mal_token_ids_push(ids, id, err)) return false;
        line = end;
    }
}
