/* passes.c - how long the passes of an edit take, forward and backward through the model
 * with keys and value gradients of its default edit modules, and nothing else of it.
 *
 *     bench_passes MODEL FACTS RUNS DEVICE [EXAMPLES]
 *
 * Prints a JSON line: sizes, what came out (loss per target token, Frobenius norms of all
 * keys and of all gradients) and the seconds of each run after a first one. EXAMPLES is
 * written: what the model read and was to answer, for another program to do the same. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/cpu/blas.h"
#include "core/editor/edit_rows.h"
#include "core/json.h"

struct bench {
    struct mal_backend *be;
    struct mal_model *model;
    struct mal_tokenizer *tok;
    struct mal_editor *editor; /* says which modules and rows, computes nothing */
    struct mal_fact *facts;
    size_t n_facts;
    struct mal_edit_report report; /* of the last run */
    struct mal_edit_rows rows;
};

static bool open_bench(struct bench *b, const char *model, const char *facts,
                       const char *device, struct mal_error *err) {
    const char **modules = NULL;
    size_t n = 0;
    bool ok = mal_backend_create(&b->be, device, err) &&
              mal_model_open(&b->model, model, b->be, err) &&
              mal_tokenizer_open(&b->tok, model, err) &&
              mal_model_default_edits(b->model, &modules, &n, err) &&
              mal_editor_create(&b->editor, &mal_method_malmen, b->model, modules, n, 1,
                                0, 1, 1, err) &&
              mal_editor_bind(b->editor, b->model, err) &&
              mal_facts_load(&b->facts, &b->n_facts, facts, err) &&
              mal_edit_rows_of_facts(&b->rows, b->model, b->tok, b->editor, b->facts,
                                     b->n_facts, NULL, &b->report, err);
    mal_free(modules);
    return ok;
}

static void close_bench(struct bench *b) {
    mal_edit_rows_finish(&b->rows);
    mal_facts_free(b->facts, b->n_facts);
    mal_editor_close(b->editor);
    mal_tokenizer_close(b->tok);
    mal_model_close(b->model);
    mal_backend_destroy(b->be);
}

/* ---- What the model reads ---- */

static json_t *ids_json(const int32_t *ids, int32_t n) {
    json_t *out = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(out, json_integer(ids[i]));
    return out;
}

static bool write_examples(const struct bench *b, const char *path,
                           struct mal_error *err) {
    json_t *modules = json_array(), *examples = json_array();
    for (size_t m = 0; m < b->editor->n_modules; m++)
        json_array_append_new(modules, json_string(b->editor->modules[m].name));
    for (size_t i = 0; i < b->rows.n_examples; i++) {
        const struct mal_example *e = &b->rows.examples[i];
        json_array_append_new(
            examples, json_pack("{s:o,s:i,s:o}", "ids", ids_json(e->ids, e->n), "from",
                                e->from, "target", ids_json(e->target, e->n_target)));
    }
    json_t *out = json_pack("{s:o,s:o}", "modules", modules, "examples", examples);
    bool ok = json_dump_file(out, path, JSON_COMPACT) == 0;
    json_decref(out);
    return ok || mal_fail(err, MAL_IO, "%s cannot be written", path);
}

/* ---- Runs ---- */

static bool frobenius(const struct bench *b, float *const *rows, bool gradients,
                      double *out, struct mal_error *err) {
    double *device = mal_backend_alloc(b->be, sizeof *device), sum = 0;
    if (!device) return mal_fail(err, MAL_NO_MEMORY, "norms");
    for (size_t m = 0; m < b->rows.n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(b->model, m);
        double part = 0;
        mal_sum_squares(
            b->be, mal_edit_rows_n(&b->rows, m) * (gradients ? lin->d_out : lin->d_in),
            rows[m], device);
        mal_backend_download(b->be, &part, device, sizeof part);
        if (!mal_backend_sync(b->be, err)) break;
        sum += part;
    }
    mal_backend_free(b->be, device);
    *out = sqrt(sum);
    return mal_backend_sync(b->be, err);
}

static bool run(struct bench *b, int runs, struct mal_error *err) {
    json_t *total = json_array(), *forward = json_array(), *backward = json_array();
    bool ok = true;
    for (int i = 0; ok && i <= runs; i++) {
        double *seconds = b->report.seconds;
        seconds[MAL_STAGE_FORWARD] = seconds[MAL_STAGE_BACKWARD] = 0;
        double begin = mal_clock_seconds();
        ok = mal_edit_rows_measure(&b->rows, err);
        double end = mal_clock_seconds();
        if (i == 0) continue;
        json_array_append_new(total, json_real(end - begin));
        json_array_append_new(forward, json_real(seconds[MAL_STAGE_FORWARD]));
        json_array_append_new(backward, json_real(seconds[MAL_STAGE_BACKWARD]));
    }
    double keys = 0, gradients = 0;
    ok = ok && frobenius(b, b->rows.u, false, &keys, err) &&
         frobenius(b, b->rows.g, true, &gradients, err);
    const struct mal_model_info *info = mal_model_info(b->model);
    json_t *out = json_pack(
        "{s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:o,s:o,s:o}", "model",
        info->architecture, "dtype", mal_dtype_name(info->dtype), "parameters",
        (json_int_t)info->n_parameters, "modules", (json_int_t)b->rows.n_modules, "facts",
        (json_int_t)b->n_facts, "input_tokens", (json_int_t)b->report.n_input_tokens,
        "rows", (json_int_t)b->report.n_tokens, "loss", b->report.loss, "keys", keys,
        "gradients", gradients, "seconds", total, "forward", forward, "backward",
        backward);
    if (ok) {
        json_dumpf(out, stdout, JSON_COMPACT);
        putchar('\n');
    }
    json_decref(out);
    return ok;
}

int main(int argc, char **argv) {
    mal_cpu_prepare(argv);
    struct mal_error err = {0};
    struct bench b = {0};
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: bench_passes MODEL FACTS RUNS DEVICE [EXAMPLES]\n");
        return 2;
    }
    bool ok = open_bench(&b, argv[1], argv[2], argv[4], &err) &&
              (argc < 6 || write_examples(&b, argv[5], &err)) &&
              run(&b, (int)strtol(argv[3], NULL, 10), &err);
    if (!ok) fprintf(stderr, "bench_passes: %s\n", err.text);
    close_bench(&b);
    return ok ? 0 : 1;
}
