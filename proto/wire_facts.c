/* wire_facts.c - the Fact object: read from requests and from the database, and written.
 */
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "proto/wire_impl.h"

/* ---- Reading ---- */

bool mal_wire_check_id(const char *id, const char *pointer, struct mal_error *err) {
    if (mal_fact_id_valid(id)) return true;
    return mal_fail_at(err, MAL_INVALID, pointer,
                       "%s: expected 1 to %d of the characters A-Z a-z 0-9 _ . : -",
                       pointer, MAL_FACT_ID);
}

static bool read_id(const json_t *object, const char *base, char **out,
                    struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES], *id = NULL;
    if (!mal_wire_text(object, base, "id", &id, err)) return false;
    if (id && !mal_wire_check_id(id, mal_wire_pointer(pointer, base, "id"), err)) {
        mal_free(id);
        return false;
    }
    *out = id;
    return true;
}

static bool read_probe(const json_t *value, const char *base, struct mal_probe *out,
                       struct mal_error *err) {
    if (!json_is_object(value)) return mal_wire_wrong_type(value, base, "an object", err);
    if (!mal_wire_only(value, base, mal_probe_members, err)) return false;
    if (!mal_wire_text_filled(value, base, "prompt", &out->prompt, err)) return false;
    const json_t *target = json_object_get(value, "target");
    if (!target || json_is_null(target)) return true;
    return mal_wire_text_filled(value, base, "target", &out->target, err);
}

static bool read_unrelated(const json_t *object, const char *base, struct mal_fact *out,
                           struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES], element[MAL_POINTER_BYTES];
    const json_t *value = json_object_get(object, "unrelated");
    if (!value || json_is_null(value)) return true;
    mal_wire_pointer(pointer, base, "unrelated");
    if (!json_is_array(value))
        return mal_wire_wrong_type(value, pointer, "an array", err);
    size_t n = json_array_size(value);
    if (n == 0) return true;
    out->unrelated = mal_calloc(n, sizeof *out->unrelated);
    if (!out->unrelated) return mal_fail(err, MAL_NO_MEMORY, "unrelated prompts");
    out->n_unrelated = n;
    for (size_t i = 0; i < n; i++) {
        mal_wire_pointer_at(element, pointer, i);
        if (!read_probe(json_array_get(value, i), element, &out->unrelated[i], err)) {
            return false;
        }
    }
    return true;
}

bool mal_wire_fact(const json_t *object, const char *base, struct mal_fact *out,
                   struct mal_error *err) {
    static const struct mal_wire_list prompts = {.key = "prompts"};
    static const struct mal_wire_list rephrases = {.key = "rephrases"};
    struct mal_fact fact = {0};
    if (!json_is_object(object)) {
        return mal_wire_wrong_type(object, base, "a Fact object", err);
    }
    if (!mal_wire_only(object, base, mal_fact_members, err) ||
        !read_id(object, base, &fact.id, err) ||
        !mal_wire_text_filled(object, base, "prompt", &fact.prompt, err) ||
        !mal_wire_text_filled(object, base, "target", &fact.target, err) ||
        !mal_wire_text(object, base, "subject", &fact.subject, err) ||
        !mal_wire_text(object, base, "join", &fact.join, err) ||
        !mal_wire_texts(object, base, &prompts, &fact.prompts, &fact.n_prompts, err) ||
        !mal_wire_texts(object, base, &rephrases, &fact.rephrases, &fact.n_rephrases,
                        err) ||
        !read_unrelated(object, base, &fact, err)) {
        mal_fact_finish(&fact);
        return false;
    }
    fact.prompt[mal_prompt_bytes(fact.prompt)] = '\0';
    *out = fact;
    return true;
}

bool mal_decode_fact(const char *json, struct mal_fact *out, struct mal_error *err) {
    struct mal_error inner = {0};
    json_t *root = mal_wire_parse(json, strlen(json), 0, &inner);
    bool ok = root && mal_wire_fact(root, "", out, &inner);
    json_decref(root);
    if (ok) return true;
    if (inner.status == MAL_NO_MEMORY)
        return mal_fail(err, MAL_NO_MEMORY, "%s", inner.text);
    return mal_fail(err, MAL_CORRUPT, "a stored fact cannot be read: %s", inner.text);
}

