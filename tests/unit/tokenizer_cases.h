/* tokenizer_cases.h - cases in files: texts, their ids, and what ids become. */
#ifndef MAL_TEST_TOKENIZER_CASES_H
#define MAL_TEST_TOKENIZER_CASES_H

#include "scratch.h"

#include <jansson.h>

#include "core/alloc.h"
#include "core/json.h"
#include "core/tokenizer/tokenizer.h"

static inline const char *source_root(void) {
    const char *root = getenv("MAL_SOURCE_ROOT");
    return root ? root : ".";
}

static inline const char *fixture(const char *name) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/tests/golden/tokenizer/%s", source_root(), name);
    return path;
}

static inline json_t *load(const char *path) {
    struct mal_error err = {0};
    json_t *root = NULL;
    assert_ok(mal_json_load(&root, path, &err), &err);
    return root;
}

static inline struct mal_tokenizer *open_file(const char *path) {
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    assert_ok(mal_tokenizer_open_file(&tok, path, &err), &err);
    return tok;
}

static inline struct mal_ids encode(const struct mal_tokenizer *tok, const char *text,
                                    size_t bytes, bool special) {
    struct mal_error err = {0};
    struct mal_ids ids = {0};
    assert_ok(mal_tokenizer_encode(tok, text, bytes, special, &ids, &err), &err);
    return ids;
}

static inline char *decode(const struct mal_tokenizer *tok, const int32_t *ids, size_t n,
                           bool skip, bool raw, size_t *bytes) {
    struct mal_error err = {0};
    char *text = NULL;
    assert_ok(mal_tokenizer_decode(tok, ids, n, skip, raw, &text, bytes, &err), &err);
    assert_int_equal(text[*bytes], 0);
    return text;
}

static inline void check_ids(const struct mal_tokenizer *tok, const json_t *entry,
                             const char *key, bool special, const char *from) {
    const json_t *text = json_object_get(entry, "text"),
                 *want = json_object_get(entry, key);
    struct mal_ids ids =
        encode(tok, json_string_value(text), json_string_length(text), special);
    bool equal = ids.n == json_array_size(want);
    for (size_t i = 0; equal && i < ids.n; i++)
        equal = ids.ids[i] == json_integer_value(json_array_get(want, i));
    if (!equal) fail_msg("%s: %s of '%s'", from, key, json_string_value(text));
    mal_ids_finish(&ids);
}

static inline void check_decoded(const struct mal_tokenizer *tok, const json_t *entry,
                                 const char *from) {
    const json_t *list = json_object_get(entry, "decode");
    if (!list) list = json_object_get(entry, "ids_no_special");
    const json_t *want = json_object_get(entry, "decoded");
    struct mal_error err = {0};
    struct mal_ids ids = {0};
    for (size_t i = 0; i < json_array_size(list); i++)
        assert_true(mal_ids_push(
            &ids, (int32_t)json_integer_value(json_array_get(list, i)), &err));
    size_t bytes;
    char *text = decode(tok, ids.ids, ids.n, false, false, &bytes);
    if (bytes != json_string_length(want) ||
        memcmp(text, json_string_value(want), bytes) != 0)
        fail_msg("%s: decoded '%s' is '%s'", from, json_string_value(want), text);
    mal_free(text);
    mal_ids_finish(&ids);
}

static inline void check_cases(const struct mal_tokenizer *tok, const json_t *cases,
                               const char *from) {
    size_t i;
    json_t *entry;
    assert_true(json_array_size(cases) > 0);
    json_array_foreach (cases, i, entry) {
        if (json_object_get(entry, "text")) {
            check_ids(tok, entry, "ids", true, from);
            check_ids(tok, entry, "ids_no_special", false, from);
        }
        if (json_object_get(entry, "decoded")) check_decoded(tok, entry, from);
    }
}

/* Texts may hold zero bytes, which mal_json_load() refuses. */
static inline json_t *load_cases(const char *path) {
    json_error_t problem;
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &problem);
    if (!root) fail_msg("%s: %s", path, problem.text);
    return root;
}

#endif
