/* test_bisect.c - which facts of a refused batch are kept, against all subsets of small
 * batches and in few tries of large ones. */
#include "no_memory.h"

#include "core/random.h"
#include "daemon/worker/bisect.h"

enum { MANY = 4096, NO_LIMIT = 1 << 20 };

/* ---- Batches with bad facts in them ---- */

struct batch {
    size_t n;
    bool bad[MANY];
    size_t n_pairs, pairs[4][2];      /* that do not pass together */
    size_t most_wrong;                /* bad ones that pass in ten, 0: none passes */
    size_t fail_at;                   /* the try that is an error, 0: none */
    size_t tries, last[MANY], n_last; /* what passed last */
};

static bool passes(const struct batch *b, const size_t *facts, size_t n) {
    bool in[MANY] = {false};
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++) {
        in[facts[i]] = true;
        wrong += b->bad[facts[i]];
    }
    if (b->most_wrong ? wrong * 10 > n * b->most_wrong : wrong > 0) return false;
    for (size_t p = 0; p < b->n_pairs; p++) {
        if (in[b->pairs[p][0]] && in[b->pairs[p][1]]) return false;
    }
    return true;
}

static bool try(void *arg, const size_t *facts, size_t n, bool *out,
                struct mal_error *err) {
    struct batch *b = arg;
    assert_true(n > 0 && n <= b->n);
    assert_true(n < b->n); /* all together have been refused already */
    for (size_t i = 0; i < n; i++) {
        assert_true(facts[i] < b->n);
        if (i > 0) assert_true(facts[i - 1] < facts[i]);
    }
    if (++b->tries == b->fail_at) return mal_fail(err, MAL_DEVICE, "the device is gone");
    *out = passes(b, facts, n);
    if (*out) {
        b->n_last = n;
        memcpy(b->last, facts, n * sizeof *facts);
    }
    return true;
}

/* Every fact is on one of the lists, and what is kept has passed as it is. */
static void check_lists(const struct batch *b, const struct mal_bisect *found) {
    size_t k = 0, r = 0;
    assert_int_equal(found->n_kept + found->n_rejected, b->n);
    for (size_t i = 0; i < b->n; i++) {
        bool kept = k < found->n_kept && found->kept[k] == i;
        assert_true(kept || (r < found->n_rejected && found->rejected[r] == i));
        k += kept;
        r += !kept;
    }
    assert_int_equal(found->n_tries, b->tries);
    assert_int_equal(found->n_kept, b->n_last);
    assert_memory_equal(found->kept, b->last, b->n_last * sizeof *b->last);
}

static struct mal_bisect run(struct batch *b, size_t max_tries) {
    struct mal_error err = {0};
    struct mal_bisect found = {0};
    b->tries = b->n_last = 0;
    assert_ok(mal_bisect_run(&found, b->n, max_tries, try, b, &err), &err);
    check_lists(b, &found);
    return found;
}

static size_t bound(size_t n, size_t n_rejected) {
    size_t log = 0;
    while ((size_t)1 << log < n)
        log++;
    return n_rejected * (log + 2) + 1;
}

/* ---- Against all subsets ---- */

static size_t members(unsigned set, size_t n, size_t *out) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (set >> i & 1) out[k++] = i;
    }
    return k;
}

/* No set that passes holds all that is kept and more. */
static void check_maximal(const struct batch *b, const struct mal_bisect *found) {
    unsigned kept = 0;
    for (size_t i = 0; i < found->n_kept; i++)
        kept |= 1u << found->kept[i];
    for (unsigned set = 0; set < 1u << b->n; set++) {
        size_t facts[16], n = members(set, b->n, facts);
        if ((set & kept) != kept || set == kept || !passes(b, facts, n)) continue;
        fail_msg("%#x passes, %#x is kept", set, kept);
    }
}

static void check_small(struct batch *b) {
    struct mal_bisect found = run(b, NO_LIMIT), again = run(b, NO_LIMIT);
    check_maximal(b, &found);
    assert_true(found.n_tries <= bound(b->n, found.n_rejected));
    assert_int_equal(found.n_undecided, 0);
    assert_int_equal(again.n_kept, found.n_kept);
    assert_memory_equal(again.kept, found.kept, found.n_kept * sizeof *found.kept);
    mal_bisect_finish(&found);
    mal_bisect_finish(&again);
}

static void test_single_facts(void **state) {
    static struct batch b;
    for (b.n = 1; b.n <= 9; b.n++) {
        for (unsigned set = 1; set < 1u << b.n; set++) {
            for (size_t i = 0; i < b.n; i++)
                b.bad[i] = set >> i & 1;
            check_small(&b);
        }
    }
}

