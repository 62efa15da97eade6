/* test_model_tensors.c - checkpoints in the forms in which transformers reads them:
 * names, types, shards, tensors too many and too few. */
#include "variants.h"

#include "each_model.h"
#include "no_memory.h"

static const struct random_model *made; /* what `model` was made of */

static void begin(void **state) {
    made = each[*(const size_t *)*state].made;
    random_tensors_free(&tensors);
    random_tensors_of(&tensors, made);
}

static bool starts_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool is_tied(void) {
    return made->family == RANDOM_GPT2 || made->family == RANDOM_LLAMA3 ||
           made->family == RANDOM_QWEN2 || made->family == RANDOM_T5_ORIGINAL ||
           made->family == RANDOM_GEMMA || made->family == RANDOM_GEMMA2 ||
           made->family == RANDOM_GEMMA3 || made->family == RANDOM_SMOLLM3;
}

static const char *embeddings(void) {
    switch (made->family) {
    case RANDOM_GPT2: return "wte.weight";
    case RANDOM_GPTJ: return "transformer.wte.weight";
    case RANDOM_T5:
    case RANDOM_T5_ORIGINAL: return "shared.weight";
    default: return "model.embed_tokens.weight";
    }
}

/* ---- Too many, too few ---- */

static const char t5_cross_bias[] =
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

static void test_superfluous(void **state) {
    static const char *const names[] = {
        "h.0.attn.bias", "h.0.attn.masked_bias", "embeddings.position_ids",
        "layers.0.self_attn.rotary_emb.inv_freq", t5_cross_bias};
    begin(state);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char full[RANDOM_NAME];
        snprintf(full, sizeof full, "%s%s", model->prefix.backbone, names[i]);
        random_tensor(&tensors, full, 3, 5, 0, 1);
    }
    random_tensor(&tensors, "cls.predictions.bias", 0, 7, 0, 1);
    if (is_tied()) copy_entry(embeddings(), "lm_head.weight", 0);
    const char *dir = save_variant(made, "{}");
    struct mal_model *opened = open_dir(dir);
    assert_int_equal(opened->info.n_parameters, model->info.n_parameters);
    mal_model_close(opened);
    expect_same(dir, model, 0);
}

/* What transformers does without, or makes of others. */
static bool is_dispensable(const char *name) {
    if (made->family == RANDOM_BERT && strstr(name, "pooler")) return true;
    if (made->family == RANDOM_T5 && strcmp(name, "lm_head.weight") == 0) return true;
    if (made->family == RANDOM_T5 && strcmp(name, "shared.weight") == 0) return true;
    return strcmp(name, "classifier.weight") == 0;
}

static void test_absent(void **state) {
    begin(state);
    size_t n = tensors.n, refused = 0;
    for (size_t i = 0; i < n; i++) {
        char name[RANDOM_NAME];
        random_tensors_free(&tensors);
        random_tensors_of(&tensors, made);
        snprintf(name, sizeof name, "%s", tensors.names[i]);
        if (is_dispensable(name)) continue;
        drop_entry(i);
        const char *const words[] = {name, "model.safetensors", "missing"};
        expect_refused(save_variant(made, "{}"), words, 3);
        refused++;
    }
    assert_true(refused > 8 && n - refused <= 4);
}

/* A classifier without its head has hidden states, and nothing else. */
static void test_headless(void **state) {
    begin(state);
    if (!is_classifier()) return;
    drop_named("classifier.weight");
    struct mal_model *with = model;
    model = open_dir(save_variant(made, "{}"));
    struct mal_error err = {0};
    int32_t ids[] = {1, 2, 3};
    float hidden[3 * 12], want[3 * 12], out[8];
    assert_int_equal(model->info.n_outputs, 0);
    assert_ok(mal_model_hidden(model, ids, 3, hidden, &err), &err);
    assert_ok(mal_model_hidden(with, ids, 3, want, &err), &err);
    assert_memory_equal(hidden, want, (size_t)(3 * made->channels) * sizeof *want);
    assert_false(mal_model_logits(model, NULL, 0, ids, 3, out, &err));
    assert_error(&err, MAL_INVALID, "classifier.weight");
    struct values w = edit("", 0, 0);
    struct made_batch *b = make_batch(&whole, false);
    for (int32_t i = 0; i < MAX_IDS; i++)
        b->labels[i] = -1;
    const struct mal_learn learn = {.loss_scale = 1};
    struct mal_measure measure = {.loss_scale = 1};
    assert_false(mal_model_learn(model, &b->batch, &learn, &err));
    assert_error(&err, MAL_INVALID, "classifier.weight");
    assert_false(mal_model_measure(model, &b->batch, &measure, &err));
    assert_error(&err, MAL_INVALID, "classifier.weight");
    mal_free(b);
    no_edits(&w);
    mal_model_close(model);
    model = with;
}

