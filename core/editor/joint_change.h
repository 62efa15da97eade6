/* joint_change.h - a change of the facts in a joint system, and the shift it makes.
 *
 * With U_c the keys of the texts that change and R what their values lack, the live shift
 * S becomes S + A'^-1 U_c' R, A' being the system after the change: R = D - U S for texts
 * that are taught, D' - D for values that are improved or given up, U S - D for texts
 * that are dropped and whose keys leave A'. A has taken on the keys when a change ends,
 * whether its weights are published or not: who gives them up takes them back
 * (mal_joint_add_keys()).
 *
 * The values of a text are its value differences d (rows, d_out) of each edit module, one
 * after the other: fp32 in host memory, and of a module whose weights are bf16 rounded to
 * that before the system takes them on. They are state: repair makes them so. */
#ifndef MAL_JOINT_CHANGE_H
#define MAL_JOINT_CHANGE_H

#include "core/delta.h"
#include "core/editor/edit_diffs.h"
#include "core/editor/joint.h"
#include "core/weights_state.h"

struct mal_joint_change;

/* `shifts`: whose live version's difference from the origin the change starts from; NULL:
 * the live weights are the origin. Both are borrowed, as are the ids of the texts given
 * later, until mal_joint_change_destroy(). Time and tokens are added to `report`. */
bool mal_joint_change_create(struct mal_joint_change **out, struct mal_joint *joint,
                             const struct mal_weights_state *shifts,
                             const struct mal_progress *progress,
                             struct mal_edit_report *report,
                             struct mal_error *err) MAL_CHECK;
void mal_joint_change_destroy(struct mal_joint_change *change); /* takes NULL */

struct mal_joint *mal_joint_change_system(const struct mal_joint_change *change);
/* What it keeps of its texts, and can of others. */
struct mal_trunk *mal_joint_change_trunk(const struct mal_joint_change *change);
size_t mal_joint_n_texts(const struct mal_joint_change *change); /* so far */
/* How many floats a text's values are. */
size_t mal_joint_n_values(const struct mal_joint *joint, const struct mal_example *text);

/* Each of the next four adds `n` texts, which from then on have the numbers that follow
 * those of the texts before; the model must read the origin's weights, also after a tick.
 * After an error the change is only to be destroyed.
 *
 * New texts, with keys and value gradients measured now. `norms` as in mal_edit_run(). */
bool mal_joint_teach(struct mal_joint_change *change, struct mal_normalizer *norms,
                     const struct mal_example *texts, size_t n,
                     struct mal_error *err) MAL_CHECK;
/* Texts of the system that give up their values (n, borrowed for the call): pinned texts
 * keep their keys, so that they get the origin's answers back; others leave the system,
 * with what is held for them (n_held), all or nothing. Both are measured as they were
 * when they joined, each by itself: among others keys may be off by their rounding. */
bool mal_joint_remove(struct mal_joint_change *change, const struct mal_example *texts,
                      const float *const *values, size_t n,
                      const struct mal_example *held, size_t n_held, bool pin,
                      struct mal_error *err) MAL_CHECK;
/* New texts whose outputs are to be the origin's: keys without values. */
bool mal_joint_hold(struct mal_joint_change *change, const struct mal_example *texts,
                    size_t n, struct mal_error *err) MAL_CHECK;
/* Texts of the system that are to be improved, with the values they have. */
bool mal_joint_reopen(struct mal_joint_change *change, const struct mal_example *texts,
                      const float *const *values, size_t n,
                      struct mal_error *err) MAL_CHECK;

/* mal_joint_teach() in two steps: between them the texts have their values, and the
 * system, which their keys join in the second, is as it was. */
bool mal_joint_teach_values(struct mal_joint_change *change, struct mal_normalizer *norms,
                            const struct mal_example *texts, size_t n,
                            struct mal_error *err) MAL_CHECK;
bool mal_joint_teach_keys(struct mal_joint_change *change,
                          struct mal_error *err) MAL_CHECK;

/* Adds to the values of texts taught or reopened (their numbers) the differences that
 * `diffs` makes of their keys and value gradients on the weights in use, which are the
 * edited ones. Values that diverge are MAL_NUMERIC: those of some modules may have been
 * added to then, and mal_joint_set_values() takes them back. */
bool mal_joint_improve(struct mal_joint_change *change, struct mal_edit_diffs *diffs,
                       const size_t *texts, size_t n, struct mal_error *err) MAL_CHECK;

/* What leads from the live weights to those of the change so far, as factors where they
 * pay. *out is owned by the caller. */
bool mal_joint_delta(struct mal_joint_change *change, struct mal_delta *out,
                     struct mal_error *err) MAL_CHECK;

/* The values of a text taught or reopened, as they are now; those of texts added at once
 * follow one another. */
const float *mal_joint_values(const struct mal_joint_change *change, size_t text);
/* They become these. On an error the change is only to be destroyed. */
bool mal_joint_set_values(struct mal_joint_change *change, size_t text,
                          const float *values, struct mal_error *err) MAL_CHECK;

#endif
