/* test_tokenizer_files.c - WordPiece and byte-level BPE from their original files and
 * what lies beside them; wrong members of these; long words; lack of memory.
 *
 * The fixtures' tokenizer.json are taken apart into the files they could have come in, so
 * that the same cases hold. */
#include "scratch.h"

#include "core/file.h"
#include "no_memory.h"
#include "tokenizer_cases.h"

/* ---- Files made of a fixture ---- */

static void add_text(char **text, size_t *used, const char *more) {
    size_t n = strlen(more);
    *text = mal_realloc(*text, *used + n + 1);
    assert_non_null(*text);
    memcpy(*text + *used, more, n + 1);
    *used += n;
}

/* The vocabulary of a fixture's model as vocab.txt. */
static void write_vocab_txt(const char *fixture_name, const char *name,
                            const char *line_end) {
    json_t *root = load(fixture(fixture_name)), *id;
    json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
    size_t n = json_object_size(vocab), used = 0;
    const char **tokens = calloc(n, sizeof *tokens), *token;
    char *text = NULL;
    json_object_foreach (vocab, token, id)
        tokens[json_integer_value(id)] = token;
    for (size_t i = 0; i < n; i++) {
        add_text(&text, &used, tokens[i]);
        add_text(&text, &used, line_end);
    }
    scratch_write(name, text, used);
    mal_free(text);
    free(tokens);
    json_decref(root);
}

static void write_pair(const char *fixture_name, const char *dir) {
    char name[256];
    json_t *root = load(fixture(fixture_name)), *merge;
    json_t *model = json_object_get(root, "model");
    size_t i, used = 0;
    char *text = NULL;
    add_text(&text, &used, "#version: 0.2\n");
    json_array_foreach (json_object_get(model, "merges"), i, merge) {
        add_text(&text, &used, json_string_value(json_array_get(merge, 0)));
        add_text(&text, &used, " ");
        add_text(&text, &used, json_string_value(json_array_get(merge, 1)));
        add_text(&text, &used, "\n");
    }
    snprintf(name, sizeof name, "%s/merges.txt", dir);
    scratch_write(name, text, used);
    snprintf(name, sizeof name, "%s/vocab.json", dir);
    assert_int_equal(
        json_dump_file(json_object_get(model, "vocab"), scratch_path(name), 0), 0);
    mal_free(text);
    json_decref(root);
}

/* The added tokens that the model lacks, as tokenizer_config.json lists them, and
 * `others`. */
static void write_config(const char *fixture_name, const char *name, const char *others) {
    json_t *root = load(fixture(fixture_name)), *token;
    json_t *config = json_loads(others, 0, NULL), *list = json_object();
    size_t i;
    char key[24];
    assert_non_null(config);
    json_array_foreach (json_object_get(root, "added_tokens"), i, token) {
        snprintf(key, sizeof key, "%d",
                 (int)json_integer_value(json_object_get(token, "id")));
        json_object_set(list, key, token);
    }
    json_object_set_new(config, "added_tokens_decoder", list);
    assert_int_equal(json_dump_file(config, scratch_path(name), 0), 0);
    json_decref(config);
    json_decref(root);
}

static struct mal_tokenizer *open_dir(const char *dir) {
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    assert_ok(mal_tokenizer_open(&tok, scratch_path(dir), &err), &err);
    return tok;
}

static void check_dir(const char *dir, const char *cases_name) {
    struct mal_tokenizer *tok = open_dir(dir);
    json_t *root = load_cases(fixture(cases_name));
    check_cases(tok, json_object_get(root, "cases"), dir);
    json_decref(root);
    mal_tokenizer_close(tok);
}

static void check_text(const struct mal_tokenizer *tok, const char *text,
                       const int32_t *want, size_t n) {
    struct mal_ids ids = encode(tok, text, strlen(text), false);
    assert_int_equal(ids.n, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids.ids[i], want[i]);
    mal_ids_finish(&ids);
}

/* ---- Original files ---- */

