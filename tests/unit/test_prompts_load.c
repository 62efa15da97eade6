/* test_prompts_load.c - prompts out of files of every form, with targets and without. */
#include "scratch.h"

#include "core/prompts_load.h"

struct expected {
    const char *text, *target, *join;
    size_t place;
};

struct check {
    const char *unit;
    const struct expected *want;
    size_t n, seen;
};

static bool take(void *arg, const struct mal_prompt *prompt, struct mal_error *err) {
    struct check *check = arg;
    const struct expected *want = &check->want[check->seen];
    if (check->seen++ == check->n) fail_msg("more than %zu prompts", check->n);
    assert_int_equal(prompt->bytes, strlen(want->text));
    assert_memory_equal(prompt->text, want->text, prompt->bytes);
    assert_text(prompt->target, want->target);
    assert_text(prompt->join, want->join);
    assert_string_equal(prompt->unit, check->unit);
    assert_int_equal(prompt->place, want->place);
    return true;
}

static void expect_with(bool targets, const char *content, const char *unit, size_t n,
                        const struct expected *want) {
    struct check check = {unit, want, n, 0};
    struct mal_error err = {0};
    assert_ok(
        mal_prompts_load(scratch_text("prompts", content), targets, take, &check, &err),
        &err);
    assert_int_equal(check.seen, n);
}

static void expect(const char *content, const char *unit, size_t n,
                   const struct expected *want) {
    expect_with(true, content, unit, n, want);
    expect_with(false, content, unit, n, want);
}

static void test_lines(void **state) {
    static const struct expected lines[] = {{"The firm", NULL, NULL, 1},
                                            {" By\ttrade, \"he\"", NULL, NULL, 4}};
    expect("The firm\r\n\n \t\n By\ttrade, \"he\" ", "line", 2, lines);
    expect("\xef\xbb\xbfThe firm", "line", 1, lines);
    expect("\"The firm\"", "line", 1, &(struct expected){"\"The firm\"", NULL, NULL, 1});
    expect("not \xff fine", "line", 1,
           &(struct expected){"not \xff fine", NULL, NULL, 1});
    expect("", "line", 0, NULL);
    expect(" \n\n", "line", 0, NULL);
}

static void test_records(void **state) {
    static const struct expected two[] = {{"The firm", NULL, NULL, 0},
                                          {"By", NULL, NULL, 1}};
    expect("{\"prompt\": \"The firm\", \"subject\": \"x\"}\n{\"prompt\": \"By\"}\n",
           "record", 2, two);
    expect(" [\"The firm\", {\"prompt\": \"By\"}]\n", "record", 2, two);
    expect("[\"The firm\"] {\"prompt\": \"By\"}", "record", 2, two);
    expect("[]", "record", 0, NULL);

    static const struct expected mixed[] = {{"The firm", NULL, NULL, 0},
                                            {"By", "trade", NULL, 1},
                                            {"\xe7\x94\xb2", "\xe4\xb9\x99", "", 2}};
    expect_with(true,
                "{\"prompt\": \"The firm\"}\n"
                "{\"prompt\": \"By\", \"target\": \"trade\", \"join\": null}\n"
                "{\"prompt\": \"\xe7\x94\xb2\", \"target\": \"\xe4\xb9\x99\", "
                "\"join\": \"\"}\n",
                "record", 3, mixed);
}

static void test_facts(void **state) {
    static const struct expected facts[] = {{"By", "trade", NULL, 0},
                                            {"The", "firm", NULL, 1}};
    static const char api[] = "{\"prompt\": \"By\", \"target\": \"trade\"}\n"
                              "{\"prompt\": \"The\", \"target\": \"firm\"}";
    expect("{\"facts\": [{\"prompt\": \"By\", \"target\": \"trade\"}, "
           "{\"prompt\": \"The\", \"target\": \"firm\"}]}",
           "fact", 2, facts);
    expect("[{\"src\": \"By\", \"alt\": \"trade\"}]", "fact", 1, facts);
    expect("{\"prompt\": \"By\", \"target_new\": \"trade\"}", "fact", 1, facts);
    expect("\nBy\ttrade\nThe\tfirm\n", "fact", 2, facts);
    expect_with(false, api, "fact", 2, facts);
    expect_with(true, api, "record", 2, facts);
}

/* ---- What is wrong ---- */

static bool take_any(void *arg, const struct mal_prompt *prompt, struct mal_error *err) {
    return true;
}

