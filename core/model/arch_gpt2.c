/* arch_gpt2.c - GPT-2: learned positions, pre-norm blocks, one fused query-key-value
 * projection, Conv1D weights stored (d_in, d_out). Follows transformers'
 * modeling_gpt2.py. */
#include "core/alloc.h"
#include "core/json.h"
#include "core/model/model_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct gpt2_block {
    struct mal_norm_weights ln_1, ln_2;
    struct mal_linear c_attn, attn_proj, c_fc, mlp_proj;
    float attn_scale;
};

/* ---- Configuration ---- */

static bool read_activation(const json_t *config, enum mal_act *out, const char *where,
                            struct mal_error *err) {
    const char *name = "gelu_new";
    if (!mal_json_string_opt(config, "activation_function", &name, where, err))
        return false;

    static const struct {
        const char *name;
        enum mal_act act;
    } known[] = {{"gelu_new", MAL_GELU_TANH},  {"gelu_pytorch_tanh", MAL_GELU_TANH},
                 {"gelu_fast", MAL_GELU_TANH}, {"gelu", MAL_GELU_ERF},
                 {"relu", MAL_RELU},           {"silu", MAL_SILU},
                 {"swish", MAL_SILU}};

    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            *out = known[i].act;
            return true;
        }
    }
    return mal_fail(err, MAL_INVALID, "%s: activation_function \"%s\" is not supported",
                    where, name);
}

static bool read_scales(struct mal_model *model, const json_t *config, const char *where,
                        struct mal_error *err) {
    bool scaled = true, by_layer = false, cross = false;
    if (!mal_json_bool_opt(config, "scale_attn_weights", &scaled, where, err))
        return false;
    if (!mal_json_bool_opt(config, "scale_attn_by_inverse_layer_idx", &by_layer, where,
                           err)) {
        return false;
    }
    if (!mal_json_bool_opt(config, "add_cross_attention", &cross, where, err))
        return false;
    if (cross) {
        return mal_fail(err, MAL_INVALID, "%s: add_cross_attention is not supported",
                        where);
    }
    struct gpt2_block *blocks = model->blocks;
    for (int64_t l = 0; l < model->info.n_layers; l++) {
        blocks[l].attn_scale = scaled ? 1.0F / sqrtf((float)model->head_size) : 1.0F;
        if (by_layer) blocks[l].attn_scale /= (float)(l + 1);
    }
    return true;
}

static bool gpt2_configure(struct mal_model *model, struct mal_error *err) {
    const json_t *config = mal_checkpoint_config(model->ckpt);
    const char *where = mal_checkpoint_config_path(model->ckpt);
    struct mal_model_info *info = &model->info;
    const int64_t max = 1 << 24;

    if (!mal_json_int(config, "n_layer", 1, 4096, &info->n_layers, where, err))
        return false;
    if (!mal_json_int(config, "n_embd", 1, max, &info->n_channels, where, err))
        return false;
    if (!mal_json_int(config, "n_head", 1, max, &model->n_heads, where, err))
        return false;
    if (!mal_json_int(config, "vocab_size", 1, max, &info->n_vocab, where, err))
        return false;
    if (!mal_json_int(config, "n_positions", 1, max, &info->n_context, where, err)) {
        return false;
    }
    if (info->n_channels % model->n_heads != 0) {
        return mal_fail(err, MAL_INVALID,
                        "%s: n_embd %lld is not a multiple of n_head %lld", where,
                        (long long)info->n_channels, (long long)model->n_heads);
    }
    model->n_kv_heads = model->n_heads;
    model->head_size = info->n_channels / model->n_heads;
    model->n_inner = 4 * info->n_channels;
    if (!mal_json_int_opt(config, "n_inner", 1, max, &model->n_inner, where, err))
        return false;
    double eps = 1e-5;
    if (!mal_json_real_opt(config, "layer_norm_epsilon", &eps, where, err)) return false;
    model->norm_eps = (float)eps;
    if (!read_activation(config, &model->act, where, err)) return false;

    model->blocks = mal_calloc((size_t)info->n_layers, sizeof(struct gpt2_block));
    if (!model->blocks) return mal_fail(err, MAL_NO_MEMORY, "model blocks");
    return read_scales(model, config, where, err);
}

/* ---- Binding ---- */

