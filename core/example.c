/* example.c - text to the rows a model is measured on. */
#include "core/example.h"

#include <string.h>

#include "core/alloc.h"
#include "core/facts.h"
#include "core/text.h"

const char *const mal_class_names[2] = {"REFUTES", "SUPPORTS"};

/* ---- Texts ---- */

static bool fail_unknown(const struct mal_model_info *info,
                         const struct mal_tokenizer *tok, int32_t id, const char *pointer,
                         struct mal_error *err) {
    char *text = NULL, shown[MAL_TEXT_SHOWN];
    size_t bytes;
    if (!mal_tokenizer_decode(tok, &id, 1, false, false, &text, &bytes, err))
        return false;
    mal_fail_at(err, MAL_INVALID, pointer,
                "the token '%s' has the id %d, the model knows those below %lld",
                mal_text_shown(shown, text), id, (long long)info->n_vocab);
    mal_free(text);
    return false;
}

static bool check_ids(const struct mal_model_info *info, const struct mal_tokenizer *tok,
                      const struct mal_ids *ids, size_t from, const char *pointer,
                      struct mal_error *err) {
    for (size_t i = from; i < ids->n; i++) {
        if (ids->ids[i] >= info->n_vocab)
            return fail_unknown(info, tok, ids->ids[i], pointer, err);
    }
    return true;
}

bool mal_text_tokens(const struct mal_model_info *info, const struct mal_tokenizer *tok,
                     const char *text, size_t bytes, const char *pointer,
                     struct mal_ids *out, struct mal_error *err) {
    size_t from = out->n;
    bool ok = info->kind == MAL_MODEL_CAUSAL
                  ? mal_tokenizer_encode_before(tok, text, bytes, out, err)
                  : mal_tokenizer_encode(tok, text, bytes, true, out, err);
    return ok && check_ids(info, tok, out, from, pointer, err);
}

/* ---- Targets ---- */

static bool class_of(const char *target, struct mal_ids *out, struct mal_error *err) {
    for (int32_t i = 0; i < 2; i++) {
        if (strcmp(target, mal_class_names[i]) == 0) return mal_ids_push(out, i, err);
    }
    return mal_fail_at(
        err, MAL_INVALID, "/target",
        "the target is neither \"%s\" nor \"%s\", what a fact checker answers",
        mal_class_names[1], mal_class_names[0]);
}

bool mal_example_target(const struct mal_model *model, const struct mal_tokenizer *tok,
                        int32_t last, const char *target, const char *join,
                        struct mal_ids *out, struct mal_error *err) {
    const struct mal_model_info *info = mal_model_info(model);
    size_t from = out->n;
    while (*target == ' ')
        target++;
    if (*target == 0)
        return mal_fail_at(err, MAL_INVALID, "/target", "the target is empty");
    if (info->kind == MAL_MODEL_CLASSIFIER) return class_of(target, out, err);
    if (info->kind == MAL_MODEL_SEQ2SEQ)
        return mal_tokenizer_encode(tok, target, strlen(target), false, out, err) &&
               check_ids(info, tok, out, from, "/target", err);
    if (!join) join = " ";
    size_t n_join = strlen(join), n_target = strlen(target);
    char *text = mal_malloc(n_join + n_target + 1);
    if (!text) return mal_fail(err, MAL_NO_MEMORY, "target");
    memcpy(text, join, n_join);
    memcpy(text + n_join, target, n_target + 1);
    bool ok = mal_tokenizer_encode_after(tok, last, text, n_join + n_target, out, err) &&
              check_ids(info, tok, out, from, "/target", err);
    mal_free(text);
    return ok;
}

/* ---- Examples ---- */

static bool encode_prompt(const struct mal_model *model, const struct mal_tokenizer *tok,
                          const char *prompt, struct mal_ids *out,
                          struct mal_error *err) {
    size_t bytes = mal_prompt_bytes(prompt);
    if (bytes == 0)
        return mal_fail_at(err, MAL_INVALID, "/prompt", "the prompt is empty");
    return mal_text_tokens(mal_model_info(model), tok, prompt, bytes, "/prompt", out,
                           err) &&
           (out->n > 0 ||
            mal_fail_at(err, MAL_INVALID, "/prompt", "the prompt has no tokens"));
}

