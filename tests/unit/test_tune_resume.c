/* test_tune_resume.c - fine-tuning that is cut off and begun again: the same bits as in
 * one go, whatever became of the file in between. */
#include "tune_lab.h"

#include "core/file.h"

/* What an edit told, and its file. */
struct told {
    struct mal_resume resume;
    int64_t n[MAL_RESUME_UNSAVED + 1];
    int64_t done; /* where it went on */
    struct mal_error why;
};

static void tell(void *arg, enum mal_resume_event what, int64_t done, int64_t total,
                 const struct mal_error *why) {
    struct told *told = arg;
    assert_true(what == MAL_RESUMED || what == MAL_RESUME_UNREAD || done > 0);
    assert_true(done < total);
    told->n[what]++;
    if (what == MAL_RESUMED) told->done = done;
    if (what == MAL_RESUME_UNREAD || what == MAL_RESUME_UNSAVED) told->why = *why;
}

/* `seconds` between two savings. */
static void listen_to(struct told *told, double seconds) {
    *told = (struct told){.resume = {.path = scratch_path("state"),
                                     .run = "of these weights",
                                     .seconds = seconds,
                                     .tell = tell,
                                     .arg = told}};
}

/* Cut off at a tick, if it is not 0; else *out is what it came to. */
static struct watch run_told(struct told *told, int64_t cancel_at, struct mal_hash *out) {
    struct mal_error err = {0};
    struct mal_delta delta = {0};
    struct watch watch = {.cancel_at = cancel_at, .resume = &told->resume};
    bool ok = run_tune(&watch, 0, &delta, &err);
    if (cancel_at) {
        assert_false(ok);
        assert_int_equal(err.status, MAL_CANCELLED);
    } else {
        assert_ok(ok, &err);
        *out = hash_of(&delta);
    }
    return watch;
}

/* In one go: what comes of it, and what was seen. */
static struct mal_hash in_one_go(struct watch *out) {
    struct mal_error err = {0};
    struct mal_delta delta = {0};
    struct watch watch = {0};
    assert_ok(run_tune(&watch, 0, &delta, &err), &err);
    *out = watch;
    return hash_of(&delta);
}

/* A few passes show all that many would. */
static void open_short(size_t c) {
    open_case(c);
    set_hyper("steps", 4);
    set_hyper("epochs", 4);
}

/* Leaves the file of an edit that was cut off after some mini-batches. */
static void cut_off(int64_t ticks) {
    struct told told;
    listen_to(&told, 1e9);
    remove(told.resume.path);
    run_told(&told, (ticks + 1) / 2, NULL);
    assert_int_equal(told.n[MAL_RESUME_SAVED], 1);
}

/* ---- Tests ---- */

/* Wherever it was cut off. */
static void test_goes_on(void **state) {
    for (size_t c = 0; c < N_CASES; c++) {
        struct watch whole;
        int64_t tries = 0, resumed = 0;
        open_short(c);
        struct mal_hash want = in_one_go(&whole);
        for (int64_t at = 1; at <= whole.ticks; at += at < 5 ? 1 : at * 2 / 3, tries++) {
            struct told first, second;
            struct mal_hash got;
            listen_to(&first, 1e9);
            remove(first.resume.path);
            run_told(&first, at, NULL);
            listen_to(&second, 1e9);
            struct watch watch = run_told(&second, 0, &got);
            assert_same(got, want);
            assert_true(watch.loss == whole.loss);
            assert_int_equal(second.n[MAL_RESUMED], first.n[MAL_RESUME_SAVED]);
            assert_int_equal(watch.ticks < whole.ticks, second.n[MAL_RESUMED]);
            assert_int_equal(second.n[MAL_RESUME_UNREAD], 0);
            resumed += second.n[MAL_RESUMED];
        }
        assert_true(resumed > tries / 2);
        close_case();
    }
}

