/* live_version.c - measures and norms out of a version's JSON. */
#include "daemon/base/live_version.h"

#include <math.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/json.h"

void mal_live_version_finish(struct mal_live_version *live) {
    for (size_t i = 0; i < live->n_modules; i++)
        mal_free(live->modules[i].name);
    mal_free(live->modules);
    *live = (struct mal_live_version){0};
}

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static void read_shares(const json_t *measures, const char *key, double out[3]) {
    const json_t *shares = json_object_get(measures, key);
    out[0] = number(shares, "es");
    out[1] = number(shares, "gs");
    out[2] = number(shares, "ls");
}

static bool read_measures(struct mal_live_version *live, const char *text,
                          struct mal_error *err) {
    json_t *measures = NULL;
    if (text && !mal_json_read(&measures, text, "measures of a version", err))
        return false;
    live->n_facts = json_integer_value(json_object_get(measures, "facts"));
    read_shares(measures, "decoded", live->decoded);
    read_shares(measures, "teacher_forced", live->forced);
    live->agreement = number(measures, "agreement");
    json_decref(measures);
    return true;
}

static bool read_modules(struct mal_live_version *live, const char *text,
                         struct mal_error *err) {
    json_t *modules = NULL;
    if (text && !mal_json_read(&modules, text, "modules of a version", err)) return false;
    size_t n = json_array_size(modules);
    live->modules = mal_calloc(n + 1, sizeof *live->modules);
    bool ok = live->modules != NULL;
    for (size_t i = 0; i < n && ok; i++) {
        const json_t *module = json_array_get(modules, i);
        const char *name = json_string_value(json_object_get(module, "name"));
        struct mal_live_module *out = &live->modules[live->n_modules++];
        out->name = mal_strdup(name ? name : "");
        out->shift_norm = number(module, "shift_norm");
        out->weight_norm = number(module, "weight_norm");
        ok = out->name != NULL;
    }
    json_decref(modules);
    return ok || mal_fail(err, MAL_NO_MEMORY, "modules of a version");
}

bool mal_live_version_look(struct mal_live_version *live, struct mal_store *store,
                           int64_t version, struct mal_error *err) {
    struct mal_version_row row = {0};
    if (version < 0 || (live->known && live->version == version)) return true;
    mal_live_version_finish(live);
    if (!mal_store_get_version(store, version, &row, err)) return false;
    live->version = version;
    live->created_ms = row.created_ms;
    live->known = read_measures(live, row.measures_json, err) &&
                  read_modules(live, row.modules_json, err);
    mal_version_row_finish(&row);
    return live->known;
}
