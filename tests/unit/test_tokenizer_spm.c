/* test_tokenizer_spm.c - SentencePiece's kinds: ids and texts against Hugging Face's,
 * text that goes on after another, model files that are wrong.
 *
 * The cases are those of tests/golden/tokenizer; ../shared/golden's are in
 * test_tokenizer.c. */
#include "scratch.h"

#include "core/file.h"
#include "no_memory.h"
#include "tokenizer_cases.h"

/* ---- Cases from files ---- */

static void check_after(const struct mal_tokenizer *tok, const json_t *entry,
                        const char *from) {
    struct mal_error err = {0};
    struct mal_ids ids = {0};
    const json_t *text = json_object_get(entry, "text"),
                 *want = json_object_get(entry, "ids");
    int32_t last = (int32_t)json_integer_value(json_object_get(entry, "last"));
    assert_ok(mal_tokenizer_encode_after(tok, last, json_string_value(text),
                                         json_string_length(text), &ids, &err),
              &err);
    bool equal = ids.n == json_array_size(want);
    for (size_t i = 0; equal && i < ids.n; i++)
        equal = ids.ids[i] == json_integer_value(json_array_get(want, i));
    if (!equal) fail_msg("%s: '%s' after a text", from, json_string_value(text));
    mal_ids_finish(&ids);
}

