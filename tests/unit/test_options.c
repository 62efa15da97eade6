/* test_options.c - command lines, environment and configuration files become values or a
 * message that names the option. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "daemon/base/report.h"
#include "daemon/command/options.h"

struct values {
    char *model, *update, *out;
    int64_t max_queue, seed, max_body;
    double tau, timeout;
    bool json;
};

static const struct mal_option options[] = {
    {"model", MAL_OPTION_TEXT, offsetof(struct values, model), "DIR", NULL,
     "The directory of the model.", .required = true},
    {"update", MAL_OPTION_CHOICE, offsetof(struct values, update), "joint|sequential",
     "joint", "How batches follow each other."},
    {"out", MAL_OPTION_TEXT, offsetof(struct values, out), "FILE", NULL,
     "Where to write to.", .positional = true},
    {"max-queue", MAL_OPTION_INT, offsetof(struct values, max_queue), "FACTS", "1000",
     "How many facts may wait.", .min = 1, .max = 100000},
    {"seed", MAL_OPTION_INT, offsetof(struct values, seed), "N", NULL, "Of the draws."},
    {"max-body", MAL_OPTION_BYTES, offsetof(struct values, max_body), "BYTES", "16MiB",
     "Largest body that is read.", .min = 1, .max = INFINITY},
    {"repair-tau", MAL_OPTION_REAL, offsetof(struct values, tau), "P", NULL,
     "Least probability.", .min = 0, .max = 1},
    {"request-timeout", MAL_OPTION_DURATION, offsetof(struct values, timeout), "S", "30",
     "Longest time for a request."},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "Machine-readable."},
    {0},
};
static const struct mal_option_set plain = {"demo", "Does nothing.", options, false};
static const struct mal_option_set configurable = {"demo", "Does nothing.", options,
                                                   true};

/* ---- What goes to a stream while a function runs ---- */

struct capture {
    FILE *stream, *file;
    int kept;
    char text[8192];
};

static void capture_begin(struct capture *c, FILE *stream) {
    fflush(stream);
    c->stream = stream;
    c->file = tmpfile();
    assert_non_null(c->file);
    c->kept = dup(fileno(stream));
    dup2(fileno(c->file), fileno(stream));
}

static void capture_end(struct capture *c) {
    fflush(c->stream);
    dup2(c->kept, fileno(c->stream));
    close(c->kept);
    rewind(c->file);
    c->text[fread(c->text, 1, sizeof c->text - 1, c->file)] = '\0';
    fclose(c->file);
}

/* Runs a command line whose words are apart by '|'. Returns the exit code, -1: goes on.
 */
static int parse(const struct mal_option_set *set, const char *words,
                 struct values *values, struct capture *out, struct capture *errors) {
    char text[512], *argv[32] = {(char *)set->command};
    int argc = 1, code = -7;
    snprintf(text, sizeof text, "%s", words);
    for (char *p = *text ? text : NULL; p && argc < 31;) {
        argv[argc++] = p;
        p = strchr(p, '|');
        if (p) *p++ = '\0';
    }
    *values = (struct values){0};
    capture_begin(out, stdout);
    capture_begin(errors, stderr);
    bool ok = mal_options_parse(set, argc, argv, values, &code);
    capture_end(errors);
    capture_end(out);
    return ok ? -1 : code;
}

static void expect(const struct mal_option_set *set, const char *words, int code,
                   const char *says) {
    struct values values;
    struct capture out, errors;
    int got = parse(set, words, &values, &out, &errors);
    mal_options_finish(set, &values);
    if (got != code || !strstr(errors.text, says)) {
        fail_msg("%s: exit %d, \"%s\"; expected %d, \"...%s...\"", words, got,
                 errors.text, code, says);
    }
    if (code == 2) {
        assert_non_null(strstr(errors.text, "See 'malmend demo --help'."));
        assert_string_equal(out.text, "");
    }
}

