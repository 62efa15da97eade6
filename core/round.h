/* round.h - conversions of single elements without branches; for inlining into loops. */
#ifndef MAL_ROUND_H
#define MAL_ROUND_H

#include <stdint.h>

#include "core/simd.h"

MAL_INLINE uint32_t f32_bits(float x) {
    union {
        float f;
        uint32_t u;
    } pun = {.f = x};

    return pun.u;
}

MAL_INLINE float f32_from_bits(uint32_t u) {
    union {
        uint32_t u;
        float f;
    } pun = {.u = u};

    return pun.f;
}

/* Bits of |x| rounded to 11 significant bits, at least 2^-24: half precision kept in
 * fp32. Adding 0.5 to a number under 2^-14 rounds it to multiples of 2^-24, the
 * subnormals' step. */
MAL_INLINE uint32_t f16_magnitude(float x) {
    uint32_t a = f32_bits(x) & 0x7fffffffu;
    uint32_t normal = (a + 0xfffu + ((a >> 13) & 1u)) & ~0x1fffu;
    uint32_t small = f32_bits((f32_from_bits(a) + 0.5f) - 0.5f);
    uint32_t finite = a < 0x38800000u ? small : normal;
    uint32_t r = finite >= 0x47800000u ? 0x7f800000u : finite;
    return a > 0x7f800000u ? (a | 0x00400000u) & ~0x1fffu : r;
}

MAL_INLINE float round_to_f16(float x) {
    return f32_from_bits((f32_bits(x) & 0x80000000u) | f16_magnitude(x));
}

MAL_INLINE uint16_t f32_to_f16(float x) {
    uint32_t m = f16_magnitude(x);
    uint32_t small = f32_bits(f32_from_bits(m) + 0.5f) - 0x3f000000u;
    uint32_t normal = (m - 0x38000000u) >> 13;
    uint32_t special = 0x7c00u | ((m >> 13) & 0x3ffu);
    uint32_t r = m >= 0x7f800000u ? special : m < 0x38800000u ? small : normal;
    return (uint16_t)((f32_bits(x) >> 16 & 0x8000u) | r);
}

MAL_INLINE float f16_to_f32(uint16_t x) {
    uint32_t a = x & 0x7fffu;
    uint32_t normal = (a << 13) + 0x38000000u;
    uint32_t small = f32_bits((float)(int32_t)a * 0x1p-24f);
    uint32_t special = (a << 13) | 0x7f800000u;
    uint32_t r = a >= 0x7c00u ? special : a < 0x400u ? small : normal;
    return f32_from_bits(((uint32_t)x & 0x8000u) << 16 | r);
}

MAL_INLINE uint32_t bf16_bits(float x) {
    uint32_t u = f32_bits(x);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u;
    uint32_t nan = (u | 0x00400000u) & 0xffff0000u;
    return (u & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
}

MAL_INLINE float round_to_bf16(float x) {
    return f32_from_bits(bf16_bits(x));
}

MAL_INLINE uint16_t f32_to_bf16(float x) {
    return (uint16_t)(bf16_bits(x) >> 16);
}

MAL_INLINE float bf16_to_f32(uint16_t x) {
    return f32_from_bits((uint32_t)x << 16);
}

#endif