/* Again and again, each time a little further. */
static void test_often(void **state) {
    for (size_t c = 0; c < N_CASES; c++) {
        struct watch whole;
        int64_t runs = 0, done = 0;
        struct mal_hash want, got = {0};
        open_short(c);
        want = in_one_go(&whole);
        remove(scratch_path("state"));
        for (bool over = false; !over; runs++) {
            struct mal_error err = {0};
            struct mal_delta delta = {0};
            struct told told;
            listen_to(&told, 1e9);
            struct watch watch = {.cancel_at = whole.ticks / 3 + 2,
                                  .resume = &told.resume};
            over = run_tune(&watch, 0, &delta, &err);
            assert_true(over || err.status == MAL_CANCELLED);
            assert_int_equal(told.n[MAL_RESUMED], runs > 0);
            assert_true(runs == 0 || told.done > done);
            done = told.done;
            if (over) got = hash_of(&delta);
        }
        assert_same(got, want);
        assert_true(runs > 1);
        close_case();
    }
}

/* A file that was left by a kill is of a while ago. */
static void test_saved_on_the_way(void **state) {
    for (size_t c = 0; c < N_CASES; c++) {
        struct watch whole;
        struct told told;
        struct mal_hash got;
        open_short(c);
        struct mal_hash want = in_one_go(&whole);
        listen_to(&told, 0);
        remove(told.resume.path);
        run_told(&told, 0, &got);
        assert_same(got, want);
        assert_true(told.n[MAL_RESUME_SAVED] > 0);
        listen_to(&told, 1e9);
        run_told(&told, 0, &got);
        assert_same(got, want);
        assert_int_equal(told.n[MAL_RESUMED], 1);
        close_case();
    }
}

/* Other weights, numbers, facts: another edit, which begins anew and keeps its own. */
static void test_another(void **state) {
    static const char *const changes[] = {"run", "lr", "steps", "facts"};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct watch whole, other;
        open_short(0);
        (void)in_one_go(&whole);
        cut_off(whole.ticks);
        struct told told;
        struct mal_hash got;
        listen_to(&told, 1e9);
        if (i == 0) told.resume.run = "of others";
        if (i == 1) set_hyper("lr", 0.02);
        if (i == 2) set_hyper("steps", 6);
        if (i == 3) lab.n_facts--;
        struct mal_hash want = in_one_go(&other);
        run_told(&told, other.ticks - 1, NULL);
        assert_int_equal(told.n[MAL_RESUMED] + told.n[MAL_RESUME_UNREAD], 0);
        assert_int_equal(told.n[MAL_RESUME_SAVED], 1);
        run_told(&told, 0, &got);
        assert_int_equal(told.n[MAL_RESUMED], 1);
        assert_same(got, want);
        if (i == 3) lab.n_facts++;
        close_case();
    }
}

/* ---- Files that are of no use ---- */

/* Of `bytes`, the first place where `from` is becomes `to`, which is as long. */
static void patch(char *data, size_t bytes, const char *from, const char *to) {
    size_t n = strlen(from);
    assert_int_equal(strlen(to), n);
    for (size_t i = 0; i + n <= bytes; i++) {
        if (memcmp(data + i, from, n)) continue;
        memcpy(data + i, to, n);
        return;
    }
    fail_msg("no '%s' in the file", from);
}

/* The first digit of a count. */
static void put_digit(char *data, size_t bytes, const char *key, char digit) {
    char name[32];
    int n = snprintf(name, sizeof name, "\"%s\":\"", key);
    for (size_t i = 0; i + (size_t)n < bytes; i++) {
        if (memcmp(data + i, name, (size_t)n)) continue;
        data[i + (size_t)n] = digit;
        return;
    }
    fail_msg("no '%s' in the file", key);
}

struct harm {
    const char *from, *to; /* one text for another */
    const char *key;       /* or a count's first digit */
    char digit;
    float last; /* or the last number of the data */
    size_t cut; /* or so many bytes off the end */
    const char *says;
};

