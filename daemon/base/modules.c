/* modules.c - a list of layers, or the method's choice. */
#include "daemon/base/modules.h"

#include <string.h>

#include "core/alloc.h"

bool mal_module_names_check(const char *list, struct mal_error *err) {
    return list[strspn(list, ", ")] ||
           mal_fail(err, MAL_INVALID, "'%s' names no layer", list);
}

static bool split(struct mal_module_names *out, const char *list, struct mal_error *err) {
    size_t n = 1;
    for (const char *p = list; *p; p++)
        n += *p == ',';
    out->text = mal_strdup(list);
    out->names = mal_calloc(n, sizeof *out->names);
    if (!out->text || !out->names) return mal_fail(err, MAL_NO_MEMORY, "modules");
    char *rest = NULL;
    for (char *name = strtok_r(out->text, ", ", &rest); name;
         name = strtok_r(NULL, ", ", &rest)) {
        out->names[out->n++] = name;
    }
    return mal_module_names_check(list, err);
}

bool mal_module_names_choose(struct mal_module_names *out, const char *list,
                             const struct mal_model *model,
                             const struct mal_method *method, struct mal_error *err) {
    *out = (struct mal_module_names){0};
    if (list) return split(out, list, err);
    if (method->choose) return method->choose(model, &out->names, &out->n, err);
    return mal_model_default_edits(model, &out->names, &out->n, err);
}

void mal_module_names_finish(struct mal_module_names *names) {
    mal_free(names->text);
    mal_free(names->names);
    *names = (struct mal_module_names){0};
}
