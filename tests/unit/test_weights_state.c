/* test_weights_state.c - versions of weights: the bits that are applied, hashes that come
 * back after return and replay, what is kept, and that a refused edit changes nothing. */
#include "delta_part.h"
#include "made_model.h"

#include "core/weights_state.h"

/* ---- A model and deltas for it ---- */

static const char *const edit_names[] = {"h.1.proj", "h.0.proj", "h.0.fc"};

enum { N_EDITS = 3 };

static void make(struct made_model *made) {
    made_init(made);
    made_add(made, "h.0.fc", 5, 9, true, MAL_BF16);
    made_add(made, "h.0.proj", 7, 4, false, MAL_F32);
    made_add(made, "h.0.other", 3, 3, false, MAL_F32);
    made_add(made, "h.1.proj", 6, 8, true, MAL_F16);
    made_edit(made, edit_names, N_EDITS);
}

static struct mal_weights_state *make_state(struct made_model *made, int keep) {
    struct mal_error err = {0};
    struct mal_weights_state *ws = NULL;
    make(made);
    assert_ok(mal_weights_create(&ws, &made->model, keep, &err), &err);
    return ws;
}

static struct mal_delta_part make_part(const char *module, int64_t d_in, int64_t d_out,
                                       int64_t rank, enum mal_dtype dtype,
                                       uint64_t seed) {
    struct mal_delta_part part = {.module = mal_strdup(module),
                                  .d_in = d_in,
                                  .d_out = d_out,
                                  .rank = rank,
                                  .encoding =
                                      rank ? MAL_ENCODING_FACTORS : MAL_ENCODING_DENSE,
                                  .dtype = dtype};
    float *data = random_floats((int64_t)mal_delta_part_elements(&part), 0.3f, seed);
    part_set(&part, data);
    mal_free(data);
    return part;
}

/* A delta of the modules whose bit is set: 1 h.0.fc, 2 h.0.proj, 4 h.1.proj. */
static struct mal_delta make_delta(unsigned modules, uint64_t seed) {
    struct mal_delta delta = {.parts = mal_calloc(3, sizeof *delta.parts)};
    if (modules & 1)
        delta.parts[delta.n_parts++] = make_part("h.0.fc", 5, 9, 2, MAL_F32, seed + 1);
    if (modules & 2)
        delta.parts[delta.n_parts++] = make_part("h.0.proj", 7, 4, 0, MAL_BF16, seed + 2);
    if (modules & 4)
        delta.parts[delta.n_parts++] = make_part("h.1.proj", 6, 8, 3, MAL_BF16, seed + 3);
    return delta;
}

static void publish(struct mal_weights_state *ws, unsigned modules, int64_t version) {
    struct mal_error err = {0};
    struct mal_delta delta = make_delta(modules, (uint64_t)version * 10);
    assert_ok(mal_weights_prepare(ws, &delta, NULL, NULL, &err), &err);
    mal_weights_publish(ws, version);
    mal_delta_finish(&delta);
}

static void assert_same_hash(struct mal_hash a, struct mal_hash b) {
    assert_memory_equal(a.bytes, b.bytes, sizeof a.bytes);
}

static void assert_other_hash(struct mal_hash a, struct mal_hash b) {
    assert_memory_not_equal(a.bytes, b.bytes, sizeof a.bytes);
}

/* ---- The bits ---- */

/* t (d_in, d_out) += the part, as core/README.md section 4 has it. */
static void add_naive(float *t, const struct mal_delta_part *part) {
    float *left = part_floats(part);
    const float *right = left + part->d_in * part->rank;
    for (int64_t i = 0; i < part->d_in; i++) {
        for (int64_t j = 0; j < part->d_out; j++) {
            float *x = &t[i * part->d_out + j];
            if (part->encoding == MAL_ENCODING_DENSE) *x += left[i * part->d_out + j];
            for (int64_t k = 0; k < part->rank; k++)
                *x = fmaf(left[i * part->rank + k], right[k * part->d_out + j], *x);
        }
    }
    mal_free(left);
}

static float round_to(enum mal_dtype dtype, float x) {
    char narrow[4];
    mal_from_f32(narrow, &x, dtype, 1);
    mal_to_f32(&x, narrow, dtype, 1);
    return x;
}

