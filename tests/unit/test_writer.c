/* test_writer.c - writes that wait together are one commit; each is done once, in its
 * order, whatever happens to its neighbours. */
#include "store_faults.h"

#include <pthread.h>

#include "daemon/base/writer.h"

enum { MOST = 8 };

/* A write that adds job `id`, and what became of it. */
struct ask {
    struct mal_write write; /* first */
    const char *id;
    bool refused;                           /* by itself, before anything is changed */
    int n_calls, n_undone, committed, done; /* the latter two: place in the order */
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool may_go;
    int n_committed, n_done, n_commits, n_fatal;
    struct mal_writer *writer;
} now = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* ---- On the writer's thread ---- */

static bool add(struct mal_store *store, void *arg, struct mal_error *err) {
    struct ask *ask = arg;
    ask->n_calls++;
    if (ask->refused) return mal_fail(err, MAL_BUSY, "refused");
    return add_job(store, ask->id, 1, (const char *[]){"p"}, err);
}

static void undo(struct mal_write *write) {
    ((struct ask *)write)->n_undone++;
}

static void committed(struct mal_write *write) {
    ((struct ask *)write)->committed = ++now.n_committed;
}

static void done(struct mal_write *write) {
    struct ask *ask = (struct ask *)write;
    assert_true(mal_writer_commits(now.writer) > 0);
    assert_int_equal(ask->committed > 0, write->ok);
    pthread_mutex_lock(&now.lock);
    ask->done = ++now.n_done;
    pthread_cond_signal(&now.changed);
    pthread_mutex_unlock(&now.lock);
}

/* Keeps the writer busy while others are asked for. */
static bool hold(struct mal_store *store, void *arg, struct mal_error *err) {
    pthread_mutex_lock(&now.lock);
    while (!now.may_go)
        pthread_cond_wait(&now.changed, &now.lock);
    pthread_mutex_unlock(&now.lock);
    return true;
}

static void held(struct mal_write *write) {}

static void on_fatal(void *arg, const struct mal_error *err) {
    assert_int_equal(err->status, MAL_IO);
    pthread_mutex_lock(&now.lock);
    now.n_fatal++;
    pthread_cond_broadcast(&now.changed);
    pthread_mutex_unlock(&now.lock);
}

static int on_commit(void *arg) {
    now.n_commits++;
    return 0;
}

/* ---- Here ---- */

struct lab {
    struct mal_store *store, *reader;
    struct mal_metrics *metrics;
    struct mal_write holding;
    struct ask asks[MOST];
    size_t n;
};

static void lab_open(struct lab *lab, void **state) {
    *lab = (struct lab){.store = open_store(path_of(state))};
    lab->reader = open_reader(path_of(state));
    sqlite3_commit_hook(lab->store->db, on_commit, NULL);
    assert_done(mal_metrics_create(&lab->metrics, &err));
    now.may_go = false;
    now.n_committed = now.n_done = now.n_commits = now.n_fatal = 0;
    assert_done(
        mal_writer_create(&now.writer, lab->store, on_fatal, NULL, lab->metrics, &err));
    lab->holding = (struct mal_write){.fn = hold, .done = held};
    mal_writer_begin(now.writer, &lab->holding);
}

static struct ask *ask(struct lab *lab, const char *id, bool shares) {
    struct ask *ask = &lab->asks[lab->n++];
    *ask = (struct ask){.write = {.fn = add,
                                  .arg = ask,
                                  .undo = shares ? undo : NULL,
                                  .committed = committed,
                                  .done = done},
                        .id = id};
    return ask;
}

/* Asks for all at once, and waits for them. */
static void go(struct lab *lab) {
    for (size_t i = 0; i < lab->n; i++)
        mal_writer_begin(now.writer, &lab->asks[i].write);
    pthread_mutex_lock(&now.lock);
    now.may_go = true;
    pthread_cond_broadcast(&now.changed);
    while (now.n_done < (int)lab->n)
        pthread_cond_wait(&now.changed, &now.lock);
    pthread_mutex_unlock(&now.lock);
    for (size_t i = 0; i < lab->n; i++)
        assert_int_equal(lab->asks[i].done, i + 1);
}

static bool is_there(struct lab *lab, const char *id) {
    struct mal_job_row row;
    struct mal_error err = {0};
    if (!mal_store_get_job(lab->reader, id, &row, &err)) return false;
    mal_job_row_finish(&row);
    return true;
}

/* Those that are ok are there, were committed in their order, and are the last run of
 * theirs. */
