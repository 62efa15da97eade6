/* test_tokenizer.c - ids and texts against Hugging Face's, special tokens, bad files.
 *
 * The cases are those of tests/golden/tokenizer and, where they are, of ../shared/golden.
 */
#include "scratch.h"

#include "core/file.h"
#include "no_memory.h"
#include "tokenizer_cases.h"

/* ---- Cases from files ---- */

static void test_fixtures(void **state) {
    static const char *const names[] = {"gpt2",  "llama3",     "added", "qwen2",
                                        "forms", "bert-bytes", "bert",  "wordpiece",
                                        "kinds", "pieces",     "digits"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.json", names[i]);
        struct mal_tokenizer *tok = open_file(fixture(name));
        snprintf(name, sizeof name, "%s.cases.json", names[i]);
        json_t *root = load_cases(fixture(name));
        check_cases(tok, json_object_get(root, "cases"), name);
        json_decref(root);
        mal_tokenizer_close(tok);
    }
}

/* The cased vocabulary does not say that it is. */
static const char *cased_copy(const char *vocab) {
    struct mal_error err = {0};
    char *text;
    size_t bytes;
    assert_ok(mal_file_read(&text, &bytes, vocab, (size_t)1 << 20, &err), &err);
    scratch_mkdir("cased");
    scratch_text("cased/tokenizer_config.json", "{\"do_lower_case\":false}");
    scratch_write("cased/vocab.txt", text, bytes);
    mal_free(text);
    return scratch_path("cased");
}

static void check_golden(const char *shared, const char *name) {
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    char buffer[1024];
    const char *path = buffer;
    struct stat st;
    snprintf(buffer, sizeof buffer, "%s/golden/tokenizers/%s.json", shared, name);
    json_t *root = load_cases(buffer);
    snprintf(buffer, sizeof buffer, "%s/%s/%s", shared,
             json_string_value(json_object_get(root, "root")),
             json_string_value(json_object_get(root, "tokenizer")));
    if (strcmp(name, "bert-cased") == 0) path = cased_copy(buffer);
    bool is_dir = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    assert_ok((is_dir ? mal_tokenizer_open : mal_tokenizer_open_file)(&tok, path, &err),
              &err);
    check_cases(tok, json_object_get(root, "cases"), name);
    json_decref(root);
    mal_tokenizer_close(tok);
}

static void test_golden(void **state) {
    static const char *const names[] = {"gpt2",         "gpt2-vocab-merges",
                                        "small-gpt2",   "small-gptj",
                                        "small-llama3", "small-qwen2",
                                        "neox",         "bert-cased",
                                        "bert-uncased", "small-bert",
                                        "t5",           "t5-spiece",
                                        "small-t5",     "llama2",
                                        "small-llama",  "small-mistral"};
    char shared[512];
    snprintf(shared, sizeof shared, "%s/../shared", source_root());
    return_if_absent(shared);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_golden(shared, names[i]);
}

/* ---- Metaspace ---- */

#define ALL(steps) "{\"type\":\"Sequence\",\"normalizers\":[" steps "]}"
#define CLEAN                                                                  \
    "{\"type\":\"BertNormalizer\",\"clean_text\":true,\"strip_accents\":true," \
    "\"handle_chinese_chars\":false,\"lowercase\":false}"

/* A text whose first character a normalizer drops got a mark too many. The ids are those
 * of Hugging Face's `tokenizers`. */
