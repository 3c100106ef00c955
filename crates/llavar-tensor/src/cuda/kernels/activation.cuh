// Activations and their slopes.

// 2^x by the special function unit, relative error 2^-22.
DEVICE float fast_exp2(float x) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

// 1/x by the special function unit, relative error 2^-23; 0 for infinity.
DEVICE float fast_reciprocal(float x) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

DEVICE float logistic(float x) { return fast_reciprocal(1.f + fast_exp2(-1.44269504f * x)); }

// The normal distribution function Phi(x), and e = exp(-x^2 / 2) that its density needs as well.
// Abramowitz and Stegun 7.1.26 (their coefficients halved), absolute error below 1e-7: 16 instructions where
// erff takes 32, and 17 instead of 40 for the slope. The tail is never made by a difference, so that
// Phi(-x) fades out smoothly.
DEVICE float normal_cdf(float x, float& e) {
    float t = fast_reciprocal(fmaf(0.3275911f * 0.70710678f, fabsf(x), 1.f));
    e = fast_exp2(-0.72134752f * x * x);
    float p = fmaf(0.530702715f, t, -0.726576014f);
    p = fmaf(p, t, 0.710706871f);
    p = fmaf(p, t, -0.142248368f);
    p = fmaf(p, t, 0.127414796f);
    float tail = p * t * e;
    return x < 0.f ? tail : 1.f - tail;
}

struct Gelu {
    static DEVICE float value(float x) {
        float e;
        return x * normal_cdf(x, e);
    }
    static DEVICE float slope(float x) {
        float e, cdf = normal_cdf(x, e);
        return fmaf(0.39894228f * x, e, cdf);
    }
};

// The same GELU for results that are rounded to bf16: x Phi(x) = max(x, 0) - |x| Phi(-|x|) with Phi(-|x|) as two to the
// power of a polynomial. Relative error below 2^-14 down to x = -5.3 and below 2^-12 down to -9, where 1e-18 is left; a
// third less work than by normal_cdf, with one visit to the special function unit in place of two. Infinity gives NaN.
struct ShortGelu {
    static DEVICE float value(float x) {
        float a = fabsf(x), q = fmaf(-1.16621954e-6f, a, 4.59092405e-5f);
        q = fmaf(q, a, -7.86114561e-4f);
        q = fmaf(q, a, 7.84925089e-3f);
        q = fmaf(q, a, -5.24166535e-2f);
        q = fmaf(q, a, -4.60194456e-1f);
        q = fmaf(q, a, -1.15051339f);
        q = fmaf(q, a, -1.00004945f);
        return fmaf(-a, fast_exp2(q), fmaxf(x, 0.f));
    }
};

struct QuickGelu {
    static DEVICE float value(float x) { return x * logistic(1.702f * x); }
    static DEVICE float slope(float x) {
        float s = logistic(1.702f * x);
        return s * fmaf(1.702f * x, 1.f - s, 1.f);
    }
};

