/* store_look.c - a database looked at before anything is opened for writing. */
#include <errno.h>
#include <libgen.h>
#include <unistd.h>

#include "core/alloc.h"
#include "sql/store_impl.h"

/* SQLite writes files beside the database, so the directory counts, too. */
static bool check_writable(const struct mal_store *store, bool missing,
                           struct mal_error *err) {
    char *copy = mal_strdup(store->path);
    if (!copy) return mal_fail(err, MAL_NO_MEMORY, "database '%s'", store->path);
    const char *dir = dirname(copy);
    bool ok = access(dir, W_OK | X_OK) == 0 || mal_store_fail_errno(dir, errno, err);
    mal_free(copy);
    return ok && (missing || access(store->path, R_OK | W_OK) == 0 ||
                  mal_store_fail_errno(store->path, errno, err));
}

bool mal_store_look(struct mal_store_look *out, const char *path, struct mal_error *err) {
    struct mal_store store = {.lock_fd = -1, .reader = true};
    int64_t schema = 0;
    bool missing = false;
    bool ok = mal_store_resolve(&store, path, err) && mal_store_check_name(&store, err) &&
              mal_store_missing(&store, false, &missing, err) &&
              check_writable(&store, missing, err) &&
              (missing || (mal_store_connect(&store, SQLITE_OPEN_READONLY, err) &&
                           mal_store_inspect(&store, &schema, err)));
    mal_store_disconnect(&store);
    mal_free(store.path);
    if (!ok) return false;
    out->exists = !missing;
    out->outdated = !missing && schema < mal_store_newest_schema();
    return true;
}
