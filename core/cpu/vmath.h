/* vmath.h - exp, tanh and erfc in fp32 as straight code, so that loops that call them are
 * vectorised.
 *
 * Multiplications and additions are separate on every processor, so that results are the
 * same on all of them. */
#ifndef MAL_VMATH_H
#define MAL_VMATH_H

#include "core/round.h"
#include "core/simd.h"

/* exp(x) to 1.5 ulp; 0 below -87.3 (where it would be subnormal), exp(88.3) above 88.3.
 * Cephes' polynomial on |r| <= ln(2)/2 and an exponent shifted in; ln(2) in two parts,
 * the first with so few bits that its multiples are exact. */
MAL_INLINE float vexp(float x) {
    float c = x > 88.3f ? 88.3f : x;
    c = c < -87.3f ? -87.3f : c;
    float shifted =
        c * 1.44269504f + 12582912.0f; /* rounds to an integer in the low bits */
    float n = shifted - 12582912.0f;
    float r = (c - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float y = (p * (r * r) + r) + 1.0f;
    float scale = f32_from_bits((f32_bits(shifted) << 23) + 0x3f800000u);
    return x < -87.3f ? 0.0f : y * scale;
}

/* Cephes' polynomial around 0, where 1 - 2 / (exp(2x) + 1) cancels. */
MAL_INLINE float vtanh(float x) {
    float z = x * x, a = x < 0 ? -x : x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float near = p * z * x + x;
    float e = vexp(-2.0f * a), far = (1.0f - e) / (1.0f + e);
    return a < 0.625f ? near : x < 0 ? -far : far;
}

/* erfc(z) / exp(-z^2) for z >= 0, to 3 ulp: a polynomial in (z - 2) / (z + 2), over 1 +
 * 2z, fitted to a relative error of 2e-8 on 0 .. 9.3, beyond which erfc is 0 in fp32. */
MAL_INLINE float verfcx(float z) {
    float s = (z - 2.0f) / (z + 2.0f);
    float p = -0.00042947953049f;
    p = p * s - 0.0012761784578f;
    p = p * s + 0.0013235648775f;
    p = p * s + 0.0086713767862f;
    p = p * s - 0.0080562939583f;
    p = p * s - 0.054215296669f;
    p = p * s + 0.16405397198f;
    p = p * s - 0.16603040796f;
    p = p * s - 0.092763903651f;
    p = p * s + 1.2769783781f;
    return p / (1.0f + 2.0f * z);
}

#endif
