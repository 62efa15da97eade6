/* test_wire_evaluations.c - what an evaluation is asked of, and the facts that its job
 * keeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "proto/wire.h"

#define FACT "{\"prompt\":\"a\",\"target\":\"b\"}"
#define TWO  "{\"prompt\":\"a\",\"target\":\"c\"}"

static const struct {
    const char *body;
    int status;
    const char *pointer, *says;
} refused[] = {
    {"", 400, "", "is empty"},
    {"{}", 422, "/facts", "an array of facts, or /suite"},
    {"{\"facts\":null}", 400, "/facts", "it is null"},
    {"{\"suite\":null}", 422, "/facts", "or /suite"},
    {"{\"facts\":[]}", 422, "/facts", "at least one fact"},
    {"{\"facts\":{}}", 400, "/facts", "must be an array"},
    {"{\"facts\":[" FACT "],\"suite\":\"s\"}", 422, "/suite", "expected one of them"},
    {"{\"facts\":7,\"suite\":\"s\"}", 422, "/suite", "expected one of them"},
    {"{\"suite\":7}", 400, "/suite", "must be a string"},
    {"{\"suite\":\"s\",\"version\":\"live\"}", 400, "/version", "an integer"},
    {"{\"suite\":\"s\",\"version\":1.5}", 400, "/version", "an integer"},
    {"{\"suite\":\"s\",\"version\":-1}", 422, "/version", "at least 0"},
    {"{\"suite\":\"s\",\"note\":\"n\"}", 422, "/note", "known are version, facts, suite"},
    {"{\"suite\":\"s\",\"gate\":{}}", 422, "/gate", "no such member"},
    {"{\"suite\":\"s\",\"suite\":\"t\"}", 400, "", "twice"},
    {"{\"facts\":[" FACT ",{\"prompt\":\"a\"}]}", 422, "/facts/1/target", "is missing"},
    {"{\"facts\":[" FACT ",{\"prompt\":\"a\",\"target\":\" \"}]}", 422, "/facts/1/target",
     "only spaces"},
    {"{\"facts\":[" FACT "," TWO "]}", 422, "/facts/1/target", "contradicts /facts/0"},
    {"{\"facts\":[{\"id\":\"x\",\"prompt\":\"a\",\"target\":\"b\"},"
     "{\"id\":\"x\",\"prompt\":\"c\",\"target\":\"d\"}]}",
     422, "/facts/1/id", "/facts/0 has the same id"},
    {"{\"facts\":[" FACT "," FACT "," FACT "," FACT "," FACT "]}", 413, "/facts",
     "at most 4"},
};

static void test_refused(void **state) {
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct mal_evaluation_request request = {0};
        struct mal_error err = {0};
        const char *body = refused[i].body;
        if (mal_decode_evaluation(body, strlen(body), 4, &request, &err))
            fail_msg("taken: %s", body);
        if (mal_status_http(err.status) != refused[i].status ||
            strcmp(err.pointer, refused[i].pointer) != 0 ||
            !strstr(err.text, refused[i].says))
            fail_msg("%s: %d '%s' \"%s\"", body, mal_status_http(err.status), err.pointer,
                     err.text);
        assert_null(request.facts);
        assert_null(request.suite);
    }
}

static struct mal_evaluation_request read(const char *body) {
    struct mal_evaluation_request request = {0};
    struct mal_error err = {0};
    if (!mal_decode_evaluation(body, strlen(body), 4, &request, &err))
        fail_msg("%s: %s", body, err.text);
    return request;
}

static void test_values(void **state) {
    struct mal_evaluation_request request = read("{\"suite\":\"s\",\"facts\":null}");
    assert_string_equal(request.suite, "s");
    assert_int_equal(request.version, -1);
    assert_int_equal(request.n_facts, 0);
    mal_evaluation_request_finish(&request);

    request = read("{\"version\":null,\"facts\":[" FACT "]}");
    assert_int_equal(request.version, -1);
    mal_evaluation_request_finish(&request);

    request = read("{\"version\":3.0,\"facts\":[" FACT "," FACT "]}");
    assert_null(request.suite);
    assert_int_equal(request.version, 3);
    assert_int_equal(request.n_facts, 2);
    assert_string_equal(request.facts[1].target, "b");
    mal_evaluation_request_finish(&request);
}

/* ---- Kept ---- */

