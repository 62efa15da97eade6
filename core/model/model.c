/* model.c - opening a checkpoint as a model, its linear layers and which of them are
 * edited. */
#include "core/model/config.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"

static const struct mal_arch *const architectures[] = {
    &mal_arch_bert,      &mal_arch_gemma, &mal_arch_gemma2,  &mal_arch_gemma3,
    &mal_arch_gpt2,      &mal_arch_gptj,  &mal_arch_llama,   &mal_arch_mistral,
    &mal_arch_ministral, &mal_arch_olmo2, &mal_arch_olmo3,   &mal_arch_phi3,
    &mal_arch_qwen2,     &mal_arch_qwen3, &mal_arch_smollm3, &mal_arch_t5};

enum { N_ARCHITECTURES = sizeof architectures / sizeof *architectures };

/* ---- Opening ---- */

bool mal_open_stack(struct mal_model *model, struct mal_stack *stack, int64_t n,
                    float scale, struct mal_error *err) {
    if ((uint64_t)n > mal_checkpoint_count(model->ckpt))
        return mal_fail(err, MAL_INVALID,
                        "%s: %lld blocks, the checkpoint has %zu tensors", model->where,
                        (long long)n, mal_checkpoint_count(model->ckpt));
    stack->blocks = mal_calloc((size_t)n, sizeof *stack->blocks);
    if (!stack->blocks) return mal_fail(err, MAL_NO_MEMORY, "model blocks");
    stack->n = n;
    for (int64_t l = 0; l < n; l++)
        stack->blocks[l].self.scale = stack->blocks[l].cross.scale = scale;
    return true;
}

/* Whether names of tensors begin so. */
static bool has_names(const struct mal_checkpoint *ckpt, const char *prefix) {
    size_t n = strlen(prefix);
    for (size_t i = 0; i < mal_checkpoint_count(ckpt); i++) {
        if (strncmp(mal_checkpoint_at(ckpt, i).tensor->name, prefix, n) == 0) return true;
    }
    return false;
}

/* Checkpoints of one model come in several forms. */
static void find_prefix(struct mal_model *model) {
    const struct mal_prefix *p = model->arch->prefixes;
    while (p->backbone && !has_names(model->ckpt, p->backbone))
        p++;
    model->prefix = p->backbone ? *p : (struct mal_prefix){"", ""};
}

static bool find_arch(struct mal_model *model, struct mal_error *err) {
    const char *type;
    if (!mal_config_open(model, &type, err)) return false;
    for (size_t i = 0; i < N_ARCHITECTURES; i++) {
        if (strcmp(type, architectures[i]->model_type) == 0)
            model->arch = architectures[i];
    }
    if (!model->arch) {
        return mal_fail(err, MAL_INVALID, "%s: model_type \"%s\" is not supported",
                        model->where, type);
    }
    model->info.architecture = model->arch->model_type;
    find_prefix(model);
    return true;
}

/* From config.json to the tensors that are to be loaded. */
static bool describe(struct mal_model *model, const char *dir, struct mal_error *err) {
    if (!mal_checkpoint_open(&model->ckpt, dir, err)) return false;
    if (!find_arch(model, err)) return false;
    model->head_scale = model->tokens_scale = 1;
    if (!model->arch->configure(model, err)) return false;
    if (model->info.kind != MAL_MODEL_CLASSIFIER)
        model->info.n_outputs = model->info.n_vocab;
    if (!mal_config_eos(model, err)) return false;
    model->decoder.first = model->encoder.n;
    model->lowest_edit_block = model->info.n_layers;
    model->tape = mal_calloc((size_t)model->info.n_layers, sizeof *model->tape);
    if (!model->tape) return mal_fail(err, MAL_NO_MEMORY, "model");
    return model->arch->bind(model, err);
}

static void forget(struct mal_linear *lin) {
    lin->edit = -1;
    mal_linear_use(lin, lin->w0);
}

static void forget_edits(struct mal_model *model) {
    for (size_t i = 0; i < model->n_linears; i++) {
        forget(model->linears[i]);
        if (model->linears[i]->own_bias) forget(model->linears[i]->own_bias);
    }
    mal_free(model->edits);
    model->edits = NULL;
    model->n_edits = model->n_edited = 0;
    model->lowest_edit_block = model->info.n_layers;
}

bool mal_model_open(struct mal_model **out, const char *dir, struct mal_backend *be,
                    struct mal_error *err) {
    struct mal_model *model = mal_calloc(1, sizeof *model);
    if (!model) return mal_fail(err, MAL_NO_MEMORY, "model");
    model->be = be;
    model->scratch.be = be;
    model->head_bytes = (64 << 20) * mal_backend_breadth(be);
    if (!describe(model, dir, err)) goto fail;
    if (!mal_load_weights(model, err)) goto fail;
    if (model->arch->derive && !model->arch->derive(model, err)) goto fail;
    forget_edits(model);
    *out = model;
    return true;

fail:
    mal_model_close(model);
    return false;
}

