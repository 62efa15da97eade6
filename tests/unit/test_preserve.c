/* test_preserve.c - texts to preserve: read from files of every form, their keys' Gram
 * matrix against the keys of a full measurement, and the editor's file that carries them.
 */
#include "demo_model.h"
#include "no_memory.h"

#include <math.h>

#include "core/editor/edit_rows.h"
#include "core/editor/preserve.h"
#include "core/editor/solve.h"
#include "core/safetensors.h"

enum { CONTEXT = 64 }; /* of the demo model */

static const char *const modules[] = {"transformer.h.1.mlp.c_proj",
                                      "transformer.h.2.mlp.c_fc",
                                      "transformer.h.3.mlp.c_proj"};

static struct mal_editor *create(const struct mal_method *method) {
    struct mal_error err = {0};
    struct mal_editor *editor = NULL;
    assert_ok(mal_editor_create(&editor, method, model, modules, 3, 2, 1, 0.25, 1, &err),
              &err);
    assert_ok(mal_editor_bind(editor, model, &err), &err);
    return editor;
}

static struct mal_preserve_texts load(const char *path) {
    struct mal_preserve_texts texts = {0};
    struct mal_error err = {0};
    assert_ok(mal_preserve_texts_load(&texts, path, model, tok, &err), &err);
    return texts;
}

/* ---- Files ---- */

static void expect_texts(const char *name, const char *content, size_t n,
                         const char *const *texts, const int32_t *from) {
    struct mal_preserve_texts got = load(scratch_text(name, content));
    struct mal_error err = {0};
    int64_t keys = 0;
    assert_int_equal(got.n, n);
    assert_int_equal(got.start[0], 0);
    for (size_t i = 0; i < n; i++) {
        char *text = NULL;
        size_t bytes;
        assert_ok(mal_tokenizer_decode(tok, got.ids + got.start[i],
                                       (size_t)(got.start[i + 1] - got.start[i]), false,
                                       false, &text, &bytes, &err),
                  &err);
        assert_string_equal(text, texts[i]);
        mal_free(text);
        int32_t length = got.start[i + 1] - got.start[i];
        assert_int_equal(from[i] < 0 ? length + from[i] : from[i], got.from[i]);
        keys += length - got.from[i];
    }
    assert_int_equal(mal_preserve_texts_n_keys(&got, model, false), keys);
    mal_preserve_texts_finish(&got);
}

static void test_forms(void **state) {
    static const char *const both[] = {"By trade, Kudo Bockman is a", "The firm"};
    static const int32_t all[] = {0, 0}, answers[] = {-1, -1};
    expect_texts("lines.txt", "By trade, Kudo Bockman is a\n\n  \r\nThe firm \r\n", 2,
                 both, all);
    expect_texts("prompts.ndjson",
                 "{\"prompt\": \"By trade, Kudo Bockman is a\"}\n"
                 "{\"prompt\": \"The firm\", \"subject\": \"x\"}\n",
                 2, both, all);
    /* Keys at the rows that predict the target, of one token: the prompt's last. */
    expect_texts(
        "facts.ndjson",
        "{\"prompt\": \"By trade, Kudo Bockman is a\", \"target\": \"chemist\"}\n"
        "{\"prompt\": \"The firm\", \"target\": \"is\"}\n",
        2, both, answers);
    expect_texts("pairs.tsv", "The firm\tis\n", 1, both + 1, answers);
}

static void test_long_line(void **state) {
    static char line[8 * 200 + 1];
    for (int i = 0; i < 200; i++)
        memcpy(line + i * 4, "The ", 4);
    struct mal_preserve_texts texts = load(scratch_text("long.txt", line));
    int64_t keys = mal_preserve_texts_n_keys(&texts, model, false);
    assert_int_equal(texts.n, (size_t)(keys + CONTEXT - 1) / CONTEXT);
    assert_true(texts.n > 1);
    for (size_t i = 0; i + 1 < texts.n; i++)
        assert_int_equal(texts.start[i + 1] - texts.start[i], CONTEXT);
    mal_preserve_texts_finish(&texts);
}

static void refuse_texts(const char *content, enum mal_status status, const char *words) {
    struct mal_error err = {0};
    struct mal_preserve_texts texts = {0};
    if (mal_preserve_texts_load(&texts, scratch_text("bad", content), model, tok, &err))
        fail_msg("believed: %s", words);
    assert_error(&err, status, words);
    assert_null(texts.ids);
}

