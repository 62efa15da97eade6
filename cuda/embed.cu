/* embed.cu - rows looked up, gathered, scattered and added.
 *
 * A row is moved in packs of four elements where all rows begin at multiples of a pack,
 * else element by element. */
#include "cuda/impl.h"
#include "cuda/number.h"

enum { AT_ONCE = 4 /* packs on their way in a thread */ };

/* A row, and of a long one a part: AT_ONCE packs a thread, if the grid can be that high.
 */
static dim3 grid_of(int64_t rows, int64_t packs) {
    int64_t part = AT_ONCE * MAL_THREADS, parts = (packs + part - 1) / part;
    return dim3((unsigned)rows, (unsigned)(parts < 65535 ? parts : 65535));
}

/* ---- Embeddings ---- */

template <typename T, int W>
__global__ static void embed_rows(int64_t packs, const int32_t *ids, const int32_t *pos,
                                  const void *__restrict__ tokens, float scale,
                                  const float *__restrict__ positions,
                                  float *__restrict__ y) {
    typedef mal_pack<T, W> narrow;
    typedef mal_floats<W> wide;

    int64_t i = blockIdx.x, step = (int64_t)gridDim.y * blockDim.x;
    const narrow *token = (const narrow *)tokens + ids[i] * packs;
    const wide *position =
        positions ? (const wide *)positions + pos[i] * packs : (const wide *)NULL;
    for (int64_t j = (int64_t)blockIdx.y * blockDim.x + threadIdx.x; j < packs;
         j += step) {
        narrow from = token[j];
        wide to;
        for (int w = 0; w < W; w++)
            to.x[w] = __fmul_rn(scale, mal_widen(from.x[w]));
        if (position) {
            wide shift = position[j];
            for (int w = 0; w < W; w++)
                to.x[w] += shift.x[w];
        }
        ((wide *)y)[i * packs + j] = to;
    }
}

void mal_cuda_embed(struct mal_backend *be, int64_t n, int64_t c, const int32_t *ids,
                    const int32_t *pos, const void *tokens, enum mal_dtype tokens_dtype,
                    float scale, const float *positions, float *y) {
    struct mal_cuda *cu = mal_cuda_of(be);
    bool whole = tokens_dtype == MAL_F32 ? mal_starts_pack((const float *)tokens)
                                         : mal_starts_pack((const uint16_t *)tokens);
    bool wide =
        c % MAL_WIDE == 0 && whole && mal_starts_pack(positions) && mal_starts_pack(y);
    int64_t packs = wide ? c / MAL_WIDE : c;
    auto embed = tokens_dtype == MAL_F16
                     ? (wide ? embed_rows<mal_f16, MAL_WIDE> : embed_rows<mal_f16, 1>)
                 : tokens_dtype == MAL_BF16
                     ? (wide ? embed_rows<mal_bf16, MAL_WIDE> : embed_rows<mal_bf16, 1>)
                     : (wide ? embed_rows<float, MAL_WIDE> : embed_rows<float, 1>);
    MAL_LAUNCH(cu, embed, grid_of(n, packs), mal_cuda_threads(packs), 0, packs, ids, pos,
               tokens, scale, positions, y);
}

/* ---- Rows from here to there ---- */

/* y[to[i]] = x[from[i]], a list that is NULL being i; strides in packs. */
template <int W>
__global__ static void copy_rows(int64_t packs, const int32_t *from, const float *x,
                                 int64_t ldx, const int32_t *to, float *y, int64_t ldy) {
    typedef mal_floats<W> pack;

    int64_t i = blockIdx.x, step = (int64_t)gridDim.y * blockDim.x;
    const pack *src = (const pack *)x + (from ? from[i] : i) * ldx;
    pack *dst = (pack *)y + (to ? to[i] : i) * ldy;
    for (int64_t j = (int64_t)blockIdx.y * blockDim.x + threadIdx.x; j < packs;
         j += AT_ONCE * step) {
        pack in[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (j + k * step < packs) in[k] = src[j + k * step];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (j + k * step < packs) dst[j + k * step] = in[k];
    }
}

static void copy_all(struct mal_cuda *cu, int64_t n, int64_t c, const int32_t *from,
                     const float *x, int64_t ldx, const int32_t *to, float *y,
                     int64_t ldy) {
    bool wide =
        (c | ldx | ldy) % MAL_WIDE == 0 && mal_starts_pack(x) && mal_starts_pack(y);
    int64_t w = wide ? MAL_WIDE : 1, packs = c / w;
    auto copy = wide ? copy_rows<MAL_WIDE> : copy_rows<1>;
    MAL_LAUNCH(cu, copy, grid_of(n, packs), mal_cuda_threads(packs), 0, packs, from, x,
               ldx / w, to, y, ldy / w);
}

void mal_cuda_gather_rows(struct mal_backend *be, int64_t n, int64_t c,
                          const int32_t *rows, const float *x, int64_t ldx, float *y,
                          int64_t ldy) {
    copy_all(mal_cuda_of(be), n, c, rows, x, ldx, NULL, y, ldy);
}

void mal_cuda_scatter_rows(struct mal_backend *be, int64_t n, int64_t c,
                           const int32_t *rows, const float *x, int64_t ldx, float *y,
                           int64_t ldy) {
    copy_all(mal_cuda_of(be), n, c, NULL, x, ldx, rows, y, ldy);
}

/* ---- Sums ---- */

__global__ static void add_each(int64_t n, bool wide, const float *x, float *y) {
    typedef mal_floats<> four;
    int64_t packs = wide ? n / MAL_WIDE : 0;
    MAL_EACH(i, packs) {
        four a = ((const four *)x)[i], b = ((four *)y)[i];
        for (int w = 0; w < MAL_WIDE; w++)
            b.x[w] += a.x[w];
        ((four *)y)[i] = b;
    }
    MAL_EACH(i, n - MAL_WIDE * packs) {
        y[MAL_WIDE * packs + i] += x[MAL_WIDE * packs + i];
    }
}

void mal_cuda_add(struct mal_backend *be, int64_t n, const float *x, float *y) {
    struct mal_cuda *cu = mal_cuda_of(be);
    bool wide = mal_starts_pack(x) && mal_starts_pack(y);
    MAL_LAUNCH(cu, add_each, mal_cuda_grid(cu, wide ? n / MAL_WIDE + 1 : n), MAL_THREADS,
               0, n, wide, x, y);
}