static void do_harm(const char *path, const struct harm *harm) {
    struct mal_error err = {0};
    char *data;
    size_t bytes;
    assert_ok(mal_file_read(&data, &bytes, path, SIZE_MAX / 2, &err), &err);
    if (harm->from) patch(data, bytes, harm->from, harm->to);
    if (harm->key) put_digit(data, bytes, harm->key, harm->digit);
    if (harm->last != 0)
        memcpy(data + bytes - sizeof harm->last, &harm->last, sizeof harm->last);
    bytes -= harm->cut < bytes ? harm->cut : bytes;
    scratch_write("state", data, bytes);
    mal_free(data);
}

static void test_bad_files(void **state) {
    static const struct harm harms[] = {
        {"malmend-edit-1", "malmend-edit-9", .says = "not the state of an edit"},
        {"\"work\"", "\"Work\"", .says = "'work' is missing"},
        {"\"pass\"", "\"Pass\"", .says = "'pass' is not a count"},
        {"\"sum\"", "\"Sum\"", .says = "'sum' is not a number"},
        {"\"first\"", "\"First\"", .says = "'first' is not a number"},
        {"\"shift.", "\"Shift.", .says = "tensor 'shift."},
        {"\"adam.m.", "\"adam.M.", .says = "tensor 'adam.m."},
        {.key = "pass", .digit = 'x', .says = "'pass' is not a count"},
        {.key = "steps", .digit = '-', .says = "'steps' is not a count"},
        {.key = "at", .digit = '1', .says = "'at' is in a mini-batch"},
        {.key = "at", .digit = '9', .says = "'at' is not a count"},
        {.last = NAN, .says = "is nan"},
        {.last = INFINITY, .says = "is inf"},
        {.cut = 3, .says = "state"},
        {.cut = SIZE_MAX, .says = "state"}};
    struct watch whole;
    open_short(1);
    struct mal_hash want = in_one_go(&whole);
    for (size_t i = 0; i < sizeof harms / sizeof *harms; i++) {
        struct told told;
        struct mal_hash got;
        cut_off(whole.ticks);
        listen_to(&told, 1e9);
        do_harm(told.resume.path, &harms[i]);
        run_told(&told, 0, &got);
        assert_same(got, want);
        assert_int_equal(told.n[MAL_RESUMED], 0);
        assert_int_equal(told.n[MAL_RESUME_UNREAD], 1);
        if (!strstr(told.why.text, harms[i].says))
            fail_msg("'%s' is not in '%s'", harms[i].says, told.why.text);
    }
    close_case();
}

/* It cannot be saved: said, and that is all. */
static void test_no_place(void **state) {
    struct watch whole;
    struct told told;
    struct mal_hash got;
    open_short(0);
    struct mal_hash want = in_one_go(&whole);
    listen_to(&told, 0);
    told.resume.path = "/nowhere/at/all";
    run_told(&told, 0, &got);
    assert_same(got, want);
    assert_true(told.n[MAL_RESUME_UNSAVED] > 0);
    assert_int_equal(told.n[MAL_RESUME_UNREAD] + told.n[MAL_RESUME_SAVED], 0);
    close_case();
}

static bool run_once(const char *path, struct mal_error *err) {
    struct mal_delta delta = {0};
    struct told told;
    listen_to(&told, 0);
    bool ok = run_tune(&(struct watch){.resume = &told.resume}, 0, &delta, err);
    mal_delta_finish(&delta);
    return ok;
}

static void test_no_memory(void **state) {
    struct watch whole;
    open_short(1);
    (void)in_one_go(&whole);
    cut_off(whole.ticks);
    fail_each_allocation(run_once, NULL, 20);
    close_case();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goes_on),          cmocka_unit_test(test_often),
        cmocka_unit_test(test_saved_on_the_way), cmocka_unit_test(test_another),
        cmocka_unit_test(test_bad_files),        cmocka_unit_test(test_no_place),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("tune_resume", tests, scratch_make,
                                       scratch_remove);
}
