/* gpu_edit_train.c - steps of training an editor on the model of bench_gpu_edit. */
#include "core/train/trainer.h"

#include "gpu_edit.h"

enum { STEPS = 3, RECORDS = 244173 /* zsRE's training set */ };

static const char *const parts[MAL_N_TRAIN_PARTS] = {"rows", "shifts", "losses",
                                                     "backward", "update"};

static bool listen(void *arg) {
    struct edit_bench *e = arg;
    size_t bytes = mal_backend_bytes(e->be);
    if (bytes > e->peak_bytes) e->peak_bytes = bytes;
    return true;
}

static bool make_batch(struct edit_bench *e, size_t n, struct mal_train_data *data,
                       struct mal_train_batch *batch, struct mal_error *err) {
    size_t *chosen = mal_calloc(n, sizeof *chosen);
    for (size_t i = 0; chosen && i < n; i++)
        chosen[i] = i;
    bool ok = (chosen || mal_fail(err, MAL_NO_MEMORY, "batch")) &&
              mal_train_data_make(data, e->model, e->tok, e->facts, n, err) &&
              mal_train_batch_make(batch, data, chosen, n, 0, err);
    mal_free(chosen);
    return ok;
}

static void report_steps(struct edit_bench *e, size_t n,
                         const struct mal_train_report *first,
                         const struct mal_train_report *last,
                         const struct mal_train_need *need) {
    json_t *seconds = json_object();
    for (int i = 0; i < MAL_N_TRAIN_PARTS; i++)
        json_object_set_new(seconds, parts[i], json_real(last->parts[i]));
    double steps = ceil(RECORDS / (double)n);
    print_line(json_pack(
        "{s:s,s:I,s:I,s:f,s:f,s:o,s:f,s:f,s:f,s:I,s:f,s:I,s:I}", "case", "train", "facts",
        (json_int_t)n, "rows", (json_int_t)last->rows, "first_step", first->seconds,
        "step", last->seconds, "seconds", seconds, "gen_loss", last->gen_loss, "loc_loss",
        last->loc_loss, "grad_norm", last->grad_norm, "records", (json_int_t)RECORDS,
        "epoch_seconds", steps * last->seconds, "peak_device_bytes",
        (json_int_t)e->peak_bytes, "need_bytes", (json_int_t)need->total));
}

static bool take_steps(struct edit_bench *e, size_t n, struct mal_trainer *trainer,
                       const struct mal_train_options *options,
                       const struct mal_train_data *data,
                       const struct mal_train_batch *batch, struct mal_error *err) {
    static const struct mal_train_rates rates = {.meta = 1e-5, .lr = 1e-7};
    struct mal_train_watch watch = {.tick = listen, .arg = e};
    struct mal_train_report first = {0}, report = {0}, best = {.seconds = INFINITY};
    struct mal_train_need need = {0};
    if (!mal_trainer_need(e->model, e->editor, options, data, (int64_t)n, &need, err))
        return false;
    for (int i = 0; i < STEPS; i++) {
        if (!mal_trainer_step(trainer, batch, &rates, &watch, &report, err)) return false;
        if (i == 0)
            first = report;
        else if (report.seconds < best.seconds)
            best = report;
    }
    report_steps(e, n, &first, &best, &need);
    return true;
}

void run_train(struct edit_bench *e, size_t n,
               void (*report_error)(struct edit_bench *e, const char *name, size_t n,
                                    const struct mal_error *err)) {
    struct mal_error err = {0};
    struct mal_train_options options = {
        .loc_coef = 1, .max_norm = 1, .editor_batch = 1024};
    struct mal_trainer *trainer = NULL;
    struct mal_train_data data = {0};
    struct mal_train_batch batch = {0};
    mal_joint_destroy(e->joint); /* the memory is needed */
    e->joint = NULL;
    e->n_joint = 0;
    mal_weights_use(e->ws, 0);
    e->peak_bytes = mal_backend_bytes(e->be);
    bool ok = make_batch(e, n, &data, &batch, &err) &&
              mal_trainer_create(&trainer, e->model, e->editor, &options, &err) &&
              take_steps(e, n, trainer, &options, &data, &batch, &err);
    if (!ok) report_error(e, "train", n, &err);
    mal_trainer_destroy(trainer);
    mal_train_batch_finish(&batch);
    mal_train_data_finish(&data);
    mal_model_drop_scratch(e->model);
    mal_weights_use(e->ws, mal_weights_live(e->ws));
}