static void test_first_mark(void **state) {
    static const char strip[] = "{\"type\":\"Strip\",\"strip_left\":true}",
                      accents[] = ALL("{\"type\":\"NFD\"},{\"type\":\"StripAccents\"}"),
                      drop[] = "{\"type\":\"Replace\",\"pattern\":{\"String\":\"x\"},"
                               "\"content\":\"\"}",
                      prepend[] = ALL("{\"type\":\"StripAccents\"},"
                                      "{\"type\":\"Prepend\",\"prepend\":\"x\"}");

    static const struct {
        const char *normalizer, *text;
        int32_t ids[4];
        size_t n;
    } cases[] = {
        {strip, "a", {1, 4}, 2},          {strip, " a", {3}, 1},
        {strip, "\u3000a", {3}, 1},       {strip, "a a", {1, 4, 1, 4}, 4},
        {accents, "\u0301a", {3}, 1},     {accents, "\u00e1", {1, 4}, 2},
        {accents, "\u0301 a", {1, 4}, 2}, {drop, "xa", {3}, 1},
        {drop, "ax", {1, 4}, 2},          {prepend, "\u0301a", {5, 4}, 2},
        {prepend, "a", {1, 6, 4}, 3},     {CLEAN, "\u0301a", {3}, 1},
        {CLEAN, "\001a", {3}, 1},         {CLEAN, "\u00e1", {1, 4}, 2},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[1024];
        snprintf(json, sizeof json,
                 "{\"normalizer\":%s,\"pre_tokenizer\":{\"type\":\"Metaspace\","
                 "\"replacement\":\"\u2581\",\"prepend_scheme\":\"first\"},"
                 "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"?\","
                 "\"continuing_subword_prefix\":\"#\",\"max_input_chars_per_word\":9,"
                 "\"vocab\":{\"?\":0,\"\u2581\":1,\"#\u2581\":2,\"a\":3,\"#a\":4,"
                 "\"x\":5,\"#x\":6}}}",
                 cases[i].normalizer);
        struct mal_tokenizer *tok = open_file(scratch_text("first.json", json));
        struct mal_ids ids = encode(tok, cases[i].text, strlen(cases[i].text), true);
        bool equal = ids.n == cases[i].n &&
                     memcmp(ids.ids, cases[i].ids, ids.n * sizeof *ids.ids) == 0;
        if (!equal) fail_msg("'%s' after %s", cases[i].text, cases[i].normalizer);
        mal_ids_finish(&ids);
        mal_tokenizer_close(tok);
    }
}

/* ---- Opening ---- */

/* The model of the gpt2 fixture in the two files it could also have come in; its special
 * token is then GPT-2's. */
static void write_pair(const char *dir, const char *vocab_name, const char *merges_name,
                       const char *line_end) {
    char name[256], merges[65536] = "#version: 0.2";
    json_t *root = load(fixture("gpt2.json")), *merge;
    json_t *model = json_object_get(root, "model");
    json_t *vocab = json_object_get(model, "vocab");
    size_t i;
    json_object_set_new(vocab, "<|endoftext|>",
                        json_integer((json_int_t)json_object_size(vocab)));
    snprintf(name, sizeof name, "%s/%s", dir, vocab_name);
    assert_int_equal(json_dump_file(vocab, scratch_path(name), 0), 0);
    strcat(merges, line_end);
    json_array_foreach (json_object_get(model, "merges"), i, merge) {
        strcat(merges, json_string_value(json_array_get(merge, 0)));
        strcat(merges, " ");
        strcat(merges, json_string_value(json_array_get(merge, 1)));
        strcat(merges, line_end);
    }
    snprintf(name, sizeof name, "%s/%s", dir, merges_name);
    scratch_text(name, merges);
    json_decref(root);
}

static void check_same_as_fixture(const char *dir) {
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    assert_ok(mal_tokenizer_open(&tok, scratch_path(dir), &err), &err);
    json_t *root = load_cases(fixture("gpt2.cases.json")), *entry;
    size_t i;
    json_array_foreach (json_object_get(root, "cases"), i, entry) {
        if (strstr(json_string_value(json_object_get(entry, "text")), "<|end|>"))
            continue;
        check_ids(tok, entry, "ids", true, dir);
    }
    json_decref(root);
    int32_t end = mal_tokenizer_id(tok, "<|endoftext|>");
    struct mal_ids ids = encode(tok, "a<|endoftext|>", 14, false);
    assert_int_equal(end, mal_tokenizer_size(tok) - 1);
    assert_true(mal_tokenizer_is_special(tok, end));
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.ids[1], end);
    mal_ids_finish(&ids);
    mal_tokenizer_close(tok);
}

static void test_open_order(void **state) {
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    scratch_mkdir("order");
    assert_false(mal_tokenizer_open(&tok, scratch_path("order"), &err));
    assert_error(
        &err, MAL_NOT_FOUND,
        "neither tokenizer.json, nor vocab.json with merges.txt, nor encoder.json");
    write_pair("order", "encoder.json", "vocab.bpe", "\n");
    check_same_as_fixture("order");
    scratch_text("order/vocab.json", "{\"a\": 0}");
    assert_false(mal_tokenizer_open(&tok, scratch_path("order"), &err));
    assert_error(&err, MAL_NOT_FOUND, "merges.txt: No such file");
    write_pair("order", "vocab.json", "merges.txt", "\r\n");
    check_same_as_fixture("order");
    scratch_text("order/tokenizer.json", "{}");
    assert_false(mal_tokenizer_open(&tok, scratch_path("order"), &err));
    assert_error(&err, MAL_INVALID, "order/tokenizer.json: model must be an object");
}