/* ---- The head ---- */

/* Another head beside tied embeddings stands; the same is no second one (above). */
static void check_tied_head(void) {
    const char *const words[] = {"lm_head.weight", "missing"};
    copy_entry(embeddings(), "lm_head.weight", 0.5f);
    const char *dir = save_variant(made, "{}");
    expect_other(dir, model);
    struct mal_model *own = open_dir(dir);
    expect_same(save_variant(made, "{\"tie_word_embeddings\": false,"
                                   " \"scale_decoder_outputs\": true}"),
                own, 0);
    mal_model_close(own);
    drop_named("lm_head.weight");
    if (is_seq2seq()) return;
    expect_refused(save_variant(made, "{\"tie_word_embeddings\": false}"), words, 2);
}

/* Where it is missing the embeddings do, if they are tied. */
static void check_own_head(void) {
    static const char tie[] = "{\"tie_word_embeddings\": true,"
                              " \"scale_decoder_outputs\": false}";
    expect_same(save_variant(made, tie), model, 0);
    drop_named("lm_head.weight");
    struct mal_model *tied = open_dir(save_variant(made, tie));
    copy_entry(embeddings(), "lm_head.weight", 0);
    expect_same(save_variant(made, "{}"), tied, 0);
    mal_model_close(tied);
}

static void test_head(void **state) {
    begin(state);
    if (is_classifier()) return;
    if (is_tied())
        check_tied_head();
    else
        check_own_head();
}

/* T5's embeddings by any of their names. */
static void test_embeddings(void **state) {
    begin(state);
    if (!is_seq2seq()) return;
    copy_entry("shared.weight", "encoder.embed_tokens.weight", 0);
    copy_entry("shared.weight", "decoder.embed_tokens.weight", 0);
    expect_same(save_variant(made, "{}"), model, 0);
    drop_named("shared.weight");
    expect_same(save_variant(made, "{}"), model, 0);
    drop_named("encoder.embed_tokens.weight");
    expect_same(save_variant(made, "{}"), model, 0);
    drop_named("decoder.embed_tokens.weight");
    if (is_tied()) {
        const char *const words[] = {"shared.weight", "model.safetensors"};
        expect_refused(save_variant(made, "{}"), words, 2);
    }
}

/* ---- Names ---- */

/* Every tensor's prefix is another one, where it has one. */
static void change_prefix(const char *from, const char *to) {
    char name[RANDOM_NAME + 16];
    for (size_t i = 0; i < tensors.n; i++) {
        if (starts_with(tensors.names[i], "lm_head.") ||
            starts_with(tensors.names[i], "classifier.") ||
            !starts_with(tensors.names[i], from)) {
            continue;
        }
        snprintf(name, sizeof name, "%s%s", to, tensors.names[i] + strlen(from));
        snprintf(tensors.names[i], RANDOM_NAME, "%.*s", RANDOM_NAME - 1, name);
    }
}

static void test_prefixes(void **state) {
    begin(state);
    switch (made->family) {
    case RANDOM_GPT2: change_prefix("", "transformer."); break;
    case RANDOM_GPTJ: change_prefix("transformer.", ""); break;
    case RANDOM_BERT_LABELS: change_prefix("bert.", ""); break;
    case RANDOM_LLAMA:
    case RANDOM_LLAMA3:
    case RANDOM_MISTRAL:
    case RANDOM_QWEN2:
    case RANDOM_QWEN3:
    case RANDOM_OLMO2:
    case RANDOM_SMOLLM3:
    case RANDOM_GEMMA:
    case RANDOM_GEMMA2:
    case RANDOM_GEMMA3: change_prefix("model.", ""); break;
    default: return;
    }
    const char *dir = save_variant(made, "{}");
    expect_same(dir, model, 0);
    struct mal_model *opened = open_dir(dir);
    for (size_t i = 0; i < model->n_linears; i++) {
        const char *name = model->linears[i]->name;
        assert_int_equal(mal_model_find_linear(opened, name)->d_in,
                         model->linears[i]->d_in);
    }
    mal_model_close(opened);
}