/* ---- Tests ---- */

static void test_refusals(void **state) {
    static const struct {
        const char *words;
        int code;
        const char *says;
    } cases[] = {
        {"", 2, "--model DIR is required"},
        {"--model=m", -1, ""},
        {"--model", 2, "--model needs a value"},
        {"--model|--json", 2, "--model needs a value, but '--json' follows"},
        {"--model=--json", -1, ""},
        {"--modle|m", 2, "there is no option --modle; did you mean --model?"},
        {"--model|m|--zzzzzz", 2, "there is no option --zzzzzz\n"},
        {"--model|m|-x", 2, "there is no option -x"},
        {"--model|m|--max-queue|many", 2, "--max-queue: 'many' is not a whole number"},
        {"--model|m|--max-queue=", 2, "--max-queue: '' is not a whole number"},
        {"--model|m|--max-queue|5.5", 2, "is not a whole number"},
        {"--model|m|--max-queue|0", 2, "--max-queue: 0 is out of range (1 to 100000)"},
        {"--model|m|--max-queue|100001", 2, "out of range"},
        {"--model|m|--max-queue|99999999999999999999", 2, "is not a whole number"},
        {"--model|m|--repair-tau|1.5", 2, "--repair-tau: 1.5 is out of range (0 to 1)"},
        {"--model|m|--repair-tau|nan", 2, "is not a number"},
        {"--model|m|--repair-tau|0.5x", 2, "is not a number"},
        {"--model|m|--update|never", 2,
         "--update: 'never' is not one of joint|sequential"},
        {"--model|m|--update|join", 2, "is not one of"},
        {"--model|m|--update|", 2, "is not one of"},
        {"--model|m|--max-body|1.5", 2, "--max-body: '1.5' is not a number of bytes"},
        {"--model|m|--max-body|4Q", 2, "is not a number of bytes"},
        {"--model|m|--max-body|-4", 2, "is not a number of bytes"},
        {"--model|m|--max-body|0", 2, "the least is 1"},
        {"--model|m|--request-timeout|5 s", 2, "is not a time"},
        {"--model|m|--request-timeout|-1", 2, "is not a time"},
        {"--model|m|--json=perhaps", 2, "--json: 'perhaps' is not true or false"},
        {"--model|m|one|two", 2, "unexpected argument 'two'"},
        {"--model|m|--out|x", 2, "there is no option --out"},
        {"--model|m|--config|x", 2, "there is no option --config"},
        {"--help", 0, ""},
        {"--model|--help", 2, "needs a value"},
        {"--zzzzzz|--help", 2, "no option --zzzzzz"},
        {"--max-queue|many|-h", 0, ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect(&plain, cases[i].words, cases[i].code, cases[i].says);
    }
}

static void test_values(void **state) {
    struct values v;
    struct capture out, errors;
    assert_int_equal(parse(&plain, "--model|m", &v, &out, &errors), -1);
    assert_string_equal(v.model, "m");
    assert_string_equal(v.update, "joint");
    assert_null(v.out);
    assert_int_equal(v.max_queue, 1000);
    assert_true(v.seed == MAL_OPTION_UNSET);
    assert_int_equal(v.max_body, 16 << 20);
    assert_true(isnan(v.tau));
    assert_true(v.timeout == 30);
    assert_false(v.json);
    mal_options_finish(&plain, &v);
    assert_null(v.model);
    mal_options_finish(&plain, &v);

    assert_int_equal(
        parse(&plain,
              "--model|first|o|--model=a=b|--update|sequential|--max-queue=7|--seed|"
              "-5|--max-body|3K|--repair-tau|2.5e-1|--request-timeout|250ms|--json",
              &v, &out, &errors),
        -1);
    assert_string_equal(v.model, "a=b"); /* the last one counts */
    assert_string_equal(v.out, "o");
    assert_string_equal(v.update, "sequential");
    assert_int_equal(v.max_queue, 7);
    assert_int_equal(v.seed, -5);
    assert_int_equal(v.max_body, 3072);
    assert_true(v.tau == 0.25);
    assert_true(v.timeout == 0.25);
    assert_true(v.json);
    mal_options_finish(&plain, &v);

    assert_int_equal(
        parse(&plain, "--model|m|--json|--json=no|--|--odd", &v, &out, &errors), -1);
    assert_false(v.json);
    assert_string_equal(v.out, "--odd");
    mal_options_finish(&plain, &v);
}

static void test_help(void **state) {
    struct values v;
    struct capture out, errors;
    assert_int_equal(parse(&configurable, "--help", &v, &out, &errors), 0);
    assert_string_equal(errors.text, "");
    static const char *const words[] = {
        "Usage: malmend demo --model DIR [options] [FILE]\n",
        "--model DIR               The directory of the model. (required)\n",
        "--max-queue FACTS         How many facts may wait. (default: 1000)\n",
        "--update joint|sequential",
        "(default: joint)",
        "--json                    Machine-readable. (default: off)\n",
        "--repair-tau P            Least probability. (default: none)\n",
        "--config FILE",
        "--help",
        "MALMEND_MAX_QUEUE",
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!strstr(out.text, words[i])) fail_msg("no \"%s\" in %s", words[i], out.text);
    }
    for (const char *line = out.text; *line; line = strchr(line, '\n') + 1) {
        assert_true(strcspn(line, "\n") <= 88);
    }
    assert_int_equal(parse(&plain, "--help", &v, &out, &errors), 0);
    assert_null(strstr(out.text, "--config"));
}

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void test_precedence(void **state) {
    struct values v;
    struct capture out, errors;
    char path[] = "/tmp/test-options-XXXXXX", words[256];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    write_file(path, "{\"model\":\"file\",\"max_queue\":5,\"seed\":6,\"json\":true,"
                     "\"max_body\":\"1K\",\"request_timeout\":\"1.5d\",\"update\":null}");
    snprintf(words, sizeof words, "--config|%s|--seed|8", path);
    setenv("MALMEND_SEED", "7", 1);
    setenv("MALMEND_MAX_QUEUE", "6", 1);
    setenv("MALMEND_MODEL", "", 1);
    assert_int_equal(parse(&configurable, words, &v, &out, &errors), -1);
    assert_string_equal(v.model, "file");
    assert_int_equal(v.seed, 8);
    assert_int_equal(v.max_queue, 6);
    assert_int_equal(v.max_body, 1024);
    assert_true(v.timeout == 129600);
    assert_string_equal(v.update, "joint");
    assert_true(v.json);
    mal_options_finish(&configurable, &v);

    setenv("MALMEND_CONFIG", path, 1);
    assert_int_equal(parse(&configurable, "", &v, &out, &errors), -1);
    assert_int_equal(v.seed, 7);
    mal_options_finish(&configurable, &v);

    expect(&plain, "", 2, "--model DIR is required"); /* does not look there */
    setenv("MALMEND_MAX_QUEUE", "many", 1);
    expect(&configurable, "", 2, "MALMEND_MAX_QUEUE: 'many' is not a whole number");
    unsetenv("MALMEND_CONFIG");
    unsetenv("MALMEND_SEED");
    unsetenv("MALMEND_MAX_QUEUE");
    unsetenv("MALMEND_MODEL");

    static const struct {
        const char *text, *says;
    } files[] = {
        {"{\"model\":\"m\",\"max-queue\":5}", "there is no option 'max-queue'"},
        {"{\"model\":\"m\",\"config\":\"x\"}", "there is no option 'config'"},
        {"{\"model\":\"m\",\"max_queue\":\"5\"}", "'max_queue' must be an integer"},
        {"{\"model\":\"m\",\"max_queue\":0}", "'max_queue': 0 is out of range"},
        {"{\"model\":7}", "'model' must be a string"},
        {"{\"model\":\"m\",\"json\":1}", "'json' must be true or false"},
        {"{\"model\":\"m\",\"model\":\"m\"}", "duplicate"},
        {"[]", "must hold one JSON object"},
        {"{\"model\":", "line 1 column 9"},
    };

    snprintf(words, sizeof words, "--config|%s", path);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        write_file(path, files[i].text);
        expect(&configurable, words, 2, files[i].says);
        expect(&configurable, words, 2, path);
    }
    remove(path);
    expect(&configurable, words, 2, path);
}

