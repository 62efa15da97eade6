/* cuda.h - the CUDA device, as core/backend.c sees it. */
#ifndef MAL_CUDA_H
#define MAL_CUDA_H

#ifdef __cplusplus
extern "C" {
#endif

#include "core/error.h"

struct mal_backend;

/* The device `index`. This version has no operations for it: the error names the device
 * that is there, or says what is missing (driver, device, index). No device call is made
 * before this. */
bool mal_cuda_create(struct mal_backend **out, int index, struct mal_error *err);

#ifdef __cplusplus
}
#endif

#endif