static void check_module(struct mal_weights_state *ws, const struct mal_linear *lin,
                         const float *t) {
    struct mal_error err = {0};
    size_t n = (size_t)(lin->d_in * lin->d_out), m = (size_t)lin->edit;
    float *w = mal_malloc(n * sizeof *w), *shift = mal_malloc(n * sizeof *shift);
    float *w0 = mal_malloc(n * sizeof *w0);
    double sum_t = 0, sum_w = 0;
    from_device(w0, lin->w0, (int64_t)n);
    assert_ok(mal_weights_read(ws, mal_weights_live(ws), m, w, &err), &err);
    assert_ok(mal_weights_read_shift(ws, m, shift, &err), &err);
    assert_memory_equal(shift, t, n * sizeof *t);
    for (int64_t i = 0; i < lin->d_in; i++) {
        for (int64_t j = 0; j < lin->d_out; j++) {
            int64_t at = lin->transposed ? j * lin->d_in + i : i * lin->d_out + j;
            float want = round_to(lin->dtype, w0[at] + t[i * lin->d_out + j]);
            assert_memory_equal(&w[at], &want, sizeof want);
            sum_t += (double)t[i * lin->d_out + j] * (double)t[i * lin->d_out + j];
            sum_w += (double)want * (double)want;
        }
    }
    /* The passes read these weights. */
    assert_ptr_not_equal(lin->w, lin->w0);
    from_device(w0, lin->w, (int64_t)n);
    assert_memory_equal(w0, w, n * sizeof *w);
    const struct mal_module_norms *norms = mal_weights_norms(ws, mal_weights_live(ws));
    assert_string_equal(norms[m].module, lin->name);
    assert_true(fabs(norms[m].shift_norm - sqrt(sum_t)) < 1e-9);
    assert_true(fabs(norms[m].weight_norm - sqrt(sum_w)) < 1e-9);
    mal_free(w);
    mal_free(w0);
    mal_free(shift);
}

static void test_bits(void **state) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_weights_state *ws = make_state(&made, 2);
    float t[3][64] = {{0}};
    for (int64_t version = 1; version <= 3; version++) {
        struct mal_delta delta = make_delta(7, (uint64_t)version);
        for (size_t p = 0; p < delta.n_parts; p++)
            add_naive(t[p], &delta.parts[p]);
        assert_ok(mal_weights_prepare(ws, &delta, NULL, NULL, &err), &err);
        struct mal_hash hash = mal_weights_prepared_hash(ws);
        mal_weights_publish(ws, version);
        assert_same_hash(mal_weights_hash(ws, version), hash);
        for (size_t p = 0; p < delta.n_parts; p++)
            check_module(ws, mal_model_find_linear(&made.model, delta.parts[p].module),
                         t[p]);
        mal_delta_finish(&delta);
    }
    mal_weights_destroy(ws);
    made_finish(&made);
}

/* The weights hash is what core/README.md section 4 says, from bytes as the checkpoint
 * has them. */
/* Of tensors of one piece; longer ones are test_weights_digest's. */
static struct mal_hash tensor_hash(const void *data, size_t bytes,
                                   enum mal_digest_form form) {
    struct mal_hash hash = mal_hash_of(data, bytes);
    return form == MAL_DIGEST_WHOLE ? hash : mal_hash_of(hash.bytes, sizeof hash.bytes);
}

static void check_definition(enum mal_digest_form form) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_weights_state *ws;
    make(&made);
    assert_ok(mal_weights_create_in_form(&ws, &made.model, 2, form, &err), &err);
    publish(ws, 5, 1);
    static const char *const sorted[] = {"h.0.fc", "h.0.proj", "h.1.proj"};
    struct mal_hasher *hasher;
    assert_ok(mal_hasher_create(&hasher, &err), &err);
    for (size_t i = 0; i < N_EDITS; i++) {
        const struct mal_linear *lin = mal_model_find_linear(&made.model, sorted[i]);
        size_t n = (size_t)(lin->d_in * lin->d_out),
               bytes = n * mal_dtype_size(lin->dtype);
        float w[64];
        char narrow[256];
        assert_ok(mal_weights_read(ws, 1, (size_t)lin->edit, w, &err), &err);
        mal_from_f32(narrow, w, lin->dtype, n);
        struct mal_hash tensor = tensor_hash(narrow, bytes, form);
        mal_hasher_add_text(hasher, lin->name);
        mal_hasher_add_text(hasher, mal_dtype_name(lin->dtype));
        mal_hasher_add_u64(hasher, 2);
        mal_hasher_add_u64(hasher, (uint64_t)(lin->transposed ? lin->d_out : lin->d_in));
        mal_hasher_add_u64(hasher, (uint64_t)(lin->transposed ? lin->d_in : lin->d_out));
        mal_hasher_add(hasher, tensor.bytes, sizeof tensor.bytes);
    }
    assert_same_hash(mal_hasher_end(hasher), mal_weights_hash(ws, 1));
    mal_hasher_destroy(hasher);
    mal_weights_destroy(ws);
    made_finish(&made);
}

