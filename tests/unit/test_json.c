/* test_json.c - JSON files and typed members: values, and the words of each error. */
#include "scratch.h"

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "core/utf8.h"

static json_t *load(const char *text) {
    struct mal_error err = {0};
    json_t *root = NULL;
    assert_ok(mal_json_load(&root, scratch_text("a.json", text), &err), &err);
    return root;
}

static void test_load(void **state) {
    struct mal_error err = {0};
    json_t *root = load("{\"a\": [1, 2.5, \"x\"]}\n");
    assert_int_equal(json_array_size(json_object_get(root, "a")), 3);
    json_decref(root);

    static const struct {
        const char *text, *words;
    } bad[] = {
        {"", "bad.json: line 1 column 0: '[' or '{' expected"},
        {"{\"a\": 1,\n \"a\": 2}", "bad.json: line 2 column 4: duplicate object key"},
        {"{\"a\": \"\xff\"}", "unable to decode byte 0xff"},
        {"{\"a\": 1} x", "end of file expected"},
        {"{\"a\": 99999999999999999999}", "too big integer"},
        {"{\"a\": NaN}", "invalid token"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(mal_json_load(&root, scratch_text("bad.json", bad[i].text), &err));
        assert_error(&err, MAL_CORRUPT, bad[i].words);
    }
    assert_false(mal_json_load(&root, scratch_path("none.json"), &err));
    assert_error(&err, MAL_NOT_FOUND, "none.json: No such file");
    assert_false(mal_json_load(&root, scratch_dir, &err));
    assert_error(&err, MAL_IO, "Is a directory");
}

/* jansson once read "The capital ofFrance is" where the allocation that grows its buffer
 * failed, and reported nothing; where that was for the closing quote it read and wrote
 * past the buffer, where it was for what ends a number it aborted. */
static void test_no_memory(void **state) {
    static const char text[] =
        "[\"The capital of France is\", \"a\", {\"key\": [1.5, 2]},"
        "\"a token of sixty-three bytes, then its quote, which is the one xx\","
        "10000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "00000000000000000000000000000000000000000000000.0,2]";
    json_t *root = NULL;
    long n = 0;
    while (!root) {
        json_error_t problem;
        mal_json_guard();
        mal_alloc_fail_at(++n);
        root = mal_json_parse(text, sizeof text - 1, 0, &problem);
        mal_alloc_fail_at(0);
        struct mal_error err = {0};
        if (root) break;
        assert_false(mal_json_fail(&problem, MAL_CORRUPT, "f", &err));
        assert_error(&err, MAL_NO_MEMORY, "f: out of memory");
    }
    assert_string_equal(json_string_value(json_array_get(root, 0)),
                        "The capital of France is");
    assert_true(n > 10);
    json_decref(root);
}

/* What was made without enough memory lacks members, and once was answered so; a dump
 * that failed in the middle was taken for whole. */
static void test_dump_no_memory(void **state) {
    char *text = NULL;
    long n = 0;
    mal_json_guard();
    while (!text) {
        mal_alloc_fail_at(++n);
        json_t *root = json_object();
        json_object_set_new(root, "a", json_pack("{s:s,s:i}", "b", "text", "c", 1));
        json_object_set_new(root, "d", json_integer(2));
        text = mal_json_dump(root, JSON_COMPACT);
        mal_alloc_fail_at(0);
        json_decref(root);
    }
    assert_string_equal(text, "{\"a\":{\"b\":\"text\",\"c\":1},\"d\":2}");
    assert_true(n > 15);
    mal_free(text);
    assert_null(mal_json_dump(NULL, 0));
}

/* Lack of memory is remembered for what is being made, by its thread alone. */
static void test_lacked(void **state) {
    assert_false(mal_json_lacked());
    mal_alloc_fail_at(1);
    assert_null(json_integer(1));
    mal_alloc_fail_at(0);
    json_t *one = json_integer(1);
    assert_null(mal_json_dump(one, JSON_ENCODE_ANY));
    char *text = mal_json_dump(one, JSON_ENCODE_ANY);
    assert_string_equal(text, "1");
    mal_free(text);
    mal_json_set_lacked(true);
    assert_true(mal_json_lacked());
    assert_false(mal_json_lacked());
    json_decref(one);
}

static void test_read(void **state) {
    struct mal_error err = {0};
    json_t *root = NULL;
    assert_ok(mal_json_read(&root, "[1]", "w", &err), &err);
    assert_int_equal(json_array_size(root), 1);
    json_decref(root);
    assert_false(mal_json_read(&root, "{\"a\":1,\"a\":2}", "w", &err));
    assert_error(&err, MAL_CORRUPT, "w: line 1 column 10: duplicate object key");
}

