/* workbench_database.c - the model a database was made with. */
#include <jansson.h>

#include "core/alloc.h"
#include "core/json.h"
#include "daemon/command/workbench.h"
#include "daemon/engine/history.h"

static bool set_edits(struct mal_workbench *wb, struct mal_store *store,
                      struct mal_error *err) {
    char *text = NULL;
    if (!mal_store_get_meta(store, "modules", &text, err)) return false;
    json_t *list = NULL;
    if (text && !mal_json_read(&list, text, "the database's list of modules", err)) {
        mal_free(text);
        return false;
    }
    size_t n = json_array_size(list);
    const char **names = mal_calloc(n, sizeof *names);
    bool ok = n > 0 || mal_fail(err, MAL_CORRUPT,
                                "the database does not say which modules it edits");
    if (ok && !names) ok = mal_fail(err, MAL_NO_MEMORY, "modules");
    for (size_t i = 0; ok && i < n; i++) {
        names[i] = json_string_value(json_array_get(list, i));
        if (!names[i]) ok = mal_fail(err, MAL_CORRUPT, "the database's list of modules");
    }
    ok = ok && mal_model_set_edits(wb->model, names, n, err);
    mal_free(names);
    json_decref(list);
    mal_free(text);
    return ok;
}

bool mal_workbench_open_database(struct mal_workbench *wb, struct mal_store *store,
                                 const char *db, const char *model_dir,
                                 const char *device, int keep, struct mal_error *err) {
    if (!mal_workbench_open(wb, model_dir, device, NULL, NULL, err)) return false;
    if (!mal_workbench_fingerprint(wb, err)) return false;
    if (!mal_history_check_meta(store, "base_model", wb->base_model, err)) {
        return mal_fail_wrap(err, "%s", db);
    }
    enum mal_digest_form form;
    if (!mal_history_digest_form(store, &form, err)) return mal_fail_wrap(err, "%s", db);
    return set_edits(wb, store, err) &&
           mal_weights_create_in_form(&wb->ws, wb->model, keep, form, err);
}
