/* test_repair_small.c - repair on small random models, where rounds do good and harm: the
 * best of them counts. And each allocation failing. */
#include "joint_world.h"

#include "core/editor/repair.h"

enum { ROUNDS = 6 };

static bool load(void *arg, size_t i, float *values, struct mal_error *err) {
    (void)arg;
    (void)err;
    memcpy(values, w.values[i], mal_joint_n_values(w.joint, &w.texts[i]) * sizeof(float));
    return true;
}

/* What is a fraction of a second there takes a device that a CPU plays minutes: on such
 * fewer numbers of rounds are tried on fewer models, and no lack of memory. */
static bool on_cpu(void) {
    return strncmp(test_device(), "cpu", 3) == 0;
}

/* What was told of the delta before it was verified. */
static struct mal_delta_part *decided;
static int n_decided;

static void decide(void *arg, struct mal_delta *delta) {
    (void)arg;
    assert_true(w.report.seconds[MAL_STAGE_VERIFY] == 0);
    decided = delta->parts;
    n_decided++;
}

/* Texts from `half` on are taught; those below are there. */
static bool repair(struct mal_joint_change *change, size_t half, int64_t max_rounds,
                   double tau, struct mal_repair *r, struct mal_error *err) {
    *r = (struct mal_repair){.change = change,
                             .ws = w.ws,
                             .basis = mal_weights_live(w.ws),
                             .editor = lab.editor,
                             .max_rounds = max_rounds,
                             .tau = tau,
                             .report = &w.report,
                             .taught = w.texts + half,
                             .n_taught = w.n - half,
                             .others = w.texts,
                             .n_others = half,
                             .load = load,
                             .decided = decide};
    n_decided = 0;
    return mal_joint_teach(change, NULL, w.texts + half, w.n - half, err) &&
           mal_repair_run(r, err);
}

struct result {
    size_t wrong, failing;
    double lack;
};

/* In what order a repair's scores prefer results. */
static struct result result_of(const struct mal_repair *r, double tau) {
    struct result out = {0};
    for (size_t i = 0; i < w.n; i++) {
        out.wrong += !r->scores[i].correct;
        out.failing += !mal_repair_passes(&r->scores[i], tau);
        for (size_t t = 0; t < r->scores[i].n_tokens; t++) {
            double lacks = log(tau) - (double)r->scores[i].tokens[t].logprob;
            if (lacks > 0) out.lack += lacks;
        }
    }
    return out;
}

static bool is_worse(struct result a, struct result b) {
    if (a.wrong != b.wrong) return a.wrong > b.wrong;
    if (a.failing != b.failing) return a.failing > b.failing;
    return a.lack > b.lack * (1 + 1e-6); /* a round gone back to is solved again */
}

static void enter_values(size_t i, const float *values) {
    for (size_t m = 0; m < lab.n_modules; m++) {
        size_t n = floats_of(m, w.entries[i].rows[m], false);
        memcpy(w.entries[i].d[m], values, n * sizeof *values);
        values += n;
    }
}

/* Every text's values as the repair left them make its weights. */
static void expect_consistent(const struct mal_repair *r, struct mal_joint_change *change,
                              size_t half, const char *name) {
    struct mal_error err = {0};
    for (size_t i = 0; i < w.n; i++) {
        size_t index = i < half ? w.n - half + i : i - half, number = r->numbers[index];
        assert_int_equal(number == SIZE_MAX, i < half && r->rounds[index] == 0);
        if (number == SIZE_MAX) continue;
        if (i >= half) enter(i);
        enter_values(i, mal_joint_values(change, number));
    }
    mal_weights_discard(w.ws);
    assert_ok(mal_weights_prepare(w.ws, &r->delta, NULL, NULL, &err), &err);
    mal_weights_publish(w.ws, mal_weights_live(w.ws) + 1);
    expect_weights(name);
}

/* More rounds never end worse: what one more makes worse is taken back, of texts that
 * were there before as of those taught. */
static void check_best(const char *name, double tau) {
    struct result best = {SIZE_MAX, SIZE_MAX, INFINITY};
    const int64_t step = on_cpu() ? 1 : ROUNDS / 2;
    for (int64_t rounds = 0; rounds <= ROUNDS; rounds += step) {
        struct mal_error err = {0};
        struct mal_repair r;
        open_world(name, 0);
        size_t half = w.n / 2;
        teach(0, half);
        struct mal_joint_change *change = begin();
        assert_ok(repair(change, half, rounds, tau, &r, &err), &err);
        struct result now = result_of(&r, tau);
        assert_int_equal(n_decided, rounds == 0);
        assert_true(rounds > 0 || decided == r.delta.parts);
        if (is_worse(now, best)) {
            fail_msg(
                "%s, %d rounds: %zu wrong, %zu failing, lacking %g; before %zu, %zu, %g",
                name, (int)rounds, now.wrong, now.failing, now.lack, best.wrong,
                best.failing, best.lack);
        }
        best = now;
        assert_in_range(r.n_rounds, now.failing ? rounds : 0, rounds);
        expect_consistent(&r, change, half, name);
        mal_repair_finish(&r);
        mal_joint_change_destroy(change);
        close_world();
    }
}

static void test_best(void **state) {
    check_best("bert-malmen", 0.9);
    check_best("gpt2-malmen-mixed-shapes", 0.9);
    if (!on_cpu()) return;
    check_best("t5-malmen", 0.9);
    check_best("llama-malmen", 0.9);
}

/* None is ever sure enough, so that what they lack decides. */
static void test_least_lack(void **state) {
    check_best("bert-malmen", 1);
    if (!on_cpu()) return;
    check_best("t5-malmen", 1);
    check_best("llama-malmen", 1);
}

/* ---- Every allocation ---- */

static bool repair_once(const char *path, struct mal_error *err) {
    struct mal_joint *joint = NULL;
    struct mal_joint_change *change = NULL;
    struct mal_repair r = {0};
    (void)path;
    mal_weights_use(w.ws, 0);
    bool ok = mal_joint_create(&joint, lab.model, lab.editor, NULL, 0, err) &&
              mal_joint_add_keys(joint, w.texts, 2, NULL, 0, 1, NULL, err) &&
              mal_joint_change_create(&change, joint, w.ws, NULL, &w.report, err) &&
              repair(change, 2, 2, 1, &r, err);
    mal_repair_finish(&r);
    mal_joint_change_destroy(change);
    mal_joint_destroy(joint);
    mal_weights_discard(w.ws);
    return ok;
}

static void test_no_memory(void **state) {
    if (!on_cpu()) return;
    open_world("bert-malmen", 0);
    while (w.n > 4)
        mal_example_finish(&w.texts[--w.n]);
    teach(0, 2);
    fail_each_allocation(repair_once, NULL, 200);
    assert_int_equal(mal_weights_live(w.ws), 1);
    expect_weights("as before");
    close_world();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best),
        cmocka_unit_test(test_least_lack),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("repair_small", tests, NULL, NULL);
}
