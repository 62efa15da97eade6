/* demo_model.h - the demo model with its tokenizer, for a group of tests that needs a
 * model which knows something. */
#ifndef MAL_TEST_DEMO_MODEL_H
#define MAL_TEST_DEMO_MODEL_H

#include "scratch.h"

#include "core/model/model.h"
#include "core/tokenizer/tokenizer.h"
#include "test_device.h"

static struct mal_backend *be;
static struct mal_model *model;
static struct mal_tokenizer *tok;

static inline int demo_open(void **state) {
    char dir[512];
    struct mal_error err = {0};
    snprintf(dir, sizeof dir, "%s/tests/demo/model", getenv("MAL_SOURCE_ROOT"));
    assert_ok(mal_backend_create(&be, test_device(), &err), &err);
    assert_ok(mal_model_open(&model, dir, be, &err), &err);
    assert_ok(mal_tokenizer_open(&tok, dir, &err), &err);
    return scratch_make(state);
}

static inline int demo_close(void **state) {
    mal_tokenizer_close(tok);
    mal_model_close(model);
    mal_backend_destroy(be);
    return scratch_remove(state);
}

#endif
