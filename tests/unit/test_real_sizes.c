/* test_real_sizes.c - what passes, solves and systems say they will take, at the sizes of
 * GPT-J 6B, T5-XL and Llama-3 8B: from checkpoints that are all names and holes. */
#include "scratch.h"

#include <fcntl.h>

#include "core/arena.h"
#include "core/editor/joint.h"
#include "core/editor/orthonormal.h"
#include "core/editor/solve.h"
#include "core/model/model.h"

#define GIB ((size_t)1 << 30)

/* ---- A checkpoint without bytes ---- */

struct checkpoint {
    char header[1 << 20];
    size_t n;
    int64_t offset;
};

static struct checkpoint ckpt;

/* In bf16; a vector where columns is 0. */
static void tensor(int64_t rows, int64_t columns, const char *format, ...) {
    char name[96], shape[48];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    int64_t bytes = 2 * rows * (columns ? columns : 1);
    snprintf(shape, sizeof shape, columns ? "%lld,%lld" : "%lld", (long long)rows,
             (long long)columns);
    ckpt.n += (size_t)snprintf(
        ckpt.header + ckpt.n, sizeof ckpt.header - ckpt.n,
        "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%lld,%lld]}",
        ckpt.n > 1 ? "," : "", name, shape, (long long)ckpt.offset,
        (long long)(ckpt.offset + bytes));
    assert_true(ckpt.n < sizeof ckpt.header - 16);
    ckpt.offset += bytes;
}

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* What was told of so far, as a model that can be looked at. */
static struct mal_model *look(const char *name, const char *config) {
    char dir[256], path[300];
    struct mal_model *model = NULL;
    struct mal_error err = {0};
    snprintf(dir, sizeof dir, "%s", scratch_path(name));
    assert_int_equal(mkdir(dir, 0755), 0);
    snprintf(path, sizeof path, "%s/config.json", dir);
    write_file(path, config);
    strcpy(ckpt.header + ckpt.n, "}");
    uint64_t length = ++ckpt.n;
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    int fd = open(path, O_CREAT | O_WRONLY, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, &length, sizeof length), sizeof length);
    assert_int_equal(write(fd, ckpt.header, ckpt.n), (ssize_t)ckpt.n);
    /* the last tensor, a head, is not that of the embeddings */
    assert_int_equal(pwrite(fd, "x", 1, (off_t)(8 + ckpt.n) + ckpt.offset - 1), 1);
    close(fd);
    if (!mal_model_look(&model, dir, &err)) fail_msg("%s: %s", name, err.text);
    if (!mal_model_set_default_edits(model, &err)) fail_msg("%s: %s", name, err.text);
    return model;
}

static void begin(void) {
    ckpt = (struct checkpoint){.header = "{", .n = 1};
}

static struct mal_model *gptj(void) {
    begin();
    tensor(50400, 4096, "transformer.wte.weight");
    for (int l = 0; l < 28; l++) {
        static const char *const square[] = {"q", "k", "v", "out"};
        for (int i = 0; i < 4; i++)
            tensor(4096, 4096, "transformer.h.%d.attn.%s_proj.weight", l, square[i]);
        tensor(4096, 0, "transformer.h.%d.ln_1.weight", l);
        tensor(4096, 0, "transformer.h.%d.ln_1.bias", l);
        tensor(16384, 4096, "transformer.h.%d.mlp.fc_in.weight", l);
        tensor(16384, 0, "transformer.h.%d.mlp.fc_in.bias", l);
        tensor(4096, 16384, "transformer.h.%d.mlp.fc_out.weight", l);
        tensor(4096, 0, "transformer.h.%d.mlp.fc_out.bias", l);
    }
    tensor(4096, 0, "transformer.ln_f.weight");
    tensor(4096, 0, "transformer.ln_f.bias");
    tensor(50400, 4096, "lm_head.weight");
    tensor(50400, 0, "lm_head.bias");
    return look("gptj", "{\"model_type\":\"gptj\",\"n_layer\":28,\"n_embd\":4096,"
                        "\"n_head\":16,\"n_positions\":2048,\"rotary_dim\":64,"
                        "\"vocab_size\":50400}");
}

