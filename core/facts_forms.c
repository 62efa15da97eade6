/* facts_forms.c - the forms of one record: the API's and those of the research data sets.
 *
 * Which form a record has is told by its fields. Fields that a data set's form does not
 * know are ignored, of those that the API's does not one is kept the name of. Texts are
 * taken as they are, nothing is trimmed. */
#include "core/facts_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"

/* ---- Members of a record ---- */

bool mal_fact_fail(const struct mal_fact_place *at, struct mal_error *err,
                   const char *format, ...) {
    char what[200];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return mal_fail(err, MAL_INVALID, "%s: %s: %s%s", mal_file_shown(at->path), at->where,
                    at->member, what);
}

static bool fail_memory(struct mal_fact_place *at, struct mal_error *err) {
    return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(at->path));
}

static bool copy(struct mal_fact_place *at, char **out, const char *text,
                 struct mal_error *err) {
    *out = mal_strdup(text);
    return *out || fail_memory(at, err);
}

static const json_t *member(const json_t *record, const char *key) {
    const json_t *value = json_object_get(record, key);
    return value && !json_is_null(value) ? value : NULL;
}

/* A string; *out stays NULL where it is not given. */
static bool take(struct mal_fact_place *at, const json_t *record, const char *key,
                 char **out, struct mal_error *err) {
    const json_t *value = member(record, key);
    if (!value) return true;
    if (!json_is_string(value))
        return mal_fact_fail(at, err, "'%s' must be a string, it is %s", key,
                             mal_json_type(value));
    return copy(at, out, json_string_value(value), err);
}

/* A string that must not be empty where it is given. */
static bool take_text(struct mal_fact_place *at, const json_t *record, const char *key,
                      char **out, struct mal_error *err) {
    if (!take(at, record, key, out, err)) return false;
    return !*out || **out || mal_fact_fail(at, err, "'%s' is empty", key);
}

static bool need_text(struct mal_fact_place *at, const json_t *record, const char *key,
                      char **out, struct mal_error *err) {
    if (!member(record, key)) return mal_fact_fail(at, err, "'%s' is missing", key);
    return take_text(at, record, key, out, err);
}

static bool take_texts(struct mal_fact_place *at, const json_t *record, const char *key,
                       char ***out, size_t *out_n, struct mal_error *err) {
    const json_t *values = member(record, key);
    if (!values) return true;
    if (!json_is_array(values))
        return mal_fact_fail(at, err, "'%s' must be an array, it is %s", key,
                             mal_json_type(values));
    size_t n = json_array_size(values);
    *out = mal_calloc(n, sizeof **out);
    if (!*out) return fail_memory(at, err);
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(values, i));
        if (!text || !*text)
            return mal_fact_fail(at, err, "'%s' %zu must be a string that is not empty",
                                 key, i);
        if (!copy(at, &(*out)[i], text, err)) return false;
        *out_n = i + 1;
    }
    return true;
}

static bool make_probes(struct mal_fact_place *at, struct mal_fact *fact, size_t n,
                        struct mal_error *err) {
    fact->unrelated = mal_calloc(n, sizeof *fact->unrelated);
    if (!fact->unrelated) return fail_memory(at, err);
    fact->n_unrelated = n;
    return true;
}

/* One rephrasing and one unrelated question, as the flat data sets have them. */
static bool take_measures(struct mal_fact_place *at, const json_t *record,
                          const char *rephrase_key, const char *prompt_key,
                          const char *target_key, struct mal_fact *fact,
                          struct mal_error *err) {
    if (member(record, rephrase_key)) {
        fact->rephrases = mal_calloc(1, sizeof *fact->rephrases);
        if (!fact->rephrases) return fail_memory(at, err);
        fact->n_rephrases = 1;
        if (!take_text(at, record, rephrase_key, &fact->rephrases[0], err)) return false;
    }
    if (!member(record, prompt_key)) return true;
    return make_probes(at, fact, 1, err) &&
           take_text(at, record, prompt_key, &fact->unrelated[0].prompt, err) &&
           take_text(at, record, target_key, &fact->unrelated[0].target, err);
}

