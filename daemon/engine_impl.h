/* engine_impl.h - the inside of an engine, for the engine's own files. */
#ifndef MAL_ENGINE_IMPL_H
#define MAL_ENGINE_IMPL_H

#include "core/editor/preserve.h"
#include "daemon/engine.h"

/* Which weights the change under way works on; reads served in between come back to it.
 */
enum engine_view { VIEW_LIVE, VIEW_BASE, VIEW_PREPARED };

struct mal_engine {
    struct mal_backend *be;
    struct mal_model *model;
    struct mal_tokenizer *tok;
    struct mal_editor *editor; /* NULL: none yet */
    struct mal_weights_state *ws;
    struct mal_preserve *preserve; /* what the editor carries; NULL: nothing */
    struct mal_normalizer *norms;  /* (n_norms) at the live version */
    size_t n_norms;                /* the editor's shapes */
    enum engine_view view;
    char base_model[MAL_HASH_HEX];
    char editor_hash[MAL_HASH_HEX];
    char *model_name;
    char *cache_path;
    char *modules_json; /* names of the edit modules, sorted, as a JSON array */
};

void mal_engine_set_view(struct mal_engine *engine, enum engine_view view);

/* Prepares the weights of a version of the database and checks that they hash as its row
 * says (MAL_CORRUPT). A version that was pruned is MAL_CONFLICT. `tick` (may be NULL) is
 * called in between. */
bool mal_engine_prepare_version(struct mal_engine *engine, struct mal_store *store,
                                int64_t version, void (*tick)(void *), void *tick_arg,
                                struct mal_error *err) MAL_CHECK;
/* The statistics as of a version; *out (n_norms) owned: mal_norms_free(); NULL without an
 * editor. */
bool mal_engine_read_norms(struct mal_engine *engine, struct mal_store *store,
                           int64_t version, struct mal_normalizer **out,
                           struct mal_error *err) MAL_CHECK;

#endif
