/* random_model.h - models of random weights, one or more of each architecture, written as
 * checkpoints and opened: small enough for differences by every weight, with gradients of
 * order 1 everywhere, and of sizes that nothing divides. */
#ifndef MAL_TEST_RANDOM_MODEL_H
#define MAL_TEST_RANDOM_MODEL_H

#include "edit_golden.h"

#include "core/model/model_impl.h"

enum random_family {
    RANDOM_GPT2,
    RANDOM_BERT,        /* a fact checker: backbone.*, one label */
    RANDOM_BERT_LABELS, /* transformers' classifier: bert.*, through the pooler, two
                           labels */
    RANDOM_GPTJ,
    RANDOM_T5, /* v1.1 */
    RANDOM_T5_ORIGINAL,
    RANDOM_LLAMA,   /* biases everywhere */
    RANDOM_LLAMA3,  /* slowed rotations, tied */
    RANDOM_MISTRAL, /* a window smaller than the sequences */
    RANDOM_QWEN2,   /* a window in the last blocks, tied */
    RANDOM_QWEN3,   /* norms of heads */
    RANDOM_PHI3,    /* fused projections, part of each head rotated and stretched */
    RANDOM_OLMO2,   /* norms of outputs alone, and of all heads at once */
    RANDOM_SMOLLM3, /* a block that is not rotated and has a window, tied */
    RANDOM_GEMMA,   /* gains from 1, scaled embeddings, tied */
    RANDOM_GEMMA2,  /* four norms a block, a window in every other one, caps */
    RANDOM_GEMMA3,  /* four norms a block, norms of heads, two rotations */
    N_FAMILIES
};

/* Sizes that an architecture has no name for are 0. */
struct random_model {
    const char *name;
    enum random_family family;
    int64_t encoder_layers, layers, channels, heads, kv_heads, head_size, inner, vocab,
        context;
};

/* First one of each family, in their order; then such of which each stack's first block
 * is its last, one of them large enough for more than one thread. */
static const struct random_model random_models[] = {
    {"gpt2", RANDOM_GPT2, 0, 3, 8, 2, 2, 4, 12, 23, 16},
    {"bert", RANDOM_BERT, 0, 3, 12, 3, 3, 4, 18, 23, 16},
    {"bert-labels", RANDOM_BERT_LABELS, 0, 2, 10, 2, 2, 5, 21, 23, 16},
    {"gptj", RANDOM_GPTJ, 0, 3, 12, 2, 2, 6, 20, 23, 16},
    {"t5", RANDOM_T5, 2, 3, 10, 3, 3, 4, 14, 23, 0},
    {"t5-original", RANDOM_T5_ORIGINAL, 3, 2, 9, 2, 2, 5, 19, 23, 0},
    {"llama", RANDOM_LLAMA, 0, 2, 10, 4, 2, 6, 14, 23, 16},
    {"llama3", RANDOM_LLAMA3, 0, 2, 12, 4, 1, 6, 18, 23, 16},
    {"mistral", RANDOM_MISTRAL, 0, 3, 12, 4, 2, 4, 14, 23, 16},
    {"qwen2", RANDOM_QWEN2, 0, 3, 12, 6, 3, 2, 18, 23, 16},
    {"qwen3", RANDOM_QWEN3, 0, 3, 10, 4, 2, 6, 14, 23, 16},
    {"phi3", RANDOM_PHI3, 0, 3, 12, 3, 1, 4, 14, 23, 16},
    {"olmo2", RANDOM_OLMO2, 0, 3, 10, 4, 2, 6, 14, 23, 16},
    {"smollm3", RANDOM_SMOLLM3, 0, 3, 12, 4, 2, 4, 14, 23, 16},
    {"gemma", RANDOM_GEMMA, 0, 2, 10, 3, 1, 6, 14, 23, 16},
    {"gemma2", RANDOM_GEMMA2, 0, 3, 10, 4, 2, 6, 14, 23, 16},
    {"gemma3", RANDOM_GEMMA3, 0, 3, 10, 4, 2, 6, 14, 23, 16},
    {"large", RANDOM_GPT2, 0, 1, 66, 3, 3, 22, 101, 501, 16},
    {"bert-block", RANDOM_BERT_LABELS, 0, 1, 6, 1, 1, 6, 7, 23, 16},
    {"gptj-block", RANDOM_GPTJ, 0, 1, 8, 2, 2, 4, 9, 23, 16},
    {"t5-blocks", RANDOM_T5, 1, 1, 7, 2, 2, 3, 5, 23, 0},
    {"llama-block", RANDOM_LLAMA, 0, 1, 6, 2, 1, 4, 9, 23, 16},
    {"qwen3-block", RANDOM_QWEN3, 0, 1, 7, 3, 1, 4, 9, 23, 16},
    {"phi3-block", RANDOM_PHI3, 0, 1, 8, 2, 2, 4, 9, 23, 16},
    {"gemma2-block", RANDOM_GEMMA2, 0, 1, 7, 3, 1, 4, 9, 23, 16},
    {"gemma3-block", RANDOM_GEMMA3, 0, 1, 7, 3, 3, 6, 9, 23, 16}};

