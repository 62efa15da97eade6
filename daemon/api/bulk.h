/* bulk.h - facts of a request as they arrive, a line each: checked, and put into a file
 * without a name beside the database until all are there.
 *
 * One thread at a time. In memory are a line, a few buffers, and 56 bytes a fact. */
#ifndef MAL_BULK_H
#define MAL_BULK_H

#include "core/hash.h"
#include "sql/store.h"

struct mal_bulk;
struct mal_engine;

struct mal_bulk_options {
    const struct mal_engine *engine; /* checks facts as a batch will */
    const char *db;                  /* the file is made beside it */
    int64_t min_free;                /* bytes that must stay free there */
    size_t max_facts;
    size_t max_line; /* bytes */
};

bool mal_bulk_create(struct mal_bulk **out, const struct mal_bulk_options *options,
                     struct mal_error *err) MAL_CHECK;
void mal_bulk_destroy(struct mal_bulk *bulk); /* takes NULL */

/* The next bytes of the body. After a failure only destroy() may follow. */
bool mal_bulk_add(struct mal_bulk *bulk, const char *data, size_t bytes,
                  struct mal_error *err) MAL_CHECK;
/* All have been added: checks what only all facts together show. */
bool mal_bulk_end(struct mal_bulk *bulk, struct mal_error *err) MAL_CHECK;

size_t mal_bulk_facts(const struct mal_bulk *bulk);
/* After the end: the facts from the first one on, with id (NULL: none was given), prompt,
 * target and fact_json, borrowed until the next call. */
bool mal_bulk_next(struct mal_bulk *bulk, struct mal_fact_row *out,
                   struct mal_error *err) MAL_CHECK;

#endif