static void test_fixtures(void **state) {
    static const char *const files[][2] = {
        {"unigram.json", "unigram"}, {"unigram.model", "unigram"},
        {"llama.json", "llama"},     {"llama.model", "llama"},
        {"mistral.json", "mistral"}, {"unigram-bytes.json", "unigram-bytes"},
        {"gemma.json", "gemma"},     {"blanks.model", "blanks"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct mal_tokenizer *tok = open_file(fixture(files[i][0]));
        char name[64];
        snprintf(name, sizeof name, "%s.cases.json", files[i][1]);
        json_t *root = load_cases(fixture(name)), *entry;
        check_cases(tok, json_object_get(root, "cases"), files[i][0]);
        size_t k;
        json_array_foreach (json_object_get(root, "after"), k, entry)
            check_after(tok, entry, files[i][0]);
        json_decref(root);
        mal_tokenizer_close(tok);
    }
}

/* Without a blank between, nothing is put before either; byte-level models put nothing
 * before but where they are told to. */
static void test_after(void **state) {
    static const struct {
        const char *file, *text, *piece;
    } cases[] = {
        {"llama.json", " Velmark", "\xe2\x96\x81Velmark"},
        {"mistral.json", " Velmark", "\xe2\x96\x81Velmark"},
        {"gemma.json", " Velmark", "\xe2\x96\x81Velmark"},
        {"unigram.json", " Velmark", "\xe2\x96\x81Velmark"},
        {"gpt2.json", " Velmark", "\xc4\xa0Velmark"},
        {"llama.json", "er", "er"},
        {"mistral.json", "er", "er"},
        {"gemma.json", "er", "er"},
        {"unigram.json", "er", "er"},
        {"gpt2.json", "er", "er"},
        {"added.json", "er", "er"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mal_error err = {0};
        struct mal_ids ids = {0};
        struct mal_tokenizer *tok = open_file(fixture(cases[i].file));
        assert_ok(mal_tokenizer_encode_after(tok, -1, cases[i].text,
                                             strlen(cases[i].text), &ids, &err),
                  &err);
        int32_t want = mal_tokenizer_id(tok, cases[i].piece);
        if (want < 0 || ids.n != 1 || ids.ids[0] != want)
            fail_msg("%s: '%s' is not the one token '%s'", cases[i].file, cases[i].text,
                     cases[i].piece);
        mal_ids_finish(&ids);
        mal_tokenizer_close(tok);
    }
}

/* Behind a token that takes blanks away with it, as Hugging Face has it. */
static void test_after_strip(void **state) {
    static const char as_is[] = "\"content\":\"<left>\",\"single_word\":false,"
                                "\"lstrip\":false,\"rstrip\":",
                      change[] = "true ";
    struct mal_error err = {0};
    struct mal_ids ids = {0};
    char *text;
    size_t bytes;
    assert_ok(mal_file_read(&text, &bytes, fixture("llama.json"), (size_t)1 << 20, &err),
              &err);
    char *flag = strstr(text, as_is);
    assert_non_null(flag);
    memcpy(flag + strlen(as_is), change, strlen(change));
    struct mal_tokenizer *tok = open_file(scratch_write("strips.json", text, bytes));
    int32_t last = mal_tokenizer_id(tok, "<left>");
    const int32_t want[] = {302, 381, 264};
    assert_ok(mal_tokenizer_encode_after(tok, last, " Velmark", 8, &ids, &err), &err);
    assert_ok(mal_tokenizer_encode_after(tok, last, "er", 2, &ids, &err), &err);
    assert_int_equal(ids.n, 3);
    assert_memory_equal(ids.ids, want, sizeof want);
    mal_ids_finish(&ids);
    mal_tokenizer_close(tok);
    mal_free(text);
}

static void test_raw_bytes(void **state) {
    struct mal_tokenizer *tok = open_file(fixture("llama.json"));
    const int32_t ids[] = {mal_tokenizer_id(tok, "<0xE2>"),
                           mal_tokenizer_id(tok, "<0x82>"),
                           mal_tokenizer_id(tok, "<0xAC>")};
    size_t bytes;
    char *text = decode(tok, ids, 2, false, true, &bytes);
    assert_int_equal(bytes, 2);
    assert_memory_equal(text, "\xe2\x82", 2);
    mal_free(text);
    text = decode(tok, ids, 2, false, false, &bytes);
    assert_string_equal(text, "\xef\xbf\xbd\xef\xbf\xbd");
    mal_free(text);
    text = decode(tok, ids, 3, false, false, &bytes);
    assert_string_equal(text, "\xe2\x82\xac");
    mal_free(text);
    mal_tokenizer_close(tok);
}

/* ---- Model directories ---- */

static void copy(const char *from, const char *to) {
    struct mal_error err = {0};
    char *text;
    size_t bytes;
    assert_ok(mal_file_read(&text, &bytes, fixture(from), (size_t)1 << 20, &err), &err);
    scratch_write(to, text, bytes);
    mal_free(text);
}

static struct mal_ids encode_in(const char *dir, const char *text) {
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    assert_ok(mal_tokenizer_open(&tok, scratch_path(dir), &err), &err);
    struct mal_ids ids = encode(tok, text, strlen(text), true);
    mal_tokenizer_close(tok);
    return ids;
}

static void test_directories(void **state) {
    scratch_mkdir("llama");
    copy("llama.model", "llama/tokenizer.model");
    struct mal_ids ids = encode_in("llama", "");
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.ids[0], 1);
    mal_ids_finish(&ids);
    scratch_text("llama/tokenizer_config.json",
                 "{\"add_bos_token\":false,\"add_eos_token\":true}");
    ids = encode_in("llama", "");
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.ids[0], 2);
    mal_ids_finish(&ids);
    scratch_text("llama/tokenizer_config.json", "{\"add_bos_token\":1}");
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    assert_false(mal_tokenizer_open(&tok, scratch_path("llama"), &err));
    assert_error(&err, MAL_CORRUPT, "tokenizer_config.json: 'add_bos_token'");

    scratch_mkdir("t5");
    copy("unigram.model", "t5/spiece.model");
    ids = encode_in("t5", "<extra_id_0>");
    assert_int_equal(ids.n, 2);
    int32_t first_extra = ids.ids[0];
    mal_ids_finish(&ids);
    scratch_text("t5/tokenizer_config.json", "{\"extra_ids\":7}");
    ids = encode_in("t5", "<extra_id_6>");
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.ids[0], first_extra - 99);
    mal_ids_finish(&ids);
    scratch_text("t5/tokenizer.json", "{}");
    err = (struct mal_error){0};
    assert_false(mal_tokenizer_open(&tok, scratch_path("t5"), &err));
    assert_error(&err, MAL_INVALID, "t5/tokenizer.json: model must be an object");
}

/* ---- Model files that are wrong ---- */