enum { N_RANDOM_MODELS = sizeof random_models / sizeof *random_models };

/* ---- Tensors ---- */

enum { MAX_ENTRIES = 128, RANDOM_NAME = 192 };

struct random_tensors {
    struct mal_st_entry entries[MAX_ENTRIES];
    char names[MAX_ENTRIES][RANDOM_NAME];
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

static inline void random_tensors_free(struct random_tensors *t) {
    for (size_t i = 0; i < t->n; i++)
        mal_free((void *)(uintptr_t)t->entries[i].data);
    t->n = 0;
}

/* The entry of that name; fails where there is none. */
static inline struct mal_st_entry *random_entry(struct random_tensors *t,
                                                const char *name) {
    for (size_t i = 0; i < t->n; i++) {
        if (strcmp(t->names[i], name) == 0) return &t->entries[i];
    }
    fail_msg("no tensor '%s'", name);
    return NULL;
}

/* RMS, its gain stored as what it is more than `base`. */
static inline void random_gain(struct random_tensors *t, const char *where,
                               const char *name, int64_t c, float base) {
    char full[RANDOM_NAME];
    snprintf(full, sizeof full, "%s%s.weight", where, name);
    random_tensor(t, full, 0, c, 1 - base, 0.5f);
}

static inline void random_norm(struct random_tensors *t, const char *where,
                               const char *name, int64_t c, bool bias) {
    char full[RANDOM_NAME];
    random_gain(t, where, name, c, 0);
    snprintf(full, sizeof full, "%s%s.bias", where, name);
    if (bias) random_tensor(t, full, 0, c, 0, 0.3f);
}

struct random_linear {
    const char *name;
    int64_t d_in, d_out;
    bool bias;
    float size; /* 0: 1.5 */
};

/* Stored (d_out, d_in), or as GPT-2 does `straight`. */
static inline void random_linears(struct random_tensors *t, const char *where,
                                  const struct random_linear *linears, size_t n,
                                  bool straight) {
    char full[RANDOM_NAME];
    for (size_t i = 0; i < n; i++) {
        int64_t in = linears[i].d_in, out = linears[i].d_out;
        snprintf(full, sizeof full, "%s%s.weight", where, linears[i].name);
        random_tensor(t, full, straight ? in : out, straight ? out : in, 0,
                      (linears[i].size > 0 ? linears[i].size : 1.5f) / sqrtf((float)in));
        snprintf(full, sizeof full, "%s%s.bias", where, linears[i].name);
        if (linears[i].bias) random_tensor(t, full, 0, out, 0, 0.3f);
    }
}

static inline void random_gpt2(struct random_tensors *t, const struct random_model *m) {
    int64_t c = m->channels, f = m->inner;
    const struct random_linear linears[] = {{"attn.c_attn", c, 3 * c, true},
                                            {"attn.c_proj", c, c, true},
                                            {"mlp.c_fc", c, f, true},
                                            {"mlp.c_proj", f, c, true}};
    char where[64];
    random_tensor(t, "wte.weight", m->vocab, c, 0, 0.8f);
    random_tensor(t, "wpe.weight", m->context, c, 0, 0.5f);
    random_norm(t, "", "ln_f", c, true);
    for (int64_t l = 0; l < m->layers; l++) {
        snprintf(where, sizeof where, "h.%d.", (int)l);
        random_norm(t, where, "ln_1", c, true);
        random_norm(t, where, "ln_2", c, true);
        random_linears(t, where, linears, 4, true);
    }
}

static inline void random_gptj(struct random_tensors *t, const struct random_model *m) {
    int64_t c = m->channels, f = m->inner;
    const struct random_linear linears[] = {
        {"attn.q_proj", c, c, false}, {"attn.k_proj", c, c, false},
        {"attn.v_proj", c, c, false}, {"attn.out_proj", c, c, false},
        {"mlp.fc_in", c, f, true},    {"mlp.fc_out", f, c, true}};
    char where[64];
    random_tensor(t, "transformer.wte.weight", m->vocab, c, 0, 0.8f);
    random_norm(t, "transformer.", "ln_f", c, true);
    random_tensor(t, "lm_head.weight", m->vocab, c, 0, 0.8f);
    random_tensor(t, "lm_head.bias", 0, m->vocab, 0, 0.5f);
    for (int64_t l = 0; l < m->layers; l++) {
        snprintf(where, sizeof where, "transformer.h.%d.", (int)l);
        random_norm(t, where, "ln_1", c, true);
        random_linears(t, where, linears, 6, false);
    }
}

static inline void random_bert(struct random_tensors *t, const struct random_model *m) {
    bool bare = m->family == RANDOM_BERT;
    int64_t c = m->channels, f = m->inner, labels = bare ? 1 : 2;
    const char *prefix = bare ? "backbone." : "bert.";
    const struct random_linear linears[] = {
        {"attention.self.query", c, c, true}, {"attention.self.key", c, c, true},
        {"attention.self.value", c, c, true}, {"attention.output.dense", c, c, true},
        {"intermediate.dense", c, f, true},   {"output.dense", f, c, true}};
    const struct random_linear pooler = {"pooler.dense", c, c, true};
    char where[64];
    snprintf(where, sizeof where, "%sembeddings.word_embeddings.weight", prefix);
    random_tensor(t, where, m->vocab, c, 0, 0.8f);
    snprintf(where, sizeof where, "%sembeddings.position_embeddings.weight", prefix);
    random_tensor(t, where, m->context, c, 0, 0.5f);
    snprintf(where, sizeof where, "%sembeddings.token_type_embeddings.weight", prefix);
    random_tensor(t, where, 2, c, 0, 0.5f);
    random_norm(t, prefix, "embeddings.LayerNorm", c, true);
    for (int64_t l = 0; l < m->layers; l++) {
        snprintf(where, sizeof where, "%sencoder.layer.%d.", prefix, (int)l);
        random_norm(t, where, "attention.output.LayerNorm", c, true);
        random_norm(t, where, "output.LayerNorm", c, true);
        random_linears(t, where, linears, 6, false);
    }
    random_tensor(t, "classifier.weight", labels, c, 0, 0.8f);
    random_tensor(t, "classifier.bias", 0, labels, 0, 0.5f);
    random_linears(t, prefix, &pooler, 1, false);
}

/* Scores are not scaled: what makes them is small instead. */
static inline void random_t5_attention(struct random_tensors *t, const char *where,
                                       const struct random_model *m) {
    int64_t c = m->channels, q = m->heads * m->head_size;
    const struct random_linear linears[] = {{"q", c, q, false, 0.6f},
                                            {"k", c, q, false, 1},
                                            {"v", c, q, false, 1},
                                            {"o", q, c, false, 1}};
    random_linears(t, where, linears, 4, false);
}

static inline void random_t5_block(struct random_tensors *t, const struct random_model *m,
                                   const char *side, int64_t l) {
    int64_t c = m->channels, f = m->inner;
    bool decoder = side[0] == 'd', gated = m->family == RANDOM_T5;
    const struct random_linear mlp[] = {{"wi_0", c, f, false, 1},
                                        {"wi_1", c, f, false, 1},
                                        {"wo", f, c, false, 1},
                                        {"wi", c, f, false, 1}};
    char where[64], inner[96];
    int layer = 0;
    snprintf(where, sizeof where, "%s.block.%d.layer.", side, (int)l);
    snprintf(inner, sizeof inner, "%s%d.SelfAttention.", where, layer);
    random_t5_attention(t, inner, m);
    snprintf(inner, sizeof inner, "%d.layer_norm", layer++);
    random_norm(t, where, inner, c, false);
    if (decoder) {
        snprintf(inner, sizeof inner, "%s%d.EncDecAttention.", where, layer);
        random_t5_attention(t, inner, m);
        snprintf(inner, sizeof inner, "%d.layer_norm", layer++);
        random_norm(t, where, inner, c, false);
    }
    snprintf(inner, sizeof inner, "%s%d.DenseReluDense.", where, layer);
    random_linears(t, inner, gated ? mlp : mlp + 2, gated ? 3 : 2, false);
    snprintf(inner, sizeof inner, "%d.layer_norm", layer);
    random_norm(t, where, inner, c, false);
}

static inline void random_t5(struct random_tensors *t, const struct random_model *m) {
    static const char *const sides[] = {"encoder", "decoder"};
    int64_t c = m->channels;
    char name[96];
    random_tensor(t, "shared.weight", m->vocab, c, 0, m->family == RANDOM_T5 ? 0.8f : 3);
    for (int s = 0; s < 2; s++) {
        int64_t n = s ? m->layers : m->encoder_layers;
        for (int64_t l = 0; l < n; l++)
            random_t5_block(t, m, sides[s], l);
        snprintf(name, sizeof name,
                 "%s.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                 sides[s]);
        random_tensor(t, name, 8, m->heads, 0, 1);
        random_norm(t, sides[s], ".final_layer_norm", c, false);
    }
    if (m->family == RANDOM_T5) random_tensor(t, "lm_head.weight", m->vocab, c, 0, 0.8f);
}

static inline void random_llama_norms(struct random_tensors *t,
                                      const struct random_model *m, const char *where) {
    static const char *const names[] = {"input_layernorm", "post_attention_layernorm",
                                        "pre_feedforward_layernorm",
                                        "post_feedforward_layernorm"};
    bool four = m->family == RANDOM_GEMMA2 || m->family == RANDOM_GEMMA3,
         after = m->family == RANDOM_OLMO2;
    float base = m->family >= RANDOM_GEMMA;
    for (int i = 0; i < (four || after ? 4 : 2); i++) {
        if (i % 2 == 1 || !after) random_gain(t, where, names[i], m->channels, base);
    }
    if (m->family == RANDOM_QWEN3 || m->family == RANDOM_GEMMA3 || after) {
        random_gain(t, where, "self_attn.q_norm", (after ? m->heads : 1) * m->head_size,
                    base);
        random_gain(t, where, "self_attn.k_norm",
                    (after ? m->kv_heads : 1) * m->head_size, base);
    }
}

static inline void random_llama(struct random_tensors *t, const struct random_model *m) {
    int64_t c = m->channels, f = m->inner, q = m->heads * m->head_size,
            kv = m->kv_heads * m->head_size;
    bool all = m->family == RANDOM_LLAMA, qkv = all || m->family == RANDOM_QWEN2;
    const struct random_linear linears[] = {
        {"self_attn.q_proj", c, q, qkv, 1},  {"self_attn.k_proj", c, kv, qkv, 1},
        {"self_attn.v_proj", c, kv, qkv, 1}, {"self_attn.o_proj", q, c, all, 1},
        {"mlp.gate_proj", c, f, all, 1},     {"mlp.up_proj", c, f, all, 1},
        {"mlp.down_proj", f, c, all, 1}};
    const struct random_linear fused[] = {{"self_attn.qkv_proj", c, q + 2 * kv, false, 1},
                                          {"self_attn.o_proj", q, c, false, 1},
                                          {"mlp.gate_up_proj", c, 2 * f, false, 1},
                                          {"mlp.down_proj", f, c, false, 1}};
    char where[64];
    random_tensor(t, "model.embed_tokens.weight", m->vocab, c, 0, 0.8f);
    random_gain(t, "model.", "norm", c, m->family >= RANDOM_GEMMA);
    for (int64_t l = 0; l < m->layers; l++) {
        snprintf(where, sizeof where, "model.layers.%d.", (int)l);
        random_llama_norms(t, m, where);
        if (m->family == RANDOM_PHI3)
            random_linears(t, where, fused, 4, false);
        else
            random_linears(t, where, linears, 7, false);
    }
    if (all || m->family == RANDOM_MISTRAL || m->family == RANDOM_QWEN3 ||
        m->family == RANDOM_PHI3 || m->family == RANDOM_OLMO2)
        random_tensor(t, "lm_head.weight", m->vocab, c, 0, 0.8f);
}

static inline void random_tensors_of(struct random_tensors *t,
                                     const struct random_model *m) {
    static void (*const make[N_FAMILIES])(struct random_tensors *,
                                          const struct random_model *) = {
        random_gpt2,  random_bert,  random_bert,  random_gptj,  random_t5,
        random_t5,    random_llama, random_llama, random_llama, random_llama,
        random_llama, random_llama, random_llama, random_llama, random_llama,
        random_llama, random_llama};
    t->n = 0;
    make[m->family](t, m);
}

/* ---- Configurations ---- */

/* Members that say how many of what there is. */
static inline void random_sizes(const struct random_model *m, char *out, size_t size) {
    switch (m->family) {
    case RANDOM_GPT2:
    case RANDOM_GPTJ:
        snprintf(out, size,
                 "\"n_layer\":%d,\"n_embd\":%d,\"n_head\":%d,\"n_inner\":%d,"
                 "\"vocab_size\":%d,\"n_positions\":%d",
                 (int)m->layers, (int)m->channels, (int)m->heads, (int)m->inner,
                 (int)m->vocab, (int)m->context);
        break;
    case RANDOM_T5:
    case RANDOM_T5_ORIGINAL:
        snprintf(out, size,
                 "\"num_layers\":%d,\"num_decoder_layers\":%d,\"d_model\":%d,"
                 "\"num_heads\":%d,\"d_kv\":%d,\"d_ff\":%d,\"vocab_size\":%d",
                 (int)m->encoder_layers, (int)m->layers, (int)m->channels, (int)m->heads,
                 (int)m->head_size, (int)m->inner, (int)m->vocab);
        break;
    default:
        snprintf(out, size,
                 "\"num_hidden_layers\":%d,\"hidden_size\":%d,\"num_attention_heads\":%d,"
                 "\"num_key_value_heads\":%d,\"head_dim\":%d,\"intermediate_size\":%d,"
                 "\"vocab_size\":%d,\"max_position_embeddings\":%d",
                 (int)m->layers, (int)m->channels, (int)m->heads, (int)m->kv_heads,
                 (int)m->head_size, (int)m->inner, (int)m->vocab, (int)m->context);
    }
}

/* Norms of outputs, which may be small, bend less. */
#define SOFT_NORMS "\"rms_norm_eps\":0.1,"

static const char *const family_settings[N_FAMILIES] = {
    "\"model_type\":\"gpt2\"",
    "\"model_type\":\"bert\"",
    "\"model_type\":\"bert\"",
    "\"model_type\":\"gptj\",\"rotary_dim\":4",
    "\"model_type\":\"t5\",\"feed_forward_proj\":\"gated-gelu\","
    "\"tie_word_embeddings\":false,\"relative_attention_num_buckets\":8,"
    "\"relative_attention_max_distance\":6",
    "\"model_type\":\"t5\",\"relative_attention_num_buckets\":8,"
    "\"relative_attention_max_distance\":12,\"decoder_start_token_id\":3",
    "\"model_type\":\"llama\",\"attention_bias\":true,\"mlp_bias\":true,"
    "\"rope_theta\":100",
    "\"model_type\":\"llama\",\"tie_word_embeddings\":true,\"rope_theta\":100,"
    "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":4,\"low_freq_factor\":1,"
    "\"high_freq_factor\":4,\"original_max_position_embeddings\":64}",
    "\"model_type\":\"mistral\",\"sliding_window\":3,\"rope_parameters\":"
    "{\"rope_type\":\"default\",\"rope_theta\":50}",
    "\"model_type\":\"qwen2\",\"tie_word_embeddings\":true,\"use_sliding_window\":true,"
    "\"sliding_window\":4,\"max_window_layers\":1,\"rope_theta\":100",
    "\"model_type\":\"qwen3\",\"rope_theta\":100",
    "\"model_type\":\"phi3\",\"rope_theta\":100,\"partial_rotary_factor\":0.5,"
    "\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1.5],"
    "\"factor\":4}",
    "\"model_type\":\"olmo2\"," SOFT_NORMS "\"rope_theta\":100",
    "\"model_type\":\"smollm3\",\"rope_theta\":100,\"no_rope_layers\":[1,0,1],"
    "\"use_sliding_window\":true,\"sliding_window\":3",
    "\"model_type\":\"gemma\",\"rope_theta\":100",
    "\"model_type\":\"gemma2\"," SOFT_NORMS "\"rope_theta\":100,\"sliding_window\":3,"
    "\"query_pre_attn_scalar\":3,\"attn_logit_softcapping\":1.5,"
    "\"final_logit_softcapping\":3",
    "\"model_type\":\"gemma3_text\"," SOFT_NORMS
    "\"sliding_window\":3,\"query_pre_attn_scalar\":3,"
    "\"sliding_window_pattern\":2,\"rope_theta\":100,\"rope_local_base_freq\":20,"
    "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4}"};

static inline void random_config(const struct random_model *m, char *out, size_t size) {
    char sizes[320];
    random_sizes(m, sizes, sizeof sizes);
    snprintf(out, size, "{%s,%s}", family_settings[m->family], sizes);
}

/* ---- Checkpoints ---- */

static inline void random_save(const struct random_tensors *t, const char *dir,
                               const char *config) {
    struct mal_error err = {0};
    char path[256];
    scratch_mkdir(dir);
    snprintf(path, sizeof path, "%s/config.json", dir);
    scratch_text(path, config);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_ok(mal_safetensors_write(scratch_path(path), t->entries, t->n, NULL, 0, &err),
              &err);
}

/* Every tensor rounded to `dtype`. */
static inline void random_narrow(struct random_tensors *t, enum mal_dtype dtype) {
    for (size_t i = 0; i < t->n; i++) {
        struct mal_st_entry *e = &t->entries[i];
        size_t n = (size_t)(e->shape[0] * (e->n_dims == 2 ? e->shape[1] : 1));
        void *narrow = mal_malloc(n * mal_dtype_size(dtype));
        assert_non_null(narrow);
        mal_from_f32(narrow, e->data, dtype, n);
        mal_free((void *)(uintptr_t)e->data);
        e->data = narrow;
        e->dtype = dtype;
    }
}

/* In the scratch directory, stored as `dtype`; closed by the caller. */
static inline struct mal_model *random_model_open_as(const struct random_model *m,
                                                     const char *dir,
                                                     enum mal_dtype dtype) {
    static struct random_tensors t;
    struct mal_error err = {0};
    struct mal_model *model;
    char config[1024];
    random_config(m, config, sizeof config);
    random_tensors_of(&t, m);
    if (dtype != MAL_F32) random_narrow(&t, dtype);
    random_save(&t, dir, config);
    random_tensors_free(&t);
    assert_ok(mal_model_open(&model, scratch_path(dir), test_backend(), &err), &err);
    return model;
}

static inline struct mal_model *random_model_open(const struct random_model *m,
                                                  const char *dir) {
    return random_model_open_as(m, dir, MAL_F32);
}

#endif
