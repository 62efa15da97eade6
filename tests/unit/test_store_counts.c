/* test_store_counts.c - counts that are kept between two looks, against counting anew. */
#include "store_fixture.h"

static void check(struct mal_store *store) {
    struct mal_store_counts counts;
    char sql[128];
    assert_done(mal_store_counts(store, &counts, &err));
    for (int i = 0; i < MAL_N_JOB_STATES; i++) {
        snprintf(sql, sizeof sql, "SELECT count(*) FROM jobs WHERE state = '%s'",
                 mal_job_state_name((enum mal_job_state)i));
        assert_int_equal(counts.jobs[i], number_of(store, sql));
    }
    assert_int_equal(counts.live_facts,
                     number_of(store, "SELECT count(*) FROM facts WHERE state = 'live'"));
    assert_int_equal(counts.versions, number_of(store, "SELECT count(*) FROM versions"));
}

static uint32_t draw(uint32_t *seed, uint32_t n) {
    *seed = *seed * 1664525 + 1013904223;
    return (*seed >> 8) % n;
}

enum { N_JOBS = 80 };

struct history {
    struct mal_store *store;
    uint32_t seed;
    int64_t version;
    size_t n;
    enum mal_job_state states[N_JOBS];
};

static void add(struct history *h) {
    static const char *const prompts[] = {"p", "q", "r", "s", "t", "u", "v", "w"};
    char id[16];
    if (h->n == N_JOBS) return;
    snprintf(id, sizeof id, "j%03zu", h->n);
    assert_done(
        add_job(h->store, id, 1 + draw(&h->seed, 3), prompts + draw(&h->seed, 5), &err));
    h->states[h->n++] = MAL_JOB_QUEUED;
}

static void move(struct history *h) {
    static const enum mal_job_state ends[] = {MAL_JOB_REJECTED, MAL_JOB_FAILED,
                                              MAL_JOB_CANCELLED, MAL_JOB_DONE};

    char id[16];
    const char *ids = id;
    size_t i = h->n ? draw(&h->seed, (uint32_t)h->n) : 0;
    if (i == h->n || mal_job_state_ended(h->states[i])) return;
    snprintf(id, sizeof id, "j%03zu", i);
    if (h->states[i] == MAL_JOB_QUEUED && draw(&h->seed, 2)) {
        assert_done(mal_store_start_jobs(h->store, &ids, 1, 5, &err));
        h->states[i] = MAL_JOB_RUNNING;
    } else if (draw(&h->seed, 2)) {
        if (h->version > 0 && draw(&h->seed, 8) == 0) {
            int64_t back = (int64_t)draw(&h->seed, (uint32_t)h->version);
            assert_done(publish(h->store, h->version++, back, NULL, &err));
        }
        assert_done(publish(h->store, h->version++, -1, id, &err));
        h->states[i] = MAL_JOB_APPLIED;
    } else {
        h->states[i] = ends[draw(&h->seed, 4)];
        if (h->states[i] == MAL_JOB_CANCELLED) {
            assert_done(mal_store_cancel_job(h->store, id, 6, asked(), &err));
        } else {
            assert_done(
                mal_store_end_jobs(h->store, &ids, 1, h->states[i], 6, NULL, NULL, &err));
        }
    }
}

/* Jobs end in any order, as with those that are cancelled; a kill takes running ones
 * back. */
static void counts_follow_every_change(void **state) {
    struct history h = {.store = open_store(path_of(state)), .seed = 7};
    struct mal_store *reader = open_reader(path_of(state));
    check(reader);
    assert_done(publish(h.store, h.version++, -1, NULL, &err));
    for (int step = 0; step < 500; step++) {
        if (draw(&h.seed, 4) == 0) add(&h);
        move(&h);
        if (step % 150 == 75) {
            int64_t n;
            assert_done(mal_store_requeue_running(h.store, &n, &err));
            for (size_t i = 0; i < h.n; i++)
                if (h.states[i] == MAL_JOB_RUNNING) h.states[i] = MAL_JOB_QUEUED;
        }
        if (draw(&h.seed, 3) == 0) check(reader);
    }
    check(reader);
    check(h.store);
    assert_int_equal(h.n, N_JOBS);
    assert_true(reader->settled > 0);
    for (int i = 0; i < 1000; i++)
        move(&h);
    check(reader);
    assert_int_equal(reader->settled, N_JOBS);
    mal_store_close(reader);
    mal_store_close(h.store);
}

static void deltas_of_pruned_versions_are_left_out(void **state) {
    struct mal_store *store = open_store(path_of(state));
    int64_t bytes;
    assert_done(mal_store_delta_bytes(store, &bytes, &err));
    assert_int_equal(bytes, 0);
    for (int64_t v = 0; v < 4; v++) {
        struct mal_version_row row = version_row(v, -1);
        row.delta_bytes = 10 << v;
        row.keyframe = v > 0;
        struct mal_publish p = {.row = &row, .now_ms = 3000};
        assert_done(mal_store_publish(store, &p, &err));
    }
    assert_done(mal_store_delta_bytes(store, &bytes, &err));
    assert_int_equal(bytes, 10 + 20 + 40 + 80);
    assert_done(mal_store_prune(store, 3, &err));
    assert_done(mal_store_delta_bytes(store, &bytes, &err));
    assert_int_equal(bytes, 10 + 80);
    mal_store_close(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACE_TEST(counts_follow_every_change),
        PLACE_TEST(deltas_of_pruned_versions_are_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