static void t5_attention(const char *side, int l, int layer, const char *name) {
    static const char *const parts[] = {"q", "k", "v", "o"};
    for (int i = 0; i < 4; i++)
        tensor(2048, 2048, "%s.block.%d.layer.%d.%s.%s.weight", side, l, layer, name,
               parts[i]);
    tensor(2048, 0, "%s.block.%d.layer.%d.layer_norm.weight", side, l, layer);
}

static void t5_stack(const char *side, bool decoder) {
    for (int l = 0; l < 24; l++) {
        int mlp = decoder ? 2 : 1;
        t5_attention(side, l, 0, "SelfAttention");
        if (decoder) t5_attention(side, l, 1, "EncDecAttention");
        tensor(5120, 2048, "%s.block.%d.layer.%d.DenseReluDense.wi_0.weight", side, l,
               mlp);
        tensor(5120, 2048, "%s.block.%d.layer.%d.DenseReluDense.wi_1.weight", side, l,
               mlp);
        tensor(2048, 5120, "%s.block.%d.layer.%d.DenseReluDense.wo.weight", side, l, mlp);
        tensor(2048, 0, "%s.block.%d.layer.%d.layer_norm.weight", side, l, mlp);
    }
    tensor(32, 32, "%s.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
           side);
    tensor(2048, 0, "%s.final_layer_norm.weight", side);
}

static struct mal_model *t5(void) {
    begin();
    tensor(32128, 2048, "shared.weight");
    t5_stack("encoder", false);
    t5_stack("decoder", true);
    tensor(32128, 2048, "lm_head.weight");
    return look("t5",
                "{\"model_type\":\"t5\",\"num_layers\":24,\"d_model\":2048,\"d_kv\":64,"
                "\"d_ff\":5120,\"num_heads\":32,\"vocab_size\":32128,"
                "\"feed_forward_proj\":\"gated-gelu\",\"tie_word_embeddings\":false}");
}

static struct mal_model *llama(void) {
    begin();
    tensor(128256, 4096, "model.embed_tokens.weight");
    for (int l = 0; l < 32; l++) {
        tensor(4096, 0, "model.layers.%d.input_layernorm.weight", l);
        tensor(4096, 4096, "model.layers.%d.self_attn.q_proj.weight", l);
        tensor(1024, 4096, "model.layers.%d.self_attn.k_proj.weight", l);
        tensor(1024, 4096, "model.layers.%d.self_attn.v_proj.weight", l);
        tensor(4096, 4096, "model.layers.%d.self_attn.o_proj.weight", l);
        tensor(4096, 0, "model.layers.%d.post_attention_layernorm.weight", l);
        tensor(14336, 4096, "model.layers.%d.mlp.gate_proj.weight", l);
        tensor(14336, 4096, "model.layers.%d.mlp.up_proj.weight", l);
        tensor(4096, 14336, "model.layers.%d.mlp.down_proj.weight", l);
    }
    tensor(4096, 0, "model.norm.weight");
    tensor(128256, 4096, "lm_head.weight");
    return look("llama",
                "{\"model_type\":\"llama\",\"num_hidden_layers\":32,\"hidden_size\":4096,"
                "\"intermediate_size\":14336,\"num_attention_heads\":32,"
                "\"num_key_value_heads\":8,\"max_position_embeddings\":8192,"
                "\"rms_norm_eps\":1e-5,\"rope_theta\":500000.0,\"vocab_size\":128256}");
}

/* ---- Passes ---- */

static size_t floats(int64_t n) {
    return (size_t)n * sizeof(float);
}

static void expect_between(const char *what, size_t got, size_t least, size_t most) {
    if (got < least || got > most)
        fail_msg("%s: %zu bytes, not between %zu and %zu", what, got, least, most);
}

/* A pass over as many tokens as a GPU's slice has, 20 a sequence, 4 label rows each: its
 * residual stream, keys and values, and the MLP's widest rows must be there, twice over
 * at most but for the head's slice; and what its backward pass keeps, per taped block. */
