/* test_generate.c - what is generated against transformers' greedy generation, case by
 * case: alone, and all of a case together. */
#include "logit_cases.h"

#include "core/model/generate.h"

enum { MAX_GENERATED = 8 };

struct wanted {
    int32_t *prompt, *ids;
    int64_t n_prompt, n;
};

/* Of the model, or any, since only ids are compared. */
static struct mal_tokenizer *open_tokenizer(const struct logit_case *c,
                                            const struct logit_files *files) {
    char path[3 * GOLDEN_PATH];
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    snprintf(path, sizeof path, "%s/tokenizer.json", files->model_dir);
    bool own = golden_exists(path);
    snprintf(path, sizeof path, "%s/gpt2-malmen/model", c->root);
    assert_done(mal_tokenizer_open(&tok, own ? files->model_dir : path, &err), &err);
    return tok;
}

static void check_together(const struct logit_files *files,
                           const struct mal_tokenizer *tok, const struct wanted *wanted,
                           size_t n) {
    struct mal_generation gens[MAX_GENERATED];
    struct mal_error err = {0};
    for (size_t i = 0; i < n; i++) {
        gens[i] = (struct mal_generation){.prompt = wanted[i].prompt,
                                          .n_prompt = (size_t)wanted[i].n_prompt,
                                          .max_tokens = wanted[i].n,
                                          .top_p = 1};
    }
    assert_done(mal_generate(files->model, tok, gens, n, NULL, NULL, &err), &err);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(gens[i].n_ids, wanted[i].n);
        assert_memory_equal(gens[i].ids, wanted[i].ids,
                            (size_t)wanted[i].n * sizeof *gens[i].ids);
        mal_generation_finish(&gens[i]);
    }
}

static void test_case(void **state) {
    const struct logit_case *c = *state;
    struct logit_files files;
    struct wanted wanted[MAX_GENERATED] = {{0}};
    char name[64];
    logit_case_open(c, &files);
    struct mal_tokenizer *tok = open_tokenizer(c, &files);
    const json_t *which = json_object_get(files.json, "generated");
    size_t n = json_array_size(which);
    assert_true(n > 0 && n <= MAX_GENERATED);
    for (size_t i = 0; i < n; i++) {
        int k = (int)json_integer_value(json_array_get(which, i));
        snprintf(name, sizeof name, "ids.%d", k);
        wanted[i].prompt = golden_raw(files.tensors, name, &wanted[i].n_prompt);
        snprintf(name, sizeof name, "generate.%d", k);
        wanted[i].ids = golden_raw(files.tensors, name, &wanted[i].n);
        check_together(&files, tok, &wanted[i], 1);
    }
    check_together(&files, tok, wanted, n);
    for (size_t i = 0; i < n; i++) {
        free(wanted[i].prompt);
        free(wanted[i].ids);
    }
    mal_tokenizer_close(tok);
    logit_case_close(&files);
}

int main(void) {
    return logit_cases_run("generate", "generated", test_case);
}
