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
    void *arg;
    /* Out: what there is. */
    char architecture[16], dtype[8]; /* empty: the model cannot be read */
    int64_t n_parameters;
    char editor_path[512]; /* empty: there is none; cut where longer */
    char editor_method[16];
    size_t n_modules; /* that will be edited */
};

/* Everything of mal_engine_open() and mal_engine_recover() that needs no device, as far
 * as it can be told: what depends on a file that cannot be read is not looked at. Reads
 * every byte of the model where the editor or the database names the model it is for. */
void mal_engine_check(struct mal_engine_check *check);

#endif
