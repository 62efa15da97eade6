/* edited_gpt2.h - batches for a random GPT-2, and weights of its edit modules that a test
 * owns and moves. */
#ifndef MAL_TEST_EDITED_GPT2_H
#define MAL_TEST_EDITED_GPT2_H

#include "random_gpt2.h"

static struct mal_model *model; /* the one that is tested */

/* ---- Batches ---- */

enum { MAX_SEQS = 8, MAX_IDS = 64 };

struct sequences {
    size_t n;
    int32_t length[MAX_SEQS], from[MAX_SEQS];
};

/* Label rows: all, some, the last; sequences of one token; labels left out. */
static const struct sequences mixed = {5, {7, 9, 5, 1, 6}, {0, 4, 4, 0, 2}};
static const struct sequences whole = {3, {4, 6, 3}, {0, 0, 0}};
static const struct sequences last = {3, {5, 8, 2}, {4, 7, 1}};

struct made_batch {
    struct mal_batch batch;
    int32_t start[MAX_SEQS + 1], from[MAX_SEQS], ids[MAX_IDS], labels[MAX_IDS];
    int64_t rows, longest;
};

/* Ids and labels are random below the model's vocabulary; `holes`: every fifth label is
 * left out. */
static inline struct made_batch *make_batch(const struct sequences *seqs, bool holes) {
    struct made_batch *b = mal_calloc(1, sizeof *b);
    assert_non_null(b);
    uint64_t seed = 77;
    int64_t v = model->info.n_vocab;
    for (size_t s = 0; s < seqs->n; s++) {
        b->start[s + 1] = b->start[s] + seqs->length[s];
        b->from[s] = seqs->from[s];
        if (seqs->length[s] > b->longest) b->longest = seqs->length[s];
        for (int32_t i = b->start[s]; i < b->start[s + 1]; i++) {
            b->ids[i] = (int32_t)(((double)next_float(&seed) + 1) / 2 * (double)v);
            b->labels[i] = (int32_t)(((double)next_float(&seed) + 1) / 2 * (double)v);
            if (i - b->start[s] < b->from[s]) {
                b->labels[i] = -1;
            } else if (b->rows++ % 5 == 4 && holes) {
                b->labels[i] = -1;
            }
        }
    }
    b->batch = (struct mal_batch){.n_seqs = seqs->n,
                                  .start = b->start,
                                  .ids = b->ids,
                                  .from = b->from,
                                  .labels = b->labels};
    return b;
}

/* Sequence s of a batch, as a batch. */
static inline struct made_batch *only(const struct made_batch *all, size_t s) {
    struct made_batch *b = mal_calloc(1, sizeof *b);
    assert_non_null(b);
    int32_t n = all->start[s + 1] - all->start[s];
    b->start[1] = n;
    b->from[0] = all->from[s];
    memcpy(b->ids, all->ids + all->start[s], (size_t)n * sizeof *b->ids);
    memcpy(b->labels, all->labels + all->start[s], (size_t)n * sizeof *b->labels);
    b->batch = (struct mal_batch){.n_seqs = 1,
                                  .start = b->start,
                                  .ids = b->ids,
                                  .from = b->from,
                                  .labels = b->labels};
    return b;
}

/* ---- Weights in use ---- */

enum { MAX_EDITS = 16 };

static inline int64_t size_of(size_t m) {
    return model->edits[m]->d_in * model->edits[m]->d_out;
}

/* Numbers of every edit module, host memory. */
struct values {
    size_t n;
    float *at[MAX_EDITS];
};

static inline struct values values_of(uint64_t seed, float size) {
    struct values v = {.n = model->n_edits};
    for (size_t m = 0; m < v.n; m++)
        v.at[m] = random_floats(size_of(m), size, seed + m);
    return v;
}

static inline void values_free(struct values *v) {
    for (size_t m = 0; m < v->n; m++)
        mal_free(v->at[m]);
}

static inline double values_dot(const struct values *a, const struct values *b) {
    double sum = 0;
    for (size_t m = 0; m < a->n; m++) {
        for (int64_t i = 0; i < size_of(m); i++)
            sum += (double)a->at[m][i] * (double)b->at[m][i];
    }
    return sum;
}

/* Declares the edit modules whose name holds `part`, those of blocks below `first` left
 * out, with weights of their own: the base's with up to `size` added. They are returned.
 */
static inline struct values edit(const char *part, int64_t first, float size) {
    const char *names[MAX_EDITS];
    size_t n = 0;
    struct mal_error err = {0};
    for (size_t i = 0; i < model->n_linears; i++) {
        const struct mal_linear *lin = model->linears[i];
        if (lin->block >= first && strstr(lin->name, part)) names[n++] = lin->name;
    }
    assert_true(n > 0 && n <= MAX_EDITS);
    assert_ok(mal_model_set_edits(model, names, n, &err), &err);
    struct values w = values_of(4000, size);
    for (size_t m = 0; m < n; m++) {
        float *base = mal_malloc((size_t)size_of(m) * sizeof *base);
        from_device(base, model->edits[m]->w0, size_of(m));
        for (int64_t i = 0; i < size_of(m); i++)
            w.at[m][i] += base[i];
        mal_free(base);
        model->edits[m]->w = on_device(w.at[m], size_of(m));
    }
    return w;
}

static inline void no_edits(struct values *w) {
    struct mal_error err = {0};
    for (size_t m = 0; m < model->n_edits; m++)
        free_device(model->edits[m]->w);
    assert_ok(mal_model_set_edits(model, NULL, 0, &err), &err);
    values_free(w);
}

/* The weights in use become w + step * direction. */
static inline void move(const struct values *w, const struct values *direction,
                        double step) {
    for (size_t m = 0; m < w->n; m++) {
        float *x = mal_malloc((size_t)size_of(m) * sizeof *x);
        assert_non_null(x);
        for (int64_t i = 0; i < size_of(m); i++)
            x[i] = (float)((double)w->at[m][i] + step * (double)direction->at[m][i]);
        mal_backend_upload(model->be, (void *)(uintptr_t)model->edits[m]->w, x,
                           (size_t)size_of(m) * sizeof *x);
        mal_free(x);
    }
}

static inline void move_one(const struct values *w, size_t m, int64_t i, double step) {
    float x = (float)((double)w->at[m][i] + step);
    float *in_use = (float *)(uintptr_t)model->edits[m]->w;
    mal_backend_upload(model->be, in_use + i, &x, sizeof x);
}

#endif
