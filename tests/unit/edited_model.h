/* edited_model.h - batches for a random model, and weights of its edit modules that a
 * test owns and moves. */
#ifndef MAL_TEST_EDITED_MODEL_H
#define MAL_TEST_EDITED_MODEL_H

#include "random_model.h"

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
static const struct sequences tails = {3, {5, 8, 2}, {4, 7, 1}};
static const struct sequences *const all_sequences[] = {&mixed, &whole, &tails};

/* What an encoder reads beside them. */
static const int32_t source_lengths[MAX_SEQS] = {3, 8, 1, 9, 6, 2, 4, 7};

struct made_batch {
    struct mal_batch batch;
    int32_t start[MAX_SEQS + 1], from[MAX_SEQS], ids[MAX_IDS], labels[MAX_IDS];
    int32_t source_start[MAX_SEQS + 1], source[MAX_IDS];
    int64_t rows, longest, tokens, sources; /* rows: those with a label, or with a hole */
};

static inline int32_t random_id(uint64_t *seed, int64_t below) {
    return (int32_t)(((double)next_float(seed) + 1) / 2 * (double)below);
}

static inline bool is_classifier(void) {
    return model->info.kind == MAL_MODEL_CLASSIFIER;
}

static inline bool is_seq2seq(void) {
    return model->info.kind == MAL_MODEL_SEQ2SEQ;
}

static inline void link_batch(struct made_batch *b, size_t n) {
    b->batch = (struct mal_batch){.n_seqs = n,
                                  .start = b->start,
                                  .ids = b->ids,
                                  .from = b->from,
                                  .labels = b->labels,
                                  .source_start = b->source_start,
                                  .source_ids = b->source};
    b->tokens = b->start[n];
    b->sources = b->source_start[n];
}

static inline void make_source(struct made_batch *b, size_t n, uint64_t *seed) {
    for (size_t s = 0; s < n; s++) {
        b->source_start[s + 1] = b->source_start[s] + source_lengths[s];
        if (source_lengths[s] > b->longest) b->longest = source_lengths[s];
        for (int32_t i = b->source_start[s]; i < b->source_start[s + 1]; i++)
            b->source[i] = random_id(seed, model->info.n_vocab);
    }
}

/* Ids and labels are random below the model's vocabulary; `holes`: every fifth label is
 * left out. A classifier has one label, in the first row. */
static inline struct made_batch *make_batch(const struct sequences *seqs, bool holes) {
    struct made_batch *b = mal_calloc(1, sizeof *b);
    assert_non_null(b);
    uint64_t seed = 77;
    for (size_t s = 0; s < seqs->n; s++) {
        b->start[s + 1] = b->start[s] + seqs->length[s];
        b->from[s] = is_classifier() ? 0 : seqs->from[s];
        if (seqs->length[s] > b->longest) b->longest = seqs->length[s];
        for (int32_t i = b->start[s]; i < b->start[s + 1]; i++) {
            int32_t t = i - b->start[s];
            b->ids[i] = random_id(&seed, model->info.n_vocab);
            b->labels[i] = random_id(&seed, model->info.n_outputs);
            if (t < b->from[s] || (t > 0 && is_classifier()))
                b->labels[i] = -1;
            else if (b->rows++ % 5 == 4 && holes)
                b->labels[i] = -1;
        }
    }
    if (is_seq2seq()) make_source(b, seqs->n, &seed);
    link_batch(b, seqs->n);
    return b;
}

/* Sequence s of a batch, as a batch. */
static inline struct made_batch *only(const struct made_batch *all, size_t s) {
    struct made_batch *b = mal_calloc(1, sizeof *b);
    assert_non_null(b);
    int32_t n = all->start[s + 1] - all->start[s];
    int32_t m = all->source_start[s + 1] - all->source_start[s];
    b->start[1] = n;
    b->from[0] = all->from[s];
    b->rows = is_classifier() ? 1 : n - b->from[0];
    b->longest = n > m ? n : m;
    b->source_start[1] = m;
    memcpy(b->ids, all->ids + all->start[s], (size_t)n * sizeof *b->ids);
    memcpy(b->labels, all->labels + all->start[s], (size_t)n * sizeof *b->labels);
    memcpy(b->source, all->source + all->source_start[s], (size_t)m * sizeof *b->source);
    link_batch(b, 1);
    return b;
}

/* Logits of every position of the batch (tokens, n_outputs), each sequence run alone; of
 * a classifier those of the first, in the sequence's first row. */