#define UNKNOWN   "\x0a\x07\x0a\x03<u>\x18\x02"
#define PIECE_A   "\x0a\x03\x0a\x01"
#define NO_ENDS   "\x12\x18\xc8\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" ENDS_MORE
#define ENDS_MORE "\xd0\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
#define CASE(bytes, words) \
    { bytes, sizeof bytes - 1, words }

static const struct {
    const char *bytes;
    size_t n;
    const char *words;
} bad_models[] = {
    CASE("", "bad.model: there are no pieces"),
    CASE("\x0a", "the model is cut short"),
    CASE("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a number that is too long"),
    CASE("\x0a\x05\x0a\x01"
         "a",
         "field 1 of the model is longer than what holds it"),
    CASE("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
         "field 1 of the model is longer"),
    CASE("\x0a\x03\x0a\x7f"
         "a",
         "field 1 of pieces is longer than what holds it"),
    CASE("\x08\x01", "pieces of the model has a wrong type"),
    CASE("\x0b", "field of an unknown type"),
    CASE("\x0a\x05\x0a\x01"
         "a\x15\x01",
         "pieces is cut short"),
    CASE("\x0a\x02\x08\x01", "piece of pieces has a wrong type"),
    CASE("\x0a\x02\x10\x01", "score of pieces has a wrong type"),
    CASE(UNKNOWN "\x0a\x00", "piece 1 is empty"),
    CASE(UNKNOWN PIECE_A "\xff", "piece 1 is not UTF-8 text"),
    CASE(UNKNOWN "\x0a\x03\x0a\x01\x00", "piece 1 is not UTF-8 text"),
    CASE(UNKNOWN "\x0a\x08\x0a\x01"
                 "a\x15\x00\x00\xc0\x7f",
         "piece 1 has a score that is not finite"),
    CASE(UNKNOWN "\x0a\x05\x0a\x01"
                 "a\x18\x07",
         "piece 1 has an unknown type"),
    CASE(PIECE_A "a", "no piece of the type unknown"),
    CASE(UNKNOWN, "eos_id is not the id of a piece"),
    CASE(UNKNOWN PIECE_A "a" PIECE_A "a" NO_ENDS, "piece 1 ('a') is there twice"),
    CASE(UNKNOWN PIECE_A "a" PIECE_A "b\x12\x02\x18\x03",
         "model_type 3 is not supported"),
    CASE(UNKNOWN PIECE_A "a" PIECE_A "b\x12\x05\x18\x02\xc8\x02\x07", "bos_id is not"),
    CASE(UNKNOWN PIECE_A "a" PIECE_A "b\x1a\x02\x28\x00", "escape_whitespaces"),
    CASE(UNKNOWN PIECE_A "a" PIECE_A "b\x12\x03\xc0\x01\x01",
         "treat_whitespace_as_suffix"),
    CASE(UNKNOWN PIECE_A "a" PIECE_A "b\x1a\x03\x12\x01x",
         "bad.model: precompiled_charsmap is cut short"),
    CASE(UNKNOWN PIECE_A "a" PIECE_A "b\x1a\x06\x12\x04\x08\x00\x00\x00",
         "precompiled_charsmap is cut short"),
    CASE(UNKNOWN PIECE_A "a" PIECE_A "b\x1a\x0a\x12\x08\x04\x00\x00\x00\x00\x01\x00\x00",
         "precompiled_charsmap points outside of itself"),
    CASE(UNKNOWN PIECE_A "a" PIECE_A "b\x1a\x07\x12\x05\x00\x00\x00\x00\xff",
         "precompiled_charsmap has replacements that are not UTF-8"),
};

static void test_bad_models(void **state) {
    for (size_t i = 0; i < sizeof bad_models / sizeof *bad_models; i++) {
        struct mal_error err = {0};
        struct mal_tokenizer *tok = NULL;
        const char *path =
            scratch_write("bad.model", bad_models[i].bytes, bad_models[i].n);
        if (mal_tokenizer_open_file(&tok, path, &err))
            fail_msg("opens: %s", bad_models[i].words);
        assert_null(tok);
        assert_non_null(strstr(err.text, "bad.model"));
        if (!strstr(err.text, bad_models[i].words))
            fail_msg("'%s' instead of '%s'", err.text, bad_models[i].words);
    }
}

