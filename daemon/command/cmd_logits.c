/* cmd_logits.c - malmend logits: logits of given token ids, for checking against other
 * implementations. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/backend.h"
#include "daemon/base/report.h"
#include "daemon/command/commands.h"
#include "daemon/command/options.h"
#include "daemon/command/token_ids.h"
#include "daemon/command/workbench.h"

struct values {
    char *model, *delta, *device, *tokens, *out;
    bool hidden, json;
};

static const struct mal_option options[] = {
    {"model", MAL_OPTION_TEXT, offsetof(struct values, model), "DIR", NULL,
     "Model directory as on the Hugging Face hub.", .required = true},
    {"delta", MAL_OPTION_TEXT, offsetof(struct values, delta), "FILE", NULL,
     "Weight difference to apply first, as written by 'malmend edit --out'."},
    {"tokens", MAL_OPTION_TEXT, offsetof(struct values, tokens), "FILE", NULL,
     "A sequence of token ids a line, separated by blanks; T5: the encoder's, '|', the "
     "decoder's.",
     .required = true},
    {"out", MAL_OPTION_TEXT, offsetof(struct values, out), "FILE", NULL,
     "Safetensors file for logits.0, logits.1, ... (positions, vocabulary), fp32; of a "
     "classifier (1).",
     .required = true},
    {"hidden", MAL_OPTION_FLAG, offsetof(struct values, hidden), NULL, NULL,
     "Write the last hidden states instead: hidden.0, ... (positions, channels). Not for "
     "T5."},
    {"device", MAL_OPTION_TEXT, offsetof(struct values, device), "NAME", "auto",
     "auto, cpu, cpu:bf16 or cuda:N.", .check = mal_backend_check_name},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "Machine-readable errors."},
    {0},
};

static const struct mal_option_set set = {
    "logits", "Writes the logits of every position of given token sequences.", options,
    false};

struct sequence {
    struct mal_ids source, ids; /* source: what an encoder-decoder's encoder reads */
    struct mal_st_entry entry;
    float *values; /* owned */
    char name[32];
};

struct sequences {
    struct sequence *items;
    size_t n;
};

static void free_sequences(struct sequences *all) {
    for (size_t i = 0; i < all->n; i++) {
        mal_ids_finish(&all->items[i].source);
        mal_ids_finish(&all->items[i].ids);
        mal_free(all->items[i].values);
    }
    mal_free(all->items);
}

static bool add_sequence(struct sequences *all, char *line, size_t bytes,
                         struct mal_error *err) {
    struct sequence *items = mal_realloc(all->items, (all->n + 1) * sizeof *items);
    if (!items) return mal_fail(err, MAL_NO_MEMORY, "token sequences");
    all->items = items;
    struct sequence *s = &items[all->n++];
    *s = (struct sequence){0};
    char *bar = memchr(line, '|', bytes), *end = line + bytes;
    if (!bar) return mal_token_ids_parse(&s->ids, line, bytes, err);
    *bar = 0;
    return mal_token_ids_parse(&s->source, line, (size_t)(bar - line), err) &&
           mal_token_ids_parse(&s->ids, bar + 1, (size_t)(end - bar - 1), err);
}

static bool read_sequences(const char *path, struct sequences *all,
                           struct mal_error *err) {
    FILE *file = fopen(path, "r");
    if (!file) return mal_fail(err, MAL_IO, "%s: %s", path, strerror(errno));
    char *line = NULL;
    size_t capacity = 0, number = 0;
    bool ok = true;
    for (ssize_t n; ok && (n = getline(&line, &capacity, file)) >= 0;) {
        number++;
        if (line[strspn(line, " \t\r\n")] == 0 && strlen(line) == (size_t)n) continue;
        ok = add_sequence(all, line, (size_t)n, err) ||
             mal_fail_wrap(err, "%s:%zu", path, number);
    }
    if (ok && ferror(file)) ok = mal_fail(err, MAL_IO, "%s: %s", path, strerror(errno));
    if (ok && all->n == 0) ok = mal_fail(err, MAL_INVALID, "%s: no token ids", path);
    free(line);
    fclose(file);
    return ok;
}

