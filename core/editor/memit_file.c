/* memit_file.c - MEMIT as a method, and what its editor file has: contexts and how they
 * are grouped, and each module's second moments. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/hyper.h"
#include "core/editor/memit_impl.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "core/text.h"

/* ---- In memory ---- */

struct mal_memit *mal_memit_create(size_t n_modules, struct mal_error *err) {
    struct mal_memit *memit = mal_calloc(1, sizeof *memit);
    if (memit) {
        memit->n_modules = n_modules;
        memit->d_in = mal_calloc(n_modules, sizeof *memit->d_in);
        memit->mom2 = mal_calloc(n_modules, sizeof *memit->mom2);
        if (memit->d_in && memit->mom2) return memit;
    }
    mal_fail(err, MAL_NO_MEMORY, "editor");
    mal_memit_destroy(memit);
    return NULL;
}

void mal_memit_destroy(struct mal_memit *memit) {
    if (!memit) return;
    for (size_t i = 0; memit->contexts && i < memit->n_contexts; i++)
        mal_free(memit->contexts[i]);
    for (size_t m = 0; memit->mom2 && m < memit->n_modules; m++)
        mal_free(memit->mom2[m]);
    mal_memit_factors_destroy(memit->factors, memit->n_modules);
    mal_free(memit->contexts);
    mal_free(memit->groups);
    mal_free(memit->d_in);
    mal_free(memit->mom2);
    mal_free(memit);
}

static void close_memit(struct mal_editor *editor) {
    mal_memit_destroy(editor->own);
}

/* ---- Contexts ---- */

static bool read_list(const struct mal_safetensors *file, const char *key, json_t **out,
                      struct mal_error *err) {
    const char *text;
    char where[48];
    json_error_t problem;
    snprintf(where, sizeof where, "metadata '%s'", key);
    if (!mal_editor_text(file, key, &text, err)) return false;
    *out = mal_json_parse(text, strlen(text), JSON_REJECT_DUPLICATES, &problem);
    if (!*out) return mal_json_fail(&problem, MAL_CORRUPT, where, err);
    if (json_is_array(*out) && json_array_size(*out) > 0) return true;
    json_decref(*out);
    *out = NULL;
    return mal_fail(err, MAL_CORRUPT, "%s is not a list of one entry or more", where);
}

static bool is_template(const char *text) {
    const char *hole = text ? strstr(text, "{}") : NULL;
    return hole && !strstr(hole + 2, "{}");
}

static bool take_contexts(struct mal_memit *memit, const json_t *list,
                          struct mal_error *err) {
    size_t n = json_array_size(list);
    memit->contexts = mal_calloc(n, sizeof *memit->contexts);
    if (!memit->contexts) return mal_fail(err, MAL_NO_MEMORY, "editor contexts");
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (!is_template(text) || (i == 0 && strcmp(text, "{}") != 0)) {
            return mal_fail(err, MAL_CORRUPT, "metadata 'contexts': entry %zu is not %s",
                            i, i == 0 ? "'{}'" : "a text with '{}' in it, once");
        }
        memit->contexts[i] = mal_strdup(text);
        if (!memit->contexts[i]) return mal_fail(err, MAL_NO_MEMORY, "editor contexts");
        memit->n_contexts++;
    }
    return true;
}

static bool take_groups(struct mal_memit *memit, const json_t *list,
                        struct mal_error *err) {
    size_t n = json_array_size(list), left = memit->n_contexts;
    memit->groups = mal_calloc(n, sizeof *memit->groups);
    if (!memit->groups) return mal_fail(err, MAL_NO_MEMORY, "editor contexts");
    for (size_t i = 0; i < n; i++) {
        json_int_t size = json_integer_value(json_array_get(list, i));
        bool fits = size > 0 && (size_t)size <= left && (i > 0 || size == 1);
        if (!fits || (i == n - 1 && (size_t)size != left)) {
            return mal_fail(err, MAL_CORRUPT,
                            "metadata 'context_groups' does not cut %zu contexts into "
                            "groups of which the first is '{}' alone",
                            memit->n_contexts);
        }
        memit->groups[memit->n_groups++] = (size_t)size;
        left -= (size_t)size;
    }
    return true;
}

static bool read_contexts(struct mal_memit *memit, const struct mal_safetensors *file,
                          struct mal_error *err) {
    json_t *contexts = NULL, *groups = NULL;
    bool ok = read_list(file, "contexts", &contexts, err) &&
              take_contexts(memit, contexts, err) &&
              read_list(file, "context_groups", &groups, err) &&
              take_groups(memit, groups, err);
    json_decref(contexts);
    json_decref(groups);
    return ok;
}

