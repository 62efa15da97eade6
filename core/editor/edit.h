/* edit.h - one batch of facts, from text to the delta that teaches them. */
#ifndef MAL_EDIT_H
#define MAL_EDIT_H

#include "core/delta.h"
#include "core/editor/editor.h"
#include "core/facts.h"
#include "core/tokenizer/tokenizer.h"

enum mal_stage {
    MAL_STAGE_TOKENIZE,
    MAL_STAGE_FORWARD, /* forward and backward of the micro-batches */
    MAL_STAGE_BACKWARD,
    MAL_STAGE_HYPERNET,
    MAL_STAGE_GRAM,
    MAL_STAGE_SOLVE,
    MAL_STAGE_APPLY,
    MAL_STAGE_HASH,
    MAL_STAGE_VERIFY,
    MAL_STAGE_PERSIST,
    MAL_STAGE_SEARCH, /* of a step for an editor, before all the others */
    MAL_N_STAGES
};

const char *mal_stage_name(enum mal_stage stage);

enum mal_observed { MAL_OBSERVED_KEYS, MAL_OBSERVED_GRADIENTS, MAL_OBSERVED_DIFFERENCES };

/* Called between slices of device work (tens of milliseconds): the place where reads are
 * served. false: give up with MAL_CANCELLED. */
struct mal_progress {
    bool (*tick)(void *arg, enum mal_stage stage, int64_t done, int64_t total);
    void *arg;
    /* Tokens of a pass through the model between two ticks; 0: as many as compute best,
     * which is longer than a reader should wait. Only a loss that is a token_sum can be
     * cut freely. */
    int64_t slice_tokens;
    /* For tests and experiments, NULL otherwise: each edit module's rows as they come to
     * be, in device memory: keys (rows, d_in), value gradients and value differences
     * (rows, d_out). */
    void (*observe)(void *arg, enum mal_observed what, size_t module, int64_t rows,
                    const float *data);
};

struct mal_edit_report {
    size_t n_facts;
    int64_t n_tokens;       /* rows per edit module */
    int64_t n_input_tokens; /* tokens run through the model */
    double loss;            /* mean of -log p per target token before the edit */
    double seconds[MAL_N_STAGES];
};

/* `norms` NULL: the editor's statistics are used as they are (MALMEN, MEND in service).
 * Otherwise one per shape of the editor, in its order: the batch is taken into them
 * before it is edited with them. So UltraEdit works, whose statistics are state of the
 * live version; so an untrained editor gets its first ones. On an error they may have
 * changed. */
bool mal_edit_run(struct mal_model *model, const struct mal_tokenizer *tok,
                  const struct mal_editor *editor, struct mal_normalizer *norms,
                  const struct mal_fact *facts, size_t n_facts,
                  const struct mal_progress *progress, struct mal_delta *out,
                  struct mal_edit_report *report, struct mal_error *err) MAL_CHECK;

#endif
