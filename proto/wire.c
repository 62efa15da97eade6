/* wire.c - the common parts of reading requests: bodies, members, and what is wrong with
 * them. */
#include "proto/wire_impl.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "core/utf8.h"

/* ---- Pointers ---- */

const char *mal_wire_pointer(char out[MAL_POINTER_BYTES], const char *base,
                             const char *key) {
    size_t n = strlen(base);
    if (n > MAL_POINTER_BYTES - 4) n = MAL_POINTER_BYTES - 4;
    memcpy(out, base, n);
    out[n++] = '/';
    for (; *key && n + 3 < MAL_POINTER_BYTES; key++) {
        if (*key == '~' || *key == '/') {
            out[n++] = '~';
            out[n++] = *key == '~' ? '0' : '1';
        } else {
            out[n++] = *key;
        }
    }
    out[n] = '\0';
    return out;
}

const char *mal_wire_pointer_at(char out[MAL_POINTER_BYTES], const char *base,
                                size_t index) {
    char digits[24];
    snprintf(digits, sizeof digits, "%zu", index);
    return mal_wire_pointer(out, base, digits);
}

/* ---- Bodies ---- */

static bool fail_parse(const json_error_t *problem, const char *what, size_t line,
                       struct mal_error *err) {
    char place[64];
    if (line) {
        snprintf(place, sizeof place, "column %d", problem->column);
    } else {
        snprintf(place, sizeof place, "line %d column %d", problem->line,
                 problem->column);
    }
    switch (json_error_code(problem)) {
    case json_error_out_of_memory:
    case json_error_unknown:
        return mal_fail(err, MAL_NO_MEMORY, "%s: out of memory", what);
    case json_error_null_character:
    case json_error_null_byte_in_key:
        return mal_fail(err, MAL_MALFORMED,
                        "%s: %s: texts cannot hold the character U+0000", what, place);
    case json_error_duplicate_key:
        return mal_fail(err, MAL_MALFORMED,
                        "%s: %s: the same member twice in one object (%s)", what, place,
                        problem->text);
    case json_error_numeric_overflow:
        return mal_fail(err, MAL_INVALID, "%s: %s: a number is too large", what, place);
    default:
        return mal_fail(err, MAL_MALFORMED, "%s is not JSON: %s: %s", what, place,
                        problem->text);
    }
}

json_t *mal_wire_parse(const char *body, size_t bytes, size_t line,
                       struct mal_error *err) {
    char what[32] = "the body";
    json_error_t problem = {0}; /* jansson leaves it alone where an allocation fails */
    if (line) snprintf(what, sizeof what, "line %zu", line);
    if (bytes == 0) {
        mal_fail(err, MAL_MALFORMED, "%s is empty; expected a JSON object", what);
        return NULL;
    }
    json_t *root =
        mal_json_parse(body, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &problem);
    if (!root) {
        fail_parse(&problem, what, line, err);
    } else if (!json_is_object(root)) {
        mal_fail(err, MAL_MALFORMED, "%s must be a JSON object, it is %s", what,
                 mal_json_type(root));
        json_decref(root);
        root = NULL;
    }
    return root;
}

/* ---- Members ---- */

bool mal_wire_wrong_type(const json_t *value, const char *pointer, const char *expected,
                         struct mal_error *err) {
    return mal_fail_at(err, MAL_MALFORMED, pointer, "%s must be %s, it is %s", pointer,
                       expected, mal_json_type(value));
}

bool mal_wire_only(const json_t *object, const char *base, const char *const *known,
                   struct mal_error *err) {
    for (void *at = json_object_iter((json_t *)object); at;
         at = json_object_iter_next((json_t *)object, at)) {
        const char *key = json_object_iter_key(at);
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (known[i]) continue;
        char pointer[MAL_POINTER_BYTES], words[256] = "";
        for (size_t n = 0, k = 0; known[k] && n < sizeof words; k++) {
            n += (size_t)snprintf(words + n, sizeof words - n, "%s%s", k ? ", " : "",
                                  known[k]);
        }
        mal_wire_pointer(pointer, base, key);
        return mal_fail_at(err, MAL_INVALID, pointer,
                           "%s: there is no such member; known are %s", pointer, words);
    }
    return true;
}

