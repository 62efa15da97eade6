/* facts_load.c - facts out of files: the API's form and the research data sets' forms.
 *
 * Which form a record has is told by its fields; fields that no form knows are ignored.
 * Texts are taken as they are, nothing is trimmed. Records count from 0 like JSON
 * pointers, lines from 1. */
#include "core/facts.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/utf8.h"

static const size_t MAX_BYTES = (size_t)256 << 20;

struct list {
    const char *path; /* borrowed */
    char where[40];   /* "record 3" or "line 4" */
    char member[40];  /* of the record, ends in ": "; empty: the record itself */
    struct mal_fact *facts;
    size_t n, room;
};

/* ---- Members of a record ---- */

__attribute__((format(printf, 3, 4))) static bool
fail(struct list *list, struct mal_error *err, const char *format, ...) {
    char what[200];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return mal_fail(err, MAL_INVALID, "%s: %s: %s%s", mal_file_shown(list->path),
                    list->where, list->member, what);
}

static bool fail_memory(struct list *list, struct mal_error *err) {
    return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(list->path));
}

static bool copy(struct list *list, char **out, const char *text, struct mal_error *err) {
    *out = mal_strdup(text);
    return *out || fail_memory(list, err);
}

static const json_t *member(const json_t *record, const char *key) {
    const json_t *value = json_object_get(record, key);
    return value && !json_is_null(value) ? value : NULL;
}

/* A string; *out stays NULL where it is not given. */
static bool take(struct list *list, const json_t *record, const char *key, char **out,
                 struct mal_error *err) {
    const json_t *value = member(record, key);
    if (!value) return true;
    if (!json_is_string(value))
        return fail(list, err, "'%s' must be a string, it is %s", key,
                    mal_json_type(value));
    return copy(list, out, json_string_value(value), err);
}

/* A string that must not be empty where it is given. */
static bool take_text(struct list *list, const json_t *record, const char *key,
                      char **out, struct mal_error *err) {
    if (!take(list, record, key, out, err)) return false;
    return !*out || **out || fail(list, err, "'%s' is empty", key);
}

static bool need_text(struct list *list, const json_t *record, const char *key,
                      char **out, struct mal_error *err) {
    if (!member(record, key)) return fail(list, err, "'%s' is missing", key);
    return take_text(list, record, key, out, err);
}

static bool take_texts(struct list *list, const json_t *record, const char *key,
                       char ***out, size_t *out_n, struct mal_error *err) {
    const json_t *values = member(record, key);
    if (!values) return true;
    if (!json_is_array(values))
        return fail(list, err, "'%s' must be an array, it is %s", key,
                    mal_json_type(values));
    size_t n = json_array_size(values);
    *out = mal_calloc(n, sizeof **out);
    if (!*out) return fail_memory(list, err);
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(values, i));
        if (!text || !*text)
            return fail(list, err, "'%s' %zu must be a string that is not empty", key, i);
        if (!copy(list, &(*out)[i], text, err)) return false;
        *out_n = i + 1;
    }
    return true;
}

static bool make_probes(struct list *list, struct mal_fact *fact, size_t n,
                        struct mal_error *err) {
    fact->unrelated = mal_calloc(n, sizeof *fact->unrelated);
    if (!fact->unrelated) return fail_memory(list, err);
    fact->n_unrelated = n;
    return true;
}

/* One rephrasing and one unrelated question, as the flat data sets have them. */
static bool take_measures(struct list *list, const json_t *record,
                          const char *rephrase_key, const char *prompt_key,
                          const char *target_key, struct mal_fact *fact,
                          struct mal_error *err) {
    if (member(record, rephrase_key)) {
        fact->rephrases = mal_calloc(1, sizeof *fact->rephrases);
        if (!fact->rephrases) return fail_memory(list, err);
        fact->n_rephrases = 1;
        if (!take_text(list, record, rephrase_key, &fact->rephrases[0], err))
            return false;
    }
    if (!member(record, prompt_key)) return true;
    return make_probes(list, fact, 1, err) &&
           take_text(list, record, prompt_key, &fact->unrelated[0].prompt, err) &&
           take_text(list, record, target_key, &fact->unrelated[0].target, err);
}

/* ---- The forms ---- */

