/* pretokenize.c - the steps that cut text into words, the last of which hands them to the
 * model. */
#include "core/file.h"
#include "core/tokenizer/parts.h"

bool mal_pre_add(struct mal_tokenizer *tok, struct mal_pre_step step, const char *where,
                 struct mal_error *err) {
    struct mal_pretokenizer *pre = &tok->pretokenizer;
    if (pre->n_steps < MAL_MAX_STEPS && !tok->byte_level_words) {
        pre->steps[pre->n_steps++] = step;
        return true;
    }
    if (step.destroy) step.destroy(step.data);
    if (tok->byte_level_words) {
        return mal_fail(err, MAL_INVALID,
                        "%s: a pre-tokenizer after ByteLevel is not supported",
                        mal_file_shown(where));
    }
    return mal_fail(err, MAL_INVALID, "%s: the pre-tokenizer has more than %d steps",
                    mal_file_shown(where), MAL_MAX_STEPS);
}

void mal_pre_finish(struct mal_pretokenizer *pre) {
    for (size_t i = 0; i < pre->n_steps; i++) {
        if (pre->steps[i].destroy) pre->steps[i].destroy(pre->steps[i].data);
    }
    *pre = (struct mal_pretokenizer){0};
}

static bool run_from(struct mal_encode_run *run, size_t i_step, const char *text,
                     size_t bytes, struct mal_error *err) {
    const struct mal_pretokenizer *pre = &run->tok->pretokenizer;
    if (bytes == 0) return true;
    if (i_step < pre->n_steps) {
        const struct mal_pre_step *step = &pre->steps[i_step];
        return step->run(step->data, run, i_step, text, bytes, err);
    }
    const struct mal_word_model *model = run->tok->model;
    return model->encode(model, &run->scratch, text, bytes, run->out, err);
}

bool mal_pre_pass(struct mal_encode_run *run, size_t i_step, const char *text,
                  size_t bytes, struct mal_error *err) {
    return run_from(run, i_step + 1, text, bytes, err);
}

bool mal_pre_run(struct mal_encode_run *run, const char *text, size_t bytes,
                 struct mal_error *err) {
    return run_from(run, 0, text, bytes, err);
}
