//! Operations on whole rows, in place. Sums run in lanes, in a fixed order.

use super::math;

const LANES: usize = 16;

/// What `f` makes of all lanes, by halves.
#[inline(always)]
fn combine(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}

/// The sum of `f` over pairs.
#[inline(always)]
pub(super) fn sum(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(&a, &b)| f(a, b)).sum();
    combine(lanes, |a, b| a + b) + rest
}

/// The largest element; NaN if there is one, unlike `f32::max`.
#[inline(always)]
pub(super) fn max(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    rest.iter().copied().fold(combine(lanes, larger), larger)
}

/// Softmax in place.
#[inline(always)]
pub(super) fn softmax(row: &mut [f32]) {
    let max = max(row);
    for x in row.iter_mut() {
        *x = math::exp(*x - max);
    }
    let factor = 1.0 / sum(row, row, |x, _| x);
    for x in row.iter_mut() {
        *x *= factor;
    }
}

/// `dy` becomes `y (dy - sum(y dy))`.
#[inline(always)]
pub(super) fn softmax_grad(y: &[f32], dy: &mut [f32]) {
    let dot = sum(y, dy, |y, dy| y * dy);
    for (dy, &y) in dy.iter_mut().zip(y) {
        *dy = y * (*dy - dot);
    }
}

/// Mean and reciprocal standard deviation.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = sum(row, row, |x, _| x) / n;
    let variance = sum(row, row, |x, _| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// Zero mean and unit variance in place.
#[inline(always)]
pub(super) fn normalize(row: &mut [f32], eps: f32) {
    let (mean, factor) = moments(row, eps);
    for x in row.iter_mut() {
        *x = (*x - mean) * factor;
    }
}

/// `dy` becomes `f (dy - mean(dy) - y mean(y dy))`, with `y` the normalised `x` and `f` its factor.
#[inline(always)]
pub(super) fn normalize_grad(x: &[f32], dy: &mut [f32], eps: f32) {
    let n = x.len() as f32;
    let (mean, factor) = moments(x, eps);
    let average = sum(dy, dy, |dy, _| dy) / n;
    let along = sum(x, dy, |x, dy| (x - mean) * factor * dy) / n;
    for (dy, &x) in dy.iter_mut().zip(x) {
        *dy = factor * (*dy - average - (x - mean) * factor * along);
    }
}
