/* memit_make.c - MEMIT's numbers as published, modules by depth, second moments and
 * contexts. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/memit_impl.h"
#include "core/model/generate.h"

/* Of one pass where nobody waits, times the device's breadth. */
enum { SLICE_ROWS = 2048 };

int64_t mal_memit_most_rows(const struct mal_progress *progress,
                            const struct mal_backend *be) {
    int64_t most = progress ? progress->slice_tokens : 0;
    return (most > 0 ? most : SLICE_ROWS) * mal_backend_breadth(be);
}

/* ---- As published ---- */

/* hparams/MEMIT of the authors' code. Layers are of models as deep as theirs. */
static const struct published {
    const char *architecture; /* NULL: any other */
    int64_t first, last, n_layers;
    double v_steps, mom2_weight;
} published[] = {{"gpt2", 13, 17, 48, 20, 20000}, {NULL, 3, 8, 28, 25, 15000}};

static const struct published *published_for(const struct mal_model_info *info) {
    const struct published *p = published;
    while (p->architecture && strcmp(p->architecture, info->architecture) != 0)
        p++;
    return p;
}

void mal_memit_begin(const struct mal_model_info *info, double *hyper) {
    const struct published *p = published_for(info);
    hyper[MAL_MEMIT_V_LR] = 0.5;
    hyper[MAL_MEMIT_V_STEPS] = p->v_steps;
    hyper[MAL_MEMIT_V_WEIGHT_DECAY] = 0.5;
    hyper[MAL_MEMIT_CLAMP] = 0.75;
    hyper[MAL_MEMIT_KL_FACTOR] = 0.0625;
    hyper[MAL_MEMIT_MOM2_WEIGHT] = p->mom2_weight;
    hyper[MAL_MEMIT_LOSS_LAYER] = (double)info->n_layers - 1;
}

static int64_t scaled(int64_t layer, const struct published *p, int64_t n_layers) {
    return (int64_t)((double)(layer * n_layers) / (double)p->n_layers + 0.5);
}

bool mal_memit_choose(const struct mal_model *model, const char ***out, size_t *out_n,
                      struct mal_error *err) {
    const struct mal_model_info *info = mal_model_info(model);
    const struct published *p = published_for(info);
    int64_t last = scaled(p->last, p, info->n_layers);
    int64_t first = scaled(p->first, p, info->n_layers);
    if (last > info->n_layers - 2) last = info->n_layers - 2;
    if (first > last) first = last;
    if (last < 0)
        return mal_fail(err, MAL_INVALID, "MEMIT needs a model of two blocks or more");
    const char **names = mal_calloc((size_t)(last - first + 1), sizeof *names);
    if (!names) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    size_t n = 0;
    for (size_t i = 0; i < mal_model_n_linears(model); i++) {
        const struct mal_linear *lin = mal_model_linear((struct mal_model *)model, i);
        bool within = lin->block >= first && lin->block <= last;
        if (within && mal_model_ends_block(model, lin)) names[n++] = lin->name;
    }
    if (n == 0) {
        mal_free(names);
        return mal_fail(err, MAL_INVALID,
                        "MEMIT is not for models of architecture \"%s\": a norm stands "
                        "behind their MLPs",
                        info->architecture);
    }
    *out = names;
    *out_n = n;
    return true;
}

/* ---- Second moments ---- */

struct measuring {
    struct mal_model *model;
    struct mal_backend *be;
    struct mal_memit *memit;
    const struct mal_preserve_texts *texts;
    const struct mal_progress *progress;
    int64_t block;  /* of the last module */
    double **grams; /* (n_modules) device (d_in, d_in), lower */
    float **u;      /* (n_modules) device, rows of a slice */
    int64_t room;   /* such rows */
};

static int64_t length_of(const struct mal_preserve_texts *texts, size_t i) {
    return texts->start[i + 1] - texts->start[i];
}

static size_t slice_length(const struct measuring *m, size_t first, int64_t *out_rows) {
    int64_t most = mal_memit_most_rows(m->progress, m->be), rows = 0;
    size_t n = 0;
    for (; first + n < m->texts->n; n++) {
        int64_t length = length_of(m->texts, first + n);
        if (n > 0 && rows + length > most) break;
        rows += length;
    }
    *out_rows = rows;
    return n;
}

