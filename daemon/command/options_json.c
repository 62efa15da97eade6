/* options_json.c - the table of options and its values as JSON, for other programs. */
#include "daemon/command/options_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"

static const char *kind_name(enum mal_option_kind kind) {
    static const char *const names[] = {"text", "choice", "int",     "real",
                                        "flag", "bytes",  "duration"};
    return names[kind];
}

/* "a|b|c" */
static json_t *choices_of(const struct mal_option *option) {
    json_t *choices = json_array();
    if (option->kind != MAL_OPTION_CHOICE) return choices;
    for (const char *p = option->metavar; *p;) {
        size_t n = strcspn(p, "|");
        json_array_append_new(choices, json_stringn(p, n));
        p += n + (p[n] == '|');
    }
    return choices;
}

static json_t *option_json(const struct mal_option *option) {
    json_t *json =
        json_pack("{s:s,s:s,s:s?,s:s?,s:s,s:b,s:b,s:b,s:o}", "name", option->name, "kind",
                  kind_name(option->kind), "metavar", option->metavar, "default",
                  option->fallback, "help", option->help, "required", option->required,
                  "positional", option->positional, "here_only", option->here_only,
                  "choices", choices_of(option));
    bool ranged = option->min != 0 || option->max != 0;
    if (json && ranged) json_object_set_new(json, "min", json_real(option->min));
    if (json && ranged && !isinf(option->max))
        json_object_set_new(json, "max", json_real(option->max));
    return json;
}

bool mal_options_print_json(const struct mal_option_set *set) {
    json_t *options = json_array();
    for (size_t i = 0; set->options[i].name; i++)
        json_array_append_new(options, option_json(&set->options[i]));
    json_t *json =
        json_pack("{s:s,s:s,s:b,s:o}", "command", set->command, "about", set->about,
                  "configurable", set->configurable, "options", options);
    bool ok = json != NULL;
    if (ok) (void)json_dumpf(json, stdout, MAL_JSON_TOLD); /* main() looks at the stream */
    putchar('\n');
    json_decref(json);
    return ok;
}

static json_t *value_json(const struct mal_option *option, const void *values) {
    const void *field = (const char *)values + option->offset;
    switch (option->kind) {
    case MAL_OPTION_TEXT:
    case MAL_OPTION_CHOICE: {
        const char *text = *(char *const *)field;
        return text ? mal_json_fit(text) : json_null();
    }
    case MAL_OPTION_INT:
    case MAL_OPTION_BYTES: {
        int64_t value = *(const int64_t *)field;
        return value == MAL_OPTION_UNSET ? json_null() : json_integer(value);
    }
    case MAL_OPTION_REAL:
    case MAL_OPTION_DURATION: {
        double value = *(const double *)field;
        return isnan(value) ? json_null() : json_real(value);
    }
    case MAL_OPTION_FLAG: return json_boolean(*(const bool *)field);
    }
    return NULL;
}

static json_t *origin_json(const struct mal_option *option,
                           const struct mal_given *given) {
    if (given->text) return mal_json_fit(given->source);
    bool has = option->fallback || option->kind == MAL_OPTION_FLAG;
    return has ? json_string("default") : json_null();
}

/* An object with a member for each option that can be configured. */
static json_t *collect(const struct mal_option_set *set, const void *values,
                       const struct mal_given *given) {
    json_t *object = json_object();
    for (size_t i = 0; object && set->options[i].name; i++) {
        const struct mal_option *option = &set->options[i];
        char name[64];
        if (option->here_only) continue;
        mal_option_spell(option->name, "", false, name, sizeof name);
        json_t *member =
            values ? value_json(option, values) : origin_json(option, &given[i]);
        if (json_object_set_new(object, name, member) == 0) continue;
        json_decref(object);
        return NULL;
    }
    return object;
}

json_t *mal_options_to_json(const struct mal_option_set *set, const void *values) {
    return collect(set, values, NULL);
}

json_t *mal_options_origins(const struct mal_option_set *set,
                            const struct mal_given *given) {
    return collect(set, NULL, given);
}
