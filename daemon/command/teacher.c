/* teacher.c - batches of facts, each solved by itself or with all before it. */
#include "daemon/command/teacher.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/edit.h"

/* Texts of one batch, and their values. */
struct lesson {
    struct lesson *next;
    struct mal_example *texts; /* (n), owned */
    float **values;            /* (n), each owned */
    size_t n;
};

struct mal_teacher {
    struct mal_workbench *wb;
    struct mal_teacher_options o;
    struct mal_normalizer *norms; /* running statistics; NULL: there are none */
    struct mal_joint *joint;
    struct lesson *lessons, **last; /* with `joint` and repair */
    size_t n_texts;
    bool warned;
};

/* ---- Their life ---- */

static void free_lesson(struct lesson *lesson) {
    mal_examples_free(lesson->texts, lesson->n);
    for (size_t i = 0; lesson->values && i < lesson->n; i++)
        mal_free(lesson->values[i]);
    mal_free(lesson->values);
    mal_free(lesson);
}

static void forget(struct mal_teacher *teacher) {
    while (teacher->lessons) {
        struct lesson *next = teacher->lessons->next;
        free_lesson(teacher->lessons);
        teacher->lessons = next;
    }
    teacher->last = &teacher->lessons;
    teacher->n_texts = 0;
    mal_joint_destroy(teacher->joint);
    teacher->joint = NULL;
    mal_norms_free(teacher->norms, teacher->wb->editor->n_shapes);
    teacher->norms = NULL;
}

static bool begin(struct mal_teacher *teacher, struct mal_error *err) {
    const struct mal_editor *editor = teacher->wb->editor;
    forget(teacher);
    if (!editor->method->running) return true;
    teacher->norms = mal_editor_norms(editor, err);
    return teacher->norms != NULL;
}

bool mal_teacher_create(struct mal_teacher **out, struct mal_workbench *wb,
                        const struct mal_teacher_options *options,
                        struct mal_error *err) {
    if (options->joint && !wb->editor->method->solves) {
        return mal_fail(err, MAL_INVALID,
                        "%s solves no system: its facts cannot be held in one",
                        wb->editor->method->title);
    }
    struct mal_teacher *teacher = mal_calloc(1, sizeof *teacher);
    if (!teacher) return mal_fail(err, MAL_NO_MEMORY, "teacher");
    teacher->wb = wb;
    teacher->o = *options;
    if (!begin(teacher, err)) {
        mal_teacher_destroy(teacher);
        return false;
    }
    *out = teacher;
    return true;
}

void mal_teacher_destroy(struct mal_teacher *teacher) {
    if (!teacher) return;
    forget(teacher);
    mal_free(teacher);
}

/* ---- Publishing ---- */

static void publish(struct mal_teacher *teacher) {
    struct mal_weights_state *ws = teacher->wb->ws;
    mal_weights_publish(ws, mal_weights_live(ws) + 1);
    mal_weights_use(ws, mal_weights_live(ws));
}

bool mal_teacher_reset(struct mal_teacher *teacher, struct mal_error *err) {
    if (!mal_weights_prepare_return(teacher->wb->ws, 0, err)) return false;
    publish(teacher);
    return begin(teacher, err);
}

/* ---- One pass, each batch added to the weights ---- */

/* Of fewer facts the mean's gradients are larger than those the editor was trained on
 * (core/README.md section 2). */
static void warn_of_few(struct mal_teacher *teacher, size_t n) {
    int64_t least = teacher->wb->editor->micro_batch;
    if (teacher->warned || teacher->wb->editor->loss != MAL_LOSS_MICROBATCH_MEAN ||
        n >= (size_t)least)
        return;
    fprintf(stderr,
            "malmend: %zu facts in a single pass, the editor's gradients are means over "
            "%lld: its step is too long for fewer\n",
            n, (long long)least);
    teacher->warned = true;
}