/* What still opens must do something with a text. */
static void try_model(const char *bytes, size_t n) {
    static const char text[] =
        "Mirela \xef\xac\x81 e\xcc\x81 \xe2\x91\xa0\r\n\xf0\x9f\x98\x80";
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    struct mal_ids ids = {0};
    char *back = NULL;
    size_t n_back;
    if (!mal_tokenizer_open_file(&tok, scratch_write("any.model", bytes, n), &err)) {
        assert_non_null(strstr(err.text, "any.model"));
        return;
    }
    if (mal_tokenizer_encode(tok, text, sizeof text - 1, true, &ids, &err) &&
        mal_tokenizer_decode(tok, ids.ids, ids.n, false, false, &back, &n_back, &err))
        mal_free(back);
    mal_ids_finish(&ids);
    mal_tokenizer_close(tok);
}

static void test_damaged_models(void **state) {
    static const char *const files[] = {"unigram.model", "blanks.model"};
    for (size_t i = 0; i < 2; i++) {
        struct mal_error err = {0};
        char *bytes;
        size_t n;
        assert_ok(mal_file_read(&bytes, &n, fixture(files[i]), (size_t)1 << 20, &err),
                  &err);
        for (size_t at = 0; at < n; at += 7) {
            char kept = bytes[at];
            try_model(bytes, at);
            bytes[at] = (char)(kept ^ 0xff);
            try_model(bytes, n);
            bytes[at] = (char)(kept ^ 0x10);
            try_model(bytes, n);
            bytes[at] = kept;
        }
        mal_free(bytes);
    }
}

#define UNIGRAM(fields) "{\"model\":{\"type\":\"Unigram\"," fields "}}"
#define MODEL           "\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":0}"

static void test_bad_json(void **state) {
    static const struct {
        const char *json;
        const char *words;
    } bad[] = {
        {UNIGRAM("\"unk_id\":0"), "vocab must be an array"},
        {UNIGRAM("\"vocab\":[]"), "the vocabulary has no tokens"},
        {UNIGRAM("\"vocab\":[[\"a\"]]"), "entry 0 of the vocabulary is not"},
        {UNIGRAM("\"vocab\":[[\"a\",0],[1,\"b\"]]"), "entry 1 of the vocabulary is not"},
        {UNIGRAM("\"vocab\":[[\"a\",0]],\"unk_id\":1"), "unk_id is not the id"},
        {UNIGRAM("\"vocab\":[[\"a\",0]],\"unk_id\":-1"), "'unk_id'"},
        {UNIGRAM("\"vocab\":[[\"a\",0]],\"byte_fallback\":1"), "'byte_fallback'"},
        {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\"}," MODEL "}",
         "model after a ByteLevel pre-tokenizer, 'Unigram'"},
        {"{\"normalizer\":{\"type\":\"Precompiled\"}," MODEL "}",
         "'precompiled_charsmap'"},
        {"{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAA\"}," MODEL
         "}",
         "precompiled_charsmap must be base64"},
        {"{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"A?==\"}," MODEL
         "}",
         "precompiled_charsmap must be base64"},
        {"{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AA==\"}," MODEL
         "}",
         "precompiled_charsmap is cut short"},
        {"{\"normalizer\":{\"type\":\"Prepend\"}," MODEL "}", "'prepend'"},
        {"{\"normalizer\":{\"type\":\"Replace\",\"content\":\"\"}," MODEL "}",
         "the pattern of a Replace"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct mal_error err = {0};
        struct mal_tokenizer *tok = NULL;
        const char *path = scratch_text("bad.json", bad[i].json);
        if (mal_tokenizer_open_file(&tok, path, &err)) fail_msg("opens: %s", bad[i].json);
        if (!strstr(err.text, bad[i].words) || !strstr(err.text, "bad.json"))
            fail_msg("'%s' instead of '%s'", err.text, bad[i].words);
    }
}

static void test_no_unknown_token(void **state) {
    struct mal_error err = {0};
    struct mal_ids ids = {0};
    struct mal_tokenizer *tok =
        open_file(scratch_text("a.json", UNIGRAM("\"vocab\":[[\"a\",0]]")));
    assert_true(mal_tokenizer_encode(tok, "aa", 2, true, &ids, &err));
    assert_false(mal_tokenizer_encode(tok, "ab", 2, true, &ids, &err));
    assert_error(&err, MAL_INVALID, "no unknown token");
    assert_int_equal(ids.n, 2);
    mal_ids_finish(&ids);
    mal_tokenizer_close(tok);
}

/* An unknown character costs 10 more than the worst token; of ways that cost the same the
 * one that was found first stays. */
static void test_scores(void **state) {
    static const struct {
        const char *text;
        size_t n;
        int32_t ids[3];
    } cases[] = {
        {"xya", 2, {1, 2}}, {"xyb", 2, {0, 5}}, {"cd", 1, {8}}, {"ccd", 2, {6, 8}}};

    struct mal_tokenizer *tok = open_file(scratch_text(
        "scores.json",
        UNIGRAM("\"unk_id\":0,\"vocab\":[[\"?\",0],[\"xy\",-10],[\"a\",-10],[\"ya\",-1],"
                "[\"b\",-10],[\"yb\",1],[\"c\",-1.5],[\"d\",-2.5],[\"cd\",-4]]")));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mal_ids ids = encode(tok, cases[i].text, strlen(cases[i].text), false);
        assert_int_equal(ids.n, cases[i].n);
        assert_memory_equal(ids.ids, cases[i].ids, ids.n * sizeof *ids.ids);
        mal_ids_finish(&ids);
    }
    mal_tokenizer_close(tok);
}

