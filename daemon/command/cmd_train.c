/* cmd_train.c - malmend train: trains an editor. */
#include <math.h>
#include <stdio.h>

#include "core/backend.h"
#include "daemon/base/modules.h"
#include "daemon/command/commands.h"
#include "daemon/command/options.h"
#include "daemon/command/training.h"

#define AT(field) offsetof(struct mal_training_options, field)

static const struct mal_option options[] = {
    {"model", MAL_OPTION_TEXT, AT(model), "DIR", NULL,
     "Model directory as on the Hugging Face hub.", .required = true},
    {"data", MAL_OPTION_TEXT, AT(data), "FILE", NULL,
     "Facts with other answers than the model's, their rephrases and unrelated prompts: JSON or "
     "NDJSON of the API's facts, zsRE, CounterFact or FEVER.",
     .required = true},
    {"out", MAL_OPTION_TEXT, AT(out), "FILE", NULL,
     "The editor file: the best of all validations, or without --valid the latest. Its state for "
     "--resume is kept beside it as FILE.state.",
     .required = true},
    {"valid", MAL_OPTION_TEXT, AT(valid), "FILE", NULL,
     "Held-out facts: their loss decides which editor is kept."},
    {"method", MAL_OPTION_CHOICE, AT(method), "malmen|mend", NULL,
     "What to train; malmen when nothing is said."},
    {"modules", MAL_OPTION_TEXT, AT(modules), "LIST", NULL,
     "Linear layers to edit, by commas, as named in the checkpoint; when not given, those the "
     "paper chose for the architecture (GPT-2: mlp.c_proj of the upper half).",
     .check = mal_module_names_check},
    {"n-edits", MAL_OPTION_TEXT, AT(n_edits), "N|LO:HI", "512",
     "Facts a step edits together: train with as many as will be edited at a time. With LO:HI "
     "each step draws their number, log-uniformly.",
     .check = mal_training_check_edits},
    {"rank", MAL_OPTION_INT, AT(rank), "R", NULL, "Rank of the network's blocks; 1920.",
     .min = 1, .max = 1 << 20},
    {"blocks", MAL_OPTION_INT, AT(blocks), "B", NULL, "Blocks of the network; 2.",
     .min = 0, .max = 64},
    {"meta-lr", MAL_OPTION_REAL, AT(meta_lr), "X", "1e-5",
     "Adam's rate for the network (the paper's; 3e-4 does well at rank 128).", .min = 0,
     .max = 1},
    {"lr-meta-lr", MAL_OPTION_REAL, AT(lr_meta_lr), "X", NULL,
     "Adam's rate for the editor's own step sizes; a hundredth of where they begin, or with "
     "--loss microbatch_mean that of --meta-lr, as the reference has it.",
     .min = 0, .max = 1e9},
    {"schedule", MAL_OPTION_CHOICE, AT(schedule), "constant|cosine", "constant",
     "Whether the rates stay or fall to 0 by the end of the run."},
    {"warmup", MAL_OPTION_INT, AT(warmup), "STEPS", "0",
     "Steps over which the rates rise from 0.", .min = 0, .max = 1e9},
    {"loc-coef", MAL_OPTION_REAL, AT(loc_coef), "X", "1",
     "Weight of the locality loss beside the generalization loss.", .min = 0, .max = 1e9},
    {"max-norm", MAL_OPTION_REAL, AT(max_norm), "X", "1",
     "A gradient longer than this is scaled down to it.", .min = 0, .max = 1e9},
    {"micro-batch", MAL_OPTION_INT, AT(micro_batch), "N", NULL,
     "Facts whose statistics are taken in together, and with --loss microbatch_mean the facts of "
     "one pass through the model; 32.",
     .min = 1, .max = 1 << 20},
    {"editor-batch", MAL_OPTION_INT, AT(editor_batch), "N", "1024",
     "Edit tokens that go through the network together.", .min = 1, .max = 1 << 20},
    {"loss", MAL_OPTION_CHOICE, AT(loss), "token_sum|microbatch_mean", NULL,
     "token_sum (when nothing is said): a fact gives the same gradients in any batch. "
     "microbatch_mean: as the reference, whose losses are means over micro-batches."},
    {"epochs", MAL_OPTION_INT, AT(epochs), "N", "1", "How often all facts are used.",
     .min = 1, .max = 1e9},
    {"steps", MAL_OPTION_INT, AT(steps), "N", "0", "Ends after so many steps; 0: never.",
     .min = 0, .max = 1e12},
    {"init", MAL_OPTION_TEXT, AT(init), "FILE", NULL,
     "An editor to start from; method, network, modules and loss are its own."},
    {"lr", MAL_OPTION_REAL, AT(lr), "X", NULL,
     "Step size of the editor to start from; searched on the data when neither this nor --init "
     "is given.",
     .min = 0, .max = 1e9},
    {"preserve", MAL_OPTION_TEXT, AT(preserve), "FILE", NULL,
     "Texts whose answers must not move (facts, prompts or plain text): their keys join every "
     "solve with a weight that is trained, and stay in the editor's file. malmen only."},
    {"preserve-weight", MAL_OPTION_REAL, AT(preserve_weight), "W", "0.5",
     "Weight to start from: all preserved tokens together count as W d_in edit tokens.",
     .min = 0, .max = 1e9},
    {"no-shuffle", MAL_OPTION_FLAG, AT(no_shuffle), NULL, NULL,
     "Takes facts in the order of the file, with their first rephrase and unrelated prompt: for "
     "comparison with other implementations."},
    {"seed", MAL_OPTION_INT, AT(seed), "N", "0",
     "The same seed gives the same editor, bit for bit on the same machine and number of threads.",
     .min = 0, .max = 9e15},
    {"save-every", MAL_OPTION_INT, AT(save_every), "STEPS", "100",
     "Steps between two checkpoints; a kill loses what came after the last.", .min = 1,
     .max = 1e12},
    {"valid-every", MAL_OPTION_INT, AT(valid_every), "STEPS", "100",
     "Steps between two validations.", .min = 1, .max = 1e12},
    {"patience", MAL_OPTION_INT, AT(patience), "N", "5",
     "Ends after so many validations without a better one; 0: never.", .min = 0,
     .max = 1e9},
    {"resume", MAL_OPTION_TEXT, AT(resume), "FILE", NULL,
     "Goes on from such a state, to the result of a run that was not interrupted; the other "
     "options must be as they were."},
    {"log", MAL_OPTION_TEXT, AT(log), "FILE", NULL,
     "Writes the lines of --json here as well."},
    {"max-memory", MAL_OPTION_BYTES, AT(max_memory), "BYTES", NULL,
     "Refuses to begin when a step could take more beside the model; what is free now.",
     .min = 1, .max = 9e15},
    {"device", MAL_OPTION_TEXT, AT(device), "NAME", "auto", "auto, cpu, cpu:bf16 or cuda:N.",
     .check = mal_backend_check_name},
    {"json", MAL_OPTION_FLAG, AT(json), NULL, NULL,
     "A JSON line per step and validation instead of a progress bar."},
    {0},
};

