/* change_joint.c - a change of the facts in a joint system: what is taught, what is given
 * up, what else is looked at, and the values that come of it. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "daemon/engine/change_impl.h"
#include "daemon/engine/stager.h"

/* ---- Opening ---- */

static bool open_own(struct mal_joint_run *run, struct mal_error *err) {
    const struct mal_engine *engine = run->engine;
    if (!mal_joint_create_alone(&run->own, engine->model, engine->editor,
                                engine->preserve, engine->joint_memory, err))
        return false;
    run->system = run->own;
    return true;
}

bool mal_joint_run_open(struct mal_joint_run *run, struct mal_error *err) {
    struct mal_engine *engine = run->engine;
    int64_t live = mal_weights_live(engine->ws);
    if (run->joint) {
        struct mal_members_of of = mal_engine_members_of(engine);
        mal_weights_use(engine->ws, 0);
        if (!mal_members_sync(&engine->members, &of, run->store, run->progress, err) ||
            !mal_history_joint_path(run->store, live, &run->path, &run->added,
                                    &run->n_path, err))
            return false;
        engine->members.version = 0;
        run->system = engine->members.joint;
    } else if (!open_own(run, err)) {
        return false;
    }
    return mal_joint_change_create(&run->solving, run->system,
                                   run->joint ? engine->ws : NULL, run->progress,
                                   &run->change->report, err);
}

void mal_joint_run_finish(struct mal_joint_run *run) {
    mal_repair_finish(&run->repair);
    mal_joint_change_destroy(run->solving);
    mal_joint_destroy(run->own);
    mal_fact_set_finish(&run->taught);
    mal_fact_set_finish(&run->others);
    mal_fact_set_finish(&run->removed);
    mal_free(run->path);
    mal_free(run->added);
    *run = (struct mal_joint_run){0};
}

/* ---- What is looked at ---- */

