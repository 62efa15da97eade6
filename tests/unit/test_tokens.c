/* test_tokens.c - what is read of a file of tokens, what is refused of it, and which
 * token is found. */
#include "scratch.h"

#include "daemon/http/tokens.h"
#include "no_memory.h"

/* sha256sum's of "a", "b" and "" */
#define A       "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
#define B       "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
#define NOTHING "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define LONG    "123456789012345678901234567890123456789012345678901234567890abcd"

static const char *file(const char *text, size_t bytes, mode_t mode) {
    unlink(scratch_path("tokens"));
    const char *path = scratch_write("tokens", text, bytes);
    assert_int_equal(chmod(path, mode), 0);
    return path;
}

static struct mal_tokens *load(const char *text) {
    struct mal_tokens *tokens = NULL;
    struct mal_error err = {0};
    if (!mal_tokens_load(&tokens, file(text, strlen(text), 0600), &err))
        fail_msg("%s", err.text);
    return tokens;
}

static void assert_refused(const char *text, size_t bytes, mode_t mode,
                           const char *says) {
    struct mal_tokens *tokens = NULL;
    struct mal_error err = {0};
    const char *path = file(text, bytes, mode);
    if (mal_tokens_load(&tokens, path, &err)) fail_msg("taken: %s", text);
    assert_null(tokens);
    assert_non_null(strstr(err.text, path));
    if (!strstr(err.text, says)) fail_msg("%s: %s", says, err.text);
    assert_null(strstr(err.text, "secret"));
}

static void lines_are_read(void **state) {
    struct mal_tokens *tokens =
        load("# ours\n\n  \t\nci edit " A "\r\n"
             "\t# more\n  dash.board-2_x \t read  " B "  \n" LONG " admin " LONG);
    assert_int_equal(tokens->n, 3);
    assert_string_equal(tokens->list[0].name, "ci");
    assert_int_equal(tokens->list[0].role, MAL_ROLE_EDIT);
    assert_string_equal(tokens->list[1].name, "dash.board-2_x");
    assert_int_equal(tokens->list[1].role, MAL_ROLE_READ);
    assert_string_equal(tokens->list[2].name, LONG);
    assert_int_equal(tokens->list[2].role, MAL_ROLE_ADMIN);
    assert_false(tokens->exposed);
    mal_tokens_free(tokens);
    mal_tokens_free(NULL);
}

static void bad_lines_are_refused(void **state) {
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "no token in it"},
        {"# ci edit " A "\n\n", "no token in it"},
        {"ci\n", "line 1: expected NAME ROLE SHA256"},
        {"\n\nci edit\n", "line 3: expected NAME ROLE SHA256"},
        {"ci secret " A, "line 1: the second word is no role"},
        {"ci Edit " A, "line 1: the second word is no role"},
        {"ci none " A, "line 1: the second word is no role"},
        {"ci unsaid " A, "line 1: the second word is no role"},
        {"ci edit " A "0", "line 1: the third word is no SHA-256"},
        {"ci edit secret", "line 1: the third word is no SHA-256"},
        {"ok edit " A "\nci edit g" LONG, "line 2: the third word is no SHA-256"},
        {"ok edit " A "\nci edit ca978112ca", "line 2: the third word is no SHA-256"},
        {"ci edit " A " secret", "line 1: more than three words"},
        {"ci edit " A " # secret", "line 1: more than three words"},
        {"secret! edit " A, "line 1: the first word is no name"},
        {"secr\xc3\xa9t edit " A, "line 1: the first word is no name"},
        {LONG "e edit " A, "line 1: the first word is no name"},
        {"local edit " A, "line 1: the first word is no name"},
        {"uid:0 edit " A, "line 1: the first word is no name"},
        {"ci edit " A "\n\nci read " B,
         "line 3: there is a token of this name already: 'ci'"},
        {"ci edit " A "\ndash read " A, "line 2: this is the same token as 'ci'"},
        {"ci edit " NOTHING, "line 1: this is the hash of an empty token"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(cases[i].text, strlen(cases[i].text), 0600, cases[i].says);
    static const char zero[] = "ci edit " A "\0\n";
    assert_refused(zero, sizeof zero - 1, 0600, "a zero byte");
    size_t bytes = (1 << 20) + 1;
    char *large = malloc(bytes);
    memset(large, '\n', bytes);
    assert_refused(large, bytes, 0600, "more than 1048576 bytes");
    free(large);
}

