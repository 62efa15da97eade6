/* test_editor.c - editors made, written, read back and tied to a model; files that lie.
 */
#include "made_model.h"
#include "no_memory.h"

#include "core/checkpoint.h"

/* ---- A model with a checkpoint ---- */

static void make(struct made_model *made, const char *dir) {
    static const float numbers[] = {1, 2, 3, 4};
    struct mal_error err = {0};
    const struct mal_st_entry tensor = {"w", MAL_F32, 1, {4}, numbers};
    char name[64];
    made_init(made);
    made_add(made, "h.0.fc", 4, 12, false, MAL_F32);
    made_add(made, "h.0.proj", 12, 4, false, MAL_F32);
    made_add(made, "h.1.fc", 4, 12, false, MAL_F32);
    made_add(made, "h.1.proj", 12, 4, false, MAL_F32);
    made_add(made, "h.1.odd", 3, 2, false, MAL_F32);
    scratch_mkdir(dir);
    snprintf(name, sizeof name, "%s/config.json", dir);
    scratch_text(name, "{}");
    snprintf(name, sizeof name, "%s/model.safetensors", dir);
    assert_ok(mal_safetensors_write(scratch_path(name), &tensor, 1, NULL, 0, &err), &err);
    assert_ok(mal_checkpoint_open(&made->model.ckpt, scratch_path(dir), &err), &err);
}

static void finish(struct made_model *made) {
    mal_checkpoint_close(made->model.ckpt);
    made_finish(made);
}

static const char *const mixed[] = {"h.0.fc", "h.0.proj", "h.1.proj"};

static struct mal_editor *create(struct made_model *made,
                                 const struct mal_method *method) {
    struct mal_error err = {0};
    struct mal_editor *editor = NULL;
    assert_ok(
        mal_editor_create(&editor, method, &made->model, mixed, 3, 2, 2, 0.25, 11, &err),
        &err);
    return editor;
}

/* ---- Making ---- */

static void test_create(void **state) {
    struct made_model made;
    struct mal_error err = {0};
    make(&made, "create");
    struct mal_editor *e = create(&made, &mal_method_malmen);
    assert_int_equal(e->n_shapes, 2);
    assert_int_equal(e->n_modules, 3);
    assert_int_equal(e->tokens, MAL_TOKENS_ANSWER);
    assert_int_equal(e->loss, MAL_LOSS_TOKEN_SUM);
    assert_int_equal(strlen(e->base_model), 64);
    /* By name: "(12, 4)" before "(4, 12)". */
    assert_int_equal(e->shapes[0].d_in, 12);
    assert_int_equal(e->shapes[0].n_modules, 2);
    assert_int_equal(e->shapes[1].n_modules, 1);
    assert_int_equal(e->modules[0].shape, 1);
    assert_int_equal(e->modules[2].shape, 0);
    assert_int_equal(e->modules[2].row, 1);
    double sum = 0, squares = 0;
    size_t n = 0;
    for (size_t s = 0; s < 2; s++) {
        const struct mal_editor_shape *shape = &e->shapes[s];
        assert_true(shape->norm.n == 0 && shape->lr[0] == 0.25f && shape->lamda[0] == 0);
        for (int64_t b = 0; b < 2; b++) {
            const struct mal_block *block = &shape->blocks[b];
            for (int64_t i = 0; i < shape->size * 2; i++, n++) {
                sum += (double)block->a[i];
                squares += (double)block->a[i] * (double)block->a[i];
                assert_true(block->b[i] == 0);
            }
            for (int64_t i = 0; i < shape->size; i++)
                assert_true(block->bias[i] == 0 && block->scale[i] == 1 &&
                            block->shift[i] == 0);
        }
    }
    /* N(0, 1) of n numbers: mean and variance within four standard errors. */
    assert_true(fabs(sum / (double)n) < 4 / sqrt((double)n));
    assert_true(fabs(squares / (double)n - 1) < 4 * sqrt(2 / (double)n));
    e->shapes[0].norm.std[0] = 2;
    assert_false(mal_editor_check_statistics(e, &err));
    assert_error(&err, MAL_INVALID, "no statistics: train it");
    e->shapes[1].norm.std[11] = 2;
    assert_ok(mal_editor_check_statistics(e, &err), &err);
    mal_editor_close(e);

    e = create(&made, &mal_method_mend);
    assert_int_equal(e->tokens, MAL_TOKENS_ALL);
    mal_editor_close(e);
    e = create(&made, &mal_method_ultraedit);
    assert_true(e->lr == 0.25 && e->n_blocks == 0 && !e->shapes[0].blocks &&
                !e->shapes[0].lr);
    assert_ok(mal_editor_check_statistics(e, &err), &err);
    mal_editor_close(e);
    finish(&made);
}