static bool add_slice(struct measuring *m, size_t first, size_t n, int64_t rows,
                      struct mal_error *err) {
    const struct mal_preserve_texts *texts = m->texts;
    int32_t *start = mal_calloc(2 * n + 1 + (size_t)rows, sizeof *start);
    if (!start) return mal_fail(err, MAL_NO_MEMORY, "packed texts");
    int32_t *from = start + n + 1, *labels = from + n;
    memset(labels, 0xff, (size_t)rows * sizeof *labels);
    for (size_t i = 0; i <= n; i++)
        start[i] = texts->start[first + i] - texts->start[first];
    struct mal_batch batch = {.n_seqs = n,
                              .start = start,
                              .ids = texts->ids + texts->start[first],
                              .from = from,
                              .labels = labels};
    struct mal_inside inside = {.block = m->block, .all_rows = true, .u = m->u};
    bool ok = mal_model_inside(m->model, &batch, &inside, err);
    mal_free(start);
    for (size_t k = 0; ok && k < m->memit->n_modules; k++) {
        int64_t d_in = m->memit->d_in[k];
        mal_syrk64(m->be, d_in, rows, 1, m->u[k], d_in, true, 1, m->grams[k], d_in);
    }
    return ok && mal_backend_sync(m->be, err) &&
           mal_progress_step(m->progress, MAL_STAGE_GRAM, (int64_t)(first + n),
                             (int64_t)texts->n, err);
}

/* The whole of the mean, from its sum's lower triangle. */
static bool put_moments(const struct measuring *m, size_t k, struct mal_error *err) {
    size_t d = (size_t)m->memit->d_in[k];
    double *sum = mal_malloc(d * d * sizeof *sum);
    float *c = m->memit->mom2[k] = mal_malloc(d * d * sizeof *c);
    if (!sum || !c) {
        mal_free(sum);
        return mal_fail(err, MAL_NO_MEMORY, "second moments of %zu inputs", d);
    }
    mal_backend_download(m->be, sum, m->grams[k], d * d * sizeof *sum);
    bool ok = mal_backend_sync(m->be, err);
    double share = 1 / (double)m->texts->start[m->texts->n];
    for (size_t i = 0; ok && i < d; i++) {
        for (size_t j = 0; j <= i; j++)
            c[i * d + j] = c[j * d + i] = (float)(share * sum[i * d + j]);
    }
    mal_free(sum);
    return ok;
}

static bool open_measuring(struct measuring *m, struct mal_error *err) {
    size_t n = m->memit->n_modules;
    for (size_t first = 0; first < m->texts->n;) {
        int64_t rows;
        first += slice_length(m, first, &rows);
        if (rows > m->room) m->room = rows;
    }
    m->grams = mal_calloc(n, sizeof *m->grams);
    m->u = mal_calloc(n, sizeof *m->u);
    if (!m->grams || !m->u) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    for (size_t k = 0; k < n; k++) {
        int64_t d_in = m->memit->d_in[k];
        size_t bytes = (size_t)(d_in * d_in) * sizeof(double);
        m->grams[k] = mal_backend_alloc(m->be, bytes);
        m->u[k] = mal_backend_alloc(m->be, (size_t)(m->room * d_in) * sizeof(float));
        if (!m->grams[k] || !m->u[k]) {
            return mal_fail(err, MAL_NO_MEMORY, "second moments of %lld inputs",
                            (long long)d_in);
        }
        mal_backend_zero(m->be, m->grams[k], bytes);
    }
    return true;
}

static void close_measuring(struct measuring *m) {
    for (size_t k = 0; k < m->memit->n_modules; k++) {
        if (m->grams) mal_backend_free(m->be, m->grams[k]);
        if (m->u) mal_backend_free(m->be, m->u[k]);
    }
    mal_free(m->grams);
    mal_free(m->u);
}

static bool check_tokens(const struct measuring *m, struct mal_error *err) {
    int64_t n = m->texts->start[m->texts->n], widest = 0;
    for (size_t k = 0; k < m->memit->n_modules; k++)
        if (m->memit->d_in[k] > widest) widest = m->memit->d_in[k];
    return n >= widest ||
           mal_fail(err, MAL_INVALID,
                    "the texts have %lld tokens, too few for the second moments of %lld "
                    "inputs",
                    (long long)n, (long long)widest);
}

static bool measure_moments(struct measuring *m, struct mal_error *err) {
    bool ok = open_measuring(m, err);
    for (size_t first = 0; ok && first < m->texts->n;) {
        int64_t rows;
        size_t n = slice_length(m, first, &rows);
        ok = add_slice(m, first, n, rows, err);
        first += n;
    }
    for (size_t k = 0; ok && k < m->memit->n_modules; k++)
        ok = put_moments(m, k, err);
    close_measuring(m);
    mal_model_drop_scratch(m->model);
    return ok;
}

