/* test_ids.c - ids ascend whatever the clock does, and have the promised form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/ids.h"

static void ids_ascend(void **state) {
    struct mal_id_maker maker = {0};
    char last[MAL_ID_BYTES] = "", id[MAL_ID_BYTES];
    const int64_t now = 1795411373000;
    for (int i = 0; i < 1100000;
         i++) { /* past the counter's 2^20 within one millisecond */
        mal_id_make(&maker, "job_", now, id);
        assert_true(strcmp(last, id) < 0);
        strcpy(last, id);
    }
    mal_id_make(&maker, "job_", now - 5000, id); /* the clock is set back */
    assert_true(strcmp(last, id) < 0);
    strcpy(last, id);
    mal_id_make(&maker, "job_", now + 5000, id);
    assert_true(strcmp(last, id) < 0);
}

static void ids_have_their_form(void **state) {
    struct mal_id_maker maker = {0};
    char id[MAL_ID_BYTES];
    mal_id_make(&maker, "fact_", 1795411373000, id);
    assert_int_equal(strlen(id), strlen("fact_") + 20);
    assert_memory_equal(id, "fact_", 5);
    assert_int_equal(strspn(id + 5, "0123456789abcdefghjkmnpqrstvwxyz"), 20);
}

static void time_leads(void **state) {
    struct mal_id_maker a = {0}, b = {0};
    char early[MAL_ID_BYTES], late[MAL_ID_BYTES];
    for (int64_t ms = 1; ms < (int64_t)1 << 47; ms = ms * 3 + 1) {
        mal_id_make(&a, "x_", ms, early);
        mal_id_make(&b, "x_", ms + 1, late);
        assert_true(strcmp(early, late) < 0);
    }
}

/* As after a restart, by a clock that was ahead, is behind, or is right. */
static void another_follows(void **state) {
    const int64_t now = 1795411373000,
                  clocks[] = {now - 86400000, now, now + 1, now + 5000};
    for (size_t i = 0; i < sizeof clocks / sizeof *clocks; i++) {
        struct mal_id_maker first = {0}, next = {0};
        char last[MAL_ID_BYTES], id[MAL_ID_BYTES];
        for (int n = 0; n < 300000; n++)
            mal_id_make(&first, "job_", now, last);
        mal_id_follow(&next, "job_", last);
        mal_id_make(&next, "job_", clocks[i], id);
        assert_true(strcmp(last, id) < 0);
        mal_id_follow(&next, "job_", "job_own");
        mal_id_follow(&next, "job_", "job_zzzzzzzzzzzzzzzz!!!!zzzzzzzz");
        mal_id_follow(&next, "fact_", last);
        mal_id_make(&next, "job_", clocks[i], last);
        assert_true(strcmp(id, last) < 0);
    }
    struct mal_id_maker maker = {0};
    mal_id_follow(&maker, "job_", "job_zzz!zzzzzzzzzzzzzzzz");
    assert_int_equal(maker.last_ms, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_ascend),
        cmocka_unit_test(ids_have_their_form),
        cmocka_unit_test(time_leads),
        cmocka_unit_test(another_follows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
