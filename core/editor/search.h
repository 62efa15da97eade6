/* search.h - the step size of an editor that nobody trained (core/README.md 3.4).
 *
 * A shift is linear in the step, so one measurement and one solve serve every step:
 * powers of two are scored by ES + GS + LS, teacher-forced, on the facts themselves, then
 * half powers beside the best. */
#ifndef MAL_SEARCH_H
#define MAL_SEARCH_H

#include "core/editor/edit.h"
#include "core/eval.h"

struct mal_search_point {
    double exponent; /* lr = 2^exponent */
    double score;    /* ES + GS + LS, what is not there counts 0 */
    struct mal_measures measures;
};

enum { MAL_SEARCH_POINTS = 64 };

struct mal_search_report {
    struct mal_measures before;
    struct mal_search_point points[MAL_SEARCH_POINTS]; /* in the order they were tried */
    size_t n_points;
    size_t best;
};

/* Sets the step of `editor` (bound to `model`, which must read its base weights, also
 * after a tick) and, for MALMEN and MEND, its statistics, both from `facts`. Ticks are of
 * MAL_STAGE_SEARCH, done: the steps tried. */
bool mal_editor_search(struct mal_editor *editor, struct mal_model *model,
                       const struct mal_tokenizer *tok, const struct mal_fact *facts,
                       size_t n_facts, const struct mal_progress *progress,
                       struct mal_search_report *report, struct mal_error *err) MAL_CHECK;

/* The same step for every module. */
void mal_editor_set_lr(struct mal_editor *editor, double lr);

#endif
