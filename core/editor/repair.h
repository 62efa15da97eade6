/* repair.h - a change of the facts, solved again until the facts are verified
 * (core/README.md section 3).
 *
 * After the solve every text is scored with one forward pass. One fails where a target
 * token is not the argmax, or less probable than tau. For those that fail, and only
 * those, the differences that the editor's untrained form makes of their keys and
 * gradients on the edited weights are added to their values, and the system is solved
 * again. */
#ifndef MAL_REPAIR_H
#define MAL_REPAIR_H

#include "core/editor/joint_change.h"
#include "core/eval.h"

#define MAL_REPAIR_ROUNDS 4
#define MAL_REPAIR_TAU    0.9

struct mal_repair {
    struct mal_joint_change *change;
    struct mal_weights_state *ws; /* of the model; what the change is tried in */
    const struct mal_editor *editor;
    const struct mal_normalizer *norms; /* as in mal_edit_run() */
    int64_t origin;                     /* version whose weights keys are measured on */
    int64_t basis;                      /* version that the change's shift is added to */
    int64_t max_rounds;                 /* 0: the single pass */
    double tau;
    const struct mal_progress *progress;
    struct mal_edit_report *report;

    /* What is scored: texts that the change taught, whose numbers there begin with
     * `first_taught`, and texts that are in the live weights. */
    const struct mal_example *taught, *others;
    size_t first_taught, n_taught, n_others;
    /* The values of others[i] as they are in the live weights. */
    bool (*load)(void *arg, size_t i, float *values, struct mal_error *err);
    void *load_arg;
    /* Told, before it is tried and scored, of a delta that no round can change any more:
     * where there are none. It may note hashes in it. NULL: nobody asks. */
    void (*decided)(void *arg, struct mal_delta *delta);
    void *decided_arg;

    /* Out. After a failure, too, mal_repair_finish(). */
    struct mal_delta delta;   /* tried in ws, not sealed */
    struct mal_score *scores; /* (n_taught + n_others) on those weights */
    int32_t *rounds;          /* (n_taught + n_others) in how many a text was repaired */
    size_t *numbers; /* (n_taught + n_others) in the change; SIZE_MAX: not touched */
    int64_t n_rounds;
};

/* Whether a text is right by the margin. */
bool mal_repair_passes(const struct mal_score *score, double tau);
/* Whether all of them are: the texts of one fact. */
bool mal_repair_all_pass(const struct mal_score *scores, size_t n, double tau);

/* From a change that holds what was asked for to the weights that are best: the fewest
 * wrong answers, then the fewest texts that fail, then the least that their tokens' log
 * probabilities lack of log tau, of all rounds. A round that leads to what is not finite
 * ends them. They are in use afterwards; what is in use after a failure is not said. */
bool mal_repair_run(struct mal_repair *repair, struct mal_error *err) MAL_CHECK;
void mal_repair_finish(struct mal_repair *repair);

#endif