static bool bind_block(struct mal_model *model, int64_t l, struct mal_error *err) {
    struct gpt2_block *block = (struct gpt2_block *)model->blocks + l;
    int64_t c = model->info.n_channels, f = model->n_inner;

    const struct {
        const char *name;
        int64_t d_in, d_out;
        struct mal_linear *dst;
    } linears[] = {{"attn.c_attn", c, 3 * c, &block->c_attn},
                   {"attn.c_proj", c, c, &block->attn_proj},
                   {"mlp.c_fc", c, f, &block->c_fc},
                   {"mlp.c_proj", f, c, &block->mlp_proj}};

    char name[64];

    snprintf(name, sizeof name, "h.%lld.ln_1", (long long)l);
    if (!mal_bind_norm(model, name, &block->ln_1, err)) return false;
    snprintf(name, sizeof name, "h.%lld.ln_2", (long long)l);
    if (!mal_bind_norm(model, name, &block->ln_2, err)) return false;
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
        snprintf(name, sizeof name, "h.%lld.%s", (long long)l, linears[i].name);
        if (!mal_bind_linear(model, name, linears[i].d_in, linears[i].d_out, false, true,
                             l, linears[i].dst, err)) {
            return false;
        }
    }
    return true;
}

static bool bind_head(struct mal_model *model, struct mal_error *err) {
    bool tied = true;
    if (!mal_json_bool_opt(mal_checkpoint_config(model->ckpt), "tie_word_embeddings",
                           &tied, mal_checkpoint_config_path(model->ckpt), err)) {
        return false;
    }
    int64_t shape[] = {model->info.n_vocab, model->info.n_channels};
    if (tied) return mal_bind_tensor(model, "wte.weight", 2, shape, &model->head, err);
    struct mal_checkpoint_tensor source;
    if (!mal_checkpoint_need(model->ckpt, "lm_head.weight", 2, shape, &source, err))
        return false;
    return mal_bind_source(model, source, &model->head, err);
}

static bool gpt2_bind(struct mal_model *model, struct mal_error *err) {
    int64_t c = model->info.n_channels;
    int64_t tokens[] = {model->info.n_vocab, c}, positions[] = {model->info.n_context, c};
    if (!mal_bind_tensor(model, "wte.weight", 2, tokens, &model->tokens, err))
        return false;
    if (!mal_bind_tensor(model, "wpe.weight", 2, positions, &model->positions, err)) {
        return false;
    }
    for (int64_t l = 0; l < model->info.n_layers; l++) {
        if (!bind_block(model, l, err)) return false;
    }
    if (!mal_bind_norm(model, "ln_f", &model->final_norm, err)) return false;
    return bind_head(model, err);
}

static void gpt2_finish(struct mal_model *model) {
    struct gpt2_block *blocks = model->blocks;
    if (!blocks) return;
    for (int64_t l = 0; l < model->info.n_layers; l++) {
        mal_linear_finish(&blocks[l].c_attn);
        mal_linear_finish(&blocks[l].attn_proj);
        mal_linear_finish(&blocks[l].c_fc);
        mal_linear_finish(&blocks[l].mlp_proj);
    }
    mal_free(blocks);
}

/* ---- Passes ---- */

static void gpt2_layout(const struct mal_model *model, struct mal_pass *pass) {
    struct mal_arena *arena = pass->arena;
    struct mal_pass_buffers *buf = &pass->buf;
    int64_t c = model->info.n_channels, f = model->n_inner;
    int64_t n = pass->n_tokens, m = pass->kept.n, top = pass->top.n;

    buf->x = mal_arena_floats(arena, n * c);
    buf->h = mal_arena_floats(arena, n * c);
    buf->qkv = mal_arena_floats(arena, n * 3 * c);
    buf->q = mal_arena_floats(arena, (m > top ? m : top) * c);
    buf->ao = mal_arena_floats(arena, n * c);
    buf->ff = mal_arena_floats(arena, n * f);
    pass->y = mal_arena_floats(arena, top * c);
    if (!pass->backward) return;

    buf->lse = mal_arena_floats(arena, n * model->n_heads);
    buf->dff = mal_arena_floats(arena, m * f);
    buf->dh = mal_arena_floats(arena, m * c);
    buf->dqkv = mal_arena_floats(arena, m * 3 * c);
    pass->dy = mal_arena_floats(arena, top * c);
    for (int64_t l = model->lowest_edit_block; l < model->info.n_layers; l++) {
        int64_t rows = l == model->info.n_layers - 1 ? top : m;
        model->tape[l] = (struct mal_tape_block){
            .x1 = mal_arena_floats(arena, m * c),
            .qkv = mal_arena_floats(arena, n * 3 * c),
            .q = mal_arena_floats(arena, rows * c),
            .ao = mal_arena_floats(arena, rows * c),
            .lse = mal_arena_floats(arena, rows * model->n_heads),
            .x2 = mal_arena_floats(arena, rows * c),
            .ff = mal_arena_floats(arena, rows * f),
        };
    }
}