/* The member, NULL where it is absent or null. */
static const json_t *member(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value) ? value : NULL;
}

bool mal_wire_need(const json_t *object, const char *base, const char *key,
                   const char *expected, const json_t **out, struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES];
    const json_t *value = json_object_get(object, key);
    mal_wire_pointer(pointer, base, key);
    if (!value) {
        return mal_fail_at(err, MAL_INVALID, pointer, "%s is missing; expected %s",
                           pointer, expected);
    }
    if (json_is_null(value)) return mal_wire_wrong_type(value, pointer, expected, err);
    *out = value;
    return true;
}

static bool copy_text(const json_t *value, char **out, struct mal_error *err) {
    char *copy = mal_strdup(json_string_value(value));
    if (!copy) return mal_fail(err, MAL_NO_MEMORY, "a text of the request");
    *out = copy;
    return true;
}

static bool only_spaces(const char *text) {
    return text[strspn(text, " ")] == '\0';
}

bool mal_wire_text(const json_t *object, const char *base, const char *key, char **out,
                   struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES];
    const json_t *value = member(object, key);
    if (!value) return true;
    if (json_is_string(value)) return copy_text(value, out, err);
    return mal_wire_wrong_type(value, mal_wire_pointer(pointer, base, key), "a string",
                               err);
}

bool mal_wire_text_filled(const json_t *object, const char *base, const char *key,
                          char **out, struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES];
    const json_t *value;
    if (!mal_wire_need(object, base, key, "a string", &value, err)) return false;
    mal_wire_pointer(pointer, base, key);
    if (!json_is_string(value))
        return mal_wire_wrong_type(value, pointer, "a string", err);
    if (!only_spaces(json_string_value(value))) return copy_text(value, out, err);
    return mal_fail_at(err, MAL_INVALID, pointer,
                       "%s is %s; expected a text with more than spaces in it", pointer,
                       json_string_length(value) ? "only spaces" : "empty");
}

static size_t count_characters(const char *text) {
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

bool mal_note_fits(const char *text) {
    return count_characters(text) <= MAL_NOTE_CHARACTERS;
}

bool mal_wire_note(const json_t *object, const char *key, char **out,
                   struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES], *text = NULL;
    if (!mal_wire_text(object, "", key, &text, err)) return false;
    size_t n = text ? count_characters(text) : 0;
    if (n > MAL_NOTE_CHARACTERS) {
        mal_free(text);
        mal_wire_pointer(pointer, "", key);
        return mal_fail_at(err, MAL_INVALID, pointer,
                           "%s has %zu characters; expected at most %d", pointer, n,
                           MAL_NOTE_CHARACTERS);
    }
    *out = text;
    return true;
}

bool mal_wire_bool(const json_t *object, const char *base, const char *key, bool *out,
                   struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES];
    const json_t *value = member(object, key);
    if (!value) return true;
    mal_wire_pointer(pointer, base, key);
    if (!json_is_boolean(value)) {
        return mal_wire_wrong_type(value, pointer, "true or false", err);
    }
    *out = json_is_true(value);
    return true;
}

bool mal_wire_int(const json_t *object, const char *base, const char *key, int64_t min,
                  int64_t max, int64_t *out, struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES];
    const json_t *value = member(object, key);
    if (!value) return true;
    mal_wire_pointer(pointer, base, key);
    int64_t n;
    if (json_is_integer(value)) {
        n = json_integer_value(value);
    } else {
        double real = json_number_value(value);
        if (!json_is_real(value) || real != floor(real) ||
            fabs(real) > 9007199254740992.0) {
            return mal_wire_wrong_type(value, pointer, "an integer", err);
        }
        n = (int64_t)real;
    }
    if (n >= min && n <= max) {
        *out = n;
        return true;
    }
    if (max == INT64_MAX) {
        return mal_fail_at(err, MAL_INVALID, pointer,
                           "%s is %" PRId64 "; expected at least %" PRId64, pointer, n,
                           min);
    }
    return mal_fail_at(err, MAL_INVALID, pointer,
                       "%s is %" PRId64 "; expected %" PRId64 " to %" PRId64, pointer, n,
                       min, max);
}