/* ---- Second moments ---- */

static char *moments_name(const char *module) {
    size_t size = strlen(module) + sizeof ".mom2";
    char *name = mal_malloc(size);
    if (name) (void)snprintf(name, size, "%s.mom2", module);
    return name;
}

static bool read_moments(struct mal_memit *memit, size_t m, const char *name,
                         const struct mal_safetensors *file, struct mal_error *err) {
    const struct mal_st_tensor *t = mal_safetensors_find(file, name);
    char shown[MAL_TEXT_SHOWN];
    if (!t) {
        return mal_fail(err, MAL_CORRUPT, "tensor '%s' is missing",
                        mal_text_shown(shown, name));
    }
    if (t->dtype != MAL_F32 || t->n_dims != 2 || t->shape[0] < 1 ||
        t->shape[0] != t->shape[1]) {
        return mal_fail(err, MAL_CORRUPT, "tensor '%s' is not a square matrix of F32",
                        mal_text_shown(shown, name));
    }
    float *c = memit->mom2[m] = mal_malloc(t->bytes);
    if (!c) return mal_fail(err, MAL_NO_MEMORY, "second moments (%zu bytes)", t->bytes);
    memit->d_in[m] = t->shape[0];
    if (!mal_safetensors_read_f32(file, t, c, err)) return false;
    for (int64_t i = 0; i < t->n_elements; i++) {
        if (isfinite(c[i])) continue;
        return mal_fail(err, MAL_CORRUPT, "tensor '%s': element %lld is %g",
                        mal_text_shown(shown, name), (long long)i, (double)c[i]);
    }
    return true;
}

static bool check_count(const struct mal_editor *editor,
                        const struct mal_safetensors *file, struct mal_error *err) {
    char shown[MAL_TEXT_SHOWN];
    for (size_t i = 0; i < mal_safetensors_count(file); i++) {
        const char *name = mal_safetensors_at(file, i)->name;
        size_t m = 0, n = strlen(name);
        bool named = n > 5 && strcmp(name + n - 5, ".mom2") == 0;
        for (; named && m < editor->n_modules; m++) {
            const char *module = editor->modules[m].name;
            if (strlen(module) == n - 5 && strncmp(name, module, n - 5) == 0) break;
        }
        if (named && m < editor->n_modules) continue;
        return mal_fail(err, MAL_CORRUPT,
                        "tensor '%s' has no place in an editor of method %s",
                        mal_text_shown(shown, name), editor->method->name);
    }
    return true;
}

static bool read_memit(struct mal_editor *editor, const struct mal_safetensors *file,
                       struct mal_error *err) {
    struct mal_memit *memit = mal_memit_create(editor->n_modules, err);
    editor->own = memit;
    if (!memit || !mal_direct_read_hyper(editor, file, err) ||
        !read_contexts(memit, file, err) || !check_count(editor, file, err))
        return false;
    for (size_t m = 0; m < editor->n_modules; m++) {
        char *name = moments_name(editor->modules[m].name);
        bool ok = (name || mal_fail(err, MAL_NO_MEMORY, "editor")) &&
                  read_moments(memit, m, name, file, err);
        mal_free(name);
        if (!ok) return false;
    }
    return true;
}

/* ---- Writing ---- */

static bool write_list(const char *key, json_t *list, struct mal_editor_parts *out,
                       struct mal_error *err) {
    char *text = list ? mal_json_dump(list, 0) : NULL;
    bool ok = (text || mal_fail(err, MAL_NO_MEMORY, "metadata")) &&
              mal_parts_text(out, key, text, err);
    mal_free(text);
    json_decref(list);
    return ok;
}

static bool write_contexts(const struct mal_memit *memit, struct mal_editor_parts *out,
                           struct mal_error *err) {
    mal_json_guard();
    json_t *contexts = json_array(), *groups = json_array();
    for (size_t i = 0; i < memit->n_contexts; i++)
        json_array_append_new(contexts, json_string(memit->contexts[i]));
    for (size_t i = 0; i < memit->n_groups; i++)
        json_array_append_new(groups, json_integer((json_int_t)memit->groups[i]));
    bool ok = write_list("contexts", contexts, out, err);
    return write_list("context_groups", groups, out, err) && ok;
}

