/* test_metrics.c - counters, histograms and rates, and how they are written. */
#include "no_memory.h"

#include <math.h>
#include <pthread.h>

#include "daemon/api/exposition.h"
#include "daemon/base/log.h"
#include "daemon/base/metrics.h"
#include "daemon/base/rates.h"

/* ---- Text ---- */

static void check_text(struct mal_exposition *out, const char *wanted) {
    assert_false(out->failed);
    assert_string_equal(out->text, wanted);
    assert_int_equal(out->bytes, strlen(wanted));
    mal_free(out->text);
    *out = (struct mal_exposition){0};
}

static void test_numbers(void **state) {
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "0"},
                 {1, "1"},
                 {-2.5, "-2.5"},
                 {0.1, "0.1"},
                 {0.1 + 0.2, "0.30000000000000004"},
                 {1e300, "1e+300"},
                 {9007199254740991.0, "9007199254740991"},
                 {1795669140.291, "1795669140.291"},
                 {(double)NAN, "NaN"},
                 {(double)INFINITY, "+Inf"},
                 {-(double)INFINITY, "-Inf"}};
    struct mal_exposition out = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char wanted[128];
        mal_expose(&out, MAL_GAUGE, "x", "X.");
        mal_expose_value(&out, cases[i].value, NULL);
        snprintf(wanted, sizeof wanted, "# HELP x X.\n# TYPE x gauge\nx %s\n",
                 cases[i].text);
        check_text(&out, wanted);
    }
}

static void test_labels(void **state) {
    struct mal_exposition out = {0};
    mal_expose(&out, MAL_COUNTER, "empty_total", "Without samples nothing is written.");
    mal_expose(&out, MAL_COUNTER, "x_total", "X.");
    mal_expose_value(&out, 1, "a", "quote \" backslash \\ line\nend", "b", NULL, NULL);
    mal_expose_value(&out, 2, "a", "\xc3\xa9 \xff\xc3", NULL);
    check_text(&out, "# HELP x_total X.\n# TYPE x_total counter\n"
                     "x_total{a=\"quote \\\" backslash \\\\ line\\nend\",b=\"\"} 1\n"
                     "x_total{a=\"\xc3\xa9 \xef\xbf\xbd\xef\xbf\xbd\"} 2\n");
}

/* ---- Histograms ---- */

static const struct mal_bounds bounds = {3, {0.25, 0.5, 2}};

static void test_histogram(void **state) {
    static const double seconds[] = {0, 0.25, 0.2500001, 0.5, 2, 2.5, 1000, -1};
    struct mal_exposition out = {0};
    struct mal_histogram h;
    mal_histogram_init(&h, &bounds);
    for (size_t i = 0; i < sizeof seconds / sizeof seconds[0]; i++)
        mal_histogram_add(&h, seconds[i]);
    mal_expose(&out, MAL_HISTOGRAM, "h", "H.");
    mal_expose_histogram(&out, &h, "a", "b", NULL);
    check_text(&out, "# HELP h H.\n# TYPE h histogram\n"
                     "h_bucket{a=\"b\",le=\"0.25\"} 3\nh_bucket{a=\"b\",le=\"0.5\"} 5\n"
                     "h_bucket{a=\"b\",le=\"2\"} 6\nh_bucket{a=\"b\",le=\"+Inf\"} 8\n"
                     "h_sum{a=\"b\"} 1005.5000001\nh_count{a=\"b\"} 8\n");
}

enum { THREADS = 4, TIMES = 20000 };

static void *add_often(void *arg) {
    for (int i = 0; i < TIMES; i++)
        mal_histogram_add(arg, i % 4 * 0.25);
    return NULL;
}

/* Nothing is lost between threads, and what is read meanwhile agrees with itself. */
static void test_threads(void **state) {
    pthread_t threads[THREADS];
    struct mal_histogram h;
    mal_histogram_init(&h, &bounds);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_often, &h), 0);
    for (int i = 0; i < 100; i++) {
        struct mal_exposition out = {0};
        unsigned long long all = 0, count = 1;
        mal_expose(&out, MAL_HISTOGRAM, "h", "H.");
        mal_expose_histogram(&out, &h, NULL);
        assert_int_equal(sscanf(strstr(out.text, "+Inf\"}"), "+Inf\"} %llu", &all), 1);
        assert_int_equal(sscanf(strstr(out.text, "h_count"), "h_count %llu", &count), 1);
        assert_int_equal(all, count);
        mal_free(out.text);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(mal_counted(&h.in[0]), THREADS * TIMES / 2); /* 0 and 0.25 */
    assert_int_equal(mal_counted(&h.in[1]), THREADS * TIMES / 4);
    assert_int_equal(mal_counted(&h.in[2]), THREADS * TIMES / 4);
    assert_int_equal(mal_counted(&h.sum_ns), THREADS * TIMES / 4 * 1500000000LL);
}

static void test_bounds_ascend(void **state) {
    const struct mal_bounds *all[] = {&mal_bounds_answer, &mal_bounds_batch,
                                      &mal_bounds_write};
    for (size_t i = 0; i < 3; i++) {
        assert_true(all[i]->n > 10 && all[i]->n <= MAL_MAX_BOUNDS);
        for (size_t b = 0; b < all[i]->n; b++)
            assert_true(all[i]->at[b] > (b ? all[i]->at[b - 1] : 0));
    }
}

/* ---- What is counted ---- */

