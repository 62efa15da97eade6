/* joint.h - all facts in one system (core/README.md section 3): a stream of batches whose
 * shift from the base is solved anew over everything after each, instead of added up.
 *
 * Per edit module A = sum u'u + w K0'K0 + e^lamda I and V = sum u'd in fp64, with keys u
 * and differences d always measured on the base weights, and S = A^-1 V. For MEND, which
 * solves nothing, S is the sum of its outer products. The order of the batches, and how
 * facts are cut into them, does not matter but for rounding. */
#ifndef MAL_JOINT_H
#define MAL_JOINT_H

#include "core/delta.h"
#include "core/editor/preserve.h"
#include "core/facts.h"

struct mal_joint;

/* No facts yet. `editor` must be bound to `model`; all are borrowed, `preserve` (NULL:
 * nothing) only during the call. */
bool mal_joint_create(struct mal_joint **out, struct mal_model *model,
                      const struct mal_editor *editor,
                      const struct mal_preserve *preserve,
                      struct mal_error *err) MAL_CHECK;
void mal_joint_destroy(struct mal_joint *joint); /* takes NULL */

/* Takes facts in; the model must read its base weights. `norms` as in mal_edit_run(). On
 * an error the sums may hold a part of the batch: the joint is only to be destroyed. */
bool mal_joint_add(struct mal_joint *joint, const struct mal_tokenizer *tok,
                   struct mal_normalizer *norms, const struct mal_fact *facts,
                   size_t n_facts, const struct mal_progress *progress,
                   struct mal_edit_report *report, struct mal_error *err) MAL_CHECK;

/* The whole difference from the base weights, dense; time is added to `report`. */
bool mal_joint_solve(struct mal_joint *joint, const struct mal_progress *progress,
                     struct mal_delta *out, struct mal_edit_report *report,
                     struct mal_error *err) MAL_CHECK;

#endif