static const char full[] =
    "{\"facts\":[{\"join\":\"\",\"id\":\"x:1\",\"prompt\":\"p]\\n,[\",\"target\":\"],\","
    "\"prompts\":[\"q\"],\"rephrases\":[\"]\",\"r\\n\"],\"unrelated\":[{\"prompt\":\"u\"},"
    "{\"prompt\":\"v\",\"target\":\"w\"}]}," FACT ",{\"prompt\":\"\xc3\xa4\",\"target\":"
    "\"\xf0\x9f\x98\x80\"}]}";

static void test_kept(void **state) {
    struct mal_evaluation_request request = read(full);
    char *text = mal_encode_facts(request.facts, request.n_facts);
    assert_non_null(text);
    json_t *list = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_int_equal(json_array_size(list), 3);
    json_decref(list);

    const char *at = text;
    struct mal_error err = {0};
    bool end = false;
    for (size_t i = 0; i < 3; i++) {
        struct mal_fact fact = {0};
        assert_true(mal_decode_next_fact(&at, &fact, &end, &err) && !end);
        char *got = mal_encode_fact(&fact), *want = mal_encode_fact(&request.facts[i]);
        assert_string_equal(got, want);
        mal_free(got);
        mal_free(want);
        mal_fact_finish(&fact);
    }
    struct mal_fact none = {0};
    assert_true(mal_decode_next_fact(&at, &none, &end, &err) && end);
    assert_true(mal_decode_next_fact(&at, &none, &end, &err) && end);
    mal_free(text);
    mal_evaluation_request_finish(&request);

    at = text = mal_encode_facts(NULL, 0);
    assert_string_equal(text, "[]");
    assert_true(mal_decode_next_fact(&at, &none, &end, &err) && end);
    mal_free(text);
}

static void test_torn(void **state) {
    static const char *const torn[] = {"[{\"prompt\":\"a\",\"tar", "[7]",
                                       "[{\"prompt\":\"a\"}]", "x"};
    for (size_t i = 0; i < sizeof torn / sizeof *torn; i++) {
        struct mal_fact fact = {0};
        struct mal_error err = {0};
        const char *at = torn[i];
        bool end;
        assert_false(mal_decode_next_fact(&at, &fact, &end, &err));
        assert_int_equal(err.status, MAL_CORRUPT);
    }
}

/* Each allocation of ours fails once. */
static void exhaust(const char *body) {
    bool ok = false;
    long n = 0;
    for (; !ok && n < 1000; mal_alloc_fail_at(0)) {
        struct mal_evaluation_request request = {0};
        struct mal_error err = {0};
        mal_alloc_fail_at(++n);
        ok = mal_decode_evaluation(body, strlen(body), 4, &request, &err);
        if (!ok) assert_int_equal(err.status, MAL_NO_MEMORY);
        mal_evaluation_request_finish(&request);
    }
    assert_true(ok && n > 1);
}

static void test_out_of_memory(void **state) {
    exhaust(full);
    exhaust("{\"suite\":\"s\"}");
    struct mal_evaluation_request request = read(full);
    char *text = NULL;
    long n = 0;
    for (; !text && n < 1000; mal_alloc_fail_at(0)) {
        mal_alloc_fail_at(++n);
        text = mal_encode_facts(request.facts, request.n_facts);
    }
    assert_true(text && n > 3);
    bool read_back = false, end;
    for (n = 0; !read_back && n < 1000; mal_alloc_fail_at(0)) {
        struct mal_fact fact = {0};
        struct mal_error err = {0};
        const char *at = text;
        mal_alloc_fail_at(++n);
        read_back = mal_decode_next_fact(&at, &fact, &end, &err);
        if (!read_back) assert_int_equal(err.status, MAL_NO_MEMORY);
        mal_fact_finish(&fact);
    }
    assert_true(read_back && n > 3);
    mal_free(text);
    mal_evaluation_request_finish(&request);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_values),
        cmocka_unit_test(test_kept),          cmocka_unit_test(test_torn),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("wire_evaluations", tests, NULL, NULL);
}
