/* demo_editor.h - the demo model's editor, and the texts of its first heldout facts. */
#ifndef MAL_TEST_DEMO_EDITOR_H
#define MAL_TEST_DEMO_EDITOR_H

#include "demo_model.h"

#include "core/editor/edit_rows.h"

static struct mal_editor *editor;
static struct mal_fact *facts;
static size_t n_facts, n_texts;
static struct mal_example *texts; /* (n_texts) */

static inline const char *demo_file(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/tests/demo/%s", getenv("MAL_SOURCE_ROOT"), name);
    return path;
}

static inline int open_demo_editor(void **state, size_t n) {
    struct mal_error err = {0};
    int code = demo_open(state);
    assert_ok(mal_editor_open(&editor, demo_file("editor.safetensors"), &err), &err);
    assert_ok(mal_editor_bind(editor, model, &err), &err);
    assert_ok(mal_facts_load(&facts, &n_facts, demo_file("facts/heldout.ndjson"), &err),
              &err);
    assert_ok(mal_examples_of_facts(model, tok, facts, n, &texts, &n_texts, &err), &err);
    assert_int_equal(n_texts, n);
    return code;
}

static inline int close_demo_editor(void **state) {
    mal_examples_free(texts, n_texts);
    mal_facts_free(facts, n_facts);
    mal_editor_close(editor);
    return demo_close(state);
}

#endif
