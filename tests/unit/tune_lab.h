/* tune_lab.h - what the tests of fine-tuning share: golden cases to tune on, and batches
 * that are watched, read from, cut off. */
#ifndef MAL_TEST_TUNE_LAB_H
#define MAL_TEST_TUNE_LAB_H

#include "joint_lab.h"

#include "core/editor/edit.h"
#include "core/editor/hyper.h"
#include "core/weights_state.h"

static const char *const cases[] = {"gpt2-ft", "gptj-ft", "gpt2-locft-bf"};

enum { N_CASES = sizeof cases / sizeof *cases };

static struct mal_weights_state *ws;

/* ---- Running a batch ---- */

struct watch {
    int64_t ticks, cancel_at; /* 0: never */
    bool reads;
    const struct mal_resume *resume;
    double loss;      /* out: of the first pass */
    int64_t n_tokens; /* out: targets */
};

/* What is in use is what is published. */
static inline void check_published(void) {
    for (size_t i = 0; i < mal_model_n_edited(lab.model); i++) {
        const struct mal_linear *lin = mal_model_edit(lab.model, i);
        assert_ptr_equal(lin->w, lin->w0);
        if (lin->bias_of) assert_ptr_equal(lin->bias_of->bias, lin->w0);
    }
}

static inline bool tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct watch *watch = arg;
    assert_true(done < total);
    if (watch->reads) {
        mal_weights_lend(ws, 0);
        check_published();
        mal_weights_give_back(ws);
    }
    return ++watch->ticks != watch->cancel_at;
}

static inline bool run_tune(struct watch *watch, int64_t slice, struct mal_delta *out,
                            struct mal_error *err) {
    struct mal_progress progress = {.tick = tick, .arg = watch, .slice_tokens = slice};
    struct mal_edit_report report;
    struct mal_edit_task task = {.model = lab.model,
                                 .tok = lab.tok,
                                 .editor = lab.editor,
                                 .facts = lab.facts,
                                 .n_facts = lab.n_facts,
                                 .progress = &progress,
                                 .resume = watch->resume,
                                 .report = &report};
    bool ok = mal_edit_run(&task, out, err);
    check_published();
    watch->loss = report.loss;
    watch->n_tokens = report.n_tokens;
    assert_true(!ok || (report.n_tokens > 0 && isfinite(report.loss)));
    return ok;
}

static inline struct mal_hash hash_of(struct mal_delta *delta) {
    struct mal_error err = {0};
    struct mal_hash hash;
    assert_ok(mal_delta_hash(delta, &hash, &err), &err);
    mal_delta_finish(delta);
    return hash;
}

static inline void assert_same(struct mal_hash a, struct mal_hash b) {
    assert_memory_equal(a.bytes, b.bytes, sizeof a.bytes);
}

static inline void open_case(size_t c) {
    struct mal_error err = {0};
    open_lab(cases[c]);
    assert_ok(mal_weights_create(&ws, lab.model, 1, &err), &err);
}

static inline void close_case(void) {
    mal_weights_destroy(ws);
    close_lab();
}

static inline void set_hyper(const char *name, double value) {
    for (size_t i = 0; i < lab.editor->method->n_hyper; i++) {
        if (strcmp(lab.editor->method->hyper[i].name, name) == 0)
            lab.editor->hyper[i] = value;
    }
}

#endif
