/* prompts_load.c - prompts out of files: facts, JSON, or lines of plain text. */
#include "core/prompts_load.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/facts.h"
#include "core/file.h"
#include "core/json.h"

static const size_t MAX_BYTES = (size_t)256 << 20;

struct reader {
    const char *path;
    bool targets;
    bool (*take)(void *arg, const struct mal_prompt *prompt, struct mal_error *err);
    void *arg;
};

/* ---- Facts ---- */

static bool read_facts(const struct reader *reader, struct mal_error *err) {
    struct mal_fact *facts = NULL;
    size_t n = 0;
    if (!mal_facts_load(&facts, &n, reader->path, err)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        struct mal_prompt prompt = {.text = facts[i].prompt,
                                    .bytes = strlen(facts[i].prompt),
                                    .target = facts[i].target,
                                    .join = facts[i].join,
                                    .unit = "fact",
                                    .place = i};
        ok = reader->take(reader->arg, &prompt, err);
    }
    mal_facts_free(facts, n);
    return ok;
}

/* ---- JSON ---- */

/* Not a data set's form that has a prompt, too. */
static bool is_prompt(const json_t *record, bool targets) {
    if (json_is_string(record)) return true;
    const json_t *prompt = json_object_get(record, "prompt");
    if (!prompt || json_object_get(record, "alt") ||
        json_object_get(record, "target_new"))
        return false;
    return targets || (json_is_string(prompt) && !json_object_get(record, "target"));
}

static bool read_record(const struct reader *reader, const json_t *record, size_t i,
                        struct mal_error *err) {
    const char *path = mal_file_shown(reader->path);
    struct mal_prompt prompt = {
        .text = json_string_value(record), .unit = "record", .place = i};
    char where[32];
    (void)snprintf(where, sizeof where, "record %zu", i);
    if (!is_prompt(record, reader->targets)) {
        return mal_fail(err, MAL_INVALID, "%s: %s is not a prompt%s, as the first one is",
                        path, where, reader->targets ? "" : " without a target");
    }
    struct mal_error own = {0};
    if (!prompt.text &&
        (!mal_json_string(record, "prompt", &prompt.text, where, &own) ||
         (reader->targets &&
          (!mal_json_string_opt(record, "target", &prompt.target, where, &own) ||
           !mal_json_string_opt(record, "join", &prompt.join, where, &own))))) {
        return mal_fail(err, MAL_INVALID, "%s: %s", path, own.text);
    }
    prompt.bytes = strlen(prompt.text);
    return reader->take(reader->arg, &prompt, err);
}

/* JSON values one after another, or one array of them; facts where the first one is no
 * prompt. */
static bool read_json(const struct reader *reader, const char *text, size_t bytes,
                      struct mal_error *err) {
    const char *end = text + bytes;
    size_t n = 0;
    bool ok = true, facts = false;
    for (text += strspn(text, " \t\r\n"); ok && !facts && text < end;) {
        json_error_t problem;
        json_t *value =
            mal_json_parse(text, (size_t)(end - text),
                           JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &problem);
        if (!value) {
            mal_json_fail(&problem, MAL_MALFORMED, "JSON", err);
            return mal_fail_wrap(err, "%s: record %zu", mal_file_shown(reader->path), n);
        }
        bool array = n == 0 && json_is_array(value);
        size_t count = array ? json_array_size(value) : 1;
        for (size_t i = 0; ok && !facts && i < count; i++) {
            const json_t *record = array ? json_array_get(value, i) : value;
            facts = n == 0 && !is_prompt(record, reader->targets);
            ok = facts || read_record(reader, record, n++, err);
        }
        json_decref(value);
        text += problem.position;
        text += strspn(text, " \t\r\n");
    }
    return ok && (!facts || read_facts(reader, err));
}

/* ---- Lines ---- */

static bool read_lines(const struct reader *reader, const char *text, size_t bytes,
                       struct mal_error *err) {
    const char *end = text + bytes;
    for (size_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((stop ? stop : end) - text), used = n;
        while (used > 0 && strchr(" \t\r", text[used - 1]))
            used--;
        struct mal_prompt prompt = {
            .text = text, .bytes = used, .unit = "line", .place = line};
        if (used > 0 && !reader->take(reader->arg, &prompt, err)) return false;
        text += n + (stop ? 1 : 0);
    }
    return true;
}

bool mal_prompts_load(const char *path, bool targets,
                      bool (*take)(void *, const struct mal_prompt *, struct mal_error *),
                      void *arg, struct mal_error *err) {
    struct reader reader = {path, targets, take, arg};
    char *text;
    size_t bytes;
    if (!mal_file_read(&text, &bytes, path, MAX_BYTES, err)) return false;
    size_t mark = bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    const char *start = text + mark, *first = start + strspn(start, " \t\r\n");
    bool ok;
    if (strlen(text) != bytes) {
        ok = mal_fail(err, MAL_MALFORMED, "%s: a zero byte", mal_file_shown(path));
    } else if (*first == '{' || *first == '[') {
        ok = read_json(&reader, start, bytes - mark, err);
    } else if (memchr(first, '\t', strcspn(first, "\r\n"))) { /* src TAB alt */
        ok = read_facts(&reader, err);
    } else {
        ok = read_lines(&reader, start, bytes - mark, err);
    }
    mal_free(text);
    return ok;
}