/* ---- Facts of one request ---- */

bool mal_wire_facts(const json_t *root, const char *expected, size_t max_facts,
                    struct mal_fact **out, size_t *out_n, struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES];
    const json_t *value;
    if (!mal_wire_need(root, "", "facts", expected, &value, err)) return false;
    if (!json_is_array(value))
        return mal_wire_wrong_type(value, "/facts", "an array", err);
    size_t n = json_array_size(value);
    if (n == 0) {
        return mal_fail_at(err, MAL_INVALID, "/facts",
                           "/facts is empty; expected at least one fact");
    }
    if (n > max_facts) return mal_wire_too_many_facts(n, max_facts, err);
    struct mal_fact *facts = mal_calloc(n, sizeof *facts);
    if (!facts) return mal_fail(err, MAL_NO_MEMORY, "%zu facts", n);
    for (size_t i = 0; i < n; i++) {
        mal_wire_pointer_at(pointer, "/facts", i);
        if (mal_wire_fact(json_array_get(value, i), pointer, &facts[i], err)) continue;
        mal_facts_free(facts, i);
        return false;
    }
    *out = facts;
    *out_n = n;
    return true;
}

/* ---- Writing ---- */

/* Adds `value`, taking its reference; NULL (no memory) fails. */
static bool put(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0;
}

static bool put_text(json_t *object, const char *key, const char *text) {
    return !text || put(object, key, mal_json_fit(text));
}

static bool put_texts(json_t *object, const char *key, char *const *texts, size_t n) {
    if (n == 0) return true;
    json_t *array = json_array();
    if (!array || !put(object, key, array)) return false;
    for (size_t i = 0; i < n; i++) {
        if (json_array_append_new(array, mal_json_fit(texts[i])) != 0) return false;
    }
    return true;
}

static bool put_unrelated(json_t *object, const struct mal_probe *probes, size_t n) {
    if (n == 0) return true;
    json_t *array = json_array();
    if (!array || !put(object, "unrelated", array)) return false;
    for (size_t i = 0; i < n; i++) {
        json_t *probe = json_object();
        if (json_array_append_new(array, probe) != 0) return false;
        if (!put_text(probe, "prompt", probes[i].prompt)) return false;
        if (!put_text(probe, "target", probes[i].target)) return false;
    }
    return true;
}

/* New reference; NULL: out of memory. */
static json_t *fact_object(const struct mal_fact *fact) {
    json_t *object = json_object();
    bool ok = object && put_text(object, "id", fact->id) &&
              put_text(object, "prompt", fact->prompt) &&
              put_text(object, "target", fact->target) &&
              put_text(object, "subject", fact->subject) &&
              put_texts(object, "prompts", fact->prompts, fact->n_prompts) &&
              put_texts(object, "rephrases", fact->rephrases, fact->n_rephrases) &&
              put_unrelated(object, fact->unrelated, fact->n_unrelated) &&
              put_text(object, "join", fact->join);
    if (ok) return object;
    json_decref(object);
    return NULL;
}

char *mal_encode_fact(const struct mal_fact *fact) {
    json_t *object = fact_object(fact);
    char *text = mal_wire_dump(object);
    json_decref(object);
    return text;
}

/* ---- Facts of a file ---- */

bool mal_facts_check(const struct mal_fact *facts, size_t n, struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES];
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        if (!facts[i].prompt) continue;
        struct mal_fact read = {0};
        json_t *object = fact_object(&facts[i]);
        mal_wire_pointer_at(pointer, "/facts", i);
        ok = object ? mal_wire_fact(object, pointer, &read, err)
                    : mal_fail(err, MAL_NO_MEMORY, "%s", pointer);
        json_decref(object);
        mal_fact_finish(&read);
    }
    return ok;
}
