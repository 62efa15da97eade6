/* change_life.c - changes that teach nothing new: facts taken back, facts repaired, and
 * all of them solved anew from the base. */
#include <string.h>

#include "core/alloc.h"
#include "daemon/engine/change_measure.h"
#include "daemon/engine/measures.h"

static struct mal_joint_run begin_run(struct mal_engine *engine, struct mal_store *store,
                                      const struct mal_progress *progress,
                                      struct mal_change *change) {
    return (struct mal_joint_run){.engine = engine,
                                  .store = store,
                                  .progress = progress,
                                  .change = change,
                                  .joint = true};
}

/* Facts may be live that a daemon without one has not taught: a backup's, say. */
static bool need_editor(const struct mal_engine *engine, struct mal_error *err) {
    return engine->editor ||
           mal_fail(err, MAL_CONFLICT,
                    "there is no editor to change live facts with: serve with the one "
                    "that taught them (--editor), or teach another fact first");
}

/* ---- Retraction ---- */

static bool read_retracted(struct mal_joint_run *run, const struct mal_retraction *facts,
                           size_t n, struct mal_error *err) {
    struct mal_fact_row *rows = mal_calloc(n + 1, sizeof *rows);
    bool ok = rows || mal_fail(err, MAL_NO_MEMORY, "facts");
    for (size_t i = 0; ok && i < n; i++) {
        ok = mal_store_get_fact(run->store, facts[i].id, &rows[i], err);
        if (ok && !mal_fact_retractable(&rows[i], facts[i].pin)) {
            ok = mal_fail(err, MAL_CONFLICT, "%s is not live: it is %s", facts[i].id,
                          mal_fact_state_name(rows[i].state));
        }
    }
    ok = ok && mal_fact_set_of_rows(&run->removed, run->engine->model, run->engine->tok,
                                    rows, n, err);
    for (size_t i = 0; rows && i < n; i++)
        mal_fact_row_finish(&rows[i]);
    mal_free(rows);
    return ok;
}

/* No fact is left that teaches anything: the base itself, to the bit, with a keyframe
 * that says so. */
static bool return_to_base(struct mal_engine *engine, struct mal_change *change,
                           struct mal_error *err) {
    change->row.keyframe = true;
    if (!mal_weights_prepare_return(engine->ws, 0, err)) return false;
    mal_weights_use_prepared(engine->ws);
    return true;
}

static bool retract(struct mal_joint_run *run, const struct mal_retraction *facts,
                    size_t n, struct mal_error *err) {
    struct mal_engine *engine = run->engine;
    if (!need_editor(engine, err) || !mal_change_copy_norms(engine, run->change, err) ||
        !mal_joint_run_open(run, err) || !read_retracted(run, facts, n, err) ||
        !mal_joint_run_look(run, err) || !mal_joint_run_remove(run, facts[0].pin, err))
        return false;
    if (run->n_live == 0) return return_to_base(engine, run->change, err);
    return mal_joint_run_solve(run, mal_weights_live(engine->ws), err) &&
           mal_joint_run_keep(run, err) &&
           mal_change_seal(engine, run->progress, run->change, err);
}

static bool add_counts(struct mal_change *change, size_t n_facts, struct mal_error *err) {
    return mal_change_add_job(
        change,
        json_pack("{s:I,s:I,s:I,s:o}", "facts", (json_int_t)n_facts, "rounds",
                  (json_int_t)change->n_rounds, "wrong_others",
                  (json_int_t)change->n_wrong_others, "seconds",
                  mal_seconds_json(change->report.seconds, MAL_STAGE_PERSIST)),
        err);
}

bool mal_engine_retract(struct mal_engine *engine, struct mal_store *store,
                        const struct mal_retraction *facts, size_t n, int64_t now_ms,
                        const struct mal_progress *progress, struct mal_change *out,
                        struct mal_error *err) {
    struct mal_change change;
    if (!mal_engine_need_joint(engine->joint, err)) return false;
    mal_change_begin(engine, MAL_VERSION_RETRACTION, now_ms, &change);
    change.retracted = facts;
    change.n_retracted = n;
    struct mal_joint_run run = begin_run(engine, store, progress, &change);
    bool ok = retract(&run, facts, n, err);
    mal_joint_run_finish(&run);
    ok = ok && add_counts(&change, n, err) &&
         mal_change_fill_row(engine, store, true, &change, err);
    return mal_change_end(engine, ok, &change, out);
}

