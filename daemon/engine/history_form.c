/* history_form.c - how a database hashes weights. */
#include <string.h>

#include "core/alloc.h"
#include "daemon/engine/history.h"

static const char form_key[] = "weights_hash", pieces[] = "pieces", whole[] = "whole";

bool mal_history_note_digest_form(struct mal_store *writer, enum mal_digest_form form,
                                  struct mal_error *err) {
    return mal_store_set_meta(writer, form_key, form == MAL_DIGEST_WHOLE ? whole : pieces,
                              err);
}

bool mal_history_digest_form(struct mal_store *store, enum mal_digest_form *out,
                             struct mal_error *err) {
    char *form = NULL;
    int64_t last;
    if (!mal_store_last_version(store, &last, err) ||
        !mal_store_get_meta(store, form_key, &form, err))
        return false;
    bool is_whole = form && strcmp(form, whole) == 0;
    bool ok = form ? is_whole || strcmp(form, pieces) == 0 : last < 0;
    *out = is_whole ? MAL_DIGEST_WHOLE : MAL_DIGEST_PIECES;
    if (!ok)
        mal_fail(err, MAL_CORRUPT, "the database does not say how it hashes weights: %s",
                 form ? form : "(nothing)");
    mal_free(form);
    return ok;
}
