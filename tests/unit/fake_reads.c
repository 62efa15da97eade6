/* fake_reads.c - completions and scores over the fake engine's tables. A prompt "held:
 * FILE" is answered once there is that file; of more than 100 tokens half come at once.
 * An answer fails at "fail:here" in it. The prompt "tokens:" is answered by how many have
 * been made so far. MAL_FAKE_READS_BESIDE: they have a thread of their own. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/model/stop_text.h"
#include "core/utf8.h"
#include "daemon/engine/engine.h"
#include "fake_engine.h"
#include "fake_work.h"

static char *prompt_text(const struct mal_generation *gen) {
    char *text = mal_calloc(gen->n_prompt + 1, 1);
    for (size_t i = 0; i < gen->n_prompt; i++)
        text[i] = (char)gen->prompt[i];
    return text;
}

/* What an answer is made of: a token a byte. */
struct answer {
    char text[CONTEXT + 2];
    size_t n;       /* tokens there are */
    char *held;     /* its prompt, owned, where that holds the answer back; NULL */
    size_t at_once; /* tokens that do not wait for it */
};

static size_t n_tokens; /* made by all answers */
static int64_t in_use;  /* version of the read that runs */

static struct answer answer_of(const json_t *table, const struct mal_generation *gen) {
    struct answer answer;
    char *prompt = prompt_text(gen);
    fake_stuck(prompt);
    fake_slow(prompt);
    const char *target = json_string_value(json_object_get(table, prompt));
    if (!strcmp(prompt, "tokens:")) {
        snprintf(answer.text, sizeof answer.text, "%zu", n_tokens);
    } else {
        snprintf(answer.text, sizeof answer.text, " %s", target ? target : "?");
    }
    answer.n = strlen(answer.text);
    answer.at_once = answer.n > 100 ? answer.n / 2 : 0;
    answer.held = fake_is_held(prompt) ? prompt : NULL;
    if (!answer.held) mal_free(prompt);
    return answer;
}

/* As core/model/generate.c: the text of the tokens so far, cut at a stop text, and what
 * is certain of it. */
static void take_text(struct mal_generation *gen, const struct answer *answer) {
    bool all = gen->n_ids == answer->n, most = (int64_t)gen->n_ids >= gen->max_tokens;
    gen->ended = all || most || gen->given_up;
    gen->finish = all ? MAL_FINISH_STOP : MAL_FINISH_LENGTH;
    mal_free(gen->text);
    gen->text = mal_calloc(gen->n_ids + 1, 1);
    gen->text_bytes = mal_utf8_complete_prefix(answer->text, gen->n_ids);
    memcpy(gen->text, answer->text, gen->text_bytes);
    for (size_t i = 0; i < gen->n_stop; i++) {
        char *at = strstr(gen->text, gen->stop[i]);
        if (!at) continue;
        *at = 0;
        gen->text_bytes = (size_t)(at - gen->text);
        gen->ended = true;
        gen->finish = MAL_FINISH_STOP;
    }
    gen->sure = gen->ended
                    ? gen->text_bytes
                    : mal_before_stop(gen->text, gen->text_bytes, gen->stop, gen->n_stop);
}

static bool add_token(struct mal_generation *gen, const struct answer *answer,
                      struct mal_error *err) {
    if (gen->n_ids < answer->n && (int64_t)gen->n_ids < gen->max_tokens) {
        if (!strncmp(answer->text + gen->n_ids, "fail:here", 9))
            return mal_fail(err, MAL_NUMERIC, "the model's output is not a number");
        gen->ids[gen->n_ids] = (unsigned char)answer->text[gen->n_ids];
        gen->n_ids++;
        n_tokens++;
    }
    take_text(gen, answer);
    return true;
}

static bool waits(const struct answer *answer, size_t n_ids) {
    return answer->held && n_ids >= answer->at_once && fake_is_held(answer->held);
}

/* A step is a token of each that has not ended. */
static bool run_steps(struct mal_generation *gens, const struct answer *answers, size_t n,
                      bool (*tick)(void *), void *tick_arg, struct mal_error *err) {
    for (bool over = false; !over;) {
        bool waiting = false;
        over = true;
        for (size_t i = 0; i < n; i++) {
            bool wait = waits(&answers[i], gens[i].n_ids);
            if (gens[i].given_up) {
                take_text(&gens[i], &answers[i]);
            } else if (!gens[i].ended && !wait) {
                if (!add_token(&gens[i], &answers[i], err)) return false;
            }
            over = over && gens[i].ended;
            waiting = waiting || (wait && !gens[i].ended);
        }
        if (waiting) poll(NULL, 0, SLICE_MS);
        if (!tick(tick_arg)) return mal_fail(err, MAL_CANCELLED, "cancelled");
    }
    return true;
}

bool mal_engine_reads_beside(const struct mal_engine *e) {
    (void)e;
    return getenv("MAL_FAKE_READS_BESIDE");
}

bool mal_engine_begin_read(struct mal_engine *e, int64_t *version,
                           struct mal_error *err) {
    if (*version < 0) *version = mal_engine_live(e);
    in_use = *version;
    return mal_engine_has(e, *version) ||
           mal_fail(err, MAL_NOT_FOUND, "version %lld is not in memory",
                    (long long)*version);
}

void mal_engine_end_read(struct mal_engine *e) {
    (void)e;
}

bool mal_engine_generate(struct mal_engine *e, struct mal_generation *gens, size_t n,
                         bool (*tick)(void *), void *tick_arg, struct mal_error *err) {
    const json_t *table = fake_table(e, in_use);
    struct answer *answers = mal_calloc(n, sizeof *answers);
    if (!answers) return mal_fail(err, MAL_NO_MEMORY, "answers");
    for (size_t i = 0; i < n; i++) {
        answers[i] = answer_of(table, &gens[i]);
        gens[i].ids = mal_calloc(answers[i].n + 1, sizeof *gens[i].ids);
        gens[i].ended = false;
    }
    bool ok = run_steps(gens, answers, n, tick, tick_arg, err);
    for (size_t i = 0; i < n; i++)
        mal_free(answers[i].held);
    mal_free(answers);
    return ok;
}

bool mal_engine_score(struct mal_engine *e, const struct mal_score_item *items, size_t n,
                      const char *pointer, bool (*tick)(void *), void *tick_arg,
                      struct mal_score **out, struct mal_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (strlen(items[i].prompt) + strlen(items[i].target) < CONTEXT) continue;
        char at[64];
        snprintf(at, sizeof at, "%s/%zu", pointer, i);
        return mal_fail_at(err, MAL_INVALID, at, "item %zu is longer than the context",
                           i);
    }
    struct mal_score *scores = mal_calloc(n, sizeof *scores);
    for (size_t i = 0; i < n; i++) {
        const char *target =
            json_string_value(json_object_get(fake_table(e, in_use), items[i].prompt));
        bool right = target && !strcmp(target, items[i].target);
        size_t length = strlen(items[i].target) + 1;
        scores[i] =
            (struct mal_score){.tokens = mal_calloc(length, sizeof *scores[i].tokens),
                               .n_tokens = length,
                               .logprob = right ? -0.5 : -9,
                               .correct = right};
        for (size_t t = 0; t < length; t++) {
            int32_t id = t ? (unsigned char)items[i].target[t - 1] : ' ';
            scores[i].tokens[t] = (struct mal_token_score){.id = id,
                                                           .logprob = -0.1f,
                                                           .rank = right ? 1 : 7,
                                                           .argmax = right ? id : 1};
        }
    }
    *out = scores;
    return true;
}