/* ---- The gate of what nobody asked for ---- */

/* The prepared weights, sealed and in use, on those facts, against what is live. */
static bool judge(struct mal_joint_run *run, const struct mal_fact_set *set,
                  const struct mal_agreement *agreement,
                  const struct mal_gate_numbers *before, bool no_worse, json_t **verdict,
                  struct mal_error *err) {
    struct mal_engine *engine = run->engine;
    struct mal_measured measured;
    struct mal_gate gate;
    mal_gate_init_upkeep(&gate, mal_engine_gate(engine), before, no_worse);
    bool ok = mal_measured_make(&measured, engine, set->facts, set->n, NULL, agreement,
                                &gate, run->progress, run->change, err);
    if (ok) *verdict = mal_gate_json(&gate, &measured.numbers);
    mal_measured_finish(&measured);
    return ok && (*verdict || mal_fail(err, MAL_NO_MEMORY, "the gate's verdict"));
}

/* ---- Repair ---- */

/* How facts are: wrong, which their prompts say, and failing, which is what any of their
 * texts does that repair is for. */
struct tally {
    size_t wrong, failing;
};

static struct tally count(const struct mal_joint_run *run,
                          const struct mal_score *scores) {
    const struct mal_fact_set *set = &run->others;
    struct tally tally = {0};
    for (size_t i = 0; i < set->n; i++) {
        const struct mal_score *score = &scores[set->of[i].first_text];
        tally.wrong += !score->correct;
        tally.failing +=
            !mal_repair_all_pass(score, set->of[i].n_texts, run->engine->repair_tau);
    }
    return tally;
}

static bool is_better(struct tally now, struct tally was) {
    return now.wrong < was.wrong || (now.wrong == was.wrong && now.failing < was.failing);
}

static bool count_live(struct mal_joint_run *run, struct tally *out,
                       struct mal_error *err) {
    struct mal_verify_tick tick = {.progress = run->progress};
    const struct mal_fact_set *set = &run->others;
    struct mal_score *scores = mal_calloc(set->n_texts + 1, sizeof *scores);
    if (!scores) return mal_fail(err, MAL_NO_MEMORY, "scores");
    mal_weights_use(run->engine->ws, mal_weights_live(run->engine->ws));
    bool ok = set->n_texts == 0 ||
              mal_score_examples(run->engine->model, NULL, set->texts, set->n_texts,
                                 mal_verify_tick, &tick, scores, err);
    if (ok) *out = count(run, scores);
    mal_scores_free(scores, set->n_texts);
    return ok;
}

/* A repair that helps, its weights sealed. As with what a batch teaches, what facts it
 * puts right may cost other answers, up to the daemon's limits; what it makes more
 * certain of itself may cost none. */
static bool judge_repair(struct mal_joint_run *run, bool no_worse,
                         struct mal_error *err) {
    struct mal_engine *engine = run->engine;
    const struct mal_fact_set *set = &run->others;
    struct mal_agreement agreement = {0};
    struct mal_measures was;
    struct mal_gate_numbers before;
    json_t *verdict = NULL;
    bool ok =
        mal_engine_ask(engine, set->facts, set->n, run->progress, &agreement, err) &&
        mal_measured_live(engine, set->facts, set->n, &agreement, mal_engine_gate(engine),
                          run->progress, &was, &before, err);
    mal_weights_use_prepared(engine->ws);
    ok = ok && judge(run, set, &agreement, &before, no_worse, &verdict, err) &&
         mal_change_add_job(run->change, json_pack("{s:O}", "gate", verdict), err);
    json_decref(verdict);
    mal_agreement_finish(&agreement);
    return ok;
}