/* `ids` is what the model reads, of a causal one with the target's all but last; -1 is
 * no target: a prompt alone. Too much is the fault of the longer one. */
static bool check_length(const struct mal_model_info *info, size_t n_prompt,
                         const struct mal_ids *ids, const struct mal_ids *target,
                         struct mal_error *err) {
    bool both = info->kind == MAL_MODEL_CAUSAL && target->ids[0] >= 0;
    size_t most = (size_t)mal_longest_text(info);
    if (ids->n > most) {
        return mal_fail_at(
            err, MAL_INVALID, both && target->n > n_prompt ? "/target" : "/prompt",
            "%s %zu tokens, %s %zu", both ? "prompt and target have" : "the prompt has",
            ids->n + both, info->n_context ? "the model's context is" : "the most are",
            most);
    }
    if (info->kind == MAL_MODEL_SEQ2SEQ && target->n > most) {
        return mal_fail_at(err, MAL_INVALID, "/target",
                           "the target has %zu tokens, the most are %zu", target->n,
                           most);
    }
    return true;
}

/* Takes both lists over. */
static bool put_together(struct mal_example *out, const struct mal_model *model,
                         struct mal_ids *ids, struct mal_ids *target,
                         struct mal_error *err) {
    const struct mal_model_info *info = mal_model_info(model);
    size_t n_prompt = ids->n;
    bool causal = info->kind == MAL_MODEL_CAUSAL;
    for (size_t i = 0; causal && i + 1 < target->n; i++) {
        if (!mal_ids_push(ids, target->ids[i], err)) return false;
    }
    if (!check_length(info, n_prompt, ids, target, err)) return false;
    *out = (struct mal_example){.ids = ids->ids,
                                .n = (int32_t)ids->n,
                                .from = causal ? (int32_t)n_prompt - 1 : 0,
                                .target = target->ids,
                                .n_target = (int32_t)target->n,
                                .has_decoder = info->kind == MAL_MODEL_SEQ2SEQ,
                                .decoder_start = info->decoder_start};
    return true;
}

bool mal_example_init(struct mal_example *out, const struct mal_model *model,
                      const struct mal_tokenizer *tok, const char *prompt,
                      const char *target, const char *join, struct mal_error *err) {
    struct mal_ids ids = {0}, answer = {0};
    bool ok =
        encode_prompt(model, tok, prompt, &ids, err) &&
        mal_example_target(model, tok, ids.ids[ids.n - 1], target, join, &answer, err) &&
        (answer.n > 0 ||
         mal_fail_at(err, MAL_INVALID, "/target", "the target has no tokens")) &&
        put_together(out, model, &ids, &answer, err);
    if (ok) return true;
    mal_ids_finish(&ids);
    mal_ids_finish(&answer);
    return false;
}

static bool append(int32_t **list, int32_t *n, int32_t id, struct mal_error *err) {
    int32_t *grown = mal_realloc(*list, ((size_t)*n + 1) * sizeof *grown);
    if (!grown) return mal_fail(err, MAL_NO_MEMORY, "tokens of a text");
    grown[(*n)++] = id;
    *list = grown;
    return true;
}

bool mal_example_end(struct mal_example *example, int32_t eos, struct mal_error *err) {
    int32_t last = example->target[example->n_target - 1];
    return append(&example->ids, &example->n, last, err) &&
           append(&example->target, &example->n_target, eos, err);
}

