/* history_shift.h - the difference of a version from the base, from the database alone:
 * module by module, on the host, with the bits that a replay on any device has. */
#ifndef MAL_HISTORY_SHIFT_H
#define MAL_HISTORY_SHIFT_H

#include "core/export/export.h"
#include "sql/store.h"

struct mal_history_shift;

/* The stored versions that make up `version`, from the nearest keyframe on. `store` is
 * borrowed. MAL_CONFLICT: one of them was pruned. */
bool mal_history_shift_open(struct mal_history_shift **out, struct mal_store *store,
                            int64_t version, struct mal_error *err) MAL_CHECK;
void mal_history_shift_close(struct mal_history_shift *shift); /* takes NULL */
/* Whether every delta of the version's path is there; then factors may be theirs. */
bool mal_history_shift_is_whole(const struct mal_history_shift *shift);

/* T (d_in, d_out) of a module. */
bool mal_history_shift_read(struct mal_history_shift *shift,
                            const struct mal_export_module *module, float *t,
                            struct mal_error *err) MAL_CHECK;
/* The same as the factors of all deltas beside each other; *out (zeroed) stays so where
 * one of them is dense or was pruned, or they are as wide as T. */
bool mal_history_shift_factors(struct mal_history_shift *shift,
                               const struct mal_export_module *module,
                               struct mal_export_factors *out,
                               struct mal_error *err) MAL_CHECK;

#endif
