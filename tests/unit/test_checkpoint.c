/* test_checkpoint.c - model directories: one file, shards, and each way they can be
 * wrong. */
#include "no_memory.h"
#include "scratch.h"

#include "core/alloc.h"
#include "core/checkpoint.h"

static const float numbers[] = {1, 2, 3, 4, 5, 6};

static void write_tensors(const char *name, const struct mal_st_entry *entries,
                          size_t n) {
    struct mal_error err = {0};
    assert_ok(mal_safetensors_write(scratch_path(name), entries, n, NULL, 0, &err), &err);
}

static const struct mal_st_entry all[] = {
    {"wte", MAL_F32, 2, {3, 2}, numbers},
    {"h.0.w", MAL_F32, 1, {4}, numbers + 1},
    {"h.0.n", MAL_I64, 1, {1}, "\1\0\0\0\0\0\0\0"},
};

/* dir/config.json and dir/model.safetensors */
static void make_single(const char *dir) {
    char name[128];
    scratch_mkdir(dir);
    snprintf(name, sizeof name, "%s/config.json", dir);
    scratch_text(name, "{\"model_type\": \"gpt2\"}");
    snprintf(name, sizeof name, "%s/model.safetensors", dir);
    write_tensors(name, all, 3);
}

/* The same tensors in two shards, with one tensor too many in the second. */
static void make_sharded(const char *dir, const char *index) {
    char name[128];
    scratch_mkdir(dir);
    snprintf(name, sizeof name, "%s/config.json", dir);
    scratch_text(name, "{}");
    snprintf(name, sizeof name, "%s/one.safetensors", dir);
    write_tensors(name, all, 1);
    const struct mal_st_entry more[] = {
        all[1], all[2], {"unlisted", MAL_F32, 1, {1}, numbers}};
    snprintf(name, sizeof name, "%s/two.safetensors", dir);
    write_tensors(name, more, 3);
    snprintf(name, sizeof name, "%s/model.safetensors.index.json", dir);
    scratch_text(name, index);
}

static const char good_index[] =
    "{\"metadata\": {\"total_size\": 48}, \"weight_map\": {\"wte\": \"one.safetensors\","
    " \"h.0.w\": \"two.safetensors\", \"h.0.n\": \"two.safetensors\"}}";

static struct mal_checkpoint *open_dir(const char *dir) {
    struct mal_error err = {0};
    struct mal_checkpoint *c = NULL;
    assert_ok(mal_checkpoint_open(&c, scratch_path(dir), &err), &err);
    return c;
}

static void assert_refused(const char *dir, enum mal_status status, const char *words) {
    struct mal_error err = {0};
    struct mal_checkpoint *c = NULL;
    assert_false(mal_checkpoint_open(&c, scratch_path(dir), &err));
    assert_null(c);
    assert_error(&err, status, words);
}

static void check_tensors(struct mal_checkpoint *c) {
    static const char *const names[] = {"h.0.n", "h.0.w", "wte"};
    assert_int_equal(mal_checkpoint_count(c), 3);
    for (size_t i = 0; i < 3; i++) {
        struct mal_checkpoint_tensor t = mal_checkpoint_at(c, i);
        assert_string_equal(t.tensor->name, names[i]);
        assert_ptr_equal(mal_checkpoint_find(c, names[i]).tensor, t.tensor);
    }
    assert_null(mal_checkpoint_find(c, "unlisted").tensor);
    assert_null(mal_checkpoint_find(c, "").tensor);
    assert_null(mal_checkpoint_find(c, "zzz").tensor);
    struct mal_error err = {0};
    struct mal_checkpoint_tensor wte = mal_checkpoint_find(c, "wte");
    float x[6];
    assert_ok(mal_safetensors_read_f32(wte.file, wte.tensor, x, &err), &err);
    assert_memory_equal(x, numbers, sizeof x);
}

static void test_single(void **state) {
    make_single("single");
    struct mal_checkpoint *c = open_dir("single");
    check_tensors(c);
    assert_string_equal(mal_checkpoint_dir(c), scratch_path("single"));
    assert_string_equal(mal_checkpoint_config_path(c),
                        scratch_path("single/config.json"));
    const json_t *type = json_object_get(mal_checkpoint_config(c), "model_type");
    assert_string_equal(json_string_value(type), "gpt2");
    mal_checkpoint_close(c);
    mal_checkpoint_close(NULL);

    scratch_text("single/model.safetensors.index.json",
                 "never read beside a single file");
    c = open_dir("single");
    mal_checkpoint_close(c);
}

static void test_shards(void **state) {
    make_sharded("shards", good_index);
    struct mal_checkpoint *c = open_dir("shards");
    check_tensors(c);
    mal_checkpoint_close(c);
}