static bool teach_once(struct mal_teacher *teacher, const struct mal_fact *facts,
                       size_t n, const struct mal_progress *progress,
                       struct mal_taught *out, struct mal_error *err) {
    struct mal_workbench *wb = teacher->wb;
    struct mal_delta delta = {0};
    warn_of_few(teacher, n);
    mal_weights_use(wb->ws, mal_weights_live(wb->ws));
    struct mal_edit_task task = {.model = wb->model,
                                 .tok = wb->tok,
                                 .editor = wb->editor,
                                 .norms = teacher->norms,
                                 .preserve = wb->preserve,
                                 .facts = facts,
                                 .n_facts = n,
                                 .progress = progress,
                                 .resume = teacher->o.resume,
                                 .report = &out->report};
    bool ok = mal_edit_run(&task, &delta, err);
    double begin = mal_clock_seconds();
    ok = ok && mal_weights_try(wb->ws, mal_weights_live(wb->ws), &delta, NULL, NULL, err);
    out->report.seconds[MAL_STAGE_APPLY] = mal_clock_seconds() - begin;
    mal_delta_finish(&delta);
    return ok;
}

/* ---- In a system ---- */

/* Every text taught before this lesson, and its values; both arrays owned, borrowed in
 * their elements. */
struct earlier {
    struct mal_example *texts;
    float **values;
    size_t n;
};

static bool gather(const struct mal_teacher *teacher, struct earlier *out,
                   struct mal_error *err) {
    size_t n = 0;
    out->texts = mal_calloc(teacher->n_texts + 1, sizeof *out->texts);
    out->values = mal_calloc(teacher->n_texts + 1, sizeof *out->values);
    if (!out->texts || !out->values) return mal_fail(err, MAL_NO_MEMORY, "texts");
    for (const struct lesson *l = teacher->lessons; l; l = l->next) {
        memcpy(out->texts + n, l->texts, l->n * sizeof *l->texts);
        memcpy(out->values + n, l->values, l->n * sizeof *l->values);
        n += l->n;
    }
    out->n = n;
    return true;
}

struct loader {
    const struct mal_joint *joint;
    const struct earlier *earlier;
};

static bool load(void *arg, size_t i, float *values, struct mal_error *err) {
    const struct loader *l = arg;
    (void)err;
    memcpy(values, l->earlier->values[i],
           mal_joint_n_values(l->joint, &l->earlier->texts[i]) * sizeof *values);
    return true;
}

/* Values as the change left them: of the lesson's own texts, and of those repaired. */
static bool keep_values(struct mal_teacher *teacher, const struct mal_repair *repair,
                        struct lesson *lesson, const struct earlier *earlier,
                        struct mal_error *err) {
    for (size_t i = 0; i < lesson->n; i++) {
        size_t bytes =
            mal_joint_n_values(teacher->joint, &lesson->texts[i]) * sizeof(float);
        lesson->values[i] = mal_malloc(bytes);
        if (!lesson->values[i]) return mal_fail(err, MAL_NO_MEMORY, "values");
        memcpy(lesson->values[i], mal_joint_values(repair->change, repair->numbers[i]),
               bytes);
    }
    for (size_t i = 0; i < repair->n_others; i++) {
        size_t number = repair->numbers[lesson->n + i];
        if (number == SIZE_MAX) continue;
        memcpy(earlier->values[i], mal_joint_values(repair->change, number),
               mal_joint_n_values(teacher->joint, &earlier->texts[i]) * sizeof(float));
    }
    return true;
}

