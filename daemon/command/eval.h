/* eval.h - edits facts batch by batch and measures what became of them: before, right
 * after each batch, and over everything edited so far. */
#ifndef MAL_DAEMON_EVAL_H
#define MAL_DAEMON_EVAL_H

#include "core/eval.h"
#include "daemon/command/teacher.h"

struct mal_eval_plan {
    const struct mal_fact *facts; /* (n_facts) to be edited, in order; borrowed */
    size_t n_facts;
    size_t n_edits; /* facts of a batch; the last one may have fewer */
    struct mal_teacher_options teacher;
    bool reset;  /* back to the base before each batch */
    bool silent; /* no progress bar */
};

struct mal_eval_batch {
    size_t first, n_facts;
    int64_t n_tokens;              /* edit tokens */
    int64_t n_rounds;              /* of repair */
    double seconds[MAL_N_STAGES];  /* of the edit, repair included */
    double seconds_measuring;      /* what was measured then */
    struct mal_measures measures;  /* its own facts, right after it */
    struct mal_measures retention; /* all facts up to here, then; unless reset */
};

/* Scores stand fact by fact, each with the items of mal_fact_n_items(). */
struct mal_eval {
    struct mal_measures before, after; /* after: each batch's facts right after it */
    struct mal_score *before_scores, *after_scores; /* (n_items) */
    size_t *first_item;                             /* (n_facts + 1) */
    size_t n_items;
    struct mal_eval_batch *batches;
    size_t n_batches;
};

/* `wb` has its editor bound and reads its base weights; afterwards it reads the last
 * batch's. *out is to be finished after a failure, too. */
bool mal_eval_run(struct mal_workbench *wb, const struct mal_eval_plan *plan,
                  struct mal_eval *out, struct mal_error *err) MAL_CHECK;
void mal_eval_finish(struct mal_eval *eval); /* takes a zeroed one */

#endif
