/* cuda.h - the CUDA device, as core/backend.c sees it. */
#ifndef MAL_CUDA_H
#define MAL_CUDA_H

#ifdef __cplusplus
extern "C" {
#endif

#include "core/backend_impl.h"

/* The device `index`. MAL_DEVICE: the driver is missing or too old, there is no such
 * device, or it is older than what this program was compiled for; the text says which. No
 * device call is made before this. */
bool mal_cuda_create(struct mal_backend **out, int index, enum mal_cuda_kind kind,
                     struct mal_error *err);

#ifdef __cplusplus
}
#endif

#endif
