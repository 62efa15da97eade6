/* training.c - the run itself: steps, validations, checkpoints.
 *
 * OUT always holds the best editor so far, or without --valid the latest; it is written
 * before the state, so that a run resumed from the state writes it again if need be. */
#include "daemon/command/training.h"

#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"

/* ---- Interruption ---- */

static volatile sig_atomic_t interrupted;

/* A second one ends the process at once. */
static void on_signal(int number) {
    interrupted = 1;
    signal(number, SIG_DFL);
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static bool tick(void *arg) {
    (void)arg;
    return !interrupted;
}

static const struct mal_train_watch watch = {.tick = tick};

/* ---- Telling ---- */

static void print_line(struct mal_training *t, json_t *line) {
    FILE *const files[] = {t->o->json ? stdout : NULL, t->log};
    for (size_t i = 0; line && i < 2; i++) {
        if (!files[i]) continue;
        json_dumpf(line, files[i], MAL_JSON_TOLD);
        fputc('\n', files[i]);
        fflush(files[i]);
    }
    json_decref(line);
}

/* null where there is none: JSON has no NaN */
static json_t *number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

double mal_training_mean_lr(const struct mal_training *training) {
    const struct mal_editor *editor = training->wb.editor;
    double sum = 0, n = 0;
    for (size_t s = 0; s < editor->n_shapes; s++) {
        for (int64_t m = 0; m < editor->shapes[s].n_modules; m++, n++)
            sum += (double)editor->shapes[s].lr[m];
    }
    return sum / n;
}

/* Whether --steps ends the run, rather than the data: what progress is counted in. */
static bool counts_steps(const struct mal_training *t) {
    return t->o->steps > 0 &&
           t->o->steps * t->order.max_edits <= mal_train_order_total(&t->order);
}

static json_t *parts_json(const double *parts) {
    static const char *const names[MAL_N_TRAIN_PARTS] = {"rows", "shifts", "losses",
                                                         "backward", "update"};
    json_t *out = json_object();
    for (int i = 0; i < MAL_N_TRAIN_PARTS; i++)
        json_object_set_new(out, names[i], json_real(parts[i]));
    return out;
}

static void tell_step(struct mal_training *t, size_t n_facts,
                      const struct mal_train_rates *rates) {
    const struct mal_train_report *r = &t->last;
    snprintf(t->label, sizeof t->label, "step %lld gen %.4f loc %.4f",
             (long long)t->order.step, r->gen_loss, r->loc_loss);
    mal_bar_update(&t->bar,
                   counts_steps(t) ? t->order.step : mal_train_order_done(&t->order));
    if (!t->o->json && !t->log) return;
    print_line(t, json_pack("{s:I,s:I,s:o,s:o,s:f,s:f,s:f,s:f,s:I,s:f,s:o}", "step",
                            (json_int_t)t->order.step, "facts", (json_int_t)n_facts,
                            "gen_loss", number(r->gen_loss), "loc_loss",
                            number(r->loc_loss), "grad_norm", r->grad_norm, "lr",
                            mal_training_mean_lr(t), "meta_lr", rates->meta, "edit_loss",
                            r->edit_loss, "rows", (json_int_t)r->rows, "seconds",
                            r->seconds, "parts", parts_json(r->parts)));
}

static void tell_validation(struct mal_training *t, double gen, double loc, double loss,
                            bool best) {
    if (!t->o->json && !t->bar.terminal) {
        fprintf(stderr, "step %lld: validation gen %.4f loc %.4f%s\n",
                (long long)t->order.step, gen, loc, best ? ", the best so far" : "");
    }
    if (!t->o->json && !t->log) return;
    print_line(t, json_pack("{s:I,s:{s:o,s:o,s:o,s:b}}", "step",
                            (json_int_t)t->order.step, "valid", "gen_loss", number(gen),
                            "loc_loss", number(loc), "loss", number(loss), "best", best));
}

/* ---- Keeping ---- */

static bool save_editor(struct mal_training *t, struct mal_error *err) {
    return mal_trainer_fetch(t->trainer, err) &&
           mal_editor_save(t->wb.editor, t->o->out, err);
}

static bool save_state(struct mal_training *t, struct mal_error *err) {
    if (t->valid.n_facts == 0 && !save_editor(t, err)) return false;
    return mal_train_state_save(t->trainer, t->state, &t->position, t->run, err);
}

/* After a step, before anything that may be interrupted: where the run stands. */
static void note_position(struct mal_training *t) {
    t->position.step = t->order.step;
    t->position.epoch = t->order.epoch;
    t->position.at = (int64_t)t->order.at;
    t->position.lr_rate = t->lr_rate;
}

/* ---- Validation ---- */

/* Losses over the facts of --valid, as many at a time as a step may have. */
static bool validation_losses(struct mal_training *t, double *gen, double *loc,
                              struct mal_error *err) {
    size_t n = t->valid.n_facts, size = (size_t)t->order.max_edits;
    size_t *facts = mal_calloc(n, sizeof *facts);
    if (!facts) return mal_fail(err, MAL_NO_MEMORY, "validation");
    for (size_t i = 0; i < n; i++)
        facts[i] = i;
    bool ok = true;
    for (size_t first = 0; ok && first < n; first += size) {
        size_t k = n - first < size ? n - first : size;
        struct mal_train_batch batch = {0};
        struct mal_train_report report;
        ok = mal_train_batch_make(&batch, &t->valid, facts + first, k, 0, err) &&
             mal_trainer_measure(t->trainer, &batch, &watch, &report, err);
        mal_train_batch_finish(&batch);
        if (!ok) break;
        *gen += report.gen_loss * (double)k / (double)n;
        if (!isnan(report.loc_loss)) *loc += report.loc_loss * (double)k / (double)n;
    }
    mal_free(facts);
    return ok;
}

static bool validate(struct mal_training *t, struct mal_error *err) {
    double gen = 0, loc = 0;
    if (!validation_losses(t, &gen, &loc, err)) return false;
    double loss = gen + t->o->loc_coef * loc;
    bool best = isfinite(loss) && !(loss >= t->position.best);
    if (best) {
        t->position.best = loss;
        t->position.best_step = t->order.step;
        t->position.waited = 0;
        if (!save_editor(t, err)) return false;
    } else {
        t->position.waited++;
    }
    t->position.validated = t->order.step;
    tell_validation(t, gen, loc, loss, best);
    return true;
}

/* Also of a run that was interrupted in it. */
static bool validate_if_due(struct mal_training *t, struct mal_error *err) {
    bool due = t->order.step % t->o->valid_every == 0;
    return t->valid.n_facts == 0 || !due || t->position.validated == t->order.step ||
           validate(t, err);
}

static bool has_stopped(const struct mal_training *t) {
    return t->o->patience > 0 && t->position.waited >= t->o->patience;
}

/* ---- Steps ---- */

/* From the share of the run that is done. */
static double schedule(const struct mal_training *t) {
    double done = (double)mal_train_order_done(&t->order) /
                  (double)mal_train_order_total(&t->order);
    if (t->o->steps > 0) {
        double steps = (double)(t->order.step - 1) / (double)t->o->steps;
        if (steps > done) done = steps;
    }
    double rate = strcmp(t->o->schedule, "cosine") == 0
                      ? 0.5 * (1 + cos(3.14159265358979323846 * done))
                      : 1;
    double warm = t->o->warmup > 0 ? (double)t->order.step / (double)t->o->warmup : 1;
    return rate * (warm < 1 ? warm : 1);
}

/* *done: there is no further step. */
static bool step(struct mal_training *t, bool *done, struct mal_error *err) {
    const size_t *facts;
    size_t n;
    uint64_t seed;
    struct mal_train_batch batch = {0};
    *done = (t->o->steps > 0 && t->order.step >= t->o->steps) || has_stopped(t) ||
            !mal_train_order_next(&t->order, &facts, &n, &seed);
    if (*done) return true;
    double rate = schedule(t);
    struct mal_train_rates rates = {rate * t->meta_rate, rate * t->lr_rate};
    bool ok = mal_train_batch_make(&batch, &t->data, facts, n, seed, err) &&
              mal_trainer_step(t->trainer, &batch, &rates, &watch, &t->last, err);
    mal_train_batch_finish(&batch);
    if (!ok) return false;
    note_position(t);
    tell_step(t, n, &rates);
    return validate_if_due(t, err) &&
           (t->order.step % t->o->save_every != 0 || save_state(t, err));
}

/* The run's end: a last validation, and both files. */
static bool finish(struct mal_training *t, struct mal_error *err) {
    bool validated = t->position.validated == t->order.step;
    if (t->valid.n_facts > 0 && !validated && !has_stopped(t) && !validate(t, err))
        return false;
    note_position(t);
    if (!save_state(t, err)) return false;
    return t->valid.n_facts == 0 || !isnan(t->position.best) ||
           mal_fail(err, MAL_NUMERIC,
                    "no validation had a finite loss: %s was not written", t->o->out);
}

bool mal_training_go(struct mal_training *t, struct mal_error *err) {
    bool done = false, ok;
    catch_signals();
    note_position(t);
    mal_bar_start(&t->bar, t->label,
                  counts_steps(t) ? t->o->steps : mal_train_order_total(&t->order),
                  t->o->json);
    ok = validate_if_due(t, err);
    while (ok && !done)
        ok = step(t, &done, err);
    mal_bar_finish(&t->bar);
    ok = ok && finish(t, err);
    if (ok || err->status != MAL_CANCELLED) return ok;
    *err = (struct mal_error){0};
    if (t->position.step == 0)
        return mal_fail(err, MAL_CANCELLED, "interrupted before the first step");
    if (!save_state(t, err)) return false;
    return mal_fail(err, MAL_CANCELLED,
                    "interrupted after step %lld; --resume %s goes on from there",
                    (long long)t->position.step, t->state);
}
