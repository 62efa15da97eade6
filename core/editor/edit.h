/* edit.h - one batch of facts, from text to the delta that teaches them. */
#ifndef MAL_EDIT_H
#define MAL_EDIT_H

#include "core/delta.h"
#include "core/editor/editor.h"
#include "core/editor/preserve.h"
#include "core/editor/resume.h"
#include "core/facts.h"
#include "core/tokenizer/tokenizer.h"

/* All borrowed. */
struct mal_edit_task {
    struct mal_model *model; /* on the weights in use, to which the delta is to be added;
                              * the same are in use afterwards */
    const struct mal_tokenizer *tok;
    const struct mal_editor *editor; /* bound to it */
    /* Of a keyed method. NULL: the editor's statistics are used as they are (MALMEN, MEND
     * in service). Otherwise one per shape of the editor, in its order: the batch is
     * taken into them before it is edited with them. So UltraEdit works, whose statistics
     * are state of the live version; so an untrained editor gets its first ones. On an
     * error they may have changed. */
    struct mal_normalizer *norms;
    const struct mal_preserve *preserve; /* NULL: nothing, whatever the editor carries */
    const struct mal_fact *facts;
    size_t n_facts;
    const struct mal_progress *progress; /* NULL: nobody listens */
    const struct mal_resume *resume;     /* of a method that trains; NULL: nowhere */
    struct mal_edit_report *report;      /* out */
};

bool mal_edit_run(const struct mal_edit_task *task, struct mal_delta *out,
                  struct mal_error *err) MAL_CHECK;

#endif