static void test_create_refused(void **state) {
    static const char *const unknown[] = {"h.0.fc", "h.9.fc"}, *const twice[] = {
                                                                   "h.0.fc", "h.0.fc"};
    struct made_model made;
    struct mal_error err = {0};
    struct mal_editor *e = NULL;
    make(&made, "refused");
    assert_false(mal_editor_create(&e, &mal_method_malmen, &made.model, unknown, 2, 2, 2,
                                   1, 1, &err));
    assert_error(&err, MAL_NOT_FOUND, "'h.9.fc'");
    assert_false(mal_editor_create(&e, &mal_method_malmen, &made.model, twice, 2, 2, 2, 1,
                                   1, &err));
    assert_error(&err, MAL_INVALID, "'h.0.fc' is named twice");
    assert_false(mal_editor_create(&e, &mal_method_malmen, &made.model, twice, 1, 0, 2, 1,
                                   1, &err));
    assert_error(&err, MAL_INVALID, "rank");
    assert_false(mal_editor_create(&e, &mal_method_ultraedit, &made.model, NULL, 0, 0, 0,
                                   1, 1, &err));
    assert_error(&err, MAL_INVALID, "module");
    assert_null(e);
    finish(&made);
}

static void test_names(void **state) {
    char all[256];
    (void)snprintf(all, sizeof all, "%s", MAL_METHOD_CHOICES);
    char *rest = NULL;
    size_t n = 0;
    for (char *name = strtok_r(all, "|", &rest); name;
         name = strtok_r(NULL, "|", &rest)) {
        const struct mal_method *method = mal_method_find(name);
        assert_non_null(method);
        assert_string_equal(method->name, name);
        assert_true(method->edit && method->read && method->write && method->title);
        n++;
    }
    assert_true(n >= 3);
    assert_ptr_equal(mal_method_find("ultraedit"), &mal_method_ultraedit);
    assert_null(mal_method_find("gradient-descent"));
}

/* ---- There and back ---- */

static void randomise(struct mal_editor *e) {
    uint64_t seed = 3;
    for (size_t s = 0; s < e->n_shapes; s++) {
        struct mal_editor_shape *shape = &e->shapes[s];
        shape->norm.n = 17;
        for (int64_t i = 0; i < shape->size; i++) {
            shape->norm.mean[i] = next_float(&seed);
            shape->norm.var[i] = 2 + next_float(&seed);
            shape->norm.std[i] = 2 + next_float(&seed);
        }
        for (int64_t b = 0; b < e->n_blocks; b++) {
            struct mal_block *block = &shape->blocks[b];
            for (int64_t i = 0; i < shape->size * e->rank; i++)
                block->b[i] = next_float(&seed);
            for (int64_t i = 0; i < shape->size; i++)
                block->bias[i] = next_float(&seed);
            for (int64_t i = 0; i < shape->size * shape->n_modules; i++) {
                block->scale[i] = next_float(&seed);
                block->shift[i] = next_float(&seed);
            }
        }
        for (int64_t i = 0; shape->lr && i < shape->n_modules; i++) {
            shape->lr[i] = next_float(&seed);
            shape->lamda[i] = next_float(&seed);
        }
    }
}

