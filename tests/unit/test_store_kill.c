/* test_store_kill.c - a writer is killed at random moments, again and again: what it had
 * acknowledged is there, batches are applied once, nothing half staged is left. */
#include "store_copier.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

enum {
    N_KILLS = 100,
    N_FRESH = 20, /* of them: killed while the database is made */
    MAX_JOBS = 40000,
    MAX_VERSIONS = 10000,
    BATCH = 3,
};

static uint64_t seed_state;

static uint32_t draw(uint32_t below) {
    seed_state = seed_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed_state >> 33) % below;
}

/* ---- The writer that is killed ---- */

/* Written to the pipe after the store has said that it is done. */
struct ack {
    int64_t job;     /* accepted; -1: none */
    int64_t version; /* published; -1: none */
    int64_t batch[BATCH];
    int64_t n_batch;
};

static void acknowledge(int fd, struct ack ack) {
    if (write(fd, &ack, sizeof ack) != (ssize_t)sizeof ack) _exit(3);
}

static void must(bool done, const struct mal_error *err) {
    if (done) return;
    fprintf(stderr, "writer: %s\n", err->text);
    _exit(2);
}

static void accept_job(struct mal_store *store, int fd, int64_t number) {
    static const char *const prompts[] = {"p", "q", "r", "s", "t", "u", "v", "w"};
    struct mal_error err = {0};
    char id[32];
    snprintf(id, sizeof id, "job_%09" PRId64, number);
    must(add_job(store, id, 1 + draw(3), prompts + draw(5), &err), &err);
    acknowledge(fd, (struct ack){.job = number, .version = -1});
}

/* Bytes that say which version they belong to. */
static void fill(char *data, size_t bytes, int64_t version) {
    for (size_t i = 0; i < bytes; i++)
        data[i] = (char)(version * 31 + (int64_t)(i / 1000));
}

/* Some are of more than one chunk. */
static size_t blob_bytes(int64_t version, int i) {
    bool large = i == 0 && version % 16 == 9;
    return (size_t)(1 + version % 7) * 9001 + (large ? (size_t)MAL_STORE_CHUNK_BYTES : 0);
}

static void stage(struct mal_store *store, int64_t version) {
    static char data[MAL_STORE_CHUNK_BYTES + 100000];
    for (int i = 0; i < 2; i++) {
        struct mal_error err = {0};
        size_t bytes = blob_bytes(version, i);
        struct mal_blob blob = {i ? "delta/y" : "delta/x", "{}", data, bytes, "ff"};
        fill(data, bytes, version);
        must(mal_store_stage_blob(store, version, &blob, &err), &err);
    }
}

/* Values of a few members; how many. */
static size_t stage_values(struct mal_store *store, int64_t version) {
    static const char large[MAL_STORE_CHUNK_BYTES];
    static const char small[100];
    struct mal_error err = {0};
    struct mal_member *members;
    struct mal_fact_values values[8];
    size_t n;
    must(mal_store_member_list(store, &members, &n, &err), &err);
    size_t n_values = n < 8 ? n : 8;
    for (size_t i = 0; i < n_values; i++) {
        bool is_large = i == 0 && version % 16 == 5; /* a commit of its own */
        values[i] =
            (struct mal_fact_values){members[i].seq, is_large ? large : small,
                                     is_large ? sizeof large : sizeof small, "ff"};
    }
    must(mal_store_stage_values(store, version, values, n_values, &err), &err);
    mal_free(members);
    return n_values;
}

/* Some live facts, to be retracted. */
static size_t choose_live(struct mal_store *store, struct mal_fact_row **rows,
                          size_t *n_rows, struct mal_retraction out[4]) {
    struct mal_error err = {0};
    struct mal_fact_query live = {.state = MAL_FACT_LIVE, .version = -1, .limit = 4};
    bool more;
    must(mal_store_list_facts(store, &live, rows, n_rows, &more, &err), &err);
    size_t n = *n_rows ? draw((uint32_t)*n_rows) : 0;
    for (size_t i = 0; i < n; i++)
        out[i] = (struct mal_retraction){(*rows)[i].id, draw(2)};
    return n;
}