static void test_vocab_txt(void **state) {
    static const char *const ends[] = {"\n", "\r\n"};
    for (size_t i = 0; i < 2; i++) {
        scratch_mkdir(i ? "crlf" : "lf");
        write_vocab_txt("bert.json", i ? "crlf/vocab.txt" : "lf/vocab.txt", ends[i]);
        write_config("bert.json",
                     i ? "crlf/tokenizer_config.json" : "lf/tokenizer_config.json",
                     "{\"do_lower_case\":true,\"clean_up_tokenization_spaces\":true,"
                     "\"unk_token\":{\"content\":\"[UNK]\"},\"mask_token\":\"[MASK]\"}");
        check_dir(i ? "crlf" : "lf", "bert.cases.json");
    }
}

/* 0 [UNK] 1 [CLS] 2 [SEP] 3 a 4 e 5 ##e 6 A 7 E-acute 8 Chinese 9 ##Chinese 10 ab (the
 * first of two) 11 ##b 12 ab, and 13 without an end of line. */
static const char small_vocab[] =
    "[UNK]\n[CLS]\n[SEP]\na\ne\n##e\nA\n\xc3\x89\n\xe4\xb8\x80\n"
    "##\xe4\xb8\x80\nab\n##b\nab\nlast";

/* What BERT does where nothing is said: lower case, accents off, Chinese apart. */
static void test_vocab_txt_settings(void **state) {
    static const char text[] = "A\xc3\x89 \xc3\x89 a\xe4\xb8\x80 ab";

    static const struct {
        const char *config;
        int32_t ids[6];
        size_t n;
    } cases[] = {
        {NULL, {3, 5, 4, 3, 8, 12}, 6},
        {"{\"do_lower_case\":false}", {0, 7, 3, 8, 12}, 5},
        {"{\"do_lower_case\":false,\"strip_accents\":true}", {0, 0, 3, 8, 12}, 5},
        {"{\"strip_accents\":false}", {0, 0, 3, 8, 12}, 5},
        {"{\"tokenize_chinese_chars\":false}", {3, 5, 4, 3, 9, 12}, 6},
    };

    scratch_mkdir("settings");
    scratch_text("settings/vocab.txt", small_vocab);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].config)
            scratch_text("settings/tokenizer_config.json", cases[i].config);
        struct mal_tokenizer *tok = open_dir("settings");
        check_text(tok, text, cases[i].ids, cases[i].n);
        assert_int_equal(mal_tokenizer_size(tok), 14);
        assert_int_equal(mal_tokenizer_id(tok, "last"), 13);
        assert_true(mal_tokenizer_is_special(tok, 1));
        struct mal_ids whole = encode(tok, "a", 1, true);
        assert_int_equal(whole.n, 3);
        assert_int_equal(whole.ids[0], 1);
        assert_int_equal(whole.ids[2], 2);
        mal_ids_finish(&whole);
        mal_tokenizer_close(tok);
    }
}

static void test_qwen2_files(void **state) {
    scratch_mkdir("qwen2");
    write_pair("qwen2.json", "qwen2");
    write_config("qwen2.json", "qwen2/tokenizer_config.json",
                 "{\"tokenizer_class\":\"Qwen2Tokenizer\",\"bos_token\":null,"
                 "\"eos_token\":\"<|end|>\"}");
    check_dir("qwen2", "qwen2.cases.json");
    /* config.json says it where no class does. */
    write_config("qwen2.json", "qwen2/tokenizer_config.json", "{}");
    scratch_text("qwen2/config.json", "{\"model_type\":\"qwen2\"}");
    check_dir("qwen2", "qwen2.cases.json");
    scratch_text("qwen2/config.json", "{\"model_type\":\"qwen3\"}");
    check_dir("qwen2", "qwen2.cases.json");
    scratch_text("qwen2/config.json", "{\"model_type\":\"gpt2\"}");
    struct mal_tokenizer *tok = open_dir("qwen2");
    struct mal_ids ids = encode(tok, "e\xcc\x81", 3, false);
    assert_int_equal(ids.n, 3); /* not composed */
    mal_ids_finish(&ids);
    mal_tokenizer_close(tok);
}

static void test_prefix_space(void **state) {
    scratch_mkdir("prefix");
    write_pair("gpt2.json", "prefix");
    scratch_text("prefix/tokenizer_config.json", "{\"add_prefix_space\":true}");
    struct mal_tokenizer *tok = open_dir("prefix");
    struct mal_ids plain = encode(tok, "Velmark", 7, false);
    struct mal_ids blank = encode(tok, " Velmark", 8, false);
    assert_int_equal(plain.n, blank.n);
    assert_memory_equal(plain.ids, blank.ids, plain.n * sizeof *plain.ids);
    mal_ids_finish(&plain);
    mal_ids_finish(&blank);
    mal_tokenizer_close(tok);
}

