/* test_disk.c - when the disk is called low, and what is said of it. */
#include "scratch.h"

#include "daemon/base/disk.h"

static int64_t there; /* free bytes; negative: not known */

static bool free_bytes(const char *path, int64_t *out) {
    assert_string_equal(path, "some.db");
    *out = there;
    return there >= 0;
}

struct seen {
    int n;
    int64_t bytes;
    bool low;
};

static void see(void *arg, int64_t bytes, bool low) {
    struct seen *seen = arg;
    seen->n++;
    seen->bytes = bytes;
    seen->low = low;
}

/* How many lines are in the file that stderr goes to. */
static int lines(FILE *log) {
    int n = 0;
    rewind(log);
    for (int c; (c = fgetc(log)) != EOF;)
        n += c == '\n';
    return n;
}

static void test_changes(void **state) {
    static const struct {
        int64_t there;
        bool low;
        int lines; /* of the log so far: one at each change */
    } looks[] = {{1000, false, 0}, {999, true, 1},  {0, true, 1},     {999, true, 1},
                 {1000, false, 2}, {-1, false, 2},  {5000, false, 2}, {10, true, 3},
                 {-1, false, 4},   {2000, false, 4}};
    struct mal_error err = {0};
    struct mal_disk *disk;
    struct seen seen = {0};
    struct mal_disk_options options = {.path = "some.db",
                                       .min_free = 1000,
                                       .free_bytes = free_bytes,
                                       .seen = see,
                                       .arg = &seen};
    int old = dup(STDERR_FILENO);
    FILE *log = tmpfile();
    assert_non_null(log);
    assert_ok(mal_disk_create(&disk, &options, &err), &err);
    int known = 0;
    for (size_t i = 0; i < sizeof looks / sizeof looks[0]; i++) {
        there = looks[i].there;
        dup2(fileno(log), STDERR_FILENO);
        bool low = mal_disk_low(disk);
        dup2(old, STDERR_FILENO);
        assert_int_equal(low, looks[i].low);
        assert_int_equal(lines(log), looks[i].lines);
        known += there >= 0;
        assert_int_equal(seen.n, known);
        if (there < 0) continue;
        assert_int_equal(seen.bytes, there);
        assert_int_equal(seen.low, low);
    }
    fclose(log);
    close(old);
    mal_disk_destroy(disk);
    mal_disk_destroy(NULL);
}

/* The system's own word: no disk is that large, none has less than nothing. */
static void test_system(void **state) {
    struct mal_error err = {0};
    struct mal_disk *disk;
    struct mal_disk_options options = {.path = "/tmp"};
    assert_ok(mal_disk_create(&disk, &options, &err), &err);
    assert_false(mal_disk_low(disk));
    mal_disk_destroy(disk);
    options.min_free = INT64_MAX;
    assert_ok(mal_disk_create(&disk, &options, &err), &err);
    assert_true(mal_disk_low(disk));
    mal_disk_destroy(disk);
    options.path = "/no/such/path";
    assert_ok(mal_disk_create(&disk, &options, &err), &err);
    assert_false(mal_disk_low(disk));
    mal_disk_destroy(disk);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_system),
    };
    return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
