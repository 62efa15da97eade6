/* fake_engine.h - what the files of the fake engine share. */
#ifndef MAL_TEST_FAKE_ENGINE_H
#define MAL_TEST_FAKE_ENGINE_H

#include <jansson.h>

#include "sql/store.h"

enum { SLICE_MS = 2 };

/* The table of a stored version; *out owned. */
bool fake_read_table(struct mal_store *store, int64_t version, json_t **out,
                     struct mal_error *err);

#endif
