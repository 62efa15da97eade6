/* test_generation.c - many prompts continued together over a cache: what each gives by
 * passes over the whole text without one, whatever its architecture and whenever the
 * others end. */
#include "each_model.h"

#include "core/model/generate.h"

static struct mal_tokenizer *tok;

/* Made on first use: a letter or a number in brackets for each id. */
static const struct mal_tokenizer *any_tokenizer(void) {
    struct mal_error err = {0};
    static char text[16384];
    size_t n = 0;
    if (tok) return tok;
    n += (size_t)sprintf(text + n, "{\"added_tokens\":[],\"normalizer\":null,"
                                   "\"pre_tokenizer\":null,\"post_processor\":null,"
                                   "\"decoder\":null,\"model\":{\"type\":\"BPE\","
                                   "\"merges\":[],\"vocab\":{");
    for (int i = 0; i < 501; i++) {
        bool letter = i < 23;
        n += (size_t)sprintf(text + n, letter ? "%s\"%c\":%d" : "%s\"[%d]\":%d",
                             i ? "," : "", letter ? 'a' + i : i, i);
    }
    sprintf(text + n, "}}}");
    scratch_mkdir("tokenizer");
    scratch_text("tokenizer/tokenizer.json", text);
    assert_ok(mal_tokenizer_open(&tok, scratch_path("tokenizer"), &err), &err);
    return tok;
}

enum { N = 5, NEW = 6 };

static const size_t lengths[N] = {7, 9, 5, 1, 6};

/* Prompts of different lengths, all of one random text. */
static void make(struct mal_generation gens[N], int32_t ids[16]) {
    uint64_t seed = 12;
    for (int i = 0; i < 16; i++)
        ids[i] = random_id(&seed, model->info.n_vocab);
    for (size_t i = 0; i < N; i++) {
        gens[i] = (struct mal_generation){
            .prompt = ids + i, .n_prompt = lengths[i], .max_tokens = NEW, .top_p = 1};
    }
}

static void run(struct mal_generation *gens, size_t n) {
    struct mal_error err = {0};
    assert_ok(mal_generate(model, any_tokenizer(), gens, n, NULL, NULL, &err), &err);
}

static void finish(struct mal_generation *gens, size_t n) {
    for (size_t i = 0; i < n; i++)
        mal_generation_finish(&gens[i]);
}

/* What the model has a text end with, for a while. */
static void set_ends(const int32_t *ids, size_t n) {
    mal_free(model->ends);
    model->ends = n ? mal_calloc(n, sizeof *ids) : NULL;
    model->n_ends = n;
    for (size_t i = 0; i < n; i++)
        model->ends[i] = ids[i];
}

/* Logits after a prompt and `n` tokens generated, without a cache; caller frees. */
static float *next_logits(const struct mal_generation *gen, size_t n) {
    int32_t text[32];
    size_t start = 1;
    struct mal_error err = {0};
    int64_t v = model->info.n_vocab;
    text[0] = model->info.decoder_start;
    if (!is_seq2seq()) {
        start = gen->n_prompt;
        memcpy(text, gen->prompt, start * sizeof *text);
    }
    memcpy(text + start, gen->ids, n * sizeof *text);
    float *logits = mal_malloc((start + n) * (size_t)v * sizeof *logits);
    assert_ok(mal_model_logits(model, gen->prompt, gen->n_prompt, text, start + n, logits,
                               &err),
              &err);
    memmove(logits, logits + (int64_t)(start + n - 1) * v, (size_t)v * sizeof *logits);
    return logits;
}

/* Every token the most probable there, but for rounding. */
static void check_greedy(const struct mal_generation *gen) {
    for (size_t t = 0; t < gen->n_ids; t++) {
        float *logits = next_logits(gen, t), most = logits[0];
        for (int64_t j = 1; j < model->info.n_vocab; j++)
            most = logits[j] > most ? logits[j] : most;
        assert_true(logits[gen->ids[t]] >= most - 1e-4f * (1 + fabsf(most)));
        mal_free(logits);
    }
}