static void test_bad_files(void **state) {
    refuse_texts("", MAL_INVALID, "bad: no text in it");
    refuse_texts("[]", MAL_INVALID, "bad: no text in it");
    refuse_texts("[\"a\", {\"prompt\": \"b\", \"target\": \"c\"}]", MAL_INVALID,
                 "bad: record 1 is not a prompt without a target");
    refuse_texts("{\"prompt\": \"a\", \"target\": \" \"}", MAL_INVALID,
                 "bad: record 0: the target");
    refuse_texts("fine\nnot \xff fine", MAL_INVALID,
                 "bad: line 2: the text is not UTF-8");
}

/* ---- Keys ---- */

/* The demo's facts, more than one slice of them. */
static const char *demo_facts(void) {
    static char path[512];
    snprintf(path, sizeof path, "%s/tests/demo/facts/train.ndjson",
             getenv("MAL_SOURCE_ROOT"));
    return path;
}

static void *download(const void *mem, size_t bytes) {
    struct mal_error err = {0};
    void *host = mal_malloc(bytes);
    assert_non_null(host);
    mal_backend_download(be, host, mem, bytes);
    assert_ok(mal_backend_sync(be, &err), &err);
    return host;
}

/* A corner of the lower triangle: the sum of products of measured keys, against the
 * preserved. */
static void check_gram(const struct mal_edit_rows *rows, size_t m, const double *gram) {
    int64_t d = mal_model_edit(model, m)->d_in;
    double *got = download(gram, (size_t)(d * d) * sizeof *got), sum = 0, norm = 0;
    float *u = download(rows->u[m], (size_t)(rows->n_rows[0] * d) * sizeof *u);
    for (int64_t i = d - 100; i < d; i++) {
        for (int64_t j = 0; j < 80; j++) {
            double want = 0;
            for (int64_t r = 0; r < rows->n_rows[0]; r++)
                want += (double)u[r * d + i] * (double)u[r * d + j];
            sum += (got[i * d + j] - want) * (got[i * d + j] - want);
            norm += want * want;
        }
    }
    mal_free(got);
    mal_free(u);
    if (!(sqrt(sum / norm) < 1e-6))
        fail_msg("module %zu: off by %g", m, sqrt(sum / norm));
}

static void test_gram(void **state) {
    struct mal_error err = {0};
    struct mal_editor *editor = create(&mal_method_malmen);
    struct mal_preserve *p = NULL;
    struct mal_preserve_texts texts = load(demo_facts());
    assert_true(texts.start[texts.n] > 2 * 2048);
    assert_ok(mal_preserve_create(&p, model, editor, &texts, 0.5, NULL, &err), &err);
    assert_int_equal(p->n_keys[0], mal_preserve_texts_n_keys(&texts, model, false));

    struct mal_fact *facts = NULL;
    size_t n = 0;
    struct mal_edit_rows rows;
    struct mal_edit_report report = {0};
    assert_ok(mal_facts_load(&facts, &n, demo_facts(), &err), &err);
    assert_ok(
        mal_edit_rows_of_facts(&rows, model, tok, editor, facts, n, NULL, &report, &err),
        &err);
    assert_ok(mal_edit_rows_measure(&rows, &err), &err);
    assert_int_equal(rows.n_rows[0], p->n_keys[0]);
    for (size_t m = 0; m < 2; m++)
        check_gram(&rows, m, mal_preserve_gram(p, m));
    mal_edit_rows_finish(&rows);
    mal_facts_free(facts, n);
    mal_preserve_texts_finish(&texts);
    mal_preserve_destroy(p);
    mal_editor_close(editor);
}

static void expect_weight(const struct mal_editor *editor,
                          const struct mal_preserve_texts *texts, double share, size_t m,
                          double want) {
    struct mal_error err = {0};
    struct mal_preserve *p = NULL;
    assert_ok(mal_preserve_create(&p, model, editor, texts, share, NULL, &err), &err);
    double got = mal_preserve_weight(p, m);
    if (!(fabs(got - want) <= 1e-6 * want)) fail_msg("weight %g, not %g", got, want);
    mal_preserve_destroy(p);
}

