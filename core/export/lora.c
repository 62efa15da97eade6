/* lora.c - makes the adapter and writes it. */
#include "core/export/lora.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/export/export_impl.h"
#include "core/export/low_rank.h"
#include "core/export/tar.h"
#include "core/file.h"
#include "core/json.h"
#include "core/new_dir.h"
#include "core/new_file.h"

static const char CONFIG_NAME[] = "adapter_config.json",
                  MODEL_NAME[] = "adapter_model.safetensors";

struct mal_lora_part {
    const struct mal_export_module *module;
    char name[256]; /* in transformers' model */
    struct mal_low_rank low;
};

/* ---- Making ---- */

/* Checkpoints may name tensors from the inside of a model, or as an older transformers
 * did; adapters name modules from the outside of the one with a head. */
static void name_part(struct mal_lora_part *part) {
    static const struct {
        const char *stored, *named;
    } prefixes[] = {{"h.", "transformer.h."},
                    {"layers.", "model.layers."},
                    {"language_model.model.", "model.language_model."}};

    const char *name = part->module->name, *prefix = "";
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t n = strlen(prefixes[i].stored);
        if (strncmp(name, prefixes[i].stored, n) != 0) continue;
        prefix = prefixes[i].named;
        name += n;
        break;
    }
    snprintf(part->name, sizeof part->name, "%s%s", prefix, name);
}

static bool make_part(struct mal_lora_part *part, const struct mal_export *ex, size_t m,
                      struct mal_backend *be, int64_t max_rank, struct mal_error *err) {
    const struct mal_export_module *module = &ex->modules[m];
    struct mal_export_factors factors = {0};
    float *t = mal_malloc((size_t)(module->d_in * module->d_out) * sizeof *t);
    bool ok = t || mal_fail(err, MAL_NO_MEMORY, "module '%s'", module->name);
    ok = ok && ex->shift(ex->arg, m, t, err);
    ok = ok && (!ex->factors || ex->factors(ex->arg, m, &factors, err));
    ok = ok && mal_low_rank_create(&part->low, be, module->d_in, module->d_out, t,
                                   &factors, max_rank, err);
    mal_free(factors.left);
    mal_free(factors.right);
    mal_free(t);
    part->module = module;
    name_part(part);
    return ok || mal_fail_wrap(err, "module '%s'", module->name);
}

/* An adapter without modules is none. */
static bool add_zeros(struct mal_lora *lora, struct mal_error *err) {
    struct mal_lora_part *part = &lora->parts[0];
    part->module = &lora->ex->modules[0];
    name_part(part);
    part->low.rank = 1;
    part->low.left = mal_calloc((size_t)part->module->d_in, sizeof(float));
    part->low.right = mal_calloc((size_t)part->module->d_out, sizeof(float));
    lora->rank = 1;
    lora->n_parts = 1;
    return (part->low.left && part->low.right) || mal_fail(err, MAL_NO_MEMORY, "adapter");
}

/* Adapters of this form have factors of matrices. */
static bool check_bias(const struct mal_export *ex, size_t m, struct mal_error *err) {
    const struct mal_export_module *module = &ex->modules[m];
    float *shift = mal_malloc((size_t)module->d_out * sizeof *shift);
    bool ok = shift || mal_fail(err, MAL_NO_MEMORY, "module '%s'", module->name);
    ok = ok && ex->shift(ex->arg, m, shift, err);
    for (int64_t i = 0; ok && i < module->d_out; i++) {
        ok = shift[i] == 0 ||
             mal_fail(err, MAL_CONFLICT,
                      "a LoRA adapter holds no biases, and '%s' is changed: the "
                      "difference is to be had as safetensors, the weights as tensors or "
                      "as a whole model",
                      module->name);
    }
    mal_free(shift);
    return ok;
}