static void assert_same_floats(const float *a, const float *b, int64_t n) {
    if (a || b) assert_memory_equal(a, b, (size_t)n * sizeof *a);
}

static void assert_same_shape(const struct mal_editor_shape *x,
                              const struct mal_editor_shape *y, int64_t rank,
                              int64_t n_blocks) {
    assert_int_equal(x->d_in, y->d_in);
    assert_int_equal(x->d_out, y->d_out);
    assert_int_equal(x->size, y->size);
    assert_true(x->norm.n == y->norm.n);
    assert_same_floats(x->norm.mean, y->norm.mean, x->size);
    assert_same_floats(x->norm.var, y->norm.var, x->size);
    assert_same_floats(x->norm.std, y->norm.std, x->size);
    assert_same_floats(x->lr, y->lr, x->n_modules);
    assert_same_floats(x->lamda, y->lamda, x->n_modules);
    for (int64_t b = 0; b < n_blocks; b++) {
        assert_same_floats(x->blocks[b].a, y->blocks[b].a, x->size * rank);
        assert_same_floats(x->blocks[b].b, y->blocks[b].b, x->size * rank);
        assert_same_floats(x->blocks[b].bias, y->blocks[b].bias, x->size);
        assert_same_floats(x->blocks[b].scale, y->blocks[b].scale,
                           x->size * x->n_modules);
        assert_same_floats(x->blocks[b].shift, y->blocks[b].shift,
                           x->size * x->n_modules);
    }
}

static void check_round_trip(const struct mal_method *method, const char *dir) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_editor *back = NULL;
    make(&made, dir);
    struct mal_editor *e = create(&made, method);
    randomise(e);
    e->n_edits = 64;
    e->micro_batch = 5;
    e->loss = MAL_LOSS_MICROBATCH_MEAN;
    e->lr = method == &mal_method_ultraedit ? 0.1 : 0;
    const char *path = scratch_path("editor.safetensors");
    assert_ok(mal_editor_save(e, path, &err), &err);
    assert_ok(mal_editor_open(&back, path, &err), &err);
    assert_int_equal(back->method, method);
    assert_int_equal(back->tokens, e->tokens);
    assert_int_equal(back->loss, e->loss);
    assert_int_equal(back->micro_batch, 5);
    assert_int_equal(back->n_edits, 64);
    assert_int_equal(back->rank, e->rank);
    assert_int_equal(back->n_blocks, e->n_blocks);
    assert_true(back->lr == e->lr);
    assert_string_equal(back->base_model, e->base_model);
    assert_int_equal(back->n_shapes, 2);
    assert_int_equal(back->n_modules, 3);
    assert_true(back->modules[0].shape == SIZE_MAX); /* only the model knows */
    for (size_t s = 0; s < 2; s++)
        assert_same_shape(&back->shapes[s], &e->shapes[s], e->rank, e->n_blocks);

    assert_ok(mal_editor_bind(back, &made.model, &err), &err);
    assert_int_equal(mal_model_n_edits(&made.model), 3);
    for (size_t i = 0; i < 3; i++) {
        assert_string_equal(back->modules[i].name, mixed[i]);
        assert_string_equal(mal_model_edit(&made.model, i)->name, mixed[i]);
        assert_int_equal(back->modules[i].shape, e->modules[i].shape);
        assert_int_equal(back->modules[i].row, e->modules[i].row);
        assert_int_equal(back->shapes[back->modules[i].shape].n_modules,
                         e->shapes[e->modules[i].shape].n_modules);
    }
    mal_editor_close(back);
    mal_editor_close(e);
    finish(&made);
}

static void test_round_trip(void **state) {
    check_round_trip(&mal_method_malmen, "malmen");
    check_round_trip(&mal_method_mend, "mend");
    check_round_trip(&mal_method_ultraedit, "ultraedit");
}