static inline float *logits_alone(const struct made_batch *b) {
    struct mal_error err = {0};
    int64_t v = model->info.n_outputs;
    float *logits = mal_calloc((size_t)(b->tokens * v), sizeof *logits);
    assert_non_null(logits);
    for (size_t s = 0; s < b->batch.n_seqs; s++) {
        size_t n = (size_t)(b->start[s + 1] - b->start[s]),
               m = (size_t)(b->source_start[s + 1] - b->source_start[s]);
        assert_ok(mal_model_logits(model, b->source + b->source_start[s], m,
                                   b->ids + b->start[s], n, logits + b->start[s] * v,
                                   &err),
                  &err);
    }
    return logits;
}

/* Whether row i of the batch, of sequence s, is a label row. */
static inline bool is_label_row(const struct made_batch *b, size_t s, int32_t i) {
    int32_t from = b->start[s] + b->from[s];
    return is_classifier() ? i == from : i >= from;
}

/* ---- What is measured ---- */

/* Rows of edit module m: label rows, or all of the encoder's. */
static inline int64_t n_rows(const struct made_batch *b, size_t m) {
    return model->edits[m]->of_source ? b->sources : b->rows;
}

/* Device memory, which is given back, as host memory. */
static inline float *taken(float *mem, int64_t n) {
    float *x = mal_malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    from_device(x, mem, n);
    free_device(mem);
    return x;
}

/* ---- Weights in use ---- */

enum { MAX_EDITS = 64 };

static inline int64_t size_of(size_t m) {
    return model->edits[m]->d_in * model->edits[m]->d_out;
}

/* Where the checkpoint has element i of (d_in, d_out). */
static inline int64_t stored_at(size_t m, int64_t i) {
    const struct mal_linear *lin = model->edits[m];
    return lin->transposed ? i % lin->d_out * lin->d_in + i / lin->d_out : i;
}

/* Numbers of every edit module, (d_in, d_out), host memory. */
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

/* Gives the edit modules weights of their own: the base's with up to `size` added. They
 * are returned. */
static inline struct values own_weights(float size) {
    struct values w = values_of(4000, size);
    for (size_t m = 0; m < w.n; m++) {
        float *stored = mal_malloc((size_t)size_of(m) * sizeof *stored);
        assert_non_null(stored);
        from_device(stored, model->edits[m]->w0, size_of(m));
        for (int64_t i = 0; i < size_of(m); i++) {
            w.at[m][i] += stored[stored_at(m, i)];
            stored[stored_at(m, i)] = w.at[m][i];
        }
        model->edits[m]->w = on_device(stored, size_of(m));
        mal_free(stored);
    }
    return w;
}

/* Declares the edit modules whose name holds `part`, those of blocks below `first` left
 * out. */
static inline void declare_edits(const char *part, int64_t first) {
    const char *names[MAX_EDITS];
    size_t n = 0;
    struct mal_error err = {0};
    for (size_t i = 0; i < model->n_linears; i++) {
        const struct mal_linear *lin = model->linears[i];
        if (lin->block >= first && strstr(lin->name, part)) names[n++] = lin->name;
    }
    assert_true(n > 0 && n <= MAX_EDITS);
    assert_ok(mal_model_set_edits(model, names, n, &err), &err);
}

/* The same, and gives them weights. */
static inline struct values edit(const char *part, int64_t first, float size) {
    declare_edits(part, first);
    return own_weights(size);
}

/* Likewise a third of all linears, those that `seed` has chosen, in an order of its own.
 */
static inline struct values edit_some(uint64_t seed, float size) {
    const char *names[MAX_EDITS];
    size_t n = 0;
    struct mal_error err = {0};
    for (size_t i = model->n_linears; i-- > 0;) {
        bool none_yet = i == 0 && n == 0;
        if (next_float(&seed) < -0.33f || none_yet) names[n++] = model->linears[i]->name;
    }
    assert_true(n > 0 && n <= MAX_EDITS);
    assert_ok(mal_model_set_edits(model, names, n, &err), &err);
    return own_weights(size);
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
            x[stored_at(m, i)] =
                (float)((double)w->at[m][i] + step * (double)direction->at[m][i]);
        mal_backend_upload(model->be, (void *)(uintptr_t)model->edits[m]->w, x,
                           (size_t)size_of(m) * sizeof *x);
        mal_free(x);
    }
}

static inline void move_one(const struct values *w, size_t m, int64_t i, double step) {
    float x = (float)((double)w->at[m][i] + step);
    float *in_use = (float *)(uintptr_t)model->edits[m]->w;
    mal_backend_upload(model->be, in_use + stored_at(m, i), &x, sizeof x);
}

#endif