static void test_old_norms(void **state) {
    begin(state);
    if (!is_classifier()) return;
    for (size_t i = 0; i < tensors.n; i++) {
        char *at = strstr(tensors.names[i], "LayerNorm.");
        if (!at) continue;
        at += strlen("LayerNorm.");
        strcpy(at, strcmp(at, "weight") == 0 ? "gamma" : "beta");
    }
    expect_same(save_variant(made, "{}"), model, 0);
}

/* ---- Types ---- */

/* Rounds every tensor to one of the types, taken in turn; `stored`: keeps it so. */
static void convert(const enum mal_dtype *dtypes, size_t n_dtypes, bool stored) {
    for (size_t i = 0; i < tensors.n; i++) {
        struct mal_st_entry *e = &tensors.entries[i];
        enum mal_dtype dtype = dtypes[i % n_dtypes];
        size_t n = (size_t)(e->shape[0] * (e->n_dims == 2 ? e->shape[1] : 1));
        float *x = (float *)(uintptr_t)e->data;
        void *narrow = mal_malloc(n * mal_dtype_size(dtype));
        mal_from_f32(narrow, x, dtype, n);
        if (stored) {
            mal_free(x);
            e->data = narrow;
            e->dtype = dtype;
        } else {
            mal_to_f32(x, narrow, dtype, n);
            mal_free(narrow);
        }
    }
}

/* Weights in 16 bits, and in 32 bits the same numbers. */
static void test_types(void **state) {
    static const enum mal_dtype mixture[] = {MAL_F16, MAL_F32, MAL_BF16, MAL_BF16};

    static const struct {
        const enum mal_dtype *dtypes;
        size_t n;
        enum mal_dtype most;
    } cases[] = {{mixture, 1, MAL_F16},
                 {mixture + 2, 1, MAL_BF16},
                 {mixture + 1, 1, MAL_F32},
                 {mixture, 4, MAL_BF16}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        begin(state);
        convert(cases[i].dtypes, cases[i].n, false);
        struct mal_model *wide = open_dir(save_variant(made, "{}"));
        random_tensors_free(&tensors);
        random_tensors_of(&tensors, made);
        convert(cases[i].dtypes, cases[i].n, true);
        const char *dir = save_variant(made, "{\"torch_dtype\": \"float32\"}");
        struct mal_model *narrow = open_dir(dir);
        wide->tokens_scale = narrow->tokens_scale; /* rounded as the embeddings are */
        expect_same(dir, wide, 2e-5);
        if (cases[i].n == 1) assert_int_equal(narrow->info.dtype, cases[i].most);
        mal_model_close(narrow);
        mal_model_close(wide);
    }
}

/* In doubles, as the numbers are: the same bits. */
static void test_doubles(void **state) {
    begin(state);
    for (size_t i = 0; i < tensors.n; i++) {
        struct mal_st_entry *e = &tensors.entries[i];
        size_t n = (size_t)(e->shape[0] * (e->n_dims == 2 ? e->shape[1] : 1));
        const float *x = e->data;
        double *y = mal_malloc(n * sizeof *y);
        for (size_t k = 0; k < n; k++)
            y[k] = (double)x[k];
        mal_free((void *)(uintptr_t)x);
        e->data = y;
        e->dtype = MAL_F64;
    }
    const char *dir = save_variant(made, "{}");
    expect_same(dir, model, 0);

    /* They are read, not edited. */
    struct mal_error err = {0};
    struct mal_model *wide = open_dir(dir);
    const struct mal_linear *lin = mal_model_linear(wide, 0);
    assert_false(mal_model_set_default_edits(wide, &err));
    assert_error(&err, MAL_INVALID, "is F64 in the checkpoint");
    if (lin->own_bias) {
        const char *bias = lin->own_bias->name;
        err = (struct mal_error){0};
        assert_false(mal_model_set_edits(wide, &bias, 1, &err));
        assert_error(&err, MAL_INVALID, bias);
    }
    assert_int_equal(mal_model_n_edited(wide), 0);
    mal_model_close(wide);
}

