/* test_hash.c - SHA-256 against published vectors, and the framing of fields. */
#include "scratch.h"

#include "core/alloc.h"
#include "core/hash.h"

struct vector {
    const char *text;
    size_t repeat;
    const char *hex;
};

/* FIPS 180-4 examples as published by NIST (SHA256.pdf), and its long-message example. */
static const struct vector vectors[] = {
    {"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqr"
     "lmnopqrsmnopqrstnopqrstu",
     1, "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
    {"aaaaaaaaaaaaaaaaaaaaaaaaa", 40000,
     "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
};

static void test_vectors(void **state) {
    struct mal_error err = {0};
    struct mal_hasher *hasher;
    assert_ok(mal_hasher_create(&hasher, &err), &err);
    for (size_t v = 0; v < sizeof vectors / sizeof *vectors; v++) {
        for (size_t i = 0; i < vectors[v].repeat; i++)
            mal_hasher_add(hasher, vectors[v].text, strlen(vectors[v].text));
        struct mal_hash hash = mal_hasher_end(hasher); /* which starts the next one */
        char hex[MAL_HASH_HEX];
        mal_hash_hex(&hash, hex);
        assert_string_equal(hex, vectors[v].hex);
        if (vectors[v].repeat == 1) {
            struct mal_hash once = mal_hash_of(vectors[v].text, strlen(vectors[v].text));
            assert_true(mal_hash_equal(&once, &hash));
        }
    }
    mal_hasher_destroy(hasher);
    mal_hasher_destroy(NULL);
}

static void test_hex(void **state) {
    struct mal_hash hash = mal_hash_of("abc", 3), back = {0};
    char hex[MAL_HASH_HEX];
    mal_hash_hex(&hash, hex);
    assert_true(mal_hash_from_hex(&back, hex));
    assert_true(mal_hash_equal(&back, &hash));
    back.bytes[31] ^= 1;
    assert_false(mal_hash_equal(&back, &hash));

    struct mal_hash untouched = back;
    hex[63] = 'g';
    assert_false(mal_hash_from_hex(&back, hex));
    hex[63] = '\0';
    assert_false(mal_hash_from_hex(&back, hex));
    assert_false(mal_hash_from_hex(&back, ""));
    assert_true(mal_hash_equal(&back, &untouched));
}

static void test_framing(void **state) {
    struct mal_error err = {0};
    struct mal_hasher *hasher;
    assert_ok(mal_hasher_create(&hasher, &err), &err);
    mal_hasher_add_text(hasher, "ab");
    mal_hasher_add_text(hasher, "c");
    struct mal_hash one = mal_hasher_end(hasher);
    mal_hasher_add_text(hasher, "a");
    mal_hasher_add_text(hasher, "bc");
    struct mal_hash other = mal_hasher_end(hasher);
    assert_false(mal_hash_equal(&one, &other));

    static const char bytes[] = "\2\0\0\0\0\0\0\0ab\1\0\0\0\0\0\0\0c";
    struct mal_hash spelled = mal_hash_of(bytes, sizeof bytes - 1);
    assert_true(mal_hash_equal(&one, &spelled));

    mal_hasher_add_u64(hasher, 0x0123456789abcdefu);
    one = mal_hasher_end(hasher);
    spelled = mal_hash_of("\xef\xcd\xab\x89\x67\x45\x23\x01", 8);
    assert_true(mal_hash_equal(&one, &spelled));
    mal_hasher_destroy(hasher);
}

static void test_no_memory(void **state) {
    struct mal_error err = {0};
    struct mal_hasher *hasher;
    mal_alloc_fail_at(1);
    bool ok = mal_hasher_create(&hasher, &err);
    mal_alloc_fail_at(0);
    assert_false(ok);
    assert_int_equal(err.status, MAL_NO_MEMORY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_framing),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
