/* change_measure.c - what a change is measured by: its facts' own numbers, the answers
 * that must stay, the gate's verdict, and the results of its jobs. */
#include <math.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/perplexity.h"
#include "core/json.h"
#include "daemon/engine/change_measure.h"
#include "daemon/engine/measures.h"

bool mal_verify_tick(void *arg) {
    struct mal_verify_tick *tick = arg;
    if (!tick->progress || !tick->progress->tick) return true;
    return tick->progress->tick(tick->progress->arg, MAL_STAGE_VERIFY, ++tick->done, 0);
}

/* ---- Each fact's own ---- */

static int32_t worst_rank(const struct mal_score *score) {
    int32_t worst = 0;
    for (size_t t = 0; t < score->n_tokens; t++) {
        if (score->tokens[t].rank > worst) worst = score->tokens[t].rank;
    }
    return worst;
}

bool mal_change_room(struct mal_change *change, size_t n, struct mal_error *err) {
    change->facts = mal_calloc(n + 1, sizeof *change->facts);
    return change->facts || mal_fail(err, MAL_NO_MEMORY, "results of %zu facts", n);
}

bool mal_change_add_result(struct mal_change *change, const char *id,
                           const struct mal_score *score, int certain, int32_t rounds,
                           struct mal_error *err) {
    return mal_fact_result_make(&change->facts[change->n_facts++], id, score, certain,
                                rounds, err);
}

bool mal_fact_result_make(struct mal_fact_result *out, const char *id,
                          const struct mal_score *score, int certain, int32_t rounds,
                          struct mal_error *err) {
    json_t *verified =
        json_pack("{s:b,s:o*,s:f,s:i,s:i}", "decoded", score->correct, "certain",
                  certain < 0 ? NULL : json_boolean(certain), "logprob", score->logprob,
                  "rank", worst_rank(score), "rounds", (int)rounds);
    out->id = mal_strdup(id);
    out->verified_json = mal_json_dump(verified, MAL_JSON_TOLD);
    json_decref(verified);
    return (out->id && out->verified_json) || mal_fail(err, MAL_NO_MEMORY, "results");
}

/* ---- Answers that must stay ---- */

bool mal_engine_ask(struct mal_engine *engine, const struct mal_fact *facts, size_t n,
                    const struct mal_progress *progress, struct mal_agreement *out,
                    struct mal_error *err) {
    struct mal_verify_tick tick = {.progress = progress};
    mal_weights_use(engine->ws, 0);
    bool ok = mal_agreement_open(out, engine->probes.asked.n > 0 ? &engine->probes : NULL,
                                 engine->model, engine->tok, facts, n, mal_verify_tick,
                                 &tick, err);
    mal_weights_use(engine->ws, mal_weights_live(engine->ws));
    return ok;
}

/* ---- The verdict ---- */

/* Where a request asks for it first, the daemon's gate having not. The prepared weights,
 * or else the live ones, are in use before and after. */
static bool measure_base_perplexity(struct mal_engine *engine, bool prepared,
                                    struct mal_verify_tick *tick, struct mal_error *err) {
    if (!isnan(engine->base_perplexity)) return true;
    mal_weights_use(engine->ws, 0);
    bool ok = mal_perplexity_measure(engine->model, mal_engine_texts(engine),
                                     MAL_PERPLEXITY_TOKENS, mal_verify_tick, tick,
                                     &engine->base_perplexity, err);
    if (prepared) {
        mal_weights_use_prepared(engine->ws);
    } else {
        mal_weights_use(engine->ws, mal_weights_live(engine->ws));
    }
    return ok;
}

static bool measure_perplexity(struct mal_engine *engine, const struct mal_gate *gate,
                               bool prepared, struct mal_verify_tick *tick,
                               struct mal_gate_numbers *numbers, struct mal_error *err) {
    double now = (double)NAN;
    if (!mal_gate_asks(gate, MAL_GATE_PERPLEXITY_GROWTH)) return true;
    if (!measure_base_perplexity(engine, prepared, tick, err)) return false;
    if (isnan(engine->base_perplexity)) return true;
    if (!mal_perplexity_measure(engine->model, mal_engine_texts(engine),
                                MAL_PERPLEXITY_TOKENS, mal_verify_tick, tick, &now, err))
        return false;
    mal_gate_add_perplexity(numbers, engine->base_perplexity, now);
    return true;
}

bool mal_measured_make(struct mal_measured *out, struct mal_engine *engine,
                       const struct mal_fact *facts, size_t n, struct mal_score *known,
                       const struct mal_agreement *agreement, const struct mal_gate *gate,
                       const struct mal_progress *progress, struct mal_change *change,
                       struct mal_error *err) {
    struct mal_verify_tick tick = {.progress = progress};
    double begin = mal_clock_seconds();
    *out = (struct mal_measured){0};
    bool ok = mal_score_facts(engine->model, engine->tok, facts, n, known,
                              mal_verify_tick, &tick, &out->scores, &out->n_scores, err);
    if (ok) mal_measures_of(facts, n, out->scores, &change->measures);
    ok = ok &&
         mal_agreement_measure(agreement, engine->model, engine->tok, mal_verify_tick,
                               &tick, &change->measures.agreement, err);
    mal_gate_numbers_of(&out->numbers, &change->measures);
    ok = ok && measure_perplexity(engine, gate, true, &tick, &out->numbers, err);
    if (ok) {
        mal_gate_add_norms(&out->numbers, mal_weights_prepared_norms(engine->ws),
                           mal_weights_norms(engine->ws, 0),
                           mal_model_n_edited(engine->model));
        change->passes = mal_gate_passes(gate, &out->numbers);
    }
    change->report.seconds[MAL_STAGE_VERIFY] += mal_clock_seconds() - begin;
    return ok;
}

