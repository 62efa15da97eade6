/* test_passes.c - what must hold of the passes of every architecture, whatever the
 * weights: packing changes nothing, what is left out is exact, keys and value gradients
 * are the same whichever rows and modules are asked for. */
#include "learning.h"

/* Weights of own edit modules are those of the base: passes are on the base model. */
static void edit_all(struct values *w) {
    *w = edit("", 0, 0);
}

static void check_close(const char *what, const float *got, const float *want, int64_t n,
                        double tolerance) {
    for (int64_t i = 0; i < n; i++) {
        double limit = tolerance * (1 + fabs((double)want[i]));
        if (!(fabs((double)got[i] - (double)want[i]) <= limit)) {
            fail_msg("%s, element %lld: %g, must be %g", what, (long long)i,
                     (double)got[i], (double)want[i]);
        }
    }
}

/* ---- Forward ---- */

struct scores {
    float logprob[MAX_IDS], *logits;
    int32_t rank[MAX_IDS], argmax[MAX_IDS];
};

static struct scores score(const struct made_batch *b) {
    struct mal_error err = {0};
    struct scores s;
    s.logits = mal_malloc((size_t)(b->rows * model->info.n_outputs) * sizeof *s.logits);
    struct mal_row_scores out = {
        .logprob = s.logprob, .rank = s.rank, .argmax = s.argmax, .logits = s.logits};
    assert_ok(mal_model_score(model, &b->batch, &out, &err), &err);
    return s;
}

/* What one row's scores must be, from its logits. */
static void check_row(const struct scores *s, int64_t row, int32_t label) {
    int64_t v = model->info.n_outputs, above = 0, best = 0;
    const float *x = s->logits + row * v;
    for (int64_t j = 0; j < v; j++) {
        if (x[j] > x[best]) best = j;
        if (label >= 0 && x[j] > x[label]) above++;
    }
    assert_int_equal(s->argmax[row], best);
    if (label < 0) return;
    double logprob = (double)x[label] - log_sum_exp(x, v);
    assert_true(fabs((double)s->logprob[row] - logprob) <= 2e-5 * (1 - logprob));
    assert_int_equal(s->rank[row], above + 1);
}

/* Together, alone, and by the logits of every position: the same rows. */
static void test_packing(void **state) {
    int64_t v = model->info.n_outputs;
    for (size_t i = 0; i < 3; i++) {
        struct made_batch *b = make_batch(all_sequences[i], true);
        struct scores together = score(b);
        float *every = logits_alone(b);
        int64_t row = 0;
        for (size_t s = 0; s < b->batch.n_seqs; s++) {
            struct made_batch *part = only(b, s);
            struct scores alone = score(part);
            check_close("alone", alone.logits, together.logits + row * v, part->rows * v,
                        2e-5);
            for (int32_t t = b->start[s]; t < b->start[s + 1]; t++) {
                if (!is_label_row(b, s, t)) continue;
                check_close("every position", every + t * v, together.logits + row * v, v,
                            2e-5);
                check_row(&together, row++, b->labels[t]);
            }
            mal_free(alone.logits);
            mal_free(part);
        }
        assert_int_equal(row, b->rows);
        mal_free(together.logits);
        mal_free(every);
        mal_free(b);
    }
}

/* How far back something may be and still be seen: through every block's window. */
static int reach(void) {
    int64_t n = 0;
    for (int64_t l = 0; l < model->decoder.n; l++) {
        int64_t window = model->decoder.blocks[l].self.window;
        if (window == 0) return INT32_MAX;
        n += window - 1;
    }
    return (int)n;
}

enum { SEEN = 9, SOURCE = 6 };

struct texts {
    int32_t ids[SEEN], source[SOURCE];
};

static void every_logit(const struct texts *t, float *out) {
    struct mal_error err = {0};
    assert_ok(mal_model_logits(model, t->source, SOURCE, t->ids, SEEN, out, &err), &err);
}

/* Which rows' logits a change of one id moves: of those before it none, as far as a
 * window reaches its own and those after it. Every row of a classifier moves its only
 * one, every row of a source all. */
static void test_what_is_seen(void **state) {
    static float before[SEEN * 512], after[SEEN * 512];
    struct texts t;
    int64_t v = model->info.n_outputs;
    size_t bytes = (size_t)v * sizeof *before;
    int n = is_classifier() ? 1 : SEEN, seen = reach();
    uint64_t seed = 5;
    for (int i = 0; i < SEEN; i++)
        t.ids[i] = random_id(&seed, model->info.n_vocab);
    for (int i = 0; i < SOURCE; i++)
        t.source[i] = random_id(&seed, model->info.n_vocab);
    every_logit(&t, before);
    for (int changed = 0; changed < SEEN + (is_seq2seq() ? SOURCE : 0); changed++) {
        bool of_source = changed >= SEEN;
        int32_t *at = of_source ? &t.source[changed - SEEN] : &t.ids[changed], id = *at;
        *at = (id + 1) % (int32_t)model->info.n_vocab;
        every_logit(&t, after);
        *at = id;
        for (int row = 0; row < n; row++) {
            bool sees =
                is_classifier() || of_source || (row >= changed && row - changed <= seen);
            bool moved = memcmp(before + row * v, after + row * v, bytes) != 0;
            if (moved != sees)
                fail_msg("id %d, row %d: moved %d", changed, row, (int)moved);
        }
    }
}

