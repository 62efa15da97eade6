/* cpu.c - the device "cpu": its table of operations, created and destroyed. */
#include "core/cpu/cpu.h"

#include "core/alloc.h"
#include "core/cpu/blas.h"

/* 32 MiB: slices of 256 rows at 16,384 columns, and LAPACK's blocks for QR. */
enum { WORK_DOUBLES = 4 << 20 };

static void destroy(struct mal_backend *be) {
    struct mal_cpu *cpu = (struct mal_cpu *)be;
    mal_free(cpu->work);
    mal_free(cpu);
}

static bool create_beside(struct mal_backend **out, struct mal_backend *first,
                          struct mal_error *err) {
    return mal_cpu_create(out, ((struct mal_cpu *)first)->bf16, err);
}

static void sync_nothing(struct mal_backend *be) {
    /* Operations have finished when they return. */
}

static void invert_none(struct mal_backend *be, int64_t n, const double *l, int64_t ldl,
                        double *inverses) {
    /* BLAS needs none. */
}

static const struct mal_backend_ops cpu_ops = {
    .create_beside = create_beside,
    .destroy = destroy,
    .alloc = mal_cpu_alloc,
    .free = mal_cpu_free,
    .alloc_host = mal_cpu_alloc_host,
    .free_host = mal_cpu_free_host,
    .available = mal_cpu_available,
    .upload = mal_cpu_upload,
    .download = mal_cpu_download,
    .copy = mal_cpu_copy,
    .zero = mal_cpu_zero,
    .sync = sync_nothing,
    .gemm = mal_cpu_gemm,
    .gemm64 = mal_cpu_gemm64,
    .syrk64 = mal_cpu_syrk64,
    .potrf64 = mal_cpu_potrf64,
    .trsm64 = mal_cpu_trsm64,
    .invert_blocks64 = invert_none,
    .solve_rows64 = mal_cpu_solve_rows64,
    .qr64 = mal_cpu_qr64,
    .transpose_lower64 = mal_cpu_transpose_lower64,
    .convert = mal_cpu_convert,
    .axpby64 = mal_cpu_axpby64,
    .round_rows = mal_cpu_round_rows,
    .embed = mal_cpu_embed,
    .norm_fwd = mal_cpu_norm_fwd,
    .norm_bwd = mal_cpu_norm_bwd,
    .head_norm_fwd = mal_cpu_head_norm_fwd,
    .head_norm_bwd = mal_cpu_head_norm_bwd,
    .act_fwd = mal_cpu_act_fwd,
    .act_bwd = mal_cpu_act_bwd,
    .glu_fwd = mal_cpu_glu_fwd,
    .glu_bwd = mal_cpu_glu_bwd,
    .rope_angles = mal_cpu_rope_angles,
    .rope = mal_cpu_rope,
    .attn_fwd = mal_cpu_attn_fwd,
    .attn_bwd = mal_cpu_attn_bwd,
    .cap_fwd = mal_cpu_cap_fwd,
    .cap_bwd = mal_cpu_cap_bwd,
    .add = mal_cpu_add,
    .gather_rows = mal_cpu_gather_rows,
    .scatter_rows = mal_cpu_scatter_rows,
    .xent_fwd = mal_cpu_xent_fwd,
    .xent_bwd = mal_cpu_xent_bwd,
    .kl = mal_cpu_kl,
    .kl_now = mal_cpu_kl_now,
    .normalize_rows = mal_cpu_normalize_rows,
    .column_stats = mal_cpu_column_stats,
    .block_fwd = mal_cpu_block_fwd,
    .edit_diffs = mal_cpu_edit_diffs,
    .block_bwd = mal_cpu_block_bwd,
    .edit_diffs_bwd = mal_cpu_edit_diffs_bwd,
    .dot = mal_cpu_dot,
    .adam_step = mal_cpu_adam_step,
    .apply_factors = mal_cpu_apply_factors,
    .apply_dense = mal_cpu_apply_dense,
    .round_weight = mal_cpu_round_weight,
    .sum_squares = mal_cpu_sum_squares,
    .digest_pieces = mal_cpu_digest_pieces,
};

bool mal_cpu_create(struct mal_backend **out, bool bf16, struct mal_error *err) {
    if (bf16 && !mal_cpu_has_bf16())
        return mal_fail(err, MAL_DEVICE, "cpu:bf16: this processor has no bf16 products");
    struct mal_cpu *cpu = mal_calloc(1, sizeof *cpu);
    if (!cpu) return mal_fail(err, MAL_NO_MEMORY, "device cpu");

    mal_backend_init(&cpu->base, &cpu_ops, bf16 ? "cpu:bf16" : "cpu");
    cpu->bf16 = bf16;
    cpu->base.on_host = true;
    cpu->base.slice_fma = (int64_t)1 << 30;
    cpu->base.breadth = 1;
    mal_cpu_describe(cpu->base.description, sizeof cpu->base.description);
    cpu->n_work = WORK_DOUBLES;
    cpu->work = mal_malloc((size_t)cpu->n_work * sizeof(double));
    if (!cpu->work) {
        mal_fail(err, MAL_NO_MEMORY, "workspace of device cpu");
        goto fail;
    }
    *out = &cpu->base;
    return true;

fail:
    destroy(&cpu->base);
    return false;
}
