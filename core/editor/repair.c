/* repair.c - try, score, improve what fails, and again. */
#include "core/editor/repair.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/untrained_step.h"

/* What one round comes to. Lexicographic: the fewest wrong answers are the best, then the
 * fewest texts that fail, then the least that their tokens lack of tau, in nats. */
struct outcome {
    size_t wrong, failing; /* wrong: decoded, another answer comes */
    double lack;
};

static const struct outcome worst = {SIZE_MAX, SIZE_MAX, INFINITY};

static bool is_worse(struct outcome a, struct outcome b) {
    if (a.wrong != b.wrong) return a.wrong > b.wrong;
    return a.failing != b.failing ? a.failing > b.failing : a.lack > b.lack;
}

struct run {
    struct mal_repair *r;
    struct mal_edit_diffs *fixer; /* made when something fails first */
    size_t *failing;              /* (n) texts of the last scoring, by index */
    size_t n;
    struct outcome now, best; /* of the last round, of the best so far */
    float **then;             /* (n) values then of texts changed since the best */
    int64_t ticks;
};

bool mal_repair_passes(const struct mal_score *score, double tau) {
    if (!score->correct) return false;
    for (size_t t = 0; t < score->n_tokens; t++)
        if (exp((double)score->tokens[t].logprob) < tau) return false;
    return true;
}

bool mal_repair_all_pass(const struct mal_score *scores, size_t n, double tau) {
    for (size_t i = 0; i < n; i++)
        if (!mal_repair_passes(&scores[i], tau)) return false;
    return true;
}

/* ---- Trying and scoring ---- */

static void try_tick(void *arg) {
    struct run *run = arg;
    /* to give up can wait for the next slice */
    const struct mal_progress *p = run->r->progress;
    if (p && p->tick) (void)p->tick(p->arg, MAL_STAGE_APPLY, 0, 0);
}

static bool score_tick(void *arg) {
    struct run *run = arg;
    const struct mal_progress *p = run->r->progress;
    return !p || !p->tick || p->tick(p->arg, MAL_STAGE_VERIFY, ++run->ticks, 0);
}

static void clear_scores(struct run *run) {
    for (size_t i = 0; i < run->n; i++)
        mal_free(run->r->scores[i].tokens);
    memset(run->r->scores, 0, run->n * sizeof *run->r->scores);
}

static bool score(struct run *run, const struct mal_example *texts, size_t n,
                  struct mal_score *out, struct mal_error *err) {
    struct mal_model *model = mal_weights_model(run->r->ws);
    return n == 0 || mal_score_examples(model, mal_joint_change_trunk(run->r->change),
                                        texts, n, score_tick, run, out, err);
}

static double lack_of(const struct mal_score *score, double tau) {
    double lack = 0;
    for (size_t t = 0; t < score->n_tokens; t++)
        lack += fmax(0, log(tau) - (double)score->tokens[t].logprob);
    return lack;
}

/* What the change makes of the weights, and of every text. */
static bool try_change(struct run *run, struct mal_error *err) {
    struct mal_repair *r = run->r;
    struct mal_delta delta = {0};
    double *seconds = r->report->seconds;
    if (!mal_joint_delta(r->change, &delta, err)) return false;
    mal_delta_finish(&r->delta);
    r->delta = delta;
    if (r->decided && r->max_rounds == 0) r->decided(r->decided_arg, &r->delta);
    double begin = mal_clock_seconds();
    if (!mal_weights_try(r->ws, r->basis, &r->delta, try_tick, run, err)) return false;
    double tried = mal_clock_seconds();
    seconds[MAL_STAGE_APPLY] += tried - begin;
    mal_weights_use_prepared(r->ws);
    clear_scores(run);
    bool ok = score(run, r->taught, r->n_taught, r->scores, err) &&
              score(run, r->others, r->n_others, r->scores + r->n_taught, err);
    seconds[MAL_STAGE_VERIFY] += mal_clock_seconds() - tried;
    run->now = (struct outcome){0};
    for (size_t i = 0; ok && i < run->n; i++) {
        const struct mal_score *text = &r->scores[i];
        run->now.wrong += !text->correct;
        if (!isfinite(text->logprob))
            ok = mal_fail(err, MAL_NUMERIC, "the edited model's output is not finite");
        if (mal_repair_passes(text, r->tau)) continue;
        run->failing[run->now.failing++] = i;
        run->now.lack += lack_of(text, r->tau);
    }
    return ok;
}

