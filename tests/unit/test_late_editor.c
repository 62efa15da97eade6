/* test_late_editor.c - an editor made on the first batch is there whole, or not at all.
 */
#include "scratch.h"

#include <math.h>

#include "daemon/engine/engine_impl.h"

static struct mal_engine *engine;
static struct mal_fact *facts;
static size_t n_facts;

/* A model's directory whose files are the golden one's. */
static void link_model(void) {
    char dir[600], from[1200], to[1200];
    snprintf(dir, sizeof dir, "%s/gpt2-malmen/model", golden_dir());
    DIR *files = opendir(dir);
    assert_non_null(files);
    scratch_mkdir("model");
    for (struct dirent *entry; (entry = readdir(files));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(from, sizeof from, "%s/%s", dir, entry->d_name);
        snprintf(to, sizeof to, "%s/%s", scratch_path("model"), entry->d_name);
        assert_int_equal(symlink(from, to), 0);
    }
    closedir(files);
}

static int open_all(void **state) {
    char path[600];
    struct mal_error err = {0};
    const double no = (double)NAN;
    if (scratch_make(state)) return -1;
    link_model();
    snprintf(path, sizeof path, "%s/gpt2-malmen/facts.json", golden_dir());
    assert_ok(mal_facts_load(&facts, &n_facts, path, &err), &err);
    struct mal_engine_options options = {
        .model_dir = scratch_path("model"),
        .read_stream = "off",
        .cache_path = scratch_path("editor.safetensors"),
        .device = "cpu",
        .preserve = scratch_text("texts.txt", "a b c d e\nf g h i\n"),
        .preserve_weight = 1};
    mal_gate_init(&options.gate,
                  &(struct mal_gate_limits){no, no, no, no, no, 1, NULL, false});
    assert_ok(mal_engine_open(&engine, &options, &err), &err);
    return 0;
}

static int close_all(void **state) {
    mal_engine_close(engine);
    mal_facts_free(facts, n_facts);
    return scratch_remove(state);
}

static bool make(struct mal_error *err) {
    struct mal_instant_report report = {0};
    struct mal_progress progress = {0};
    return mal_engine_make_editor(engine, facts, 2, &progress, &report, err);
}

/* One of the files that words are read by cannot be read when all else is done. */
static void test_failure(void **state) {
    struct mal_error err = {0};
    scratch_mkdir("model/vocab.txt");
    assert_false(make(&err));
    assert_error(&err, MAL_IO, "vocab.txt");
    assert_null(mal_engine_editor(engine));
    assert_false(engine->norms || engine->preserve || *engine->editor_hash);
    assert_int_equal(rmdir(scratch_path("model/vocab.txt")), 0);
    err = (struct mal_error){0};
    assert_ok(make(&err), &err);
    assert_non_null(mal_engine_editor(engine));
    assert_true(engine->norms && engine->preserve && *engine->basis);
    assert_true(isfinite(engine->base_perplexity));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_failure)};
    return cmocka_run_group_tests_name("late editor", tests, open_all, close_all);
}
