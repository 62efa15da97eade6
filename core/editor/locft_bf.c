/* locft_bf.c - LocFT-BF ("Fine-tuning Done Right in Model Editing", ICLR 2026): one
 * matrix, the MLP's last of one block, fine-tuned breadth first: epochs over all facts in
 * shuffled mini-batches, instead of one fact after the other until each is right. The
 * loss is the usual one, every target token after those before it. */
#include "core/alloc.h"
#include "core/editor/editor_impl.h"
#include "core/editor/hyper.h"
#include "core/editor/tune.h"
#include "core/eval.h"
#include "core/random.h"

enum { LR, EPOCHS, DECAY, BATCH, SEED, N_HYPER };

static const struct mal_hyper fields[N_HYPER] = {[LR] = {"lr", 0, 1e3},
                                                 [EPOCHS] = {"epochs", 1, 1e6, true},
                                                 [DECAY] = {"weight_decay", 0, 1e3},
                                                 [BATCH] = {"batch_size", 1, 1e9, true},
                                                 [SEED] = {"seed", 0, 9e15, true}};

/* What serves a small model; a large one may want a tenth of the rate. */
static void begin(const struct mal_model_info *info, double *hyper) {
    (void)info;
    hyper[LR] = 1e-3;
    hyper[EPOCHS] = 40;
    hyper[DECAY] = 0;
    hyper[BATCH] = 8;
    hyper[SEED] = 0;
}

/* The last block's: of the demo model's four it taught most and moved least else. */
static bool choose(const struct mal_model *model, const char ***out, size_t *out_n,
                   struct mal_error *err) {
    return mal_model_mlp_outputs(model, mal_model_n_blocks(model) - 1, 1, out, out_n,
                                 err);
}

static void shuffle(struct mal_tune *tune, uint64_t *random) {
    for (size_t i = tune->n_texts; i > 1; i--) { /* Fisher and Yates */
        size_t j = mal_random_below(random, i), text = tune->order[j];
        tune->order[j] = tune->order[i - 1];
        tune->order[i - 1] = text;
    }
}

static bool tick(void *arg) {
    const struct mal_tune *tune = arg;
    struct mal_error err = {0};
    bool go_on = mal_progress_step(tune->task->progress, MAL_STAGE_FORWARD, tune->done,
                                   tune->total, &err);
    mal_draft_use(&tune->draft);
    return go_on;
}

/* *right: whether the weights as they are now give every target. */
static bool check(struct mal_tune *tune, bool *right, struct mal_error *err) {
    struct mal_score *scores = mal_calloc(tune->n_texts, sizeof *scores);
    if (!scores) return mal_fail(err, MAL_NO_MEMORY, "scores");
    bool ok = mal_score_examples(tune->task->model, tune->trunk, tune->texts,
                                 tune->n_texts, tick, tune, scores, err);
    for (size_t i = 0; ok && i < tune->n_texts; i++)
        *right = *right && scores[i].correct;
    mal_scores_free(scores, tune->n_texts);
    return ok;
}

static bool train(struct mal_tune *tune, struct mal_error *err) {
    const struct mal_edit_task *task = tune->task;
    uint64_t random = (uint64_t)task->editor->hyper[SEED];
    bool right = false;
    for (int64_t i = 0; i < tune->way.n_passes && !right; i++) {
        double loss = 0;
        int64_t n_right = 0;
        shuffle(tune, &random);
        if (!mal_tune_pass(tune, &loss, &n_right, err)) return false;
        if (i == 0) task->report->loss = loss;
        right = n_right == task->report->n_tokens;
        if (right && !check(tune, &right, err)) return false;
    }
    return true;
}

static bool edit(const struct mal_edit_task *task, struct mal_delta *out,
                 struct mal_error *err) {
    const double *hyper = task->editor->hyper;
    struct mal_tune_way way = {.loss = MAL_TUNE_TOKENS,
                               .n_passes = (int64_t)hyper[EPOCHS],
                               .batch = (size_t)hyper[BATCH],
                               .lr = hyper[LR],
                               .decay = hyper[DECAY]};
    struct mal_tune tune;
    bool ok = mal_tune_begin(&tune, task, &way, err) && train(&tune, err) &&
              mal_draft_delta(&tune.draft, out, err);
    mal_tune_finish(&tune);
    return ok;
}

const struct mal_method mal_method_locft_bf = {.name = "locft-bf",
                                               .title = "LocFT-BF",
                                               .hyper = fields,
                                               .n_hyper = N_HYPER,
                                               .begin = begin,
                                               .choose = choose,
                                               .edit = edit,
                                               .read = mal_direct_read,
                                               .write = mal_direct_write};
