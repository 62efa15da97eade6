/* stack.c - whole passes: embeddings, stacks of blocks, what stands between them and the
 * head; and the buffers that takes. */
#include "core/model/model_impl.h"

/* ---- Buffers ---- */

static int64_t max_of(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static bool is_gated(const struct mal_stack *stack) {
    return mal_mlp_gated(&stack->blocks[0].mlp);
}

static bool has_cross(const struct mal_stack *stack) {
    return mal_linear_there(&stack->blocks[0].cross.q);
}

/* Whether a step through it may have another `in` than fp32. */
static bool narrows(const struct mal_model *model, const struct mal_stack *stack) {
    bool any = false;
    for (int64_t i = 0; i < stack->n; i++)
        any = any || mal_block_operand(model->be, &stack->blocks[i]) != MAL_F32;
    return any;
}

static void layout_angles(const struct mal_model *model, const struct mal_pass *pass,
                          struct mal_lane *lane) {
    int64_t c = 2 * model->rotary.half;
    for (int k = 0; k < model->rotary.n_kinds; k++) {
        lane->angles[k] = mal_arena_floats(pass->arena, lane->n_tokens * c);
        lane->top.angles[k] = mal_arena_floats(pass->arena, lane->top.n * c);
        if (pass->backward)
            lane->kept.angles[k] = mal_arena_floats(pass->arena, lane->kept.n * c);
    }
}

static void layout_tape(const struct mal_model *model, const struct mal_pass *pass,
                        const struct mal_lane *lane, const struct mal_stack *stack,
                        int64_t i) {
    struct mal_arena *arena = pass->arena;
    int64_t c = model->info.n_channels, f = model->n_inner, q = mal_q_width(model);
    int64_t r = i == stack->n - 1 ? lane->top.n : lane->kept.n;
    int64_t n_kept_apart = pass->cache ? 0 : lane->n_tokens;
    struct mal_tape_block tape = {
        .x1 = mal_arena_floats(arena, lane->kept.n * c),
        .qkv = mal_arena_floats(arena, n_kept_apart * mal_qkv_width(model)),
        .q = mal_arena_floats(arena, r * q),
        .ao = mal_arena_floats(arena, r * q),
        .norm = mal_arena_floats(arena, r * 2 * model->n_heads),
        .x2 = mal_arena_floats(arena, r * c),
        .ff = mal_arena_floats(arena, r * f),
    };
    if (is_gated(stack)) tape.ff2 = mal_arena_floats(arena, r * f);
    bool output = mal_norms_output(stack);
    if (output) tape.xo = mal_arena_floats(arena, r * c);
    if (output || stack->norms == MAL_NORM_AFTER)
        tape.x3 = mal_arena_floats(arena, r * c);
    if (has_cross(stack)) {
        tape.xc = mal_arena_floats(arena, r * c);
        tape.qc = mal_arena_floats(arena, r * q);
        tape.aoc = mal_arena_floats(arena, r * q);
        tape.normc = mal_arena_floats(arena, r * 2 * model->n_heads);
        tape.kvc =
            mal_arena_floats(arena, pass->source.n_tokens * 2 * mal_kv_width(model));
    }
    model->tape[stack->first + i] = tape;
}

/* The first block a backward pass goes through: with an edit module in the encoder every
 * block of the decoder, as each looks at the encoder's output. */
static int64_t first_taped(const struct mal_model *model, const struct mal_pass *pass,
                           const struct mal_stack *stack) {
    if (pass->first > 0) return pass->first;
    return max_of(model->lowest_edit_block - stack->first, 0);
}

static void layout_lane(const struct mal_model *model, const struct mal_pass *pass,
                        struct mal_lane *lane, const struct mal_stack *stack) {
    struct mal_arena *arena = pass->arena;
    int64_t c = model->info.n_channels, f = model->n_inner;
    int64_t q = mal_q_width(model), w = mal_qkv_width(model), wide = max_of(c, q);
    int64_t n = lane->n_tokens, m = lane->kept.n, top = lane->top.n;
    int64_t kvc = has_cross(stack) ? pass->source.n_tokens * 2 * mal_kv_width(model) : 0;

    layout_angles(model, pass, lane);
    struct mal_pass_buffers buf = {
        .x = mal_arena_floats(arena, n * c),
        .h = mal_arena_floats(arena, n * c),
        .qkv = mal_arena_floats(arena, n * w),
        .q = mal_arena_floats(arena, max_of(m, top) * q),
        .ao = mal_arena_floats(arena, n * wide),
        .ff = mal_arena_floats(arena, n * f),
        .ff2 = mal_arena_floats(arena, is_gated(stack) ? n * f : 0),
        .kvc = mal_arena_floats(arena, kvc),
    };
    if (narrows(model, stack))
        buf.inner = mal_arena_alloc(arena, (size_t)(n * f) * sizeof(uint16_t));
    lane->y = mal_arena_floats(arena, top * c);
    if (pass->backward) {
        bool apart = stack->norms != MAL_NORM_BEFORE;
        buf.norm = mal_arena_floats(arena, n * 2 * model->n_heads);
        buf.dr = mal_arena_floats(arena, apart ? m * c : 0);
        buf.dff = mal_arena_floats(arena, m * f);
        buf.dff2 = mal_arena_floats(arena, is_gated(stack) ? m * f : 0);
        buf.dup = mal_arena_floats(arena, stack->blocks[0].mlp.fused ? m * 2 * f : 0);
        buf.dh = mal_arena_floats(arena, m * wide);
        buf.dqkv = mal_arena_floats(arena, m * w);
        buf.dkvc = mal_arena_floats(arena, kvc);
        lane->dy = mal_arena_floats(arena, top * c);
        for (int64_t i = first_taped(model, pass, stack); i < stack->n; i++)
            layout_tape(model, pass, lane, stack, i);
    }
    lane->buf = buf;
}

void mal_stacks_layout(const struct mal_model *model, struct mal_pass *pass) {
    if (model->encoder.n > 0) layout_lane(model, pass, &pass->source, &model->encoder);
    layout_lane(model, pass, &pass->main, &model->decoder);
    if (pass->backward && model->n_edited > model->n_edits)
        pass->ones = mal_arena_floats(pass->arena, mal_pass_rows(pass));
    if (model->pooler.w) {
        pass->pooled =
            mal_arena_floats(pass->arena, pass->main.top.n * model->info.n_channels);
    }
    if (pass->compare || pass->against) {
        pass->y0 =
            mal_arena_floats(pass->arena, pass->main.top.n * model->info.n_channels);
    }
    if (pass->compare && !pass->lower) {
        bool in_source = model->lowest_edit_block < model->decoder.first;
        const struct mal_lane *lane = in_source ? &pass->source : &pass->main;
        int64_t c = model->info.n_channels;
        pass->lower = mal_arena_floats(pass->arena, lane->n_tokens * c);
    }
}

/* ---- Forward ---- */

static void gather_angles(struct mal_backend *be, const struct mal_row_set *set, int k,
                          int64_t c, const float *angles) {
    mal_gather_rows(be, set->n, c, set->rows, angles, c, (float *)set->angles[k], c);
}

static void find_angles(const struct mal_model *model, const struct mal_pass *pass,
                        const struct mal_lane *lane) {
    struct mal_backend *be = pass->be;
    const struct mal_rotary *rotary = &model->rotary;
    int64_t half = rotary->half;
    for (int k = 0; k < rotary->n_kinds; k++) {
        const float *angles = lane->angles[k];
        mal_rope_angles(be, lane->n_tokens, half, lane->pos, rotary->inv_freq[k],
                        rotary->scale[k], (float *)angles);
        gather_angles(be, &lane->top, k, 2 * half, angles);
        if (pass->backward) gather_angles(be, &lane->kept, k, 2 * half, angles);
    }
}

static void embed(const struct mal_model *model, const struct mal_pass *pass,
                  struct mal_lane *lane) {
    struct mal_pass_buffers *buf = &lane->buf;
    mal_embed(pass->be, lane->n_tokens, model->info.n_channels, lane->ids, lane->pos,
              model->tokens.w, model->tokens.dtype, model->tokens_scale, model->positions,
              buf->x);
    if (!model->embed_norm.gain) return;
    struct mal_norm norm = mal_norm_of(model, &model->embed_norm, lane->n_tokens);
    mal_norm_fwd(pass->be, &norm, buf->x, buf->h, MAL_F32);
    mal_swap_x_h(lane);
}

static struct mal_step step_at(struct mal_model *model, struct mal_pass *pass,
                               struct mal_lane *lane, const struct mal_stack *stack,
                               int64_t i) {
    const struct mal_transformer_block *block = &stack->blocks[i];
    bool taped = pass->backward && i >= first_taped(model, pass, stack);
    bool last = i == stack->n - 1;
    bool measured = pass->u && stack->first + i >= model->lowest_edit_block;
    bool wide = taped || last || measured; /* not only products read what is written */
    return (struct mal_step){.model = model,
                             .pass = pass,
                             .lane = lane,
                             .stack = stack,
                             .block = block,
                             .index = i,
                             .tape = taped ? &model->tape[stack->first + i] : NULL,
                             .last = last,
                             .in = wide ? MAL_F32 : mal_block_operand(pass->be, block)};
}

/* From the embeddings to lane->y; or from where an earlier pass left the state. */
static void stack_forward(struct mal_model *model, struct mal_pass *pass,
                          struct mal_lane *lane, const struct mal_stack *stack) {
    struct mal_backend *be = pass->be;
    int64_t c = model->info.n_channels, first = pass->first;
    bool ends = pass->end && pass->end - stack->first < stack->n;
    int64_t end = ends ? pass->end - stack->first : stack->n;
    int64_t lowest = model->lowest_edit_block - stack->first;
    size_t bytes = (size_t)(lane->n_tokens * c) * sizeof(float);
    bool is_there = pass->lower && lowest >= 0 && lowest < stack->n;

    find_angles(model, pass, lane);
    if (is_there && pass->resume) {
        first = lowest;
        mal_backend_copy(be, lane->buf.x, pass->lower, bytes);
    } else if (first == 0) {
        embed(model, pass, lane);
    }
    for (int64_t i = first;; i++) {
        if (is_there && !pass->resume && i == lowest)
            mal_backend_copy(be, pass->lower, lane->buf.x, bytes);
        if (i == end) break;
        struct mal_step step = step_at(model, pass, lane, stack, i);
        mal_step_forward(&step);
    }
    if (ends) return;
    if (stack->final_norm.gain) {
        struct mal_norm norm = mal_norm_of(model, &stack->final_norm, lane->top.n);
        mal_norm_fwd(be, &norm, lane->buf.x, lane->y, MAL_F32);
    } else {
        mal_backend_copy(be, lane->y, lane->buf.x,
                         (size_t)(lane->top.n * c) * sizeof *lane->y);
    }
}

static void pool(const struct mal_model *model, struct mal_pass *pass) {
    int64_t n = pass->main.top.n, c = model->info.n_channels;
    mal_gemm(pass->be, &(struct mal_gemm){.m = n,
                                          .n = c,
                                          .k = c,
                                          .a = pass->main.y,
                                          .b = model->pooler.w,
                                          .b_dtype = model->pooler.dtype,
                                          .trans_b = true,
                                          .c = pass->pooled,
                                          .alpha = 1,
                                          .bias = model->pooler_bias});
    mal_act_fwd(pass->be, MAL_TANH, n, c, pass->pooled, NULL, pass->main.y, MAL_F32);
}

void mal_model_forward(struct mal_model *model, struct mal_pass *pass) {
    bool unchanged = pass->resume && model->lowest_edit_block >= model->decoder.first;
    if (model->encoder.n > 0 && !pass->source_ready && !unchanged)
        stack_forward(model, pass, &pass->source, &model->encoder);
    if (pass->end && pass->end < model->decoder.first) return;
    stack_forward(model, pass, &pass->main, &model->decoder);
    if (pass->pooled) pool(model, pass);
}

/* ---- Backward ---- */

static void pool_bwd(const struct mal_model *model, struct mal_pass *pass) {
    struct mal_lane *lane = &pass->main;
    int64_t n = lane->top.n, c = model->info.n_channels;
    float *dz = lane->buf.dh;
    mal_act_bwd(pass->be, MAL_TANH, n * c, pass->pooled, lane->dy, dz);
    mal_gemm(pass->be, &(struct mal_gemm){.m = n,
                                          .n = c,
                                          .k = c,
                                          .a = dz,
                                          .b = model->pooler.w,
                                          .b_dtype = model->pooler.dtype,
                                          .c = lane->dy,
                                          .alpha = 1});
}

/* From lane->dy down to the lowest block that needs it. */
static bool stack_backward(struct mal_model *model, struct mal_pass *pass,
                           struct mal_lane *lane, const struct mal_stack *stack) {
    struct mal_backend *be = pass->be;
    struct mal_pass_buffers *buf = &lane->buf;
    int64_t n = lane->top.n, c = model->info.n_channels;
    size_t bytes = (size_t)(n * c) * sizeof(float);
    buf->dx = buf->ao; /* free after the forward pass, and large enough */
    if (stack->final_norm.gain) {
        struct mal_norm norm = mal_norm_of(model, &stack->final_norm, n);
        mal_backend_zero(be, buf->dx, bytes);
        mal_norm_bwd(be, &norm, buf->x, lane->dy, buf->dx);
    } else {
        mal_backend_copy(be, buf->dx, lane->dy, bytes);
    }
    for (int64_t i = stack->n - 1; i >= first_taped(model, pass, stack); i--) {
        struct mal_step step = step_at(model, pass, lane, stack, i);
        if (!mal_step_backward(&step)) return false;
    }
    return true;
}

void mal_model_backward(struct mal_model *model, struct mal_pass *pass) {
    if (pass->pooled) pool_bwd(model, pass);
    if (model->encoder.n > 0) {
        mal_backend_zero(pass->be, pass->source.dy,
                         (size_t)(pass->source.top.n * model->info.n_channels) *
                             sizeof(float));
    }
    if (!stack_backward(model, pass, &pass->main, &model->decoder)) return;
    if (model->encoder.n > 0) stack_backward(model, pass, &pass->source, &model->encoder);
}