bool mal_model_look(struct mal_model **out, const char *dir, struct mal_error *err) {
    struct mal_model *model = mal_calloc(1, sizeof *model);
    if (!model) return mal_fail(err, MAL_NO_MEMORY, "model");
    if (!describe(model, dir, err)) {
        mal_model_close(model);
        return false;
    }
    mal_count_weights(model);
    *out = model;
    return true;
}

/* What a model that shares another's has not. */
static void close_own(struct mal_model *model) {
    mal_arena_finish(&model->weights);
    for (size_t i = 0; i < model->n_linears; i++) {
        struct mal_linear *lin = model->linears[i];
        if (lin->own_bias) mal_free(lin->own_bias->name);
        mal_free(lin->name);
    }
    mal_free(model->own);
    mal_free(model->bindings);
    mal_free(model->ends);
    mal_free(model->where);
    json_decref(model->config);
    mal_checkpoint_close(model->ckpt);
}

void mal_model_close(struct mal_model *model) {
    if (!model) return;
    mal_arena_finish(&model->scratch);
    if (!model->of) close_own(model);
    for (size_t i = 0; i < model->n_linears; i++)
        mal_free(model->linears[i]->own_bias); /* they live inside the blocks */
    mal_free(model->linears);
    mal_free(model->encoder.blocks);
    mal_free(model->decoder.blocks);
    mal_free(model->tape);
    mal_free(model->edits);
    mal_free(model);
}

const struct mal_model_info *mal_model_info(const struct mal_model *model) {
    return &model->info;
}

bool mal_model_ends(const struct mal_model *model, int32_t id) {
    for (size_t i = 0; i < model->n_ends; i++) {
        if (model->ends[i] == id) return true;
    }
    return false;
}

struct mal_backend *mal_model_backend(const struct mal_model *model) {
    return model->be;
}

const struct mal_checkpoint *mal_model_checkpoint(const struct mal_model *model) {
    return model->ckpt;
}

bool mal_model_fingerprint(struct mal_model *model, struct mal_hash *out,
                           struct mal_error *err) {
    if (!model->has_fingerprint) {
        if (!mal_checkpoint_fingerprint(model->ckpt, &model->fingerprint, err))
            return false;
        model->has_fingerprint = true;
    }
    *out = model->fingerprint;
    return true;
}

void mal_model_drop_scratch(struct mal_model *model) {
    mal_arena_finish(&model->scratch);
    model->scratch = (struct mal_arena){.be = model->be};
}

struct mal_arena *mal_model_scratch(struct mal_model *model) {
    return &model->scratch;
}

/* ---- Linear layers and edit modules ---- */

size_t mal_model_n_linears(const struct mal_model *model) {
    return model->n_linears;
}

struct mal_linear *mal_model_linear(struct mal_model *model, size_t i) {
    return model->linears[i];
}

/* The backbone's prefix may be there or not: checkpoints of one model come in both forms.
 */
static const char *bare_name(const struct mal_model *model, const char *name) {
    for (const struct mal_prefix *p = model->arch->prefixes; p->backbone; p++) {
        size_t n = strlen(p->backbone);
        if (strncmp(name, p->backbone, n) == 0) return name + n;
    }
    return name;
}

bool mal_model_ends_block(const struct mal_model *model, const struct mal_linear *lin) {
    const struct mal_stack *stack =
        lin->block < model->encoder.n ? &model->encoder : &model->decoder;
    return lin == &stack->blocks[lin->block - stack->first].mlp.down &&
           !mal_norms_output(stack);
}

struct mal_linear *mal_model_find_linear(struct mal_model *model, const char *name) {
    for (size_t i = 0; i < model->n_linears; i++) {
        const char *own = bare_name(model, model->linears[i]->name);
        if (strcmp(own, bare_name(model, name)) == 0) return model->linears[i];
    }
    return NULL;
}

struct mal_linear *mal_model_find_editable(struct mal_model *model, const char *name) {
    struct mal_linear *lin = mal_model_find_linear(model, name);
    for (size_t i = 0; !lin && i < model->n_linears; i++) {
        struct mal_linear *bias = model->linears[i]->own_bias;
        if (bias && !strcmp(bare_name(model, bias->name), bare_name(model, name)))
            lin = bias;
    }
    return lin;
}

/* What is read of F64 is not what the checkpoint has, and its versions could not be
 * written back. */
static bool check_type(const struct mal_linear *lin, struct mal_error *err) {
    return lin->dtype != MAL_F64 ||
           mal_fail(err, MAL_INVALID,
                    "module '%s' is F64 in the checkpoint; F32, F16 and BF16 are edited",
                    lin->name);
}

