/* test_utf8.c - what is UTF-8, what one U+FFFD stands for, and where a stream may be cut.
 */
#include "scratch.h"

#include "core/utf8.h"

static const struct {
    const char *text;
    size_t bytes;
    int32_t point; /* -1: invalid */
    size_t length; /* of the character, or of what one U+FFFD replaces */
    size_t complete;
} cases[] = {
    {"a", 1, 'a', 1, 1},
    {"\0", 1, 0, 1, 1},
    {"\x7f", 1, 0x7f, 1, 1},
    {"\xc2\x80", 2, 0x80, 2, 2},
    {"\xdf\xbf", 2, 0x7ff, 2, 2},
    {"\xe0\xa0\x80", 3, 0x800, 3, 3},
    {"\xed\x9f\xbf", 3, 0xd7ff, 3, 3},
    {"\xee\x80\x80", 3, 0xe000, 3, 3},
    {"\xef\xbf\xbf", 3, 0xffff, 3, 3},
    {"\xf0\x90\x80\x80", 4, 0x10000, 4, 4},
    {"\xf4\x8f\xbf\xbf", 4, 0x10ffff, 4, 4},
    {"\x80", 1, -1, 1, 1},     /* continuation alone */
    {"\xc0\xaf", 2, -1, 1, 2}, /* overlong */
    {"\xc1\xbf", 2, -1, 1, 2},
    {"\xe0\x9f\xbf", 3, -1, 1, 3},
    {"\xf0\x8f\xbf\xbf", 4, -1, 1, 4},
    {"\xed\xa0\x80", 3, -1, 1, 3},     /* surrogate */
    {"\xf4\x90\x80\x80", 4, -1, 1, 4}, /* above U+10FFFF */
    {"\xf5\x80\x80\x80", 4, -1, 1, 4},
    {"\xff", 1, -1, 1, 1},
    {"\xe2\x82", 2, -1, 2, 0}, /* cut */
    {"\xe2\x82z", 3, -1, 2, 3},
    {"\xf0\x9f\x98", 3, -1, 3, 0},
    {"\xf0\x9f\x98z", 4, -1, 3, 4},
    {"\xf0\x9f", 2, -1, 2, 0},
    {"\xf0", 1, -1, 1, 0},
    {"\xc3", 1, -1, 1, 0},
    {"\xe0\x80", 2, -1, 1, 2},
};

enum { N_CASES = sizeof cases / sizeof *cases };

static void test_next(void **state) {
    for (size_t i = 0; i < N_CASES; i++) {
        int32_t point = -2;
        size_t n = mal_utf8_next(cases[i].text, cases[i].bytes, &point);
        assert_int_equal(point, cases[i].point);
        assert_int_equal(n, cases[i].length);
        assert_int_equal(mal_utf8_valid(cases[i].text, cases[i].bytes),
                         cases[i].point >= 0);
    }
    assert_true(mal_utf8_valid("", 0));
    assert_false(mal_utf8_valid("abc\xe2\x82", 5));
}

static void test_put(void **state) {
    for (int32_t point = 0; point <= 0x10ffff; point += point < 0x900 ? 1 : 251) {
        char text[4];
        int32_t back;
        if (point >= 0xd800 && point < 0xe000) continue;
        size_t n = mal_utf8_put(point, text);
        assert_int_equal(mal_utf8_next(text, n, &back), n);
        assert_int_equal(back, point);
    }
}

static void test_complete_prefix(void **state) {
    assert_int_equal(mal_utf8_complete_prefix("", 0), 0);
    for (size_t i = 0; i < N_CASES; i++) {
        char text[16] = "xy";
        memcpy(text + 2, cases[i].text, cases[i].bytes);
        assert_int_equal(mal_utf8_complete_prefix(cases[i].text, cases[i].bytes),
                         cases[i].complete);
        assert_int_equal(mal_utf8_complete_prefix(text, 2 + cases[i].bytes),
                         2 + cases[i].complete);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_next),
        cmocka_unit_test(test_put),
        cmocka_unit_test(test_complete_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