static bool write_memit(const struct mal_editor *editor, struct mal_editor_parts *out,
                        struct mal_error *err) {
    const struct mal_memit *memit = editor->own;
    if (!mal_direct_write(editor, out, err) || !write_contexts(memit, out, err))
        return false;
    for (size_t m = 0; m < memit->n_modules; m++) {
        char *name = moments_name(editor->modules[m].name);
        bool ok = (name || mal_fail(err, MAL_NO_MEMORY, "editor")) &&
                  mal_parts_tensor(
                      out,
                      &(struct mal_st_entry){.name = name,
                                             .dtype = MAL_F32,
                                             .n_dims = 2,
                                             .shape = {memit->d_in[m], memit->d_in[m]},
                                             .data = memit->mom2[m]},
                      err);
        mal_free(name);
        if (!ok) return false;
    }
    return true;
}

/* ---- The model ---- */

/* The last module's block is below the last one, so that there is something above it. */
static bool check_layers(const struct mal_editor *editor, const struct mal_model *model,
                         int64_t last, struct mal_error *err) {
    const struct mal_model_info *info = mal_model_info(model);
    int64_t loss = (int64_t)editor->hyper[MAL_MEMIT_LOSS_LAYER];
    if (loss != info->n_layers - 1) {
        return mal_fail(err, MAL_CONFLICT,
                        "the editor reads its losses at layer %lld, the model's last is "
                        "%lld",
                        (long long)loss, (long long)info->n_layers - 1);
    }
    return last < info->n_layers - 1 ||
           mal_fail(err, MAL_CONFLICT,
                    "MEMIT cannot edit the last block: no other hands its value on");
}

static bool bind_memit(const struct mal_editor *editor, struct mal_model *model,
                       struct mal_error *err) {
    const struct mal_memit *memit = editor->own;
    int64_t last = -1;
    for (size_t m = 0; m < editor->n_modules; m++) {
        const struct mal_linear *lin =
            mal_model_find_linear(model, editor->modules[m].name);
        if (lin->d_in != memit->d_in[m]) {
            return mal_fail(err, MAL_CONFLICT,
                            "module '%s' has %lld inputs in the model, the editor's "
                            "second moments are of %lld",
                            lin->name, (long long)lin->d_in, (long long)memit->d_in[m]);
        }
        if (!mal_model_ends_block(model, lin)) {
            return mal_fail(err, MAL_CONFLICT,
                            "module '%s' is not the last layer of a block's MLP, or a "
                            "norm stands behind it: MEMIT does not edit it",
                            lin->name);
        }
        if (lin->block <= last) {
            return mal_fail(err, MAL_CONFLICT,
                            "module '%s' is out of order: MEMIT edits layer after layer",
                            lin->name);
        }
        last = lin->block;
    }
    return check_layers(editor, model, last, err);
}

static bool check_fact(const struct mal_editor *editor, const struct mal_model *model,
                       const struct mal_tokenizer *tok, const struct mal_fact *fact,
                       struct mal_error *err) {
    struct mal_memit_fact *read = mal_calloc(1, sizeof *read);
    if (!read) return mal_fail(err, MAL_NO_MEMORY, "a fact");
    bool ok = mal_memit_fact_init(read, editor->own, model, tok, fact, err);
    mal_memit_facts_free(read, 1);
    return ok;
}

static const struct mal_hyper fields[MAL_MEMIT_N_HYPER] = {
    [MAL_MEMIT_V_LR] = {"v_lr", DBL_MIN, 1e9, false},
    [MAL_MEMIT_V_STEPS] = {"v_steps", 1, 1e6, true},
    [MAL_MEMIT_V_WEIGHT_DECAY] = {"v_weight_decay", 0, 1e9, false},
    [MAL_MEMIT_CLAMP] = {"clamp", DBL_MIN, 1e9, false},
    [MAL_MEMIT_KL_FACTOR] = {"kl_factor", 0, 1e9, false},
    [MAL_MEMIT_MOM2_WEIGHT] = {"mom2_weight", DBL_MIN, 1e15, false},
    [MAL_MEMIT_LOSS_LAYER] = {"loss_layer", 0, 1e6, true},
};

const struct mal_method mal_method_memit = {.name = "memit",
                                            .title = "MEMIT",
                                            .hyper = fields,
                                            .n_hyper = MAL_MEMIT_N_HYPER,
                                            .begin = mal_memit_begin,
                                            .causal = true,
                                            .choose = mal_memit_choose,
                                            .edit = mal_memit_edit,
                                            .read = read_memit,
                                            .write = write_memit,
                                            .measure = mal_memit_measure,
                                            .bind = bind_memit,
                                            .check_fact = check_fact,
                                            .close = close_memit};
