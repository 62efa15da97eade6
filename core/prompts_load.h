/* prompts_load.h - prompts out of files: facts, JSON, or lines of plain text. */
#ifndef MAL_PROMPTS_LOAD_H
#define MAL_PROMPTS_LOAD_H

#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"

/* One prompt of a file; lives only while it is handed over. */
struct mal_prompt {
    const char *text; /* (bytes) of a line no zero follows it, and it may not be UTF-8 */
    size_t bytes;
    const char *target; /* NULL: none; a fact has one */
    const char *join;   /* NULL: not given */
    const char *unit;   /* "record", "line", "fact": what `place` counts; static */
    size_t place;       /* records and facts from 0, lines from 1 */
};

/* Hands over the prompts of a file in their order, until one is refused. The file has
 * facts in any form of mal_facts_load(); {"prompt"}, as an array or one after another; an
 * array of strings; or lines of plain text. `targets`: records may also have "target" and
 * "join"; without it, a file whose first record has a target is one of facts. A file may
 * have none. Errors name file and record; those of `take` are left as they are. */
bool mal_prompts_load(const char *path, bool targets,
                      bool (*take)(void *arg, const struct mal_prompt *prompt,
                                   struct mal_error *err),
                      void *arg, struct mal_error *err) MAL_CHECK;

#endif
