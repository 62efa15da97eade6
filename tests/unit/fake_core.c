/* fake_core.c - what the daemon calls beside the fake engine: tokens are bytes. */
#include <string.h>

#include "core/alloc.h"
#include "core/editor/edit.h"
#include "core/eval.h"
#include "core/example.h"
#include "core/model/generate.h"
#include "core/tokenizer/tokenizer.h"
#include "daemon/engine/version_diff.h"

bool mal_ids_push(struct mal_ids *list, int32_t id, struct mal_error *err) {
    int32_t *ids = mal_realloc(list->ids, (list->n + 1) * sizeof *ids);
    if (!ids) return mal_fail(err, MAL_NO_MEMORY, "ids");
    list->ids = ids;
    list->ids[list->n++] = id;
    return true;
}

void mal_ids_finish(struct mal_ids *list) {
    mal_free(list->ids);
    *list = (struct mal_ids){0};
}

bool mal_text_tokens(const struct mal_model_info *info, const struct mal_tokenizer *tok,
                     const char *text, size_t bytes, const char *pointer,
                     struct mal_ids *out, struct mal_error *err) {
    for (size_t i = 0; i < bytes; i++) {
        if (!mal_ids_push(out, (unsigned char)text[i], err)) return false;
    }
    return true;
}

bool mal_tokenizer_decode(const struct mal_tokenizer *tok, const int32_t *ids, size_t n,
                          bool skip_special, bool raw, char **out, size_t *out_bytes,
                          struct mal_error *err) {
    *out = mal_calloc(n + 1, 1);
    for (size_t i = 0; i < n; i++)
        (*out)[i] = (char)ids[i];
    *out_bytes = n;
    return true;
}

void mal_generation_finish(struct mal_generation *gen) {
    mal_free(gen->ids);
    mal_free(gen->text);
    gen->ids = NULL;
    gen->text = NULL;
    gen->n_ids = gen->text_bytes = gen->sure = 0;
    gen->ended = false;
}

void mal_scores_free(struct mal_score *scores, size_t n) {
    for (size_t i = 0; scores && i < n; i++)
        mal_free(scores[i].tokens);
    mal_free(scores);
}

const struct mal_method mal_method_ultraedit = {
    .name = "ultraedit", .title = "UltraEdit", .keyed = true, .running = true};

/* What a fake version stores is no delta. */
bool mal_diff_versions(struct mal_store *store, const struct mal_version_row *a,
                       const struct mal_version_row *b, struct mal_diff *out,
                       struct mal_error *err) {
    out->stored = !a->pruned && !b->pruned;
    if (!out->stored) return true;
    out->modules = mal_calloc(1, sizeof *out->modules);
    out->modules[0].name = mal_strdup("table");
    out->modules[0].norm = strcmp(a->weights_hash, b->weights_hash) ? 1 : 0;
    out->n = 1;
    return true;
}

void mal_diff_finish(struct mal_diff *diff) {
    for (size_t i = 0; i < diff->n; i++)
        mal_free(diff->modules[i].name);
    mal_free(diff->modules);
    *diff = (struct mal_diff){0};
}
