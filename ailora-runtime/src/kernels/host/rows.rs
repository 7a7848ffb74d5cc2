//! Operations on whole rows. Sums run in the lanes of several registers, in a fixed order.

use pulp::Simd;

use super::math;

/// Registers that a sum runs in, so that no addition waits for the one before it.
const CHAINS: usize = 4;

/// The sum of `f` over pairs.
#[inline(always)]
pub(crate) fn sum<S: Simd>(
    simd: S,
    a: &[f32],
    b: &[f32],
    f: impl Fn(S::f32s, S::f32s) -> S::f32s,
) -> f32 {
    let zero = simd.splat_f32s(0.0);
    let (a, a_rest) = S::as_simd_f32s(a);
    let (b, b_rest) = S::as_simd_f32s(b);
    let (a_chains, a) = a.as_chunks::<CHAINS>();
    let (b_chains, b) = b.as_chunks::<CHAINS>();
    let mut sums = [zero; CHAINS];
    for (a, b) in a_chains.iter().zip(b_chains) {
        for i in 0..CHAINS {
            sums[i] = simd.add_f32s(sums[i], f(a[i], b[i]));
        }
    }
    let [mut sum, second, third, fourth] = sums;
    for (&a, &b) in a.iter().zip(b) {
        sum = simd.add_f32s(sum, f(a, b));
    }
    let second = if a_rest.is_empty() {
        second
    } else {
        // What lies behind the row counts as 0, whatever `f` makes of it.
        let last = f(
            simd.partial_load_f32s(a_rest),
            simd.partial_load_f32s(b_rest),
        );
        let within = simd.mask_between_m32s(0, a_rest.len() as u32).mask();
        simd.add_f32s(second, simd.select_f32s(within, last, zero))
    };
    let halves = [simd.add_f32s(sum, second), simd.add_f32s(third, fourth)];
    simd.reduce_sum_f32s(simd.add_f32s(halves[0], halves[1]))
}

/// The sum of a row.
#[inline(always)]
pub(crate) fn total<S: Simd>(simd: S, row: &[f32]) -> f32 {
    sum(simd, row, row, |x, _| x)
}

/// The larger of two; NaN if one is, unlike `f32::max`.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// The largest element; NaN if there is one.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    let lanes = lanes.into_iter().chain(rest.iter().copied());
    lanes.fold(f32::NEG_INFINITY, larger)
}

/// Softmax of `x`.
#[inline(always)]
pub(crate) fn softmax<S: Simd>(simd: S, x: &[f32], to: &mut [f32]) {
    let max = max(x);
    for (to, &x) in to.iter_mut().zip(x) {
        *to = math::exp(x - max);
    }
    let factor = 1.0 / total(simd, to);
    for to in to {
        *to *= factor;
    }
}

/// `y (dy - sum(y dy))`
#[inline(always)]
pub(crate) fn softmax_grad<S: Simd>(simd: S, y: &[f32], dy: &[f32], to: &mut [f32]) {
    let dot = sum(simd, y, dy, |y, dy| simd.mul_f32s(y, dy));
    for ((to, &y), &dy) in to.iter_mut().zip(y).zip(dy) {
        *to = y * (dy - dot);
    }
}

/// The mean, or 0 if it is not to be subtracted.
#[inline(always)]
fn center<S: Simd>(simd: S, row: &[f32], centered: bool) -> f32 {
    if centered {
        total(simd, row) / row.len() as f32
    } else {
        0.0
    }
}

/// What is subtracted, and the reciprocal root of the mean square of the rest.
#[inline(always)]
fn moments<S: Simd>(simd: S, row: &[f32], centered: bool, eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = center(simd, row, centered);
    let means = simd.splat_f32s(mean);
    let squares = sum(simd, row, row, |x, _| {
        let x = simd.sub_f32s(x, means);
        simd.mul_f32s(x, x)
    });
    (mean, 1.0 / (squares / n + eps).sqrt())
}

/// `x` with unit variance, and zero mean if centred.
#[inline(always)]
pub(crate) fn normalize<S: Simd>(simd: S, x: &[f32], to: &mut [f32], centered: bool, eps: f32) {
    let (mean, factor) = moments(simd, x, centered, eps);
    for (to, &x) in to.iter_mut().zip(x) {
        *to = (x - mean) * factor;
    }
}

/// `f (dy - mean(dy) - y mean(y dy))`, with `y` the normalised `x` and `f` its factor; `mean(dy)` if
/// centred.
#[inline(always)]
pub(crate) fn normalize_grad<S: Simd>(
    simd: S,
    x: &[f32],
    dy: &[f32],
    to: &mut [f32],
    centered: bool,
    eps: f32,
) {
    let n = x.len() as f32;
    let (mean, factor) = moments(simd, x, centered, eps);
    let means = simd.splat_f32s(mean);
    let average = center(simd, dy, centered);
    let along = sum(simd, x, dy, |x, dy| {
        simd.mul_f32s(simd.sub_f32s(x, means), dy)
    });
    // `f` twice: the mean of `y dy` and the `y` before it each have one.
    let along = along / n * factor * factor;
    for ((to, &x), &dy) in to.iter_mut().zip(x).zip(dy) {
        *to = factor * (dy - average - (x - mean) * along);
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Scalar, Scalar512b, WithSimd};

    use super::*;

    /// The sum of squared differences to 3, which are not 0 behind the row.
    struct Squares<'a>(&'a [f32]);

    impl WithSimd for Squares<'_> {
        type Output = f32;

        fn with_simd<S: Simd>(self, simd: S) -> f32 {
            let three = simd.splat_f32s(3.0);
            sum(simd, self.0, self.0, |a, b| {
                simd.mul_f32s(simd.sub_f32s(a, three), simd.sub_f32s(b, three))
            })
        }
    }

    #[test]
    fn sums_of_all_widths_in_all_lanes() {
        for width in 0..150 {
            // Small integers: every order of additions gives the same.
            let row: Vec<f32> = (0..width).map(|i| (i * 7 % 11) as f32).collect();
            let expected: f32 = row.iter().map(|x| (x - 3.0) * (x - 3.0)).sum();
            let found = [
                Squares(&row).with_simd(Scalar),
                Squares(&row).with_simd(Scalar512b),
                Arch::new().dispatch(Squares(&row)),
            ];
            assert_eq!(found, [expected; 3], "width {width}");
            for at in 0..width {
                let mut row = row.clone();
                row[at] = f32::NAN;
                assert!(Arch::new().dispatch(Squares(&row)).is_nan());
                assert!(max(&row).is_nan());
            }
        }
    }
}
