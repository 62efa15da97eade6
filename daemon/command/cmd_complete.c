/* cmd_complete.c - malmend complete: what a model says to a prompt. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/backend.h"
#include "core/example.h"
#include "core/json.h"
#include "daemon/base/check.h"
#include "daemon/base/report.h"
#include "daemon/command/commands.h"
#include "daemon/command/options.h"
#include "daemon/command/workbench.h"

struct values {
    char *model, *delta, *device, *prompt;
    int64_t max_tokens, seed;
    double temperature, top_p;
    bool json;
};

static const struct mal_option options[] = {
    {"model", MAL_OPTION_TEXT, offsetof(struct values, model), "DIR", NULL,
     "Model directory as on the Hugging Face hub.", .required = true},
    {"delta", MAL_OPTION_TEXT, offsetof(struct values, delta), "FILE", NULL,
     "Weight difference to apply first, as written by 'malmend edit --out'."},
    {"prompt", MAL_OPTION_TEXT, offsetof(struct values, prompt), "TEXT", NULL,
     "What to continue.", .required = true, .may_be_empty = true},
    {"max-tokens", MAL_OPTION_INT, offsetof(struct values, max_tokens), "N", "16",
     "Tokens to generate at most.", .min = 1, .max = 1 << 20},
    {"temperature", MAL_OPTION_REAL, offsetof(struct values, temperature), "X", "0",
     "0 takes the most probable token each time.", .min = 0, .max = 100},
    {"top-p", MAL_OPTION_REAL, offsetof(struct values, top_p), "P", "1",
     "Draw from the most probable tokens that reach this probability together.",
     .min = 1e-6, .max = 1},
    {"seed", MAL_OPTION_INT, offsetof(struct values, seed), "N", "0",
     "Seed of the draws.", .min = 0, .max = 9e15},
    {"device", MAL_OPTION_TEXT, offsetof(struct values, device), "NAME", "auto",
     "auto, cpu, cpu:bf16 or cuda:N.", .check = mal_backend_check_name},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "Machine-readable output."},
    {0},
};

static const struct mal_option_set set = {
    "complete", "Continues a prompt on a model, greedily unless told otherwise.", options,
    false};

static void print(const struct mal_generation *gen, bool json) {
    if (!json) {
        printf("%s\n", gen->text);
        return;
    }
    json_t *out =
        json_pack("{s:s%,s:s,s:I}", "text", gen->text, gen->text_bytes, "finish_reason",
                  gen->finish == MAL_FINISH_STOP ? "stop" : "length", "tokens",
                  (json_int_t)gen->n_ids);
    json_dumpf(out, stdout, MAL_JSON_TOLD);
    putchar('\n');
    json_decref(out);
}

static bool check_prompt(const struct mal_workbench *wb, const char *text,
                         struct mal_ids *out, struct mal_error *err) {
    const struct mal_model_info *info = mal_model_info(wb->model);
    size_t most = (size_t)mal_longest_text(info);
    if (info->kind == MAL_MODEL_CAUSAL) most--; /* room for an answer */
    return mal_check_completes(info, err) &&
           mal_text_tokens(info, wb->tok, text, strlen(text), "", out, err) &&
           (out->n <= most ||
            mal_fail(err, MAL_INVALID, "the prompt has %zu tokens, the most are %zu",
                     out->n, most));
}

static int64_t most_tokens(const struct mal_workbench *wb, const struct values *v) {
    int64_t most = mal_longest_text(mal_model_info(wb->model));
    return v->max_tokens < most ? v->max_tokens : most;
}

static bool run(const struct values *v, struct mal_error *err) {
    struct mal_workbench wb = {0};
    struct mal_ids prompt = {0};
    struct mal_generation gen = {0};
    bool ok = mal_workbench_open(&wb, v->model, v->device, NULL, v->delta, err) &&
              check_prompt(&wb, v->prompt, &prompt, err);
    gen = (struct mal_generation){.prompt = prompt.ids,
                                  .n_prompt = prompt.n,
                                  .max_tokens = ok ? most_tokens(&wb, v) : 0,
                                  .temperature = (float)v->temperature,
                                  .top_p = (float)v->top_p,
                                  .seed = (uint64_t)v->seed};
    ok = ok && mal_generate(wb.model, wb.tok, &gen, 1, NULL, NULL, err);
    if (ok) print(&gen, v->json);
    mal_generation_finish(&gen);
    mal_ids_finish(&prompt);
    mal_workbench_close(&wb);
    return ok;
}

int mal_cmd_complete(int argc, char **argv) {
    struct values v = {0};
    struct mal_error err = {0};
    int code;
    if (mal_options_parse(&set, argc, argv, &v, &code)) {
        code = run(&v, &err) ? 0 : mal_report_error(&err, v.json);
    }
    mal_options_finish(&set, &v);
    return code;
}
