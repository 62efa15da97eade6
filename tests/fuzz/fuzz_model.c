/* fuzz_model.c - a hostile config.json beside the weights of a small model of each kind,
 * which the first byte chooses. What opens answers a few tokens, or says why not. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/model/generate.h"
#include "core/model/model.h"
#include "core/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char *const cases[] = {
    "gpt2-malmen",  "gptj-malmen", "llama-malmen",  "mistral-mend",
    "qwen2-malmen", "t5-malmen",   "bert-malmen",   "llama3-ultraedit-sequential",
    "qwen3-malmen", "phi3-malmen", "gemma2-malmen", "gemma3-malmen",
    "olmo2-malmen"};

enum { N_CASES = sizeof cases / sizeof *cases };

static struct mal_backend *be;
static char dirs[N_CASES][64], *configs[N_CASES], *weights[N_CASES];
static struct mal_tokenizer *toks[N_CASES];

static void must(bool ok) {
    if (!ok) abort();
}

static char *in_dir(size_t i, const char *name) {
    char *path = mal_file_join(dirs[i], name);
    must(path);
    return path;
}

static void clean(void) {
    for (size_t i = 0; i < N_CASES; i++) {
        unlink(configs[i]);
        unlink(weights[i]);
        rmdir(dirs[i]);
    }
}

static void prepare(void) {
    struct mal_error err = {0};
    must(mal_backend_create(&be, "cpu", &err));
    for (size_t i = 0; i < N_CASES; i++) {
        char model[512];
        snprintf(model, sizeof model, "%s/tests/golden/cases/%s/model", MAL_SOURCE_ROOT,
                 cases[i]);
        snprintf(dirs[i], sizeof dirs[i], "%s/malmend-fuzz-%ld-%zu",
                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (long)getpid(), i);
        char *from = mal_file_join(model, "model.safetensors");
        must(from && mkdir(dirs[i], 0700) == 0);
        configs[i] = in_dir(i, "config.json");
        weights[i] = in_dir(i, "model.safetensors");
        must(symlink(from, weights[i]) == 0);
        must(mal_tokenizer_open(&toks[i], model, &err));
        mal_free(from);
    }
    atexit(clean);
}

static void check_refusal(const struct mal_error *err) {
    assert(err->text[0]);
    assert(err->status == MAL_CORRUPT || err->status == MAL_INVALID ||
           err->status == MAL_NOT_FOUND || err->status == MAL_TOO_LARGE ||
           err->status == MAL_NUMERIC);
}

/* Weights of another shape than these have are refused before; numbers may be any. */
static void use(struct mal_model *model, const struct mal_tokenizer *tok) {
    const struct mal_model_info *info = mal_model_info(model);
    struct mal_error err = {0};
    assert(info->n_layers > 0 && info->n_channels > 0 && info->n_vocab > 0);
    if (!mal_model_set_default_edits(model, &err)) check_refusal(&err);
    if (info->kind == MAL_MODEL_CLASSIFIER || info->n_outputs == 0) return;
    struct mal_ids ids = {0};
    err = (struct mal_error){0};
    must(mal_tokenizer_encode(tok, "a b", 3, true, &ids, &err) && ids.n > 0);
    for (size_t i = 0; i < ids.n; i++) {
        if (ids.ids[i] >= info->n_vocab) ids.ids[i] = 0;
    }
    struct mal_generation gen = {
        .prompt = ids.ids, .n_prompt = ids.n, .max_tokens = 2, .top_p = 1};
    bool fits = info->n_context == 0 || (int64_t)ids.n < info->n_context;
    if (fits && mal_generate(model, tok, &gen, 1, NULL, NULL, &err)) {
        assert(gen.n_ids <= 2);
    } else if (fits) {
        check_refusal(&err);
    }
    mal_generation_finish(&gen);
    mal_ids_finish(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (!be) prepare();
    if (bytes < 1) return 0;
    size_t i = data[0] % N_CASES;
    FILE *file = fopen(configs[i], "wb");
    if (!file) abort();
    fwrite(data + 1, 1, bytes - 1, file);
    fclose(file);
    struct mal_model *model = NULL;
    struct mal_error err = {0};
    if (mal_model_open(&model, dirs[i], be, &err)) {
        use(model, toks[i]);
        mal_model_close(model);
    } else {
        assert(!model);
        check_refusal(&err);
    }
    return 0;
}
