/* history_tries.c - reading beside a daemon that prunes. */
#include "daemon/engine/history.h"

enum { MOST_TRIES = 10 };

bool mal_history_begin_tries(struct mal_store *store, struct mal_history_tries *out,
                             struct mal_error *err) {
    *out = (struct mal_history_tries){.n = 1};
    return mal_store_data_version(store, &out->seen, err);
}

bool mal_history_try_again(struct mal_store *store, struct mal_history_tries *tries,
                           struct mal_error *err) {
    struct mal_error ignored = {0};
    int64_t before = tries->seen;
    bool may_be_pruned = err->status == MAL_CORRUPT || err->status == MAL_CONFLICT ||
                         err->status == MAL_NOT_FOUND;
    if (!may_be_pruned || tries->n++ == MOST_TRIES ||
        !mal_store_data_version(store, &tries->seen, &ignored) || tries->seen == before)
        return false;
    *err = (struct mal_error){0};
    return true;
}
