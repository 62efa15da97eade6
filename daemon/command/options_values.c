/* options_values.c - texts of options become values; the environment and the
 * configuration file as further sources of such texts. */
#include "daemon/command/options_impl.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"

/* ---- Values ---- */

static void *field_of(const struct mal_option *option, void *values) {
    return (char *)values + option->offset;
}

static bool refuse_value(const struct mal_option_set *set, const char *source,
                         const char *text, const char *expected) {
    return mal_options_refuse(set, "%s: '%s' is not %s", source, text, expected);
}

static bool check_range(const struct mal_option_set *set, const struct mal_option *option,
                        double value, const char *text, const char *source) {
    if (option->min == 0 && option->max == 0) return true;
    if (value >= option->min && value <= option->max) return true;
    if (isinf(option->max)) {
        return mal_options_refuse(set, "%s: %s is out of range, the least is %g", source,
                                  text, option->min);
    }
    return mal_options_refuse(set, "%s: %s is out of range (%.10g to %.10g)", source,
                              text, option->min, option->max);
}

/* A suffix scales the number before it; the first word that fits ends the search. */
struct unit {
    const char *name;
    double factor;
};

static const struct unit byte_units[] = {
    {"", 1},          {"K", 1 << 10}, {"KiB", 1 << 10}, {"M", 1 << 20},
    {"MiB", 1 << 20}, {"G", 1 << 30}, {"GiB", 1 << 30}, {NULL, 0},
};
static const struct unit time_units[] = {
    {"", 1}, {"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}, {NULL, 0},
};
static const struct unit no_units[] = {{"", 1}, {NULL, 0}};

static bool parse_real(const char *text, const struct unit *units, double *out) {
    char *end;
    if (isspace((unsigned char)*text)) return false;
    double value = strtod(text, &end);
    if (end == text || !isfinite(value)) return false;
    for (; units->name; units++) {
        if (strcmp(end, units->name) != 0) continue;
        *out = value * units->factor;
        return isfinite(*out);
    }
    return false;
}

static bool parse_int(const char *text, int64_t *out) {
    char *end;
    if (isspace((unsigned char)*text)) return false;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value == MAL_OPTION_UNSET) return false;
    *out = value;
    return true;
}

static bool parse_flag(const char *text, bool *out) {
    static const char *const words[] = {"false", "true", "no", "yes",
                                        "off",   "on",   "0",  "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(text, words[i]) != 0) continue;
        *out = i % 2;
        return true;
    }
    return false;
}

/* Is `text` one of the words of "a|b|c"? */
static bool is_choice(const char *text, const char *choices) {
    size_t length = strlen(text);
    while (length) {
        size_t word = strcspn(choices, "|");
        if (word == length && memcmp(choices, text, length) == 0) return true;
        choices += word;
        if (!*choices++) break;
    }
    return false;
}

static bool set_text(const struct mal_option_set *set, const char *text, char **field) {
    char *copy = mal_strdup(text);
    if (!copy) return mal_options_no_memory(set);
    mal_free(*field);
    *field = copy;
    return true;
}

static bool set_bytes(const struct mal_option_set *set, const struct mal_option *option,
                      const char *text, const char *source, int64_t *field) {
    double real;
    int64_t whole;
    if (!parse_int(text, &whole)) {
        if (!parse_real(text, byte_units, &real) || real != floor(real) ||
            fabs(real) > 9e15) {
            return refuse_value(set, source, text,
                                "a number of bytes (such as 4096 or 16MiB)");
        }
        whole = (int64_t)real;
    }
    if (whole < 0) return refuse_value(set, source, text, "a number of bytes");
    *field = whole;
    return check_range(set, option, (double)whole, text, source);
}

bool mal_option_set_value(const struct mal_option_set *set,
                          const struct mal_option *option, const char *text,
                          const char *source, void *values) {
    void *field = field_of(option, values);
    switch (option->kind) {
    case MAL_OPTION_CHOICE:
        if (!is_choice(text, option->metavar)) {
            return mal_options_refuse(set, "%s: '%s' is not one of %s", source, text,
                                      option->metavar);
        }
        return set_text(set, text, field);
    case MAL_OPTION_TEXT:
        if (*text || option->may_be_empty) return set_text(set, text, field);
        return mal_options_refuse(set, "%s: the text is empty, it takes %s", source,
                                  option->metavar);
    case MAL_OPTION_FLAG:
        if (parse_flag(text, field)) return true;
        return refuse_value(set, source, text, "true or false");
    case MAL_OPTION_INT:
        if (!parse_int(text, field))
            return refuse_value(set, source, text, "a whole number");
        return check_range(set, option, (double)*(int64_t *)field, text, source);
    case MAL_OPTION_REAL:
        if (!parse_real(text, no_units, field)) {
            return refuse_value(set, source, text, "a number");
        }
        return check_range(set, option, *(double *)field, text, source);
    case MAL_OPTION_DURATION:
        if (!parse_real(text, time_units, field) || *(double *)field < 0) {
            return refuse_value(set, source, text,
                                "a time (such as 30, 250ms, 5m, 2h or 7d)");
        }
        return check_range(set, option, *(double *)field, text, source);
    case MAL_OPTION_BYTES: return set_bytes(set, option, text, source, field);
    }
    return false;
}