static void test_pairs(void **state) {
    static struct batch b;
    for (unsigned seed = 0; seed < 500; seed++) {
        uint64_t random = seed;
        b = (struct batch){.n = 2 + (size_t)mal_random_below(&random, 8)};
        b.n_pairs = 1 + (size_t)mal_random_below(&random, 4);
        for (size_t p = 0; p < b.n_pairs; p++) {
            b.pairs[p][0] = (size_t)mal_random_below(&random, b.n - 1);
            b.pairs[p][1] =
                b.n - 1 - (size_t)mal_random_below(&random, b.n - 1 - b.pairs[p][0]);
        }
        for (size_t i = 0; i < b.n; i++)
            b.bad[i] = mal_random_below(&random, 8) == 0;
        check_small(&b);
    }
}

/* A test of a share: what is kept passes, though more might. */
static void test_shares(void **state) {
    static struct batch b;
    for (unsigned seed = 0; seed < 200; seed++) {
        uint64_t random = seed;
        b = (struct batch){.n = 30, .most_wrong = 1};
        for (size_t i = 0; i < b.n; i++)
            b.bad[i] = i % 5 == 0 || mal_random_below(&random, 5) == 0;
        struct mal_bisect found = run(&b, NO_LIMIT);
        assert_true(passes(&b, found.kept, found.n_kept));
        assert_true(found.n_kept >= 20 - 10 && found.n_rejected > 0);
        mal_bisect_finish(&found);
    }
}

/* ---- Few tries ---- */

static void check_tries(size_t n, size_t n_bad, size_t most) {
    static struct batch b;
    b = (struct batch){.n = n};
    uint64_t random = n + n_bad;
    for (size_t k = 0; k < n_bad;) {
        size_t i = n_bad == n ? k : (size_t)mal_random_below(&random, n);
        k += !b.bad[i];
        b.bad[i] = true;
    }
    struct mal_bisect found = run(&b, NO_LIMIT);
    assert_int_equal(found.n_rejected, n_bad);
    for (size_t i = 0; i < n_bad; i++)
        assert_true(b.bad[found.rejected[i]]);
    if (found.n_tries > most)
        fail_msg("%zu of %zu bad: %zu tries", n_bad, n, found.n_tries);
    assert_true(found.n_tries <= bound(n, n_bad));
    mal_bisect_finish(&found);
}

static void test_tries(void **state) {
    check_tries(1, 1, 0);
    check_tries(2, 1, 2);
    check_tries(1024, 1, 11);
    check_tries(1024, 2, 2 * 12);
    check_tries(1024, 10, 10 * 12);
    check_tries(64, 64, 64 + 30);
    check_tries(MANY, MANY, MANY + 100);
    check_tries(MANY, MANY / 2, 2 * MANY);
}

/* After the last try that is allowed nothing undecided is kept. */
static void test_max_tries(void **state) {
    static struct batch b;
    b = (struct batch){.n = 40};
    b.bad[7] = b.bad[8] = b.bad[33] = true;
    struct mal_bisect whole = run(&b, NO_LIMIT);
    for (size_t most = 0; most <= whole.n_tries; most++) {
        struct mal_bisect found = run(&b, most);
        assert_true(found.n_tries <= most);
        assert_true(found.n_undecided <= found.n_rejected);
        assert_true(found.n_undecided > 0 || most == whole.n_tries);
        for (size_t i = 0; i < found.n_rejected - found.n_undecided; i++)
            assert_true(b.bad[found.rejected[i]]);
        for (size_t i = 0; i < found.n_undecided; i++)
            assert_int_equal(found.rejected[found.n_rejected - 1 - i], b.n - 1 - i);
        mal_bisect_finish(&found);
    }
    assert_int_equal(whole.n_rejected, 3);
    mal_bisect_finish(&whole);
}

/* ---- Faults ---- */

static void test_errors(void **state) {
    static struct batch b;
    b = (struct batch){.n = 12};
    b.bad[3] = b.bad[9] = true;
    struct mal_bisect found = run(&b, NO_LIMIT);
    size_t n = found.n_tries;
    mal_bisect_finish(&found);
    for (b.fail_at = 1; b.fail_at <= n; b.fail_at++) {
        struct mal_error err = {0};
        b.tries = 0;
        assert_false(mal_bisect_run(&found, b.n, NO_LIMIT, try, &b, &err));
        assert_error(&err, MAL_DEVICE, "the device is gone");
        assert_int_equal(b.tries, b.fail_at);
        assert_null(found.kept);
    }
}

static bool run_once(const char *path, struct mal_error *err) {
    static struct batch b;
    b = (struct batch){.n = 5};
    b.bad[2] = true;
    struct mal_bisect found;
    if (!mal_bisect_run(&found, b.n, NO_LIMIT, try, &b, err)) return false;
    mal_bisect_finish(&found);
    return true;
}

static void test_no_memory(void **state) {
    fail_each_allocation(run_once, "", 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_facts), cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_shares),       cmocka_unit_test(test_tries),
        cmocka_unit_test(test_max_tries),    cmocka_unit_test(test_errors),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("bisect", tests, NULL, NULL);
}
