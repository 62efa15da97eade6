/* test_request_id.c - which ids of clients are taken over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/http/request_id.h"

static void ids_that_are_taken_over(void **state) {
    char text[MAL_REQUEST_ID_BYTES + 1];
    static const char *const good[] = {"a", "0", "A-z_0.9", "....", "-", "550e8400-e29b"};
    static const char *const bad[] = {"",  " ",   "a b", "a\n",      "a\"b", "a/b",
                                      "ü", "a,b", "{}",  "a\\u0020", "a;b",  "a:b"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(mal_request_id_valid(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(mal_request_id_valid(bad[i]));
    assert_false(mal_request_id_valid(NULL));
    memset(text, 'x', sizeof text);
    text[128] = '\0';
    assert_true(mal_request_id_valid(text));
    text[128] = 'x';
    text[129] = '\0';
    assert_false(mal_request_id_valid(text));
}

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define ZEROS "00000000000000000000000000000000"

static void traces_that_are_logged(void **state) {
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"00-" TRACE "-00f067aa0ba902b7-01", TRACE},
        {"00-" TRACE "-00f067aa0ba902b7-00", TRACE},
        {"01-" TRACE "-00f067aa0ba902b7-01", TRACE},
        {"cc-" TRACE "-00f067aa0ba902b7-01-what-comes-then", TRACE},
        {"00-" TRACE "-00f067aa0ba902b7-01-what", ""},
        {"cc-" TRACE "-00f067aa0ba902b7-01.what", ""},
        {"00-" TRACE "-00f067aa0ba902b7-01 ", ""},
        {"ff-" TRACE "-00f067aa0ba902b7-01", ""},
        {"0-" TRACE "-00f067aa0ba902b7-01", ""},
        {"00-" ZEROS "-00f067aa0ba902b7-01", ""},
        {"00-" TRACE "-0000000000000000-01", ""},
        {"00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", ""},
        {"00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01x", ""},
        {"00-4bf92f3577b34da6a3ce929d0e0e473-000f067aa0ba902b7-01", ""},
        {"00-" TRACE "-00f067aa0ba902b-011", ""},
        {"00-" TRACE "-00f067aa0ba902b7-0", ""},
        {"00-" TRACE "-00f067aa0ba902b7-0g", ""},
        {"00-" TRACE, ""},
        {"00_" TRACE "-00f067aa0ba902b7-01", ""},
        {"", ""},
        {NULL, ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[MAL_TRACE_ID_BYTES] = "before";
        mal_trace_id(cases[i].text, out);
        assert_string_equal(out, cases[i].expected);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_that_are_taken_over),
        cmocka_unit_test(traces_that_are_logged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