static void test_hash(void **state) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_editor *back = NULL;
    make(&made, "hash");
    struct mal_editor *e = create(&made, &mal_method_malmen);
    const char *path = scratch_path("hash.safetensors");
    assert_ok(mal_editor_save(e, path, &err), &err);
    assert_ok(mal_editor_open(&back, path, &err), &err);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    static char bytes[1 << 16];
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_true(n > 1000 && n < sizeof bytes);
    struct mal_hash want = mal_hash_of(bytes, n);
    assert_memory_equal(back->hash.bytes, want.bytes, sizeof want.bytes);
    mal_editor_close(back);
    mal_editor_close(e);
    finish(&made);
}

/* ---- Ties to a model ---- */

static void refuse_bind(struct mal_editor *e, struct made_model *made,
                        enum mal_status status, const char *words) {
    static const char *const before[] = {"h.1.odd"};
    struct mal_error err = {0};
    made_edit(made, before, 1);
    assert_false(mal_editor_bind(e, &made->model, &err));
    assert_error(&err, status, words);
    assert_int_equal(mal_model_n_edits(&made->model), 1);
    assert_string_equal(mal_model_edit(&made->model, 0)->name, "h.1.odd");
}

static void rename_module(struct mal_editor *e, size_t i, const char *name) {
    mal_free(e->modules[i].name);
    e->modules[i].name = mal_strdup(name);
}

static void test_bind_refused(void **state) {
    struct made_model made;
    make(&made, "bind");
    struct mal_editor *e = create(&made, &mal_method_malmen);
    rename_module(e, 2, "h.1.odd");
    refuse_bind(
        e, &made, MAL_CONFLICT,
        "module 'h.1.odd' is (3, 2) in the model, the editor has (12, 4), (4, 12)");
    rename_module(e, 2, "h.1.fc");
    refuse_bind(e, &made, MAL_CONFLICT, "2 modules of shape (12, 4), the model 1");
    rename_module(e, 2, "h.5.proj");
    refuse_bind(e, &made, MAL_CONFLICT, "no linear layer 'h.5.proj'");
    rename_module(e, 2, "h.1.proj");
    e->base_model[3] = e->base_model[3] == 'a' ? 'b' : 'a';
    refuse_bind(e, &made, MAL_CONFLICT, "another base model");
    mal_editor_close(e);
    finish(&made);
}

/* ---- Files that lie ---- */

struct part {
    const char *name;
    int n_dims;
    int64_t shape[2];
};

/* One shape (2, 1), two modules, rank 2, one block. */
static const struct part good_tensors[] = {
    {"(2, 1).normalizer.n", 1, {1}},
    {"(2, 1).normalizer.mean", 1, {3}},
    {"(2, 1).normalizer.var", 1, {3}},
    {"(2, 1).normalizer.std", 1, {3}},
    {"(2, 1).lr.weight", 2, {2, 1}},
    {"(2, 1).lamda.weight", 2, {2, 1}},
    {"(2, 1).blocks.0.A", 2, {3, 2}},
    {"(2, 1).blocks.0.B", 2, {2, 3}},
    {"(2, 1).blocks.0.bias", 1, {3}},
    {"(2, 1).blocks.0.scale.weight", 2, {2, 3}},
    {"(2, 1).blocks.0.shift.weight", 2, {2, 3}},
};
static const struct mal_st_meta good_meta[] = {
    {"format", "malmend-editor-1"},
    {"method", "malmen"},
    {"modules", "[\"a\", \"b\"]"},
    {"tokens", "answer"},
    {"loss", "microbatch_mean"},
    {"micro_batch", "8"},
    {"rank", "2"},
    {"blocks", "1"},
};

enum {
    N_TENSORS = sizeof good_tensors / sizeof *good_tensors,
    N_META = sizeof good_meta / sizeof *good_meta
};

struct lie {
    const char *key, *value; /* metadata set so; NULL value: left out */
    const char *tensor;      /* changed: left out, or renamed, reshaped, given a value */
    const char *rename;
    int64_t shape[2];
    double value_at_1;    /* 0: as it is */
    enum mal_dtype dtype; /* F64 (0): as it is */
    const char *words;
};

