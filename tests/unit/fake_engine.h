/* fake_engine.h - what the files of the fake engine share. */
#ifndef MAL_TEST_FAKE_ENGINE_H
#define MAL_TEST_FAKE_ENGINE_H

#include <jansson.h>

#include "sql/store.h"

struct mal_engine;

enum { CONTEXT = 256, SLICE_MS = 2 };

/* Whether what this prompt or target delays has to wait still. */
bool fake_is_held(const char *text);
/* Whether the database is read, as the targets have it. */
bool fake_can_read(struct mal_engine *e, const struct mal_fact *facts, size_t n,
                   struct mal_error *err);
const json_t *fake_table(const struct mal_engine *e, int64_t version); /* in memory */

/* The table of a stored version; *out owned. */
bool fake_read_table(struct mal_store *store, int64_t version, json_t **out,
                     struct mal_error *err);

#endif