bool mal_engine_repair(struct mal_engine *engine, struct mal_store *store,
                       const int64_t *facts, size_t n, int64_t now_ms,
                       const struct mal_progress *progress, struct mal_change *out,
                       struct mal_error *err) {
    struct mal_change change;
    struct tally before = {0}, after = {0};
    if (!mal_engine_need_joint(engine->joint, err)) return false;
    mal_change_begin(engine, MAL_VERSION_REPAIR, now_ms, &change);
    struct mal_joint_run run = begin_run(engine, store, progress, &change);
    run.sought = facts;
    run.n_sought = n;
    bool ok = need_editor(engine, err) && mal_change_copy_norms(engine, &change, err) &&
              mal_joint_run_open(&run, err) && mal_joint_run_look(&run, err) &&
              count_live(&run, &before, err) &&
              mal_joint_run_solve(&run, mal_weights_live(engine->ws), err) &&
              mal_joint_run_keep(&run, err) &&
              mal_change_seal(engine, progress, &change, err);
    if (ok) after = count(&run, run.repair.scores);
    change.passes = is_better(after, before);
    ok = ok && (!change.passes || judge_repair(&run, before.wrong == 0, err));
    mal_joint_run_finish(&run);
    ok = ok && mal_change_fill_row(engine, store, true, &change, err);
    return mal_change_end(engine, ok, &change, out);
}

/* ---- Scrubbing ---- */

void mal_scrubbed_finish(struct mal_scrubbed *scrubbed) {
    for (size_t i = 0; i < scrubbed->n_results; i++) {
        mal_free((char *)scrubbed->results[i].id);
        mal_free((char *)scrubbed->results[i].verified_json);
    }
    *scrubbed = (struct mal_scrubbed){0};
}

/* Only what has become another verdict is told, so that who looks writes no more than
 * there is to write. */
static bool note_fact(const struct mal_fact_set *set, size_t i,
                      const struct mal_score *scores, double tau,
                      struct mal_scrubbed *out, struct mal_error *err) {
    const struct mal_set_fact *of = &set->of[i];
    const struct mal_score *score = &scores[of->first_text];
    bool certain = mal_repair_all_pass(score, of->n_texts, tau);
    out->n++;
    if (!score->correct) out->wrong[out->n_wrong++] = of->seq;
    if (!certain) out->failing[out->n_failing++] = of->seq;
    if (of->measured && of->decoded == score->correct && of->certain == certain)
        return true;
    return mal_fact_result_make(&out->results[out->n_results++], set->facts[i].id, score,
                                certain, of->rounds, err);
}

bool mal_engine_scrub(struct mal_engine *engine, struct mal_store *store, int64_t after,
                      bool (*tick)(void *), void *tick_arg, struct mal_scrubbed *out,
                      struct mal_error *err) {
    struct mal_fact_row *rows = NULL;
    struct mal_score *scores = NULL;
    struct mal_fact_set set = {0};
    size_t n_rows = 0;
    *out = (struct mal_scrubbed){0};
    if (!mal_store_members(store, after, MAL_SCRUB_FACTS, &rows, &n_rows, err))
        return false;
    bool ok = mal_fact_set_of_rows(&set, engine->model, engine->tok, rows, n_rows, err);
    if (ok && n_rows > 0) {
        out->last = rows[n_rows - 1].seq;
        scores = mal_calloc(set.n_texts, sizeof *scores);
        ok = scores || mal_fail(err, MAL_NO_MEMORY, "scores");
        mal_weights_use(engine->ws, mal_weights_live(engine->ws));
        ok = ok && mal_score_examples(engine->model, NULL, set.texts, set.n_texts, tick,
                                      tick_arg, scores, err);
    }
    for (size_t i = 0; ok && i < set.n; i++) {
        if (!set.of[i].pinned)
            ok = note_fact(&set, i, scores, engine->repair_tau, out, err);
    }
    mal_scores_free(scores, set.n_texts);
    mal_fact_set_finish(&set);
    mal_fact_rows_free(rows, n_rows);
    return ok;
}

/* ---- Consolidation ---- */

/* All live facts are what is taught; pinned ones stay keys. */
static bool read_members(struct mal_joint_run *run, struct mal_fact_set *pinned,
                         struct mal_error *err) {
    struct mal_fact_row *rows = NULL;
    size_t n = 0, n_live = 0;
    if (!mal_store_members(run->store, 0, SIZE_MAX, &rows, &n, err)) return false;
    for (size_t i = 0; i < n; i++) { /* the live ones to the front, in their order */
        if (rows[i].pinned) continue;
        struct mal_fact_row row = rows[i];
        memmove(rows + n_live + 1, rows + n_live, (i - n_live) * sizeof row);
        rows[n_live++] = row;
    }
    const struct mal_engine *engine = run->engine;
    bool ok = mal_fact_set_of_rows(&run->taught, engine->model, engine->tok, rows, n_live,
                                   err) &&
              mal_fact_set_of_rows(pinned, engine->model, engine->tok, rows + n_live,
                                   n - n_live, err);
    mal_fact_rows_free(rows, n);
    return ok;
}