/* Whoever puts one thing right need not find the next one after it. */
static void test_all_that_is_wrong(void **state) {
    static const char *const says[] = {"there is no option 'modle'",
                                       "'max_queue': 0 is out of range",
                                       "'update' must be a string"};
    char path[] = "/tmp/test-options-XXXXXX", words[256];
    close(mkstemp(path));
    snprintf(words, sizeof words, "--config|%s", path);
    write_file(path, "{\"modle\":\"m\",\"model\":\"m\",\"max_queue\":0,\"update\":7}");
    for (size_t i = 0; i < sizeof says / sizeof *says; i++)
        expect(&configurable, words, 2, says[i]);
    write_file(path, "{\"model\":7}");
    struct values v;
    struct capture out, errors;
    assert_int_equal(parse(&configurable, words, &v, &out, &errors), 2);
    assert_null(strstr(errors.text, "is required")); /* it was given */
    const char *see = strstr(errors.text, "See ");
    assert_true(see && !strstr(see + 1, "See "));
    mal_options_finish(&configurable, &v);
    remove(path);
}

static void test_out_of_memory(void **state) {
    struct values v;
    struct capture out, errors;
    int code = 1;
    for (long n = 1; code == 1 && n < 100; n++) {
        mal_alloc_fail_at(n);
        code = parse(&plain, "--model|m|--update|joint", &v, &out, &errors);
        mal_alloc_fail_at(0);
        mal_options_finish(&plain, &v);
        if (code == 1) assert_non_null(strstr(errors.text, "out of memory"));
    }
    assert_int_equal(code, -1);
}