/* Behind every probe's prompt. */
static bool add_question_mark(struct mal_fact_place *at, struct mal_fact *fact,
                              struct mal_error *err) {
    for (size_t i = 0; i < fact->n_unrelated; i++) {
        size_t n = strlen(fact->unrelated[i].prompt);
        char *asked = mal_realloc(fact->unrelated[i].prompt, n + 2);
        if (!asked) return fail_memory(at, err);
        memcpy(asked + n, "?", 2);
        fact->unrelated[i].prompt = asked;
    }
    return true;
}

/* ---- The forms ---- */

/* The first member of `object`, which is at `base` in the fact, that is none of `known`.
 */
static bool find_odd(struct mal_fact_place *at, const json_t *object, const char *base,
                     const char *const *known, char **out, struct mal_error *err) {
    for (void *it = json_object_iter((json_t *)object); it && !*out;
         it = json_object_iter_next((json_t *)object, it)) {
        char shown[MAL_TEXT_SHOWN], pointer[MAL_TEXT_SHOWN + 40];
        const char *key = json_object_iter_key(it);
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (known[i]) continue;
        (void)snprintf(pointer, sizeof pointer, "%s/%s", base,
                       mal_text_shown(shown, key));
        if (!copy(at, out, pointer, err)) return false;
    }
    return true;
}

static bool read_api(struct mal_fact_place *at, const json_t *record,
                     struct mal_fact *fact, struct mal_error *err) {
    if (!find_odd(at, record, "", mal_fact_members, &fact->odd, err) ||
        !need_text(at, record, "prompt", &fact->prompt, err) ||
        !need_text(at, record, "target", &fact->target, err) ||
        !take_text(at, record, "id", &fact->id, err) ||
        !take_text(at, record, "subject", &fact->subject, err) ||
        !take(at, record, "join", &fact->join, err) ||
        !take_texts(at, record, "prompts", &fact->prompts, &fact->n_prompts, err) ||
        !take_texts(at, record, "rephrases", &fact->rephrases, &fact->n_rephrases, err))
        return false;

    const json_t *probes = member(record, "unrelated");
    if (!probes) return true;
    if (!json_is_array(probes))
        return mal_fact_fail(at, err, "'unrelated' must be an array, it is %s",
                             mal_json_type(probes));
    if (!make_probes(at, fact, json_array_size(probes), err)) return false;
    for (size_t i = 0; i < fact->n_unrelated; i++) {
        const json_t *probe = json_array_get(probes, i);
        if (!json_is_object(probe))
            return mal_fact_fail(at, err, "'unrelated' %zu must be an object, it is %s",
                                 i, mal_json_type(probe));
        char base[40];
        (void)snprintf(base, sizeof base, "/unrelated/%zu", i);
        snprintf(at->member, sizeof at->member, "'unrelated' %zu: ", i);
        if (!need_text(at, probe, "prompt", &fact->unrelated[i].prompt, err) ||
            !take_text(at, probe, "target", &fact->unrelated[i].target, err) ||
            !find_odd(at, probe, base, mal_probe_members, &fact->odd, err))
            return false;
        at->member[0] = '\0';
    }
    return true;
}

/* zsRE. MEND's files name the new answer alt; answers and pred are not taught. The
 * reference's own name it ans, and its code puts a question mark behind their probes. */
