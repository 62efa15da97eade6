/* change.c - a change of the weights from its making to its publication: the delta is
 * computed and measured on shadow memory, written down, and only then made live. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/answers.h"
#include "core/clock.h"
#include "daemon/engine_impl.h"
#include "daemon/history.h"
#include "daemon/measures.h"

enum { MAX_PROBES = 256 }; /* unrelated prompts answered per batch, before and after */

void mal_change_finish(struct mal_change *change) {
    mal_version_row_finish(&change->row);
    mal_delta_finish(&change->delta);
    mal_delta_finish(&change->keyframe);
    mal_norms_free(change->norms, change->n_norms);
    for (size_t i = 0; i < change->n_facts; i++) {
        mal_free((char *)change->facts[i].id);
        free((char *)change->facts[i].verified_json); /* jansson's */
    }
    mal_free(change->facts);
    mal_free(change->base_model);
    mal_free(change->modules_json);
    free(change->result_json); /* jansson's */
    *change = (struct mal_change){0};
}

/* ---- The version row ---- */

static char *copy_json(json_t *json) {
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    char *copy = text ? mal_strdup(text) : NULL;
    free(text);
    json_decref(json);
    return copy;
}

static char *norms_json(const struct mal_module_norms *norms, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(list, json_pack("{s:s,s:f,s:f}", "name", norms[i].module,
                                              "shift_norm", norms[i].shift_norm,
                                              "weight_norm", norms[i].weight_norm));
    }
    return copy_json(list);
}

/* Fills the row of the prepared (or, for version 0, the base) weights; strings owned. */
static bool fill_row(struct mal_engine *engine, struct mal_store *store, bool prepared,
                     struct mal_change *change, struct mal_error *err) {
    struct mal_version_row *row = &change->row;
    struct mal_hash weights = prepared ? mal_weights_prepared_hash(engine->ws)
                                       : mal_weights_hash(engine->ws, 0);
    const struct mal_module_norms *norms = prepared
                                               ? mal_weights_prepared_norms(engine->ws)
                                               : mal_weights_norms(engine->ws, 0);
    struct mal_hash delta;
    char hex[MAL_HASH_HEX];
    if (!mal_delta_hash(&change->delta, &delta, err)) return false;

    mal_hash_hex(&weights, hex);
    row->weights_hash = mal_strdup(hex);
    mal_hash_hex(&delta, hex);
    row->delta_hash = mal_strdup(hex);
    row->encoding = mal_strdup(mal_encoding_name(mal_delta_encoding(&change->delta)));
    row->delta_bytes = (int64_t)mal_delta_bytes(&change->delta);
    row->editor_method =
        mal_strdup(engine->editor ? mal_method_name(engine->editor->method) : "");
    row->editor_hash = mal_strdup(engine->editor_hash);
    row->update = mal_strdup("sequential");
    row->modules_json = norms_json(norms, mal_model_n_edits(engine->model));
    row->measures_json = change->measures.n_facts
                             ? copy_json(mal_measures_json(&change->measures))
                             : mal_strdup("{}");
    if (!row->weights_hash || !row->delta_hash || !row->encoding || !row->editor_method ||
        !row->editor_hash || !row->update || !row->modules_json || !row->measures_json) {
        return mal_fail(err, MAL_NO_MEMORY, "version");
    }
    struct mal_version_row parent = {0};
    bool ok = row->parent < 0 || mal_store_get_version(store, row->parent, &parent, err);
    ok = ok && mal_history_chain(row, row->parent < 0 ? "" : parent.chain_hash, hex, err);
    mal_version_row_finish(&parent);
    row->chain_hash = ok ? mal_strdup(hex) : NULL;
    return row->chain_hash || mal_fail(err, MAL_NO_MEMORY, "version");
}

