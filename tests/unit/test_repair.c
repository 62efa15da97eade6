/* test_repair.c - repair on the demo model: what fails is made right, and nothing else is
 * touched; and what a cancelled one leaves. */
#include "demo_editor.h"

#include <math.h>

#include "core/alloc.h"
#include "core/editor/repair.h"

enum { N_FACTS = 32, HALF = N_FACTS / 2 };

static int open_all(void **state) {
    return open_demo_editor(state, N_FACTS);
}

/* ---- A system, and changes of it ---- */

struct scene {
    struct mal_weights_state *ws;
    struct mal_joint *joint;
    struct mal_joint_change *change;
    struct mal_edit_report report;
    struct mal_repair repair;
};

static void begin(struct scene *s) {
    struct mal_error err = {0};
    *s = (struct scene){0};
    assert_ok(mal_weights_create(&s->ws, model, 0, &err), &err);
    assert_ok(mal_joint_create(&s->joint, model, editor, NULL, 0, &err), &err);
}

static void end_change(struct scene *s) {
    mal_repair_finish(&s->repair);
    mal_joint_change_destroy(s->change);
    s->change = NULL;
}

static void end(struct scene *s) {
    end_change(s);
    mal_joint_destroy(s->joint);
    mal_weights_destroy(s->ws);
}

/* Texts [first, first + n) taught and repaired, those of `how` verified beside them. */
static bool run(struct scene *s, size_t first, size_t n, const struct mal_repair *how,
                struct mal_error *err) {
    s->repair = *how;
    s->repair.ws = s->ws;
    s->repair.basis = mal_weights_live(s->ws);
    s->repair.editor = editor;
    s->repair.report = &s->report;
    s->repair.taught = texts + first;
    s->repair.n_taught = n;
    mal_weights_use(s->ws, 0);
    if (!mal_joint_change_create(&s->change, s->joint, s->ws, how->progress, &s->report,
                                 err) ||
        !mal_joint_teach(s->change, NULL, texts + first, n, err))
        return false;
    s->repair.change = s->change;
    return mal_repair_run(&s->repair, err);
}

static void teach(struct scene *s, size_t first, size_t n, const struct mal_repair *how) {
    struct mal_error err = {0};
    assert_ok(run(s, first, n, how, &err), &err);
}

static void publish(struct scene *s) {
    struct mal_error err = {0};
    assert_ok(mal_weights_seal(s->ws, NULL, NULL, &err), &err);
    mal_weights_publish(s->ws, mal_weights_live(s->ws) + 1);
}

/* Whether each of the target's tokens is the first, and as probable as this. */
static bool right(const struct mal_score *score, const struct mal_example *text,
                  double tau) {
    assert_int_equal(score->n_tokens, text->n_target);
    for (size_t t = 0; t < score->n_tokens; t++) {
        if (score->tokens[t].argmax != text->target[t]) return false;
        if (exp((double)score->tokens[t].logprob) < tau) return false;
    }
    return true;
}

static size_t n_right(const struct scene *s, double tau) {
    const struct mal_repair *r = &s->repair;
    size_t n = 0;
    for (size_t i = 0; i < r->n_taught; i++)
        n += right(&r->scores[i], &r->taught[i], tau);
    for (size_t i = 0; i < r->n_others; i++)
        n += right(&r->scores[r->n_taught + i], &r->others[i], tau);
    return n;
}

static size_t bytes_of(const struct scene *s, size_t text) {
    return mal_joint_n_values(s->joint, &texts[text]) * sizeof(float);
}

/* ---- Right and wrong ---- */

static const struct mal_repair once = {.max_rounds = 0, .tau = 0.9},
                               usual = {.max_rounds = 4, .tau = 0.9};

static void test_passes(void **state) {
    struct mal_token_score tokens[] = {{.logprob = -0.05f}, {.logprob = -0.2f}};
    struct mal_score score = {.tokens = tokens, .n_tokens = 2, .correct = true};
    assert_true(mal_repair_passes(&score, 0));
    assert_true(mal_repair_passes(&score, 0.8));
    assert_false(mal_repair_passes(&score, 0.9)); /* one token is enough */
    score.n_tokens = 1;
    assert_true(mal_repair_passes(&score, 0.9));
    score.correct = false;
    assert_false(mal_repair_passes(&score, 0));
}

/* A batch of which the single pass leaves some wrong: after repair all are right, by the
 * margin; the values of those that were right at once are to the bit what they were. */