static bool read_zsre(struct mal_fact_place *at, const json_t *record,
                      struct mal_fact *fact, bool *taught, struct mal_error *err) {
    const char *key = member(record, "ans") ? "ans" : "alt";
    const char *answer = json_string_value(member(record, key));
    *taught = !answer || *answer; /* both hold records with an empty one */
    if (!*taught) return true;
    return need_text(at, record, "src", &fact->prompt, err) &&
           need_text(at, record, key, &fact->target, err) &&
           take_text(at, record, "subject", &fact->subject, err) &&
           take_measures(at, record, "rephrase", "loc", "loc_ans", fact, err) &&
           (strcmp(key, "alt") == 0 || add_question_mark(at, fact, err));
}

static bool need_label(struct mal_fact_place *at, const json_t *record, const char *key,
                       char **out, struct mal_error *err) {
    if (!need_text(at, record, key, out, err)) return false;
    return strcmp(*out, "SUPPORTS") == 0 || strcmp(*out, "REFUTES") == 0 ||
           mal_fact_fail(at, err, "'%s' must be SUPPORTS or REFUTES", key);
}

/* FEVER as the reference has it: alt is the label to be taught, the probe's answer a
 * label, too. */
static bool read_fever(struct mal_fact_place *at, const json_t *record,
                       struct mal_fact *fact, struct mal_error *err) {
    if (!need_text(at, record, "prompt", &fact->prompt, err) ||
        !need_label(at, record, "alt", &fact->target, err) ||
        !take_texts(at, record, "equiv_prompt", &fact->rephrases, &fact->n_rephrases,
                    err))
        return false;
    if (!member(record, "unrel_prompt")) return true;
    return make_probes(at, fact, 1, err) &&
           take_text(at, record, "unrel_prompt", &fact->unrelated[0].prompt, err) &&
           need_label(at, record, "unrel_ans", &fact->unrelated[0].target, err);
}

/* FEVER's own files: the label is the true one. */
static bool read_claim(struct mal_fact_place *at, const json_t *record,
                       struct mal_fact *fact, bool *taught, struct mal_error *err) {
    const char *label = json_string_value(member(record, "label"));
    *taught = !label || strcmp(label, "NOT ENOUGH INFO") != 0;
    if (!*taught) return true;
    return need_text(at, record, "claim", &fact->prompt, err) &&
           need_label(at, record, "label", &fact->target, err);
}

/* FEVER and zsRE in KILT's form as MEND and SERAC have them: what is taught is the first
 * alternative to the model's answer. */
static bool read_kilt(struct mal_fact_place *at, const json_t *record,
                      struct mal_fact *fact, bool *taught, struct mal_error *err) {
    char **others = NULL;
    size_t n = 0;
    bool ok = member(record, "alternatives") ||
              mal_fact_fail(at, err, "'alternatives' is missing");
    ok = ok && need_text(at, record, "input", &fact->prompt, err) &&
         take_texts(at, record, "alternatives", &others, &n, err) &&
         take_texts(at, record, "filtered_rephrases", &fact->rephrases,
                    &fact->n_rephrases, err);
    *taught = !ok || n > 0;
    if (ok && n > 0) ok = copy(at, &fact->target, others[0], err);
    for (size_t i = 0; i < n; i++)
        mal_free(others[i]);
    mal_free(others);
    return ok;
}

/* CounterFact as EasyEdit distributes it. */
static bool read_flat(struct mal_fact_place *at, const json_t *record,
                      struct mal_fact *fact, struct mal_error *err) {
    return need_text(at, record, "prompt", &fact->prompt, err) &&
           need_text(at, record, "target_new", &fact->target, err) &&
           take_text(at, record, "subject", &fact->subject, err) &&
           take_measures(at, record, "rephrase_prompt", "locality_prompt",
                         "locality_ground_truth", fact, err);
}

/* The member "str" of an object like {"str": "French", "id": "Q150"}. */
static bool take_entity(struct mal_fact_place *at, const json_t *record, const char *key,
                        char **out, struct mal_error *err) {
    const json_t *entity = member(record, key);
    if (!entity) return true;
    if (!json_is_object(entity))
        return mal_fact_fail(at, err, "'%s' must be an object, it is %s", key,
                             mal_json_type(entity));
    snprintf(at->member, sizeof at->member, "'%s': ", key);
    if (!need_text(at, entity, "str", out, err)) return false;
    at->member[0] = '\0';
    return true;
}

