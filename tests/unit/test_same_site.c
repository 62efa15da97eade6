/* test_same_site.c - what a page from elsewhere can make a browser send is told apart
 * from what others send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/http/same_site.h"

static void pages_from_elsewhere(void **state) {
    static const struct {
        const char *method, *fetch_site, *origin, *host;
        bool cross;
    } cases[] = {
        {"POST", NULL, NULL, "localhost:8780", false}, /* no browser */
        {"POST", NULL, NULL, NULL, false},
        {"POST", "same-origin", "http://localhost:8780", "localhost:8780", false},
        {"POST", "none", NULL, "localhost:8780", false},
        {"POST", NULL, "http://localhost:8780", "localhost:8780", false},
        {"POST", NULL, "https://facts.example", "facts.example", false},
        {"POST", NULL, "HTTPS://Facts.example", "facts.EXAMPLE", false},
        {"POST", "same-origin", NULL, "facts.example", false},
        {"POST", "cross-site", NULL, "localhost:8780", true},
        {"POST", "same-site", NULL, "localhost:8780", true},
        {"POST", "Same-Origin", NULL, "localhost:8780", true},
        {"POST", "", NULL, "localhost:8780", true},
        {"POST", "same-origin", "http://evil.example", "localhost:8780", true},
        {"POST", "cross-site", "http://localhost:8780", "localhost:8780", true},
        {"POST", NULL, "http://evil.example", "localhost:8780", true},
        {"POST", NULL, "http://localhost:9999", "localhost:8780", true},
        {"POST", NULL, "http://localhost", "localhost:8780", true},
        {"POST", NULL, "http://localhost:8780.evil.example", "localhost:8780", true},
        {"POST", NULL, "null", "localhost:8780", true},
        {"POST", NULL, "", "localhost:8780", true},
        {"POST", NULL, "localhost:8780", "localhost:8780", true},
        {"POST", NULL, "ftp://localhost:8780", "localhost:8780", true},
        {"POST", NULL, "http://localhost:8780", NULL, true},
        {"DELETE", "cross-site", NULL, "localhost:8780", true},
        {"OPTIONS", NULL, "http://evil.example", "localhost:8780", true},
        {"BREW", NULL, "http://evil.example", "localhost:8780", true},
        {"GET", "cross-site", "http://evil.example", "localhost:8780", false},
        {"HEAD", "cross-site", NULL, "localhost:8780", false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool cross = mal_is_cross_site(cases[i].method, cases[i].fetch_site,
                                       cases[i].origin, cases[i].host);
        if (cross != cases[i].cross) fail_msg("case %zu", i);
    }
}

static void names_of_this_machine(void **state) {
    static const char *const own[] = {
        "localhost", "localhost:8780", "LocalHost:1", "localhost:", "127.0.0.1:8780",
        "127.0.0.1", "[::1]:8780",     "[::1]",       "127.0.0.9",  "127.0.0.9:1",
    };
    static const char *const others[] = {
        "",
        ":8780",
        "evil.example",
        "evil.example:8780",
        "localhost.evil.example:8780",
        "localhost:8780.evil.example",
        "localhost:evil",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "127.0.0.1:80:80",
        "::1",
        "[::1",
        "[",
        "[::1]x",
        "[::2]:8780",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost ",
    };
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (!mal_is_own_host(own[i], "127.0.0.9:8780")) fail_msg("%s", own[i]);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (mal_is_own_host(others[i], "127.0.0.9:8780")) fail_msg("%s", others[i]);
    }
    assert_false(mal_is_own_host("127.0.0.9:8780", "[::1]:8780"));
    assert_true(mal_is_own_host("[::7]:1", "[::7]:8780"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_from_elsewhere),
        cmocka_unit_test(names_of_this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