static bool read_api(struct list *list, const json_t *record, struct mal_fact *fact,
                     struct mal_error *err) {
    if (!need_text(list, record, "prompt", &fact->prompt, err) ||
        !need_text(list, record, "target", &fact->target, err) ||
        !take_text(list, record, "id", &fact->id, err) ||
        !take_text(list, record, "subject", &fact->subject, err) ||
        !take(list, record, "join", &fact->join, err) ||
        !take_texts(list, record, "prompts", &fact->prompts, &fact->n_prompts, err) ||
        !take_texts(list, record, "rephrases", &fact->rephrases, &fact->n_rephrases, err))
        return false;

    const json_t *probes = member(record, "unrelated");
    if (!probes) return true;
    if (!json_is_array(probes))
        return fail(list, err, "'unrelated' must be an array, it is %s",
                    mal_json_type(probes));
    if (!make_probes(list, fact, json_array_size(probes), err)) return false;
    for (size_t i = 0; i < fact->n_unrelated; i++) {
        const json_t *probe = json_array_get(probes, i);
        if (!json_is_object(probe))
            return fail(list, err, "'unrelated' %zu must be an object, it is %s", i,
                        mal_json_type(probe));
        snprintf(list->member, sizeof list->member, "'unrelated' %zu: ", i);
        if (!need_text(list, probe, "prompt", &fact->unrelated[i].prompt, err) ||
            !take_text(list, probe, "target", &fact->unrelated[i].target, err))
            return false;
        list->member[0] = '\0';
    }
    return true;
}

/* The reference's zsRE files (MEND's): alt is what is taught, answers and pred are not.
 */
static bool read_zsre(struct list *list, const json_t *record, struct mal_fact *fact,
                      struct mal_error *err) {
    return need_text(list, record, "src", &fact->prompt, err) &&
           need_text(list, record, "alt", &fact->target, err) &&
           take_text(list, record, "subject", &fact->subject, err) &&
           take_measures(list, record, "rephrase", "loc", "loc_ans", fact, err);
}

/* CounterFact as EasyEdit distributes it. */
static bool read_flat(struct list *list, const json_t *record, struct mal_fact *fact,
                      struct mal_error *err) {
    return need_text(list, record, "prompt", &fact->prompt, err) &&
           need_text(list, record, "target_new", &fact->target, err) &&
           take_text(list, record, "subject", &fact->subject, err) &&
           take_measures(list, record, "rephrase_prompt", "locality_prompt",
                         "locality_ground_truth", fact, err);
}

/* The member "str" of an object like {"str": "French", "id": "Q150"}. */
static bool take_entity(struct list *list, const json_t *record, const char *key,
                        char **out, struct mal_error *err) {
    const json_t *entity = member(record, key);
    if (!entity) return true;
    if (!json_is_object(entity))
        return fail(list, err, "'%s' must be an object, it is %s", key,
                    mal_json_type(entity));
    snprintf(list->member, sizeof list->member, "'%s': ", key);
    if (!need_text(list, entity, "str", out, err)) return false;
    list->member[0] = '\0';
    return true;
}

/* "The mother tongue of {} is" with the subject in its place. */
static bool fill_prompt(struct list *list, const char *pattern, struct mal_fact *fact,
                        struct mal_error *err) {
    const char *gap = strstr(pattern, "{}");
    if (!gap || strstr(gap + 2, "{}"))
        return fail(list, err, "'prompt' must hold {} once, for the subject");
    size_t bytes = strlen(pattern) - 2 + strlen(fact->subject) + 1;
    fact->prompt = mal_malloc(bytes);
    if (!fact->prompt) return fail_memory(list, err);
    snprintf(fact->prompt, bytes, "%.*s%s%s", (int)(gap - pattern), pattern,
             fact->subject, gap + 2);
    return true;
}

/* CounterFact as ROME distributes it; the right answer to a neighbour is the true target.
 */
static bool read_rome(struct list *list, const json_t *record, struct mal_fact *fact,
                      struct mal_error *err) {
    const json_t *rewrite = json_object_get(record, "requested_rewrite");
    if (!json_is_object(rewrite))
        return fail(list, err, "'requested_rewrite' must be an object, it is %s",
                    mal_json_type(rewrite));
    if (!member(rewrite, "target_new")) return fail(list, err, "'target_new' is missing");
    char *pattern = NULL, *truth = NULL, **neighbours = NULL;
    size_t n = 0;
    bool ok = need_text(list, rewrite, "prompt", &pattern, err) &&
              need_text(list, rewrite, "subject", &fact->subject, err) &&
              take_entity(list, rewrite, "target_new", &fact->target, err) &&
              take_entity(list, rewrite, "target_true", &truth, err) &&
              fill_prompt(list, pattern, fact, err) &&
              take_texts(list, record, "paraphrase_prompts", &fact->rephrases,
                         &fact->n_rephrases, err) &&
              take_texts(list, record, "neighborhood_prompts", &neighbours, &n, err) &&
              make_probes(list, fact, n, err);
    for (size_t i = 0; ok && i < n; i++) {
        ok = copy(list, &fact->unrelated[i].prompt, neighbours[i], err) &&
             (!truth || copy(list, &fact->unrelated[i].target, truth, err));
    }
    for (size_t i = 0; i < n; i++)
        mal_free(neighbours[i]);
    mal_free(neighbours);
    mal_free(pattern);
    mal_free(truth);
    return ok;
}

