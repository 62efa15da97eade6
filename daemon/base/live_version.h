/* live_version.h - what the live version's row says, read once a version. Loop thread
 * only. */
#ifndef MAL_LIVE_VERSION_H
#define MAL_LIVE_VERSION_H

#include "sql/store.h"

struct mal_live_module {
    char *name; /* owned */
    double shift_norm, weight_norm;
};

/* Starts zeroed. Numbers that were not measured are NaN. */
struct mal_live_version {
    bool known;
    int64_t version, created_ms;
    int64_t n_facts;              /* that the measures are about */
    double decoded[3], forced[3]; /* ES, GS, LS */
    double agreement;
    struct mal_live_module *modules; /* (n_modules), owned */
    size_t n_modules;
};

/* Reads the version's row if it is another than before; `version` < 0: there is none. */
bool mal_live_version_look(struct mal_live_version *live, struct mal_store *store,
                           int64_t version, struct mal_error *err) MAL_CHECK;
void mal_live_version_finish(struct mal_live_version *live);

#endif
