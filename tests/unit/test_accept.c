/* test_accept.c - what a client takes is told from what it does not take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/http/accept.h"

static void ranges(void **state) {
    static const struct {
        const char *accept, *types;
        bool taken;
    } cases[] = {
        {NULL, "application/json", true},
        {"", "application/json", true},
        {"*/*", "application/json", true},
        {"application/json", "application/json", true},
        {"Application/JSON", "application/json", true},
        {"application/*", "application/json", true},
        {"text/html, application/json;q=0.1", "application/json", true},
        {"text/html,application/xhtml+xml,*/*;q=0.8", "application/json", true},
        {" text/plain ; version=0.0.4 ; q=0.3 ", "text/plain", true},
        {"text/css", "text/javascript, text/css", true},
        {"application/json;q=0.001", "application/json", true},
        {"application/json;q=1.0", "application/json", true},
        {"*/*;q=0, application/json", "application/json", true},
        {"application/json, */*;q=0", "application/json", true},
        {"application/*;q=0, application/json;q=0.5", "application/json", true},
        {"nonsense", "application/json", true},
        {", ,;", "application/json", true},
        {"text/html", "application/json", false},
        {"text/*", "application/json", false},
        {"application/jsonx", "application/json", false},
        {"application/js", "application/json", false},
        {"app/*", "application/json", false},
        {"*/json", "application/json", false},
        {"application/json;q=0", "application/json", false},
        {"application/json ; q=0.000 ; x=y", "application/json", false},
        {"*/*, application/json;q=0", "application/json", false},
        {"application/json;q=0, */*", "application/json", false},
        {"*/*;q=0.0", "application/json", false},
        {"image/png", "text/javascript, text/css", false},
        {"nonsense, text/html", "application/json", false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (mal_accepts(cases[i].accept, cases[i].types) != cases[i].taken)
            fail_msg("'%s' for %s", cases[i].accept, cases[i].types);
    }
}

int main(void) {
    static const struct CMUnitTest tests[] = {cmocka_unit_test(ranges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