static void test_bad_files(void **state) {
    enum { WITH = 1, WITHOUT = 2, BOTH = WITH | WITHOUT };

    static const struct {
        const char *content;
        int targets;
        enum mal_status status;
        const char *words;
    } bad[] = {
        {"{\"prompt\": \"a\"", BOTH, MAL_MALFORMED, "bad: record 0: JSON: line 1"},
        {"{\"prompt\": \"a\"}\n{", BOTH, MAL_MALFORMED, "bad: record 1: JSON"},
        {"[\"a\", 3]", WITH, MAL_INVALID, "bad: record 1 is not a prompt, as the first"},
        {"[\"a\", 3]", WITHOUT, MAL_INVALID,
         "bad: record 1 is not a prompt without a target, as the first one is"},
        {"[\"a\", {\"src\": \"b\"}]", BOTH, MAL_INVALID, "bad: record 1 is not a prompt"},
        {"[\"a\", {\"prompt\": \"b\", \"alt\": \"c\"}]", BOTH, MAL_INVALID,
         "bad: record 1 is not a prompt"},
        {"[\"a\", {\"prompt\": \"b\", \"target_new\": \"c\"}]", BOTH, MAL_INVALID,
         "bad: record 1 is not a prompt"},
        {"{\"prompt\": \"a\"}\n{\"prompt\": \"b\", \"target\": \"c\"}", WITHOUT,
         MAL_INVALID, "bad: record 1 is not a prompt without a target"},
        {"{\"prompt\": \"a\", \"target\": \"c\"}\n{\"prompt\": \"b\"}", WITHOUT,
         MAL_INVALID, "bad: line 2: 'target' is missing"},
        {"{\"prompt\": 3}", BOTH, MAL_INVALID, "bad: record 0: 'prompt' must be a str"},
        {"{\"prompt\": null}", WITH, MAL_INVALID, "bad: record 0: 'prompt' is missing"},
        {"[\"a\", {\"prompt\": \"b\", \"target\": 1}]", WITH, MAL_INVALID,
         "bad: record 1: 'target' must be a string"},
        {"[\"a\", {\"prompt\": \"b\", \"join\": 1}]", WITH, MAL_INVALID,
         "bad: record 1: 'join' must be a string"},
        {"[3]", BOTH, MAL_INVALID, "bad: record 0"},
        {"{\"question\": \"a\"}", BOTH, MAL_INVALID, "bad: record 0"},
    };

    for (size_t i = 0; i < 2 * sizeof bad / sizeof *bad; i++) {
        struct mal_error err = {0};
        bool targets = i % 2;
        if (!(bad[i / 2].targets & (targets ? WITH : WITHOUT))) continue;
        const char *path = scratch_text("bad", bad[i / 2].content);
        if (mal_prompts_load(path, targets, take_any, NULL, &err))
            fail_msg("file %zu is believed: %s", i / 2, bad[i / 2].words);
        assert_error(&err, bad[i / 2].status, bad[i / 2].words);
    }
    struct mal_error err = {0};
    assert_false(
        mal_prompts_load(scratch_write("bad", "a\0b", 3), true, take_any, NULL, &err));
    assert_error(&err, MAL_MALFORMED, "bad: a zero byte");
    assert_false(mal_prompts_load(scratch_path("none"), true, take_any, NULL, &err));
    assert_error(&err, MAL_NOT_FOUND, "none");
}

static bool take_first(void *arg, const struct mal_prompt *prompt,
                       struct mal_error *err) {
    return (*(size_t *)arg)++ == 0 || mal_fail(err, MAL_CONFLICT, "no more");
}

/* One that is refused ends it, with the taker's own error. */
static void test_refused(void **state) {
    static const char *const files[] = {"a\nb\nc", "[\"a\", \"b\", \"c\"]",
                                        "{\"prompt\": \"a\"} {\"prompt\": \"b\"}",
                                        "a\tx\nb\tx\nc\tx"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct mal_error err = {0};
        size_t n = 0;
        assert_false(mal_prompts_load(scratch_text("prompts", files[i]), true, take_first,
                                      &n, &err));
        assert_int_equal(err.status, MAL_CONFLICT);
        assert_string_equal(err.text, "no more");
        assert_int_equal(n, 2);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),   cmocka_unit_test(test_records),
        cmocka_unit_test(test_facts),   cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("prompts_load", tests, scratch_make,
                                       scratch_remove);
}
