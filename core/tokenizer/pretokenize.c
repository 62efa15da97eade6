/* pretokenize.c - cuts text into words, step by step, and hands each to the model. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/tokenizer/parts.h"

static bool add_step(struct mal_pretokenizer *pre, struct mal_pre_step step,
                     const char *where, struct mal_error *err) {
    if (pre->n_steps == MAL_MAX_PRE_STEPS) {
        return mal_fail(err, MAL_INVALID, "%s: the pre-tokenizer has more than %d steps",
                        mal_file_shown(where), MAL_MAX_PRE_STEPS);
    }
    pre->steps[pre->n_steps++] = step;
    return true;
}

bool mal_pre_add_split(struct mal_pretokenizer *pre, struct mal_pattern *pattern,
                       bool drop_matches, bool drop_gaps, const char *where,
                       struct mal_error *err) {
    struct mal_pre_step step = {pattern, drop_matches, drop_gaps};
    if (add_step(pre, step, where, err)) return true;
    mal_pattern_destroy(pattern);
    return false;
}

bool mal_pre_add_prefix(struct mal_pretokenizer *pre, const char *where,
                        struct mal_error *err) {
    return add_step(pre, (struct mal_pre_step){0}, where, err);
}

void mal_pre_finish(struct mal_pretokenizer *pre) {
    for (size_t i = 0; i < pre->n_steps; i++)
        mal_pattern_destroy(pre->steps[i].pattern);
    *pre = (struct mal_pretokenizer){0};
}

bool mal_tokenizer_set_byte_level(struct mal_tokenizer *tok, bool prefix, bool split,
                                  const char *where, struct mal_error *err) {
    struct mal_pattern *pattern;
    if (prefix && !mal_pre_add_prefix(&tok->pretokenizer, where, err)) return false;
    if (split) {
        if (!mal_pattern_create(&pattern, mal_gpt2_pattern, where, err)) return false;
        if (!mal_pre_add_split(&tok->pretokenizer, pattern, false, false, where, err))
            return false;
    }
    tok->byte_level_words = true;
    return true;
}

static bool run_from(struct mal_encode_run *run, size_t i_step, const char *text,
                     size_t bytes, struct mal_error *err);

static bool put_space_before(struct mal_encode_run *run, size_t i_step, const char *text,
                             size_t bytes, struct mal_error *err) {
    if (text[0] == ' ') return run_from(run, i_step + 1, text, bytes, err);
    /* At most one step of a pre-tokenizer does this, so the buffer is free. */
    if (!mal_scratch_reserve(&run->prefixed, bytes + 1, err)) return false;
    char *prefixed = run->prefixed.mem;
    prefixed[0] = ' ';
    memcpy(prefixed + 1, text, bytes);
    return run_from(run, i_step + 1, prefixed, bytes + 1, err);
}

static bool run_from(struct mal_encode_run *run, size_t i_step, const char *text,
                     size_t bytes, struct mal_error *err) {
    if (bytes == 0) return true;
    if (i_step == run->pretokenizer->n_steps)
        return run->model->encode(run->model, &run->scratch, text, bytes, run->out, err);
    const struct mal_pre_step *step = &run->pretokenizer->steps[i_step];
    if (!step->pattern) return put_space_before(run, i_step, text, bytes, err);
    struct mal_match_walk walk = {
        .pattern = step->pattern, .matcher = run->matcher, .text = text, .bytes = bytes};
    size_t from = 0, start, end;
    for (;;) {
        bool found;
        if (!mal_match_next(&walk, &start, &end, &found, err)) return false;
        if (!found) start = end = bytes;
        if (!step->drop_gaps &&
            !run_from(run, i_step + 1, text + from, start - from, err))
            return false;
        if (!found) return true;
        if (!step->drop_matches &&
            !run_from(run, i_step + 1, text + start, end - start, err))
            return false;
        from = end;
    }
}

bool mal_pre_run(struct mal_encode_run *run, const char *text, size_t bytes,
                 struct mal_error *err) {
    return run_from(run, 0, text, bytes, err);
}
