/* fake_evaluation.c - evaluations over the fake engine's tables. A prompt "hold:N" is not
 * measured before version N is live; a target "fail:numeric" or "fail:device" fails so,
 * one "unread:N" N times for a damaged page. */
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "daemon/engine/engine.h"
#include "fake_engine.h"

struct share {
    size_t n, right;
};

struct mal_evaluation {
    struct mal_engine *e;
    json_t *table;
    const struct mal_fact *facts;
    size_t n, at;
    struct share es, gs, ls, same;
};

static bool read_stored(struct mal_store *store, int64_t version, json_t **out,
                        struct mal_error *err) {
    struct mal_version_row row = {0};
    if (!mal_store_get_version(store, version, &row, err)) return false;
    bool pruned = row.pruned;
    mal_version_row_finish(&row);
    if (pruned)
        return mal_fail(err, MAL_CONFLICT, "version %" PRId64 " was pruned", version);
    return fake_read_table(store, version, out, err);
}

bool mal_engine_evaluate(struct mal_engine *e, struct mal_store *store, int64_t version,
                         const struct mal_fact *facts, size_t n, void (*tick)(void *),
                         void *tick_arg, struct mal_evaluation **out,
                         struct mal_error *err) {
    json_t *table = NULL;
    if (!fake_can_read(e, facts, n, err) || !read_stored(store, version, &table, err))
        return false;
    tick(tick_arg);
    struct mal_evaluation *ev = mal_calloc(1, sizeof *ev);
    *ev = (struct mal_evaluation){.e = e, .table = table, .facts = facts, .n = n};
    *out = ev;
    return true;
}

static void count(const struct mal_evaluation *ev, const char *prompt, const char *target,
                  struct share *share) {
    const char *answer = json_string_value(json_object_get(ev->table, prompt));
    share->n++;
    share->right += answer && !strcmp(answer, target);
}

static void measure_fact(struct mal_evaluation *ev, const struct mal_fact *fact) {
    count(ev, fact->prompt, fact->target, &ev->es);
    for (size_t i = 0; i < fact->n_rephrases; i++)
        count(ev, fact->rephrases[i], fact->target, &ev->gs);
    for (size_t i = 0; i < fact->n_unrelated; i++) {
        const struct mal_probe *probe = &fact->unrelated[i];
        if (probe->target) count(ev, probe->prompt, probe->target, &ev->ls);
        ev->same.n++;
        ev->same.right += !json_object_get(ev->table, probe->prompt);
    }
}

static double value(const struct share *share) {
    return share->n ? (double)share->right / (double)share->n : (double)NAN;
}

bool mal_evaluation_step(struct mal_evaluation *ev, bool (*tick)(void *), void *tick_arg,
                         bool *out_over, struct mal_measures *out,
                         struct mal_error *err) {
    const struct mal_fact *fact = &ev->facts[ev->at];
    bool held = ev->at < ev->n && !strncmp(fact->prompt, "hold:", 5) &&
                mal_engine_live(ev->e) < atoi(fact->prompt + 5);
    poll(NULL, 0, SLICE_MS);
    *out_over = false;
    if (!tick(tick_arg)) return mal_fail(err, MAL_CANCELLED, "cancelled");
    if (held) return true;
    if (ev->at < ev->n && !strcmp(fact->target, "fail:device"))
        return mal_fail(err, MAL_DEVICE, "the device fell off the bus");
    if (ev->at < ev->n && !strcmp(fact->target, "fail:numeric"))
        return mal_fail(err, MAL_NUMERIC, "the model's output is not a number");
    if (ev->at < ev->n) measure_fact(ev, &ev->facts[ev->at++]);
    *out_over = ev->at == ev->n;
    double es = value(&ev->es), gs = value(&ev->gs), ls = value(&ev->ls);
    *out = (struct mal_measures){.n_facts = ev->n,
                                 .tf_es = es,
                                 .tf_gs = gs,
                                 .tf_ls = ls,
                                 .dec_es = es,
                                 .dec_gs = gs,
                                 .dec_ls = ls,
                                 .agreement = value(&ev->same)};
    return true;
}

void mal_evaluation_progress(const struct mal_evaluation *ev, int64_t *done,
                             int64_t *total) {
    *done = (int64_t)ev->at;
    *total = (int64_t)ev->n;
}

void mal_evaluation_close(struct mal_evaluation *ev) {
    if (!ev) return;
    json_decref(ev->table);
    mal_free(ev);
}
