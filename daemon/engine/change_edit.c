/* change_edit.c - facts that are taught: in the system of all live facts, in one of their
 * own on the live weights, or in a single pass. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/edit.h"
#include "daemon/base/log.h"
#include "daemon/engine/change_measure.h"

/* ---- A single pass on the live weights ---- */

/* Of fewer facts the mean's gradients are larger than those the editor was trained on
 * (core/README.md section 2). */
static void warn_of_few(const struct mal_editor *editor, size_t n) {
    if (editor->loss != MAL_LOSS_MICROBATCH_MEAN || n >= (size_t)editor->micro_batch)
        return;
    mal_log("warning", "batch below the editor's micro-batch", "{s:I,s:I}", "facts",
            (json_int_t)n, "micro_batch", (json_int_t)editor->micro_batch);
}

static bool edit_once(struct mal_engine *engine, const struct mal_batch_edit *batch,
                      const struct mal_progress *progress, struct mal_change *change,
                      struct mal_error *err) {
    warn_of_few(engine->editor, batch->n);
    mal_weights_use(engine->ws, mal_weights_live(engine->ws));
    struct mal_edit_task task = {.model = engine->model,
                                 .tok = engine->tok,
                                 .editor = engine->editor,
                                 .norms = change->norms,
                                 .preserve = engine->preserve,
                                 .facts = batch->facts,
                                 .n_facts = batch->n,
                                 .progress = progress,
                                 .resume = batch->resume,
                                 .report = &change->report};
    if (!mal_edit_run(&task, &change->delta, err)) return false;
    double begin = mal_clock_seconds();
    bool ok = mal_weights_try(engine->ws, mal_weights_live(engine->ws), &change->delta,
                              mal_change_tick, (void *)progress, err);
    change->report.seconds[MAL_STAGE_APPLY] += mal_clock_seconds() - begin;
    if (ok) mal_weights_use_prepared(engine->ws);
    return ok;
}

/* ---- In a system ---- */

struct named {
    const char *prompt;
    size_t index;
};

static int by_prompt(const void *a, const void *b) {
    const struct named *x = a, *y = b;
    int order = strcmp(x->prompt, y->prompt);
    return order ? order : (x->index > y->index) - (x->index < y->index);
}

/* *out (n), owned: whether a later fact of the batch has the same prompt. */
static bool find_repeated(const struct mal_batch_edit *batch, bool **out,
                          struct mal_error *err) {
    struct named *names = mal_calloc(batch->n + 1, sizeof *names);
    bool *repeated = mal_calloc(batch->n + 1, sizeof *repeated);
    if (names && repeated) {
        for (size_t i = 0; i < batch->n; i++)
            names[i] = (struct named){batch->facts[i].prompt, i};
        qsort(names, batch->n, sizeof *names, by_prompt);
        for (size_t i = 0; i + 1 < batch->n; i++)
            repeated[names[i].index] = !strcmp(names[i].prompt, names[i + 1].prompt);
    }
    mal_free(names);
    *out = repeated;
    return (names && repeated) || mal_fail(err, MAL_NO_MEMORY, "facts");
}

/* Of several facts with one prompt the last is taught; it supersedes the others. */
static bool set_taught(struct mal_joint_run *run, const struct mal_batch_edit *batch,
                       struct mal_error *err) {
    struct mal_fact *facts = mal_calloc(batch->n + 1, sizeof *facts);
    int64_t *seqs = mal_calloc(batch->n + 1, sizeof *seqs);
    bool *repeated = NULL;
    size_t n = 0;
    bool ok = (facts && seqs) || mal_fail(err, MAL_NO_MEMORY, "facts");
    ok = ok && find_repeated(batch, &repeated, err);
    for (size_t i = 0; ok && i < batch->n; i++) {
        if (repeated[i]) continue;
        facts[n] = batch->facts[i];
        seqs[n++] = batch->seqs[i];
    }
    ok = ok && mal_fact_set_of_facts(&run->taught, run->engine->model, run->engine->tok,
                                     facts, seqs, n, err);
    mal_free(facts);
    mal_free(seqs);
    mal_free(repeated);
    return ok;
}

static int by_seq(const void *a, const void *b) {
    const struct mal_fact_row *x = a, *y = b;
    return (x->seq > y->seq) - (x->seq < y->seq);
}

/* One that several facts exclude is there once. */
static void drop_repeated(struct mal_fact_row *rows, size_t *n) {
    size_t kept = 0;
    if (*n > 1) qsort(rows, *n, sizeof *rows, by_seq);
    for (size_t i = 0; i < *n; i++) {
        if (kept && rows[kept - 1].seq == rows[i].seq) {
            mal_fact_row_finish(&rows[i]);
        } else {
            rows[kept++] = rows[i];
        }
    }
    *n = kept;
}

