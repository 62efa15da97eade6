/* test_beside.c - a model's weights read by a second thread's passes while the first one
 * makes versions of them: the same numbers as the owner's own passes, of the version that
 * was leased, whatever has been published since. */
#include "each_model.h"
#include "no_memory.h"

#include <pthread.h>

#include "core/weights_state.h"

enum { MOST_ROWS = 64, MOST_EDITS = 16 };

static struct mal_backend *beside(void) {
    static struct mal_backend *be;
    struct mal_error err = {0};
    if (!be) assert_ok(mal_backend_create_beside(&be, test_backend(), &err), &err);
    return be;
}

static struct mal_model *share(struct mal_model *of) {
    struct mal_model *out = NULL;
    struct mal_error err = {0};
    assert_ok(mal_model_share(&out, of, beside(), &err), &err);
    return out;
}

static struct made_batch *some_batch(void) {
    return make_batch(&mixed, false);
}

/* -log p of each label row. */
static void score(struct mal_model *of, const struct made_batch *b, float *out) {
    struct mal_error err = {0};
    struct mal_row_scores scores = {.logprob = out};
    memset(out, 0, MOST_ROWS * sizeof *out);
    assert_ok(mal_model_score(of, &b->batch, &scores, &err), &err);
}

static void expect_same(const float *a, const float *b, bool same) {
    assert_int_equal(memcmp(a, b, MOST_ROWS * sizeof *a) == 0, same);
}

static struct mal_weights_state *make_state(int keep) {
    struct mal_error err = {0};
    struct mal_weights_state *ws = NULL;
    const char **modules = NULL, *names[MOST_EDITS];
    size_t n = 0;
    assert_ok(mal_model_default_edits(model, &modules, &n, &err), &err);
    assert_true(n < MOST_EDITS);
    memcpy(names, modules, n * sizeof *names);
    const struct mal_linear *lin = mal_model_find_linear(model, names[n - 1]);
    if (lin->own_bias) names[n++] = lin->own_bias->name;
    mal_free(modules);
    assert_ok(mal_model_set_edits(model, names, n, &err), &err);
    assert_ok(mal_weights_create(&ws, model, keep, &err), &err);
    return ws;
}

/* A dense shift of all that is edited. */
static void publish(struct mal_weights_state *ws, int64_t version) {
    struct mal_error err = {0};
    size_t n = mal_model_n_edited(model);
    struct mal_delta delta = {.parts = mal_calloc(n, sizeof *delta.parts), .n_parts = n};
    for (size_t m = 0; m < n; m++) {
        const struct mal_linear *lin = mal_model_edit(model, m);
        delta.parts[m] =
            (struct mal_delta_part){.module = mal_strdup(lin->name),
                                    .d_in = lin->d_in,
                                    .d_out = lin->d_out,
                                    .encoding = MAL_ENCODING_DENSE,
                                    .dtype = MAL_F32,
                                    .data = random_floats(lin->d_in * lin->d_out, 0.3f,
                                                          (uint64_t)version * 100 + m)};
    }
    mal_delta_sort(&delta);
    assert_ok(mal_weights_prepare(ws, &delta, NULL, NULL, &err), &err);
    mal_weights_publish(ws, version);
    mal_delta_finish(&delta);
}

static struct mal_weights_lease lease(struct mal_weights_state *ws, int64_t version,
                                      struct mal_model *reader) {
    struct mal_weights_lease out;
    struct mal_error err = {0};
    assert_ok(mal_weights_lease(ws, version, reader, &out, &err), &err);
    return out;
}

/* ---- One after the other ---- */

static void test_same(void **state) {
    float base[MOST_ROWS], live[MOST_ROWS], got[MOST_ROWS];
    struct made_batch *b = some_batch();
    struct mal_weights_state *ws = make_state(2);
    struct mal_model *reader = share(model);
    score(model, b, base);
    score(reader, b, got);
    expect_same(got, base, true);

    publish(ws, 1);
    score(model, b, live);
    expect_same(live, base, false);
    score(reader, b, got);
    expect_same(got, base, true); /* until told otherwise */
    struct mal_weights_lease held = lease(ws, -1, reader);
    assert_int_equal(held.number, 1);
    score(reader, b, got);
    expect_same(got, live, true);
    mal_weights_end_lease(ws, &held);

    held = lease(ws, 0, reader);
    score(reader, b, got);
    expect_same(got, base, true);
    mal_weights_end_lease(ws, &held);
    score(model, b, got);
    expect_same(got, live, true); /* what the owner uses is its own affair */
    mal_weights_destroy(ws);
    mal_model_close(reader);
    mal_free(b);
}