static void test_repairs(void **state) {
    struct scene single, repaired;
    begin(&single);
    teach(&single, 0, N_FACTS, &once);
    size_t decoded = n_right(&single, 0);
    assert_in_range(decoded, N_FACTS / 2, N_FACTS - 1);
    begin(&repaired);
    teach(&repaired, 0, N_FACTS, &usual);
    const struct mal_repair *r = &repaired.repair;
    assert_int_equal(n_right(&repaired, 0.9), N_FACTS);
    assert_in_range(r->n_rounds, 1, 4);
    int32_t most = 0;
    for (size_t i = 0; i < N_FACTS; i++) {
        bool at_once = right(&single.repair.scores[i], &texts[i], 0.9);
        int differs = memcmp(mal_joint_values(single.change, i),
                             mal_joint_values(repaired.change, i), bytes_of(&single, i));
        if (at_once && r->rounds[i] == 0) assert_int_equal(differs, 0);
        if (r->rounds[i] > 0) assert_int_not_equal(differs, 0);
        if (!at_once) assert_true(r->rounds[i] > 0);
        assert_int_equal(r->numbers[i], i);
        if (r->rounds[i] > most) most = r->rounds[i];
    }
    assert_int_equal(most, r->n_rounds);
    end(&single);
    end(&repaired);
}

/* What repair hands over is what was scored. */
static void test_delta(void **state) {
    struct mal_error err = {0};
    struct scene s;
    struct mal_score scores[HALF] = {{0}};
    begin(&s);
    teach(&s, 0, HALF, &usual);
    mal_weights_discard(s.ws);
    assert_ok(mal_weights_prepare(s.ws, &s.repair.delta, NULL, NULL, &err), &err);
    mal_weights_publish(s.ws, 1);
    mal_weights_use(s.ws, 1);
    assert_ok(mal_score_examples(model, NULL, texts, HALF, NULL, NULL, scores, &err),
              &err);
    for (size_t i = 0; i < HALF; i++) {
        assert_memory_equal(scores[i].tokens, s.repair.scores[i].tokens,
                            scores[i].n_tokens * sizeof *scores[i].tokens);
        mal_free(scores[i].tokens);
    }
    end(&s);
}

/* No rounds: the paper's single pass, bit for bit. */
static void test_no_rounds(void **state) {
    struct mal_error err = {0};
    struct scene s;
    struct mal_delta plain = {0};
    struct mal_joint *joint = NULL;
    struct mal_joint_change *change = NULL;
    begin(&s);
    teach(&s, 0, N_FACTS, &once);
    assert_int_equal(s.repair.n_rounds, 0);
    assert_int_equal(mal_joint_n_texts(s.change), N_FACTS);
    mal_weights_use(s.ws, 0);
    assert_ok(mal_joint_create(&joint, model, editor, NULL, 0, &err), &err);
    assert_ok(mal_joint_change_create(&change, joint, s.ws, NULL, &s.report, &err), &err);
    assert_ok(mal_joint_teach(change, NULL, texts, N_FACTS, &err), &err);
    assert_ok(mal_joint_delta(change, &plain, &err), &err);
    assert_int_equal(plain.n_parts, s.repair.delta.n_parts);
    for (size_t m = 0; m < plain.n_parts; m++) {
        size_t bytes = mal_delta_part_bytes(&plain.parts[m]);
        assert_int_equal(mal_delta_part_bytes(&s.repair.delta.parts[m]), bytes);
        assert_memory_equal(plain.parts[m].data, s.repair.delta.parts[m].data, bytes);
    }
    for (size_t i = 0; i < N_FACTS; i++)
        assert_int_equal(s.repair.rounds[i], 0);
    mal_delta_finish(&plain);
    mal_joint_change_destroy(change);
    mal_joint_destroy(joint);
    end(&s);
}

/* Nothing is ever certain: with tau 1 every text is repaired in every round, and with
 * tau 0 only those whose answer is another. */