void mal_option_clear_value(const struct mal_option *option, void *values) {
    void *field = field_of(option, values);
    switch (option->kind) {
    case MAL_OPTION_TEXT:
    case MAL_OPTION_CHOICE: *(char **)field = NULL; break;
    case MAL_OPTION_FLAG: *(bool *)field = false; break;
    case MAL_OPTION_INT:
    case MAL_OPTION_BYTES: *(int64_t *)field = MAL_OPTION_UNSET; break;
    case MAL_OPTION_REAL:
    case MAL_OPTION_DURATION: *(double *)field = NAN; break;
    }
}

/* ---- Environment and file ---- */

void mal_option_spell(const char *name, const char *prefix, bool upper, char *out,
                      size_t size) {
    snprintf(out, size, "%s%s", prefix, name);
    for (char *p = out + strlen(prefix); *p; p++) {
        *p = *p == '-' ? '_' : (char)(upper ? toupper((unsigned char)*p) : *p);
    }
}

bool mal_options_from_environment(const struct mal_option_set *set,
                                  struct mal_given *given) {
    for (size_t i = 0; set->options[i].name; i++) {
        char name[80];
        if (set->options[i].here_only) continue;
        mal_option_spell(set->options[i].name, "MALMEND_", true, name, sizeof name);
        const char *text = getenv(name);
        if (given[i].text || !text || !*text) continue;
        given[i].text = mal_strdup(text);
        if (!given[i].text) return mal_options_no_memory(set);
        snprintf(given[i].source, sizeof given[i].source, "%s", name);
    }
    return true;
}

enum { NUMBER_BYTES = 40 };

/* What a member of the file says, as text, borrowed or in `number`; NULL: wrong type. */
static const char *member_text(const struct mal_option *option, const json_t *value,
                               char number[NUMBER_BYTES]) {
    enum mal_option_kind kind = option->kind;
    bool suffixed = kind == MAL_OPTION_BYTES || kind == MAL_OPTION_DURATION;
    bool text = kind == MAL_OPTION_TEXT || kind == MAL_OPTION_CHOICE || suffixed;
    bool real = kind == MAL_OPTION_REAL || kind == MAL_OPTION_DURATION;
    bool whole = kind == MAL_OPTION_INT || kind == MAL_OPTION_BYTES || real;
    if (json_is_string(value)) return text ? json_string_value(value) : NULL;
    if (json_is_boolean(value) && kind == MAL_OPTION_FLAG)
        return json_is_true(value) ? "true" : "false";
    if (json_is_integer(value) && whole) {
        snprintf(number, NUMBER_BYTES, "%" JSON_INTEGER_FORMAT,
                 json_integer_value(value));
        return number;
    }
    if (json_is_real(value) && real) {
        snprintf(number, NUMBER_BYTES, "%.17g", json_real_value(value));
        return number;
    }
    return NULL;
}

static const char *json_type_of(const struct mal_option *option) {
    switch (option->kind) {
    case MAL_OPTION_TEXT:
    case MAL_OPTION_CHOICE: return "a string";
    case MAL_OPTION_INT: return "an integer";
    case MAL_OPTION_REAL: return "a number";
    case MAL_OPTION_FLAG: return "true or false";
    case MAL_OPTION_BYTES: return "an integer or a string such as \"16MiB\"";
    case MAL_OPTION_DURATION: return "a number of seconds or a string such as \"5m\"";
    }
    return "";
}

static void take_member(const struct mal_option_set *set, const char *path,
                        const char *key, const json_t *value, struct mal_given *given) {
    for (size_t i = 0; set->options[i].name; i++) {
        char name[64];
        mal_option_spell(set->options[i].name, "", false, name, sizeof name);
        if (strcmp(name, key) != 0 || set->options[i].here_only) continue;
        if (json_is_null(value) || given[i].text) return;
        char number[NUMBER_BYTES];
        const char *text = member_text(&set->options[i], value, number);
        if (!text) {
            given[i].refused = true;
            mal_options_refuse(set, "%s: '%s' must be %s", path, key,
                               json_type_of(&set->options[i]));
            return;
        }
        given[i].text = mal_strdup(text);
        if (!given[i].text) mal_options_no_memory(set);
        snprintf(given[i].source, sizeof given[i].source, "%s: '%s'", path, key);
        return;
    }
    mal_options_refuse(set, "%s: there is no option '%s'", path, key);
}

bool mal_options_from_file(const struct mal_option_set *set, const char *path,
                           struct mal_given *given) {
    struct mal_error err = {0};
    json_t *root = NULL;
    bool ok;
    if (!mal_json_load(&root, path, &err)) {
        return err.status == MAL_NO_MEMORY
                   ? mal_options_no_memory(set)
                   : mal_options_refuse(set, "--config: %s", err.text);
    }
    ok = json_is_object(root) ||
         mal_options_refuse(set, "--config: %s must hold one JSON object", path);
    const char *key;
    json_t *value;
    json_object_foreach (root, key, value)
        take_member(set, path, key, value, given);
    json_decref(root);
    return ok;
}