/* ---- Bad files ---- */

static const char bert_vocab[] = "[UNK]\n[CLS]\n[SEP]\na\n";

static void test_bad_vocab_txt(void **state) {
    static const struct {
        const char *vocab, *config;
        enum mal_status status;
        const char *words;
    } bad[] = {
        {"", NULL, MAL_INVALID, "vocab.txt: unk_token '[UNK]' is not in"},
        {"[UNK]\n[SEP]\n", NULL, MAL_INVALID, "vocab.txt: '[CLS]' is not in"},
        {"[UNK]\n[CLS]\n", NULL, MAL_INVALID, "vocab.txt: '[SEP]' is not in"},
        {"[UNK]\n\xff\n", NULL, MAL_INVALID, "vocab.txt: not UTF-8"},
        {bert_vocab, "[]", MAL_INVALID, "tokenizer_config.json: the file must be"},
        {bert_vocab, "{", MAL_CORRUPT, "tokenizer_config.json"},
        {bert_vocab, "{\"do_lower_case\":1}", MAL_CORRUPT,
         "config.json: 'do_lower_case'"},
        {bert_vocab, "{\"strip_accents\":\"\"}", MAL_CORRUPT, "'strip_accents'"},
        {bert_vocab, "{\"tokenize_chinese_chars\":0}", MAL_CORRUPT, "'tokenize_chinese"},
        {bert_vocab, "{\"clean_up_tokenization_spaces\":0}", MAL_CORRUPT, "'clean_up_"},
        {bert_vocab, "{\"unk_token\":7}", MAL_CORRUPT, "'unk_token'"},
        {bert_vocab, "{\"unk_token\":{}}", MAL_CORRUPT, "config.json: 'content'"},
        {bert_vocab, "{\"unk_token\":\"?\"}", MAL_INVALID, "unk_token '?'"},
        {bert_vocab, "{\"cls_token\":\"\\u001b[31m\"}", MAL_INVALID, "'?[31m' is not in"},
        {bert_vocab, "{\"added_tokens_decoder\":[]}", MAL_INVALID,
         "config.json: added_tokens_decoder must be an object"},
        {bert_vocab, "{\"added_tokens_decoder\":{\"x\":{}}}", MAL_INVALID,
         "the names in added_tokens_decoder must be ids"},
        {bert_vocab, "{\"added_tokens_decoder\":{\"-1\":{}}}", MAL_INVALID,
         "the names in"},
        {bert_vocab, "{\"added_tokens_decoder\":{\"99999999999999999999\":{}}}",
         MAL_INVALID, "the names in"},
        {bert_vocab, "{\"added_tokens_decoder\":{\"4\":7}}", MAL_INVALID,
         "config.json: an added token must be"},
        {bert_vocab, "{\"added_tokens_decoder\":{\"3\":{\"content\":\"b\"}}}",
         MAL_INVALID, "the id 3 of another"},
    };

    scratch_mkdir("badtxt");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct mal_error err = {0};
        struct mal_tokenizer *tok = NULL;
        scratch_text("badtxt/vocab.txt", bad[i].vocab);
        scratch_text("badtxt/tokenizer_config.json",
                     bad[i].config ? bad[i].config : "{}");
        if (mal_tokenizer_open(&tok, scratch_path("badtxt"), &err))
            fail_msg("opens: %s %s", bad[i].vocab, bad[i].config);
        assert_error(&err, bad[i].status, bad[i].words);
    }
}

