/* engine_reads.c - answers of any version in memory: beside changes, or between two
 * slices of them. */
#include <string.h>

#include "daemon/engine/engine_impl.h"

bool mal_engine_open_reads(struct mal_engine *engine, const char *read_stream,
                           struct mal_error *err) {
    bool beside = strcmp(read_stream, "auto") ? !strcmp(read_stream, "on")
                                              : !mal_backend_on_host(engine->be);
    return !beside ||
           (mal_backend_create_beside(&engine->read_be, engine->be, err) &&
            mal_model_share(&engine->reader, engine->model, engine->read_be, err));
}

void mal_engine_close_reads(struct mal_engine *engine) {
    mal_model_close(engine->reader);
    mal_backend_destroy(engine->read_be);
}

bool mal_engine_reads_beside(const struct mal_engine *engine) {
    return engine->reader;
}

/* The model's own passes use the version until the end of the read. */
static bool lend(struct mal_engine *engine, int64_t *version, struct mal_error *err) {
    if (*version < 0) *version = mal_engine_live(engine);
    if (!mal_engine_has(engine, *version)) {
        return mal_fail(err, MAL_NOT_FOUND, "version %lld is not in memory",
                        (long long)*version);
    }
    mal_weights_lend(engine->ws, *version);
    return true;
}

bool mal_engine_begin_read(struct mal_engine *engine, int64_t *version,
                           struct mal_error *err) {
    if (!engine->reader) return lend(engine, version, err);
    if (!mal_weights_lease(engine->ws, *version, engine->reader, &engine->lease, err))
        return false;
    *version = engine->lease.number;
    return true;
}

void mal_engine_end_read(struct mal_engine *engine) {
    if (engine->reader) {
        mal_weights_end_lease(engine->ws, &engine->lease);
    } else {
        mal_weights_give_back(engine->ws);
    }
}

static struct mal_model *model_of(const struct mal_engine *engine) {
    return engine->reader ? engine->reader : engine->model;
}

void mal_engine_name_read_failure(const struct mal_engine *engine,
                                  struct mal_error *err) {
    mal_backend_name_failure(mal_model_backend(model_of(engine)), err);
}

bool mal_engine_generate(struct mal_engine *engine, struct mal_generation *gens, size_t n,
                         bool (*tick)(void *), void *tick_arg, struct mal_error *err) {
    return mal_generate(model_of(engine), engine->tok, gens, n, tick, tick_arg, err);
}

bool mal_engine_score(struct mal_engine *engine, const struct mal_score_item *items,
                      size_t n, const char *pointer, bool (*tick)(void *), void *tick_arg,
                      struct mal_score **out, struct mal_error *err) {
    return mal_score_items(model_of(engine), engine->tok, items, n, pointer, tick,
                           tick_arg, out, err);
}
