/* untrained_step.h - the step at which an editor's untrained form moves values as far as
 * the editor does. */
#ifndef MAL_UNTRAINED_STEP_H
#define MAL_UNTRAINED_STEP_H

#include "core/editor/edit_diffs.h"

/* A step means nothing across editors: a trained network scales it. For an editor without
 * blocks it is the editor's own; else the norm of the value differences that the editor
 * makes of `texts` over that of its untrained form's at a step of 1. The model must read
 * its base weights, also after a tick. `norms` as for mal_edit_diffs_create(). Not
 * MEND's. `trunk` (may be NULL) keeps the texts' states.
 */
bool mal_untrained_step(struct mal_model *model, struct mal_trunk *trunk,
                        const struct mal_editor *editor,
                        const struct mal_normalizer *norms,
                        const struct mal_example *texts, size_t n,
                        const struct mal_progress *progress, double *out,
                        struct mal_error *err) MAL_CHECK;

#endif
