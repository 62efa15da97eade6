/* use.cpp - in a program with this library, "cuda:0" is the CPU playing a device. */
#include "core/backend_impl.h"

namespace mal_cuda_host {
bool mal_cuda_create(struct mal_backend **out, int index, enum mal_cuda_kind kind,
                     struct mal_error *err);
}

__attribute__((constructor)) static void use_this() {
    mal_backend_use_cuda(mal_cuda_host::mal_cuda_create);
}
