/* test_gate.c - limits of several origins, the stricter ones counting, and what fails
 * them. */
#include "no_memory.h"

#include <math.h>

#include "daemon/engine/gate.h"

#define NONE ((double)NAN)

static const struct mal_gate_limits no_limits = {NONE, NONE, NONE, NONE,
                                                 NONE, NONE, NULL, false};

static struct mal_gate gate_of(const struct mal_gate_limits *limits) {
    struct mal_gate gate;
    mal_gate_init(&gate, limits);
    return gate;
}

static void add(struct mal_gate *gate, const char *request) {
    struct mal_error err = {0};
    assert_ok(mal_gate_add_request(gate, request, &err), &err);
}

static struct mal_gate_numbers numbers_of(double decoded, double forced) {
    struct mal_measures m = {.dec_es = decoded,
                             .dec_gs = decoded,
                             .dec_ls = decoded,
                             .tf_es = forced,
                             .tf_gs = forced,
                             .tf_ls = forced,
                             .agreement = decoded};
    struct mal_gate_numbers numbers;
    mal_gate_numbers_of(&numbers, &m);
    return numbers;
}

static void expect_json(json_t *json, const char *text) {
    char *got = json ? json_dumps(json, JSON_COMPACT) : NULL;
    assert_non_null(got);
    assert_string_equal(got, text);
    free(got);
    json_decref(json);
}

static void expect(const struct mal_gate *gate, const struct mal_gate_numbers *numbers,
                   const char *text) {
    assert_int_equal(mal_gate_passes(gate, numbers),
                     strstr(text, "\"passed\":true") != 0);
    expect_json(mal_gate_json(gate, numbers), text);
}

/* ---- Limits ---- */

/* What once went wrong: agreement fell below the daemon's limit where rephrases rose as
 * much, and a repair's weights grew beyond it. */
static void test_upkeep(void **state) {
    struct mal_gate_limits limits = no_limits;
    limits.min_agreement = 0.8;
    limits.max_norm_growth = 2;
    limits.min_es = 0.99;
    struct mal_gate own = gate_of(&limits), gate;
    struct mal_gate_numbers was = numbers_of(0.9, 0.5), now = was;
    was.value[MAL_GATE_NORM_GROWTH] = now.value[MAL_GATE_NORM_GROWTH] = 1.5;
    mal_gate_init_upkeep(&gate, &own, &was, true);
    assert_true(mal_gate_passes(&gate, &now)); /* as it was, which is below min_es */
    now.value[MAL_GATE_NORM_GROWTH] = 2;
    now.value[MAL_GATE_FORCED_GS] = 0;
    assert_true(mal_gate_passes(&gate, &now));

    static const struct {
        enum mal_gate_test test;
        double value;
    } worse[] = {{MAL_GATE_DECODED_ES, 0.899},
                 {MAL_GATE_DECODED_GS, 0.899},
                 {MAL_GATE_DECODED_LS, 0.899},
                 {MAL_GATE_AGREEMENT, 0.899},
                 {MAL_GATE_NORM_GROWTH, 2.001}};

    for (size_t i = 0; i < sizeof worse / sizeof *worse; i++) {
        struct mal_gate_numbers one = now;
        for (int t = 0; t < MAL_GATE_N_TESTS; t++) /* what rises makes up for nothing */
            if (t != MAL_GATE_NORM_GROWTH) one.value[t] = 1;
        one.value[worse[i].test] = worse[i].value;
        assert_false(mal_gate_passes(&gate, &one));
    }

    mal_gate_init_upkeep(&gate, &own, &was,
                         false); /* the daemon's limits, and the facts */
    now.value[MAL_GATE_AGREEMENT] = 0.8;
    now.value[MAL_GATE_DECODED_GS] = now.value[MAL_GATE_DECODED_LS] = 0;
    assert_true(mal_gate_passes(&gate, &now));
    now.value[MAL_GATE_DECODED_ES] = 0.899;
    assert_false(mal_gate_passes(&gate, &now));
    now.value[MAL_GATE_DECODED_ES] = 1;
    now.value[MAL_GATE_AGREEMENT] = 0.75;
    expect(&gate, &now,
           "{\"passed\":false,\"failed\":[{\"test\":\"min_agreement\","
           "\"threshold\":0.80000000000000004,\"value\":0.75}]}");
    now.value[MAL_GATE_DECODED_LS] = 0.9;
    was.value[MAL_GATE_AGREEMENT] =
        0.7; /* a limit that is not kept is no reason to stay */
    was.value[MAL_GATE_NORM_GROWTH] = 3;
    mal_gate_init_upkeep(&gate, &own, &was, true);
    now.value[MAL_GATE_AGREEMENT] = 0.7;
    now.value[MAL_GATE_NORM_GROWTH] = 3;
    now.value[MAL_GATE_DECODED_GS] = 0.9;
    assert_true(mal_gate_passes(&gate, &now));
    now.value[MAL_GATE_NORM_GROWTH] = 3.001;
    assert_false(mal_gate_passes(&gate, &now));
    was = now = numbers_of(NONE, NONE);
    mal_gate_init_upkeep(&gate, &own, &was, true);
    now.value[MAL_GATE_NORM_GROWTH] = 2.001;
    assert_false(mal_gate_passes(&gate, &now));
    now.value[MAL_GATE_NORM_GROWTH] = NONE;
    assert_true(mal_gate_passes(&gate, &now));
}

