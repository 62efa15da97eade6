/* locft_bf.c - LocFT-BF ("Fine-tuning Done Right in Model Editing", ICLR 2026): one
 * matrix, the MLP's last of one block, fine-tuned breadth first: epochs over all facts in
 * shuffled mini-batches, instead of one fact after the other until each is right. Every
 * target token is predicted after those before it, and so is the end of the text. */
#include <string.h>

#include "core/editor/editor_impl.h"
#include "core/editor/hyper.h"
#include "core/editor/tune.h"

enum { LR, EPOCHS, DECAY, BATCH, SEED, N_HYPER };

static const struct mal_hyper fields[N_HYPER] = {[LR] = {"lr", 0, 1e3},
                                                 [EPOCHS] = {"epochs", 1, 1e6, true},
                                                 [DECAY] = {"weight_decay", 0, 1e3},
                                                 [BATCH] = {"batch_size", 1, 1e9, true},
                                                 [SEED] = {"seed", 0, 9e15, true}};

/* The authors', of models of 7 and 8 G parameters. */
static void begin(const struct mal_model_info *info, double *hyper) {
    (void)info;
    hyper[LR] = 5e-4;
    hyper[EPOCHS] = 25;
    hyper[DECAY] = 0;
    hyper[BATCH] = 100;
    hyper[SEED] = 0;
}

/* Llama 3's block 22 of 32 and Qwen2.5's 6 of 28, in proportion. */
static bool choose(const struct mal_model *model, const char ***out, size_t *out_n,
                   struct mal_error *err) {
    bool qwen2 = strcmp(mal_model_info(model)->architecture, "qwen2") == 0;
    int64_t n = mal_model_n_blocks(model), block = qwen2 ? n * 3 / 14 : n * 11 / 16;
    return mal_model_mlp_outputs(model, block, 1, out, out_n, err);
}

static bool edit(const struct mal_edit_task *task, struct mal_delta *out,
                 struct mal_error *err) {
    const double *hyper = task->editor->hyper;
    struct mal_tune_way way = {.loss = MAL_TUNE_TEXTS,
                               .ends = true,
                               .shuffled = true,
                               .seed = (uint64_t)hyper[SEED],
                               .n_passes = (int64_t)hyper[EPOCHS],
                               .batch = (size_t)hyper[BATCH],
                               .lr = hyper[LR],
                               .decay = hyper[DECAY]};
    return mal_tune_edit(task, &way, out, err);
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