bool mal_engine_base_change(struct mal_engine *engine, int64_t now_ms,
                            struct mal_change *out, struct mal_error *err) {
    struct mal_change change = {.editor = engine->editor};
    change.row = (struct mal_version_row){
        .parent = -1, .kind = MAL_VERSION_BASE, .created_ms = now_ms, .to_version = -1};
    change.base_model = mal_strdup(engine->base_model);
    change.modules_json = mal_strdup(engine->modules_json);
    bool ok = (change.base_model && change.modules_json) ||
              mal_fail(err, MAL_NO_MEMORY, "version");
    if (!ok || !fill_row(engine, NULL, false, &change, err)) {
        mal_change_finish(&change);
        return false;
    }
    *out = change;
    return true;
}

/* ---- Measuring ---- */

static int32_t worst_rank(const struct mal_score *score) {
    int32_t worst = 0;
    for (size_t t = 0; t < score->n_tokens; t++) {
        if (score->tokens[t].rank > worst) worst = score->tokens[t].rank;
    }
    return worst;
}

/* Each fact's own numbers, and the ids of those the model still gets wrong. */
static bool fill_results(struct mal_change *change, const struct mal_fact *facts,
                         size_t n, const struct mal_score *scores, json_t *wrong,
                         struct mal_error *err) {
    change->facts = mal_calloc(n, sizeof *change->facts);
    if (!change->facts) return mal_fail(err, MAL_NO_MEMORY, "facts");
    for (size_t i = 0; i < n; i++, scores += mal_fact_n_items(&facts[i - 1])) {
        if (!isfinite(scores->logprob)) {
            return mal_fail(err, MAL_NUMERIC,
                            "fact %zu: the edited model's output is not finite", i);
        }
        struct mal_fact_result *result = &change->facts[change->n_facts++];
        json_t *verified =
            json_pack("{s:b,s:f,s:i}", "decoded", scores->correct, "logprob",
                      scores->logprob, "rank", worst_rank(scores));
        result->id = mal_strdup(facts[i].id);
        result->verified_json = verified ? json_dumps(verified, JSON_COMPACT) : NULL;
        json_decref(verified);
        if (!result->id || !result->verified_json)
            return mal_fail(err, MAL_NO_MEMORY, "facts");
        if (!scores->correct) json_array_append_new(wrong, json_string(facts[i].id));
    }
    return true;
}

/* A tick of the verifying stage, for functions that know no progress. */
struct verify_tick {
    const struct mal_progress *progress;
    int64_t done;
};

static bool verify_tick(void *arg) {
    struct verify_tick *tick = arg;
    if (!tick->progress || !tick->progress->tick) return true;
    return tick->progress->tick(tick->progress->arg, MAL_STAGE_VERIFY, ++tick->done, 0);
}

static bool measure_agreement(struct mal_engine *engine, const struct mal_fact *facts,
                              size_t n, struct verify_tick *tick, double *out,
                              struct mal_error *err) {
    struct mal_answers base = {0}, edited = {0};
    mal_engine_set_view(engine, VIEW_BASE);
    bool ok = mal_answers_make(engine->model, engine->tok, facts, n, MAX_PROBES,
                               verify_tick, tick, &base, err);
    mal_engine_set_view(engine, VIEW_PREPARED);
    ok = ok && mal_answers_make(engine->model, engine->tok, facts, n, MAX_PROBES,
                                verify_tick, tick, &edited, err);
    if (ok) *out = mal_answers_agreement(&base, &edited);
    mal_answers_finish(&base);
    mal_answers_finish(&edited);
    return ok;
}

static bool verify(struct mal_engine *engine, const struct mal_fact *facts, size_t n,
                   const struct mal_progress *progress, struct mal_change *change,
                   json_t *wrong, struct mal_error *err) {
    struct verify_tick tick = {.progress = progress};
    struct mal_score *scores = NULL;
    size_t n_scores = 0;
    double begin = mal_clock_seconds();
    mal_engine_set_view(engine, VIEW_PREPARED);
    bool ok = mal_score_facts(engine->model, engine->tok, facts, n, verify_tick, &tick,
                              &scores, &n_scores, err);
    if (ok) mal_measures_of(facts, n, scores, &change->measures);
    ok = ok && fill_results(change, facts, n, scores, wrong, err);
    ok = ok &&
         measure_agreement(engine, facts, n, &tick, &change->measures.agreement, err);
    mal_scores_free(scores, n_scores);
    change->report.seconds[MAL_STAGE_VERIFY] = mal_clock_seconds() - begin;
    return ok;
}