/* ---- Long texts, little memory ---- */

static void test_long_texts(void **state) {
    static const char *const files[] = {"unigram.json", "llama.json", "mistral.json"};
    static const char *const units[] = {
        "a",      "the", " ",     "\xe6\x97\xa5", "e\xcc\x81",
        "<left>", "<",   " the ", "\xe2\x96\x81", "\n"};

    enum { BYTES = 1 << 20 };

    char *text = mal_malloc(BYTES);
    for (size_t i = 0; i < sizeof units / sizeof *units * 3; i++) {
        /* One word, or one run of blanks: quadratic work would take hours. */
        const char *unit = units[i / 3];
        size_t n = strlen(unit), bytes = BYTES / n * n;
        for (size_t at = 0; at < bytes; at++)
            text[at] = unit[at % n];
        struct mal_tokenizer *tok = open_file(fixture(files[i % 3]));
        struct mal_ids ids = encode(tok, text, bytes, false);
        mal_ids_finish(&ids);
        mal_tokenizer_close(tok);
    }
    mal_free(text);
}

static bool open_and_use(const char *path, struct mal_error *err) {
    struct mal_tokenizer *tok = NULL;
    struct mal_ids ids = {0};
    char *back = NULL;
    size_t bytes;
    static const char text[] = "Mirela lives </s> in \xef\xac\x81 \xe6\x97\xa5";
    bool ok = mal_tokenizer_open_file(&tok, path, err) &&
              mal_tokenizer_encode(tok, text, sizeof text - 1, true, &ids, err) &&
              mal_tokenizer_decode(tok, ids.ids, ids.n, true, false, &back, &bytes, err);
    mal_free(back);
    mal_ids_finish(&ids);
    mal_tokenizer_close(tok);
    return ok;
}

static void test_no_memory(void **state) {
    fail_each_allocation(open_and_use, fixture("unigram.model"), 40);
    fail_each_allocation(open_and_use, fixture("blanks.model"), 60);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),         cmocka_unit_test(test_after),
        cmocka_unit_test(test_after_strip),      cmocka_unit_test(test_raw_bytes),
        cmocka_unit_test(test_directories),      cmocka_unit_test(test_bad_models),
        cmocka_unit_test(test_damaged_models),   cmocka_unit_test(test_bad_json),
        cmocka_unit_test(test_no_unknown_token), cmocka_unit_test(test_scores),
        cmocka_unit_test(test_long_texts),       cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