/* Where a number is in an ascending list; NULL: it is not. */
static const int64_t *find(const int64_t *list, size_t n, int64_t number) {
    for (size_t from = 0, to = n; from < to;) {
        size_t middle = from + (to - from) / 2;
        if (list[middle] == number) return &list[middle];
        if (list[middle] < number) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return NULL;
}

static bool contains(const int64_t *seqs, size_t n, int64_t seq) {
    return find(seqs, n, seq) != NULL;
}

/* Of what this version taught no values are stored: it can be neither repaired nor taken
 * back singly. */
static bool is_added(const struct mal_joint_run *run, int64_t version) {
    const int64_t *at = find(run->path, run->n_path, version);
    return at && run->added[at - run->path];
}

/* Of `n` live facts the limit's share, another one for each version. */
static bool is_sampled(const struct mal_engine *engine, size_t i, size_t n) {
    size_t limit = (size_t)engine->verify_limit;
    if (n <= limit) return true;
    size_t turned = (i + (size_t)mal_weights_live(engine->ws) * limit) % n;
    return turned < limit;
}

static int by_number(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Those of run->removed, ascending; owned. */
static int64_t *list_removed(const struct mal_joint_run *run, struct mal_error *err) {
    size_t n = run->removed.n;
    int64_t *seqs = mal_calloc(n + 1, sizeof *seqs);
    if (!seqs) {
        mal_fail(err, MAL_NO_MEMORY, "facts");
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        seqs[i] = run->removed.of[i].seq;
    qsort(seqs, n, sizeof *seqs, by_number);
    return seqs;
}

bool mal_joint_run_look(struct mal_joint_run *run, struct mal_error *err) {
    struct mal_engine *engine = run->engine;
    struct mal_member *members = NULL;
    size_t n = 0, n_live = 0, n_rows = 0;
    int64_t *gone = list_removed(run, err);
    if (!gone || !mal_store_member_list(run->store, &members, &n, err)) {
        mal_free(gone);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (members[i].pinned || contains(gone, run->removed.n, members[i].seq)) continue;
        members[n_live++] = members[i];
    }
    run->n_live = n_live;
    struct mal_fact_row *rows = mal_calloc(n_live + 1, sizeof *rows);
    bool ok = rows || mal_fail(err, MAL_NO_MEMORY, "live facts");
    for (size_t i = 0; ok && i < n_live; i++) {
        if (!is_sampled(engine, i, n_live) &&
            !contains(run->sought, run->n_sought, members[i].seq))
            continue;
        struct mal_fact_row *row = &rows[n_rows];
        ok = mal_store_get_fact_seq(run->store, members[i].seq, row, err);
        if (ok && is_added(run, row->version))
            mal_fact_row_finish(row);
        else
            n_rows += ok;
    }
    ok = ok && mal_fact_set_of_rows(&run->others, engine->model, engine->tok, rows,
                                    n_rows, err);
    for (size_t i = 0; i < n_rows; i++)
        mal_fact_row_finish(&rows[i]);
    mal_free(rows);
    mal_free(members);
    mal_free(gone);
    return ok;
}

/* ---- What changes ---- */

/* A taught fact's values, as they are now. */
static bool pack_taught(const struct mal_joint_run *run, size_t i,
                        struct mal_history_value *out) {
    const struct mal_fact_set *set = &run->taught;
    out->fact = set->of[i].seq;
    if (!out->id) out->id = mal_strdup(set->facts[i].id);
    return out->id && mal_history_pack_values(
                          out, mal_joint_values(run->solving, set->of[i].first_text),
                          mal_fact_set_n_values(set, run->system, i));
}

/* Of a large batch gigabytes, whose pages are new. */
static bool pack_all_taught(struct mal_joint_run *run, struct mal_error *err) {
    size_t n = run->taught.n;
    if (n == 0) return true;
    struct mal_history_value *values = mal_change_add_values(run->change, n, err);
    if (!values) return false;
    bool ok = true;
#pragma omp parallel for schedule(dynamic, 16) reduction(&& : ok) if (n > 16)
    for (size_t i = 0; i < n; i++)
        ok = pack_taught(run, i, &values[i]) && ok;
    return ok || mal_fail(err, MAL_NO_MEMORY, "values of %zu facts", n);
}

/* While the system is solved they can be on their way already. */
static bool give_taught(struct mal_joint_run *run, struct mal_error *err) {
    struct mal_change *change = run->change;
    size_t n = 0;
    for (size_t i = 0; i < run->taught.n; i++)
        n += mal_fact_set_n_values(&run->taught, run->system, i);
    if (!run->joint || !change->stager || n * sizeof(float) < MAL_STAGER_LEAST)
        return true;
    return pack_all_taught(run, err) &&
           mal_stager_values(change->stager, change->row.version, change->values,
                             change->n_values, err);
}

bool mal_joint_run_teach(struct mal_joint_run *run, struct mal_error *err) {
    struct mal_engine *engine = run->engine;
    const struct mal_fact_set *set = &run->taught;
    if (run->joint && !mal_members_reserve(&engine->members, set->n, err)) return false;
    mal_weights_use(engine->ws, run->joint ? 0 : mal_weights_live(engine->ws));
    if (!mal_joint_teach_values(run->solving, run->change->norms, set->texts,
                                set->n_texts, err) ||
        !give_taught(run, err) || !mal_joint_teach_keys(run->solving, err))
        return false;
    for (size_t i = 0; run->joint && i < set->n; i++)
        mal_members_note(&engine->members, set->of[i].seq, false, true);
    return true;
}

static bool check_not_added(const struct mal_joint_run *run, size_t i,
                            struct mal_error *err) {
    const struct mal_fact_set *set = &run->removed;
    if (set->of[i].pinned || !is_added(run, set->of[i].version)) return true;
    return mal_fail(
        err, MAL_CONFLICT,
        "fact %s was added to the weights (--update sequential) and is not in "
        "one system with others: consolidate first (POST /v1/consolidations), "
        "roll back, or, to teach another answer, serve with --update sequential",
        set->facts[i].id);
}

/* What was pinned before leaves with what was held for it. */
static bool remove_texts(struct mal_joint_run *run, bool pin, struct mal_error *err) {
    struct mal_fact_set *set = &run->removed;
    struct mal_value_source source = {run->store, run->system, run->path, run->n_path};
    const float **values = mal_calloc(set->n_texts + 1, sizeof *values);
    bool ok = values || mal_fail(err, MAL_NO_MEMORY, "values");
    for (size_t i = 0; ok && i < set->n; i++)
        ok = check_not_added(run, i, err) && mal_fact_set_load(set, i, &source, err);
    for (size_t t = 0; ok && t < set->n_texts; t++)
        values[t] = mal_fact_set_values(set, run->system, t);
    ok = ok && mal_joint_remove(run->solving, set->texts, values, set->n_texts, set->held,
                                pin ? 0 : set->n_held, pin, err);
    mal_free(values);
    return ok;
}

bool mal_joint_run_remove(struct mal_joint_run *run, bool pin, struct mal_error *err) {
    struct mal_engine *engine = run->engine;
    struct mal_fact_set *set = &run->removed;
    mal_weights_use(engine->ws, 0);
    if (!mal_members_reserve(&engine->members, set->n, err) ||
        !mal_fact_set_hold(set, engine->model, engine->tok, pin, run->progress, err) ||
        !remove_texts(run, pin, err) ||
        (pin && !mal_joint_hold(run->solving, set->held, set->n_held, err)))
        return false;
    for (size_t i = 0; i < set->n; i++) {
        mal_members_note(&engine->members, set->of[i].seq, set->of[i].pinned, false);
        if (pin) mal_members_note(&engine->members, set->of[i].seq, true, true);
    }
    return true;
}

/* ---- Solving ---- */

static bool load_text(void *arg, size_t text, float *values, struct mal_error *err) {
    struct mal_joint_run *run = arg;
    struct mal_fact_set *set = &run->others;
    struct mal_value_source source = {run->store, run->system, run->path, run->n_path};
    if (!mal_fact_set_load(set, set->texts[text].source, &source, err)) return false;
    memcpy(values, mal_fact_set_values(set, run->system, text),
           mal_joint_n_values(run->system, &set->texts[text]) * sizeof *values);
    return true;
}

/* The change has it in the end, whatever becomes of the repair. */
static void give_delta(void *arg, struct mal_delta *delta) {
    struct mal_joint_run *run = arg;
    run->change->delta = *delta;
    mal_change_give_delta(run->change);
}

bool mal_joint_run_solve(struct mal_joint_run *run, int64_t basis,
                         struct mal_error *err) {
    struct mal_engine *engine = run->engine;
    run->repair =
        (struct mal_repair){.change = run->solving,
                            .ws = engine->ws,
                            .editor = engine->editor,
                            .norms = run->change->norms,
                            .origin = run->joint ? 0 : mal_weights_live(engine->ws),
                            .basis = basis,
                            .max_rounds = engine->repair_rounds,
                            .tau = engine->repair_tau,
                            .progress = run->progress,
                            .report = &run->change->report,
                            .taught = run->taught.texts,
                            .n_taught = run->taught.n_texts,
                            .others = run->others.texts,
                            .n_others = run->others.n_texts,
                            .load = load_text,
                            .load_arg = run,
                            .decided = give_delta,
                            .decided_arg = run};
    bool ok = mal_repair_run(&run->repair, err);
    run->change->delta = run->repair.delta;
    run->repair.delta = (struct mal_delta){0};
    return ok;
}

/* ---- What comes of it ---- */

static int32_t most_rounds(const int32_t *rounds, size_t n) {
    int32_t most = 0;
    for (size_t i = 0; i < n; i++)
        if (rounds[i] > most) most = rounds[i];
    return most;
}

static bool was_repaired(const struct mal_joint_run *run, const struct mal_set_fact *of) {
    return most_rounds(run->repair.rounds + of->first_text, of->n_texts) > 0;
}

/* What was given before the repair is replaced where that changed it. */
static bool keep_taught(struct mal_joint_run *run, struct mal_error *err) {
    struct mal_history_value *values = run->change->values;
    if (run->change->n_values == 0) return pack_all_taught(run, err);
    for (size_t i = 0; i < run->taught.n; i++) {
        if (!was_repaired(run, &run->taught.of[i])) continue;
        values[i].replaces = true;
        if (!pack_taught(run, i, &values[i]))
            return mal_fail(err, MAL_NO_MEMORY, "values of a fact");
    }
    return true;
}

/* The values of a fact that was there before, as the change left them; texts it did not
 * touch keep theirs. */
static void copy_values(const struct mal_joint_run *run, size_t i) {
    const struct mal_fact_set *set = &run->others;
    const struct mal_set_fact *of = &set->of[i];
    for (size_t t = of->first_text; t < of->first_text + of->n_texts; t++) {
        size_t number = run->repair.numbers[run->taught.n_texts + t];
        if (number == SIZE_MAX) continue;
        memcpy(mal_fact_set_values(set, run->system, t),
               mal_joint_values(run->solving, number),
               mal_joint_n_values(run->system, &set->texts[t]) * sizeof *of->values);
    }
}

static bool keep_values(struct mal_joint_run *run, size_t i, struct mal_error *err) {
    struct mal_fact_set *set = &run->others;
    struct mal_value_source source = {run->store, run->system, run->path, run->n_path};
    if (!mal_fact_set_load(set, i, &source, err)) return false;
    copy_values(run, i);
    struct mal_history_value *value = mal_change_add_values(run->change, 1, err);
    if (!value) return false;
    value->fact = set->of[i].seq;
    value->id = mal_strdup(set->facts[i].id);
    return (value->id &&
            mal_history_pack_values(value, set->of[i].values, set->of[i].n_values)) ||
           mal_fail(err, MAL_NO_MEMORY, "values of a fact");
}

static bool is_touched(const struct mal_repair *repair, const struct mal_set_fact *of,
                       size_t first) {
    for (size_t t = 0; t < of->n_texts; t++)
        if (repair->numbers[first + of->first_text + t] != SIZE_MAX) return true;
    return false;
}

/* Whether a fact's texts, whose scores begin so, are all right by the margin. */
static bool is_certain(const struct mal_joint_run *run, const struct mal_set_fact *of,
                       const struct mal_score *scores) {
    return mal_repair_all_pass(scores, of->n_texts, run->engine->repair_tau);
}

/* A fact that was there before: its result, where it was repaired or is not what it was.
 */
static bool keep_other(struct mal_joint_run *run, size_t i, struct mal_error *err) {
    struct mal_fact_set *set = &run->others;
    const struct mal_set_fact *of = &set->of[i];
    size_t first = run->taught.n_texts;
    const struct mal_score *score = &run->repair.scores[first + of->first_text];
    bool touched = is_touched(&run->repair, of, first);
    if (!score->correct) run->change->n_wrong_others++;
    if (touched && run->joint && !keep_values(run, i, err)) return false;
    bool certain = is_certain(run, of, score);
    if (!touched && score->correct == of->decoded && certain == of->certain) return true;
    int32_t rounds =
        most_rounds(run->repair.rounds + first + of->first_text, of->n_texts);
    return mal_change_add_result(run->change, set->facts[i].id, score, certain, rounds,
                                 err);
}

bool mal_joint_run_keep(struct mal_joint_run *run, struct mal_error *err) {
    struct mal_fact_set *taught = &run->taught;
    run->change->n_rounds = run->repair.n_rounds;
    if (!mal_change_room(run->change, taught->n + run->others.n, err) ||
        (run->joint && !keep_taught(run, err)))
        return false;
    for (size_t i = 0; i < taught->n; i++) {
        const struct mal_set_fact *of = &taught->of[i];
        int32_t rounds = most_rounds(run->repair.rounds + of->first_text, of->n_texts);
        const struct mal_score *score = &run->repair.scores[of->first_text];
        if (!mal_change_add_result(run->change, taught->facts[i].id, score,
                                   is_certain(run, of, score), rounds, err))
            return false;
    }
    for (size_t i = 0; i < run->others.n; i++)
        if (!keep_other(run, i, err)) return false;
    return true;
}
