/* preserve.h - preservation keys: per edit module the Gram matrix K0'K0 of the keys of
 * texts whose answers must not move, added to the system of every solve (core/README.md
 * section 3). */
#ifndef MAL_PRESERVE_H
#define MAL_PRESERVE_H

#include "core/editor/editor.h"
#include "core/editor/progress.h"

#define MAL_PRESERVE_SHARE 0.5 /* default: the keys count as 0.5 d_in edit tokens */

/* Modules in the order of mal_model_edit(). */
struct mal_preserve {
    struct mal_backend *be; /* borrowed */
    int64_t n_keys[2];      /* of modules whose rows are not the source's, and are */
    size_t n_modules;
    double **gram;  /* per module (d_in, d_in), lower triangle, device, owned */
    double *weight; /* (n_modules) w of w K0'K0, owned */
};

/* What edits with `editor`, bound to `model`, which must read its base weights, are to
 * preserve: `texts` if they are given, else what the editor carries; `share` (NaN: the
 * editor's own weights, or MAL_PRESERVE_SHARE) is n_keys w / d_in. *out is NULL where
 * there is nothing: no texts, or a share of 0. MEND solves no system: texts or a share
 * for it are MAL_INVALID. Ticks go by MAL_STAGE_FORWARD. */
bool mal_preserve_create(struct mal_preserve **out, struct mal_model *model,
                         const struct mal_editor *editor,
                         const struct mal_preserve_texts *texts, double share,
                         const struct mal_progress *progress,
                         struct mal_error *err) MAL_CHECK;
void mal_preserve_destroy(struct mal_preserve *preserve); /* takes NULL */

/* Of module m, for struct mal_solve; `preserve` may be NULL. */
const double *mal_preserve_gram(const struct mal_preserve *preserve, size_t m);
double mal_preserve_weight(const struct mal_preserve *preserve, size_t m);

#endif