static void check_passes(struct mal_model *model, int64_t parameters, int64_t inner,
                         int64_t qkv, int64_t taped) {
    const struct mal_model_info *info = mal_model_info(model);
    int64_t seqs = 1024, n = 20 * seqs, rows = 4 * seqs, c = info->n_channels;
    assert_int_equal(info->n_parameters, parameters);
    size_t least = floats(n * (2 * c + qkv + inner));
    size_t forward = mal_model_scratch_bytes(model, seqs, n, 20, rows, false);
    expect_between("forward", forward, least, 2 * least + GIB);
    size_t both = mal_model_scratch_bytes(model, seqs, n, 20, rows, true);
    size_t tape = floats(taped * (n * qkv + rows * (3 * c + inner)));
    expect_between("backward", both, forward + tape, forward + 4 * tape + GIB);
    /* and no more than in proportion */
    size_t ten = mal_model_scratch_bytes(model, 10 * seqs, 10 * n, 20, 10 * rows, true);
    expect_between("ten times", ten, 9 * both, 10 * both);
}

/* ---- Systems ---- */

static size_t doubles(int64_t n) {
    return (size_t)n * sizeof(double);
}

/* A matrix of the order of the keys and the sums; of few rows one of their number. */
static void check_solves(int64_t d_in, int64_t d_out) {
    size_t slack = 4096;
    size_t primal = doubles(d_in * d_in + d_in * d_out);
    expect_between("primal", mal_solve_bytes(57344, d_in, d_out), primal, primal + slack);
    assert_int_equal(mal_solve_bytes(57344, d_in, d_out),
                     mal_solve_bytes(2 * 57344, d_in, d_out));
    int64_t n = 370; /* its own matrix, three of the QR, both factors, right sides */
    size_t dual = doubles(4 * n * n + n * d_in + 2 * n * d_out);
    expect_between("dual", mal_solve_bytes(n, d_in, d_out), dual, dual + slack);
}

/* Of a factor, in fp64 and fp32. */
static size_t rows_that_join(int64_t d_in) {
    int64_t n = d_in * (d_in / 16);
    return doubles(n) + floats(n);
}

/* Every module's matrix, and one factor with the rows that may join it. */
static void check_joint(const struct mal_model *model, size_t modules, int64_t d_in) {
    size_t bytes = (modules + 1) * doubles(d_in * d_in) + rows_that_join(d_in);
    assert_int_equal(mal_model_n_edits(model), modules);
    expect_between("joint", mal_joint_bytes(model), bytes, bytes + 4096);
}

static void test_gptj(void **state) {
    struct mal_model *model = gptj();
    check_passes(model, 6050882784, 16384, 3 * 4096, 6);
    check_solves(16384, 4096);
    check_joint(model, 6, 16384);
    mal_model_close(model);
}

static void test_llama(void **state) {
    struct mal_model *model = llama();
    size_t n = mal_model_n_edits(model);
    int64_t first = mal_model_edit(model, 0)->block;
    check_passes(model, 8030261248, 2 * 14336, 6144, 32 - first);
    check_solves(14336, 4096);
    check_joint(model, n, 14336);
    mal_model_close(model);
}

/* Modules of both stacks, of two shapes; as the encoder has some, all blocks of the
 * decoder are gone back through. */
static void test_t5(void **state) {
    struct mal_model *model = t5();
    assert_int_equal(mal_model_info(model)->n_parameters, 2849757184);
    check_solves(2048, 5120);
    check_solves(5120, 2048);
    size_t bytes = doubles(5120 * 5120) + rows_that_join(5120); /* the factor */
    for (size_t m = 0; m < mal_model_n_edits(model); m++) {
        int64_t d_in = mal_model_edit(model, m)->d_in;
        bytes += doubles(d_in * d_in);
    }
    expect_between("joint", mal_joint_bytes(model), bytes, bytes + 4096);
    int64_t seqs = 1024, n = 20 * seqs;
    size_t least = floats(n * (2 * 2048 + 3 * 2048 + 2 * 5120));
    size_t forward = mal_model_scratch_bytes(model, seqs, n, 20, 4 * seqs, false);
    expect_between("forward", forward, least, 4 * least + GIB);
    size_t both = mal_model_scratch_bytes(model, seqs, n, 20, 4 * seqs, true);
    expect_between("backward", both, forward + floats(2 * n * 3 * 2048), 12 * forward);
    mal_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gptj),
                                       cmocka_unit_test(test_llama),
                                       cmocka_unit_test(test_t5)};
    return cmocka_run_group_tests_name("real_sizes", tests, scratch_make, scratch_remove);
}