bool mal_measured_live(struct mal_engine *engine, const struct mal_fact *facts, size_t n,
                       const struct mal_agreement *agreement, const struct mal_gate *gate,
                       const struct mal_progress *progress, struct mal_measures *out,
                       struct mal_gate_numbers *out_numbers, struct mal_error *err) {
    struct mal_verify_tick tick = {.progress = progress};
    struct mal_score *scores = NULL;
    size_t n_scores = 0;
    int64_t live = mal_weights_live(engine->ws);
    mal_weights_use(engine->ws, live);
    bool ok = mal_score_facts(engine->model, engine->tok, facts, n, NULL, mal_verify_tick,
                              &tick, &scores, &n_scores, err);
    if (ok) mal_measures_of(facts, n, scores, out);
    mal_scores_free(scores, n_scores);
    ok = ok && mal_agreement_measure(agreement, engine->model, engine->tok,
                                     mal_verify_tick, &tick, &out->agreement, err);
    mal_gate_numbers_of(out_numbers, out);
    ok = ok && measure_perplexity(engine, gate, false, &tick, out_numbers, err);
    if (ok)
        mal_gate_add_norms(out_numbers, mal_weights_norms(engine->ws, live),
                           mal_weights_norms(engine->ws, 0),
                           mal_model_n_edited(engine->model));
    return ok;
}

void mal_measured_finish(struct mal_measured *measured) {
    mal_scores_free(measured->scores, measured->n_scores);
    *measured = (struct mal_measured){0};
}

/* ---- Results ---- */

/* A job's own facts, of those the change was measured on. */
static json_t *job_json(struct mal_change *change, const struct mal_fact *facts, size_t n,
                        const struct mal_score *scores,
                        const struct mal_measures *measures) {
    json_t *wrong = json_array();
    for (size_t i = 0; i < n; i++) {
        if (!scores->correct) json_array_append_new(wrong, json_string(facts[i].id));
        scores += mal_fact_n_items(&facts[i]);
    }
    change->n_wrong += json_array_size(wrong);
    return json_pack("{s:I,s:I,s:I,s:o,s:I,s:o,s:o}", "facts", (json_int_t)n, "tokens",
                     (json_int_t)change->report.n_tokens, "rounds",
                     (json_int_t)change->n_rounds, "wrong", wrong, "wrong_others",
                     (json_int_t)change->n_wrong_others, "measures",
                     mal_measures_json(measures), "seconds",
                     mal_seconds_json(change->report.seconds, MAL_STAGE_PERSIST));
}

/* What a job asks of its facts counts also where those of other jobs are better. */
static bool passes_own(const struct mal_batch_edit *batch, size_t job,
                       const struct mal_measures *measures) {
    struct mal_gate_numbers numbers;
    mal_gate_numbers_of(&numbers, measures);
    return !batch->own || mal_gate_passes(&batch->own[job], &numbers);
}

static json_t *list_rejected(const struct mal_batch_edit *batch) {
    json_t *list = json_array();
    for (size_t i = 0; i < batch->n_rejected; i++)
        json_array_append_new(list, json_string(batch->rejected[i]));
    return list;
}

bool mal_change_add_job(struct mal_change *change, json_t *result,
                        struct mal_error *err) {
    char **results =
        mal_realloc(change->results, (change->n_results + 1) * sizeof *results);
    if (results) change->results = results;
    char *text = results ? mal_json_dump(result, MAL_JSON_TOLD) : NULL;
    json_decref(result);
    if (text) results[change->n_results++] = text;
    return text || mal_fail(err, MAL_NO_MEMORY, "result");
}

bool mal_measured_report(const struct mal_measured *measured,
                         const struct mal_batch_edit *batch, const struct mal_gate *gate,
                         struct mal_change *change, struct mal_error *err) {
    const struct mal_score *scores = measured->scores;
    for (size_t j = 0; j < batch->n_jobs; j++) {
        size_t from = batch->first[j], n = batch->first[j + 1] - from;
        struct mal_measures measures;
        mal_measures_of(batch->facts + from, n, scores, &measures);
        measures.agreement = change->measures.agreement;
        if (!passes_own(batch, j, &measures)) change->passes = false;
        json_t *result = job_json(change, batch->facts + from, n, scores, &measures);
        json_object_set_new(result, "gate", mal_gate_json(gate, &measured->numbers));
        if (batch->n_rejected > 0)
            json_object_set_new(result, "rejected", list_rejected(batch));
        if (!mal_change_add_job(change, result, err)) return false;
        for (size_t i = from; i < from + n; i++)
            scores += mal_fact_n_items(&batch->facts[i]);
    }
    return true;
}
