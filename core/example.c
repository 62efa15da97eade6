/* example.c - text to the rows a model is measured on. */
#include "core/example.h"

#include <string.h>

#include "core/alloc.h"

bool mal_example_target(const struct mal_tokenizer *tok, const char *target,
                        const char *join, struct mal_ids *out, struct mal_error *err) {
    if (!join) join = " ";
    while (*target == ' ')
        target++;
    size_t n_join = strlen(join), n_target = strlen(target);
    char *text = mal_malloc(n_join + n_target + 1);
    if (!text) return mal_fail(err, MAL_NO_MEMORY, "target");
    memcpy(text, join, n_join);
    memcpy(text + n_join, target, n_target + 1);
    bool ok = mal_tokenizer_encode(tok, text, n_join + n_target, false, out, err);
    mal_free(text);
    return ok;
}

static bool encode_both(const struct mal_tokenizer *tok, const char *prompt,
                        const char *target, const char *join, struct mal_ids *ids,
                        size_t *n_prompt, struct mal_error *err) {
    size_t bytes = strlen(prompt);
    while (bytes > 0 && prompt[bytes - 1] == ' ')
        bytes--;
    while (*target == ' ')
        target++;
    if (bytes == 0) return mal_fail(err, MAL_INVALID, "the prompt is empty");
    if (*target == 0) return mal_fail(err, MAL_INVALID, "the target is empty");
    if (!mal_tokenizer_encode(tok, prompt, bytes, true, ids, err)) return false;
    *n_prompt = ids->n;
    return mal_example_target(tok, target, join, ids, err);
}

bool mal_example_init(struct mal_example *out, const struct mal_tokenizer *tok,
                      const char *prompt, const char *target, const char *join,
                      int64_t context, struct mal_error *err) {
    struct mal_ids ids = {0};
    size_t n_prompt = 0;
    if (!encode_both(tok, prompt, target, join, &ids, &n_prompt, err)) goto fail;
    if (n_prompt == 0 || ids.n == n_prompt) {
        mal_fail(err, MAL_INVALID, "the %s has no tokens",
                 n_prompt ? "target" : "prompt");
        goto fail;
    }
    if (context && (int64_t)ids.n - 1 > context) {
        mal_fail(err, MAL_INVALID,
                 "prompt and target have %zu tokens, the model's context is %lld", ids.n,
                 (long long)context);
        goto fail;
    }
    size_t n_target = ids.n - n_prompt;
    int32_t *target_ids = mal_malloc(n_target * sizeof *target_ids);
    if (!target_ids) {
        mal_fail(err, MAL_NO_MEMORY, "target tokens");
        goto fail;
    }
    memcpy(target_ids, ids.ids + n_prompt, n_target * sizeof *target_ids);
    *out = (struct mal_example){.ids = ids.ids,
                                .n = (int32_t)ids.n - 1,
                                .from = (int32_t)n_prompt - 1,
                                .target = target_ids,
                                .n_target = (int32_t)n_target};
    return true;

fail:
    mal_ids_finish(&ids);
    return false;
}

void mal_example_finish(struct mal_example *example) {
    mal_free(example->ids);
    mal_free(example->target);
    *example = (struct mal_example){0};
}

void mal_examples_free(struct mal_example *examples, size_t n) {
    if (!examples) return;
    for (size_t i = 0; i < n; i++)
        mal_example_finish(&examples[i]);
    mal_free(examples);
}

/* By counting, so that the order is stable. */
bool mal_examples_longest_first(const struct mal_example *examples, size_t n,
                                size_t *order, struct mal_error *err) {
    int32_t longest = 0;
    for (size_t i = 0; i < n; i++) {
        if (examples[i].n > longest) longest = examples[i].n;
    }
    size_t *next = mal_calloc((size_t)longest + 2, sizeof *next);
    if (!next) return mal_fail(err, MAL_NO_MEMORY, "order of %zu examples", n);
    for (size_t i = 0; i < n; i++)
        next[longest - examples[i].n + 1]++;
    for (int32_t k = 0; k < longest; k++)
        next[k + 1] += next[k];
    for (size_t i = 0; i < n; i++)
        order[next[longest - examples[i].n]++] = i;
    mal_free(next);
    return true;
}

bool mal_examples_pack(const struct mal_example *examples, const size_t *order, size_t n,
                       struct mal_packed *out, struct mal_error *err) {
    size_t n_tokens = 0;
    for (size_t i = 0; i < n; i++)
        n_tokens += (size_t)examples[order ? order[i] : i].n;
    int32_t *block = mal_malloc((2 * n + 1 + 2 * n_tokens) * sizeof *block);
    if (!block) return mal_fail(err, MAL_NO_MEMORY, "packed batch");

    int32_t *start = block, *from = start + n + 1, *ids = from + n,
            *labels = ids + n_tokens;
    int32_t row = 0;
    int64_t n_labels = 0;
    for (size_t i = 0; i < n; i++) {
        const struct mal_example *e = &examples[order ? order[i] : i];
        start[i] = row;
        from[i] = e->from;
        memcpy(ids + row, e->ids, (size_t)e->n * sizeof *ids);
        memset(labels + row, 0xff, (size_t)e->from * sizeof *labels);
        memcpy(labels + row + e->from, e->target, (size_t)e->n_target * sizeof *labels);
        row += e->n;
        n_labels += e->n_target;
    }
    start[n] = row;
    *out = (struct mal_packed){.batch = {.n_seqs = n,
                                         .start = start,
                                         .ids = ids,
                                         .from = from,
                                         .labels = labels},
                               .n_labels = n_labels,
                               .block = block};
    return true;
}

void mal_packed_finish(struct mal_packed *packed) {
    mal_free(packed->block);
    *packed = (struct mal_packed){0};
}
