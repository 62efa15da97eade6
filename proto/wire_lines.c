/* wire_lines.c - facts as NDJSON, a piece at a time. */
#include <string.h>

#include "core/alloc.h"
#include "proto/wire_impl.h"

struct mal_fact_lines {
    struct mal_fact_lines_options o;
    struct mal_claims claims;
    char *line; /* the beginning of one whose end has not come, owned */
    size_t bytes, capacity;
    size_t number; /* lines so far */
};

bool mal_fact_lines_create(struct mal_fact_lines **out,
                           const struct mal_fact_lines_options *options,
                           struct mal_error *err) {
    struct mal_fact_lines *lines = mal_calloc(1, sizeof *lines);
    if (!lines) return mal_fail(err, MAL_NO_MEMORY, "facts of the request");
    lines->o = *options;
    *out = lines;
    return true;
}

void mal_fact_lines_destroy(struct mal_fact_lines *lines) {
    if (!lines) return;
    mal_claims_finish(&lines->claims);
    mal_free(lines->line);
    mal_free(lines);
}

size_t mal_fact_lines_count(const struct mal_fact_lines *lines) {
    return lines->claims.n;
}

static bool is_blank(const char *line, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (!strchr(" \t\r", line[i]) || line[i] == '\0') return false;
    }
    return true;
}

static bool take_fact(struct mal_fact_lines *lines, const struct mal_fact *fact,
                      struct mal_error *err) {
    size_t index = lines->claims.n;
    if (!mal_claims_add(&lines->claims, fact, err)) return false;
    char *json = mal_encode_fact(fact);
    bool ok = json ? lines->o.take(lines->o.arg, fact, json, index, err)
                   : mal_fail(err, MAL_NO_MEMORY, "facts of the request");
    mal_free(json);
    return ok;
}

static bool read_line(struct mal_fact_lines *lines, const char *line, size_t bytes,
                      struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES];
    struct mal_fact fact = {0};
    size_t number = ++lines->number, n = lines->claims.n;
    if (is_blank(line, bytes)) return true;
    if (n == lines->o.max_facts) return mal_wire_too_many_facts(n + 1, n, err);
    json_t *root = mal_wire_parse(line, bytes, number, err);
    if (!root) return false;
    bool ok =
        mal_wire_fact(root, mal_wire_pointer_at(pointer, "/facts", n), &fact, err) &&
        take_fact(lines, &fact, err);
    json_decref(root);
    mal_fact_finish(&fact);
    return ok || mal_fail_wrap(err, "line %zu", number);
}

static bool keep(struct mal_fact_lines *lines, const char *data, size_t bytes,
                 struct mal_error *err) {
    if (bytes > lines->o.max_line - lines->bytes) {
        return mal_fail(err, MAL_TOO_LARGE, "line %zu is longer than %zu bytes",
                        lines->number + 1, lines->o.max_line);
    }
    size_t need = lines->bytes + bytes;
    if (need > lines->capacity) {
        size_t capacity = lines->capacity ? lines->capacity : 4096;
        while (capacity < need)
            capacity *= 2;
        char *line = mal_realloc(lines->line, capacity);
        if (!line) return mal_fail(err, MAL_NO_MEMORY, "line %zu", lines->number + 1);
        lines->line = line;
        lines->capacity = capacity;
    }
    memcpy(lines->line + lines->bytes, data, bytes);
    lines->bytes = need;
    return true;
}

bool mal_fact_lines_add(struct mal_fact_lines *lines, const char *data, size_t bytes,
                        struct mal_error *err) {
    const char *end = data + bytes, *newline;
    while (data < end && (newline = memchr(data, '\n', (size_t)(end - data)))) {
        const char *line = data;
        size_t n = (size_t)(newline - data);
        data = newline + 1;
        if (lines->bytes > 0 || n > lines->o.max_line) {
            if (!keep(lines, line, n, err)) return false;
            line = lines->line;
            n = lines->bytes;
            lines->bytes = 0;
        }
        if (!read_line(lines, line, n, err)) return false;
    }
    return data == end || keep(lines, data, (size_t)(end - data), err);
}

bool mal_fact_lines_end(struct mal_fact_lines *lines, struct mal_error *err) {
    size_t bytes = lines->bytes;
    lines->bytes = 0;
    if (bytes > 0 && !read_line(lines, lines->line, bytes, err)) return false;
    if (lines->claims.n == 0) {
        return mal_fail_at(err, MAL_INVALID, "/facts",
                           "the body holds no fact; expected one a line");
    }
    return mal_claims_check(&lines->claims, err);
}