/* A system of its own in place of the daemon's, so that there are never two. */
static bool open_anew(struct mal_joint_run *run, struct mal_fact_set *pinned,
                      struct mal_error *err) {
    struct mal_engine *engine = run->engine;
    struct mal_members *members = &engine->members;
    mal_members_drop(members);
    if (!mal_joint_create(&members->joint, engine->model, engine->editor,
                          engine->preserve, engine->joint_memory, err) ||
        !mal_members_reserve(members, pinned->n, err))
        return false;
    mal_weights_use(engine->ws, 0);
    if (!mal_fact_set_hold(pinned, engine->model, engine->tok, true, run->progress,
                           err) ||
        !mal_joint_add_keys(members->joint, pinned->texts, pinned->n_texts, pinned->held,
                            pinned->n_held, 1, run->progress, err))
        return false;
    for (size_t i = 0; i < pinned->n; i++)
        mal_members_note(members, pinned->of[i].seq, true, true);
    run->system = members->joint;
    return mal_joint_change_create(&run->solving, run->system, NULL, run->progress,
                                   &run->change->report, err);
}

/* `verdict`: the gate's, owned. */
static bool consolidate(struct mal_joint_run *run, struct mal_measures *was,
                        json_t **verdict, struct mal_error *err) {
    struct mal_engine *engine = run->engine;
    struct mal_fact_set pinned = {0};
    struct mal_agreement agreement = {0};
    bool ok = read_members(run, &pinned, err);
    if (ok && run->taught.n == 0)
        ok = mal_fail(err, MAL_CONFLICT, "there are no live facts to consolidate");
    ok = ok && need_editor(engine, err) &&
         mal_change_new_norms(engine, run->change, err) &&
         mal_engine_ask(engine, run->taught.facts, run->taught.n, run->progress,
                        &agreement, err);
    struct mal_gate_numbers before;
    ok = ok &&
         mal_measured_live(engine, run->taught.facts, run->taught.n, &agreement,
                           mal_engine_gate(engine), run->progress, was, &before, err);
    ok = ok && open_anew(run, &pinned, err) && mal_joint_run_teach(run, err) &&
         mal_joint_run_solve(run, 0, err) && mal_joint_run_keep(run, err) &&
         mal_change_seal(engine, run->progress, run->change, err) &&
         judge(run, &run->taught, &agreement, &before, true, verdict, err);
    mal_agreement_finish(&agreement);
    mal_fact_set_finish(&pinned);
    return ok;
}

bool mal_engine_consolidate(struct mal_engine *engine, struct mal_store *store,
                            int64_t now_ms, const struct mal_progress *progress,
                            struct mal_change *out, struct mal_error *err) {
    struct mal_change change;
    struct mal_measures was = {0};
    if (!mal_engine_need_joint(engine->joint, err)) return false;
    mal_change_begin(engine, MAL_VERSION_CONSOLIDATION, now_ms, &change);
    struct mal_joint_run run = begin_run(engine, store, progress, &change);
    json_t *verdict = NULL;
    bool ok = consolidate(&run, &was, &verdict, err);
    size_t n = run.taught.n;
    mal_joint_run_finish(&run);
    ok = ok &&
         mal_change_add_job(
             &change,
             json_pack("{s:I,s:I,s:o,s:o,s:O,s:o}", "facts", (json_int_t)n, "rounds",
                       (json_int_t)change.n_rounds, "before", mal_measures_json(&was),
                       "measures", mal_measures_json(&change.measures), "gate", verdict,
                       "seconds",
                       mal_seconds_json(change.report.seconds, MAL_STAGE_PERSIST)),
             err) &&
         mal_change_fill_row(engine, store, true, &change, err);
    json_decref(verdict);
    return mal_change_end(engine, ok, &change, out);
}