static char *result_of(const struct mal_change *change, json_t *wrong) {
    const struct mal_edit_report *report = &change->report;
    json_t *result =
        json_pack("{s:I,s:I,s:i,s:O,s:o,s:o}", "facts", (json_int_t)report->n_facts,
                  "tokens", (json_int_t)report->n_tokens, "rounds", 0, "wrong", wrong,
                  "measures", mal_measures_json(&change->measures), "seconds",
                  mal_seconds_json(report->seconds, MAL_STAGE_PERSIST));
    char *text = result ? json_dumps(result, JSON_COMPACT) : NULL;
    json_decref(result);
    return text;
}

/* ---- Edits ---- */

struct apply_tick {
    const struct mal_progress *progress;
};

static void apply_tick(void *arg) {
    const struct apply_tick *tick = arg;
    /* the prepared weights are discarded by whoever gives up, so the answer waits until
     * then */
    if (tick->progress && tick->progress->tick) {
        (void)tick->progress->tick(tick->progress->arg, MAL_STAGE_APPLY, 0, 0);
    }
}

static bool prepare(struct mal_engine *engine, const struct mal_progress *progress,
                    struct mal_change *change, struct mal_error *err) {
    struct apply_tick tick = {progress};
    double begin = mal_clock_seconds();
    bool ok = mal_weights_prepare(engine->ws, &change->delta, apply_tick, &tick, err);
    double hash_seconds = mal_weights_hash_seconds(engine->ws);
    change->report.seconds[MAL_STAGE_APPLY] = mal_clock_seconds() - begin - hash_seconds;
    change->report.seconds[MAL_STAGE_HASH] = hash_seconds;
    return ok;
}

static bool run_edit(struct mal_engine *engine, const struct mal_fact *facts, size_t n,
                     const struct mal_progress *progress, struct mal_change *change,
                     struct mal_error *err) {
    if (engine->editor->method == MAL_ULTRAEDIT) {
        change->n_norms = engine->editor->n_shapes;
        change->norms = mal_norms_copy(engine->norms, change->n_norms, err);
        if (!change->norms) return false;
    }
    mal_engine_set_view(engine, VIEW_LIVE);
    return mal_edit_run(engine->model, engine->tok, engine->editor, change->norms,
                        engine->preserve, facts, n, progress, &change->delta,
                        &change->report, err);
}

bool mal_engine_edit(struct mal_engine *engine, struct mal_store *store,
                     const struct mal_fact *facts, size_t n_facts, int64_t now_ms,
                     const struct mal_progress *progress, struct mal_change *out,
                     struct mal_error *err) {
    int64_t live = mal_weights_live(engine->ws);
    struct mal_change change = {.editor = engine->editor};
    change.row = (struct mal_version_row){.version = live + 1,
                                          .parent = live,
                                          .kind = MAL_VERSION_EDIT,
                                          .created_ms = now_ms,
                                          .to_version = -1,
                                          .n_facts = (int64_t)n_facts};
    json_t *wrong = json_array();
    bool prepared = false;
    bool ok = wrong || mal_fail(err, MAL_NO_MEMORY, "facts");
    ok = ok && run_edit(engine, facts, n_facts, progress, &change, err);
    ok = prepared = ok && prepare(engine, progress, &change, err);
    ok = ok && verify(engine, facts, n_facts, progress, &change, wrong, err);
    ok = ok && fill_row(engine, store, true, &change, err);
    if (ok) {
        change.result_json = result_of(&change, wrong);
        ok = change.result_json || mal_fail(err, MAL_NO_MEMORY, "result");
    }
    json_decref(wrong);
    mal_engine_set_view(engine, VIEW_LIVE);
    if (!ok) {
        if (prepared) mal_weights_discard(engine->ws);
        mal_change_finish(&change);
        return false;
    }
    *out = change;
    return true;
}

/* ---- Rollbacks ---- */

