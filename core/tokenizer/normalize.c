/* normalize.c - the normalizers of a tokenizer, one after the other. */
#include "core/file.h"
#include "core/tokenizer/parts.h"

bool mal_normalizer_add(struct mal_normalizers *list, struct mal_normalizer step,
                        const char *where, struct mal_error *err) {
    if (list->n == MAL_MAX_STEPS) {
        if (step.destroy) step.destroy(step.data);
        return mal_fail(err, MAL_INVALID, "%s: the normalizer has more than %d steps",
                        mal_file_shown(where), MAL_MAX_STEPS);
    }
    list->steps[list->n++] = step;
    return true;
}

void mal_normalizers_finish(struct mal_normalizers *list) {
    for (size_t i = 0; i < list->n; i++) {
        if (list->steps[i].destroy) list->steps[i].destroy(list->steps[i].data);
    }
    *list = (struct mal_normalizers){0};
}

bool mal_normalize(const struct mal_normalizers *list, struct mal_matcher *matcher,
                   bool goes_on, struct mal_string work[2], const char **text,
                   size_t *bytes, bool *out_cut, struct mal_error *err) {
    struct mal_string *out = &work[0];
    *out_cut = false;
    for (size_t i = 0; i < list->n; i++) {
        const struct mal_normalizer *step = &list->steps[i];
        if (goes_on && step->only_prefix) continue;
        bool cut = false;
        if (*bytes > 0 && step->drops_first &&
            !step->drops_first(step->data, matcher, *text, *bytes, &cut, err))
            return false;
        *out_cut |= cut;
        out->bytes = 0;
        if (!mal_string_reserve(out, *bytes, err) ||
            !step->run(step->data, matcher, *text, *bytes, out, err))
            return false;
        *text = out->text;
        *bytes = out->bytes;
        out = out == work ? &work[1] : work;
    }
    return true;
}
