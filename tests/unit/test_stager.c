/* test_stager.c - what a change stores is on its way before the change is made: it is
 * there once the version is, with what was repaired in between, and gone where the
 * version came to nothing. */
#include "store_faults.h"

#include <math.h>
#include <pthread.h>

#include "daemon/engine/stager.h"

enum { N_FACTS = 3, N_VALUES = 1000, D = 300 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool told, may_go;
} now = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

struct lab {
    struct mal_store *store, *reader;
    struct mal_metrics *metrics;
    struct mal_writer *writer;
    struct mal_stager *stager;
    struct mal_history_value values[N_FACTS]; /* ids borrowed, data owned */
    struct mal_delta delta;
    struct mal_write holding;
};

/* ---- On the writer's thread ---- */

static void tell(bool *what) {
    pthread_mutex_lock(&now.lock);
    *what = true;
    pthread_cond_broadcast(&now.changed);
    pthread_mutex_unlock(&now.lock);
}

static void await(bool *what) {
    pthread_mutex_lock(&now.lock);
    while (!*what)
        pthread_cond_wait(&now.changed, &now.lock);
    *what = false;
    pthread_mutex_unlock(&now.lock);
}

static void told(void *arg) {
    tell(&now.told);
}

static bool hold(struct mal_store *store, void *arg, struct mal_error *err) {
    await(&now.may_go);
    return true;
}

static void held(struct mal_write *write) {}

static void on_fatal(void *arg, const struct mal_error *err) {
    assert_int_equal(err->status, MAL_OK); /* it never comes to this here */
}

/* ---- A change ---- */

static char name_b[] = "b", name_a[] = "a";

/* Values that begin with `first`, of the facts job.0 to job.2; a delta of two parts. */
static void make(struct lab *lab, float first) {
    static const char *const ids[N_FACTS] = {"job.0", "job.1", "job.2"};
    float values[N_VALUES];
    for (int i = 0; i < N_VALUES; i++)
        values[i] = sinf((float)i);
    for (int i = 0; i < N_FACTS; i++) {
        values[0] = first + (float)i;
        lab->values[i] = (struct mal_history_value){.fact = 1 + i, .id = ids[i]};
        assert_true(mal_history_pack_values(&lab->values[i], values, N_VALUES));
    }
    lab->delta = (struct mal_delta){.parts = mal_calloc(2, sizeof *lab->delta.parts),
                                    .n_parts = 2};
    for (int p = 0; p < 2; p++) {
        struct mal_delta_part *part = &lab->delta.parts[p];
        *part = (struct mal_delta_part){.module = mal_strdup(p ? name_b : name_a),
                                        .d_in = D,
                                        .d_out = D,
                                        .encoding = MAL_ENCODING_DENSE,
                                        .dtype = MAL_F32,
                                        .data = mal_calloc(D * D, sizeof(float))};
        *(float *)part->data = first;
    }
    mal_delta_hash_data(&lab->delta);
}

static void unmake(struct lab *lab) {
    for (int i = 0; i < N_FACTS; i++)
        mal_free(lab->values[i].data);
    memset(lab->values, 0, sizeof lab->values);
    mal_delta_finish(&lab->delta);
}

static void lab_open(struct lab *lab, void **state) {
    *lab = (struct lab){.store = open_store(path_of(state))};
    lab->reader = open_reader(path_of(state));
    now.told = now.may_go = false;
    assert_done(publish(lab->store, 0, -1, NULL, &err));
    assert_done(
        add_job(lab->store, "job", N_FACTS, (const char *[]){"p", "q", "r"}, &err));
    assert_done(mal_metrics_create(&lab->metrics, &err));
    assert_done(
        mal_writer_create(&lab->writer, lab->store, on_fatal, NULL, lab->metrics, &err));
    assert_done(mal_stager_create(&lab->stager, lab->writer, told, NULL, &err));
    make(lab, 1);
}

