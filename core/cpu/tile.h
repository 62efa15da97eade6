/* tile.h - c (m,n) += a (m,k) @ b (k,n) for small pieces, one fma per element and k in
 * order.
 *
 * Each element is a chain of fused multiply-adds that starts from c, whatever the
 * blocking and the vector width: the bits are those of the plain loop. Versioned weights
 * rest on that. */
#ifndef MAL_TILE_H
#define MAL_TILE_H

#include <stdint.h>

/* Blocks of c that are held in registers; fastest when b has a multiple of 16 columns. */
enum { TILE_ROWS = 6, TILE_COLS = 32, TILE_HALF = 16 };

/* Element (i,p) of a is a[i * row_a + p * col_a]; b and c are row-major. */
void mal_cpu_tile(int64_t m, int64_t n, int64_t k, const float *a, int64_t row_a,
                  int64_t col_a, const float *b, int64_t ldb, float *c, int64_t ldc);

#endif
