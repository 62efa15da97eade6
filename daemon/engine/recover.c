/* recover.c - from the database back to the live weights. */
#include <string.h>

#include "core/alloc.h"
#include "daemon/engine/engine_impl.h"
#include "daemon/engine/history.h"

/* Prepares the weights of a version of the database, and checks their hash. */
bool mal_engine_prepare_version(struct mal_engine *engine, struct mal_store *store,
                                int64_t version, void (*tick)(void *), void *tick_arg,
                                struct mal_error *err) {
    struct mal_version_row row = {0};
    char hex[MAL_HASH_HEX];
    bool ok = mal_store_get_version(store, version, &row, err) &&
              mal_history_check_stored(&row, err);
    if (ok && mal_weights_has(engine->ws, version)) {
        ok = mal_weights_prepare_return(engine->ws, version, err);
    } else if (ok) {
        ok = mal_history_replay(store, version, engine->ws, tick, tick_arg, err);
    }
    if (ok) {
        struct mal_hash hash = mal_weights_prepared_hash(engine->ws);
        mal_hash_hex(&hash, hex);
        if (strcmp(hex, row.weights_hash) != 0) {
            mal_weights_discard(engine->ws);
            ok = mal_fail(err, MAL_CORRUPT,
                          "version %lld: the weights hash to %s, its row says %s",
                          (long long)version, hex, row.weights_hash);
        }
    }
    mal_version_row_finish(&row);
    return ok;
}

bool mal_engine_read_norms(struct mal_engine *engine, struct mal_store *store,
                           int64_t version, struct mal_normalizer **out,
                           struct mal_error *err) {
    *out = NULL;
    if (!engine->editor) return true;
    struct mal_normalizer *norms = mal_editor_norms(engine->editor, err);
    if (!norms) return false;
    if (engine->editor->method->running && /* those of others never change */
        !mal_history_norms(store, version, engine->editor, norms, err)) {
        mal_norms_free(norms, engine->n_norms);
        return false;
    }
    *out = norms;
    return true;
}

bool mal_engine_recover(struct mal_engine *engine, struct mal_store *store,
                        bool *out_empty, struct mal_error *err) {
    int64_t last = -1;
    if (!mal_store_last_version(store, &last, err)) return false;
    if (last < 0) {
        *out_empty = true;
        return true;
    }
    if (!mal_history_check_meta(store, "base_model", engine->base_model, err))
        return false;
    if (!mal_history_check_meta(store, "modules", engine->modules_json, err))
        return false;
    if (!mal_history_check_chain(store, last, err)) return false;
    struct mal_normalizer *norms = NULL;
    if (!mal_engine_read_norms(engine, store, last, &norms, err)) return false;
    if (!mal_engine_prepare_version(engine, store, last, NULL, NULL, err)) {
        mal_norms_free(norms, engine->n_norms);
        return false;
    }
    mal_norms_free(engine->norms, engine->n_norms);
    engine->norms = norms;
    if (last > 0) {
        mal_weights_publish(engine->ws, last);
    } else {
        mal_weights_discard(engine->ws);
    }
    mal_weights_use(engine->ws, mal_weights_live(engine->ws));
    *out_empty = false;
    return true;
}
