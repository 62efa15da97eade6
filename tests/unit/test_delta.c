/* test_delta.c - sizes, the choice of encoding, and the hash of a delta. */
#include "delta_part.h"

static struct mal_delta make(void) {
    struct mal_delta d = {.n_parts = 2};
    d.parts = mal_calloc(2, sizeof *d.parts);
    assert_non_null(d.parts);
    d.parts[0] = (struct mal_delta_part){.module = mal_strdup("h.0.mlp"),
                                         .d_in = 4,
                                         .d_out = 6,
                                         .rank = 2,
                                         .encoding = MAL_ENCODING_FACTORS,
                                         .dtype = MAL_F32};
    d.parts[1] = (struct mal_delta_part){.module = mal_strdup("h.1.mlp"),
                                         .d_in = 2,
                                         .d_out = 3,
                                         .encoding = MAL_ENCODING_DENSE,
                                         .dtype = MAL_F32};
    for (size_t i = 0; i < 2; i++) {
        size_t n = mal_delta_part_elements(&d.parts[i]);
        float *data = d.parts[i].data = mal_malloc(n * sizeof *data);
        assert_non_null(data);
        for (size_t k = 0; k < n; k++)
            data[k] = (float)k;
    }
    return d;
}

static struct mal_hash hash(struct mal_delta *delta) {
    struct mal_error err = {0};
    struct mal_hash h;
    assert_ok(mal_delta_hash(delta, &h, &err), &err);
    return h;
}

static void test_sizes(void **state) {
    struct mal_delta d = make();
    assert_int_equal(mal_delta_part_elements(&d.parts[0]), 2 * (4 + 6));
    assert_int_equal(mal_delta_part_elements(&d.parts[1]), 6);
    assert_int_equal(mal_delta_part_bytes(&d.parts[0]), 80);
    assert_int_equal(mal_delta_bytes(&d), 104);
    assert_int_equal(mal_delta_encoding(&d), MAL_ENCODING_DENSE);
    d.parts[1].encoding = MAL_ENCODING_FACTORS;
    assert_int_equal(mal_delta_encoding(&d), MAL_ENCODING_FACTORS);
    mal_delta_finish(&d);
    assert_null(d.parts);
    assert_int_equal(mal_delta_encoding(&d), MAL_ENCODING_NONE);
    assert_int_equal(mal_delta_bytes(&d), 0);
    mal_delta_finish(&d);

    assert_string_equal(mal_encoding_name(MAL_ENCODING_NONE), "none");
    assert_string_equal(mal_encoding_name(MAL_ENCODING_FACTORS), "factors");
    assert_string_equal(mal_encoding_name(MAL_ENCODING_DENSE), "dense");
}

static void test_factors_pay(void **state) {
    assert_true(mal_delta_factors_pay(3072, 768, 614));
    assert_false(mal_delta_factors_pay(3072, 768, 615));
    assert_false(mal_delta_factors_pay(4, 4, 2)); /* as many bytes: dense is simpler */
    assert_true(mal_delta_factors_pay(4, 4, 1));
    assert_true(mal_delta_factors_pay(1 << 20, 1 << 20, 1 << 18)); /* over 32 bits */
}

/* The hash spelled out, so that the stored identity cannot drift: what the first part
 * begins with, and the bytes of its data; the second part is as it was made. */
static struct mal_hash spell(const struct mal_delta *d, const char *head, size_t n_head,
                             size_t bytes) {
    static const char next[] = "\7\0\0\0\0\0\0\0h.1.mlp\5\0\0\0\0\0\0\0dense"
                               "\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    struct mal_error err = {0};
    struct mal_hasher *hasher;
    assert_ok(mal_hasher_create(&hasher, &err), &err);
    struct mal_hash data0 = mal_hash_of(d->parts[0].data, bytes);
    struct mal_hash data1 = mal_hash_of(d->parts[1].data, 24);
    mal_hasher_add(hasher, head, n_head);
    mal_hasher_add(hasher, data0.bytes, 32);
    mal_hasher_add(hasher, next, sizeof next - 1);
    mal_hasher_add(hasher, data1.bytes, 32);
    struct mal_hash spelled = mal_hasher_end(hasher);
    mal_hasher_destroy(hasher);
    return spelled;
}

