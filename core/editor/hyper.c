/* hyper.c - numbers by name, from JSON and to it. */
#include "core/editor/hyper.h"

#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "core/text.h"

static const struct mal_hyper *find(const struct mal_hyper *fields, size_t n,
                                    const char *name) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(fields[i].name, name) == 0) return &fields[i];
    return NULL;
}

static bool read_value(const struct mal_hyper *field, const json_t *json, double *out,
                       enum mal_status status, const char *where, struct mal_error *err) {
    double value = json_number_value(json);
    bool fits = json_is_number(json) && value >= field->min && value <= field->max &&
                (!field->whole || value == floor(value));
    if (!fits) {
        return mal_fail(err, status, "%s: '%s' is not a %snumber from %g to %g", where,
                        field->name, field->whole ? "whole " : "", field->min,
                        field->max);
    }
    *out = value;
    return true;
}

static bool read_object(const struct mal_hyper *fields, size_t n, json_t *object,
                        bool all, double *values, enum mal_status status,
                        const char *where, struct mal_error *err) {
    const char *key;
    const json_t *json;
    char shown[MAL_TEXT_SHOWN];
    json_object_foreach (object, key, json) {
        const struct mal_hyper *field = find(fields, n, key);
        if (!field)
            return mal_fail(err, status, "%s: '%s' is none of the method's", where,
                            mal_text_shown(shown, key));
        if (!read_value(field, json, &values[field - fields], status, where, err))
            return false;
    }
    for (size_t i = 0; all && i < n; i++) {
        if (!json_object_get(object, fields[i].name))
            return mal_fail(err, status, "%s: '%s' is missing", where, fields[i].name);
    }
    return true;
}

bool mal_hyper_read(const struct mal_hyper *fields, size_t n, const char *text, bool all,
                    double *values, enum mal_status status, const char *where,
                    struct mal_error *err) {
    json_error_t problem;
    json_t *object = mal_json_parse(text, strlen(text), JSON_REJECT_DUPLICATES, &problem);
    if (!object) return mal_json_fail(&problem, status, where, err);
    bool ok = json_is_object(object) || mal_fail(err, status, "%s: %s, not an object",
                                                 where, mal_json_type(object));
    ok = ok && read_object(fields, n, object, all, values, status, where, err);
    json_decref(object);
    return ok;
}

char *mal_hyper_dump(const struct mal_hyper *fields, size_t n, const double *values) {
    mal_json_guard();
    json_t *object = json_object();
    bool ok = object;
    for (size_t i = 0; ok && i < n; i++) {
        json_t *value =
            fields[i].whole ? json_integer((json_int_t)values[i]) : json_real(values[i]);
        ok = json_object_set_new(object, fields[i].name, value) == 0;
    }
    char *text = ok ? mal_json_dump(object, JSON_REAL_PRECISION(15)) : NULL;
    json_decref(object);
    return text;
}