/* ---- Bad files ---- */

static const char model_ok[] =
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},"
    "\"merges\":[\"a b\"]}";
static const char rest_ok[] = "\"pre_tokenizer\":{\"type\":\"ByteLevel\"},"
                              "\"decoder\":{\"type\":\"ByteLevel\"}";

#define MODEL(fields) "{\"model\":{\"type\":\"BPE\"," fields "}"
#define VOCAB         "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"
#define PATTERN(text)                                                                   \
    "{%M,\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{" \
    "\"Regex\":\"" text "\"}}}"

/* %M: model_ok, %R: rest_ok */
static const struct {
    const char *json;
    enum mal_status status;
    const char *words;
} bad_files[] = {
    {"", MAL_CORRUPT, "bad.json"},
    {"[]", MAL_INVALID, "the file must be an object"},
    {"{%R}", MAL_INVALID, "model must be an object"},
    {"{\"model\":{\"type\":\"WordPiece\"},%R}", MAL_INVALID,
     "bad.json: model after a ByteLevel pre-tokenizer, 'WordPiece'"},
    {"{\"model\":{\"type\":7},%R}", MAL_CORRUPT, "'type' must be a string"},
    {"{\"model\":{\"type\":\"\\u001b[31m\"}}", MAL_INVALID, "model '?[31m'"},
    {MODEL("\"merges\":[]") ",%R}", MAL_INVALID, "the vocabulary must be an object"},
    {MODEL("\"vocab\":{},\"merges\":[]") ",%R}", MAL_INVALID, "with tokens"},
    {MODEL("\"vocab\":[\"a\"],\"merges\":[]") ",%R}", MAL_INVALID, "must be an object"},
    {MODEL("\"vocab\":{\"a\":-1},\"merges\":[]") ",%R}", MAL_INVALID,
     "token 'a' has the id -1"},
    {MODEL("\"vocab\":{\"a\":10000000},\"merges\":[]") ",%R}", MAL_INVALID,
     "10000000, not 0.."},
    {MODEL("\"vocab\":{\"a\":1e30},\"merges\":[]") ",%R}", MAL_INVALID, "not an integer"},
    {MODEL("\"vocab\":{\"a\":\"0\"},\"merges\":[]") ",%R}", MAL_INVALID,
     "'a' is not an integer"},
    {MODEL("\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]") ",%R}", MAL_INVALID,
     "the id 0 of another"},
    {MODEL("\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]") ",%R}", MAL_CORRUPT, "duplicate"},
    {MODEL(VOCAB) ",%R}", MAL_INVALID, "merges must be an array"},
    {MODEL(VOCAB ",\"merges\":[\"a c\"]") ",%R}", MAL_INVALID, "merge 0 names a token"},
    {MODEL(VOCAB ",\"merges\":[\"a b\",\"b a\"]") ",%R}", MAL_INVALID,
     "merge 1 names a token"},
    {MODEL(VOCAB ",\"merges\":[\"ab\"]") ",%R}", MAL_INVALID,
     "merge 0 is not two tokens"},
    {MODEL(VOCAB ",\"merges\":[\"a b \"]") ",%R}", MAL_INVALID,
     "merge 0 is not two tokens"},
    {MODEL(VOCAB ",\"merges\":[[\"a\"]]") ",%R}", MAL_INVALID, "merge 0 is neither"},
    {MODEL(VOCAB ",\"merges\":[7]") ",%R}", MAL_INVALID, "merge 0 is neither"},
    {MODEL(VOCAB ",\"merges\":[],\"byte_fallback\":true") ",%R}", MAL_INVALID,
     "byte_fallback"},
    {MODEL(VOCAB ",\"merges\":[],\"dropout\":0.1") ",%R}", MAL_INVALID, "dropout"},
    {MODEL(VOCAB ",\"merges\":[],\"end_of_word_suffix\":\"</w>\"") ",%R}", MAL_INVALID,
     "suffix"},
    {MODEL(VOCAB ",\"merges\":[],\"unk_token\":\"?\"") ",%R}", MAL_INVALID,
     "unk_token '?'"},
    {MODEL(VOCAB ",\"merges\":[],\"fuse_unk\":1") ",%R}", MAL_CORRUPT, "fuse_unk"},
    {"{%M,%R,\"normalizer\":{\"type\":\"Nmt\"}}", MAL_INVALID,
     "bad.json: normalizer 'Nmt' is not supported"},
    {"{%M,%R,\"post_processor\":{\"type\":\"BertProcessing\"}}", MAL_INVALID,
     "cls must be [token, id of a token]"},
    {"{%M,\"decoder\":{\"type\":\"CTC\"}}", MAL_INVALID, "decoder 'CTC'"},
    {"{%M,\"pre_tokenizer\":{\"type\":\"Metaspace\"}}", MAL_CORRUPT,
     "bad.json: 'replacement' is missing"},
    {"{%M,\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}}",
     MAL_INVALID, "replacement must be one character"},
    {"{%M,\"pre_tokenizer\":{\"type\":\"Sequence\"}}", MAL_INVALID,
     "pretokenizers must be"},
    {"{%M,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
     "{\"type\":\"ByteLevel\"}]}}",
     MAL_INVALID, "after ByteLevel"},
    {"{%M,\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\"}}", MAL_INVALID,
     "the pattern of a Split must be"},
    {"{%M,\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"MergedWithBoth\"}}",
     MAL_INVALID, "'MergedWithBoth' is not supported"},
    {PATTERN("a(b"), MAL_INVALID, "the pattern is refused"},
    {PATTERN("[a&&b]"), MAL_INVALID, "not supported from its byte 0"},
    {PATTERN("x[a[b]]"), MAL_INVALID, "not supported from its byte 1"},
    {PATTERN("a{1,3}+"), MAL_INVALID, "not supported from its byte 1"},
    {PATTERN("a\\\\Kb"), MAL_INVALID, "not supported from its byte 1"},
    {PATTERN("[\\\\P{L}]"), MAL_INVALID, "not supported from its byte 0"},
    {PATTERN("(?R)"), MAL_INVALID, "not supported from its byte 0"},
    {PATTERN("[a"), MAL_INVALID, "not supported from its byte 0"},
    {PATTERN("\\\\"), MAL_INVALID, "not supported from its byte 0"},
    {PATTERN("\\\\p{Nonesuch}"), MAL_INVALID, "the pattern is refused"},
    {"{%M,%R,\"added_tokens\":7}", MAL_INVALID, "added_tokens must be an array"},
    {"{%M,%R,\"added_tokens\":[7]}", MAL_INVALID, "an added token must be an object"},
    {"{%M,%R,\"added_tokens\":[{\"content\":\"x\"}]}", MAL_CORRUPT, "'id'"},
    {"{%M,%R,\"added_tokens\":[{\"id\":3}]}", MAL_CORRUPT, "'content'"},
    {"{%M,%R,\"added_tokens\":[{\"id\":99999999,\"content\":\"x\"}]}", MAL_CORRUPT,
     "'id'"},
    {"{%M,%R,\"added_tokens\":[{\"id\":2,\"content\":\"x\"}]}", MAL_INVALID,
     "of another"},
    {"{%M,%R,\"added_tokens\":[{\"id\":3,\"content\":\"a\"}]}", MAL_INVALID,
     "another id"},
    {"{%M,%R,\"added_tokens\":[{\"id\":3,\"content\":\"x\"},{\"id\":3,\"content\":\"x\"}]}",
     MAL_INVALID, "there twice"},
    {"{%M,%R,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
     "{\"id\":\"a\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"a\":{\"ids\":[3]}}}}",
     MAL_INVALID, "ids of the post-processor"},
    {"{%M,%R,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}}",
     MAL_INVALID, "one Sequence"},
};