static void lab_close(struct lab *lab) {
    mal_stager_destroy(lab->stager);
    assert_done(mal_writer_destroy(lab->writer, &err));
    mal_metrics_destroy(lab->metrics);
    mal_store_close(lab->reader);
    mal_store_close(lab->store);
    unmake(lab);
}

static void give_values(struct lab *lab) {
    assert_done(mal_stager_values(lab->stager, 1, lab->values, N_FACTS, &err));
    for (int i = 0; i < N_FACTS; i++)
        assert_null(lab->values[i].data);
}

static void give_all(struct lab *lab) {
    give_values(lab);
    mal_stager_delta(lab->stager, 1, &lab->delta);
}

/* Until now.may_go. */
static void hold_writer(struct lab *lab) {
    lab->holding = (struct mal_write){.fn = hold, .done = held};
    mal_writer_begin(lab->writer, &lab->holding);
}

static void wait_for_stager(struct lab *lab) {
    while (mal_stager_busy(lab->stager))
        await(&now.told);
}

static bool settled(struct lab *lab, struct mal_error *err) {
    mal_stager_settle(lab->stager);
    wait_for_stager(lab);
    return mal_stager_settled(lab->stager, 1, err);
}

struct rest {
    struct lab *lab;
    bool delta; /* it was not given */
};

static bool write_rest(struct mal_store *store, void *arg, struct mal_error *err) {
    const struct rest *rest = arg;
    struct lab *lab = rest->lab;
    char hash[MAL_HASH_HEX];
    const char *job = "job";
    struct mal_history_parts parts = {.delta = rest->delta ? &lab->delta : NULL,
                                      .values = lab->values,
                                      .n_values = N_FACTS};
    struct mal_version_row row = version_row(1, -1);
    struct mal_publish publish = {.row = &row, .jobs = &job, .n_jobs = 1};
    row.values_hash = hash;
    return mal_history_hash_values(lab->values, N_FACTS, hash, err) &&
           mal_history_stage(store, 1, &parts, err) &&
           mal_store_publish(store, &publish, err);
}

static void publish_rest(struct lab *lab, bool delta) {
    struct rest rest = {lab, delta};
    assert_done(settled(lab, &err));
    assert_done(mal_writer_call(lab->writer, write_rest, &rest, &err));
    mal_stager_kept(lab->stager);
}

/* ---- What is there ---- */

static void expect(struct lab *lab, int64_t n_values, int64_t n_blobs) {
    assert_int_equal(number_of(lab->reader, "SELECT count(*) FROM fact_values"),
                     n_values);
    assert_int_equal(number_of(lab->reader, "SELECT count(*) FROM blobs"), n_blobs);
    assert_int_equal(number_of(lab->reader, "SELECT count(*) FROM blob_chunks"), n_blobs);
}

/* Version 1 holds what the lab made. */
static void expect_version(struct lab *lab) {
    struct mal_version_row row;
    struct mal_blob_row *blobs = NULL;
    size_t n = 0;
    expect(lab, N_FACTS, 2);
    assert_done(mal_store_get_version(lab->reader, 1, &row, &err));
    assert_done(mal_history_check_values(lab->reader, &row, &n, &err));
    assert_int_equal(n, N_FACTS);
    mal_version_row_finish(&row);
    assert_done(mal_store_blobs(lab->reader, 1, &blobs, &n, &err));
    assert_int_equal(n, 2);
    for (size_t i = 0; i < n; i++) {
        float *data = mal_malloc(blobs[i].bytes);
        assert_done(mal_store_read_blob(lab->reader, 1, &blobs[i], data, &err));
        assert_memory_equal(data, lab->delta.parts[i].data, blobs[i].bytes);
        mal_free(data);
    }
    mal_blob_rows_free(blobs, n);
}