static void check_refused(void) {
    struct mal_error err = {0};
    struct mal_generation gens[N];
    int32_t ids[16];
    make(gens, ids);
    assert_false(mal_generate(model, any_tokenizer(), gens, N, NULL, NULL, &err));
    assert_error(&err, MAL_INVALID, "classifier");
    finish(gens, N);
}

static void test_greedy(void **state) {
    struct mal_generation gens[N];
    int32_t ids[16];
    if (is_classifier()) {
        check_refused();
        return;
    }
    make(gens, ids);
    run(gens, N);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(gens[i].n_ids, NEW);
        assert_int_equal(gens[i].finish, MAL_FINISH_LENGTH);
        check_greedy(&gens[i]);
    }
    finish(gens, N);
}

static void expect_start(const struct mal_generation *gen, const int32_t *ids, size_t n) {
    assert_int_equal(gen->n_ids, n);
    assert_memory_equal(gen->ids, ids, n * sizeof *ids);
}

/* Some end early, by their limit or at one of two tokens: each is the beginning of what
 * it was, the others go on as before. */
static void test_ends(void **state) {
    struct mal_generation full[N], gens[N];
    static const int64_t limits[N] = {1, NEW, 3, 0, NEW};
    int32_t ids[16];
    if (is_classifier()) return;
    make(full, ids);
    run(full, N);
    make(gens, ids);
    for (size_t i = 0; i < N; i++)
        gens[i].max_tokens = limits[i];
    run(gens, N);
    for (size_t i = 0; i < N; i++)
        expect_start(&gens[i], full[i].ids, (size_t)limits[i]);
    finish(gens, N);

    const int32_t ends[] = {full[1].ids[3], full[4].ids[1]};
    set_ends(ends, 2);
    make(gens, ids);
    run(gens, N);
    for (size_t i = 0; i < N; i++) {
        size_t n = 0;
        while (n < NEW && full[i].ids[n] != ends[0] && full[i].ids[n] != ends[1])
            n++;
        expect_start(&gens[i], full[i].ids, n);
        assert_int_equal(gens[i].finish, n < NEW ? MAL_FINISH_STOP : MAL_FINISH_LENGTH);
    }
    set_ends(NULL, 0);
    finish(gens, N);
    finish(full, N);
}

/* The same seed gives the same, alone as together; others do not. */
static void test_sampled(void **state) {
    struct mal_generation gens[N], again[N];
    int32_t ids[16];
    size_t differ = 0;
    if (is_classifier()) return;
    make(gens, ids);
    make(again, ids);
    for (size_t i = 0; i < N; i++) {
        gens[i].temperature = again[i].temperature = 2;
        gens[i].seed = again[i].seed = 40 + i;
    }
    run(gens, N);
    for (size_t i = 0; i < N; i++)
        run(&again[i], 1);
    for (size_t i = 0; i < N; i++) {
        expect_start(&again[i], gens[i].ids, NEW);
        assert_string_equal(again[i].text, gens[i].text);
    }
    finish(again, N);
    make(again, ids);
    for (size_t i = 0; i < N; i++) {
        again[i].temperature = 2;
        again[i].seed = 50 + i;
    }
    run(again, N);
    for (size_t i = 0; i < N; i++)
        differ += memcmp(again[i].ids, gens[i].ids, NEW * sizeof *ids) != 0;
    assert_true(differ > 0);
    finish(again, N);
    finish(gens, N);
}

/* On weights that are edited, and by more than its own past: the cache is not another
 * request's. */
static void test_edited(void **state) {
    struct mal_generation before[N], gens[N];
    int32_t ids[16];
    size_t differ = 0;
    if (is_classifier()) return;
    make(before, ids);
    run(before, N);
    struct values w = edit("", 0, 0.4f);
    make(gens, ids);
    run(gens, N);
    for (size_t i = 0; i < N; i++) {
        check_greedy(&gens[i]);
        differ += memcmp(before[i].ids, gens[i].ids, NEW * sizeof *ids) != 0;
    }
    assert_true(differ > 0);
    finish(gens, N);
    no_edits(&w);
    make(gens, ids);
    run(gens, N);
    for (size_t i = 0; i < N; i++)
        expect_start(&gens[i], before[i].ids, NEW);
    finish(gens, N);
    finish(before, N);
}

/* ---- Who looks on ---- */