static void test_missing_files(void **state) {
    assert_refused("absent", MAL_NOT_FOUND, "absent/config.json: No such file");
    scratch_mkdir("bare");
    assert_refused("bare", MAL_NOT_FOUND, "bare/config.json: No such file");
    scratch_text("bare/config.json", "{");
    assert_refused("bare", MAL_CORRUPT, "bare/config.json: line 1");
    scratch_text("bare/config.json", "[1]");
    assert_refused("bare", MAL_CORRUPT, "bare/config.json: an array, not an object");
    scratch_text("bare/config.json", "{}");
    assert_refused("bare", MAL_NOT_FOUND,
                   "bare: neither model.safetensors nor model.safetensors.index.json");
    scratch_text("bare/pytorch_model.bin", "pickle");
    assert_refused("bare", MAL_NOT_FOUND,
                   "index.json; there is pytorch_model.bin, but pickle is never read");
    scratch_text("bare/model.safetensors", "short");
    assert_refused("bare", MAL_CORRUPT, "bare/model.safetensors: 5 bytes, shorter");
}

static void test_broken_index(void **state) {
    static const struct {
        const char *index, *words;
        enum mal_status status;
    } cases[] = {
        {"[", "index.json: line 1", MAL_CORRUPT},
        {"[]", "index.json: an array, not an object", MAL_CORRUPT},
        {"{}", "index.json: 'weight_map' is not an object", MAL_CORRUPT},
        {"{\"weight_map\": []}", "'weight_map' is not an object", MAL_CORRUPT},
        {"{\"weight_map\": {\"wte\": \"one.safetensors\", \"wte\": \"two.safetensors\"}}",
         "duplicate object key", MAL_CORRUPT},
        {"{\"weight_map\": {\"wte\": 1}}",
         "index.json: tensor 'wte': its shard is an integer, not a string", MAL_CORRUPT},
        {"{\"weight_map\": {\"wte\": \"../one.safetensors\"}}",
         "tensor 'wte': shard '../one.safetensors' is not a plain file name",
         MAL_CORRUPT},
        {"{\"weight_map\": {\"wte\": \"/etc/passwd\"}}", "is not a plain file name",
         MAL_CORRUPT},
        {"{\"weight_map\": {\"wte\": \"a/one.safetensors\"}}", "is not a plain file name",
         MAL_CORRUPT},
        {"{\"weight_map\": {\"wte\": \"..\"}}", "is not a plain file name", MAL_CORRUPT},
        {"{\"weight_map\": {\"wte\": \"\"}}", "is not a plain file name", MAL_CORRUPT},
        {"{\"weight_map\": {\"wte\": \"two.safetensors\"}}",
         "two.safetensors: tensor 'wte', listed in model.safetensors.index.json, is not in it",
         MAL_CORRUPT},
        {"{\"weight_map\": {\"wte\": \"three.safetensors\"}}",
         "tensor 'wte', listed in model.safetensors.index.json: ", MAL_NOT_FOUND},
        {"{\"weight_map\": {\"wte\": \"three.safetensors\"}}",
         "/three.safetensors: No such file", MAL_NOT_FOUND},
    };

    make_sharded("broken", good_index);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scratch_text("broken/model.safetensors.index.json", cases[i].index);
        assert_refused("broken", cases[i].status, cases[i].words);
    }
}

static void test_need(void **state) {
    struct mal_error err = {0};
    make_single("need");
    struct mal_checkpoint *c = open_dir("need");
    struct mal_checkpoint_tensor t = {0};
    assert_ok(mal_checkpoint_need(c, "wte", 2, (int64_t[]){3, 2}, &t, &err), &err);
    assert_string_equal(t.tensor->name, "wte");

    struct mal_checkpoint_tensor none = {0};
    assert_false(mal_checkpoint_need(c, "wpe", 2, (int64_t[]){9, 2}, &none, &err));
    assert_error(&err, MAL_CORRUPT, "/need/model.safetensors: tensor 'wpe' (9, 2) is missing");
    assert_false(mal_checkpoint_need(c, "wte", 2, (int64_t[]){2, 3}, &none, &err));
    assert_error(
        &err, MAL_CORRUPT,
        "/need/model.safetensors: tensor 'wte' has shape (3, 2), the model needs "
        "(2, 3)");
    assert_false(mal_checkpoint_need(c, "wte", 1, (int64_t[]){3}, &none, &err));
    assert_error(&err, MAL_CORRUPT, "has shape (3, 2), the model needs (3)");
    assert_false(mal_checkpoint_need(c, "h.0.n", 1, (int64_t[]){1}, &none, &err));
    assert_error(&err, MAL_CORRUPT, "tensor 'h.0.n' is I64, the model needs floats");
    assert_null(none.tensor);
    mal_checkpoint_close(c);
}

static struct mal_hash fingerprint(const char *dir) {
    struct mal_error err = {0};
    struct mal_hash hash;
    struct mal_checkpoint *c = open_dir(dir);
    assert_ok(mal_checkpoint_fingerprint(c, &hash, &err), &err);
    mal_checkpoint_close(c);
    return hash;
}

