/* test_joint_factor.c - rows that join or leave a joint system, one step after another:
 * what is solved with the factor that is there solves the system as it is. */
#include "made_model.h"

#include "core/editor/joint_impl.h"

enum { D_IN = 200, D_OUT = 8, SOLVED = 7 };

static struct made_model made;
static char name[] = "base.x";
static struct mal_editor_module module = {.name = name};
static struct mal_editor editor = {
    .method = &mal_method_ultraedit, .modules = &module, .n_modules = 1};
static double system_of[D_IN * D_IN];

static struct mal_joint *open_joint(void) {
    const char *const names[] = {"base.x"};
    struct mal_joint *joint;
    struct mal_error err = {0};
    made_init(&made);
    made_add(&made, "base.x", D_IN, D_OUT, false, MAL_F32);
    made_edit(&made, names, 1);
    assert_ok(mal_joint_create(&joint, &made.model, &editor, NULL, 0, &err), &err);
    memset(system_of, 0, sizeof system_of);
    for (int i = 0; i < D_IN; i++)
        system_of[i * D_IN + i] = 1; /* UltraEdit's ridge */
    return joint;
}

static void close_joint(struct mal_joint *joint) {
    mal_joint_destroy(joint);
    made_finish(&made);
}

static struct mal_joined add(struct mal_joint *joint, int64_t n, uint64_t seed,
                             int sign) {
    struct mal_error err = {0};
    struct mal_joined joined;
    struct mal_pace pace = {.be = test_backend()};
    float *host = random_floats(n * D_IN, 1, seed), *u = on_device(host, n * D_IN);
    assert_ok(mal_joint_add_rows(joint, 0, u, n, sign, &pace, &joined, &err), &err);
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < D_IN; i++)
            for (int64_t j = 0; j < D_IN; j++)
                system_of[i * D_IN + j] +=
                    sign * (double)host[r * D_IN + i] * (double)host[r * D_IN + j];
    free_device(u);
    mal_free(host);
    return joined;
}

/* x A = the n rows of a seed, for what comes out; not given the rows themselves where
 * they have joined the factor. */
static void solve_rows(struct mal_joint *joint, int n, uint64_t seed,
                       struct mal_joined joined) {
    struct mal_backend *be = test_backend();
    struct mal_error err = {0};
    struct mal_pace pace = {.be = be};
    struct mal_arena scratch = {.be = be};
    float *b = random_floats(n * D_IN, 1, seed), *dev_b = on_device(b, n * D_IN);
    double x[SOLVED * D_IN], *dev_x = mal_backend_alloc(be, sizeof x);
    assert_true(n <= SOLVED);
    assert_ok(mal_arena_reserve(&scratch, mal_joint_solve_bytes(D_IN, n), &err), &err);
    assert_ok(mal_joint_begin_solve(joint, 0, &pace, &err), &err);
    bool there = joined.made == joint->factors[0].made;
    assert_ok(mal_joint_first_half(joint, 0, &pace, &joined, there ? NULL : dev_b, n,
                                   dev_x, &err),
              &err);
    assert_ok(mal_joint_second_half(joint, 0, &pace, n, dev_x, &scratch, &err), &err);
    mal_backend_download(be, x, dev_x, (size_t)(n * D_IN) * sizeof *x);
    assert_ok(mal_backend_sync(be, &err), &err);
    for (int r = 0; r < n; r++) {
        for (int i = 0; i < D_IN; i++) {
            double sum = 0;
            for (int j = 0; j < D_IN; j++)
                sum += x[r * D_IN + j] * system_of[i * D_IN + j];
            double off = sum - (double)b[r * D_IN + i];
            if (!(fabs(off) < 1e-11)) fail_msg("row %d element %d: off by %g", r, i, off);
        }
    }
    mal_arena_finish(&scratch);
    mal_backend_free(be, dev_x);
    free_device(dev_b);
    mal_free(b);
}

static void solve(struct mal_joint *joint) {
    solve_rows(joint, SOLVED, 99, (struct mal_joined){0});
}

static void few_rows_join(void **state) {
    struct mal_joint *joint = open_joint();
    add(joint, 150, 1, 1);
    solve(joint);
    assert_int_equal(joint->factors[0].n, 0);
    add(joint, 1, 2, 1);
    add(joint, 4, 3, 1);
    solve(joint);
    assert_int_equal(joint->factors[0].n, 5);
    add(joint, 7, 4, 1);
    solve(joint);
    assert_int_equal(joint->factors[0].n, D_IN / 16);
    add(joint, 1, 5, 1); /* one too many */
    solve(joint);
    assert_int_equal(joint->factors[0].n, 0);
    add(joint, 2, 6, 1);
    solve(joint);
    assert_int_equal(joint->factors[0].n, 2);
    add(joint, 1, 2, -1); /* what leaves needs a factorisation */
    solve(joint);
    assert_int_equal(joint->factors[0].n, 0);
    close_joint(joint);
}