static void test_tau(void **state) {
    struct scene single, s;
    begin(&single);
    teach(&single, 0, HALF, &(struct mal_repair){.max_rounds = 1, .tau = 1});
    begin(&s);
    teach(&s, 0, HALF, &(struct mal_repair){.max_rounds = 2, .tau = 1});
    assert_int_equal(s.repair.n_rounds, 2);
    assert_int_equal(n_right(&s, 0), n_right(&single, 0)); /* of equals the last counts */
    for (size_t i = 0; i < HALF; i++) {
        assert_int_equal(s.repair.rounds[i], 2);
        assert_memory_not_equal(mal_joint_values(s.change, i),
                                mal_joint_values(single.change, i), bytes_of(&s, i));
    }
    end(&single);
    end(&s);

    begin(&single);
    teach(&single, 0, N_FACTS, &once);
    begin(&s);
    teach(&s, 0, N_FACTS, &(struct mal_repair){.max_rounds = 1, .tau = 0});
    assert_int_equal(s.repair.n_rounds, 1);
    size_t unsure = 0;
    for (size_t i = 0; i < N_FACTS; i++) {
        bool decoded = right(&single.repair.scores[i], &texts[i], 0);
        unsure += decoded && !right(&single.repair.scores[i], &texts[i], 0.9);
        assert_int_equal(s.repair.rounds[i], !decoded);
    }
    assert_true(unsure > 0); /* they were left alone */
    end(&single);
    end(&s);
}

/* Steps of any size give weights, but not such that a text could be scored with them. */
static void test_not_finite(void **state) {
    struct mal_error err = {0};
    struct scene s;
    struct mal_editor_shape *shape = &editor->shapes[0];
    float *lr = shape->lr, wild[8];
    assert_true(shape->n_modules <= 8 && editor->n_shapes == 1);
    for (int64_t i = 0; i < shape->n_modules; i++)
        wild[i] = 1e6f * lr[i];
    shape->lr = wild;
    begin(&s);
    assert_false(run(&s, 0, 1, &once, &err));
    assert_error(&err, MAL_NUMERIC, "output is not finite");
    end(&s);
    shape->lr = lr;
}

/* ---- Texts that were there before ---- */

struct shelf {
    const struct mal_joint *joint;
    float *values[N_FACTS];
    int loads[N_FACTS];
    bool broken;
};

static bool load(void *arg, size_t i, float *values, struct mal_error *err) {
    struct shelf *shelf = arg;
    if (shelf->broken) return mal_fail(err, MAL_IO, "the shelf broke");
    shelf->loads[i]++;
    memcpy(values, shelf->values[i],
           mal_joint_n_values(shelf->joint, &texts[i]) * sizeof *values);
    return true;
}

/* Half of the facts in a version, by a single pass; their values on the shelf. */
static void live_half(struct scene *s, struct shelf *shelf) {
    begin(s);
    *shelf = (struct shelf){.joint = s->joint};
    teach(s, 0, HALF, &once);
    assert_in_range(n_right(s, 0.9), 1, HALF - 1);
    for (size_t i = 0; i < HALF; i++) {
        shelf->values[i] = mal_malloc(bytes_of(s, i));
        memcpy(shelf->values[i], mal_joint_values(s->change, i), bytes_of(s, i));
    }
    publish(s);
    end_change(s);
}

static void clear(struct shelf *shelf) {
    for (size_t i = 0; i < N_FACTS; i++)
        mal_free(shelf->values[i]);
}

static void test_others(void **state) {
    struct scene s;
    struct shelf shelf;
    live_half(&s, &shelf);
    struct mal_repair how = usual;
    how.others = texts;
    how.n_others = HALF;
    how.load = load;
    how.load_arg = &shelf;
    teach(&s, HALF, HALF, &how);
    const struct mal_repair *r = &s.repair;
    assert_int_equal(n_right(&s, 0.9), N_FACTS);
    size_t repaired = 0;
    for (size_t i = 0; i < HALF; i++) {
        size_t number = r->numbers[HALF + i];
        assert_int_equal(r->numbers[i], i); /* taught */
        assert_int_equal(shelf.loads[i], r->rounds[HALF + i] > 0);
        assert_int_equal(number != SIZE_MAX, r->rounds[HALF + i] > 0);
        if (number == SIZE_MAX) continue;
        assert_int_equal(number, HALF + repaired++);
        assert_memory_not_equal(mal_joint_values(s.change, number), shelf.values[i],
                                bytes_of(&s, i));
        memcpy(shelf.values[i], mal_joint_values(s.change, number), bytes_of(&s, i));
    }
    assert_in_range(repaired, 1, HALF - 1);
    assert_int_equal(mal_joint_n_texts(s.change), HALF + repaired);
    publish(&s);
    end_change(&s);

    /* a scrub that finds nothing: no round, nothing is loaded */
    memset(shelf.loads, 0, sizeof shelf.loads);
    how.taught = NULL;
    teach(&s, 0, 0, &how);
    assert_int_equal(s.repair.n_rounds, 0);
    assert_int_equal(s.repair.delta.n_parts, 0);
    for (size_t i = 0; i < HALF; i++)
        assert_int_equal(shelf.loads[i], 0);
    end(&s);
    clear(&shelf);
}