static void test_nothing_set(void **state) {
    struct mal_gate gate = gate_of(&no_limits);
    struct mal_gate_numbers numbers = numbers_of(0, 0);
    for (int t = 0; t < MAL_GATE_N_TESTS; t++)
        assert_false(mal_gate_asks(&gate, t));
    expect(&gate, &numbers, "{\"passed\":true,\"failed\":[]}");
    add(&gate, NULL);
    add(&gate, "{\"gate\":{\"measure\":\"decoded\"}}");
    add(&gate, "{\"facts\":[\"fact_1\"]}");
    expect(&gate, &numbers, "{\"passed\":true,\"failed\":[]}");
    assert_false(gate.bisect);
}

/* The names of the tests with the limits that options set and that requests then try. */
static void test_stricter_only(void **state) {
    static const struct {
        enum mal_gate_test test;
        const char *name;
        bool least;
    } tests[] = {{MAL_GATE_DECODED_ES, "min_es", true},
                 {MAL_GATE_DECODED_GS, "min_gs", true},
                 {MAL_GATE_DECODED_LS, "min_ls", true},
                 {MAL_GATE_AGREEMENT, "min_agreement", true},
                 {MAL_GATE_NORM_GROWTH, "max_norm_growth", false},
                 {MAL_GATE_PERPLEXITY_GROWTH, "max_perplexity_growth", false}};
    struct mal_gate_limits limits = {0.5, 0.5, 0.5, 0.5, 0.5, 0.5, "decoded", true};
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        struct mal_gate gate = gate_of(&limits), empty = gate_of(&no_limits);
        double lax = tests[i].least ? 0.25 : 0.75, strict = 1 - lax;
        char request[96];
        assert_true(gate.bisect);
        for (int s = 0; s < 2; s++) {
            snprintf(request, sizeof request, "{\"gate\":{\"%s\":%g}}", tests[i].name,
                     s ? strict : lax);
            add(&gate, request);
            add(&empty, request);
            assert_true(gate.limit[tests[i].test] == (s ? strict : 0.5));
            assert_true(empty.limit[tests[i].test] == (s ? strict : lax));
        }
        snprintf(request, sizeof request, "{\"gate\":{\"%s\":0.5}}", tests[i].name);
        add(&gate, request);
        for (int t = 0; t < MAL_GATE_N_TESTS; t++) {
            bool forced = t >= MAL_GATE_FORCED_ES && t <= MAL_GATE_FORCED_LS;
            double want = t == (int)tests[i].test ? strict : 0.5;
            if (forced) assert_false(mal_gate_asks(&gate, t));
            if (!forced) assert_true(gate.limit[t] == want);
            assert_int_equal(mal_gate_asks(&empty, t), t == (int)tests[i].test);
        }
    }
}

static void test_bisect(void **state) {
    struct mal_gate gate = gate_of(&no_limits);
    add(&gate, "{\"gate\":{\"bisect\":false,\"min_es\":1}}");
    assert_false(gate.bisect);
    add(&gate, "{\"gate\":{\"bisect\":true}}");
    assert_true(gate.bisect);
    add(&gate, "{\"gate\":{\"bisect\":false}}");
    assert_true(gate.bisect);
}