static uint64_t rejected(const struct mal_metrics *m, const char *label) {
    for (int i = 0; i < MAL_N_GATE_LABELS; i++) {
        if (!strcmp(mal_gate_labels[i], label)) return mal_counted(&m->gate[i]);
    }
    fail_msg("no label %s", label);
    return 0;
}

static void test_rejections(void **state) {
    struct mal_error err = {0};
    struct mal_metrics *m;
    assert_ok(mal_metrics_create(&m, &err), &err);
    mal_count_rejection(m, "{\"gate\":{\"failed\":[{\"test\":\"min_es\",\"measure\":"
                           "\"decoded\"},{\"test\":\"min_es\"},{\"test\":\"finite\"}]}}");
    mal_count_rejection(m, "{\"gate\":{\"failed\":[{\"test\":\"new\"},{}]}}");
    mal_count_rejection(m, "{\"facts\":3}");
    mal_count_rejection(m,
                        "{\"before\":{},\"gate\":{\"failed\":[{\"test\":\"min_gs\"}]}}");
    mal_count_rejection(m, "not JSON");
    mal_count_rejection(m, NULL);
    assert_int_equal(rejected(m, "min_es"), 2);
    assert_int_equal(rejected(m, "finite"), 1);
    assert_int_equal(rejected(m, "other"), 4);
    assert_int_equal(rejected(m, "consolidation"), 2);
    assert_int_equal(rejected(m, "min_gs"), 0);
    mal_metrics_destroy(m);
}

static void test_rates(void **state) {
    struct mal_rates rates = {0};
    double out[MAL_N_RATES];
    struct mal_rate_sample now = {.at = 100};
    mal_rates_per_second(&rates, &now, out);
    assert_true(out[MAL_RATE_FACTS] == 0);
    for (int i = 0; i <= 2000; i++) { /* ten a second for 200 seconds; 5 facts a second */
        now.at = 100 + i * 0.1;
        now.n[MAL_RATE_FACTS] = (uint64_t)(i / 10 * 5);
        mal_rates_take(&rates, &now);
        if (i == 105) { /* half a minute is not there yet */
            mal_rates_per_second(&rates, &now, out);
            assert_true(fabs(out[MAL_RATE_FACTS] - 50 / 10.5) < 1e-9);
        }
    }
    mal_rates_per_second(&rates, &now, out);
    assert_true(fabs(out[MAL_RATE_FACTS] - 5) < 0.1);
    now.at += 60; /* a minute without any */
    for (int i = 0; i < 600; i++) {
        now.at += 0.1;
        mal_rates_take(&rates, &now);
    }
    mal_rates_per_second(&rates, &now, out);
    assert_true(out[MAL_RATE_FACTS] == 0);
}

static void test_log_text(void **state) {
    char out[MAL_LOG_TEXT_BYTES], longer[3 * MAL_LOG_TEXT_BYTES];
    mal_log_text("/v1/\xff\"\xe2\x82", out);
    assert_string_equal(out, "/v1/\xef\xbf\xbd\"\xef\xbf\xbd");
    memset(longer, 0xff, sizeof longer);
    longer[sizeof longer - 1] = 0;
    mal_log_text(longer, out);
    assert_true(strlen(out) > MAL_LOG_TEXT_BYTES - 8 && strlen(out) % 3 == 0);
    mal_log_text("", out);
    assert_string_equal(out, "");
}

static void read_log(const char *format, const char *value, char *out, size_t size) {
    FILE *log = tmpfile();
    int old = dup(STDERR_FILENO);
    assert_non_null(log);
    dup2(fileno(log), STDERR_FILENO);
    mal_log("warning", "some event", format, "detail", value);
    dup2(old, STDERR_FILENO);
    close(old);
    rewind(log);
    size_t n = fread(out, 1, size - 1, log);
    out[n] = 0;
    fclose(log);
}

/* A line is never left out, whatever its members are. */
static void test_log_lines(void **state) {
    char line[512];
    uint64_t before = mal_log_lines("warning"), infos = mal_log_lines("info");
    read_log("{s:s}", "it \"failed\"", line, sizeof line);
    assert_non_null(strstr(line, "\"event\":\"some event\",\"detail\":\"it \\\"failed"));
    assert_null(strstr(line, "lost"));
    read_log("{s:s}", "\xff", line, sizeof line);
    assert_non_null(strstr(line, "\"event\":\"some event\",\"lost\":true}\n"));
    assert_int_equal(mal_log_lines("warning"), before + 2);
    assert_int_equal(mal_log_lines("info"), infos);
}

/* ---- Memory ---- */

static bool write_much(const char *path, struct mal_error *err) {
    struct mal_exposition out = {0};
    struct mal_metrics *m;
    if (!mal_metrics_create(&m, err)) return false;
    for (int i = 0; i < 50; i++) {
        mal_expose(&out, MAL_HISTOGRAM, "h", "H.");
        mal_expose_histogram(&out, &m->writes, NULL);
    }
    bool ok = !out.failed || mal_fail(err, MAL_NO_MEMORY, "text");
    mal_free(out.text);
    mal_metrics_destroy(m);
    return ok;
}

static void test_no_memory(void **state) {
    fail_each_allocation(write_much, NULL, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),       cmocka_unit_test(test_labels),
        cmocka_unit_test(test_histogram),     cmocka_unit_test(test_threads),
        cmocka_unit_test(test_bounds_ascend), cmocka_unit_test(test_rejections),
        cmocka_unit_test(test_rates),         cmocka_unit_test(test_log_text),
        cmocka_unit_test(test_log_lines),     cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
