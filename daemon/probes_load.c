/* probes_load.c - prompts out of files: JSON, facts, or lines. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/random.h"
#include "core/utf8.h"
#include "daemon/probes.h"

static const size_t MAX_BYTES = (size_t)256 << 20;

struct list {
    struct mal_probes probes;
    size_t room;
};

/* ---- A growing list ---- */

static bool fail_memory(const struct list *list, struct mal_error *err) {
    return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(list->probes.path));
}

static bool grow(struct list *list, struct mal_error *err) {
    struct mal_probes *p = &list->probes;
    if (p->asked.n < list->room) return true;
    size_t room = list->room ? 2 * list->room : 64;
    struct mal_fact *facts = mal_realloc(p->asked.facts, room * sizeof *facts);
    if (facts) p->asked.facts = facts;
    size_t *place = facts ? mal_realloc(p->place, room * sizeof *place) : NULL;
    if (!place) return fail_memory(list, err);
    p->place = place;
    list->room = room;
    return true;
}

static bool copy_text(char **out, const char *text, size_t bytes) {
    if (!text) return true;
    *out = mal_malloc(bytes + 1);
    if (!*out) return false;
    memcpy(*out, text, bytes);
    (*out)[bytes] = 0;
    return true;
}

/* target and join may be NULL. */
static bool add(struct list *list, size_t place, const char *prompt, size_t bytes,
                const char *target, const char *join, struct mal_error *err) {
    if (!grow(list, err)) return false;
    struct mal_asked *asked = &list->probes.asked;
    struct mal_fact *fact = &asked->facts[asked->n];
    list->probes.place[asked->n++] = place;
    *fact = (struct mal_fact){.unrelated = mal_calloc(1, sizeof *fact->unrelated)};
    if (!fact->unrelated) return fail_memory(list, err);
    fact->n_unrelated = 1;
    struct mal_probe *probe = fact->unrelated;
    return (copy_text(&probe->prompt, prompt, bytes) &&
            copy_text(&probe->target, target, target ? strlen(target) : 0) &&
            copy_text(&fact->join, join, join ? strlen(join) : 0)) ||
           fail_memory(list, err);
}

/* ---- Facts ---- */

static bool load_facts(struct list *list, struct mal_error *err) {
    struct mal_fact *facts = NULL;
    size_t n = 0;
    list->probes.unit = "fact";
    if (!mal_facts_load(&facts, &n, list->probes.path, err)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        ok = add(list, i, facts[i].prompt, strlen(facts[i].prompt), facts[i].target,
                 facts[i].join, err);
    }
    mal_facts_free(facts, n);
    return ok;
}

/* ---- JSON ---- */

/* A prompt, with a target or without; not a data set's form that has a prompt, too. */
static bool is_prompt(const json_t *record) {
    return json_is_string(record) ||
           (json_object_get(record, "prompt") && !json_object_get(record, "alt") &&
            !json_object_get(record, "target_new"));
}

static bool read_prompt(struct list *list, const json_t *record, size_t i,
                        struct mal_error *err) {
    const char *path = mal_file_shown(list->probes.path);
    const char *prompt = json_string_value(record), *target = NULL, *join = NULL;
    char where[32];
    (void)snprintf(where, sizeof where, "record %zu", i);
    if (!is_prompt(record)) {
        return mal_fail(err, MAL_INVALID, "%s: %s is not a prompt, as the first one is",
                        path, where);
    }
    struct mal_error own = {0};
    if (!prompt && (!mal_json_string(record, "prompt", &prompt, where, &own) ||
                    !mal_json_string_opt(record, "target", &target, where, &own) ||
                    !mal_json_string_opt(record, "join", &join, where, &own))) {
        return mal_fail(err, MAL_INVALID, "%s: %s", path, own.text);
    }
    return add(list, i, prompt, strlen(prompt), target, join, err);
}

/* JSON values one after another, or one array of them; facts where the first one is no
 * prompt. */