/* A scrub: nothing is taught, and of what is there some fails. */
static void test_scrub(void **state) {
    struct mal_error err = {0};
    struct scene s;
    struct shelf shelf;
    live_half(&s, &shelf);
    struct mal_repair how = usual;
    how.others = texts;
    how.n_others = HALF;
    how.load = load;
    how.load_arg = &shelf;
    teach(&s, 0, 0, &how);
    assert_in_range(s.repair.n_rounds, 1, 4);
    assert_int_equal(n_right(&s, 0.9), HALF);
    end_change(&s);
    mal_weights_discard(s.ws);

    shelf.broken = true;
    assert_false(run(&s, 0, 0, &how, &err));
    assert_error(&err, MAL_IO, "the shelf broke");
    assert_int_equal(mal_weights_live(s.ws), 1);
    end(&s);
    clear(&shelf);
}

/* ---- Cancelled ---- */

struct watch {
    int ticks[MAL_N_STAGES];
    enum mal_stage stage;
    int at; /* from this tick of the stage on; 0: never */
    bool stopped;
};

static bool watch(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct watch *w = arg;
    int n = ++w->ticks[stage];
    if (w->at && stage == w->stage && n >= w->at) w->stopped = true;
    return !w->stopped;
}

static void check_cancelled(const struct watch *all, enum mal_stage stage, int at,
                            const struct mal_score *before) {
    struct mal_error err = {0};
    struct watch w = {.stage = stage, .at = at};
    struct mal_progress progress = {.tick = watch, .arg = &w};
    struct mal_repair how = {.max_rounds = 2, .tau = 1, .progress = &progress};
    struct mal_score after[2] = {{0}};
    struct scene s;
    begin(&s);
    teach(&s, 2, 4, &once);
    publish(&s);
    end_change(&s);
    struct mal_hash hash = mal_weights_hash(s.ws, 1), same;
    if (run(&s, 0, 2, &how, &err)) fail_msg("stage %d, tick %d: went on", (int)stage, at);
    assert_error(&err, MAL_CANCELLED, "cancelled");
    assert_true(w.ticks[stage] <= all->ticks[stage]);
    end_change(&s);
    mal_weights_discard(s.ws);
    assert_int_equal(mal_weights_live(s.ws), 1);
    same = mal_weights_hash(s.ws, 1);
    assert_memory_equal(&hash, &same, sizeof hash);
    mal_weights_use(s.ws, 1);
    assert_ok(mal_score_examples(model, NULL, texts, 2, NULL, NULL, after, &err), &err);
    for (size_t i = 0; i < 2; i++) {
        assert_memory_equal(after[i].tokens, before[i].tokens,
                            after[i].n_tokens * sizeof *after[i].tokens);
        mal_free(after[i].tokens);
    }
    end(&s);
}

static void test_cancelled(void **state) {
    struct mal_error err = {0};
    struct watch all = {{0}};
    struct mal_progress progress = {.tick = watch, .arg = &all};
    struct mal_score before[2] = {{0}};
    struct scene s;
    begin(&s);
    teach(&s, 2, 4, &once);
    publish(&s);
    end_change(&s);
    mal_weights_use(s.ws, 1);
    assert_ok(mal_score_examples(model, NULL, texts, 2, NULL, NULL, before, &err), &err);
    teach(&s, 0, 2,
          &(struct mal_repair){.max_rounds = 2, .tau = 1, .progress = &progress});
    end(&s);

    const enum mal_stage stages[] = {MAL_STAGE_FORWARD, MAL_STAGE_HYPERNET,
                                     MAL_STAGE_GRAM,    MAL_STAGE_SOLVE,
                                     MAL_STAGE_APPLY,   MAL_STAGE_VERIFY};

    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        int n = all.ticks[stages[i]];
        assert_true(n > 0);
        check_cancelled(&all, stages[i], 1, before);
        if (n > 2) check_cancelled(&all, stages[i], (n + 1) / 2, before);
        if (n > 1) check_cancelled(&all, stages[i], n, before);
    }
    for (size_t i = 0; i < 2; i++)
        mal_free(before[i].tokens);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes),     cmocka_unit_test(test_repairs),
        cmocka_unit_test(test_delta),      cmocka_unit_test(test_no_rounds),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_tau),
        cmocka_unit_test(test_others),     cmocka_unit_test(test_scrub),
        cmocka_unit_test(test_cancelled),
    };
    return cmocka_run_group_tests_name("repair", tests, open_all, close_demo_editor);
}