/* A request's measure is about its own limits; without one it is the daemon's. */
static void test_measures(void **state) {
    struct mal_gate_limits limits = no_limits;
    limits.min_es = 0.75;
    limits.measure = "teacher_forced";
    struct mal_gate gate = gate_of(&limits);
    assert_true(gate.limit[MAL_GATE_FORCED_ES] == 0.75);
    assert_false(mal_gate_asks(&gate, MAL_GATE_DECODED_ES));

    add(&gate, "{\"gate\":{\"min_es\":0.5,\"min_gs\":0.25,\"measure\":\"decoded\"}}");
    add(&gate, "{\"gate\":{\"min_ls\":1}}");
    assert_true(gate.limit[MAL_GATE_FORCED_ES] == 0.75);
    assert_true(gate.limit[MAL_GATE_DECODED_ES] == 0.5);
    assert_true(gate.limit[MAL_GATE_DECODED_GS] == 0.25);
    assert_true(gate.limit[MAL_GATE_FORCED_LS] == 1);
    assert_false(mal_gate_asks(&gate, MAL_GATE_DECODED_LS));

    struct mal_gate_numbers numbers = numbers_of(0.375, 0.625);
    expect(&gate, &numbers,
           "{\"passed\":false,\"failed\":["
           "{\"test\":\"min_es\",\"measure\":\"decoded\",\"threshold\":0.5,"
           "\"value\":0.375},"
           "{\"test\":\"min_es\",\"measure\":\"teacher_forced\",\"threshold\":0.75,"
           "\"value\":0.625},"
           "{\"test\":\"min_ls\",\"measure\":\"teacher_forced\",\"threshold\":1.0,"
           "\"value\":0.625}]}");
    gate = gate_of(&no_limits);
    add(&gate, "{\"gate\":{\"min_gs\":0.5}}");
    assert_true(gate.limit[MAL_GATE_DECODED_GS] == 0.5);
}

static void test_bad_requests(void **state) {
    static const struct {
        const char *text, *words;
    } bad[] = {{"{\"gate\":", "stored request"},
               {"{\"gate\":7}", "stored request: 'gate' must be an object"},
               {"{\"gate\":{\"min_es\":\"1\"}}", "'min_es' must be a number"},
               {"{\"gate\":{\"measure\":1}}", "'measure' must be a string"}};
    struct mal_gate gate = gate_of(&no_limits);
    struct mal_error err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(mal_gate_add_request(&gate, bad[i].text, &err));
        assert_error(&err, MAL_CORRUPT, bad[i].words);
    }
    for (int t = 0; t < MAL_GATE_N_TESTS; t++)
        assert_false(mal_gate_asks(&gate, t));
}

/* ---- Numbers ---- */

static void test_edges(void **state) {
    struct mal_gate_limits limits = no_limits;
    limits.min_es = limits.min_agreement = 0.9;
    limits.max_norm_growth = 0.25;
    struct mal_gate gate = gate_of(&limits);
    struct mal_gate_numbers numbers = numbers_of(0.9, 0);
    numbers.value[MAL_GATE_NORM_GROWTH] = 0.25;
    assert_true(mal_gate_passes(&gate, &numbers));
    numbers.value[MAL_GATE_DECODED_ES] = 0.9 - 0x1p-52; /* summed in another order */
    assert_true(mal_gate_passes(&gate, &numbers));
    numbers.value[MAL_GATE_DECODED_ES] = 0.9 - 1e-9;
    assert_false(mal_gate_passes(&gate, &numbers));
    numbers = numbers_of(1, 1);
    numbers.value[MAL_GATE_NORM_GROWTH] = 0.25 + 1e-9;
    assert_false(mal_gate_passes(&gate, &numbers));
    numbers.value[MAL_GATE_NORM_GROWTH] = -0.5;
    assert_true(mal_gate_passes(&gate, &numbers));
    numbers.value[MAL_GATE_AGREEMENT] = 0;
    assert_false(mal_gate_passes(&gate, &numbers));
}

/* Where nothing was there to measure no test fails, and it is said. */
static void test_not_measured(void **state) {
    struct mal_gate_limits limits = {1, 1, 1, 1, 0, 0, NULL, false};
    struct mal_gate gate = gate_of(&limits);
    struct mal_gate_numbers numbers = numbers_of(NONE, 0);
    numbers.value[MAL_GATE_DECODED_ES] = 1;
    expect(&gate, &numbers,
           "{\"passed\":true,\"failed\":[],\"not_measured\":["
           "{\"test\":\"min_gs\",\"measure\":\"decoded\"},"
           "{\"test\":\"min_ls\",\"measure\":\"decoded\"},"
           "{\"test\":\"min_agreement\"},"
           "{\"test\":\"max_norm_growth\"},"
           "{\"test\":\"max_perplexity_growth\"}]}");
    mal_gate_add_perplexity(&numbers, NONE, NONE);
    mal_gate_add_norms(&numbers, NULL, NULL, 0);
    assert_true(mal_gate_passes(&gate, &numbers));
    expect_json(mal_gate_json_not_finite("module 'm' has no finite weights"),
                "{\"passed\":false,\"failed\":[{\"test\":\"finite\",\"detail\":"
                "\"module 'm' has no finite weights\"}]}");
}