static const char *write_lie(const struct lie *lie) {
    static float ones[16], changed[16]; /* the largest tensor has 6 elements */
    for (size_t i = 0; i < 16; i++)
        ones[i] = 1;
    struct mal_st_entry entries[N_TENSORS + 1];
    struct mal_st_meta meta[N_META + 1];
    struct mal_error err = {0};
    size_t n = 0, n_meta = 0;
    for (size_t i = 0; i < N_TENSORS; i++) {
        const struct part *p = &good_tensors[i];
        struct mal_st_entry e = {
            p->name, MAL_F32, p->n_dims, {p->shape[0], p->shape[1]}, ones};
        if (lie->tensor && strcmp(p->name, lie->tensor) == 0) {
            bool drop =
                !lie->rename && !lie->shape[0] && lie->value_at_1 == 0 && !lie->dtype;
            if (drop) continue;
            if (lie->rename) e.name = lie->rename;
            if (lie->shape[0]) {
                e.n_dims = lie->shape[1] ? 2 : 1;
                memcpy(e.shape, lie->shape, sizeof lie->shape);
            }
            if (lie->dtype) e.dtype = lie->dtype;
            memcpy(changed, ones, sizeof changed);
            if (lie->value_at_1 != 0) changed[p->shape[0] > 1] = (float)lie->value_at_1;
            e.data = changed;
        }
        entries[n++] = e;
    }
    bool known = false;
    for (size_t i = 0; i < N_META; i++) {
        meta[n_meta] = good_meta[i];
        if (lie->key && strcmp(meta[n_meta].key, lie->key) == 0) {
            known = true;
            if (!lie->value) continue;
            meta[n_meta].value = lie->value;
        }
        n_meta++;
    }
    if (lie->key && !known) meta[n_meta++] = (struct mal_st_meta){lie->key, lie->value};
    const char *path = scratch_path("lie.safetensors");
    assert_ok(mal_safetensors_write(path, entries, n, meta, n_meta, &err), &err);
    return path;
}

