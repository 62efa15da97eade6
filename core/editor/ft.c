/* ft.c - constrained fine-tuning of one layer, the baseline of the MEMIT authors (Meng et
 * al., ICLR 2023, `baselines/ft`): weights and biases of the modules, by Adam, each
 * element kept within a bound. The target's tokens are all predicted at the prompt's last
 * position, and are never fed in. */
#include <string.h>

#include "core/editor/editor_impl.h"
#include "core/editor/hyper.h"
#include "core/editor/tune.h"

enum { LR, STEPS, DECAY, BOUND, BATCH, N_HYPER };

static const struct mal_hyper fields[N_HYPER] = {
    [LR] = {"lr", 0, 1e3},
    [STEPS] = {"steps", 1, 1e6, true},
    [DECAY] = {"weight_decay", 0, 1e3},
    [BOUND] = {"norm_constraint", 0, 1e9}, /* 0: none */
    [BATCH] = {"batch_size", 1, 1e9, true}};

/* The authors' for GPT-J, and for GPT-2 XL, which others are taken for. */
static void begin(const struct mal_model_info *info, double *hyper) {
    bool gptj = strcmp(info->architecture, "gptj") == 0;
    hyper[LR] = 5e-4;
    hyper[STEPS] = 25;
    hyper[DECAY] = 0;
    hyper[BOUND] = gptj ? 5e-5 : 5e-4;
    hyper[BATCH] = 64;
}

/* GPT-J's block 21 of 28, in proportion; GPT-2's first. */
static bool choose(const struct mal_model *model, const char ***out, size_t *out_n,
                   struct mal_error *err) {
    bool gpt2 = strcmp(mal_model_info(model)->architecture, "gpt2") == 0;
    int64_t block = gpt2 ? 0 : mal_model_n_blocks(model) * 3 / 4;
    return mal_model_mlp_outputs(model, block, 1, out, out_n, err);
}

static bool edit(const struct mal_edit_task *task, struct mal_delta *out,
                 struct mal_error *err) {
    const double *hyper = task->editor->hyper;
    struct mal_tune_way way = {.loss = MAL_TUNE_PROMPTS,
                               .n_passes = (int64_t)hyper[STEPS],
                               .batch = (size_t)hyper[BATCH],
                               .lr = hyper[LR],
                               .decay = hyper[DECAY],
                               .bound = hyper[BOUND]};
    return mal_tune_edit(task, &way, out, err);
}

const struct mal_method mal_method_ft = {.name = "ft",
                                         .title = "FT",
                                         .hyper = fields,
                                         .n_hyper = N_HYPER,
                                         .begin = begin,
                                         .biases = true,
                                         .causal = true,
                                         .choose = choose,
                                         .edit = edit,
                                         .read = mal_direct_read,
                                         .write = mal_direct_write};