/* ---- Contexts ---- */

enum { N_WORDS = 5, CONTEXT_TOKENS = 10 };

static const char *const words[N_WORDS] = {"The", "Therefore", "Because", "I", "You"};

/* The sentence as a template, owned; NULL: no memory. */
static char *template_of(const char *word, const char *text) {
    size_t size = strlen(word) + strlen(text) + sizeof ". {}";
    char *out = mal_malloc(size);
    if (!out) return NULL;
    size_t n = (size_t)snprintf(out, size, "%s%s", word, text);
    for (size_t i = 0; i < n; i++) {
        if (strchr("{}\n\r\t", out[i])) out[i] = ' ';
    }
    while (n > 0 && out[n - 1] == ' ')
        n--;
    (void)snprintf(out + n, size - n, ". {}");
    return out;
}

static bool add_context(struct mal_memit *memit, char *context, struct mal_error *err) {
    if (!context) return mal_fail(err, MAL_NO_MEMORY, "contexts");
    memit->contexts[memit->n_contexts++] = context;
    return true;
}

static bool begin_sentence(const struct mal_tokenizer *tok, size_t i, uint64_t seed,
                           struct mal_ids *ids, struct mal_generation *out,
                           struct mal_error *err) {
    const char *word = words[i % N_WORDS];
    if (!mal_tokenizer_encode_before(tok, word, strlen(word), ids, err)) return false;
    *out = (struct mal_generation){.prompt = ids->ids,
                                   .n_prompt = ids->n,
                                   .max_tokens = CONTEXT_TOKENS - (int64_t)ids->n,
                                   .temperature = 1,
                                   .top_p = 0.9f,
                                   .seed = seed + i};
    return true;
}

/* All of one group, and the prompt alone of another. */
static bool make_up(struct mal_memit *memit, struct mal_model *model,
                    const struct mal_method_sample *sample, struct mal_ids *ids,
                    struct mal_generation *gens, struct mal_error *err) {
    size_t n = (size_t)sample->n_contexts;
    for (size_t i = 0; i < n; i++) {
        if (!begin_sentence(sample->tok, i, sample->seed, &ids[i], &gens[i], err))
            return false;
    }
    if (n > 0 && !mal_generate(model, sample->tok, gens, n, NULL, NULL, err))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!add_context(memit, template_of(words[i % N_WORDS], gens[i].text), err))
            return false;
    }
    memit->groups[memit->n_groups++] = 1;
    if (n > 0) memit->groups[memit->n_groups++] = n;
    return true;
}

static bool make_contexts(struct mal_memit *memit, struct mal_model *model,
                          const struct mal_method_sample *sample, struct mal_error *err) {
    size_t n = (size_t)sample->n_contexts;
    struct mal_generation *gens = mal_calloc(n + 1, sizeof *gens);
    struct mal_ids *ids = mal_calloc(n + 1, sizeof *ids);
    memit->contexts = mal_calloc(n + 1, sizeof *memit->contexts);
    memit->groups = mal_calloc(2, sizeof *memit->groups);
    bool ok = (gens && ids && memit->contexts && memit->groups) ||
              mal_fail(err, MAL_NO_MEMORY, "contexts");
    ok = ok && add_context(memit, mal_strdup("{}"), err) &&
         make_up(memit, model, sample, ids, gens, err);
    for (size_t i = 0; gens && ids && i < n; i++) {
        mal_generation_finish(&gens[i]);
        mal_ids_finish(&ids[i]);
    }
    mal_free(gens);
    mal_free(ids);
    return ok;
}

/* ---- The whole ---- */

bool mal_memit_measure(struct mal_editor *editor, struct mal_model *model,
                       const struct mal_method_sample *sample, int64_t *out_tokens,
                       struct mal_error *err) {
    const struct mal_preserve_texts *texts = sample->texts;
    struct mal_memit *memit = mal_memit_create(editor->n_modules, err);
    editor->own = memit;
    if (!memit) return false;
    struct measuring m = {.model = model,
                          .be = mal_model_backend(model),
                          .memit = memit,
                          .texts = texts,
                          .progress = sample->progress};
    for (size_t k = 0; k < editor->n_modules; k++)
        memit->d_in[k] = mal_model_find_linear(model, editor->modules[k].name)->d_in;
    if (!mal_editor_bind(editor, model, err)) return false;
    m.block = mal_model_edit(model, editor->n_modules - 1)->block;
    *out_tokens = texts->start[texts->n];
    return check_tokens(&m, err) && measure_moments(&m, err) &&
           make_contexts(memit, model, sample, err);
}