static const struct lie lies[] = {
    {.key = "format", .words = "metadata 'format' is missing"},
    {.key = "format", .value = "malmend-editor-2", .words = "'malmend-editor-2', not"},
    {.key = "method", .words = "metadata 'method' is missing"},
    {.key = "method", .value = "rome", .words = "metadata 'method' is 'rome'"},
    {.key = "tokens", .value = "some", .words = "metadata 'tokens' is 'some'"},
    {.key = "tokens", .words = "metadata 'tokens' is missing"},
    {.key = "loss", .value = "", .words = "metadata 'loss' is ''"},
    {.key = "micro_batch", .value = "0", .words = "metadata 'micro_batch' is '0'"},
    {.key = "micro_batch", .value = "8x", .words = "metadata 'micro_batch' is '8x'"},
    {.key = "micro_batch", .value = "-1", .words = "metadata 'micro_batch' is '-1'"},
    {.key = "rank", .words = "metadata 'rank' is missing"},
    {.key = "rank", .value = "99999999999999999999", .words = "metadata 'rank' is '999"},
    {.key = "rank",
     .value = "3",
     .words = "'(2, 1).blocks.0.A' is F32 (3, 2), not F32 (3, 3)"},
    {.key = "blocks", .value = "", .words = "metadata 'blocks' is ''"},
    {.key = "blocks", .value = "1000", .words = "metadata 'blocks' is '1000'"},
    {.key = "blocks", .value = "2", .words = "tensor '(2, 1).blocks.1.A' is missing"},
    {.key = "blocks", .value = "0", .words = "tensor '(2, 1).blocks.0.A' has no place"},
    {.key = "n_edits", .value = "many", .words = "metadata 'n_edits' is 'many'"},
    {.key = "base_model", .value = "12ab", .words = "metadata 'base_model' is '12ab'"},
    {.key = "modules", .words = "metadata 'modules' is missing"},
    {.key = "modules", .value = "[\"a\", \"b\"", .words = "metadata 'modules': line 1"},
    {.key = "modules",
     .value = "{\"a\": 1}",
     .words = "metadata 'modules' is not a list"},
    {.key = "modules", .value = "[]", .words = "metadata 'modules' is not a list"},
    {.key = "modules",
     .value = "[\"a\", 7]",
     .words = "'modules': entry 1 is not a name"},
    {.key = "modules",
     .value = "[\"a\", \"\"]",
     .words = "'modules': entry 1 is not a name"},
    {.key = "modules",
     .value = "[\"a\", \"a\"]",
     .words = "metadata 'modules' has 'a' twice"},
    {.key = "modules",
     .value = "[\"a\"]",
     .words = "'(2, 1).lr.weight' has 2 rows for 1"},
    {.key = "modules",
     .value = "[\"a\", \"b\", \"c\"]",
     .words = "the tensors are for 2 modules, the metadata names 3"},
    {.key = "method", .value = "ultraedit", .words = "metadata 'lr' is missing"},
    {.tensor = "(2, 1).normalizer.std",
     .words = "tensor '(2, 1).normalizer.std' is missing"},
    {.tensor = "(2, 1).lr.weight", .words = "tensor '(2, 1).lr.weight' is missing"},
    {.tensor = "(2, 1).blocks.0.bias",
     .words = "tensor '(2, 1).blocks.0.bias' is missing"},
    {.tensor = "(2, 1).normalizer.mean",
     .shape = {4},
     .words = "'(2, 1).normalizer.mean' is F32 (4), not F32 (3)"},
    {.tensor = "(2, 1).lamda.weight",
     .shape = {2},
     .words = "'(2, 1).lamda.weight' is F32 (2), not F32 (2, 1)"},
    {.tensor = "(2, 1).lr.weight",
     .shape = {1, 2},
     .words = "the tensors are for 1 modules, the metadata names 2"},
    {.tensor = "(2, 1).blocks.0.shift.weight",
     .shape = {3, 2},
     .words = "'(2, 1).blocks.0.shift.weight' is F32 (3, 2), not F32 (2, 3)"},
    {.tensor = "(2, 1).blocks.0.B",
     .dtype = MAL_I32,
     .words = "'(2, 1).blocks.0.B' is I32 (2, 3), not F32 (2, 3)"},
    {.tensor = "(2, 1).normalizer.n",
     .value_at_1 = -1,
     .words = "tensor '(2, 1).normalizer.n': element 0 is -1"},
    {.tensor = "(2, 1).normalizer.var",
     .value_at_1 = -2,
     .words = "tensor '(2, 1).normalizer.var': element 1 is -2"},
    {.tensor = "(2, 1).normalizer.std",
     .value_at_1 = -1,
     .words = "tensor '(2, 1).normalizer.std': element 1 is -1"},
    {.tensor = "(2, 1).normalizer.mean",
     .value_at_1 = (double)INFINITY,
     .words = "tensor '(2, 1).normalizer.mean': element 1 is inf"},
    {.tensor = "(2, 1).lamda.weight",
     .value_at_1 = (double)NAN,
     .words = "tensor '(2, 1).lamda.weight': element 1 is"},
    {.tensor = "(2, 1).blocks.0.A",
     .value_at_1 = (double)NAN,
     .words = "tensor '(2, 1).blocks.0.A': element 1 is"},
    {.tensor = "(2, 1).blocks.0.A",
     .rename = "blocks.0.A",
     .words = "tensor 'blocks.0.A' is not part of an editor"},
    {.tensor = "(2, 1).blocks.0.A",
     .rename = "(02, 1).blocks.0.A",
     .words = "'(02, 1).blocks.0.A'"},
    {.tensor = "(2, 1).blocks.0.A",
     .rename = "(2,1).blocks.0.A",
     .words = "'(2,1).blocks.0.A'"},
    {.tensor = "(2, 1).blocks.0.A", .rename = "(-2, 1).blocks.0.A", .words = "(-2, 1)"},
    {.tensor = "(2, 1).blocks.0.A",
     .rename = "(99999999999, 1).A",
     .words = "99999999999"},
    {.tensor = "(2, 1).blocks.0.A",
     .rename = "(3, 3).blocks.0.A",
     .words = "tensor '(3, 3).lr.weight' is missing"},
};