/* The file with %M and %R filled in. */
static const char *write_file(const char *name, const char *json) {
    char text[4096];
    size_t n = 0;
    for (; *json; json++) {
        const char *part = json[0] == '%' ? (json[1] == 'M' ? model_ok : rest_ok) : NULL;
        if (!part) {
            text[n++] = *json;
            continue;
        }
        n += (size_t)sprintf(text + n, "%s", part);
        json++;
    }
    return scratch_write(name, text, n);
}

static void test_bad_files(void **state) {
    for (size_t i = 0; i < sizeof bad_files / sizeof *bad_files; i++) {
        struct mal_error err = {0};
        struct mal_tokenizer *tok = NULL;
        const char *path = write_file("bad.json", bad_files[i].json);
        if (mal_tokenizer_open_file(&tok, path, &err))
            fail_msg("opens: %s", bad_files[i].json);
        assert_null(tok);
        assert_non_null(strstr(err.text, "bad.json"));
        assert_error(&err, bad_files[i].status, bad_files[i].words);
    }
}

static void test_bad_merges(void **state) {
    static const struct {
        const char *merges, *words;
    } bad[] = {
        {"#version: 0.2\na c\n", "merges.txt: merge 0 names a token"},
        {"a b\nab\n", "merge 1 is not two tokens"},
        {"a b\n\n", "merge 1 is not two tokens"},
        {"a \xff\n", "merges.txt: not UTF-8"},
    };

    scratch_mkdir("merges");
    scratch_text("merges/vocab.json", "{\"a\":0,\"b\":1,\"ab\":2}");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct mal_error err = {0};
        struct mal_tokenizer *tok = NULL;
        scratch_text("merges/merges.txt", bad[i].merges);
        assert_false(mal_tokenizer_open(&tok, scratch_path("merges"), &err));
        assert_error(&err, MAL_INVALID, bad[i].words);
    }
}

