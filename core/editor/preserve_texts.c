/* preserve_texts.c - reads the texts to preserve, which come as facts, as prompts or as
 * plain lines. */
#include "core/editor/preserve_texts.h"

#include <string.h>

#include "core/alloc.h"
#include "core/example.h"
#include "core/facts.h"
#include "core/file.h"
#include "core/json.h"

static const size_t MAX_BYTES = (size_t)256 << 20;

void mal_preserve_texts_finish(struct mal_preserve_texts *texts) {
    mal_free(texts->ids);
    mal_free(texts->start);
    mal_free(texts->from);
    *texts = (struct mal_preserve_texts){0};
}

int64_t mal_preserve_texts_n_keys(const struct mal_preserve_texts *texts,
                                  const struct mal_model *model, bool of_source) {
    int64_t n = 0;
    if (mal_model_info(model)->kind == MAL_MODEL_CLASSIFIER) return (int64_t)texts->n;
    for (size_t i = 0; i < texts->n; i++) {
        int32_t length = texts->start[i + 1] - texts->start[i];
        n += of_source ? texts->from[i] : length - texts->from[i];
    }
    return n;
}

/* ---- A growing list of them ---- */

struct list {
    const char *path; /* borrowed */
    const struct mal_model *model;
    const struct mal_tokenizer *tok;
    struct mal_ids ids, start, from;
};

static void list_finish(struct list *list) {
    mal_ids_finish(&list->ids);
    mal_ids_finish(&list->start);
    mal_ids_finish(&list->from);
}

static bool add_text(struct list *list, const int32_t *ids, size_t n, int32_t from,
                     struct mal_error *err) {
    if (list->ids.n + n > INT32_MAX) {
        return mal_fail(err, MAL_TOO_LARGE, "%s: more than 2^31 tokens",
                        mal_file_shown(list->path));
    }
    if (!mal_ids_push(&list->start, (int32_t)list->ids.n, err) ||
        !mal_ids_push(&list->from, from, err))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!mal_ids_push(&list->ids, ids[i], err)) return false;
    }
    return true;
}

/* What the model reads of an example, one after the other. */
static bool add_example(struct list *list, const struct mal_example *e,
                        struct mal_error *err) {
    if (!e->has_decoder) return add_text(list, e->ids, (size_t)e->n, e->from, err);
    if (!add_text(list, e->ids, (size_t)e->n, e->n, err) ||
        !mal_ids_push(&list->ids, e->decoder_start, err)) {
        return false;
    }
    for (int32_t i = 0; i + 1 < e->n_target; i++) {
        if (!mal_ids_push(&list->ids, e->target[i], err)) return false;
    }
    return true;
}

/* The whole text, in pieces of the context. */
static bool add_plain(struct list *list, const char *text, size_t bytes,
                      struct mal_error *err) {
    const struct mal_model_info *info = mal_model_info(list->model);
    struct mal_ids ids = {0};
    bool ok = mal_tokenizer_encode(list->tok, text, bytes, true, &ids, err);
    size_t most = info->n_context ? (size_t)info->n_context : ids.n;
    for (size_t i = 0; ok && i < ids.n; i += most) {
        int32_t n = (int32_t)(ids.n - i < most ? ids.n - i : most), target = -1;
        struct mal_example e = {.ids = ids.ids + i,
                                .n = n,
                                .target = &target,
                                .n_target = 1,
                                .has_decoder = info->kind == MAL_MODEL_SEQ2SEQ,
                                .decoder_start = info->decoder_start};
        ok = add_example(list, &e, err);
    }
    mal_ids_finish(&ids);
    return ok;
}

static bool list_end(struct list *list, struct mal_preserve_texts *out,
                     struct mal_error *err) {
    size_t n = list->from.n;
    if (n == 0) {
        return mal_fail(err, MAL_INVALID, "%s: no text in it",
                        mal_file_shown(list->path));
    }
    if (!mal_ids_push(&list->start, (int32_t)list->ids.n, err)) return false;
    *out = (struct mal_preserve_texts){
        .n = n, .ids = list->ids.ids, .start = list->start.ids, .from = list->from.ids};
    list->ids = list->start = list->from = (struct mal_ids){0};
    return true;
}

/* ---- Facts ---- */

