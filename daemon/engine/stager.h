/* stager.h - what a change stores, on its way to the disk while the change is still being
 * made.
 *
 * Values of facts are known before the solve, a delta before it is measured, and where
 * nothing is repaired before it is verified. The writer's thread stages them meanwhile,
 * and writes of others between their chunks; what is left is staged when the change
 * becomes durable. What was staged of a change that came to nothing is forgotten, before
 * anything of the next one is staged. Used by one thread, for one change at a time.
 */
#ifndef MAL_STAGER_H
#define MAL_STAGER_H

#include "daemon/base/writer.h"
#include "daemon/engine/history.h"

struct mal_stager;

/* Bytes from which it pays: less is written at once. */
enum { MAL_STAGER_LEAST = 1 << 20 };

/* `told` is called on the writer's thread when mal_stager_busy() may have changed, and
 * must not call the stager. The writer outlives it. */
bool mal_stager_create(struct mal_stager **out, struct mal_writer *writer,
                       void (*told)(void *arg), void *arg,
                       struct mal_error *err) MAL_CHECK;
/* Waits for what is under way. Takes NULL. */
void mal_stager_destroy(struct mal_stager *stager);

/* Values of facts for a version, once; takes over what `data` of each points at, which
 * becomes NULL. False: out of memory, nothing was taken. */
bool mal_stager_values(struct mal_stager *stager, int64_t version,
                       struct mal_history_value *values, size_t n,
                       struct mal_error *err) MAL_CHECK;
/* Its delta, whose data is hashed: borrowed until the stager is not busy, or told to drop
 * it. */
void mal_stager_delta(struct mal_stager *stager, int64_t version,
                      const struct mal_delta *delta);

/* Whether something is still to be staged, or forgotten. */
bool mal_stager_busy(struct mal_stager *stager);
/* Before the rest of a version is staged: tries again what could not be forgotten. Then
 * it is waited for until it is not busy. */
void mal_stager_settle(struct mal_stager *stager);
/* After that: whether all that was given is staged, and nothing else. From here on the
 * rest of the version counts as staged, too. */
bool mal_stager_settled(struct mal_stager *stager, int64_t version,
                        struct mal_error *err) MAL_CHECK;
/* The version is there. */
void mal_stager_kept(struct mal_stager *stager);
/* It will not be: returns when nothing borrowed is read any more. Does nothing where
 * nothing was staged. */
void mal_stager_drop(struct mal_stager *stager);

#endif
