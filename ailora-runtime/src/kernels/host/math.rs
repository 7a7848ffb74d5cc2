//! Functions of one float, written so that loops over them vectorise.
//!
//! Each keeps NaN and is within a few units in the last place of the true value, or, near a zero of
//! a function, of its largest summand; the tests hold them to that.

use std::f32::consts::{FRAC_1_SQRT_2, LN_2, LOG2_E};

/// `1.5 · 2^23`: adding and subtracting it rounds to the nearest integer.
const ROUND: f32 = 12_582_912.0;

/// `e^x`: `2^n e^r` with `|r| <= ln(2)/2`, and the Taylor polynomial of degree 7 for `e^r`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Written as comparisons, which NaN fails, so that it stays NaN.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let rounded = x.mul_add(LOG2_E, ROUND);
    let n = rounded - ROUND;
    // ln(2) in two parts, of which the first times n is exact.
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let p = 1.0_f32 / 5040.0;
    let p = p.mul_add(r, 1.0 / 720.0);
    let p = p.mul_add(r, 1.0 / 120.0);
    let p = p.mul_add(r, 1.0 / 24.0);
    let p = p.mul_add(r, 1.0 / 6.0);
    let p = p.mul_add(r, 0.5);
    let p = (p * r).mul_add(r, r + 1.0);
    // The lowest bits of the rounded are n. A conversion would check its range, lane by lane.
    p * f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()))
}

/// Hyperbolic tangent, by its series near 0 and `1 - 2/(e^2x + 1)` beyond.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let square = x * x;
    let near = x + x
        * square
        * (-1.0 / 3.0
            + square * (2.0 / 15.0 + square * (-17.0 / 315.0 + square * (62.0 / 2835.0))));
    let far = 1.0 - 2.0 / (exp(2.0 * x) + 1.0);
    if x.abs() < 0.25 { near } else { far }
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `max(x, 0)`
#[inline(always)]
pub fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// `ln(1 + e^x)`, as `max(x, 0) + ln(1 + e^-|x|)`, which never overflows.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    relu(x) + (-x.abs()).exp().ln_1p()
}

/// The normal distribution function and `e^(-x^2/2)`.
///
/// `erfc(z) = e^(-z^2) t P(t)` with `t = 1/(1 + p z)`, the form of Abramowitz & Stegun 7.1.26; the
/// eight coefficients are a minimax fit of relative error 4.5e-8 on `0 <= z <= 7`.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_529_1 * z);
    let p = -0.144_265_52_f32;
    let p = p.mul_add(t, 0.510_428_2);
    let p = p.mul_add(t, -0.430_138_82);
    let p = p.mul_add(t, 0.476_328_58);
    let p = p.mul_add(t, 0.012_608_234);
    let p = p.mul_add(t, 0.209_992_12);
    let p = p.mul_add(t, 0.179_977_53);
    let p = p.mul_add(t, 0.185_069_63);
    // `exp` ends at e^-87, which a large x times it would make visible.
    let bell = if z * z > 87.0 { 0.0 } else { exp(-z * z) };
    let tail = 0.5 * p * t * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}

/// `x Phi(x)`
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    x * normal(x).0
}

/// `Phi(x) + x phi(x)`
#[inline(always)]
pub fn gelu_prime(x: f32) -> f32 {
    gelu_and_prime(x).1
}

/// [`gelu`] and [`gelu_prime`], to the bit.
#[inline(always)]
pub fn gelu_and_prime(x: f32) -> (f32, f32) {
    let (phi, bell) = normal(x);
    (x * phi, phi + x * bell * 0.398_942_3)
}

/// `2^x`
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    exp(x * LN_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ailora_graph::ir::ops::elementwise::Unary;

    fn worst(f: fn(f32) -> f32, exact: Unary, range: f32, scale: impl Fn(f64) -> f64) -> f64 {
        let mut worst = 0.0_f64;
        for i in -40_000..=40_000 {
            let x = i as f32 / 40_000.0 * range;
            let (found, expected) = (f64::from(f(x)), exact.apply(f64::from(x)));
            let error = (found - expected).abs() / scale(expected);
            assert!(error.is_finite(), "{exact} of {x} is {found}");
            worst = worst.max(error);
        }
        worst
    }

    #[test]
    fn functions_are_close_to_float64() {
        assert!(worst(exp, Unary::Exp, 80.0, f64::abs) < 3e-7);
        assert!(worst(exp2, Unary::Exp2, 20.0, f64::abs) < 2e-6);
        assert!(worst(tanh, Unary::Tanh, 12.0, |y| y.abs().max(1e-9)) < 6e-7);
        assert!(worst(sigmoid, Unary::Sigmoid, 30.0, f64::abs) < 5e-7);
        assert!(worst(softplus, Unary::Softplus, 80.0, f64::abs) < 3e-7);
        // Where it falls below 1e-3, z^2 is about 5, and rounding z moves e^(-z^2) by 2 z^2 2^-24.
        assert!(worst(gelu, Unary::Gelu, 9.0, |y| y.abs().max(1e-3)) < 1.5e-6);
        assert!(worst(gelu_prime, Unary::GeluPrime, 9.0, |y| y.abs().max(0.1)) < 1e-6);
    }

    #[test]
    fn nan_stays_nan_and_extremes_are_finite() {
        for f in [exp, exp2, tanh, sigmoid, softplus, gelu, gelu_prime] {
            assert!(f(f32::NAN).is_nan());
            assert!(!f(f32::MIN).is_nan() && !f(f32::MAX).is_nan());
        }
    }

    #[test]
    fn far_from_zero_gelu_is_the_identity_or_nothing() {
        for exponent in 4..=127 {
            let x = (exponent as f32).exp2();
            assert_eq!((gelu(x), gelu_prime(x)), (x, 1.0), "{x}");
            assert_eq!((gelu(-x), gelu_prime(-x)), (0.0, 0.0), "{x}");
        }
    }
}