static void test_norms(void **state) {
    const struct mal_module_norms base[] = {{"a", 0, 4}, {"b", 0, 8}, {"c", 0, 0}};
    struct mal_module_norms now[] = {{"a", 1, 4.5}, {"b", 1, 11}, {"c", 1, 0}};
    struct mal_gate_limits limits = no_limits;
    limits.max_norm_growth = 0.25;
    struct mal_gate gate = gate_of(&limits);

    struct mal_gate_numbers numbers = numbers_of(1, 1);
    mal_gate_add_norms(&numbers, now, base, 3);
    expect(&gate, &numbers,
           "{\"passed\":false,\"failed\":[{\"test\":\"max_norm_growth\","
           "\"threshold\":0.25,\"value\":0.375,\"module\":\"b\"}]}");

    numbers = numbers_of(1, 1);
    mal_gate_add_norms(&numbers, now, base, 1);
    assert_true(numbers.value[MAL_GATE_NORM_GROWTH] == 0.125);
    assert_string_equal(numbers.module, "a");
    assert_true(mal_gate_passes(&gate, &numbers));

    numbers = numbers_of(1, 1); /* all became smaller */
    now[0].weight_norm = 3;
    mal_gate_add_norms(&numbers, now, base, 1);
    assert_true(numbers.value[MAL_GATE_NORM_GROWTH] == -0.25);

    numbers = numbers_of(1, 1); /* something of nothing */
    now[2].weight_norm = 1;
    mal_gate_add_norms(&numbers, now, base, 3);
    expect(&gate, &numbers,
           "{\"passed\":false,\"failed\":[{\"test\":\"max_norm_growth\","
           "\"threshold\":0.25,\"module\":\"c\"}]}");
}

static void test_perplexity(void **state) {
    struct mal_gate_limits limits = no_limits;
    limits.max_perplexity_growth = 0.5;
    struct mal_gate gate = gate_of(&limits);
    struct mal_gate_numbers numbers = numbers_of(1, 1);
    mal_gate_add_perplexity(&numbers, log(20), log(25));
    assert_true(fabs(numbers.value[MAL_GATE_PERPLEXITY_GROWTH] - 0.25) < 1e-12);
    assert_true(mal_gate_passes(&gate, &numbers));
    mal_gate_add_perplexity(&numbers, log(20), log(30.1));
    assert_false(mal_gate_passes(&gate, &numbers));
    mal_gate_add_perplexity(&numbers, 1, 5000);
    expect(&gate, &numbers,
           "{\"passed\":false,\"failed\":[{\"test\":\"max_perplexity_growth\","
           "\"threshold\":0.5}]}");
}

/* ---- Lack of memory ---- */

static bool add_and_tell(const char *request, struct mal_error *err) {
    struct mal_gate gate = gate_of(&no_limits);
    struct mal_gate_numbers numbers = numbers_of(0, NONE);
    if (!mal_gate_add_request(&gate, request, err)) return false;
    json_t *json = mal_gate_json(&gate, &numbers);
    json_t *other = mal_gate_json_not_finite("it");
    bool ok = (json && other) || mal_fail(err, MAL_NO_MEMORY, "verdict");
    json_decref(json);
    json_decref(other);
    return ok;
}

static void test_no_memory(void **state) {
    fail_each_allocation(
        add_and_tell, "{\"gate\":{\"min_es\":1,\"min_gs\":1,\"min_agreement\":1}}", 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_upkeep),        cmocka_unit_test(test_nothing_set),
        cmocka_unit_test(test_stricter_only), cmocka_unit_test(test_bisect),
        cmocka_unit_test(test_measures),      cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_edges),         cmocka_unit_test(test_not_measured),
        cmocka_unit_test(test_norms),         cmocka_unit_test(test_perplexity),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("gate", tests, NULL, NULL);
}