static void test_leaving(void **state) {
    float one[MOST_ROWS], got[MOST_ROWS];
    struct made_batch *b = some_batch();
    struct mal_error err = {0};
    struct mal_weights_state *ws = make_state(1);
    struct mal_model *reader = share(model);
    struct mal_weights_lease none;
    publish(ws, 1);
    score(model, b, one);
    struct mal_weights_lease held = lease(ws, 1, reader), twice = lease(ws, 1, reader);
    publish(ws, 2);
    size_t bytes = mal_backend_bytes(test_backend()); /* base, 1, 2 */
    publish(ws, 3);
    publish(ws, 4);
    assert_false(mal_weights_has(ws, 1));
    assert_true(mal_backend_bytes(test_backend()) > bytes); /* 3, 4, and 1 */
    assert_false(mal_weights_lease(ws, 1, reader, &none, &err));
    assert_error(&err, MAL_NOT_FOUND, "version 1 is not in memory");
    score(reader, b, got);
    expect_same(got, one, true);
    mal_weights_end_lease(ws, &held);
    publish(ws, 5);
    assert_true(mal_backend_bytes(test_backend()) > bytes);
    score(reader, b, got);
    expect_same(got, one, true);
    mal_weights_end_lease(ws, &twice);
    publish(ws, 6);
    assert_int_equal(mal_backend_bytes(test_backend()), bytes);

    held = lease(ws, 5, reader); /* one that stays */
    mal_weights_end_lease(ws, &held);
    assert_true(mal_weights_has(ws, 5));
    mal_weights_destroy(ws);
    mal_model_close(reader);
    mal_free(b);
}

/* ---- Without memory ---- */

static bool share_once(const char *path, struct mal_error *err) {
    struct mal_model *reader = NULL;
    if (!mal_model_share(&reader, model, beside(), err)) return false;
    mal_model_close(reader);
    return true;
}

static void test_no_memory(void **state) {
    struct mal_weights_state *ws = make_state(1);
    beside();
    fail_each_allocation(share_once, NULL, 5);
    mal_weights_destroy(ws);
}

/* ---- Side by side ---- */

enum { VERSIONS = 6 };

struct reading {
    struct mal_weights_state *ws;
    struct mal_model *reader;
    const struct made_batch *batch;
    float (*want)[MOST_ROWS]; /* per version */
    pthread_mutex_t lock;
    bool over;
    size_t n, wrong, versions; /* reads, those with other numbers, how many of them */
};

static bool is_over(struct reading *r) {
    pthread_mutex_lock(&r->lock);
    bool over = r->over;
    pthread_mutex_unlock(&r->lock);
    return over;
}

static void *read_all(void *arg) {
    struct reading *r = arg;
    struct mal_error err = {0};
    int64_t last = -1;
    for (bool over = false; !over;) {
        float got[MOST_ROWS] = {0};
        struct mal_weights_lease held;
        struct mal_row_scores scores = {.logprob = got};
        over = is_over(r); /* once more after the last version */
        if (!mal_weights_lease(r->ws, -1, r->reader, &held, &err)) break;
        bool ok = mal_model_score(r->reader, &r->batch->batch, &scores, &err);
        mal_weights_end_lease(r->ws, &held);
        r->n++;
        r->versions += held.number != last;
        last = held.number;
        r->wrong += !ok || memcmp(got, r->want[held.number], sizeof got) != 0;
    }
    return NULL;
}

static void test_threads(void **state) {
    static float want[VERSIONS + 1][MOST_ROWS];
    struct made_batch *b = some_batch();
    struct mal_weights_state *ws = make_state(0);
    score(model, b, want[0]);
    for (int64_t v = 1; v <= VERSIONS; v++) {
        publish(ws, v);
        score(model, b, want[v]);
    }
    mal_weights_destroy(ws);

    ws = make_state(0);
    struct reading r = {.ws = ws, .reader = share(model), .batch = b, .want = want};
    pthread_t thread;
    pthread_mutex_init(&r.lock, NULL);
    assert_int_equal(pthread_create(&thread, NULL, read_all, &r), 0);
    for (int64_t v = 1; v <= VERSIONS; v++)
        publish(ws, v);
    pthread_mutex_lock(&r.lock);
    r.over = true;
    pthread_mutex_unlock(&r.lock);
    pthread_join(thread, NULL);
    pthread_mutex_destroy(&r.lock);
    assert_true(r.n > 0 && r.versions > 0);
    assert_int_equal(r.wrong, 0);
    mal_weights_destroy(ws);
    mal_model_close(r.reader);
    mal_free(b);
}

int main(void) {
    static const struct model_test list[] = {
        {"a shared model answers alike", test_same},
        {"a leased version stays until it is let go", test_leaving},
        {"sharing without memory", test_no_memory},
        {"reads beside versions that come", test_threads}};
    int failed = run_each("beside", list, sizeof list / sizeof *list);
    mal_backend_destroy(beside());
    return failed;
}
