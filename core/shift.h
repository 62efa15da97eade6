/* shift.h - a shift, or the sum of many, on the device: fp32, oriented as the layer's
 * weight is stored. */
#ifndef MAL_SHIFT_H
#define MAL_SHIFT_H

#include "core/delta.h"
#include "core/model/model.h"

/* t += S of `part`, whose data is in host memory; waits for it. */
bool mal_shift_add_part(struct mal_backend *be, const struct mal_delta_part *part,
                        bool transposed, float *t, struct mal_error *err) MAL_CHECK;

/* out (d_in, d_out), on the host, := t of the layer. */
bool mal_shift_read(struct mal_backend *be, const struct mal_linear *lin, const float *t,
                    float *out, struct mal_error *err) MAL_CHECK;
/* The same as a dense part, the caller's; its norm is left 0. */
bool mal_shift_read_part(struct mal_backend *be, const struct mal_linear *lin,
                         const float *t, struct mal_delta_part *out,
                         struct mal_error *err) MAL_CHECK;

#endif
