/* joint.h - all live facts in one system (core/README.md section 3).
 *
 * Per edit module A = sum u'u + w K0'K0 + e^lamda I over the keys u of every live fact,
 * in fp64. The shift S of the live weights is A^-1 sum u'd; what a change of some facts
 * makes of it (joint_change.h) needs A, S and those facts' rows only, so its cost does
 * not grow with the facts already there, and neither does the memory: but for a few that
 * joined last, keys are not kept, and value differences never. Keys are always measured
 * on the same weights, the origin: the base. */
#ifndef MAL_JOINT_H
#define MAL_JOINT_H

#include "core/editor/preserve.h"
#include "core/editor/progress.h"
#include "core/example.h"

struct mal_joint;

/* Device bytes a joint system takes at least: every module's A, the largest one's
 * Cholesky factor and small things. */
size_t mal_joint_bytes(const struct mal_model *model);

/* No facts yet. `editor` must be bound to `model`; both are borrowed, `preserve` (NULL:
 * nothing) only during the call. Of max_bytes (0: no bound) what mal_joint_bytes() leaves
 * holds further factors, which are otherwise made again in each round of a change; too
 * few are MAL_NO_MEMORY saying what is needed. MEND solves no system: MAL_INVALID. */
bool mal_joint_create(struct mal_joint **out, struct mal_model *model,
                      const struct mal_editor *editor,
                      const struct mal_preserve *preserve, size_t max_bytes,
                      struct mal_error *err) MAL_CHECK;
/* The same for a single change that teaches and starts from the origin: where its rows
 * are few and nothing is preserved, as small as they are (solve.h). */
bool mal_joint_create_alone(struct mal_joint **out, struct mal_model *model,
                            const struct mal_editor *editor,
                            const struct mal_preserve *preserve, size_t max_bytes,
                            struct mal_error *err) MAL_CHECK;
void mal_joint_destroy(struct mal_joint *joint);            /* takes NULL */
size_t mal_joint_held_bytes(const struct mal_joint *joint); /* device memory in use */

/* e^lamda of module m, the multiple of I in its A. */
double mal_joint_ridge(const struct mal_editor *editor, size_t m);

/* Keys of texts that are in the live weights already, and of what is held for them, join
 * A (sign 1), or leave it (-1): all or nothing, each measured by itself, as in a change.
 * The model must read the origin's weights, also after a tick. */
bool mal_joint_add_keys(struct mal_joint *joint, const struct mal_example *texts,
                        size_t n, const struct mal_example *held, size_t n_held, int sign,
                        const struct mal_progress *progress,
                        struct mal_error *err) MAL_CHECK;

/* False after an error amid a change of A, and where A has no factor (keys that left may
 * have been measured to another rounding than as they joined): it is to be destroyed. */
bool mal_joint_is_whole(const struct mal_joint *joint);

/* Whether a change finds every factor made, with half of its room left for rows that
 * join; those that share their memory are made in each change anyway. */
bool mal_joint_is_ready(const struct mal_joint *joint);
/* Makes one that is not. Given up at any time, it only stays so. */
bool mal_joint_make_ready(struct mal_joint *joint, const struct mal_progress *progress,
                          struct mal_error *err) MAL_CHECK;

#endif