bool mal_engine_rollback(struct mal_engine *engine, struct mal_store *store,
                         int64_t to_version, int64_t now_ms,
                         const struct mal_progress *progress, struct mal_change *out,
                         struct mal_error *err) {
    struct apply_tick tick = {progress};
    int64_t live = mal_weights_live(engine->ws);
    if (to_version < 0 || to_version > live) {
        return mal_fail_at(err, MAL_INVALID, "/to_version",
                           "there is no version %lld; the newest is %lld",
                           (long long)to_version, (long long)live);
    }
    struct mal_change change = {.editor = engine->editor};
    change.row = (struct mal_version_row){.version = live + 1,
                                          .parent = live,
                                          .kind = MAL_VERSION_ROLLBACK,
                                          .created_ms = now_ms,
                                          .to_version = to_version};
    change.n_norms = engine->n_norms;
    bool prepared = false;
    bool ok = mal_engine_read_norms(engine, store, to_version, &change.norms, err);
    ok = prepared = ok && mal_engine_prepare_version(engine, store, to_version,
                                                     apply_tick, &tick, err);
    ok = ok && fill_row(engine, store, true, &change, err);
    if (!ok) {
        if (prepared) mal_weights_discard(engine->ws);
        mal_change_finish(&change);
        return false;
    }
    *out = change;
    return true;
}

/* ---- Making it durable, making it live ---- */

bool mal_engine_add_keyframe(struct mal_engine *engine, struct mal_change *change,
                             const struct mal_progress *progress, struct mal_error *err) {
    struct apply_tick tick = {progress};
    bool ultra = engine->editor && engine->editor->method == MAL_ULTRAEDIT;
    if (ultra && !change->norms) {
        change->norms = mal_norms_copy(engine->norms, engine->n_norms, err);
        if (!change->norms) return false;
        change->n_norms = engine->n_norms;
    }
    change->row.keyframe = true;
    return mal_weights_read_keyframe(engine->ws, apply_tick, &tick, &change->keyframe,
                                     err);
}

bool mal_change_persist(struct mal_change *change, struct mal_store *writer,
                        const char *const *jobs, size_t n_jobs, struct mal_error *err) {
    struct mal_version_row *row = &change->row;
    bool ultra = change->editor && change->editor->method == MAL_ULTRAEDIT;
    bool norms = row->keyframe || row->kind == MAL_VERSION_EDIT ||
                 row->kind == MAL_VERSION_CONSOLIDATION;
    if (change->base_model &&
        (!mal_store_set_meta(writer, "base_model", change->base_model, err) ||
         !mal_store_set_meta(writer, "modules", change->modules_json, err))) {
        return false;
    }
    struct mal_history_parts parts = {.delta = &change->delta,
                                      .keyframe =
                                          row->keyframe ? &change->keyframe : NULL,
                                      .editor = change->editor,
                                      .norms = ultra && norms ? change->norms : NULL};
    if (!mal_history_stage(writer, row->version, &parts, err)) return false;
    const char **results = mal_calloc(n_jobs, sizeof *results);
    if (!results) return mal_fail(err, MAL_NO_MEMORY, "results");
    for (size_t i = 0; i < n_jobs; i++)
        results[i] = change->result_json;
    struct mal_publish publish = {.row = row,
                                  .jobs = jobs,
                                  .job_results = results,
                                  .n_jobs = n_jobs,
                                  .facts = change->facts,
                                  .n_facts = change->n_facts,
                                  .now_ms = mal_clock_unix_ms()};
    bool ok = mal_store_publish(writer, &publish, err);
    mal_free(results);
    return ok;
}

void mal_engine_publish(struct mal_engine *engine, struct mal_change *change) {
    if (change->row.version == 0) return; /* the base is live from the start */
    mal_weights_publish(engine->ws, change->row.version);
    if (change->norms) {
        mal_norms_free(engine->norms, change->n_norms);
        engine->norms = change->norms;
        change->norms = NULL;
    }
    mal_engine_set_view(engine, VIEW_LIVE);
}

void mal_engine_abandon(struct mal_engine *engine) {
    mal_weights_discard(engine->ws);
    mal_engine_set_view(engine, VIEW_LIVE);
}