/* The head's own inputs: its logits from them are the model's. */
static void test_hidden(void **state) {
    struct mal_error err = {0};
    struct made_batch *b = make_batch(&whole, false);
    int64_t c = model->info.n_channels, v = model->info.n_outputs, n = b->start[1];
    float hidden[MAX_IDS * 80], *logits = logits_alone(b), *head;
    bool ok = mal_model_hidden(model, b->ids, (size_t)n, hidden, &err);
    if (is_seq2seq()) {
        assert_false(ok);
        assert_error(&err, MAL_INVALID, "encoder-decoder");
    } else {
        assert_ok(ok, &err);
    }
    if (model->info.kind == MAL_MODEL_CAUSAL) {
        head = mal_malloc((size_t)(v * c) * sizeof *head);
        from_device(head, model->head.w, v * c);
        float *bias = mal_calloc((size_t)v, sizeof *bias);
        if (model->head_bias) from_device(bias, model->head_bias, v);
        for (int64_t i = 0; i < n * v; i++) {
            double sum = (double)bias[i % v];
            for (int64_t j = 0; j < c; j++)
                sum += (double)hidden[i / v * c + j] * (double)head[i % v * c + j];
            double cap = (double)model->logit_cap;
            if (cap > 0) sum = cap * tanh(sum / cap);
            assert_true(fabs(sum - (double)logits[i]) <= 2e-5 * (1 + fabs(sum)));
        }
        mal_free(bias);
        mal_free(head);
    }
    mal_free(logits);
    mal_free(b);
}

/* ---- Keys and value gradients ---- */

/* In host memory; without gradients where only keys were asked for. */
struct measured {
    float *u[MAX_EDITS], *g[MAX_EDITS];
    double loss;
};

static int64_t rows_of(const struct made_batch *b, size_t m, bool all) {
    if (model->edits[m]->of_source) return b->sources;
    return all ? b->tokens : b->rows;
}

static void place_measured(const struct made_batch *b, bool all, struct measured *out) {
    for (size_t m = 0; m < model->n_edits; m++) {
        int64_t n = rows_of(b, m, all);
        out->u[m] = on_device(NULL, n * model->edits[m]->d_in);
        out->g[m] = on_device(NULL, n * model->edits[m]->d_out);
    }
}

static void release(struct measured *measured) {
    for (size_t m = 0; m < model->n_edits; m++) {
        mal_free(measured->u[m]);
        mal_free(measured->g[m]);
    }
}

/* What was placed becomes host memory. */
static void take_measured(const struct made_batch *b, bool all, struct measured *out) {
    for (size_t m = 0; m < model->n_edits; m++) {
        int64_t n = rows_of(b, m, all);
        out->u[m] = taken(out->u[m], n * model->edits[m]->d_in);
        if (out->g[m]) out->g[m] = taken(out->g[m], n * model->edits[m]->d_out);
    }
}

static struct measured measure(const struct made_batch *b, bool all) {
    struct measured out;
    struct mal_error err = {0};
    place_measured(b, all, &out);
    struct mal_measure wanted = {
        .loss_scale = 0.5f, .all_tokens = all, .u = out.u, .g = out.g, .loss = &out.loss};
    assert_ok(mal_model_measure(model, &b->batch, &wanted, &err), &err);
    take_measured(b, all, &out);
    return out;
}

static struct measured measure_keys(const struct made_batch *b) {
    struct measured out = {0};
    struct mal_error err = {0};
    for (size_t m = 0; m < model->n_edits; m++)
        out.u[m] = on_device(NULL, rows_of(b, m, false) * model->edits[m]->d_in);
    assert_ok(mal_model_keys(model, &b->batch, out.u, &err), &err);
    take_measured(b, false, &out);
    return out;
}

/* The label rows of x (tokens, c), or all rows where the source's are meant. */
static float *label_rows(const struct made_batch *b, size_t m, const float *x,
                         int64_t c) {
    float *rows = mal_malloc((size_t)(rows_of(b, m, false) * c) * sizeof *rows);
    size_t bytes = (size_t)c * sizeof *rows;
    int64_t n = 0;
    if (model->edits[m]->of_source) {
        memcpy(rows, x, bytes * (size_t)b->sources);
        return rows;
    }
    for (size_t s = 0; s < b->batch.n_seqs; s++) {
        for (int32_t i = b->start[s]; i < b->start[s + 1]; i++) {
            if (is_label_row(b, s, i)) memcpy(rows + n++ * c, x + i * c, bytes);
        }
    }
    return rows;
}