static bool make_parts(struct mal_lora *lora, struct mal_backend *be, int64_t max_rank,
                       struct mal_error *err) {
    const struct mal_export *ex = lora->ex;
    for (size_t m = 0; m < ex->n_modules; m++) {
        struct mal_lora_part *part = &lora->parts[lora->n_parts];
        if (ex->modules[m].bias) {
            if (!check_bias(ex, m, err)) return false;
            mal_export_tick(ex, m + 1);
            continue;
        }
        if (!make_part(part, ex, m, be, max_rank, err)) return false;
        mal_export_tick(ex, m + 1);
        if (part->low.rank == 0) continue;
        double error = part->low.error / part->low.norm;
        if (part->low.rank > lora->rank) lora->rank = part->low.rank;
        if (error > lora->error) lora->error = error;
        lora->n_parts++;
    }
    lora->exact = lora->error <= MAL_LOW_RANK_EXACT;
    return lora->n_parts > 0 || add_zeros(lora, err);
}

bool mal_lora_create(struct mal_lora *out, const struct mal_export *ex, int64_t max_rank,
                     struct mal_error *err) {
    struct mal_lora lora = {.ex = ex};
    struct mal_backend *be = NULL;
    lora.parts = mal_calloc(ex->n_modules, sizeof *lora.parts);
    bool ok = lora.parts || mal_fail(err, MAL_NO_MEMORY, "adapter");
    ok =
        ok && mal_backend_create(&be, "cpu", err) && make_parts(&lora, be, max_rank, err);
    mal_backend_destroy(be);
    if (!ok) {
        mal_lora_finish(&lora);
        return false;
    }
    *out = lora;
    return true;
}

void mal_lora_finish(struct mal_lora *lora) {
    for (size_t i = 0; lora->parts && i < lora->n_parts; i++)
        mal_low_rank_finish(&lora->parts[i].low);
    mal_free(lora->parts);
    *lora = (struct mal_lora){0};
}

/* ---- adapter_config.json ---- */

/* A classifier's head would be trained along with an adapter of its kind: it has none. */
static const char *task_type(enum mal_model_kind kind) {
    switch (kind) {
    case MAL_MODEL_CAUSAL: return "CAUSAL_LM";
    case MAL_MODEL_SEQ2SEQ: return "SEQ_2_SEQ_LM";
    default: return NULL;
    }
}

static bool write_config(const struct mal_lora *lora, struct mal_new_file *file,
                         struct mal_error *err) {
    json_t *names = json_array();
    for (size_t i = 0; i < lora->n_parts; i++)
        json_array_append_new(names, json_string(lora->parts[i].name));
    json_t *config = json_pack(
        "{s:s,s:s?,s:s,s:I,s:I,s:f,s:s,s:b,s:o,s:b,s:b,s:b,s:{},s:{}}", "peft_type",
        "LORA", "task_type", task_type(lora->ex->kind), "base_model_name_or_path",
        lora->ex->model_name, "r", (json_int_t)lora->rank, "lora_alpha",
        (json_int_t)lora->rank, "lora_dropout", 0.0, "bias", "none", "fan_in_fan_out",
        !lora->parts[0].module->transposed, "target_modules", names, "inference_mode", 1,
        "use_rslora", 0, "use_dora", 0, "rank_pattern", "alpha_pattern");
    char *text = mal_json_dump(config, JSON_INDENT(2));
    bool ok = text || mal_fail(err, MAL_NO_MEMORY, "adapter");
    ok = ok && mal_new_file_write(file, text, strlen(text), err) &&
         mal_new_file_write(file, "\n", 1, err);
    mal_free(text);
    json_decref(config);
    return ok;
}

/* ---- adapter_model.safetensors ---- */

enum { TENSOR_NAME = 320 };

struct tensors {
    const struct mal_lora *lora;
    struct mal_st_entry *entries; /* A and B of each part */
    char (*names)[TENSOR_NAME];
};

static void set_entries(struct tensors *t) {
    int64_t rank = t->lora->rank;
    for (size_t i = 0; i < t->lora->n_parts; i++) {
        const struct mal_lora_part *part = &t->lora->parts[i];
        for (size_t k = 0; k < 2; k++) {
            struct mal_st_entry *entry = &t->entries[2 * i + k];
            snprintf(t->names[2 * i + k], TENSOR_NAME,
                     "base_model.model.%s.lora_%c.weight", part->name, k ? 'B' : 'A');
            *entry = (struct mal_st_entry){
                .name = t->names[2 * i + k], .dtype = MAL_F32, .n_dims = 2};
            entry->shape[0] = k ? part->module->d_out : rank;
            entry->shape[1] = k ? rank : part->module->d_in;
        }
    }
}