static void test_bad_pair(void **state) {
    static const struct {
        const char *name, *text;
        enum mal_status status;
        const char *words;
    } bad[] = {
        {"tokenizer_config.json", "{\"tokenizer_class\":7}", MAL_CORRUPT,
         "tokenizer_config.json: 'tokenizer_class'"},
        {"tokenizer_config.json", "{\"add_prefix_space\":7}", MAL_CORRUPT,
         "'add_prefix_space'"},
        {"config.json", "{\"model_type\":7}", MAL_CORRUPT, "/config.json: 'model_type'"},
        {"config.json", "[]", MAL_INVALID, "/config.json: the file must be"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct mal_error err = {0};
        struct mal_tokenizer *tok = NULL;
        char dir[64], name[128];
        snprintf(dir, sizeof dir, "badpair%zu", i);
        scratch_mkdir(dir);
        write_pair("gpt2.json", dir);
        snprintf(name, sizeof name, "%s/%s", dir, bad[i].name);
        scratch_text(name, bad[i].text);
        assert_false(mal_tokenizer_open(&tok, scratch_path(dir), &err));
        assert_error(&err, bad[i].status, bad[i].words);
    }
}

#define WORDPIECE(fields) \
    "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"[UNK]\":0,\"a\":1}" fields "}"
#define NORMALIZER(fields) WORDPIECE("") ",\"normalizer\":{\"type\":" fields "}}"

static void test_bad_parts(void **state) {
    static const struct {
        const char *json;
        enum mal_status status;
        const char *words;
    } bad[] = {
        {"{\"model\":{\"type\":\"WordPiece\"}}", MAL_INVALID, "the vocabulary must be"},
        {WORDPIECE(",\"unk_token\":\"?\"") "}", MAL_INVALID, "unk_token '?' is not in"},
        {WORDPIECE(",\"unk_token\":1") "}", MAL_CORRUPT, "'unk_token'"},
        {WORDPIECE(",\"continuing_subword_prefix\":1") "}", MAL_CORRUPT, "'continuing_"},
        {WORDPIECE(",\"max_input_chars_per_word\":-1") "}", MAL_CORRUPT, "'max_input_"},
        {NORMALIZER("\"BertNormalizer\",\"lowercase\":1"), MAL_CORRUPT, "'lowercase'"},
        {NORMALIZER("\"BertNormalizer\",\"strip_accents\":1"), MAL_CORRUPT, "'strip_acc"},
        {NORMALIZER("\"BertNormalizer\",\"clean_text\":1"), MAL_CORRUPT, "'clean_text'"},
        {NORMALIZER("\"BertNormalizer\",\"handle_chinese_chars\":1"), MAL_CORRUPT,
         "'handle_chinese_chars'"},
        {NORMALIZER("\"Strip\",\"strip_left\":1"), MAL_CORRUPT, "'strip_left'"},
        {NORMALIZER("\"Sequence\""), MAL_INVALID, "normalizers must be an array"},
        {NORMALIZER("\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"}]"), MAL_INVALID,
         "normalizer 'Nmt' is not supported"},
        {WORDPIECE("") ",\"decoder\":{\"type\":\"WordPiece\",\"prefix\":1}}", MAL_CORRUPT,
         "'prefix'"},
        {WORDPIECE("") ",\"decoder\":{\"type\":\"WordPiece\",\"cleanup\":1}}",
         MAL_CORRUPT, "'cleanup'"},
        {WORDPIECE(
             "") ",\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",1],"
                 "\"sep\":[\"b\",2]}}",
         MAL_INVALID, "sep must be [token, id of a token]"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct mal_error err = {0};
        struct mal_tokenizer *tok = NULL;
        const char *path = scratch_text("bad.json", bad[i].json);
        if (mal_tokenizer_open_file(&tok, path, &err)) fail_msg("opens: %s", bad[i].json);
        assert_non_null(strstr(err.text, "bad.json: "));
        assert_error(&err, bad[i].status, bad[i].words);
    }
}

/* Twenty steps are more than a file may have. */
static void test_too_many_steps(void **state) {
    char json[4096] =
        "{\"model\":{},\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[";
    for (int i = 0; i < 20; i++)
        strcat(json, i ? ",{\"type\":\"NFC\"}" : "{\"type\":\"NFC\"}");
    strcat(json, "]}}");
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    assert_false(mal_tokenizer_open_file(&tok, scratch_text("many.json", json), &err));
    assert_error(&err, MAL_INVALID, "the normalizer has more than 16 steps");
}

/* ---- Long texts ---- */

/* A megabyte of a single word, of marks to be sorted, of characters that stand alone:
 * quadratic work would take hours. */
