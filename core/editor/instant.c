/* instant.c - facts at hand and facts made up, and the search on both. */
#include "core/editor/instant.h"

#include "core/alloc.h"
#include "core/made_up.h"

/* Measured on the demo model, decoded: editors made on one bare fact, filled up to 64,
 * teach that fact (20 of 20) and 95 % of 25 others, with 90 % of unrelated answers
 * unchanged. On 256 facts the best step is half as long, so more of them are worth their
 * time. */
enum {
    MOST_GIVEN = 256, /* facts: more cost only time */
    LEAST_FACTS = 64, /* in all */
    LEAST_MADE = 32   /* they hold the step back */
};

struct making {
    struct mal_model *model;
    const struct mal_tokenizer *tok;
    const struct mal_fact *given;
    size_t n_given;
    const struct mal_progress *progress;
    struct mal_fact *facts; /* (n_facts), the array owned, what it holds borrowed */
    size_t n_facts;
    struct mal_fact *made; /* (n_made), owned */
    size_t n_made;
};

static bool tick(void *arg) {
    const struct mal_progress *progress = arg;
    if (!progress || !progress->tick) return true;
    return progress->tick(progress->arg, MAL_STAGE_SEARCH, 0, 0);
}

/* ---- Which facts ---- */

/* The first of the given facts that the model gets wrong. */
static bool take_given(struct making *making, struct mal_error *err) {
    size_t n = making->n_given < MOST_GIVEN ? making->n_given : MOST_GIVEN;
    struct mal_fact *facts =
        mal_calloc(n + LEAST_FACTS + LEAST_MADE, sizeof *facts); /* and those made up */
    if (!facts) return mal_fail(err, MAL_NO_MEMORY, "facts");
    making->facts = facts;
    for (size_t i = 0; i < n; i++) {
        facts[i] = making->given[i];
        facts[i].n_rephrases = facts[i].n_unrelated = 0;
    }
    struct mal_score *scores = NULL;
    size_t n_scores = 0;
    if (!mal_score_facts(making->model, making->tok, facts, n, NULL, tick,
                         (void *)making->progress, &scores, &n_scores, err)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!scores[i].correct) facts[making->n_facts++] = facts[i];
    }
    mal_scores_free(scores, n_scores);
    return true;
}

static bool add_made(struct making *making, struct mal_error *err) {
    size_t n = LEAST_MADE;
    if (making->n_facts + n < LEAST_FACTS) n = LEAST_FACTS - making->n_facts;
    if (!mal_facts_make_up(making->model, making->tok, making->given, making->n_given, n,
                           tick, (void *)making->progress, &making->made, &making->n_made,
                           err)) {
        return false;
    }
    for (size_t i = 0; i < making->n_made; i++)
        making->facts[making->n_facts++] = making->made[i];
    if (making->n_facts > 0) return true;
    return mal_fail(err, MAL_INVALID,
                    "no fact to make an editor on: the model has all of them right");
}

/* ---- The editor ---- */

static bool create(struct mal_editor **out, struct mal_model *model,
                   struct mal_error *err) {
    size_t n = mal_model_n_edits(model);
    const char **names = mal_calloc(n, sizeof *names);
    if (!names) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    for (size_t i = 0; i < n; i++)
        names[i] = mal_model_edit(model, i)->name;
    bool ok =
        mal_editor_create(out, &mal_method_malmen, model, names, n, 1, 0, 1, 0, err);
    mal_free(names);
    return ok;
}

static bool check_taught(const struct mal_search_report *search, struct mal_error *err) {
    const struct mal_search_point *best = &search->points[search->best];
    if (best->measures.tf_es > search->before.tf_es) return true;
    return mal_fail(err, MAL_NUMERIC,
                    "no step teaches the model anything, of %zu tried on %zu facts: "
                    "facts of another kind (--data) or other layers may, or a trained "
                    "editor",
                    search->n_points, search->before.n_facts);
}

bool mal_editor_make(struct mal_editor **out, struct mal_model *model,
                     const struct mal_tokenizer *tok, const struct mal_fact *facts,
                     size_t n_facts, const struct mal_progress *progress,
                     struct mal_instant_report *report, struct mal_error *err) {
    struct mal_editor *editor = NULL;
    struct making making = {.model = model,
                            .tok = tok,
                            .given = facts,
                            .n_given = n_facts,
                            .progress = progress};
    bool ok = create(&editor, model, err) && mal_editor_bind(editor, model, err) &&
              take_given(&making, err) && add_made(&making, err) &&
              mal_editor_search(editor, model, tok, making.facts, making.n_facts,
                                progress, &report->search, err) &&
              check_taught(&report->search, err);
    report->n_facts = making.n_facts - making.n_made;
    report->n_made = making.n_made;
    mal_free(making.facts);
    mal_facts_free(making.made, making.n_made);
    if (!ok) {
        mal_editor_close(editor);
        *err->pointer = 0; /* what it points at need not be the request's */
        return mal_fail_wrap(err, "making an editor");
    }
    report->lr = (double)editor->shapes[0].lr[0];
    *out = editor;
    return true;
}