/* The change that is made now becomes version 1, and nothing else does. */
static void expect_published(struct lab *lab) {
    give_values(lab);
    publish_rest(lab, true);
    expect_version(lab);
}

/* ---- Tests ---- */

static void is_there_before(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    give_values(&lab);
    wait_for_stager(&lab);
    expect(&lab, N_FACTS, 0);
    mal_stager_delta(lab.stager, 1, &lab.delta);
    wait_for_stager(&lab);
    expect(&lab, N_FACTS, 2);
    publish_rest(&lab, false);
    expect_version(&lab);
    mal_stager_drop(lab.stager); /* there is nothing to drop */
    wait_for_stager(&lab);
    expect_version(&lab);
    lab_close(&lab);
}

/* What is given while the writer is busy waits, and is one with the rest. */
static void waits_for_its_turn(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    hold_writer(&lab);
    give_all(&lab);
    assert_true(mal_stager_busy(lab.stager));
    expect(&lab, 0, 0);
    tell(&now.may_go);
    publish_rest(&lab, false);
    expect_version(&lab);
    lab_close(&lab);
}

static void repaired_in_between(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    give_values(&lab);
    float other[N_VALUES] = {-7};
    lab.values[1].replaces = true;
    assert_true(mal_history_pack_values(&lab.values[1], other, N_VALUES));
    publish_rest(&lab, true);
    expect_version(&lab);
    lab_close(&lab);
}

static void comes_to_nothing(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    give_all(&lab);
    wait_for_stager(&lab);
    mal_stager_drop(lab.stager);
    wait_for_stager(&lab);
    expect(&lab, 0, 0);
    unmake(&lab);

    make(&lab, 5);
    expect_published(&lab);
    lab_close(&lab);
}

/* The writer has not come to it, and the next change is there already. */
static void dropped_before_its_turn(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    hold_writer(&lab);
    give_all(&lab);
    mal_stager_drop(lab.stager);
    unmake(&lab);
    make(&lab, 5);
    give_values(&lab);
    tell(&now.may_go);
    publish_rest(&lab, true);
    expect_version(&lab);
    lab_close(&lab);
}

/* Dropped at any moment, nothing of the first change is in the second. */
static void dropped_on_the_way(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    for (int i = 0; i < 50; i++) {
        give_all(&lab);
        usleep((useconds_t)(50 * i));
        mal_stager_drop(lab.stager);
        unmake(&lab);
        make(&lab, (float)i);
    }
    expect_published(&lab);
    lab_close(&lab);
}

static void full_disk(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    fail_writes(1, ENOSPC);
    give_values(&lab);
    wait_for_stager(&lab);
    assert_fails(MAL_NO_SPACE, "", settled(&lab, &err));
    fail_writes(0, 0);
    mal_stager_drop(lab.stager);
    wait_for_stager(&lab);
    unmake(&lab);

    make(&lab, 5);
    expect_published(&lab);
    lab_close(&lab);
}

/* What cannot be forgotten is in the way of every other change until it can. */
static void full_disk_when_dropped(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    give_all(&lab);
    wait_for_stager(&lab);
    fail_writes(1, ENOSPC);
    mal_stager_drop(lab.stager);
    wait_for_stager(&lab);
    expect(&lab, N_FACTS, 2);
    unmake(&lab);

    make(&lab, 5);
    assert_fails(MAL_NO_SPACE, "", settled(&lab, &err));
    fail_writes(0, 0);
    expect_published(&lab);
    lab_close(&lab);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACE_TEST(is_there_before),
        PLACE_TEST(waits_for_its_turn),
        PLACE_TEST(repaired_in_between),
        PLACE_TEST(comes_to_nothing),
        PLACE_TEST(dropped_before_its_turn),
        PLACE_TEST(dropped_on_the_way),
        PLACE_TEST(full_disk),
        PLACE_TEST(full_disk_when_dropped),
    };
    return cmocka_run_group_tests_name("stager", tests, NULL, NULL);
}