static struct mal_norm norm_of(const struct mal_model *model,
                               const struct mal_norm_weights *w, int64_t n) {
    return (struct mal_norm){.n = n,
                             .c = model->info.n_channels,
                             .eps = model->norm_eps,
                             .gain = w->gain,
                             .bias = w->bias};
}

/* Attention of the given query rows over the keys and values of all rows of qkv, or of
 * the cache. */
static struct mal_attn attn_of(const struct mal_model *model, const struct mal_pass *pass,
                               int64_t l, const float *qkv) {
    const struct gpt2_block *block = (const struct gpt2_block *)model->blocks + l;
    int64_t c = model->info.n_channels;
    const float *kv = pass->cache ? pass->cache->kv[l] : qkv + c;
    int64_t ld = pass->cache ? 2 * c : 3 * c;
    return (struct mal_attn){.n_seqs = pass->n_seqs,
                             .n_queries = pass->n_tokens,
                             .max_queries = pass->max_queries,
                             .max_keys = pass->max_keys,
                             .n_heads = model->n_heads,
                             .n_kv_heads = model->n_kv_heads,
                             .head_size = model->head_size,
                             .q_start = pass->q_start,
                             .k_start = pass->k_start,
                             .k_len = pass->k_len,
                             .q = qkv,
                             .k = kv,
                             .v = kv + c,
                             .ld_q = 3 * c,
                             .ld_k = ld,
                             .ld_v = ld,
                             .scale = block->attn_scale,
                             .causal = true};
}

static void only_queries_of(struct mal_attn *attn, const struct mal_row_set *set,
                            const float *q, int64_t ld_q) {
    attn->n_queries = set->n;
    attn->max_queries = set->max;
    attn->q_start = set->start;
    attn->q = q;
    attn->ld_q = ld_q;
}

/* x (N, C) becomes x + attention; in the last block only the top rows go on. */
static void attention_fwd(struct mal_model *model, struct mal_pass *pass, int64_t l,
                          struct mal_tape_block *tape) {
    const struct gpt2_block *block = (const struct gpt2_block *)model->blocks + l;
    struct mal_backend *be = pass->be;
    struct mal_pass_buffers *buf = &pass->buf;
    int64_t c = model->info.n_channels, n = pass->n_tokens;
    bool last = l == model->info.n_layers - 1;
    float *qkv = tape ? tape->qkv : buf->qkv;

    struct mal_norm norm = norm_of(model, &block->ln_1, n);
    mal_norm_fwd(be, &norm, buf->x, buf->h);
    if (tape) mal_keep_rows(pass, c, buf->x, c, false, tape->x1);
    mal_capture_keys(pass, &block->c_attn, buf->h, false);
    mal_linear_fwd(be, &block->c_attn, n, buf->h, qkv, false);
    if (pass->cache) {
        mal_scatter_rows(be, n, 2 * c, pass->cache_rows, qkv + c, 3 * c,
                         pass->cache->kv[l], 2 * c);
    }

    struct mal_attn attn = attn_of(model, pass, l, qkv);
    float *lse = tape ? buf->lse : NULL;
    float *q = tape ? tape->q : buf->q;
    if (last) {
        mal_top_rows(pass, c, qkv, 3 * c, q);
        only_queries_of(&attn, &pass->top, q, c);
    } else if (tape) {
        mal_keep_rows(pass, c, qkv, 3 * c, false, q);
    }
    mal_attn_fwd(be, &attn, buf->ao, c, lse);
    if (tape) {
        mal_keep_rows(pass, c, buf->ao, c, last, tape->ao);
        mal_keep_rows(pass, model->n_heads, lse, model->n_heads, last, tape->lse);
    }

    if (last) { /* h is free: it holds the top rows of x from here on */
        mal_top_rows(pass, c, buf->x, c, buf->h);
        float *x = buf->x;
        buf->x = buf->h;
        buf->h = x;
    }
    mal_capture_keys(pass, &block->attn_proj, buf->ao, last);
    mal_linear_fwd(be, &block->attn_proj, last ? pass->top.n : n, buf->ao, buf->x, true);
}

