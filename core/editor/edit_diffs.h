/* edit_diffs.h - rows to value differences through an editor's networks (core/README.md
 * section 3, steps 1 to 6). */
#ifndef MAL_EDIT_DIFFS_H
#define MAL_EDIT_DIFFS_H

#include "core/editor/edit_rows.h"

struct mal_edit_diffs; /* one network per shape and their scratch */

/* `norms` (n_shapes): statistics instead of the editor's own, or NULL; those used must
 * not change while it lives, nor may the editor. */
bool mal_edit_diffs_create(struct mal_edit_diffs **out, const struct mal_editor *editor,
                           const struct mal_normalizer *norms, struct mal_backend *be,
                           struct mal_error *err) MAL_CHECK;
/* The editor's untrained form for repair: the identity network with the editor's
 * statistics (or `norms`) and `steps` (n_modules); but gradients are not centred, so that
 * the differences of what is nearly right vanish with its gradient. Not MEND's. */
bool mal_edit_diffs_create_untrained(struct mal_edit_diffs **out,
                                     const struct mal_editor *editor,
                                     const struct mal_normalizer *norms,
                                     const float *steps, struct mal_backend *be,
                                     struct mal_error *err) MAL_CHECK;
void mal_edit_diffs_destroy(struct mal_edit_diffs *diffs); /* takes NULL */

/* Module `m` of measured rows, in place: g becomes the value difference d; for MEND u and
 * g become the network's u_hat and g_hat. */
bool mal_edit_diffs_run(struct mal_edit_diffs *diffs, struct mal_edit_rows *rows,
                        size_t m, struct mal_error *err) MAL_CHECK;

#endif