static bool load_json(struct list *list, const char *text, size_t bytes,
                      struct mal_error *err) {
    const char *end = text + bytes;
    size_t n = 0;
    bool ok = true, facts = false;
    list->probes.unit = "record";
    for (text += strspn(text, " \t\r\n"); ok && !facts && text < end;) {
        json_error_t problem;
        json_t *value =
            mal_json_parse(text, (size_t)(end - text),
                           JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &problem);
        if (!value) {
            mal_json_fail(&problem, MAL_MALFORMED, "JSON", err);
            return mal_fail_wrap(err, "%s: record %zu", mal_file_shown(list->probes.path),
                                 n);
        }
        bool array = n == 0 && json_is_array(value);
        size_t count = array ? json_array_size(value) : 1;
        for (size_t i = 0; ok && !facts && i < count; i++) {
            const json_t *record = array ? json_array_get(value, i) : value;
            facts = n == 0 && !is_prompt(record);
            ok = facts || read_prompt(list, record, n++, err);
        }
        json_decref(value);
        text += problem.position;
        text += strspn(text, " \t\r\n");
    }
    return ok && (!facts || load_facts(list, err));
}

/* ---- Lines ---- */

static bool load_lines(struct list *list, const char *text, size_t bytes,
                       struct mal_error *err) {
    const char *end = text + bytes;
    list->probes.unit = "line";
    for (size_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((stop ? stop : end) - text), used = n;
        while (used > 0 && strchr(" \t\r", text[used - 1]))
            used--;
        if (!mal_utf8_valid(text, used)) {
            return mal_fail(err, MAL_MALFORMED, "%s: line %zu: not UTF-8",
                            mal_file_shown(list->probes.path), line);
        }
        if (used > 0 && !add(list, line, text, used, NULL, NULL, err)) return false;
        text += n + (stop ? 1 : 0);
    }
    return true;
}

/* ---- The file ---- */

static bool read_file(struct list *list, struct mal_error *err) {
    const char *path = list->probes.path;
    char *text;
    size_t bytes;
    if (!mal_file_read(&text, &bytes, path, MAX_BYTES, err)) return false;
    size_t mark = bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    const char *start = text + mark, *first = start + strspn(start, " \t\r\n");
    bool ok;
    if (strlen(text) != bytes) {
        ok = mal_fail(err, MAL_MALFORMED, "%s: a zero byte", mal_file_shown(path));
    } else if (*first == '{' || *first == '[') {
        ok = load_json(list, start, bytes - mark, err);
    } else if (memchr(first, '\t', strcspn(first, "\r\n"))) { /* src TAB alt */
        ok = load_facts(list, err);
    } else {
        ok = load_lines(list, start, bytes - mark, err);
    }
    mal_free(text);
    if (ok && list->probes.asked.n == 0)
        ok = mal_fail(err, MAL_INVALID, "%s: no prompt in it", mal_file_shown(path));
    return ok;
}

/* Leaves MAL_MAX_PROBES of them, the same ones of the same file. */
static void draw(struct mal_probes *probes) {
    struct mal_asked *asked = &probes->asked;
    uint64_t random = 1;
    size_t kept = 0, n = asked->n;
    for (size_t i = 0; i < n; i++) {
        bool keep = mal_random_below(&random, n - i) < MAL_MAX_PROBES - kept;
        if (!keep) {
            mal_fact_finish(&asked->facts[i]);
            continue;
        }
        asked->facts[kept] = asked->facts[i];
        probes->place[kept++] = probes->place[i];
    }
    asked->n = kept;
}

bool mal_probes_load(struct mal_probes *out, const char *path, struct mal_error *err) {
    struct list list = {.probes = {.path = mal_strdup(path)}};
    if (!list.probes.path) return mal_fail(err, MAL_NO_MEMORY, "probes");
    if (!read_file(&list, err)) {
        mal_probes_finish(&list.probes);
        return false;
    }
    if (list.probes.asked.n > MAL_MAX_PROBES) draw(&list.probes);
    *out = list.probes;
    return true;
}
