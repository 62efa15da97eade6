/* unit.h - what a source of cuda/ includes, before the namespace that it is compiled in:
 * there it cannot collide with the same source compiled for a device. A header that one
 * of them includes and that is not of cuda/ belongs here, too. */
#ifndef MAL_HOST_UNIT_H
#define MAL_HOST_UNIT_H

#include <assert.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <type_traits>

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cusolverDn.h>

#include "core/backend_impl.h"
#include "core/round.h"
#include "core/tensor.h"
#include "cuda/cuda.h"

#endif