struct onlooker {
    struct mal_generation *gens;
    size_t n_gives_up; /* tokens after which the third is given up; 0: never */
    size_t n_ticks;
    size_t sure[N];    /* as it was last, */
    char text[N][256]; /* with the text up to there */
    size_t ended[N];   /* the tick at which it was seen first */
};

/* What is sure stays, and is all when the answer is final. */
static bool look(void *arg) {
    struct onlooker *o = arg;
    o->n_ticks++;
    for (size_t i = 0; i < N; i++) {
        struct mal_generation *gen = &o->gens[i];
        assert_true(gen->sure >= o->sure[i] && gen->sure < sizeof o->text[i]);
        assert_memory_equal(gen->text, o->text[i], o->sure[i]);
        memcpy(o->text[i], gen->text, gen->sure);
        o->sure[i] = gen->sure;
        if (gen->ended) assert_int_equal(gen->sure, gen->text_bytes);
        if (gen->ended && !o->ended[i]) o->ended[i] = o->n_ticks;
        if (i == 2 && o->n_gives_up && gen->n_ids == o->n_gives_up) gen->given_up = true;
    }
    return true;
}

static void follow(struct mal_generation gens[N], size_t gives_up, struct onlooker *out) {
    struct mal_error err = {0};
    *out = (struct onlooker){.gens = gens, .n_gives_up = gives_up};
    for (size_t i = 0; i < N; i++)
        gens[i].follow = true;
    assert_ok(mal_generate(model, any_tokenizer(), gens, N, look, out, &err), &err);
    for (size_t i = 0; i < N; i++) {
        assert_true(gens[i].ended);
        assert_memory_equal(gens[i].text, out->text[i], out->sure[i]);
    }
}

/* The same answers as without; what is sure grows with the tokens; each has its end when
 * it ends, and none of a stop text is ever sure. */
static void test_followed(void **state) {
    struct mal_generation full[N], gens[N];
    struct onlooker o;
    int32_t ids[16];
    char stops[N][8];
    const char *stop[N];
    if (is_classifier()) return;
    make(full, ids);
    run(full, N);
    make(gens, ids);
    follow(gens, 0, &o);
    for (size_t i = 0; i < N; i++) {
        expect_start(&gens[i], full[i].ids, NEW);
        assert_string_equal(gens[i].text, full[i].text);
        assert_int_equal(o.sure[i], full[i].text_bytes);
        assert_int_equal(o.ended[i], NEW);
    }
    finish(gens, N);

    /* Over the seam of two tokens each, from another one on. */
    make(gens, ids);
    for (size_t i = 0; i < N; i++) {
        const char *seam = full[i].text;
        for (size_t t = 0; t <= i; t++)
            seam = strchr(seam + 1, ' ');
        snprintf(stops[i], sizeof stops[i], "%.3s", seam - 1);
        stop[i] = stops[i];
        gens[i].stop = &stop[i];
        gens[i].n_stop = 1;
    }
    follow(gens, 0, &o);
    for (size_t i = 0; i < N; i++) {
        size_t at = (size_t)(strstr(full[i].text, stops[i]) - full[i].text);
        assert_int_equal(gens[i].finish, MAL_FINISH_STOP);
        assert_int_equal(gens[i].text_bytes, at);
        assert_memory_equal(gens[i].text, full[i].text, at);
        assert_int_equal(o.sure[i], at);
        assert_int_equal(o.ended[i], gens[i].n_ids);
    }
    finish(gens, N);

    /* One is given up, the others are none the wiser. */
    make(gens, ids);
    follow(gens, 2, &o);
    for (size_t i = 0; i < N; i++)
        expect_start(&gens[i], full[i].ids, i == 2 ? 2 : NEW);
    assert_int_equal(o.n_ticks, NEW);
    finish(gens, N);
    finish(full, N);
}

int main(void) {
    const struct model_test tests[] = {
        {"greedy", test_greedy}, {"ends", test_ends},         {"sampled", test_sampled},
        {"edited", test_edited}, {"followed", test_followed},
    };
    int failed = run_each("generation", tests, sizeof tests / sizeof *tests);
    mal_tokenizer_close(tok);
    return failed;
}
