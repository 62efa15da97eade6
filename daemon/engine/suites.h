/* suites.h - sets of facts that evaluations ask for by name (`serve --suites DIR`): read
 * once, at the start; read-only and safe from any thread from then on. */
#ifndef MAL_SUITES_H
#define MAL_SUITES_H

#include "core/facts.h"

struct mal_engine;

struct mal_suite {
    char *name, *path;      /* owned */
    struct mal_fact *facts; /* (n_facts), owned */
    size_t n_facts;
};

struct mal_suites {
    struct mal_suite *list; /* (n), by name, owned */
    size_t n;
};

/* NAME.json, NAME.ndjson or NAME.jsonl of the directory (NULL: there is none) is the
 * suite NAME, in any form of mal_facts_load(); files that begin with a dot are not looked
 * at. Errors name the file. More than `max_facts` in one: MAL_TOO_LARGE. */
bool mal_suites_load(struct mal_suites *out, const char *dir, size_t max_facts,
                     struct mal_error *err) MAL_CHECK;
/* That the model can be asked all of it; errors name file and fact. */
bool mal_suites_check(const struct mal_suites *suites, const struct mal_engine *engine,
                      struct mal_error *err) MAL_CHECK;
/* One by its name; else NULL and MAL_INVALID, which lists those there are. */
const struct mal_suite *mal_suites_find(const struct mal_suites *suites, const char *name,
                                        struct mal_error *err);
void mal_suites_finish(struct mal_suites *suites); /* takes a zeroed one */

#endif