static bool solve(struct mal_teacher *teacher, struct lesson *lesson,
                  const struct earlier *earlier, const struct mal_progress *progress,
                  struct mal_taught *out, struct mal_error *err) {
    struct mal_workbench *wb = teacher->wb;
    bool joint = teacher->o.joint;
    struct mal_joint_change *change = NULL;
    struct loader loader = {teacher->joint, earlier};
    struct mal_repair repair = {.ws = wb->ws,
                                .editor = wb->editor,
                                .norms = teacher->norms,
                                .origin = joint ? 0 : mal_weights_live(wb->ws),
                                .basis = mal_weights_live(wb->ws),
                                .max_rounds = teacher->o.max_rounds,
                                .tau = teacher->o.tau,
                                .progress = progress,
                                .report = &out->report,
                                .taught = lesson->texts,
                                .n_taught = lesson->n,
                                .others = earlier->texts,
                                .n_others = earlier->n,
                                .load = load,
                                .load_arg = &loader};
    mal_weights_use(wb->ws, repair.origin);
    bool ok = mal_joint_change_create(&change, teacher->joint, joint ? wb->ws : NULL,
                                      progress, &out->report, err) &&
              mal_joint_teach(change, teacher->norms, lesson->texts, lesson->n, err);
    repair.change = change;
    ok = ok && mal_repair_run(&repair, err) &&
         keep_values(teacher, &repair, lesson, earlier, err);
    out->n_rounds = repair.n_rounds;
    mal_repair_finish(&repair);
    mal_joint_change_destroy(change);
    return ok;
}

static bool open_system(struct mal_teacher *teacher, struct mal_error *err) {
    struct mal_workbench *wb = teacher->wb;
    if (!teacher->o.joint) { /* each batch in a system of its own */
        mal_joint_destroy(teacher->joint);
        teacher->joint = NULL;
    }
    if (teacher->joint) return true;
    return teacher->o.joint ? mal_joint_create(&teacher->joint, wb->model, wb->editor,
                                               wb->preserve, 0, err)
                            : mal_joint_create_alone(&teacher->joint, wb->model,
                                                     wb->editor, wb->preserve, 0, err);
}

static bool teach_in_system(struct mal_teacher *teacher, const struct mal_fact *facts,
                            size_t n, const struct mal_progress *progress,
                            struct mal_taught *out, struct mal_error *err) {
    struct mal_workbench *wb = teacher->wb;
    struct earlier earlier = {0};
    struct lesson *lesson = mal_calloc(1, sizeof *lesson);
    if (!lesson) return mal_fail(err, MAL_NO_MEMORY, "facts");
    double start = mal_clock_seconds();
    bool ok = mal_examples_of_facts(wb->model, wb->tok, facts, n, &lesson->texts,
                                    &lesson->n, err);
    out->report.seconds[MAL_STAGE_TOKENIZE] += mal_clock_seconds() - start;
    lesson->values = mal_calloc(lesson->n + 1, sizeof *lesson->values);
    if (ok && !lesson->values) ok = mal_fail(err, MAL_NO_MEMORY, "facts");
    bool look_back = teacher->o.joint && teacher->o.max_rounds > 0;
    ok = ok && open_system(teacher, err) &&
         (!look_back || gather(teacher, &earlier, err)) &&
         solve(teacher, lesson, &earlier, progress, out, err);
    mal_free(earlier.texts);
    mal_free(earlier.values);
    if (!ok || !look_back) {
        free_lesson(lesson);
        return ok;
    }
    teacher->n_texts += lesson->n;
    *teacher->last = lesson;
    teacher->last = &lesson->next;
    return true;
}

bool mal_teacher_teach(struct mal_teacher *teacher, const struct mal_fact *facts,
                       size_t n_facts, const struct mal_progress *progress,
                       struct mal_taught *out, struct mal_error *err) {
    struct mal_weights_state *ws = teacher->wb->ws;
    bool system = teacher->wb->editor->method->solves &&
                  (teacher->o.joint || teacher->o.max_rounds > 0);
    *out = (struct mal_taught){.report = {.n_facts = n_facts}};
    bool ok = system ? teach_in_system(teacher, facts, n_facts, progress, out, err)
                     : teach_once(teacher, facts, n_facts, progress, out, err);
    if (!ok || !mal_weights_seal(ws, NULL, NULL, err)) return false;
    out->report.seconds[MAL_STAGE_HASH] = mal_weights_hash_seconds(ws);
    publish(teacher);
    return true;
}