static void test_hash_definition(void **state) {
    check_definition(MAL_DIGEST_PIECES);
    check_definition(MAL_DIGEST_WHOLE);
}

/* The order in which modules are declared is no part of the hash. */
static void test_hash_order(void **state) {
    static const char *const other[] = {"h.0.fc", "h.1.proj", "h.0.proj"};
    struct made_model a, b;
    struct mal_error err = {0};
    struct mal_weights_state *ws_a = make_state(&a, 0), *ws_b;
    make(&b);
    made_edit(&b, other, N_EDITS);
    assert_ok(mal_weights_create(&ws_b, &b.model, 0, &err), &err);
    publish(ws_a, 7, 1);
    publish(ws_b, 7, 1);
    assert_same_hash(mal_weights_hash(ws_a, 0), mal_weights_hash(ws_b, 0));
    assert_same_hash(mal_weights_hash(ws_a, 1), mal_weights_hash(ws_b, 1));
    assert_other_hash(mal_weights_hash(ws_a, 0), mal_weights_hash(ws_a, 1));
    mal_weights_destroy(ws_a);
    mal_weights_destroy(ws_b);
    made_finish(&a);
    made_finish(&b);
}

/* ---- Tensors longer than a slice ---- */

/* ---- Return, replay, keeping ---- */

static bool next_delta(void *arg, size_t i, struct mal_delta *out,
                       struct mal_error *err) {
    const unsigned *modules = arg;
    *out = make_delta(modules[i], (uint64_t)(i + 1) * 10);
    return true;
}

static bool next_fails(void *arg, size_t i, struct mal_delta *out,
                       struct mal_error *err) {
    *out = make_delta(7, 1);
    return i < 1 || mal_fail(err, MAL_CORRUPT, "delta %zu is torn", i);
}

static bool replay(struct mal_weights_state *ws, size_t n,
                   bool (*next)(void *, size_t, struct mal_delta *, struct mal_error *),
                   void *arg, struct mal_error *err) {
    struct mal_replay r = {.n = n, .next = next, .arg = arg};
    return mal_weights_prepare_replay(ws, &r, NULL, NULL, err);
}

static void test_return(void **state) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_weights_state *ws = make_state(&made, 8);
    struct mal_hash base = mal_weights_hash(ws, 0);
    publish(ws, 7, 1);
    publish(ws, 2, 2);
    publish(ws, 7, 3);
    size_t bytes = mal_backend_bytes(test_backend());
    assert_ok(mal_weights_prepare_return(ws, 2, &err), &err);
    assert_same_hash(mal_weights_prepared_hash(ws), mal_weights_hash(ws, 2));
    mal_weights_publish(ws, 4);
    assert_int_equal(mal_weights_live(ws), 4);
    assert_int_equal(mal_backend_bytes(test_backend()), bytes); /* planes are shared */

    /* What follows a return goes on from the T it returned to. */
    publish(ws, 7, 5);
    struct mal_hash five = mal_weights_hash(ws, 5);
    assert_ok(mal_weights_prepare_return(ws, 0, &err), &err);
    mal_weights_publish(ws, 6);
    assert_same_hash(mal_weights_hash(ws, 6), base);
    for (size_t m = 0; m < N_EDITS; m++)
        assert_ptr_equal(mal_model_edit(&made.model, m)->w,
                         mal_model_edit(&made.model, m)->w0);

    unsigned modules[] = {7, 2, 0, 0, 7};
    assert_ok(replay(ws, 5, next_delta, modules, &err), &err);
    assert_same_hash(mal_weights_prepared_hash(ws), five);
    mal_weights_publish(ws, 7);
    assert_ok(replay(ws, 0, next_delta, modules, &err), &err);
    assert_same_hash(mal_weights_prepared_hash(ws), base);
    mal_weights_discard(ws);
    assert_int_equal(mal_weights_live(ws), 7);
    mal_weights_destroy(ws);
    made_finish(&made);
}