static void mlp_fwd(struct mal_model *model, struct mal_pass *pass, int64_t l,
                    struct mal_tape_block *tape) {
    const struct gpt2_block *block = (const struct gpt2_block *)model->blocks + l;
    struct mal_backend *be = pass->be;
    struct mal_pass_buffers *buf = &pass->buf;
    int64_t c = model->info.n_channels, f = model->n_inner;
    bool last = l == model->info.n_layers - 1;
    int64_t n = last ? pass->top.n : pass->n_tokens;

    struct mal_norm norm = norm_of(model, &block->ln_2, n);
    mal_norm_fwd(be, &norm, buf->x, buf->h);
    if (tape) mal_keep_rows(pass, c, buf->x, c, last, tape->x2);
    mal_capture_keys(pass, &block->c_fc, buf->h, last);
    mal_linear_fwd(be, &block->c_fc, n, buf->h, buf->ff, false);
    if (tape) mal_keep_rows(pass, f, buf->ff, f, last, tape->ff);
    mal_act_fwd(be, model->act, n * f, buf->ff, buf->ff);
    mal_capture_keys(pass, &block->mlp_proj, buf->ff, last);
    mal_linear_fwd(be, &block->mlp_proj, n, buf->ff, buf->x, true);
}

static void gpt2_forward(struct mal_model *model, struct mal_pass *pass) {
    int64_t n_layers = model->info.n_layers, first = 0;
    if (mal_resume_at(pass, model, pass->buf.x)) {
        first = model->lowest_edit_block;
    } else {
        mal_embed(pass->be, pass->n_tokens, model->info.n_channels, pass->ids, pass->pos,
                  model->tokens, MAL_F32, model->positions, pass->buf.x);
    }
    for (int64_t l = first; l < n_layers; l++) {
        bool taped = pass->backward && l >= model->lowest_edit_block;
        struct mal_tape_block *tape = taped ? &model->tape[l] : NULL;
        mal_keep_lower(pass, model, l, pass->buf.x);
        attention_fwd(model, pass, l, tape);
        mlp_fwd(model, pass, l, tape);
    }
    struct mal_norm norm = norm_of(model, &model->final_norm, pass->top.n);
    mal_norm_fwd(pass->be, &norm, pass->buf.x, pass->y);
}

/* dx (n, C) is the gradient at the block's output, then before its MLP. False: done. */
static bool mlp_bwd(struct mal_model *model, struct mal_pass *pass, int64_t l, int64_t n,
                    float *dx) {
    const struct gpt2_block *block = (const struct gpt2_block *)model->blocks + l;
    const struct mal_tape_block *tape = &model->tape[l];
    const struct mal_pass_buffers *buf = &pass->buf;
    struct mal_backend *be = pass->be;
    int64_t f = model->n_inner;
    struct mal_norm ln_2 = norm_of(model, &block->ln_2, n);

    if (mal_learns(pass, &block->mlp_proj)) {
        mal_act_fwd(be, model->act, n * f, tape->ff, buf->dff);
        mal_add_weight_grad(pass, &block->mlp_proj, n, buf->dff, dx);
    }
    if (!mal_capture_grads(pass, &block->mlp_proj, n, dx)) return false;
    mal_linear_bwd(be, &block->mlp_proj, n, dx, buf->dff);
    mal_act_bwd(be, model->act, n * f, tape->ff, buf->dff, buf->dff);
    if (mal_learns(pass, &block->c_fc)) {
        mal_norm_fwd(be, &ln_2, tape->x2, buf->dh);
        mal_add_weight_grad(pass, &block->c_fc, n, buf->dh, buf->dff);
    }
    if (!mal_capture_grads(pass, &block->c_fc, n, buf->dff)) return false;
    mal_linear_bwd(be, &block->c_fc, n, buf->dff, buf->dh);
    mal_norm_bwd(be, &ln_2, tape->x2, buf->dh, dx);
    return true;
}

/* buf->dqkv := the gradient at the queries, keys and values of the kept rows, for buf->dh
 * at the attention's output. */