/* ---- Encoding and decoding ---- */

static void test_long_words(void **state) {
    struct mal_tokenizer *tok = open_file(fixture("gpt2.json"));
    static const char *const units[] = {"a",  "the",          " ", " \n",
                                        "!?", "\xe6\x97\xa5", "7", "<|"};

    enum { BYTES = 1 << 20 };

    char *text = mal_malloc(BYTES);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        /* A text that is one word, or one run of spaces: quadratic work would take hours.
         */
        size_t unit = strlen(units[i]), bytes = BYTES / unit * unit, back;
        for (size_t at = 0; at < bytes; at++)
            text[at] = units[i][at % unit];
        struct mal_ids ids = encode(tok, text, bytes, false);
        char *again = decode(tok, ids.ids, ids.n, false, false, &back);
        assert_int_equal(back, bytes);
        assert_memory_equal(again, text, bytes);
        mal_free(again);
        mal_ids_finish(&ids);
    }
    mal_free(text);
    mal_tokenizer_close(tok);
}

static void test_invalid_text(void **state) {
    struct mal_error err = {0};
    struct mal_tokenizer *tok = open_file(fixture("llama3.json"));
    struct mal_ids ids = {0};
    assert_true(mal_ids_push(&ids, 5, &err));
    assert_false(mal_tokenizer_encode(tok, "abc\xe2\x82", 5, true, &ids, &err));
    assert_error(&err, MAL_INVALID, "not UTF-8 at byte 3");
    assert_false(mal_tokenizer_encode(tok, "\xed\xa0\x80", 3, true, &ids, &err));
    assert_error(&err, MAL_INVALID, "not UTF-8 at byte 0");
    assert_int_equal(ids.n, 1);
    assert_ok(mal_tokenizer_encode(tok, "", 0, true, &ids, &err), &err);
    assert_int_equal(ids.n, 3); /* appended: begin, end */
    mal_ids_finish(&ids);
    mal_tokenizer_close(tok);
}

static void test_special(void **state) {
    struct mal_tokenizer *tok = open_file(fixture("added.json"));
    int32_t end = mal_tokenizer_id(tok, "<|end|>"),
            word = mal_tokenizer_id(tok, "<word>");
    int32_t both = mal_tokenizer_id(tok, "<both>");
    assert_true(mal_tokenizer_is_special(tok, end));
    assert_true(mal_tokenizer_is_special(tok, word));
    assert_false(mal_tokenizer_is_special(tok, both));
    assert_false(mal_tokenizer_is_special(tok, -1));
    assert_false(mal_tokenizer_is_special(tok, mal_tokenizer_size(tok)));
    assert_int_equal(mal_tokenizer_id(tok, "<nothing>"), -1);
    assert_int_equal(mal_tokenizer_id(tok, ""), -1);
    int32_t ids[] = {end, both, mal_tokenizer_id(tok, "a"), word};
    size_t bytes;
    char *text = decode(tok, ids, 4, true, false, &bytes);
    assert_string_equal(text, "<both>a");
    mal_free(text);
    text = decode(tok, ids, 4, false, false, &bytes);
    assert_string_equal(text, "<|end|><both>a<word>");
    mal_free(text);
    mal_tokenizer_close(tok);
}

/* Two that are alike once they are normalized, before a zero byte: what follows them in
 * memory is not looked at. */