/* A start-up's replay gives the weights of the process that made the deltas. */
static void test_replay(void **state) {
    struct made_model made, again;
    struct mal_error err = {0};
    struct mal_weights_state *ws = make_state(&made, 1), *fresh = make_state(&again, 1);
    unsigned modules[] = {7, 2, 5};
    for (int64_t v = 1; v <= 3; v++)
        publish(ws, modules[v - 1], v);
    assert_ok(replay(fresh, 3, next_delta, modules, &err), &err);
    mal_weights_publish(fresh, 3);
    assert_same_hash(mal_weights_hash(fresh, 3), mal_weights_hash(ws, 3));
    const struct mal_module_norms *a = mal_weights_norms(ws, 3),
                                  *b = mal_weights_norms(fresh, 3);
    for (size_t m = 0; m < N_EDITS; m++)
        assert_true(a[m].shift_norm == b[m].shift_norm &&
                    a[m].weight_norm == b[m].weight_norm);

    /* A delta that cannot be had leaves all as it was. */
    assert_false(replay(fresh, 3, next_fails, NULL, &err));
    assert_error(&err, MAL_CORRUPT, "delta 1 is torn");
    assert_int_equal(mal_weights_live(fresh), 3);
    mal_weights_destroy(ws);
    mal_weights_destroy(fresh);
    made_finish(&made);
    made_finish(&again);
}

static void test_keep(void **state) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_weights_state *ws = make_state(&made, 2);
    size_t base_bytes = mal_backend_bytes(test_backend()), bytes = 0;
    for (int64_t v = 1; v <= 6; v++) {
        publish(ws, 7, v);
        if (v == 3) bytes = mal_backend_bytes(test_backend());
    }
    assert_int_equal(mal_backend_bytes(test_backend()), bytes);
    assert_true(bytes > base_bytes);
    static const bool has[] = {true, false, false, false, true, true, true};
    for (int64_t v = 0; v <= 6; v++)
        assert_int_equal(mal_weights_has(ws, v), has[v]);
    assert_false(mal_weights_has(ws, 7));

    /* Versions equal to the base do not push others out. */
    for (int64_t v = 7; v < 200; v++) {
        assert_ok(mal_weights_prepare_return(ws, 0, &err), &err);
        mal_weights_publish(ws, v);
    }
    assert_false(mal_weights_has(ws, 4));
    assert_true(mal_weights_has(ws, 5) && mal_weights_has(ws, 6) &&
                mal_weights_has(ws, 150));
    assert_false(mal_weights_has(ws, 7)); /* but are not kept for ever either */

    struct made_model other;
    struct mal_weights_state *none = make_state(&other, 0);
    publish(none, 7, 1);
    publish(none, 7, 2);
    assert_false(mal_weights_has(none, 1));
    assert_true(mal_weights_has(none, 0));
    mal_weights_destroy(none);
    made_finish(&other);
    mal_weights_destroy(ws);
    made_finish(&made);
}

/* Only the modules of a delta change and cost memory. */
static void test_untouched(void **state) {
    struct made_model made;
    struct mal_weights_state *ws = make_state(&made, 4);
    struct mal_linear *fc = mal_model_find_linear(&made.model, "h.0.fc");
    struct mal_linear *proj = mal_model_find_linear(&made.model, "h.0.proj");
    publish(ws, 2, 1);
    assert_ptr_equal(fc->w, fc->w0);
    assert_ptr_not_equal(proj->w, proj->w0);
    assert_true(mal_weights_norms(ws, 1)[fc->edit].shift_norm == 0);
    const void *w = proj->w;
    publish(ws, 1, 2);
    assert_ptr_equal(proj->w, w);
    assert_ptr_not_equal(fc->w, fc->w0);
    mal_weights_use(ws, 1);
    assert_ptr_equal(fc->w, fc->w0);
    mal_weights_use(ws, 2);
    assert_ptr_not_equal(fc->w, fc->w0);
    mal_weights_destroy(ws);
    assert_ptr_equal(fc->w, fc->w0);
    made_finish(&made);
}

/* -0 in the base stays -0 in version 0, also after a delta of zeros was applied on the
 * way. */
