/* string.c - text that grows while it is made. */
#include <string.h>

#include "core/alloc.h"
#include "core/tokenizer/parts.h"

bool mal_string_reserve(struct mal_string *string, size_t more, struct mal_error *err) {
    if (string->text && more <= string->capacity - string->bytes) return true;
    size_t capacity = string->bytes + more + string->capacity / 2 + 64;
    char *text = mal_realloc(string->text, capacity);
    if (!text) return mal_fail(err, MAL_NO_MEMORY, "a text of %zu bytes", capacity);
    string->text = text;
    string->capacity = capacity;
    return true;
}

bool mal_string_append(struct mal_string *string, const char *text, size_t bytes,
                       struct mal_error *err) {
    if (!mal_string_reserve(string, bytes, err)) return false;
    if (bytes > 0) memcpy(string->text + string->bytes, text, bytes);
    string->bytes += bytes;
    return true;
}

void mal_string_finish(struct mal_string *string) {
    mal_free(string->text);
    *string = (struct mal_string){0};
}