static void file_others_may_write_is_refused(void **state) {
    static const char text[] = "ci edit " A;
    assert_refused(text, strlen(text), 0620, "its group may write it (mode 620)");
    assert_refused(text, strlen(text), 0602, "everybody may write it (mode 602)");
    assert_refused(text, strlen(text), 0666, "everybody may write it");
    struct mal_tokens *tokens = NULL;
    struct mal_error err = {0};
    const char *path = file(text, strlen(text), 0640);
    assert_true(mal_tokens_load(&tokens, path, &err));
    assert_false(tokens->exposed);
    mal_tokens_free(tokens);
    path = file(text, strlen(text), 0444);
    assert_true(mal_tokens_load(&tokens, path, &err));
    assert_true(tokens->exposed);
    mal_tokens_free(tokens);
    if (geteuid() != 0) return;
    assert_int_equal(chown(file(text, strlen(text), 0600), 12345, 0), 0);
    assert_false(mal_tokens_load(&tokens, path, &err));
    assert_non_null(strstr(err.text, "user 12345 owns it"));
}

/* And none of them is waited for. */
static void what_is_no_file_is_refused(void **state) {
    struct mal_tokens *tokens = NULL;
    struct mal_error missing = {0}, folder = {0}, pipe = {0};
    const char *path = scratch_path("none");
    assert_false(mal_tokens_load(&tokens, path, &missing));
    assert_int_equal(missing.status, MAL_NOT_FOUND);
    assert_non_null(strstr(missing.text, path));
    assert_false(mal_tokens_load(&tokens, scratch_dir, &folder));
    assert_non_null(strstr(folder.text, "not a regular file"));
    path = scratch_path("pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_false(mal_tokens_load(&tokens, path, &pipe));
    assert_non_null(strstr(pipe.text, "not a regular file"));
}

static const char *name_of(const struct mal_tokens *tokens, const char *text) {
    const struct mal_token *token = mal_tokens_find(tokens, text, strlen(text));
    return token ? token->name : "";
}

static void tokens_are_found(void **state) {
    struct mal_tokens *tokens = load("first read " A "\nlast admin " B);
    assert_string_equal(name_of(tokens, "a"), "first");
    assert_string_equal(name_of(tokens, "b"), "last");
    static const char *const none[] = {"", "A", "c", "ab", "a ", " a", "aa", A, B};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_string_equal(name_of(tokens, none[i]), "");
    mal_tokens_free(tokens);
}

/* Each of many, and of no other hash: one bit away there is nothing. */
static void every_bit_counts(void **state) {
    enum { N = 200 };

    static char text[N * 100];
    for (int i = 0; i < N; i++) {
        char word[16], hex[MAL_HASH_HEX];
        snprintf(word, sizeof word, "token %d", i);
        struct mal_hash hash = mal_hash_of(word, strlen(word));
        mal_hash_hex(&hash, hex);
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "t%d read %s\n", i, hex);
    }
    struct mal_tokens *tokens = load(text);
    assert_int_equal(tokens->n, N);
    for (int i = 0; i < N; i++) {
        char word[16], name[16];
        snprintf(word, sizeof word, "token %d", i);
        snprintf(name, sizeof name, "t%d", i);
        assert_string_equal(name_of(tokens, word), name);
    }
    struct mal_hash *hash = &tokens->list[7].hash;
    for (int bit = 0; bit < 256; bit++) {
        hash->bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_string_equal(name_of(tokens, "token 7"), "");
        hash->bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_string_equal(name_of(tokens, "token 7"), "t7");
    mal_tokens_free(tokens);
}

static void roles_ascend(void **state) {
    for (int has = MAL_ROLE_NONE; has <= MAL_ROLE_ADMIN; has++) {
        assert_false(mal_role_allows((enum mal_role)has, MAL_ROLE_UNSAID));
        for (int needed = MAL_ROLE_NONE; needed <= MAL_ROLE_ADMIN; needed++) {
            assert_int_equal(mal_role_allows((enum mal_role)has, (enum mal_role)needed),
                             has >= needed);
        }
    }
}

static bool load_and_free(const char *path, struct mal_error *err) {
    struct mal_tokens *tokens = NULL;
    bool ok = mal_tokens_load(&tokens, path, err);
    mal_tokens_free(ok ? tokens : NULL);
    return ok;
}

static void memory_runs_out(void **state) {
    static const char text[] = "ci edit " A "\n";
    fail_each_allocation(load_and_free, file(text, strlen(text), 0600), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_read),
        cmocka_unit_test(bad_lines_are_refused),
        cmocka_unit_test(file_others_may_write_is_refused),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(tokens_are_found),
        cmocka_unit_test(every_bit_counts),
        cmocka_unit_test(roles_ascend),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