static void test_negative_zero(void **state) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_weights_state *ws = make_state(&made, 2);
    struct mal_linear *proj = mal_model_find_linear(&made.model, "h.0.proj");
    struct mal_hash base = mal_weights_hash(ws, 0);
    struct mal_delta delta = make_delta(2, 5);
    memset(delta.parts[0].data, 0, mal_delta_part_bytes(&delta.parts[0]));
    float w[28];
    assert_ok(mal_weights_read(ws, 0, (size_t)proj->edit, w, &err), &err);
    assert_true(w[2] == 0 && signbit(w[2]));
    assert_ok(mal_weights_prepare(ws, &delta, NULL, NULL, &err), &err);
    mal_weights_publish(ws, 1);
    assert_other_hash(mal_weights_hash(ws, 1), base);
    assert_ok(mal_weights_prepare_return(ws, 0, &err), &err);
    mal_weights_publish(ws, 2);
    assert_same_hash(mal_weights_hash(ws, 2), base);
    mal_delta_finish(&delta);
    mal_weights_destroy(ws);
    made_finish(&made);
}

/* ---- Preparing without publishing ---- */

static void count(void *arg) {
    ++*(int *)arg;
}

static void test_prepared(void **state) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_weights_state *ws = make_state(&made, 2);
    struct mal_linear *proj = mal_model_find_linear(&made.model, "h.0.proj");
    publish(ws, 7, 1);
    const void *live = proj->w;
    size_t bytes = mal_backend_bytes(test_backend());
    struct mal_delta delta = make_delta(7, 77);
    int ticks = 0;
    assert_ok(mal_weights_prepare(ws, &delta, count, &ticks, &err), &err);
    assert_true(ticks >= N_EDITS);
    assert_ptr_equal(proj->w, live); /* readers see nothing of it */
    assert_true(mal_weights_prepared_norms(ws)[proj->edit].shift_norm > 0);
    mal_weights_use_prepared(ws);
    assert_ptr_not_equal(proj->w, live);
    mal_weights_use(ws, 1);
    assert_ptr_equal(proj->w, live);
    mal_weights_use_prepared(ws);
    mal_weights_discard(ws);
    assert_ptr_equal(proj->w, live);
    assert_int_equal(mal_weights_live(ws), 1);
    assert_int_equal(mal_backend_bytes(test_backend()), bytes);
    mal_weights_discard(ws);
    mal_delta_finish(&delta);
    mal_weights_destroy(ws);
    made_finish(&made);
}

static void test_held(void **state) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_weights_state *ws = make_state(&made, 0);
    struct mal_linear *proj = mal_model_find_linear(&made.model, "h.0.proj");
    publish(ws, 7, 1);
    size_t bytes = mal_backend_bytes(test_backend());
    const void *one = proj->w;
    assert_ok(mal_weights_prepare_return(ws, 1, &err), &err);
    mal_weights_hold(ws);
    publish(ws, 7, 2);
    assert_false(mal_weights_has(ws, 1));
    mal_weights_use_held(ws);
    assert_ptr_equal(proj->w, one);
    mal_weights_lend(ws, 0);
    mal_weights_give_back(ws);
    assert_ptr_equal(proj->w, one);
    mal_weights_let_go(ws);
    assert_ptr_not_equal(proj->w, one); /* that of 2 */
    assert_int_equal(mal_backend_bytes(test_backend()), bytes);
    mal_weights_destroy(ws);
    made_finish(&made);
}

/* ---- Refusals ---- */

static void refuse(struct mal_weights_state *ws, struct mal_delta *delta,
                   enum mal_status status, const char *words) {
    struct mal_error err = {0};
    int64_t live = mal_weights_live(ws);
    struct mal_hash hash = mal_weights_hash(ws, live);
    size_t bytes = mal_backend_bytes(test_backend());
    assert_false(mal_weights_prepare(ws, delta, NULL, NULL, &err));
    assert_error(&err, status, words);
    assert_int_equal(mal_weights_live(ws), live);
    assert_same_hash(mal_weights_hash(ws, live), hash);
    assert_int_equal(mal_backend_bytes(test_backend()), bytes);
    mal_delta_finish(delta);
}

/* Of several deltas that were tried the last one is sealed, as if it had come alone. */
static void test_try(void **state) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_weights_state *ws = make_state(&made, 2);
    struct mal_delta first = make_delta(7, 20), last = make_delta(3, 30);
    publish(ws, 7, 1);
    assert_ok(mal_weights_try(ws, 1, &first, NULL, NULL, &err), &err);
    mal_weights_use_prepared(ws);
    assert_ok(mal_weights_try(ws, 1, &last, NULL, NULL, &err), &err);
    assert_ok(mal_weights_seal(ws, NULL, NULL, &err), &err);
    struct mal_hash tried = mal_weights_prepared_hash(ws);
    double norm = mal_weights_prepared_norms(ws)[0].shift_norm;
    mal_weights_discard(ws);
    assert_ok(mal_weights_prepare(ws, &last, NULL, NULL, &err), &err);
    assert_same_hash(mal_weights_prepared_hash(ws), tried);
    assert_true(mal_weights_prepared_norms(ws)[0].shift_norm == norm);
    mal_weights_publish(ws, 2);
    assert_same_hash(mal_weights_hash(ws, 2), tried);
    mal_delta_finish(&first);
    mal_delta_finish(&last);
    mal_weights_destroy(ws);
    made_finish(&made);
    (void)state;
}