static void test_hash(void **state) {
    struct mal_delta d = make();
    struct mal_hash first = hash(&d), same = hash(&d), other;
    assert_true(mal_hash_equal(&first, &same));

    static const char head[] = "\7\0\0\0\0\0\0\0h.0.mlp\7\0\0\0\0\0\0\0factors"
                               "\4\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0";
    struct mal_error err = {0};
    struct mal_hash spelled = spell(&d, head, sizeof head - 1, 80);
    assert_true(mal_hash_equal(&first, &spelled));

    float *data = d.parts[1].data;
    data[5] = -data[5];
    other = hash(&d); /* the data's hashes are known and taken */
    assert_true(mal_hash_equal(&first, &other));
    d.parts[1].hashed = false;
    other = hash(&d);
    assert_false(mal_hash_equal(&first, &other));
    data[5] = -data[5];
    d.parts[1].hashed = false;
    d.parts[0].norm = 3; /* measures are no part of the identity */
    other = hash(&d);
    assert_true(mal_hash_equal(&first, &other));
    d.parts[0].module[0] = 'g';
    other = hash(&d);
    assert_false(mal_hash_equal(&first, &other));

    mal_alloc_fail_at(1);
    bool ok = mal_delta_hash(&d, &other, &err);
    mal_alloc_fail_at(0);
    assert_false(ok);
    assert_int_equal(err.status, MAL_NO_MEMORY);
    mal_delta_finish(&d);

    other = hash(&d); /* nothing changes: the hash of no parts */
    spelled = mal_hash_of("", 0);
    assert_true(mal_hash_equal(&other, &spelled));
}

/* fp32 values that bf16 has, as bf16. */
static void narrow(struct mal_delta_part *part) {
    float *wide = part->data;
    part->dtype = MAL_BF16;
    part_set(part, wide);
    mal_free(wide);
    part->hashed = false;
}

static void test_dtype(void **state) {
    assert_int_equal(mal_delta_dtype(MAL_BF16), MAL_BF16);
    assert_int_equal(mal_delta_dtype(MAL_F16), MAL_F32);
    assert_int_equal(mal_delta_dtype(MAL_F32), MAL_F32);
}

static void test_narrow(void **state) {
    struct mal_error err = {0};
    struct mal_delta d = make();
    struct mal_hash wide = hash(&d), halved, other;
    narrow(&d.parts[0]);
    assert_int_equal(mal_delta_part_elements(&d.parts[0]), 20);
    assert_int_equal(mal_delta_part_bytes(&d.parts[0]), 40);
    assert_int_equal(mal_delta_bytes(&d), 64);
    halved = hash(&d);
    assert_false(mal_hash_equal(&wide, &halved));

    static const char head[] = "\7\0\0\0\0\0\0\0h.0.mlp\14\0\0\0\0\0\0\0factors BF16"
                               "\4\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0";
    other = spell(&d, head, sizeof head - 1, 40);
    assert_true(mal_hash_equal(&halved, &other));

    mal_alloc_fail_at(1);
    bool ok = mal_delta_part_widen(&d.parts[0], &err);
    mal_alloc_fail_at(0);
    assert_false(ok);
    assert_error(&err, MAL_NO_MEMORY, "module 'h.0.mlp': its shift");
    assert_ok(mal_delta_part_widen(&d.parts[0], &err), &err);
    assert_int_equal(mal_delta_part_bytes(&d.parts[0]), 80);
    const float *data = d.parts[0].data;
    for (size_t k = 0; k < 20; k++)
        assert_true(data[k] == (float)k);
    other = hash(&d);
    assert_true(mal_hash_equal(&wide, &other));
    assert_ok(mal_delta_part_widen(&d.parts[0], &err), &err); /* as it is */
    assert_ptr_equal(d.parts[0].data, data);
    mal_delta_finish(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),  cmocka_unit_test(test_factors_pay),
        cmocka_unit_test(test_hash),   cmocka_unit_test(test_dtype),
        cmocka_unit_test(test_narrow),
    };
    return cmocka_run_group_tests_name("delta", tests, NULL, NULL);
}