bool mal_example_open(struct mal_example *out, const struct mal_model *model,
                      const struct mal_tokenizer *tok, const char *prompt,
                      struct mal_error *err) {
    struct mal_ids ids = {0}, answer = {0};
    bool ok = encode_prompt(model, tok, prompt, &ids, err) &&
              mal_ids_push(&answer, -1, err) &&
              put_together(out, model, &ids, &answer, err);
    if (ok) return true;
    mal_ids_finish(&ids);
    mal_ids_finish(&answer);
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

/* What the head's rows read: the decoder's ids where there is a decoder. */
static int32_t n_rows_of(const struct mal_example *e) {
    return e->has_decoder ? e->n_target : e->n;
}

static void fill_rows(const struct mal_example *e, int32_t *ids, int32_t *labels) {
    size_t n = (size_t)n_rows_of(e);
    if (e->has_decoder) {
        ids[0] = e->decoder_start;
        memcpy(ids + 1, e->target, (n - 1) * sizeof *ids);
    } else {
        memcpy(ids, e->ids, n * sizeof *ids);
    }
    memset(labels, 0xff, n * sizeof *labels);
    memcpy(labels + e->from, e->target, (size_t)e->n_target * sizeof *labels);
}

bool mal_examples_pack(const struct mal_example *examples, const size_t *order, size_t n,
                       struct mal_packed *out, struct mal_error *err) {
    size_t n_rows = 0, n_source = 0;
    for (size_t i = 0; i < n; i++) {
        const struct mal_example *e = &examples[order ? order[i] : i];
        n_rows += (size_t)n_rows_of(e);
        if (e->has_decoder) n_source += (size_t)e->n;
    }
    int32_t *block = mal_malloc((3 * n + 2 + 2 * n_rows + n_source) * sizeof *block);
    if (!block) return mal_fail(err, MAL_NO_MEMORY, "packed batch");

    int32_t *start = block, *from = start + n + 1, *ids = from + n,
            *labels = ids + n_rows, *source_start = labels + n_rows,
            *source = source_start + n + 1;
    int32_t row = 0, at = 0;
    int64_t n_labels = 0;
    for (size_t i = 0; i < n; i++) {
        const struct mal_example *e = &examples[order ? order[i] : i];
        start[i] = row;
        from[i] = e->from;
        source_start[i] = at;
        fill_rows(e, ids + row, labels + row);
        if (e->has_decoder) {
            memcpy(source + at, e->ids, (size_t)e->n * sizeof *source);
            at += e->n;
        }
        row += n_rows_of(e);
        n_labels += e->n_target;
    }
    start[n] = row;
    source_start[n] = at;
    *out = (struct mal_packed){.batch = {.n_seqs = n,
                                         .start = start,
                                         .ids = ids,
                                         .from = from,
                                         .labels = labels,
                                         .source_start = source_start,
                                         .source_ids = source},
                               .n_labels = n_labels,
                               .block = block};
    return true;
}

bool mal_examples_pack_prompts(const struct mal_example *examples, const size_t *order,
                               size_t n, struct mal_packed *out, struct mal_error *err) {
    size_t n_rows = 0, n_targets = 0;
    for (size_t i = 0; i < n; i++) {
        const struct mal_example *e = &examples[order ? order[i] : i];
        n_rows += (size_t)e->from + 1;
        n_targets += (size_t)e->n_target;
    }
    int32_t *block = mal_malloc((3 * n + 2 + n_rows + n_targets) * sizeof *block);
    if (!block) return mal_fail(err, MAL_NO_MEMORY, "packed batch");

    int32_t *start = block, *target_start = start + n + 1, *from = target_start + n + 1,
            *ids = from + n, *targets = ids + n_rows;
    int32_t row = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        const struct mal_example *e = &examples[order ? order[i] : i];
        start[i] = row;
        from[i] = e->from;
        target_start[i] = at;
        memcpy(ids + row, e->ids, ((size_t)e->from + 1) * sizeof *ids);
        memcpy(targets + at, e->target, (size_t)e->n_target * sizeof *targets);
        row += e->from + 1;
        at += e->n_target;
    }
    start[n] = row;
    target_start[n] = at;
    *out = (struct mal_packed){.batch = {.n_seqs = n,
                                         .start = start,
                                         .ids = ids,
                                         .from = from,
                                         .target_start = target_start,
                                         .targets = targets},
                               .n_labels = (int64_t)n_targets,
                               .block = block};
    return true;
}

void mal_packed_finish(struct mal_packed *packed) {
    mal_free(packed->block);
    *packed = (struct mal_packed){0};
}