static void run_batch(struct mal_store *store, int fd) {
    struct mal_error err = {0};
    struct mal_job_row *jobs;
    size_t n_queued;
    int64_t last;
    must(mal_store_queued_jobs(store, &jobs, &n_queued, &err), &err);
    must(mal_store_last_version(store, &last, &err), &err);
    size_t n = n_queued < BATCH ? n_queued : BATCH;
    const char *ids[BATCH];
    struct ack ack = {.job = -1, .version = last + 1, .n_batch = (int64_t)n};
    for (size_t i = 0; i < n; i++) {
        ids[i] = jobs[i].id;
        ack.batch[i] = strtoll(jobs[i].id + 4, NULL, 10);
    }
    must(mal_store_start_jobs(store, ids, n, 1, &err), &err);
    stage(store, last + 1);
    if (draw(8) == 0) { /* the gate says no */
        must(mal_store_unstage(store, last + 1, &err), &err);
        stage(store, last + 1);
    }
    static char hash[] = "h";
    bool back = last > 2 && draw(6) == 0, retracts = !back && draw(6) == 0;
    int64_t to_version = back ? (int64_t)draw((uint32_t)last) : -1;
    struct mal_version_row row = version_row(last + 1, to_version);
    struct mal_retraction retracted[4];
    struct mal_fact_row *live = NULL;
    size_t n_live = 0;
    struct mal_publish p = {.row = &row,
                            .jobs = ids,
                            .n_jobs = back || retracts ? 0 : n,
                            .now_ms = 2,
                            .retracted = retracted};
    if (retracts) p.n_retracted = choose_live(store, &live, &n_live, retracted);
    if (!back && stage_values(store, last + 1)) row.values_hash = hash;
    row.keyframe = !back && draw(4) == 0;
    must(mal_store_publish(store, &p, &err), &err);
    mal_fact_rows_free(live, n_live);
    if (back || retracts) {
        int64_t n_requeued;
        must(mal_store_requeue_running(store, &n_requeued, &err), &err);
        ack.n_batch = 0;
    }
    mal_job_rows_free(jobs, n_queued);
    acknowledge(fd, ack);
}

static void prune(struct mal_store *store) {
    struct mal_error err = {0};
    int64_t last, below;
    must(mal_store_last_version(store, &last, &err), &err);
    if (last < 1) return;
    must(mal_store_prunable(store, last - draw((uint32_t)last), &below, &err), &err);
    must(mal_store_prune(store, below, &err), &err);
}

static void write_until_killed(const char *path, int fd, int64_t next_job) {
    struct mal_error err = {0};
    struct mal_store *store = NULL;
    int64_t n;
    must(mal_store_open(&store, path, &err), &err);
    static struct copier copier; /* every other time its log is copied beside it */
    if (draw(2)) must(copier_start(&copier, store, &err), &err);
    must(mal_store_requeue_running(store, &n, &err), &err);
    for (;;) {
        if (draw(20) == 0) {
            prune(store);
        } else if (draw(3) < 2) {
            accept_job(store, fd, next_job++);
        } else {
            run_batch(store, fd);
        }
    }
}

/* ---- What must hold afterwards ---- */

static struct world {
    bool accepted[MAX_JOBS];
    int64_t applied[MAX_JOBS]; /* version + 1; 0: not acknowledged */
    int64_t next_job, last_version;
    int64_t n_acks;
} world;

static void take_acks(int fd) {
    struct ack ack;
    while (read(fd, &ack, sizeof ack) == (ssize_t)sizeof ack) {
        world.n_acks++;
        if (ack.job >= 0) {
            assert_in_range(ack.job, 0, MAX_JOBS - 1);
            world.accepted[ack.job] = true;
        }
        if (ack.version > world.last_version) world.last_version = ack.version;
        for (int64_t i = 0; i < ack.n_batch; i++) {
            assert_int_equal(world.applied[ack.batch[i]], 0);
            world.applied[ack.batch[i]] = ack.version + 1;
        }
    }
}

static void check_jobs(struct mal_store *store) {
    struct mal_job_row row;
    int64_t unacknowledged = 0;
    for (int64_t i = 0; i < MAX_JOBS; i++) {
        char id[32];
        snprintf(id, sizeof id, "job_%09" PRId64, i);
        struct mal_error err = {0};
        if (!mal_store_get_job(store, id, &row, &err)) {
            assert_int_equal(err.status, MAL_NOT_FOUND);
            if (world.accepted[i]) fail_msg("job %s was accepted and is lost", id);
            if (i > world.next_job) break;
            continue;
        }
        /* A kill between commit and acknowledgement leaves one more. */
        if (!world.accepted[i]) unacknowledged++;
        world.accepted[i] = true;
        if (world.applied[i]) {
            assert_int_equal(row.state, MAL_JOB_APPLIED);
            assert_int_equal(row.version + 1, world.applied[i]);
        } else if (row.state == MAL_JOB_APPLIED) {
            world.applied[i] = row.version + 1;
        }
        if (i >= world.next_job) world.next_job = i + 1;
        mal_job_row_finish(&row);
    }
    assert_in_range(unacknowledged, 0, 1);
}

static void check_blobs(struct mal_store *store, int64_t version, bool pruned) {
    static char data[MAL_STORE_CHUNK_BYTES + 100000],
        wanted[MAL_STORE_CHUNK_BYTES + 100000];
    struct mal_blob_row *rows;
    size_t n;
    assert_done(mal_store_blobs(store, version, &rows, &n, &err));
    if (version > 0 && pruned) {
        assert_int_equal(n, 0);
        return;
    }
    assert_int_equal(n, 2);
    fill(wanted, blob_bytes(version, 0), version);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(rows[i].bytes, blob_bytes(version, (int)i));
        assert_done(mal_store_read_blob(store, version, &rows[i], data, &err));
        assert_memory_equal(data, wanted, rows[i].bytes);
    }
    mal_blob_rows_free(rows, n);
}

