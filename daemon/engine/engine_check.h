/* engine_check.h - whether an engine's options and files fit each other, without a device
 * and without loading a weight. */
#ifndef MAL_ENGINE_CHECK_H
#define MAL_ENGINE_CHECK_H

#include "daemon/engine/engine.h"
#include "daemon/engine/suites.h"

struct mal_engine_check {
    const struct mal_engine_options *options;
    const char *data;                /* facts to make an editor on; NULL: none */
    const struct mal_suites *suites; /* read already */
    struct mal_store *store; /* a reader of the database; NULL: there is none yet */
    /* Called for each fault with the option it is one of. */
    void (*fault)(void *arg, const char *option, const struct mal_error *err);
    /* And for what does not keep the daemon from starting, but from what was asked. */
    void (*warn)(void *arg, const char *option, const char *detail);
    void *arg;
    /* Out: what there is. */
    char architecture[16], dtype[8]; /* empty: the model cannot be read */
    int64_t n_parameters;
    char editor_path[512]; /* empty: there is none; cut where longer */
    char editor_method[16];
    size_t n_modules; /* that will be edited */
};

/* Everything of mal_engine_open() and mal_engine_recover() that needs no device, as far
 * as it can be told: each file is looked at, and held against the others that are whole.
 * Reads
 * every byte of the model where the editor or the database names the model it is for. */
void mal_engine_check(struct mal_engine_check *check);

#endif