bool mal_wire_real(const json_t *object, const char *base, const char *key, double min,
                   double max, double *out, struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES];
    const json_t *value = member(object, key);
    if (!value) return true;
    mal_wire_pointer(pointer, base, key);
    if (!json_is_number(value))
        return mal_wire_wrong_type(value, pointer, "a number", err);
    double x = json_number_value(value);
    if (x < min || x > max) {
        return mal_fail_at(err, MAL_INVALID, pointer, "%s is %g; expected %g to %g",
                           pointer, x, min, max);
    }
    *out = x;
    return true;
}

/* ---- Lists of texts ---- */

static bool add_text(const json_t *value, const char *pointer,
                     enum mal_wire_emptiness texts, char **out, struct mal_error *err) {
    if (!json_is_string(value))
        return mal_wire_wrong_type(value, pointer, "a string", err);
    const char *text = json_string_value(value);
    if (*text == '\0' && texts != MAL_WIRE_ANY) {
        return mal_fail_at(err, MAL_INVALID, pointer, "%s is empty; expected a text",
                           pointer);
    }
    if (only_spaces(text) && texts == MAL_WIRE_FILLED) {
        return mal_fail_at(
            err, MAL_INVALID, pointer,
            "%s is only spaces; expected a text with more than spaces in it", pointer);
    }
    return copy_text(value, out, err);
}

static bool check_length(size_t n, const char *pointer, const struct mal_wire_list *list,
                         struct mal_error *err) {
    if (n < list->min) {
        return mal_fail_at(err, MAL_INVALID, pointer,
                           "%s is empty; expected at least %zu", pointer, list->min);
    }
    if (list->max && n > list->max) {
        return mal_fail_at(err, MAL_INVALID, pointer,
                           "%s has %zu texts; expected at most %zu", pointer, n,
                           list->max);
    }
    return true;
}

bool mal_wire_texts(const json_t *object, const char *base,
                    const struct mal_wire_list *list, char ***out, size_t *out_n,
                    struct mal_error *err) {
    char pointer[MAL_POINTER_BYTES], element[MAL_POINTER_BYTES];
    const json_t *value = member(object, list->key);
    if (!value) return true;
    mal_wire_pointer(pointer, base, list->key);
    bool one = list->single && json_is_string(value);
    if (!one && !json_is_array(value)) {
        return mal_wire_wrong_type(
            value, pointer, list->single ? "a string or an array of strings" : "an array",
            err);
    }
    size_t n = one ? 1 : json_array_size(value), done = 0;
    if (!check_length(n, pointer, list, err)) return false;
    char **texts = n ? mal_calloc(n, sizeof *texts) : NULL;
    if (n && !texts) return mal_fail(err, MAL_NO_MEMORY, "texts of the request");
    for (; done < n; done++) {
        const json_t *item = one ? value : json_array_get(value, done);
        if (!one) mal_wire_pointer_at(element, pointer, done);
        if (!add_text(item, one ? pointer : element, list->texts, &texts[done], err)) {
            mal_wire_texts_free(texts, done);
            return false;
        }
    }
    *out = texts;
    *out_n = n;
    return true;
}

void mal_wire_texts_free(char **texts, size_t n) {
    for (size_t i = 0; texts && i < n; i++)
        mal_free(texts[i]);
    mal_free(texts);
}

/* ---- Out ---- */

char *mal_wire_dump(const json_t *value) {
    return mal_json_dump(value, MAL_JSON_TOLD);
}
