/* persist.c - how fast a large version becomes durable, and how long the writes of others
 * take meanwhile.
 *
 *     bench_persist DATABASE DELTA_MB VALUES_MB VERSIONS PAUSE_MS
 *
 * Stages delta and values of facts and publishes them, as the daemon's worker does, while
 * a client adds jobs of one fact, pausing after each. Prints a JSON line for each
 * version: megabytes a second until it is published, and the client's latencies in
 * milliseconds: before, until the publication, and in the 3 seconds after it.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/writer.h"
#include "tests/bench/bench.h"

enum { N_MODULES = 6, N_FACTS = 1024, MOST = 1 << 16 };

static char hash[65];

static void check(bool done, const struct mal_error *err) {
    if (done) return;
    fprintf(stderr, "%s\n", err->text);
    exit(1);
}

static double now(void) {
    return seconds(CLOCK_MONOTONIC);
}

/* ---- What is written ---- */

static bool get_fact(void *arg, struct mal_store *store, size_t i,
                     struct mal_fact_row *out, struct mal_error *err) {
    static char id[96], prompt[128], target[] = "t", json[] = "{}";
    const char *job = arg;
    snprintf(id, sizeof id, "%s.%zu", job, i);
    snprintf(prompt, sizeof prompt, "What is %s?", id);
    *out = (struct mal_fact_row){
        .id = id, .prompt = prompt, .target = target, .fact_json = json};
    return true;
}

static bool add_job(struct mal_store *store, const char *id, size_t n,
                    struct mal_error *err) {
    static char who[] = "bench", role[] = "edit", origin[] = "", action[] = "bench";
    static char detail[] = "{}";
    struct mal_audit_row audit = {.who = who,
                                  .role = role,
                                  .origin = origin,
                                  .action = action,
                                  .request_id = who,
                                  .detail_json = detail};
    struct mal_job_row job = {
        .id = (char *)(uintptr_t)id, .kind = MAL_JOB_EDIT, .to_version = -1};
    struct mal_fact_source source = {.n = n, .get = get_fact, .arg = job.id};
    return mal_store_add_job(store, &job, &source, NULL, NULL, NULL, &audit, err);
}

struct batch {
    int64_t version;
    char job[32];
    const char *data; /* as large as all of it */
    size_t part_bytes, value_bytes;
};

static bool queue_batch(struct mal_store *store, void *arg, struct mal_error *err) {
    const struct batch *b = arg;
    return add_job(store, b->job, N_FACTS, err);
}

static bool publish(struct mal_store *store, const struct batch *b, bool values,
                    struct mal_error *err) {
    char encoding[] = "dense", none[] = "";
    const char *job = b->job;
    struct mal_version_row row = {
        .version = b->version,
        .parent = b->version - 1,
        .kind = b->version ? MAL_VERSION_EDIT : MAL_VERSION_BASE,
        .to_version = -1,
        .weights_hash = hash,
        .chain_hash = hash,
        .delta_hash = hash,
        .encoding = encoding,
        .values_hash = values ? hash : none,
    };
    struct mal_publish p = {.row = &row, .jobs = &job, .n_jobs = b->version > 0};
    return mal_store_publish(store, &p, err);
}

static bool persist(struct mal_store *store, void *arg, struct mal_error *err) {
    const struct batch *b = arg;
    static struct mal_fact_values values[N_FACTS];
    for (int i = 0; b->part_bytes && i < N_MODULES; i++) {
        char name[32];
        snprintf(name, sizeof name, "delta/m%d", i);
        struct mal_blob blob = {name, "{}", b->data + i * b->part_bytes, b->part_bytes,
                                hash};
        if (!mal_store_stage_blob(store, b->version, &blob, err)) return false;
    }
    for (size_t i = 0; b->value_bytes && i < N_FACTS; i++) {
        char id[64];
        struct mal_fact_row fact;
        snprintf(id, sizeof id, "%s.%zu", b->job, i);
        if (!mal_store_get_fact(store, id, &fact, err)) return false;
        const char *data = b->data + N_MODULES * b->part_bytes + i * b->value_bytes;
        values[i] = (struct mal_fact_values){fact.seq, data, b->value_bytes, hash};
        mal_fact_row_finish(&fact);
    }
    if (b->value_bytes &&
        !mal_store_stage_values(store, b->version, values, N_FACTS, err))
        return false;
    return publish(store, b, b->value_bytes > 0, err);
}