static void check(struct lab *lab) {
    int before = 0;
    for (size_t i = 0; i < lab->n; i++) {
        const struct ask *a = &lab->asks[i];
        if (a->write.err.status != MAL_CONFLICT)
            assert_int_equal(is_there(lab, a->id), a->write.ok);
        if (!a->write.ok) continue;
        assert_true(a->committed > before);
        assert_int_equal(a->n_calls, a->n_undone + 1);
        before = a->committed;
    }
}

static void lab_close(struct lab *lab) {
    check(lab);
    assert_done(mal_writer_destroy(now.writer, &err));
    mal_metrics_destroy(lab->metrics);
    mal_store_close(lab->reader);
    mal_store_close(lab->store);
}

static void are_one_commit(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    for (int i = 0; i < 5; i++)
        ask(&lab, (const char *[]){"a", "b", "c", "d", "e"}[i], true);
    go(&lab);
    assert_int_equal(now.n_commits, 1);
    assert_int_equal(now.n_committed, 5);
    for (int i = 0; i < 5; i++)
        assert_int_equal(lab.asks[i].n_calls, 1);
    lab_close(&lab);
}

static void order_is_kept(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    ask(&lab, "a", true);
    ask(&lab, "b", true);
    ask(&lab, "c", false);
    ask(&lab, "d", true);
    ask(&lab, "e", true);
    go(&lab);
    assert_int_equal(now.n_commits, 3);
    assert_int_equal(now.n_committed, 5);
    lab_close(&lab);
}

static void refused_alone(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    ask(&lab, "a", true);
    struct ask *refused = ask(&lab, "b", true);
    ask(&lab, "c", true);
    refused->refused = true;
    go(&lab);
    assert_int_equal(now.n_commits, 1);
    assert_int_equal(now.n_committed, 2);
    assert_int_equal(refused->write.err.status, MAL_BUSY);
    assert_int_equal(refused->n_calls, 1);
    lab_close(&lab);
}

/* The second "b" fails before anything has changed. */
static void conflict_with_a_neighbour(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    ask(&lab, "a", true);
    ask(&lab, "b", true);
    struct ask *failed = ask(&lab, "b", true);
    ask(&lab, "c", true);
    go(&lab);
    assert_int_equal(failed->write.err.status, MAL_CONFLICT);
    assert_int_equal(now.n_commits, 1);
    assert_int_equal(now.n_committed, 3);
    lab_close(&lab);
}

/* Its own fact twice: the job's row is there when that is found. */
static bool add_half(struct mal_store *store, void *arg, struct mal_error *err) {
    struct ask *ask = arg;
    struct mal_job_row job = {
        .id = (char *)(uintptr_t)ask->id, .kind = MAL_JOB_EDIT, .to_version = -1};
    static char same[] = "same", text[] = "x";
    struct mal_fact_row facts[2] = {
        {.id = same, .prompt = text, .target = text, .fact_json = text},
        {.id = same, .prompt = text, .target = text, .fact_json = text}};
    struct mal_fact_source source = {.n = 2, .get = get_fact_row, .arg = facts};
    ask->n_calls++;
    return mal_store_add_job(store, &job, &source, NULL, NULL, NULL, asked(), err);
}

static void half_of_one_takes_nobody_along(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    ask(&lab, "a", true);
    struct ask *failed = ask(&lab, "b", true);
    ask(&lab, "c", true);
    failed->write.fn = add_half;
    go(&lab);
    assert_int_equal(failed->write.err.status, MAL_CONFLICT);
    assert_false(is_there(&lab, "b"));
    assert_int_equal(now.n_commits, 2); /* each of the others alone */
    assert_int_equal(lab.asks[0].n_undone, 1);
    assert_int_equal(lab.asks[2].n_undone, 0);
    lab_close(&lab);
}

