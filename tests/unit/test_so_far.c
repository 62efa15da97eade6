/* test_so_far.c - texts that are still made: what of them is certain, whatever follows.
 */
#include "scratch.h"

#include "core/alloc.h"
#include "core/model/stop_text.h"
#include "tokenizer_cases.h"

enum { LENGTH = 24, SERIES = 150 };

static uint64_t random_state = 7;

static size_t draw(size_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(random_state >> 33) % n;
}

/* ---- Tokens ---- */

/* Often a byte's token, where there are such: "<0x..>", or what is no UTF-8 by itself. */
static int32_t draw_id(const struct mal_tokenizer *tok) {
    struct mal_error err = {0};
    char name[8], *text = NULL;
    size_t bytes = 0;
    int32_t id = 0;
    if (draw(2) == 0) {
        static const unsigned char some[] = {0xe4, 0xb8, 0xad, 0x0a, 0xff,
                                             0xf0, 0x9f, 0x98, 0x80, 'a'};
        snprintf(name, sizeof name, "<0x%02X>", some[draw(sizeof some)]);
        id = mal_tokenizer_id(tok, name);
        if (id >= 0) return id;
    }
    bool want_open = draw(2) == 0;
    for (int i = 0; i < 50; i++) {
        bool open;
        id = (int32_t)draw((size_t)mal_tokenizer_size(tok));
        assert_ok(
            mal_tokenizer_decode_so_far(tok, &id, 1, true, &text, &bytes, &open, &err),
            &err);
        mal_free(text);
        if (open == want_open) break;
    }
    return id;
}

/* Every text that is not open is the beginning of all later ones. */
static void check_series(const struct mal_tokenizer *tok, const char *name,
                         const int32_t *ids, size_t n, size_t *n_open) {
    struct mal_error err = {0};
    char *kept = NULL, *text;
    size_t n_kept = 0, bytes;
    for (size_t i = 0; i <= n; i++) {
        bool open;
        char *whole;
        size_t n_whole;
        assert_ok(
            mal_tokenizer_decode_so_far(tok, ids, i, true, &text, &bytes, &open, &err),
            &err);
        assert_ok(mal_tokenizer_decode(tok, ids, i, true, false, &whole, &n_whole, &err),
                  &err);
        assert_int_equal(bytes, n_whole);
        assert_memory_equal(text, whole, bytes);
        mal_free(whole);
        if (bytes < n_kept || (kept && memcmp(text, kept, n_kept) != 0))
            fail_msg("%s: '%.*s' became '%s'", name, (int)n_kept, kept, text);
        *n_open += open;
        if (open) {
            mal_free(text);
            continue;
        }
        mal_free(kept);
        kept = text;
        n_kept = bytes;
    }
    mal_free(kept);
}

static void test_tokens(void **state) {
    static const char *const names[] = {
        "gpt2.json",   "llama3.json",     "added.json",        "qwen2.json",
        "forms.json",  "bert-bytes.json", "bert.json",         "wordpiece.json",
        "kinds.json",  "llama.json",      "mistral.json",      "unigram.json",
        "llama.model", "unigram.model",   "unigram-bytes.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct mal_error err = {0};
        struct mal_tokenizer *tok = open_file(fixture(names[i]));
        size_t n_open = 0, n_plain = 0;
        for (int s = 0; s < SERIES; s++) {
            int32_t ids[LENGTH];
            for (int t = 0; t < LENGTH; t++)
                ids[t] = draw_id(tok);
            check_series(tok, names[i], ids, LENGTH, &n_open);
        }
        /* A plain text can be sent as it comes. */
        struct mal_ids plain = {0};
        assert_ok(mal_tokenizer_encode(tok, "the sea", 7, false, &plain, &err), &err);
        check_series(tok, names[i], plain.ids, plain.n, &n_plain);
        bool bytes = mal_tokenizer_id(tok, "<0x74>") >= 0;
        if (!bytes) assert_int_equal(n_plain, 0);
        assert_true(n_plain < plain.n);
        printf("# %s: %zu of %d open\n", names[i], n_open, SERIES * (LENGTH + 1));
        mal_ids_finish(&plain);
        mal_tokenizer_close(tok);
    }
}

/* ---- Stop texts ---- */

/* The definition, read off: a longer text has a stop text that begins before `at`. */
static bool may_begin_before(const char *text, size_t bytes, size_t at,
                             const char *const *stop, size_t n_stop) {
    for (size_t from = 0; from < at; from++) {
        for (size_t i = 0; i < n_stop; i++) {
            if (strlen(stop[i]) > bytes - from &&
                strncmp(stop[i], text + from, bytes - from) == 0)
                return true;
        }
    }
    return false;
}

static void test_stops(void **state) {
    for (int i = 0; i < 20000; i++) {
        char text[9] = "", stops[3][6];
        const char *stop[3] = {stops[0], stops[1], stops[2]};
        size_t bytes = draw(9), n_stop = draw(4);
        for (size_t k = 0; k < bytes; k++)
            text[k] = (char)('a' + draw(2));
        for (size_t s = 0; s < n_stop; s++) {
            size_t n = 1 + draw(5);
            for (size_t k = 0; k < n; k++)
                stops[s][k] = (char)('a' + draw(2));
            stops[s][n] = '\0';
        }
        size_t before = mal_before_stop(text, bytes, stop, n_stop);
        assert_true(before <= bytes);
        assert_false(may_begin_before(text, bytes, before, stop, n_stop));
        if (before < bytes)
            assert_true(may_begin_before(text, bytes, before + 1, stop, n_stop));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