/* ---- Progress ---- */

static void test_bar(void **state) {
    struct capture errors;
    struct mal_bar bar;
    capture_begin(&errors, stderr); /* a file, no terminal */
    mal_bar_start(&bar, "edit", 1000, false);
    for (int i = 1; i <= 1000; i++)
        mal_bar_update(&bar, i);
    mal_bar_finish(&bar);
    capture_end(&errors);
    int lines = 0;
    for (const char *p = errors.text; (p = strchr(p, '\n')); p++)
        lines++;
    assert_int_equal(lines, 10);
    assert_non_null(strstr(errors.text, "edit: 10 %, 100 of 1000, "));
    assert_non_null(strstr(errors.text, "edit: 100 %, 1000 of 1000, "));
    assert_null(strchr(errors.text, '\r'));

    capture_begin(&errors, stderr);
    mal_bar_start(&bar, "edit", 1000, true);
    for (int i = 1; i <= 1000; i++)
        mal_bar_update(&bar, i);
    mal_bar_finish(&bar);
    capture_end(&errors);
    assert_string_equal(errors.text, "");
}

static void test_nearest(void **state) {
    static const char *const words[] = {"serve", "edit", "complete"};
    assert_string_equal(mal_nearest_word("srve", words, 3), "serve");
    assert_string_equal(mal_nearest_word("completions", words, 3), "complete");
    assert_null(mal_nearest_word("x", words, 3));
    assert_null(mal_nearest_word("something", words, 3));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_values),
        cmocka_unit_test(test_help),          cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_bar),
        cmocka_unit_test(test_nearest),       cmocka_unit_test(test_all_that_is_wrong),
    };
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
