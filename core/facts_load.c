/* facts_load.c - facts out of files: JSON, JSON lines, or pairs with a tab character.
 *
 * Records count from 0 like JSON pointers, lines from 1. */
#include "core/facts_impl.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/utf8.h"

static const size_t MAX_BYTES = (size_t)256 << 20;

struct list {
    struct mal_fact_place at; /* of the record that is read now */
    struct mal_fact *facts;
    size_t n, room;
    size_t passed; /* records with nothing to teach */
};

static bool fail_memory(const struct list *list, struct mal_error *err) {
    return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(list->at.path));
}

/* A zeroed fact at the end of the list, which owns it whatever becomes of it. */
static struct mal_fact *append(struct list *list, struct mal_error *err) {
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 64;
        struct mal_fact *grown = mal_realloc(list->facts, room * sizeof *grown);
        if (!grown) {
            fail_memory(list, err);
            return NULL;
        }
        list->facts = grown;
        list->room = room;
    }
    list->facts[list->n] = (struct mal_fact){0};
    return &list->facts[list->n++];
}

static bool add_record(struct list *list, const json_t *record, struct mal_error *err) {
    struct mal_fact *fact = append(list, err);
    bool taught;
    if (!fact || !mal_fact_read(fact, &taught, &list->at, record, err)) return false;
    if (!taught) {
        mal_fact_finish(fact);
        list->n--;
        list->passed++;
    }
    return true;
}

static bool add_array(struct list *list, const json_t *records, struct mal_error *err) {
    for (size_t i = 0; i < json_array_size(records); i++) {
        snprintf(list->at.where, sizeof list->at.where, "record %zu", i);
        if (!add_record(list, json_array_get(records, i), err)) return false;
    }
    return true;
}

static bool add_json_line(struct list *list, const char *line, size_t bytes,
                          struct mal_error *err) {
    json_error_t problem;
    json_t *record = mal_json_parse(line, bytes, JSON_REJECT_DUPLICATES, &problem);
    if (!record) {
        mal_json_fail(&problem, MAL_MALFORMED, "JSON", err);
        return mal_fail_wrap(err, "%s: %s", mal_file_shown(list->at.path),
                             list->at.where);
    }
    bool ok = add_record(list, record, err);
    json_decref(record);
    return ok;
}

/* src TAB alt */
static bool add_tab_line(struct list *list, const char *line, size_t bytes,
                         struct mal_error *err) {
    const char *tab = memchr(line, '\t', bytes), *end = line + bytes;
    if (!tab)
        return mal_fact_fail(&list->at, err,
                             "neither JSON nor a prompt, a tab character and a target");
    if (memchr(tab + 1, '\t', (size_t)(end - tab - 1)))
        return mal_fact_fail(&list->at, err, "more than one tab character");
    if (tab == line) return mal_fact_fail(&list->at, err, "the prompt is empty");
    if (!mal_utf8_valid(line, bytes)) return mal_fact_fail(&list->at, err, "not UTF-8");
    if (memchr(line, '\0', bytes)) return mal_fact_fail(&list->at, err, "a zero byte");
    if (tab + 1 == end) {
        list->passed++;
        return true;
    }
    struct mal_fact *fact = append(list, err);
    if (!fact) return false;
    size_t n_prompt = (size_t)(tab - line), n_target = (size_t)(end - tab - 1);
    fact->of_set = true;
    fact->prompt = mal_calloc(n_prompt + 1, 1);
    fact->target = mal_calloc(n_target + 1, 1);
    if (!fact->prompt || !fact->target) return fail_memory(list, err);
    memcpy(fact->prompt, line, n_prompt);
    memcpy(fact->target, tab + 1, n_target);
    return true;
}

static bool is_blank(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (!strchr(" \t\r\n", text[i]) || text[i] == '\0') return false;
    }
    return true;
}

static bool add_lines(struct list *list, const char *text, size_t bytes,
                      bool (*add)(struct list *, const char *, size_t,
                                  struct mal_error *),
                      struct mal_error *err) {
    const char *end = text + bytes;
    for (size_t n = 1; text < end; n++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t length = (size_t)((stop ? stop : end) - text);
        size_t used = length > 0 && text[length - 1] == '\r' ? length - 1 : length;
        snprintf(list->at.where, sizeof list->at.where, "line %zu", n);
        if (!is_blank(text, used) && !add(list, text, used, err)) return false;
        text += length + (stop ? 1 : 0);
    }
    return true;
}

/* One document, or one after the other (NDJSON). */
static bool add_json(struct list *list, const char *text, size_t bytes,
                     struct mal_error *err) {
    json_error_t problem;
    json_t *root = mal_json_parse(
        text, bytes, JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &problem);
    if (!root) return mal_json_fail(&problem, MAL_MALFORMED, list->at.path, err);
    size_t used = (size_t)problem.position;
    const json_t *facts = json_object_get(root, "facts");
    bool ok;
    bool more = !is_blank(text + used, bytes - used);
    if (more && json_is_array(root)) {
        ok = mal_fail(err, MAL_MALFORMED, "%s: text after the end of the array",
                      mal_file_shown(list->at.path));
    } else if (more) {
        ok = add_lines(list, text, bytes, add_json_line, err);
    } else if (json_is_array(root)) {
        ok = add_array(list, root, err);
    } else if (facts && !json_is_array(facts)) {
        ok = mal_fail(err, MAL_INVALID, "%s: 'facts' must be an array, it is %s",
                      mal_file_shown(list->at.path), mal_json_type(facts));
    } else if (facts) {
        ok = add_array(list, facts, err);
    } else {
        snprintf(list->at.where, sizeof list->at.where, "record 0");
        ok = add_record(list, root, err);
    }
    json_decref(root);
    return ok;
}

bool mal_facts_load_counting(struct mal_fact **out, size_t *out_n, size_t *out_passed,
                             const char *path, struct mal_error *err) {
    char *text;
    size_t bytes;
    if (!mal_file_read(&text, &bytes, path, MAX_BYTES, err)) return false;
    struct list list = {.at = {.path = path}};
    size_t mark = bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    const char *start = text + mark;
    size_t blank = strspn(start, " \t\r\n");
    bool json = start[blank] == '{' || start[blank] == '[';
    bool ok = json ? add_json(&list, start, bytes - mark, err)
                   : add_lines(&list, start, bytes - mark, add_tab_line, err);
    mal_free(text);
    if (ok && list.n == 0)
        ok = mal_fail(err, MAL_INVALID, "%s: no facts in it", mal_file_shown(path));
    if (!ok) {
        mal_facts_free(list.facts, list.n);
        return false;
    }
    *out = list.facts;
    *out_n = list.n;
    *out_passed = list.passed;
    return true;
}

bool mal_facts_load(struct mal_fact **out, size_t *out_n, const char *path,
                    struct mal_error *err) {
    size_t passed;
    return mal_facts_load_counting(out, out_n, &passed, path, err);
}