static void full_disk(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    ask(&lab, "a", true);
    ask(&lab, "b", true);
    fail_writes(1, ENOSPC);
    go(&lab);
    fail_writes(0, 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(lab.asks[i].write.err.status, MAL_NO_SPACE);
    assert_int_equal(now.n_fatal, 0);
    check(&lab);
    lab.n = 0;
    now.n_done = 0;
    ask(&lab, "a", true);
    ask(&lab, "b", true);
    go(&lab);
    assert_int_equal(now.n_committed, 2);
    lab_close(&lab);
}

static void bad_disk(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    ask(&lab, "a", true);
    ask(&lab, "b", true);
    ask(&lab, "c", false);
    fail_writes(1, EIO);
    go(&lab);
    fail_writes(0, 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(lab.asks[i].write.err.status, MAL_IO);
    assert_int_equal(now.n_fatal, 1);
    assert_int_equal(now.n_committed, 0);
    lab_close(&lab);
}

static ssize_t fail_once(int fd, const void *data, size_t bytes, off_t offset) {
    sqlite3_vfs_find(NULL)->xSetSystemCall(sqlite3_vfs_find(NULL), NULL, NULL);
    errno = EIO;
    return -1;
}

/* A disk that fails and then does not is not to be trusted. */
static void disk_that_recovers(void **state) {
    struct lab lab;
    lab_open(&lab, state);
    ask(&lab, "a", true);
    ask(&lab, "b", true);
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    vfs->xSetSystemCall(vfs, "pwrite", (sqlite3_syscall_ptr)fail_once);
    vfs->xSetSystemCall(vfs, "pwrite64", (sqlite3_syscall_ptr)fail_once);
    go(&lab);
    for (int i = 0; i < 2; i++)
        assert_int_equal(lab.asks[i].write.err.status, MAL_IO);
    assert_int_equal(now.n_fatal, 1);
    assert_int_equal(now.n_committed, 0);
    lab_close(&lab);
}

/* ---- Large writes ---- */

static char chunks[5 * MAL_STORE_CHUNK_BYTES / 2];

static bool stage(struct mal_store *store, void *arg, struct mal_error *err) {
    struct mal_blob blob = {"delta/x", "{}", chunks, sizeof chunks, "ff"};
    return mal_store_stage_blob(store, 0, &blob, err) && publish(store, 0, -1, NULL, err);
}

/* What is asked for after it does not wait for its end. */
static void others_go_between_chunks(void **state) {
    struct lab lab;
    struct ask large = {.write = {.fn = stage, .committed = committed, .done = done}};
    lab_open(&lab, state);
    mal_writer_begin(now.writer, &large.write);
    ask(&lab, "a", true);
    ask(&lab, "b", false);
    go(&lab);
    pthread_mutex_lock(&now.lock);
    while (!large.done)
        pthread_cond_wait(&now.changed, &now.lock);
    pthread_mutex_unlock(&now.lock);
    assert_true(large.write.ok);
    assert_int_equal(large.done, 3);
    lab_close(&lab);
}

/* Only what is written to the database itself. */
static ssize_t fail_database(int fd, const void *data, size_t bytes, off_t offset) {
    char link[64], path[256];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    if (!strstr(path, "facts.db") || strstr(path, "facts.db-"))
        return pwrite(fd, data, bytes, offset);
    errno = EIO;
    return -1;
}

static void log_that_cannot_be_copied(void **state) {
    struct lab lab;
    struct ask large = {.write = {.fn = stage, .committed = committed, .done = done}};
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    lab_open(&lab, state);
    vfs->xSetSystemCall(vfs, "pwrite", (sqlite3_syscall_ptr)fail_database);
    vfs->xSetSystemCall(vfs, "pwrite64", (sqlite3_syscall_ptr)fail_database);
    mal_writer_begin(now.writer, &large.write);
    pthread_mutex_lock(&now.lock);
    now.may_go = true;
    pthread_cond_broadcast(&now.changed);
    while (!large.done || !now.n_fatal)
        pthread_cond_wait(&now.changed, &now.lock);
    pthread_mutex_unlock(&now.lock);
    assert_true(large.write.ok);
    vfs->xSetSystemCall(vfs, NULL, NULL);

    /* Though it no longer fails. */
    now.n_done = 0;
    ask(&lab, "a", false);
    go(&lab);
    assert_int_equal(lab.asks[0].write.err.status, MAL_IO);
    assert_int_equal(now.n_fatal, 1);
    lab_close(&lab);
}

/* Who copies the file alone after a clean end has all of it. */
static void file_alone_is_all(void **state) {
    struct lab lab;
    char alone[128];
    snprintf(alone, sizeof alone, "%s.alone", path_of(state));
    lab_open(&lab, state);
    ask(&lab, "a", false);
    go(&lab);
    assert_true(lab.asks[0].write.ok);
    lab_close(&lab);
    assert_true(copy_file(path_of(state), alone));
    struct mal_store *store = open_store(alone);
    struct mal_job_row row;
    assert_done(mal_store_get_job(store, "a", &row, &err));
    mal_job_row_finish(&row);
    mal_store_close(store);
    static const char *const suffixes[] = {"", "-wal", "-shm", ".lock"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        char name[160];
        snprintf(name, sizeof name, "%s%s", alone, suffixes[i]);
        unlink(name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACE_TEST(are_one_commit),
        PLACE_TEST(order_is_kept),
        PLACE_TEST(refused_alone),
        PLACE_TEST(conflict_with_a_neighbour),
        PLACE_TEST(half_of_one_takes_nobody_along),
        PLACE_TEST(full_disk),
        PLACE_TEST(bad_disk),
        PLACE_TEST(disk_that_recovers),
        PLACE_TEST(others_go_between_chunks),
        PLACE_TEST(log_that_cannot_be_copied),
        PLACE_TEST(file_alone_is_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