static void assert_none(struct mal_store *store, const char *what, const char *sql) {
    int64_t n = -1;
    assert_done(mal_store_ask(store, sql, &n, &err));
    if (n != 0) fail_msg("%s: %" PRId64, what, n);
}

static void check_versions(struct mal_store *store) {
    int64_t last, first_new = world.last_version < 3 ? 0 : world.last_version - 3;
    assert_done(mal_store_last_version(store, &last, &err));
    assert_in_range(last - world.last_version, 0, 1);
    for (int64_t version = first_new; version <= last; version++) {
        struct mal_version_row row;
        assert_done(mal_store_get_version(store, version, &row, &err));
        check_blobs(store, version, row.pruned);
        mal_version_row_finish(&row);
    }
    world.last_version = last;
    assert_none(
        store, "gaps between versions",
        "SELECT (SELECT count(*) FROM versions) - (SELECT coalesce(max(version), -1) + 1"
        " FROM versions)");
    assert_none(
        store, "blobs of no version",
        "SELECT count(*) FROM blobs WHERE version > (SELECT coalesce(max(version), -1)"
        " FROM versions)");
    assert_none(
        store, "values of no version",
        "SELECT count(*) FROM fact_values WHERE version > (SELECT coalesce(max(version),"
        " -1) FROM versions)");
    assert_none(store, "versions whose values are there without a hash, or not at all",
                "SELECT count(*) FROM versions v WHERE NOT pruned AND (values_hash <> '')"
                " <> EXISTS (SELECT 1 FROM fact_values x WHERE x.version = v.version)");
    assert_none(
        store, "applied jobs that are not in exactly their version",
        "SELECT count(*) FROM jobs j WHERE (j.state = 'applied') <> (SELECT count(*)"
        " FROM version_jobs v WHERE v.job = j.seq AND v.version IS j.version)");
    assert_none(store,
                "facts whose job is applied and that are still queued, or the reverse",
                "SELECT count(*) FROM facts f JOIN jobs j ON j.seq = f.job"
                " WHERE (f.state = 'queued') = (j.state = 'applied')");
    assert_none(store, "facts that do not follow their history",
                "SELECT count(*) FROM facts f WHERE f.version IS NOT NULL AND"
                " f.state || f.pinned <> (SELECT state || pinned FROM fact_states h"
                "  WHERE h.fact = f.seq ORDER BY version DESC LIMIT 1)");
    assert_none(store, "facts that are pinned and not retracted",
                "SELECT count(*) FROM facts WHERE pinned = 1 AND state <> 'retracted'");
    assert_none(
        store, "members with one prompt",
        "SELECT count(*) - count(DISTINCT prompt) FROM facts WHERE state = 'live' OR"
        " pinned = 1");
    assert_none(store, "live facts counted wrongly",
                "SELECT count(*) FROM versions WHERE version = (SELECT max(version) FROM"
                " versions) AND live_facts <> (SELECT count(*) FROM facts WHERE"
                " state = 'live')");
}

/* ---- The test ---- */

static void kill_once(const char *path, uint32_t max_us) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        write_until_killed(path, ends[1], world.next_job);
        _exit(1);
    }
    close(ends[1]);
    long us = draw(max_us);
    struct timespec pause = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    nanosleep(&pause, NULL);
    assert_int_equal(kill(child, SIGKILL), 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFSIGNALED(status)) fail_msg("the writer ended by itself: %d", status);
    take_acks(ends[0]);
    close(ends[0]);

    struct mal_store *store = open_store(path);
    assert_done(mal_store_check(store, &err));
    check_jobs(store);
    check_versions(store);
    mal_store_close(store);
}

static void killed_writers_lose_nothing(void **state) {
    const char *given = getenv("MAL_KILL_SEED");
    uint64_t seed =
        given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL) ^ (uint64_t)getpid();
    struct place place;
    seed_state = seed;
    print_message("# MAL_KILL_SEED=%" PRIu64 "\n", seed);
    for (int i = 0; i < N_FRESH; i++) {
        place_make(&place);
        memset(&world, 0, sizeof world);
        world.last_version = -1;
        kill_once(place.path, 12000);
        place_remove(&place);
    }
    place_make(&place);
    memset(&world, 0, sizeof world);
    world.last_version = -1;
    uint32_t max_us = 80000; /* longer where the machine is too slow to get on */
    for (int i = N_FRESH; i < N_KILLS; i++) {
        int64_t last = world.last_version;
        kill_once(place.path, max_us);
        if (world.last_version == last && max_us < 5000000) max_us *= 2;
        if (world.last_version > last + 4 && max_us > 80000) max_us /= 2;
    }
    place_remove(&place);
    print_message("# %" PRId64 " acknowledgements, %" PRId64 " jobs, %" PRId64
                  " versions\n",
                  world.n_acks, world.next_job, world.last_version + 1);
    assert_in_range(world.last_version, 3, MAX_VERSIONS); /* it got somewhere */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(killed_writers_lose_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
