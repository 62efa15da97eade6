/* pool.h - threads for work that would block the loop.
 *
 * libuv has some of its own, but makes them with the first work it gets and aborts where
 * it cannot. */
#ifndef MAL_POOL_H
#define MAL_POOL_H

#include <stddef.h>

#include "daemon/base/loop.h"

struct mal_pool;

bool mal_pool_create(struct mal_pool **out, size_t n_threads,
                     struct mal_error *err) MAL_CHECK;
/* Finishes what was added, then ends. Takes NULL. */
void mal_pool_destroy(struct mal_pool *pool);
/* Any thread: the task is run on one of the pool's, in the order of adding. */
void mal_pool_add(struct mal_pool *pool, struct mal_task *task);

#endif