/* *out of the name; it must not be among the first n of edits. */
static bool find_edit(struct mal_model *model, const char *name,
                      struct mal_linear *const *edits, size_t n, struct mal_linear **out,
                      struct mal_error *err) {
    *out = mal_model_find_editable(model, name);
    if (!*out) {
        return mal_fail(
            err, MAL_INVALID,
            "the model has no linear layer '%s'; it has %zu, from '%s' to '%s'", name,
            model->n_linears, model->linears[0]->name,
            model->linears[model->n_linears - 1]->name);
    }
    for (size_t i = 0; i < n; i++) {
        if (edits[i] == *out)
            return mal_fail(err, MAL_INVALID, "edit module '%s' is named twice", name);
    }
    return check_type(*out, err);
}

bool mal_model_set_edits(struct mal_model *model, const char *const *names, size_t n,
                         struct mal_error *err) {
    struct mal_linear **named = mal_calloc(n, sizeof *named);
    struct mal_linear **edits = mal_calloc(n, sizeof *edits);
    bool ok = (named && edits) || mal_fail(err, MAL_NO_MEMORY, "edit modules");
    for (size_t i = 0; ok && i < n; i++)
        ok = find_edit(model, names[i], named, i, &named[i], err);
    if (!ok) {
        mal_free(named);
        mal_free(edits);
        return false;
    }
    forget_edits(model);
    model->edits = edits;
    for (int biases = 0; biases < 2; biases++) {
        for (size_t i = 0; i < n; i++) {
            struct mal_linear *lin = named[i];
            if ((lin->bias_of != NULL) != biases) continue;
            lin->edit = (int)model->n_edited;
            edits[model->n_edited++] = lin;
            if (lin->block < model->lowest_edit_block)
                model->lowest_edit_block = lin->block;
        }
        if (!biases) model->n_edits = model->n_edited;
    }
    mal_free(named);
    return true;
}

const int32_t *mal_model_trunk_start(const struct mal_model *model,
                                     const struct mal_batch *batch) {
    int64_t lowest = model->lowest_edit_block;
    if (model->n_edited == 0 || lowest == 0) return NULL;
    if (model->encoder.n == 0) return batch->start;
    return lowest < model->decoder.first ? batch->source_start : NULL;
}

size_t mal_model_n_edits(const struct mal_model *model) {
    return model->n_edits;
}

size_t mal_model_n_edited(const struct mal_model *model) {
    return model->n_edited;
}

struct mal_linear *mal_model_edit(const struct mal_model *model, size_t i) {
    return model->edits[i];
}

/* What stands after the last number: the name within the block. */
static const char *name_in_block(const char *name) {
    const char *part = name;
    for (const char *p = name; (p = strchr(p, '.')) != NULL;) {
        bool number = p > name && p[-1] >= '0' && p[-1] <= '9';
        p++;
        if (number) part = p;
    }
    return part;
}

static bool is_default(const struct mal_model *model, const struct mal_linear *lin) {
    const struct mal_default_edits *edits = &model->arch->edits;
    const struct mal_stack *stack =
        lin->block < model->encoder.n ? &model->encoder : &model->decoder;
    int64_t n = (int64_t)((double)stack->n * edits->share + 0.5);
    if (edits->most && n > edits->most) n = edits->most;
    if (n < 1) n = 1;
    if (lin->block - stack->first < stack->n - n) return false;
    for (const char *const *name = edits->names; *name; name++) {
        if (strcmp(name_in_block(lin->name), *name) == 0) return true;
    }
    return false;
}

bool mal_model_default_edits(const struct mal_model *model, const char ***out,
                             size_t *out_n, struct mal_error *err) {
    const char **names = mal_calloc(model->n_linears, sizeof *names);
    if (!names) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    size_t n = 0;
    for (size_t i = 0; i < model->n_linears; i++) {
        if (is_default(model, model->linears[i])) names[n++] = model->linears[i]->name;
    }
    *out = names;
    *out_n = n;
    return true;
}

int64_t mal_model_n_blocks(const struct mal_model *model) {
    return model->decoder.n;
}

bool mal_model_mlp_outputs(const struct mal_model *model, int64_t first, int64_t n,
                           const char ***out, size_t *out_n, struct mal_error *err) {
    assert(first >= 0 && n >= 0 && first + n <= model->decoder.n);
    const char **names = mal_calloc((size_t)n, sizeof *names);
    if (!names) return mal_fail(err, MAL_NO_MEMORY, "edit modules");
    for (int64_t i = 0; i < n; i++)
        names[i] = model->decoder.blocks[first + i].mlp.down.name;
    *out = names;
    *out_n = (size_t)n;
    return true;
}

bool mal_model_set_default_edits(struct mal_model *model, struct mal_error *err) {
    const char **names = NULL;
    size_t n = 0;
    bool ok = mal_model_default_edits(model, &names, &n, err) &&
              mal_model_set_edits(model, names, n, err);
    mal_free(names);
    return ok;
}
