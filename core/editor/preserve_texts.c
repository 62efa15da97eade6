/* preserve_texts.c - reads the texts to preserve, which come as facts, as prompts or as
 * plain lines. */
#include "core/editor/preserve_texts.h"

#include <string.h>

#include "core/alloc.h"
#include "core/example.h"
#include "core/file.h"
#include "core/prompts_load.h"

void mal_preserve_texts_finish(struct mal_preserve_texts *texts) {
    mal_free(texts->ids);
    mal_free(texts->start);
    mal_free(texts->from);
    *texts = (struct mal_preserve_texts){0};
}

int64_t mal_preserve_texts_n_keys(const struct mal_preserve_texts *texts,
                                  const struct mal_model *model, bool of_source) {
    int64_t n = 0;
    if (mal_model_info(model)->kind == MAL_MODEL_CLASSIFIER) return (int64_t)texts->n;
    for (size_t i = 0; i < texts->n; i++) {
        int32_t length = texts->start[i + 1] - texts->start[i];
        n += of_source ? texts->from[i] : length - texts->from[i];
    }
    return n;
}

/* ---- A growing list of them ---- */

struct list {
    const char *path; /* borrowed */
    const struct mal_model *model;
    const struct mal_tokenizer *tok;
    struct mal_ids ids, start, from;
};

static void list_finish(struct list *list) {
    mal_ids_finish(&list->ids);
    mal_ids_finish(&list->start);
    mal_ids_finish(&list->from);
}

static bool add_text(struct list *list, const int32_t *ids, size_t n, int32_t from,
                     struct mal_error *err) {
    if (list->ids.n + n > INT32_MAX)
        return mal_fail(err, MAL_TOO_LARGE, "more than 2^31 tokens");
    if (!mal_ids_push(&list->start, (int32_t)list->ids.n, err) ||
        !mal_ids_push(&list->from, from, err))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!mal_ids_push(&list->ids, ids[i], err)) return false;
    }
    return true;
}

/* What the model reads of an example, one after the other. */
static bool add_example(struct list *list, const struct mal_example *e,
                        struct mal_error *err) {
    if (!e->has_decoder) return add_text(list, e->ids, (size_t)e->n, e->from, err);
    if (!add_text(list, e->ids, (size_t)e->n, e->n, err) ||
        !mal_ids_push(&list->ids, e->decoder_start, err)) {
        return false;
    }
    for (int32_t i = 0; i + 1 < e->n_target; i++) {
        if (!mal_ids_push(&list->ids, e->target[i], err)) return false;
    }
    return true;
}

/* The whole text, in pieces of the context. */
static bool add_plain(struct list *list, const char *text, size_t bytes,
                      struct mal_error *err) {
    const struct mal_model_info *info = mal_model_info(list->model);
    struct mal_ids ids = {0};
    bool ok = mal_text_tokens(info, list->tok, text, bytes, "", &ids, err);
    size_t most = info->n_context ? (size_t)info->n_context : ids.n;
    for (size_t i = 0; ok && i < ids.n; i += most) {
        int32_t n = (int32_t)(ids.n - i < most ? ids.n - i : most), target = -1;
        struct mal_example e = {.ids = ids.ids + i,
                                .n = n,
                                .target = &target,
                                .n_target = 1,
                                .has_decoder = info->kind == MAL_MODEL_SEQ2SEQ,
                                .decoder_start = info->decoder_start};
        ok = add_example(list, &e, err);
    }
    mal_ids_finish(&ids);
    return ok;
}

static bool add_fact(struct list *list, const struct mal_prompt *fact,
                     struct mal_error *err) {
    struct mal_example e = {0};
    bool ok = mal_example_init(&e, list->model, list->tok, fact->text, fact->target,
                               fact->join, err) &&
              add_example(list, &e, err);
    mal_example_finish(&e);
    return ok;
}

static bool add(void *arg, const struct mal_prompt *prompt, struct mal_error *err) {
    struct list *list = arg;
    bool fact = prompt->target != NULL;
    bool ok = fact ? add_fact(list, prompt, err)
                   : add_plain(list, prompt->text, prompt->bytes, err);
    return ok || mal_fail_wrap(err, "%s: %s %zu", mal_file_shown(list->path),
                               fact ? "record" : prompt->unit, prompt->place);
}

static bool list_end(struct list *list, struct mal_preserve_texts *out,
                     struct mal_error *err) {
    size_t n = list->from.n;
    if (n == 0) {
        return mal_fail(err, MAL_INVALID, "%s: no text in it",
                        mal_file_shown(list->path));
    }
    if (!mal_ids_push(&list->start, (int32_t)list->ids.n, err)) return false;
    *out = (struct mal_preserve_texts){
        .n = n, .ids = list->ids.ids, .start = list->start.ids, .from = list->from.ids};
    list->ids = list->start = list->from = (struct mal_ids){0};
    return true;
}

bool mal_preserve_texts_load(struct mal_preserve_texts *out, const char *path,
                             const struct mal_model *model,
                             const struct mal_tokenizer *tok, struct mal_error *err) {
    struct list list = {.path = path, .model = model, .tok = tok};
    bool ok = mal_prompts_load(path, false, add, &list, err) && list_end(&list, out, err);
    list_finish(&list);
    return ok;
}