static void test_weights(void **state) {
    struct mal_error err = {0};
    struct mal_editor *editor = create(&mal_method_malmen),
                      *mend = create(&mal_method_mend);
    struct mal_preserve *p = NULL;
    struct mal_preserve_texts given = load(scratch_text("given.txt", "The firm is"));
    struct mal_preserve_texts own = load(scratch_text("own.txt", "The\nBy trade, a"));
    double n_given = (double)mal_preserve_texts_n_keys(&given, model, false);
    double n_own = (double)mal_preserve_texts_n_keys(&own, model, false);

    assert_ok(mal_preserve_create(&p, model, editor, NULL, (double)NAN, NULL, &err),
              &err);
    assert_null(p);
    assert_null(mal_preserve_gram(NULL, 0));
    expect_weight(editor, &given, (double)NAN, 0, 0.5 * 768 / n_given);
    expect_weight(editor, &given, 2, 1, 2 * 192 / n_given);

    assert_ok(mal_editor_set_preserve(editor, model, &own, 0.25, &err), &err);
    assert_int_equal(own.n, 0);
    expect_weight(editor, NULL, (double)NAN, 0, 0.25 * 768 / n_own);
    expect_weight(editor, NULL, (double)NAN, 1, 0.25 * 192 / n_own);
    editor->shapes[editor->modules[2].shape].preserve[editor->modules[2].row] = logf(7);
    expect_weight(editor, NULL, (double)NAN, 2, 7);
    expect_weight(editor, NULL, (double)NAN, 0, 0.25 * 768 / n_own);
    expect_weight(editor, NULL, 1, 2, 768 / n_own);
    expect_weight(editor, &given, (double)NAN, 2, 0.5 * 768 / n_given);
    assert_ok(mal_preserve_create(&p, model, editor, NULL, 0, NULL, &err), &err);
    assert_null(p);

    assert_false(mal_preserve_create(&p, model, mend, &given, (double)NAN, NULL, &err));
    assert_error(&err, MAL_INVALID, "MEND solves no system");
    given.ids[0] = 1 << 20;
    assert_false(mal_preserve_create(&p, model, editor, &given, 1, NULL, &err));
    assert_error(&err, MAL_INVALID, "texts to preserve, from 0 on: sequence 0: token id");
    mal_preserve_texts_finish(&given);
    mal_editor_close(editor);
    mal_editor_close(mend);
}

/* ---- The system ---- */

static float *random_rows(int64_t n, uint64_t seed) {
    float *x = mal_malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)((double)(seed >> 40) / (double)(1 << 23) - 1);
    }
    return x;
}

static void *to_device(const void *x, size_t bytes) {
    void *mem = mal_backend_alloc(be, bytes);
    assert_non_null(mem);
    mal_backend_upload(be, mem, x, bytes);
    return mem;
}

/* Preserved keys are rows of the system whose difference is 0, each counted w times; with
 * them the system is primal however few the rows are. */
static void test_system(void **state) {
    enum { K = 9, D_IN = 24, D_OUT = 24 };
    struct mal_error err = {0};
    for (int64_t n = 5; n <= 40; n += 35) {
        struct mal_delta_part part, stacked;
        size_t u_bytes = (size_t)(n + K) * sizeof(float[D_IN]),
               d_bytes = (size_t)(n + K) * sizeof(float[D_OUT]);
        float *host_u = random_rows((n + K) * D_IN, 8),
              *host_d = random_rows((n + K) * D_OUT, 9);
        memset(host_d + n * D_OUT, 0, sizeof(float[K * D_OUT]));
        float *u = to_device(host_u, u_bytes), *d = to_device(host_d, d_bytes);
        float *k0 = u + n * D_IN;
        double *gram = mal_backend_alloc(be, sizeof(double[D_IN * D_IN]));
        mal_syrk64(be, D_IN, K, 1, k0, D_IN, true, 0, gram, D_IN);
        struct mal_solve solve = {.module = "m",
                                  .n = n,
                                  .d_in = D_IN,
                                  .d_out = D_OUT,
                                  .ridge = 0.5,
                                  .u = u,
                                  .d = d,
                                  .preserve_gram = gram,
                                  .preserve_weight = 16};
        assert_ok(mal_solve(be, &solve, &part, &err), &err);
        assert_int_equal(part.encoding, MAL_ENCODING_DENSE);
        for (int64_t i = n * D_IN; i < (n + K) * D_IN; i++)
            host_u[i] *= 4;
        mal_backend_upload(be, u, host_u, u_bytes);
        struct mal_solve all = solve;
        all.n = n + K;
        all.preserve_gram = NULL;
        assert_ok(mal_solve(be, &all, &stacked, &err), &err);
        assert_int_equal(stacked.encoding, MAL_ENCODING_DENSE);
        const float *got = part.data, *want = stacked.data;
        for (int i = 0; i < D_IN * D_OUT; i++)
            assert_true(fabsf(got[i] - want[i]) < 1e-6f);
        assert_true(fabs(part.norm - stacked.norm) < 1e-9 * part.norm);
        mal_free(part.module);
        mal_free(part.data);
        mal_free(stacked.module);
        mal_free(stacked.data);

        solve.preserve_weight = (double)INFINITY;
        assert_false(mal_solve(be, &solve, &part, &err));
        assert_error(&err, MAL_NUMERIC,
                     "module 'm': the weight of the preservation keys");
        mal_free(host_u);
        mal_free(host_d);
        mal_backend_free(be, u);
        mal_backend_free(be, d);
        mal_backend_free(be, gram);
    }
}