static bool put(void *arg, size_t entry, struct mal_new_file *file,
                struct mal_error *err) {
    const struct tensors *t = arg;
    const struct mal_lora_part *part = &t->lora->parts[entry / 2];
    const struct mal_low_rank *low = &part->low;
    bool is_b = entry % 2;
    int64_t rank = t->lora->rank, d_in = part->module->d_in, d_out = part->module->d_out;
    size_t n = (size_t)(rank * (is_b ? d_out : d_in));
    float *data = mal_calloc(n, sizeof *data);
    if (!data) return mal_fail(err, MAL_NO_MEMORY, "module '%s'", part->module->name);
    if (!is_b) memcpy(data, low->left, (size_t)(low->rank * d_in) * sizeof *data);
    for (int64_t k = 0; is_b && k < low->rank; k++) {
        for (int64_t j = 0; j < d_out; j++)
            data[j * rank + k] = low->right[k * d_out + j];
    }
    bool ok = mal_new_file_write(file, data, n * sizeof *data, err);
    mal_free(data);
    return ok;
}

static bool write_model(const struct mal_lora *lora, struct mal_new_file *file,
                        struct mal_error *err) {
    char error[32];
    struct mal_export_text text;
    struct mal_st_meta meta[MAL_EXPORT_META];
    struct tensors t = {.lora = lora};
    size_t n = 2 * lora->n_parts, n_meta = mal_export_about(lora->ex, "pt", &text, meta);
    snprintf(error, sizeof error, "%.3g", lora->error);
    meta[n_meta++] = (struct mal_st_meta){"relative_error", error};
    t.entries = mal_calloc(n, sizeof *t.entries);
    t.names = mal_calloc(n, sizeof *t.names);
    bool ok = (t.entries && t.names) || mal_fail(err, MAL_NO_MEMORY, "adapter");
    if (ok) {
        set_entries(&t);
        struct mal_st_stream stream = {.entries = t.entries,
                                       .n_entries = n,
                                       .metadata = meta,
                                       .n_metadata = n_meta,
                                       .put = put,
                                       .arg = &t};
        ok = mal_safetensors_stream(file, &stream, err);
    }
    mal_free(t.names);
    mal_free(t.entries);
    return ok;
}

/* ---- Both ---- */

static bool write_in(const struct mal_lora *lora, const char *dir, const char *name,
                     bool (*write)(const struct mal_lora *lora, struct mal_new_file *file,
                                   struct mal_error *err),
                     struct mal_error *err) {
    struct mal_new_file file = {0};
    char *path = mal_file_join(dir, name);
    bool ok = (path || mal_fail(err, MAL_NO_MEMORY, "adapter")) &&
              mal_new_file_open(&file, path, err) && write(lora, &file, err) &&
              mal_new_file_commit(&file, err);
    mal_new_file_abandon(&file);
    mal_free(path);
    return ok;
}

bool mal_lora_write_dir(const struct mal_lora *lora, const char *dir,
                        struct mal_error *err) {
    struct mal_new_dir new;
    if (!mal_new_dir_open(&new, dir, err)) return false;
    bool ok = write_in(lora, new.partial, CONFIG_NAME, write_config, err) &&
              write_in(lora, new.partial, MODEL_NAME, write_model, err) &&
              mal_new_dir_commit(&new, err);
    mal_new_dir_abandon(&new);
    return ok;
}

bool mal_lora_write_tar(const struct mal_lora *lora, struct mal_new_file *file,
                        struct mal_error *err) {
    struct mal_tar tar = {.file = file};
    return mal_tar_begin(&tar, CONFIG_NAME, err) && write_config(lora, file, err) &&
           mal_tar_end(&tar, err) && mal_tar_begin(&tar, MODEL_NAME, err) &&
           write_model(lora, file, err) && mal_tar_end(&tar, err) &&
           mal_tar_close(&tar, err);
}
