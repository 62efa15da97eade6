/* evaluation.c - facts measured a slice at a time on weights that are held: first scored,
 * then the unrelated prompts asked on the base and compared. */
#include "core/alloc.h"
#include "daemon/engine/engine_impl.h"

enum phase { SCORE, ASK, COMPARE, OVER };

struct mal_evaluation {
    struct mal_engine *engine;
    enum phase phase;
    struct mal_scoring scoring;
    struct mal_measuring measuring;
    struct mal_agreement agreement;
    struct mal_comparison comparison;
    int64_t done, total; /* texts scored, prompts asked and asked again; fewer than total
                          * where a change has asked the daemon's probes meanwhile */
};

static int64_t count_texts(const struct mal_evaluation *e) {
    const struct mal_asked *common = e->agreement.common;
    size_t n = 2 * e->agreement.own.n;
    if (common) n += 2 * common->n - common->n_answered;
    for (size_t i = 0; i < e->scoring.n_facts; i++)
        n += mal_fact_n_items(&e->scoring.facts[i]);
    return (int64_t)n;
}

static bool hold(struct mal_engine *engine, struct mal_store *store, int64_t version,
                 void (*tick)(void *), void *tick_arg, struct mal_error *err) {
    int64_t live = mal_weights_live(engine->ws);
    if (version < 0 || version > live) {
        return mal_fail(err, MAL_INVALID, "there is no version %lld; the newest is %lld",
                        (long long)version, (long long)live);
    }
    if (!mal_engine_prepare_version(engine, store, version, tick, tick_arg, err))
        return false;
    mal_weights_hold(engine->ws);
    return true;
}

bool mal_engine_evaluate(struct mal_engine *engine, struct mal_store *store,
                         int64_t version, const struct mal_fact *facts, size_t n,
                         void (*tick)(void *), void *tick_arg,
                         struct mal_evaluation **out, struct mal_error *err) {
    struct mal_evaluation *e = mal_calloc(1, sizeof *e);
    if (!e) return mal_fail(err, MAL_NO_MEMORY, "evaluation");
    e->engine = engine;
    e->scoring = (struct mal_scoring){.facts = facts, .n_facts = n};
    e->measuring = (struct mal_measuring){.facts = facts, .n_facts = n};
    struct mal_probes *probes = engine->probes.asked.n > 0 ? &engine->probes : NULL;
    if (!mal_agreement_begin(&e->agreement, probes, facts, n, err) ||
        !hold(engine, store, version, tick, tick_arg, err)) {
        mal_agreement_finish(&e->agreement);
        mal_free(e);
        return false;
    }
    e->total = count_texts(e);
    *out = e;
    return true;
}

static bool score(struct mal_evaluation *e, size_t *out_n, struct mal_error *err) {
    struct mal_score *scores = NULL;
    if (!mal_scoring_next(&e->scoring, e->engine->model, e->engine->tok, &scores, out_n,
                          err))
        return false;
    mal_measuring_add(&e->measuring, scores, *out_n);
    mal_scores_free(scores, *out_n);
    return true;
}

static bool run_slice(struct mal_evaluation *e, bool (*tick)(void *), void *tick_arg,
                      size_t *out_n, struct mal_error *err) {
    struct mal_engine *engine = e->engine;
    switch (e->phase) {
    case SCORE: mal_weights_use_held(engine->ws); return score(e, out_n, err);
    case ASK:
        mal_weights_use(engine->ws, 0);
        return mal_agreement_ask(&e->agreement, engine->model, engine->tok, tick,
                                 tick_arg, out_n, err);
    case COMPARE:
        mal_weights_use_held(engine->ws);
        return mal_agreement_compare(&e->agreement, engine->model, engine->tok, tick,
                                     tick_arg, &e->comparison, out_n, err);
    case OVER: break;
    }
    *out_n = 0;
    return true;
}

bool mal_evaluation_step(struct mal_evaluation *e, bool (*tick)(void *), void *tick_arg,
                         bool *out_over, struct mal_measures *out,
                         struct mal_error *err) {
    size_t n = 0;
    bool ok = true;
    while (ok && n == 0 && e->phase != OVER) {
        ok = run_slice(e, tick, tick_arg, &n, err);
        e->done += (int64_t)n;
        if (ok && n == 0) e->phase++;
    }
    mal_weights_use(e->engine->ws, mal_weights_live(e->engine->ws));
    *out_over = e->phase == OVER;
    if (!ok || !*out_over) return ok;
    mal_measuring_end(&e->measuring, out);
    out->agreement = mal_comparison_share(&e->comparison);
    return true;
}

void mal_evaluation_progress(const struct mal_evaluation *e, int64_t *done,
                             int64_t *total) {
    *total = e->total;
    *done = e->phase == OVER ? e->total : e->done;
}

void mal_evaluation_close(struct mal_evaluation *e) {
    if (!e) return;
    mal_weights_let_go(e->engine->ws);
    mal_scoring_finish(&e->scoring);
    mal_agreement_finish(&e->agreement);
    mal_free(e);
}
