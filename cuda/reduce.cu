/* reduce.cu - the last step of sums that blocks make in parts. */
#include "cuda/reduce.h"

#include "cuda/impl.h"

__global__ static void add_parts(int n, const double *part, bool onto, double *out) {
    double sum = 0;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        sum += part[i];
    sum = mal_block_sum(sum);
    if (threadIdx.x == 0) out[0] = onto ? out[0] + sum : sum;
}

void mal_cuda_add_parts(struct mal_cuda *cu, unsigned n, const double *part, bool onto,
                        double *out) {
    MAL_LAUNCH(cu, add_parts, 1, MAL_THREADS, 0, (int)n, part, onto, out);
}