static void test_members(void **state) {
    struct mal_error err = {0};
    json_t *o = load("{\"i\": 7, \"r\": 1.5, \"b\": true, \"s\": \"text\", \"n\": null}");
    int64_t i = 0;
    double r = 0;
    bool b = false;
    const char *s = NULL;
    assert_ok(mal_json_int(o, "i", 0, 10, &i, "f", &err), &err);
    assert_int_equal(i, 7);
    assert_ok(mal_json_real_opt(o, "r", &r, "f", &err), &err);
    assert_true(r == 1.5);
    assert_ok(mal_json_real_opt(o, "i", &r, "f", &err), &err);
    assert_true(r == 7);
    assert_ok(mal_json_bool_opt(o, "b", &b, "f", &err), &err);
    assert_true(b);
    assert_ok(mal_json_string(o, "s", &s, "f", &err), &err);
    assert_string_equal(s, "text");

    /* missing and null leave the default alone */
    assert_ok(mal_json_int_opt(o, "x", 0, 1, &i, "f", &err), &err);
    assert_ok(mal_json_int_opt(o, "n", 0, 1, &i, "f", &err), &err);
    assert_int_equal(i, 7);
    assert_ok(mal_json_string_opt(o, "n", &s, "f", &err), &err);
    assert_string_equal(s, "text");

    assert_false(mal_json_int(o, "i", 8, 10, &i, "f", &err));
    assert_error(&err, MAL_CORRUPT, "f: 'i' is 7, outside 8 to 10");
    assert_false(mal_json_int_opt(o, "i", 0, 6, &i, "f", &err));
    assert_error(&err, MAL_CORRUPT, "f: 'i' is 7, outside 0 to 6");
    assert_false(mal_json_int(o, "n", 0, 10, &i, "f", &err));
    assert_error(&err, MAL_CORRUPT, "f: 'n' is missing");
    assert_false(mal_json_int_opt(o, "r", 0, 10, &i, "f", &err));
    assert_error(&err, MAL_CORRUPT, "f: 'r' must be an integer, it is a fraction");
    assert_false(mal_json_real_opt(o, "s", &r, "f", &err));
    assert_error(&err, MAL_CORRUPT, "f: 's' must be a number, it is a string");
    assert_false(mal_json_bool_opt(o, "i", &b, "f", &err));
    assert_error(&err, MAL_CORRUPT, "f: 'i' must be a boolean, it is an integer");
    assert_false(mal_json_string(o, "b", &s, "f", &err));
    assert_error(&err, MAL_CORRUPT, "f: 'b' must be a string, it is a boolean");
    json_decref(o);
}

static void test_file(void **state) {
    struct mal_error err = {0};
    char *data;
    size_t bytes;
    const char *path = scratch_write("f", "a\0b", 3);
    assert_ok(mal_file_read(&data, &bytes, path, 3, &err), &err);
    assert_int_equal(bytes, 3);
    assert_memory_equal(data, "a\0b", 4); /* with the closing zero */
    mal_free(data);
    assert_false(mal_file_read(&data, &bytes, path, 2, &err));
    assert_error(&err, MAL_TOO_LARGE, "longer than 2 bytes");

    /* a pipe has no size to begin with */
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "pipe", 4), 4);
    close(fds[1]);
    char name[32];
    snprintf(name, sizeof name, "/dev/fd/%d", fds[0]);
    assert_ok(mal_file_read(&data, &bytes, name, 100, &err), &err);
    assert_string_equal(data, "pipe");
    mal_free(data);
    close(fds[0]);

    char *joined = mal_file_join("a/", "b");
    assert_string_equal(joined, "a/b");
    mal_free(joined);
    char long_path[400];
    memset(long_path, 'd', sizeof long_path);
    strcpy(long_path + 390, "/end.json");
    assert_int_equal(strlen(mal_file_shown(long_path)), 180);
    assert_string_equal(mal_file_shown(long_path) + 171, "/end.json");
}

static void test_text(void **state) {
    char out[MAL_TEXT_SHOWN], name[301];
    assert_string_equal(mal_text_shown(out, "h.0.\x1b[31m\xc3\xa9\xff"),
                        "h.0.?[31m\xc3\xa9?");
    for (int i = 0; i < 100; i++)
        memcpy(name + 3 * i, "\xe2\x82\xac", 3);
    name[300] = '\0';
    mal_text_shown(out, name);
    assert_int_equal(strlen(out), 99 + 3); /* 33 whole characters and "..." */
    assert_true(mal_utf8_valid(out, strlen(out)));
    memset(name, 'x', 100);
    name[100] = '\0';
    assert_string_equal(mal_text_shown(out, name), name);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load),           cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_members),        cmocka_unit_test(test_file),
        cmocka_unit_test(test_dump_no_memory), cmocka_unit_test(test_lacked),
        cmocka_unit_test(test_read),           cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests_name("json", tests, scratch_make, scratch_remove);
}