static void test_fingerprint(void **state) {
    struct mal_error err = {0};
    make_single("print");
    make_sharded("print-shards", good_index);
    struct mal_hash one = fingerprint("print"), other = fingerprint("print-shards");
    assert_true(mal_hash_equal(&one, &other));

    /* spelled out, so that the identity of base models cannot drift */
    struct mal_hasher *hasher;
    assert_ok(mal_hasher_create(&hasher, &err), &err);
    const struct mal_st_entry *order[] = {&all[2], &all[1], &all[0]};
    static const size_t bytes[] = {8, 16, 24};
    for (int i = 0; i < 3; i++) {
        struct mal_hash data = mal_hash_of(order[i]->data, bytes[i]);
        mal_hasher_add_text(hasher, order[i]->name);
        mal_hasher_add_text(hasher, mal_dtype_name(order[i]->dtype));
        mal_hasher_add_u64(hasher, (uint64_t)order[i]->n_dims);
        for (int d = 0; d < order[i]->n_dims; d++)
            mal_hasher_add_u64(hasher, (uint64_t)order[i]->shape[d]);
        mal_hasher_add(hasher, data.bytes, sizeof data.bytes);
    }
    other = mal_hasher_end(hasher);
    mal_hasher_destroy(hasher);
    assert_true(mal_hash_equal(&one, &other));

    float changed[6];
    memcpy(changed, numbers, sizeof changed);
    changed[5] = 7;
    struct mal_st_entry entries[3] = {all[0], all[1], all[2]};
    entries[0].data = changed;
    write_tensors("print/model.safetensors", entries, 3);
    other = fingerprint("print");
    assert_false(mal_hash_equal(&one, &other));
    entries[0] = all[0];
    entries[0].shape[0] = 2;
    entries[0].shape[1] = 3;
    write_tensors("print/model.safetensors", entries, 3);
    other = fingerprint("print");
    assert_false(mal_hash_equal(&one, &other));
}

/* More than one slice per tensor, more tensors than threads, and a file that ends early.
 */
static void test_fingerprint_large(void **state) {
    enum { N = 20, FLOATS = 300001 };
    struct mal_error err = {0};
    float *data = mal_calloc(FLOATS, sizeof *data);
    struct mal_st_entry entries[N];
    char names[N][16];
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "t%d", i);
        entries[i] = (struct mal_st_entry){names[i], MAL_F32, 1, {FLOATS - i}, data};
    }
    for (int i = 0; i < FLOATS; i++)
        data[i] = (float)i;
    scratch_mkdir("large");
    scratch_text("large/config.json", "{}");
    write_tensors("large/model.safetensors", entries, N);
    struct mal_hash one = fingerprint("large"), again = fingerprint("large");
    assert_true(mal_hash_equal(&one, &again));

    struct mal_checkpoint *c = open_dir("large");
    assert_int_equal(truncate(scratch_path("large/model.safetensors"), FLOATS * 4), 0);
    struct mal_hash hash;
    assert_false(mal_checkpoint_fingerprint(c, &hash, &err));
    assert_error(&err, MAL_IO, "the file has become shorter");
    mal_checkpoint_close(c);
    mal_free(data);
}

static bool open_and_hash(const char *path, struct mal_error *err) {
    struct mal_checkpoint *c;
    struct mal_hash hash;
    if (!mal_checkpoint_open(&c, path, err)) return false;
    bool ok = mal_checkpoint_fingerprint(c, &hash, err);
    mal_checkpoint_close(c);
    return ok;
}

static void test_no_memory(void **state) {
    char path[512];
    make_sharded("memory", good_index);
    strcpy(path, scratch_path("memory"));
    fail_each_allocation(open_and_hash, path, 60);
}

/* Every model the reference wrote opens, also in shards. */
static void test_golden(void **state) {
    char dir[600], path[1024];
    size_t n = 0;
    static const char *const folders[] = {"", "/logits/models"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(dir, sizeof dir, "%s%s", golden_dir(), folders[i]);
        DIR *cases = opendir(dir);
        assert_non_null(cases);
        for (struct dirent *e; (e = readdir(cases));) {
            snprintf(path, sizeof path, "%s/%s%s", dir, e->d_name,
                     i == 0 ? "/model" : "");
            if (e->d_name[0] == '.' || access(path, F_OK) != 0) continue;
            struct mal_error err = {0};
            struct mal_checkpoint *c;
            assert_ok(mal_checkpoint_open(&c, path, &err), &err);
            assert_true(mal_checkpoint_count(c) >= 20);
            assert_non_null(json_object_get(mal_checkpoint_config(c), "model_type"));
            mal_checkpoint_close(c);
            n++;
        }
        closedir(cases);
    }
    assert_true(n > 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_missing_files),
        cmocka_unit_test(test_broken_index),
        cmocka_unit_test(test_need),
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_fingerprint_large),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, scratch_make, scratch_remove);
}