static void test_long_texts(void **state) {
    static const char *const names[] = {"bert.json", "bert-bytes.json", "qwen2.json",
                                        "forms.json"};
    static const char *const units[] = {"a",
                                        " ",
                                        "!",
                                        "\x01",
                                        "\xe4\xb8\x80",
                                        "\xcc\x81",
                                        "\xcd\x85\xcc\xb4",
                                        "e\xcc\x81\xcc\xa7",
                                        "\xe1\x84\x80\xe1\x85\xa1",
                                        "\xc4\xb0",
                                        "\xf0\x91\xa4\xb5\xcc\x81"};

    enum { BYTES = 1 << 20 };

    char *text = mal_malloc(BYTES);
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        struct mal_tokenizer *tok = open_file(fixture(names[k]));
        for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
            size_t unit = strlen(units[i]), bytes = BYTES / unit * unit, back;
            for (size_t at = 0; at < bytes; at++)
                text[at] = units[i][at % unit];
            struct mal_ids ids = encode(tok, text, bytes, false);
            mal_free(decode(tok, ids.ids, ids.n, false, false, &back));
            mal_ids_finish(&ids);
        }
        mal_tokenizer_close(tok);
    }
    mal_free(text);
}

/* A run of marks longer than what is sorted by hand: by class, those of a class in their
 * order, so that turning the two classes round gives the same. */
static void test_many_marks(void **state) {
    struct mal_tokenizer *tok = open_file(fixture("qwen2.json"));
    char mixed[256] = "x", sorted[256] = "x";
    for (int i = 0; i < 20; i++) {
        strcat(mixed, i % 2 ? "\xcc\x82" : "\xcc\x81"); /* class 230 */
        strcat(mixed, "\xcc\xb4");                      /* class 1 */
    }
    for (int i = 0; i < 40; i++)
        strcat(sorted, i < 20 ? "\xcc\xb4" : i % 2 ? "\xcc\x82" : "\xcc\x81");
    struct mal_ids a = encode(tok, mixed, strlen(mixed), false);
    struct mal_ids b = encode(tok, sorted, strlen(sorted), false);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.ids, b.ids, a.n * sizeof *a.ids);
    size_t bytes;
    char *back = decode(tok, a.ids, a.n, false, false, &bytes);
    assert_string_equal(back, sorted);
    mal_free(back);
    mal_ids_finish(&a);
    mal_ids_finish(&b);
    mal_tokenizer_close(tok);
}

/* ---- Lack of memory ---- */

static bool use(const char *path, struct mal_error *err) {
    static const char text[] = "A\xc3\x89 \xc3\x89 a\xe4\xb8\x80 ab <Ab>x";
    struct mal_tokenizer *tok = NULL;
    struct mal_ids ids = {0};
    char *back = NULL;
    size_t bytes;
    bool ok = mal_tokenizer_open_file(&tok, path, err) &&
              mal_tokenizer_encode(tok, text, sizeof text - 1, true, &ids, err) &&
              mal_tokenizer_decode(tok, ids.ids, ids.n, false, false, &back, &bytes, err);
    mal_free(back);
    mal_ids_finish(&ids);
    mal_tokenizer_close(tok);
    return ok;
}

static void test_no_memory(void **state) {
    scratch_mkdir("memory");
    scratch_text("memory/vocab.txt", small_vocab);
    scratch_text("memory/tokenizer_config.json",
                 "{\"added_tokens_decoder\":{\"14\":{\"content\":\"<Ab>\"}}}");
    /* Not jansson's own: 2.14 runs past the end of a string whose closing quote finds no
     * memory (one of 14 bytes, for example). */
    mal_json_guard();
    json_set_alloc_funcs(malloc, free);
    fail_each_allocation(use, scratch_path("memory/vocab.txt"), 25);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vocab_txt),     cmocka_unit_test(test_vocab_txt_settings),
        cmocka_unit_test(test_qwen2_files),   cmocka_unit_test(test_prefix_space),
        cmocka_unit_test(test_bad_vocab_txt), cmocka_unit_test(test_bad_pair),
        cmocka_unit_test(test_bad_parts),     cmocka_unit_test(test_too_many_steps),
        cmocka_unit_test(test_long_texts),    cmocka_unit_test(test_many_marks),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