/* What is left out before the first label row changes nothing of the rows that are kept;
 * and keys without a backward pass are the same. */
static void check_kept(struct values w) {
    for (size_t i = 0; i < 3; i++) {
        struct made_batch *b = make_batch(all_sequences[i], true);
        struct measured few = measure(b, false), all = measure(b, true),
                        keys = measure_keys(b);
        assert_true(fabs(few.loss - all.loss) <= 1e-5 * all.loss);
        assert_true(fabs(few.loss - answer_loss(b)) <= 1e-5 * few.loss);
        for (size_t m = 0; m < w.n; m++) {
            const struct mal_linear *lin = model->edits[m];
            int64_t n = rows_of(b, m, false);
            float *u = label_rows(b, m, all.u[m], lin->d_in),
                  *g = label_rows(b, m, all.g[m], lin->d_out);
            check_close(lin->name, few.u[m], u, n * lin->d_in, 1e-5);
            check_close(lin->name, few.g[m], g, n * lin->d_out, 2e-5);
            check_close(lin->name, keys.u[m], u, n * lin->d_in, 1e-5);
            mal_free(u);
            mal_free(g);
        }
        release(&few);
        release(&all);
        release(&keys);
        mal_free(b);
    }
    no_edits(&w);
}

static void test_kept_rows(void **state) {
    for (int64_t first = 0; first < model->info.n_layers; first++)
        check_kept(edit("", first, 0.2f));
    /* a device takes long for so few rows */
    uint64_t last = mal_backend_on_host(model->be) ? 14 : 11;
    for (uint64_t seed = 11; seed <= last; seed++)
        check_kept(edit_some(seed, 0.2f));
}

/* A module's rows do not depend on which others are declared, though much less may be
 * computed for it. */
static void test_alone(void **state) {
    struct made_batch *b = make_batch(&mixed, true);
    struct values w;
    char name[160];
    for (int all = 0; all < 2; all++) {
        edit_all(&w);
        struct measured together = measure(b, all);
        struct mal_linear *edits[MAX_EDITS];
        int64_t rows[MAX_EDITS];
        size_t n = w.n;
        for (size_t m = 0; m < n; m++) {
            edits[m] = model->edits[m];
            rows[m] = rows_of(b, m, all);
        }
        no_edits(&w);
        for (size_t m = 0; m < n; m++) {
            snprintf(name, sizeof name, "%s", edits[m]->name);
            w = edit(name, 0, 0);
            assert_int_equal(w.n, 1);
            struct measured alone = measure(b, all);
            check_close(name, alone.u[0], together.u[m], rows[m] * edits[m]->d_in, 1e-5);
            check_close(name, alone.g[0], together.g[m], rows[m] * edits[m]->d_out, 2e-5);
            release(&alone);
            no_edits(&w);
            mal_free(together.u[m]);
            mal_free(together.g[m]);
        }
    }
    mal_free(b);
}

/* The head in slices of few rows: as in one. */
static void test_head_slices(void **state) {
    struct made_batch *b = make_batch(&mixed, true);
    int64_t before = model->head_bytes, v = model->info.n_outputs;
    struct values w;
    edit_all(&w);
    struct scores one = score(b);
    struct measured at_once = measure(b, false);
    for (int64_t slice = 1; slice < b->rows; slice += 3) {
        model->head_bytes = slice * v * (int64_t)sizeof(float);
        struct scores some = score(b);
        struct measured sliced = measure(b, false);
        check_close("logits", some.logits, one.logits, b->rows * v, 2e-5);
        assert_memory_equal(some.argmax, one.argmax, (size_t)b->rows * sizeof(int32_t));
        for (size_t m = 0; m < w.n; m++) {
            int64_t n = rows_of(b, m, false) * model->edits[m]->d_out;
            check_close(model->edits[m]->name, sliced.g[m], at_once.g[m], n, 2e-5);
        }
        mal_free(some.logits);
        release(&sliced);
    }
    model->head_bytes = before;
    mal_free(one.logits);
    release(&at_once);
    no_edits(&w);
    mal_free(b);
}

int main(void) {
    const struct model_test tests[] = {
        {"packing", test_packing}, {"what is seen", test_what_is_seen},
        {"hidden", test_hidden},   {"kept rows", test_kept_rows},
        {"alone", test_alone},     {"head slices", test_head_slices},
    };
    return run_each("passes", tests, sizeof tests / sizeof *tests);
}