static void test_alike(void **state) {
    const char *path = scratch_text(
        "alike.json", "{\"normalizer\":{\"type\":\"Lowercase\"},"
                      "\"added_tokens\":["
                      "{\"id\":2,\"content\":\"<A>\",\"normalized\":true},"
                      "{\"id\":3,\"content\":\"<a>\",\"normalized\":true}],"
                      "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"?\","
                      "\"continuing_subword_prefix\":\"#\","
                      "\"max_input_chars_per_word\":9,"
                      "\"vocab\":{\"?\":0,\"b\":1}}}");
    struct mal_tokenizer *tok = open_file(path);
    struct mal_ids ids = encode(tok, "b<A>\0b", 6, false);
    static const int32_t want[] = {1, 2, 0};
    assert_int_equal(ids.n, 3);
    assert_memory_equal(ids.ids, want, sizeof want);
    mal_ids_finish(&ids);
    mal_tokenizer_close(tok);
}

/* Euro sign, cut in the middle, then a lone continuation byte, then "a". */
static void test_invalid_bytes(void **state) {
    struct mal_tokenizer *tok = open_file(fixture("gpt2.json"));
    struct mal_ids euro = encode(tok, "\xe2\x82\xac", 3, false);
    assert_int_equal(euro.n, 3); /* a token a byte */
    int32_t ids[] = {euro.ids[0], euro.ids[1], mal_tokenizer_id(tok, "a"), euro.ids[2],
                     euro.ids[0]};
    size_t bytes;
    char *text = decode(tok, ids, 5, false, true, &bytes);
    assert_int_equal(bytes, 5);
    assert_memory_equal(text,
                        "\xe2\x82"
                        "a\xac\xe2",
                        5);
    mal_free(text);
    text = decode(tok, ids, 5, false, false, &bytes);
    assert_string_equal(text, "\xef\xbf\xbd"
                              "a\xef\xbf\xbd\xef\xbf\xbd");
    mal_free(text);
    text = decode(tok, NULL, 0, false, false, &bytes);
    assert_int_equal(bytes, 0);
    mal_free(text);
    mal_ids_finish(&euro);
    mal_tokenizer_close(tok);
}

static void test_ids_out_of_range(void **state) {
    struct mal_error err = {0};
    const char *path =
        write_file("gap.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,"
                               "\"b\":7},\"merges\":[]},%R}");
    struct mal_tokenizer *tok = open_file(path);
    char *text;
    size_t bytes;
    assert_int_equal(mal_tokenizer_size(tok), 8);
    for (int32_t id = -1; id <= 8; id += 9) {
        assert_false(
            mal_tokenizer_decode(tok, &id, 1, false, false, &text, &bytes, &err));
        assert_error(&err, MAL_INVALID, "is not in 0..7");
    }
    int32_t gap[] = {7, 3, 0};
    text = decode(tok, gap, 3, false, false, &bytes);
    assert_string_equal(text, "ba");
    mal_free(text);
    /* Bytes that no token stands for are dropped, as Hugging Face does. */
    struct mal_ids ids = encode(tok, "azb", 3, false);
    assert_int_equal(ids.n, 2);
    mal_ids_finish(&ids);
    mal_tokenizer_close(tok);
}

/* ---- Lack of memory ---- */

static bool use(const char *path, struct mal_error *err) {
    struct mal_tokenizer *tok = NULL;
    struct mal_ids ids = {0};
    char *text = NULL;
    size_t bytes;
    bool ok = mal_tokenizer_open_file(&tok, path, err) &&
              mal_tokenizer_encode(tok, "ab <x> a", 8, true, &ids, err) &&
              mal_tokenizer_decode(tok, ids.ids, ids.n, false, false, &text, &bytes, err);
    mal_free(text);
    mal_ids_finish(&ids);
    mal_tokenizer_close(tok);
    return ok;
}

static void test_no_memory(void **state) {
    const char *path = write_file(
        "memory.json",
        "{%M,%R,\"added_tokens\":[{\"id\":3,\"content\":\"<x>\",\"single_word\":true,"
        "\"special\":true}],\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
        "{\"SpecialToken\":{\"id\":\"<x>\"}},{\"Sequence\":{\"id\":\"A\"}}],"
        "\"special_tokens\":{\"<x>\":{\"ids\":[3]}}}}");
    /* Not jansson's own: 2.14 runs past the end of a string whose closing quote finds no
     * memory (one of 14 bytes, for example). */
    mal_json_guard();
    json_set_alloc_funcs(malloc, free);
    fail_each_allocation(use, path, 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_open_order),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_bad_merges),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_invalid_text),
        cmocka_unit_test(test_special),
        cmocka_unit_test(test_alike),
        cmocka_unit_test(test_invalid_bytes),
        cmocka_unit_test(test_ids_out_of_range),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_first_mark),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