/* ---- Others ---- */

static struct {
    struct mal_writer *writer;
    _Atomic bool stop;
    _Atomic int n;
    unsigned pause_us;
    double ms[MOST];
} client;

static bool add_one(struct mal_store *store, void *arg, struct mal_error *err) {
    return add_job(store, arg, 1, err);
}

static void *client_main(void *arg) {
    while (!atomic_load(&client.stop) && client.n < MOST) {
        static int n;
        char id[32];
        struct mal_error err = {0};
        snprintf(id, sizeof id, "client_%d_%d", (int)getpid(), n++);
        double begin = now();
        check(mal_writer_call(client.writer, add_one, id, &err), &err);
        client.ms[client.n] = (now() - begin) * 1e3;
        atomic_fetch_add(&client.n, 1);
        usleep(client.pause_us);
    }
    return NULL;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_latencies(const char *name, int from, int to) {
    static double ms[MOST];
    int n = to - from;
    memcpy(ms, client.ms + from, (size_t)n * sizeof *ms);
    qsort(ms, (size_t)n, sizeof *ms, ascending);
    printf(",\"%s\":{\"n\":%d,\"median\":%.2f,\"p99\":%.2f,\"most\":%.2f}", name, n,
           n ? ms[n / 2] : 0, n ? ms[n * 99 / 100] : 0, n ? ms[n - 1] : 0);
}

static void on_fatal(void *arg, const struct mal_error *err) {
    check(false, err);
}

/* ---- Running ---- */

static void run_version(struct batch *b) {
    struct mal_error err = {0};
    size_t bytes = N_MODULES * b->part_bytes + N_FACTS * b->value_bytes;
    snprintf(b->job, sizeof b->job, "batch_%d_%" PRId64, (int)getpid(), b->version);
    check(mal_writer_call(client.writer, queue_batch, b, &err), &err);
    int from = client.n;
    sleep(1);
    int begun = client.n;
    double begin = now();
    check(mal_writer_call(client.writer, persist, b, &err), &err);
    double took = now() - begin;
    int published = client.n;
    sleep(3);
    printf("{\"megabytes\":%.0f,\"seconds\":%.3f,\"megabytes_per_second\":%.0f",
           (double)bytes / 1e6, took, (double)bytes / 1e6 / took);
    print_latencies("before_ms", from, begun);
    print_latencies("during_ms", begun, published + 1);
    print_latencies("after_ms", published + 1, client.n);
    puts("}");
}

int main(int argc, char **argv) {
    struct mal_error err = {0};
    struct mal_store *store;
    struct mal_metrics *metrics;
    pthread_t thread;
    if (argc != 6) {
        fprintf(stderr, "usage: bench_persist DATABASE DELTA_MB VALUES_MB VERSIONS "
                        "PAUSE_MS\n");
        return 2;
    }
    struct batch b = {.part_bytes = (size_t)atol(argv[2]) * 1000000 / N_MODULES,
                      .value_bytes = (size_t)atol(argv[3]) * 1000000 / N_FACTS};
    size_t bytes = N_MODULES * b.part_bytes + N_FACTS * b.value_bytes;
    unsigned *data = malloc(bytes + sizeof *data);
    if (!data) return 1;
    uint64_t random = 1;
    for (size_t i = 0; i <= bytes / sizeof *data; i++) {
        random = random * 6364136223846793005U + 1442695040888963407U;
        data[i] = (unsigned)(random >> 32);
    }
    b.data = (const char *)data;
    memset(hash, 'a', 64);
    check(mal_store_open(&store, argv[1], &err), &err);
    check(mal_metrics_create(&metrics, &err), &err);
    check(publish(store, &b, false, &err), &err);
    client.pause_us = 1000 * (unsigned)atoi(argv[5]);
    check(mal_writer_create(&client.writer, store, on_fatal, NULL, metrics, &err), &err);
    if (pthread_create(&thread, NULL, client_main, NULL)) return 1;
    int n = atoi(argv[4]);
    for (b.version = 1; b.version <= n; b.version++)
        run_version(&b);
    atomic_store(&client.stop, true);
    pthread_join(thread, NULL);
    check(mal_writer_destroy(client.writer, &err), &err);
    mal_metrics_destroy(metrics);
    mal_store_close(store);
    free(data);
    return 0;
}