static void attn_op_bwd(struct mal_model *model, struct mal_pass *pass, int64_t l) {
    const struct mal_tape_block *tape = &model->tape[l];
    const struct mal_pass_buffers *buf = &pass->buf;
    struct mal_backend *be = pass->be;
    int64_t c = model->info.n_channels;
    bool last = l == model->info.n_layers - 1;
    struct mal_attn attn = attn_of(model, pass, l, tape->qkv);
    struct mal_attn_grads grads = {.dq = buf->dqkv,
                                   .dk = buf->dqkv + c,
                                   .dv = buf->dqkv + 2 * c,
                                   .ld_q = 3 * c,
                                   .ld_kv = 3 * c};
    bool widen = last && pass->top.n < pass->kept.n; /* queries of some rows, all keys */
    if (widen) {
        mal_backend_zero(be, buf->dqkv, (size_t)(pass->kept.n * 3 * c) * sizeof(float));
        grads.dq = buf->q;
        grads.ld_q = c;
        grads.all_keys = true;
    }
    only_queries_of(&attn, last ? &pass->top : &pass->kept, tape->q, c);
    mal_attn_bwd(be, &attn, tape->ao, c, tape->lse, buf->dh, c, &grads);
    if (widen) {
        mal_scatter_rows(be, pass->top.n, c, pass->top.rows, buf->q, c, buf->dqkv, 3 * c);
    }
}

/* *dx (n, C) before the MLP becomes the gradient at the block's input, of the kept rows.
 * False: done. */
static bool attention_bwd(struct mal_model *model, struct mal_pass *pass, int64_t l,
                          int64_t n, float **dx) {
    const struct gpt2_block *block = (const struct gpt2_block *)model->blocks + l;
    const struct mal_tape_block *tape = &model->tape[l];
    struct mal_pass_buffers *buf = &pass->buf;
    struct mal_backend *be = pass->be;
    int64_t c = model->info.n_channels, m = pass->kept.n;

    if (mal_learns(pass, &block->attn_proj))
        mal_add_weight_grad(pass, &block->attn_proj, n, tape->ao, *dx);
    if (!mal_capture_grads(pass, &block->attn_proj, n, *dx)) return false;
    mal_linear_bwd(be, &block->attn_proj, n, *dx, buf->dh);
    attn_op_bwd(model, pass, l);
    if (n < m) { /* from here on all kept rows count; h is free */
        mal_backend_zero(be, buf->h, (size_t)(m * c) * sizeof(float));
        mal_scatter_rows(be, n, c, pass->top.rows, *dx, c, buf->h, c);
        *dx = buf->h;
    }
    struct mal_norm ln_1 = norm_of(model, &block->ln_1, m);
    if (mal_learns(pass, &block->c_attn)) {
        mal_norm_fwd(be, &ln_1, tape->x1, buf->dh);
        mal_add_weight_grad(pass, &block->c_attn, m, buf->dh, buf->dqkv);
    }
    if (!mal_capture_grads(pass, &block->c_attn, m, buf->dqkv)) return false;
    mal_linear_bwd(be, &block->c_attn, m, buf->dqkv, buf->dh);
    mal_norm_bwd(be, &ln_1, tape->x1, buf->dh, *dx);
    return true;
}

static void gpt2_backward(struct mal_model *model, struct mal_pass *pass) {
    int64_t n = pass->top.n, c = model->info.n_channels;
    float *dx = pass->buf.ao; /* free after the forward pass, and large enough */
    mal_backend_zero(pass->be, dx, (size_t)(n * c) * sizeof *dx);
    struct mal_norm norm = norm_of(model, &model->final_norm, n);
    mal_norm_bwd(pass->be, &norm, pass->buf.x, pass->dy, dx);
    for (int64_t l = model->info.n_layers - 1; l >= model->lowest_edit_block; l--) {
        if (!mlp_bwd(model, pass, l, n, dx)) return;
        if (!attention_bwd(model, pass, l, n, &dx)) return;
        n = pass->kept.n;
    }
}

const struct mal_arch mal_arch_gpt2 = {
    .model_type = "gpt2",
    .prefix = "transformer.",
    .default_edit = "mlp.c_proj",
    .configure = gpt2_configure,
    .bind = gpt2_bind,
    .layout = gpt2_layout,
    .forward = gpt2_forward,
    .backward = gpt2_backward,
    .finish = gpt2_finish,
};
