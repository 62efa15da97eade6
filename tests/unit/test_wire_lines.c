/* test_wire_lines.c - facts as NDJSON: the same is said of them however they are cut. */
#include "fact_lines.h"

#define FACT "{\"prompt\":\"a\",\"target\":\"b\"}"

static void check(const char *name, const char *body, size_t bytes, int status,
                  const char *pointer, const char *says) {
    for (size_t piece = 1; piece <= bytes; piece = piece == 70 ? bytes : piece + 1) {
        struct mal_error err = {0};
        bool ok = decode_lines(body, bytes, piece, &err);
        int got = ok ? 200 : mal_status_http(err.status);
        if (got != status || (!ok && strcmp(err.pointer, pointer) != 0) ||
            (!ok && !strstr(err.text, says))) {
            fail_msg("%s, %zu bytes at a time: %d '%s' \"%s\", expected %d '%s' "
                     "\"...%s...\"",
                     name, piece, got, err.pointer, err.text, status, pointer, says);
        }
        if (piece == bytes) break;
    }
}

static const struct {
    const char *body;
    int status;
    const char *pointer, *says;
} cases[] = {
    {FACT "\n" FACT "\n" FACT "\n" FACT "\n" FACT, 413, "/facts", "at most 4"},
    {FACT "\r\n\t \r\n" FACT, 200, "", ""},
    {FACT FACT, 400, "", "line 1 is not JSON"},
    {FACT "\n[1]\n", 400, "", "line 2 must be a JSON object"},
    {FACT "\n" FACT "\n{\"prompt\":\"a\",\"target\":\"c\"}", 422, "/facts/2/target",
     "contradicts /facts/0"},
    {FACT "\n{\"prompt\":\"a\",\"target\":3}", 400, "/facts/1/target", "line 2: "},
};

static void test_table(void **state) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check(cases[i].body, cases[i].body, strlen(cases[i].body), cases[i].status,
              cases[i].pointer, cases[i].says);
    }
}

/* A line may be as long as it is allowed to be, whole or in pieces, and no longer. */
static void test_long_line(void **state) {
    char line[MAX_LINE + 2];
    for (int over = 0; over <= 1; over++) {
        size_t n = (size_t)sprintf(line, FACT), bytes = MAX_LINE + (size_t)over;
        memset(line + n, ' ', bytes - n);
        line[bytes] = '\n';
        check("line", line, bytes + 1, over ? 413 : 200, "", "line 1 is longer");
        check("no newline", line, bytes, over ? 413 : 200, "", "line 1 is longer");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_long_line),
    };
    return cmocka_run_group_tests_name("wire_lines", tests, NULL, NULL);
}