/* ---- Improving ---- */

static const struct mal_example *text_at(const struct mal_repair *r, size_t i) {
    return i < r->n_taught ? &r->taught[i] : &r->others[i - r->n_taught];
}

static bool load_values(struct run *run, const struct mal_joint *joint, size_t i,
                        float **out, struct mal_error *err) {
    struct mal_repair *r = run->r;
    *out = mal_malloc(mal_joint_n_values(joint, text_at(r, i)) * sizeof **out);
    if (!*out) return mal_fail(err, MAL_NO_MEMORY, "values of a fact");
    return r->load(r->load_arg, i - r->n_taught, *out, err);
}

/* The failing texts that the change does not hold yet join it. */
static bool reopen(struct run *run, struct mal_error *err) {
    struct mal_repair *r = run->r;
    const struct mal_joint *joint = mal_joint_change_system(r->change);
    struct mal_example *texts = mal_calloc(run->now.failing + 1, sizeof *texts);
    float **values = mal_calloc(run->now.failing + 1, sizeof *values);
    size_t n = 0, first = mal_joint_n_texts(r->change);
    bool ok = (texts && values) || mal_fail(err, MAL_NO_MEMORY, "texts to repair");
    for (size_t k = 0; ok && k < run->now.failing; k++) {
        size_t i = run->failing[k];
        if (r->numbers[i] != SIZE_MAX) continue;
        texts[n] = *text_at(r, i);
        r->numbers[i] = first + n;
        ok = load_values(run, joint, i, &values[n++], err);
    }
    if (ok && n > 0) {
        mal_weights_use(r->ws, r->origin);
        ok = mal_joint_reopen(r->change, texts, (const float *const *)values, n, err);
        mal_weights_use_prepared(r->ws);
    }
    for (size_t k = 0; k < n; k++)
        mal_free(values[k]);
    mal_free(values);
    mal_free(texts);
    return ok;
}

/* The untrained form, its step found on texts of this change, so that it does not depend
 * on what was asked for before. */
static bool make_fixer(struct run *run, struct mal_error *err) {
    enum { MOST = 64 }; /* texts to find a step on */
    struct mal_repair *r = run->r;
    struct mal_model *model = mal_weights_model(r->ws);
    const struct mal_example *texts = r->n_taught ? r->taught : r->others;
    size_t n = r->n_taught ? r->n_taught : r->n_others;
    float *steps = mal_calloc(r->editor->n_modules, sizeof *steps);
    if (!steps) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    mal_weights_use(r->ws, r->origin);
    bool ok =
        mal_untrained_steps(model, mal_joint_change_trunk(r->change), r->editor, r->norms,
                            texts, n < MOST ? n : MOST, r->progress, steps, err);
    mal_weights_use_prepared(r->ws);
    ok = ok && mal_edit_diffs_create_untrained(&run->fixer, r->editor, r->norms, steps,
                                               mal_model_backend(model), err);
    mal_free(steps);
    return ok;
}

/* ---- The best so far ---- */

static void forget_then(struct run *run) {
    for (size_t i = 0; run->then && i < run->n; i++) {
        mal_free(run->then[i]);
        run->then[i] = NULL;
    }
}

static void note_best(struct run *run) {
    if (is_worse(run->now, run->best)) return;
    run->best = run->now;
    forget_then(run);
}