static void set_value(struct mal_delta_part *part, size_t i, float x) {
    size_t size = mal_dtype_size(part->dtype);
    mal_from_f32((char *)part->data + i * size, &x, part->dtype, 1);
}

static void test_refusals(void **state) {
    struct made_model made;
    struct mal_weights_state *ws = make_state(&made, 2);
    publish(ws, 7, 1);
    struct mal_delta delta = make_delta(7, 3);
    set_value(&delta.parts[1], 5, NAN);
    refuse(ws, &delta, MAL_NUMERIC, "module 'h.0.proj': the edited weight has a NaN");
    delta = make_delta(7, 3);
    set_value(&delta.parts[2], 0, INFINITY);
    refuse(ws, &delta, MAL_NUMERIC, "module 'h.1.proj'");
    /* Finite, but not in the checkpoint's fp16. */
    delta = make_delta(4, 3);
    set_value(&delta.parts[0], 0, 1e6f);
    refuse(ws, &delta, MAL_NUMERIC, "module 'h.1.proj'");
    delta = make_delta(2, 3);
    delta.parts[0].module[2] = '7';
    refuse(ws, &delta, MAL_INVALID, "module 'h.7.proj', which is not edited here");
    delta = make_delta(7, 3);
    mal_free(delta.parts[2].module);
    delta.parts[2].module =
        mal_strdup("h.0.other"); /* in the model, but no edit module */
    refuse(ws, &delta, MAL_INVALID, "h.0.other");
    delta = make_delta(1, 3);
    delta.parts[0].d_in = 9;
    delta.parts[0].d_out = 5;
    refuse(ws, &delta, MAL_INVALID,
           "module 'h.0.fc' is (5, 9), the delta's shift (9, 5)");
    publish(ws, 7, 2); /* and goes on */
    mal_weights_destroy(ws);
    made_finish(&made);
}

static void test_no_memory(void **state) {
    struct made_model made;
    struct mal_error err = {0};
    struct mal_weights_state *ws;
    make(&made);
    size_t bytes = mal_backend_bytes(test_backend());
    bool ok = false;
    for (long n = 1; !ok && n < 200; n++) {
        mal_alloc_fail_at(n);
        ok = mal_weights_create(&ws, &made.model, 1, &err);
        mal_alloc_fail_at(0);
        if (ok) {
            mal_weights_destroy(ws);
        } else {
            assert_int_equal(err.status, MAL_NO_MEMORY);
            err = (struct mal_error){0};
        }
        assert_int_equal(mal_backend_bytes(test_backend()), bytes);
    }
    assert_true(ok);

    assert_ok(mal_weights_create(&ws, &made.model, 1, &err), &err);
    struct mal_delta delta = make_delta(7, 1);
    ok = false;
    bytes = mal_backend_bytes(test_backend());
    for (long n = 1; !ok && n < 200; n++) {
        mal_alloc_fail_at(n);
        ok = mal_weights_prepare(ws, &delta, NULL, NULL, &err);
        mal_alloc_fail_at(0);
        if (ok) break;
        assert_int_equal(err.status, MAL_NO_MEMORY);
        err = (struct mal_error){0};
        assert_int_equal(mal_backend_bytes(test_backend()), bytes);
    }
    assert_true(ok);
    mal_delta_finish(&delta);
    mal_weights_destroy(ws);
    made_finish(&made);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),          cmocka_unit_test(test_hash_definition),
        cmocka_unit_test(test_hash_order),    cmocka_unit_test(test_return),
        cmocka_unit_test(test_replay),        cmocka_unit_test(test_try),
        cmocka_unit_test(test_keep),          cmocka_unit_test(test_untouched),
        cmocka_unit_test(test_negative_zero), cmocka_unit_test(test_prepared),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_held),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("weights_state", tests, NULL, NULL);
}