/* Room for a tensor of `rows` x `columns`, columns 0: of one dimension. */
static bool take_values(struct sequence *s, const char *what, size_t i, size_t rows,
                        size_t columns, struct mal_error *err) {
    snprintf(s->name, sizeof s->name, "%s.%zu", what, i);
    s->values = mal_malloc(rows * (columns ? columns : 1) * sizeof *s->values);
    s->entry = (struct mal_st_entry){.name = s->name,
                                     .dtype = MAL_F32,
                                     .n_dims = columns ? 2 : 1,
                                     .shape = {(int64_t)rows, (int64_t)columns},
                                     .data = s->values};
    return s->values || mal_fail(err, MAL_NO_MEMORY, "%s", what);
}

static bool hidden_of(struct mal_model *model, struct sequence *s, size_t i,
                      struct mal_error *err) {
    size_t c = (size_t)mal_model_info(model)->n_channels;
    return take_values(s, "hidden", i, s->ids.n, c, err) &&
           mal_model_hidden(model, s->ids.ids, s->ids.n, s->values, err);
}

static bool logits_of(struct mal_model *model, struct sequence *s, size_t i,
                      struct mal_error *err) {
    const struct mal_model_info *info = mal_model_info(model);
    if ((info->kind == MAL_MODEL_SEQ2SEQ) != (s->source.n > 0)) {
        return mal_fail(err, MAL_INVALID,
                        s->source.n
                            ? "the model has no encoder, but there is a '|'"
                            : "no '|' between the encoder's ids and the decoder's");
    }
    if (info->kind == MAL_MODEL_CLASSIFIER) {
        float logits[2];
        if (!take_values(s, "logits", i, 1, 0, err) ||
            !mal_model_logits(model, NULL, 0, s->ids.ids, s->ids.n, logits, err)) {
            return false;
        }
        s->values[0] = logits[1] - logits[0];
        return true;
    }
    return take_values(s, "logits", i, s->ids.n, (size_t)info->n_outputs, err) &&
           mal_model_logits(model, s->source.ids, s->source.n, s->ids.ids, s->ids.n,
                            s->values, err);
}

static bool compute(struct mal_model *model, const char *path, bool hidden,
                    struct sequences *all, struct mal_error *err) {
    static const char only[] = "sequence 0: "; /* what the model calls each */
    for (size_t i = 0; i < all->n; i++) {
        struct mal_error own = {0};
        bool ok = hidden ? hidden_of(model, &all->items[i], i, &own)
                         : logits_of(model, &all->items[i], i, &own);
        if (ok) continue;
        bool named = strncmp(own.text, only, strlen(only)) == 0;
        return mal_fail(err, own.status, "%s: sequence %zu: %s", path, i,
                        own.text + (named ? strlen(only) : 0));
    }
    return true;
}

static bool write_values(const char *path, const struct sequences *all,
                         struct mal_error *err) {
    struct mal_st_entry *entries = mal_calloc(all->n, sizeof *entries);
    if (!entries) return mal_fail(err, MAL_NO_MEMORY, "logits");
    for (size_t i = 0; i < all->n; i++)
        entries[i] = all->items[i].entry;
    bool ok = mal_safetensors_write(path, entries, all->n, NULL, 0, err);
    mal_free(entries);
    return ok;
}

static bool run(const struct values *v, struct mal_error *err) {
    struct mal_workbench wb = {0};
    struct sequences all = {0};
    bool ok = read_sequences(v->tokens, &all, err) &&
              mal_workbench_check_out(v->out, err) &&
              mal_workbench_open(&wb, v->model, v->device, NULL, v->delta, err) &&
              compute(wb.model, v->tokens, v->hidden, &all, err) &&
              write_values(v->out, &all, err);
    free_sequences(&all);
    mal_workbench_close(&wb);
    return ok;
}

int mal_cmd_logits(int argc, char **argv) {
    struct values v = {0};
    struct mal_error err = {0};
    int code;
    if (mal_options_parse(&set, argc, argv, &v, &code)) {
        code = run(&v, &err) ? 0 : mal_report_error(&err, v.json);
    }
    mal_options_finish(&set, &v);
    return code;
}
