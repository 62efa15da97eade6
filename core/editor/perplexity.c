/* perplexity.c - -log p of the tokens of texts, in slices of whole texts. */
#include "core/editor/perplexity.h"

#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/random.h"

/* Of one pass, times the device's breadth; a longer text is a slice of its own. */
enum { SLICE_TOKENS = 1024 };

/* A text, or its beginning: what is read up to position from + n_labels, the first
 * `n_labels` tokens after `from` being foretold. */
struct piece {
    size_t text;
    int32_t n_labels; /* at least one */
};

/* The last position foretells nothing that is known. An encoder-decoder's tokens from
 * `from` on are what its decoder reads, so that it is the same there. */
static int32_t n_labels_of(const struct mal_preserve_texts *texts, size_t i) {
    return texts->start[i + 1] - texts->start[i] - texts->from[i] - 1;
}

static int64_t n_tokens_of(const struct mal_preserve_texts *texts,
                           const struct piece *piece) {
    return texts->from[piece->text] + piece->n_labels;
}

/* ---- Which tokens ---- */

static void shuffle(struct piece *pieces, size_t n) {
    uint64_t random = 1;
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)mal_random_below(&random, i);
        struct piece other = pieces[j];
        pieces[j] = pieces[i - 1];
        pieces[i - 1] = other;
    }
}

bool mal_perplexity_has_tokens(enum mal_model_kind kind,
                               const struct mal_preserve_texts *texts) {
    bool any = false;
    for (size_t i = 0; !any && i < texts->n; i++)
        any = n_labels_of(texts, i) > 0;
    return any && kind != MAL_MODEL_CLASSIFIER;
}

/* *out (n) is owned by the caller. */
static bool choose_pieces(const struct mal_preserve_texts *texts, int64_t max_tokens,
                          struct piece **out, size_t *out_n, struct mal_error *err) {
    struct piece *pieces = mal_calloc(texts->n, sizeof *pieces);
    if (!pieces) return mal_fail(err, MAL_NO_MEMORY, "%zu texts", texts->n);
    int64_t total = 0;
    size_t n = 0;
    for (size_t i = 0; i < texts->n; i++) {
        int32_t n_labels = n_labels_of(texts, i);
        if (n_labels < 1) continue;
        pieces[n++] = (struct piece){i, n_labels};
        total += n_labels;
    }
    if (total > max_tokens) {
        int64_t left = max_tokens;
        shuffle(pieces, n);
        for (n = 0; left > 0; n++) {
            if (pieces[n].n_labels > left) pieces[n].n_labels = (int32_t)left;
            left -= pieces[n].n_labels;
        }
    }
    *out = pieces;
    *out_n = n;
    return true;
}

/* ---- A slice ---- */

struct packed {
    struct mal_batch batch;
    int64_t n_labels;
    int32_t *block; /* the batch's arrays, owned */
};

static bool pack(const struct mal_model *model, const struct mal_preserve_texts *texts,
                 const struct piece *pieces, size_t n, struct packed *out,
                 struct mal_error *err) {
    bool apart = mal_model_info(model)->kind == MAL_MODEL_SEQ2SEQ;
    size_t tokens = 0;
    for (size_t i = 0; i < n; i++)
        tokens += (size_t)n_tokens_of(texts, &pieces[i]);
    int32_t *start = mal_calloc(3 * n + 2 + 3 * tokens, sizeof *start);
    if (!start) return mal_fail(err, MAL_NO_MEMORY, "packed texts");
    int32_t *source_start = start + n + 1, *from = source_start + n + 1, *ids = from + n;
    int32_t *labels = ids + tokens, *source = labels + tokens;
    int64_t n_labels = 0;
    memset(labels, 0xff, tokens * sizeof *labels);
    for (size_t i = 0; i < n; i++) {
        const int32_t *text = texts->ids + texts->start[pieces[i].text];
        int32_t k = pieces[i].n_labels, begin = texts->from[pieces[i].text];
        int32_t skip = apart ? begin : 0, length = begin + k - skip;
        size_t row = (size_t)start[i];
        from[i] = begin - skip;
        start[i + 1] = start[i] + length;
        source_start[i + 1] = source_start[i] + skip;
        memcpy(source + source_start[i], text, (size_t)skip * sizeof *text);
        memcpy(ids + row, text + skip, (size_t)length * sizeof *text);
        memcpy(labels + row + from[i], text + begin + 1, (size_t)k * sizeof *text);
        n_labels += k;
    }
    *out = (struct packed){.batch = {.n_seqs = n,
                                     .start = start,
                                     .ids = ids,
                                     .from = from,
                                     .labels = labels,
                                     .source_start = source_start,
                                     .source_ids = source},
                           .n_labels = n_labels,
                           .block = start};
    return true;
}

/* Adds -log p of a slice's tokens to *sum. */
static bool add_slice(struct mal_model *model, const struct mal_preserve_texts *texts,
                      const struct piece *pieces, size_t n, double *sum,
                      struct mal_error *err) {
    struct packed packed;
    if (!pack(model, texts, pieces, n, &packed, err)) return false;
    float *logprob = mal_malloc((size_t)packed.n_labels * sizeof *logprob);
    struct mal_row_scores wanted = {.logprob = logprob};
    bool ok = logprob || mal_fail(err, MAL_NO_MEMORY, "scores");
    ok = ok && mal_model_score(model, &packed.batch, &wanted, err);
    if (!ok) mal_fail_wrap(err, "texts to preserve, from %zu on", pieces->text);
    for (int64_t i = 0; ok && i < packed.n_labels; i++) {
        *sum -= (double)logprob[i];
        if (isfinite(logprob[i])) continue;
        ok = mal_fail(err, MAL_NUMERIC,
                      "texts to preserve, from %zu on: the model's output is not finite",
                      pieces->text);
    }
    mal_free(logprob);
    mal_free(packed.block);
    return ok;
}

bool mal_perplexity_measure(struct mal_model *model,
                            const struct mal_preserve_texts *texts, int64_t max_tokens,
                            bool (*tick)(void *), void *tick_arg, double *out,
                            struct mal_error *err) {
    struct piece *pieces = NULL;
    size_t n = 0;
    int64_t n_labels = 0;
    int64_t most = SLICE_TOKENS * mal_backend_breadth(mal_model_backend(model));
    double sum = 0;
    bool ok = true;
    if (mal_model_info(model)->kind != MAL_MODEL_CLASSIFIER)
        ok = choose_pieces(texts, max_tokens, &pieces, &n, err);
    for (size_t i = 0; ok && i < n;) {
        size_t end = i;
        int64_t tokens = 0;
        while (end < n &&
               (end == i || tokens + n_tokens_of(texts, &pieces[end]) <= most)) {
            tokens += n_tokens_of(texts, &pieces[end]);
            n_labels += pieces[end++].n_labels;
        }
        ok = add_slice(model, texts, pieces + i, end - i, &sum, err);
        if (ok && tick && !tick(tick_arg)) ok = mal_fail(err, MAL_CANCELLED, "cancelled");
        i = end;
    }
    mal_free(pieces);
    if (ok) *out = n_labels ? sum / (double)n_labels : (double)NAN;
    return ok;
}