/* Members that cannot stay beside what is taught leave the system. */
static bool find_superseded(const struct mal_joint_run *run,
                            const struct mal_batch_edit *batch,
                            struct mal_fact_row **rows, size_t *n,
                            struct mal_error *err) {
    for (size_t i = 0; i < batch->n; i++) {
        struct mal_fact_row *found = NULL, *all;
        size_t n_found = 0;
        if (!mal_store_members_against(run->store, batch->seqs[i], &found, &n_found, err))
            return false;
        if (n_found == 0) continue;
        all = mal_realloc(*rows, (*n + n_found) * sizeof *all);
        if (!all) {
            mal_fact_rows_free(found, n_found);
            return mal_fail(err, MAL_NO_MEMORY, "superseded facts");
        }
        memcpy(all + *n, found, n_found * sizeof *found);
        mal_free(found);
        *rows = all;
        *n += n_found;
    }
    drop_repeated(*rows, n);
    return true;
}

static bool supersede(struct mal_joint_run *run, const struct mal_batch_edit *batch,
                      struct mal_error *err) {
    struct mal_fact_row *rows = NULL;
    size_t n = 0;
    bool ok = find_superseded(run, batch, &rows, &n, err) &&
              mal_fact_set_of_rows(&run->removed, run->engine->model, run->engine->tok,
                                   rows, n, err) &&
              (run->engine->repair_rounds == 0 || mal_joint_run_look(run, err)) &&
              mal_joint_run_remove(run, false, err);
    mal_fact_rows_free(rows, n);
    return ok;
}

/* known (batch->n) := how the prompts of the facts taught were verified last. */
static void take_scores(struct mal_joint_run *run, const struct mal_batch_edit *batch,
                        struct mal_score *known) {
    const struct mal_fact_set *set = &run->taught;
    for (size_t i = 0, k = 0; i < set->n; i++, k++) {
        struct mal_score *score = &run->repair.scores[set->of[i].first_text];
        while (batch->seqs[k] != set->of[i].seq)
            k++; /* it was superseded in the batch */
        known[k] = *score;
        score->tokens = NULL;
    }
}

static bool edit_in_system(struct mal_engine *engine, struct mal_store *store,
                           const struct mal_batch_edit *batch,
                           const struct mal_progress *progress, struct mal_change *change,
                           struct mal_score *known, struct mal_error *err) {
    struct mal_joint_run run = {.engine = engine,
                                .store = store,
                                .progress = progress,
                                .change = change,
                                .joint = engine->joint};
    bool ok = mal_joint_run_open(&run, err) && set_taught(&run, batch, err) &&
              mal_joint_run_teach(&run, err) &&
              (!run.joint || supersede(&run, batch, err)) &&
              mal_joint_run_solve(&run, mal_weights_live(engine->ws), err) &&
              mal_joint_run_keep(&run, err);
    if (ok) take_scores(&run, batch, known);
    mal_joint_run_finish(&run);
    return ok;
}

/* ---- Edits ---- */

/* The facts' own results where the single pass left them to be made of the scores. */
static bool add_results(struct mal_change *change, const struct mal_batch_edit *batch,
                        const struct mal_score *scores, struct mal_error *err) {
    if (change->facts) return true;
    if (!mal_change_room(change, batch->n, err)) return false;
    for (size_t i = 0; i < batch->n; i++) {
        if (!mal_change_add_result(change, batch->facts[i].id, scores, -1, 0, err))
            return false;
        scores += mal_fact_n_items(&batch->facts[i]);
    }
    return true;
}

static bool make(struct mal_engine *engine, struct mal_store *store,
                 const struct mal_batch_edit *batch,
                 const struct mal_agreement *agreement,
                 const struct mal_progress *progress, struct mal_change *change,
                 struct mal_error *err) {
    struct mal_measured measured = {0};
    bool system =
        engine->joint || (engine->repair_rounds > 0 && engine->editor->method->solves);
    struct mal_score *known = mal_calloc(batch->n + 1, sizeof *known);
    if (!known) return mal_fail(err, MAL_NO_MEMORY, "scores");
    bool ok = system ? edit_in_system(engine, store, batch, progress, change, known, err)
                     : edit_once(engine, batch, progress, change, err);
    if (ok) mal_change_give_delta(change);
    ok = ok && mal_change_seal(engine, progress, change, err) &&
         mal_measured_make(&measured, engine, batch->facts, batch->n, known, agreement,
                           batch->gate, progress, change, err) &&
         add_results(change, batch, measured.scores, err) &&
         mal_measured_report(&measured, batch, batch->gate, change, err) &&
         mal_change_fill_row(engine, store, true, change, err);
    mal_measured_finish(&measured);
    mal_scores_free(known, batch->n);
    return ok;
}

bool mal_engine_edit(struct mal_engine *engine, struct mal_store *store,
                     const struct mal_batch_edit *batch,
                     const struct mal_agreement *agreement, int64_t now_ms,
                     const struct mal_progress *progress, struct mal_change *out,
                     struct mal_error *err) {
    struct mal_change change;
    mal_change_begin(engine, MAL_VERSION_EDIT, now_ms, &change);
    change.row.n_facts = (int64_t)batch->n;
    change.report.n_facts = batch->n;
    change.stager = batch->stager;
    change.rejected = batch->rejected;
    change.n_rejected = batch->n_rejected;
    bool ok = mal_change_copy_norms(engine, &change, err) &&
              make(engine, store, batch, agreement, progress, &change, err);
    return mal_change_end(engine, ok, &change, out);
}