static void test_lies(void **state) {
    struct mal_error err = {0};
    struct mal_editor *e = NULL;
    assert_ok(mal_editor_open(&e, write_lie(&(struct lie){0}), &err), &err);
    assert_int_equal(e->modules[1].row, 1); /* one shape: resolved at once */
    assert_true(e->modules[1].shape == 0);
    assert_int_equal(e->n_edits, 0);
    assert_string_equal(e->base_model, "");
    mal_editor_close(e);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        const char *path = write_lie(&lies[i]);
        e = NULL;
        if (mal_editor_open(&e, path, &err))
            fail_msg("lie %zu is believed: %s", i, lies[i].words);
        assert_null(e);
        if (!strstr(err.text, "lie.safetensors"))
            fail_msg("'%s' names no file", err.text);
        assert_error(&err, MAL_CORRUPT, lies[i].words);
    }
    assert_false(mal_editor_open(&e, scratch_path("nowhere.safetensors"), &err));
    assert_error(&err, MAL_NOT_FOUND, "nowhere.safetensors");
    assert_false(
        mal_editor_open(&e, scratch_text("text.safetensors", "not an editor"), &err));
    if (!strstr(err.text, "text.safetensors")) fail_msg("'%s' names no file", err.text);
}

/* ---- Lack of memory ---- */

static bool open_close(const char *path, struct mal_error *err) {
    struct mal_editor *e;
    if (!mal_editor_open(&e, path, err)) return false;
    mal_editor_close(e);
    return true;
}

static struct mal_editor *to_save;

static bool save(const char *path, struct mal_error *err) {
    return mal_editor_save(to_save, path, err);
}

static struct mal_model *to_bind;

static bool create_bind(const char *path, struct mal_error *err) {
    struct mal_editor *e;
    if (!mal_editor_create(&e, &mal_method_malmen, to_bind, mixed, 3, 2, 2, 1, 1, err))
        return false;
    bool ok = mal_editor_bind(e, to_bind, err);
    mal_editor_close(e);
    return ok;
}

static void test_no_memory(void **state) {
    struct made_model made;
    make(&made, "memory");
    to_save = create(&made, &mal_method_malmen);
    to_bind = &made.model;
    fail_each_allocation(create_bind, NULL, 20);
    fail_each_allocation(save, scratch_path("saved.safetensors"), 6);
    fail_each_allocation(open_close, scratch_path("saved.safetensors"), 30);
    mal_editor_close(to_save);
    finish(&made);
}

/* ---- The reference's editors ---- */

static void test_golden(void **state) {
    size_t seen = 0;
    for (size_t c = 0; c < N_EDIT_CASES; c++) {
        struct golden g;
        if (!golden_open(&g, edit_cases[c])) continue;
        seen++;
        const char *method = json_string_value(json_object_get(g.info, "method"));
        const json_t *modules = json_object_get(g.info, "modules");
        const char *tokens =
            json_string_value(json_object_get(g.info, "token_convention"));
        assert_string_equal(g.editor->method->name, method);
        assert_int_equal(g.editor->n_modules, json_array_size(modules));
        assert_int_equal(g.editor->tokens == MAL_TOKENS_ALL, strcmp(tokens, "all") == 0);
        for (size_t m = 0; m < g.editor->n_modules; m++) {
            assert_string_equal(g.editor->modules[m].name,
                                json_string_value(json_array_get(modules, m)));
        }
        golden_close(&g);
    }
    assert_true(seen > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create), cmocka_unit_test(test_create_refused),
        cmocka_unit_test(test_names),  cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_hash),   cmocka_unit_test(test_bind_refused),
        cmocka_unit_test(test_lies),   cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests_name("editor", tests, scratch_make, scratch_remove);
}