static const struct mal_option_set set = {
    "train",
    "Trains an editor: MALMEN (Tan, Zhang, Fu, ICLR 2024) or MEND.\n\nEach step edits some of the "
    "facts, then asks that their rephrases come out right and that unrelated prompts are answered "
    "as before. An interruption (SIGINT, SIGTERM) writes the state, from which --resume goes on.",
    options, false};

static void print_summary(const struct mal_training *t) {
    const struct mal_training_options *o = t->o;
    const struct mal_editor *editor = t->wb.editor;
    if (o->json) return; /* every line there is a step or a validation */
    printf("%s: %s, %zu modules, %lld steps of up to %lld facts", o->out,
           editor->method->name, editor->n_modules,
           (long long)t->position.step, (long long)editor->n_edits);
    if (!isnan(t->position.best)) {
        printf("; best validation loss %.4f at step %lld", t->position.best,
               (long long)t->position.best_step);
    }
    printf("\n");
}

int mal_cmd_train(int argc, char **argv) {
    struct mal_training_options o = {0};
    struct mal_error err = {0};
    int code;
    bool parsed = mal_options_parse(&set, argc, argv, &o, &code);
    if (parsed && o.init && o.modules) {
        mal_fail(&err, MAL_INVALID,
                 "--modules: the editor of --init says which it is for");
        code = mal_options_misused(&set, &err);
    } else if (parsed) {
        struct mal_training training;
        bool ok =
            mal_training_open(&training, &o, &err) && mal_training_go(&training, &err);
        if (ok) print_summary(&training);
        code = ok ? 0 : mal_report_error(&err, o.json);
        mal_training_close(&training);
    }
    mal_options_finish(&set, &o);
    return code;
}
