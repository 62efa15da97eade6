/* engine_impl.h - the inside of an engine, for the engine's own files. */
#ifndef MAL_ENGINE_IMPL_H
#define MAL_ENGINE_IMPL_H

#include "core/editor/preserve.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/members.h"
#include "daemon/engine/probes.h"

struct mal_engine {
    struct mal_backend *be;
    struct mal_model *model;
    struct mal_backend *read_be;    /* the queue of reads beside changes; NULL: none */
    struct mal_model *reader;       /* the model on that queue */
    struct mal_weights_lease lease; /* of the read that runs there */
    struct mal_tokenizer *tok;
    struct mal_editor *editor;          /* NULL: none yet */
    const struct mal_editor *taught_by; /* the one that was there from the start, for any
                                         * thread; NULL: none was */
    struct mal_weights_state *ws;
    struct mal_preserve *preserve; /* what the editor carries; NULL: nothing */
    struct mal_normalizer *norms;  /* (n_norms) at the live version */
    size_t n_norms;                /* the editor's shapes */
    struct mal_members members;
    bool joint, update_given, asked_joint;
    int64_t repair_rounds, verify_limit;
    double repair_tau;
    size_t joint_memory;
    struct mal_gate gate;                     /* the daemon's own */
    struct mal_probes probes;                 /* zeroed: none */
    struct mal_preserve_texts preserve_texts; /* of the file; n 0: there is none */
    double preserve_weight;
    double base_perplexity; /* mean -log p of the texts to preserve; NaN: not asked for */
    char base_model[MAL_HASH_HEX];
    char editor_hash[MAL_HASH_HEX];
    char basis[MAL_HASH_HEX]; /* basis.h; "": no editor yet, or facts are added up */
    char *model_name;
    char *cache_path;
    char *modules_json; /* names of the edit modules, sorted, as a JSON array */
};

/* ---- Steps of opening, also of a check that opens nothing (engine_check.c) ---- */

void mal_engine_set_options(struct mal_engine *engine,
                            const struct mal_engine_options *options);
/* Without an editor: the modules of the database, of a new one the architecture's own. */
bool mal_engine_choose_modules(struct mal_engine *engine, const char *modules_json,
                               struct mal_error *err) MAL_CHECK;
/* The editor is the model's, can edit, and does what --update and --joint-memory ask. */
bool mal_engine_bind_editor(struct mal_engine *engine, struct mal_editor *editor,
                            struct mal_error *err) MAL_CHECK;
/* engine->modules_json */
bool mal_engine_name_modules(struct mal_engine *engine, struct mal_error *err) MAL_CHECK;
/* Of a model, if it is there, without texts to measure one on. */
const char *mal_engine_why_no_perplexity(const struct mal_engine *engine);

/* The thread of reads has what it needs, where it is asked for (engine_reads.c). */
bool mal_engine_open_reads(struct mal_engine *engine, const char *read_stream,
                           struct mal_error *err) MAL_CHECK;
void mal_engine_close_reads(struct mal_engine *engine);

/* ---- What the changes share ---- */

struct mal_members_of mal_engine_members_of(const struct mal_engine *engine);
/* What the preservation texts are: the file's, else the editor's. */
const struct mal_preserve_texts *mal_engine_texts(const struct mal_engine *engine);

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
