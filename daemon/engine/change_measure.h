/* change_measure.h - measuring a prepared change, for the files that make changes. */
#ifndef MAL_CHANGE_MEASURE_H
#define MAL_CHANGE_MEASURE_H

#include "daemon/engine/change_impl.h"

struct mal_measured {
    struct mal_score *scores; /* (n_scores) of all items of the facts, owned */
    size_t n_scores;
    struct mal_gate_numbers numbers;
};

/* Measures the sealed weights, which are in use: fills change->measures and the gate's
 * verdict. `known` as for mal_score_facts(). mal_measured_finish() also after a failure.
 */
bool mal_measured_make(struct mal_measured *out, struct mal_engine *engine,
                       const struct mal_fact *facts, size_t n, struct mal_score *known,
                       const struct mal_agreement *agreement, const struct mal_gate *gate,
                       const struct mal_progress *progress, struct mal_change *change,
                       struct mal_error *err) MAL_CHECK;
/* What the live version measures, as another change's numbers are. */
bool mal_measured_live(struct mal_engine *engine, const struct mal_fact *facts, size_t n,
                       const struct mal_agreement *agreement, const struct mal_gate *gate,
                       const struct mal_progress *progress, struct mal_measures *out,
                       struct mal_gate_numbers *out_numbers,
                       struct mal_error *err) MAL_CHECK;
/* The results of the batch's jobs into the change. */
bool mal_measured_report(const struct mal_measured *measured,
                         const struct mal_batch_edit *batch, const struct mal_gate *gate,
                         struct mal_change *change, struct mal_error *err) MAL_CHECK;
void mal_measured_finish(struct mal_measured *measured);

/* The result of the change's next job; takes over `result`, NULL being out of memory. */
bool mal_change_add_job(struct mal_change *change, json_t *result,
                        struct mal_error *err) MAL_CHECK;

#endif
