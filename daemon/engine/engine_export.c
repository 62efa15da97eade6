/* engine_export.c - what exports must know of an engine's model. */
#include "daemon/engine/engine_export.h"

#include <jansson.h>

#include "core/alloc.h"
#include "core/json.h"
#include "daemon/engine/engine_impl.h"

bool mal_engine_export(const struct mal_engine *engine, struct mal_export *out,
                       struct mal_error *err) {
    /* by name: the model's list of edits is the worker's */
    json_t *names = NULL;
    if (!mal_json_read(&names, engine->modules_json, "edit modules", err)) return false;
    size_t n = json_array_size(names);
    struct mal_export ex = {.kind = mal_model_info(engine->model)->kind,
                            .model_name = engine->model_name,
                            .base_model = engine->base_model,
                            .version = -1};
    ex.modules = mal_calloc(n, sizeof *ex.modules);
    bool ok = ex.modules || mal_fail(err, MAL_NO_MEMORY, "edit modules");
    for (size_t i = 0; ok && i < n; i++) {
        const char *name = json_string_value(json_array_get(names, i));
        ok = mal_export_add(&ex, mal_model_find_editable(engine->model, name), err);
    }
    json_decref(names);
    if (!ok) {
        mal_export_finish(&ex);
        return false;
    }
    *out = ex;
    return true;
}