/* Of no tensor that is read, which all are but for a pooler that is not asked. */
static void test_not_finite(void **state) {
    static const enum mal_dtype dtypes[] = {MAL_F32, MAL_F16, MAL_BF16};

    begin(state);
    for (size_t i = 0; i < tensors.n; i++) {
        struct mal_st_entry *e = &tensors.entries[i];
        size_t last = (size_t)(e->shape[0] * (e->n_dims == 2 ? e->shape[1] : 1)) - 1;
        char name[RANDOM_NAME], where[64];
        if (made->family == RANDOM_BERT && strstr(tensors.names[i], "pooler")) continue;
        snprintf(name, sizeof name, "tensor '%s'", tensors.names[i]);
        snprintf(where, sizeof where, "NaN or infinite value, element %zu", last);
        float *x = (float *)(uintptr_t)e->data, kept = x[last];
        x[last] = i % 2 ? NAN : INFINITY;
        void *narrow = mal_malloc((last + 1) * sizeof *x);
        e->data = narrow;
        e->dtype = dtypes[i % 3];
        mal_from_f32(narrow, x, e->dtype, last + 1);
        expect_refused(save_variant(made, "{}"),
                       (const char *const[]){name, where, "model.safetensors"}, 3);
        mal_free(narrow);
        e->data = x;
        e->dtype = MAL_F32;
        x[last] = kept;
    }
}

/* ---- Shards ---- */

static void test_shards(void **state) {
    enum { SHARDS = 3 };
    static struct random_tensors part;
    struct mal_error err = {0};
    char path[128], file[64];
    begin(state);
    const char *dir = save_variant(made, "{}");
    json_t *map = json_object(), *index = json_object();
    for (size_t s = 0; s < SHARDS; s++) {
        part.n = 0;
        snprintf(file, sizeof file, "model-%05zu-of-%05d.safetensors", s + 1, SHARDS);
        for (size_t i = s; i < tensors.n; i += SHARDS) {
            part.entries[part.n++] = tensors.entries[i];
            json_object_set_new(map, tensors.names[i], json_string(file));
        }
        snprintf(path, sizeof path, "%s/%s", dir, file);
        assert_ok(mal_safetensors_write(scratch_path(path), part.entries, part.n, NULL, 0,
                                        &err),
                  &err);
    }
    json_object_set_new(index, "weight_map", map);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    assert_int_equal(json_dump_file(index, scratch_path(path), 0), 0);
    json_decref(index);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(remove(scratch_path(path)), 0);
    expect_same(dir, model, 0);
}

/* ---- Memory ---- */

static bool opens(const char *path, struct mal_error *err) {
    struct mal_model *opened = NULL;
    if (!mal_model_open(&opened, path, test_backend(), err)) return false;
    mal_model_close(opened);
    return true;
}

/* jansson's own allocations have their turn elsewhere: where one fails as a name's last
 * byte is read, it writes past its buffer. */
static void test_no_memory(void **state) {
    begin(state);
    mal_json_guard();
    json_set_alloc_funcs(malloc, free);
    fail_each_allocation(opens, scratch_path(save_variant(made, "{}")), 20);
}

int main(void) {
    const struct model_test tests[] = {
        {"superfluous", test_superfluous}, {"absent", test_absent},
        {"headless", test_headless},       {"head", test_head},
        {"embeddings", test_embeddings},   {"prefixes", test_prefixes},
        {"old norms", test_old_norms},     {"types", test_types},
        {"doubles", test_doubles},         {"not finite", test_not_finite},
        {"shards", test_shards},           {"no memory", test_no_memory},
    };
    int failed = run_each("model_tensors", tests, sizeof tests / sizeof *tests);
    random_tensors_free(&tensors);
    return failed;
}