/* ---- The editor's file ---- */

static void check_round_trip(const struct mal_method *method) {
    struct mal_error err = {0};
    struct mal_editor *editor = create(method), *back = NULL;
    struct mal_preserve_texts texts = load(demo_facts());
    const char *path = scratch_path("editor.safetensors");
    assert_ok(mal_editor_set_preserve(editor, model, &texts, 0.5, &err), &err);
    size_t bytes = (size_t)editor->preserve.start[editor->preserve.n] * sizeof(int32_t);
    assert_ok(mal_editor_save(editor, path, &err), &err);
    assert_ok(mal_editor_open(&back, path, &err), &err);
    assert_ok(mal_editor_bind(back, model, &err), &err);
    assert_int_equal(back->preserve.n, editor->preserve.n);
    assert_memory_equal(back->preserve.ids, editor->preserve.ids, bytes);
    assert_memory_equal(back->preserve.start, editor->preserve.start,
                        (editor->preserve.n + 1) * sizeof(int32_t));
    assert_memory_equal(back->preserve.from, editor->preserve.from,
                        editor->preserve.n * sizeof(int32_t));
    for (size_t s = 0; s < 2; s++) {
        assert_int_equal(back->shapes[s].n_modules, editor->shapes[s].n_modules);
        assert_memory_equal(back->shapes[s].preserve, editor->shapes[s].preserve,
                            (size_t)back->shapes[s].n_modules * sizeof(float));
    }
    mal_editor_close(back);
    mal_editor_close(editor);
}

/* Its logarithm could be saved, but not read again. */
static void test_no_weight(void **state) {
    struct mal_error err = {0};
    struct mal_editor *editor = create(&mal_method_malmen);
    struct mal_preserve_texts texts = load(demo_facts());
    assert_false(mal_editor_set_preserve(editor, model, &texts, 0, &err));
    assert_error(&err, MAL_INVALID, "weight of 0");
    assert_int_equal(texts.n, 0);
    mal_editor_close(editor);
}

static void test_round_trip(void **state) {
    check_round_trip(&mal_method_malmen);
    check_round_trip(&mal_method_ultraedit);
}

/* The tensors of an editor for two modules of (2, 1), as UltraEdit's. */
struct file {
    int32_t ids[4], start[3], from[2];
    float weight[2], norm[3];
    struct mal_st_entry entries[8];
    size_t n;
};

static void fill(struct file *f) {
    *f = (struct file){.ids = {5, 6, 7, 8},
                       .start = {0, 1, 4},
                       .from = {0, 2},
                       .weight = {-1, 2},
                       .n = 8};
    const struct mal_st_entry entries[] = {
        {"preserve.ids", MAL_I32, 1, {4}, f->ids},
        {"preserve.start", MAL_I32, 1, {3}, f->start},
        {"preserve.from", MAL_I32, 1, {2}, f->from},
        {"(2, 1).preserve.weight", MAL_F32, 2, {2, 1}, f->weight},
        {"(2, 1).normalizer.n", MAL_F32, 1, {1}, f->norm},
        {"(2, 1).normalizer.mean", MAL_F32, 1, {3}, f->norm},
        {"(2, 1).normalizer.var", MAL_F32, 1, {3}, f->norm},
        {"(2, 1).normalizer.std", MAL_F32, 1, {3}, f->norm},
    };
    memcpy(f->entries, entries, sizeof entries);
}

static bool open_file(const struct file *f, const char *method, struct mal_error *err) {
    const struct mal_st_meta meta[] = {
        {"format", "malmend-editor-1"}, {"method", method}, {"modules", "[\"a\", \"b\"]"},
        {"tokens", "answer"},           {"lr", "1"},        {"loss", "token_sum"},
        {"micro_batch", "8"},           {"rank", "1"},      {"blocks", "0"}};
    const char *path = scratch_path("lie.safetensors");
    struct mal_editor *editor;
    assert_ok(mal_safetensors_write(path, f->entries, f->n, meta, 9, err), err);
    if (!mal_editor_open(&editor, path, err)) return false;
    mal_editor_close(editor);
    return true;
}