/* Who asks for the factor itself gets that of the system as it is. */
static void the_factor_is_up_to_date(void **state) {
    struct mal_joint *joint = open_joint();
    struct mal_error err = {0};
    struct mal_pace pace = {.be = test_backend()};
    const double *factor;
    double l[D_IN * D_IN];
    add(joint, 30, 1, 1);
    solve(joint);
    add(joint, 3, 2, 1);
    assert_ok(mal_joint_factor(joint, 0, &pace, &factor, &err), &err);
    assert_int_equal(joint->factors[0].n, 0);
    mal_backend_download(test_backend(), l, factor, sizeof l);
    assert_ok(mal_backend_sync(test_backend(), &err), &err);
    for (int i = 0; i < D_IN; i++) {
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (int k = 0; k <= j; k++)
                sum += l[i * D_IN + k] * l[j * D_IN + k];
            assert_true(fabs(sum - system_of[i * D_IN + j]) < 1e-11);
        }
    }
    close_joint(joint);
}

/* Rows that joined have their first half in the factor, until there is another one. */
static void what_joined_is_half_solved(void **state) {
    struct mal_joint *joint = open_joint();
    struct mal_joined first = add(joint, 40, 1, 1);
    assert_int_equal(first.made, 0); /* there was no factor */
    solve_rows(joint, 5, 1, first);
    struct mal_joined a = add(joint, 3, 2, 1), b = add(joint, 6, 3, 1);
    assert_int_equal(a.row, 0);
    assert_int_equal(b.row, 3);
    assert_int_equal(joint->factors[0].made, a.made);
    solve_rows(joint, 6, 3, b);
    solve_rows(joint, 3, 2, a);
    solve_rows(joint, 3, 2, a); /* it is still there */
    assert_int_equal(joint->factors[0].n, 9);
    add(joint, 1, 4, 1);
    add(joint, 1, 4, -1);
    solve_rows(joint, 3, 2, a); /* by another factor */
    assert_true(joint->factors[0].made > a.made);
    add(joint, 5, 5, 1); /* where they were are others now */
    solve_rows(joint, 3, 2, a);
    solve_rows(joint, 6, 3, b);
    close_joint(joint);
}

static bool refuse(void *arg) {
    return false;
}

/* Given up between what A lacks and its factor, the system is what it was. */
static void given_up_while_a_catches_up(void **state) {
    struct mal_joint *joint = open_joint();
    struct mal_error err = {0};
    struct mal_pace pace = {.be = test_backend(), .tick = refuse};
    const double *factor;
    add(joint, 30, 1, 1);
    solve(joint);
    add(joint, 4, 2, 1);
    assert_int_equal(joint->factors[0].pending, 4);
    assert_false(mal_joint_factor(joint, 0, &pace, &factor, &err));
    assert_error(&err, MAL_CANCELLED, "cancelled");
    assert_int_equal(joint->factors[0].pending, 0);
    solve(joint);
    assert_int_equal(joint->factors[0].n, 4);
    add(joint, 3, 3, 1); /* A has those before it already */
    solve(joint);
    assert_int_equal(joint->factors[0].n, 7);
    add(joint, D_IN / 16, 4, 1);
    solve(joint);
    assert_int_equal(joint->factors[0].n, 0);
    close_joint(joint);
}

static bool cut_off(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    return false;
}

/* A factor is ready while half of its room is left. */
static void made_before_it_is_asked_for(void **state) {
    struct mal_joint *joint = open_joint();
    struct mal_error err = {0};
    struct mal_progress progress = {.tick = cut_off};
    add(joint, 30, 1, 1);
    assert_false(mal_joint_is_ready(joint));
    assert_ok(mal_joint_make_ready(joint, NULL, &err), &err);
    assert_true(mal_joint_is_ready(joint));
    int64_t first = joint->factors[0].made;
    assert_ok(mal_joint_make_ready(joint, NULL, &err), &err);
    add(joint, D_IN / 16 / 2, 2, 1);
    assert_true(mal_joint_is_ready(joint));
    solve(joint);
    assert_int_equal(joint->factors[0].made, first);
    add(joint, 1, 3, 1);
    assert_false(mal_joint_is_ready(joint));
    assert_false(mal_joint_make_ready(joint, &progress, &err));
    assert_error(&err, MAL_CANCELLED, "cancelled");
    assert_false(mal_joint_is_ready(joint));
    solve(joint);
    assert_ok(mal_joint_make_ready(joint, NULL, &err), &err);
    assert_int_equal(joint->factors[0].n, 0);
    assert_true(mal_joint_is_ready(joint));
    solve(joint);
    close_joint(joint);
}

/* Of what left more was taken than had joined. */
static void without_a_factor_it_is_not_whole(void **state) {
    struct mal_joint *joint = open_joint();
    struct mal_error err = {0};
    add(joint, 30, 1, 1);
    solve(joint);
    add(joint, 2, 2, -1);
    assert_true(mal_joint_is_whole(joint));
    assert_false(mal_joint_make_ready(joint, NULL, &err));
    assert_error(&err, MAL_NUMERIC, "base.x");
    assert_false(mal_joint_is_whole(joint));
    close_joint(joint);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_rows_join),
        cmocka_unit_test(what_joined_is_half_solved),
        cmocka_unit_test(the_factor_is_up_to_date),
        cmocka_unit_test(given_up_while_a_catches_up),
        cmocka_unit_test(made_before_it_is_asked_for),
        cmocka_unit_test(without_a_factor_it_is_not_whole),
    };
    return cmocka_run_group_tests_name("joint_factor", tests, NULL, NULL);
}