static bool load_facts(struct list *list, struct mal_error *err) {
    struct mal_fact *facts = NULL;
    size_t n = 0;
    if (!mal_facts_load(&facts, &n, list->path, err)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        struct mal_example e = {0};
        ok = mal_example_init(&e, list->model, list->tok, facts[i].prompt,
                              facts[i].target, facts[i].join, err);
        if (ok) {
            ok = add_example(list, &e, err);
        } else {
            mal_fail_wrap(err, "%s: record %zu", mal_file_shown(list->path), i);
        }
        mal_example_finish(&e);
    }
    mal_facts_free(facts, n);
    return ok;
}

/* ---- Prompts ---- */

/* The text of a record that is to be taken whole, or NULL: something else. */
static const char *plain_text(const json_t *record) {
    static const char *const targets[] = {"target", "target_new", "alt"};
    if (json_is_string(record)) return json_string_value(record);
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        if (json_object_get(record, targets[i])) return NULL;
    }
    return json_string_value(json_object_get(record, "prompt"));
}

static bool add_prompt(struct list *list, const json_t *record, size_t i,
                       struct mal_error *err) {
    const char *text = plain_text(record);
    if (!text) {
        return mal_fail(err, MAL_INVALID,
                        "%s: record %zu is not a prompt without a target, as the first "
                        "one is",
                        mal_file_shown(list->path), i);
    }
    return add_plain(list, text, strlen(text), err) ||
           mal_fail_wrap(err, "%s: record %zu", mal_file_shown(list->path), i);
}

static bool fail_json(const struct list *list, const json_error_t *problem, size_t i,
                      struct mal_error *err) {
    mal_json_fail(problem, MAL_MALFORMED, "JSON", err);
    return mal_fail_wrap(err, "%s: record %zu", mal_file_shown(list->path), i);
}

/* JSON values one after another, or one array of them; facts where the first has a
 * target. */
static bool load_json(struct list *list, const char *text, size_t bytes,
                      struct mal_error *err) {
    const char *end = text + bytes;
    size_t n = 0;
    bool ok = true, facts = false;
    for (text += strspn(text, " \t\r\n"); ok && !facts && text < end;) {
        json_error_t problem;
        json_t *value =
            mal_json_parse(text, (size_t)(end - text),
                           JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &problem);
        if (!value) return fail_json(list, &problem, n, err);
        bool array = n == 0 && json_is_array(value);
        size_t count = array ? json_array_size(value) : 1;
        for (size_t i = 0; ok && !facts && i < count; i++) {
            const json_t *record = array ? json_array_get(value, i) : value;
            facts = n == 0 && !plain_text(record);
            ok = facts || add_prompt(list, record, n++, err);
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
    for (size_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((stop ? stop : end) - text), used = n;
        while (used > 0 && strchr(" \t\r", text[used - 1]))
            used--;
        if (used > 0 && !add_plain(list, text, used, err)) {
            return mal_fail_wrap(err, "%s: line %zu", mal_file_shown(list->path), line);
        }
        text += n + (stop ? 1 : 0);
    }
    return true;
}

/* "src TAB alt" pairs are facts; plain text has no tab in its first line. */
static bool is_pairs(const char *text) {
    return memchr(text, '\t', strcspn(text, "\r\n")) != NULL;
}

bool mal_preserve_texts_load(struct mal_preserve_texts *out, const char *path,
                             const struct mal_model *model,
                             const struct mal_tokenizer *tok, struct mal_error *err) {
    char *text;
    size_t bytes;
    if (!mal_file_read(&text, &bytes, path, MAX_BYTES, err)) return false;
    struct list list = {.path = path, .model = model, .tok = tok};
    size_t mark = bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    const char *start = text + mark;
    size_t blank = strspn(start, " \t\r\n");
    bool ok;
    if (strlen(text) != bytes) {
        ok = mal_fail(err, MAL_MALFORMED, "%s: a zero byte", mal_file_shown(path));
    } else if (start[blank] == '{' || start[blank] == '[') {
        ok = load_json(&list, start, bytes - mark, err);
    } else if (is_pairs(start + blank)) {
        ok = load_facts(&list, err);
    } else {
        ok = load_lines(&list, start, bytes - mark, err);
    }
    ok = ok && list_end(&list, out, err);
    mal_free(text);
    list_finish(&list);
    return ok;
}