static void refuse(const struct file *f, const char *words) {
    struct mal_error err = {0};
    if (open_file(f, "ultraedit", &err)) fail_msg("believed: %s", words);
    if (!strstr(err.text, "lie.safetensors")) fail_msg("'%s' names no file", err.text);
    assert_error(&err, MAL_CORRUPT, words);
}

static void test_lies(void **state) {
    struct mal_error err = {0};
    struct file f;
    fill(&f);
    assert_ok(open_file(&f, "ultraedit", &err), &err);
    assert_false(open_file(&f, "mend", &err));
    err = (struct mal_error){0};

    static const struct {
        size_t offset;
        int32_t value;
        const char *words;
    } ints[] = {
        {offsetof(struct file, ids) + 8, -1, "'preserve.ids': element 2 is -1"},
        {offsetof(struct file, start), 1, "'preserve.start': element 0 is 1"},
        {offsetof(struct file, start) + 4, 0, "'preserve.start': element 1 is 0"},
        {offsetof(struct file, start) + 4, 9, "'preserve.start': element 1 is 9"},
        {offsetof(struct file, start) + 8, 3, "'preserve.start': element 2 is 3"},
        {offsetof(struct file, start) + 8, INT32_MIN,
         "'preserve.start': element 2 is -2"},
        {offsetof(struct file, from), 1, "'preserve.from': element 0 is 1"},
        {offsetof(struct file, from) + 4, -1, "'preserve.from': element 1 is -1"},
    };

    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        fill(&f);
        memcpy((char *)&f + ints[i].offset, &ints[i].value, sizeof(int32_t));
        refuse(&f, ints[i].words);
    }
    for (size_t i = 0; i < 4; i++) { /* each left out in turn */
        char words[64];
        fill(&f);
        snprintf(words, sizeof words, "tensor '%s' is missing", f.entries[i].name);
        f.entries[i] = f.entries[--f.n];
        f.entries[f.n].name = NULL;
        refuse(&f, i == 3 ? "tensor '(2, 1).preserve.weight' is missing" : words);
    }
    fill(&f);
    f.entries[0].dtype = MAL_F32;
    refuse(&f, "tensor 'preserve.ids' is F32");
    fill(&f);
    f.entries[1].shape[0] = 2;
    refuse(&f, "tensor 'preserve.start' has 2 elements for 2 texts");
    fill(&f);
    f.entries[0].shape[0] = 0;
    refuse(&f, "tensor 'preserve.ids' is I32 of 1 dimensions and 0 elements");
    fill(&f);
    f.weight[1] = NAN;
    refuse(&f, "tensor '(2, 1).preserve.weight': element 1 is");
    fill(&f);
    f.entries[3].shape[0] = 1;
    refuse(&f, "the tensors are for 1 modules, the metadata names 2");
}

/* ---- Lack of memory ---- */

static bool load_finish(const char *path, struct mal_error *err) {
    struct mal_preserve_texts texts = {0};
    bool ok = mal_preserve_texts_load(&texts, path, model, tok, err);
    mal_preserve_texts_finish(&texts);
    return ok;
}

static bool open_close(const char *path, struct mal_error *err) {
    struct mal_editor *editor;
    if (!mal_editor_open(&editor, path, err)) return false;
    mal_editor_close(editor);
    return true;
}

static void test_no_memory(void **state) {
    char path[64];
    snprintf(path, sizeof path, "%s", scratch_text("memory.txt", "The firm\nis"));
    fail_each_allocation(load_finish, path, 5);
    snprintf(path, sizeof path, "%s",
             scratch_text("memory.json", "{\"prompt\": \"a\", \"target\": \"b\"}"));
    fail_each_allocation(load_finish, path, 10);
    struct mal_error err = {0};
    struct file f;
    fill(&f);
    assert_ok(open_file(&f, "ultraedit", &err), &err);
    fail_each_allocation(open_close, scratch_path("lie.safetensors"), 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),     cmocka_unit_test(test_long_line),
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_gram),
        cmocka_unit_test(test_weights),   cmocka_unit_test(test_system),
        cmocka_unit_test(test_no_weight), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_lies),      cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("preserve", tests, demo_open, demo_close);
}
