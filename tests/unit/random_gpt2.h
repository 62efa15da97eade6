/* random_gpt2.h - a GPT-2 of random weights, written as a checkpoint and opened: small
 * enough for differences by every weight, and with gradients of order 1 everywhere. */
#ifndef MAL_TEST_RANDOM_GPT2_H
#define MAL_TEST_RANDOM_GPT2_H

#include "edit_golden.h"

#include "core/model/model_impl.h"

struct random_gpt2 {
    int64_t layers, channels, heads, inner, vocab, context;
};

enum { MAX_ENTRIES = 64 };

struct random_tensors {
    struct mal_st_entry entries[MAX_ENTRIES];
    char names[MAX_ENTRIES][64];
    size_t n;
};

/* Values in center +- size; a vector when `rows` is 0. */
static inline void random_tensor(struct random_tensors *t, const char *name, int64_t rows,
                                 int64_t columns, float center, float size) {
    assert_true(t->n < MAX_ENTRIES);
    int64_t n = (rows ? rows : 1) * columns;
    float *x = random_floats(n, size, 500 + t->n);
    for (int64_t i = 0; i < n; i++)
        x[i] += center;
    snprintf(t->names[t->n], sizeof t->names[0], "%s", name);
    struct mal_st_entry *e = &t->entries[t->n];
    *e = (struct mal_st_entry){.name = t->names[t->n],
                               .dtype = MAL_F32,
                               .n_dims = rows ? 2 : 1,
                               .shape = {rows ? rows : columns, columns},
                               .data = x};
    t->n++;
}

static inline void random_block(struct random_tensors *t, const struct random_gpt2 *g,
                                int64_t l) {
    int64_t c = g->channels, f = g->inner;
    const char *const norms[] = {"ln_1", "ln_2"};

    const struct {
        const char *name;
        int64_t d_in, d_out;
    } linears[] = {{"attn.c_attn", c, 3 * c},
                   {"attn.c_proj", c, c},
                   {"mlp.c_fc", c, f},
                   {"mlp.c_proj", f, c}};

    char name[64];
    for (size_t i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "h.%d.%s.weight", (int)l, norms[i]);
        random_tensor(t, name, 0, c, 1, 0.5f);
        snprintf(name, sizeof name, "h.%d.%s.bias", (int)l, norms[i]);
        random_tensor(t, name, 0, c, 0, 0.3f);
    }
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
        float size = 1.5f / sqrtf((float)linears[i].d_in);
        snprintf(name, sizeof name, "h.%d.%s.weight", (int)l, linears[i].name);
        random_tensor(t, name, linears[i].d_in, linears[i].d_out, 0, size);
        snprintf(name, sizeof name, "h.%d.%s.bias", (int)l, linears[i].name);
        random_tensor(t, name, 0, linears[i].d_out, 0, 0.3f);
    }
}

/* In the scratch directory; closed by the caller. */
static inline struct mal_model *random_gpt2_open(const struct random_gpt2 *g,
                                                 const char *dir) {
    struct random_tensors t = {0};
    struct mal_error err = {0};
    struct mal_model *model;
    char config[512], path[256];
    snprintf(config, sizeof config,
             "{\"model_type\":\"gpt2\",\"n_layer\":%d,\"n_embd\":%d,\"n_head\":%d,"
             "\"n_inner\":%d,\"vocab_size\":%d,\"n_positions\":%d}",
             (int)g->layers, (int)g->channels, (int)g->heads, (int)g->inner,
             (int)g->vocab, (int)g->context);
    random_tensor(&t, "wte.weight", g->vocab, g->channels, 0, 0.8f);
    random_tensor(&t, "wpe.weight", g->context, g->channels, 0, 0.5f);
    random_tensor(&t, "ln_f.weight", 0, g->channels, 1, 0.5f);
    random_tensor(&t, "ln_f.bias", 0, g->channels, 0, 0.3f);
    for (int64_t l = 0; l < g->layers; l++)
        random_block(&t, g, l);
    scratch_mkdir(dir);
    snprintf(path, sizeof path, "%s/config.json", dir);
    scratch_text(path, config);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_ok(mal_safetensors_write(scratch_path(path), t.entries, t.n, NULL, 0, &err),
              &err);
    for (size_t i = 0; i < t.n; i++)
        mal_free((void *)(uintptr_t)t.entries[i].data);
    assert_ok(mal_model_open(&model, scratch_path(dir), test_backend(), &err), &err);
    return model;
}

#endif