/* The failing texts' values, before they are changed. */
static bool keep_then(struct run *run, struct mal_error *err) {
    struct mal_repair *r = run->r;
    const struct mal_joint *joint = mal_joint_change_system(r->change);
    for (size_t k = 0; k < run->now.failing; k++) {
        size_t i = run->failing[k];
        if (run->then[i]) continue;
        size_t bytes = mal_joint_n_values(joint, text_at(r, i)) * sizeof(float);
        run->then[i] = mal_malloc(bytes);
        if (!run->then[i]) return mal_fail(err, MAL_NO_MEMORY, "values of a fact");
        memcpy(run->then[i], mal_joint_values(r->change, r->numbers[i]), bytes);
    }
    return true;
}

/* A round that leads to what is not finite is the last, and the worst. */
static bool diverged(struct run *run, struct mal_error *err) {
    if (err->status != MAL_NUMERIC) return false;
    *err = (struct mal_error){0};
    run->now = worst;
    return true;
}

/* Where the last round is not the best, back to that. */
static bool return_to_best(struct run *run, struct mal_error *err) {
    struct mal_repair *r = run->r;
    if (!is_worse(run->now, run->best)) return true;
    for (size_t i = 0; i < run->n; i++) {
        if (run->then[i] &&
            !mal_joint_set_values(r->change, r->numbers[i], run->then[i], err))
            return false;
    }
    return try_change(run, err);
}

/* ---- The whole ---- */

static bool improve(struct run *run, struct mal_error *err) {
    struct mal_repair *r = run->r;
    size_t *numbers = mal_calloc(run->now.failing, sizeof *numbers);
    if (!numbers) return mal_fail(err, MAL_NO_MEMORY, "texts to repair");
    bool ok = reopen(run, err) && keep_then(run, err);
    for (size_t k = 0; k < run->now.failing; k++) {
        numbers[k] = r->numbers[run->failing[k]];
        r->rounds[run->failing[k]]++;
    }
    ok = ok && mal_joint_improve(r->change, run->fixer, numbers, run->now.failing, err);
    mal_free(numbers);
    return ok;
}

static bool prepare(struct run *run, struct mal_error *err) {
    struct mal_repair *r = run->r;
    run->n = r->n_taught + r->n_others;
    r->scores = mal_calloc(run->n + 1, sizeof *r->scores);
    r->rounds = mal_calloc(run->n + 1, sizeof *r->rounds);
    r->numbers = mal_calloc(run->n + 1, sizeof *r->numbers);
    run->failing = mal_calloc(run->n + 1, sizeof *run->failing);
    run->then = mal_calloc(run->n + 1, sizeof *run->then);
    run->best = worst;
    if (!r->scores || !r->rounds || !r->numbers || !run->failing || !run->then)
        return mal_fail(err, MAL_NO_MEMORY, "%zu texts to verify", run->n);
    for (size_t i = 0; i < run->n; i++)
        r->numbers[i] = i < r->n_taught ? r->first_taught + i : SIZE_MAX;
    return true;
}

bool mal_repair_run(struct mal_repair *repair, struct mal_error *err) {
    struct run run = {.r = repair};
    bool ok = prepare(&run, err) && try_change(&run, err);
    if (ok) note_best(&run);
    bool goes_on = ok;
    while (goes_on && run.now.failing > 0 && repair->n_rounds < repair->max_rounds) {
        if (!run.fixer && !(ok = make_fixer(&run, err))) break;
        goes_on = improve(&run, err) && try_change(&run, err);
        if (goes_on) note_best(&run);
        ok = goes_on || diverged(&run, err);
        repair->n_rounds++;
    }
    ok = ok && return_to_best(&run, err);
    mal_edit_diffs_destroy(run.fixer);
    forget_then(&run);
    mal_free(run.then);
    mal_free(run.failing);
    return ok;
}

void mal_repair_finish(struct mal_repair *repair) {
    mal_delta_finish(&repair->delta);
    mal_scores_free(repair->scores, repair->n_taught + repair->n_others);
    mal_free(repair->rounds);
    mal_free(repair->numbers);
    repair->scores = NULL;
    repair->rounds = NULL;
    repair->numbers = NULL;
}