/* "The mother tongue of {} is" with the subject in its place. */
static bool fill_prompt(struct mal_fact_place *at, const char *pattern,
                        struct mal_fact *fact, struct mal_error *err) {
    const char *gap = strstr(pattern, "{}");
    if (!gap || strstr(gap + 2, "{}"))
        return mal_fact_fail(at, err, "'prompt' must hold {} once, for the subject");
    size_t bytes = strlen(pattern) - 2 + strlen(fact->subject) + 1;
    fact->prompt = mal_malloc(bytes);
    if (!fact->prompt) return fail_memory(at, err);
    snprintf(fact->prompt, bytes, "%.*s%s%s", (int)(gap - pattern), pattern,
             fact->subject, gap + 2);
    return true;
}

/* CounterFact as ROME distributes it; the right answer to a neighbour is the true target.
 */
static bool read_rome(struct mal_fact_place *at, const json_t *record,
                      struct mal_fact *fact, struct mal_error *err) {
    const json_t *rewrite = json_object_get(record, "requested_rewrite");
    if (!json_is_object(rewrite))
        return mal_fact_fail(at, err, "'requested_rewrite' must be an object, it is %s",
                             mal_json_type(rewrite));
    if (!member(rewrite, "target_new"))
        return mal_fact_fail(at, err, "'target_new' is missing");
    char *pattern = NULL, *truth = NULL, **neighbours = NULL;
    size_t n = 0;
    bool ok = need_text(at, rewrite, "prompt", &pattern, err) &&
              need_text(at, rewrite, "subject", &fact->subject, err) &&
              take_entity(at, rewrite, "target_new", &fact->target, err) &&
              take_entity(at, rewrite, "target_true", &truth, err) &&
              fill_prompt(at, pattern, fact, err) &&
              take_texts(at, record, "paraphrase_prompts", &fact->rephrases,
                         &fact->n_rephrases, err) &&
              take_texts(at, record, "neighborhood_prompts", &neighbours, &n, err) &&
              make_probes(at, fact, n, err);
    for (size_t i = 0; ok && i < n; i++) {
        ok = copy(at, &fact->unrelated[i].prompt, neighbours[i], err) &&
             (!truth || copy(at, &fact->unrelated[i].target, truth, err));
    }
    for (size_t i = 0; i < n; i++)
        mal_free(neighbours[i]);
    mal_free(neighbours);
    mal_free(pattern);
    mal_free(truth);
    return ok;
}

bool mal_fact_read(struct mal_fact *fact, bool *taught, struct mal_fact_place *at,
                   const json_t *record, struct mal_error *err) {
    if (!json_is_object(record))
        return mal_fact_fail(at, err, "must be an object, it is %s",
                             mal_json_type(record));
    *taught = true;
    if (member(record, "prompt") && member(record, "target"))
        return read_api(at, record, fact, err);
    fact->of_set = true;
    if (member(record, "requested_rewrite")) return read_rome(at, record, fact, err);
    if (member(record, "src")) return read_zsre(at, record, fact, taught, err);
    if (member(record, "target_new")) return read_flat(at, record, fact, err);
    if (member(record, "claim")) return read_claim(at, record, fact, taught, err);
    if (member(record, "input")) return read_kilt(at, record, fact, taught, err);
    if (member(record, "alt")) return read_fever(at, record, fact, err);
    fact->of_set = false;
    if (member(record, "prompt") || member(record, "target"))
        return read_api(at, record, fact, err);
    return mal_fact_fail(
        at, err,
        "no known form of a fact (none of 'prompt' and 'target', 'src' and 'alt', "
        "'target_new', 'requested_rewrite', 'claim' and 'label', 'input')");
}