static bool read_record(struct list *list, const json_t *record, struct mal_fact *fact,
                        struct mal_error *err) {
    if (!json_is_object(record))
        return fail(list, err, "must be an object, it is %s", mal_json_type(record));
    if (member(record, "requested_rewrite")) return read_rome(list, record, fact, err);
    if (member(record, "src")) return read_zsre(list, record, fact, err);
    if (member(record, "target_new")) return read_flat(list, record, fact, err);
    if (member(record, "prompt") || member(record, "target"))
        return read_api(list, record, fact, err);
    return fail(
        list, err,
        "no known form of a fact (none of 'prompt' and 'target', 'src' and 'alt', "
        "'target_new', 'requested_rewrite')");
}

/* ---- Files ---- */

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

/* The zsRE data sets hold records whose new answer is empty: there is nothing to teach.
 */
static bool teaches_nothing(const json_t *record) {
    const char *alt = json_string_value(json_object_get(record, "alt"));
    return alt && !*alt && json_is_string(json_object_get(record, "src"));
}

static bool add_record(struct list *list, const json_t *record, struct mal_error *err) {
    if (teaches_nothing(record)) return true;
    struct mal_fact *fact = append(list, err);
    return fact && read_record(list, record, fact, err);
}

static bool add_array(struct list *list, const json_t *records, struct mal_error *err) {
    for (size_t i = 0; i < json_array_size(records); i++) {
        snprintf(list->where, sizeof list->where, "record %zu", i);
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
        return mal_fail_wrap(err, "%s: %s", mal_file_shown(list->path), list->where);
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
        return fail(list, err, "neither JSON nor a prompt, a tab character and a target");
    if (memchr(tab + 1, '\t', (size_t)(end - tab - 1)))
        return fail(list, err, "more than one tab character");
    if (tab == line) return fail(list, err, "the prompt is empty");
    if (!mal_utf8_valid(line, bytes)) return fail(list, err, "not UTF-8");
    if (memchr(line, '\0', bytes)) return fail(list, err, "a zero byte");
    if (tab + 1 == end) return true; /* as in teaches_nothing() */
    struct mal_fact *fact = append(list, err);
    if (!fact) return false;
    size_t n_prompt = (size_t)(tab - line), n_target = (size_t)(end - tab - 1);
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
        snprintf(list->where, sizeof list->where, "line %zu", n);
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
    if (!root) return mal_json_fail(&problem, MAL_MALFORMED, list->path, err);
    size_t used = (size_t)problem.position;
    const json_t *facts = json_object_get(root, "facts");
    bool ok;
    bool more = !is_blank(text + used, bytes - used);
    if (more && json_is_array(root)) {
        ok = mal_fail(err, MAL_MALFORMED, "%s: text after the end of the array",
                      mal_file_shown(list->path));
    } else if (more) {
        ok = add_lines(list, text, bytes, add_json_line, err);
    } else if (json_is_array(root)) {
        ok = add_array(list, root, err);
    } else if (facts && !json_is_array(facts)) {
        ok = mal_fail(err, MAL_INVALID, "%s: 'facts' must be an array, it is %s",
                      mal_file_shown(list->path), mal_json_type(facts));
    } else if (facts) {
        ok = add_array(list, facts, err);
    } else {
        snprintf(list->where, sizeof list->where, "record 0");
        ok = add_record(list, root, err);
    }
    json_decref(root);
    return ok;
}

bool mal_facts_load(struct mal_fact **out, size_t *out_n, const char *path,
                    struct mal_error *err) {
    char *text;
    size_t bytes;
    if (!mal_file_read(&text, &bytes, path, MAX_BYTES, err)) return false;
    struct list list = {.path = path};
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
    return true;
}
