/* untrained_step.h - the steps at which an editor's untrained form moves values as far as
 * the editor does. */
#ifndef MAL_UNTRAINED_STEP_H
#define MAL_UNTRAINED_STEP_H

#include "core/editor/edit_diffs.h"

/* A step means nothing across editors: a trained network scales it. Of an editor without
 * blocks they are its own, of each module; else all are the norm of the value differences
 * that the editor makes of `texts` over that of its untrained form's at a step of 1. The
 * model must read its base weights, also after a tick. `norms` as for
 * mal_edit_diffs_create(). Not MEND's. `trunk` (may be NULL) keeps the texts' states.
 * `steps` (n_modules).
 */
bool mal_untrained_steps(struct mal_model *model, struct mal_trunk *trunk,
                         const struct mal_editor *editor,
                         const struct mal_normalizer *norms,
                         const struct mal_example *texts, size_t n,
                         const struct mal_progress *progress, float *steps,
                         struct mal_error *err) MAL_CHECK;

#endif
